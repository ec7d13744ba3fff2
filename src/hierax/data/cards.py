"""Statistics of data in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hierax.console import percent, quantity
from hierax.reprs.markup import Cell, bar, card, table

if TYPE_CHECKING:
    from hierax.data.segmentation.stats import SegmentationStatistics
    from hierax.data.stats import DatasetStatistics


def statistics(found: DatasetStatistics) -> str:
    """Numbers, and the samples of each class with bars."""
    most = max(found.classes.values(), default=0) or 1
    classes = [(name, bar(count / most), count) for name, count in found.classes.items()]
    kinds: list[tuple[str, Cell]] = [
        ("color modes", _counts(found.modes)),
        ("dtypes", _counts(found.types)),
    ]
    return card(
        quantity(found.samples, "sample"),
        table((), [*_common(found), *(kind for kind in kinds if kind[1])]),
        table(("class", "", "samples"), classes) if classes else "",
        table(("unreadable", "problem"), found.unreadable) if found.unreadable else "",
    )


def segmentation_statistics(found: SegmentationStatistics) -> str:
    """Numbers, and the share of the pixels of each class with bars."""
    classes = [(name, bar(share), percent(share), found.images.get(name, 0)) for name, share in found.share.items()]
    more: list[tuple[str, Cell]] = [
        ("pixels without a class", percent(found.ignored)),
        ("images without a class", f"{found.without_labels:,}"),
    ]
    return card(
        f"{quantity(found.samples, 'image')} with masks",
        table((), [*_common(found), *more]),
        table(("class", "", "of the pixels", "in images"), classes) if classes else "",
        table(("unreadable", "problem"), found.unreadable) if found.unreadable else "",
    )


def _common(found: DatasetStatistics | SegmentationStatistics) -> list[tuple[str, Cell]]:
    shown: list[tuple[str, Cell]] = [("readable", f"{found.readable:,}")]
    if found.validation is not None:
        shown.append(("to validate on", f"{found.validation:,}"))
    if found.smallest:
        shown.append(("smallest and largest axes", f"{_by(found.smallest)} and {_by(found.largest)} pixels"))
        shown.append(("mean per channel", ", ".join(f"{value:.3f}" for value in found.mean[:8])))
        shown.append(("standard deviation", ", ".join(f"{value:.3f}" for value in found.std[:8])))
    return shown


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:8])


def _by(size: list[int]) -> str:
    return " x ".join(map(str, size))
