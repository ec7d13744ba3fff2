"""The engine: the model's own answers, for any batch and size, from any thread; and what it says when it cannot."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hierax import HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel
from hierax.encoder import Hiera
from hierax.engine import Engine, eager, hardware, openvino_backend
from hierax.engine import engine as engine_module
from hierax.engine.engine import buckets
from hierax.outputs import BackboneOutput, ClassifierOutput, HieraModelOutput, PreTrainingOutput
from hierax.processing import HieraImageProcessor, ImageError
from small import image_config, pixels, relative, units_of
from tasks import EVERY, make

pytest.importorskip("openvino")

SAME = 1e-5  # relative, in float32
BACKENDS = ("openvino", "torch")
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


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Callable[..., tuple[Any, Engine]]]:
    """`shared(kind, task, backend, precision)`: a model and its engine, made once."""
    made: dict[tuple[str, ...], tuple[Any, Engine]] = {}

    def give(kind: str, task: str, backend: str, precision: str = "fp32") -> tuple[Any, Engine]:
        key = (kind, task, backend, precision)
        if key not in made:
            torch.manual_seed(0)
            model = make(kind, task)
            # two, for OpenVINO to share batches out; but not everywhere, for threads that wait for a core are slow
            threads = 2 if (kind, backend) == ("image", "openvino") else 1
            options: Any = {"backend": backend, "precision": precision, "threads": threads}
            states = task != "backbone"
            made[key] = model, Engine(model, device="cpu", cache_dir=False, hidden_states=states, **options)
        return made[key]

    yield give
    for _, engine in made.values():
        engine.close()


def tensors(out: Any) -> dict[str, Tensor]:
    """All that an output holds, but for what engines do not give."""
    found: dict[str, Tensor] = {}
    for name, value in out.items():
        if name != "hidden_states":
            parts = value if isinstance(value, tuple) else (value,)
            found |= {f"{name}.{i}": part for i, part in enumerate(parts)}
    return found


def tiny(task: str, kind: str = "image") -> Any:
    """A model that is converted in half a second."""
    torch.manual_seed(0)
    return make(kind, task, depths=(1, 1, 1, 1))


def direct(model: Any, task: str, x: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        return model(x, **options) if task == "backbone" else model(x, output_hidden_states=True, **options)


def plainly(model: Any, x: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        return model(x, **options)


def assert_same(ours: Any, theirs: Any, tolerance: float = SAME) -> None:
    assert type(ours) is type(theirs)
    found, expected = tensors(ours), tensors(theirs)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not tensor.is_floating_point():
            assert torch.equal(found[name], tensor), name
        else:
            assert found[name].dtype == torch.float32, name
            assert relative(found[name], tensor) <= tolerance, name


# -- the same answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "task"), CASES)
def test_the_engine_answers_as_the_model_does_for_any_batch(
    kind: str, task: str, backend: str, shared: Callable[..., tuple[Any, Engine]]
) -> None:
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
    kind: str, size: tuple[int, ...], backend: str, shared: Callable[..., tuple[Any, Engine]]
) -> None:
    model, engine = shared(kind, "classification", backend)
    for _ in range(4):
        x = pixels(model.config, 3, size)
        assert_same(engine(pixel_values=x), direct(model, "classification", x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_of_ones_own_is_kept(backend: str, shared: Callable[..., tuple[Any, Engine]]) -> None:
    model, engine = shared("image", "mae", backend)
    for size in ((64, 64), (64, 96)):
        x, units = pixels(model.config, 3, size), units_of(model.config, size)
        for shown in (1, 2, units - 1):
            keep = torch.stack([torch.randperm(units) < shown for _ in range(3)])
            out = engine(pixel_values=x, keep=keep)
            assert out.ids_restore is None  # type: ignore[attr-defined]
            assert_same(out, direct(model, "mae", x, keep=keep))


def test_batches_larger_than_all_streams_hold_keep_their_order(shared: Callable[..., tuple[Any, Engine]]) -> None:
    model, engine = shared("image", "features", "openvino")
    x = pixels(model.config, 50)
    assert_same(engine(pixel_values=x), direct(model, "features", x))


def test_a_random_mask_is_drawn_where_none_is_given(shared: Callable[..., tuple[Any, Engine]]) -> None:
    model, engine = shared("image", "mae", "torch")
    x = pixels(model.config)
    torch.manual_seed(7)
    out: Any = engine(pixel_values=x)
    torch.manual_seed(7)
    assert_same(out, direct(model, "mae", x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", ["features", "classification"])
def test_in_bf16_the_direction_stays(backend: str, task: str, shared: Callable[..., tuple[Any, Engine]]) -> None:
    model, engine = shared("image", task, backend, "bf16")
    x = pixels(model.config, 9)
    ours, theirs = tensors(engine(pixel_values=x)), tensors(direct(model, task, x))
    for name, tensor in theirs.items():
        assert ours[name].dtype == torch.float32
        cosine = torch.cosine_similarity(ours[name].flatten(1), tensor.flatten(1))
        assert cosine.min() >= 0.9995, name


def test_torch_compile_answers_as_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler of C++, which takes a minute; for more shapes than PyTorch compiles of one code object."""
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: original(call, backend="eager", **options))
    model = tiny("classification")
    limited = torch._dynamo.config.patch(recompile_limit=2)  # type: ignore[attr-defined]
    with limited, Engine(model, backend="compile", precision="fp32", max_shapes=20) as engine:
        for size in range(33, 36):
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


