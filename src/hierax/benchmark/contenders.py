"""Builds the functions that are timed: a contender's model as a function of pixels, in this or a separate process."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hierax.benchmark import peers
from hierax.benchmark.results import Contender
from hierax.benchmark.settings import parse_size
from hierax.checkpoint.load import load
from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.engine.context import torch_threads
from hierax.engine.engine import Engine
from hierax.engine.hardware import DTYPES
from hierax.model.config import HieraConfig, list_models, variant_config
from hierax.model.pretrained import Pretrained
from hierax.model.registry import create_model
from hierax.processing import DEFAULT_MAX_PIXELS, HieraImageProcessor
from hierax.processing.defaults import preprocessing_for

Call = Callable[[Tensor], Any]
_STD = 0.05  # standard deviation of random weights: large enough that no activation vanishes


@dataclass(frozen=True)
class Subject:
    """A model at a size, with the arguments that engines need to run it.

    Attributes:
        source: a variant, or an id, folder or file of a checkpoint.
        size: as in `Settings.sizes`.
        calibration, cache_dir: the arguments of `Engine`.
        max_pixels: maximum number of pixels of images to calibrate on.
    """

    source: str
    size: str
    threads: int
    calibration: str | None = None
    cache_dir: str | None = None
    max_pixels: int | None = DEFAULT_MAX_PIXELS

    def config(self, checkpoint: Checkpoint | None = None) -> HieraConfig:
        """The model's configuration at this size; `checkpoint` is the opened source, or None. Raises the errors of
        `hierax.load`.
        """
        if self.source in list_models():
            native = variant_config(self.source)
            size = parse_size(self.size, native.image_size, video=native.is_video)
            return variant_config(self.source, image_size=size)
        return self.model(checkpoint).config

    def model(self, checkpoint: Checkpoint | None = None) -> Pretrained:
        """The model in eval mode; `checkpoint` is the opened source, or None. The random weights of a variant are
        always the same, so that compiled programs are found in the cache.
        """
        if self.source in list_models():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return randomize(create_model(self.source, image_size=self.config().image_size)).eval()
        if not self.size:
            return load(checkpoint or self.source)
        checkpoint = checkpoint or open_checkpoint(self.source)
        config = checkpoint.config
        return checkpoint.model(image_size=parse_size(self.size, config.image_size, video=config.is_video))


def randomize(model: Pretrained) -> Pretrained:
    """Fills the model with random weights (about 1 for norms); returns it."""
    norms = {id(part.weight) for part in model.modules() if isinstance(part, nn.LayerNorm)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=_STD)
            if id(parameter) in norms:
                parameter.add_(1.0)
    return model


def build(contender: Contender, subject: Subject, stack: ExitStack, model: Pretrained | None = None) -> Call:
    """A function that calls a contender on pixels `[B, C, *size]` in its `input_dtype`; closing `stack` frees its
    memory.

    Args:
        model: the subject's model, if it is built already.
    """
    if contender.library != "hierax":
        name = peers.architecture(subject.source, subject.config().image_size)
        assert name is not None, f"{contender} does not know {subject}"
        return eager(peers.PEERS[contender.library](name, False), DTYPES[contender.precision])
    model = model or subject.model()
    if contender.runtime == "eager":
        return eager(model, DTYPES[contender.precision])
    engine = Engine(
        model,
        device="cpu",
        precision=contender.precision,
        backend=contender.runtime,
        threads=subject.threads,
        calibration=subject.calibration if contender.precision == "int8" else None,
        processor=HieraImageProcessor(
            preprocessing_for(model.config, model.preprocessing), max_pixels=subject.max_pixels
        ),
        cache_dir=subject.cache_dir,
    )
    stack.callback(engine.close)

    def call(pixels: Tensor) -> Any:
        return engine(pixel_values=pixels)

    return call


def eager(model: nn.Module, dtype: torch.dtype) -> Call:
    """A function that calls a model directly, on pixels in the precision of its weights."""
    model.eval().to(dtype)

    def call(pixels: Tensor) -> Any:
        with torch.inference_mode():
            return model(pixels)

    return call


def input_dtype(contender: Contender) -> torch.dtype:
    """The type of a contender's input: an engine casts inside its call, others get pixels in their precision."""
    return DTYPES[contender.precision] if contender.runtime == "eager" else torch.float32


def multiply_accumulates(model: nn.Module, shape: tuple[int, ...]) -> float:
    """Multiply-accumulates of one call on pixels of a shape. They are counted on the meta device, because on a CPU the
    counter does not see fused attention.
    """
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    memo |= {id(b): b.to("meta") for b in model.buffers()}
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        copy.deepcopy(model, memo)(torch.empty(shape))
    return counter.get_total_flops() / 2


# -- memory -----------------------------------------------------------------------------------------------------------


def peak_memory(contender: Contender, subject: Subject, batch: int) -> float:
    """Peak resident memory in MiB of a process that builds the contender and calls it three times on a batch.

    Raises:
        RuntimeError: the process failed; the message has its last line.
    """
    order = json.dumps({"contender": asdict(contender), "subject": asdict(subject), "batch": batch})
    # The child gets this process's import path, so that it can import the same modules. It is not started with
    # multiprocessing, because that would run the caller's script again.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from hierax.benchmark.contenders import child; child()"],
        input=order,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{contender}: {lines[-1]}")
    return float(done.stdout.splitlines()[-1])


def child() -> None:
    """The program that `peak_memory` starts: reads a request from stdin, writes MiB to stdout."""
    order = json.load(sys.stdin)
    contender, subject = Contender(**order["contender"]), Subject(**order["subject"])
    with ExitStack() as stack:
        stack.enter_context(torch_threads(subject.threads))
        model = subject.model() if contender.library == "hierax" else None
        config = model.config if model else subject.config()
        call = build(contender, subject, stack, model)
        shape = (order["batch"], config.num_channels, *config.image_size)
        pixels = torch.zeros(shape, dtype=input_dtype(contender))
        for _ in range(3):
            call(pixels)
        print(peak_resident_mib())


def peak_resident_mib() -> float:
    """Peak resident memory of this process so far, in MiB. On Linux, `ru_maxrss` starts at the value of the parent
    process, so /proc is read first.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    scale = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20
