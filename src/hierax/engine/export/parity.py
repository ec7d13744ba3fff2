"""Compares an exported file with its model; defines the tolerances."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierax.engine.calibration import ImageInputs, images_of, sample_pixels
from hierax.engine.context import inference_modes
from hierax.engine.pool import Runner
from hierax.engine.signature import Program, Signature
from hierax.model.config import HieraConfig
from hierax.model.encoder import visible_units
from hierax.model.registry import TASKS
from hierax.processing import HieraImageProcessor
from hierax.reprs.text import never_raises, short_repr

LARGEST_ERROR = {"fp32": 1e-4}
"""Tolerances of the relative error of every map and output, by precision."""
LEAST_COSINE = {"bf16": 0.9995, "fp16": 0.9995, "int8": 0.995}
"""Tolerances (minimum) of the cosine of the output of every input, by precision."""
_CROPS, _NOISE, _MOST = 200, 16, 1000  # inputs to compare on: crops of a photo, noise, images of a folder
_BATCH = 8  # inputs that are compared at once
_NAMES = {"pooler_output": "pooled output", "feature_maps": "feature maps"}


@short_repr()
@dataclass(frozen=True)
class ParityReport:
    """The comparison of an exported file, run by its own runtime, with the model in float32 on PyTorch.

    Attributes:
        precision: precision of the file; decides the tolerance.
        inputs: number of inputs; `kind` is their kind: "images", "inputs" or "random inputs".
        maps: relative error `norm(file - model) / norm(model)` over all inputs, by map: all stages, or the maps of a
            backbone.
        outputs: the same for all outputs of the file.
        compared: the output whose cosine is computed: "logits", "pooler_output" or "feature_maps".
        cosine, worst_cosine: mean and minimum of its cosine over the inputs.
        twin: relative difference between the outputs of the file and of its twin, which also gives the maps.
        agreements: for how many inputs a classifier names the same class, or a segmentation model for how many cells of
            the coarse logits; None for other models.
        cells: of a segmentation model, the number of these cells.
    """

    precision: str
    inputs: int
    kind: str
    maps: Mapping[str, float]
    outputs: Mapping[str, float]
    compared: str
    cosine: float
    worst_cosine: float
    twin: float
    agreements: int | None
    cells: int | None = None

    @property
    def largest_error(self) -> float:
        """The largest relative error of a map; NaN if any is NaN."""
        return _largest(self.maps.values())

    @property
    def misses(self) -> tuple[str, ...]:
        """Sentences about the numbers that are outside of their tolerance."""
        found: list[str] = []
        most, least = LARGEST_ERROR.get(self.precision), LEAST_COSINE.get(self.precision)
        if most is not None:
            errors = {**self.outputs, **self.maps}
            found += [f"relative error of {n} {e:.2g} is above {most:g}" for n, e in errors.items() if not e <= most]
        if least is not None and not self.worst_cosine >= least:
            found.append(f"least cosine of {self._compared} {self.worst_cosine:.5f} is below {least:g}")
        # rounding differs if a map is an output; a larger difference means another graph
        apart = most if least is None else math.sqrt(2 - 2 * least)
        if apart is not None and not self.twin <= apart:
            found.append(f"the file that also gives the maps differs by {self.twin:.2g}, more than {apart:.2g}")
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Whether all numbers are within the tolerance of the precision."""
        return not self.misses

    @property
    def _compared(self) -> str:
        return _NAMES.get(self.compared, self.compared)

    @never_raises
    def __str__(self) -> str:
        parts = [
            f"stage maps max rel. error {self.largest_error:.1e}".replace("e-0", "e-"),
            f"{self._compared} cosine {self.cosine:.4f} (worst {self.worst_cosine:.4f})",
        ]
        if self.agreements is not None and self.cells:
            parts.append(f"same class in {100 * self.agreements / self.cells:.2f} % of the cells")
        elif self.agreements is not None:
            parts.append(f"top-1 agreement {self.agreements}/{self.inputs}")
        verdict = "within the tolerance" if self.passed else "outside the tolerance"
        return f"{' · '.join(parts)} on {self.inputs} {self.kind}: {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values; `from_dict` gives an equal report."""
        return {**asdict(self), "passed": self.passed}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ParityReport:
        """The inverse of `to_dict`."""
        return cls(**{name: value for name, value in values.items() if name != "passed"})


class ParityError(ValueError):
    """An export outside of its tolerance; `report` has the numbers."""

    def __init__(self, report: ParityReport) -> None:
        super().__init__(f"the {report.precision} export is outside its tolerance, so nothing is written: {'; '.join(report.misses)}")  # noqa: E501  # fmt: skip
        self.report = report


