"""transformers' Trainer takes the models as they are: it trains, evaluates, saves, resumes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from hierax import HieraForImageClassification
from small import image_config, randomize

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = [
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Bright(Dataset[dict[str, Any]]):
    """Noise that is dark (0) or bright (1)."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": 0.3 * noise + 2 * (index % 2), "labels": index % 2}


def small() -> HieraForImageClassification:
    torch.manual_seed(0)
    model = HieraForImageClassification(image_config(num_labels=2))
    randomize(model, 0.1)
    return model


def trainer(folder: Path, model: Any, **settings: Any) -> Any:
    settings = {"max_steps": 6, "learning_rate": 3e-3, "save_steps": 3, "per_device_train_batch_size": 8, **settings}
    arguments = transformers.TrainingArguments(
        str(folder), report_to=[], use_cpu=True, disable_tqdm=True, seed=0, logging_strategy="no", **settings
    )

    def accuracy(found: Any) -> dict[str, float]:
        return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}

    return transformers.Trainer(
        model=model, args=arguments, train_dataset=Bright(), eval_dataset=Bright(), compute_metrics=accuracy
    )


def test_it_learns_and_evaluates(tmp_path: Path) -> None:
    model = small()
    run = trainer(tmp_path, model, max_steps=12, save_strategy="no")
    before = run.evaluate()["eval_loss"]
    run.train()
    after = run.evaluate()
    assert after["eval_loss"] < before / 2
    assert after["eval_accuracy"] == 1


def test_it_recomputes_blocks_on_request(tmp_path: Path) -> None:
    model = small()
    trainer(tmp_path, model, max_steps=1, save_strategy="no", gradient_checkpointing=True).train()
    assert model.encoder.gradient_checkpointing


def test_it_resumes_from_its_own_checkpoint(tmp_path: Path) -> None:
    whole, resumed = small(), small()
    trainer(tmp_path, whole).train()
    trainer(tmp_path, resumed).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path: Path) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True, "save_total_limit": 1}
    run = trainer(tmp_path, small(), metric_for_best_model="accuracy", **settings)
    run.train()
    assert run.state.best_model_checkpoint is not None
