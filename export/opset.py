"""The supported ONNX operator sets."""

OPSET = 20
OPSETS = range(18, 23)  # torch needs 18 or more; INT8 files of opset 23 compute incorrectly (onnxruntime#25932)