# -- int8 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8() -> Iterator[tuple[Any, Engine, Tensor]]:
    """A model, its engine in int8, and what that was calibrated on."""
    pytest.importorskip("nncf")
    model = tiny("features")
    seen = pixels(model.config, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "_CALIBRATED", 20)
        with Engine(model, precision="int8", calibration=seen, cache_dir=False, threads=1) as engine:
            engine.warm_up()
            yield model, engine, seen


def test_int8_keeps_the_direction_of_features(int8: tuple[Any, Engine, Tensor]) -> None:
    model, engine, _ = int8
    x = pixels(model.config, 9)
    out: Any = engine(pixel_values=x)
    expected = plainly(model, x).pooler_output
    assert torch.cosine_similarity(out.pooler_output, expected).min() >= 0.99
    assert relative(out.pooler_output, expected) > 1e-5  # it is int8


def test_int8_holds_at_the_native_size_and_others_run_in_the_next_best_precision(
    int8: tuple[Any, Engine, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    model, engine, _ = int8
    x = pixels(model.config, 2, (96, 64))
    with caplog.at_level(logging.INFO, "hierax.engine"):
        engine.warm_up(size=(96, 64))
    assert "int8 is calibrated at 64x64 pixels; 96x64 pixels runs in" in caplog.text
    out: Any = engine(pixel_values=x)
    assert torch.cosine_similarity(out.pooler_output, plainly(model, x).pooler_output).min() >= 0.9995


def test_int8_without_pictures_of_ones_own_says_what_it_is_calibrated_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(openvino_backend, "quantise", lambda model, batches: seen.extend(batches) or model)
    monkeypatch.setattr(engine_module, "_CALIBRATED", 20)
    with Engine(tiny("features"), precision="int8", cache_dir=False) as engine:
        engine.warm_up()
    assert {tuple(batch[0].shape) for batch in seen} == {(1, 3, 64, 64)}
    assert "one photo that comes with hierax" in caplog.text


@pytest.mark.parametrize(
    ("calibration", "problem"),
    [
        (torch.zeros(4, 3, 32, 32), r"calibration has shape \[4, 3, 32, 32\]; expected \[N, 3, 64, 64\]"),
        (torch.zeros(0, 3, 64, 64), r"calibration has shape \[0, 3, 64, 64\]"),
        (torch.zeros(4, 3, 64, 64, dtype=torch.uint8), "calibration has dtype torch.uint8"),
    ],
)
def test_pixels_that_cannot_be_calibrated_on_are_refused(calibration: Tensor, problem: str) -> None:
    engine = Engine(tiny("features"), precision="int8", calibration=calibration, cache_dir=False)
    with engine, pytest.raises(ValueError, match=problem):
        engine.warm_up()


def test_clips_are_not_calibrated_on_a_photo() -> None:
    engine = Engine(tiny("features", "video"), precision="int8", cache_dir=False)
    with engine, pytest.raises(ValueError, match=r"takes clips: pass ready pixels"):
        engine.warm_up()


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def on_pictures() -> Iterator[tuple[Any, HieraImageProcessor, Engine]]:
    torch.manual_seed(0)
    model, processor = make("image", "classification"), HieraImageProcessor(size=72, crop_size=64)
    with Engine(model, precision="fp32", backend="torch", processor=processor) as engine:
        yield model, processor, engine


def test_pictures_come_in_any_form(photo: Path, on_pictures: tuple[Any, HieraImageProcessor, Engine]) -> None:
    model, processor, engine = on_pictures
    image = Image.open(photo)
    forms: list[Any] = [
        photo,
        str(photo),
        photo.read_bytes(),
        image,
        np.asarray(image),
        torch.tensor(np.asarray(image)),
    ]
    expected = plainly(model, processor(photo).pixel_values)
    for form in forms:
        assert_same(engine(form), expected)
    assert_same(engine(forms), plainly(model, processor(forms).pixel_values))


def test_ready_pixels_may_come_first_too(on_pictures: tuple[Any, HieraImageProcessor, Engine]) -> None:
    model, _, engine = on_pictures
    x = pixels(model.config)
    assert_same(engine(x), plainly(model, x))


def test_pixels_of_any_precision_and_layout_are_taken(on_pictures: tuple[Any, HieraImageProcessor, Engine]) -> None:
    model, _, engine = on_pictures
    x = pixels(model.config, 3)
    strange = [x.double(), x.flip(0).flip(0), x.to(memory_format=torch.channels_last), x.requires_grad_(True)]
    for one in strange:
        assert_same(engine(pixel_values=one), plainly(model, x))
    assert engine(pixel_values=x.bfloat16()).logits.dtype == torch.float32  # type: ignore[attr-defined]


def test_a_picture_that_cannot_be_read_is_named(
    photo: Path, tmp_path: Path, on_pictures: tuple[Any, HieraImageProcessor, Engine]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"broken\.png"):
        on_pictures[2]([photo, broken])
    with pytest.raises(ValueError, match="empty"):
        on_pictures[2]([])


@pytest.mark.parametrize("task", [None, "features", "backbone"])
def test_a_checkpoint_is_opened_as_any_task(task: str | None, classifier: Path) -> None:
    kind = {None: HieraForImageClassification, "features": HieraModel, "backbone": HieraBackbone}[task]
    options: Any = {"out_features": EVERY} if task == "backbone" else {}
    model: Any = kind.from_pretrained(classifier, **options)
    x = pixels(model.config)
    with Engine(classifier, task=task, precision="fp32", backend="torch", **options) as engine:
        assert_same(engine(pixel_values=x), plainly(model, x))
        assert engine.processor.to_dict() == HieraImageProcessor.from_pretrained(classifier).to_dict()


# -- threads and the life of an engine --------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_threads_at_once_get_their_own_answers(backend: str, shared: Callable[..., tuple[Any, Engine]]) -> None:
    model, engine = shared("image", "features", backend)
    inputs = [pixels(model.config, 1 + i % 5, (64, 64) if i % 3 else (72, 101)) for i in range(16)]
    serial = [engine(pixel_values=x) for x in inputs]
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda x: engine(pixel_values=x), inputs))
    for ours, theirs in zip(found, serial, strict=True):
        assert_same(ours, theirs)


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