def measure(
    model: Any, exported: Runner, mapped: Runner, inputs: Iterable[tuple[Tensor, ...]], *, precision: str, kind: str
) -> ParityReport:
    """Compares the file (`exported`) and its twin with maps (`mapped`) with the `model`.

    Args:
        model: the unfolded model in float32 on the CPU.
        inputs: batches of pixels and, for an MAE model, of indices of visible mask units.
    """
    task = TASKS[Signature.of(model).task]
    backbone = task.maps
    given = Signature.of(model).outputs
    wanted = Signature.of(model, hidden_states=not backbone)
    maps = [name for name in wanted.outputs if name not in given or backbone]
    compared = given if backbone else given[:1]
    program, sums, count = Program(model, wanted).eval(), _Sums(), 0
    cosines: list[Tensor] = []
    agreements = answers = 0
    for batch in inputs:
        pixels, *units = batch
        kept = units[0] if units else None
        with inference_modes(torch.device("cpu")):
            truth = dict(zip(wanted.outputs, program(*batch), strict=True))
        theirs = dict(zip(given, exported(pixels, kept), strict=True))
        for name, tensor in zip(wanted.outputs, mapped(pixels, kept), strict=True):
            if name in maps:
                sums.add("maps", name, tensor, truth[name])
            if name in given:
                sums.add("twin", name, tensor, theirs[name])
        for name, tensor in theirs.items():
            sums.add("outputs", name, tensor, truth[name])
        pairs = [(theirs[name].double(), truth[name].double()) for name in compared]
        cosines += [torch.cosine_similarity(a.flatten(1), b.flatten(1), dim=1) for a, b in pairs]
        if task.labels:
            same = torch.stack([a.argmax(1) == b.argmax(1) for a, b in pairs])
            agreements, answers = agreements + int(same.sum()), answers + same.numel()
        count += len(pixels)
    values = torch.cat(cosines)
    return ParityReport(
        precision=precision,
        inputs=count,
        kind=kind,
        maps=sums.errors("maps"),
        outputs=sums.errors("outputs"),
        compared=compared[0].split(".")[0],
        cosine=float(values.mean()),
        worst_cosine=float(values.min()),  # NaN if one value is NaN
        twin=_largest(sums.errors("twin").values()),
        agreements=agreements if task.labels else None,
        cells=answers if task.dense else None,
    )


class _Sums:
    """Sums over batches of squared differences and of squared values."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, group: str, name: str, found: Tensor, truth: Tensor) -> None:
        """Adds one batch of one output."""
        if found.shape != truth.shape:
            raise RuntimeError(
                f"{name} has shape {list(found.shape)} in the export and {list(truth.shape)} in the model"
            )
        sums, truth = self._sums[group, name], truth.double()
        sums[0] += float((found.double() - truth).square().sum())
        sums[1] += float(truth.square().sum())

    def errors(self, group: str) -> dict[str, float]:
        """The relative error of each output of a group."""
        found = {name: sums for (kind, name), sums in self._sums.items() if kind == group}
        return {n: math.sqrt(error / scale) if scale else math.nan for n, (error, scale) in found.items()}


def _largest(values: Iterable[float]) -> float:
    return float(torch.tensor(list(values), dtype=torch.float64).max())


def evaluation_inputs(
    evaluate: ImageInputs | None, *, config: HieraConfig, processor: HieraImageProcessor, masked: bool
) -> tuple[str, Iterator[tuple[Tensor, ...]]]:
    """The kind of the inputs, and their batches.

    Args:
        evaluate: a folder (at most 1000 images of it) or a list of images, which `processor` converts; or preprocessed
            pixels. None is 200 crops of the photo that is part of hierax, or noise for a model that does not take
            images.
        config: configuration of the model, at the exported size.
        masked: whether to add random indices of visible mask units for each input.
    """
    kind, pixels = _pixels(evaluate, config, processor)
    return kind, with_units(pixels, config=config, masked=masked)


def _pixels(evaluate: ImageInputs | None, config: HieraConfig, processor: HieraImageProcessor) -> tuple[str, Iterator[Tensor]]:  # noqa: E501  # fmt: skip
    if isinstance(evaluate, Tensor):
        ready = sample_pixels(evaluate, len(evaluate), config=config, processor=processor)
        return "inputs", iter(ready.split(_BATCH))
    if config.axes != 2 or config.num_channels != 3:
        if evaluate is not None:
            raise ValueError("evaluate names images, which this model does not take; pass ready pixels")
        draw = torch.Generator().manual_seed(1)
        return "random inputs", iter(torch.randn(_NOISE, config.num_channels, *config.image_size, generator=draw).split(_BATCH))  # noqa: E501  # fmt: skip
    if evaluate is None:  # other crops than those for calibrating int8
        seeds = range(1, 1 + _CROPS // _BATCH)
        return "images", (sample_pixels(None, _BATCH, config=config, processor=processor, seed=s) for s in seeds)
    named = isinstance(evaluate, (str, Path))
    images: list[Any] = images_of(evaluate, most=_MOST) if named else list(evaluate)  # type: ignore[arg-type]
    if not images:
        raise ValueError("no images were given for the comparison; expected at least one")
    chunks = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
    return "images", (processor(chunk).pixel_values for chunk in chunks)


def with_units(pixels: Iterable[Tensor], *, config: HieraConfig, masked: bool) -> Iterator[tuple[Tensor, ...]]:
    """Batches of pixels; if `masked`, each with the indices of the visible mask units (their number follows from
    `mask_ratio`).
    """
    units = torch.Size(config.unit_grid(config.image_size)).numel()
    draw = torch.Generator().manual_seed(0)
    for batch in pixels:
        if not masked:
            yield (batch,)
            continue
        noise = torch.rand(len(batch), units, generator=draw)
        yield batch, noise.argsort(1)[:, : visible_units(config, units)].sort(1).values
