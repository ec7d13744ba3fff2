"""The Hugging Face Hub, without a network: caches made by hand, and a client that answers as told."""

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from hierax import (
    AutoImageProcessor,
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
    Preprocessing,
    list_checkpoints,
    load,
)
from hierax.checkpoint import hub
from hierax.checkpoint.hub import NotCached
from hierax.checkpoint.save import model_card, save_model
from small import image_config, randomize, video_config

Save = Callable[..., Path]
SEED = "facebook/hiera-tiny-224-hf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache(
    folder: Path, repository: str, files: Iterable[Path], *, ref: str = "main", absent: Iterable[str] = ()
) -> Path:
    """A cache folder as the Hub's client leaves it: these files were fetched, and those `absent` were not there."""
    root = folder / f"models--{repository.replace('/', '--')}"
    for part in ("refs", f"snapshots/{COMMIT}", f".no_exist/{COMMIT}"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "refs" / ref).write_text(COMMIT)
    for file in files:
        (root / "snapshots" / COMMIT / file.name).write_bytes(file.read_bytes())
    for name in absent:
        (root / ".no_exist" / COMMIT / name).touch()
    return folder


@pytest.fixture
def seed(saved: Save, tmp_path: Path) -> Path:
    """A cache with a small model under the id of the seed's checkpoint."""
    return cache(tmp_path / "cache", SEED, saved(HieraModel, image_config()).iterdir())


# -- fetching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [HieraModel.from_pretrained, load, AutoImageProcessor.from_pretrained])
def test_an_offline_miss_says_so_and_asks_no_network(
    read: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: asked.append(a))
    monkeypatch.setattr(time, "sleep", lambda seconds: asked.append(seconds))
    with pytest.raises(
        OSError, match=rf"^{SEED} is not in the local cache and the Hub is switched off; hierax/femto works offline$"
    ):
        read(SEED, cache_dir=tmp_path)
    assert not asked


def test_a_miss_of_what_may_be_a_folder_says_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        OSError, match=r"^runs/ft is not in .*; the folder runs is here, but has no ft; hierax/femto works"
    ):
        load("runs/ft", cache_dir=tmp_path)
    with pytest.raises(OSError, match=r"^ruins/ft is not in the local cache and the Hub is switched off; hierax/femto"):
        load("ruins/ft", cache_dir=tmp_path)


def test_an_offline_miss_prints_nothing_and_has_no_chain_of_causes(tmp_path: Path) -> None:
    code = f"""
from hierax import HieraModel
try:
    HieraModel.from_pretrained({SEED!r})
except OSError as error:
    assert error.__cause__ is None and error.__suppress_context__
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("hub_id", "instead"),
    [
        ("facebook/hiera-tiny-224-mae-hf", "hierax/femto.mae"),
        ("facebook/hiera-tiny-224-in1k-hf", "hierax/femto"),
        ("facebook/hiera_base_16x224.mae_k400", "a folder or file"),
    ],
)
def test_an_offline_miss_names_what_of_its_kind_works(hub_id: str, instead: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"; {instead} works offline$"):
        load(hub_id, cache_dir=tmp_path)


def test_an_offline_miss_comes_whole_out_of_another_process() -> None:
    error = NotCached(SEED, "model.safetensors", "the Hub is switched off")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.repository) == (str(error), SEED)


def test_a_cached_checkpoint_opens_offline(seed: Path) -> None:
    model = HieraModel.from_pretrained(SEED, cache_dir=seed)
    assert model.config.image_size == (64, 64)
    assert model.loading_report is not None
    assert model.loading_report.source == SEED


def test_a_checkpoint_is_found_by_its_name_in_the_table(saved: Save, tmp_path: Path) -> None:
    files = saved(HieraForImageClassification, image_config(), dialect="official").iterdir()
    cache(tmp_path / "cache", "facebook/hiera_tiny_224.mae_in1k_ft_in1k", files)
    for name in ("hiera_tiny_224.mae_in1k_ft_in1k", "facebook/hiera_tiny_224.mae_in1k_ft_in1k"):
        assert load(name, cache_dir=tmp_path / "cache").license == "CC-BY-NC-4.0"


def test_a_revision_is_looked_up(saved: Save, tmp_path: Path) -> None:
    folder = cache(tmp_path / "cache", SEED, saved(HieraModel, image_config()).iterdir(), ref="v2")
    HieraModel.from_pretrained(SEED, cache_dir=folder, revision="v2")
    with pytest.raises(OSError, match="is not in the local cache"):
        HieraModel.from_pretrained(SEED, cache_dir=folder, revision="v3")


def test_weights_that_are_lacking_in_the_cache_are_an_offline_miss(seed: Path) -> None:
    next(seed.rglob("model.safetensors")).unlink()
    with pytest.raises(OSError, match=r"not in the local cache \(model\.safetensors is lacking\)"):
        HieraModel.from_pretrained(SEED, cache_dir=seed)


def test_a_repository_known_to_have_no_record_needs_none(saved: Save, tmp_path: Path) -> None:
    files = saved(HieraModel, image_config()).iterdir()
    folder = cache(tmp_path, "me/mine", files, absent=["preprocessor_config.json"])
    assert AutoImageProcessor.from_pretrained("me/mine", cache_dir=folder).crop_size == {"height": 64, "width": 64}


def test_a_record_that_may_exist_elsewhere_is_not_guessed(saved: Save, tmp_path: Path) -> None:
    folder = cache(tmp_path, "me/mine", saved(HieraModel, image_config()).iterdir())
    with pytest.raises(OSError, match=r"preprocessor_config\.json is lacking"):
        AutoImageProcessor.from_pretrained("me/mine", cache_dir=folder)
    HieraModel.from_pretrained("me/mine", cache_dir=folder)  # the model does not wait for it


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The Hub is not switched off, but nobody answers; the list has an entry for every question asked."""
    asked: list[float] = []

    def silence(*_: Any, timeout: float, **__: Any) -> None:
        asked.append(timeout)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", silence)
    monkeypatch.setattr(hub, "_SILENT", {})
    return asked


