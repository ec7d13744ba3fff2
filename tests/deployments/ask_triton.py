"""Asks a Triton server: `ask_triton.py PORT MODEL PIXELS.npy`. Prints JSON."""
# pyright: reportMissingImports=false

import json
import sys
import time

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

port, name, file = sys.argv[1:]
client = InferenceServerClient(f"127.0.0.1:{port}")
for _ in range(240):
    try:
        if client.is_model_ready(name):
            break
    except Exception:
        time.sleep(0.5)
pixels = np.load(file)


def ask(batch, **options):
    given = InferInput("pixel_values", list(batch.shape), "FP32")
    given.set_data_from_numpy(batch)
    found = client.infer(name, [given], outputs=[InferRequestedOutput("logits", **options)]).as_numpy("logits")
    assert found is not None
    return found


print(
    json.dumps(
        {
            "logits": ask(pixels).tolist(),
            "best": ask(pixels, class_count=1, binary_data=False).tolist(),
            "batch": list(ask(np.repeat(pixels, 5, 0)).shape),
            "most": client.get_model_config(name)["max_batch_size"],
        }
    )
)
