"""The class of every pixel from coarse logits: as if all logits were enlarged at once."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model import class_map as module
from hierax.model.class_map import ClassMap, class_map


def enlarged(coarse: Tensor, pixels: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The classes `[H, W]` of logits that are enlarged at once, so that each cell is over its 4 pixels."""
    whole = [-(-4 * n * s // p) for n, p, s in zip(coarse.shape[1:], pixels, size, strict=True)]
    wide = F.interpolate(coarse[None].double(), whole, mode="bilinear", align_corners=False)
    return wide[0, :, : size[0], : size[1]].argmax(0)


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        ((32, 48), (32, 48)),
        ((32, 48), (70, 131)),  # a photo that was larger than the input
        ((32, 48), (13, 9)),  # and one that was smaller
        ((30, 45), (30, 45)),  # cells that reach over the edge
        ((30, 45), (97, 61)),
        ((1, 1), (5, 3)),
        ((4, 64), (1, 1)),
    ],
)
@pytest.mark.parametrize("at_once", [1, 500, 1 << 20])
def test_bands_of_rows_give_the_classes_of_logits_that_are_enlarged_at_once(
    pixels: tuple[int, int], size: tuple[int, int], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    coarse = torch.randn(7, -(-pixels[0] // 4), -(-pixels[1] // 4), dtype=torch.float64)
    found = class_map(coarse, pixels=pixels, size=size)
    assert found.dtype == torch.uint8
    assert torch.equal(found, enlarged(coarse, pixels, size).to(torch.uint8))


@pytest.mark.parametrize("parts", [[8], [1] * 8, [3, 5], [7, 1], [2, 1, 5]])
def test_rows_may_come_in_parts(parts: list[int]) -> None:
    coarse = torch.randn(5, 8, 6)
    found = ClassMap((8, 6), stride=(4, 4), pixels=(31, 24), size=(77, 50), num_labels=5)
    for part in coarse.split(parts, dim=1):
        found.add(part)
    assert torch.equal(found.classes, class_map(coarse, pixels=(31, 24), size=(77, 50)))


def test_no_more_logits_than_a_band_are_enlarged_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    interpolate = F.interpolate

    def noted(values: Tensor, size: tuple[int, int], **options: object) -> Tensor:
        seen.append(values.shape[1] * size[0] * size[1])
        return interpolate(values, size, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "_AT_ONCE", 10_000)
    monkeypatch.setattr(F, "interpolate", noted)
    class_map(torch.randn(20, 16, 16), pixels=(64, 64), size=(300, 200))
    assert max(seen) <= 10_000
    assert sum(seen) == 20 * 300 * 200


def test_more_than_256_classes_need_more_bits() -> None:
    coarse = torch.zeros(300, 2, 2)
    coarse[299] = 1
    found = class_map(coarse, pixels=(8, 8))
    assert (found.dtype, int(found.min())) == (torch.int32, 299)
