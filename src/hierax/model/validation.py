"""Completes the fields of a configuration, and checks them one by one and together. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from hierax.advice import CONFIG, advice_on

if TYPE_CHECKING:
    from hierax.model.config import HieraConfig

ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "relu", "silu")
POSITION_EMBEDDINGS = ("absolute", "separable", "abs_win")
POSITION_RESIZES = ("bicubic", "window")
SEGMENTATION_HEADS = ("linear", "fpn")
TARGETS = ("first_frame", "all")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
_LARGEST = 1_000_000  # limits of labels and factors: a damaged file must be refused before it fills the memory
_Axes = tuple[int, ...]


def _is_integer(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _one_per_axis(name: str, value: Any, axes: int, default: int, lowest: int) -> _Axes:
    """`value` as one integer per axis; an integer stands for all axes, None for `default`."""
    value = default if value is None else value
    entries = (value,) * axes if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(entries) != axes or not all(_is_integer(e, lowest) for e in entries):
        wanted = "an integer of" if axes == 1 else f"{axes} integers, each"
        raise ValueError(f"{name} is {value!r}; expected {wanted} at least {lowest}")
    return entries


def resolve_fields(config: HieraConfig) -> dict[str, Any]:
    """Values of the fields that follow from others, or that were given in a short form."""
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
    decoder = ("decoder_hidden_size", "decoder_depth", "decoder_num_heads")  # None in transformers
    resolved |= {name: getattr(type(config), name) for name in decoder if getattr(config, name) is None}
    lists = (
        "depths", "num_heads", "masked_unit_attention", "window_sizes", "global_blocks", "fpn_top_down_levels",
        "out_features",
    )  # fmt: skip
    resolved |= {name: tuple(getattr(config, name)) for name in lists if isinstance(getattr(config, name), list)}
    if config.target is None:
        resolved["target"] = "first_frame" if axes == 3 and resolved["query_stride"][0] == 1 else "all"
    labels, count = config.id2label, config.num_labels
    if isinstance(labels, (list, tuple)):
        raise ValueError(f"id2label is {labels!r:.80}; expected an object of index: name, as dict(enumerate(names))")
    if count is None:
        resolved["num_labels"] = count = len(labels) if isinstance(labels, Mapping) else 1000
    if labels is None:
        resolved["id2label"] = {i: f"LABEL_{i}" for i in range(min(count, _LARGEST) if isinstance(count, int) else 0)}
    return resolved


def _require(config: HieraConfig, condition: bool, name: str, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {getattr(config, name)!r:.200}; expected {allowed}")


def check(config: HieraConfig) -> None:
    """Raises a `ValueError` that names the first field with a wrong value; each field is checked separately."""
    counts = ("embed_dim", "num_channels", "decoder_hidden_size", "decoder_depth", "decoder_num_heads")
    counts = (*counts, "segmentation_hidden_size")
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
        "pooled_shortcut": (True, False), "position_antialias": (True, False),
        "segmentation_head": SEGMENTATION_HEADS,
    }.items():  # fmt: skip
        _require(config, getattr(config, name) in options, name, f"one of {', '.join(map(str, options))}")
    depths = config.depths
    fits = isinstance(depths, tuple) and len(depths) > 0 and all(_is_integer(d, 1) for d in depths)
    _require(config, fits, "depths", "at least one stage of at least one block")
    for name, kind in {"num_heads": int, "masked_unit_attention": bool}.items():
        entries = getattr(config, name)
        fits = isinstance(entries, tuple) and [type(e) for e in entries] == [kind] * len(depths)
        _require(config, fits, name, f"{len(depths)} values of type {kind.__name__}, one per stage")
    _check_windows(config)
    _check_neck(config)
    ignored = config.semantic_loss_ignore_index
    _require(config, _is_integer(ignored, -(2**63)), "semantic_loss_ignore_index", "an integer")
    _require(config, isinstance(config.license, (str, type(None))), "license", "a name")
    _check_together(config)


def _check_windows(config: HieraConfig) -> None:
    """Raises a `ValueError` if `window_sizes` or `global_blocks` is wrong."""
    sizes, blocks, stages = config.window_sizes, config.global_blocks, len(config.depths)
    if sizes is not None:
        fits = isinstance(sizes, tuple) and len(sizes) == stages and all(_is_integer(size, 0) for size in sizes)
        _require(config, fits, "window_sizes", f"{stages} numbers of tokens, one per stage (0 is no window)")
        timeless = config.axes < 3 or config.query_stride[0] != 1
        _require(config, timeless, "window_sizes", "None for clips, whose time is not pooled")
        for stage, size in enumerate(sizes[: config.num_query_pool]):
            factor = math.lcm(*config.query_stride)
            _require(config, size % factor == 0, "window_sizes",
                     f"a multiple of {factor} in stage {stage + 1}, after which tokens are pooled")  # fmt: skip
    fits = isinstance(blocks, tuple) and all(_is_integer(block, 0) for block in blocks)
    fits = fits and all(a < b for a, b in itertools.pairwise((-1, *blocks, sum(config.depths))))
    _require(config, fits, "global_blocks", f"numbers of blocks from 0 to {sum(config.depths) - 1}, ascending")
    _require(config, not blocks or sizes is not None, "global_blocks", "() without window_sizes")


def _check_neck(config: HieraConfig) -> None:
    """Raises a `ValueError` if a field of the neck is wrong."""
    width, levels, stages = config.fpn_hidden_size, config.fpn_top_down_levels, len(config.depths)
    _require(config, width is None or _is_integer(width, 1), "fpn_hidden_size", "a number of channels, or None")
    fits = isinstance(levels, tuple) and all(_is_integer(level, 0) for level in levels)
    fits = fits and list(levels) == sorted(set(levels)) and (width is None or max(levels, default=0) < stages)
    _require(config, fits, "fpn_top_down_levels", f"numbers from 0 to {stages - 1}, ascending")
    count = config.num_feature_levels
    fits = _is_integer(count, 1) and (width is None or count <= stages)
    _require(config, fits, "num_feature_levels", f"a number from 1 to {stages}")


def _check_together(config: HieraConfig) -> None:
    """Raises a `ValueError` that names the first field whose value does not agree with other fields."""
    most, names, features = config.stages - 1, config.feature_names, config.out_features
    _require(config, config.num_query_pool <= most, "num_query_pool", f"at most {most} with {most + 1} stages")
    _require(
        config, min(config.dims) >= 1, "embed_dim_multiplier", "a factor that leaves at least one channel in each stage"
    )
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
    broken = next((label for label in labels.values() if not _is_text(label)), None)
    if broken is not None:  # of a folder or a file in another encoding; the configuration could not be saved
        raise ValueError(f"id2label has the name {broken!r}, which is not valid Unicode; expected another name")
    fits = isinstance(features, tuple) and features == tuple(name for name in names if name in features)
    _require(config, features is None or fits, "out_features", f"names of {', '.join(names)}, each once, in this order")


def _is_text(label: str) -> bool:
    """Whether a name can be written as UTF-8."""
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_fields(names: Iterable[str], known: AbstractSet[str]) -> None:
    """Raises a `ValueError` that names what is not a field of the configuration, and lists the fields."""
    for name in sorted(set(names) - known):
        advice = advice_on(name, known, CONFIG) or f"; fields are {', '.join(sorted(known))}"
        raise ValueError(f"{name!r} is not a field of HieraConfig{advice}")


def labels_by_id(labels: Any) -> dict[int, str]:
    """From label: index to index: label."""
    try:
        found = {int(i): str(name) for name, i in labels.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"label2id is {labels!r:.80}; expected an object of name: index") from None
    if len(found) < len(labels):
        raise ValueError(f"label2id is {labels!r:.80}; expected another index for each name")
    return found


def labels_from_json(labels: Any) -> dict[int, str]:
    """From index, as JSON writes it, to label."""
    try:
        return {int(i): str(name) for i, name in labels.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"id2label is {labels!r:.80}; expected an object of index: name") from None
