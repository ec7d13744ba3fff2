"""Videos as sources: a row for each window, listed by a file's length, decoded window after window."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache

import numpy as np

from hierax.embedding.decode import Item, reason_of
from hierax.embedding.sources import Source
from hierax.processing import HieraVideoProcessor, Preprocessing
from hierax.processing.video_file import VideoFile
from hierax.processing.windows import Sampling, sampling_of

MARK = "#t="
"""What stands between a file's path and the second at which a window begins (media fragments, W3C)."""
_CHUNK = 1 << 22  # bytes that are hashed at a time


def windows_of(path: str, sampling: Sampling) -> Iterator[Source]:
    """The windows of a video, one after the other until its end; one of a file that cannot be read, which says why when
    it is.
    """
    count = 1
    with suppress(OSError, ValueError), VideoFile(path) as file:
        # what is left and is shorter than a step between frames has no frame of its own
        count = max(-int((sampling.step - file.duration()) // sampling.span), 1)
    for number in range(count):
        start = float(number * sampling.span)
        yield Source(f"{path}{MARK}{start:.3f}".rstrip("0").rstrip("."), "clip", path, number)


def expanded(sources: Iterable[Source], sampling: Sampling) -> Iterator[Source]:
    """Windows in the place of files."""
    for source in sources:
        if source.kind == "file":
            yield from windows_of(source.path, sampling)
        else:
            raise ValueError(f"{source.path}: videos are embedded from files; this is a {source.kind}")


class ClipDecoder:
    """Reads windows of videos as `record` says. A plain object that can be sent to other processes.

    One file stays open, since windows come in their order: a video is decoded once, not once for each of them.
    """

    def __init__(self, record: Preprocessing) -> None:
        if not record.do_center_crop:
            raise ValueError("the record does not crop, so that videos differ in size; expected do_center_crop")
        self.record, self.sampling = record, sampling_of(record)
        # grey levels: mean and deviation are taken out where the model is
        self.processor = HieraVideoProcessor(record, do_rescale=False, do_normalize=False)
        self.shape = (self.sampling.count, record.crop_size["height"], record.crop_size["width"])
        self._file: VideoFile | None = None

    def __call__(self, source: Source, out: np.ndarray) -> Item:
        """Writes the pixels of one window into `out`, uint8 `[C, T, H, W]` of zeros."""
        path = source.container or source.path
        digest = ""
        try:
            digest = file_hash(path)
            file = self._opened(path)
            if source.container:
                clip = self.processor.window(file, source.offset * self.sampling.span)
            else:  # a video by itself, as a query
                (clip,) = self.processor.clips(path)
        except (OSError, ValueError, MemoryError) as error:
            self._close()
            return Item(source, digest, error=reason_of(error))
        out[:] = np.rint(clip.pixels)
        return Item(source, digest, file.info.width, file.info.height, start=clip.start, end=clip.end)

    def _opened(self, path: str) -> VideoFile:
        if self._file is None or self._file.name != path:
            self._close()
            self._file = VideoFile(path)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}


def file_hash(path: str) -> str:
    """BLAKE2b of 128 bits of a file's bytes; of a file that did not change, made once by each process.

    Raises:
        OSError: it cannot be read.
    """
    facts = os.stat(path)
    return _file_hash(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_hash(path: str, size: int, time: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
