"""What runs a model: PyTorch, OpenVINO, onnxruntime, and exports."""
