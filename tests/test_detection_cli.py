"""`hierax finetune --task detect|instances`, `hierax evaluate` and `hierax detect`: what a user writes and reads."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from detection_sets import IDS, NAMES, one_file, write_coco, write_images
from hierax.cli import _parser, main
from hierax.cli.detection import run_evaluate
from hierax.cli.parsing import parse
from hierax.detection import FoundObject, detect, open_detection, open_detector
from hierax.detection.drawing import color_of, draw_objects
from hierax.detection.masks import encode
from hierax.notices import Notice
from hierax.predict.unfinished import UnfinishedResults

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

FAST = ("image_size=64", "width=32", "heads=2", "queries=8", "feedforward=16", "decoder_layers=2", "batch_size=2",
        "encoder_layers=1", "points=64", "steps=2")  # fmt: skip
Hierax = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, the weights of a trunk, and a run of each task."""
    folder = tmp_path_factory.mktemp("detection")
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2), "image_size": (64, 64)
    }  # fmt: skip
    hierax.HieraForImageClassification(hierax.HieraConfig(**shape)).save_pretrained(folder / "trunk")
    write_coco(folder / "set")
    for task in ("detect", "instances"):
        words = [
            "finetune",
            f"{folder / 'set'}",
            "-o",
            f"{folder / task}",
            "--task",
            task,
            "--from",
            f"{folder / 'trunk'}",
        ]
        assert main([*words, "--device", "cpu", *FAST]) == 0
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Hierax:
    def call(*words: Any) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_run_says_what_it_does(place: Path, tmp_path: Path, run: Hierax) -> None:
    words = ("finetune", place / "set", "-o", tmp_path / "run", "--task", "detect", "--from", place / "trunk", *FAST)
    code, out, err = run(*words)
    assert (code, out) == (0, "")
    for text in (
        "6 images, 6 objects, 2 classes; 3 images to validate on",
        "recipe detect_cpu: rt-detr, 64 pixels, 8 queries, 2 steps of 2 images (0.667 passes)",
        f"starts from {place / 'trunk'}",
        "model/ gets the last weights, because there are too few validation images to choose the best",
        f"done: {tmp_path / 'run' / 'model'}",
    ):
        assert text in err
    assert "already finished" in run(*words)[2]
    assert "already finished" in run("finetune", "--resume", "-o", tmp_path / "run")[2]


