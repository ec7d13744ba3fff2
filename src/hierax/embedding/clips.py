"""Videos as sources: each window is a row. The length of the video gives the list; windows are decoded in order."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import BinaryIO, cast

import numpy as np

from hierax.embedding.content import check_place
from hierax.embedding.decode import Item, failed
from hierax.embedding.sources import MARK, Source
from hierax.embedding.urls import copy_url
from hierax.processing import HieraVideoProcessor, Preprocessing
from hierax.processing.demux import import_av
from hierax.processing.paths import opened_regular
from hierax.processing.video_file import VideoFile
from hierax.processing.windows import Sampling, sampling_of

_CHUNK = 1 << 22  # bytes that are hashed or copied at a time


def expanded(sources: Iterable[Source], sampling: Sampling) -> Iterator[Source]:
    """Windows in the place of videos, one after the other until the end of each; one of what cannot be read, which says
    why when it is.

    Raises:
        ValueError: rows of a table.
    """
    import_av()  # if it is missing, one error says so, not one for each video
    for source in sources:
        if source.kind == "table":
            raise ValueError(f"{source.path}: rows of a table are images; expected video files, .tar shards or URLs")
        count = 1
        with suppress(Exception), ExitStack() as stack:  # the same error is raised again when the row is made
            there = source.name if source.kind == "file" else stack.enter_context(_stream(source))
            file = stack.enter_context(VideoFile(there, name=source.name))
            # a rest that is shorter than the step between frames has no frame of its own
            count = max(-int((sampling.step - file.duration()) // sampling.span), 1)
        for number in range(count):
            start = f"{float(number * sampling.span):.3f}".rstrip("0").rstrip(".")
            yield replace(source, path=f"{source.path}{MARK}{start}", window=number)


def _stream(source: Source) -> BinaryIO:
    """Opens a whole video as a file to read and to seek in."""
    if source.kind == "url":
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(source.name)
            return cast(BinaryIO, system.open(path, "rb"))
        except ImportError:  # without it, a file on the web can only be read as a whole
            return _copied(source.name)
    if source.kind == "tar":
        check_place(source.offset)
        return cast(BinaryIO, io.BufferedReader(Section(source.container, source.offset, source.size)))
    with opened_regular(source.name):
        return open(source.name, "rb")


def _copied(url: str) -> BinaryIO:
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  (closed by who takes it)
    try:
        copy_url(url, file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


class Section(io.RawIOBase):
    """A part of a file, to read like a file: `size` bytes from `start`."""

    def __init__(self, path: str, start: int, size: int) -> None:
        check_place(start)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed as this is)
        self._start, self._size, self._place = start, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position in the part; returns the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def readinto(self, buffer: object) -> int:
        """Fills the buffer with the next bytes; returns their number."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        count = max(min(len(view), self._size - self._place), 0)
        self._file.seek(self._start + self._place)
        count = self._file.readinto(view[:count])
        self._place += count
        return count

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()


class Opened:
    """The video of a source, ready to decode. A remote video is fetched first, once.

    Raises:
        OSError, ValueError: it cannot be read or fetched.
    """

    def __init__(self, source: Source) -> None:
        self.name, self._source, self._digest = source.name, source, ""
        self._there: str | BinaryIO = source.name
        with ExitStack() as stack:
            if source.kind == "url":
                self._there = stack.enter_context(_copied(source.name))
                self._digest = _hash_of(self._there)
            elif source.kind == "tar":
                self._there = stack.enter_context(_stream(source))
            self._stack = stack.pop_all()

    @cached_property
    def file(self) -> VideoFile:
        """The video file, opened at first use, so that a file that cannot be decoded still has a digest."""
        return self._stack.enter_context(closing(VideoFile(self._there, name=self.name)))

    @property
    def digest(self) -> str:
        """See `file_hash`."""
        return self._digest or file_hash(self._source)

    def close(self) -> None:
        """Closes the file and the decoder."""
        self._stack.close()


class ClipDecoder:
    """Reads windows of videos as `record` says. A plain object that can be sent to other processes.

    One video stays open, since windows come in their order: a video is decoded once, not once for each of them.
    """

    def __init__(self, record: Preprocessing) -> None:
        self.record, self.sampling = record, sampling_of(record)
        # gray levels: mean and deviation are taken out where the model is
        self.processor = HieraVideoProcessor(record, do_rescale=False, do_normalize=False)
        self.shape = (self.sampling.count, *record.fixed_size)
        self._video: Opened | None = None

    def __call__(self, source: Source, out: np.ndarray) -> Item:
        """Writes the pixels of one window into `out`, uint8 `[C, T, H, W]` of zeros; of a video that is no window, as
        a query, those in its middle.
        """
        digest = ""
        try:
            video = self._opened(source)
            digest, file = video.digest, video.file
            if source.window < 0:
                (clip,) = self.processor.clips(file)
            else:
                clip = self.processor.window(file, source.window * self.sampling.span)
        except Exception as error:  # any error of a decoder or network client makes only this source unreadable
            self._close()
            return failed(source, digest, error)
        out[:] = np.rint(clip.pixels)
        return Item(source, digest, file.info.width, file.info.height, start=clip.start, end=clip.end)

    def _opened(self, source: Source) -> Opened:
        if self._video is None or self._video.name != source.name:
            self._close()
            self._video = Opened(source)
        return self._video

    def _close(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_video": None}


def file_hash(source: Source) -> str:
    """BLAKE2b (128 bits) of a video's bytes. Each process computes it once for a file that does not change.

    Raises:
        OSError: it cannot be read.
    """
    if source.kind == "url":
        with _stream(source) as stream:
            return _hash_of(stream)
    facts = os.stat(source.container or source.name)
    return _kept_hash(replace(source, path=source.name, window=-1), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _kept_hash(source: Source, size: int, time: int) -> str:
    with _stream(source) as stream:
        return _hash_of(stream)


def _hash_of(stream: BinaryIO) -> str:
    digest = hashlib.blake2b(digest_size=16)
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    stream.seek(0)
    return digest.hexdigest()
