"""The table of tasks: what a Hiera model can be for. A new task is a class in `model/` and a row here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hierax.model.config import HieraConfig, variant_config
from hierax.model.encoder import Hiera
from hierax.model.outputs import (
    BackboneOutput,
    ClassifierOutput,
    HieraModelOutput,
    Output,
    PreTrainingOutput,
    SemanticSegmentationOutput,
)
from hierax.model.pretrained import Pretrained
from hierax.model.segmentation import HieraForSemanticSegmentation
from hierax.model.tasks import (
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task.

    Attributes:
        name: as in `hierax.load(source, task=name)`.
        cls: the class of its models. Its name is the `architectures` of a `config.json`. Its calls take `pixel_values`
            and `output_hidden_states`, and give the maps as `reshaped_hidden_states`.
        output: the class of a call's result.
        outputs: the fields of the output that engines and exports return, in order.
        parts: first parts of the names of its tensors, besides "encoder". A checkpoint that has tensors of the first
            one is of this task.
        pipeline_tag: the Hub's name for the task, for model cards.
        labels: whether the model answers with classes, whose names its configuration has.
        classifier: with `labels`, the part or module that has one output per class.
        fields: the fields of the configuration, besides `num_labels`, on which the shapes of its part depend.
        dense: with `labels`, whether it names the class of every pixel, not of the input.
        masked: whether the model sees the visible mask units alone, and predicts the hidden ones.
        maps: whether the output has one map for each of the configuration's `out_features`.
        around: whether the model stands around a whole `HieraModel` in transformers' names (`hiera.` before them).
        pools_last: whether the last stage is pooled, for a model that is made from another task's checkpoint. None
            keeps the checkpoint's number of poolings.
        clips: whether it is for clips alone (True), for all other inputs (False), or for any (None).
    """

    name: str
    cls: type[Pretrained]
    output: type[Output]
    outputs: tuple[str, ...]
    parts: tuple[str, ...]
    pipeline_tag: str = "image-feature-extraction"
    labels: bool = False
    classifier: str = "head"
    fields: tuple[str, ...] = ()
    dense: bool = False
    masked: bool = False
    maps: bool = False
    around: bool = False
    pools_last: bool | None = None
    clips: bool | None = None

    @property
    def part(self) -> str:
        """The part by which a checkpoint of this task is recognized."""
        return self.parts[0]

    @property
    def prefix(self) -> str:
        """What the names of its tensors leave out: "encoder." if the model is the encoder alone."""
        return f"{self.part}." if self.part == "encoder" else ""

    @property
    def architecture(self) -> str:
        """Name of the class."""
        return self.cls.__name__

    def reinitialized_for_labels(self, parts: Collection[str], before: HieraConfig, changes: Mapping[str, Any]) -> str:
        """The part or module that gets random weights for another `num_labels`, of a checkpoint with these `parts` and
        the configuration `before`, of which the model has other fields, `changes`.
        """
        alike = all(changes.get(name) in (None, getattr(before, name)) for name in self.fields)
        return self.classifier if (self.part in parts and alike) or not self.labels else self.part

    def constructor_arguments(self, parts: Collection[str]) -> dict[str, Any]:
        """The arguments of the class, besides the configuration, for a checkpoint that holds these `parts`."""
        return {"norms": "norms" in parts} if "norms" in self.cls.constructor_arguments else {}

    def outline(self, config: HieraConfig, names: Iterable[str]) -> Any:
        """A model without weights (on the meta device) that has the modules of a configuration, and the optional parts
        of tensors with these `names`.
        """
        with torch.device("meta"):
            return self.cls(config, **self.constructor_arguments({name.split(".")[0] for name in names}))


ENCODER = TaskSpec(name="encoder", cls=Hiera, output=Output, outputs=(), parts=("encoder",))
"""The encoder alone: it can be saved and exported to other formats, but it is no task."""

_CLASSIFIER: dict[str, Any] = {
    "output": partial(ClassifierOutput, loss=None),
    "outputs": ("logits",),
    "parts": ("head", "norm"),
    "labels": True,
    "around": True,
    "pools_last": True,
}

