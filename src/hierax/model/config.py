"""The configuration of a Hiera model, as data. Nothing here imports torch."""

import dataclasses
import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hierax.advice import CONFIG, advised_class, did_you_mean
from hierax.model.validation import check, labels_by_id, labels_from_json, require_fields, resolve_fields
from hierax.model.variants import VARIANTS
from hierax.reprs.text import short_repr

_Axes = tuple[int, ...]
_FROM_OTHERS: Any = None
"""The default of fields that `__post_init__` fills in from the others."""

_SETTABLE = (
    "id2label", "problem_type", "license", "mask_ratio", "normalize_pixel_loss", "semantic_loss_ignore_index",
)  # fmt: skip
"""Fields that may be assigned after a model was built: no module depends on them."""
_DERIVED = {"label2id": "id2label", "out_indices": "out_features"}
"""Arguments that state the value of another field."""
OUTPUTS = ("output_hidden_states", "output_attentions")
"""Attributes that set the defaults of arguments of a model's call."""


@short_repr(like=lambda config: type(config)(image_size=config.image_size))
@advised_class(CONFIG)
@dataclass(unsafe_hash=True, kw_only=True)
class HieraConfig:
    """The complete description of a Hiera model; its JSON form is the one `transformers` reads and writes.

    Fields that a model is built from cannot be assigned: `replace` makes another configuration. Labels, `problem_type`,
    `mask_ratio` and similar fields can be assigned. Other names, such as the `use_cache` that transformers' Trainer
    sets, are kept as plain attributes. These are neither compared nor saved.

    `output_hidden_states` and `output_attentions` (both False) are such attributes, too: defaults of these arguments of
    calls.

    `label2id` may be given instead of `id2label`, and `out_indices` (0 is the stem) instead of `out_features`.

    The number of entries of `image_size` makes the model 1-D, 2-D or 3-D (video: time, height, width). Fields that are
    None follow from it (patches of 7 with stride 4, mask units of 8 tokens, pooling by 2, on every axis). Sizes are in
    pixels, mask units in tokens. Field names are those of `transformers`; `window_sizes`, `global_blocks` and the
    fields after `mask_ratio` are hierax's own (paper: Ryali et al., ICML 2023, section 3 and appendix).

    `window_sizes` gives each stage windows of its own, in tokens of the stage, instead of mask units; 0 is attention
    over all tokens. `global_blocks` lists the blocks, counted from 0 over all stages, that see all tokens nevertheless.
    The trunks of SAM 2 have both (arXiv 2408.00714). Such a model takes no masks.

    `fpn_hidden_size` gives a `HieraBackbone` the neck of SAM 2, which returns `num_feature_levels` more maps of this
    width: `p1`, `p2`, …. Levels count from 0, the finest; those of `fpn_top_down_levels` receive the next coarser one.

    `segmentation_head` ("fpn" of width `segmentation_hidden_size`, or "linear") is the head of semantic segmentation.

    Raises:
        ValueError: a value is wrong; the message names the field, its value and the expected values.
        TypeError: a name that is not a field; says what to write instead.
        AttributeError: a field was assigned that a model is built from.
    """

    model_type: ClassVar[str] = "hiera"
    output_hidden_states = False
    output_attentions = False

    embed_dim: int = 96
    image_size: _Axes = (224, 224)
    patch_size: _Axes = _FROM_OTHERS
    patch_stride: _Axes = _FROM_OTHERS
    patch_padding: _Axes = _FROM_OTHERS
    mlp_ratio: float = 4.0
    depths: tuple[int, ...] = (2, 3, 16, 3)
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    embed_dim_multiplier: float = 2.0
    num_query_pool: int = 3
    query_stride: _Axes = _FROM_OTHERS
    masked_unit_size: _Axes = _FROM_OTHERS
    masked_unit_attention: tuple[bool, ...] = (True, True, False, False)
    window_sizes: tuple[int, ...] | None = None  # None: mask units where masked_unit_attention says so
    global_blocks: tuple[int, ...] = ()
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
    position_antialias: bool = True
    global_position_size: _Axes | None = None
    layer_scale_init: float | None = None
    pooled_shortcut: bool = False
    fpn_hidden_size: int | None = None
    fpn_top_down_levels: tuple[int, ...] = (2, 3)
    num_feature_levels: int = 3
    segmentation_head: str = "fpn"
    segmentation_hidden_size: int = 128
    semantic_loss_ignore_index: int = 255
    target: str = _FROM_OTHERS  # "first_frame" for video, else "all"
    num_labels: int = _FROM_OTHERS  # as many as id2label, else 1000
    id2label: Mapping[int, str] = field(default=_FROM_OTHERS, hash=False)
    problem_type: str | None = None
    out_features: tuple[str, ...] | None = None
    license: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    label2id: Mapping[str, int] = field(default=_FROM_OTHERS, compare=False, repr=False)
    out_indices: Sequence[int] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.id2label, Mapping) and any(isinstance(i, str) for i in self.id2label):
            self.id2label = labels_from_json(self.id2label)
        for name in OUTPUTS:
            if isinstance(self.extra.get(name), bool):
                self.__dict__[name] = self.extra[name]
        if self.label2id is not None:
            self.id2label = self._reconcile("id2label", labels_by_id(self.label2id), "label2id")
        if self.out_indices is not None:
            self.out_features = self._reconcile("out_features", self.names_at(self.out_indices), "out_indices")
        for name, value in resolve_fields(self).items():
            setattr(self, name, value)
        check(self)
        self.id2label = dict(sorted(self.id2label.items()))  # JSON may have "10" before "2"
        self._derive()
        self.__dict__["_complete"] = True

    def _derive(self) -> None:
        """Sets the fields that `label2id` and `out_indices` state."""
        names = self.out_features
        self.__dict__["label2id"] = {name: i for i, name in self.id2label.items()}
        self.__dict__["out_indices"] = names if names is None else tuple(self.feature_names.index(n) for n in names)

    def _reconcile(self, name: str, value: Any, argument: str) -> Any:
        """`value`, which `argument` gives. `ValueError` if the field `name` was given another value."""
        given = getattr(self, name)
        same = given is None or (dict(given) == value if isinstance(given, Mapping) else tuple(given) == value)
        if not same:
            raise ValueError(f"{name} is {given!r:.200} but {argument} says {value!r:.200}; expected one of them")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not self.__dict__.get("_complete"):
            object.__setattr__(self, name, value)
        elif name == "label2id":
            self.id2label = labels_by_id(value)
        elif name in _SETTABLE:
            checked = self.replace(**{name: value})
            if checked.num_labels != self.num_labels:
                raise ValueError(f"id2label has {checked.num_labels} labels; this model has {self.num_labels}")
            self.__dict__[name] = getattr(checked, name)
            self._derive()
        elif name in _field_names():
            raise AttributeError(
                f"{name} cannot be changed after a model was built from this configuration; config.replace({name}=…) "
                "makes a new configuration, and from_pretrained takes it as an argument"
            )
        elif name == "return_dict" and value is False:
            raise AttributeError("return_dict cannot be False; pass return_dict=False to the call of the model")
        else:
            object.__setattr__(self, name, value)

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
    def is_windowed(self) -> bool:
        """Whether attention is within windows of `window_sizes`, not within mask units."""
        return self.window_sizes is not None

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.depths)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """`stem`, `stage1`, … as `transformers` names them."""
        return ("stem", *(f"stage{i + 1}" for i in range(self.stages)))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of all maps that a backbone can return: `stage_names`, and `p1`, `p2`, … if it has a neck."""
        levels = 0 if self.fpn_hidden_size is None else self.num_feature_levels
        return (*self.stage_names, *(f"p{i + 1}" for i in range(levels)))

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the maps that a backbone returns: `out_features`, by default its neck's or the last stage."""
        return self.out_features or self.feature_names[self.stages + 1 :] or self.stage_names[-1:]

    def feature_stage(self, name: str) -> int:
        """The stage (0 is the first) whose stride the map `name` of `feature_names` has."""
        return 0 if name == "stem" else int(name.removeprefix("stage").removeprefix("p")) - 1

    def feature_width(self, name: str) -> int:
        """Channels of the map `name` of `feature_names`."""
        of_neck = self.fpn_hidden_size is not None and name not in self.stage_names
        return self.fpn_hidden_size if of_neck else self.dims[self.feature_stage(name)]  # pyright: ignore[reportReturnType]

    def names_at(self, indices: Sequence[int]) -> tuple[str, ...]:
        """Of `feature_names` those at these indices; negative ones count from the end.

        Raises:
            ValueError: an index out of range.
        """
        names = self.feature_names
        listed = isinstance(indices, Sequence) and all(isinstance(i, int) for i in indices)
        if not listed or any(not -len(names) <= i < len(names) for i in indices):
            raise ValueError(f"out_indices is {indices!r}; expected numbers from 0 to {len(names) - 1}")
        return tuple(names[i] for i in indices)

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of the tokens in each stage."""
        return tuple(int(self.embed_dim * self.embed_dim_multiplier**i) for i in range(self.stages))

    @property
    def hidden_size(self) -> int:
        """Width of the tokens in the last stage."""
        return self.dims[-1]

    @property
    def num_hidden_layers(self) -> int:
        """Number of stages, as in transformers; `depths` has the number of blocks of each."""
        return self.stages

    num_layers = num_hidden_layers

    @property
    def architectures(self) -> list[str] | None:
        """Names of the classes that the checkpoint's file states, or None."""
        return self.extra.get("architectures")

    @property
    def unit_pixels(self) -> _Axes:
        """Size of a mask unit in pixels, per axis."""
        return tuple(s * u for s, u in zip(self.patch_stride, self.masked_unit_size, strict=True))

    def unit_grid(self, size: Sequence[int]) -> _Axes:
        """Mask units per axis of an input of `size` pixels; a partly filled unit at the end counts."""
        return tuple(-(-s // u) for s, u in zip(size, self.unit_pixels, strict=True))

    def token_grid(self, size: Sequence[int]) -> _Axes:
        """Tokens per axis at stage 1 of an input of `size` pixels, after padding to whole mask units."""
        return tuple(n * u for n, u in zip(self.unit_grid(size), self.masked_unit_size, strict=True))

    def pooled(self, stage: int) -> int:
        """How often the tokens of `stage` (0 is the first) have been pooled."""
        return min(stage, self.num_query_pool)

    def unit_size(self, stage: int) -> _Axes:
        """Tokens of a mask unit in `stage` (0 is the first), per axis."""
        strides = zip(self.masked_unit_size, self.query_stride, strict=True)
        return tuple(tokens // stride ** self.pooled(stage) for tokens, stride in strides)

    def stage_stride(self, stage: int) -> _Axes:
        """Pixels per token of `stage` (0 is the first), per axis."""
        return tuple(p * q ** self.pooled(stage) for p, q in zip(self.patch_stride, self.query_stride, strict=True))

    @property
    def target_size(self) -> _Axes:
        """Pixels per axis that one token of the decoder predicts."""
        stride = self.stage_stride(self.stages - 1)
        return (1, *stride[1:]) if self.target == "first_frame" else stride

    def replace(self, **changes: Any) -> "HieraConfig":
        """A copy with other values for some fields; `ValueError` for a name that is not a field."""
        require_fields(changes, _field_names())
        if "num_labels" in changes and "id2label" not in changes and changes["num_labels"] != self.num_labels:
            changes["id2label"] = None
        if ("id2label" in changes or "label2id" in changes) and "num_labels" not in changes:
            changes["num_labels"] = None
        for given, derived in _DERIVED.items():
            if changes.setdefault(given, None) is not None:
                changes.setdefault(derived, None)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the fields, `label2id` beside `id2label`, and the unknown keys that were read."""
        own = {name: getattr(self, name) for name in _field_names() - {"extra", *_DERIVED}}
        own = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items() if v is not None}
        own["id2label"] = {str(i): name for i, name in self.id2label.items()}
        own["label2id"] = self.label2id
        del own["num_labels"]  # derived from id2label, there as here
        return {**self.extra, **own}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HieraConfig":
        """The configuration that `to_dict` or `transformers` wrote; unknown keys are kept in `extra`.

        Raises:
            ValueError: a value is wrong; the message names the field.
        """
        names = _field_names() - {"extra"}
        known: dict[str, Any] = {k: v for k, v in values.items() if k in names and v is not None}
        for given, derived in _DERIVED.items():  # repeated information is not compared
            if derived in known:
                known.pop(given, None)
        if "id2label" in known:
            known["id2label"] = labels_from_json(known["id2label"])
        extra = {k: v for k, v in values.items() if k not in names}
        return cls(**known, extra=extra)

    def to_json(self) -> str:
        """`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    to_json_string = to_json  # its name in transformers

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> "HieraConfig":
        """The configuration of a checkpoint of any format; `overrides` are other values for its fields.

        Args:
            source: a Hub id, a folder or a file. Weights are downloaded too: some formats state it by their shapes.

        The other arguments and the errors are those of `from_pretrained` of the models.
        """
        from hierax.checkpoint.hub import HubOptions
        from hierax.checkpoint.load import load_config

        return load_config(source, HubOptions(revision, cache_dir, token, local_files_only), overrides)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `config.json` into `folder` (created if it is missing), in the form of transformers."""
        from hierax.checkpoint.save import save_config

        save_config(self, folder)

    @classmethod
    def from_json_file(cls, path: str | Path) -> "HieraConfig":
        """Reads a `config.json`.

        Raises:
            ValueError: the file is not JSON (names the file), or a value is bad (names the field).
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


def _field_names() -> set[str]:
    return {f.name for f in dataclasses.fields(HieraConfig)}


def list_models(pattern: str = "*") -> tuple[str, ...]:
    """The names that `create_model` knows.

    Args:
        pattern: only those that it fits, as `mae_*` or `*_16x224`; `*`, `?` and `[…]` are as for files.
    """
    return tuple(fnmatch.filter(VARIANTS, pattern))


def variant_config(name: str, **overrides: Any) -> HieraConfig:
    """A named variant with `overrides`; an `image_size` of 1 or 3 entries makes an image variant 1-D or 3-D.

    Raises:
        ValueError: a variant or field is unknown (the message lists the known ones), or the value of a field is wrong.
    """
    if not isinstance(name, str):
        raise TypeError(f"name is a {type(name).__name__}; expected the name of a variant, such as 'hiera_tiny_224'")
    if name not in VARIANTS:
        near = did_you_mean(name, VARIANTS)
        raise ValueError(f"{name!r} is not a variant{near}; variants are {', '.join(VARIANTS)}")
    require_fields(overrides, _field_names())
    return HieraConfig(**{**VARIANTS[name], **overrides})
