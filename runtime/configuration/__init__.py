"""What a run of the camera loop is told: its options, and the TOML file that holds them."""
