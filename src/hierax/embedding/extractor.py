"""Computes the vectors of a collection from pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.checkpoint.files import source_name
from hierax.checkpoint.opened import open_checkpoint
from hierax.collection.store import Column, Manifest
from hierax.digests import weights_digest
from hierax.engine import Engine
from hierax.engine.backends.exported import is_export
from hierax.model.layers import LayerNorm, init_weights
from hierax.model.pretrained import Pretrained
from hierax.model.registry import TASKS
from hierax.model.tasks import HieraBackbone, HieraForPreTraining, HieraModel
from hierax.notices import notify
from hierax.processing import DEFAULT_MAX_PIXELS, HieraImageProcessor, Preprocessing
from hierax.processing.defaults import preprocessing_for
from hierax.processing.frames import FIRST_ONLY
from hierax.processing.record import MOST_PIXELS
from hierax.reprs.text import never_raises

if TYPE_CHECKING:
    from hierax.collection.source import Source

POOLED = "pooled"
_POOLING = {
    POOLED: "mean of the last stage's tokens, then the encoder's norm: the input of a classifier's head",
    "stage": "mean of the stage's tokens, without a norm",
    "map": "the stage's map, channels first, without a norm",
}


class FeatureExtractor:
    """An engine, and those of its outputs that a collection stores.

    Args:
        model: any Hiera model of images or clips, or a Hub id, folder or file. Or an engine or export of task
            "features", which returns "pooled", or of task "backbone", which returns its stages. An export and its
            checkpoint count as different models.
        layers: one or several of "pooled", "stage1" to "stage4" (the mean of a stage's map), "stage3_map" (the whole
            map).
        l2: divide each vector by its length; not possible for maps.
        size: side of the square input in pixels; default: the size of the checkpoint. The size of an export is fixed.
        device, precision, backend, threads, calibration: see `hierax.Engine`.
        max_pixels: larger images are an error; None: no limit.

    Raises:
        ValueError: a layer is unknown, or the model takes neither images nor clips; see also `hierax.load`.
    """

    def __init__(
        self,
        model: Pretrained | Engine | str | os.PathLike[str],
        *,
        layers: str | Sequence[str] = (POOLED,),
        l2: bool = False,
        size: int | None = None,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
        calibration: Any = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
    ) -> None:
        self._settings = {
            "model": model,
            "layers": layers,
            "l2": l2,
            "size": size,
            "device": device,
            "precision": precision,
            "backend": backend,
            "threads": threads,
            "calibration": calibration,
            "max_pixels": max_pixels,
        }
        self.layers, self.l2 = _layer_names(layers), l2
        given = _open(model, self.layers, device=device, precision=precision, backend=backend, threads=threads)
        self.name = _name_of(model)
        loaded = given.loading_report if isinstance(given, Pretrained) and given is not model else None
        self.untrained_norm = loaded is not None and "norm" in loaded.reinitialized
        self.of_segmentation = loaded is not None and TASKS["segmentation"].part in loaded.ignored
        self.record, self.max_pixels = _preprocessing_for(given, size, name=self.name), max_pixels
        self.engine = (
            given
            if isinstance(given, Engine)
            else Engine(
                given,
                device=device,
                precision=precision,
                backend=backend,
                threads=threads,
                hidden_states=self.layers != (POOLED,) and not isinstance(given, HieraBackbone),
                processor=None if given.config.is_video else HieraImageProcessor(self.record, max_pixels=max_pixels),
                calibration=calibration,
            )
        )
        self.config, self.license, self.precision = given.config, given.license, self.engine.precision
        self.weights = weights_digest(given) if isinstance(given, Pretrained) else _digest(given)
        self._is_own = given is not model or isinstance(given, Pretrained)
        self.size = self.record.fixed_size
        frames = self.record.num_frames if given.config.is_video else None
        self.shape = (frames, *self.size) if frames else self.size
        self.columns = tuple(self._column(layer) for layer in self.layers)
        self._check_export()
        self._mean, self._std = _level_statistics(self.record, axes=len(self.shape))

    def _check_export(self) -> None:
        """Raises `ValueError` if an engine or export lacks a requested layer; the message lists those that it has."""
        if self.engine.exported is None and not isinstance(self._settings["model"], Engine):
            return
        task, what = TASKS[self.engine.task], "an export" if self.engine.exported else "an engine"
        stages = self.config.map_names
        allowed = stages if task.maps else (POOLED,) if "pooler_output" in task.outputs else ()
        for layer in self.layers:
            if layer.removesuffix("_map") not in allowed:
                gives = f"returns {', '.join(allowed)}" if allowed else "returns no features"
                other = "--task features" if layer == POOLED else "--task backbone"
                if task.maps and layer != POOLED:
                    other += f" --out-features {layer.removesuffix('_map')}"
                raise ValueError(
                    f"layer is {layer!r}; {self.name} is {what} for {self.engine.task} and {gives}; expected the "
                    f"checkpoint that it was made from, or an export made with {other}"
                )

    def clone(self, **changes: Any) -> FeatureExtractor:
        """A new extractor with the same model and settings, except `changes`."""
        return FeatureExtractor(**{**self._settings, **changes})

    again = clone  # the former name

    @never_raises
    def __repr__(self) -> str:
        return f"FeatureExtractor({self.name!r}, {', '.join(self.layers)}, {self.engine!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles only the settings: another process loads its own engine."""
        return partial(FeatureExtractor, **{**self._settings, "precision": self.precision}), ()

    def _column(self, layer: str) -> Column:
        config = self.config
        if layer == POOLED:
            return Column("embedding", layer, (config.hidden_size,), _POOLING[POOLED])
        stage, _, kind = layer.partition("_")
        names = (config.feature_names if TASKS[self.engine.task].maps else config.stage_names)[1:]
        if stage not in names or kind not in ("", "map"):
            raise ValueError(f"layer is {layer!r}; expected {POOLED}, {', '.join(names)}, or one of these with _map")
        width = config.feature_width(stage)
        if not kind:
            return Column(layer, layer, (width,), _POOLING["stage"])
        if self.l2:
            raise ValueError(f"layer is {layer!r}, which is a map; l2 is only for vectors")
        stride = config.stage_stride(config.feature_stage(stage))
        return Column(
            layer, layer, (width, *(-(-edge // s) for edge, s in zip(self.shape, stride, strict=True))), _POOLING["map"]
        )

    def __call__(
        self, pixels: Tensor, *, layers: Sequence[str] | None = None, l2: bool | None = None
    ) -> dict[str, np.ndarray]:
        """The vectors of each column, float32 `[B, width]`, by the name of the column.

        Args:
            pixels: `[B, C, H, W]`, or `[B, C, T, H, W]` for clips, with the dtype that `dtype_of` returns.
            layers: of the extractor's layers, those that are wanted; None: all.
            l2: whether to divide each vector by its length; None: as the extractor was made.
        """
        device, scaled = self.engine.device, self.l2 if l2 is None else l2
        values = pixels.to(device, non_blocking=True).float()
        out = self.engine(pixel_values=(values - self._mean.to(device)) / self._std.to(device))
        by_column: dict[str, np.ndarray] = {}
        for column in self.columns:
            if layers is None or column.layer in layers:
                vectors = self._vectors(out, column)
                by_column[column.name] = (F.normalize(vectors, dim=1) if scaled else vectors).cpu().numpy()
        return by_column

    def _vectors(self, out: Any, column: Column) -> Tensor:
        if column.layer == POOLED:
            return out.pooler_output.float()
        stage, _, kind = column.layer.partition("_")
        if TASKS[self.engine.task].maps:
            stages = self.config.map_names
            features = out.feature_maps[stages.index(stage)].float()  # [B, C, h, w]
            return features.flatten(1) if kind else features.flatten(2).mean(2)
        grid = out.reshaped_hidden_states[int(stage[5:])].float()  # [B, h, w, C]
        return grid.movedim(-1, 1).flatten(1) if kind else grid.flatten(1, -2).mean(1)

    def close(self) -> None:
        """Releases the memory and threads of the engine, unless the caller gave it."""
        if self._is_own:
            self.engine.close()


def extractor_like(
    manifest: Manifest, model: Pretrained | str | os.PathLike[str], *, size: int | None = None, **settings: Any
) -> FeatureExtractor:
    """An extractor with the layers, normalization, precision and size of an existing collection, except `settings`.

    Raises:
        ValueError: see `FeatureExtractor`.
    """
    kept = {"layers": [c.layer for c in manifest.columns], "l2": manifest.l2, "precision": manifest.precision}
    extractor = FeatureExtractor(model, size=size, **{**kept, **settings})
    before = Preprocessing.from_dict(manifest.preprocessing).output_size if manifest.preprocessing else None
    if size is None and before and extractor.record.to_dict() != manifest.preprocessing:  # not at the model's own size
        extractor.close()
        extractor = FeatureExtractor(model, size=before[0], **{**kept, **settings})
    return extractor


def _absolute_source(source: str) -> str:
    """The absolute path of a folder or file; other names are not changed."""
    return os.path.abspath(source) if os.path.exists(source) else source


def _name_of(model: Pretrained | Engine | str | os.PathLike[str]) -> str:
    if isinstance(model, Engine):
        return model.source or "Engine"
    return type(model).__name__ if isinstance(model, Pretrained) else _absolute_source(source_name(model))


def _open(
    model: Pretrained | Engine | str | os.PathLike[str], layers: Sequence[str], **settings: Any
) -> Pretrained | Engine:
    """The model of a source. An export runs on an engine with these `settings`; a notice says how much it differs from
    its checkpoint.
    """
    if isinstance(model, Pretrained):
        return model if POOLED not in layers or isinstance(model, HieraModel) else _as_features(model)
    if isinstance(model, Engine):
        return model
    if not is_export(model):
        return _load_features(source_name(model), layers)
    engine = Engine(os.fspath(model), **settings)
    assert engine.exported is not None
    notify(f"{model} is {engine.exported.describe()}; its vectors are compared only with vectors of this export")
    return engine


def _as_features(model: Pretrained) -> HieraModel:
    """A model of features with the weights of another model. That of an MAE has a new norm, which does not change the
    pooled features.
    """
    known = model.state_dict()
    features = TASKS["features"].outline(model.config, known)
    names = features.state_dict()
    if isinstance(model, HieraForPreTraining):
        norm = LayerNorm(model.config.hidden_size, eps=model.config.layer_norm_eps).to(model.device, model.dtype)
        init_weights(norm, model.config, mae=False)
        known |= {f"norm.{name}": value for name, value in norm.state_dict().items()}
    if lacking := sorted(names.keys() - known.keys()):
        raise ValueError(
            f"model is a {type(model).__name__}, which has no {lacking[0].partition('.')[0]} for the layer "
            f"{POOLED!r}; expected a classifier or a HieraModel, or layers such as 'stage3'"
        )
    features.load_state_dict({name: known[name] for name in names}, assign=True)
    features.preprocessing = model.preprocessing
    return features


def _digest(engine: Engine) -> str:
    return "" if engine.exported is None else engine.exported.digest


def _load_features(source: str, layers: Sequence[str]) -> Pretrained:
    """Loads a model for features. The encoder of an MAE gets a new norm, which does not change the pooled features.

    Layers of a neck need a backbone, which returns no pooled features.
    """
    opened = open_checkpoint(source)
    names = {layer.removesuffix("_map") for layer in layers}
    if names & {*opened.config.feature_names[opened.config.stages + 1 :]}:
        if POOLED in names:
            raise ValueError(f"layers is {', '.join(layers)}; {POOLED} and a layer of the neck need two collections")
        return HieraBackbone.from_pretrained(
            opened, out_features=[name for name in opened.config.feature_names if name in names]
        )
    new = ("norm",) if "norm" not in opened.parts or "decoder" in opened.parts else ()
    return HieraModel.from_pretrained(opened, reinit=new)


def _preprocessing_for(model: Pretrained | Engine, size: int | None, *, name: str) -> Preprocessing:
    """The preprocessing of the checkpoint, at one fixed size."""
    config = model.config
    if config.axes != 2 and not config.is_video:
        raise ValueError(f"{name} takes inputs of {config.axes} axes; expected a model of images or clips")
    stated = model.record if isinstance(model, Engine) else model.preprocessing
    record = preprocessing_for(config, stated)
    record = record.at(size or record.output_size or config.image_size[-2:])
    if isinstance(model, Engine) and size is not None and (size, size) != config.image_size[-2:]:
        raise ValueError(f"size is {size}; {name} was exported for {config.image_size[-2:]} alone")
    if (longest := max(*record.size.values(), *record.crop_size.values())) ** 2 > MOST_PIXELS:
        raise ValueError(
            f"size is {size}, for which images are resized to {longest:,} pixels; expected at most "
            f"{math.isqrt(MOST_PIXELS):,} pixels"
        )
    return record


def _layer_names(layers: str | Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    if not names:
        raise ValueError("layers is empty; expected at least one")
    return names


def _level_statistics(record: Preprocessing, *, axes: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[1, C, *1]` of what the record subtracts and divides by, in gray levels."""
    shape = (1, -1, *[1] * axes)
    scale = record.rescale_factor if record.do_rescale else 1.0
    mean, std = (record.image_mean, record.image_std) if record.do_normalize else ((0.0,), (1.0,))
    first, second = (torch.tensor(values, dtype=torch.float32).view(shape) / scale for values in (mean, std))
    return first, second


def vectors(
    paths: Sequence[str | Path | Source],
    extractor: FeatureExtractor,
    column: str,
    *,
    on_progress: Callable[[int, int], object] | None = None,
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The vectors of images or segments.

    Returns:
        float32 `[N, width]` for the sources that can be read, in order; and the names and problems of the others.
    """
    from hierax.collection.source import Source
    from hierax.embedding.decode import decoder_of, dtype_of

    decoder, rows, problems = decoder_of(extractor.record, max_pixels=extractor.max_pixels), [], []
    with FIRST_ONLY.report_at_end():
        for number, path in enumerate(paths, start=1):
            source = path if isinstance(path, Source) else Source(os.path.abspath(path))
            pixels = np.zeros((1, extractor.record.num_channels, *extractor.shape), dtype_of(extractor.record))
            item = decoder(source, pixels[0])
            if item.error is None:
                rows.append(extractor(torch.from_numpy(pixels))[column])
            else:
                problems.append((path.path if isinstance(path, Source) else os.fspath(path), item.error))
            if on_progress is not None:
                on_progress(number, len(paths))
    width = next(c.width for c in extractor.columns if c.name == column)
    return np.concatenate(rows) if rows else np.zeros((0, width), np.float32), problems
