"""What `save_pretrained` writes, and what it leaves alone when it fails."""

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hierax import Hiera, HieraForImageClassification, HieraModel, Preprocessing, convert
from hierax.checkpoint.save import save_model
from hierax.cli import main
from hierax.notices import Notice
from small import image_config, pixels, randomize

Save = Callable[..., Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def model() -> Any:
    return randomize(HieraForImageClassification(image_config())).eval()


def test_a_folder_holds_weights_configuration_and_record_alone(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    assert set(contents(tmp_path / "a")) == {"config.json", "model.safetensors"}
    model.preprocessing = Preprocessing()
    model.save_pretrained(tmp_path / "b")
    assert set(contents(tmp_path / "b")) == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_saving_twice_writes_the_same_bytes(model: Any, tmp_path: Path) -> None:
    model.preprocessing = Preprocessing()
    for name in "ab":
        model.save_pretrained(tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_loaded_model_is_saved_as_the_bytes_it_came_from(model: Any, tmp_path: Path) -> None:
    model.preprocessing = Preprocessing()
    model.save_pretrained(tmp_path / "a")
    HieraForImageClassification.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_folders_are_made_with_their_parents(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "runs" / "1" / "model")
    assert (tmp_path / "runs" / "1" / "model" / "config.json").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="needs file modes")
def test_files_have_the_modes_that_new_files_have(model: Any, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        model.save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o640"}


def test_a_file_in_the_place_of_the_folder_is_refused(model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file: is a file; expected a folder to write to"):
        model.save_pretrained(tmp_path / "file")


def test_the_configuration_names_class_precision_and_derived_fields(model: Any, tmp_path: Path) -> None:
    model.bfloat16().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["architectures"] == ["HieraForImageClassification"]
    assert (values["model_type"], values["dtype"], values["hidden_size"]) == ("hiera", "bfloat16", 64)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


def test_models_without_a_head_do_not_write_a_thousand_empty_names(tmp_path: Path) -> None:
    HieraModel(image_config(num_labels=1000)).save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    assert HieraModel.from_pretrained(tmp_path).config.num_labels == 1000


def fail(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "where", ["safetensors.torch.save_file", "json.dumps", "pathlib.Path.write_text", "os.replace"]
)
def test_a_failure_while_writing_leaves_the_folder_as_it_was(
    where: str, model: Any, saved: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(HieraForImageClassification, image_config(num_labels=3))
    before = contents(folder)
    model.preprocessing = Preprocessing()
    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(OSError, match="No space left on device"):
            model.save_pretrained(folder)
    assert contents(folder) == before


def test_a_failure_while_writing_a_pth_file_leaves_the_old_one(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(HieraForImageClassification, image_config())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.pth").write_bytes(b"old")
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left on device"):
        convert(folder, tmp_path / "out" / "x.pth", to="official")
    assert contents(tmp_path / "out") == {"x.pth": b"old"}


@torch.no_grad()
def test_saving_over_the_folder_one_loaded_from_works(saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config())
    model = HieraForImageClassification.from_pretrained(folder)
    x = pixels(model.config)
    before = model(x).logits
    for _ in range(2):
        model.save_pretrained(folder)
    assert torch.equal(model(x).logits, before)  # the weights are still mapped from the file that was replaced
    assert torch.equal(HieraForImageClassification.from_pretrained(folder)(x).logits, before)


@torch.no_grad()
def test_a_model_outlives_the_folder_it_came_from(saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config())
    model = HieraForImageClassification.from_pretrained(folder)
    x = pixels(model.config)
    before = model(x).logits
    shutil.rmtree(folder)
    assert torch.equal(model(x).logits, before)


def test_weights_that_are_views_are_saved_whole(model: Any, tmp_path: Path) -> None:
    """A channels-last convolution is not contiguous, and safetensors refuses what is not."""
    weight = model.encoder.patch_embed.proj.weight
    model.to(memory_format=torch.channels_last)
    assert not model.encoder.patch_embed.proj.weight.is_contiguous()
    model.save_pretrained(tmp_path)
    again = HieraForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(again.encoder.patch_embed.proj.weight, weight)


def test_weights_that_share_memory_are_saved_each(model: Any, tmp_path: Path) -> None:
    model.norm.bias = model.norm.weight
    model.save_pretrained(tmp_path / "shared")
    again = HieraForImageClassification.from_pretrained(tmp_path / "shared")
    assert torch.equal(again.norm.bias, model.norm.weight)
    flat = torch.nn.utils.parameters_to_vector(model.encoder.parameters()).detach()
    torch.nn.utils.vector_to_parameters(flat, model.encoder.parameters())  # views of one tensor
    model.save_pretrained(tmp_path / "flat")
    x = pixels(model.config)
    assert torch.equal(HieraForImageClassification.from_pretrained(tmp_path / "flat")(x).logits, model(x).logits)


def test_a_model_without_weights_is_not_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        empty = HieraForImageClassification(image_config())
    with pytest.raises(ValueError, match="the model is on the meta device, which holds no weights"):
        empty.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_head_of_another_size_is_told_and_the_advice_works(model: Any, tmp_path: Path) -> None:
    model.head = torch.nn.Linear(64, 7)
    with pytest.warns(Notice, match=r"head.weight has shape \[7, 64\], but .* \[5, 64\]; .*replace\(num_labels=7\)"):
        model.save_pretrained(tmp_path)
    model.config = model.config.replace(num_labels=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path)
    assert torch.equal(HieraForImageClassification.from_pretrained(tmp_path).head.weight, model.head.weight)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda m: setattr(m, "head", torch.nn.Sequential(m.head)),
            r"head\.0\.weight, head\.0\.bias are not tensors of",
        ),
        (lambda m: setattr(m, "head", torch.nn.Identity()), r"head\.weight, head\.bias are missing tensors of"),
        (
            lambda m: torch.nn.utils.parametrizations.weight_norm(m.head),
            r"head\.parametrizations\.weight\.original0, .*not",
        ),
    ],
)
def test_a_folder_that_cannot_be_opened_again_is_told(
    change: Callable[[Any], object], problem: str, model: Any, tmp_path: Path
) -> None:
    change(model)
    with pytest.warns(Notice, match=f"cannot be opened again: {problem}"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        HieraForImageClassification.from_pretrained(tmp_path)


def test_the_encoder_alone_is_saved_under_the_same_names(tmp_path: Path) -> None:
    encoder: Any = randomize(Hiera(image_config()))
    encoder.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert all(name.startswith(("embeddings.", "encoder.stages.")) for name in names)
    again = Hiera.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), encoder.parameters(), strict=True))


# -- disks that are full ----------------------------------------------------------------------------------------------


def full_disk(*_: Any, **__: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def broken_writer(*_: Any, **__: Any) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


@pytest.mark.parametrize("dialect", ["transformers", "official", "timm"])
def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(
    dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = HieraForImageClassification(image_config())
    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_model(model, tmp_path / "new" / "folder", dialect=dialect)
    assert caught.value.filename == str(tmp_path / "new" / "folder" / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_pth_file_that_cannot_be_written_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", broken_writer)
    with pytest.raises(OSError, match="cannot be written; the disk may be full") as caught:
        convert("hierax/femto", tmp_path / "new" / "x.pth", to="official")
    assert caught.value.filename == str(tmp_path / "new" / "x.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_a_folder_that_was_there_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HieraForImageClassification(image_config())
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        HieraForImageClassification(image_config()).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_convert_says_a_full_disk_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    assert main(["convert", "hierax/femto", str(tmp_path / "x"), "--to", "timm"]) == 2
    assert (
        capsys.readouterr().err
        == f"hierax: {tmp_path / 'x' / 'model.safetensors'}: cannot be written: No space left on device\n"
    )
