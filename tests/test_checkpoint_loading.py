"""How weights get into a model: precision, device, memory, what is not run; and the preprocessing record."""

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import hierax
from hierax import (
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
    load,
)
from hierax.checkpoint.save import named_tensors
from hierax.model.config import HieraConfig
from small import CONFIGS, image_config, pixels, randomize, video_config

Save = Callable[..., Path]

# -- precision, device, mode ------------------------------------------------------------------------------------------


def test_models_come_in_eval_mode_and_single_precision(saved: Save, tmp_path: Path) -> None:
    folder = saved(HieraModel, image_config())
    HieraModel.from_pretrained(folder, dtype="float16").save_pretrained(tmp_path / "half")
    model = HieraModel.from_pretrained(tmp_path / "half")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(part.training for part in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_a_precision_may_be_a_dtype_or_its_name(dtype: Any, classifier: Path) -> None:
    model = HieraForImageClassification.from_pretrained(classifier, dtype=dtype, num_labels=3)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_auto_is_the_precision_of_the_file_for_new_parts_too(classifier: Path, tmp_path: Path) -> None:
    HieraForImageClassification.from_pretrained(classifier, dtype="float16").save_pretrained(tmp_path / "half")
    model = HieraForImageClassification.from_pretrained(tmp_path / "half", dtype="auto", num_labels=3)
    assert {p.dtype for p in model.parameters()} == {torch.float16}


@pytest.mark.parametrize("dtype", ["int8", "nn", "half precision", torch.int64, 16])
def test_what_is_no_precision_is_refused(dtype: Any, classifier: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype is .*; expected a floating-point dtype, its name, or 'auto'"):
        HieraForImageClassification.from_pretrained(classifier, dtype=dtype)


def test_a_device_is_where_all_weights_are(classifier: Path) -> None:
    model = HieraForImageClassification.from_pretrained(classifier, device="meta", num_labels=3)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    with pytest.raises(ValueError, match="device is 'gpu'; "):
        HieraForImageClassification.from_pretrained(classifier, device="gpu")


# -- how it is done ---------------------------------------------------------------------------------------------------


def test_loading_runs_no_initializer(classifier: Path, mae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an initializer ran")

    for name in (n for n in dir(torch.nn.init) if n.endswith("_") and not n.startswith("_")):
        monkeypatch.setattr(torch.nn.init, name, refuse)
    for name in ("normal_", "uniform_", "fill_", "zero_"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    HieraForImageClassification.from_pretrained(classifier)
    HieraForPreTraining.from_pretrained(mae)
    HieraModel.from_pretrained(classifier)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)


def test_loading_prints_nothing_and_imports_neither_sympy_nor_the_hubs_client(classifier: Path) -> None:
    code = """
import sys
from hierax import HieraForImageClassification
model = HieraForImageClassification.from_pretrained(sys.argv[1])
assert "sympy" not in sys.modules and "torch._dynamo" not in sys.modules
assert "huggingface_hub" not in sys.modules and "transformers" not in sys.modules
"""
    done = run(code, str(classifier))
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_mapped_from_the_file_and_not_copied(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = hierax.create_model("hiera_tiny_224")
    tensors = {name: torch.ones(t.shape) for name, t in named_tensors(model, "official").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    code = """
import sys, torch
from hierax import HieraForImageClassification
def private():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) // 1024
import hierax.checkpoint.load, safetensors, hierax.processing, hierax.model.tasks
before = private()
model = HieraForImageClassification.from_pretrained(sys.argv[1])
grown = private() - before
maps = [line.split()[0].split("-") for line in open("/proc/self/maps") if sys.argv[1] in line]
inside = [any(int(a, 16) <= p.data_ptr() < int(b, 16) for a, b in maps) for p in model.parameters()]
print(all(inside), grown)
"""
    inside, grown = run(code, str(tmp_path / "model.safetensors")).stdout.split()
    assert inside == "True"
    assert int(grown) < 40  # MiB; the file has 107


def test_a_script_may_save_a_model_to_the_file_that_it_read(tmp_path: Path) -> None:
    """`torch.save` writes into the file. Weights that were mapped from it would be gone, and the process be killed."""
    model: Any = randomize(HieraForImageClassification(image_config()))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    code = f"""
import sys, torch
from hierax import HieraConfig, HieraForImageClassification
config = HieraConfig.from_dict({model.config.to_dict()!r})
model = HieraForImageClassification.from_pretrained(sys.argv[1], config=config, device="cpu")
torch.save({{"head.weight": model.head.weight}}, sys.argv[1])
torch.save(model.state_dict(), sys.argv[1])
"""
    run(code, str(tmp_path / "model.pth"))
    found = torch.load(tmp_path / "model.pth", weights_only=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_training_a_mapped_model_does_not_change_the_file(classifier: Path) -> None:
    before = (classifier / "model.safetensors").read_bytes()
    model: Any = HieraForImageClassification.from_pretrained(classifier).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(pixels(model.config), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    assert (classifier / "model.safetensors").read_bytes() == before
    again = HieraForImageClassification.from_pretrained(classifier)
    assert not torch.equal(again.head.weight, model.head.weight)


def test_every_parameter_of_a_loaded_model_gets_a_gradient(mae: Path) -> None:
    model = HieraForPreTraining.from_pretrained(mae).train()
    model(pixels(model.config)).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_loaded_models_can_be_pickled_and_copied(copied: Callable[[Any], Any], classifier: Path) -> None:
    model = HieraForImageClassification.from_pretrained(classifier)
    x = pixels(model.config)
    before = model(x).logits
    again = copied(model)
    assert torch.equal(again(x).logits, before)
    assert (again.config, again.preprocessing) == (model.config, model.preprocessing)
    assert again.head.weight.data_ptr() != model.head.weight.data_ptr()


# -- preprocessing ----------------------------------------------------------------------------------------------------


def test_the_record_of_a_folder_arrives_with_the_model(classifier: Path) -> None:
    record = {"crop_size": {"height": 50, "width": 60}, "image_mean": [0.1, 0.2, 0.3], "their_key": 1}
    (classifier / "preprocessor_config.json").write_text(json.dumps(record))
    model = HieraForImageClassification.from_pretrained(classifier)
    assert model.preprocessing == hierax.AutoImageProcessor.from_pretrained(classifier).record
    assert model.preprocessing is not None
    assert model.preprocessing.image_mean == (0.1, 0.2, 0.3)
    assert model.preprocessing.extra == {"their_key": 1}


def test_a_bad_record_is_named_with_its_file(classifier: Path) -> None:
    (classifier / "preprocessor_config.json").write_text('{"image_std": "x"}')
    for read in (HieraForImageClassification.from_pretrained, hierax.AutoImageProcessor.from_pretrained):
        with pytest.raises(ValueError, match=r"preprocessor_config\.json: image_std is 'x'"):
            read(classifier)


@pytest.mark.parametrize("dialect", ["transformers", "official"])
def test_without_a_record_the_convention_of_its_kind_is_taken_at_the_native_size(dialect: str, saved: Save) -> None:
    image = saved(HieraForImageClassification, image_config(image_size=(96, 64)), dialect=dialect)
    clips = saved(HieraForVideoClassification, video_config(), dialect=dialect)
    for folder, mean, crop, frames in ((image, 0.485, (96, 64), None), (clips, 0.45, (64, 64), 8)):
        record = hierax.AutoImageProcessor.from_pretrained(folder).record
        assert record == load(folder).preprocessing
        assert (record.image_mean[0], record.num_frames) == (mean, frames)
        assert tuple(record.crop_size.values()) == crop


@pytest.mark.parametrize("config", [image_config(num_channels=4), CONFIGS["line"](), CONFIGS["volume"]()])
def test_there_is_no_convention_for_other_inputs(config: HieraConfig, saved: Save) -> None:
    folder = saved(HieraForImageClassification, config)
    assert load(folder).preprocessing is None
    with pytest.raises(ValueError, match="has no preprocessing record"):
        hierax.AutoImageProcessor.from_pretrained(folder)


def test_the_published_record_is_unchanged_at_224_pixels(saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config(image_size=224))
    assert load(folder).preprocessing == hierax.Preprocessing()
