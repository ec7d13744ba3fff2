"""Where samples come from: folders, tar shards, parquet and Hub datasets, arrays. Each is a list with random access."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hierax.processing.decode import IMAGE_SUFFIXES

_TAR_LABELS = ("cls", "cls.txt", "label")
_LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "target")
_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")


@dataclass(frozen=True)
class Sample:
    """What a dataset holds at one index.

    Attributes:
        name: what errors and lists of bad files call it.
        content: a path, the bytes of a file, a Pillow image, or an array `[C, *size]` that is no picture.
        label: the number of its class; several true ones as floats `[classes]`; None without labels.
    """

    name: str
    content: Any
    label: int | Sequence[float] | None = None


class Dataset(Protocol):
    """A list of samples."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order of their numbers; empty without labels."""
        ...

    @property
    def arrays(self) -> bool:
        """Whether contents are arrays, not pictures."""
        ...

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """The sample at `index`."""
        ...

    def labels(self) -> list[int] | None:
        """The class of every sample, in order; None where samples have none or several."""
        ...


@dataclass(frozen=True)
class FolderDataset:
    """Pictures in a folder: by classes where all of them lie in subfolders, without labels in one flat folder."""

    paths: tuple[str, ...]
    targets: tuple[int, ...] | None
    classes: tuple[str, ...]
    arrays: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        path = self.paths[index]
        content: Any = np.load(path, mmap_mode="r") if self.arrays else path
        return Sample(path, content, None if self.targets is None else self.targets[index])

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        return None if self.targets is None else list(self.targets)


@dataclass(frozen=True)
class ArrayDataset:
    """An array `[N, C, *size]` in a `.npy` file, memory-mapped."""

    path: str
    count: int
    classes: tuple[str, ...] = ()
    arrays: bool = True

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        return Sample(f"{self.path}[{index}]", np.load(self.path, mmap_mode="r")[index])

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        return None


@dataclass(frozen=True)
class TarDataset:
    """Pictures in plain tar shards as webdataset writes them: files that share a name up to the first dot belong
    together, `.cls` holds the number of the class, `.json` may hold `label`.

    The shards are indexed once; members are then read by their place, in any order.
    """

    entries: tuple[tuple[str, str, int, int, int | None], ...]
    classes: tuple[str, ...]
    arrays: bool = False

    def __len__(self) -> int:
        return len(self.entries)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        shard, name, offset, size, label = self.entries[index]
        with open(shard, "rb") as file:
            file.seek(offset)
            return Sample(f"{shard}:{name}", file.read(size), label)

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        found = [label for *_, label in self.entries if label is not None]
        return found if len(found) == len(self.entries) else None


@dataclass
class TableDataset:
    """Rows of a Hugging Face dataset (parquet files, a saved folder, a Hub id) with an image and maybe a label."""

    name: str
    table: Any
    image: str
    label: str | None
    classes: tuple[str, ...]
    arrays: bool = False
    _labels: list[int] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.table)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        row = self.table[index]
        picture, label = row[self.image], row[self.label] if self.label else None
        content = picture if not isinstance(picture, dict) else picture.get("bytes") or picture.get("path")
        return Sample(f"{self.name}[{index}]", content, label)

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        if self.label is None:
            return None
        column = list(self.table[self.label])
        return column if all(isinstance(value, int) for value in column) else None


def open_dataset(source: str | os.PathLike[str], *, split: str | None = None) -> Dataset:
    """The dataset at `source`.

    Args:
        source: a folder of class folders or of pictures, a folder or pattern of `.tar` shards, `.parquet` files or a
            folder of them, a `.npy` file `[N, C, *size]`, a folder of `.npy` files `[C, *size]`, or `hub:ID` for a
            dataset of the Hugging Face Hub.
        split: of a Hub dataset.

    Raises:
        ValueError: nothing that can be read is there; names the source.
        ImportError: parquet and Hub datasets without the extra `data`.
    """
    text = os.fspath(source)
    if text.startswith("hub:"):
        return _table(text, split)
    path = Path(text)
    if path.suffix == ".npy" and path.is_file():
        return _array(path)
    if path.suffix in (".tar", ".parquet") or any(c in text for c in "*?[{"):
        files = _expand(text)
        return _tar(files) if files[0].suffix == ".tar" else _table(text, split, files)
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder of pictures, shards or arrays")
    return _folder(path, split)


