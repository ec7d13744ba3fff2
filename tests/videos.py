"""Videos made by PyAV whose frames say which they are, and small sets of them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 8
_SOUND = {"webm": "libopus"}


def numbered(number: int, *, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame `[height, width, 3]` that shows its number in eight columns, black and white, and is red at the top."""
    frame = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        frame[:, bit * width // BITS : (bit + 1) * width // BITS] = 255 * ((number >> bit) & 1)
    frame[: height // 8] = (255, 0, 0)
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that a frame shows, `[height, width, 3]` in gray levels."""
    height, width = frame.shape[:2]
    columns = [frame[height // 2, (2 * bit + 1) * width // (2 * BITS)].mean() > 127 for bit in range(BITS)]
    return sum(int(white) << bit for bit, white in enumerate(columns))


def video(
    frames: Iterable[np.ndarray] | int = 90,
    *,
    rate: Any = 30,
    codec: str = "libx264",
    container: str = "mp4",
    times: Sequence[int] | None = None,
    rotation: int = 0,
    keys: int = 12,
    sound: bool | float = False,
    aspect: Fraction | None = None,
    size: tuple[int, int] = (48, 64),
    b_frames: int | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> bytes:
    """The bytes of a video file: of given frames, or of so many that are `numbered`.

    `times` are milliseconds, one for each frame; `keys` is the distance of key frames; `rotation` in degrees
    counterclockwise; `sound` adds a silent track that lasts as long, or so many seconds; `options` are the codec's,
    `muxer` those of the container.
    """
    pictures = (
        [numbered(i, height=size[0], width=size[1]) for i in range(frames)] if isinstance(frames, int) else frames
    )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=muxer or {}) as out:
        stream: Any = out.add_stream(codec, rate=rate, options=options)
        pictures = list(pictures)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        stream.codec_context.gop_size = keys
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        track: Any = out.add_stream(_SOUND.get(container, "aac"), rate=16000, layout="mono") if sound else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index if times is None else times[index]
            frame.time_base = 1 / Fraction(rate) if times is None else Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if track is not None:
            _silence(out, track, seconds=len(pictures) / float(rate) if sound is True else sound)
    return buffer.getvalue()


def only_sound(seconds: float = 1.0) -> bytes:
    """The bytes of a file without a video."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        _silence(out, out.add_stream("aac", rate=16000, layout="mono"), seconds=seconds)
    return buffer.getvalue()


def _silence(out: Any, track: Any, *, seconds: float) -> None:
    kind = track.codec_context.format.name
    for start in range(0, int(seconds * 16000), 320):
        samples: Any = np.zeros((1, 320), np.float32 if kind.startswith("flt") else np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format=kind, layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        out.mux(track.encode(frame))
    out.mux(track.encode())


DIRECTIONS = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0)}


def moving(direction: tuple[int, int], random: np.random.Generator, *, frames: int = 16, side: int = 64) -> np.ndarray:
    """Frames `[frames, side, side, 3]` of a disc or square that moves over a pattern of blocks and comes in again where
    it left. Where it begins is drawn, so that no frame alone says where it moves to.
    """
    blocks = random.integers(60, 140, (8, 8, 3), dtype=np.uint8)
    ground = blocks.repeat(side // 8, 0).repeat(side // 8, 1)
    radius, speed = int(random.integers(7, 12)), int(random.integers(2, 4))
    start, color = random.integers(0, side, 2), random.integers(180, 256, 3)
    ys, xs = np.mgrid[:side, :side]
    round_one = random.random() < 0.5
    shown = []
    for number in range(frames):
        y, x = (start + number * speed * np.array(direction)) % side
        down, across = (np.minimum(np.abs(a - b), side - np.abs(a - b)) for a, b in ((ys, y), (xs, x)))
        inside = down**2 + across**2 < radius**2 if round_one else (down < radius) & (across < radius)
        shown.append(np.where(inside[..., None], color, ground).astype(np.uint8))
    return np.stack(shown)


def action_set(folder: Path, *, each: int, seed: int, frames: int = 16) -> Path:
    """A folder of class folders, one for each direction, with `each` videos in it."""
    random = np.random.default_rng(seed)
    for name, direction in DIRECTIONS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            made = video(moving(direction, random, frames=frames), codec="mpeg4", keys=frames)
            (folder / name / f"{number:03}.mp4").write_bytes(made)
    return folder
