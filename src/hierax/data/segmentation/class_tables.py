"""Names, numbers and colors of classes, from files beside the data or named by the user."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hierax.data.dataset import IGNORE
from hierax.data.list_rows import normalize_column, open_text
from hierax.data.segmentation.numbering import MAX_CLASSES, Colors
from hierax.processing.paths import IMAGE_SUFFIXES, suffix_of

Color: TypeAlias = "tuple[int, int, int]"

BESIDE = (
    "classes.txt", "class_names.txt", "labels.txt", "codes.txt", "classes.json", "id2label.json", "labelmap.txt",
    "label_colors.txt", "class_dict.csv", "_classes.csv", "classes.csv", "objectInfo150.txt",
)  # fmt: skip
"""Names of files with names of classes that are read if they are in the folder of the data, the first one of them."""
_IGNORED = ("ignore", "void", "255")
"""Names of colors whose pixels have no class."""
_NAMES = ("name", "class", "label", "class_name", "title", "category", "names")
_NUMBERS = ("pixel_value", "id", "index", "idx", "number", "class_id", "label_id", "value", "trainid", "train_id")
_RGB = (("r", "g", "b"), ("red", "green", "blue"))
_NUMBERED = re.compile(r"(\d{1,3})\s*[:=,;\t ]\s*(\S.*)")
_HEX = re.compile(r"#?([0-9a-fA-F]{6})")
_EXPECTED_NAMES = 'a name on each line, a JSON list of names, or JSON such as {"0": "road", "1": "tree"}'
_EXPECTED_COLORS = "a line 'name,red,green,blue' for each class, with numbers from 0 to 255"


@dataclass(frozen=True)
class Entry:
    """A class in a table: its name, and its number and color if they are stated."""

    name: str
    number: int | None = None
    color: Color | None = None


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of classes in a file, in the order of their numbers. Numbers without a name stand for themselves.

    The file is a text with a name on each line (`0: road` states the number too), a `.csv` with column names, JSON (a
    list, or `{"0": "road"}`, or `{"road": 0}`), or `labelmap.txt` of CVAT.

    Raises:
        ValueError: the file holds no names, or a name or number twice.
        OSError: it cannot be read.
    """
    file = Path(path)
    return _ordered(_entries(file), str(file))


def read_colors(path: str | os.PathLike[str]) -> dict[str, Color]:
    """The color of each class in a file, by name, in its order: `.csv` or text with a line `name,red,green,blue` for
    each class, `labelmap.txt` of CVAT, or JSON such as `{"road": [128, 64, 128]}` or `{"road": "#804080"}`.

    Raises:
        ValueError: a line has no color, or two have the same name.
        OSError: the file cannot be read.
    """
    file, found = Path(path), dict[str, Color]()
    for entry in _entries(file):
        color = entry.color
        if color is None and entry.number is not None and entry.number <= 255:
            color = parse_color(entry.number, f"{file}: a color")  # a gray level
        if color is None:
            raise ValueError(f"{file}: no color for {entry.name!r}; expected {_EXPECTED_COLORS}")
        if entry.name in found:
            raise ValueError(f"{file}: {entry.name!r} twice; expected one color for each class")
        found[entry.name] = color
    return found


def find_table(folders: Sequence[Path]) -> tuple[Path, list[Entry]] | None:
    """The first file with names of classes in some folders, and its entries; None if there is none."""
    for folder in folders:
        for name in BESIDE:
            if (folder / name).is_file():
                entries = _entries(folder / name)
                if not any(suffix_of(entry.name) in IMAGE_SUFFIXES for entry in entries):  # a list of files
                    return folder / name, entries
    return None


def names_of_table(entries: Sequence[Entry], *, name: str, reduce: bool) -> tuple[str, ...]:
    """The names of the classes of a table beside the data, without those of colors that stand for no class.

    If 0 stands for no class (`reduce`) and the table begins with 1, its numbers are one lower.
    """
    entries = [entry for entry in entries if not is_ignored(entry)]
    numbers = [entry.number for entry in entries if entry.number is not None]
    if reduce and numbers and min(numbers) == 1:
        entries = [Entry(one.name, None if one.number is None else one.number - 1, one.color) for one in entries]
    return _ordered(entries, name)