def _folder(folder: Path, split: str | None) -> Dataset:
    found: dict[str, list[Path]] = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                found.setdefault(Path(name).suffix.lower(), []).append(Path(parent, name))
    for suffix, build in ((".tar", _tar), (".parquet", lambda files: _table(str(folder), split, files))):
        if suffix in found:
            return build(sorted(found[suffix]))
    arrays = not any(suffix in found for suffix in IMAGE_SUFFIXES) and ".npy" in found
    paths = sorted(p for suffix, ps in found.items() if suffix in ((".npy",) if arrays else IMAGE_SUFFIXES) for p in ps)
    if not paths:
        raise ValueError(f"{folder}: no pictures, .tar or .parquet shards, or .npy arrays in this folder")
    parts = [path.relative_to(folder).parts for path in paths]
    names = tuple(str(path) for path in paths)
    if any(len(part) == 1 for part in parts):
        return FolderDataset(names, None, (), arrays)
    classes = tuple(sorted({part[0] for part in parts}))
    number = {name: i for i, name in enumerate(classes)}
    return FolderDataset(names, tuple(number[part[0]] for part in parts), classes, arrays)


def _array(path: Path) -> ArrayDataset:
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not an array that numpy can map: {error}") from None
    if array.ndim < 3:
        raise ValueError(f"{path} holds an array of shape {list(array.shape)}; expected [N, channels, *size]")
    return ArrayDataset(str(path), len(array))


def _expand(text: str) -> list[Path]:
    """Files of a pattern: `*`, `?`, `[…]` and `{000..012}` as webdataset writes ranges of shards."""
    import glob

    span = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if span:
        first, last = span.groups()
        numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
        files = [Path(text[: span.start()] + number + text[span.end() :]) for number in numbers]
        missing = [str(file) for file in files if not file.exists()]
        if missing:
            raise ValueError(f"{missing[0]}: no such file ({len(missing)} of {len(files)} shards are missing)")
        return files
    files = [Path(text)] if Path(text).exists() else [Path(name) for name in sorted(glob.glob(text, recursive=True))]
    if not files:
        raise ValueError(f"{text}: no file matches")
    return files


def _tar(files: Sequence[Path]) -> TarDataset:
    entries: list[tuple[str, str, int, int, int | None]] = []
    names: dict[int, str] = {}
    for file in files:
        pictures: dict[str, tuple[str, int, int]] = {}
        labels: dict[str, int] = {}
        try:
            with tarfile.open(file, "r:") as shard:
                for member in shard:
                    _tar_member(shard, member, pictures, labels, names)
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"{file}: not a plain tar file ({error}); compressed shards are not read") from None
        entries += [(str(file), name, place, size, labels.get(key)) for key, (name, place, size) in pictures.items()]
    if not entries:
        raise ValueError(f"{files[0]}: no pictures in {len(files)} shard(s)")
    count = max((label for *_, label in entries if label is not None), default=-1) + 1
    return TarDataset(tuple(entries), tuple(names.get(i, str(i)) for i in range(count)))


def _tar_member(
    shard: tarfile.TarFile,
    member: tarfile.TarInfo,
    pictures: dict[str, tuple[str, int, int]],
    labels: dict[str, int],
    names: dict[int, str],
) -> None:
    if not member.isfile():
        return
    folder, _, base = member.name.rpartition("/")
    stem, _, kind = base.partition(".")
    key = f"{folder}/{stem}"
    if f".{kind.lower()}" in IMAGE_SUFFIXES:
        pictures[key] = (member.name, member.offset_data, member.size)
        return
    if kind.lower() in _TAR_LABELS or kind.lower() == "json":
        handle = shard.extractfile(member)
        text = handle.read().decode("utf-8", "replace").strip() if handle else ""
        if kind.lower() == "json":
            record = json.loads(text) if text.startswith("{") else {}
            text = str(record.get("label", record.get("cls", "")))
            if text.isdecimal() and isinstance(record.get("class_name"), str):
                names[int(text)] = record["class_name"]
        if text.isdecimal():
            labels[key] = int(text)


