"""A recipe: the complete configuration of a run, as values that JSON can represent."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from hierax.advice import did_you_mean
from hierax.model.validation import require_fields
from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.reprs.text import short_repr
from hierax.train.modes import MODES
from hierax.train.setting_values import kinds, parse_value, typed_value

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "proj")
"""The layers of a block that an adapter can change. By default it changes the first."""
_SHORT = {layer.rpartition(".")[2]: layer for layer in LAYERS if layer != "attn.proj"}  # qkv, fc1, fc2, proj
_OF_ADAPTER = ("rank", "alpha", "adapter_dropout", "target_modules")
PRECISIONS = ("fp32", "bf16", "fp16", "fp64")
TARGETS = ("normalized", "pixels", "hog")


@short_repr(changed=True)
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The complete configuration of a run.

    Attributes:
        name: name of the recipe.
        mode: "pretrain" (MAE), "finetune" (a class for each image) or "segment" (a class for each pixel).
        model: the architecture if nothing is loaded: an official name, such as `mae_hiera_tiny_224`.
        overrides: other values for fields of `HieraConfig`.
        image_size: pixels per axis; None is the size of the architecture.
        epochs, warmup_epochs: the schedule: linear from 0, then cosine to `min_lr` times the learning rate.
        batch_size: images per step over all devices and accumulated parts.
        device_batch_size: maximum number of images at once on a device; None is the device's whole share of the batch.
        lr, reference_batch: the learning rate at that batch size; it scales with `batch_size` if `scale_lr`.
        optimizer, betas, momentum, weight_decay, layer_decay: AdamW, SGD with momentum, or `hierax.train.muon.Muon`.
        clip_grad: norm to which gradients are clipped; None does not clip.
        drop_path, dropout: rates; None keeps the model's.
        crop_scale, rand_augment, erasing, repeats: augmentation (see `hierax.data.Augmentation`).
        frame_stride: for videos, step between frames at 30 frames per second; None is the checkpoint's, or 4.
        flip: whether to mirror along the last axis with probability 1/2. None mirrors images but not arrays: a mirrored
            signal would run backwards, and a mirrored volume would have its sides exchanged.
        mixup, cutmix, label_smoothing: for fine-tuning.
        class_weights: the weights of classes in the loss. "balanced" weighs a class of images by the inverse of its
            frequency, and a class of pixels by 1 / ln(1.02 + its share of the pixels). An object has weights by name,
            such as {"crack": 5}; the other classes weigh 1. None weighs all alike.
        label_weight: weight of the labels in the loss; with a teacher, 0 leaves labels out.
        teacher_logits, teacher_features, teacher_temperature: with a teacher, weights of the divergence from its logits
            at a temperature and of the cosine distance from its features.
        distinct_epochs: number of epochs after which order, crops and mixes repeat, so that a teacher's cached outputs
            can be used again; None never repeats them.
        freeze: number of first stages to freeze, with the embedding; "all" trains only norm and head.
        adapter: "lora" trains small matrices in the layers, and the head, and leaves all other weights as they are;
            None trains the weights themselves.
        rank, alpha, adapter_dropout: of the adapter's matrices; None is rank 8, alpha twice the rank, and no dropout.
            The product of the matrices is multiplied by alpha / rank.
        target_modules: the layers of a block that get matrices, of attn.qkv, attn.proj, mlp.fc1, mlp.fc2 and proj (the
            shortcut where a stage begins); None is attn.qkv. Stages that `freeze` names get none.
        mask_ratio, target: for pretraining; the target is "normalized" (formerly "normalised") pixels, "pixels" or
            "hog".
        precision, compile, gradient_checkpointing: how the step is computed.
        ema: decay of the averaged weights per step; with None, weights are not averaged.
        validation_fraction: share of the samples that is held out if the data has no validation set.
        weights: which weights `model/` has: "best" by validation, or "last". If both exist, the last ones are in
            `model-last/`.
        evaluate_every, patience: epochs between evaluations, and number of evaluations without improvement that ends
            the run.
        checkpoint_every, keep: steps between checkpoints (None: once an epoch, and every half hour), and how many are
            kept.
        workers: decoding processes per rank; None is the rank's share of the cores minus one, at most 16.
        max_pixels: images with more pixels count as unreadable; None is no limit.
        max_bad: share of unreadable samples that stops the run.
        max_skipped: number of consecutive steps without a finite loss and gradient that stops the run.
        seed: seed of weights, order, augmentation and masks.
        source: where the values of the recipe are from, as text.
    """

    name: str
    mode: str
    model: str = "hiera_tiny_224"
    overrides: dict[str, Any] = field(default_factory=dict)
    image_size: tuple[int, ...] | None = None
    epochs: int = 100
    warmup_epochs: float = 5.0
    min_lr: float = 0.0
    batch_size: int = 256
    device_batch_size: int | None = None
    lr: float = 1e-3
    reference_batch: int = 1024
    scale_lr: bool = True
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    clip_grad: float | None = None
    drop_path: float | None = None
    dropout: float | None = None
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    flip: bool | None = None
    rand_augment: tuple[float, float] | None = None
    erasing: float = 0.0
    repeats: int = 1
    frame_stride: int | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    class_weights: str | dict[str, float] | None = None
    label_weight: float = 1.0
    teacher_logits: float = 1.0
    teacher_features: float = 1.0
    teacher_temperature: float = 1.0
    distinct_epochs: int | None = None
    freeze: int | str = 0
    adapter: str | None = None
    rank: int | None = None
    alpha: float | None = None
    adapter_dropout: float | None = None
    target_modules: tuple[str, ...] | None = None
    mask_ratio: float | None = None
    target: str = "normalized"
    precision: str = "fp32"
    compile: bool = False
    gradient_checkpointing: bool = False
    ema: float | None = None
    validation_fraction: float = 0.0
    weights: str = "best"
    evaluate_every: int = 1
    patience: int | None = None
    checkpoint_every: int | None = None
    keep: int = 2
    workers: int | None = None
    max_pixels: int | None = DEFAULT_MAX_PIXELS
    max_bad: float = 0.1
    max_skipped: int = 20
    seed: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        if self.target == "normalised":
            object.__setattr__(self, "target", "normalized")  # the former spelling, in files of older versions
        if self.adapter == "none":
            object.__setattr__(self, "adapter", None)
        for names, fits, allowed in _CHECKS:
            for name in names:
                value = getattr(self, name)
                if value is not None and not fits(value):
                    raise ValueError(f"{name} is {value!r}; expected {allowed}")
        self._check_adapter()
        self._check_mixing()
        for name, instead in _DECIDED.items():
            if name in self.overrides:
                raise ValueError(f"overrides has {name!r}, which {instead}")
        if self.overrides:
            from hierax.model.config import HieraConfig

            require_fields(self.overrides, {f.name for f in dataclasses.fields(HieraConfig)})

    def _check_adapter(self) -> None:
        if self.adapter is None:
            given = next((name for name in _OF_ADAPTER if getattr(self, name) is not None), None)
            if given is not None:
                raise ValueError(f"{given} is {getattr(self, given)!r}, but adapter is none; expected adapter=lora")
        elif not MODES[self.mode].supervised:
            raise ValueError(f"adapter is {self.adapter!r}, but {self.mode} trains the whole model; expected none")

    def _check_mixing(self) -> None:
        if self.crop_scale is not None and self.crop_scale[1] > 1 and not MODES[self.mode].targets:
            raise ValueError(f"crop_scale is {self.crop_scale}; expected two numbers above 0, ascending, at most 1")
        for name in ("mixup", "cutmix", "erasing") if MODES[self.mode].targets else ():
            if getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name):g}, but {self.mode} learns a class for each pixel; expected 0"
                )

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """The layers of a block that the adapter changes, by their whole names in a block."""
        named = self.target_modules or LAYERS[:1]
        return tuple(layer for layer in LAYERS if layer in {_SHORT.get(name, name) for name in named})

    @property
    def adapter_rank(self) -> int:
        """The rank of the adapter."""
        return 8 if self.rank is None else self.rank

    @property
    def adapter_scale(self) -> float | None:
        """What the product of the adapter's matrices is multiplied by; None without an adapter."""
        if self.adapter is None:
            return None
        return 2.0 if self.alpha is None else self.alpha / self.adapter_rank

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up, for this batch size."""
        return self.lr * (self.batch_size / self.reference_batch if self.scale_lr else 1.0)

    def replace(self, **changes: Any) -> Recipe:
        """The recipe with other values.

        Raises:
            ValueError: a value is wrong, or a field is unknown. The message lists the nearest known ones, or says where
                a field of the model belongs.
        """
        unknown = set(changes) - set(fields())
        if unknown:
            import difflib

            from hierax.model.config import HieraConfig

            name, of_model = sorted(unknown)[0], [f.name for f in dataclasses.fields(HieraConfig)]
            if name in of_model:
                instead = f"is a field of the model; expected overrides={{{name!r}: {changes[name]!r:.80}}}"
                raise ValueError(f"{name} {_DECIDED.get(name, instead)}")
            near = difflib.get_close_matches(name, [*fields(), *of_model], 3)
            hint = f"did you mean {', '.join(near)}?" if near else "hierax recipes NAME lists them"
            raise ValueError(f"{name} is not a setting of a recipe; {hint}")
        return dataclasses.replace(self, **changes)

    def overridden(self, assignments: Sequence[str]) -> Recipe:
        """The recipe with `key=value` strings applied; values are read as JSON, or else as text.

        A key that is a field of `HieraConfig` and not a setting of the recipe is added to `overrides`. If there are
        fewer epochs than warm-up epochs, the warm-up is shortened in proportion, unless `warmup_epochs` is given too.
        """
        from hierax.model.config import HieraConfig
        from hierax.model.variants import VARIANTS

        model_fields = {f.name for f in dataclasses.fields(HieraConfig)}
        changes: dict[str, Any] = {}
        overrides, hints = dict(self.overrides), get_type_hints(Recipe)
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            if not separator:
                raise ValueError(f"{assignment!r} is not a setting; expected key=value")
            value = parse_value(text)
            if key in hints and float in kinds(hints[key]) and re.fullmatch(r"[-+]?\d+,\d+", text):
                raise ValueError(f"{key} is {text!r}; expected a number with a point, such as {text.replace(',', '.')}")
            if key in _FIXED:
                raise ValueError(f"{key} cannot be set: {_FIXED[key]}")
            if key == "overrides":
                overrides |= _typed(key, value)
            elif key in model_fields and key not in fields():
                overrides[key] = value
            else:
                changes[key] = _typed(key, value)
        if (name := changes.get("model", self.model)) not in VARIANTS:
            raise ValueError(f"model is {name!r}{did_you_mean(str(name), VARIANTS)}; expected {', '.join(VARIANTS)}")
        if "epochs" in changes and self.warmup_epochs >= changes["epochs"]:  # else the rate never peaks
            changes.setdefault("warmup_epochs", self.warmup_epochs * changes["epochs"] / self.epochs)
        return self.replace(**changes, **({"overrides": overrides} if overrides != self.overrides else {}))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`.

        Raises:
            ValueError: unknown or missing fields, or bad values.
        """
        if "task" in values:  # the former name of the mode
            values = {**{key: value for key, value in values.items() if key != "task"}, "mode": values["task"]}
        missing = {"name", "mode"} - set(values)
        if missing:
            raise ValueError(f"the recipe lacks {', '.join(sorted(missing))}")
        base = cls(name=str(values["name"]), mode=str(values["mode"]))
        return base.replace(**{key: _typed(key, value) for key, value in values.items()})


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _one_of(*allowed: object) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in allowed, ", ".join(map(str, allowed))


