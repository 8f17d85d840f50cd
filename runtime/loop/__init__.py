"""The threads of the camera loop: one per camera that finds vehicles, and one that classifies for all cameras."""
