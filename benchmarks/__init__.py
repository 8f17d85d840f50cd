"""Latency and accuracy over execution providers and precisions."""
