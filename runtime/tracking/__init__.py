"""Tracks vehicles: matches boxes across frames, and decides when a vehicle has left."""