def is_ignored(entry: Entry) -> bool:
    """Whether the pixels of a color have no class."""
    return entry.name.lower() in _IGNORED and (entry.color is not None or entry.number == IGNORE)


def color_table(
    colors: Mapping[str, Any], classes: Sequence[str] | None, *, required: bool
) -> tuple[Colors, tuple[str, ...]]:
    """The class of each color, and the names of the classes: `classes`, or the names of the colors.

    Args:
        colors: red, green and blue, a text such as "#804080", or a gray level, by the name of the class. The names
            ignore and void stand for no class.
        classes: names in the order of their numbers.
        required: see `Colors`.

    Raises:
        ValueError: a color is none, belongs to two names, or its name is no class.
    """
    known = {name: parse_color(value, f"colors[{name!r}]") for name, value in colors.items()}
    named = [name for name in known if name.lower() not in _IGNORED]
    names = tuple(named) if classes is None else tuple(classes)
    unknown = [name for name in named if name not in names]
    if unknown:
        raise ValueError(f"colors names {unknown[0]!r}, which is none of the classes {', '.join(names)}")
    if not known:
        raise ValueError("colors is empty; expected a color for each class")
    first: dict[Color, str] = {}
    for name, color in known.items():
        if first.setdefault(color, name) != name:
            raise ValueError(f"{name!r} and {first[color]!r} have the same color {color}; expected different colors")
    numbers = tuple(names.index(name) if name in named else IGNORE for name in known)
    return Colors(np.array(list(known.values()), np.uint8), numbers, required), names


def palette_of_colors(table: Colors, count: int) -> np.ndarray | None:
    """The color of each class, uint8 `[count, 3]`; None if a class has none."""
    found = dict(zip(table.numbers, table.colors, strict=True))
    return np.stack([found[i] for i in range(count)]) if all(i in found for i in range(count)) else None


