"""Drawings of feature maps, mask units, attention and reconstructions. All functions take arrays and return images.

Nothing here runs a model, reads a file or changes its arguments. Arrays may be numpy's or torch's; only the functions
that take a model's tensors import torch. The cells of a map are drawn as squares (nearest neighbor), because a smooth
image would suggest detail that the map does not have.
"""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hierax.processing.arrays import is_tensor
from hierax.processing.record import IMAGENET, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.config import HieraConfig

Statistics = Literal["visible", "true"]

_PAPER, _INK, _FADED, _HIDDEN = (255, 255, 255), (24, 24, 27), (100, 100, 108), (222, 222, 226)
_FRAMES = ((255, 255, 255, 215), (0, 0, 0, 50))  # of the borders of mask units, from the outside in
# Dark to bright, perceptually uniform and safe for color-blind readers: five points of matplotlib's "inferno" (CC0).
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    """The values as a float32 array of numpy.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    array = values.detach().float().cpu().numpy() if is_tensor(values) else np.asarray(values)  # type: ignore[union-attr]
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError("values are not finite; expected numbers to draw, without NaN and infinity")
    return array


# -- pixels and feature maps --------------------------------------------------------------------------------------


def to_picture(pixels: np.ndarray | Tensor, *, record: Preprocessing = IMAGENET) -> Image.Image:
    """The image of a model's input `[C, H, W]`: undoes the rescaling and normalization of `record`.

    Of more than three channels, the first three are shown as red, green and blue; of two, the first as gray.
    """
    levels = np.moveaxis(_array(pixels), 0, -1)
    if record.do_normalize:
        levels = levels * np.array(record.image_std, np.float32) + np.array(record.image_mean, np.float32)
    if record.do_rescale:
        levels = levels / record.rescale_factor
    levels = levels[..., :3] if levels.shape[-1] >= 3 else levels[..., :1].repeat(3, axis=-1)
    return Image.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8))


def principal_components(feature_map: np.ndarray | Tensor, *, count: int = 3) -> np.ndarray:
    """Scores `[H, W, count]` of a map `[C, H, W]` on its first principal components; missing components are 0.

    Every cell is one observation of C values. The sign of a component is arbitrary; it is chosen so that the channel
    with the largest weight is positive. So the same map always gives the same scores.
    """
    array = _array(feature_map)
    channels, height, width = array.shape
    cells = array.reshape(channels, -1).T.astype(np.float64)
    cells -= cells.mean(0)
    _, sizes, axes = np.linalg.svd(cells, full_matrices=False) if len(cells) <= channels else _thin_svd(cells)
    present = min(count, int((sizes > max(sizes[0], 1e-12) * 1e-7).sum()))
    axes = axes[:present]
    strongest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(present), strongest])[:, None]
    scores = np.zeros((height * width, count), np.float32)
    scores[:, :present] = cells @ axes.T
    return scores.reshape(height, width, count)


def _thin_svd(cells: np.ndarray) -> tuple[None, np.ndarray, np.ndarray]:
    """Singular values and right singular vectors of many rows, from the small matrix of channels."""
    squares, axes = np.linalg.eigh(cells.T @ cells)
    return None, np.sqrt(squares[::-1].clip(0)), axes[:, ::-1].T


def robust_scale(values: np.ndarray, *, percent: float = 1.0) -> np.ndarray:
    """Each entry of the last axis stretched to 0..1, with the lowest and highest `percent` cut off; 0.5 if all are
    equal.

    Vision transformers often have a few extreme cells, which would leave the other cells without contrast.
    """
    flat = values.reshape(-1, values.shape[-1])
    low, high = np.percentile(flat, (percent, 100 - percent), axis=0)
    span = high - low
    scaled = (values - low) / np.where(span > 0, span, 1)
    return np.where(span > 0, scaled.clip(0, 1), 0.5).astype(np.float32)


def enlarge(cells: np.ndarray, *, stride: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Cells `[rows, columns, …]` enlarged to an image of `size` (height, width) pixels.

    Every cell fills `stride` (vertical, horizontal) pixels; parts outside of the image are cut off.
    """
    pixels = cells.repeat(stride[0], axis=0).repeat(stride[1], axis=1)
    if pixels.shape[0] < size[0] or pixels.shape[1] < size[1]:
        raise ValueError(
            f"cells is {cells.shape[0]}x{cells.shape[1]} at stride {tuple(stride)}; too few for {tuple(size)}"
        )
    return pixels[: size[0], : size[1]]


