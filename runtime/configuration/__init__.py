"""The configuration of a run of the camera loop, and the TOML file that holds it."""
