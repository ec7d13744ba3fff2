"""Many pictures through an engine: in order, in batches, and one that cannot be read stops none of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engines import tiny
from hierax.engine import Engine
from hierax.processing import ImageError
from small import relative


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(tiny("classification"), backend="torch", precision="fp32", threads=1, cache_dir=False) as made:
        yield made


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(7)]
    for path in paths:
        Image.fromarray(draw.integers(0, 255, (64, 80, 3), np.uint8)).save(path)
    return paths


def test_answers_are_those_of_single_calls_in_the_order_of_the_items(engine: Engine, photos: list[Path]) -> None:
    found = list(engine.stream(photos, batch_size=3))
    assert [one.item for one in found] == photos
    for one in found:
        assert one.error is None
        assert one.output.logits.shape == (1, 5)
        assert relative(one.output.logits, engine(one.item).logits) <= 1e-5


@pytest.mark.parametrize(("count", "calls"), [(1, [1]), (3, [3]), (7, [3, 3, 1])])
def test_they_are_run_in_batches(
    count: int, calls: list[int], engine: Engine, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = engine._run_here
    counted: Any = lambda x, kept, at_once: (sizes.append(len(x)), run(x, kept, at_once=at_once))[1]  # noqa: E731
    monkeypatch.setattr(engine, "_run_here", counted)
    assert len(list(engine.stream(photos[:count], batch_size=3))) == count
    assert sizes == calls


def test_one_that_cannot_be_read_has_an_error_and_its_place(engine: Engine, photos: list[Path], tmp_path: Path) -> None:
    (bad := tmp_path / "bad.png").write_bytes(b"no image")
    items = [bad, photos[0], tmp_path / "missing.png", photos[1], bad]
    found = list(engine.stream(items, batch_size=2))
    assert [one.item for one in found] == items
    assert [isinstance(one.error, ImageError) for one in found] == [True, False, True, False, True]
    assert [one.output is None for one in found] == [True, False, True, False, True]


def test_so_does_one_whose_reading_fails_in_an_unforeseen_way(engine: Engine) -> None:
    def read(item: int) -> Tensor:
        if item == 1:
            raise KeyError("unforeseen")
        return torch.zeros(1, 3, 64, 64)

    errors = [one.error for one in engine.stream(range(3), read=read)]
    assert [type(error).__name__ for error in errors] == ["NoneType", "KeyError", "NoneType"]


def test_an_item_of_several_rows_gets_all_of_them_also_across_batches(engine: Engine) -> None:
    views = {"a": torch.randn(5, 3, 64, 64), "b": torch.randn(2, 3, 64, 64)}
    found = list(engine.stream(views, batch_size=3, read=lambda name: views[name]))
    for one in found:
        assert relative(one.output.logits, engine(pixel_values=views[one.item]).logits) <= 1e-5


def test_sizes_may_differ_from_item_to_item(engine: Engine) -> None:
    sizes = [(64, 64), (64, 64), (96, 64), (64, 64)]
    found = list(engine.stream(sizes, read=lambda size: torch.zeros(1, 3, *size)))
    assert [one.output.logits.shape for one in found] == [(1, 5)] * 4


def test_an_item_that_the_model_does_not_take_has_an_error(engine: Engine) -> None:
    good, bad = torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    found = list(engine.stream([good, bad, good], read=lambda x: x))
    assert [type(one.error) for one in found] == [type(None), ValueError, type(None)]


def test_few_items_are_taken_ahead(engine: Engine) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    stream = engine.stream(endless(), batch_size=2, read=lambda _: torch.zeros(1, 3, 64, 64))
    for _ in range(2):
        next(stream)
    assert len(taken) <= 2 + 2 * 2
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("task", ["features", "backbone"])
def test_every_field_is_cut_into_rows(task: str, photos: list[Path]) -> None:
    with Engine(tiny(task), backend="torch", precision="fp32", threads=1, cache_dir=False) as made:
        whole = made(list(photos[:3]))
        for number, one in enumerate(made.stream(photos[:3])):
            for name, value in one.output.items():
                parts = value if isinstance(value, tuple) else (value,)
                expected = whole[name] if isinstance(value, tuple) else (whole[name],)
                for part, wanted in zip(parts, expected, strict=True):
                    assert relative(part, wanted[number : number + 1]) <= 1e-5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda e: e.stream([], batch_size=0), "batch_size is 0; expected a whole number above 0"),
        (lambda e: e.stream([], workers=-1), "workers is -1"),
    ],
)
def test_wrong_numbers_are_errors_at_once(wrong: Callable[[Engine], Any], message: str, engine: Engine) -> None:
    with pytest.raises(ValueError, match=message):
        wrong(engine)


@pytest.mark.parametrize("items", ["a.jpg", b"a.jpg", Path("a.jpg")])
def test_a_single_image_is_no_list_of_letters(items: Any, engine: Engine) -> None:
    with pytest.raises(TypeError, match=rf"items is a {type(items).__name__}; expected several images"):
        engine.stream(items)


def test_mae_models_are_not_streamed() -> None:
    with (
        Engine(tiny("mae"), backend="torch", precision="fp32", cache_dir=False) as made,
        pytest.raises(ValueError, match="call an engine of task 'mae' itself"),
    ):
        made.stream([])
