"""What the loop saw and thought, as pictures: annotated video, and a window."""
