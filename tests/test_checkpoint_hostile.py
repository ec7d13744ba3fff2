"""Files made to do harm: no code of theirs runs, and none costs more than a small file should."""

import collections
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hierax import HieraForImageClassification, HieraImageProcessor, Preprocessing, load
from hierax.checkpoint import files, pickles
from hierax.checkpoint.pickles import read_pickle
from small import image_config


class Call:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class ByName:
    """Writes opcodes by hand: a call of `module.name` with one text."""

    def __init__(self, module: str, name: str, text: str) -> None:
        self.bytes = (
            b"\x80\x02}X\x05\x00\x00\x00modelc" + f"{module}\n{name}\n".encode() + b"X"
            + len(text).to_bytes(4, "little") + text.encode() + b"\x85Rs."
        )  # fmt: skip

    def save(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", self.bytes)
            archive.writestr("archive/version", b"3\n")


CODE: dict[str, Callable[[Path], Any]] = {
    "system": lambda marker: Call(os.system, f"touch {marker}"),
    "mkdir": lambda marker: Call(os.mkdir, str(marker)),
    "exec": lambda marker: Call(exec, f"open({str(marker)!r}, 'w')"),
    "eval": lambda marker: Call(eval, f"open({str(marker)!r}, 'w')"),
    "open": lambda marker: Call(open, str(marker), "w"),
    "getattr": lambda marker: Call(getattr, marker, "touch"),
    "in a dict": lambda marker: collections.OrderedDict(a=Call(os.mkdir, str(marker))),
}


@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["model", "args", "alone"])
def test_code_in_a_file_never_runs_and_is_named(kind: str, zipped: bool, place: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "it ran", tmp_path / "evil.pth"
    evil = CODE[kind](marker)
    content = evil if place == "alone" else {"model": {"pos_embed": torch.ones(1)}, place: {"x": evil}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil.pth: not a file of tensors alone: it asks for .*hierax does not run"):
        load(path)
    assert not marker.exists()


def test_the_names_that_a_file_asks_for_are_said_in_one_plain_sentence(tmp_path: Path) -> None:
    torch.save({"model": {}, "a": torch.nn.Linear(2, 2), "b": Call(os.system, "true")}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"posix\.system|nt\.system") as caught:
        load(tmp_path / "x.pth")
    message = str(caught.value)
    assert "torch.nn.modules.linear.Linear" in message
    assert message.isprintable()
    assert "weights_only" not in message
    assert "safe_globals" not in message


@pytest.mark.parametrize(
    "name", ["argparse.Namespace", "pathlib.PosixPath", "numpy.dtype", "numpy.core.multiarray.scalar", "builtins.dict"]
)
def test_names_that_are_allowed_stand_for_nothing(name: str, tmp_path: Path) -> None:
    """The class of that name is not made: whatever its constructor would do with the arguments does not happen."""
    module, _, last = name.rpartition(".")
    ByName(module, last, "argument").save(tmp_path / "x.pth")
    assert isinstance(read_pickle(tmp_path / "x.pth")["model"], pickles.Setting)


def test_no_name_that_is_allowed_is_that_of_code() -> None:
    assert {stand_in for stand_in, _ in pickles._ALLOWED} == {pickles.Setting, pickles.Mapped, pickles.Listed}


def test_the_list_of_allowed_names_is_as_it_was_after_a_failure(tmp_path: Path) -> None:
    torch.save(Call(os.system, "true"), tmp_path / "x.pth")
    before = set(torch.serialization.get_safe_globals())  # their order is that of a set
    with pytest.raises(ValueError, match="asks for"):
        read_pickle(tmp_path / "x.pth")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("text", ["a\x1b[31m", "b\x07", "c\u202e"])
def test_no_control_characters_of_a_file_reach_a_message(text: str, tmp_path: Path) -> None:
    ByName("evil" + text, "name" + text, "x").save(tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r".") as caught:
        load(tmp_path / "x.pth")
    assert str(caught.value).isprintable()


def test_pickles_of_another_protocol_say_so(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "x.pth", pickle_protocol=4)
    (tmp_path / "y.pth").write_bytes(pickle.dumps({"a": 1}, protocol=5))
    for name, number in (("x.pth", 4), ("y.pth", 5)):
        with pytest.raises(ValueError, match=rf"pickled by protocol {number}; expected 2"):
            load(tmp_path / name)


# -- what costs too much ----------------------------------------------------------------------------------------------


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": {"a": torch.zeros(1000)}}, tmp_path / "x.pth")
    bomb = zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "x.pth") as stored, bomb as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(ValueError, match=r"bomb.pth: its records are compressed; expected them as torch.save writes"):
        load(tmp_path / "bomb.pth")


def test_a_mountain_of_settings_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MOST_PICKLED", 1000)
    torch.save({"model": {"a": torch.zeros(1)}, "log": list(range(5000))}, tmp_path / "x.pth")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(ValueError, match="of settings beside its tensors"):
        load(tmp_path / "x.pth")


def test_an_archive_that_lists_too_many_records_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({f"t{i}": torch.zeros(1) for i in range(50)}, tmp_path / "x.pth")
    monkeypatch.setattr(pickles, "_MOST_LISTED", 1000)
    with pytest.raises(ValueError, match="lists more records than any checkpoint of Hiera has"):
        load(tmp_path / "x.pth")


def test_other_archives_say_what_they_are(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/constants.pkl", b"")
    for name, what in (("x.pth", "is a zip archive"), ("y.pt", "is a TorchScript program")):
        with pytest.raises(ValueError, match=f"{name}: {what}; expected tensors"):
            load(tmp_path / name)


def header_of(count: int) -> bytes:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"t{i}": entry for i in range(count)}).encode()
    return len(text).to_bytes(8, "little") + text


