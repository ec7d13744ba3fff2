"""Wrong options, values and commands: one line, the right help page, and what was probably meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("clasify a.jpg", "no command 'clasify'; did you mean classify? (see hierax --help)"),
        ("Classify a.jpg", "no command 'Classify'; did you mean classify? (see hierax --help)"),
        ("train data", "no command 'train'; did you mean pretrain or finetune? (see hierax --help)"),
        ("predict a.jpg", "no command 'predict'; did you mean classify? (see hierax --help)"),
        ("--debug dedup x", "no command 'dedup'; did you mean duplicates? (see hierax --help)"),
        ("qwertz", "no command 'qwertz' (see hierax --help)"),
        ("classify a --topk 3", "no option --topk; did you mean --top-k? (see hierax classify --help)"),
        ("classify a --top 3", "no option --top; did you mean --top-k? (see hierax classify --help)"),
        ("classify a --modle x", "no option --modle; did you mean --model? (see hierax classify --help)"),
        ("classify a --weights x", "no option --weights; did you mean --model? (see hierax classify --help)"),
        ("classify a --qqq", "no option --qqq (see hierax classify --help)"),
        ("embed a -o x --out-dir y", "no option --out-dir; did you mean --output? (see hierax embed --help)"),
        ("recipes a b", "unexpected argument: b (see hierax recipes --help)"),
        ("recipes a b c", "unexpected arguments: b c (see hierax recipes --help)"),
        ("finetune d --epochs 3", "no option --epochs; a setting is written as epochs=3 (see hierax finetune --help)"),
        ("pretrain d --lr=0.1", "no option --lr; a setting is written as lr=0.1 (see hierax pretrain --help)"),
        ("pretrain d --batch-size 8 -o x", "a setting is written as batch_size=8 (see hierax pretrain --help)"),
        ("pretrain d --mask-ratio", "a setting is written as mask_ratio=VALUE (see hierax pretrain --help)"),
        ("pretrain d --resum", "no option --resum; did you mean --resume? (see hierax pretrain --help)"),
        (
            "models --task classificaton",
            "'classificaton' is not one of classification, features, mae, backbone; did you mean",
        ),
        (
            "convert a b --to onnx",
            "transformers, official, timm; hierax export --format onnx writes ONNX",
        ),
        ("classify", "the following arguments are required: FILE (see hierax classify --help)"),
        ("classify --modle x", "no option --modle; did you mean --model? (see hierax classify --help)"),
        ("embed a --outptu x", "no option --outptu; did you mean --output? (see hierax embed --help)"),
        ("--debug search --topk=3", "no option --topk; did you mean --top-k? (see hierax search --help)"),
        ("convert a --two timm", "no option --two"),
        ("evaluate --device cpu --bs 3", "no option --bs"),
        ("export --nonsense", "no option --nonsense (see hierax export --help)"),
        ("classify a.jpg --json=3", "argument --json: takes no value; '3' was given (see hierax classify --help)"),
    ],
)
def test_a_wrong_line_is_answered_by_what_was_meant(run: Run, line: str, said: str) -> None:
    code, out, err = run(*line.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err


def test_files_may_stand_before_and_after_options(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("classify", "a.jpg", "--json", "b.jpg", "--top-k", "2", "c.jpg")
    assert (code, [line.partition('",')[0] for line in out.splitlines()]) == (
        2,
        ['{"path": "a.jpg', '{"path": "b.jpg', '{"path": "c.jpg'],
    )


def test_a_file_that_begins_with_a_dash_is_told_from_an_option(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-dash.jpg").touch()
    for command in ("classify", "embed", "pretrain"):
        code, out, err = run(command, "-dash.jpg")
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "no option -dash.jpg; for the file with that name, write ./-dash.jpg" in err
    code, out, err = run("classify", "--", "-dash.jpg")
    assert (code, out) == (2, "")
    assert "-dash.jpg: an empty file" in err


def test_a_file_without_a_command_is_answered_by_the_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").touch()
    code, _, err = run("a.jpg")
    assert code == 2
    assert "no command 'a.jpg'; did you mean hierax classify a.jpg? (see hierax --help)" in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["features", "a.jpg", "-o", ""], "argument -o: expected a value; it is empty (see hierax features --help)"),
        (["embed", "a", "--output="], "argument --output: expected a value; it is empty (see hierax embed --help)"),
        (["classify", "a.jpg", "--model", ""], "argument --model: expected a value; it is empty"),
        (["search", "", "a.jpg"], "an argument is empty; expected a name or a value"),
    ],
)
def test_an_empty_argument_is_never_the_current_folder(run: Run, line: list[str], said: str) -> None:
    code, out, err = run(*line)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
