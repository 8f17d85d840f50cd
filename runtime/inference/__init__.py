"""Inference with ONNX Runtime: execution providers, the session, and the classifier that turns logits into answers."""