def test_without_an_answer_the_hub_is_asked_once(unplugged: list[float], tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=rf"^{SEED} is not in the local cache and the Hub cannot be reached; hierax/femto works offline$"
    ):
        HieraModel.from_pretrained(SEED, cache_dir=tmp_path)
    assert unplugged == [10]


def test_without_an_answer_a_cached_checkpoint_opens(unplugged: list[float], seed: Path) -> None:
    HieraModel.from_pretrained(SEED, cache_dir=seed)
    assert unplugged == [10]


def test_a_silent_hub_is_waited_for_once(unplugged: list[float], seed: Path) -> None:
    for _ in range(3):
        HieraModel.from_pretrained(SEED, cache_dir=seed)
        AutoImageProcessor.from_pretrained(SEED, cache_dir=seed)
    assert unplugged == [10]


def test_after_a_minute_a_silent_hub_is_asked_again(unplugged: list[float]) -> None:
    clock = iter([0.0, 0.0, 59.0, 61.0, 61.0])
    for _ in range(3):
        assert hub.reached(SEED, "config.json", hub.HubOptions(), now=lambda: next(clock)).unreachable
    assert unplugged == [10, 10]


def test_the_hub_is_not_asked_when_only_local_files_are_wanted(unplugged: list[float], seed: Path) -> None:
    HieraModel.from_pretrained(SEED, cache_dir=seed, local_files_only=True)
    assert unplugged == []


