"""What outlives a run: the state folder, and databases in it that a power cut cannot break."""
