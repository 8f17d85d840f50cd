"""Measures accuracy on pictures degraded as by a camera: small, badly cropped, blurred, compressed, dark."""