def test_too_many_tensors_are_counted_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(header_of(20_001))
    with pytest.raises(ValueError, match=r"x.safetensors: describes 20,001 tensors; no Hiera has more than 20,000"):
        load(tmp_path / "x.safetensors")


def index_of(folder: Path, count: int) -> None:
    names = {f"t{i}": f"model-{i:07}.safetensors" for i in range(count)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_an_index_of_too_many_files_is_refused_at_once(tmp_path: Path) -> None:
    index_of(tmp_path, 1001)
    with pytest.raises(ValueError, match=r"index.json: names 1,001 files; no Hiera is in more than 1,000"):
        load(tmp_path)


def test_of_many_missing_files_a_few_are_named(tmp_path: Path) -> None:
    index_of(tmp_path, 900)
    with pytest.raises(ValueError, match=r"names model-0000000\S+, \S+, \S+ and 897 more, which must be beside it"):
        load(tmp_path)


def test_a_json_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    HieraForImageClassification(image_config()).save_pretrained(tmp_path)
    monkeypatch.setattr(files, "_LARGEST_JSON", 100)
    with pytest.raises(ValueError, match=r"config.json: has .* MiB; expected a JSON file of at most"):
        load(tmp_path)


def test_a_container_that_holds_itself_a_million_times_is_looked_into_once(tmp_path: Path) -> None:
    """Each level names the next one ten times: 10 ** 20 ways through it, 20 containers."""
    inner: dict[str, Any] = {"x": torch.ones(1)}
    for _ in range(20):
        inner = {str(i): inner for i in range(10)}
    torch.save(inner, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no tensors, only 0"):
        load(tmp_path / "x.pth")


def test_too_many_prefixes_are_no_models(tmp_path: Path) -> None:
    torch.save({f"m{i}.patch_embed.proj.weight": torch.ones(1) for i in range(17)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds 17 models in one container; expected at most 16"):
        load(tmp_path / "x.pth")


@pytest.mark.parametrize("side", [30_000, 10**9])
def test_a_record_that_asks_for_a_giant_image_is_refused_before_memory_is_taken(side: int) -> None:
    size = {"height": side, "width": side}
    processor = HieraImageProcessor(Preprocessing().replace(crop_size=size, size={"shortest_edge": side}))
    with pytest.raises(ValueError, match="expected at most 67,108,864"):
        processor(Image.new("RGB", (64, 64)))
