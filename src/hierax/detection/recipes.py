"""Recipes of detection and instance segmentation: the settings of a run, and the defaults by device and data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.reprs.text import short_repr
from hierax.train.setting_values import parse_value, typed_value

TASKS = ("detect", "instances")
HEADS = {"detect": ("rt-detr", "d-fine"), "instances": ("mask2former",)}
"""The heads for each task."""


@short_repr(changed=True)
@dataclass(frozen=True, kw_only=True)
class DetectionRecipe:
    """The settings of a run.

    Attributes:
        name: name of the recipe.
        task: "detect" learns boxes, "instances" boxes and masks.
        head: "rt-detr", "d-fine" or "mask2former", of transformers.
        model: the architecture of the backbone if nothing is loaded.
        image_size: images become squares of this side, a multiple of 32 pixels.
        steps: number of steps; None follows from the number of images.
        batch_size: images per step.
        lr, backbone_lr: learning rates of the head and of the backbone: linear from 0 in `warmup_steps`, then linear
            to 0.
        weight_decay, clip_grad: of AdamW, and the norm to which gradients are clipped.
        freeze: whether the backbone is not trained.
        width: channels of the head.
        queries: the maximum number of objects in an image; None is one and a half times the most objects in a training
            image, from 30 to 300. With few queries, a head learns faster.
        encoder_layers, decoder_layers, heads, feedforward: of the transformer in the head.
        points: for mask2former, points of a mask that the loss looks at.
        crop: least share of an image that a random crop keeps; 1 crops nothing.
        zoom_out: largest factor by which an image is shrunk on a gray background; 1 shrinks nothing.
        flip: whether images are mirrored with probability 1/2.
        color: largest change of brightness, contrast and saturation.
        validation_fraction: share of the images that is held out if the data has no validation set.
        evaluate_every: steps between evaluations; None is a fifth of the run.
        weights: which weights `model/` has: "best" by AP of the validation set, or "last".
        checkpoint_every, keep: steps between checkpoints (None: at each evaluation), and how many are kept.
        precision: "fp32" or "bf16".
        workers: processes that decode; None: by the number of cores on a GPU, none on a CPU.
        max_pixels: larger images count as unreadable; None is no limit.
        seed: seed of weights, order and augmentation.
    """

    name: str
    task: str
    head: str
    model: str = "hiera_tiny_224"
    image_size: int = 256
    steps: int | None = None
    batch_size: int = 8
    lr: float = 1e-3
    backbone_lr: float = 2e-4
    warmup_steps: int = 30
    weight_decay: float = 1e-4
    clip_grad: float = 1.0
    freeze: bool = False
    width: int = 64
    queries: int | None = None
    encoder_layers: int = 1
    decoder_layers: int = 3
    heads: int = 4
    feedforward: int = 128
    points: int = 1024
    crop: float = 1.0
    zoom_out: float = 1.0
    flip: bool = True
    color: float = 0.2
    validation_fraction: float = 0.2
    evaluate_every: int | None = None
    weights: str = "best"
    checkpoint_every: int | None = None
    keep: int = 2
    precision: str = "fp32"
    workers: int | None = None
    max_pixels: int | None = DEFAULT_MAX_PIXELS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (good, expected) in _CHECKS.items():
            value = getattr(self, name)
            if value is not None and not good(value):
                raise ValueError(f"{name} is {value!r}; expected {expected}")
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}; expected {' or '.join(TASKS)}")
        if self.head not in HEADS[self.task]:
            raise ValueError(f"head is {self.head!r}; expected {' or '.join(HEADS[self.task])} for --task {self.task}")
        unit = 32 if self.head == "mask2former" else 4  # its norms have 32 groups; position encodings have 4 parts
        if self.width % self.heads or self.width % unit:
            raise ValueError(
                f"width is {self.width} and heads is {self.heads}; expected a width that is a multiple of heads and of "
                f"{unit}"
            )

        if self.queries is not None and self.queries > self.cells:
            raise ValueError(
                f"queries is {self.queries}, but an image of {self.image_size} pixels has {self.cells} cells; expected "
                f"at most {self.cells}, or a larger image_size"
            )

    @property
    def cells(self) -> int:
        """The number of places in an image from which queries are taken."""
        return sum((self.image_size // stride) ** 2 for stride in (8, 16, 32))

    def replace(self, **changes: Any) -> DetectionRecipe:
        """The recipe with other values.

        Raises:
            ValueError: an unknown setting or a bad value; names it, and what is expected.
        """
        hints = get_type_hints(DetectionRecipe)
        unknown = [name for name in changes if name not in hints]
        if unknown:
            raise ValueError(f"{unknown[0]} is not a setting of {self.name}; expected {', '.join(hints)}")
        return dataclasses.replace(self, **{k: typed_value(k, v, hints[k]) for k, v in changes.items()})

    def override(self, assignments: Sequence[str]) -> DetectionRecipe:
        """The recipe with the values of `key=value` texts."""
        changes: dict[str, Any] = {}
        for text in assignments:
            key, equals, value = text.partition("=")
            if not equals:
                raise ValueError(f"{text!r} is not a setting; expected key=value, such as steps=300")
            if key in ("name", "task"):
                raise ValueError(f"{key} is not a setting that can be changed (--recipe and --task choose it)")
            changes[key] = parse_value(value)
        return self.replace(**changes)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectionRecipe:
        """The inverse of `to_dict`.

        Raises:
            ValueError: unknown or missing fields, or bad values.
        """
        missing = {"name", "task", "head"} - set(values)
        if missing:
            raise ValueError(f"the recipe lacks {', '.join(sorted(missing))}")
        base = cls(name=str(values["name"]), task=values["task"], head=values["head"])
        return base.replace(**values)


def _at_least(least: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: least <= value <= 10**9, f"{least:g} or more"


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "image_size": (lambda v: v % 32 == 0 and 64 <= v <= 4096, "a multiple of 32 pixels, from 64 to 4096"),
    **{n: _at_least(1) for n in ("steps", "batch_size", "width", "queries", "encoder_layers", "heads", "feedforward")},
    **{name: _at_least(1) for name in ("points", "evaluate_every", "checkpoint_every", "keep", "max_pixels")},
    **{name: _at_least(0) for name in ("lr", "backbone_lr", "weight_decay", "warmup_steps", "workers")},
    "decoder_layers": _at_least(2),
    "clip_grad": (lambda v: v > 0, "above 0"),
    "crop": (lambda v: 0 < v <= 1, "above 0, at most 1"),
    "zoom_out": (lambda v: 1 <= v <= 10, "1 to 10"),
    "color": (lambda v: 0 <= v < 1, "0 to below 1"),
    "validation_fraction": (lambda v: 0 <= v < 1, "0 to below 1"),
    "weights": (lambda v: v in ("best", "last"), "best or last"),
    "precision": (lambda v: v in ("fp32", "bf16"), "fp32 or bf16"),
    "seed": (lambda v: 0 <= v < 2**32, "0 to 4294967295"),
}
RESUMABLE = frozenset(["workers", "max_pixels", "checkpoint_every", "keep"])
"""Settings that may change when a run is resumed."""


def detect_cpu() -> DetectionRecipe:
    """Small squares and a small RT-DETR, for a CPU."""
    return DetectionRecipe(name="detect_cpu", task="detect", head="rt-detr")


def detect_gpu() -> DetectionRecipe:
    """RT-DETR at the size of its paper (arXiv 2304.08069: 640 pixels, 300 queries, 6 layers), for one GPU."""
    return DetectionRecipe(
        name="detect_gpu", task="detect", head="rt-detr", image_size=640, batch_size=16, lr=2e-4, backbone_lr=5e-5,
        warmup_steps=300, clip_grad=0.1, width=256, queries=300, decoder_layers=6, heads=8, feedforward=1024, crop=0.5,
        zoom_out=1.5,
    )  # fmt: skip


def instances_cpu() -> DetectionRecipe:
    """Small squares and a small Mask2Former, for a CPU."""
    return DetectionRecipe(name="instances_cpu", task="instances", head="mask2former", encoder_layers=2)


def instances_gpu() -> DetectionRecipe:
    """Mask2Former at the size of its paper (arXiv 2112.01527: 100 queries, 9 layers), at 512 pixels, for one GPU."""
    return DetectionRecipe(
        name="instances_gpu", task="instances", head="mask2former", image_size=512, batch_size=16, lr=1e-4,
        backbone_lr=2e-5, warmup_steps=300, weight_decay=0.05, clip_grad=0.01, width=256, queries=100,
        encoder_layers=6, decoder_layers=10, heads=8, feedforward=2048, points=12544, crop=0.5,
    )  # fmt: skip


RECIPES: dict[str, Callable[[], DetectionRecipe]] = {
    function.__name__: function for function in (detect_cpu, detect_gpu, instances_cpu, instances_gpu)
}
"""The recipes by name."""
_PASSES = {"cpu": (60, 600, 3000), "gpu": (60, 1500, 90_000)}  # over the images; the least and most steps
_FEW_QUERIES, _MOST_QUERIES = 30, 300
"""In 150 steps on drawn shapes, RT-DETR with 30 queries reached an AP of 0.17, and with 60 queries one of 0.10."""
FEW_HELD = 50
"""With fewer validation images, AP is not precise enough to choose the best weights."""


def recipe(name: str, task: str) -> DetectionRecipe:
    """The recipe with this name.

    Raises:
        ValueError: there is none, or it is for another task.
    """
    names = [known for known, build in RECIPES.items() if build().task == task]
    if name not in names:
        raise ValueError(f"recipe is {name!r}; expected {' or '.join(names)} for --task {task}")
    return RECIPES[name]()


def choose(task: str, *, device: str) -> DetectionRecipe:
    """The recipe for this type of device."""
    return RECIPES[f"{task}_{'cpu' if device == 'cpu' else 'gpu'}"]()


def resolve(chosen: DetectionRecipe, *, images: int, held: int, device: str, most_objects: int = 0) -> DetectionRecipe:
    """The recipe with the values that follow from the data: steps, queries, evaluations, which weights are kept.

    Args:
        images, held: numbers of images to train on and to validate on.
        device: its type, such as "cpu".
        most_objects: the most objects in an image to train on.
    """
    passes, least, most = _PASSES["cpu" if device == "cpu" else "gpu"]
    batch = min(chosen.batch_size, images)
    steps = chosen.steps or min(max(round(passes * images / batch), least), most)
    every = min(chosen.evaluate_every or max(steps // 5, 1), steps)
    weights = chosen.weights if held >= FEW_HELD else "last"
    queries = chosen.queries or min(max(math.ceil(1.5 * most_objects), _FEW_QUERIES), _MOST_QUERIES, chosen.cells)
    return dataclasses.replace(
        chosen,
        batch_size=batch,
        steps=steps,
        queries=queries,
        evaluate_every=every,
        weights=weights,
        warmup_steps=min(chosen.warmup_steps, steps // 3),
    )
