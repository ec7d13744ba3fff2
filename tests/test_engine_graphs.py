"""The handling of CUDA graphs and of streams, where there is no CUDA: with a graph that calls its program again."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hierax.engine import Engine
from hierax.engine.backends.pytorch import GraphRunner, TorchBackend
from hierax.engine.context import Turns
from hierax.engine.pool import Shape
from small import pixels, relative, units_of
from tasks import make

CUDA = torch.device("cuda", 0)


class Recorded(nn.Module):
    """A program that remembers what it was last called with and what it gave."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = program
        self.last: Any = None

    def forward(self, pixels: Tensor, kept: Tensor | None = None) -> tuple[Tensor, ...]:
        self.last = (pixels, kept, self.program(pixels, kept))
        return self.last[-1]


class Graph:
    """Replays by calling the program on the captured inputs and writing into the captured outputs."""

    program: Any = None
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.captured: Any = None

    def replay(self) -> None:
        pixels, kept, outputs = self.captured
        for target, fresh in zip(outputs, self.program.program(pixels, kept), strict=True):
            target.copy_(fresh)

    def reset(self) -> None:
        self.captured = None


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`graphs(engine)`: the engine then works as on CUDA; returns the class of its graphs."""

    @contextlib.contextmanager
    def capture(graph: Graph, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        yield
        graph.captured = Graph.program.last

    class Stream:
        def wait_stream(self, other: Any) -> None: ...

    monkeypatch.setattr(Graph, "made", 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)

    def prepare(engine: Engine) -> type[Graph]:
        backend = engine._backend
        assert isinstance(backend, TorchBackend)
        backend._graphs = backend.batched = True
        backend._program = Graph.program = Recorded(backend._program)
        return Graph

    return prepare


def expected(model: Any, x: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        return model(x, **options)


@pytest.mark.parametrize("task", ["features", "mae"])
def test_any_batch_is_served_by_graphs_of_powers_of_two(task: str, graphs: Any) -> None:
    torch.manual_seed(0)
    model = make("image", task)
    with Engine(model, device="cpu", precision="fp32", backend="torch") as engine:
        made = graphs(engine)
        for batch in (1, 2, 3, 4, 9, 1, 3, 70):
            x = pixels(model.config, batch)
            options = {"noise": torch.rand(batch, units_of(model.config))} if task == "mae" else {}
            ours, theirs = engine(pixel_values=x, **options), expected(model, x, **options)
            name = "logits" if task == "mae" else "pooler_output"
            assert relative(ours[name], theirs[name]) <= 1e-5
        assert [shape.batch for shape in engine._pool.shapes] == [2, 16, 1, 4, 64, 8]
        assert made.made == 6


def test_answers_stay_when_a_graph_runs_again(graphs: Any) -> None:
    torch.manual_seed(0)
    model = make("image", "features")
    with Engine(model, device="cpu", precision="fp32", backend="torch") as engine:
        graphs(engine)
        runner = engine._backend.runner(Shape(model.config.image_size, 2))
        first = runner(pixels(model.config), None)
        before = [tensor.clone() for tensor in first]
        runner(pixels(model.config), None)
        assert all(map(torch.equal, first, before))


def test_a_graph_holds_the_tables_that_it_reads(graphs: Any) -> None:
    """The program keeps those of eight other sizes than that of the model; a graph has their addresses alone."""
    torch.manual_seed(0)
    model = make("image", "features")
    with Engine(model, device="cpu", precision="fp32", backend="torch") as engine:
        graphs(engine)
        engine.warm_up(size=(96, 96))
        position = engine._backend._program.program.model.encoder.pos_embed  # type: ignore[attr-defined]
        [(table, *_)] = position.cached.values()
        [runner] = engine._pool._runners.values()
        assert isinstance(runner, GraphRunner)
        assert any(held is table for tables in runner._tables for held in tables)


def test_where_no_graph_can_be_made_it_runs_without_and_the_log_says_why(
    graphs: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def __init__(self) -> None:
            raise RuntimeError("CUDA out of memory\nand so on")

    torch.manual_seed(0)
    model = make("image", "features")
    x = pixels(model.config)
    with Engine(model, device="cpu", precision="fp32", backend="torch") as engine:
        graphs(engine)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Full)
        ours: Any = engine(pixel_values=x)
        assert relative(ours.pooler_output, expected(model, x).pooler_output) <= 1e-5
    assert "no CUDA graph for 64x64 pixels, batch 2, so it runs without one: CUDA out of memory" in caplog.text


def test_a_graph_reads_pictures_channels_last_and_what_is_no_picture_as_it_is(graphs: Any) -> None:
    for kind, strides in (("image", torch.channels_last), ("video", torch.contiguous_format)):
        model = make(kind, "features")
        with Engine(model, device="cpu", precision="fp32", backend="torch") as engine:
            graphs(engine)
            runner: Any = engine._backend.runner(Shape(model.config.image_size, 2))
            runner(pixels(model.config), None)
            assert runner._pixels.is_contiguous(memory_format=strides)
            runner.close()


def test_each_call_waits_for_the_one_before_on_whatever_stream_that_was(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    class Event:
        def wait(self) -> None:
            happened.append("wait")

        def record(self) -> None:
            happened.append("record")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    turns = Turns(CUDA)
    for _ in range(2):
        with turns():
            happened.append("run")
            assert not torch.is_grad_enabled()
    with pytest.raises(KeyError), turns():
        raise KeyError
    assert happened == ["wait", "run", "record", "wait", "run", "record", "wait", "record"]
