"""The batcher: every item that is accepted is answered once, with its own answer."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hierax.serve.admission import Admission
from hierax.serve.batcher import Batcher
from hierax.serve.errors import Refusal
from hierax.serve.limits import Limits


def play(script: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(script(), 30))


def echo(key: Any, items: Sequence[Any]) -> list[Any]:
    return [(key, item) for item in items]


class Gate:
    """A `run` that waits until the gate opens, and keeps its calls."""

    def __init__(self) -> None:
        self.opened, self.calls = threading.Event(), []

    def __call__(self, key: Any, items: Sequence[Any]) -> list[Any]:
        self.calls.append((key, list(items)))
        assert self.opened.wait(20)
        return echo(key, items)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_items_of_one_key_that_wait_are_run_together() -> None:
    async def script() -> list[Any]:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_wait=0.0)
        tasks = [asyncio.create_task(batcher.submit("a", n)) for n in range(8)]
        await settle()
        gate.opened.set()
        assert await asyncio.gather(*tasks) == [("a", n) for n in range(8)]
        await batcher.close()
        return gate.calls

    # the first item does not wait for others; each call has a power of two
    assert [len(items) for _, items in play(script)] in ([1, 4, 2, 1], [4, 4])


def test_a_lone_item_does_not_wait() -> None:
    async def script() -> float:
        batcher = Batcher(echo, max_batch=32, max_wait=5.0)
        begin = time.perf_counter()
        await batcher.submit("a", 1)
        return time.perf_counter() - begin

    assert play(script) < 2.5


def test_an_item_waits_for_those_that_are_announced_but_not_longer_than_allowed() -> None:
    async def script() -> tuple[list[Any], float]:
        gate = Gate()
        gate.opened.set()
        batcher = Batcher(gate, max_batch=32, max_wait=0.3)
        batcher.arriving = 2
        first = asyncio.create_task(batcher.submit("a", 1))
        await settle()
        batcher.arrived()
        second = asyncio.create_task(batcher.submit("a", 2))
        await settle()
        assert gate.calls == []
        batcher.arrived()  # nothing more is announced
        await asyncio.gather(first, second)
        batcher.arriving = 1  # and it never comes
        begin = time.perf_counter()
        await batcher.submit("a", 3)
        return gate.calls, time.perf_counter() - begin

    calls, seconds = play(script)
    assert calls == [("a", [1, 2]), ("a", [3])]
    assert seconds >= 0.25


def test_keys_take_turns() -> None:
    async def script() -> list[Any]:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_wait=0.0)
        tasks = [asyncio.create_task(batcher.submit("many", n)) for n in range(40)]
        await settle()
        tasks.append(asyncio.create_task(batcher.submit("few", 0)))
        await settle()
        gate.opened.set()
        await asyncio.gather(*tasks)
        return [key for key, _ in gate.calls]

    assert play(script).index("few") <= 2


def test_an_item_whose_client_has_left_is_not_run() -> None:
    async def script() -> list[Any]:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_wait=0.0)
        first = asyncio.create_task(batcher.submit("a", 1))
        await settle()
        second, third = (asyncio.create_task(batcher.submit("a", n)) for n in (2, 3))
        await settle()
        second.cancel()
        gate.opened.set()
        await asyncio.gather(first, third)
        await batcher.close()
        return gate.calls

    assert play(script) == [("a", [1]), ("a", [3])]


def test_an_item_past_its_deadline_is_refused_at_once_and_not_run() -> None:
    async def script() -> list[Any]:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_wait=0.0)
        first = asyncio.create_task(batcher.submit("a", 1))
        await settle()
        with pytest.raises(Refusal, match="deadline") as refusal:
            await batcher.submit("a", 2, deadline=asyncio.get_running_loop().time() + 0.05)
        assert refusal.value.status == 504
        gate.opened.set()
        await first
        await batcher.close()
        return gate.calls

    assert play(script) == [("a", [1])]


def test_an_error_of_one_item_does_not_hit_the_others() -> None:
    def run(key: Any, items: Sequence[Any]) -> list[Any]:
        if "bad" in items:
            raise RuntimeError("bad")
        return [ValueError("its own") if item == "returned" else item for item in items]

    async def script() -> list[Any]:
        batcher = Batcher(run, max_batch=8, max_wait=0.2)
        batcher.arriving = 1
        items = ["x", "bad", "returned", "y"]
        return await asyncio.gather(*(batcher.submit("a", item) for item in items), return_exceptions=True)

    found = play(script)
    assert [str(result) for result in found] == ["x", "bad", "its own", "y"]
    assert [type(result) for result in found] == [str, RuntimeError, ValueError, str]


def test_a_wrong_number_of_results_is_an_error_of_every_item() -> None:
    async def script() -> list[Any]:
        batcher = Batcher(lambda key, items: [], max_batch=8, max_wait=0.0)
        return await asyncio.gather(*(batcher.submit("a", n) for n in range(3)), return_exceptions=True)

    assert [type(result) for result in play(script)] == [RuntimeError] * 3


def test_closing_finishes_what_was_accepted_and_takes_nothing_more() -> None:
    async def script() -> list[Any]:
        batcher = Batcher(echo, max_batch=2, max_wait=5.0)
        batcher.arriving = 9
        tasks = [asyncio.create_task(batcher.submit("a", n)) for n in range(5)]
        await settle()
        await batcher.close()
        with pytest.raises(Refusal, match="stopping"):
            await batcher.submit("a", 9)
        return await asyncio.gather(*tasks)

    assert play(script) == [("a", n) for n in range(5)]


async def _storm(seed: int, max_batch: int) -> None:
    """Hundreds of items at random times; some leave, some have deadlines, some make the call fail."""
    dice, seen, most = random.Random(seed), [], 0

    def run(key: int, items: Sequence[tuple[int, str]]) -> list[Any]:
        nonlocal most
        most = max(most, len(items))
        seen.extend(number for number, _ in items)
        time.sleep(dice.choice((0, 0, 0.0005, 0.002)))
        if any(kind == "breaks" for _, kind in items):
            raise RuntimeError(f"broken {items[0][0]}" if len(items) == 1 else "broken")
        return [LookupError(number) if kind == "fails" else (key, number) for number, kind in items]

    batcher = Batcher(run, max_batch=max_batch, max_wait=dice.choice((0.0, 0.002)))
    kinds = ["good"] * 8 + ["fails", "breaks", "leaves", "late"]

    async def client(number: int) -> None:
        kind, key = dice.choice(kinds), dice.randrange(3)
        await asyncio.sleep(dice.random() * 0.05)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + dice.random() * 0.01 if kind == "late" else None
        call = asyncio.create_task(batcher.submit(key, (number, kind), deadline=deadline))
        if kind == "leaves":
            await asyncio.sleep(dice.random() * 0.01)
            call.cancel()
        [found] = await asyncio.gather(call, return_exceptions=True)
        if isinstance(found, tuple):
            assert kind in ("good", "late", "leaves")
            assert found == (key, number)
        elif kind == "fails":
            assert isinstance(found, LookupError)
            assert found.args == (number,)
        elif kind == "breaks":
            assert str(found) == f"broken {number}"
        elif kind == "late":
            assert isinstance(found, Refusal)
        else:
            assert kind == "leaves", found
            assert isinstance(found, asyncio.CancelledError)

    await asyncio.gather(*(client(number) for number in range(200)))
    await batcher.close()
    assert batcher.waiting == 0
    assert most <= max_batch
    assert set(range(200)) >= set(seen)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1 << 30), max_batch=st.sampled_from([1, 3, 8, 32]))
def test_every_accepted_item_gets_its_own_answer_once(seed: int, max_batch: int) -> None:
    play(lambda: _storm(seed, max_batch))


def test_one_slow_item_does_not_count_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of the items that wait are those of their key; of the others, the median of the last items."""
    now, gate = [0.0], threading.Event()
    gate.set()

    def run(key: float, items: Sequence[Any]) -> list[Any]:
        assert gate.wait(20)
        now[0] += key * len(items)
        return echo(key, items)

    async def script() -> None:
        batcher = Batcher(run, max_batch=4, max_wait=0.0)
        assert batcher.seconds_for(100) == 0.0
        for _ in range(3):
            await batcher.submit(0.5, 1)
        await batcher.submit(20.0, 1)
        assert batcher.seconds_for(100) == pytest.approx(50.0)
        gate.clear()
        running = asyncio.create_task(batcher.submit(0.5, 1))
        await settle()
        tasks = [running, *(asyncio.create_task(batcher.submit(20.0, n)) for n in range(2))]
        await settle()
        assert batcher.waiting == 2
        assert batcher.seconds_for(3) == pytest.approx(40.5)
        gate.set()
        await asyncio.gather(*tasks)
        await batcher.close()

    monkeypatch.setattr("hierax.serve.batcher.time", SimpleNamespace(perf_counter=lambda: now[0]))
    play(script)


def test_images_that_would_wait_too_long_are_refused_and_the_reason_is_told() -> None:
    limits, pace = Limits(queue_images=100, max_images=10, max_batch=8, deadline_s=30), [0.0]
    admission = Admission(limits, lambda images: images * pace[0])
    admission.add(99, 0)
    admission.check()
    pace[0] = 0.15
    admission.check()
    pace[0] = 0.2
    with pytest.raises(Refusal, match="the 99 images in the queue will take about 20 s; try again later"):
        admission.check()
    assert admission.retry_after() == 10
    admission.add(-92, 0)
    pace[0] = 60.0
    admission.check()  # less than a batch is always accepted
    admission.add(93, 0)
    with pytest.raises(Refusal, match=r"the queue is full \(100 images\)"):
        admission.check()
