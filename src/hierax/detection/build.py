"""Builds RT-DETR, D-FINE and Mask2Former of transformers on hierax's backbone, and opens what training saved."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hierax.checkpoint.opened import open_checkpoint
from hierax.detection.continued import with_classes
from hierax.detection.recipes import DetectionRecipe
from hierax.detection.view import Pixels
from hierax.extras import require
from hierax.model.config import HieraConfig, variant_config
from hierax.model.tasks import HieraBackbone
from hierax.processing import Preprocessing
from hierax.processing.defaults import preprocessing_for
from hierax.reprs.text import short_repr

_TYPES = {"rt_detr": "detect", "d_fine": "detect", "mask2former": "instances"}
"""The model types of config.json, and their tasks."""
_PLACES = {"detect": "model.backbone.model", "instances": "model.pixel_level_module.encoder"}
_STAGES = {"detect": ("stage2", "stage3", "stage4"), "instances": ("stage1", "stage2", "stage3", "stage4")}
_LARGEST = 1 << 26  # bytes of a config.json
_LARGEST_SIDE = 8192  # of the input of a model, in pixels


@short_repr(hidden=("model", "pixels", "category_ids"))
@dataclass
class Detector:
    """A model with all that is needed to use it.

    Attributes:
        model: the model of transformers.
        task: "detect" or "instances".
        classes: the names of its classes, by number.
        category_ids: the number of each class in COCO files.
        pixels: how images become tensors.
    """

    model: Any
    task: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    pixels: Pixels

    def save(self, folder: Path) -> None:
        """Writes a folder that `AutoModelForObjectDetection` (or `AutoModelForUniversalSegmentation`) and
        `AutoImageProcessor` of transformers open, and `open_detector`.
        """
        with quiet_transformers():
            self.model.save_pretrained(folder)
            image_processor(self.task, self.pixels).save_pretrained(folder)


def backbone_of(detector: Detector) -> nn.Module:
    """The backbone in a model."""
    return detector.model.get_submodule(_PLACES[detector.task])


def check_packages(what: str = "detection") -> None:
    """Raises `MissingPackage` if a package of the extra `dense` is missing."""
    require(what, "transformers", "accelerate", "scipy", "faster_coco_eval")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hides the progress bars and messages of transformers."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def detector_folder(source: str | os.PathLike[str]) -> Path | None:
    """The folder of a model of detection: a run of `--task detect` or `instances`, its model/, or any folder that
    transformers has saved with such a model. None for all else.
    """
    for folder in (Path(source, "model"), Path(source)):
        if task_of(folder) is not None:
            return folder
    return None


def task_of(folder: Path) -> str | None:
    """The task of the model in a folder; None if it holds no model of detection."""
    kind = config_of(folder).get("model_type")
    return _TYPES.get(kind) if isinstance(kind, str) else None


def config_of(folder: Path) -> dict[str, Any]:
    """The content of the config.json in a folder; empty if there is none that can be read."""
    file = folder / "config.json"
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return {}
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def image_processor(task: str, pixels: Pixels) -> Any:
    """The image processor of transformers that makes the same pixels."""
    import transformers

    kinds = {"detect": "RTDetrImageProcessor", "instances": "Mask2FormerImageProcessor"}
    return getattr(transformers, kinds[task])(
        size={"height": pixels.size, "width": pixels.size},
        do_normalize=True,
        do_pad=False,
        image_mean=list(pixels.mean),
        image_std=list(pixels.std),
    )


def build_detector(
    recipe: DetectionRecipe, classes: Sequence[str], category_ids: Sequence[int], source: str | os.PathLike[str] | None
) -> tuple[Detector, list[str]]:
    """The model that a run starts from, and notes on it.

    Args:
        recipe: decides the head and its size.
        classes, category_ids: names of the classes, and their numbers in COCO files.
        source: a checkpoint of any format for the backbone; a folder of a model of detection, which is continued;
            None is random weights.

    Raises:
        ValueError: the settings are not possible, or an error of loading.
        MissingPackage: a package of the extra `dense` is missing.
    """
    check_packages()
    from hierax.integrations.transformers import register

    folder = None if source is None else detector_folder(source)
    if folder is not None:
        return _continued(folder, recipe, classes, category_ids)
    if source is None and recipe.freeze:
        raise ValueError("freeze is true, but no weights are loaded; expected false")
    backbone, record, notes = _backbone(recipe, source)
    names = dict(enumerate(classes))
    register()
    with quiet_transformers():
        model = _HEADS[recipe.head](recipe, backbone.config, names)
    place = model.get_submodule(_PLACES[recipe.task])
    place.load_state_dict(backbone.state_dict())
    model.config.category_ids = list(category_ids)
    _freeze(place, recipe)
    pixels = Pixels(recipe.image_size, tuple(record.image_mean), tuple(record.image_std))
    return Detector(model, recipe.task, tuple(classes), tuple(category_ids), pixels), notes


def open_detector(source: str | os.PathLike[str]) -> Detector:
    """Opens a run, its model/, or a folder of transformers with such a model.

    Raises:
        ValueError: it is none; or its files are damaged.
        MissingPackage: a package of the extra `dense` is missing.
    """
    check_packages()
    folder = detector_folder(source)
    if folder is None:
        raise ValueError(
            f"{os.fspath(source)}: not a model of detection; expected the folder of a run of hierax finetune --task "
            "detect or --task instances"
        )
    task = task_of(folder)
    assert task is not None
    model = _opened(folder, task)
    pixels = _pixels_of(folder)
    config = model.config
    labels: dict[int, str] = dict(config.id2label)
    classes = tuple(str(labels[number]) for number in sorted(labels))
    ids: Any = getattr(config, "category_ids", None)
    good = isinstance(ids, list) and len(ids) == len(classes) and all(isinstance(key, int) for key in ids)
    return Detector(model.eval(), task, classes, tuple(ids) if good else tuple(range(len(classes))), pixels)


def _opened(folder: Path, task: str) -> Any:
    import transformers

    from hierax.integrations.transformers import register

    register()
    auto = {"detect": "AutoModelForObjectDetection", "instances": "AutoModelForUniversalSegmentation"}[task]
    try:
        with quiet_transformers():
            return getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise ValueError(f"{folder}: the model cannot be opened ({' '.join(str(error).split())[:300]})") from error
    except Exception as error:  # of safetensors, which has its own kind
        raise ValueError(f"{folder}: the model cannot be opened ({' '.join(str(error).split())[:300]})") from error


def _pixels_of(folder: Path) -> Pixels:
    file = folder / "preprocessor_config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        size, mean, std = values["size"], values["image_mean"], values["image_std"]
        if size["height"] != size["width"] or not 1 <= size["height"] <= _LARGEST_SIDE:
            raise ValueError(f"expected a square size of at most {_LARGEST_SIDE} pixels")
        if not values.get("do_normalize", True):
            mean, std = (0, 0, 0), (1, 1, 1)
        return Pixels(int(size["height"]), tuple(map(float, mean)), tuple(map(float, std)))
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: not the preprocessing of a model of detection ({error!r:.200})") from None


def _continued(
    folder: Path, recipe: DetectionRecipe, classes: Sequence[str], category_ids: Sequence[int]
) -> tuple[Detector, list[str]]:
    task = task_of(folder)
    assert task is not None
    if task != recipe.task:
        raise ValueError(f"{folder} holds a model for --task {task}, but the task is {recipe.task}")
    before = open_detector(folder)
    notes = [f"starts from {folder}, with its head"]
    model = before.model
    if before.classes != tuple(classes):
        with quiet_transformers():
            model, note = with_classes(model, before.classes, classes)
        notes.append(note)
    model.config.category_ids = list(category_ids)
    _freeze(model.get_submodule(_PLACES[task]), recipe)
    pixels = Pixels(recipe.image_size, before.pixels.mean, before.pixels.std)
    return Detector(model, task, tuple(classes), tuple(category_ids), pixels), notes


def _backbone(recipe: DetectionRecipe, source: str | os.PathLike[str] | None) -> tuple[Any, Preprocessing, list[str]]:
    """The backbone as a module of transformers, its preprocessing, and notes."""
    from hierax.integrations.transformers import HieraxBackbone, HieraxConfig

    features, side = _STAGES[recipe.task], recipe.image_size
    if source is None:
        config: HieraConfig = variant_config(recipe.model, image_size=(side, side))
        _check_backbone(config, recipe.model)
        made = HieraxBackbone(HieraxConfig.from_hierax(config, out_features=list(features)))
        return made, preprocessing_for(config, None), [f"starts from random weights of {recipe.model}"]
    opened = open_checkpoint(source)
    _check_backbone(opened.config, opened.name)
    model = HieraBackbone.from_pretrained(opened, out_features=features, fpn_hidden_size=None, image_size=(side, side))
    license = f", license of the weights: {model.license}" if model.license else ""
    record = preprocessing_for(model.config, opened.preprocessing)
    return HieraxBackbone.from_hierax(model), record, [f"starts from {opened.name}{license}"]


def _check_backbone(config: HieraConfig, name: str) -> None:
    if config.axes != 2 or config.num_channels != 3 or config.stages != 4:
        raise ValueError(
            f"{name} has {config.axes} axes, {config.num_channels} channels and {config.stages} stages; expected a "
            "model of RGB images with 4 stages"
        )


def _freeze(backbone: nn.Module, recipe: DetectionRecipe) -> None:
    if recipe.freeze:
        backbone.requires_grad_(False)


def _shared(recipe: DetectionRecipe, backbone: Any, names: dict[int, str]) -> dict[str, Any]:
    """The values that RT-DETR and D-FINE have in common."""
    width = recipe.width
    widths = [backbone.embed_dim * 2**stage for stage in (1, 2, 3)]
    return {
        "backbone_config": backbone,
        "encoder_in_channels": widths,
        "encoder_hidden_dim": width,
        "encoder_layers": recipe.encoder_layers,
        "encoder_ffn_dim": recipe.feedforward,
        "encoder_attention_heads": recipe.heads,
        "d_model": width,
        "num_queries": _queries(recipe),
        "decoder_in_channels": [width] * 3,
        "decoder_ffn_dim": recipe.feedforward,
        "decoder_layers": recipe.decoder_layers,
        "decoder_attention_heads": recipe.heads,
        "num_denoising": min(100, _queries(recipe)),
        "anchor_image_size": None,
        **_labels(names),
    }


def _queries(recipe: DetectionRecipe) -> int:
    return recipe.queries or min(100, recipe.cells)  # a run decides by its data


def _labels(names: dict[int, str]) -> dict[str, Any]:
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}}


def rt_detr(recipe: DetectionRecipe, backbone: Any, names: dict[int, str]) -> Any:
    """RT-DETR (arXiv 2304.08069) with random weights."""
    import transformers

    return transformers.RTDetrForObjectDetection(transformers.RTDetrConfig(**_shared(recipe, backbone, names)))


def d_fine(recipe: DetectionRecipe, backbone: Any, names: dict[int, str]) -> Any:
    """D-FINE (arXiv 2410.13842) with random weights."""
    import transformers

    config = transformers.DFineConfig(**_shared(recipe, backbone, names), eval_idx=-1)
    return transformers.DFineForObjectDetection(config)


def mask2former(recipe: DetectionRecipe, backbone: Any, names: dict[int, str]) -> Any:
    """Mask2Former (arXiv 2112.01527) with random weights."""
    import transformers

    width = recipe.width
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=width,
        mask_feature_size=width,
        hidden_dim=width,
        encoder_layers=recipe.encoder_layers,
        encoder_feedforward_dim=recipe.feedforward,
        decoder_layers=recipe.decoder_layers,
        dim_feedforward=recipe.feedforward,
        num_attention_heads=recipe.heads,
        num_queries=_queries(recipe),
        train_num_points=recipe.points,
        **_labels(names),
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


_HEADS = {"rt-detr": rt_detr, "d-fine": d_fine, "mask2former": mask2former}