def _table(name: str, split: str | None, files: Sequence[Path] | None = None) -> TableDataset:
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"{name}: parquet and Hub datasets need the package datasets: pip install 'hierax[data]'"
        ) from None
    if files is not None:
        table = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    else:
        table = datasets.load_dataset(name.removeprefix("hub:"), split=split or "train")
    columns = table.features
    image = next((c for c in _IMAGE_COLUMNS if c in columns), None)
    image = image or next((c for c, f in columns.items() if isinstance(f, datasets.Image)), None)
    if image is None:
        raise ValueError(f"{name}: no column of images among {', '.join(columns)}; expected one named image")
    label = next((c for c in _LABEL_COLUMNS if c in columns), None)
    classes: tuple[str, ...] = tuple(getattr(columns[label], "names", None) or ()) if label else ()
    if label and not classes:
        count = max((v for v in table[label] if isinstance(v, int)), default=-1) + 1
        classes = tuple(map(str, range(count)))
    if isinstance(columns[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))  # we decode: bad files must be told apart
    return TableDataset(name, table, image, label, classes)


@dataclass(frozen=True)
class Subset:
    """Some samples of a dataset."""

    whole: Dataset
    indices: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the whole."""
        return self.whole.classes

    @property
    def arrays(self) -> bool:
        """As the whole."""
        return self.whole.arrays

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        return self.whole.sample(self.indices[index])

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        whole = self.whole.labels()
        return None if whole is None else [whole[i] for i in self.indices]


def open_splits(
    source: str | os.PathLike[str], *, fraction: float, seed: int, validation: str | os.PathLike[str] | None = None
) -> tuple[Dataset, Dataset | None]:
    """Training and validation set: `source/train` and `source/val` where they exist, or `validation` beside `source`,
    or a `fraction` of the samples drawn with `seed`, by class where there are classes (0: no validation set).

    Raises:
        ValueError: what `open_dataset` raises; validation with other classes than training.
    """
    base = Path(os.fspath(source))
    held = next((base / name for name in ("val", "validation", "test") if (base / name).is_dir()), None)
    if validation is None and (base / "train").is_dir() and held is not None:
        train, val = open_dataset(base / "train"), open_dataset(held)
    elif validation is not None:
        train, val = open_dataset(source), open_dataset(validation)
    else:
        whole = open_dataset(source)
        return _drawn(whole, fraction, seed)
    unknown = set(val.classes) - set(train.classes)
    if unknown:
        raise ValueError(f"validation has classes that training lacks: {', '.join(sorted(unknown)[:5])}")
    return train, _renumbered(val, train.classes)


def _renumbered(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """A folder's classes with the numbers they have in training, where some have no picture here."""
    if dataset.classes == classes or not isinstance(dataset, FolderDataset) or dataset.targets is None:
        return dataset
    number = {name: i for i, name in enumerate(classes)}
    targets = tuple(number[dataset.classes[t]] for t in dataset.targets)
    return FolderDataset(dataset.paths, targets, classes, dataset.arrays)


def _drawn(whole: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
    if fraction <= 0:
        return whole, None
    draw = np.random.Generator(np.random.Philox(key=np.array([seed, 1 << 40], np.uint64)))
    labels = whole.labels()
    groups: dict[int, list[int]] = {}
    for index in range(len(whole)):
        groups.setdefault(labels[index] if labels else 0, []).append(index)
    held: list[int] = []
    for members in (groups[key] for key in sorted(groups)):
        count = round(len(members) * fraction)
        held += [members[i] for i in draw.permutation(len(members))[:count]]
    chosen = set(held)
    if not chosen or len(chosen) == len(whole):
        raise ValueError(f"validation_fraction is {fraction} of {len(whole)} samples, which leaves one side empty")
    rest = tuple(i for i in range(len(whole)) if i not in chosen)
    return Subset(whole, rest), Subset(whole, tuple(sorted(chosen)))
