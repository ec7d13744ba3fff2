"""A server of the same model for serving.py, as one writes it first: FastAPI and transformers, one image at a time.

python benchmarks/serving_peers.py MODEL
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


if __name__ == "__main__":
    plain(sys.argv[1])
