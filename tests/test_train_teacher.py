"""Learning from a teacher: which ones there are, what they are shown, and what is learned from them."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import hierax
from hierax.checkpoint.load import load
from hierax.data.loader import Batch
from hierax.data.sources import open_dataset
from hierax.data.view import EvaluationView, Example
from hierax.engine.traced import quiet
from hierax.processing import IMAGENET, Preprocessing
from hierax.train import RunExists, finetune
from hierax.train.distillation import Distillation, divergence, has_same_classes, similarity
from hierax.train.loop import Loop
from hierax.train.optimizer import build_optimizer
from hierax.train.teacher import Teacher, TeacherOutputs, open_teacher
from hierax.train.teacher_cache import TeacherCache
from small import image_config
from training import TINY, held, log, pictures, same, toy, unfinished, weights

CPU = torch.device("cpu")


class Network(nn.Module):
    """Logits for `classes` and eight features, of brightness alone."""

    def __init__(self, *, classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features, self.logits = nn.Linear(3, 8), nn.Linear(8, classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(pixels.mean((2, 3))).tanh()
        return self.logits(features), features


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("taught") / "pictures")


def program(path: Path, network: nn.Module | None = None, *, side: int | None = None) -> Path:
    """A `.pt2` file of any batch, at `side` pixels or any size."""
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto} if side else {0: auto, 2: auto, 3: auto},)
    made = torch.export.export((network or Network()).eval(), (torch.rand(2, 3, side or 64, side or 64),), dynamic_shapes=shapes)  # noqa: E501  # fmt: skip
    torch.export.save(made, path)
    return path


def levels() -> tuple[Tensor, Tensor]:
    """Mean and deviation by which `toy` objectives normalize."""
    return torch.full((1, 3, 1, 1), 120.0), torch.full((1, 3, 1, 1), 60.0)


def student(teacher: Teacher, *, labeled: bool = True, cache: TeacherCache | None = None, **changes: Any) -> Distillation:  # noqa: E501  # fmt: skip
    torch.manual_seed(0)
    model = hierax.HieraForImageClassification(image_config(num_labels=4))
    recipe = toy("finetune", **changes)
    return Distillation(
        model, recipe, mean=(120.0,) * 3, std=(60.0,) * 3, teacher=teacher, labeled=labeled,
        own_head=has_same_classes(model.config, teacher), cache=cache,
    )  # fmt: skip


def batch(*, seed: int = 0, labeled: bool = True) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (6, 3, 64, 64), generator=draw, dtype=torch.uint8)
    return Batch(pixels, torch.tensor([0, 1, 2, 3, 0, 1]) if labeled else None, None, torch.arange(6))


# -- what can teach ---------------------------------------------------------------------------------------------------


def test_a_teacher_is_shown_the_pixels_the_student_sees_in_its_own_normalization(tmp_path: Path) -> None:
    network = Network().eval()
    teacher = open_teacher(program(tmp_path / "t.pt2", network), size=(64, 64), device=CPU)
    pixels = batch().pixels
    mean, std = levels()
    answers = teacher((pixels.float() - mean) / std, mean, std)
    own = (pixels / 255 - torch.tensor(IMAGENET.image_mean).view(3, 1, 1)) / torch.tensor(IMAGENET.image_std).view(
        3, 1, 1
    )
    logits, features = network(own)
    torch.testing.assert_close(answers.logits, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answers.features, features, atol=1e-5, rtol=1e-5)
    assert (teacher.logits, teacher.features, teacher.size, teacher.classes) == (5, 8, None, None)


def test_a_file_of_fixed_size_is_shown_pictures_of_that_size(tmp_path: Path) -> None:
    teacher = open_teacher(program(tmp_path / "t.pt2", side=96), size=(64, 64), device=CPU)
    assert teacher.size == (96, 96)
    answers = teacher(torch.zeros(2, 3, 64, 64), *levels())
    assert answers.logits is not None
    assert answers.logits.shape == (2, 5)
    assert "96x96 pixels" in teacher.note


def test_the_record_beside_a_file_says_how_it_is_shown_pictures(tmp_path: Path) -> None:
    path = program(tmp_path / "t.pt2")
    plain = open_teacher(path, size=(64, 64), device=CPU)
    record = Preprocessing(image_mean=(0.5,) * 3, image_std=(0.25,) * 3, crop_size={"height": 80, "width": 80})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(record.to_dict()))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): f"class {i}" for i in range(5)}}))
    teacher = open_teacher(path, size=(64, 64), device=CPU)
    assert (teacher.size, teacher.classes) == ((80, 80), tuple(f"class {i}" for i in range(5)))
    gray = torch.zeros(1, 3, 64, 64)
    assert not torch.allclose(teacher(gray, *levels()).features, plain(gray, *levels()).features)  # type: ignore[arg-type]
    assert teacher.digest != plain.digest, "answers that were kept before are not those of the new record"


def test_an_onnx_file_and_a_program_of_the_same_network_teach_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    network, path = Network().eval(), tmp_path / "t.onnx"
    with quiet():
        torch.onnx.export(
            network, (torch.rand(2, 3, 64, 64),), path, dynamo=True, verbose=False, input_names=["pixel_values"],
            output_names=["logits", "pooler_output"], dynamic_shapes=({0: torch.export.Dim.AUTO},),
        )  # fmt: skip
    first = open_teacher(path, size=(64, 64), device=CPU)
    second = open_teacher(program(tmp_path / "t.pt2", network), size=(64, 64), device=CPU)
    pixels = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    one, two = (t(pixels, *levels()) for t in (first, second))
    torch.testing.assert_close(one.logits, two.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.features, two.features, atol=1e-5, rtol=1e-5)
    assert first.size == (64, 64)
    assert first.digest != second.digest


@pytest.mark.parametrize("kind", ["HieraForImageClassification", "HieraModel"])
def test_a_checkpoint_teaches_its_logits_and_pooled_features_at_its_own_size(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = getattr(hierax, kind)(image_config(image_size=(96, 96), num_labels=3, id2label={0: "a", 1: "b", 2: "c"}))
    model.save_pretrained(tmp_path / "model")
    teacher = open_teacher(tmp_path / "model", size=(64, 64), device=CPU)
    classifier = kind != "HieraModel"
    assert teacher.logits == (3 if classifier else 0)
    assert teacher.classes == (("a", "b", "c") if classifier else None)
    assert (teacher.size, teacher.features) == ((96, 96), model.config.hidden_size)
    assert len(teacher.digest) == 64


def test_a_masked_autoencoder_teaches_nothing(tmp_path: Path) -> None:
    hierax.HieraForPreTraining(image_config(num_query_pool=2)).save_pretrained(tmp_path / "mae")
    with pytest.raises(ValueError, match="gives neither logits nor pooled features; expected a classifier"):
        open_teacher(tmp_path / "mae", size=(64, 64), device=CPU)


class Maps(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * 2


class Pair(nn.Module):
    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"first": pixels.mean((2, 3)), "second": pixels.amax((2, 3))}


@pytest.mark.parametrize(
    ("network", "message"),
    [(Maps(), "its outputs of two axes are none; expected 'logits'"), (Pair(), "are first, second; expected 'logits'")],
)
def test_a_network_whose_outputs_cannot_be_told_is_refused(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        open_teacher(program(tmp_path / "t.pt2", network), size=(64, 64), device=CPU)


def test_files_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("t.pt2", "t.onnx"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: no such file"):
            open_teacher(tmp_path / name, size=(64, 64), device=CPU)
        (tmp_path / name).write_bytes(b"no network")
        with pytest.raises(ValueError, match=rf"{name}: "):
            open_teacher(tmp_path / name, size=(64, 64), device=CPU)


# -- what is learned --------------------------------------------------------------------------------------------------


def test_the_divergence_is_that_of_the_softmaxes_written_out() -> None:
    said, wanted = torch.tensor([[1.0, 2.0, -1.0]]).double(), torch.tensor([[0.5, 0.0, 2.0]]).double()
    total = 0.0
    p, q = (wanted / 2).softmax(-1)[0].tolist(), (said / 2).softmax(-1)[0].tolist()
    for a, b in zip(p, q, strict=True):
        total += a * math.log(a / b)
    assert divergence(said, wanted, temperature=2.0).item() == pytest.approx(4 * total, abs=1e-12)
    assert divergence(wanted, wanted, temperature=1.0).item() == pytest.approx(0.0, abs=1e-12)


def test_features_are_compared_by_direction_alone() -> None:
    a = torch.randn(4, 8)
    torch.testing.assert_close(similarity(a, 3 * a), torch.ones(4))


def test_what_all_pictures_have_in_common_is_taken_off_the_features(data: Path, tmp_path: Path) -> None:
    teacher = open_teacher(program(tmp_path / "t.pt2"), size=(64, 64), device=CPU)
    size = {"height": 64, "width": 64}
    view = EvaluationView(open_dataset(data), Preprocessing(size=size, crop_size=size), size=(64, 64))
    seen = torch.stack(
        [torch.from_numpy(item.pixels) for item in (view[i] for i in range(16)) if isinstance(item, Example)]
    )
    raw = teacher(seen, torch.zeros(1), torch.ones(1)).features
    assert raw is not None
    teacher.measure(view)
    found = student(teacher).standardize(raw)
    torch.testing.assert_close(found.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(8), atol=1e-5, rtol=0)
    constant = similarity(torch.ones(16, 8), found).mean().item()
    assert abs(constant) < 0.2 < similarity(raw.mean(0).expand(16, 8), raw).mean().item()


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    return open_teacher(program(tmp_path / "teacher.pt2"), size=(64, 64), device=CPU)


def test_the_loss_is_the_weighted_sum_of_its_parts(teacher: Teacher) -> None:
    def loss(**changes: Any) -> float:
        objective = student(teacher, **changes)
        objective.eval()
        return objective(*objective.prepare_inputs(batch(), CPU, key=(0, 0))).item()

    none = {"label_weight": 0.0, "teacher_logits": 0.0, "teacher_features": 0.0}
    alone = {name: loss(**{**none, name: 1.0}) for name in none}
    weighted = {"label_weight": 0.5, "teacher_logits": 2.0, "teacher_features": 3.0}
    # the second head and the projection are drawn one after the other: with both, the second is another
    assert loss(**{**none, "label_weight": 0.5}) == pytest.approx(0.5 * alone["label_weight"], rel=1e-5)
    assert loss(**{**weighted, "teacher_features": 0.0}) == pytest.approx(
        0.5 * alone["label_weight"] + 2 * alone["teacher_logits"], rel=1e-5
    )
    assert loss(**weighted) > loss(**{**weighted, "teacher_features": 0.0})


def test_a_mixed_batch_is_mixed_for_the_teacher_too(teacher: Teacher) -> None:
    objective = student(teacher, mixup=0.8)
    pixels, _, logits, features = objective.prepare_inputs(batch(), CPU, key=(3, 0))
    answers = teacher(pixels, *levels())
    assert torch.equal(answers.logits, logits)  # type: ignore[arg-type]
    assert torch.equal(answers.features, features)  # type: ignore[arg-type]
    plain = student(teacher).prepare_inputs(batch(), CPU, key=(3, 0))
    assert not torch.allclose(plain[2], logits)


def test_every_parameter_that_learns_is_the_optimizers_and_gets_a_gradient(teacher: Teacher) -> None:
    objective = student(teacher)
    objective(*objective.prepare_inputs(batch(), CPU, key=(0, 0))).backward()
    owned = {
        id(p) for group in build_optimizer(objective.model, objective.recipe).param_groups for p in group["params"]
    }
    for name, parameter in objective.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert id(parameter) in owned, name
    assert {"teacher_head.weight", "teacher_projection.weight"} <= {n for n, _ in objective.model.named_parameters()}


def test_what_is_exported_is_the_student_alone(teacher: Teacher) -> None:
    objective = student(teacher)
    plain = objective.model_to_save()
    assert type(plain) is hierax.HieraForImageClassification
    assert set(plain.state_dict()) == set(hierax.HieraForImageClassification(plain.config).state_dict())
    assert plain.state_dict()["head.weight"] is not None
    assert torch.equal(plain.state_dict()["head.weight"], objective.model.state_dict()["head.weight"])


def test_a_head_that_learns_nothing_is_left_out(teacher: Teacher) -> None:
    objective = student(teacher, labeled=False, teacher_logits=0.0)
    assert not any(p.requires_grad for n, p in objective.model.named_parameters() if n.startswith("head."))
    assert type(objective.model_to_save()) is hierax.HieraModel


# -- answers that are kept --------------------------------------------------------------------------------------------


class Counting:
    """A teacher, and how often it was asked."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.asked = teacher, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.teacher, name)

    def __call__(self, *arguments: Tensor) -> TeacherOutputs:
        self.asked += 1
        return self.teacher(*arguments)


