"""INT8: its settings, calibration, quantization, and the search for settings within the parity limits."""
