"""Masks of every kind are read as the numbers that they hold, and every trap has its message."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax.data import open_segmentation, open_segmentation_splits
from hierax.data.segmentation.masks import read_mask
from hierax.notices import Notice
from hierax.processing import ImageError
from samples import encoded, picture

VALUES = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)


def palette_image(values: np.ndarray = VALUES) -> Image.Image:
    image = Image.fromarray(values).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    colors = np.random.default_rng(0).permutation(256).astype(np.uint8)[:, None] * np.array([1, 3, 5], np.uint8)
    image.putpalette(colors.tobytes())
    return image


def write(folder: Path, *masks: Image.Image | np.ndarray | bytes, suffix: str = ".png", exif: Any = None) -> Path:
    """Images and masks a, b, …; the masks as they are given."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, mask in zip("abcdefgh", masks, strict=False):
        data = mask if isinstance(mask, bytes) else encoded(mask if isinstance(mask, Image.Image) else png(mask))
        (folder / "masks" / f"{name}{suffix}").write_bytes(data)
        with Image.open(io.BytesIO(data)) as opened:
            image = picture(opened.height, opened.width)
        image.save(folder / "images" / f"{name}.jpg", **({} if exif is None else {"exif": exif}))
    return folder


def png(values: Any) -> Image.Image:
    return Image.fromarray(np.asarray(values, values.dtype if isinstance(values, np.ndarray) else np.uint8))


def targets(folder: Path, **options: Any) -> list[Any]:
    data = open_segmentation(folder, **options)
    return [data.sample(i).target.tolist() for i in range(len(data))]  # type: ignore[union-attr]


