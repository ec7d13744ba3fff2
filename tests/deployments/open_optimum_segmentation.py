"""Opens an export with optimum-onnx: `open_optimum_segmentation.py FOLDER`. Prints JSON."""
# pyright: reportMissingImports=false

import json
import sys

import torch
from optimum.onnxruntime import ORTModelForSemanticSegmentation

model = ORTModelForSemanticSegmentation.from_pretrained(sys.argv[1])
pixels = torch.randn(3, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))
logits = model(pixel_values=pixels).logits
print(json.dumps({"shape": list(logits.shape), "logits": logits[0, :, 0, 0].tolist()}))