def test_closing_waits_for_calls_that_are_running() -> None:
    model = tiny("features")
    engine = Engine(model, precision="fp32", backend="torch")
    started, errors = threading.Barrier(5), []

    def call() -> None:
        started.wait()
        try:
            for _ in range(50):
                engine(pixel_values=torch.zeros(2, 3, 64, 64))
        except RuntimeError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    engine.close()
    for thread in threads:
        thread.join()
    assert set(errors) <= {"this engine is closed"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_process_keeps_its_number_of_threads(backend: str) -> None:
    before = torch.get_num_threads()
    with Engine(tiny("features"), precision="fp32", backend=backend, threads=2, cache_dir=False) as engine:
        for size in ((64, 64), (72, 64)):
            engine(pixel_values=torch.zeros(2, 3, *size))
    assert torch.get_num_threads() == before


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
def test_what_comes_out_can_be_trained_on(backend: str, shared: Callable[..., tuple[Any, Engine]]) -> None:
    model, engine = shared("image", "features", backend)
    head = torch.nn.Linear(model.config.hidden_size, 2)
    for size in ((64, 64), (72, 101)):
        out: Any = engine(pixel_values=pixels(model.config, 3, size))
        assert not out.pooler_output.requires_grad
        head(out.pooler_output).sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_do_not_change_when_the_engine_goes_on(backend: str, shared: Callable[..., tuple[Any, Engine]]) -> None:
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
    assert caplog.text.count("sizes that are seldom asked for run on PyTorch in fp32") == 1


def test_a_mae_model_is_not_compiled_for_ever_new_numbers_of_visible_units() -> None:
    model = make("image", "mae", image_size=(128, 128))
    with Engine(model, precision="fp32", backend="torch") as engine:
        for shown in range(1, 16):
            engine(pixel_values=torch.zeros(1, 3, 128, 128), keep=torch.arange(16)[None] < shown)
        assert [shape.kept for shape in engine._pool.shapes] == [8]  # what mask_ratio leaves


# -- what is kept on disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with every conversion to OpenVINO."""
    counted: list[Any] = []
    original = openvino_backend.to_openvino

    def counting(program: Any, example: Any) -> Any:
        counted.append(example)
        return original(program, example)

    monkeypatch.setattr(openvino_backend, "to_openvino", counting)
    return counted


def converted(model: Any, cache: Any, **options: Any) -> Any:
    with Engine(model, backend="openvino", cache_dir=cache, **{"precision": "fp32", "threads": 1, **options}) as engine:
        return engine(pixel_values=torch.ones(1, 3, 64, 64))


def test_a_second_engine_does_not_convert_again(tmp_path: Path, conversions: list[Any]) -> None:
    model = tiny("features")
    first = converted(model, tmp_path / "kept")
    again = converted(model, tmp_path / "kept")
    assert len(conversions) == 1
    assert_same(again, first, 0)


def test_what_is_kept_serves_every_precision_that_is_no_int8(tmp_path: Path, conversions: list[Any]) -> None:
    model = tiny("features")
    converted(model, tmp_path / "kept", precision="fp32")
    converted(model, tmp_path / "kept", precision="bf16")
    assert len(conversions) == 1


def test_other_weights_or_outputs_are_converted_anew(tmp_path: Path, conversions: list[Any]) -> None:
    model = tiny("features")
    converted(model, tmp_path / "kept")
    converted(model, tmp_path / "kept", hidden_states=True)
    with torch.no_grad():
        model.norm.bias.add_(1)
    converted(model, tmp_path / "kept")
    assert len(conversions) == 3


def test_a_damaged_artefact_is_made_again_and_the_log_says_so(
    tmp_path: Path, conversions: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("features")
    first = converted(model, tmp_path)
    [path] = tmp_path.glob("*.artefact")
    path.write_bytes(path.read_bytes()[:-100])
    assert_same(converted(model, tmp_path), first, 0)
    assert len(conversions) == 2
    assert "damaged and will be made again" in caplog.text


def test_an_artefact_that_is_whole_but_unreadable_is_made_again_too(
    tmp_path: Path, conversions: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("features")
    first = converted(model, tmp_path)
    [path] = tmp_path.glob("*.artefact")
    content = openvino_backend.ArtefactCache(tmp_path).read(path.stem)
    assert content is not None
    for wrong in (b"", b"x" * 40, bytes(content[:8]) + b"<net" + bytes(content[12:])):
        openvino_backend.ArtefactCache(tmp_path).write(path.stem, wrong)
        caplog.clear()
        assert_same(converted(model, tmp_path), first, 0)
        assert "cannot be read and will be made again" in caplog.text
    assert len(conversions) == 4


def test_without_a_cache_nothing_is_written(tmp_path: Path) -> None:
    converted(tiny("features"), False)
    assert not (tmp_path / "cache").exists()


def test_the_cache_is_where_the_environment_says(tmp_path: Path) -> None:
    converted(tiny("features"), None)
    assert len(list((tmp_path / "cache").glob("*.artefact"))) == 1


@pytest.mark.skipif(os.name == "nt", reason="folders are read-only in another way there")
def test_a_folder_that_cannot_be_written_to_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    converted(tiny("features"), tmp_path / "file" / "cache")


def test_warming_up_makes_what_calls_will_need(conversions: list[Any]) -> None:
    with Engine(tiny("mae"), precision="fp32", cache_dir=False, threads=1) as engine:
        engine.warm_up(batches=(1, 4)).warm_up(size=(64, 96))
        assert len(conversions) == 2
        engine(pixel_values=torch.zeros(4, 3, 64, 64))
        engine(pixel_values=torch.zeros(1, 3, 64, 96))
    assert len(conversions) == 2


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "call", "problem"),
    [
        ("features", {}, "expected either images or pixel_values"),
        ("features", {"images": "a.jpg", "pixel_values": torch.zeros(1)}, "expected either images or pixel_values"),
        ("features", {"pixel_values": torch.zeros(3, 64, 64)}, r"pixel_values has shape \[3, 64, 64\]; expected"),
        ("features", {"pixel_values": torch.zeros(1, 4, 64, 64)}, r"expected \[batch, 3, height, width\]"),
        ("features", {"pixel_values": torch.zeros(0, 3, 64, 64)}, r"pixel_values has shape \[0, 3, 64, 64\]"),
        ("features", {"pixel_values": torch.zeros(1, 3, 64, 64).int()}, "dtype torch.int32; expected normalised"),
        ("features", {"pixel_values": torch.zeros(1, 3, 64, 64), "noise": torch.zeros(1, 4)}, "for MAE models"),
        ("features", {"pixel_values": torch.zeros(1, 3, 64, 64), "keep": torch.ones(1, 4) > 0}, "for MAE models"),
        ("mae", {"pixel_values": torch.zeros(1, 3, 64, 70)}, "multiples of 32x32"),
        ("mae", {"pixel_values": torch.zeros(1, 3, 64, 64).int()}, "dtype torch.int32"),
        ("mae", {"pixel_values": torch.zeros(1, 3, 64, 64), "noise": torch.zeros(1, 5)}, r"noise has shape \[1, 5\]"),
        ("mae", {"pixel_values": torch.zeros(1, 3, 64, 64), "keep": torch.ones(1, 4) > 0}, "at least one must be hid"),
        (
            "mae",
            {"pixel_values": torch.zeros(2, 3, 64, 64), "keep": torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]) > 0},
            "keep shows 1 mask units in image 0 and 2 in image 1",
        ),
    ],
)
def test_a_call_that_cannot_be_says_why(
    task: str, call: dict[str, Any], problem: str, shared: Callable[..., tuple[Any, Engine]]
) -> None:
    _, engine = shared("image", task, "torch")
    with pytest.raises(ValueError, match=problem):
        engine(**call)