class Client:
    """Stands for `hf_hub_download`: serves a folder's files and remembers what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def __call__(self, repository: str, file: str, **options: Any) -> str:
        self.asked.append((repository, file, options))
        if not (self.folder / file).is_file():
            raise errors.EntryNotFoundError(file)
        return str(self.folder / file)


@pytest.fixture
def client(saved: Save, monkeypatch: pytest.MonkeyPatch) -> Client:
    served = Client(saved(HieraModel, image_config()))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", served)
    return served


def test_all_options_reach_the_client(client: Client, tmp_path: Path) -> None:
    options = {"revision": "abc", "cache_dir": tmp_path, "token": "hf_x", "local_files_only": True}
    for read in (HieraModel.from_pretrained, HieraBackbone.from_pretrained, load, AutoImageProcessor.from_pretrained):
        client.asked.clear()
        read("me/mine", **options)
        assert {repository for repository, _, _ in client.asked} == {"me/mine"}
        assert [asked for _, _, asked in client.asked] == [options] * len(client.asked)


def test_the_record_alone_needs_no_weights(client: Client) -> None:
    AutoImageProcessor.from_pretrained("me/mine")
    assert [file for _, file, _ in client.asked] == ["config.json", "preprocessor_config.json"]


def test_older_weight_files_are_found(client: Client) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(client.folder / "model.safetensors"), client.folder / "pytorch_model.bin")
    (client.folder / "model.safetensors").unlink()
    HieraModel.from_pretrained("me/mine")
    files = [file for _, file, _ in client.asked]
    assert files[1:4] == ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]


def test_weights_in_several_files_are_all_fetched(client: Client) -> None:
    (client.folder / "model.safetensors").rename(client.folder / "part.safetensors")
    index = {"weight_map": {"a": "part.safetensors"}}
    (client.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    HieraModel.from_pretrained("me/mine")
    assert "part.safetensors" in [file for _, file, _ in client.asked]
    (client.folder / "part.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json names part\.safetensors, which is not there"):
        HieraModel.from_pretrained("me/mine")


def test_a_repository_without_weights_says_what_was_looked_for(client: Client) -> None:
    (client.folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"me/mine: the Hub has none of model\.safetensors, "):
        HieraModel.from_pretrained("me/mine")


ANSWER = SimpleNamespace(headers={}, request=None, status_code=403)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            errors.GatedRepoError("x", response=ANSWER),  # type: ignore[arg-type]
            OSError,
            "me/mine: request access to it on the Hub, then set the variable HF_TOKEN",
        ),
        (
            errors.RepositoryNotFoundError("x", response=ANSWER),  # type: ignore[arg-type]
            OSError,
            "me/mine: no such repository on the Hub .if it is private, set the variable HF_TOKEN",
        ),
        (errors.RevisionNotFoundError("x", response=ANSWER), OSError, "me/mine: no revision 'v9' on the Hub"),  # type: ignore[arg-type]
        (errors.HFValidationError("bad name"), ValueError, "me/mine: no file, no folder, and no Hub id either"),
        (RuntimeError("connection broke"), OSError, r"me/mine: config\.json could not be fetched \(RuntimeError: conn"),
        (OSError(28, "No space left on device"), OSError, "No space left on device"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_client_raises_becomes_one_clear_error(
    error: Exception, expected: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(expected, match=message):
        HieraModel.from_pretrained("me/mine", revision="v9")


# -- licenses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hub_id", [r.hub_id for r in list_checkpoints(dialect="transformers") if not r.bundled][:3])
def test_a_published_checkpoint_has_the_license_of_the_table(hub_id: str, client: Client) -> None:
    assert HieraModel.from_pretrained(hub_id).license == "CC-BY-NC-4.0"


def test_a_license_goes_with_the_weights_into_a_folder(client: Client, tmp_path: Path) -> None:
    HieraModel.from_pretrained(SEED).save_pretrained(tmp_path / "mine")
    assert HieraModel.from_pretrained(tmp_path / "mine").license == "CC-BY-NC-4.0"


def test_other_checkpoints_keep_their_own_license_or_none(saved: Save, client: Client) -> None:
    assert HieraModel.from_pretrained("me/mine").license is None
    assert HieraModel.from_pretrained(saved(HieraModel, image_config(license="MIT"))).license == "MIT"
    values = json.loads((client.folder / "config.json").read_text())
    (client.folder / "config.json").write_text(json.dumps({**values, "license": "MIT"}))
    assert HieraModel.from_pretrained(SEED).license == "MIT"


@pytest.mark.parametrize(
    ("name", "mean", "frames"),
    [("facebook/hiera_base_16x224.mae_k400_ft_k400", 0.45, 16), ("facebook/hiera_tiny_224.mae_in1k", 0.485, None)],
)
def test_a_published_repository_without_records_has_the_tables_preprocessing(
    name: str, mean: float, frames: int | None, client: Client
) -> None:
    for file in list(client.folder.iterdir()):
        file.unlink()
    record = AutoImageProcessor.from_pretrained(name).record
    assert (record.image_mean[0], record.num_frames, record.crop_size["width"]) == (mean, frames, 224)


# -- handing over -----------------------------------------------------------------------------------------------------


class Api:
    """Stands for `HfApi`: remembers what it was given."""

    def __init__(self, token: Any = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.token, self.files = token, {}
        Api.last = self

    last: Any = None
    there: tuple[str, ...] = ()

    def file_exists(self, repo_id: str, filename: str, *, revision: str | None = None) -> bool:
        return filename in self.there

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, folder_path: str, **options: Any) -> None:
        self.calls.append(("upload_folder", options))
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}


@pytest.mark.parametrize("license", ["CC-BY-NC-4.0", None])
def test_pushing_uploads_the_folder_and_a_card_with_the_license(
    license: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model: Any = randomize(HieraForImageClassification(image_config(license=license)))
    model.preprocessing = Preprocessing()
    assert model.push_to_hub("me/mine", token="hf_x", private=True) == "https://huggingface.co/me/mine"
    api = Api.last
    assert api.token == "hf_x"
    assert api.calls[0] == ("create_repo", {"repo_id": "me/mine", "private": True, "exist_ok": True})
    assert api.calls[1][1]["repo_id"] == "me/mine"
    save_model(model, tmp_path)
    assert api.files.keys() == {path.name for path in tmp_path.iterdir()} | {"README.md"}
    assert all(api.files[path.name] == path.read_bytes() for path in tmp_path.iterdir())
    card = api.files["README.md"].decode()
    assert f"\nlicense: {(license or 'unknown').lower()}\n" in card.split("---")[1]
    assert f"License of the weights: **{license or 'unknown'}**" in card


def test_pushing_keeps_a_card_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(Api, "there", ("README.md",))
    HieraForImageClassification(image_config()).push_to_hub("me/mine")
    assert Api.last.files.keys() == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("cls", "tag"),
    [
        (HieraForImageClassification, "image-classification"),
        (HieraForVideoClassification, "video-classification"),
        (HieraForPreTraining, "image-feature-extraction"),
        (HieraBackbone, "image-feature-extraction"),
    ],
)
def test_a_card_says_what_the_model_is_for_and_how_to_load_it(cls: Any, tag: str) -> None:
    card = model_card(cls(video_config() if cls is HieraForVideoClassification else image_config()), "me/mine")
    assert f"pipeline_tag: {tag}\n" in card
    assert f'model = {cls.__name__}.from_pretrained("me/mine")' in card