def orientation(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


# -- kinds of masks ---------------------------------------------------------------------------------------------------

FORMS = {
    "8-bit gray": encoded(png(VALUES)),
    "2-bit gray": encoded(png(VALUES), bits=2),
    "4-bit gray": encoded(png(VALUES), bits=4),
    "palette": encoded(palette_image()),
    "palette of 2 bits": encoded(palette_image(), bits=2),
    "16-bit gray": encoded(png(VALUES.astype(np.uint16))),
    "16-bit TIFF": encoded(png(VALUES.astype(np.uint16)), "TIFF"),
    "32-bit TIFF": encoded(png(VALUES.astype(np.int32)), "TIFF"),
    "TIFF of whole floats": encoded(png(VALUES.astype(np.float32)), "TIFF"),
    "8-bit TIFF": encoded(png(VALUES), "TIFF"),
    "BMP": encoded(png(VALUES), "BMP"),
    "GIF": encoded(palette_image(), "GIF"),
    "gray saved as RGB": encoded(png(VALUES).convert("RGB")),
    "gray saved as opaque RGBA": encoded(png(VALUES).convert("RGBA")),
    "gray with opaque alpha": encoded(png(VALUES).convert("LA")),
    "lossless WebP": encoded(png(VALUES).convert("RGB"), "WEBP", lossless=True),
    "PGM of 16 bits": b"P5 3 2 65535\n" + VALUES.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_every_form_hold_the_numbers_of_classes(form: str) -> None:
    assert read_mask(FORMS[form], name="x").values.tolist() == VALUES.tolist()


def test_a_mask_of_one_bit_is_0_and_1(tmp_path: Path) -> None:
    image = png([[0, 255], [255, 0]]).convert("1")
    assert targets(write(tmp_path, image)) == [[[0, 1], [1, 0]]]


def test_65535_is_255_in_masks_of_16_bits(tmp_path: Path) -> None:
    values = np.array([[0, 65535], [3, 1]], np.uint16)
    data = open_segmentation(write(tmp_path, values))
    assert data.sample(0).target.tolist() == [[0, 255], [3, 1]]  # type: ignore[union-attr]
    assert data.classes == ("0", "1", "2", "3")


def test_a_palette_is_never_read_as_gray_and_names_the_colors(tmp_path: Path) -> None:
    image = palette_image()
    data = open_segmentation(write(tmp_path, image))
    assert data.sample(0).target.tolist() == VALUES.tolist()  # type: ignore[union-attr]
    assert data.palette.tolist() == [image.getpalette()[3 * i : 3 * i + 3] for i in range(4)]  # type: ignore


def test_gray_palettes_are_no_colors(tmp_path: Path) -> None:
    image = Image.frombytes("P", (3, 2), VALUES.tobytes())
    image.putpalette(bytes(np.repeat(np.arange(256, dtype=np.uint8), 3)))
    assert open_segmentation(write(tmp_path, image)).palette is None


# -- traps ------------------------------------------------------------------------------------------------------------

REFUSED = {
    "JPEG": (encoded(png(VALUES), "JPEG"), "a mask saved as JPEG, which changes the numbers of classes at all edges"),
    "WebP": (encoded(png(VALUES).convert("RGB"), "WEBP"), "a mask saved as WEBP"),
    "alpha": (encoded(picture(channels=4)), r"a mask with transparency \(RGBA\)"),
    "gray with alpha": (encoded(picture(channels=4).convert("LA")), r"a mask with transparency \(LA\)"),
    "an array": (b"\x93NUMPY" + bytes(80), r"an array \(.npy\); expected an image"),
    "floats": (encoded(png(np.array([[0.5, 1]], np.float32)), "TIFF"), "floats that are not whole numbers"),
    "CMYK": (encoded(picture().convert("CMYK"), "TIFF"), "color mode CMYK; expected class numbers"),
    "text": (b"no image at all", "not an image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_mask_is_refused_by_name(kind: str) -> None:
    data, text = REFUSED[kind]
    with pytest.raises(ImageError, match=f"^masks/a: .*{text}"):
        read_mask(data, name="masks/a")


def test_16_bit_colors_are_refused() -> None:
    header = (3).to_bytes(4, "big") + (2).to_bytes(4, "big") + b"\x10\x02\0\0\0"
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(18)) * 2
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="a mask of 16-bit colors"):
        read_mask(data, name="x")


def test_masks_of_0_and_255_alone_are_two_classes_and_a_notice_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([[0, 255]], np.uint8), np.array([[0, 0]], np.uint8))
    with pytest.warns(Notice, match="hold only 0 and 255; 255 is taken as class 1, not as pixels without a class"):
        assert targets(folder) == [[[0, 1]], [[0, 0]]]
    with pytest.warns(Notice, match="hold only 0 and 255"):
        data = open_segmentation(folder, classes=["sky", "cat"])
    assert data.classes == ("sky", "cat")
    assert targets(folder, classes=["a", "b", "c"]) == [[[0, 255]], [[0, 0]]]  # three classes: 255 is none of them


def test_what_255_means_can_be_stated(tmp_path: Path) -> None:
    """As for a validation set, which must be read as the training set is."""
    folder = write(tmp_path, np.array([[0, 255]], np.uint8))
    assert targets(folder, classes=["sky", "cat"], binary=False) == [[[0, 255]]]
    assert targets(folder, classes=["sky", "cat"], binary=True) == [[[0, 1]]]
    assert open_segmentation(folder, binary=True).numbering.binary


def test_0_and_255_beside_1_mean_no_class(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([[0, 255]], np.uint8), np.array([[0, 1]], np.uint8))
    assert targets(folder) == [[[0, 255]], [[0, 1]]]


def test_both_splits_decide_together_what_255_means(tmp_path: Path) -> None:
    write(tmp_path / "train", np.array([[0, 1]], np.uint8))
    write(tmp_path / "val", np.array([[0, 255]], np.uint8))
    _, validation = open_segmentation_splits(tmp_path, fraction=0, seed=0)
    assert validation is not None
    assert validation.sample(0).target.tolist() == [[0, 255]]  # type: ignore[union-attr]


def test_gray_levels_are_not_taken_as_numbers_of_classes(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([[0, 128, 255]], np.uint8))
    with pytest.raises(ValueError, match="hold only 0, 128, 255, which look like gray levels"):
        open_segmentation(folder)
    assert targets(folder, colors={"sky": 0, "sea": 128, "land": 255}) == [[[0, 1, 2]]]
    names = [str(i) for i in range(150)]
    assert targets(folder, classes=names) == [[[0, 128, 255]]]


def test_a_number_beyond_the_classes_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([[0, 1]], np.uint8), np.array([[2, 1]], np.uint8))
    with pytest.raises(
        ValueError,
        match=r"masks/b.png: class 2, but there are 2 classes \(the classes that were given\).*reduce_labels",
    ):
        open_segmentation(folder, classes=["a", "b"])
    write(folder, np.array([[0, 1]], np.uint8), np.array([[7, 1]], np.uint8))
    with pytest.raises(
        ValueError, match=r"b.png: class 7, but there are 2 classes .*; expected 0 to 1, or 255 for none$"
    ):
        open_segmentation(folder, classes=["a", "b"])


