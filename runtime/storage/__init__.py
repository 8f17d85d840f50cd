"""Persistent state: the state folder, and databases that survive power cuts and damage."""
