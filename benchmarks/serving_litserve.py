"""LitServe around the engine of hierax, with batches of 16, for serving.py.

python benchmarks/serving_litserve.py MODEL
"""

import sys
from typing import Any

import litserve as ls  # pyright: ignore[reportMissingImports]
import torch

import hierax
from serving_peers import free_port


class Api(ls.LitAPI):
    """Decodes, computes and answers."""

    model = ""

    def setup(self, device: str) -> None:
        """Opens the engine."""
        self.engine = hierax.Engine(self.model, precision="bf16", max_shapes=16).warm_up(batches=(1, 2, 4, 8, 16))

    def decode_request(self, request):  # without annotations, which LitServe would read
        """Pixels of an image."""
        return self.engine.processor(request["image"].file.read()).pixel_values[0]

    def batch(self, inputs: Any) -> Any:
        """Pixels of several images."""
        return torch.stack(list(inputs))

    def predict(self, x: Any) -> Any:
        """Probabilities."""
        logits: Any = self.engine(pixel_values=x)
        return logits.logits.softmax(-1)

    def unbatch(self, output: Any) -> Any:
        """Probabilities of each image."""
        return list(output)

    def encode_response(self, output):
        """The answer."""
        found = output.topk(5)
        best = [{"index": int(i), "probability": float(p)} for p, i in zip(found.values, found.indices, strict=True)]
        return {"results": [{"name": "", "predictions": best}]}


if __name__ == "__main__":
    port = free_port()
    api = Api(max_batch_size=16, batch_timeout=0.002, api_path="/v1/classify")
    api.model = sys.argv[1]
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    print(f"http://127.0.0.1:{port}", flush=True)
    server.run(port=port, generate_client_file=False, log_level="warning")