def test_kept_answers_serve_the_same_pixels_and_no_others(teacher: Teacher, tmp_path: Path) -> None:
    counted: Any = Counting(teacher)
    cache = TeacherCache(tmp_path / "answers", teacher.digest)
    objective = student(counted, cache=cache, mixup=0.8)
    first = objective.prepare_inputs(batch(), CPU, key=(0, 0))
    again = objective.prepare_inputs(batch(), CPU, key=(0, 0))
    assert counted.asked == 1
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    objective.prepare_inputs(batch(), CPU, key=(1, 0))  # mixed otherwise
    objective.prepare_inputs(batch(seed=1), CPU, key=(0, 0))  # other pictures
    student(counted, cache=TeacherCache(tmp_path / "answers", "another"), mixup=0.8).prepare_inputs(
        batch(), CPU, key=(0, 0)
    )
    assert counted.asked == 4
    torch.testing.assert_close(first[2], teacher(first[0], *levels()).logits, atol=2e-3, rtol=2e-3)  # float16


def test_kept_answers_that_are_damaged_are_asked_for_again(teacher: Teacher, tmp_path: Path) -> None:
    counted: Any = Counting(teacher)
    objective = student(counted, cache=TeacherCache(tmp_path / "answers", teacher.digest))
    first = objective.prepare_inputs(batch(), CPU, key=(0, 0))
    (kept,) = (tmp_path / "answers").rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    assert torch.equal(objective.prepare_inputs(batch(), CPU, key=(0, 0))[2], first[2])
    assert counted.asked == 2


