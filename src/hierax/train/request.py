"""The request for a run, and defaults for missing arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hierax.data.dataset import Dataset
from hierax.data.split import notify_of_shared, open_train_and_validation
from hierax.processing.paths import require_data
from hierax.train.choice import Choice, choose, default_source
from hierax.train.folder import RunExists, absolute_source
from hierax.train.log import result_sentence
from hierax.train.modes import Mode
from hierax.train.parallel import World
from hierax.train.recipes import recipe as named_recipe
from hierax.train.settings import Recipe, setting_names

PathOrHubId = str | os.PathLike[str]
Classes = Sequence[str] | str | os.PathLike[str]
"""Names of classes, or a file of them."""
Colors = Mapping[str, Sequence[int]] | str | os.PathLike[str]
"""The color of each class, or a file of them."""
AUTO = "auto"


@dataclass(frozen=True)
class MaskOptions:
    """How the masks of data for segmentation are read; see `hierax.data.open_segmentation`."""

    classes: tuple[str, ...] | None = None
    reduce_labels: bool = False
    colors: Mapping[str, tuple[int, ...]] | None = None

    @classmethod
    def of(cls, *, classes: Classes | None, reduce_labels: bool, colors: Colors | None) -> MaskOptions | None:
        """The options with these values; None if none is given."""
        if classes is None and not reduce_labels and colors is None:
            return None
        from hierax.data.segmentation.class_tables import read_class_names, read_colors

        if isinstance(classes, (str, os.PathLike)):
            classes = read_class_names(classes)
        if isinstance(colors, (str, os.PathLike)):
            colors = read_colors(colors)
        table = None if colors is None else {name: tuple(color) for name, color in colors.items()}
        return cls(None if classes is None else tuple(classes), reduce_labels, table)

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> MaskOptions:
        """The inverse of `to_dict`; None are the defaults."""
        given = values or {}
        found = cls.of(
            classes=given.get("classes"), reduce_labels=given.get("reduce_labels", False), colors=given.get("colors")
        )
        return found or cls()

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        colors = None if self.colors is None else {name: list(color) for name, color in self.colors.items()}
        classes = None if self.classes is None else list(self.classes)
        return {"classes": classes, "reduce_labels": self.reduce_labels, "colors": colors}


@dataclass(frozen=True)
class Request:
    """The request for a run: its arguments, as the caller gave them."""

    mode: Mode
    data: PathOrHubId
    source: PathOrHubId | None
    validation: PathOrHubId | None
    recipe: str | Recipe | None
    settings: Sequence[str]
    teacher: PathOrHubId | None = None
    teacher_cache: PathOrHubId | None = None
    columns: Mapping[str, str] | None = None
    masks: MaskOptions | None = None

    def __post_init__(self) -> None:
        require_data(self.data, self.validation)

    @property
    def base(self) -> Recipe | None:
        """The recipe that was named."""
        found = named_recipe(self.recipe) if isinstance(self.recipe, str) else self.recipe
        if found is not None and found.mode != self.mode.name:
            hint = "; task='segment' takes it" if found.mode == "segment" else ""
            raise ValueError(f"recipe {found.name} is for {found.mode}, not for {self.mode.name}{hint}")
        return found

    def overridden(self, base: Recipe | None) -> Recipe:
        """A recipe with the given values; without a recipe, one that is enough to open the data."""
        return (base or Recipe(name="", mode=self.mode.name)).overridden(self.settings)

    def resumed(self, previous: Mapping[str, Any]) -> Request:
        """The request with what a run.json states of its columns, masks and cache, where the caller gave nothing."""
        masks = MaskOptions.read(previous.get("masks")) if self.mode.targets else None
        return replace(
            self,
            columns=previous.get("columns") if self.columns is None else self.columns,
            masks=self.masks or masks,
            teacher_cache=previous.get("teacher_cache") if self.teacher_cache is None else self.teacher_cache,
        )

    def places(self, source: PathOrHubId | None) -> dict[str, str | None]:
        """The paths of data and weights, by their names in run.json."""
        given = {"data": self.data, "validation": self.validation, "from": source, "teacher": self.teacher}
        return {name: place and absolute_source(place) for name, place in given.items()}

    def description(self, source: PathOrHubId | None, recipe: Recipe) -> dict[str, Any]:
        """The request as it is written to run.json; a repeated call is compared with that."""
        masks = {"masks": (self.masks or MaskOptions()).to_dict()} if self.mode.targets else {}
        return {
            "mode": self.mode.name,
            **self.places(source),
            "columns": None if self.columns is None else dict(self.columns),
            **masks,
            "recipe": recipe.to_dict(),
        }


def open_data(request: Request, recipe: Recipe) -> tuple[Dataset, Dataset | None]:
    """The training set, and the validation set if one is given or is found beside it."""
    if request.mode.targets:
        return open_masks(request.data, request.validation, request.masks or MaskOptions(), request.columns)
    labels = request.mode.supervised and (recipe.label_weight > 0 or request.teacher is None)
    return open_train_and_validation(
        request.data, validation=request.validation, labels=labels, columns=request.columns
    )


def open_masks(
    data: PathOrHubId,
    validation: PathOrHubId | None,
    masks: MaskOptions,
    columns: Mapping[str, str] | None,
) -> tuple[Dataset, Dataset | None]:
    """Images with masks to train on, and to validate on; None if none are given and none are found beside them."""
    from hierax.data.segmentation.dataset import segmentation_of
    from hierax.data.segmentation.sources import open_segmentation_splits

    how: dict[str, Any] = {"columns": columns, "reduce_labels": masks.reduce_labels, "colors": masks.colors}
    train, held = open_segmentation_splits(data, fraction=0, seed=0, classes=masks.classes, **how)
    if validation is None:
        return train, held
    found = segmentation_of(train)
    binary = None if found is None else found.numbering.binary  # a few masks do not show whether 255 is a class
    named = masks.classes or train.classes
    whole, part = open_segmentation_splits(validation, fraction=0, seed=0, classes=named, binary=binary, **how)
    held = whole if part is None else part
    notify_of_shared(_image_names(train), _image_names(held))
    return train, held


def _image_names(dataset: Dataset) -> list[str]:
    """The files of the images of a dataset with masks."""
    from hierax.data.segmentation.dataset import segmentation_of

    found = segmentation_of(dataset)
    return [] if found is None else [found.images.name(index) for index in range(len(found))]


def resolve_choice(
    request: Request,
    base: Recipe | None,
    previous: dict[str, Any] | None,
    data: tuple[Dataset, Dataset | None] | None,
    world: World,
) -> Choice:
    """The recipe without the requested settings, and the weights to start from; a resumed run keeps both."""
    if previous is not None:
        source = previous.get("from") if request.source == AUTO else _text(request.source)
        then = previous.get("chosen")
        return Choice(base or Recipe.from_dict(then or previous["recipe"]), source, "")
    assert data is not None
    whole = data[0]
    place, is_images = world.device.type, not (whole.arrays or whole.videos)
    source = _text(request.source)
    if source == AUTO:
        named = setting_names(request.settings)
        source = default_source(request.mode.name, device=place, samples=len(whole), pictures=is_images, settings=named)
        if not request.mode.supervised and base is not None:
            source = None
        if request.mode.supervised and source is None:
            raise ValueError("--from is missing: a checkpoint, a run's folder, or 'scratch' for fresh weights")
    if base is not None:
        return Choice(base, source, "")
    held = None if data[1] is None else len(data[1])
    if held is None and "validation_fraction" in setting_names(request.settings):
        held = round(request.overridden(None).validation_fraction * len(whole))
    return choose(
        request.mode.name,
        device=place,
        samples=len(whole),
        validation_samples=held,
        source=source,
        pictures=is_images,
        given=setting_names(request.settings),
    )


def _text(setting: PathOrHubId | None) -> str | None:
    return None if setting is None else os.fspath(setting)


def finished_message(run: Path, previous: dict[str, Any]) -> str:
    """The message for a run that is already finished; it says which weights were kept."""
    if not (run / "model").is_dir():
        raise RunExists(f"{run} contains a finished run, but its model/ is missing; choose another folder with -o")
    held = previous.get("facts", {}).get("held_out", 0)
    return f"{run} is already finished: {result_sentence(previous['result'], held)}"
