"""The command line as a whole: help, errors, exit codes, inputs, and the list of models."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hierax
from hierax.checkpoint.records import list_checkpoints
from hierax.predict.features import output_names
from hierax.processing.inputs import expand

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
COMMANDS = ("demo", "models", "classify", "features", "explain", "segment", "reconstruct", "convert")


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, encoding="utf-8", **options)


# -- the front door


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models"], *([name, "--help"] for name in COMMANDS)])
def test_help_and_lists_come_without_torch(arguments: list[str]) -> None:
    code = f"import sys; from hierax.cli import main; c = main({arguments}); print('torch' in sys.modules, c)"
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr


def test_help_imports_nothing_that_takes_long() -> None:
    code = "import sys; from hierax.cli import main; main(['--help']); print(*sorted(sys.modules))"
    loaded = set(python("-c", code).stdout.splitlines()[-1].split())
    assert not loaded & {"torch", "numpy", "PIL", "rich", "huggingface_hub", "safetensors", "importlib.metadata"}


def test_help_has_a_line_for_each_command(run: Run) -> None:
    _, out, _ = run("--help")
    for name in COMMANDS:
        assert sum(line.startswith(f"  {name} ") for line in out.splitlines()) == 1
    assert max(len(line) for line in out.splitlines()) <= 100


def test_without_a_command_help_is_shown_and_the_exit_code_is_2(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (2, "")
    assert "commands:" in out


def test_the_version_is_the_installed_one(run: Run) -> None:
    code, out, _ = run("--version")
    assert (code, out) == (0, f"hierax {hierax.__version__}\n")


def test_python_m_hierax_is_the_same_program(here: Path) -> None:
    done = python("-m", "hierax", "classify")
    assert done.returncode == 2
    assert done.stderr == "hierax: the following arguments are required: FILE (see hierax classify --help)\n"


def test_an_unknown_command_is_refused_in_one_line(run: Run) -> None:
    code, _, err = run("clasify", "a.jpg")
    assert code == 2
    assert err.count("\n") == 1
    assert "'clasify'" in err


# -- errors


def test_what_is_no_picture_is_said_in_one_line(run: Run, classifier_folder: str) -> None:
    code, out, err = run("classify", "notes.txt", "--model", classifier_folder)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "hierax: notes.txt: not an image (PNG, JPEG, WebP, … are read)"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("none.jpg", "none.jpg: no such file"),
        ("*.gif", "*.gif: no file matches this pattern"),
        ("empty", "empty: no images in this folder (PNG, JPEG, WebP, … are read)"),
    ],
)
def test_an_input_that_stands_for_nothing_is_named_before_a_model_is_loaded(run: Run, given: str, problem: str) -> None:
    Path("empty").mkdir()
    assert run("classify", given) == (2, "", f"hierax: {problem}\n")


def test_some_bad_inputs_give_3_and_the_good_ones_are_done(run: Run, classifier_folder: str) -> None:
    code, out, err = run("classify", "none.jpg", "a/cat.jpg", "notes.txt", "--model", classifier_folder)
    assert code == 3
    assert [line.split()[0] for line in out.splitlines()] == ["a/cat.jpg"]
    assert "none.jpg: no such file" in err
    assert "notes.txt: not an image" in err


MISS = "facebook/hiera-tiny-224-in1k-hf"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["classify", "a/cat.jpg", "--model", MISS], "--model hierax/femto"),
        (["features", "a/cat.jpg", "-o", "out", f"--model={MISS}"], "--model hierax/femto"),
        (["reconstruct", "a", "-o", "x.png", "--model", "hiera_tiny_224.mae_in1k"], "--model hierax/femto.mae"),
        (["convert", MISS, "out", "--to", "timm"], "hierax/femto"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_offline_the_option_is_named_that_makes_a_command_run(run: Run, arguments: list[str], advice: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.endswith(f" is not in the local cache and the Hub is switched off; {advice} works offline\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("source", ["facebook/hiera-tiny-224-in1k-hf", "nowhere", "notes.txt", "a"])
def test_a_model_that_cannot_be_loaded_is_named_in_one_line(run: Run, source: str) -> None:
    code, out, err = run("classify", "a/cat.jpg", "--model", source)
    assert (code, out) == (2, "")
    assert err.startswith(f"hierax: {source}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [["classify"], ["features", "-o", "out"], ["features", "-o", "out2"]])
def test_pictures_for_a_model_of_clips_are_refused(run: Run, clips: str, command: list[str]) -> None:
    code, _, err = run(*command, "a/cat.jpg", "--model", clips)
    assert code == 2
    assert "takes clips" in err


def test_a_video_beside_images_does_not_stop_them(run: Run, classifier_folder: str) -> None:
    Path("a/IMG_2.MOV").write_bytes(b"")
    code, out, err = run("classify", "a/IMG_2.MOV", "a/cat.jpg", "--model", classifier_folder, "--json")
    assert (code, [json.loads(line)["path"] for line in out.splitlines()]) == (3, ["a/IMG_2.MOV", "a/cat.jpg"])
    assert "a/IMG_2.MOV: a video, and this model takes images\n" in err
    code, out, err = run("classify", "a/*", "--model", classifier_folder, "--json")
    assert (code, len(out.splitlines())) == (3, 2)
    code, out, err = run("classify", "a/IMG_2.MOV", "--model", classifier_folder)  # alone, with advice
    assert (code, out, "takes clips" in err) == (2, "", True)


@pytest.mark.parametrize("command", ["classify a/cat.jpg", "features a -o f", "reconstruct a -o r.png"])
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("toaster", "device is 'toaster'; this machine has cpu"),
        ("gpu:7", "(PyTorch calls a GPU cuda)"),
        ("cuda:7", "device is 'cuda:7'; this machine has cpu"),
    ],
)
def test_a_device_that_is_not_there_is_answered_by_those_that_are(
    run: Run, command: str, device: str, said: str
) -> None:
    code, _, err = run(*command.split(), "--device", device)
    assert code == 2
    assert said in err.splitlines()[-1]


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("classify", "a/cat.jpg", "--device", "toaster")
    for arguments in (("--debug", *command), (*command, "--debug")):
        with pytest.raises(ValueError, match="toaster"):
            run(*arguments)
    monkeypatch.setenv("HIERAX_DEBUG", "1")
    with pytest.raises(ValueError, match="toaster"):
        run(*command)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "out.npz"), 2, "out.npz: No space left on device"),
        (ValueError("two\n  lines"), 2, "two lines"),
        (ValueError("x" * 100_000), 2, "x" * 1000 + " …"),
        (
            ImportError("this needs that: pip install 'hierax[train]'"),
            2,
            "this needs that: pip install 'hierax[train]'",
        ),
        (ImportError("no such name"), 1, "ImportError: no such name (a fault of hierax; --debug shows the traceback)"),
        (
            RuntimeError("InductorError: OSError: [Errno 28] No space left on device"),
            2,
            "No space left on device for temporary files (TMPDIR=DIR places them elsewhere): "
            "InductorError: OSError: [Errno 28] No space left on device",
        ),
        (TypeError("what"), 1, "TypeError: what (a fault of hierax; --debug shows the traceback)"),
    ],
)
def test_every_failure_ends_in_one_line_and_its_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("hierax.cli.classify.expand", fails)
    assert run("classify", "a/cat.jpg") == (code, "", f"hierax: {said}\n")


def test_a_command_that_is_terminated_takes_away_what_is_half_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGTERM)

    def writes(*_: object, **__: object) -> None:
        with tempfile.TemporaryDirectory(dir=".", prefix="half"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    monkeypatch.setattr("hierax.cli.classify.expand", writes)
    assert run("classify", "a/cat.jpg") == (143, "", "hierax: terminated\n")
    assert not list(Path().glob("half*"))
    assert signal.getsignal(signal.SIGTERM) is handler


def test_warnings_of_libraries_stay_off_the_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def noisy(*_: object, **__: object) -> tuple[list[Path], list[Any]]:
        warnings.warn("something is deprecated", stacklevel=1)
        logging.getLogger("huggingface_hub").warning("Retrying in 1s")
        return [], []

    monkeypatch.setattr("hierax.cli.classify.expand", noisy)
    assert run("classify", "a") == (0, "", "")
    assert not recwarn.list


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise on Windows")
def test_a_reader_that_leaves_is_no_error(here: Path) -> None:
    line = f"(sleep 0.5; exec {sys.executable} -m hierax models --json) | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


# -- inputs


def test_a_folder_is_searched_to_its_depths_without_hidden_files(here: Path) -> None:
    paths, problems = expand(["b"])
    assert [str(path) for path in paths] == ["b/cat.jpg", "b/deep/owl.webp", "b/dog.png"]
    assert problems == []


def test_patterns_are_expanded_here_too(here: Path) -> None:
    assert [str(path) for path in expand(["*/cat.*"])[0]] == ["a/cat.jpg", "b/cat.jpg"]
    assert [str(path) for path in expand(["**/*.webp"])[0]] == ["b/deep/owl.webp"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(here: Path) -> None:
    Path("a[1].jpg").write_bytes(Path("a/cat.jpg").read_bytes())
    assert expand(["a[1].jpg"]) == ([Path("a[1].jpg")], [])


def test_an_input_named_twice_is_done_once(here: Path) -> None:
    assert len(expand(["a", "a/cat.jpg", "a/*.jpg"])[0]) == 1


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/cat.jpg", "x/dog.jpg"], ["cat", "dog"]),
        (["a/cat.jpg", "b/cat.jpg", "b/dog.jpg"], ["a-cat", "b-cat", "dog"]),
        (["x/cat.jpg", "x/cat.png"], ["cat.jpg", "cat.png"]),
        (["a/Cat.jpg", "b/cat.jpg"], ["a-Cat", "b-cat"]),
        (["a/b-c.jpg", "a-b/c.jpg", "c.jpg"], ["b-c", "a-b-c", "c"]),
        (["a-b/c.jpg", "a/b-c.jpg", "a/b/c.jpg"], ["a-b-c.jpg-1", "b-c", "a-b-c.jpg-3"]),
    ],
)
def test_pictures_of_one_name_are_told_apart(paths: list[str], names: list[str]) -> None:
    assert output_names([Path(path) for path in paths]) == names


# -- models


def test_models_lists_every_checkpoint_under_its_license(run: Run) -> None:
    code, out, err = run("models")
    assert (code, err) == (0, "")
    free, bound = out.split("not for commercial use")
    for record in list_checkpoints():
        assert record.hub_id in (free if record.license == "Apache-2.0" else bound)


def test_models_lists_every_variant(run: Run) -> None:
    variants = run("models")[1].partition("Variants")[2]
    assert [line.split()[0] for line in variants.splitlines()[3:]] == list(hierax.list_models())


def test_models_as_json_has_all_fields(run: Run) -> None:
    found = json.loads(run("models", "--json", "--task", "mae")[1])
    assert {record["task"] for record in found["checkpoints"]} == {"mae"}
    assert {"name", "hub_id", "license", "parameters", "top1"} <= found["checkpoints"][0].keys()
    assert [variant["name"] for variant in found["variants"]] == list(hierax.list_models())


def test_models_refuses_a_license_that_no_checkpoint_has(run: Run) -> None:
    code, _, err = run("models", "--license", "MIT")
    assert (code, err) == (2, "hierax: license is 'MIT'; expected one of CC-BY-NC-4.0, Apache-2.0\n")