# -- whole runs -------------------------------------------------------------------------------------------------------


def run(data: Path, out: Path, **changes: Any) -> Path:
    arguments = {key: changes.pop(key) for key in ("teacher", "teacher_cache", "source") if key in changes}
    settings = {"validation_fraction": 0.25, **changes}
    return finetune(
        data, out=out, recipe=toy("finetune", **settings), device="cpu", quiet=True, **{"source": None, **arguments}
    )


def test_a_run_with_labels_and_a_teacher_gives_a_classifier_of_the_labels(data: Path, tmp_path: Path) -> None:
    made = run(data, tmp_path / "run", teacher=program(tmp_path / "t.pt2"))
    model = load(made)
    assert type(model) is hierax.HieraForImageClassification
    assert list(model.config.id2label.values()) == ["class0", "class1"]
    assert not model.loading_report.unexpected  # type: ignore[union-attr]
    assert "top1" in json.loads((made / "run.json").read_text())["result"]["last"]


@pytest.mark.parametrize("labels", [True, False])
def test_a_teacher_alone_gives_a_classifier_of_its_classes(labels: bool, data: Path, tmp_path: Path) -> None:
    source, changes = (data, {"label_weight": 0.0}) if labels else (data / "class0", {})
    made = run(source, tmp_path / "run", teacher=program(tmp_path / "t.pt2"), mixup=0.2, **changes)
    assert load(made).config.num_labels == 5
    last = json.loads((made / "run.json").read_text())["result"]["last"]
    assert {"loss", "agreement", "cosine"} <= set(last)