def test_such_a_mask_is_also_refused_when_it_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([[0, 1]], np.uint8))
    data = open_segmentation(folder)
    write(folder, np.array([[0, 2]], np.uint8))
    with pytest.raises(ValueError, match=r"masks/a.png: class 2, but there are 2 classes; expected 0 to 1"):
        data.sample(0)


def test_numbers_of_objects_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a.png: the value 1007; expected class numbers from 0 to 254"):
        open_segmentation(write(tmp_path, np.array([[0, 1007]], np.uint16)))
    folder = write(tmp_path, np.arange(997, 1006, dtype=np.uint16)[None])
    with pytest.raises(ValueError, match=r"a.png: the value 1005; expected class numbers from 0 to 254"):
        open_segmentation(folder)


def test_labels_are_reduced_on_request_alone_and_once(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([[0, 1, 2]], np.uint8))
    assert targets(folder) == [[[0, 1, 2]]]
    assert targets(folder, reduce_labels=True) == [[[255, 0, 1]]]
    data = open_segmentation(folder, reduce_labels=True, classes=["wall", "sky"])
    assert data.classes == ("wall", "sky")
    with pytest.raises(ValueError, match=r"a.png: class 1, but there are 1 classes"):
        open_segmentation(folder, reduce_labels=True, classes=["wall"])


def test_masks_that_were_reduced_before_are_noticed(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([[255, 0, 1]], np.uint8))
    with pytest.warns(Notice, match=r"a.png holds 255 already: masks whose labels were reduced before must not be"):
        open_segmentation(folder, reduce_labels=True)


def test_colors_without_a_table_are_refused_with_an_example(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8))
    with pytest.raises(
        ValueError, match=r"none of 1 image with masks can be used; the first: .*a.png: a mask in color, .*#ff0000"
    ):
        open_segmentation(folder)


def test_colors_are_classes_by_their_table(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([[[255, 0, 0], [0, 0, 0], [9, 9, 9]]], np.uint8))
    colors = {"sky": (0, 0, 0), "rose": "#ff0000", "void": (9, 9, 9)}
    data = open_segmentation(folder, colors=colors)
    assert data.classes == ("sky", "rose")
    assert data.palette.tolist() == [[0, 0, 0], [255, 0, 0]]  # type: ignore[union-attr]
    assert data.sample(0).target.tolist() == [[1, 0, 255]]  # type: ignore[union-attr]
    assert targets(folder, colors=colors, classes=["rose", "sky"]) == [[[0, 1, 255]]]
    with pytest.raises(
        ValueError, match=r"a.png: 1 pixels of colors .* #090909 at column 2, row 0; expected one of the 2"
    ):
        open_segmentation(folder, colors={"sky": (0, 0, 0), "rose": "#ff0000"})


def test_a_palette_image_is_read_by_color_if_colors_are_given(tmp_path: Path) -> None:
    image = palette_image(np.array([[0, 1]], np.uint8))
    first, second = (tuple(image.getpalette()[3 * i : 3 * i + 3]) for i in (0, 1))  # type: ignore[index]
    folder = write(tmp_path, image)
    assert targets(folder, colors={"b": second, "a": first}) == [[[1, 0]]]


@pytest.mark.parametrize(
    ("colors", "text"),
    [
        ({"a": (1, 2)}, r"colors\['a'\] is \(1, 2\); expected red, green and blue"),
        ({"a": (1, 2, 300)}, r"colors\['a'\]"),
        ({"a": 0, "b": 0}, "'b' and 'a' have the same color"),
        ({}, "colors is empty"),
    ],
)
def test_colors_that_cannot_be_are_refused(colors: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        open_segmentation(write(tmp_path, VALUES), colors=colors)


# -- the image and its mask -------------------------------------------------------------------------------------------


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, VALUES)
    picture(20, 30).save(folder / "images" / "a.jpg")
    with pytest.raises(
        ValueError, match=r"images/a.jpg: the image has 30 x 20 pixels, its mask 3 x 2; expected the same"
    ):
        open_segmentation(folder)


