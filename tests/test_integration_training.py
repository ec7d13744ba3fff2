"""hierax's models in the hands of libraries that train: accelerate, Lightning, PEFT, and PyTorch's DDP and FSDP2."""

from pathlib import Path
from typing import Any

import accelerate
import lightning
import peft
import pytest
import torch
import transformers
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import hierax
from hierax.integrations.transformers import HieraxForImageClassification, register

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries

TINY: dict[str, Any] = {
    "embed_dim": 8,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 1, 2, 2),
    "image_size": (64, 64),
    "num_labels": 3,
}
KINDS = ["hierax", "transformers"]


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    own = hierax.HieraForImageClassification(hierax.HieraConfig(**TINY))
    return own if kind == "hierax" else HieraxForImageClassification.from_hierax(own)


def samples() -> list[dict[str, Tensor]]:
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    return [{"pixel_values": image, "labels": torch.tensor(n % 3)} for n, image in enumerate(images)]


def batch() -> dict[str, Tensor]:
    return next(iter(DataLoader(samples(), batch_size=8)))  # pyright: ignore[reportArgumentType]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(batch()["pixel_values"]).logits


def step(model: Any, optimizer: torch.optim.Optimizer, backward: Any = None) -> None:
    loss = model(**batch()).loss
    optimizer.zero_grad()
    loss.backward() if backward is None else backward(loss)
    optimizer.step()


# -- accelerate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_accelerate_trains_saves_and_resumes(kind: str, tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model = model_of(kind)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 1e-2))
    step(model, optimizer, accelerator.backward)
    accelerator.save_state(str(tmp_path))
    step(model, optimizer, accelerator.backward)
    twice = weights(model)
    accelerator.load_state(str(tmp_path))
    assert not torch.equal(weights(model), twice)
    step(model, optimizer, accelerator.backward)
    assert torch.equal(weights(model), twice)


@pytest.mark.parametrize("kind", KINDS)
def test_accelerate_keeps_weights_on_disk(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    expected = logits(model)
    accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in model.parameters())
    assert torch.equal(logits(model), expected)


def test_weights_are_distributed_over_devices_by_transformers(tmp_path: Path) -> None:
    model = model_of("transformers")
    model.save_pretrained(tmp_path)
    read: Any = HieraxForImageClassification.from_pretrained(tmp_path, device_map="auto")
    assert torch.equal(logits(read), logits(model))


# -- Lightning -----------------------------------------------------------------------------------------------------


class _Classifier(lightning.LightningModule):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = model_of(kind)

    def training_step(self, inputs: dict[str, Tensor], _: int) -> Tensor:
        return self.model(**inputs).loss

    def validation_step(self, inputs: dict[str, Tensor], _: int) -> None:
        self.log("loss", self.model(**inputs).loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_lightning_trains_validates_and_reopens(kind: str, tmp_path: Path) -> None:
    loader: Any = DataLoader(samples(), batch_size=4)  # pyright: ignore[reportArgumentType]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, **quiet)
    module = _Classifier(kind)
    before = weights(module).clone()
    trainer.fit(module, loader, loader)
    assert not torch.equal(weights(module), before)
    assert trainer.validate(module, loader, verbose=False)[0]["loss"] > 0
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = _Classifier.load_from_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(weights(again), weights(module))
    module.model.save_pretrained(tmp_path / "model")
    opened = type(module.model).from_pretrained(tmp_path / "model")
    assert torch.equal(logits(opened), logits(module.model))


# -- PEFT ----------------------------------------------------------------------------------------------------------

TARGETS = {"regex": r".*\.attn\.(qkv|proj)", "names": ["qkv"], "all": "all-linear"}


def with_adapter(kind: str, targets: Any) -> Any:
    config = peft.LoraConfig(r=4, target_modules=targets, modules_to_save=["classifier"])
    if kind == "hierax":
        config.modules_to_save = ["head"]
    return peft.get_peft_model(model_of(kind), config)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_trained_saved_reopened_and_merged(kind: str, targets: str, tmp_path: Path) -> None:
    adapted = with_adapter(kind, TARGETS[targets])
    torch.testing.assert_close(logits(adapted), logits(model_of(kind)), rtol=0, atol=1e-6)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert 0 < sum(p.numel() for p in trained) < sum(p.numel() for p in adapted.parameters()) / 2
    optimizer = torch.optim.AdamW(trained, 1e-2)
    adapted.train()
    for _ in range(3):
        step(adapted, optimizer)
    assert not torch.allclose(logits(adapted), logits(model_of(kind)), atol=1e-3)
    adapted.save_pretrained(str(tmp_path))
    again = peft.PeftModel.from_pretrained(model_of(kind), str(tmp_path))
    assert torch.equal(logits(again), logits(adapted))
    torch.testing.assert_close(logits(again.merge_and_unload()), logits(adapted), rtol=0, atol=1e-5)  # pyright: ignore


def test_trainer_trains_an_adapter_and_resumes(tmp_path: Path) -> None:
    def trainer(folder: Path, **options: Any) -> transformers.Trainer:
        torch.manual_seed(0)
        arguments = transformers.TrainingArguments(
            str(folder),
            max_steps=4,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **options,
        )
        return transformers.Trainer(
            with_adapter("transformers", ["qkv"]),
            arguments,
            train_dataset=samples(),  # pyright: ignore[reportArgumentType]
        )

    whole = trainer(tmp_path / "whole", save_strategy="no")
    whole.train()
    part = trainer(tmp_path / "part", save_steps=2)
    part.train()
    assert (tmp_path / "part" / "checkpoint-2" / "adapter_model.safetensors").exists()
    resumed = trainer(tmp_path / "part", save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-2"))
    torch.testing.assert_close(logits(resumed.model), logits(whole.model), rtol=0, atol=1e-6)


# -- several processes ---------------------------------------------------------------------------------------------


WAYS = [("hierax", "ddp"), ("transformers", "ddp"), ("transformers", "fsdp")]


def _train(model: Any, inputs: dict[str, Tensor]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(inputs["pixel_values"].double(), labels=inputs["labels"]).loss.backward()
        optimizer.step()


def _train_on_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for kind, way in WAYS:
        model = model_of(kind).double().train()
        if way == "ddp":
            model = DistributedDataParallel(model)
        else:
            fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        _train(model, {key: value[rank::2] for key, value in batch().items()})
        state = model.module.state_dict() if way == "ddp" else model.state_dict()
        whole = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in state.items()}
        if rank == 0:
            torch.save(whole, folder / f"{kind}-{way}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(  # pyright: ignore[reportPrivateImportUsage]
        _train_on_two, args=(tmp_path,), nprocs=2, start_method="spawn"
    )
    for kind, way in WAYS:
        alone = model_of(kind).double().train()
        before = weights(alone)
        _train(alone, batch())
        assert not torch.allclose(weights(alone), before)
        state = torch.load(tmp_path / f"{kind}-{way}.pt")
        assert state.keys() == alone.state_dict().keys()
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-12)
