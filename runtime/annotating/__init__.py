"""What the loop saw and thought, as pictures: annotated video, a window, and a frame to draw zones on."""
