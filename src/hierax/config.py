"""What a Hiera model is, as data: the configuration and the plan of its blocks.

Nothing here imports torch. A model is decided completely before a module exists: `plan(config)` lists one `BlockSpec`
per transformer block, and `encoder.Hiera` only builds what the list says.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hierax.variants import VARIANTS

ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "relu", "silu")
POSITION_EMBEDDINGS = ("absolute", "separable", "abs_win")
POSITION_RESIZES = ("bicubic", "window")
TARGETS = ("first_frame", "all")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
_LARGEST = 1_000_000  # labels and factors: a damaged file must not fill the memory before it is refused
_Axes = tuple[int, ...]


def _is_integer(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _one_per_axis(name: str, value: Any, axes: int, default: int, lowest: int) -> _Axes:
    """`value` as one integer per axis; an integer stands for all axes, None for `default`."""
    value = default if value is None else value
    entries = (value,) * axes if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(entries) != axes or not all(_is_integer(e, lowest) for e in entries):
        raise ValueError(f"{name} is {value!r}; expected {axes} integer(s), each at least {lowest}")
    return entries


@dataclass(frozen=True, kw_only=True)
class HieraConfig:
    """The complete description of a Hiera model; its JSON form is the one `transformers` reads and writes.

    The number of entries of `image_size` makes the model 1-D, 2-D or 3-D (video: time, height, width); what is left
    at None follows from it (patches of 7 with stride 4, mask units of 8 tokens, pooling by 2, on every axis).
    Sizes are in pixels, mask units in tokens. Field names are those of `transformers`; the fields after `mask_ratio`
    are hierax's own (paper: Ryali et al., ICML 2023, section 3 and appendix).

    Raises:
        ValueError: names the field, its value and what is allowed.
    """

    embed_dim: int = 96
    image_size: _Axes = (224, 224)
    patch_size: _Axes = None  # type: ignore[assignment]  # None: filled in by __post_init__, as the next five
    patch_stride: _Axes = None  # type: ignore[assignment]
    patch_padding: _Axes = None  # type: ignore[assignment]
    mlp_ratio: float = 4.0
    depths: tuple[int, ...] = (2, 3, 16, 3)
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    embed_dim_multiplier: float = 2.0
    num_query_pool: int = 3
    query_stride: _Axes = None  # type: ignore[assignment]
    masked_unit_size: _Axes = None  # type: ignore[assignment]
    masked_unit_attention: tuple[bool, ...] = (True, True, False, False)
    drop_path_rate: float = 0.0
    num_channels: int = 3
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_init: float = 1.0
    layer_norm_eps: float = 1e-6
    decoder_hidden_size: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    normalize_pixel_loss: bool = True
    mask_ratio: float = 0.6
    dropout: float = 0.0
    position_embedding: str = "absolute"
    position_resize: str = "bicubic"
    global_position_size: _Axes | None = None
    layer_scale_init: float | None = None
    pooled_shortcut: bool = False
    target: str = None  # type: ignore[assignment]  # None: "first_frame" for video, else "all"
    num_labels: int = None  # type: ignore[assignment]  # None: as many as id2label, else 1000
    id2label: Mapping[int, str] = field(default=None, hash=False)  # type: ignore[assignment]
    problem_type: str | None = None
    out_features: tuple[str, ...] | None = None
    license: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, value in _resolved(self).items():
            object.__setattr__(self, name, value)
        _check(self)

    # -- what follows from the fields ---------------------------------------------------------------------------

    @property
    def axes(self) -> int:
        """Number of spatial and temporal axes of the input: 1, 2 or 3."""
        return len(self.image_size)

    @property
    def is_video(self) -> bool:
        """Whether axis 0 of a 3-D input is time: it is never pooled."""
        return self.axes == 3 and self.query_stride[0] == 1

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.depths)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """`stem`, `stage1`, … as `transformers` names them."""
        return ("stem", *(f"stage{i + 1}" for i in range(self.stages)))

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of the tokens in each stage."""
        return tuple(int(self.embed_dim * self.embed_dim_multiplier**i) for i in range(self.stages))

    @property
    def hidden_size(self) -> int:
        """Width of the tokens in the last stage."""
        return self.dims[-1]

    @property
    def unit_pixels(self) -> _Axes:
        """Size of a mask unit in pixels, per axis."""
        return tuple(s * u for s, u in zip(self.patch_stride, self.masked_unit_size, strict=True))

    def unit_grid(self, size: Sequence[int]) -> _Axes:
        """Mask units per axis of an input of `size` pixels, the last one counted when it is only partly filled."""
        return tuple(-(-s // u) for s, u in zip(size, self.unit_pixels, strict=True))

    def token_grid(self, size: Sequence[int]) -> _Axes:
        """Tokens per axis at stage 1 of an input of `size` pixels, after padding to whole mask units."""
        return tuple(n * u for n, u in zip(self.unit_grid(size), self.masked_unit_size, strict=True))

    def pooled(self, stage: int) -> int:
        """How often the tokens of `stage` (0 is the first) have been pooled."""
        return min(stage, self.num_query_pool)

    def stage_stride(self, stage: int) -> _Axes:
        """Pixels per token of `stage` (0 is the first), per axis."""
        return tuple(p * q ** self.pooled(stage) for p, q in zip(self.patch_stride, self.query_stride, strict=True))

    @property
    def target_size(self) -> _Axes:
        """Pixels per axis that one token of the decoder predicts."""
        stride = self.stage_stride(self.stages - 1)
        return (1, *stride[1:]) if self.target == "first_frame" else stride

    def replace(self, **changes: Any) -> "HieraConfig":
        """A copy with other values; `ValueError` for a name that is no field."""
        _require_fields(changes)
        if "num_labels" in changes and "id2label" not in changes and changes["num_labels"] != self.num_labels:
            changes["id2label"] = None
        if "id2label" in changes and "num_labels" not in changes:
            changes["num_labels"] = None
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the fields, `label2id` beside `id2label`, and whatever unknown keys were read."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
        own = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items() if v is not None}
        own["id2label"] = {str(i): name for i, name in self.id2label.items()}
        own["label2id"] = {name: i for i, name in self.id2label.items()}
        del own["num_labels"]  # derived from id2label, there as here
        return {**self.extra, **own}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HieraConfig":
        """The configuration that `to_dict` or `transformers` wrote; unknown keys are kept in `extra`.

        Raises:
            ValueError: names the field of a bad value.
        """
        names = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        known: dict[str, Any] = {k: v for k, v in values.items() if k in names and v is not None}
        if "id2label" in known:
            known["id2label"] = _labels_from_json(known["id2label"])
        extra = {k: v for k, v in values.items() if k not in names and k != "label2id"}
        return cls(**known, extra=extra)

    def to_json(self) -> str:
        """`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json_file(cls, path: str | Path) -> "HieraConfig":
        """Reads a `config.json`.

        Raises:
            ValueError: names the file when it is not JSON, and the field when a value is bad.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"holds a {type(values).__name__}; expected an object of fields")
            return cls.from_dict(values)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a JSON file ({error})") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _labels_from_json(labels: Any) -> dict[int, str]:
    try:
        return {int(i): str(name) for i, name in labels.items()}
    except (AttributeError, ValueError):
        raise ValueError(f"id2label is {labels!r:.80}; expected an object of index: name") from None


