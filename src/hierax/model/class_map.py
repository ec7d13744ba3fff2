"""The class of every pixel, from logits on a coarse grid, without all logits at the size of the image in memory."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_AT_ONCE = 1 << 20  # logits at the size of the result that are in memory at the same time


class ClassMap:
    """The most probable class of every pixel of an image, decided while its coarse logits come in, row by row.

    The logits are enlarged (bilinear), as `HieraForSemanticSegmentation.enlarged` does it, but only for a band of rows
    at once. Then the highest one is taken.

    Args:
        grid: rows and columns of the coarse logits.
        stride: pixels of the model's input per cell of the grid, vertical and horizontal.
        pixels: height and width of the model's input. A grid may reach over its edge.
        size: height and width of the result.
        num_labels: number of classes.

    Attributes:
        classes: the result `[height, width]`, uint8, or int32 for more than 256 classes. It is complete after the last
            row was added.
    """

    def __init__(
        self, grid: Sequence[int], *, stride: Sequence[int], pixels: Sequence[int], size: Sequence[int], num_labels: int
    ) -> None:
        sides = zip(grid, stride, pixels, size, strict=True)
        self._whole = [-(-cells * step * wanted // side) for cells, step, side, wanted in sides]
        self._rows, self._width = grid[0], size[1]
        self.classes = torch.empty(*size, dtype=torch.uint8 if num_labels <= 256 else torch.int32)
        place = (torch.arange(size[0], dtype=torch.float64) + 0.5) * grid[0] / self._whole[0] - 0.5
        self._place = place.clamp(0, grid[0] - 1)  # of every row of the result, in rows of the grid
        self._last = (self._place.floor() + 1).clamp(max=grid[0] - 1)  # the last row that it needs
        self._kept: Tensor | None = None
        self._seen = self._done = 0

    def add(self, logits: Tensor) -> None:
        """Takes the next rows of the coarse logits, `[num_labels, rows, columns]`."""
        exact = logits if logits.dtype == torch.float64 else logits.float()
        rows = exact.permute(1, 2, 0).contiguous()  # with the classes last, all that follows is ten times faster
        first = self._seen if self._kept is None else self._seen - 1
        known = rows if self._kept is None else torch.cat([self._kept, rows])
        self._seen += len(rows)
        ready = int((self._last < self._seen).sum())
        step = max(1, _AT_ONCE // (known.shape[2] * self._width))
        for start in range(self._done, ready, step):
            stop = min(start + step, ready)
            place = self._place[start:stop] - first
            above = place.floor().long()
            share = (place - above).to(known.dtype).to(known.device)[:, None, None]
            below = (above + 1).clamp(max=len(known) - 1).to(known.device)
            band = torch.lerp(known[above.to(known.device)], known[below], share)
            size = (stop - start, self._whole[1])
            wide = F.interpolate(band[None].permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
            self.classes[start:stop] = _highest(wide[0, :, :, : self._width].permute(1, 2, 0))
        self._done, self._kept = ready, known[-1:].clone()


def _highest(logits: Tensor) -> Tensor:
    """The index of the highest of the last axis."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))  # three times as fast as PyTorch's
    return logits.argmax(-1)


def class_map(
    coarse: Tensor, *, pixels: Sequence[int], size: Sequence[int] | None = None, stride: Sequence[int] = (4, 4)
) -> Tensor:
    """The most probable class of every pixel, `[height, width]`, uint8, or int32 for more than 256 classes.

    Args:
        coarse: logits of one image, `[num_labels, rows, columns]`.
        pixels: height and width of the model's input from which they were computed.
        size: height and width of the result; None is `pixels`.
        stride: pixels of the model's input per cell.
    """
    wanted = pixels if size is None else size
    found = ClassMap(coarse.shape[1:], stride=stride, pixels=pixels, size=wanted, num_labels=len(coarse))
    found.add(coarse)
    return found.classes
