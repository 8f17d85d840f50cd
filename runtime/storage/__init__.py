"""What outlives a run: the state folder, and databases that survive power cuts and damage."""