def test_the_task_follows_from_the_recipe_and_from_the_run(place: Path, tmp_path: Path, run: Hierax) -> None:
    words = ("finetune", place / "set", "-o", tmp_path / "run", "--from", place / "trunk", *FAST)
    assert run(*words, "--recipe", "instances_cpu")[0] == 0
    assert open_detector(tmp_path / "run").task == "instances"
    again = ("finetune", "--config", tmp_path / "run", "-o", tmp_path / "again")
    assert run(*again)[0] == 0
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "again"))
    assert first["recipe"] == second["recipe"]
    assert first["result"]["last"] == second["result"]["last"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--teacher", "t.onnx"), "--teacher is not for --task detect; leave it out"),
        (("--columns", "path=x"), "--columns is not for --task detect; leave it out"),
        (("--reduce-labels",), "--reduce-labels is not for --task detect; leave it out"),
        (("--parallel", "fsdp"), "--parallel fsdp is not for --task detect, which uses one process"),
        (("--recipe", "finetune_cpu"), "recipe is 'finetune_cpu'; expected detect_cpu or detect_gpu for --task detect"),
        (("epochs=3",), "epochs is not a setting of detect_cpu"),
        (("--from", "nowhere"), "nowhere"),
        (("--device", "tpu"), "device is 'tpu'"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(
    words: tuple[str, ...], message: str, place: Path, tmp_path: Path, run: Hierax
) -> None:
    code, _, err = run("finetune", place / "set", "-o", tmp_path / "run", "--task", "detect", *words)
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_data_and_the_folder_of_the_run_are_required(place: Path, run: Hierax, tmp_path: Path) -> None:
    assert "DATA is missing: a COCO file" in run("finetune", "--task", "detect", "-o", tmp_path / "run")[2]
    assert "-o RUN is missing" in run("finetune", place / "set", "--task", "detect")[2]
    code, _, err = run("finetune", "--task", "detect", "-o", tmp_path / "run", "--resume")
    assert (code, "contains no run to resume" in err) == (2, True)
    write_images(tmp_path / "photos", 2)
    code, _, err = run("finetune", tmp_path / "photos", "--task", "detect", "-o", tmp_path / "run")
    assert (code, "no annotations of boxes in this folder" in err) == (2, True)


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_evaluate_shows_all_twelve_numbers(task: str, place: Path, run: Hierax) -> None:
    code, out, _ = run("evaluate", place / "set", "--model", place / task)
    assert code == 0
    assert out.startswith(f"{'boxes' if task == 'detect' else 'masks'} of 3 images\nAP ")
    for name in ("AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", *NAMES):
        assert name in out
    values = json.loads(run("evaluate", place / "set", "--model", place / task / "model", "--json")[1])
    assert values == json.loads((place / task / "run.json").read_text())["result"]["last"]


def test_evaluate_needs_the_classes_of_the_model(place: Path, tmp_path: Path, run: Hierax) -> None:
    file = one_file(tmp_path, categories=[{"id": 3, "name": "red"}, {"id": 17, "name": "green"}])
    code, _, err = run("evaluate", file, "--model", place / "detect")
    assert code == 2
    assert "has objects of 'green', which is not among the 2 classes 'red', 'blue'" in err
    fewer = one_file(tmp_path / "b", annotations=[])
    assert "no objects to compare with" in run("evaluate", fewer, "--model", place / "detect")[2]
    assert "--probe does not work" in run("evaluate", file, "--model", place / "detect", "--probe", "knn")[2]


def test_evaluate_names_images_that_cannot_be_read(place: Path, tmp_path: Path, run: Hierax) -> None:
    file = one_file(tmp_path)
    image = tmp_path / "1.png"
    image.write_bytes(image.read_bytes()[:-400])
    code, out, err = run("evaluate", file, "--model", place / "detect")
    assert code == 3
    assert out.startswith("boxes of 3 images")
    assert str(image) in err


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_detect_writes_a_coco_file_and_overlays(task: str, place: Path, tmp_path: Path, run: Hierax) -> None:
    write_images(tmp_path / "a", 2)
    write_images(tmp_path / "b", 1)
    words = ("detect", tmp_path / "a", tmp_path / "b", "--model", place / task, "-o", tmp_path / "out")
    code, out, err = run(*words, "--threshold", "0")
    assert code == 0
    assert out.count("\n") == 3
    assert f"wrote {tmp_path / 'out' / 'detections.json'} and 3 overlays" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a-0.png", "b-0.png", "1.png", "detections.json"}
    written = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert written["categories"] == [{"id": key, "name": name} for key, name in zip(IDS, NAMES, strict=True)]
    assert len(written["images"]) == 3
    assert {a["category_id"] for a in written["annotations"]} <= set(IDS)
    assert all(("segmentation" in a) == (task == "instances") for a in written["annotations"])
    read = open_detection(tmp_path / "out" / "detections.json", masks=task == "instances")
    assert read.objects == len(written["annotations"])
    code, _, err = run(*words)
    assert (code, "would be replaced; choose another folder, or pass --overwrite" in err) == (2, True)
    assert run(*words, "--overwrite")[0] == 0


def test_detect_prints_json_and_counts_what_cannot_be_read(place: Path, tmp_path: Path, run: Hierax) -> None:
    write_images(tmp_path / "a", 1)
    (tmp_path / "a" / "bad.png").write_bytes(b"no image")
    code, out, err = run(
        "detect", tmp_path / "a", "--model", place / "detect", "-o", tmp_path / "out", "--json", "--threshold", "0"
    )
    assert code == 3
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0]["width"] == 80
    assert set(lines[0]["objects"][0]) == {"label", "score", "bbox"}
    assert "error" in lines[1]
    assert "bad.png" in err


@contextmanager
def interrupted_after(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C, once this many results are kept."""
    real = UnfinishedResults.add

    def add(self: UnfinishedResults, *result: Any) -> None:
        if self.count == count:
            raise KeyboardInterrupt
        real(self, *result)

    with monkeypatch.context() as patched:
        patched.setattr(UnfinishedResults, "add", add)
        yield


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_detect_resumes(task: str, place: Path, tmp_path: Path, run: Hierax, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "a", 3)
    words = ("detect", tmp_path / "a", "--model", place / task, "--threshold", "0", "--json")
    code, whole, _ = run(*words, "-o", tmp_path / "whole")
    assert code == 0
    out = tmp_path / "out"
    with interrupted_after(2, monkeypatch):
        code, _, err = run(*words, "-o", out)
    assert code == 130
    assert f"{out / 'detections.json.unfinished'} keeps 2 results; run the same command again to resume" in err
    (out / "1.png").unlink()
    before = (out / "0.png").stat().st_ino
    code, shown, err = run(*words, "-o", out)
    assert code == 0
    assert "1 of 3 results are already there" in err
    assert [json.loads(line) for line in shown.replace(str(out), str(tmp_path / "whole")).splitlines()] == [
        json.loads(line) for line in whole.splitlines()
    ]
    assert (out / "0.png").stat().st_ino == before
    for name in ("0.png", "1.png", "2.png", "detections.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list(out.glob("*.unfinished"))
    code, _, err = run(*words, "-o", out)
    assert (code, "would be replaced" in err) == (2, True)


def test_overlays_are_not_images(place: Path, tmp_path: Path, run: Hierax, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those within the folder of the images, nor for the COCO file that is written beside them."""
    write_images(tmp_path / "a", 3)
    out = tmp_path / "a" / "seen"
    words = ("detect", tmp_path / "a", "--model", place / "detect", "--threshold", "0", "-o", out)
    with interrupted_after(1, monkeypatch):
        assert run(*words)[0] == 130
    code, _, err = run(*words)
    assert code == 0
    assert "2 images left out: overlays that hierax detect wrote" in err
    assert "1 of 3 results are already there" in err
    found = open_detection(out / "detections.json")
    assert [Path(image.path).resolve() for image in found.images] == [tmp_path / "a" / f"{n}.png" for n in range(3)]
    code, _, err = run(*words, "--overwrite")
    assert (code, "3 images left out: overlays" in err) == (0, True)
    assert len(json.loads((out / "detections.json").read_text())["images"]) == 3
    (tmp_path / "a" / "1.png").unlink()
    with pytest.warns(Notice, match=r"1 of 3 images cannot be read and is left out, such as .*1\.png: no such file"):
        assert len(open_detection(out).images) == 2


@pytest.mark.parametrize("value", ["2", "-1", "half", "nan"])
def test_a_threshold_is_a_score(value: str, run: Hierax) -> None:
    code, _, err = run("detect", "a.png", "--model", "run", "-o", "out", f"--threshold={value}")
    assert code == 2
    assert f"'{value}' is not a score; expected a number from 0 to 1" in err


def test_detect_needs_a_model_of_detection(place: Path, tmp_path: Path, run: Hierax) -> None:
    write_images(tmp_path / "a", 1)
    code, _, err = run("detect", tmp_path / "a", "--model", place / "trunk", "-o", tmp_path / "out")
    assert code == 2
    assert "not a model of detection; expected the folder of a run of hierax finetune --task detect" in err


def test_images_are_upright_and_results_do_not_depend_on_the_batch(place: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "a", 3)
    paths = sorted((tmp_path / "a").iterdir())
    before = list(detect(paths, model=place / "detect", threshold=0, device="cpu"))
    together = list(detect(paths, model=place / "detect", threshold=0, device="cpu", batch_size=3))
    for one, other in zip(before, together, strict=True):  # equal scores may change places
        first, second = (sorted((o.label, *map(round, o.box)) for o in found.objects) for found in (one, other))
        assert first == second
    with Image.open(paths[1]) as image:
        stored = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(paths[1], exif=exif)
    assert list(detect(paths[1], model=place / "detect", threshold=0, device="cpu")) == [before[1]]


def test_overlays_show_boxes_masks_and_names() -> None:
    image = Image.new("RGB", (200, 150), (40, 40, 40))
    mask = np.zeros((150, 200), bool)
    mask[40:100, 60:120] = True
    objects = [FoundObject((60.0, 40.0, 60.0, 60.0), 1, 0.9, encode(mask)), FoundObject((0, 0, 20, 10), 0, 0.5)]
    drawn = np.asarray(draw_objects(image, objects, ("a cat with a long name", "狗")), int)
    assert (drawn[90, 60] == color_of(1)).all()
    inside = drawn[70, 90]
    assert (np.abs(inside - (0.55 * 40 + 0.45 * np.array(color_of(1)))) < 2).all()
    assert (drawn[140, 190] == 40).all()
    assert np.asarray(image).max() == 40, "the image itself is unchanged"
    colors = {color_of(label) for label in range(40)}
    assert len(colors) == 40


@pytest.mark.parametrize("command", ["classify", "features"])
def test_other_commands_say_what_takes_the_model(command: str, place: Path, tmp_path: Path, run: Hierax) -> None:
    write_images(tmp_path / "a", 1)
    output = ("-o", tmp_path / "out") if command == "features" else ()
    code, _, err = run(command, tmp_path / "a", "--model", place / "detect", *output)
    assert code == 2
    assert "model_type is 'rt_detr'; expected 'hiera' (hierax detect and hierax evaluate take this model)" in err


def test_recipes_lists_those_of_detection(run: Hierax) -> None:
    listed, (_, one, _) = run("recipes")[1], run("recipes", "detect_cpu")
    assert "instances_gpu" in listed
    assert json.loads(one)["head"] == "rt-detr"
    assert json.loads(run("recipes", "--json")[1])["detect_cpu"] == json.loads(one)
    assert run("recipes", "detect_gpu", "--source")[1].startswith("def detect_gpu()")


def test_data_with_boxes_has_a_hint_at_the_task(place: Path, tmp_path: Path, run: Hierax) -> None:
    for data in (place / "set", place / "set" / "annotations" / "instances_train.json"):
        code, _, err = run("finetune", data, "-o", tmp_path / "run", "--device", "cpu")
        assert code == 2
        assert "for boxes in COCO files or YOLO folders, add --task detect" in err
    write_images(tmp_path / "photos", 2)
    assert "--task detect" not in run("finetune", tmp_path / "photos", "-o", tmp_path / "run")[2]


@pytest.mark.parametrize("words", [("--workers", "0"), ("--probe", "knn"), ("--reduce-labels",), ("--views", "5x3")])
def test_an_option_that_has_no_effect_on_the_evaluation_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    arguments = parse(*_parser(), ["evaluate", "data", *words])
    with pytest.raises(ValueError, match=f"{words[0]} does not work with a model of detection; leave it out"):
        run_evaluate(arguments, tmp_path)