def test_pixels_that_are_no_tensor_are_refused(shared: Callable[..., tuple[Any, Engine]]) -> None:
    with pytest.raises(TypeError, match="pixel_values is a ndarray; expected a tensor"):
        shared("image", "features", "torch")[1](pixel_values=np.zeros((1, 3, 64, 64)))  # type: ignore[arg-type]


def test_clips_do_not_come_from_picture_files(shared: Callable[..., tuple[Any, Engine]]) -> None:
    with pytest.raises(ValueError, match="this model takes clips: pass ready pixels"):
        shared("video", "classification", "torch")[1]("clip.jpg")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"threads": 0}, "threads is 0; allowed: a whole number above 0"),
        ({"threads": True}, "threads is True"),
        ({"max_shapes": 0}, "max_shapes is 0"),
        ({"backend": "tensorflow"}, "backend is 'tensorflow'; allowed: auto, torch, compile, openvino"),
        ({"precision": "fp8"}, "precision is 'fp8'; allowed: auto, fp32, bf16"),
        ({"precision": "fp16", "backend": "torch", "device": "cpu"}, "precision is 'fp16'"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"task": "features"}, "task is 'features'; a model that is already built has its own"),
        ({"out_features": ("stem",)}, "out_features is for task='backbone'"),
    ],
)
def test_an_engine_that_cannot_be_says_why(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Engine(tiny("features"), **options)


def test_openvino_runs_on_the_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_device", lambda device: torch.device("cuda", 0))
    with pytest.raises(ValueError, match="backend is 'openvino', which runs on the CPU; device is 'cuda:0'"):
        Engine(tiny("features"), device="cuda", backend="openvino")


def test_a_backbone_has_no_hidden_states_beside_its_maps() -> None:
    with pytest.raises(ValueError, match="name them in out_features"):
        Engine(tiny("backbone"), hidden_states=True)


def test_a_bare_encoder_is_refused() -> None:
    with pytest.raises(TypeError, match="bare encoder"):
        Engine(Hiera(image_config()))


def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the package openvino: pip install 'hierax\[openvino\]'"):
        Engine(tiny("features"), backend="openvino")


def test_two_engines_with_threads_of_their_own_do_not_mix_them_up() -> None:
    before, inside = torch.get_num_threads(), []
    barrier = threading.Barrier(2)

    def run(count: int) -> None:
        barrier.wait()
        for _ in range(50):
            with eager.torch_threads(count):
                inside.append((count, torch.get_num_threads()))

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(run, (2, 3)))
    assert all(wanted == found for wanted, found in inside)
    assert torch.get_num_threads() == before


def test_an_engine_for_pretraining_needs_no_more_than_the_checkpoint(mae: Path) -> None:
    model: Any = HieraForPreTraining.from_pretrained(mae)
    noise = torch.rand(2, units_of(model.config))
    x = pixels(model.config)
    with Engine(mae, precision="fp32", backend="torch") as engine:
        assert_same(engine(pixel_values=x, noise=noise), plainly(model, x, noise=noise))
