"""Images of more than 8 bits, signed, floating, of many bands: right levels, the values themselves, or a refusal."""

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax import HieraImageProcessor, ImageError, Preprocessing, load_image
from hierax.data import open_dataset
from hierax.data.order import SampleKey
from hierax.data.stats import dataset_statistics
from hierax.data.view import Augmentation, EvaluationView, Example, TrainingView
from hierax.processing.reading import read_image, stored_dtype
from tiffs import tiff

RAMP = np.tile(np.linspace(0, 1, 256), (8, 1))
LEVELS = np.tile(np.arange(256), (8, 1))


def ramp(top: float, dtype: str, low: float = 0) -> np.ndarray:
    values = RAMP * (top - low) + low
    return (values if dtype.startswith("f") else np.rint(values)).astype(dtype)


def png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits, of values [height, width, channels]."""
    height, width, channels = values.shape
    raw = values.astype(">u2").tobytes()
    step = width * channels * 2
    rows = b"".join(b"\0" + raw[i * step : (i + 1) * step] for i in range(height))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def three(values: np.ndarray, count: int = 3) -> np.ndarray:
    return np.stack([values] * count, axis=2)


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


U16 = ramp(65535, "u2")
FULL16 = np.full_like(U16, 65535)
FILES = {
    "uint16": tiff(U16, photometric=1),
    "uint16, big-endian": tiff(U16, photometric=1, order=">"),
    "uint32": tiff(ramp(2**32 - 1, "u4"), photometric=1),
    "int32": tiff(ramp(2**31 - 1, "i4"), photometric=1),
    "int16": tiff(ramp(32767, "i2", -32768), photometric=1),
    "int16, Hounsfield": tiff(ramp(2000, "i2", -1000), photometric=1),
    "int8": tiff(ramp(127, "i1", -128), photometric=1),
    "12 bits in 16": tiff(ramp(4095, "u2"), photometric=1, tags={281: (4095,)}),
    "float16": tiff(ramp(1, "f2"), photometric=1),
    "float32": tiff(ramp(2990, "f4", -10), photometric=1),
    "float64": tiff(ramp(255, "f8"), photometric=1),
    "float32 RGB": tiff(three(ramp(1, "f4")), photometric=2),
    "uint16, white is zero": tiff(65535 - U16, photometric=0),
    "uint8, white is zero": tiff(255 - ramp(255, "u1"), photometric=0),
    "uint16 RGB": tiff(three(U16), photometric=2),
    "uint16 RGB, planes apart": tiff(three(U16), photometric=2, apart=True),
    "uint8 RGB, planes apart": tiff(three(ramp(255, "u1")), photometric=2, apart=True),
    "uint16 gray and alpha": tiff(np.stack([U16, FULL16], 2), photometric=1, tags={338: (2,)}),
    "uint16 RGB and infrared": tiff(np.dstack([three(U16), 0 * U16]), photometric=2, tags={338: (0,)}),
    "uint8 RGB and infrared": tiff(np.dstack([three(ramp(255, "u1")), 0 * ramp(1, "u1")]), photometric=2),
    "uint16 RGBA": tiff(np.dstack([three(U16), FULL16]), photometric=2, tags={338: (2,)}),
    "uint16 CMYK": tiff(np.dstack([three(65535 - U16), 0 * U16]), photometric=5),
    "uint16 palette": tiff(ramp(255, "u2"), photometric=3, tags={320: (*range(0, 65536, 257),) * 3}),
    "LZW and predictor": saved(Image.fromarray(U16), format="TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
    "PNG gray": saved(Image.fromarray(U16), format="PNG"),
    "PNG RGB": png(three(U16)),
    "PNG RGBA": png(np.dstack([three(U16), FULL16])),
    "PNG gray and alpha": png(np.stack([U16, FULL16], 2)),
    "PGM of 4095": b"P5 # a comment\n256 8\n4095\n" + ramp(4095, ">u2").tobytes(),
    "PPM of 1023": b"P6 256 8 1023\n" + three(ramp(1023, "u2")).astype(">u2").tobytes(),
    "PGM of 15 in text": b"P2 256 8 15\n" + b" ".join(b"%d" % v for v in ramp(15, "u2").ravel()) + b"\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_black_is_0_white_is_255_and_nothing_between_is_lost(name: str) -> None:
    for fast in (False, True):
        found = np.asarray(read_image(FILES[name], channels=3, name=name, fast=fast))
        assert found.shape == (8, 256, 3)
        step = 17 if "of 15" in name else 1
        assert np.abs(found[:, :, 0].astype(int) - LEVELS).max() <= (step / 2 if step > 1 else 1)
        assert (found[:, [0, -1]] == [[[0, 0, 0], [255, 255, 255]]]).all()


def test_12_bits_in_16_that_do_not_say_so_are_taken_for_16() -> None:
    assert np.asarray(load_image(tiff(ramp(4095, "u2"), photometric=1))).max() == 16


@pytest.mark.parametrize("bands", [2, 4, 5])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_bands_that_are_no_colors_are_refused_by_name_or_taken_whole(bands: int, dtype: str) -> None:
    values = three(ramp(200, dtype), bands)
    file = tiff(values, photometric=1, tags={338: (0,) * (bands - 1)})
    with pytest.raises(ImageError, match=rf"{bands} bands that are not colors.*num_channels={bands}"):
        load_image(file)
    assert np.array_equal(np.asarray(read_image(file, channels=bands, name="x", unit=False)), values)
    assert np.asarray(read_image(file, channels=bands, name="x")).shape == (8, 256, bands)


@pytest.mark.parametrize("dtype", ["c8"])
def test_a_type_that_is_not_read_is_named(dtype: str) -> None:
    file = tiff(ramp(1, "f4"), photometric=1, tags={339: (6,)})
    with pytest.raises(ImageError, match=r"a TIFF of 1 band of 32 bits \(complex\), which is not read"):
        load_image(file)


def test_transparency_of_16_bits_is_laid_over_white() -> None:
    half = tiff(np.stack([0 * U16, FULL16 // 2], 2), photometric=1, tags={338: (2,)})
    assert np.abs(np.asarray(load_image(half)).astype(int) - 128).max() <= 1


def test_deep_tiffs_are_turned_upright() -> None:
    file = tiff(U16, photometric=1, tags={274: (6,)})
    assert np.asarray(read_image(file, channels=1, name="x")).shape == (256, 8, 1)


def test_a_deep_tiff_that_is_cut_short_or_too_large_is_said_to_be_so() -> None:
    with pytest.raises(ImageError, match="damaged"):
        load_image(tiff(U16, photometric=1, tags={257: (90,), 278: (90,)}))
    with pytest.raises(ImageError, match="larger than --max-pixels 100"):
        load_image(FILES["uint16"], max_pixels=100)


# -- values as they are ------------------------------------------------------------------------------------------------

VALUES = Preprocessing(
    do_rescale=False, image_mean=(30000,), image_std=(9000,), image_dtype="uint16", size={"shortest_edge": 40},
    crop_size={"height": 32, "width": 32},
)  # fmt: skip


@pytest.fixture
def slice16() -> np.ndarray:
    return np.random.default_rng(0).integers(2000, 60000, (48, 52)).astype(np.uint16)


def written(folder: Path, values: np.ndarray) -> list[Path]:
    Image.fromarray(values).save(folder / "a.png")
    np.save(folder / "a.npy", values)
    (folder / "a.tif").write_bytes(tiff(values, photometric=1))
    (folder / "b.tif").write_bytes(tiff(values.astype(np.float32), photometric=1))
    (folder / "a.pgm").write_bytes(b"P5 52 48 60000\n" + values.astype(">u2").tobytes())
    return sorted(folder.iterdir())


def test_the_same_slice_gives_the_same_pixels_from_every_file(tmp_path: Path, slice16: np.ndarray) -> None:
    process = HieraImageProcessor(VALUES)
    expected = process(slice16).pixel_values
    assert float(expected.std()) > 0.1
    for path in written(tmp_path, slice16):
        assert process(path).pixel_values.equal(expected), path
        assert process(path.read_bytes()).pixel_values.equal(expected), path
    assert process(Image.fromarray(slice16)).pixel_values.equal(expected)


def test_training_sees_the_pixels_that_the_processor_makes(tmp_path: Path, slice16: np.ndarray) -> None:
    Image.fromarray(slice16).save(tmp_path / "a.png")
    seen = EvaluationView(open_dataset(tmp_path), VALUES, size=(32, 32))[0]
    assert isinstance(seen, Example)
    expected = HieraImageProcessor(VALUES)(tmp_path / "a.png", return_tensors="np").pixel_values[0]
    assert ((seen.pixels - np.float32(30000)) / np.float32(9000) == expected).all()
    how = Augmentation((32, 32), channels=1, crop_scale=None, flip=False, exact=True)
    drawn = TrainingView(open_dataset(tmp_path), how, seed=0)[SampleKey(0, 0, 0)]
    assert isinstance(drawn, Example)
    assert drawn.pixels.dtype == np.float32
    assert abs(drawn.pixels.mean() - slice16.mean()) < 1500


@pytest.mark.parametrize("record", [VALUES, VALUES.replace(image_dtype=None)])
def test_a_model_of_16_bits_refuses_images_of_8(record: Preprocessing, tmp_path: Path) -> None:
    Image.new("L", (40, 40), 90).save(tmp_path / "a.png")
    Image.new("L", (40, 40), 90).save(tmp_path / "a.jpg")
    for given in (tmp_path / "a.png", (tmp_path / "a.jpg").read_bytes(), Image.new("RGB", (40, 40))):
        with pytest.raises(ImageError, match=r"an image of 8 bits; this model was trained on .* mean 30000"):
            HieraImageProcessor(record)(given)
    seen = EvaluationView(open_dataset(tmp_path), record, size=(32, 32))[0]
    assert "an image of 8 bits" in getattr(seen, "problem", "")


def test_an_array_in_a_file_is_read_as_the_array(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 50, 60), np.float32)
    np.save(tmp_path / "a.npy", values)
    process = HieraImageProcessor()
    assert process(tmp_path / "a.npy").pixel_values.equal(process(values).pixel_values)
    np.save(tmp_path / "stack.npy", np.zeros((4, 3, 8, 8), np.float32))
    with pytest.raises(ImageError, match=r"shape \[4, 3, 8, 8\]"):
        process(tmp_path / "stack.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:200])
    with pytest.raises(ImageError, match="not an array that numpy can read"):
        process(tmp_path / "cut.npy")


def test_an_array_has_the_limit_of_pixels_and_is_not_read_above_it(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 50, 60), np.float32))
    process = HieraImageProcessor(max_pixels=2999)
    with pytest.raises(ImageError, match=r"larger than --max-pixels 2999 \(60 x 50 pixels"):
        process(tmp_path / "a.npy")
    assert HieraImageProcessor(max_pixels=3000)(tmp_path / "a.npy").pixel_values.shape == (1, 3, 224, 224)
    with (tmp_path / "huge.npy").open("wb") as file:  # 3 TB, of which nothing is on the disk
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (500_000, 500_000, 3)}
        )
        file.truncate(file.tell() + 3 * 10**12)
    with pytest.raises(ImageError, match="500000 x 500000 pixels"):
        process(tmp_path / "huge.npy")


def test_a_tiff_of_billions_of_samples_needs_no_memory(tmp_path: Path) -> None:
    content = tiff(U16, photometric=1)
    samples = struct.pack("<HHI", 277, 3, 1) + struct.pack("<I", 1)
    assert samples in content
    tag = struct.pack("<HHII", 277, 4, 1, 0xFFFFFFFF)
    with pytest.raises(ImageError, match="a damaged TIFF file"):
        load_image(content.replace(samples, tag))


@pytest.mark.parametrize(("name", "dtype"), [("uint16", "uint16"), ("float16", "float16"), ("int16", "int16"),
                                             ("PNG RGB", "uint16"), ("uint8, white is zero", "uint8")])  # fmt: skip
def test_the_type_of_values_is_known_from_the_header(name: str, dtype: str) -> None:
    assert stored_dtype(FILES[name], name=name) == dtype


def test_statistics_say_the_types(tmp_path: Path) -> None:
    Image.fromarray(U16).save(tmp_path / "a.png")
    Image.new("RGB", (256, 8)).save(tmp_path / "b.png")
    (tmp_path / "c.tif").write_bytes(FILES["float16"])
    assert dataset_statistics(tmp_path, workers=0).types == {"uint16": 1, "uint8": 1, "float16": 1}


def test_the_record_keeps_the_type(tmp_path: Path) -> None:
    VALUES.write(tmp_path)
    assert Preprocessing.read(tmp_path) == VALUES
    with pytest.raises(ValueError, match="image_dtype is 'words'"):
        VALUES.replace(image_dtype="words")


def test_a_record_that_asks_for_far_too_many_pixels_is_refused() -> None:
    huge = Preprocessing(size={"shortest_edge": 10**9}, crop_size={"height": 10**9, "width": 10**9})
    with pytest.raises(ImageError, match="crop_size is 1000000000 x 1000000000 pixels; expected at most"):
        HieraImageProcessor(huge)(Image.new("RGB", (40, 40)))


def test_a_batch_goes_to_a_type_and_a_device_in_either_order() -> None:
    import torch

    for first, second in ((torch.float16, "meta"), ("meta", torch.float16)):
        moved = HieraImageProcessor()(Image.new("RGB", (40, 40))).to(first, second).pixel_values  # type: ignore[arg-type]
        assert (moved.dtype, moved.device.type) == (torch.float16, "meta")


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("bits", range(1, 16))
def test_values_of_any_number_of_bits_are_unpacked(bits: int, bands: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (8, 30, bands))
    values[0, :2] = [[0], [2**bits - 1]]
    rows = np.packbits(((values.reshape(8, -1, 1) >> np.arange(bits - 1, -1, -1)) & 1).reshape(8, -1), axis=1)
    tags = {256: (30,), 258: (bits,) * bands, 277: (bands,), 339: (1,) * bands}
    file = tiff(rows.astype(np.uint8), photometric=1 if bands == 1 else 2, tags=tags)
    expected = values / (2**bits - 1) * 255
    assert np.abs(np.asarray(load_image(file)) - expected).max() <= 0.5
    if bits > 8:
        assert np.array_equal(np.asarray(read_image(file, channels=bands, name="x", unit=False)), values)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
def test_the_order_of_bits_in_a_byte_is_undone(dtype: str) -> None:
    values = ramp(250, dtype)
    file = bytearray(tiff(values, photometric=1, tags={266: (2,)}))
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    file[8 : 8 + values.nbytes] = file[8 : 8 + values.nbytes].translate(mirrored)
    found = np.asarray(read_image(bytes(file), channels=1, name="x", unit=False))
    assert np.array_equal(found.squeeze(), values)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "u4", "f2", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_of_any_type_have_their_values(dtype: str, order: str) -> None:
    values = np.dstack([ramp(100, dtype), ramp(50, dtype), ramp(25, dtype)])
    file = tiff(values, photometric=2, apart=True, order=order)
    assert np.array_equal(np.asarray(read_image(file, channels=3, name="x", unit=False)), values.astype("f4"))


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ({259: (50002,)}, r"a TIFF compressed by JPEG XL \(compression 50002\), which is not read"),
        ({259: (12345,)}, r"a TIFF compressed by an unknown method \(compression 12345\)"),
        ({258: (8, 8, 4)}, "a TIFF of 3 bands of 8 and 4 bits, which is not read"),
        ({258: (12,) * 3, 317: (2,)}, "a TIFF of 3 bands of 12 bits with a predictor"),
        ({258: (16,) * 3, 262: (8,), 278: (4,), 257: (4,)}, "a TIFF of 3 bands of 16 bits in CIE Lab"),
    ],
)
def test_what_is_not_read_of_a_tiff_is_named(tags: dict[int, tuple[int, ...]], problem: str) -> None:
    with pytest.raises(ImageError, match=problem):
        load_image(tiff(three(ramp(255, "u1")), photometric=2, tags=tags))


def bigtiff(values: np.ndarray, order: str, tags: dict[int, int]) -> bytes:
    """A BigTIFF of one strip of gray that is not compressed."""
    data = values.tobytes()
    given = {256: values.shape[1], 257: values.shape[0], 258: values.dtype.itemsize * 8, 259: 1, 262: 1, 273: 16,
             277: 1, 278: values.shape[0], 279: len(data), **tags}  # fmt: skip
    entries = [struct.pack(f"{order}HHQQ", tag, 16, 1, value) for tag, value in sorted(given.items())]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HHHQ", 43, 8, 0, 16 + len(data))
    return head + data + struct.pack(f"{order}Q", len(entries)) + b"".join(entries) + bytes(8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_a_bigtiff_is_read_in_both_byte_orders(order: str, dtype: str) -> None:
    values = ramp({"u1": 255, "u2": 65535, "f4": 1}[dtype], dtype)
    file = bigtiff(values.astype(order + dtype), order, {339: 3 if dtype == "f4" else 1})
    assert np.array_equal(np.asarray(read_image(file, channels=1, name="x", unit=False))[..., 0:].squeeze(), values)
    assert np.abs(np.asarray(load_image(file))[:, :, 0].astype(int) - LEVELS).max() <= 1


def test_the_predictor_of_floats_is_undone() -> None:
    """Predictor 3 of TIFF: bytes of the same place together, each as the difference from the one before."""
    values = ramp(1, "f4")
    planes = values.astype(">f4").view("u1").reshape(8, 256, 4).transpose(0, 2, 1).reshape(8, -1)
    rows = np.diff(planes, axis=1, prepend=np.uint8(0)).astype("u1")
    packed = zlib.compress(rows.tobytes())
    file = bytearray(
        tiff(np.frombuffer(packed.ljust(-(-len(packed) // 8) * 8, b"\0"), "u1").reshape(8, -1), photometric=1)
    )
    for tag, value in ((256, 256), (257, 8), (258, 32), (259, 8), (278, 8), (339, 3)):
        place = file.index(struct.pack("<HH", tag, 3), len(packed))
        file[place + 8 : place + 10] = struct.pack("<H", value)
    place = file.index(struct.pack("<HH", 284, 3), len(packed))
    file[place : place + 10] = struct.pack("<HHIH", 317, 3, 1, 3)  # planes are together anyhow
    assert np.array_equal(np.asarray(read_image(bytes(file), channels=1, name="x", unit=False))[:, :, 0], values)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF of 16 bits"])
def test_the_orientation_tag_is_applied_in_every_format_and_by_every_reader(form: str, orientation: int) -> None:
    from hierax.data.partial_decode import read_crop

    corner = np.zeros((64, 96), np.uint8)
    corner[:32, :32] = 255  # upper left, in the file
    place = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[
        orientation
    ]
    if form.endswith("bits"):
        file = tiff(corner.astype(np.uint16) * 257, photometric=1, tags={274: (orientation,)})
    else:
        exif = Image.Exif()
        exif[274] = orientation
        options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
        file = saved(Image.fromarray(corner).convert("RGB"), format=form, exif=exif, **options)
    shape = (96, 64) if orientation > 4 else (64, 96)
    found = [np.asarray(read_image(file, channels=3, name="x", fast=fast)) for fast in (False, True)]
    found.append(read_crop(file, channels=3, name="x", part=lambda h, w: (0, 0, h, w), size=shape))
    for image in found:
        assert image.shape == (*shape, 3)
        corners = {(y, x): int(image[-4 if y else 3, -4 if x else 3, 0]) for y in (0, -1) for x in (0, -1)}
        assert [key for key, value in corners.items() if value > 128] == [place]


def test_jpeg_2000_of_16_bits_keeps_its_values() -> None:
    file = saved(Image.fromarray(U16), format="JPEG2000")
    assert stored_dtype(file, name="x") == "uint16"
    assert np.array_equal(np.asarray(read_image(file, channels=1, name="x", unit=False))[:, :, 0], U16)
    assert np.abs(np.asarray(load_image(file))[:, :, 0].astype(int) - LEVELS).max() <= 1


# 8 x 8 pixels of 12 bits, 0, 65, 130, … to 4095
JPEG_2000_12_BITS = base64.b64decode(
    "/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABCwEB/1IADAAAAAEAAAQEAAH/XAAEQGD/ZAAlAAFDcmVh"
    "dGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAABmAAH/k9/hVBIsQqeXlbFDDtYoP97oKcVIuDRWEuF5DpiRhU9D"
    "0Zh+EpvOO8N5vXFJxoU3gmJWFbc5znXqSkAMwCgAB0Rl1SPMU4YLXGfa6ymrhOuAcNhsNhsNhsP/2Q=="
)


def test_jpeg_2000_of_12_bits_has_values_of_12_bits() -> None:
    values = np.asarray(read_image(JPEG_2000_12_BITS, channels=1, name="x", unit=False))[:, :, 0]
    assert np.array_equal(values, np.arange(64).reshape(8, 8) * 65)
    assert np.asarray(load_image(JPEG_2000_12_BITS))[7, 7].tolist() == [255, 255, 255]


def test_signed_jpeg_2000_has_signed_values() -> None:
    data = bytearray(JPEG_2000_12_BITS)
    data[data.index(b"\xff\x4f\xff\x51") + 42] |= 128  # "signed"; the decoder then adds no half of the range
    values = np.asarray(read_image(bytes(data), channels=1, name="x", unit=False))[:, :, 0]
    assert np.array_equal(values, np.arange(64).reshape(8, 8) * 65 - 2048)
    assert stored_dtype(bytes(data), name="x") == "int16"


# 16 x 16 pixels, RGB of 16 bits: 0, 80, 160, … to 61360
JPEG_2000_RGB_16_BITS = base64.b64decode(
    "/0//UQAvAAAAAAAQAAAAEAAAAAAAAAAAAAABAAAAAQAAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEABgICAAH/XAAWIICIiJCIiJCI"
    "iJCIiJCIiJCIiJD/ZAARAAFMYXZjNjIuMjguMTAy/5AACgAAAAABFgAB/5PP/BgMCC/Hz/wYDAgWT8/8GAwIFE8AAAAAAADB/gCv/EgM"
    "BH8EgC/B/gCv/EgMBH8EgC/B/gCv/EgMBH8EgC/A/kFn/hgMDQMAyH8LPgJkXn/A/kFn/hgMDQMAyH8LPgJkXn/A/kFn/hgMDQMAyH8L"
    "PgJkXn/AfsDx/0GCACIaE/Eqti8Df+mT/n9zZ8B+wPH/QYIAIhoT8Sq2LwN/6ZP+f3NnwH7A8f9BggAiGhPxKrYvA3/pk/5/c2fAH4BM"
    "H+AoNqGFRRVgEWNHPaYu2pQkBHhqX8AfgEwf4Cg2oYVFFWARY0c9pi7alCQEeGpfwB+ATB/gKDahhUUVYBFjRz2mLtqUJAR4al//2Q=="
)


def test_jpeg_2000_colors_of_more_than_8_bits_are_refused_where_values_count() -> None:
    assert stored_dtype(JPEG_2000_RGB_16_BITS, name="x") == "uint16"
    expected = (np.arange(16 * 16 * 3).reshape(16, 16, 3) * 80) / 257
    assert np.abs(np.asarray(load_image(JPEG_2000_RGB_16_BITS)) - expected).max() <= 1.5  # Pillow shifts
    for channels in (1, 3):
        with pytest.raises(ImageError, match=r"x: a JPEG 2000 image of 3 bands of 16 bits, which is not read"):
            read_image(JPEG_2000_RGB_16_BITS, channels=channels, name="x", unit=False)


def test_images_of_one_bit_palettes_cmyk_and_lab_have_their_colors() -> None:
    white = Image.new("RGB", (16, 16), "white")
    for mode, form in (("1", "PNG"), ("1", "TIFF"), ("P", "PNG"), ("P", "GIF"), ("CMYK", "TIFF"), ("CMYK", "JPEG")):
        assert load_image(saved(white.convert(mode), format=form)).getpixel((8, 8)) == (255, 255, 255), (mode, form)
    lab = Image.new("LAB", (16, 16), (120, 183, 177))  # of RGB 200, 60, 30
    found = np.asarray(load_image(saved(lab, format="TIFF")))[8, 8].astype(int)
    assert np.abs(found - (200, 60, 30)).max() <= 1
