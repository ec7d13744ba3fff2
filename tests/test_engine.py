"""The engine gives the model's own answers, for any batch, size and mask."""

from typing import Any

import pytest
import torch

from engines import BACKENDS, Shared, assert_same, direct, plainly, tensors, tiny
from hierax.engine import Engine
from hierax.engine.pool import buckets
from hierax.model.outputs import BackboneOutput, ClassifierOutput, HieraModelOutput, PreTrainingOutput
from small import pixels, relative, units_of

pytest.importorskip("openvino")

pytest_plugins = ("engines",)
pytestmark = pytest.mark.usefixtures("own_cache")

OUTPUTS = {
    "features": HieraModelOutput,
    "backbone": BackboneOutput,
    "classification": ClassifierOutput,
    "mae": PreTrainingOutput,
}
CASES = [
    *(("image", task) for task in OUTPUTS),
    ("abs_win", "features"),
    ("video", "classification"),
    ("video", "mae"),
    ("line", "backbone"),
    ("volume", "features"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "task"), CASES)
def test_the_engine_answers_as_the_model_does_for_any_batch(kind: str, task: str, backend: str, shared: Shared) -> None:
    model, engine = shared(kind, task, backend)
    for batch in (1, 2, 3, 9):
        x = pixels(model.config, batch)
        options = {"noise": torch.rand(batch, units_of(model.config))} if task == "mae" else {}
        out = engine(pixel_values=x, **options)
        assert isinstance(out, OUTPUTS[task])
        assert_same(out, direct(model, task, x, **options))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "size"), [("image", (72, 101)), ("video", (7, 70, 64))])
def test_it_does_so_at_odd_sizes_eagerly_and_compiled(
    kind: str, size: tuple[int, ...], backend: str, shared: Shared
) -> None:
    model, engine = shared(kind, "classification", backend)
    for _ in range(4):
        x = pixels(model.config, 3, size)
        assert_same(engine(pixel_values=x), direct(model, "classification", x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_of_ones_own_is_kept(backend: str, shared: Shared) -> None:
    model, engine = shared("image", "mae", backend)
    for size in ((64, 64), (64, 96)):
        x, units = pixels(model.config, 3, size), units_of(model.config, size)
        for shown in (1, 2, units - 1):
            keep = torch.stack([torch.randperm(units) < shown for _ in range(3)])
            out = engine(pixel_values=x, keep=keep)
            assert out.ids_restore is None  # type: ignore[attr-defined]
            assert_same(out, direct(model, "mae", x, keep=keep))


def test_batches_larger_than_all_streams_hold_keep_their_order(shared: Shared) -> None:
    model, engine = shared("image", "features", "openvino")
    x = pixels(model.config, 50)
    assert_same(engine(pixel_values=x), direct(model, "features", x))


def test_a_random_mask_is_drawn_where_none_is_given(shared: Shared) -> None:
    model, engine = shared("image", "mae", "torch")
    x = pixels(model.config)
    torch.manual_seed(7)
    out: Any = engine(pixel_values=x)
    torch.manual_seed(7)
    assert_same(out, direct(model, "mae", x))


def computes_in_fp32(backend: str) -> bool:
    """Whether bf16 is fp32 in truth: OpenVINO on a CPU without bf16, which the engine tells."""
    from hierax.engine.backends.openvino import has_bf16

    return backend == "openvino" and not has_bf16()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", ["features", "classification"])
def test_in_bf16_the_direction_stays(backend: str, task: str, shared: Shared) -> None:
    model, engine = shared("image", task, backend, "bf16")
    x = pixels(model.config, 9)
    ours, theirs = tensors(engine(pixel_values=x)), tensors(direct(model, task, x))
    for name, tensor in theirs.items():
        assert ours[name].dtype == torch.float32
        cosine = torch.cosine_similarity(ours[name].flatten(1), tensor.flatten(1))
        assert cosine.min() >= 0.9995, name
        is_bf16 = relative(ours[name], tensor) > 1e-4
        assert is_bf16 != computes_in_fp32(backend), f"{name} is too close to be bf16, or too far to be fp32"


def test_torch_compile_answers_as_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler of C++, which takes a minute; for more shapes than PyTorch compiles of one code object."""
    original = torch.compile

    def quick(call: Any, **options: Any) -> Any:
        made = original(call, backend="eager", **options)

        def limited(*arguments: Any) -> Any:  # set here, for PyTorch's settings are each thread's own
            with torch._dynamo.config.patch(recompile_limit=1):  # type: ignore[attr-defined]
                return made(*arguments)

        return limited

    monkeypatch.setattr(torch, "compile", quick)
    model = tiny("classification")
    with Engine(model, backend="compile", precision="fp32", max_shapes=20) as engine:
        for size in (33, 34):
            engine.warm_up(size=(size, 32))
            x = pixels(model.config, 1, (size, 32))
            assert_same(engine(pixel_values=x), plainly(model, x))
        x = pixels(model.config, 3)
        assert_same(engine(pixel_values=x), plainly(model, x))


def test_batches_are_cut_into_powers_of_two() -> None:
    assert buckets(1) == [(0, 1, 1)]
    assert buckets(9) == [(0, 9, 16)]
    assert buckets(64) == [(0, 64, 64)]
    assert buckets(130) == [(0, 64, 64), (64, 64, 64), (128, 2, 2)]


def test_batches_of_large_pictures_are_cut_smaller() -> None:
    """CUDA's fused attention takes 65,535 rows, of which a picture of 1024 x 1024 has 1024."""
    assert buckets(64, most=65535 // 1024) == [(0, 32, 32), (32, 32, 32)]
    assert buckets(2, most=0) == [(0, 1, 1), (1, 1, 1)]
