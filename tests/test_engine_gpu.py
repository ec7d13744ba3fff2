"""The engine on a GPU: fused attention, graphs, streams. These run where there is one."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hierax.engine import Engine
from hierax.engine.backends import pytorch as eager_module
from hierax.processing import HieraImageProcessor
from small import pixels, relative, units_of
from tasks import EVERY, make

pytestmark = pytest.mark.gpu
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
on_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")
TASKS = ("features", "classification", "backbone", "mae")
UNFUSED = ("aten::_scaled_dot_product_attention_math", "aten::bmm", "aten::_softmax", "aten::softmax")
FUSED = ("flash_attention", "efficient_attention", "cudnn_attention")


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """float32 is float32, and not TF32, while answers are compared."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def built(task: str, kind: str = "image", **changes: Any) -> Any:
    torch.manual_seed(0)
    return make(kind, task, **changes)


def fusible(task: str) -> Any:
    """A model whose heads are wide enough for fused kernels: 32 channels."""
    return built(task, embed_dim=32, depths=(1, 1, 1, 1), decoder_hidden_size=64, decoder_num_heads=2)


def tensors(out: Any) -> list[Tensor]:
    """All floating-point tensors of an output."""
    found = [part for value in out.to_tuple() for part in (value if isinstance(value, tuple) else (value,))]
    return [tensor for tensor in found if tensor.is_floating_point()]


