"""Running networks: one interface over OpenVINO, ONNX Runtime, TensorRT and PyTorch, and engines on top."""
