"""Plain tar shards as webdataset writes them, of pictures or videos, with random access."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hierax.data.dataset import Extract, Sample
from hierax.data.labels import Labels, read_labels
from hierax.data.packed import Strings
from hierax.processing.decode import IMAGE_SUFFIXES, VIDEO_SUFFIXES

_LABELS = ("cls", "cls.txt", "label")
_JSON_LABELS = ("label", "labels", "cls")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, eq=False)
class TarDataset:
    """Pictures or videos in tar shards: files that share a name up to the first dot belong together. `.cls` holds the
    number of the class; `.json` may hold `label` (see `read_labels`), and `class_name` beside a number.

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
            data = file.read(self.size[index])
        content = Extract(data) if self.videos else data
        return Sample(f"{shard}:{self.names[index]}", content, None if self.values is None else self.values[index])

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        single = None if self.values is None else self.values.single()
        return None if single is None else single.tolist()


@dataclass
class _Shard:
    """What is found in one shard, by key."""

    pictures: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    videos: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)


def open_shards(files: Sequence[Path], *, labels: bool = True, videos: bool | None = None) -> TarDataset:
    """The pictures or videos in these shards, in the order of shards and members; `labels` False reads none.

    Args:
        videos: whether videos are meant, or pictures; None: videos where every picture belongs to one, as its preview.

    Raises:
        ValueError: a shard that is compressed, damaged or no tar file; labels that cannot be read; nothing of the kind
            that is meant; two of one name.
    """
    class_names: dict[int, str] = {}
    found = [_read(file, class_names, labels=labels) for file in files]
    if videos is None:
        videos = any(shard.videos for shard in found) and all(s.pictures.keys() <= s.videos.keys() for s in found)
    rows: list[tuple[str, int, int, int]] = []
    given: list[Any] = []
    for number, shard in enumerate(found):
        members = shard.videos if videos else shard.pictures
        rows += [(name, number, place, size) for name, place, size in members.values()]
        given += [shard.labels.get(key) for key in members]
    if not rows:
        kind, example = ("videos", "0001.mp4") if videos else ("pictures", "0001.jpg")
        raise ValueError(f"{files[0]}: no {kind} in {len(files)} shard(s); expected members such as {example}")
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
        videos=videos,
    )


def _read(file: Path, class_names: dict[int, str], *, labels: bool) -> _Shard:
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
    return found


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
    is_video = f".{kind}" in VIDEO_SUFFIXES
    if stem and (is_video or f".{kind}" in IMAGE_SUFFIXES):
        members = found.videos if is_video else found.pictures
        if key in members:
            what = "videos" if is_video else "pictures"
            raise ValueError(f"{members[key][0]} and {member.name} are two {what} of one sample; expected one per name")
        members[key] = (member.name, member.offset_data, member.size)
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
