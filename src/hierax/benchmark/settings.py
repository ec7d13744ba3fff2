"""The settings of a benchmark, all checked before anything is built."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hierax.benchmark import peers
from hierax.engine.hardware import choose, fast_bf16
from hierax.processing import DEFAULT_MAX_PIXELS

AGAINST_PRECISIONS = ("auto", "fp32", "bf16")
_PRECISIONS = ("fp32", "bf16", "int8")  # of a CPU


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, made by `resolve`.

    Attributes:
        models: variants, or ids, folders or files of checkpoints.
        sizes: in pixels, as "448" or "320x448"; "" is the model's own.
        batches, precisions: numbers of images per call, and precisions of engines.
        backends: names of the engine's backends; each runs the precisions that it has.
        against: published implementations.
        against_precision: the precision to compare with: "auto" for the same (fp32 for int8), or one for all.
        seconds, rounds: minimum duration and minimum number of rounds of a cell.
        threads: number of CPU threads.
        memory: whether peak memory is measured.
        calibration: a folder of images to calibrate int8 on, or None.
        max_pixels: images with more pixels are an error in calibration; None is no limit.
    """

    models: tuple[str, ...]
    sizes: tuple[str, ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    backends: tuple[str, ...]
    against: tuple[str, ...]
    against_precision: str
    seconds: float
    rounds: int
    threads: int
    memory: bool
    calibration: str | None
    max_pixels: int | None = DEFAULT_MAX_PIXELS

    @property
    def engines(self) -> tuple[tuple[str, str], ...]:
        """Precision and backend of every engine: all pairs that exist, with "auto" resolved."""
        pairs = [(p, b) for p in self.precisions for b in self.backends if _refused(p, b) is None]
        return tuple(dict.fromkeys((p, choose("cpu", p, b).backend) for p, b in pairs))

    @property
    def peer_precisions(self) -> tuple[str, ...]:
        """The precisions of the published implementations."""
        bf16 = "bf16" in (*self.precisions, self.against_precision)
        return ("fp32", "bf16") if bf16 else ("fp32",)

    @property
    def command(self) -> str:
        """The command line for these settings."""
        parts = ["hierax", "bench", "--model", ",".join(self.models)]
        parts += ["--batch-size", ",".join(map(str, self.batches))]
        parts += ["--precision", ",".join(self.precisions), "--backend", ",".join(self.backends)]
        parts += ["--size", ",".join(self.sizes)] if any(self.sizes) else []
        parts += ["--against", ",".join(self.against)] if self.against else []
        parts += ["--against-precision", self.against_precision] if self.against_precision != "auto" else []
        parts += ["--seconds", f"{self.seconds:g}", "--rounds", str(self.rounds), "--threads", str(self.threads)]
        parts += ["--calibration", self.calibration] if self.calibration else []
        parts += ["--max-pixels", str(self.max_pixels)] if self.max_pixels not in (None, DEFAULT_MAX_PIXELS) else []
        return shlex.join(parts if self.memory else [*parts, "--no-memory"])


def resolve(
    models: Sequence[str],
    *,
    sizes: Sequence[str | int | Sequence[int]] | None,
    batches: Sequence[int],
    precisions: Sequence[str] | None,
    backends: Sequence[str],
    against: Sequence[str],
    against_precision: str,
    seconds: float,
    rounds: int,
    threads: int | None,
    memory: bool,
    calibration: str | os.PathLike[str] | None,
    max_pixels: int | None,
) -> Settings:
    """The settings, with defaults filled in.

    Raises:
        ValueError: a value is unknown or not possible; the message names the field and the expected values.
        ImportError: a backend or one of `against` is not installed.
    """
    named = {"models": models, "batches": batches, "backends": backends}
    for field, values in {**named, "precisions": ("fp32",) if precisions is None else precisions}.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"{field} is {values!r}; expected a list of at least one")
    for field, value in (("rounds", rounds), *(("batches", b) for b in batches), ("threads", threads or 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{field} is {value!r}; expected a whole number above 0")
    if not seconds >= 0:
        raise ValueError(f"seconds is {seconds!r}; expected 0 or more")
    if against_precision not in AGAINST_PRECISIONS:
        raise ValueError(f"against_precision is {against_precision!r}; expected {', '.join(AGAINST_PRECISIONS)}")
    if calibration is not None and not Path(calibration).exists():
        raise ValueError(f"calibration is {os.fspath(calibration)!r}, which does not exist; expected images")
    chosen = precisions or (("fp32", "bf16") if fast_bf16() else ("fp32",))
    if calibration is not None and "int8" not in chosen:
        raise ValueError(f"calibration is for precision int8; precisions is {', '.join(chosen)}")
    sizes = [sizes] if isinstance(sizes, (str, int)) else sizes
    _check_engines(chosen, backends)
    return Settings(
        models=tuple(dict.fromkeys(map(str, models))),
        sizes=tuple(dict.fromkeys(map(_size_name, sizes))) if sizes else ("",),
        batches=tuple(dict.fromkeys(batches)),
        precisions=tuple(dict.fromkeys(chosen)),
        backends=tuple(dict.fromkeys(backends)),
        against=peers.importable([against] if isinstance(against, str) else against),
        against_precision=against_precision,
        seconds=float(seconds),
        rounds=rounds,
        threads=threads or torch.get_num_threads(),
        memory=memory,
        calibration=None if calibration is None else os.fspath(calibration),
        max_pixels=max_pixels,
    )


def parse_size(text: str, native: tuple[int, ...], *, video: bool) -> tuple[int, ...]:
    """ "" is the native size, "448" a square (of a clip, the frames), "320x448" rows and columns.

    Raises:
        ValueError: the number of sizes is not the number of the model's axes.
    """
    if not text:
        return native
    sides = tuple(map(int, text.split("x")))
    if len(sides) == 1:
        sides = (native[0], *sides * (len(native) - 1)) if video else sides * len(native)
    if len(sides) != len(native):
        raise ValueError(f"sizes has {text!r}; this model takes {len(native)} axes, as {'x'.join(map(str, native))}")
    return sides


def _size_name(size: str | int | Sequence[int]) -> str:
    text = size if isinstance(size, str) else "x".join(map(str, [size] if isinstance(size, int) else size))
    if text and not all(part.isdecimal() and int(part) > 0 for part in text.split("x")):
        raise ValueError(f"sizes has {size!r}; expected pixels, as 448 or 320x448")
    return text


def _refused(precision: str, backend: str) -> ValueError | None:
    """Text that says why a backend does not run in a precision."""
    try:
        choose("cpu", precision, backend)
    except ValueError as error:
        return error
    return None


def _check_engines(precisions: Sequence[str], backends: Sequence[str]) -> None:
    """Checks that every name is known, that every precision has a backend, and that every backend has a precision."""
    for precision in precisions:
        if precision not in _PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected {', '.join(_PRECISIONS)}")
    for backend in backends:
        choose("cpu", "auto", backend)  # an unknown name, a missing package
    pairs = [(p, b) for p in precisions for b in backends]
    for wanted in (*precisions, *backends):
        errors = [_refused(*pair) for pair in pairs if wanted in pair]
        if all(errors):
            raise next(error for error in errors if error is not None)