def pca_picture(feature_map: np.ndarray | Tensor, *, stride: Sequence[int], size: Sequence[int]) -> Image.Image:
    """A map `[C, H, W]` as colors: its first three principal components are red, green and blue.

    Within a map, equal colors mean similar features. Colors of different maps cannot be compared.
    """
    colours = robust_scale(principal_components(feature_map))
    return Image.fromarray(enlarge(np.rint(colours * 255).astype(np.uint8), stride=stride, size=size))


# -- mask units and attention -------------------------------------------------------------------------------------


def draw_units(
    picture: Image.Image, *, unit: Sequence[int], keep: Sequence[bool] | np.ndarray | None = None
) -> Image.Image:
    """The image with the borders of its mask units, of `unit` (height, width) pixels each.

    `keep` has one boolean per unit, row by row. Units that are False, which a masked model does not see, are covered.
    """
    drawn = picture.convert("RGB")
    draw = ImageDraw.Draw(drawn, "RGBA")
    tops, lefts = range(0, drawn.height, unit[0]), range(0, drawn.width, unit[1])
    if keep is not None and len(keep) != len(tops) * len(lefts):
        raise ValueError(f"keep has {len(keep)} entries; expected {len(tops)}x{len(lefts)} mask units")
    corners = [(left, top) for top in tops for left in lefts]
    for number, (left, top) in enumerate(corners):
        right, bottom = min(left + unit[1], drawn.width) - 1, min(top + unit[0], drawn.height) - 1
        if keep is not None and not keep[number]:
            draw.rectangle((left, top, right, bottom), fill=_HIDDEN)
        # a dark frame within a bright one is visible on any image
        for inset, colour in enumerate(_FRAMES):
            if right - left >= 2 * inset and bottom - top >= 2 * inset:
                draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), outline=colour)
    return drawn


