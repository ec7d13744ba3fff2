"""How close the engine stays to the eager float32 model, on photos.

    python benchmarks/engine_accuracy.py [--models tiny,base] [--crops 200]

Crops of the photos that scikit-image and scikit-learn bundle (what is installed of them, else the photo of the demo);
weights are normal with deviation 0.05 (norms' factors about 1), so that nothing hides. float32: the largest relative
error of a stage map; bf16 and int8: cosine of the pooled output. int8 is calibrated on crops of the photo that comes
with hierax, which is none of those compared on where the two packages are installed. Exit code 1 when a bar is missed.
"""

import argparse
import contextlib
import sys
from importlib.resources import files
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import hierax
from hierax.engine.calibration import crops
from hierax.processing import HieraImageProcessor, load_image

BARS = {"fp32": 1e-4, "bf16": 0.9995, "int8": 0.995}


def photos() -> list[Image.Image]:
    """RGB photos of the two packages; hierax's cat where neither is installed."""
    found: list[Image.Image] = []
    with contextlib.suppress(ImportError):
        from sklearn.datasets import load_sample_images  # pyright: ignore[reportMissingImports]

        found += [Image.fromarray(array) for array in load_sample_images().images]
    with contextlib.suppress(ImportError):
        import skimage  # pyright: ignore[reportMissingImports]

        names = ("astronaut", "coffee", "rocket", "hubble_deep_field", "retina", "immunohistochemistry", "colorwheel")
        for name in names:
            with contextlib.suppress(Exception):  # those that the package would have to fetch
                found.append(Image.fromarray(getattr(skimage.data, name)()).convert("RGB"))
    return found or [load_image((files("hierax") / "assets" / "cat.jpg").read_bytes())]


@torch.no_grad()
def model_of(size: str) -> hierax.HieraModel:
    """A model whose weights are normal with deviation 0.05, about 1 in norms' factors, else about 0."""
    torch.manual_seed(0)
    model = hierax.HieraModel(hierax.create_model(f"hiera_{size}_224").config)
    for parameter in model.parameters():
        parameter.normal_(0, 0.05)
    for part in model.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.weight.add_(1)
    return model.eval()


def relative(a: Tensor, b: Tensor) -> float:
    """norm(a - b) / norm(b)."""
    return ((a - b).norm() / b.norm()).item()


def main() -> int:
    """Prints a line per model and precision; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", default="tiny,base")
    parser.add_argument("--crops", type=int, default=200)
    arguments = parser.parse_args()
    pictures = photos()
    pixels = HieraImageProcessor()(crops(pictures, arguments.crops, seed=1)).pixel_values
    print(f"{arguments.crops} crops of {len(pictures)} photos")
    missed = False
    for size in arguments.models.split(","):
        model = model_of(size)
        with torch.inference_mode():
            expected: list[Any] = [model(part, output_hidden_states=True) for part in pixels.split(8)]
        for precision, bar in BARS.items():
            with hierax.Engine(model, precision=precision, hidden_states=precision == "fp32") as engine:
                found: list[Any] = [engine(part) for part in pixels.split(8)]
            a, b = (torch.cat([out.pooler_output for out in outs]) for outs in (found, expected))
            cosine = torch.cosine_similarity(a, b)
            good = cosine.min().item() >= bar
            text = f"pooled cosine mean {cosine.mean():.6f}, worst {cosine.min():.6f}"
            if precision == "fp32":
                errors = [
                    relative(
                        *(torch.cat([out.reshaped_hidden_states[s] for out in outs]) for outs in (found, expected))
                    )
                    for s in range(1, 5)
                ]
                good = max(errors) <= bar
                text = "stage maps " + ", ".join(f"{error:.1e}" for error in errors)
            missed |= not good
            print(
                f"{size} {precision} by {engine.backend}: {text}: {'within' if good else 'MISSES'} {bar:g}", flush=True
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
