"""Measures whether the regions that an explanation calls important matter to the model.

    python benchmarks/explanations.py FOLDER [--count 100] [--variants] [--json FILE]

FOLDER has images, also in subfolders, such as `labeled/test` of `femto/pictures.py`. For each image, the most probable
label is explained. The input is divided into cells of 16 pixels, and the cells are ordered by their heat.

- deletion: cells are removed, the hottest first, and the probability of the label is followed. A good explanation has
  a small area under this curve.
- insertion: the reverse; all cells are removed at first, and come back, the hottest first. A large area is good.

Removed cells are replaced by the blurred image, or by the image's mean color. (Petsiuk et al., RISE, arXiv
1806.07421.) Besides the explanations there are random orders (the mean of three) and the distance from the center.
Differences from random are paired by image; intervals are 95 % bootstrap intervals over images.

The heat is computed in fp32, the curves by an engine (bf16 where the processor multiplies it).

Then the test of Adebayo et al. (arXiv 1810.03292): the same heat with random weights, from the head down. The rank
correlation of its cells with those of the trained model should be near 0.

`--variants` compares the stages and kinds of class activation, from which the library's was chosen.
"""

import argparse
import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import hierax
from hierax.predict.class_activation import KINDS, class_activations
from hierax.predict.explain import explanations, open_explainer
from hierax.predict.predictor import Predictor

CELL = 16
STEPS = 10  # of equal numbers of cells
RANDOM = 3  # random orders per image
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
Heat = Callable[[Predictor, Tensor, int], Tensor]


def ours(method: str) -> Heat:
    """The library's explanation."""

    def heat(predictor: Predictor, pixels: Tensor, index: int) -> Tensor:
        (one,) = explanations(predictor, pixels, None if method == "rollout" else [index], method=method)
        return torch.from_numpy(one.values)

    return heat


def variant(stages: Sequence[int], kind: str) -> Heat:
    """Class activation of one stage; of several, the product of the enlarged maps."""

    def heat(predictor: Predictor, pixels: Tensor, index: int) -> Tensor:
        assert predictor.model is not None
        found = torch.ones(pixels.shape[2:])
        for stage in stages:
            _, ((one,),) = class_activations(predictor.model, pixels, lambda _: [[index]], stage=stage, kind=kind)
            found = found * enlarged(one / one.max().clamp(min=1e-12), pixels.shape[2:])
        return found

    return heat


