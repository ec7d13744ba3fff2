"""What people hold in hand: steps of runs, exports, adapters, folders of checkpoints; opened, or said what it is."""

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hierax import HieraForImageClassification, HieraModel, Preprocessing, create_model, list_checkpoints, load
from hierax.checkpoint import sharded
from hierax.checkpoint.save import named_tensors
from hierax.model.config import HieraConfig
from hierax.notices import Notice
from small import image_config, randomize


def refused(source: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        load(source)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).replace(str(source), "IT")


# -- a step of a run --------------------------------------------------------------------------------------------------


def step_of_a_run(run: Path, *, average: bool) -> tuple[Any, Any]:
    """A folder as training writes it; the model, and the one of averaged weights."""
    model: Any = randomize(HieraForImageClassification(image_config()))
    other: Any = randomize(HieraForImageClassification(image_config()))
    step = run / "checkpoints" / "step-7"
    step.mkdir(parents=True)
    state: dict[str, Any] = {"model": {f"model.{n}": t for n, t in model.state_dict().items()}, "optimizer": {"lr": 1}}
    if average:
        state["average"] = {f"model.{n}": t for n, t in other.state_dict().items()}
    sharded.write(state, step / "shared", alone=True)
    torch.save({"progress": {}}, step / "rank-0.pt")
    files = [file for file in step.rglob("*") if file.is_file()]
    digests = {f.relative_to(step).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    (step / "digests.json").write_text(json.dumps(digests))
    model.save_pretrained(run / "model")
    return model, other


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def test_a_step_of_a_run_opens_with_its_weights_and_the_configuration_of_the_run(tmp_path: Path) -> None:
    model, _ = step_of_a_run(tmp_path, average=False)
    found = load(tmp_path / "checkpoints" / "step-7")
    assert isinstance(found, HieraForImageClassification)
    assert same(found, model)


def test_of_a_step_with_averaged_weights_these_are_read_and_that_is_said(tmp_path: Path) -> None:
    model, average = step_of_a_run(tmp_path, average=True)
    with pytest.warns(Notice, match="'average' was read; the file also holds 'model'"):
        assert same(load(tmp_path / "checkpoints" / "step-7"), average)
    assert same(load(tmp_path / "checkpoints" / "step-7", part="model"), model)


def test_a_step_is_opened_from_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = step_of_a_run(tmp_path, average=False)
    monkeypatch.chdir(tmp_path / "checkpoints" / "step-7")
    assert same(load("."), model)


@pytest.mark.parametrize("what", ["flip", "missing", "table", "digests"])
def test_a_damaged_step_is_named(what: str, tmp_path: Path) -> None:
    step_of_a_run(tmp_path, average=False)
    step = tmp_path / "checkpoints" / "step-7"
    data = next((step / "shared").glob("*.distcp"))
    if what == "flip":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif what == "missing":
        data.unlink()
    elif what == "table":
        (step / "shared" / ".metadata").write_bytes(b"\x80\x04")
    else:
        (step / "digests.json").write_text("[")
    assert "is damaged" in refused(step) or "is missing" in refused(step)


class Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_no_code_of_a_step_runs(tmp_path: Path) -> None:
    step_of_a_run(tmp_path, average=False)
    step, marker = tmp_path / "checkpoints" / "step-7", tmp_path / "it ran"
    table = step / "shared" / ".metadata"
    table.write_bytes(pickle.dumps(Touch(marker)))
    digests = json.loads((step / "digests.json").read_text())
    digests["shared/.metadata"] = hashlib.sha256(table.read_bytes()).hexdigest()
    (step / "digests.json").write_text(json.dumps(digests))
    assert "nothing of it was run" in refused(step)
    assert not marker.exists()


# -- other things -----------------------------------------------------------------------------------------------------


def test_an_export_says_what_runs_it(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert refused(tmp_path) == "IT: this is an export, whose weights cannot be loaded; hierax.Engine('IT') runs it"
    assert "is an exported model, whose weights cannot be loaded" in refused(tmp_path / "model.onnx")


def test_an_adapter_of_an_unknown_kind_says_what_opens_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "hierax opens plain LoRA, so merge it with merge_and_unload of peft first" in refused(tmp_path)


def test_a_distributed_checkpoint_of_someone_else_says_how_to_write_it_as_a_file(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"")
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    assert "is a distributed checkpoint of PyTorch" in refused(tmp_path)


def test_a_run_without_a_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert (
        refused(tmp_path) == "IT: this is a run that has written no model yet; run the same command again to resume it"
    )


@pytest.mark.parametrize(
    ("inside", "named"),
    [
        (["epoch=3.ckpt", "last.ckpt"], "it holds epoch=3.ckpt, last.ckpt: name the one you mean"),
        (["checkpoint-500/", "checkpoint-1000/"], "it holds checkpoint-1000, checkpoint-500: name"),
        (["a.pth", "b.pth", "c.pth", "d.pth", "e.pth"], "it holds a.pth, b.pth, c.pth, d.pth and 1 more: name"),
        (["readme.txt"], "no weights in this folder; expected one of model.safetensors"),
    ],
)
def test_a_folder_without_weights_names_what_may_be_meant(inside: list[str], named: str, tmp_path: Path) -> None:
    for name in inside:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(b"x")
    assert named in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("config.json", b"{}", "is a JSON file; expected the folder that it is in"),
        ("model.pt2", b"PK\x03\x04", "is an exported model"),
        ("notes.txt", b"hello", "not a tensor file"),
        ("weights.tar", b"x" * 257 + b"ustar" + b"\0" * 300, "is a tar archive of files; unpack it"),
    ],
)
def test_a_file_that_is_no_checkpoint_says_what_it_is(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert what in refused(tmp_path / name)


def test_a_program_of_torch_export_under_another_name_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/archive_format", "pt2")
    assert "is a program of torch.export" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize("front", ["image_encoder.trunk.", "", "module.image_encoder.trunk."])
def test_weights_of_sam_2_that_fit_none_of_its_sizes_are_refused(front: str, tmp_path: Path) -> None:
    shapes = {
        "pos_embed": (1, 8, 7, 7), "pos_embed_window": (1, 8, 8, 8), "patch_embed.proj.weight": (8, 3, 7, 7),
        "patch_embed.proj.bias": (8,), "blocks.0.norm1.weight": (8,), "blocks.0.attn.qkv.weight": (24, 8),
        "blocks.0.mlp.layers.0.weight": (32, 8),
    }  # fmt: skip
    torch.save({"model": {front + name: torch.zeros(shape) for name, shape in shapes.items()}}, tmp_path / "x.pt")
    assert "IT: its tensors fit no known variant; pass variant= with one of" in refused(tmp_path / "x.pt")


def test_a_part_of_sam_2_without_the_image_encoder_s_first_layer_is_named(tmp_path: Path) -> None:
    save_file({"vision_encoder.backbone.pos_embed_window": torch.zeros(1, 8, 8, 8)}, tmp_path / "model.safetensors")
    assert "weights of SAM 2 without the patch embedding of its image encoder" in refused(tmp_path)


# -- placed by hand ---------------------------------------------------------------------------------------------------


def test_files_placed_by_hand_in_the_cache_of_the_hub_open_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = randomize(HieraForImageClassification(image_config()))
    model.preprocessing = Preprocessing()
    place, commit = tmp_path / "models--someone--hiera-here", "0123456789abcdef0123456789abcdef01234567"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    model.save_pretrained(place / "snapshots" / commit)
    found = load("someone/hiera-here", cache_dir=tmp_path, local_files_only=True)
    assert same(found, model)
    assert found.preprocessing == model.preprocessing


def test_files_downloaded_into_a_folder_open(tmp_path: Path) -> None:
    model: Any = HieraForImageClassification(image_config())
    model.save_pretrained(tmp_path)
    torch.save(named_tensors(model, "transformers"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert same(load(tmp_path), model)


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_bundled_checkpoint_is_meant_where_a_folder_of_its_name_holds_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hierax" / "femto").mkdir(parents=True)
    assert load("hierax/femto").config.num_labels == 30
    HieraForImageClassification(image_config()).save_pretrained(tmp_path / "hierax" / "femto")
    assert load("hierax/femto").config.num_labels == 5


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: create_model("hiera_tiny"), "(did you mean hiera_tiny_224?)"),
        (lambda: create_model("hiera_base_224x224"), "did you mean hiera_base_224"),
        (lambda: HieraConfig().replace(image_sizes=3), "(did you mean image_size?)"),
        (lambda: HieraConfig().replace(num_classes=3), "(did you mean num_labels?)"),
        (lambda: list_checkpoints(variant="hiera_tiny"), "(did you mean hiera_tiny_224?)"),
        (lambda: list_checkpoints(task="clasification"), "did you mean classification"),
        (lambda: load("hiera_tiny_224.mae_in1"), "did you mean hiera_tiny_224.mae_in1k"),
        (lambda: load("hierax/fempto"), "there are hierax/femto and hierax/femto.mae"),
        (lambda: HieraModel.from_pretrained("hierax/femto", reinit=("heads",)), "(did you mean head?)"),
    ],
)
def test_a_name_that_is_in_no_table_says_which_is_near(call: Any, meant: str) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        call()
    assert meant in str(caught.value)


def test_names_that_are_like_no_other_get_no_guess() -> None:
    with pytest.raises(ValueError, match="'resnet50' is not a variant; variants are"):
        create_model("resnet50")


def test_tensors_of_another_vision_transformer_are_no_hiera(tmp_path: Path) -> None:
    model = named_tensors(HieraForImageClassification(image_config()), "timm")
    vit = {"cls_token": torch.zeros(1, 1, 8), **model}
    save_file({name: tensor for name, tensor in vit.items() if "pool" not in name}, tmp_path / "vit.safetensors")
    assert "no Hiera weights; its tensors begin with" in refused(tmp_path / "vit.safetensors")