TASKS: Mapping[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            name="classification",
            cls=HieraForImageClassification,
            pipeline_tag="image-classification",
            clips=False,
            **_CLASSIFIER,
        ),
        TaskSpec(
            name="video-classification",
            cls=HieraForVideoClassification,
            pipeline_tag="video-classification",
            clips=True,
            **_CLASSIFIER,
        ),
        TaskSpec(
            name="segmentation",
            cls=HieraForSemanticSegmentation,
            output=partial(SemanticSegmentationOutput, loss=None),  # pyright: ignore[reportArgumentType]
            outputs=("logits",),
            parts=("segmentation",),
            pipeline_tag="image-segmentation",
            labels=True,
            classifier="segmentation.classifier",
            fields=("segmentation_head", "segmentation_hidden_size"),
            dense=True,
            around=True,
            pools_last=True,
        ),
        TaskSpec(
            name="mae",
            cls=HieraForPreTraining,
            output=PreTrainingOutput,
            outputs=("logits",),
            parts=("decoder", "fusion", "encoder_norm"),
            masked=True,
            around=True,
            pools_last=False,
        ),
        TaskSpec(
            name="backbone",
            cls=HieraBackbone,
            output=BackboneOutput,
            outputs=(),
            parts=("norms", "pyramid"),
            maps=True,
        ),
        TaskSpec(
            name="features",
            cls=HieraModel,
            output=HieraModelOutput,
            outputs=("pooler_output", "last_hidden_state"),
            parts=("norm",),
        ),
    )
}
"""All tasks by name. A checkpoint is of the first one whose `part` it has."""


def known_parts() -> tuple[str, ...]:
    """First parts of the tensor names of all tasks."""
    return ("encoder", *dict.fromkeys(part for spec in TASKS.values() for part in spec.parts))


def task_of(cls: type) -> TaskSpec:
    """The task of a model class, or of its nearest base that has one."""
    rows = {spec.architecture: spec for spec in (*TASKS.values(), ENCODER)}
    return next(rows[base.__name__] for base in cls.__mro__ if base.__name__ in rows)


def task_named(name: str) -> TaskSpec:
    """The task of this name.

    Raises:
        ValueError: there is none; lists the names.
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]


def task_in_config(architectures: object) -> TaskSpec | None:
    """The task of the class that the `architectures` of a `config.json` name, or None. `HieraxBackbone`, a class of
    `hierax.integrations.transformers`, is for the task of `HieraBackbone`, and so on.
    """
    named = architectures[:1] if isinstance(architectures, list) else []
    plain = [str(name).replace("Hierax", "Hiera", 1) for name in named]
    return next((spec for spec in TASKS.values() if plain == [spec.architecture]), None)


def task_with(part: str, config: HieraConfig) -> TaskSpec:
    """The task whose models have this part, for images or for clips as `config` says.

    Raises:
        ValueError: no task has it.
    """
    for spec in TASKS.values():
        if spec.part == part and spec.clips in (None, config.is_video):
            return spec
    raise ValueError(f"part is {part!r}; expected one of {', '.join(known_parts())}")


def task_of_parts(parts: Collection[str], config: HieraConfig) -> TaskSpec:
    """The task of a checkpoint with these parts; if they fit several tasks, the task of the class in `config`."""
    stated = task_in_config(config.architectures)
    found = next((s for s in TASKS.values() if s.part in parts or (s.maps and not {*s.parts}.isdisjoint(parts))), None)
    if found is None:
        return stated if stated is not None and stated.maps else TASKS["features"]
    return stated if stated is not None and stated.part == found.part else task_with(found.part, config)


def create_model(name: str, **overrides: Any) -> Pretrained:
    """A model of a named variant with random weights: `hiera_tiny_224`, `hiera_base_16x224`, `mae_hiera_tiny_224`, …

    Args:
        name: one of `list_models()`; `mae_…` gives an MAE model, the others a classifier of images or clips.
        overrides: other values for fields of `HieraConfig`.

    Raises:
        ValueError: a variant or field is unknown (the message lists the known ones), or a value is wrong.
    """
    config = variant_config(name, **overrides)
    return task_with("decoder" if name.startswith("mae_") else "head", config).cls(config)
