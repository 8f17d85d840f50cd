"""Confidence: the temperature of a model's probabilities, and when its answer is "unknown"."""
