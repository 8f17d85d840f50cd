"""Renders the loop's results: annotated video, a live window, and a frame to draw zones on."""
