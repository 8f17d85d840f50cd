"""Parity: do exported files answer as the model that they come from, image by image?"""
