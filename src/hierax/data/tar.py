"""Reads plain tar shards of images or videos, as written by tar and webdataset, in any order."""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hierax.console import quantity
from hierax.data.dataset import Sample, VideoSegment
from hierax.data.labels import Labels, read_labels
from hierax.data.strings import Strings
from hierax.notices import LeftOut
from hierax.processing.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_hidden
from hierax.reprs.text import dataset_repr, short_repr

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip", ".7z", ".rar")
"""Suffixes of archives that must be unpacked first."""

ABSENT, SPARSE = -1, -2
"""Marks of members whose bytes are not in the shard: links to missing members, and sparse files."""

_LABELS = (".cls.txt", ".cls", ".label", ".json")
_NUMBERS = re.compile(r"[-+.,;\d\s]*")  # but no single number of a class
_JSON_LABELS = ("label", "labels", "cls")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_LINKS = 40  # maximum number of links that are followed, one after the other


@dataset_repr
@dataclass(frozen=True, eq=False)
class TarDataset:
    """Images or videos in tar shards. The suffix of a member is the part after its last dot; hidden files are left out.

    A label is in another member: `.cls` contains the number or the name of the class; `.json` may contain `label` (see
    `read_labels`), and for a number also `class_name`. It belongs to the members whose names begin with its own name,
    up to a dot: `1.cls` belongs to `1.jpg`, or to `1.left.jpg` and `1.right.jpg`. If there is a `1.jpg`, `1.mask.png`
    is another part of that sample and is left out.

    The shards are indexed once. Members can then be read in any order.
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
        content = VideoSegment(data) if self.videos else data
        return Sample(f"{shard}:{self.names[index]}", content, None if self.values is None else self.values[index])

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        single = None if self.values is None else self.values.single()
        return None if single is None else single.tolist()


@short_repr()
@dataclass(frozen=True)
class Member:
    """A file in a shard: `size` bytes that start at `offset`. If the bytes are missing, `offset` is `ABSENT` or
    `SPARSE`.
    """

    name: str
    offset: int
    size: int

    @property
    def suffix(self) -> str:
        """The part after the last dot, in lower case, with the dot."""
        return posixpath.splitext(self.name)[1].lower()


@dataclass
class _Shard:
    """The content of one shard: images and videos by name, and label files by their names without suffix."""

    pictures: dict[str, Member] = field(default_factory=dict)
    videos: dict[str, Member] = field(default_factory=dict)
    labels: dict[str, list[Member]] = field(default_factory=dict)


def members_of(file: Path, left: LeftOut, *, videos: bool = False) -> Iterator[Member]:
    """Yields all images, or all `videos`, of one shard. If several members have the same name, the last one counts, as
    when tar unpacks.

    Args:
        left: counts the other files.

    Raises:
        ValueError: see `open_shards`.
    """
    found = _read(file, left)
    selected, others = (found.videos, found.pictures) if videos else (found.pictures, found.videos)
    if not selected:
        raise _nothing_in([file], videos=videos)
    for member in others.values():
        left.add(member.suffix)
    yield from selected.values()


def open_shards(files: Sequence[Path], *, labels: bool = True, videos: bool | None = None) -> TarDataset:
    """Opens the images or videos in these shards, in the order of shards and members.

    Args:
        files: the shards.
        labels: if False, labels are not read.
        videos: whether to read videos or images; None: read videos if every image is the preview of a video.

    Raises:
        ValueError: a shard is compressed, damaged or not a tar file; or labels cannot be read; or there are no such
            members.
    """
    name = str(files[0]) if len(files) == 1 else f"{files[0]} … {files[-1]}"
    left = LeftOut(name)
    found = [_read(file, left) for file in files]
    if videos is None:
        videos = any(shard.videos for shard in found) and all(map(_are_previews, found))
    class_names: dict[int, str] = {}
    rows: list[tuple[str, int, int, int]] = []
    given: list[Any] = []
    for number, (file, shard) in enumerate(zip(files, found, strict=True)):
        selected = list(_samples(shard, shard.videos if videos else shard.pictures, left))
        rows += [(member.name, number, member.offset, member.size) for member, _ in selected]
        if labels:
            given += _labels_of(file, shard, [label for _, label in selected], class_names)
        for member in () if videos else shard.videos.values():
            left.add(member.suffix)
    if not rows:
        raise _nothing_in(files, videos=videos)
    left.tell()
    values = read_labels(given, name=name) if labels else None
    names, shard_of, offset, size = zip(*rows, strict=True)
    return TarDataset(
        shards=tuple(map(str, files)),
        names=Strings(names),
        shard=np.array(shard_of, np.int32),
        offset=np.array(offset, np.int64),
        size=np.array(size, np.int64),
        values=values,
        classes=tuple(class_names.get(i, own) for i, own in enumerate(values.class_names)) if values else (),
        videos=videos,
    )


def _nothing_in(files: Sequence[Path], *, videos: bool) -> ValueError:
    kind, example = ("videos", "0001.mp4") if videos else ("images", "0001.jpg")
    return ValueError(f"{files[0]}: no {kind} in {quantity(len(files), 'shard')}; expected members such as {example}")


# -- members -----------------------------------------------------------------------------------------------------------


def _read(file: Path, left: LeftOut) -> _Shard:
    found = _Shard()
    _check_kind(file)
    try:
        with tarfile.open(file, "r:") as shard:
            for member in _members(shard, file.stat().st_size):
                _add(found, member, left)
            _check_end(shard)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise ValueError(f"{file}: damaged, or not a tar file: {error}") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror or error}") from None
    return found


def _check_kind(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"{file}: not a regular file; expected a tar file")
    with open(file, "rb") as stream:
        start = stream.read(8)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            raise ValueError(f"{file}: compressed by {kind}; expected a plain tar file, which can be read in any order")


def _members(shard: tarfile.TarFile, length: int) -> Iterator[Member]:
    """Yields the files of a shard with the position of their bytes. A link has the position of its target."""
    places: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    order: dict[str, str] = {}
    for member in shard:
        name = posixpath.normpath(member.name)
        if member.isfile():
            if member.offset_data + member.size > length and not member.issparse():
                raise tarfile.ReadError(f"{member.name} extends past the end of the file")
            places[name] = (SPARSE, 0) if member.issparse() else (member.offset_data, member.size)
            links.pop(name, None)
        elif member.islnk() or member.issym():
            beside = "" if member.islnk() else posixpath.dirname(name)
            links[name] = posixpath.normpath(posixpath.join(beside, member.linkname))
            places.pop(name, None)
        else:
            continue
        order[name] = member.name
    for name, shown in order.items():
        there = name
        for _ in range(_LINKS):
            there = links.get(there, there)
        yield Member(shown, *places.get(there, (ABSENT, 0)))


def _check_end(shard: tarfile.TarFile) -> None:
    """Checks that only zeros follow the last member, because the module tarfile also stops at a damaged header."""
    stream = shard.fileobj
    assert stream is not None
    stream.seek(shard.offset)
    if any(stream.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"a bad header at byte {shard.offset}")


def _add(found: _Shard, member: Member, left: LeftOut) -> None:
    name = posixpath.normpath(member.name)
    if any(is_hidden(part) and part != ".." for part in name.split("/")):  # hidden files are left out, as in folders
        return
    suffix = next((end for end in _LABELS if name.lower().endswith(end)), None)
    if member.suffix in IMAGE_SUFFIXES:
        found.pictures[name] = member
    elif member.suffix in VIDEO_SUFFIXES:
        found.videos[name] = member
    elif suffix is not None:
        found.labels.setdefault(name[: -len(suffix)], []).append(member)
    elif member.suffix != ".txt":  # .txt is a caption or a note
        left.add(member.suffix or "without a suffix")


# -- samples and labels ------------------------------------------------------------------------------------------------


def _owner(name: str, stems: Container[str]) -> str | None:
    """The longest of these names that is the beginning of `name`, up to a dot; None if there is none."""
    stem = posixpath.splitext(name)[0]
    while stem not in stems:
        shorter, dot, rest = stem.rpartition(".")
        if not dot or "/" in rest or not posixpath.basename(shorter):
            return None
        stem = shorter
    return stem


def _are_previews(shard: _Shard) -> bool:
    """Whether every image belongs to a video."""
    videos = {posixpath.splitext(name)[0] for name in shard.videos}
    return all(_owner(name, videos) is not None for name in shard.pictures)


def _samples(shard: _Shard, members: Mapping[str, Member], left: LeftOut) -> Iterator[tuple[Member, str | None]]:
    """Yields the members that are samples, with the name of their label."""
    stems = {posixpath.splitext(name)[0] for name in members}
    for name, member in members.items():
        owner = _owner(name, shard.labels)
        if owner is not None and owner != posixpath.splitext(name)[0] and owner in stems:
            left.add("more of a sample", example=member.name)
        elif member.offset < 0:
            left.add("a link to nothing" if member.offset == ABSENT else "a sparse file", example=member.name)
        else:
            yield member, owner


def _labels_of(file: Path, shard: _Shard, owners: Sequence[str | None], class_names: dict[int, str]) -> Iterator[Any]:
    """Yields the label of each of these names. Each file is read once."""
    known: dict[str | None, Any] = {None: None}
    with open(file, "rb") as stream:
        for owner in owners:
            if owner is not None and owner not in known:
                known[owner] = None
                for member in sorted(shard.labels[owner], key=lambda member: member.suffix != ".json"):
                    stream.seek(max(member.offset, 0))
                    text = stream.read(member.size).decode("utf-8", "replace").strip()
                    try:
                        label = _label(text, member, class_names)
                    except ValueError as error:
                        raise ValueError(f"{file}: {error}") from None
                    known[owner] = known[owner] if label is None else label  # .cls has priority over .json
            yield known[owner]


def _label(text: str, member: Member, class_names: dict[int, str]) -> Any:
    if member.suffix == ".json":
        return _json_label(text, member.name, class_names)
    return _class(text, member.name)


def _class(text: str, name: str) -> int | str:
    """The number or the name of a class."""
    if text.isdecimal():
        return int(text)
    if not text.isprintable() or "\ufffd" in text or _NUMBERS.fullmatch(text):
        raise ValueError(
            f"{name} holds {text[:40]!r}; expected the number or the name of a class (write several into .json, under "
            "label)"
        )
    return text


def _json_label(text: str, name: str, class_names: dict[int, str]) -> Any:
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    if not isinstance(record, dict):
        return None
    label = next((record[key] for key in _JSON_LABELS if record.get(key) is not None), None)
    if isinstance(label, str):
        label = _class(label.strip(), f"label in {name}")
    if isinstance(label, int) and isinstance(record.get("class_name"), str):
        class_names.setdefault(label, record["class_name"])
    return label