def test_a_teacher_of_features_alone_gives_a_model_of_features(data: Path, tmp_path: Path) -> None:
    made = run(data, tmp_path / "run", teacher=program(tmp_path / "t.pt2"), teacher_logits=0.0, label_weight=0.0)
    assert type(load(made)) is hierax.HieraModel
    assert load(run(data, tmp_path / "next", source=made)).config.num_labels == 2


def test_agreement_with_a_teacher_is_learned(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 20, "label_weight": 0.0, "lr": 3e-3, "crop_scale": None, "flip": False}
    made = run(data, tmp_path / "run", teacher=program(tmp_path / "t.pt2"), **settings)
    losses = [entry["validation"]["loss"] for entry in log(made) if "validation" in entry]
    assert losses[-1] < 0.5 * losses[0]


def test_kept_answers_change_nothing_but_their_rounding_and_serve_later_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = program(tmp_path / "t.pt2"), tmp_path / "answers"
    first = run(data, tmp_path / "first", teacher=path, teacher_cache=cache, distinct_epochs=1, mixup=0.2)
    kept = sorted(cache.rglob("*.safetensors"))
    assert len(kept) == 3  # the steps of one epoch
    monkeypatch.setattr(TeacherCache, "put", lambda *_: pytest.fail("the teacher was asked again"))
    second = run(data, tmp_path / "second", teacher=path, teacher_cache=cache, distinct_epochs=1, mixup=0.2)
    assert same(weights(first), weights(second))
    assert sorted(cache.rglob("*.safetensors")) == kept


