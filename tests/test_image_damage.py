"""JPEGs and PNGs that end too early or have lost parts: one rule, whichever decoder reads them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax import HieraImageProcessor, ImageError, load_image
from hierax.data.partial_decode import read_part
from hierax.processing.reading import read_picture

PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (30, 40, 3)), np.ones((16, 16, 1))).astype(np.uint8)


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def damaged(data: bytes) -> dict[str, bytes]:
    """Ways in which a file may have lost a part, by name."""
    place = len(data) * 2 // 3
    return {
        "cut": data[:place],
        "cut by two bytes": data[:-2],
        "filled with zeros to its end": data[:place] + bytes(len(data) - place),
        "cut, with an end marker": data[:place] + b"\xff\xd9",
        "zeros within": data[:place] + bytes(500) + data[place + 500 :],
        "a part removed": data[:place] + data[place + 500 :],
    }


def readers(data: bytes) -> dict[str, Any]:
    """All ways in which commands read an image."""
    return {
        "exact": lambda: HieraImageProcessor()(data),
        "fast": lambda: HieraImageProcessor(fast=True)(data),
        "image": lambda: load_image(data),
        "evaluation": lambda: read_picture(data, channels=3, name="image", fast=True),
        "training": lambda: part(data, 64),
        "training at full scale": lambda: part(data, 400),
    }


def part(data: bytes, side: int) -> np.ndarray:
    return read_part(data, channels=3, name="image", part=lambda h, w: (0, 0, h, w), size=(side, side))


@pytest.mark.parametrize("how", damaged(jpeg()))
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("reader", readers(b""))
def test_a_jpeg_with_lost_parts_is_an_error_for_every_reader(how: str, progressive: bool, reader: str) -> None:
    pytest.importorskip("simplejpeg")
    data = damaged(jpeg(progressive=progressive))[how]
    with pytest.raises(ImageError, match="image: damaged or truncated"):
        readers(data)[reader]()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colors_are_looked_at_too(mode: str) -> None:
    pytest.importorskip("simplejpeg")
    load_image(jpeg(mode))
    with pytest.raises(ImageError, match="damaged or truncated"):
        load_image(damaged(jpeg(mode))["cut, with an end marker"])


@pytest.mark.parametrize("how", ["cut", "cut by two bytes", "filled with zeros to its end"])
@pytest.mark.parametrize("reader", readers(b""))
def test_without_simplejpeg_what_ends_too_early_is_an_error(
    how: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("data.partial_decode", "processing.decode", "processing.jpeg"):
        monkeypatch.setattr(f"hierax.{module}.simplejpeg", lambda: None)
    with pytest.raises(ImageError, match="damaged or truncated"):
        readers(damaged(jpeg())[how])[reader]()


def test_what_stands_behind_the_end_or_before_its_marker_is_no_damage() -> None:
    data, scan = jpeg(), b"\xff\xda\x00\x08"
    for whole in (data + scan * 200, data + bytes(1000), data[:-2] + bytes(5) + data[-2:]):
        for read in readers(whole).values():
            read()


def test_a_jpeg_of_a_thousand_scans_is_refused_by_every_reader() -> None:
    data = jpeg(progressive=True)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    for read in readers(data[:-2] + scan * 1000 + data[-2:]).values():
        with pytest.raises(ImageError, match="a JPEG of more than 100 scans"):
            read()


def png(*chunks: tuple[bytes, bytes], width: int = 64, after: int = 0) -> bytes:
    """A gray PNG of 64 rows with chunks before its pixels, and empty ones after them."""
    head = struct.pack(">IIBBBBB", width, 64, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(65 * 64))
    every = [(b"IHDR", head), *chunks, (b"IDAT", pixels), *[(b"teSt", b"")] * after, (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in every]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (png(*[(b"teSt", b"")] * 12_000), "a PNG of more than 10,"),
        (png(after=12_000), "a PNG of more than 10,"),
        (png((b"iCCP", b"a\0\0" + zlib.compress(bytes(5_000_000), 9))), "MAX_TEXT_CHUNK"),
        (png(*[(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)))] * 80), "Too much memory"),
        (png(width=2_000_000), "a side of 2,000,000 pixels; expected at most 1,048,576"),
    ],
)
def test_a_png_that_costs_far_more_than_an_image_is_refused_by_every_reader(data: bytes, problem: str) -> None:
    for read in readers(data).values():
        with pytest.raises(ImageError, match=problem):
            read()


def test_one_bad_file_is_one_row_of_errors(tmp_path: Path) -> None:
    from hierax.embedding import embed

    (tmp_path / "bomb.png").write_bytes(png(*[(b"teSt", b"")] * 12_000))
    (tmp_path / "cut.jpg").write_bytes(damaged(jpeg())["cut"])
    (tmp_path / "good.jpg").write_bytes(jpeg())
    report = embed(tmp_path, tmp_path / "out", workers=0)
    assert (report.rows, report.errors) == (1, 2)