def enlarged(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values `[h, w]` at another size, smooth between the centers of the cells."""
    return F.interpolate(values[None, None].float(), tuple(size), mode="bilinear")[0, 0]


def cells_of(values: Tensor, size: Sequence[int]) -> Tensor:
    """The mean heat of each cell of 16 pixels, as one row."""
    fine = values if tuple(values.shape) == tuple(size) else enlarged(values, size)
    return F.avg_pool2d(fine[None, None], CELL)[0, 0].flatten()


def center(size: Sequence[int]) -> Tensor:
    """Minus the distance of each cell from the center."""
    rows, columns = (torch.arange(side // CELL) - (side // CELL - 1) / 2 for side in size)
    return -(rows[:, None] ** 2 + columns[None] ** 2).sqrt().flatten()


def orders(heat: Tensor, generator: torch.Generator) -> Tensor:
    """The cells from the hottest on; equal ones in random order."""
    shuffled = torch.randperm(len(heat), generator=generator)
    return shuffled[heat[shuffled].argsort(descending=True, stable=True)]


def replacements(pixels: Tensor) -> dict[str, Tensor]:
    """What stands for removed cells: a strong blur (deviation 16 px), and the mean color of the image."""
    reach = torch.arange(-40, 41, dtype=torch.float32)
    kernel = (-0.5 * (reach / 16) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    blurred = F.conv2d(F.pad(pixels, (40, 40, 0, 0), mode="reflect"), kernel, groups=3)
    blurred = F.conv2d(F.pad(blurred, (0, 0, 40, 40), mode="reflect"), kernel.transpose(2, 3), groups=3)
    return {"blur": blurred, "mean color": pixels.mean((2, 3), keepdim=True).expand_as(pixels)}


@torch.inference_mode()
def curves(engine: hierax.Engine, pixels: Tensor, index: int, order: Tensor) -> dict[tuple[str, str], np.ndarray]:
    """The probability of a class after each step, for both replacements: of deletion and of insertion."""
    size = pixels.shape[2:]
    rank = torch.empty(len(order), dtype=torch.long)
    rank[order] = torch.arange(len(order))
    counts = torch.linspace(0, len(order), STEPS + 1).round()
    taken = (rank[None] < counts[:, None]).float().view(-1, 1, size[0] // CELL, size[1] // CELL)
    taken = taken.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    made = []
    for other in replacements(pixels).values():
        made += [pixels * (1 - taken) + other * taken, pixels * taken + other * (1 - taken)]
    chances = engine(torch.cat(made)).logits.softmax(-1)[:, index].view(4, -1).numpy()
    names = [(name, what) for name in ("blur", "mean color") for what in ("deletion", "insertion")]
    return dict(zip(names, chances, strict=True))


def area(curve: np.ndarray) -> float:
    """The area under a curve over the share of cells, 0 to 1."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


def interval(values: np.ndarray, rounds: int = 2000) -> tuple[float, float, float]:
    """The mean and its 95 % bootstrap interval."""
    random_rows = np.random.default_rng(0).integers(0, len(values), (rounds, len(values)))
    low, high = np.percentile(values[random_rows].mean(1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def measure(
    predictor: Predictor, engine: hierax.Engine, images: Sequence[Tensor], heats: Mapping[str, Heat]
) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """The areas of each method, replacement and curve, by image."""
    generator = torch.Generator().manual_seed(0)
    areas: dict[str, dict[tuple[str, str], list[float]]] = {}
    for number, pixels in enumerate(images):
        size = pixels.shape[2:]
        with torch.inference_mode():
            index = int(predictor.call(pixels).logits[0].argmax())
        found = {name: [cells_of(heat(predictor, pixels, index), size)] for name, heat in heats.items()}
        found["center"] = [center(size)]
        found["random"] = [torch.rand(len(found["center"][0]), generator=generator) for _ in range(RANDOM)]
        for name, rows in found.items():
            every = [curves(engine, pixels, index, orders(row, generator)) for row in rows]
            for key in every[0]:
                mean = float(np.mean([area(one[key]) for one in every]))
                areas.setdefault(name, {}).setdefault(key, []).append(mean)
        print(f"\r{number + 1} of {len(images)}", end="\n" if number + 1 == len(images) else "", flush=True)
    return {name: {key: np.array(rows) for key, rows in of.items()} for name, of in areas.items()}


def show(areas: Mapping[str, Mapping[tuple[str, str], np.ndarray]]) -> None:
    """Prints the tables."""
    for key in areas["random"]:
        print(f"\n{key[1]}, {key[0]}: area (95 %), minus random (95 %), share of images better than random")
        for name, of in areas.items():
            values, apart = of[key], of[key] - areas["random"][key]
            better = (apart < 0 if key[1] == "deletion" else apart > 0).mean()
            plain, less = interval(values), interval(apart)
            print(
                f"  {name:22} {plain[0]:.3f} ({plain[1]:.3f} to {plain[2]:.3f})   "
                f"{less[0]:+.3f} ({less[1]:+.3f} to {less[2]:+.3f})   {better:.0%}"
            )


def ranks(values: Tensor) -> np.ndarray:
    """Ranks of the values; equal values have their mean rank."""
    flat = values.flatten().numpy()
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return ((ends - counts + ends - 1) / 2)[inverse]


def correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation; 0 if one of them is constant."""
    a, b = ranks(first), ranks(second)
    return 0.0 if a.std() == 0 or b.std() == 0 else float(np.corrcoef(a, b)[0, 1])


def randomization(predictor: Predictor, images: Sequence[Tensor], method: str) -> dict[str, np.ndarray]:
    """The rank correlation of the heat with that of models with random weights, by image: from the head down."""
    trained = predictor.model
    assert isinstance(trained, hierax.HieraForImageClassification)
    torch.manual_seed(0)
    fresh = type(trained)(trained.config).eval()
    ends = np.cumsum(trained.config.depths)
    parts = {"head": ("head.",), "head and stage 4": ("head.", "norm.", *_blocks(ends[2], ends[3]))}
    parts["head, stages 3 and 4"] = ("head.", "norm.", *_blocks(ends[1], ends[3]))
    parts["everything"] = ("",)
    found: dict[str, list[float]] = {}
    for name, starts in parts.items():
        changed = copy.deepcopy(trained)
        with torch.no_grad():
            for key, value in changed.state_dict().items():
                if key.startswith(starts):
                    value.copy_(fresh.state_dict()[key])
        other = open_explainer(changed, method=method)
        for pixels in images:
            index = int(predictor.call(pixels).logits[0].argmax())
            heats = [ours(method)(one, pixels, index) for one in (predictor, other)]
            found.setdefault(name, []).append(correlation(*heats))
    return {name: np.array(rows) for name, rows in found.items()}


def _blocks(start: int, stop: int) -> list[str]:
    return [f"encoder.blocks.{number}." for number in range(start, stop)]


VARIANTS: dict[str, Heat] = {
    "stage 2, layercam": variant([2], "layercam"),
    **{f"stage 3, {kind}": variant([3], kind) for kind in ("hirescam", "layercam")},
    **{f"stage 4, {kind}": variant([4], kind) for kind in ("gradcam", "layercam")},
    **{f"stages 3 x 4, {kind}": variant([3, 4], kind) for kind in KINDS},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="hierax/femto")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    predictor = open_explainer(arguments.model, device="cpu")
    processor = predictor.processor()
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    chosen = random.Random(arguments.seed).sample(paths, min(arguments.count, len(paths)))
    images = [processor(path).pixel_values for path in chosen]  # pyright: ignore[reportAttributeAccessIssue]
    heats = {name: ours(name) for name in ("gradcam", "rollout")}
    with hierax.Engine(arguments.model, device="cpu") as engine:
        areas = measure(predictor, engine, images, {**heats, **VARIANTS} if arguments.variants else heats)
    print(f"{len(images)} of {len(paths)} images of {arguments.folder.name}, {arguments.model}")
    show(areas)
    print("\nrank correlation with the heat of a model with random weights: mean (smallest to largest)")
    for method in heats:
        for name, values in randomization(predictor, images, method).items():
            print(f"  {method:10} {name:22} {interval(values)[0]:+.2f} ({values.min():+.2f} to {values.max():+.2f})")
    if arguments.json:
        rows = {name: {" ".join(key): v.tolist() for key, v in of.items()} for name, of in areas.items()}
        arguments.json.write_text(json.dumps({"images": [p.name for p in chosen], "areas": rows}) + "\n")


if __name__ == "__main__":
    main()