def _in(low: float, high: float, text: str, *, above: bool = False) -> tuple[Callable[[Any], bool], str]:
    return lambda value: (low < value if above else low <= value) and value <= high, text


def _is_class_weights(value: Any) -> bool:
    if isinstance(value, str):
        return value == "balanced"
    return bool(value) and all(type(weight) in (int, float) and 0 < weight <= 1e9 for weight in value.values())


_MOST_PIXELS = 1 << 27  # of what a model sees; the memory for a step is thousands of bytes for each
_MOST = 10**9  # of anything that is counted
_COUNTS = (
    "epochs",
    "batch_size",
    "device_batch_size",
    "reference_batch",
    "repeats",
    "evaluate_every",
    "patience",
    "checkpoint_every",
    "keep",
    "max_skipped",
    "distinct_epochs",
    "frame_stride",
    "max_pixels",
    "rank",
)
_AMOUNTS = (
    "mixup",
    "cutmix",
    "lr",
    "weight_decay",
    "warmup_epochs",
    "label_weight",
    "teacher_logits",
    "teacher_features",
)
# settings, their check, and the expected value in words; None is always valid if a setting may be None
_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("mode",), lambda value: value in MODES, ", ".join(MODES)),
    (("precision",), *_one_of(*PRECISIONS)),
    (("target",), *_one_of(*TARGETS)),
    (("optimizer",), *_one_of("adamw", "sgd", "muon")),
    (("class_weights",), _is_class_weights, 'balanced, or weights above 0 by class, such as {"crack": 5}'),
    (("weights",), *_one_of("best", "last")),
    (("adapter",), *_one_of("none", "lora")),
    (("target_modules",), lambda v: len(v) > 0 and {*v} <= {*LAYERS, *_SHORT}, f"some of {', '.join(LAYERS)}"),
    (_COUNTS, _count, "a whole number above 0"),
    (_COUNTS, lambda v: v <= _MOST, f"at most {_MOST:,}"),
    (_AMOUNTS, *_in(0, 1e9, "0 or more, at most 1e9")),
    (("validation_fraction", "max_bad", "erasing", "min_lr"), *_in(0, 1, "0 to 1")),
    (("label_smoothing", "momentum", "drop_path", "dropout", "adapter_dropout"), lambda v: 0 <= v < 1, "0 to below 1"),
    (("mask_ratio", "ema"), lambda v: 0 < v < 1, "above 0 and below 1"),
    (("layer_decay",), *_in(0, 1, "above 0, at most 1", above=True)),
    (("clip_grad", "teacher_temperature", "alpha"), *_in(0, 1e9, "above 0, at most 1e9", above=True)),
    (("betas",), lambda v: len(v) == 2 and all(0 <= b < 1 for b in v), "two numbers, each 0 to below 1"),
    (("crop_scale",), lambda v: len(v) == 2 and 0 < v[0] <= v[1] <= 4, "two numbers above 0, ascending, at most 4"),
    (("rand_augment",), lambda v: len(v) == 2 and all(0 <= n <= 10 for n in v), "magnitude and deviation, 0 to 10"),
    (("image_size",), lambda v: 1 <= len(v) <= 3 and all(map(_count, v)), "one to three whole numbers above 0"),
    (("image_size",), lambda v: math.prod(v) <= _MOST_PIXELS, f"at most {_MOST_PIXELS:,} pixels in all"),
    (("workers",), *_in(0, 4096, "0 to 4096")),
    (("seed",), *_in(0, 2**32 - 1, "0 to 4294967295")),
    (("freeze",), lambda v: v == "all" or (isinstance(v, int) and v >= 0), "a number of stages, or 'all'"),
)
_FIXED = {
    "mode": "it is the command",
    "source": "it says where the recipe is from; --from names the weights to start from",
}
RESUMABLE_SETTINGS = frozenset(
    [
        "device_batch_size",
        "compile",
        "gradient_checkpointing",
        "checkpoint_every",
        "keep",
        "workers",
        "max_bad",
        "max_skipped",
        "max_pixels",
    ]
)
"""Settings that may change when a run is resumed: how it is computed and saved, not what it learns."""
_DECIDED = {  # fields of the model that a recipe sets by another name, or that follow from the data
    "image_size": "is a setting of its own",
    "dropout": "is a setting of its own",
    "mask_ratio": "is a setting of its own",
    "drop_path_rate": "is the setting drop_path",
    "normalize_pixel_loss": "is the setting target: normalized or pixels",
    "num_labels": "follows from the data",
    "id2label": "follows from the data",
    "label2id": "follows from the data",
    "problem_type": "follows from the labels: one class or several (regression is not available)",
    "out_features": "is for backbones",
    "out_indices": "is for backbones",
    "license": "is that of the weights to start from",
}


def setting_names(assignments: Sequence[str]) -> set[str]:
    """The keys of `key=value` strings."""
    return {assignment.partition("=")[0] for assignment in assignments}


def fields() -> tuple[str, ...]:
    """Names of a recipe's settings."""
    return tuple(f.name for f in dataclasses.fields(Recipe))


def _typed(key: str, value: Any) -> Any:
    hints = get_type_hints(Recipe)
    return typed_value(key, value, hints[key]) if key in hints else value
