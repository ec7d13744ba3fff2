"""Times contenders in turn, so that a change of the machine's speed affects all of them equally."""

from __future__ import annotations

import datetime
import functools
import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hierax.benchmark import peers
from hierax.benchmark.contenders import Call, Subject, build, input_dtype, multiply_accumulates, peak_memory
from hierax.benchmark.results import BenchReport, Cell, Contender, Machine, summarize
from hierax.benchmark.settings import Settings, resolve
from hierax.checkpoint.bundled import FEMTO
from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.engine.context import torch_threads
from hierax.engine.hardware import DTYPES, fast_bf16
from hierax.model.config import HieraConfig, list_models
from hierax.processing import DEFAULT_MAX_PIXELS

Progress = Callable[[str, float], None]
"""Gets the text of the current step, and the share of the work that is done."""

_SIDE = 2048
_CEILING_SECONDS = 0.5
_EAGER = Contender("hierax", "eager", "fp32")


def bench(
    models: str | Sequence[str] = (FEMTO,),
    *,
    sizes: Sequence[str | int | Sequence[int]] | None = None,
    batches: Sequence[int] = (1, 8),
    precisions: Sequence[str] | None = None,
    backends: Sequence[str] = ("auto",),
    against: Sequence[str] = (),
    against_precision: str = "auto",
    seconds: float = 20.0,
    rounds: int = 10,
    threads: int | None = None,
    memory: bool = True,
    calibration: str | os.PathLike[str] | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measures engines on this machine's CPU: time per call, throughput, memory, and the fraction of its ceiling.

    For each model, size and batch, all contenders are called in turn: an `Engine` per precision and backend, our eager
    model, and the published implementations in eager mode. The time is without preprocessing: engines get pixels in
    float32, an eager model in its precision.

    Args:
        models: variants, which get random weights, or ids, folders or files of checkpoints.
        sizes: in pixels, `448` or `"320x448"`; None is each model's own.
        batches: numbers of images per call.
        precisions: some of "fp32", "bf16" and "int8"; None is "fp32", and "bf16" if the hardware multiplies it.
        backends: names of the engine's backends; each runs the precisions that it has.
        against: "transformers", "timm", "official", or "all" for those that are installed. They have the named variants
            at 224 pixels only.
        against_precision: the precision to compare with: "auto" for the same (fp32 for int8), or one for all.
        seconds, rounds: minimum duration and minimum number of rounds of a cell.
        threads: CPU threads; None is PyTorch's number.
        memory: whether to measure peak memory too, in a separate process per contender.
        calibration: a folder of images for int8; None is the photo that is part of hierax.
        max_pixels: images with more pixels are an error in calibration; None is no limit.
        cache_dir: where engines keep compiled programs; None is their default.
        progress: is called with the text of the current step and the share of the work that is done.

    Raises:
        ValueError: a value is unknown or not possible; this is checked before anything is measured.
        ImportError: a backend or one of `against` is not installed.
    """
    settings = resolve(
        _names(models),
        sizes=sizes,
        batches=batches,
        precisions=precisions,
        backends=backends,
        against=against,
        against_precision=against_precision,
        seconds=seconds,
        rounds=rounds,
        threads=threads,
        memory=memory,
        calibration=calibration,
        max_pixels=max_pixels,
    )
    cache = None if cache_dir is None else os.fspath(cache_dir)
    subjects = [
        Subject(model, size, settings.threads, settings.calibration, cache, settings.max_pixels)
        for model in settings.models
        for size in settings.sizes
    ]
    opened = {name: open_checkpoint(name) for name in settings.models if name not in list_models()}
    for subject in subjects:  # raises an error now, not after minutes, if the model does not exist or not at this size
        subject.config(opened.get(subject.source))
    cells: list[Cell] = []
    with torch_threads(settings.threads):
        for number, subject in enumerate(subjects):
            told = _part(progress or _silent, number, len(subjects))
            cells += measure_subject(subject, opened.get(subject.source), settings, told)
    return BenchReport(
        date=datetime.date.today().isoformat(),
        machine=machine(settings.threads),
        versions=versions(settings),
        settings=settings,
        cells=tuple(cells),
    )


def _names(models: object) -> list[str]:
    """One or several models as a list of names. Raises TypeError for anything else."""
    names = [models] if isinstance(models, (str, os.PathLike)) else models
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, (str, os.PathLike)) for name in names):
        raise TypeError(
            f"models is {models!r:.80}; expected names of variants or checkpoints, such as 'hiera_tiny_224'"
        )
    return [os.fspath(name) for name in names]


def measure_subject(subject: Subject, checkpoint: Checkpoint | None, settings: Settings, tell: Progress) -> list[Cell]:
    """The cells of one model at one size; each contender is built once. `checkpoint` is None for a variant."""
    with ExitStack() as stack:
        built = _build(subject, checkpoint, settings, stack, tell)
        label = f"{subject.source} {_by(built.config.image_size)}"
        parts = len(settings.batches)
        return [
            _measure_batch(built, batch, settings, _part(tell, number, parts, f"{label}, batch {batch}: "))
            for number, batch in enumerate(settings.batches)
        ]


@dataclass(frozen=True)
class _Built:
    """One model at one size, with its contenders, ready to be called.

    Attributes:
        gmacs: multiply-accumulates of one image, in billions.
        notes: sentences about contenders that are left out.
    """

    subject: Subject
    config: HieraConfig
    gmacs: float
    calls: dict[Contender, Call]
    notes: list[str]


def _build(
    subject: Subject, checkpoint: Checkpoint | None, settings: Settings, stack: ExitStack, tell: Progress
) -> _Built:
    tell(f"{subject.source}: building", 0.0)
    model = subject.model(checkpoint)
    config = model.config
    contenders, notes = select_contenders(subject, config.image_size, settings)
    calls: dict[Contender, Call] = {}
    for contender in contenders:
        tell(f"{subject.source}: building {contender}", 0.0)
        calls[contender] = build(contender, subject, stack, model)
    gmacs = multiply_accumulates(model, (1, config.num_channels, *config.image_size)) / 1e9
    return _Built(subject, config, gmacs, calls, notes)


def _measure_batch(built: _Built, batch: int, settings: Settings, tell: Progress) -> Cell:
    config, contenders = built.config, list(built.calls)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch, config.num_channels, *config.image_size, generator=draw)
    ready = {c: functools.partial(call, pixels.to(input_dtype(c))) for c, call in built.calls.items()}
    wanted = tuple(dict.fromkeys(c.ceiling for c in contenders if c.precision != "int8" or fast_bf16()))
    times, ceiling = measure_cell(ready, settings, wanted, tell)
    memory, failed = _memory(built.subject, batch, contenders, tell) if settings.memory else ({}, [])
    timings = summarize(
        times,
        batch=batch,
        gmacs=built.gmacs,
        ceiling=ceiling,
        memory=memory,
        against_precision=settings.against_precision,
    )
    return Cell(
        model=built.subject.source,
        size=config.image_size,
        batch=batch,
        rounds=len(times[_EAGER]),
        gmacs=built.gmacs,
        ceiling=ceiling,
        timings=timings,
        notes=(*built.notes, *failed),
    )


def select_contenders(subject: Subject, size: tuple[int, ...], settings: Settings) -> tuple[list[Contender], list[str]]:
    """The contenders, with those of hierax first, and notes about those that are left out."""
    found = [Contender("hierax", backend, precision) for precision, backend in settings.engines]
    found.append(_EAGER)
    if not settings.against:
        return found, []
    if peers.architecture(subject.source, size) is None:
        absent = ", ".join(settings.against)
        return found, [f"{subject.source} at {_by(size)} pixels: not among what {absent} build by name"]
    found += [Contender(peer, "eager", p) for p in settings.peer_precisions for peer in settings.against]
    return found, []


def measure_cell(
    calls: Mapping[Contender, Callable[[], Any]], settings: Settings, ceilings: Sequence[str], tell: Progress
) -> tuple[dict[Contender, list[float]], dict[str, float]]:
    """Seconds of each contender's calls, round by round, and the machine's ceiling before and after, by precision."""
    for contender, call in calls.items():
        tell(f"warming up {contender}", 0.0)
        for _ in range(3):  # the first call compiles, and two more fill caches
            call()
    tell("measuring the ceiling", 0.0)
    before = {precision: matrix_rate(DTYPES[precision]) for precision in ceilings}
    times = interleaved(calls, seconds=settings.seconds, rounds=settings.rounds, tell=tell)
    return times, {p: max(rate, matrix_rate(DTYPES[p])) / 1e9 for p, rate in before.items()}


def interleaved(
    calls: Mapping[Contender, Callable[[], Any]], *, seconds: float, rounds: int, tell: Progress
) -> dict[Contender, list[float]]:
    """Seconds of each contender's calls: one call of each per round; every round starts with another contender."""
    order, times = list(calls), {contender: [] for contender in calls}
    gc.collect()
    started, turn, passed = time.perf_counter(), 0, 0.0
    while turn < rounds or passed < seconds:
        tell(f"round {turn + 1}", min(turn / rounds, passed / seconds if seconds else 1.0))
        first = turn % len(order)
        for contender in order[first:] + order[:first]:
            start = time.perf_counter()
            calls[contender]()
            times[contender].append(time.perf_counter() - start)
        turn, passed = turn + 1, time.perf_counter() - started
    return times


def matrix_rate(dtype: torch.dtype) -> float:
    """Multiply-accumulates per second of the best of several 2048-cubed products."""
    a, b = (torch.randn(_SIDE, _SIDE).to(dtype) for _ in range(2))
    times: list[float] = []
    while len(times) < 3 or sum(times) < _CEILING_SECONDS:
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return _SIDE**3 / min(times)


def machine(threads: int) -> Machine:
    """This machine."""
    processor = platform.processor() or platform.machine()
    memory = 0.0
    if os.path.exists("/proc/cpuinfo"):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        processor = next((value.strip() for name, _, value in lines if name.strip() == "model name"), processor)
    if os.path.exists("/proc/meminfo"):
        memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20  # in KiB, MemTotal first
    return Machine(processor, threads, memory, f"{platform.system()} {platform.machine()}")


def versions(settings: Settings) -> dict[str, str]:
    """Versions of the packages that were compared."""
    packages = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
    backends = [packages[backend] for backend in dict.fromkeys(b for _, b in settings.engines) if backend in packages]
    found = {name: peers.version_of(name) for name in ("hierax", *backends, *settings.against)}
    return {"python": platform.python_version(), "torch": torch.__version__, **found}


def _memory(
    subject: Subject, batch: int, contenders: Sequence[Contender], tell: Progress
) -> tuple[dict[Contender, float | None], list[str]]:
    """Peak memory of each contender, and notes on failed measurements."""
    found: dict[Contender, float | None] = {}
    notes: list[str] = []
    for contender in contenders:
        tell(f"memory of {contender}", 1.0)
        try:
            found[contender] = peak_memory(contender, subject, batch)
        except RuntimeError as error:
            notes.append(f"no memory: {error}")
    return found, notes


def _part(tell: Progress, number: int, total: int, label: str = "") -> Progress:
    """Reports the progress of one of `total` parts."""
    return lambda text, done: tell(label + text, (number + done) / total)


def _silent(text: str, done: float) -> None:
    """Tells nobody."""


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
