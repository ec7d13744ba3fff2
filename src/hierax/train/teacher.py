"""Teachers for distillation: a checkpoint of Hiera, an ONNX file, or a program of `torch.export`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.checkpoint.class_names import load_labels
from hierax.checkpoint.files import weights_in
from hierax.data.view import EvaluationView, Example
from hierax.digests import add_file, weights_digest
from hierax.processing import IMAGENET, Preprocessing
from hierax.processing.defaults import preprocessing_for
from hierax.processing.record import FILE_NAME
from hierax.train.networks import OTHERS, SUFFIXES, Run, open_network

_LOGITS, _FEATURES = ("logits",), ("features", "pooler_output")
_MEASURED = 512  # images


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's outputs for a batch: `logits` float32 `[B, classes]` and `features` float32 `[B, width]`, or None."""

    logits: Tensor | None
    features: Tensor | None


class Teacher:
    """A frozen network, and the size of its input.

    Attributes:
        name: the source, as the user wrote it.
        digest: SHA-256 of its weights or of its files, and of the size and normalization of its input, hexadecimal.
        size: pixels per axis of its input; None is the student's size.
        channels: number of channels of its input.
        takes_values: whether it takes values as their files store them, not gray levels of 8 bits.
        classes: names of the classes of its logits, or None.
        logits, features: number of each; 0 for none.
        feature_mean, feature_std: mean and standard deviation of each feature; 0 and 1 before `measure` is called.
        note: a sentence on its outputs and its size.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        run: Run,
        record: Preprocessing,
        *,
        size: tuple[int, ...] | None,
        classes: Sequence[str] | None,
        probe: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self.name, self._run, self.size = name, run, size
        self.channels, self.takes_values = record.num_channels, record.takes_values
        shape = (1, -1, *[1] * len(probe))
        mean, std = (record.image_mean, record.image_std) if record.do_normalize else ((0.0,), (1.0,))
        self._mean, self._std = (torch.tensor(values, device=device).view(shape) for values in (mean, std))
        self._unit = 1 / record.rescale_factor if record.do_rescale else 1.0
        shown = f"{digest} {size} {mean} {std} {self._unit} {self.takes_values}"
        self.digest = hashlib.sha256(shown.encode()).hexdigest()
        first = self._answers(torch.zeros(1, record.num_channels, *(size or probe), device=device))
        self.logits = 0 if first.logits is None else first.logits.shape[1]
        self.features = 0 if first.features is None else first.features.shape[1]
        self.feature_mean = torch.zeros(self.features, device=device)
        self.feature_std = torch.ones(self.features, device=device)
        self.classes = tuple(classes) if classes and len(classes) == self.logits else None
        if self.classes is None and self.logits == 1000:
            self.classes = load_labels("imagenet-1k")

    @property
    def note(self) -> str:
        """A sentence on its outputs and its size."""
        parts = [f"{count} {what}" for count, what in ((self.logits, "logits"), (self.features, "features")) if count]
        shown = "the student's pixels" if self.size is None else f"{'x'.join(map(str, self.size))} pixels"
        return f"teacher {self.name}: {' and '.join(parts)} of {shown}"

    def measure(self, view: EvaluationView) -> None:
        """Measures the mean and standard deviation of its features over up to 512 images, spread over those of `view`.

        The part that all images have in common is removed: without this, any two features after a ReLU have a cosine of
        about 0.5.
        """
        shown = range(0, len(view.dataset), -(-len(view.dataset) // _MEASURED))
        seen = [item.pixels for item in (view[index] for index in shown) if isinstance(item, Example)]
        gray = torch.zeros(1, device=self._mean.device), torch.ones(1, device=self._mean.device)
        batches = (torch.from_numpy(np.stack(seen[i : i + 32])).to(gray[0].device) for i in range(0, len(seen), 32))
        found = [f for f in (self(batch, *gray).features for batch in batches) if f is not None]
        if found:
            every = torch.cat(found)
            self.feature_mean, spread = every.mean(0), every.std(0, correction=0)
            self.feature_std = torch.where(spread > 1e-6 * spread.max(), spread, 1.0)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, mean: Tensor, std: Tensor) -> TeacherOutputs:
        """Outputs for `pixels` `[B, C, *size]`, which were normalized with `mean` and `std` in gray levels, or in the
        units of the files if the teacher `takes_values`.
        """
        levels = pixels.float() * std.float() + mean.float()
        if self.size is not None and tuple(levels.shape[2:]) != self.size:
            levels = F.interpolate(levels, self.size, mode="bicubic", antialias=True)
        if not self.takes_values:
            levels = levels.clamp_(0, 255)
        return self._answers((levels / self._unit - self._mean) / self._std)

    def _answers(self, pixels: Tensor) -> TeacherOutputs:
        found = {name: tensor.float() for name, tensor in self._run(pixels).items() if tensor.ndim == 2}
        if len(found) == 1 and not set(found) & {*_LOGITS, *_FEATURES}:
            return TeacherOutputs(next(iter(found.values())), None)
        logits, features = (next((found[n] for n in names if n in found), None) for names in (_LOGITS, _FEATURES))
        if logits is None and features is None:
            raise ValueError(
                f"{self.name}: its outputs of two axes are {', '.join(found) or 'none'}; expected 'logits', 'features' "
                "(or 'pooler_output'), both, or only one output, which is used as logits"
            )
        return TeacherOutputs(logits, features)


def open_teacher(source: str | os.PathLike[str], *, size: Sequence[int], device: torch.device) -> Teacher:
    """The teacher that `source` names, on `device`; it is run once to check it.

    Args:
        source: an `.onnx` file, a `.pt2` file of `torch.export`, the folder of an ONNX export or of one such file, or
            whatever `hierax.load` opens: a run, a folder, a tensor file, a Hub id. A `preprocessor_config.json` beside
            a file gives the mean, the standard deviation and the size; without it, ImageNet's values and the file's own
            size are used.
        size: size of the student's input, in pixels per axis.

    Raises:
        ValueError: `source` is not a teacher, has other inputs, or cannot be run; the message names it.
        OSError: it cannot be read.
        ImportError: onnxruntime is missing; names the extra.
    """
    path = Path(source)
    if path.is_dir() and (path / "export.json").is_file():
        path = _exported(path)
    elif path.is_dir():
        path = _only_network(path) or path
    if path.suffix in OTHERS and path.is_file():
        raise ValueError(f"{path}: a teacher is a checkpoint, or a network as {' or '.join(SUFFIXES)}; expected one")
    if path.suffix not in SUFFIXES:
        return _checkpoint(source, size=size, device=device)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    record, classes = _record(path)
    run, own = open_network(path, device)
    shown = own or (record and record.output_size)
    files = sorted(p for p in path.parent.glob(f"{path.name}*") if p.is_file())  # with the weights beside an ONNX file
    try:
        return Teacher(
            str(source),
            _digest(files),
            run,
            record or IMAGENET,
            size=shown,
            classes=classes,
            probe=tuple(size),
            device=device,
        )
    except (RuntimeError, TypeError, AssertionError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot be run as a teacher on {list(shown or size)} pixels: {line:.200}") from None


def _only_network(folder: Path) -> Path | None:
    """The only file of a network in a folder without a checkpoint, as other programs write it."""
    if weights_in(folder) is not None:
        return None
    found = sorted(path for path in folder.iterdir() if path.suffix in (*SUFFIXES, *OTHERS) and path.is_file())
    if len(found) > 1:
        raise ValueError(f"{folder} holds {len(found)} networks, such as {found[0].name}; expected the name of one")
    return found[0] if found else None


def _checkpoint(source: str | os.PathLike[str], *, size: Sequence[int], device: torch.device) -> Teacher:
    """A Hiera model: the logits of its head, if it has one, and its pooled features."""
    from hierax.checkpoint.load import load
    from hierax.model.tasks import HieraForImageClassification, HieraForVideoClassification, HieraModel

    model = load(os.fspath(source), device=device)
    if not isinstance(model, (HieraForImageClassification, HieraForVideoClassification, HieraModel)):
        raise ValueError(
            f"{source}: {type(model).__name__} gives neither logits nor pooled features; expected a classifier or "
            "a model of features"
        )
    if model.config.axes != len(size):
        raise ValueError(f"{source}: takes {model.config.axes} axes of pixels, the student {len(size)}")
    classes = None if isinstance(model, HieraModel) else list(model.config.id2label.values())

    def run(pixels: Tensor) -> Mapping[str, Tensor]:
        if isinstance(model, HieraModel):
            return {"features": model(pixels).pooler_output}
        pooled = model.pooled(pixels)
        return {"logits": model.head(pooled), "features": pooled}

    record = preprocessing_for(model.config, model.preprocessing)
    native = tuple(model.config.image_size)
    digest = weights_digest(model, by_value=True)
    return Teacher(str(source), digest, run, record, size=native, classes=classes, probe=native, device=device)


def _exported(folder: Path) -> Path:
    """The network in a folder that `hierax export` wrote, in any layout."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # a record of an earlier version, or a damaged one
        file = folder / json.loads((folder / "export.json").read_text(encoding="utf-8"))["file"]
        if file.suffix in SUFFIXES and file.is_file():
            return file
    for suffix in SUFFIXES:
        if (folder / f"model{suffix}").is_file():
            return folder / f"model{suffix}"
    raise ValueError(
        f"{folder}: a teacher is an export as {' or '.join(SUFFIXES)}; expected one, or "
        "the checkpoint that it was exported from"
    )


def _record(path: Path) -> tuple[Preprocessing | None, list[str] | None]:
    """The preprocessing record and the names of classes from the files beside a network, or from its export."""
    inside = not path.with_name("export.json").is_file() and any(
        (place / "export.json").is_file() for place in path.parents[1:3]
    )
    place = path.parent.parent if inside else path.parent  # in most layouts of exports, networks are one folder deeper
    beside, config = place / FILE_NAME, place / "config.json"
    try:
        record = Preprocessing.from_dict(json.loads(beside.read_text())) if beside.is_file() else None
        labels = json.loads(config.read_text()).get("id2label") if config.is_file() else None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{beside}, or config.json beside it: {error}") from None
    return record, [labels[key] for key in sorted(labels, key=int)] if labels else None


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        add_file(digest, path)
    return digest.hexdigest()