def test_a_run_with_a_teacher_goes_on_to_the_same_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"teacher": program(tmp_path / "t.pt2"), "mixup": 0.2, "ema": 0.9}
    whole = run(data, tmp_path / "whole", **settings)
    quick = Loop._step

    def step(loop: Loop, *arguments: Any) -> Any:
        report = quick(loop, *arguments)
        if report.step == 3:
            loop.stop.set()
        return report

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        part = run(data, tmp_path / "part", **settings)
    assert "finished" not in json.loads((part / "run.json").read_text())
    run(data, part, **settings)
    assert same(weights(whole), weights(part))


def test_a_run_that_is_resumed_uses_the_answers_that_it_kept_before(data: Path, tmp_path: Path) -> None:
    """Without them its numbers would not be rounded as before, and its weights would not be the same."""
    path, cache = program(tmp_path / "t.pt2"), tmp_path / "answers"
    made = unfinished(run(data, tmp_path / "run", teacher=path, teacher_cache=cache, epochs=1))
    assert json.loads((made / "run.json").read_text())["teacher_cache"] == str(cache)
    shutil.rmtree(made / "checkpoints")
    shutil.rmtree(cache)
    run(data, made, teacher=path, epochs=1)
    assert list(cache.rglob("*.safetensors"))


def test_a_run_does_not_go_on_with_another_teacher(data: Path, tmp_path: Path) -> None:
    made = unfinished(run(data, tmp_path / "run", teacher=program(tmp_path / "t.pt2"), epochs=1))
    with pytest.raises(RunExists, match=r"teacher was '.*t\.pt2', now None"):
        run(data, made, epochs=1)


def test_what_leaves_nothing_to_learn_is_refused(data: Path, tmp_path: Path) -> None:
    path = program(tmp_path / "t.pt2")
    with pytest.raises(ValueError, match="label_weight is 0 and there is no teacher"):
        run(data, tmp_path / "a", label_weight=0.0)
    with pytest.raises(ValueError, match="teacher_logits is 0 and teacher_features is 0, so nothing is learned"):
        run(data, tmp_path / "b", teacher=path, teacher_logits=0.0, teacher_features=0.0)
    with pytest.raises(ValueError, match=r"the data has no classes; .*, or a teacher"):
        run(data / "class0", tmp_path / "c")
    np.save(tmp_path / "signals.npy", np.zeros((8, 3, 64), np.float32))
    with pytest.raises(ValueError, match="a teacher expects images; the data are arrays"):
        run(tmp_path / "signals.npy", tmp_path / "d", teacher=path)


