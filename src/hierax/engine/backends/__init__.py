"""Backends that run a model: PyTorch, OpenVINO, ONNX Runtime, and exports."""
