"""The life of an engine: threads, what it leaves alone, what it compiles, and its end."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from engines import BACKENDS, Shared, assert_same, plainly, tensors, tiny
from hierax.engine import Engine
from hierax.engine.backends import pytorch as eager
from small import pixels
from tasks import make

pytest.importorskip("openvino")

pytest_plugins = ("engines",)
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_threads_at_once_get_their_own_answers(backend: str, shared: Shared) -> None:
    model, engine = shared("image", "features", backend)
    inputs = [pixels(model.config, 1 + i % 5, (64, 64) if i % 3 else (72, 101)) for i in range(16)]
    serial = [engine(pixel_values=x) for x in inputs]
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda x: engine(pixel_values=x), inputs))
    for ours, theirs in zip(found, serial, strict=True):
        assert_same(ours, theirs)


def test_the_main_thread_computes_itself_and_others_share_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's helpers of a second thread would wait for those of the main thread."""
    engine, threads = Engine(tiny("features"), precision="fp32", backend="torch", cache_dir=False), []
    runner = engine._pool.get
    monkeypatch.setattr(
        engine._pool, "get", lambda *a, **k: threads.append(threading.current_thread()) or runner(*a, **k)
    )
    x = torch.zeros(1, 3, 64, 64)
    ours = engine(pixel_values=x)
    with ThreadPoolExecutor(2) as executor:
        theirs = list(executor.map(lambda _: engine(pixel_values=x), range(4)))
    for other in theirs:
        assert_same(other, ours)
    assert threads[0] is threading.main_thread()
    assert len({*threads[1:]}) == 1
    assert threads[1].name.startswith("hierax-engine")
    monkeypatch.setattr("hierax.engine.forking._imported_by", -1)  # as in a forked child
    assert_same(engine(pixel_values=x), ours)
    assert threads[-1] is threads[1]


def test_a_closed_engine_refuses_whatever_it_is_given(tmp_path: Path) -> None:
    engine = Engine(tiny("mae"), precision="fp32", backend="torch")
    engine.close()
    engine.close()
    for call in (
        lambda: engine(pixel_values=torch.zeros(1, 3, 64, 64)),
        lambda: engine(tmp_path / "not there.jpg"),
        engine.warm_up,
    ):
        with pytest.raises(RuntimeError, match="this engine is closed"):
            call()
    assert repr(engine).startswith("Engine(HieraForPreTraining")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_with_block_closes_the_engine(backend: str) -> None:
    with Engine(tiny("features"), precision="fp32", backend=backend, cache_dir=False) as engine:
        assert engine.warm_up() is engine
    with pytest.raises(RuntimeError, match="closed"):
        engine(pixel_values=torch.zeros(1, 3, 64, 64))


def test_closing_waits_for_calls_that_are_running(monkeypatch: pytest.MonkeyPatch) -> None:
    model, running, order = tiny("features"), threading.Event(), []
    engine = Engine(model, precision="fp32", backend="torch", cache_dir=False)
    give = engine._pool.get

    def slow(*arguments: Any, **options: Any) -> Any:
        running.set()
        time.sleep(0.5)
        order.append("called")
        return give(*arguments, **options)

    monkeypatch.setattr(engine._pool, "get", slow)
    x = pixels(model.config)
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(engine, pixel_values=x)
        running.wait()
        engine.close()
        order.append("closed")
        assert_same(answer.result(), plainly(model, x))
    assert order == ["called", "closed"]


