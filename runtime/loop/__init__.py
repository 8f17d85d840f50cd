"""The threads of the camera loop: one a camera that finds vehicles, and one that answers for all of them."""
