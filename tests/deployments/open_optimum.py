"""Opens an export with optimum-onnx: `open_optimum.py CLASSIFIER ENCODER BACKBONE MAE PHOTO`. Prints JSON."""
# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path

import torch
from optimum.onnxruntime import (
    ORTModelForCustomTasks,
    ORTModelForFeatureExtraction,
    ORTModelForImageClassification,
)
from transformers import AutoImageProcessor, pipeline

classifier, encoder, backbone, mae, photo = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(classifier, use_fast=False)
model = ORTModelForImageClassification.from_pretrained(classifier)
top = pipeline("image-classification", model=model, image_processor=processor)(photo, top_k=1)
pixels = torch.randn(3, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))
hidden = ORTModelForFeatureExtraction.from_pretrained(encoder)(pixel_values=pixels).last_hidden_state
both = ORTModelForCustomTasks.from_pretrained(encoder)(pixel_values=pixels)
maps = ORTModelForCustomTasks.from_pretrained(backbone)(pixel_values=pixels)
kept = torch.arange(json.loads(Path(mae, "export.json").read_text())["kept"]).repeat(3, 1)
hidden_pixels = ORTModelForCustomTasks.from_pretrained(mae)(pixel_values=pixels, kept=kept)
print(
    json.dumps(
        {
            "top": top,
            "batch": list(model(pixel_values=pixels).logits.shape),
            "hidden": hidden.mean().item(),
            "both": sorted(both),
            "maps": list(maps["feature_maps.0"].shape),
            "mae": list(hidden_pixels["logits"].shape),
        }
    )
)
