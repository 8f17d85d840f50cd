"""INT8: its choices, the ranges of activations, quantization, and the search for choices that keep to the limits."""
