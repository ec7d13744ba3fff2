"""Videos as sources. Each segment is a row; the number of segments follows from the length of the video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace

import numpy as np

from hierax.collection.source import Source, SourceVideo, open_stream
from hierax.collection.store import MARK
from hierax.embedding.decode import Item, failed_item
from hierax.processing import HieraVideoProcessor, Preprocessing
from hierax.processing.demux import import_av
from hierax.processing.sampling import Sampling, sampling_of
from hierax.processing.video_file import VideoFile


def expand_windows(sources: Iterable[Source], sampling: Sampling) -> Iterator[Source]:
    """Yields the segments of each video, one after the other until its end.

    A video that cannot be read gives one segment; decoding it later gives the error.

    Raises:
        ValueError: a source is a row of a table.
    """
    import_av()  # a missing package is one error, not one for each video
    for source in sources:
        if source.kind == "table":
            raise ValueError(f"{source.path}: rows of a table are images; expected video files, .tar shards or URLs")
        count = 1
        with suppress(Exception), ExitStack() as stack:  # the same error is raised again when the segment is decoded
            content = source.name if source.kind == "file" else stack.enter_context(open_stream(source))
            file = stack.enter_context(VideoFile(content, name=source.name))
            # a remainder that is shorter than the step between frames contains no frame
            count = max(-int((sampling.step - file.duration()) // sampling.span), 1)
        for number in range(count):
            start = f"{float(number * sampling.span):.3f}".rstrip("0").rstrip(".")
            yield replace(source, path=f"{source.path}{MARK}{start}", window=number)


class ClipDecoder:
    """Reads segments of videos as pixels, according to `record`. It can be sent to other processes.

    One video stays open: the segments are requested in order, so that a video is decoded only once.
    """

    def __init__(self, record: Preprocessing) -> None:
        self.record, self.sampling = record, sampling_of(record)
        # pixels stay gray levels here; they are normalized on the device of the model
        self.processor = HieraVideoProcessor(record, do_rescale=False, do_normalize=False)
        self.shape = (self.sampling.count, *record.fixed_size)
        self._video: SourceVideo | None = None

    def __call__(self, source: Source, out: np.ndarray) -> Item:
        """Writes the pixels of one segment into `out`, uint8 `[C, T, H, W]` of zeros. If the source is a whole video,
        such as a query, it takes the clip in the middle.
        """
        digest = ""
        try:
            video = self._open(source)
            digest, file = video.digest, video.file
            if source.window < 0:
                (clip,) = self.processor.clips(file)
            else:
                clip = self.processor.window(file, source.window * self.sampling.span)
        except Exception as error:  # any error of a decoder or network client makes only this source unreadable
            self._close()
            return failed_item(source, digest, error)
        out[:] = np.rint(clip.pixels)
        return Item(source, digest, file.info.width, file.info.height, start=clip.start, end=clip.end)

    def _open(self, source: Source) -> SourceVideo:
        if self._video is None or self._video.name != source.name:
            self._close()
            self._video = SourceVideo(source)
        return self._video

    def _close(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_video": None}