def parse_color(value: Any, where: str) -> Color:
    """Red, green and blue of a color: three numbers, a text such as "#804080", or a gray level."""
    if isinstance(value, str) and (found := _HEX.fullmatch(value.strip())):
        value = tuple(bytes.fromhex(found[1]))
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        value = (int(value),) * 3
    parts = list(value) if isinstance(value, (list, tuple, np.ndarray)) else []
    if len(parts) != 3 or not all(isinstance(v, (int, np.integer)) and 0 <= v <= 255 for v in parts):
        raise ValueError(
            f"{where} is {value!r}; expected red, green and blue from 0 to 255, or a text such as '#804080'"
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


def _ordered(entries: Sequence[Entry], name: str) -> tuple[str, ...]:
    """The names in the order of their numbers, or of the table."""
    if not entries:
        raise ValueError(f"{name}: no names of classes; expected {_EXPECTED_NAMES}")
    if len(entries) > MAX_CLASSES:
        raise ValueError(f"{name}: {len(entries)} classes; expected at most {MAX_CLASSES}")
    numbers = [entry.number for entry in entries]
    if None in numbers:
        names = [entry.name for entry in entries]
    else:
        found: dict[int, str] = {}
        for entry in entries:
            assert entry.number is not None
            if not 0 <= entry.number < MAX_CLASSES or entry.number in found:
                raise ValueError(f"{name}: the number {entry.number}; expected each from 0 to {MAX_CLASSES - 1} once")
            found[entry.number] = entry.name
        names = [found.get(i, str(i)) for i in range(max(found) + 1)]
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise ValueError(f"{name}: the class {twice!r} twice; expected different names")
    return tuple(names)


def _entries(path: Path) -> list[Entry]:
    if path.suffix.lower() == ".json":
        return _json_entries(path)
    with open_text(path, newline="", strict=True) as file:
        lines = [line.strip() for line in file.read().splitlines() if line.strip()]
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv_entries(lines, path)
    if any(line.startswith("# label:color_rgb") for line in lines):  # CVAT and Datumaro
        return [_labelmap_entry(line, path) for line in lines if not line.startswith("#")]
    if lines and re.match(r"Idx\s+Ratio\s", lines[0]):  # objectInfo150.txt of ADE20K
        cells = [line.split("\t") for line in lines[1:]]
        if odd := next((row for row in cells if not row[0].isdecimal()), None):
            raise ValueError(f"{path}: the number {odd[0][:60]!r}; expected Idx, …, Name with tabs between them")
        return [Entry(row[-1].strip(), int(row[0])) for row in cells]
    found = [_color_line(line) for line in lines]
    if lines and None not in found:
        return [entry for entry in found if entry is not None]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        return [Entry(one[2].strip(), int(one[1])) for one in numbered if one is not None]
    return [Entry(line) for line in lines]


def _color_line(line: str) -> Entry | None:
    """An entry such as `64 128 64 tree`, `tree 64 128 64` or `tree,64,128,64`; None for other lines."""
    parts = [part for part in re.split(r"[\s,;:]+", line) if part]
    for color, names in ((parts[:3], parts[3:]), (parts[-3:], parts[:-3])):
        if names and len(color) == 3 and all(part.isdecimal() and int(part) < 256 for part in color):
            return Entry(" ".join(names), None, (int(color[0]), int(color[1]), int(color[2])))
    return None


def _labelmap_entry(line: str, path: Path) -> Entry:
    name, _, rest = line.partition(":")
    parts = rest.partition(":")[0].split(",")
    if not name or len(parts) != 3 or not all(part.strip().isdecimal() and int(part) < 256 for part in parts):
        raise ValueError(f"{path}: {line[:60]!r}; expected name:red,green,blue:parts:actions")
    return Entry(name, None, (int(parts[0]), int(parts[1]), int(parts[2])))


def _csv_entries(lines: Sequence[str], path: Path) -> list[Entry]:
    mark = "\t" if path.suffix.lower() == ".tsv" else ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=mark)]
    head = [normalize_column(cell) for cell in rows[0]] if rows else []
    name = next((head.index(one) for one in _NAMES if one in head), None)
    if name is None:
        if not rows or any(len(row) not in (1, 4) for row in rows):
            raise ValueError(
                f"{path}: the columns {', '.join(head) or 'of no row'}; expected name, or {_EXPECTED_COLORS}"
            )
        return [Entry(row[0], None, _cells_color(row[1:], path)) for row in rows]
    number = next((head.index(one) for one in _NUMBERS if one in head), None)
    rgb = next(([head.index(one) for one in three] for three in _RGB if set(three) <= set(head)), None)
    found = []
    for row in rows[1:]:
        row = [*row, *[""] * (len(head) - len(row))]
        if number is not None and not row[number].isdecimal():
            raise ValueError(f"{path}: the number {row[number]!r} of {row[name]!r}; expected a whole number")
        color = None if rgb is None else _cells_color([row[place] for place in rgb], path)
        found.append(Entry(row[name], None if number is None else int(row[number]), color))
    return found


def _cells_color(cells: Sequence[str], path: Path) -> Color | None:
    if not cells:
        return None
    return parse_color([int(cell) if cell.isdecimal() else -1 for cell in cells], f"{path}: a color")


def _json_entries(path: Path) -> list[Entry]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("id2label"), dict):
        value = value["id2label"]
    if isinstance(value, dict) and isinstance(value.get("classes"), list):
        value = value["classes"]
    where = f"{path}: a color"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return [Entry(one) for one in value]
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return [_object_entry(one, path) for one in value]
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{path}: expected {_EXPECTED_NAMES}")
    if all(str(key).isdecimal() and isinstance(name, str) for key, name in value.items()):
        return [Entry(name, int(key)) for key, name in value.items()]
    if all(isinstance(number, int) and not isinstance(number, bool) for number in value.values()):
        return [Entry(name, number) for name, number in value.items()]
    return [Entry(name, None, parse_color(color, where)) for name, color in value.items()]


def _object_entry(value: Mapping[str, Any], path: Path) -> Entry:
    known = {normalize_column(str(key)): one for key, one in value.items()}
    name = next((known[one] for one in _NAMES if isinstance(known.get(one), str)), None)
    if name is None:
        raise ValueError(f"{path}: a class without a name; expected {_EXPECTED_NAMES}")
    number = next((known[one] for one in _NUMBERS if isinstance(known.get(one), int)), None)
    color = None if known.get("color") is None else parse_color(known["color"], f"{path}: the color of {name!r}")
    return Entry(name, number, color)
