"""Networks to files: ONNX export and its checks."""
