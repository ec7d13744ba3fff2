"""An ONNX Runtime backend for Triton in Python: the server that PyPI has comes without one."""
# pyright: reportMissingImports=false

import json
import os
import sys

sys.path.insert(0, os.environ["TRITON_PACKAGES"])

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """One instance of a model, as Triton's Python backend calls it."""

    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        config = json.loads(args["model_config"])
        self.inputs, self.outputs = ([entry["name"] for entry in config[kind]] for kind in ("input", "output"))

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feed = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        found = self.session.run(self.outputs, feed)
        return triton.InferenceResponse([triton.Tensor(n, array) for n, array in zip(self.outputs, found, strict=True)])
