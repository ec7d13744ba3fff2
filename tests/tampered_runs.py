"""Changes to the folder of a run, by a person or a disk, and what may come of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tampered import TEXTS, VALUES

DESCRIPTION, LOG = "run.json", "log.jsonl"
FIELDS = (
    "task", "data", "validation", "from", "teacher", "recipe", "chosen", "facts", "classes", "environment", "finished",
    "result", "other",
)  # fmt: skip
SETTINGS = (
    "name",
    "task",
    "model",
    "overrides",
    "image_size",
    "epochs",
    "batch_size",
    "lr",
    "keep",
    "workers",
    "other",
)
MORE = [float("nan"), float("inf"), 2**62, "1e400"]


@dataclass(frozen=True)
class Change:
    """A change to a copy of a run."""

    name: str
    make: Callable[[Path], object]


def changes() -> list[Change]:
    """All of them; every n-th of them are as mixed as all."""
    return [*_descriptions(), *_logs(), *_checkpoints(), *_any_file()]


def apply(change: Change, original: Path, folder: Path) -> Path:
    """A copy of the original with the change."""
    shutil.copytree(original, folder)
    change.make(folder)
    return folder


def _descriptions() -> Iterator[Change]:
    for name, text in TEXTS.items():
        yield Change(f"run.json, text: {name}", _written(DESCRIPTION, text))
    for name in FIELDS:
        yield Change(f"run.json: without {name}", _edited((), name, None, drop=True))
        for value in (*VALUES, *MORE):
            yield Change(f"run.json: {name} = {value!r:.20}", _edited((), name, value))
    for part in ("recipe", "chosen"):
        for name in SETTINGS:
            for value in (*VALUES, *MORE):
                yield Change(f"run.json: {part}.{name} = {value!r:.20}", _edited((part,), name, value))
    for name in ("samples", "held_out", "batch", "other"):
        for value in (*VALUES, *MORE):
            yield Change(f"run.json: facts.{name} = {value!r:.20}", _edited(("facts",), name, value))
    for value in ({}, {"steps": 3}, {"steps": "x", "seconds": 1}, {"steps": 3, "seconds": float("nan")}):
        yield Change(f"run.json: finished, result = {value!r}", _finished(value))


def _logs() -> Iterator[Change]:
    for name, text in TEXTS.items():
        yield Change(f"log.jsonl, text: {name}", _written(LOG, text + "\n"))
    for value in (*VALUES, *MORE):
        line = json.dumps({"step": value, "loss": value}) + "\n"
        yield Change(f"log.jsonl: step = {value!r:.20}", _appended(LOG, line))
        line = json.dumps({"step": 1, "validation": value}) + "\n"
        yield Change(f"log.jsonl: validation = {value!r:.20}", _appended(LOG, line))
        line = json.dumps({"step": 1, "validation": {"loss": value, "top1": value}}) + "\n"
        yield Change(f"log.jsonl: loss = {value!r:.20}", _appended(LOG, line))


def _last(folder: Path) -> Path:
    return max(folder.glob("checkpoints/step-*"), key=lambda path: int(path.name[5:]))


def _checkpoints() -> Iterator[Change]:
    for file in ("digests.json", "rank-0.pt", "shared/.metadata", "shared/__0_0.distcp"):
        for what, act in _ACTS.items():
            for renew in (False, True):
                name = f"{file}: {what}{', with its digest' if renew else ''}"
                yield Change(name, lambda folder, f=file, a=act, r=renew: _changed(_last(folder), f, a, renew=r))
    for value in ({}, {"rank-0.pt": 1}, {"shared/.metadata": "x", "rank-0.pt": "x", "../../../x": "y"}):
        yield Change(
            f"digests.json = {value}", lambda f, v=value: (_last(f) / "digests.json").write_text(json.dumps(v))
        )
    for name in ("step", "seen", "best", "bad", "last", "evaluated", "other"):
        for value in (None, -1, "x", [], {"a": None}, 10**30, float("nan")):
            yield Change(f"progress.{name} = {value!r}", lambda f, n=name, v=value: _progress(_last(f), n, v))
    for part in ("rng", "scaler", "progress"):
        for value in (None, {}, [], "x", {"torch": torch.zeros(3)}):
            what = "tensor" if value and isinstance(value, dict) else repr(value)
            yield Change(f"rank-0.pt: {part} = {what}", lambda f, p=part, v=value: _own(_last(f), {p: v}))
    yield Change("checkpoints: a step that is no folder", lambda f: (f / "checkpoints/step-99").write_text("x"))
    yield Change("checkpoints: an empty step", lambda f: (f / "checkpoints/step-99").mkdir())
    yield Change("checkpoints: a huge step", lambda f: (f / f"checkpoints/step-{'9' * 80}").mkdir())
    yield Change("checkpoints: a file in their place", lambda f: _swap(f / "checkpoints", lambda p: p.write_text("x")))
    yield Change("checkpoints: a pipe in their place", lambda f: _swap(f / "checkpoints", os.mkfifo))
    yield Change("checkpoints: another's step", lambda f: _last(f).rename(f / "checkpoints/step-77"))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[int(np.random.default_rng(1).integers(len(content)))] ^= 8
    path.write_bytes(content)


_ACTS: dict[str, Callable[[Path], object]] = {
    "bits flipped": _flip,
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(bytes(5000)),
    "gone": lambda p: p.unlink(),
    "a pipe": lambda p: _swap(p, os.mkfifo),
    "a folder": lambda p: _swap(p, os.mkdir),
    "a device": lambda p: _swap(p, lambda q: q.symlink_to("/dev/zero")),
    "a link to itself": lambda p: _swap(p, lambda q: q.symlink_to(q)),
}


def _swap(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    make(path)


def _changed(step: Path, file: str, act: Callable[[Path], object], *, renew: bool) -> None:
    act(step / file)
    if renew:
        _renew(step, file)


def _renew(step: Path, file: str) -> None:
    """The digest of a file as it is now, as somebody writes it who wants it to be taken."""
    from hierax.digests import file_digest

    if (step / file).is_file() and file != "digests.json":
        digests = json.loads((step / "digests.json").read_text())
        (step / "digests.json").write_text(json.dumps({**digests, file: file_digest(step / file)}))


def _own(step: Path, values: dict[str, Any]) -> None:
    state = torch.load(step / "rank-0.pt", weights_only=True)
    torch.save({**state, **values}, step / "rank-0.pt")
    _renew(step, "rank-0.pt")


def _progress(step: Path, name: str, value: Any) -> None:
    state = torch.load(step / "rank-0.pt", weights_only=True)
    _own(step, {"progress": {**state["progress"], name: value}})


def _any_file() -> Iterator[Change]:
    for name in (DESCRIPTION, LOG, "unreadable.txt", "loss.png", "validation.json", "model", "report.html"):
        for what in ("empty", "a pipe", "a folder", "a device", "a link to itself", "zeros"):
            yield Change(f"{name}: {what}", lambda f, n=name, a=_ACTS[what]: _made(f / n, a))


def _made(path: Path, act: Callable[[Path], object]) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.write_text("x")
    act(path)


def _written(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))


def _appended(file: str, line: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        with (folder / file).open("a") as log:
            log.write(line)

    return make


def _edited(place: tuple[str, ...], name: str, value: Any, *, drop: bool = False) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        values = part = json.loads((folder / DESCRIPTION).read_text())
        for step in place:
            part = part.setdefault(step, dict(values["recipe"]))
        part[name] = value
        if drop:
            del part[name]
        (folder / DESCRIPTION).write_text(json.dumps(values))

    return make


def _finished(result: Any) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        values = json.loads((folder / DESCRIPTION).read_text())
        (folder / DESCRIPTION).write_text(json.dumps({**values, "finished": True, "result": result}))

    return make


def problem(code: int, err: str, folder: Path) -> str:
    """What is wrong with how a command ended; "" if nothing."""
    one_line = err.strip().splitlines()[-1:] or [""]
    if code not in (0, 2, 3) or any(word in err for word in ("fault of hierax", "Traceback", "Exception ignored")):
        return f"{code}: {err}"
    named = (folder.name, "expected", "is not a variant", "no such file")  # the last two name the value
    if code == 2 and not any(word in one_line[0] for word in named):
        return f"names no file: {one_line[0]}"
    return ""


# -- all of them, in a process of its own ---------------------------------------------------------------------------


def commands(folder: Path, same: list[str]) -> list[list[str]]:
    """What reads a run: the same command again, `--resume`, and what takes its model."""
    data = same[1]
    return [
        [*same, "-o", str(folder)],
        ["finetune", "--resume", "-o", str(folder), "--device", "cpu"],
        ["evaluate", data, "--model", str(folder), "--device", "cpu", "--workers", "0"],
    ]


def main(place: Path, first: int = 0, every: int = 1) -> None:
    """Tries all changes, or every n-th, and writes what went wrong, last how many were tried."""
    import contextlib
    import io
    import signal

    from hierax.cli import main as hierax
    from training import pictures

    same, original = unfinished(place, pictures(place / "data", each=8))
    tried = 0

    def hangs(*_: object) -> None:
        raise RuntimeError("HANGS")

    signal.signal(signal.SIGALRM, hangs)
    for change in changes()[first::every]:
        print(change.name, end=" ", flush=True)
        folder = apply(change, original, place / "tampered")
        for command in commands(folder, same):
            signal.alarm(60)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
                code = hierax(command)
            signal.alarm(0)
            print(problem(code, err.getvalue(), folder).replace("\n", " | "), end=" ", flush=True)
            tried += 1
        print(flush=True)
        shutil.rmtree(folder)
    print(f"{tried} commands tried")


def unfinished(place: Path, data: Path) -> tuple[list[str], Path]:
    """A command, and a run that it left in the middle, with two checkpoints and a model."""
    from hierax.cli import main as hierax
    from hierax.train.run_folder import RunRecorder

    words = (
        "model=hiera_tiny_224 embed_dim=8 depths=[1,1,1,1] num_heads=[1,1,1,1] image_size=64 epochs=2 batch_size=4 "
        "workers=0 validation_fraction=0.25 weights=best"
    )
    same = ["finetune", str(data), "--from", "scratch", "--device", "cpu", *words.split()]
    step = RunRecorder.on_step

    def stops(self: RunRecorder, report: Any) -> None:
        step(self, report)
        if report.step == 4:
            import signal

            signal.raise_signal(signal.SIGTERM)

    RunRecorder.on_step = stops  # type: ignore[method-assign]
    try:
        code = hierax([*same, "-o", str(place / "whole")])
    finally:
        RunRecorder.on_step = step  # type: ignore[method-assign]
    assert code == 143, code
    return same, place / "whole"


if __name__ == "__main__":
    import sys

    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
