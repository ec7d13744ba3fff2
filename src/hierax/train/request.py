"""The request for a run, and the defaults of what was not given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierax.data.dataset import Dataset
from hierax.data.split import open_train_and_validation
from hierax.train.choice import Choice, choose, default_source
from hierax.train.folder import RunExists, located
from hierax.train.log import result_sentence
from hierax.train.modes import Mode
from hierax.train.parallel import World
from hierax.train.recipes import recipe as named_recipe
from hierax.train.settings import Recipe, setting_names

Setting = str | os.PathLike[str]
AUTO = "auto"


@dataclass(frozen=True)
class Request:
    """The arguments of a run, as the caller gave them."""

    mode: Mode
    data: Setting
    source: Setting | None
    validation: Setting | None
    recipe: str | Recipe | None
    settings: Sequence[str]
    teacher: Setting | None = None
    teacher_cache: Setting | None = None
    columns: Mapping[str, str] | None = None

    @property
    def base(self) -> Recipe | None:
        """The recipe that was named."""
        found = named_recipe(self.recipe) if isinstance(self.recipe, str) else self.recipe
        if found is not None and found.mode != self.mode.name:
            raise ValueError(f"recipe {found.name} is for {found.mode}, not for {self.mode.name}")
        return found

    def overridden(self, base: Recipe | None) -> Recipe:
        """A recipe with the given values; without a recipe, one that is enough to open the data."""
        return (base or Recipe(name="", mode=self.mode.name)).overridden(self.settings)

    def described(self, source: Setting | None, recipe: Recipe) -> dict[str, Any]:
        """Their form in run.json, with which a repeated call is compared."""
        places = {"data": self.data, "validation": self.validation, "from": source, "teacher": self.teacher}
        return {
            "mode": self.mode.name,
            **{name: place and located(place) for name, place in places.items()},
            "columns": None if self.columns is None else dict(self.columns),
            "recipe": recipe.to_dict(),
        }


def opened(given: Request, recipe: Recipe) -> tuple[Dataset, Dataset | None]:
    """The data, and the given validation set."""
    labels = given.mode.supervised and (recipe.label_weight > 0 or given.teacher is None)
    return open_train_and_validation(given.data, validation=given.validation, labels=labels, columns=given.columns)


def decided(
    given: Request, base: Recipe | None, before: dict[str, Any] | None, data: tuple[Dataset, Dataset | None] | None,
    world: World,
) -> Choice:  # fmt: skip
    """The recipe without the values that were given, and where to start; what a run took before, it takes again."""
    if before is not None:
        source = before.get("from") if given.source == AUTO else _text(given.source)
        then = before.get("chosen")
        return Choice(base or Recipe.from_dict(then or before["recipe"]), source, "")
    assert data is not None
    whole = data[0]
    place, pictures = world.device.type, not (whole.arrays or whole.videos)
    source = _text(given.source)
    if source == AUTO:
        named = setting_names(given.settings)
        source = default_source(given.mode.name, device=place, samples=len(whole), pictures=pictures, settings=named)
        if not given.mode.supervised and base is not None:
            source = None
        if given.mode.supervised and source is None:
            raise ValueError("--from is missing: a checkpoint, a run's folder, or 'scratch' for fresh weights")
    if base is not None:
        return Choice(base, source, "")
    held = None if data[1] is None else len(data[1])
    return choose(given.mode.name, device=place, samples=len(whole), held=held, source=source, pictures=pictures)


def _text(setting: Setting | None) -> str | None:
    return None if setting is None else os.fspath(setting)


def already_finished(run: Path, before: dict[str, Any]) -> str:
    """What is said of a run that is called again: which weights it kept."""
    if not (run / "model").is_dir():
        raise RunExists(f"{run} holds a finished run, but its model/ is missing; choose another folder with -o")
    return f"{run} is already finished: {result_sentence(before['result'], before['facts'].get('held_out', 0))}"
