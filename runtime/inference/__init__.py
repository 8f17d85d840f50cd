"""A model on ONNX Runtime: opened on a provider, asked for logits, and turned into answers."""
