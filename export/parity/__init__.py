"""Parity: compares the answers of exported files and their reference model, image by image."""
