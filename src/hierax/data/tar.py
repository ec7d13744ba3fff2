"""Plain tar shards as webdataset writes them, with random access."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hierax.data.dataset import Sample
from hierax.data.labels import Labels, read_labels
from hierax.data.packed import Strings
from hierax.processing.decode import IMAGE_SUFFIXES

_LABELS = ("cls", "cls.txt", "label")
_JSON_LABELS = ("label", "labels", "cls")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, eq=False)
class TarDataset:
    """Pictures in tar shards: files that share a name up to the first dot belong together. `.cls` holds the number of
    the class; `.json` may hold `label` (see `read_labels`), and `class_name` beside a number.

    The shards are indexed once, as columns; members are then read by their place, in any order.
    """

    shards: tuple[str, ...]
    names: Strings
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    values: Labels | None
    classes: tuple[str, ...]
    arrays: bool = False
    videos: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        shard = self.shards[self.shard[index]]
        with open(shard, "rb") as file:
            file.seek(self.offset[index])
            content = file.read(self.size[index])
        return Sample(f"{shard}:{self.names[index]}", content, None if self.values is None else self.values[index])

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        single = None if self.values is None else self.values.single()
        return None if single is None else single.tolist()


@dataclass
class _Shard:
    """What is found in one shard, by key."""

    pictures: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)


def open_shards(files: Sequence[Path], *, labels: bool = True) -> TarDataset:
    """The pictures in these shards, in the order of shards and members; `labels` False reads none.

    Raises:
        ValueError: a shard that is compressed, damaged or no tar file; labels that cannot be read; no picture; two
            pictures of one name.
    """
    rows: list[tuple[str, int, int, int]] = []
    given: list[Any] = []
    class_names: dict[int, str] = {}
    for number, file in enumerate(files):
        found = _Shard()
        _check_magic(file)
        try:
            with tarfile.open(file, "r:") as shard:
                for member in shard:
                    if member.isfile():
                        _add(found, shard, member, class_names, labels=labels)
                _check_end(shard)
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"{file}: a damaged tar file, or none: {error}") from None
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        rows += [(name, number, place, size) for name, place, size in found.pictures.values()]
        given += [found.labels.get(key) for key in found.pictures]
    if not rows:
        raise ValueError(f"{files[0]}: no pictures in {len(files)} shard(s); expected members such as 0001.jpg")
    values = read_labels(given, name=str(files[0]) if len(files) == 1 else f"{files[0]} … {files[-1]}")
    names, shard_of, offset, size = zip(*rows, strict=True)
    return TarDataset(
        shards=tuple(map(str, files)),
        names=Strings(names),
        shard=np.array(shard_of, np.int32),
        offset=np.array(offset, np.int64),
        size=np.array(size, np.int64),
        values=values,
        classes=tuple(class_names.get(i, str(i)) for i in range(values.classes)) if values else (),
    )


def _check_magic(file: Path) -> None:
    with open(file, "rb") as stream:
        start = stream.read(8)
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            raise ValueError(f"{file}: compressed by {kind}; expected a plain tar file, which can be read in any order")


def _check_end(shard: tarfile.TarFile) -> None:
    """The tarfile module ends at a damaged header as if it were the end; what is there must be zeros or nothing."""
    stream = shard.fileobj
    assert stream is not None
    stream.seek(shard.offset)
    if any(stream.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"a bad header at byte {shard.offset}")


def _add(
    found: _Shard, shard: tarfile.TarFile, member: tarfile.TarInfo, class_names: dict[int, str], *, labels: bool
) -> None:
    folder, _, base = member.name.rpartition("/")
    stem, _, kind = base.partition(".")
    key, kind = f"{folder}/{stem}", kind.lower()
    if f".{kind}" in IMAGE_SUFFIXES and stem:
        if key in found.pictures:
            other = found.pictures[key][0]
            raise ValueError(f"{other} and {member.name} are two pictures of one sample; expected one per name")
        found.pictures[key] = (member.name, member.offset_data, member.size)
    elif labels and (kind in _LABELS or kind == "json"):
        stream = shard.extractfile(member)
        text = stream.read().decode("utf-8", "replace").strip() if stream else ""
        label = _json_label(text, member.name, class_names) if kind == "json" else _number(text, member.name)
        if label is not None and (kind != "json" or key not in found.labels):
            found.labels[key] = label


def _number(text: str, name: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name} holds {text[:40]!r}; expected the number of a class (several go into .json: label)")
    return int(text)


def _json_label(text: str, name: str, class_names: dict[int, str]) -> Any:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    if not isinstance(record, dict):
        return None
    label = next((record[key] for key in _JSON_LABELS if record.get(key) is not None), None)
    if isinstance(label, str):
        label = _number(label, f"label in {name}")
    if isinstance(label, int) and isinstance(record.get("class_name"), str):
        class_names.setdefault(label, record["class_name"])
    return label
