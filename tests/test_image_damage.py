"""JPEGs and PNGs that end too early or have lost parts: one rule, whichever decoder reads them."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax import HieraImageProcessor, ImageError, load_image
from hierax.data.partial_decode import read_crop
from hierax.processing.reading import read_image

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
    """All ways in which an image is read: by commands, and if the caller has opened it with Pillow."""
    return {
        **file_readers(data),
        "opened": lambda: HieraImageProcessor()(opened(data)),
        "opened, fast": lambda: HieraImageProcessor(fast=True)(opened(data)),
        "opened, as a crop": lambda: read_crop(
            opened(data), channels=3, name="image", part=lambda h, w: (0, 0, h, w), size=(64, 64)
        ),
    }


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def file_readers(data: bytes) -> dict[str, Any]:
    """All ways in which commands read an image."""
    return {
        "exact": lambda: HieraImageProcessor()(data),
        "fast": lambda: HieraImageProcessor(fast=True)(data),
        "image": lambda: load_image(data),
        "evaluation": lambda: read_image(data, channels=3, name="image", fast=True),
        "training": lambda: part(data, 64),
        "training at full scale": lambda: part(data, 400),
    }


def part(data: bytes, side: int) -> np.ndarray:
    return read_crop(data, channels=3, name="image", part=lambda h, w: (0, 0, h, w), size=(side, side))


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
        (
            png((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(5_000_000)))),
            "its EXIF or XMP metadata are",
        ),
        (png(width=2_000_000), "a side of 2,000,000 pixels; expected at most 1,048,576"),
    ],
)
def test_a_png_that_costs_far_more_than_an_image_is_refused_by_every_reader(data: bytes, problem: str) -> None:
    for read in file_readers(data).values():
        with pytest.raises(ImageError, match=problem):
            read()


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"iCCP", b"a\0\0" + zlib.compress(np.random.default_rng(0).bytes(3_000_000), 1))],
        [(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))],
        [(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)))] * 80,
        [(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(2_000_000)))],
        [(b"tEXt", b"k\0" + bytes(70_000_000))],
    ],
)
def test_a_png_is_read_whatever_the_size_of_its_profile_and_texts(chunks: list[tuple[bytes, bytes]]) -> None:
    for read in file_readers(png(*chunks)).values():
        read()


ROWS = np.random.default_rng(1).integers(1, 256, (64, 64 * 8), np.uint8)


def short_png(color: int, depth: int, share: float, interlaced: int = 0) -> bytes:
    """A PNG of 64 x 64 pixels whose compressed data are whole, but of this share of its rows."""
    count = 64 * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] * depth // 8
    rows = b"".join(b"\0" + row[:count].tobytes() for row in ROWS)
    head = struct.pack(">IIBBBBB", 64, 64, depth, color, 0, 0, interlaced)
    palette = [(b"PLTE", bytes(range(256)) * 3)] if color == 3 else []
    data = zlib.compress(rows[: int(len(rows) * share)])
    every = [(b"IHDR", head), *palette, (b"IDAT", data[:40]), (b"IDAT", data[40:]), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in every]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("color", "depth"), [(0, 8), (2, 8), (3, 8), (4, 8), (6, 8), (0, 16), (2, 16), (6, 16), (0, 1)]
)
def test_a_png_whose_data_end_at_a_row_is_an_error_for_every_reader(color: int, depth: int) -> None:
    load_image(short_png(color, depth, 1))
    for read in readers(short_png(color, depth, 0.75)).values():
        with pytest.raises(ImageError, match=r"damaged or truncated .*end after 48 of 64 rows"):
            read()


def test_a_png_that_ends_within_a_row_or_is_interlaced_is_an_error_too() -> None:
    for data in (short_png(2, 8, 0.7), short_png(2, 8, 0), short_png(0, 8, 0.5, 1), short_png(0, 8, 63 / 64, 1)):
        with pytest.raises(ImageError, match="damaged or truncated"):
            load_image(data)


@pytest.mark.parametrize("side", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_black_png_is_whole(side: int, interlaced: int) -> None:
    columns = [-(-(side - x) // dx) for x, dx in ((0, 8), (4, 8), (0, 4), (2, 4), (0, 2), (1, 2), (0, 1))]
    rows = [-(-(side - y) // dy) for y, dy in ((0, 8), (0, 8), (4, 8), (0, 4), (2, 4), (0, 2), (1, 2))]
    need = sum(r * (c + 1) for c, r in zip(columns, rows, strict=True) if c > 0) if interlaced else side * (side + 1)
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, interlaced)
    every = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(need))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in every]
    assert load_image(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).getpixel((0, 0)) == (0, 0, 0)


def test_an_icon_with_such_a_png_is_an_error() -> None:
    for share, whole in ((1, True), (0.5, False)):
        data = short_png(2, 8, share)
        icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 64, 64, 0, 0, 1, 32, len(data), 22) + data
        if whole:
            load_image(icon)
        else:
            for source in (icon, opened(icon)):
                with pytest.raises(ImageError, match="32 of 64 rows"):
                    load_image(source)


def changed(data: bytes, tag: int, field: int, change: int) -> bytes:
    """A TIFF with a number of a tag divided by `change`: its count (field 4) or its value (field 8)."""
    place = struct.unpack("<I", data[4:8])[0]
    (count,) = struct.unpack("<H", data[place : place + 2])
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] == tag:
            (value,) = struct.unpack("<I", data[entry + field : entry + field + 4])
            return data[: entry + field] + struct.pack("<I", value // change) + data[entry + field + 4 :]
    raise AssertionError(tag)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "I;16"])
@pytest.mark.parametrize("how", ["fewer strips", "fewer bytes"])
@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_a_tiff_that_states_less_than_its_image_takes_is_an_error(mode: str, how: str, compression: str) -> None:
    if compression == "jpeg" and mode not in ("RGB", "L"):
        pytest.skip("JPEG has no such values")
    image = Image.fromarray(PIXELS[:64, :48])
    image = (
        Image.fromarray(np.asarray(image)[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    )
    file, rows = io.BytesIO(), 16 if how == "fewer strips" else 64
    image.save(file, "TIFF", compression=compression, tiffinfo={278: rows})
    load_image(file.getvalue())
    short = changed(file.getvalue(), *((273, 4, 2) if how == "fewer strips" else (279, 8, 2)))
    for source in (short, opened(short)):
        with pytest.raises(ImageError, match="damaged"):
            load_image(source)


def test_a_jpeg_2000_image_without_one_of_its_tiles_is_an_error() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS[:64, :64]).save(file, "JPEG2000", no_jp2=True, tile_size=(32, 32))
    data = file.getvalue()
    load_image(data)
    short = data[: data.rindex(b"\xff\x90")] + b"\xff\xd9"
    for source in (short, opened(short)):
        with pytest.raises(ImageError, match=r"damaged or truncated \(3 of 4 tiles\)"):
            load_image(source)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "JPEG2000", "ICO", "GIF", "WEBP", "BMP"])
def test_an_image_that_the_caller_opened_is_read_as_its_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    Image.fromarray(PIXELS[:64, :64]).save(path, kind)
    wanted = np.asarray(load_image(path))
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(load_image(image)), wanted)
        assert np.array_equal(np.asarray(load_image(image)), wanted)  # decoded by now
        assert np.array_equal(np.asarray(load_image(image.copy())), wanted)
        assert np.array_equal(np.asarray(load_image(pickle.loads(pickle.dumps(image)))), wanted)


def test_of_frames_and_pages_that_the_caller_chose_only_the_first_is_checked(tmp_path: Path) -> None:
    for kind in ("PNG", "TIFF", "GIF"):
        pages = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
        pages[0].save(tmp_path / "pages", kind, save_all=True, append_images=pages[1:])
        with Image.open(tmp_path / "pages") as image:
            for page, color in ((1, (0, 255, 0)), (0, (255, 0, 0)), (1, (0, 255, 0))):
                image.seek(page)
                assert load_image(image).getpixel((0, 0)) == color


def test_a_closed_image_of_the_caller_is_an_image_error(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(ImageError, match="image: damaged or truncated"):
        load_image(image)


def test_one_bad_file_is_one_row_of_errors(tmp_path: Path) -> None:
    from hierax.embedding import embed

    (tmp_path / "bomb.png").write_bytes(png(*[(b"teSt", b"")] * 12_000))
    (tmp_path / "cut.jpg").write_bytes(damaged(jpeg())["cut"])
    (tmp_path / "good.jpg").write_bytes(jpeg())
    report = embed(tmp_path, tmp_path / "out", workers=0)
    assert (report.rows, report.errors) == (1, 2)
