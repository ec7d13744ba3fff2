"""How pictures become squares: drawings are cut out and put on backgrounds, large photos are cut into crops."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from fetch_drawings import flattened, opened, squarely

LEAST = 40  # pixels of the longer side of what is cut out: less is a blur when enlarged
LARGE = 2_000_000  # pixels of a photo of which crops are made
CROP = 320  # pixels of the shorter side of the smallest crop, in the photo
FINEST = 6  # as many crops along a side, at the most
FLAT = 2.0  # levels that neighboring pixels of a crop differ by, down and across: less is flat
BLANK = 0.2  # the same of a whole photo


def is_transparent(picture: Image.Image) -> bool:
    """Whether at least a fiftieth of an RGBA picture shows what is behind it."""
    return bool((np.asarray(picture.getchannel("A")) < 128).mean() > 0.02)


def fills_frame(picture: Image.Image) -> bool:
    """Whether a picture without transparency has an edge that is not white for the most part."""
    pixels = np.asarray(flattened(picture)).min(axis=2)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return not is_transparent(picture) and bool((edge > 240).mean() < 0.5)


def cut_out(picture: Image.Image, side: int) -> Image.Image | None:
    """RGBA `side` x `side`: a drawing without its margin; None if nothing is left."""
    see_through = is_transparent(picture)
    if see_through:
        seen = Image.eval(picture.getchannel("A"), lambda level: 255 if level > 16 else 0)
    else:
        picture = flattened(picture)
        seen = Image.eval(picture, lambda level: 255 if level < 250 else 0)
    box = seen.getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < 8 or max(box[2] - box[0], box[3] - box[1]) < LEAST:
        return None
    square = squarely(picture.crop(box), side, (0, 0, 0, 0) if see_through else "white").convert("RGBA")
    return None if np.asarray(flattened(square)).std() < 2 and not see_through else square


def shorter_side(picture: Image.Image, side: int) -> Image.Image:
    """The picture with a shorter side of that many pixels, in its own shape (not longer than 2 to 1: cut to that)."""
    width, height = picture.size
    least = min(width, height)
    if max(width, height) > 2 * least:
        left, top = (width - min(width, 2 * least)) // 2, (height - min(height, 2 * least)) // 2
        picture = picture.crop((left, top, width - left, height - top))
        width, height = picture.size
    size = (max(side, round(width * side / least)), max(side, round(height * side / least)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)


def prepared(path: Path, side: int, photo: bool) -> Image.Image | None:
    """A picture as it is kept: RGB if it is to be a photo and fills its frame, else RGBA, a square; None if useless."""
    picture = opened(path, 8 * side)
    if picture is None or min(picture.size) < 8:
        return None
    if photo and fills_frame(picture) and min(picture.size) >= side // 2:
        whole = shorter_side(flattened(picture), side)
        return None if detail(whole) < BLANK else whole
    return cut_out(picture, side)


def detail(picture: Image.Image) -> float:
    """By how many levels of 255 neighboring pixels differ on average, down and across added."""
    gray = np.asarray(picture.convert("L"), np.float32)
    return float(np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean())


def crops(path: Path, side: int) -> Iterator[tuple[str, Image.Image]]:
    """Name and picture of the quarters, ninths, ... of a large photo that are not flat, shorter side `side`."""
    photo = flattened(Image.open(path).convert("RGBA"))
    if photo.width * photo.height < LARGE:
        return
    for parts in range(2, min(FINEST, min(photo.size) // CROP) + 1):
        width, height = photo.width / parts, photo.height / parts
        for row in range(parts):
            for column in range(parts):
                corner = (round(column * width), round(row * height))
                end = (round((column + 1) * width), round((row + 1) * height))
                crop = shorter_side(photo.crop((*corner, *end)), side)
                if detail(crop) >= FLAT:
                    yield f"{parts}-{row}{column}", crop


def contrast(color: np.ndarray, shown: np.ndarray, weight: np.ndarray) -> float:
    """How far a color, or a picture, is from what a drawing shows, on average: levels of 255."""
    return float((np.abs(shown.astype(np.float32) - color).mean(axis=2) * weight).sum() / max(weight.sum(), 1e-6))


def varied(drawing: Image.Image, mark: bytes, backdrops: Sequence[Path]) -> Image.Image:
    """A drawing on a color, on a gradient or before a photo: which, is read from the bytes of `mark` (32 of them).

    Of several colors or photos it is the one that contrasts most with what the drawing shows.
    """
    side = drawing.width
    pixels = np.asarray(drawing)
    shown, weight = pixels[..., :3], pixels[..., 3] / 255.0
    colors = [np.frombuffer(mark[start : start + 3], np.uint8).astype(np.float32) for start in range(1, 19, 3)]
    colors = sorted(colors, key=lambda color: -contrast(color, shown, weight))
    kind = mark[0] % 10
    if kind < 4 or (kind >= 7 and not backdrops):
        ground = np.broadcast_to(colors[0], shown.shape)
    elif kind < 7:
        angle = 2 * math.pi * mark[19] / 256
        down, right = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        way = (0.5 + 0.35 * (np.cos(angle) * right + np.sin(angle) * down))[..., None].clip(0, 1)
        ground = way * colors[0] + (1 - way) * colors[1]
    else:
        places = [backdrops[int.from_bytes(mark[at : at + 2], "big") % len(backdrops)] for at in (20, 22, 24, 26)]
        photos = [backdrop(place, side, blurred=kind < 9) for place in places]
        ground = max(photos, key=lambda photo: contrast(photo, shown, weight))
    below = Image.fromarray(np.asarray(ground).round().astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(below, drawing).convert("RGB")


def backdrop(path: Path, side: int, blurred: bool) -> np.ndarray:
    """float32 `[side, side, 3]`: the middle of a photo."""
    photo = Image.open(path).convert("RGB")
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    photo = photo.crop((left, top, left + side, top + side))
    return np.asarray(photo.filter(ImageFilter.GaussianBlur(8)) if blurred else photo, np.float32)
