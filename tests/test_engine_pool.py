"""The pool of compiled shapes: what is compiled, what runs eagerly, what gives way."""

from typing import Any

import pytest

from hierax.engine.pool import RunnerPool, Shape


class Recorder:
    """Makes runners that know their shape, and remembers what was made and closed."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.closed: list[int] = []

    def __call__(self, shape: Shape) -> Any:
        recorder = self

        class Made:
            size = shape.size[0]

            def close(self) -> None:
                recorder.closed.append(self.size)

        self.made.append(shape.size[0])
        return Made()


def eager(shape: Shape) -> Any:
    return "eager"


def pool(limit: int = 2, **options: Any) -> tuple[RunnerPool, Recorder]:
    recorder = Recorder()
    return RunnerPool(recorder, eager, limit=limit, **options), recorder


def ask(pool: RunnerPool, *sizes: int) -> list[Any]:
    """What serves each of these: "eager" or the size that a compiled runner was made for."""
    runners: list[Any] = [pool.get(Shape((size,))) for size in sizes]
    return [runner if runner == "eager" else runner.size for runner in runners]


def held(pool: RunnerPool) -> list[int]:
    return [shape.size[0] for shape in pool.shapes]


def test_a_shape_is_compiled_when_it_is_asked_for_the_third_time() -> None:
    shapes, recorder = pool()
    assert ask(shapes, 1, 1, 1, 1) == ["eager", "eager", 1, 1]
    assert recorder.made == [1]


def test_requests_are_counted_by_shape() -> None:
    shapes, recorder = pool()
    assert set(ask(shapes, *range(50), *range(50))) == {"eager"}
    assert recorder.made == []


def test_what_is_wanted_at_once_is_compiled_at_once() -> None:
    shapes, recorder = pool()
    shapes.get(Shape((1,)), at_once=True)
    assert ask(shapes, 1) == [1]
    assert recorder.made == [1]


def test_no_more_than_the_limit_are_compiled_and_others_run_eagerly_meanwhile() -> None:
    shapes, recorder = pool(limit=2, patience=1)
    assert ask(shapes, 1, 2, 3, 3, 1, 2) == [1, 2, "eager", "eager", 1, 2]
    assert recorder.closed == []


def test_what_is_not_asked_for_any_more_gives_way_to_what_is() -> None:
    shapes, recorder = pool(limit=2, patience=1, insistence=3)
    assert ask(shapes, 1, 2, 3, 3, 2, 3) == [1, 2, "eager", "eager", 2, 3]
    assert recorder.closed == [1]
    assert held(shapes) == [2, 3]


def test_what_is_asked_for_as_often_does_not_give_way() -> None:
    shapes, recorder = pool(limit=2, patience=1)
    assert ask(shapes, *[1, 2, 3] * 100).count("eager") == 100
    assert recorder.made == [1, 2]


def test_what_was_used_less_recently_gives_way_first() -> None:
    shapes, recorder = pool(limit=2, patience=1)
    ask(shapes, 1, 2, 1)
    shapes.get(Shape((3,)), at_once=True)
    assert recorder.closed == [2]
    assert held(shapes) == [1, 3]


def test_without_an_eager_way_every_shape_is_compiled() -> None:
    recorder = Recorder()
    shapes = RunnerPool(recorder, None, limit=2)
    assert ask(shapes, 1, 2, 3) == [1, 2, 3]
    assert recorder.closed == [1]


def test_ever_new_shapes_cost_no_memory() -> None:
    shapes, recorder = pool(limit=2)
    ask(shapes, *range(20_000))
    assert recorder.made == []
    assert len(shapes._asked) <= 4096


def test_a_compilation_that_fails_leaves_nothing_behind() -> None:
    def fail(shape: Shape) -> Any:
        raise RuntimeError("no memory")

    shapes = RunnerPool(fail, eager, limit=2, patience=1)
    with pytest.raises(RuntimeError, match="no memory"):
        ask(shapes, 1)
    assert shapes.shapes == ()
    shapes.close()


def test_closing_closes_every_runner_once() -> None:
    shapes, recorder = pool(limit=3, patience=1)
    ask(shapes, 1, 2, 3)
    shapes.close()
    shapes.close()
    assert sorted(recorder.closed) == [1, 2, 3]


def test_shapes_differ_by_size_batch_and_visible_units() -> None:
    shapes = {Shape((8,)), Shape((9,)), Shape((8,), 2), Shape((8,), None, 3), Shape((8,))}
    assert len(shapes) == 4
    assert str(Shape((64, 32), 2, 3)) == "64x32 pixels, batch 2, 3 visible mask units"
