"""The pictures of a pack in the memory of a device, and random crops of them that are made there."""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hierax.data.loader import Batch
from hierax.train.settings import Recipe
from pack import TRAIN, Entry, Pack

STORED = 224  # pixels of a side in memory; the aspect ratio is kept beside
GROUNDS = (
    0.4,
    0.64,
    0.82,
)  # below these shares a transparent picture is on white, a color, a gradient; else on a photo
TRIED = 6  # colors of which the one is taken that differs most from the drawing
COLOR = 0.4  # how far brightness, contrast and saturation go, except for the MAE
BLUR = 16  # pixels that a blurred photo is averaged over


class Crops:
    """Pictures for training on a device: `pixels` uint8 `[N, S, S, 4]`, `labels` int64 `[N]` (-1 for none).

    Args:
        most: take only about so many pictures, spread over the pack and over what is labeled and a photo.
    """

    def __init__(self, pack: Pack, *, side: int, device: torch.device, most: int | None = None) -> None:
        entries = _spread(pack.split(TRAIN), most)
        if not entries:
            raise SystemExit("the pack has no pictures for training; femto/pack.py makes one")
        with ThreadPoolExecutor() as pool:
            squares = list(pool.map(lambda entry: _square(pack, entry), entries))
        self.pixels = torch.from_numpy(np.stack(squares)).to(device)
        self.aspect = torch.tensor([entry.width / entry.height for entry in entries], device=device)
        number = {name: index for index, name in enumerate(pack.categories)}
        self.labels = torch.tensor([number.get(entry.category, -1) for entry in entries], device=device)
        self.photos = torch.tensor([i for i, entry in enumerate(entries) if entry.photo], device=device)
        self.side, self.device = side, device

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, step: int, recipe: Recipe, *, labeled: bool) -> Batch:
        """The crops of a step, which depend on the step and the seed alone; with `labeled`, only of labeled pictures.

        There is noise for the mask if `recipe` is one of an MAE, and labels if `labeled`.
        """
        draw = torch.Generator(self.device).manual_seed(recipe.seed * 2**32 + step)
        count, scale = recipe.batch_size, recipe.crop_scale or (1.0, 1.0)
        among = torch.nonzero(self.labels >= 0)[:, 0] if labeled else torch.arange(len(self), device=self.device)
        index = among[torch.randint(len(among), (count,), generator=draw, device=self.device)]
        grid = _grid(self.aspect[index], self._uniform(draw, 5, count), scale, self.side)
        parts = self._composed(self._sampled(index, grid), draw)
        masked = recipe.mode == "pretrain"
        if not masked:
            parts = _colored(parts, 1 + COLOR * (2 * self._uniform(draw, 3, count) - 1))
        noise = self._uniform(draw, count, (self.side // 32) ** 2) if masked else None
        return Batch(parts.round().byte(), self.labels[index] if labeled else None, noise, index.cpu())

    def _uniform(self, draw: torch.Generator, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, device=self.device)

    def _sampled(self, index: Tensor, grid: Tensor) -> Tensor:
        """Crops `[B, 4, side, side]`, colors times alpha and alpha in 0 to 255; `grid` has twice the side."""
        whole = self.pixels[index].movedim(-1, 1).float()
        whole[:, :3] *= whole[:, 3:] / 255
        return F.avg_pool2d(F.grid_sample(whole, grid, padding_mode="reflection", align_corners=False), 2)

    def _composed(self, parts: Tensor, draw: torch.Generator) -> Tensor:
        """Colors `[B, 3, side, side]`: transparent crops on white, on a color, on a gradient or on a photo."""
        count, side = len(parts), self.side
        colors, alpha = parts[:, :3], (parts[:, 3:] / 255).clamp(0, 1)
        shown = colors.sum((2, 3)) / alpha.sum((2, 3)).clamp(min=1e-3)
        offered = 255 * self._uniform(draw, count, TRIED, 3)
        order = (offered - shown[:, None]).abs().sum(2).argsort(1, descending=True)
        first, second = (
            offered.gather(1, order[:, i, None, None].expand(-1, 1, 3))[:, 0, :, None, None] for i in (0, 1)
        )
        angle = 2 * math.pi * self._uniform(draw, count)[:, None, None, None]
        line = torch.linspace(-1, 1, side, device=self.device)
        way = (0.5 + 0.35 * (angle.cos() * line + angle.sin() * line[:, None])).clamp(0, 1)
        kind = self._uniform(draw, count)[:, None, None, None]
        ground = torch.where(kind < GROUNDS[0], 255.0, first)
        ground = torch.where(kind < GROUNDS[1], ground, way * first + (1 - way) * second)
        if len(self.photos):
            ground = torch.where(kind < GROUNDS[2], ground, self._backdrops(count, draw))
        return (colors + (1 - alpha) * ground).clamp(0, 255)

    def _backdrops(self, count: int, draw: torch.Generator) -> Tensor:
        """Parts of photos `[B, 3, side, side]`, half of them blurred."""
        index = self.photos[torch.randint(len(self.photos), (count,), generator=draw, device=self.device)]
        grid = _grid(self.aspect[index], self._uniform(draw, 5, count), (0.3, 1.0), self.side // 2)
        photos = F.grid_sample(self.pixels[index].movedim(-1, 1)[:, :3].float(), grid, align_corners=False)
        photos = F.interpolate(photos, (self.side, self.side), mode="bilinear")
        small = F.adaptive_avg_pool2d(photos, max(self.side // BLUR, 2))
        blurred = F.interpolate(small, photos.shape[2:], mode="bilinear")
        return torch.where(self._uniform(draw, count)[:, None, None, None] < 0.5, photos, blurred)


def _spread(entries: Sequence[Entry], most: int | None) -> list[Entry]:
    """About `most` entries: as many of labeled ones, of photos and of others."""
    if most is None:
        return list(entries)
    kinds = [[e for e in entries if (bool(e.category), e.photo) == kind] for kind in np.ndindex(2, 2)]
    kinds = [kind for kind in kinds if kind]
    return [entry for kind in kinds for entry in kind[:: max(len(kind) * len(kinds) // most, 1)]]


def _square(pack: Pack, entry: Entry) -> np.ndarray:
    """A picture squashed into a square, uint8 `[S, S, 4]`."""
    picture = pack.picture(entry.name)
    if picture.size != (STORED, STORED):
        picture = picture.resize((STORED, STORED), Image.Resampling.BICUBIC, reducing_gap=3)
    return np.asarray(picture.convert("RGBA"))


def _grid(aspect: Tensor, random: Tensor, scale: tuple[float, float], side: int) -> Tensor:
    """Where crops are sampled, at twice their side: shares of `scale` of the area, aspect ratios of 3/4 to 4/3."""
    area = scale[0] + (scale[1] - scale[0]) * random[0]
    ratio = torch.exp(math.log(4 / 3) * (2 * random[1] - 1)) / aspect  # in the stored, squashed picture
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = (1 - width) * random[2], (1 - height) * random[3]
    line = (torch.arange(2 * side, device=aspect.device) + 0.5) / (2 * side)
    mirrored = torch.where(random[4] < 0.5, -1.0, 1.0)[:, None]
    x = 2 * (left[:, None] + width[:, None] * (0.5 + mirrored * (line - 0.5))) - 1
    y = 2 * (top[:, None] + height[:, None] * line) - 1
    shape = (len(aspect), 2 * side, 2 * side)
    return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], -1)


def _colored(pixels: Tensor, factors: Tensor) -> Tensor:
    """Pixels with another brightness, contrast and saturation: `factors` `[3, B]`."""
    brightness, contrast, saturation = factors[:, :, None, None, None]
    pixels = pixels * brightness
    middle = pixels.mean((1, 2, 3), keepdim=True)
    pixels = middle + contrast * (pixels - middle)
    gray = pixels.mean(1, keepdim=True)
    return (gray + saturation * (pixels - gray)).clamp(0, 255)


class Steps:
    """What the loop reads: one batch a step, made when it is asked for, until `until` (of `time.monotonic`)."""

    def __init__(self, crops: Crops, recipe: Recipe, steps: range, *, labeled: bool, until: float = math.inf) -> None:
        self.crops, self.recipe, self.steps, self.labeled, self.until = crops, recipe, steps, labeled, until
        self.waited = 0.0

    def __iter__(self) -> Iterator[list[Batch]]:
        for step in self.steps:
            if time.monotonic() > self.until:
                return
            begin = time.perf_counter()
            made = self.crops.batch(step, self.recipe, labeled=self.labeled)
            self.waited += time.perf_counter() - begin
            yield [made]