def deep(folder: Path) -> Path:
    """Two classes of gray images of 16 bits, dark and bright, far above 255."""
    random = np.random.default_rng(0)
    for label in range(2):
        (folder / f"c{label}").mkdir(parents=True)
        for number in range(4):
            pixels = 20_000 * (1 + label) + random.integers(0, 9_000, (64, 64))
            Image.fromarray(pixels.astype(np.uint16)).save(folder / f"c{label}" / f"{number}.png")
    return folder


def test_a_teacher_of_stored_values_is_shown_them_and_other_teachers_are_refused(data: Path, tmp_path: Path) -> None:
    images, gray = deep(tmp_path / "deep"), {"overrides": {**TINY, "num_channels": 1}, "image_size": (64, 64)}
    taught = run(images, tmp_path / "teacher", epochs=1, **gray)
    teacher = open_teacher(taught, size=(64, 64), device=CPU)
    assert (teacher.channels, teacher.takes_values) == (1, True)
    values = 20_000 + 40_000 * torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    record = load(taught).preprocessing
    assert record is not None
    own = load(taught).eval()((values - record.image_mean[0]) / record.image_std[0]).logits
    none, one = torch.zeros(1), torch.ones(1)
    torch.testing.assert_close(teacher(values, none, one).logits, own, atol=1e-4, rtol=1e-4)
    run(images, tmp_path / "run", teacher=taught, epochs=1, **gray)
    with pytest.raises(ValueError, match=r"teacher .*teacher takes 1 channel, the model 3; expected the same"):
        run(data, tmp_path / "other", teacher=taught, epochs=1)
    with pytest.raises(ValueError, match="takes values as they are stored, the model gray levels of 8 bits"):
        run(data, tmp_path / "other", teacher=taught, epochs=1, **gray)
    network = program(tmp_path / "t.pt2")
    with pytest.raises(ValueError, match="takes gray levels of 8 bits, the model values as they are stored"):
        run(images, tmp_path / "other", teacher=network, epochs=1, **gray)


def test_the_command_takes_a_teacher(data: Path, tmp_path: Path) -> None:
    from hierax.cli import main

    path, settings = program(tmp_path / "t.pt2"), tmp_path / "recipe.json"
    settings.write_text(json.dumps(held("finetune", epochs=1).to_dict()))
    arguments = ["--from", "scratch", "--teacher", str(path), "--teacher-cache", str(tmp_path / "answers")]
    given = ["finetune", str(data), "-o", str(tmp_path / "run"), "--config", str(settings), *arguments]
    assert main([*given, "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["teacher"] == str(path)
    assert list((tmp_path / "answers").rglob("*.safetensors"))


def test_a_folder_with_one_network_is_a_teacher_and_one_with_two_a_question(tmp_path: Path) -> None:
    (folder := tmp_path / "teacher").mkdir()
    program(folder / "t.pt2")
    assert open_teacher(folder, size=(64, 64), device=CPU).logits == 5
    shutil.copy(folder / "t.pt2", folder / "u.pt2")
    with pytest.raises(ValueError, match=r"teacher holds 2 networks, such as t.pt2; expected the name of one"):
        open_teacher(folder, size=(64, 64), device=CPU)


def test_an_export_that_cannot_teach_says_which_can(tmp_path: Path) -> None:
    (tmp_path / "export.json").touch()
    (tmp_path / "model.xml").touch()
    with pytest.raises(ValueError, match=r"expected one, or the checkpoint that it was exported from"):
        open_teacher(tmp_path, size=(64, 64), device=torch.device("cpu"))
