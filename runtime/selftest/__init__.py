"""`doctor`: whether this very machine answers as the model was validated."""
