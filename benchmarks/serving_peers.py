"""Servers of the same model for serving.py: what one writes first, and LitServe.

python benchmarks/serving_peers.py plain MODEL       # FastAPI and transformers, one image at a time
python benchmarks/serving_peers.py litserve MODEL    # LitServe around hierax.Engine, batches of 16
"""

import io
import socket
import sys
from typing import Any


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def plain(model: str) -> None:
    """FastAPI and transformers, as in many examples."""
    import torch
    import uvicorn
    from fastapi import FastAPI, UploadFile
    from PIL import Image
    from transformers import BitImageProcessor, HieraForImageClassification

    processor = BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    net = HieraForImageClassification.from_pretrained(model)
    net.eval()  # pyright: ignore[reportAttributeAccessIssue]
    app = FastAPI()

    @app.post("/v1/classify")
    def classify(image: UploadFile) -> dict[str, Any]:
        opened = Image.open(io.BytesIO(image.file.read())).convert("RGB")
        with torch.no_grad():
            logits = net(**processor(opened, return_tensors="pt")).logits
        found = logits.softmax(-1)[0].topk(5)
        best = [{"index": int(i), "probability": float(p)} for p, i in zip(found.values, found.indices, strict=True)]
        return {"results": [{"name": image.filename, "predictions": best}]}

    port = free_port()
    print(f"http://127.0.0.1:{port}", flush=True)
    uvicorn.run(app, port=port, log_level="warning")


def litserve(model: str) -> None:
    """LitServe with batches, around the same engine."""
    import litserve as ls  # pyright: ignore[reportMissingImports]
    import torch

    import hierax

    class Api(ls.LitAPI):
        """Decodes, computes and answers."""

        def setup(self, device: str) -> None:
            """Opens the engine."""
            self.engine = hierax.Engine(model, precision="bf16", max_shapes=16).warm_up(batches=(1, 2, 4, 8, 16))

        def decode_request(self, request: Any) -> Any:
            """Pixels of an image."""
            return self.engine.processor(request["image"].file.read()).pixel_values[0]

        def batch(self, inputs: Any) -> Any:
            """Pixels of several images."""
            return torch.stack(list(inputs))

        def predict(self, x: Any) -> Any:
            """Probabilities."""
            return self.engine(pixel_values=x).logits.softmax(-1)

        def unbatch(self, output: Any) -> Any:
            """Probabilities of each image."""
            return list(output)

        def encode_response(self, output: Any) -> Any:
            """The answer."""
            found = output.topk(5)
            best = [
                {"index": int(i), "probability": float(p)} for p, i in zip(found.values, found.indices, strict=True)
            ]
            return {"results": [{"name": "", "predictions": best}]}

    port = free_port()
    api = Api(max_batch_size=16, batch_timeout=0.002, api_path="/v1/classify")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    print(f"http://127.0.0.1:{port}", flush=True)
    server.run(port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    {"plain": plain, "litserve": litserve}[sys.argv[1]](sys.argv[2])