def attention_map(
    weights: np.ndarray | Tensor,
    *,
    config: HieraConfig,
    stage: int,
    size: Sequence[int],
    at: Sequence[int] | None = None,
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The attention that the tokens of a stage receive, as a map of its keys, and the pixels per cell of that map.

    It is the mean over heads, times the number of keys in a window: uniform attention is 1 everywhere.

    Args:
        weights: one image's `attentions[stage]`, `[heads, windows, queries, keys]` in the published order.
        config: that of the model.
        stage: 0 is the first.
        size: pixels per axis of the model's input.
        at: a pixel (one number per axis); the map is then the attention of the token at this pixel, 0 outside of its
            window. None gives the mean over all queries.
    """
    import torch

    from hierax.config import plan
    from hierax.tokens import UnitLayout

    mean = torch.from_numpy(_array(weights).mean(0))
    units = config.unit_grid(size)
    last = [spec for spec in plan(config) if spec.stage == stage][-1]
    key_stage = stage - 1 if last.pool > 1 else stage  # a block with query pooling has the keys of the stage before
    layout = UnitLayout.of(config, key_stage)
    if at is None:
        rows = mean.mean(1)
    else:
        window, query = _query_at(config, stage, units, at, windows=mean.shape[0])
        rows = torch.zeros(mean.shape[0], mean.shape[2])
        rows[window] = mean[window, query]
    global_attention = mean.shape[2] == layout.positions * math.prod(units)
    tokens = rows[0].view(layout.positions, -1).T if global_attention else rows
    stride = config.stage_stride(key_stage)
    grid = layout.reroll(tokens[None, :, :, None] * mean.shape[2], units)[0, ..., 0].numpy()
    return grid[tuple(slice(-(-s // p)) for s, p in zip(size, stride, strict=True))], stride


def _query_at(
    config: HieraConfig, stage: int, units: tuple[int, ...], at: Sequence[int], *, windows: int
) -> tuple[int, int]:
    """Window and index of the query that holds the pixel `at`."""
    import torch

    from hierax.tokens import UnitLayout

    layout = UnitLayout.of(config, stage)
    numbers = torch.arange(math.prod(units) * layout.positions).view(1, math.prod(units), layout.positions, 1)
    cell = tuple(pixel // stride for pixel, stride in zip(at, config.stage_stride(stage), strict=True))
    unit, position = divmod(int(layout.reroll(numbers, units)[(0, *cell, 0)]), layout.positions)
    return (unit, position) if windows > 1 else (0, position * math.prod(units) + unit)


def heat_picture(
    picture: Image.Image, heat: np.ndarray, *, stride: Sequence[int], at: Sequence[int] | None = None
) -> Image.Image:
    """A map `[rows, columns]` of `attention_map` over an image: black is 0, bright is high; a ring marks `at` (y, x).

    The scale is the square root, which shows more than the peak. It reaches at least 4, so that a uniform map (1
    everywhere) has the middle color and does not look like strong attention.
    """
    size = (picture.height, picture.width)
    top = max(4.0, float(np.percentile(heat, 99.5)))
    levels = np.sqrt((heat / top).clip(0, 1)) * (len(_HEAT) - 1)
    colours = np.stack([np.interp(levels, np.arange(len(_HEAT)), channel) for channel in _HEAT.T], axis=-1)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    mixed = 0.3 * grey + 0.7 * enlarge(colours, stride=stride, size=size)
    drawn = Image.fromarray(np.rint(mixed).astype(np.uint8))
    if at is not None:
        y, x, radius = at[0], at[1], max(3, min(size) // 40)
        for grown, colour in ((1, (0, 0, 0)), (0, (255, 255, 255)), (-1, (255, 255, 255)), (-2, (0, 0, 0))):
            reach = radius + grown
            ImageDraw.Draw(drawn).ellipse((x - reach, y - reach, x + reach, y + reach), outline=colour)
    return drawn


# -- reconstructions ----------------------------------------------------------------------------------------------


def hidden_statistics(patches: Tensor, visible: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[B, patches, 1]` of every patch, estimated from the visible patches.

    Both are averages over the visible patches `[B, patches]`, weighted by one over the fourth power of the distance on
    the `grid`. Near patches dominate; a patch in a wide hole gets a mix of the patches around the hole.
    """
    import torch

    axes = [torch.arange(n, dtype=torch.float32) for n in grid]
    places = torch.cartesian_prod(*axes).view(math.prod(grid), len(grid)).to(patches.device)
    near = torch.cdist(places, places).clamp(min=0.5) ** -4
    weight = near * visible[:, None, :]
    weight = weight / weight.sum(-1, keepdim=True)
    variance, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
    return weight @ mean, weight @ (variance + 1e-6).sqrt()


def reconstruct_pixels(
    pixels: Tensor, logits: Tensor, visible: Tensor, *, config: HieraConfig, statistics: Statistics = "visible"
) -> Tensor:
    """The pixels `[B, C, *size]`: hidden patches as a MAE predicts them, visible patches unchanged.

    With `normalize_pixel_loss`, a MAE predicts patches of mean 0 and deviation 1, so their brightness and contrast are
    unknown. "visible" estimates them from the visible patches (`hidden_statistics`). "true" takes them from the hidden
    patches, as in many published images: this shows part of the answer.

    Args:
        pixels: the model's input.
        logits, visible: fields `logits` and `bool_masked_pos` of `PreTrainingOutput`.
        config: that of the model.
        statistics: "visible" or "true"; not used without `normalize_pixel_loss`.

    Raises:
        ValueError: `statistics` is neither "visible" nor "true".
    """
    import torch

    from hierax.mae import patchify, unpatchify
    from hierax.positions import decoder_grid

    if statistics not in ("visible", "true"):
        raise ValueError(f"statistics is {statistics!r}; expected 'visible' or 'true'")
    size = tuple(pixels.shape[2:])
    patches, predicted = patchify(pixels.float(), config), logits.float()
    if config.normalize_pixel_loss and statistics == "visible":
        mean, deviation = hidden_statistics(patches, visible, decoder_grid(config, size))
        predicted = predicted * deviation + mean
    elif config.normalize_pixel_loss:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    return unpatchify(torch.where(visible[..., None], patches, predicted), config, size)


def statistics_note(config: HieraConfig, statistics: Statistics) -> str:
    """The caption's note on the brightness and contrast of a reconstruction."""
    if not config.normalize_pixel_loss:
        return "the model predicts unnormalized pixels"
    if statistics == "visible":
        return "brightness and contrast estimated from visible patches"
    return "brightness and contrast taken from the hidden patches, so part of the answer is given"


# -- sheets -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image on a sheet, with a title and a note below it."""

    picture: Image.Image
    title: str
    note: str = ""


def sheet(
    rows: Iterable[Sequence[Tile]],
    *,
    heading: str = "",
    note: str = "",
    widths: tuple[int, int] = (224, 512),
    margin: int = 20,
) -> Image.Image:
    """Rows of images with captions on white, under a `heading` and a `note`.

    Images narrower than the first of `widths` are enlarged by a whole factor; images wider than the second are shrunk.
    Long texts are wrapped.
    """
    tiles = [[_fitted(tile, *widths) for tile in row] for row in rows]
    columns = max(len(row) for row in tiles)
    wide = [max(row[i].picture.width for row in tiles if i < len(row)) for i in range(columns)]
    lefts = [margin + sum(wide[:i]) + i * margin for i in range(columns)]
    width = lefts[-1] + wide[-1] + margin
    texts = [[_caption(tile, wide[i]) for i, tile in enumerate(row)] for row in tiles]
    top_lines = _lines(heading, 22, _INK, width - 2 * margin) + _lines(note, 15, _FADED, width - 2 * margin)
    tops = [margin + (_height(top_lines) + margin if top_lines else 0)]
    for row, captions in zip(tiles, texts, strict=True):
        tall = max(tile.picture.height for tile in row)
        tops.append(tops[-1] + tall + 8 + max(_height(lines) for lines in captions) + margin)
    page = Image.new("RGB", (width, tops[-1]), _PAPER)
    draw = ImageDraw.Draw(page)
    _write(draw, top_lines, margin, margin)
    for row, captions, top in zip(tiles, texts, tops, strict=False):
        below = top + max(tile.picture.height for tile in row) + 8
        for tile, lines, left in zip(row, captions, lefts, strict=False):
            page.paste(tile.picture.convert("RGB"), (left, top))
            _write(draw, lines, left, below)
    return page


_Line = tuple[str, int, tuple[int, int, int]]


def _fitted(tile: Tile, least: int, most: int) -> Tile:
    width, height = tile.picture.size
    if width > most:
        resized = tile.picture.resize((most, max(1, height * most // width)), Image.Resampling.BOX)
    else:
        times = -(-least // width)
        resized = tile.picture.resize((width * times, height * times), Image.Resampling.NEAREST)
    return dataclasses.replace(tile, picture=resized)


def _caption(tile: Tile, width: int) -> list[_Line]:
    return _lines(tile.title, 16, _INK, width) + _lines(tile.note, 14, _FADED, width)


def drawable(text: str) -> str:
    """The text in characters of Pillow's font: accents are dropped, other characters outside ASCII become question
    marks.
    """
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return bare.encode("ascii", "replace").decode("ascii")


def _lines(text: str, points: int, colour: tuple[int, int, int], width: int) -> list[_Line]:
    """The text, wrapped to lines that fit."""
    font = ImageFont.load_default(size=points)
    lines: list[str] = []
    for word in drawable(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [(line, points, colour) for line in lines]


def _height(lines: Sequence[_Line]) -> int:
    return sum(round(points * 1.35) for _, points, _ in lines)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[_Line], left: int, top: int) -> None:
    for text, points, colour in lines:
        draw.text((left, top), text, fill=colour, font=ImageFont.load_default(size=points))
        top += round(points * 1.35)
