"""One source of a collection: where its bytes are, how they are opened, and their hash."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote

from PIL import Image

from hierax.collection.content import Section, check_place, read_file, read_member
from hierax.collection.store import MARK, source_id
from hierax.collection.urls import copy_url, read_url
from hierax.data.tables import TableDataset, open_tables
from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.processing.paths import opened_regular
from hierax.processing.video_file import VideoFile

KINDS = ("file", "tar", "table", "url")
_COLUMN = "?column="


@dataclass(frozen=True)
class Source:
    """An image, or a segment of a video, to embed.

    Attributes:
        path: its permanent name: the absolute path of a file, `SHARD.tar::MEMBER`, `TABLE[ROW]`, or a URL. For a
            segment of a video, `#t=SECONDS` is added.
        kind: one of `KINDS`.
        container: the path of the shard, or the split of a table (see `table_split`); "" for other sources.
        offset, size: position and size of a member in its shard, in bytes. For a table, `offset` is the row number.
        window: the number of a segment of a video; -1 for all other sources.
    """

    path: str
    kind: str = "file"
    container: str = ""
    offset: int = 0
    size: int = 0
    window: int = -1

    @property
    def id(self) -> str:
        """See `source_id`."""
        return source_id(self.path)

    @property
    def name(self) -> str:
        """The path without the start of a segment."""
        return self.path if self.window < 0 else self.path.rpartition(MARK)[0]

    def read(self, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Any:
        """The bytes of an image; for a row of a table also a path or a Pillow image.

        Raises:
            Exception: the source cannot be read or fetched. Network clients raise their own errors.
        """
        if self.kind == "table":
            return _table(self.container).sample(self.offset).content
        if self.kind == "url":
            return read_url(self.path)
        if self.kind == "tar":
            return read_member(self.container, self.offset, self.size, max_pixels=max_pixels)
        return read_file(self.path, max_pixels=max_pixels)


def _table(container: str) -> TableDataset:
    """A split of a table. Each process opens it once, and again after it has changed."""
    try:
        facts = os.stat(container.rpartition("#")[0])
    except OSError:  # a table of the Hub
        return _opened_table(container)
    return _opened_table(container, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=8)
def _opened_table(container: str, *facts: int) -> TableDataset:
    name, _, rest = container.rpartition("#")
    split, _, column = rest.partition(_COLUMN)
    files = [Path(name)] if name.lower().endswith(".parquet") else []
    return open_tables(name, files, labels=False, columns={"path": unquote(column)} if column else None)[split]


def table_split(name: str, split: str, column: str | None = None) -> str:
    """The container of rows of a table: its name, its split, and the column of images if it has no usual name."""
    return f"{name}#{split}" + (f"{_COLUMN}{quote(column, safe='')}" if column else "")


_CHUNK = 1 << 22  # number of bytes that are hashed or copied at the same time


def open_stream(source: Source) -> BinaryIO:
    """Opens a whole video as a binary file that can seek."""
    if source.kind == "url":
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(source.name)
            return cast(BinaryIO, system.open(path, "rb"))
        except ImportError:  # without fsspec, a file on the web can only be downloaded completely
            return _download(source.name)
    if source.kind == "tar":
        check_place(source.offset)
        return cast(BinaryIO, io.BufferedReader(Section(source.container, source.offset, source.size)))
    with opened_regular(source.name):
        return open(source.name, "rb")


def _download(url: str) -> BinaryIO:
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  (the caller closes it)
    try:
        copy_url(url, file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


class SourceVideo:
    """The video of a source, ready to decode. A remote video is downloaded first.

    Raises:
        OSError, ValueError: the video cannot be read or downloaded.
    """

    def __init__(self, source: Source) -> None:
        self.name, self._source, self._digest = source.name, source, ""
        self._content: str | BinaryIO = source.name
        with ExitStack() as stack:
            if source.kind == "url":
                self._content = stack.enter_context(_download(source.name))
                self._digest = _hash_of(self._content)
            elif source.kind == "tar":
                self._content = stack.enter_context(open_stream(source))
            self._stack = stack.pop_all()

    @cached_property
    def file(self) -> VideoFile:
        """The video file. It is opened at first use, so that a file that cannot be decoded still has a digest."""
        return self._stack.enter_context(closing(VideoFile(self._content, name=self.name)))

    @property
    def digest(self) -> str:
        """See `file_hash`."""
        return self._digest or file_hash(self._source)

    def close(self) -> None:
        """Closes the file and the decoder."""
        self._stack.close()


def file_hash(source: Source) -> str:
    """The BLAKE2b hash (128 bits) of the bytes of a video. Each process computes it once per file, unless it changes.

    Raises:
        OSError: the file cannot be read.
    """
    if source.kind == "url":
        with open_stream(source) as stream:
            return _hash_of(stream)
    facts = os.stat(source.container or source.name)
    return _cached_hash(replace(source, path=source.name, window=-1), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _cached_hash(source: Source, size: int, time: int) -> str:
    with open_stream(source) as stream:
        return _hash_of(stream)


def _hash_of(stream: BinaryIO) -> str:
    digest = hashlib.blake2b(digest_size=16)
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    stream.seek(0)
    return digest.hexdigest()


def content_hash(content: bytes) -> str:
    """The BLAKE2b hash (128 bits) of the bytes of a file, as hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def as_bytes(content: Any) -> bytes:
    """The content of a source as bytes. A decoded image is encoded as PNG, and a path is read.

    Raises:
        ValueError: the content is not an image.
    """
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if isinstance(content, Image.Image):
        buffer = io.BytesIO()
        content.save(buffer, "PNG")
        return buffer.getvalue()
    if isinstance(content, (str, os.PathLike)):
        return read_file(os.fspath(content))
    raise ValueError(f"{type(content).__name__} is not an image")
