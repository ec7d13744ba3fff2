"""Which images of the training data of a run may be used to evaluate it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

from hierax.train.description import DESCRIPTION
from hierax.train.request import PathOrHubId


class _Part(Protocol):
    def __len__(self) -> int: ...


P = TypeVar("P", bound=_Part)


def run_file(model: PathOrHubId) -> Path | None:
    """The run.json of a run, or of the run that a model or checkpoint belongs to; None if there is none."""
    places = (Path(model), *Path(model).resolve().parents[:2])
    return next((place / DESCRIPTION for place in places if (place / DESCRIPTION).is_file()), None)


def held_out_part(data: PathOrHubId, held: P | None, *, changed: bool) -> tuple[P | None, str]:
    """The part of the training data of a run that is evaluated, None for all of it; and a note on that.

    Args:
        data: the training data.
        held: the part that the run held out, drawn again; None if there is none.
        changed: whether the data has other samples than the run had.
    """
    if changed:
        return None, (
            f"{data} is what the run was trained on, but has other samples now: which of them it saw is not known, "
            "and these numbers may include images that it was trained on"
        )
    if held is None:
        return None, f"{data} is what the run was trained on; these numbers say nothing about other images"
    count = len(held)
    only = "the 1 sample that it held out is" if count == 1 else f"the {count:,} samples that it held out are"
    return held, f"the run was trained on {data}; only {only} evaluated"
