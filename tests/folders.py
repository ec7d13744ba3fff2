"""What the tests of checkpoints share: models of all kinds, and looking into folders and changing them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hierax import (
    Hiera,
    HieraBackbone,
    HieraConfig,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
    Preprocessing,
)
from hierax.checkpoint.save import named_tensors
from small import CONFIGS, abs_win_config, image_config, line_config, randomize, video_config

MAE = {"num_query_pool": 2, "mask_ratio": 0.5}
MODELS: dict[str, tuple[Any, HieraConfig]] = {
    "features": (HieraModel, image_config()),
    "encoder": (Hiera, image_config()),
    "backbone": (HieraBackbone, image_config(out_features=("stem", "stage4"))),
    "classifier": (HieraForImageClassification, image_config(num_query_pool=1)),
    "abs-win": (HieraForImageClassification, abs_win_config()),
    "mae": (HieraForPreTraining, image_config(**MAE)),
    "wide mae": (HieraForPreTraining, image_config(image_size=(64, 96), **MAE)),
    "clips": (HieraForVideoClassification, video_config()),
    "clip mae": (HieraForPreTraining, video_config(**MAE)),
    "line mae": (HieraForPreTraining, line_config(**MAE)),
    "volume": (HieraForImageClassification, CONFIGS["volume"]()),
}
EVERYTHING: dict[str, Any] = {
    "id2label": {i: f"näme {i}" for i in range(5)},
    "license": "CC-BY-NC-4.0",
    "drop_path_rate": 0.1,
    "dropout": 0.2,
    "initializer_range": 0.03,
    "position_resize": "window",
    "normalize_pixel_loss": False,
    "problem_type": "multi_label_classification",
    "extra": {"unknown": {"a": [1, None]}},
}


def fields(config: HieraConfig) -> dict[str, Any]:
    """All fields but the unknown keys."""
    return {name: value for name, value in vars(config).items() if name != "extra"}


def assert_same_model(a: Any, b: Any) -> None:
    before, after = a.state_dict(), b.state_dict()
    assert type(a) is type(b)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert [name for name in before if before[name].dtype != after[name].dtype] == []
    assert fields(a.config) == fields(b.config)


def model_with_everything(kind: str) -> Any:
    """A model whose configuration and preprocessing differ from all defaults."""
    cls, config = MODELS[kind]
    changes = EVERYTHING if config.position_embedding != "abs_win" else EVERYTHING | {"position_resize": "bicubic"}
    model: Any = randomize(cls(config.replace(**changes))).eval()
    model.preprocessing = Preprocessing(
        crop_size={"height": 96, "width": 96}, image_mean=(0.1, 0.2, 0.3), extra={"note": "x"}
    )
    return model


def report_of(model: Any) -> Any:
    assert model.loading_report is not None
    return model.loading_report


def edit(folder: Path, **changes: Any) -> None:
    """Other values in a folder's config.json; None removes a field."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's tensors, in memory."""
    return {name: t.clone() for name, t in load_file(folder / "model.safetensors").items()}


def without_notes(folder: Path) -> None:
    """As the packages would have written the weights."""
    tensors = {name: t.clone() for name, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def ones(model: Any, dialect: str) -> dict[str, torch.Tensor]:
    """Tensors with the names and shapes of a model on the meta device, that take no memory to speak of."""
    return {
        name: torch.ones(t.shape, dtype=torch.float16, device="cpu")
        for name, t in named_tensors(model, dialect).items()
    }
