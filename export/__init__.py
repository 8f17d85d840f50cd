"""From a checkpoint to ONNX files that were checked against it: graph, quantization, parity."""
