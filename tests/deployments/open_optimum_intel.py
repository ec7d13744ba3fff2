"""Opens an export with optimum-intel: `open_optimum_intel.py CLASSIFIER ENCODER PHOTO`. Prints JSON."""
# pyright: reportMissingImports=false

import json
import sys

import torch
from optimum.intel import OVModelForCustomTasks, OVModelForImageClassification
from transformers import BitImageProcessorPil, pipeline

classifier, encoder, photo = sys.argv[1:]
exact = {"INFERENCE_PRECISION_HINT": "f32"}
model = OVModelForImageClassification.from_pretrained(classifier, ov_config=exact)
processor = BitImageProcessorPil.from_pretrained(classifier)
top = pipeline("image-classification", model=model, image_processor=processor)(photo, top_k=1)
pixels = torch.randn(3, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))
both = OVModelForCustomTasks.from_pretrained(encoder, ov_config=exact)(pixel_values=pixels)
print(
    json.dumps(
        {
            "top": top,
            "batch": list(model(pixel_values=pixels).logits.shape),
            "hidden": both["last_hidden_state"].mean().item(),
            "both": sorted(both),
        }
    )
)
