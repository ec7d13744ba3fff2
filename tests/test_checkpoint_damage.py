"""Files that are damaged, or something else: one clear error that names the file, and the tensor where there is one."""

import bz2
import gzip
import json
import lzma
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from folders import tensors_of
from hierax import AutoImageProcessor, HieraForImageClassification, HieraModel, convert, load
from hierax.checkpoint.save import named_tensors
from small import fresh_seed, image_config, randomize

Save = Callable[..., Path]


@pytest.fixture
def folder(saved: Save) -> Path:
    return saved(HieraForImageClassification, image_config())


@pytest.fixture
def pth(folder: Path, tmp_path: Path) -> Path:
    convert(folder, tmp_path / "good.pth", to="official")
    return tmp_path / "good.pth"


def refused(source: Path, *, names: str | Path) -> str:
    """The message of the ValueError that loading `source` gives; it names the file."""
    with pytest.raises(ValueError, match=r".") as caught:
        load(source)
    assert str(names) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 5000, -1])
def test_a_truncated_safetensors_file_is_named(keep: int, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert ("corrupt or truncated safetensors file" if keep else "is empty") in refused(folder, names=path)


@pytest.mark.parametrize("keep", [0, 1, 10, 1000, -1, -100])
def test_a_truncated_pth_file_is_named(keep: int, pth: Path) -> None:
    pth.write_bytes(pth.read_bytes()[:keep])
    assert ("corrupt, or not a file of tensors alone" if keep else "is empty") in refused(pth, names=pth)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt", "a.bin", "a.ckpt", "a.pth.tar", "a"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html><body>404", "a web page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page or XML"),
        (b'{"error": "Access to this model is restricted"}', "JSON text"),
        (gzip.compress(b"weights" * 100, mtime=0), "compressed by gzip"),
        (lzma.compress(b"weights" * 100), "compressed by xz"),
        (bz2.compress(b"weights" * 100), "compressed by bzip2"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (b"", "is empty"),
    ],
)
def test_what_downloads_leave_instead_of_weights_is_said(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in refused(tmp_path / name, names=name)


def test_a_file_of_torch_that_is_called_safetensors_is_said(pth: Path) -> None:
    other = pth.rename(pth.with_suffix(".safetensors"))
    assert "is a file of torch.save, not of safetensors; call it .pth" in refused(other, names=other)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("content", [b"just some words", b"\x80\x04", b"PK\x03\x04", b"\xff" * 100, b"{}" + b" " * 50])
def test_a_file_of_something_else_is_named(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    refused(path, names=path)


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, most of them near the ends, where structure is."""
    data = bytearray(whole)
    for _ in range(draw.choice((1, 3, 20))):
        at = draw.randrange(draw.choice((64, 4096, len(data))))
        data[at if draw.random() < 0.5 else -1 - at] = draw.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_random_damage_gives_a_model_or_an_error_that_names_the_file(kind: str, folder: Path, pth: Path) -> None:
    draw = random.Random(fresh_seed())
    if kind == "legacy":
        torch.save(torch.load(pth, weights_only=True), pth, _use_new_zipfile_serialization=False)
    source, path = (folder, folder / "model.safetensors") if kind == "safetensors" else (pth, pth)
    whole, messages = path.read_bytes(), []
    for _ in range(60):
        path.write_bytes(damaged(whole, draw))
        try:  # an error of any other type fails the test
            load(source)
        except ValueError as error:
            messages.append(str(error))
    assert [message for message in messages if str(source) not in message] == []
    assert messages


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["", "{", "not json", "\x00", "[" * 100_000, "[1, 2]", "3", '"x"', "null"])
def test_json_garbage_is_named(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text)
    message = refused(folder, names=folder / name)
    assert "not a JSON file" in message or "expected an object of fields" in message


def test_json_in_another_encoding_is_named(folder: Path) -> None:
    (folder / "config.json").write_bytes('{"a": "ä"}'.encode("latin-1"))
    assert "not a JSON file" in refused(folder, names=folder / "config.json")


def test_json_with_a_byte_order_mark_is_read(folder: Path) -> None:
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    load(folder)


def test_our_notes_are_checked(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "official", to="official")
    path = tmp_path / "official" / "model.safetensors"
    for notes, message in (
        ("{", "its metadata 'hierax' is not what hierax writes there"),
        ("[]", "its metadata 'hierax' is not what hierax writes there"),
        ('{"config": {"mask_ratio": 7}, "preprocessing": {}}', "mask_ratio is 7"),
    ):
        save_file(tensors_of(path.parent), path, metadata={"hierax": notes})
        assert message in refused(path.parent, names=tmp_path)


# -- something else ---------------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def test_code_in_a_pth_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    torch.save({"model_state": {"pos_embed": Malicious(marker)}}, tmp_path / "evil.pth")
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(Malicious(marker)))
    for name in ("evil.pth", "evil.bin"):
        assert "not a file of tensors alone" in refused(tmp_path / name, names=name)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors"),
        ({"model_state": {}}, "holds no tensors"),
        ({"epoch": 3}, "holds no tensors"),
        ([1, 2], "holds a list; expected named tensors"),
        (torch.zeros(3), "holds a Tensor; expected named tensors"),
        ({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}, "no Hiera weights; its tensors begin with conv1"),
    ],
)
def test_a_pth_file_without_hiera_in_it_says_what_it_has(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    assert message in refused(tmp_path / "x.pth", names="x.pth")


@pytest.mark.parametrize(
    "names",
    [
        ("embeddings.cls_token", "embeddings.patch_embeddings.projection.weight"),  # ViT in transformers
        ("embeddings.patch_embeddings.projection.bias", "encoder.layer.0.attention.output.dense.bias"),
        ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"),  # ViT in timm
        ("features.0.weight",),
    ],
)
def test_safetensors_of_other_models_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    tensors = {name: torch.zeros(32, 3, 16, 16) if "proj" in name else torch.zeros(32, 32) for name in names}
    save_file(tensors, tmp_path / "vit.safetensors")
    message = refused(tmp_path / "vit.safetensors", names="vit.safetensors")
    assert "Hiera" in message or "variant" in message or "expected" in message


def test_an_empty_safetensors_file_holds_no_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    assert "holds no tensors" in refused(tmp_path / "empty.safetensors", names="empty.safetensors")


def test_a_text_file_is_no_tensor_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "not a tensor file (.safetensors, .pth, .pt, .bin are read)" in refused(
        tmp_path / "notes.txt", names="notes.txt"
    )


# -- shapes and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("hiera.encoder.stages.2.layers.1.attn.qkv.weight", (95, 32)),
        ("hiera.embeddings.position_embeddings", (1, 64, 8)),
        ("hiera.pooler.layernorm.bias", (65,)),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(name: str, shape: tuple[int, ...], folder: Path) -> None:
    tensors = tensors_of(folder)
    expected = list(tensors[name].shape)
    save_file({**tensors, name: torch.zeros(shape)}, folder / "model.safetensors")
    message = refused(folder, names=folder / "model.safetensors")
    assert f"{name} has shape {list(shape)}; expected {expected}" in message


def test_a_head_of_another_size_says_what_to_pass(folder: Path) -> None:
    tensors = {**tensors_of(folder), "classifier.weight": torch.zeros(3, 64), "classifier.bias": torch.zeros(3)}
    save_file(tensors, folder / "model.safetensors")
    message = refused(folder, names=folder / "model.safetensors")
    assert (
        "classifier.weight has shape [3, 64]; expected [5, 64]; num_labels=3 loads it, num_labels= with another"
        in message
    )


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2,) * 6, (10**9, 0)])
def test_tensors_that_fit_no_variant_at_all_are_named(shape: tuple[int, ...], folder: Path) -> None:
    good = tensors_of(folder)
    for name in ("hiera.embeddings.patch_embeddings.projection.weight", "hiera.embeddings.position_embeddings",
                 "classifier.weight", "hiera.encoder.stages.0.layers.0.attn.proj.weight"):  # fmt: skip
        save_file({**good, name: torch.zeros(shape)}, folder / "bare.safetensors")
        message = refused(folder / "bare.safetensors", names="bare.safetensors")
        assert name in message
        assert str(list(shape)) in message


@pytest.mark.parametrize("part", ["decoder.decoder_embeddings", "hiera.embeddings", "hiera.encoder", "hiera.pooler"])
def test_files_that_lack_much_are_refused(part: str, saved: Save) -> None:
    from hierax import HieraForPreTraining

    for cls in (HieraForPreTraining, HieraForImageClassification):
        folder = saved(cls, image_config())
        tensors = {name: t for name, t in tensors_of(folder).items() if not name.startswith(part)}
        if len(tensors) == len(tensors_of(folder)):
            continue
        save_file(tensors, folder / "model.safetensors")
        message = refused(folder, names=folder / "model.safetensors")
        assert "missing" in message or "no Hiera weights" in message
        save_file(tensors, folder / "bare.safetensors")
        refused(folder / "bare.safetensors", names="bare.safetensors")


def test_weights_that_are_no_floating_point_numbers_are_named(folder: Path) -> None:
    name = "hiera.encoder.stages.0.layers.0.mlp.fc1.weight"
    save_file({**tensors_of(folder), name: torch.zeros(32, 8, dtype=torch.int32)}, folder / "model.safetensors")
    assert f"{name} has dtype torch.int32" in refused(folder, names="model.safetensors")


def test_tensors_without_data_are_named(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = HieraModel(image_config())
    tensors: dict[str, Any] = dict(named_tensors(model, "official"))
    torch.save(tensors, tmp_path / "meta.pth")
    assert "fit no known variant" in refused(tmp_path / "meta.pth", names="meta.pth")
    real: Any = {n: t.clone() for n, t in named_tensors(randomize(HieraModel(image_config())), "official").items()}  # type: ignore[arg-type]
    notes = json.dumps({"config": image_config().to_dict(), "preprocessing": {}})
    for odd in (torch.empty(64, device="meta"), torch.ones(64).to_sparse()):
        torch.save({"model_state": {**real, "norm.bias": odd}, "hierax": notes}, tmp_path / "odd.pth")
        assert "norm.bias is a torch.s" in refused(tmp_path / "odd.pth", names="odd.pth")


def test_one_tensor_under_two_names_is_refused(folder: Path) -> None:
    tensors = tensors_of(folder)
    twice = {**tensors, "embeddings.position_embeddings": tensors["hiera.embeddings.position_embeddings"].clone()}
    save_file(twice, folder / "model.safetensors")
    assert "are the same tensor of Hiera" in refused(folder, names="model.safetensors")


def test_absurd_block_numbers_are_no_blocks(folder: Path) -> None:
    name = f"hiera.encoder.stages.{'9' * 12}.layers.0.mlp.fc1.bias"
    save_file({**tensors_of(folder), name: torch.zeros(3)}, folder / "model.safetensors")
    model = load(folder)
    assert model.loading_report is not None
    assert model.loading_report.unexpected == [name]


# -- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c", "nowhere.pth", "../x/y.safetensors"]
)
def test_what_is_not_there_is_a_file_not_found_error_with_its_name(name: str) -> None:
    for read in (load, HieraModel.from_pretrained, AutoImageProcessor.from_pretrained):
        with pytest.raises(FileNotFoundError, match="no such file or folder, and no checkpoint of that name") as caught:
            read(name)
        assert str(caught.value).startswith(name)


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights in this folder; expected one of model\.safetensors"):
        load(tmp_path)


def test_a_folder_named_like_a_file_is_read(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "run.pth")
    assert type(load(tmp_path / "run.pth")) is HieraForImageClassification


# -- several files ----------------------------------------------------------------------------------------------------


def shard(folder: Path) -> Path:
    """Splits a folder's weights into two files and an index."""
    tensors = list(tensors_of(folder).items())
    (folder / "model.safetensors").unlink()
    weights = {}
    for number, part in enumerate((tensors[::2], tensors[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file(dict(part), folder / file)
        weights |= dict.fromkeys(dict(part), file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


def test_weights_in_several_files_are_read(folder: Path) -> None:
    before = HieraForImageClassification.from_pretrained(folder).state_dict()
    after = HieraForImageClassification.from_pretrained(shard(folder)).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_lacking_one_of_several_files_is_named(folder: Path) -> None:
    (shard(folder) / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors, which must be beside it" in refused(folder, names="index.json")


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": 3}, {"weight_map": {"a": "../../etc/passwd"}}]
)
def test_a_bad_index_is_named(index: Any, folder: Path) -> None:
    path = shard(folder) / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert "expected tensor names and the files beside it" in refused(folder, names=path)