def assert_same(ours: Any, theirs: Any, tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for found, expected in zip(tensors(ours), tensors(theirs), strict=True):
        assert found.dtype == torch.float32
        assert relative(found.cpu(), expected.cpu()) <= tolerance


def plainly(model: Any, x: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        return model(x, **options)


def mask(model: Any, task: str, batch: int) -> dict[str, Tensor]:
    return {"noise": torch.rand(batch, units_of(model.config))} if task == "mae" else {}


@on_cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("task", TASKS)
def test_attention_is_fused(task: str, precision: str) -> None:
    model = fusible(task)
    with Engine(model, device="cuda", precision=precision) as engine:
        x = pixels(model.config, 4, (96, 64))  # a size that runs eagerly: a graph hides its operators
        options = {"keep": (torch.arange(6) % 2 == 0).expand(4, -1)} if task == "mae" else {}
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            engine(pixel_values=x, **options)
        assert engine._pool.shapes == ()
    names = {event.key for event in profile.key_averages()}
    assert not names & set(UNFUSED)
    assert any(kernel in name for name in names for kernel in FUSED)


@on_cuda
@pytest.mark.parametrize("kind", ["image", "abs_win", "video", "line", "volume"])
@pytest.mark.parametrize("task", TASKS)
def test_graphs_answer_as_the_model_does_for_any_batch(kind: str, task: str) -> None:
    model = built(task, kind)
    with Engine(model, device="cuda", precision="fp32") as engine:
        for batch in (1, 2, 3, 9, 1, 70):
            x, options = pixels(model.config, batch), mask(model, task, batch)
            assert_same(engine(pixel_values=x, **options), plainly(model, x, **options), 1e-4)
        assert len(engine._pool.shapes) >= 4


@on_cuda
def test_answers_of_a_graph_stay_when_it_runs_again() -> None:
    model = built("features")
    with Engine(model, device="cuda", precision="fp32") as engine:
        first: Any = engine(pixel_values=pixels(model.config))
        before = first.pooler_output.clone()
        for _ in range(3):
            engine(pixel_values=pixels(model.config))
        assert torch.equal(first.pooler_output, before)


@on_cuda
def test_a_graph_outlives_the_tables_that_the_model_forgets() -> None:
    """Position embeddings are kept for eight sizes: that of a graph must not go when others come."""
    model = built("features")
    x = pixels(model.config, 2, (96, 96))
    with Engine(model, device="cuda", precision="fp32") as engine:
        engine.warm_up(size=(96, 96), batches=(2,))
        for height in range(32, 32 * 14, 32):
            engine(pixel_values=pixels(model.config, 1, (height, 160)))
        junk = [torch.full((1 << n,), torch.nan, device="cuda") for n in range(8, 22)]
        assert_same(engine(pixel_values=x), plainly(model, x), 1e-4)
        del junk


@on_cuda
@pytest.mark.parametrize("where", ["pageable", "pinned", "cuda", "channels last"])
def test_pixels_may_lie_anywhere(where: str) -> None:
    model = built("classification")
    x = pixels(model.config, 4)
    expected = plainly(model, x)
    given = {
        "pageable": lambda: x.clone(),
        "pinned": lambda: x.pin_memory(),
        "cuda": lambda: x.cuda(),
        "channels last": lambda: x.to(memory_format=torch.channels_last),
    }[where]()
    with Engine(model, device="cuda", precision="fp32") as engine:
        out: Any = engine(pixel_values=given)
        assert out.logits.device.type == "cuda"
        assert_same(out, expected, 1e-4)


@on_cuda
def test_a_caller_who_overwrites_pixels_at_once_gets_the_answer_to_the_first() -> None:
    model = built("features")
    with Engine(model, device="cuda", precision="fp32") as engine:
        engine.warm_up(batches=(16,))
        wanted, found = [], []
        for _ in range(8):
            x = pixels(model.config, 16)
            wanted.append(plainly(model, x))
            found.append(engine(pixel_values=x))
            x.fill_(torch.nan)
        for ours, theirs in zip(found, wanted, strict=True):
            assert_same(ours, theirs, 1e-4)


@on_cuda
def test_threads_on_streams_of_their_own_get_their_own_answers() -> None:
    model = built("features")
    problems: list[BaseException] = []
    with Engine(model, device="cuda", precision="fp32") as engine:
        engine.warm_up(batches=(1, 2, 4))

        def work(number: int) -> None:
            try:
                draw = torch.Generator().manual_seed(number)
                with torch.cuda.stream(torch.cuda.Stream()):
                    for turn in range(20):
                        x = torch.randn(1 + (number + turn) % 4, 3, 64, 64, generator=draw)
                        assert_same(engine(pixel_values=x), plainly(model, x), 1e-4)
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []


@on_cuda
def test_a_capture_does_not_mind_other_threads_that_allocate() -> None:
    model = built("features")
    stop = threading.Event()

    def allocate() -> None:
        kept, size = [], 1 << 20
        while not stop.is_set():
            size = size * 2 if size < 1 << 28 else 1 << 20  # ever more than what is cached, so that the driver is asked
            kept = [*kept[-3:], torch.ones(size, device="cuda")]
            kept[-1].sum().item()

    other = threading.Thread(target=allocate)
    other.start()
    try:
        with Engine(model, device="cuda", precision="fp32") as engine:
            engine.warm_up(batches=(1, 2, 4, 8))
            x = pixels(model.config, 8)
            assert_same(engine(pixel_values=x), plainly(model, x), 1e-4)
    finally:
        stop.set()
        other.join()


@on_cuda
def test_where_no_graph_can_be_made_it_runs_without_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(eager_module, "GraphRunner", refuse)
    model = built("features")
    x = pixels(model.config)
    with Engine(model, device="cuda", precision="fp32") as engine:
        assert_same(engine(pixel_values=x), plainly(model, x), 1e-4)
    assert "no CUDA graph for 64x64 pixels, batch 2, so it runs without one: CUDA out of memory" in caplog.text


@on_cuda
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_compiled_programs_are_captured_too(task: str) -> None:
    model = fusible(task)
    with Engine(model, device="cuda", precision="bf16", backend="compile") as engine:
        x, options = pixels(model.config, 3), mask(model, task, 3)
        assert_same(engine(pixel_values=x, **options), plainly(model, x, **options), 0.05)


@on_cuda
def test_pictures_become_pixels_on_the_device(tmp_path: Path, classifier: Path) -> None:
    from test_engine_pixels import photo

    with Engine(classifier, device="cuda", precision="fp32") as engine:
        assert engine._device_pixels is not None
        made, expected = engine._device_pixels([photo(), photo()]), engine.processor([photo(), photo()]).pixel_values
        assert made.device.type == "cuda"
        assert (made.cpu() - expected).abs().max() <= 2.01 / 255 / 0.224
        assert engine(photo()).logits.shape == (1, 5)  # type: ignore[attr-defined]
    with Engine(classifier, device="cuda", processor=HieraImageProcessor()) as engine:
        assert engine._device_pixels is None


@on_cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_the_second_device_may_be_the_engines_while_the_first_is_current() -> None:
    model = built("features")
    x = pixels(model.config, 3)
    with Engine(model, device="cuda:1", precision="fp32") as engine:
        out: Any = engine(pixel_values=x)
        assert out.pooler_output.device == torch.device("cuda", 1)
        assert_same(out, plainly(model, x), 1e-4)
        assert torch.cuda.current_device() == 0


@on_cuda
def test_closing_gives_memory_back() -> None:
    model = fusible("features")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with Engine(model, device="cuda", precision="fp32") as engine:
        engine.warm_up(batches=(1, 8))
        assert torch.cuda.memory_allocated() > before
    workspaces = 128 << 20  # which cuBLAS keeps for each stream it was used on
    assert torch.cuda.memory_allocated() - before <= workspaces


@on_mps
@pytest.mark.parametrize("task", TASKS)
def test_mps_answers_as_the_model_does(task: str) -> None:
    model = built(task)
    with Engine(model, device="mps", precision="fp32") as engine:
        for batch, size in ((1, (64, 64)), (3, (64, 64)), (2, (96, 64))):
            x = pixels(model.config, batch, size)
            options = {"noise": torch.rand(batch, units_of(model.config, size))} if task == "mae" else {}
            assert_same(engine(pixel_values=x, **options), plainly(model, x, **options), 1e-3)


def test_the_maps_that_are_compared_here_are_all() -> None:
    assert len(tensors(plainly(built("backbone"), pixels(built("backbone").config)))) == len(EVERY)