def _resolved(config: HieraConfig) -> dict[str, Any]:
    """The values of the fields that follow from others, or that were given in a convenient form."""
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    axes = len(size) if isinstance(size, Sequence) else 0
    if axes not in (1, 2, 3):
        raise ValueError(f"image_size is {config.image_size!r}; expected 1, 2 or 3 sizes in pixels")
    resolved: dict[str, Any] = {"image_size": _one_per_axis("image_size", size, axes, 224, 1)}
    defaults = {"patch_size": 7, "patch_stride": 4, "patch_padding": 3, "query_stride": 2, "masked_unit_size": 8}
    if config.global_position_size is not None:
        defaults["global_position_size"] = 1
    for name, default in defaults.items():
        resolved[name] = _one_per_axis(name, getattr(config, name), axes, default, int(name != "patch_padding"))
    lists = ("depths", "num_heads", "masked_unit_attention", "out_features")
    resolved |= {name: tuple(getattr(config, name)) for name in lists if isinstance(getattr(config, name), list)}
    if config.target is None:
        resolved["target"] = "first_frame" if axes == 3 and resolved["query_stride"][0] == 1 else "all"
    labels, count = config.id2label, config.num_labels
    if count is None:
        resolved["num_labels"] = count = len(labels) if isinstance(labels, Mapping) else 1000
    if labels is None:
        resolved["id2label"] = {i: f"LABEL_{i}" for i in range(min(count, _LARGEST) if isinstance(count, int) else 0)}
    return resolved