def test_a_mask_of_a_turned_photo_may_be_upright_but_not_lie(tmp_path: Path) -> None:
    folder = write(tmp_path, VALUES, exif=orientation(6))  # stored as 2 x 3: both lie
    with pytest.raises(
        ValueError,
        match=r"images/a.jpg: the image is turned by its EXIF orientation \(6\), but its mask is not; save both",
    ):
        open_segmentation(folder)
    encoded_mask = encoded(png(VALUES.T.copy()))
    (folder / "masks" / "a.png").write_bytes(encoded_mask)
    assert targets(folder) == [VALUES.T.tolist()]


@pytest.mark.parametrize("tag", [2, 3, 4])
def test_a_turn_that_no_size_shows_is_refused(tag: int, tmp_path: Path) -> None:
    folder = write(tmp_path, VALUES, exif=orientation(tag))
    with pytest.raises(
        ValueError,
        match=rf"the image is turned by its EXIF orientation \({tag}\), but the mask states none, and its size",
    ):
        open_segmentation(folder)


def test_a_turned_square_is_refused_and_a_mask_that_is_turned_alone_too(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", np.eye(4, dtype=np.uint8), exif=orientation(6))
    with pytest.raises(ValueError, match="but the mask states none, and its size does not show"):
        open_segmentation(folder)
    folder = write(tmp_path / "b", encoded(png(VALUES), exif=orientation(3)))
    with pytest.raises(
        ValueError, match=r"the mask is turned by its EXIF orientation \(3\), but the image states none"
    ):
        open_segmentation(folder)


def test_a_mask_with_the_orientation_of_its_photo_is_turned_with_it(tmp_path: Path) -> None:
    folder = write(tmp_path, encoded(png(VALUES), exif=orientation(6)), exif=orientation(6))
    assert targets(folder) == [np.rot90(VALUES, -1).tolist()]


def test_some_masks_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    folder = write(tmp_path, VALUES, VALUES)
    (folder / "masks" / "b.png").write_bytes(REFUSED["JPEG"][0])
    with pytest.warns(Notice, match=r"1 of 2 images with masks cannot be used; .*b.png: a mask saved as JPEG"):
        data = open_segmentation(folder)
    with pytest.raises(ValueError, match=r"b.png: a mask saved as JPEG"):
        data.sample(1)


@pytest.mark.parametrize("tag", [1, 6])
def test_a_tiff_is_turned_with_its_mask(tag: int, tmp_path: Path) -> None:
    """Pillow turns a TIFF while it decodes."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    picture(2, 3).save(tmp_path / "images" / "a.tif", exif=orientation(tag))
    png(VALUES).save(tmp_path / "masks" / "a.tif", exif=orientation(tag))
    expected = VALUES if tag == 1 else np.rot90(VALUES, -1)
    assert targets(tmp_path) == [expected.tolist()]
    png(VALUES).save(tmp_path / "masks" / "a.tif")
    if tag != 1:
        with pytest.raises(ValueError, match=r"turned by its EXIF orientation \(6\), but its mask is not"):
            open_segmentation(tmp_path)


def test_a_mask_that_cannot_be_read_is_named_in_runs(tmp_path: Path) -> None:
    from hierax.data import Augmentation, EvaluationView, SampleKey, TrainingView
    from hierax.data.view import Unreadable
    from hierax.processing import Preprocessing

    folder = write(tmp_path, VALUES)
    data = open_segmentation(folder)
    (folder / "masks" / "a.png").write_bytes(REFUSED["JPEG"][0])
    training = TrainingView(data, Augmentation((8, 8)), seed=0)[SampleKey(0, 0)]
    for found in (training, EvaluationView(data, Preprocessing().whole(8), size=(8, 8))[0]):
        assert isinstance(found, Unreadable)
        assert found.name == str(folder / "masks" / "a.png")
        assert found.problem.startswith("a mask saved as JPEG")
