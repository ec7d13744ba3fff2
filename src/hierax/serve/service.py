"""What the server computes: opens models, reads images, runs batches, and tells what it has."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from hierax.model.config import HieraConfig
from hierax.predict.classify import probabilities
from hierax.predict.features import stage_maps
from hierax.predict.inputs import joined, not_finite
from hierax.predict.predictor import Predictor
from hierax.predict.reconstruct import reconstruct_batch
from hierax.processing import DEFAULT_MAX_PIXELS, Preprocessing
from hierax.serve.budget import Budget
from hierax.serve.engines import METHODS, Models, Settings, Source
from hierax.serve.errors import refuse
from hierax.serve.reading import Reader, Size, check_units

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from hierax.engine import Engine
    from hierax.serve.bodies import Upload
    from hierax.serve.collection import Collection

_NATIVE = 32
"""Images of the native size whose pixels a call of an engine takes at most."""
_ROOM = 48_000_000
"""Pixels of images that are decoded at the same time; a larger image is decoded alone."""
_ROLES = {
    "classify": "classification",
    "features": "maps",
    "similarity": "maps",
    "reconstruct": "mae",
    "segment": "segmentation",
}


@dataclass(frozen=True)
class Work:
    """What is computed of an image; images of equal work are computed together.

    Attributes:
        task: the name of a route, or "joint" or "tensors".
        shape: of one item, without the number of images.
        options: what else must be equal.
    """

    task: str
    shape: tuple[int, ...] = ()
    options: Hashable = ()


class Service:
    """The models behind the routes.

    Args:
        model: source of the main model.
        engine: an open engine instead of it, which stays open.
        mae, segmentation: sources of further models, opened when they are needed.
        collection: a folder that `hierax embed` wrote.
        precision, device, backend, threads: see `hierax.Engine`.
        max_pixels: larger images are refused before they are decoded; None: no limit.
    """

    def __init__(
        self,
        model: Source,
        *,
        engine: Engine | None = None,
        mae: Source | None = None,
        segmentation: Source | None = None,
        collection: Source | None = None,
        precision: str = "auto",
        device: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
    ) -> None:
        settings = Settings(precision, device, backend, threads, max_pixels)
        self.models = Models(model, engine=engine, mae=mae, segmentation=segmentation, settings=settings)
        self.reader = Reader(room=_ROOM, max_pixels=max_pixels)
        self.budget = Budget()
        self._folder = collection
        self.collection: Collection | None = None
        self._runs: Mapping[str, Callable[[Work, Sequence[Any]], Sequence[Any]]] = {
            "classify": self._classify,
            "embed": self._embed,
            "features": self._features,
            "similarity": self._features,
            "reconstruct": self._reconstruct,
            "explain": self._explain,
            "segment": self._segment,
            "joint": self._joint,
            "search": self._search,
            "tensors": self._tensors,
        }

    def open(self) -> None:
        """Opens and warms up the main model, and opens the collection.

        Raises:
            ValueError, OSError, ImportError: see `hierax.Engine`; the model does not take images.
            CollectionError: the collection is damaged, or was made by another model.
        """
        self.models.open()
        self.reader.fast = self.engine.precision != "fp32"  # a gray level is less than what bf16 changes
        if self._folder is not None:
            from hierax.serve.collection import Collection

            self.collection = Collection(self._folder, self.models)

    @property
    def engine(self) -> Engine:
        """The engine of the main model."""
        opened = self.models.get(self.models.main)
        return cast("Engine", opened.engine)

    @property
    def tasks(self) -> list[str]:
        """The names of the routes for images that this server answers."""
        roles = self.models.roles
        found = [task for task in ("classify", "reconstruct", "segment") if _ROLES[task] in roles]
        found += ["embed"] if roles & {"pooled", "stages"} else []
        found += ["features", "similarity"] if "maps" in roles else []
        found += ["explain"] if roles & {*METHODS} else []
        found += ["predict"] if {"classify", "embed", "features"} & {*found} else []
        return found + (["search"] if self._folder is not None else [])

    @property
    def layers(self) -> list[str]:
        """The layers whose vectors `/v1/embed` gives."""
        roles = self.models.roles
        stages = self.models.config.stage_names[1:] if self.models.checkpoint is not None else ()
        if self.models.engine is not None and "stages" in roles:
            stages = self.models.config.map_names
        return [*(["pooled"] if "pooled" in roles else []), *(stages if "stages" in roles else ())]

    def weight(self, task: str, size: Size | None, *, maps: bool = False) -> int:
        """About the bytes that an image of a task and its result take, at the size of the model's input."""
        record, config = self.record(task), self.config(task)
        sides = (size, size) if isinstance(size, int) else size or record.output_size or config.image_size
        pixels = torch.Size(sides).numel()
        bytes_of_pixels = 4 * pixels * record.num_channels
        if not maps:
            return 2 * bytes_of_pixels
        cells = [(pixels // torch.Size(config.stage_stride(n)).numel()) * config.dims[n] for n in range(config.stages)]
        return bytes_of_pixels + 4 * sum(cells)

    def most(self, work: Work) -> int:
        """Images of a piece of work that one call of the engine should have, by its pixels."""
        if len(work.shape) < 3:
            return _NATIVE
        native = torch.Size(self.config(work.task).image_size).numel() * _NATIVE
        return max(native // torch.Size(work.shape[1:]).numel(), 1)

    def source(self, task: str) -> str:
        """The name of the model of a task."""
        return self.models.source_of(_ROLES.get(task, self.models.main))

    def need(self, task: str) -> None:
        """Checks that this server has a task.

        Raises:
            Refusal: it has not (404).
        """
        if task not in self.tasks and task != "view":
            why = {
                "reconstruct": "it has no masked autoencoder (hierax serve --mae)",
                "segment": "it has no segmentation model (hierax serve --segmentation)",
                "search": "it has no collection (hierax serve --collection)",
            }.get(task, f"its model {self.source(task)} is not for this task")
            raise refuse("not_found", f"this server does not answer /v1/{task}: {why}")

    def config(self, task: str) -> HieraConfig:
        """The configuration of the model of a task."""
        role = _ROLES.get(task)
        return self.models.config if role is None else self.models.facts(role).config

    def record(self, task: str) -> Preprocessing:
        """The preprocessing of a task's model, at its own size."""
        role = _ROLES.get(task, self.models.main)
        opened = self.models.get("stages" if task == "joint" else role)
        return opened.preprocessing if isinstance(opened, Predictor) else opened.record

    def prepare(self, tasks: Sequence[str]) -> None:
        """Opens the models of tasks, which are otherwise opened by the first image."""
        for task in tasks:
            if task == "embed":
                self.extractor("pooled")
            else:
                self.record(task)
            if task == "joint" and "head" in self.models.roles:
                self.models.get("head")

    def pixels(self, upload: Upload, *, task: str, size: Size | None = None) -> Tensor:
        """Pixels `[1, C, H, W]` of an image as the model of a task takes them.

        Raises:
            ImageError: the image cannot be read.
            Refusal: the model cannot have this size.
        """
        if task == "embed":
            return self.reader.levels(upload, self.extractor("pooled"), size=size)
        if task == "reconstruct":
            check_units(size, self.config(task))
        return self.reader.pixels(upload, self.record(task), size=size)

    def picture(self, pixels: Tensor, task: str) -> Image.Image:
        """Pixels `[C, H, W]` of a task's model as an image that people can look at."""
        from hierax.viz.maps import to_image

        return to_image(pixels, record=self.record(task))

    def extractor(self, layer: str) -> Any:
        """The extractor that computes a layer, "pooled" or a stage."""
        return self.models.extractor(self.role_of(layer))

    def role_of(self, layer: str) -> str:
        """The role that has a layer."""
        return "pooled" if layer == "pooled" and "pooled" in self.models.roles else "stages"

    def run(self, work: Work, items: Sequence[Any]) -> Sequence[Any]:
        """The results of items of equal work; one may be an exception."""
        with torch.inference_mode():
            return self._runs[work.task](work, items)

    def in_parts(self, engine: Engine | None, pixels: Sequence[Tensor]) -> list[list[Tensor]]:
        """The images of each call of the engine.

        Where the number of images changes the last bits of an answer (PyTorch and ONNX Runtime on a CPU), each is a
        call of its own: an answer does not depend on what others ask. Calls are bounded by pixels.
        """
        if engine is None or (engine.device.type == "cpu" and engine.backend != "openvino"):
            most = 1
        else:
            native = torch.Size(engine.config.image_size).numel() * _NATIVE
            most = max(native // torch.Size(pixels[0].shape[2:]).numel(), 1)
        return [list(pixels[start : start + most]) for start in range(0, len(pixels), most)]

    def _classify(self, work: Work, items: Sequence[Tensor]) -> Sequence[Any]:
        predictor = self.models.predictor("classification")
        parts = self.in_parts(predictor.engine, items)
        scores = [probabilities(predictor.call(joined(part)).logits, predictor.config) for part in parts]
        return [_checked(one, [one]) for part in scores for one in part]

    def _embed(self, work: Work, items: Sequence[Tensor]) -> Sequence[Any]:
        layer, l2 = cast("tuple[str, bool]", work.options)
        extractor = self.extractor(layer)
        found: list[np.ndarray] = []
        for part in self.in_parts(extractor.engine, items):
            (vectors,) = extractor(joined(part), layers=[layer], l2=l2).values()
            found += list(vectors)
        return [_checked(one, [torch.from_numpy(one)]) for one in found]

    def _search(self, work: Work, items: Sequence[Tensor]) -> Sequence[Any]:
        """The vectors of queries, in the column that is searched."""
        assert self.collection is not None
        extractor, column = self.collection.extractor, cast(str, work.options)
        parts = self.in_parts(extractor.engine, items)
        return [vector for part in parts for vector in extractor(joined(part))[column]]

    def _features(self, work: Work, items: Sequence[Tensor]) -> Sequence[Any]:
        predictor = self.models.predictor("maps")
        parts = self.in_parts(predictor.engine, items)
        found = [one for part in parts for one in stage_maps(predictor, joined(part))]
        return [_checked(one.maps, one.maps.values()) for one in found]

    def _reconstruct(self, work: Work, items: Sequence[tuple[Tensor, Tensor]]) -> Sequence[Any]:
        """Items are pixels `[1, C, H, W]` and the visible mask units `[1, U]`."""
        _, statistics = cast("tuple[int, Any]", work.options)
        predictor, done, found = self.models.predictor("mae"), 0, []
        for part in self.in_parts(predictor.engine, [pixels for pixels, _ in items]):
            keep = torch.cat([keep for _, keep in items[done : done + len(part)]])
            found += reconstruct_batch(predictor, joined(part), keep, statistics=statistics)
            done += len(part)
        return [_checked(one, [one[0], torch.tensor(one[1])]) for one in found]

    def _explain(self, work: Work, items: Sequence[tuple[Tensor, int | None]]) -> Sequence[Any]:
        from hierax.predict.explain import explanations

        (method,) = cast("tuple[Any]", work.options)
        predictor = self.models.predictor(method)
        found = [explanations(predictor, pixels, [label], method=method)[0] for pixels, label in items]
        return [_checked(one, [torch.from_numpy(one.values)]) for one in found]

    def _segment(self, work: Work, items: Sequence[Any]) -> Sequence[Any]:
        """Items are what `Reader.whole` returns. Images of one window each share a call of the engine."""
        predictor: Predictor = items[0][0].predictor
        windows = [steps.one_window(image) for steps, image in items]
        known: list[Tensor | None] = [None] * len(items)
        if len(items) > 1 and all(pixels is not None for pixels in windows):
            parts = self.in_parts(predictor.engine, windows)
            known = [one for part in parts for one in predictor.coarse_logits(joined(part)).float().unbind()]
        asked = zip(items, known, strict=True)
        return [steps.classes(Path("image"), image, logits=logits) for (steps, image), logits in asked]

    def _joint(self, work: Work, items: Sequence[Tensor]) -> Sequence[Any]:
        return self.joint(items)

    def joint(self, items: Sequence[Tensor]) -> list[Any]:
        """Of each item, from one pass of the encoder: "embedding", "maps" by stage, and with a head "logits" and
        "scores".
        """
        extractor, head = self.models.extractor("stages"), None
        names = self.models.config.stage_names[1:]
        if "head" in self.models.roles:
            head = self.models.get("head")
        found: list[Any] = []
        for part in self.in_parts(extractor.engine, items):
            out = extractor.engine(pixel_values=joined(part))
            pooled = out.pooler_output.float().cpu()
            logits = None if head is None else head(pooled)
            states = [state.float().cpu().movedim(-1, 1) for state in (out.reshaped_hidden_states or ())[1:]]
            for row in range(len(part)):
                maps = {name: values[row] for name, values in zip(names, states, strict=True)}
                answer: dict[str, Any] = {"embedding": pooled[row].numpy(), "maps": maps}
                if logits is not None:
                    answer |= {"logits": logits[row], "scores": probabilities(logits[row], self.models.config)}
                found.append(_checked(answer, [pooled[row], *maps.values()]))
        return found

    def _tensors(self, work: Work, items: Sequence[Tensor]) -> Sequence[Any]:
        from hierax.serve.tensors import named_tensors

        return named_tensors(self, cast("tuple[str, ...]", work.options), items)

    def tensor_names(self) -> dict[str, tuple[int, ...]]:
        """The outputs that "tensors" can give of one image, and their shapes; -1 depends on the size of the input."""
        from hierax.serve.tensors import tensor_shapes

        return tensor_shapes(self)

    def describe(self) -> dict[str, Any]:
        """What this server has: its tasks and models."""
        from hierax.serve.description import describe

        return describe(self)

    def close(self) -> None:
        """Releases the engines."""
        self.models.close()
        if self.collection is not None:
            self.collection.close()


def _checked(value: Any, tensors: Any) -> Any:
    """The value; or the error of its image, if it is not finite."""
    return not_finite(Path("image"), tensors) or value


def png(image: Any, **options: Any) -> bytes:
    """An image as the bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def base64_text(content: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(content).decode("ascii")