def _require_fields(names: Iterable[str]) -> None:
    known = {f.name for f in dataclasses.fields(HieraConfig)}
    for name in sorted(set(names) - known):
        raise ValueError(f"{name!r} is no field of HieraConfig; fields are {', '.join(sorted(known))}")


def _require(config: HieraConfig, condition: bool, name: str, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {getattr(config, name)!r:.200}; expected {allowed}")


def _check(config: HieraConfig) -> None:
    """Raises the `ValueError` that names the first field whose value cannot be, each field by itself."""
    counts = ("embed_dim", "num_channels", "decoder_hidden_size", "decoder_depth", "decoder_num_heads")
    for name, lowest in {**dict.fromkeys(counts, 1), "num_labels": 0, "num_query_pool": 0}.items():
        _require(config, _is_integer(getattr(config, name), lowest), name, f"an integer of at least {lowest}")
    _require(config, config.num_labels <= _LARGEST, "num_labels", f"at most {_LARGEST}")
    positive = (math.ulp(0.0), _LARGEST, "a positive number below a million")
    share, any_of = (0, 1, "a number from 0 to below 1"), (-math.inf, math.inf, "a number")
    for name, (lowest, below, allowed) in {
        "mlp_ratio": positive, "layer_norm_eps": positive, "embed_dim_multiplier": positive, "layer_norm_init": any_of,
        "initializer_range": (0, math.inf, "a number of at least 0"), "layer_scale_init": any_of,
        "drop_path_rate": share, "dropout": share, "mask_ratio": share,
    }.items():  # fmt: skip
        value = getattr(config, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and lowest <= value < below
        _require(config, number or (value is None and name == "layer_scale_init"), name, allowed)
    for name, options in {
        "hidden_act": ACTIVATIONS, "position_embedding": POSITION_EMBEDDINGS, "position_resize": POSITION_RESIZES,
        "target": TARGETS, "problem_type": (None, *PROBLEM_TYPES), "normalize_pixel_loss": (True, False),
        "pooled_shortcut": (True, False),
    }.items():  # fmt: skip
        _require(config, getattr(config, name) in options, name, f"one of {', '.join(map(str, options))}")
    depths = config.depths
    fits = isinstance(depths, tuple) and len(depths) > 0 and all(_is_integer(d, 1) for d in depths)
    _require(config, fits, "depths", "at least one stage of at least one block")
    for name, kind in {"num_heads": int, "masked_unit_attention": bool}.items():
        entries = getattr(config, name)
        fits = isinstance(entries, tuple) and [type(e) for e in entries] == [kind] * len(depths)
        _require(config, fits, name, f"{len(depths)} values of type {kind.__name__}, one per stage")
    _require(config, isinstance(config.license, (str, type(None))), "license", "a name")
    _check_together(config)


def _check_together(config: HieraConfig) -> None:
    """Raises the `ValueError` that names the first field whose value does not go with those of others."""
    most, names, features = config.stages - 1, config.stage_names, config.out_features
    _require(config, config.num_query_pool <= most, "num_query_pool", f"at most {most} with {most + 1} stages")
    _require(config, min(config.dims) >= 1, "embed_dim_multiplier", "a factor that leaves every stage a channel")
    fits = all(heads >= 1 and dim % heads == 0 for dim, heads in zip(config.dims, config.num_heads, strict=True))
    _require(config, fits, "num_heads", f"divisors of the widths {config.dims}")
    _require(config, config.decoder_hidden_size % config.decoder_num_heads == 0, "decoder_num_heads",
             f"a divisor of decoder_hidden_size {config.decoder_hidden_size}")  # fmt: skip
    for unit, stride in zip(config.masked_unit_size, config.query_stride, strict=True):
        _require(config, unit % stride**config.num_query_pool == 0, "masked_unit_size",
                 f"multiples of query_stride ** num_query_pool = {stride**config.num_query_pool}")  # fmt: skip
    for kernel, stride, padding in zip(config.patch_size, config.patch_stride, config.patch_padding, strict=True):
        _require(config, stride <= kernel == 2 * padding + 1 or (kernel == stride and padding == 0), "patch_padding",
                 f"half of an odd patch_size (it is {config.patch_size}) that is at least patch_stride (it is "
                 f"{config.patch_stride}), so that a token stands for patch_stride pixels")  # fmt: skip
    for name, value in {"target": "first_frame", "position_embedding": "separable"}.items():
        _require(config, config.axes == 3 or getattr(config, name) != value, name, f"not {value!r}, which is for 3-D")
    _require(config, config.position_embedding != "abs_win" or config.global_position_size is not None,
             "global_position_size", "a grid in tokens, since position_embedding is 'abs_win'")  # fmt: skip
    _require(config, not config.pooled_shortcut or config.embed_dim_multiplier == 2, "pooled_shortcut",
             "False unless embed_dim_multiplier is 2")  # fmt: skip
    labels = config.id2label
    fits = isinstance(labels, Mapping) and set(labels) == set(range(config.num_labels))
    _require(config, fits and all(isinstance(label, str) for label in labels.values()), "id2label",
             f"names for the indices 0 to {config.num_labels - 1} (num_labels is {config.num_labels})")  # fmt: skip
    fits = isinstance(features, tuple) and features == tuple(name for name in names if name in features)
    _require(config, features is None or fits, "out_features", f"names of {', '.join(names)}, each once, in this order")


@dataclass(frozen=True)
class BlockSpec:
    """One transformer block: what `encoder.Block` is built from.

    Attributes:
        stage: the stage it belongs to, 0 is the first.
        dim, dim_out: width of the tokens that come in and go out.
        heads: attention heads.
        unit_attention: attends within mask units (else over all tokens).
        pool: number of neighbouring tokens whose queries and shortcut are max-pooled into one; 1 is none.
        drop_path: probability that a residual branch is dropped in training.
    """

    stage: int
    dim: int
    dim_out: int
    heads: int
    unit_attention: bool
    pool: int
    drop_path: float


def plan(config: HieraConfig) -> tuple[BlockSpec, ...]:
    """One `BlockSpec` per block of the encoder, in order.

    Mask unit attention lags by one block: the first block of a stage still attends as the stage before did, since
    its keys are that stage's tokens. Drop path rises linearly from 0 to `drop_path_rate` (paper, section 3).
    """
    specs: list[BlockSpec] = []
    for stage, depth in enumerate(config.depths):
        for layer in range(depth):
            entering = layer == 0 and stage > 0
            specs.append(
                BlockSpec(
                    stage=stage,
                    dim=config.dims[stage - 1] if entering else config.dims[stage],
                    dim_out=config.dims[stage],
                    heads=config.num_heads[stage],
                    unit_attention=config.masked_unit_attention[stage - 1 if entering else stage],
                    pool=math.prod(config.query_stride) if entering and stage <= config.num_query_pool else 1,
                    drop_path=config.drop_path_rate * len(specs) / max(sum(config.depths) - 1, 1),
                )
            )
    return tuple(specs)


def list_models() -> tuple[str, ...]:
    """The names that `create_model` knows."""
    return tuple(VARIANTS)


def variant_config(name: str, **overrides: Any) -> HieraConfig:
    """A named variant with `overrides` of its fields; an `image_size` of 1 or 3 entries makes an image's 1-D or 3-D.

    Raises:
        ValueError: for an unknown variant or field (it lists those there are), or a bad value (it names the field).
    """
    if name not in VARIANTS:
        raise ValueError(f"{name!r} is no variant; variants are {', '.join(VARIANTS)}")
    _require_fields(overrides)
    return HieraConfig(**{**VARIANTS[name], **overrides})
