"""Tables with a column of images and one of masks: parquet files, saved folders, and datasets of the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierax.data.list_rows import missing_column
from hierax.data.segmentation.lists import MASK_COLUMNS
from hierax.data.segmentation.masks import Mask, read_mask
from hierax.data.segmentation.turned import check_pair
from hierax.data.tables import content_of, image_column, load_splits, name_of_split, undecoded


@dataclass(frozen=True, eq=False)
class TableMasks:
    """Rows with an image and a mask."""

    table: str
    rows: Any
    masks: Any
    column: str
    mask_column: str

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """See `MaskedImages`."""
        return f"{self.table}[{index}]"

    def mask_name(self, index: int) -> str:
        """See `MaskedImages`."""
        return f"{self.table}[{index}], column {self.mask_column}"

    def image(self, index: int) -> Any:
        """See `MaskedImages`."""
        return content_of(self.rows[index][self.column], self.name(index), self.column)

    def mask(self, index: int) -> Mask:
        """See `MaskedImages`."""
        name = self.mask_name(index)
        found = read_mask(content_of(self.masks[index][self.mask_column], name, self.mask_column), name=name)
        check_pair(self.image(index), found, name=self.name(index))
        return found


def open_mask_tables(source: str, files: Sequence[Path], columns: Mapping[str, str]) -> dict[str, TableMasks]:
    """The splits of a source of `hierax.data.tables.open_tables`.

    Raises:
        ImportError: the package datasets is missing.
        ValueError: the data cannot be read, or has no column of images or of masks.
    """
    datasets, found = load_splits(source, files)
    return {
        split: _table(datasets, name_of_split(source, split, len(found)), table, columns)
        for split, table in found.items()
    }


def _table(datasets: Any, name: str, table: Any, given: Mapping[str, str]) -> TableMasks:
    columns = table.features
    for column in given.values():
        if column not in columns:
            raise missing_column(name, column, tuple(columns))
    image = given.get("path") or image_column(datasets, columns, name)
    candidates = [one for one in MASK_COLUMNS if one in columns and one != image]
    usual = next((one for one in candidates if _holds_files(datasets, columns[one])), next(iter(candidates), None))
    mask = given.get("mask") or usual
    if mask is None:
        raise ValueError(
            f"{name}: no column of masks among {', '.join(columns)}; expected one called mask, label, annotation or "
            "segmentation_mask (--columns mask=NAME names another one)"
        )
    if not _holds_files(datasets, columns[mask]):
        kind = getattr(columns[mask], "dtype", None) or type(columns[mask]).__name__
        raise ValueError(
            f"{name}: the column {mask} holds {kind}; expected images, the masks (--columns mask=NAME names another "
            "column)"
        )
    images, masks = undecoded(datasets, table, image), undecoded(datasets, table, mask)
    return TableMasks(name, images.select_columns([image]), masks.select_columns([mask]), image, mask)


def _holds_files(datasets: Any, feature: Any) -> bool:
    """Whether a column holds images, or files as bytes."""
    if isinstance(feature, Mapping):
        return "bytes" in feature
    return isinstance(feature, datasets.Image) or str(getattr(feature, "dtype", "")).endswith("binary")
