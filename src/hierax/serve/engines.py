"""The models of a server. Each is opened once, when the first request needs it; the main one when the server starts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from hierax.checkpoint.bundled import FEMTO_MAE
from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.embedding.extractor import POOLED, FeatureExtractor
from hierax.engine import Engine
from hierax.engine.backends.exported import is_export
from hierax.model.registry import TASKS
from hierax.predict.features import open_features
from hierax.predict.predictor import Predictor, open_predictor
from hierax.predict.reconstruct import open_mae
from hierax.predict.segment import open_segmenter
from hierax.processing import Preprocessing
from hierax.processing.defaults import preprocessing_for

if TYPE_CHECKING:
    from torch import nn

    from hierax.model.config import HieraConfig

METHODS = ("gradcam", "rollout")
"""Methods of `hierax explain`."""
Source = str | os.PathLike[str]
_ROLES = {"classification": "classification", "mae": "mae", "segmentation": "segmentation", "backbone": "maps"}
"""What an engine of a task can do here."""
_BATCHES = (1, 2, 4, 8, 16, 32)
"""Images per call that a GPU is prepared for."""


@dataclass(frozen=True)
class Settings:
    """How models are opened: see `hierax.Engine`; and the largest image that is read."""

    precision: str = "auto"
    device: str = "auto"
    backend: str = "auto"
    threads: int | None = None
    max_pixels: int | None = None

    def of_engine(self) -> dict[str, Any]:
        """The arguments of an engine."""
        return {"precision": self.precision, "device": self.device, "backend": self.backend, "threads": self.threads}


@dataclass(frozen=True)
class Facts:
    """What is known of a model: its task, its configuration, its preprocessing, its license, and its parts."""

    task: str

    config: HieraConfig
    record: Preprocessing
    license: str | None
    parts: Set[str]


class Models:
    """The models of a server, by their roles.

    Roles are "classification", "maps", "mae" and "segmentation" (a `Predictor` each), "pooled" and "stages" (a
    `FeatureExtractor`: the pooled vector alone, or all stages too), "head" (the head of the classifier, for pooled
    vectors), and "gradcam" and "rollout" (a `Predictor` of `hierax.predict.explain`).

    Args:
        model: the source of the main model.
        engine: an open engine instead of it.
        mae, segmentation: sources of further models.
        settings: how all are opened.
    """

    def __init__(
        self,
        model: Source,
        *,
        engine: Engine | None = None,
        mae: Source | None = None,
        segmentation: Source | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.model, self.engine, self.settings = model, engine, settings or Settings()
        self._given = engine
        self._others = {"mae": mae, "segmentation": segmentation}
        self.checkpoint: Checkpoint | None = None
        self._opened: dict[str, Any] = {}
        self._facts: dict[str, Facts] = {}
        self._checkpoints: dict[str, Checkpoint] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def open(self) -> None:
        """Opens the main model, and checks that it takes images. Errors are those of `hierax.Engine`."""
        if self.engine is None and is_export(self.model):
            self.engine = Engine(self.model, **self.settings.of_engine())
        elif self.engine is None:
            self.checkpoint = open_checkpoint(self.model)
        if self.config.axes != 2:
            kind = "clips" if self.config.is_video else f"{self.config.axes}-D inputs"
            raise ValueError(f"{self.source} takes {kind}; expected a model of images")
        for role, source in self._others.items():
            if source is not None:
                self._check(role, self.facts(role), source)
        self.get(self.main)

    def facts(self, role: str) -> Facts:
        """What is known of the model of a role, without running it: an engine is not opened for it."""
        if role not in self._facts:
            given = self._others.get(role)
            opened = self._opened.get(role) or (None if given is not None else self.engine)
            if opened is None and given is not None and is_export(given):
                opened = self.get(role)
            if opened is not None:
                task = opened.task
                config, record, license_ = opened.config, opened.preprocessing, opened.license
                record = preprocessing_for(config, record)
                self._facts[role] = Facts(task, config, record, license_, {TASKS[task].part})
            else:
                found = self.checkpoint if given is None else self._checkpoint(given)
                assert found is not None
                record = preprocessing_for(found.config, found.preprocessing)
                self._facts[role] = Facts(found.task, found.config, record, found.license, found.parts)
        return self._facts[role]

    def _checkpoint(self, source: Source) -> Checkpoint:
        """A checkpoint beside the main one, opened once."""
        name = os.fspath(source)
        if name not in self._checkpoints:
            self._checkpoints[name] = open_checkpoint(source)
        return self._checkpoints[name]

    @staticmethod
    def _check(role: str, facts: Facts, source: Source) -> None:
        """Raises `ValueError` if a model is not for the role that it was given."""
        if TASKS[role].part not in facts.parts or facts.config.axes != 2:
            wanted = f"an MAE model of images, such as {FEMTO_MAE}"
            if role == "segmentation":
                wanted = "a segmentation model of images, such as the run of hierax finetune DATA --task segment"
            kind = "clips" if facts.config.is_video else facts.task
            raise ValueError(f"{role} is {os.fspath(source)}, a model for {kind}; expected {wanted}")

    @property
    def config(self) -> HieraConfig:
        """The configuration of the main model."""
        opened = self.engine or self.checkpoint
        assert opened is not None
        return opened.config

    @property
    def source(self) -> str:
        """The name of the main model."""
        if self._given is not None:
            return str(self._given.source or "engine")
        return os.fspath(self.model)

    def source_of(self, role: str) -> str:
        """The name of the model of a role, as clients see it: of an absolute path the last part."""
        return public_name(self._others.get(role) or self.source)

    def is_open(self, role: str) -> bool:
        """Whether the model of a role is open."""
        return role in self._opened

    @property
    def main(self) -> str:
        """The role of the main model."""
        wanted = ("classification", "segmentation", "mae", "maps", "pooled")
        own = self._own
        return next(role for role in wanted if role in own and (role != "maps" or self.checkpoint is None))

    @cached_property
    def _own(self) -> set[str]:
        """The roles that the main model has."""
        if self.engine is not None:
            if self.engine.task == "features":
                return {"pooled"}
            extracts = self.engine.task == "backbone" and self.engine.exported is not None
            return {_ROLES[self.engine.task], *(["stages"] if extracts else [])}
        assert self.checkpoint is not None
        parts = self.checkpoint.parts
        roles = {"pooled", "stages", "maps", "rollout"}
        roles |= {role for role in ("classification", "mae", "segmentation") if TASKS[role].part in parts}
        return roles | ({"gradcam", "head"} if "classification" in roles else set())

    @property
    def roles(self) -> set[str]:
        """All roles that this server has."""
        return self._own | {role for role, source in self._others.items() if source is not None}

    @property
    def joint(self) -> bool:
        """Whether one pass of the encoder gives the vectors, the maps and the logits: the checkpoint's maps need no
        norms and no neck of their own.
        """
        return self.checkpoint is not None and not self.checkpoint.parts & {"norms", "pyramid"}

    def get(self, role: str) -> Any:
        """The model of a role, opened if it is not yet.

        Raises:
            ValueError: there is none; see also `hierax.Engine`.
        """
        with self._lock:
            lock = self._locks.setdefault(role, threading.Lock())
        with lock:
            if role not in self._opened:
                self._opened[role] = self._open(role)
            return self._opened[role]

    def predictor(self, role: str) -> Predictor:
        """The predictor of a role."""
        return cast(Predictor, self.get(role))

    def extractor(self, role: str) -> FeatureExtractor:
        """The extractor of a role."""
        return cast(FeatureExtractor, self.get(role))

    def _open(self, role: str) -> Any:
        given = self._others.get(role)
        if given is not None:
            return self._task(role, given if is_export(given) else self._checkpoint(given))
        if role not in self._own:
            raise ValueError(f"{self.source} is no model for {role}")
        if role in ("pooled", "stages"):
            return self._extractor(role)
        if self.engine is not None:
            return self._of_engine(role, self._warm(self.engine))
        assert self.checkpoint is not None
        if role == "head":
            return _head(self.checkpoint)
        if role in METHODS:
            return self._explainer(role, self.checkpoint)
        return self._task(role, self.checkpoint)

    def _task(self, role: str, source: Checkpoint | Source) -> Predictor:
        if role == "maps":
            return open_features(
                self._engine(source, task="backbone", out_features=_names(cast(Checkpoint, source))),
                max_pixels=self.settings.max_pixels,
            )
        return self._of_engine(role, self._engine(source, task=None if is_export(source) else role))

    def _engine(self, source: Checkpoint | Source, **task: Any) -> Engine:
        return self._warm(Engine(source, **task, **self.settings.of_engine()))

    def _warm(self, engine: Engine) -> Engine:
        """Compiles what requests need: on a GPU, also batches."""
        return engine.warm_up(batches=(1,) if engine.device.type == "cpu" else _BATCHES)

    def _of_engine(self, role: str, engine: Engine) -> Predictor:
        openers: dict[str, Callable[..., Predictor]] = {
            "mae": open_mae,
            "segmentation": open_segmenter,
            "maps": open_features,
        }
        return openers.get(role, open_predictor)(engine, max_pixels=self.settings.max_pixels)

    def _extractor(self, role: str) -> FeatureExtractor:
        layers: Sequence[str] = (POOLED,) if role == "pooled" else self.config.stage_names[1:]
        if self.engine is not None and self.engine.task == "backbone":
            layers = self.engine.config.map_names
        extractor = FeatureExtractor(
            self.engine or self.model,
            layers=layers,
            max_pixels=self.settings.max_pixels,
            **self.settings.of_engine(),
        )
        self._warm(extractor.engine)
        return extractor

    def _explainer(self, method: str, checkpoint: Checkpoint) -> Predictor:
        from hierax.predict.explain import open_explainer

        settings = self.settings
        return open_explainer(checkpoint, method=method, device=settings.device, max_pixels=settings.max_pixels)

    def close(self) -> None:
        """Releases the engines that were opened here; the one that was given stays open."""
        with self._lock:
            opened, self._opened = list(self._opened.values()), {}
        engines = [model.engine for model in opened if isinstance(model, (Predictor, FeatureExtractor))]
        for engine in [*engines, self.engine]:
            if engine is not None and engine is not self._given:
                engine.close()


def public_name(source: Source) -> str:
    """The name of a model as clients see it: a server does not tell where its files are."""
    name = os.fspath(source)
    return os.path.basename(os.path.normpath(name)) if os.path.isabs(name) else name


def _names(checkpoint: Checkpoint) -> list[str]:
    """The maps that `hierax features` writes."""
    config = checkpoint.config
    return [*(config.feature_names if "pyramid" in checkpoint.parts else config.stage_names)[1:]]


def _head(checkpoint: Checkpoint) -> nn.Module:
    """The head of a classifier, in float32 on the CPU: logits of pooled vectors."""
    return checkpoint.model("classification").eval().get_submodule("head")