def in_a_new_thread(act: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(act).result()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_process_keeps_its_number_of_threads(backend: str) -> None:
    before = torch.get_num_threads()
    with Engine(tiny("features"), precision="fp32", backend=backend, threads=2, cache_dir=False) as engine:
        for size in ((64, 64), (72, 64)):
            engine(pixel_values=torch.zeros(2, 3, *size))
    assert torch.get_num_threads() == before
    assert in_a_new_thread(torch.get_num_threads) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_model_that_was_passed_is_left_alone_and_may_change(backend: str) -> None:
    model = tiny("features").double().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = pixels(model.config)
    with Engine(model, precision="fp32", backend=backend, cache_dir=False) as engine:
        first = engine(pixel_values=x)
        assert model.training
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        engine.warm_up(size=(96, 64))
        odd = engine(pixel_values=torch.ones(1, 3, 96, 64))
        assert_same(engine(pixel_values=x), first)
        assert tensors(odd)["pooler_output.0"].abs().sum() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_modes_of_the_caller_change_nothing(backend: str) -> None:
    """Also not what is compiled, and kept, while a mode is on."""
    model = tiny("features")
    x = pixels(model.config)
    expected = plainly(model, x)
    engine = Engine(model, precision="fp32", backend=backend, cache_dir=False)
    with engine, torch.autocast("cpu", torch.bfloat16):
        assert_same(engine(pixel_values=x), expected)
    with Engine(model, precision="fp32", backend=backend, cache_dir=False) as engine:
        with torch.inference_mode():
            engine(pixel_values=x)
            engine(pixel_values=pixels(model.config, 1, (72, 64)))
        assert_same(engine(pixel_values=x), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_comes_out_can_be_trained_on(backend: str, shared: Shared) -> None:
    model, engine = shared("image", "features", backend)
    head = torch.nn.Linear(model.config.hidden_size, 2)
    for size in ((64, 64), (72, 101)):
        out: Any = engine(pixel_values=pixels(model.config, 3, size))
        assert not out.pooler_output.requires_grad
        head(out.pooler_output).sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_do_not_change_when_the_engine_goes_on(backend: str, shared: Shared) -> None:
    model, engine = shared("image", "features", backend)
    first: Any = engine(pixel_values=pixels(model.config, 3))
    before = first.pooler_output.clone()
    engine(pixel_values=pixels(model.config, 3))
    assert torch.equal(first.pooler_output, before)


def test_repr_says_what_runs_where() -> None:
    with Engine(tiny("features"), precision="fp32", backend="torch") as engine:
        assert repr(engine) == "Engine(HieraModel, fp32 on cpu by torch, 64x64 pixels)"


def test_a_size_that_is_seldom_asked_for_is_not_compiled_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny("features")
    with caplog.at_level(logging.INFO, "hierax.engine"), Engine(model, precision="fp32", cache_dir=False) as engine:
        for size in range(33, 40):
            engine(pixel_values=torch.zeros(1, 3, size, 40))
        assert engine._pool.shapes == ()
    assert caplog.text.count("sizes that are seldom requested run on PyTorch in fp32") == 1


def test_a_mae_model_is_not_compiled_for_ever_new_numbers_of_visible_units() -> None:
    model = make("image", "mae", image_size=(128, 128))
    with Engine(model, precision="fp32", backend="torch") as engine:
        for shown in range(1, 16):
            engine(pixel_values=torch.zeros(1, 3, 128, 128), keep=torch.arange(16)[None] < shown)
        assert [shape.kept for shape in engine._pool.shapes] == [8]  # what mask_ratio leaves


def test_engines_with_threads_of_their_own_take_turns() -> None:
    before, inside = torch.get_num_threads(), []
    barrier, most = threading.Barrier(2), []

    def run(count: int) -> None:
        barrier.wait()
        for _ in range(50):
            with eager.torch_threads(count):
                inside.append(count)
                most.append(len(inside))
                assert torch.get_num_threads() == count
                time.sleep(0.001)
                inside.remove(count)

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(run, (before + 1, before + 2)))
    assert set(most) == {1}
    assert in_a_new_thread(torch.get_num_threads) == before


SIGNAL = """
import faulthandler, os, signal, sys, threading
import torch
sys.path.insert(0, "tests")
from engines import tiny
from hierax.engine.backends.openvino import OpenVinoRunner, to_openvino
from hierax.engine.signature import Program, Signature
from small import pixels
faulthandler.enable()  # as pytest and many services do: signals get a stack of their own
model = tiny("features").eval()
inputs = (pixels(model.config, 1, (64, 64)),)
held = [OpenVinoRunner(to_openvino(Program(model, Signature.of(model)), inputs), precision="fp32", threads=1)]
held[0](*inputs, None)  # loads OpenVINO's CPU plugin in this thread
thread = threading.Thread(target=held.clear)  # and lets it go in another
thread.start()
thread.join()
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
os.kill(os.getpid(), signal.SIGUSR1)
print("alive", caught)
"""


def test_a_signal_after_a_compiled_model_is_gone_kills_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNAL], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout) == (0, "alive [1]\n"), done.stderr
