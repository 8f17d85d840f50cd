"""The ONNX operator sets that a model is exported in."""

OPSET = 20
OPSETS = range(18, 23)  # torch exports from 18 on; 23 gives INT8 files that compute wrongly (onnxruntime#25932)
