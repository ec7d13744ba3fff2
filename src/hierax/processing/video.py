"""The video processor, which converts videos to `pixel_values` of clips."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Union, cast

import numpy as np
from PIL import Image

from hierax.processing.arrays import is_tensor
from hierax.processing.batch import BatchFeature
from hierax.processing.demux import VideoError
from hierax.processing.image import write_part
from hierax.processing.paths import IMAGE_SUFFIXES
from hierax.processing.processor import RecordedProcessor, resolve_fast
from hierax.processing.reading import ImageInput, read_image, source_name
from hierax.processing.record import KINETICS, Preprocessing
from hierax.processing.resize import Geometry
from hierax.processing.sampling import Sampling, Short, check_short, consecutive, crops, moment, sampling_of, starts
from hierax.processing.video_file import LATE, Frame, VideoFile
from hierax.processing.views import check_views
from hierax.reprs.text import never_raises, short_repr
from hierax.transformers_arguments import token_of, without_foreign

if TYPE_CHECKING:
    import torch

    from hierax.checkpoint.opened import Checkpoint

Video: TypeAlias = Union[str, "os.PathLike[str]", bytes, np.ndarray, Sequence[ImageInput], Any]
"""A path, the bytes of a file, an open binary file, a `VideoFile`, frames `[T, H, W, C]` (array or tensor), or a list
of images, one for each frame.
"""


@short_repr()
@dataclass(frozen=True)
class Clip:
    """A clip of a video: the input of a model.

    Attributes:
        pixels: float32 `[C, T, H, W]`.
        start, end: seconds from the start of the video; None if the frame rate is not known.
        view: number of the clip in the video, and number of the crop.
    """

    pixels: np.ndarray
    start: float | None
    end: float | None
    view: tuple[int, int]


class _Source(Protocol):
    """A video that gives frames by time."""

    name: str

    @property
    def actual_end(self) -> Fraction | None: ...
    def duration(self) -> Fraction: ...
    def frames(self, times: Iterable[Fraction]) -> Iterator[Frame]: ...


class HieraVideoProcessor(RecordedProcessor):
    """Samples, resizes, crops, rescales and normalizes videos, according to the record of a checkpoint.

    Args:
        record: the preprocessing record; None: that of Hiera on Kinetics. It takes 16 frames, every 4th frame at 30
            frames per second (videos of other rates are sampled by time). The shorter side is resized to 256, and the
            center of 224 x 224 is cropped. The mean is 0.45 and the standard deviation 0.225 in all channels.
        short: how a video that is shorter than a clip is extended: "hold" repeats its last frame, "loop" restarts it.
        fast: reduce frames with torch, which differs from Pillow by at most one gray level. None means True, because a
            clip has many frames. (For images, None means False.)
        overrides: fields of `Preprocessing` that replace those of the record.

    Raises:
        TypeError, ValueError: an override is not a field, or a field has a wrong value, or the record is for images.
    """

    def __init__(
        self, record: Preprocessing | None = None, *, short: Short = "hold", fast: bool | None = None, **overrides: Any
    ) -> None:
        check_short(short)
        if record is not None and not isinstance(record, Preprocessing):
            raise TypeError(
                f"record is a {type(record).__name__}; expected a Preprocessing (from_pretrained takes names)"
            )
        fast = resolve_fast(overrides, fast)
        super().__init__((KINETICS if record is None else record).replace(**without_foreign(overrides)))
        self.short: Short = short
        self.fast = fast is not False

    def _use(self, record: Preprocessing) -> None:
        """Sets the record, and the values that are computed from it."""
        sampling = sampling_of(record)
        super()._use(record)
        self.sampling: Sampling = sampling

    def __call__(
        self,
        videos: Video | Sequence[Video],
        *,
        views: tuple[int, int] = (1, 1),
        fps: float | None = None,
        return_tensors: Literal["pt", "np"] = "pt",
        device: str | torch.device | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """Converts videos to clips.

        Args:
            videos: a video, or a list of videos. A list of images (Pillow images, arrays with up to three axes, paths
                with the suffix of an image) is one video.
            views: number of clips, evenly spaced over the video, and number of crops of each frame, evenly spaced along
                its longer side. (1, 1) is the center. On Kinetics, Hiera was evaluated with (5, 3).
            fps: frames per second of frames that are arrays or images; None: all frames are used.
            return_tensors, device: "pt" for torch tensors, "np" for numpy arrays; the device of torch tensors.
            overrides: fields of `Preprocessing`, such as `do_rescale=False` or `num_frames=8`, that replace those of
                the record in this call. A field that is None is ignored.

        Returns:
            `{"pixel_values": [B, C, T, H, W]}` in float32. The videos follow each other, with `views[0] * views[1]`
            clips each; all crops of the first clip come first.

        Raises:
            VideoError: (a ValueError) a video cannot be read; the message names it.
            ValueError, TypeError: there is no video, or clips have different shapes, or an override is wrong.
        """
        changed = {name: value for name, value in without_foreign(overrides).items() if value is not None}
        if changed:
            other = HieraVideoProcessor(self.record.replace(**changed), short=self.short, fast=self.fast)
            return other(videos, views=views, fps=fps, return_tensors=return_tensors, device=device)
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors is {return_tensors!r}; expected 'pt' or 'np'")
        if device is not None and return_tensors != "pt":
            raise ValueError(f"device is {device!r}; expected None unless return_tensors is 'pt'")
        named = named_videos(videos)
        found = [(name, clip) for name, video in named for clip in self.clips(video, views=views, fps=fps, name=name)]
        first_name, first = found[0]
        for name, clip in found:
            if clip.pixels.shape != first.pixels.shape:
                raise ValueError(
                    f"{name} gives clips {list(clip.pixels.shape)} and {first_name} {list(first.pixels.shape)}; "
                    "one tensor needs one shape"
                )
        pixels = np.stack([clip.pixels for _, clip in found])
        if return_tensors == "np":
            return BatchFeature(pixel_values=pixels)
        import torch

        batch = BatchFeature(pixel_values=torch.from_numpy(pixels))
        return batch if device is None else batch.to(device)

    preprocess = __call__  # its name in transformers

    def clips(
        self,
        video: Video,
        *,
        views: tuple[int, int] = (1, 1),
        fps: float | None = None,
        name: str | None = None,
        part: tuple[Fraction | None, Fraction | None] = (None, None),
    ) -> list[Clip]:
        """The views of one video, with their times; see `__call__`.

        Args:
            fps: frame rate of frames in memory; None: unknown.
            name: the name of the video in errors.
            part: start and end, in seconds, of the part that is used; None: the start or end of the video.

        Raises:
            VideoError, ValueError: the video cannot be read; or it has no known frame rate, but needs several clips.
        """
        windows, each = check_views(views)
        with self._open(video, fps=fps, name=name) as source:
            if isinstance(source, _Stills):
                if windows > 1:
                    raise ValueError(
                        f"views requests {windows} clips, but the frame rate is not known; pass fps, or views=(1, …)"
                    )
                return self._stills(source, each)
            begin, end = part[0] or Fraction(0), source.duration()
            end = end if part[1] is None else min(part[1], end)
            made = self._windows(source, begin, end, windows, each)
            if source.actual_end is not None and source.actual_end < end:  # the file is shorter than it states
                made = self._windows(source, begin, source.actual_end, windows, each)
            return made

    def windows(self, video: Video, *, hop: float | None = None, fps: float | None = None) -> Iterator[Clip]:
        """Yields the segments of a video as clips of the center of the frames. The memory is limited.

        The last segment repeats its last frame if the video ends.

        Args:
            hop: seconds between the starts of segments, rounded to a multiple of the step between frames; None: the
                segments follow each other without overlap.
            fps: frame rate of frames in memory.

        Raises:
            VideoError, ValueError: the video cannot be read; `hop` is not above 0; or the frame rate is not known.
        """
        if hop is not None and not hop > 0:
            raise ValueError(f"hop is {hop} seconds; expected a number above 0, or None")
        sampling = self.sampling
        steps = sampling.count if hop is None else max(round(Fraction(hop) / sampling.step), 1)
        with self._open(video, fps=fps, name=None) as source:
            if isinstance(source, _Stills):
                raise ValueError(f"{source.name}: the frame rate is not known, and clips need it; pass fps")
            source.duration()  # with damaged time stamps, this loop would not end
            cached: dict[Fraction, tuple[np.ndarray, ...]] = {}
            for number, start in enumerate(consecutive(steps * sampling.step)):
                if source.actual_end is not None and start >= source.actual_end:
                    return
                cached = {time: part for time, part in cached.items() if time >= start}
                times = sampling.times(start)
                missing = [time for time in times if time not in cached]
                for time, frame in zip(missing, source.frames(missing), strict=True):
                    cached[time] = self._parts(frame.pixels, 1)
                end = start + sampling.span
                if source.actual_end is not None:
                    if start >= source.actual_end:
                        return
                    if number == 0 and self.short == "loop" and source.actual_end < end:
                        yield from self._windows(source, Fraction(0), source.actual_end, 1, 1)
                        return
                    end = min(end, source.actual_end)
                yield Clip(self._stack([cached[time][0] for time in times]), float(start), float(end), (number, 0))

    def window(self, file: VideoFile, start: Fraction) -> Clip:
        """The segment of an open file that starts at `start` seconds, as a clip of the center of the frames. If the
        video ends before the segment, its last frame is repeated. Raises VideoError if it ends before `start`.
        """
        times, last = self.sampling.times(start), file.duration()
        frames = [self._parts(frame.pixels, 1)[0] for frame in file.frames(times)]
        if file.actual_end is not None and 0 < start >= file.actual_end:
            raise VideoError(file.name, f"the video ends at {float(file.actual_end):g} s")
        end = min(start + self.sampling.span, file.actual_end or last)
        return Clip(self._stack(frames), float(start), float(end), (0, 0))

    # -- one video -----------------------------------------------------------------------------------------------------

    def _windows(self, source: _Source, begin: Fraction, end: Fraction, count: int, each: int) -> list[Clip]:
        """`count` clips between `begin` and `end`, with `each` crops of their frames. Every frame is decoded once."""
        if begin > 0 and begin >= end:
            raise VideoError(source.name, f"the video ends at {float(end):g} s")
        sampling, duration = self.sampling, end - begin
        begins = starts(duration, sampling.span, count)
        short = self.short if duration < sampling.span else "hold"
        latest = max(duration - sampling.step / 4, Fraction(0)) if short == "hold" else duration
        wanted = [
            [begin + min(moment(time, duration, short), latest) for time in sampling.times(start)] for start in begins
        ]
        times = sorted({time for window in wanted for time in window})
        parts = {t: self._parts(frame.pixels, each) for t, frame in zip(times, source.frames(times), strict=True)}
        return [
            Clip(
                self._stack([parts[time][crop] for time in window]),
                float(begin + start), float(begin + min(start + sampling.span, max(duration, start))), (number, crop),
            )
            for number, (start, window) in enumerate(zip(begins, wanted, strict=True))
            for crop in range(each)
        ]  # fmt: skip

    def _stills(self, source: _Stills, each: int) -> list[Clip]:
        """The clips of frames without a known rate: all frames are used."""
        frames = source.every()
        for index, frame in enumerate(frames):
            if frame.shape != frames[0].shape:
                shapes = f"frame {index} has shape {list(frame.shape)}, frame 0 {list(frames[0].shape)}"
                raise VideoError(source.name, shapes)
        parts = [self._parts(frame, each) for frame in frames]
        return [Clip(self._stack([part[i] for part in parts]), None, None, (0, i)) for i in range(each)]

    def _parts(self, frame: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
        """The crops of a frame as pixels `[C, H, W]`."""
        plans = crops(self.record, height=frame.shape[0], width=frame.shape[1], count=count)
        return tuple(self._pixels(frame, plan) for plan in plans)

    def _pixels(self, frame: np.ndarray, plan: Geometry) -> np.ndarray:
        out = np.empty((self.record.num_channels, plan.height, plan.width), np.float32)
        write_part(frame, plan, out, record=self.record, table=self._table, fast=self.fast)
        return out

    @staticmethod
    def _stack(frames: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(frames, axis=1)

    def _open(self, video: Video, *, fps: float | None, name: str | None) -> AbstractContextManager[Any]:
        if isinstance(video, VideoFile):
            return nullcontext(video)
        if isinstance(video, (str, os.PathLike, bytes, bytearray, memoryview, io.IOBase)):
            return VideoFile(cast("str | bytes", video), name=name)
        stills = _Stills(video, name=name or "video", record=self.record)
        if fps is None:
            return nullcontext(stills)
        if not fps > 0:
            raise ValueError(f"fps is {fps}; expected a number above 0")
        return nullcontext(_TimedFrames(stills, Fraction(fps).limit_denominator(1_000_000)))

    # -- the record ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | Checkpoint,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        short: Short = "hold",
        fast: bool | None = None,
        **overrides: Any,
    ) -> HieraVideoProcessor:
        """The processor of a video checkpoint. For arguments and errors, see `HieraImageProcessor.from_pretrained`."""
        from hierax.checkpoint import load_preprocessing

        token = token_of(overrides, token)
        record = load_preprocessing(
            source, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        return cls(record, short=short, fast=fast, **overrides)

    @never_raises
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.record!r}, short={self.short!r}, fast={self.fast})"


class _Stills:
    """Frames in memory without a known rate."""

    def __init__(self, video: Any, *, name: str, record: Preprocessing) -> None:
        self.name = name
        if (is_tensor(video) or isinstance(video, np.ndarray)) and video.ndim != 4:
            raise VideoError(name, f"shape {list(video.shape)}; expected frames [time, height, width, channels]")
        self._frames, self._record = list(video), record
        if not self._frames:
            raise VideoError(name, "has no frames")

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, number: int) -> np.ndarray:
        """One frame, uint8 or float32 `[H, W, C]`."""
        name = source_name(self._frames[number], default=f"{self.name}, frame {number}")
        image = read_image(
            self._frames[number], channels=self._record.num_channels, name=name, unit=self._record.do_rescale
        )
        array = np.asarray(image)
        return array if array.ndim == 3 else array[:, :, None]

    def every(self) -> list[np.ndarray]:
        """All frames."""
        return [self.frame(number) for number in range(len(self))]


class _TimedFrames:
    """Frames in memory, with `rate` frames per second."""

    def __init__(self, stills: _Stills, rate: Fraction) -> None:
        self.name, self._stills, self._rate = stills.name, stills, rate
        self.actual_end: Fraction | None = len(stills) / rate

    def duration(self) -> Fraction:
        """The duration in seconds."""
        return len(self._stills) / self._rate

    def frames(self, times: Iterable[Fraction]) -> Iterator[Frame]:
        """Yields the frame on display at each time, or the next one, as `VideoFile.frames` does."""
        for exact in (time * self._rate for time in times):
            number = min(max(int(exact), 0), len(self._stills) - 1)
            number += number + 1 < len(self._stills) and number + 1 - exact < min(exact - number, LATE * self._rate)
            yield Frame(number / self._rate, self._stills.frame(number))


def named_videos(videos: Any) -> list[tuple[str, Any]]:
    """The videos, each with its name in errors."""
    several = isinstance(videos, (list, tuple)) and not (videos and all(map(_is_frame, videos)))
    if not isinstance(videos, (list, tuple)) and getattr(videos, "ndim", 0) == 5:
        videos, several = list(videos), True
    if not several:
        return [(source_name(videos, default="video"), videos)]
    if not videos:
        raise ValueError("videos is empty; expected at least one video")
    return [(source_name(video, default=f"videos[{i}]"), video) for i, video in enumerate(videos)]


def _is_frame(value: Any) -> bool:
    """Whether an element of a list is a frame, not a video."""
    if isinstance(value, (str, os.PathLike)):
        return os.path.splitext(os.fspath(value))[1].lower() in IMAGE_SUFFIXES
    array = is_tensor(value) or isinstance(value, np.ndarray)
    return isinstance(value, Image.Image) or (array and value.ndim <= 3)
