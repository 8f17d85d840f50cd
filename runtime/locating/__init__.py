"""Where in a frame the vehicles are."""
