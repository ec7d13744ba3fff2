"""Checkpoints as training scripts write them: containers, wrappers' prefixes, settings beside the weights."""

import argparse
import collections
import datetime
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from hierax import Hiera, HieraForImageClassification, HieraForPreTraining, HieraModel, convert, load
from hierax.checkpoint.save import named_tensors
from hierax.cli import main
from hierax.notices import Notice
from small import image_config, randomize

CONFIG = image_config()
Make = Callable[[str], dict[str, Tensor]]


@pytest.fixture(scope="module")
def model() -> HieraForImageClassification:
    return randomize(HieraForImageClassification(CONFIG)).eval()  # type: ignore[return-value]


@pytest.fixture(params=["hierax", "timm", "official", "transformers"])
def tensors(request: Any, model: HieraForImageClassification) -> dict[str, Tensor]:
    """Its weights under the names of each format."""
    if request.param == "hierax":
        return dict(model.state_dict())
    return named_tensors(model, request.param)


def before(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def other(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in tensors.items()}


def opened(path: Path, **options: Any) -> HieraForImageClassification:
    return HieraForImageClassification.from_pretrained(path, config=CONFIG, **options)


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


# -- prefixes and containers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "backbone.", "encoder.",
     "model.encoder.", "hiera_model.", "0.", "_forward_module.module.model."],
)  # fmt: skip
def test_a_prefix_before_all_names_is_taken_off_and_reported(
    prefix: str, tensors: dict[str, Tensor], model: Any, tmp_path: Path
) -> None:
    torch.save(before(prefix, tensors), tmp_path / "x.pth")
    found = opened(tmp_path / "x.pth")
    assert same(found, model)
    report = found.loading_report
    assert report is not None
    assert report.prefix == prefix
    assert f"removed prefix: {prefix}" in str(report)
    assert report.unexpected == []


def test_a_prefix_is_taken_off_in_safetensors_files_too(tensors: dict[str, Tensor], model: Any, tmp_path: Path) -> None:
    save_file({n: t.clone() for n, t in before("module.", tensors).items()}, tmp_path / "x.safetensors")
    assert same(opened(tmp_path / "x.safetensors"), model)


def test_wrappers_around_single_blocks_are_looked_through(
    tensors: dict[str, Tensor], model: Any, tmp_path: Path
) -> None:
    for wrapper in ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."):
        wrapped = {name.replace("attn.", f"{wrapper}attn."): tensor for name, tensor in tensors.items()}
        torch.save(wrapped, tmp_path / "x.pth")
        assert same(opened(tmp_path / "x.pth"), model)


def test_tensors_beside_the_prefix_are_reported_as_unexpected(model: Any, tmp_path: Path) -> None:
    state = {**before("model.", model.state_dict()), "criterion.weight": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    report = opened(tmp_path / "x.ckpt").loading_report
    assert report is not None
    assert report.unexpected == ["criterion.weight"]


@pytest.mark.parametrize(
    "container",
    ["state_dict", "model", "model_state", "state_dict_ema", "model_ema", "ema", "params", "teacher", "student",
     "module", "model_state_dict", "net", "weights"],
)  # fmt: skip
def test_weights_are_found_in_a_container_of_any_name(
    container: str, tensors: dict[str, Tensor], model: Any, tmp_path: Path
) -> None:
    torch.save(
        {"epoch": 3, container: tensors, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, tmp_path / "x.pth"
    )
    found = opened(tmp_path / "x.pth")
    assert same(found, model)
    assert found.loading_report is not None
    assert found.loading_report.part == container


@pytest.mark.parametrize(
    "name", ["model_best.pth.tar", "last.ckpt", "checkpoint.pth", "checkpoint_00012.pyth", "weights"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_any_name_is_known_by_its_content(name: str, zipped: bool, model: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": model.state_dict()}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert same(opened(tmp_path / name), model)


# -- several models in one file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plain", "ema"), [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("model", "ema"), ("net", "net_ema")]
)
def test_of_a_model_and_its_average_the_average_is_read_and_that_is_said(
    plain: str, ema: str, model: Any, tmp_path: Path
) -> None:
    path, own = tmp_path / "both.pth", model.state_dict()
    torch.save({plain: other(own), ema: before("module.", own)}, path)
    with pytest.warns(Notice, match=rf"both.pth: '{ema}' was read; .* '{plain}', which part='{plain}' reads"):
        found = opened(path)
    assert same(found, model)
    assert found.loading_report is not None
    assert found.loading_report.others == [plain]
    assert f"part: {ema}; other parts: {plain}" in str(found.loading_report)


def test_the_other_model_is_read_when_it_is_asked_for_without_a_word(model: Any, tmp_path: Path) -> None:
    path, own = tmp_path / "both.pth", model.state_dict()
    torch.save({"model": own, "model_ema": other(own)}, path)
    assert same(opened(path, part="model"), model)
    assert not same(opened(path, part="model_ema"), model)
    assert same(load(path, config=CONFIG, part="model"), model)


def test_teacher_and_student_are_asked_for(model: Any, tmp_path: Path) -> None:
    path, own = tmp_path / "x.pth", model.state_dict()
    torch.save({"teacher": own, "student": before("module.backbone.", other(own))}, path)
    with pytest.raises(ValueError, match=r"x.pth: holds 2 models, 'teacher', 'student'; pass part='teacher' .*--part"):
        opened(path)
    assert same(opened(path, part="teacher"), model)
    assert not same(opened(path, part="student"), model)


def test_models_behind_prefixes_of_one_container_are_asked_for_by_their_prefix(model: Any, tmp_path: Path) -> None:
    path, own = tmp_path / "x.ckpt", model.state_dict()
    torch.save({"state_dict": {**before("student.net.", other(own)), **before("teacher.net.", own)}}, path)
    with pytest.raises(ValueError, match=r"'state_dict.student.net', 'state_dict.teacher.net'"):
        opened(path)
    assert same(opened(path, part="teacher"), model)
    assert same(opened(path, part="state_dict.teacher.net"), model)


def test_an_average_inside_of_the_model_is_no_part_of_it(model: Any, tmp_path: Path) -> None:
    path, own = tmp_path / "x.pth", model.state_dict()
    torch.save({**other(own), **before("ema.", own)}, path)
    with pytest.warns(Notice, match="'ema' was read"):
        assert same(opened(path), model)


def test_one_model_under_two_names_is_one_model(model: Any, tmp_path: Path) -> None:
    own = dict(model.state_dict())
    torch.save({"model": own, "state_dict": own}, tmp_path / "x.pth")
    for part in (None, "model", "state_dict"):
        assert same(opened(tmp_path / "x.pth", part=part), model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}, "model_ema": {}}, "part is 'theirs'; it holds 'model', 'model_ema'"),
        ({"model": {}}, "part is 'theirs'; it holds 'model'"),
        ({}, "part is 'theirs'; it holds a single model; leave part out"),
    ],
)
def test_a_part_that_is_not_there_is_named(content: dict[str, Any], message: str, model: Any, tmp_path: Path) -> None:
    own = model.state_dict()
    torch.save({name: other(own) for name in content} or own, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "x.pth", part="theirs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, r"holds no tensors, only epoch \(int\), lr \(float\)"),
        (
            {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
            "no Hiera weights; in optimizer.state.0, its tensors",
        ),
        (
            {"state_dict": {"conv1.weight": torch.ones(2)}},
            "no Hiera weights; in state_dict, its tensors begin with conv1",
        ),
        ({"a\x1b[2J": 1}, r"holds no tensors, only a\?\[2J \(int\)"),
    ],
)
def test_a_file_without_weights_says_what_it_holds(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "x.pth")


def test_the_command_convert_reads_the_part_it_is_given(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = named_tensors(HieraForImageClassification.from_pretrained("hierax/femto"), "transformers")
    torch.save({"model": other(tensors), "model_ema": tensors}, tmp_path / "both.pth")
    command = ["convert", str(tmp_path / "both.pth"), "--to", "transformers"]
    assert main([*command, str(tmp_path / "ema")]) == 0
    assert "'model_ema' was read; the file also holds 'model'" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "plain"), "--part", "model"]) == 0
    assert "was read" not in capsys.readouterr().err
    ema, plain = (load(tmp_path / name) for name in ("ema", "plain"))
    assert same(ema, load("hierax/femto"))
    assert not same(plain, ema)


def test_a_command_that_opens_a_file_twice_says_once_what_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = named_tensors(HieraForImageClassification.from_pretrained("hierax/femto"), "transformers")
    torch.save({"model": other(tensors), "model_ema": tensors}, tmp_path / "both.pth")
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    command = ["embed", str(tmp_path / "x.png"), "-o", str(tmp_path / "out"), "--model", str(tmp_path / "both.pth")]
    assert main([*command, "--workers", "0"]) == 0
    assert capsys.readouterr().err.count("'model_ema' was read") == 1


# -- settings beside the weights --------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "namespace": argparse.Namespace(lr=1e-3, output=PurePosixPath("out"), seed=np.int64(3), best=np.float32(0.5)),
    "path": Path("out"),
    "numpy scalar": np.float64(0.1),
    "numpy bool": np.bool_(True),
    "numpy string": np.str_("abc"),
    "numpy array": np.arange(5),
    "numpy objects": np.array([None, {}], dtype=object),
    "numpy dtype": np.dtype("f4"),
    "random state": np.random.get_state(),
    "ordered": collections.OrderedDict(a=1),
    "default": collections.defaultdict(list, {1: [2]}),
    "deque": collections.deque([1, 2]),
    "counter": collections.Counter("aab"),
    "set": {1, 2},
    "frozen set": frozenset({1}),
    "date": datetime.datetime(2026, 1, 2),
    "device": torch.device("cpu"),
    "dtype": torch.bfloat16,
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_settings_beside_the_weights_do_not_matter(
    kind: str, zipped: bool, model: Any, tmp_path: Path
) -> None:
    content = {"model": model.state_dict(), "epoch": 3, "args": SETTINGS[kind], "list": [SETTINGS[kind]]}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert same(opened(tmp_path / "x.pth"), model)


def test_parameters_instead_of_tensors_are_weights(model: Any, tmp_path: Path) -> None:
    torch.save({"model": dict(model.named_parameters())}, tmp_path / "x.pth")
    assert same(opened(tmp_path / "x.pth"), model)


# -- our own names ----------------------------------------------------------------------------------------------------


def test_the_variant_of_our_own_state_dict_is_known_by_its_shapes(tmp_path: Path) -> None:
    own: Any = HieraForImageClassification.from_pretrained("hierax/femto")
    torch.save(own.state_dict(), tmp_path / "x.pth")
    found = load(tmp_path / "x.pth")
    assert isinstance(found, HieraForImageClassification)
    assert same(found, own)
    assert found.loading_report is not None
    assert found.loading_report.dialect == "hierax"


def test_our_own_state_dict_of_any_shape_asks_for_a_configuration(model: Any, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: its tensors fit no known variant; pass variant= .* or config="):
        load(tmp_path / "x.pth")
    assert same(load(tmp_path / "x.pth", config=CONFIG), model)


def test_the_state_dict_of_an_encoder_alone_is_read(model: Any, tmp_path: Path) -> None:
    torch.save(before("module.", model.encoder.state_dict()), tmp_path / "x.pth")
    assert same(Hiera.from_pretrained(tmp_path / "x.pth", config=CONFIG), model.encoder)


def test_our_own_state_dict_of_a_mae_is_one(tmp_path: Path) -> None:
    mae = randomize(HieraForPreTraining(image_config(num_query_pool=2)))
    torch.save({"model": mae.state_dict()}, tmp_path / "x.pth")
    assert same(load(tmp_path / "x.pth", config=image_config(num_query_pool=2)), mae)


def test_a_folder_of_transformers_trainer_without_a_configuration_opens(tmp_path: Path) -> None:
    own: Any = HieraForImageClassification.from_pretrained("hierax/femto")
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    save_file({n: t.clone() for n, t in own.state_dict().items()}, folder / "model.safetensors", {"format": "pt"})
    torch.save({"state": {}}, folder / "optimizer.pt")
    assert same(load(folder), own)


def test_a_model_of_features_is_read_from_a_file_that_convert_can_write_anew(model: Any, tmp_path: Path) -> None:
    femto = HieraModel.from_pretrained("hierax/femto")
    torch.save({"state_dict": before("model.", femto.state_dict())}, tmp_path / "x.ckpt")
    convert(tmp_path / "x.ckpt", tmp_path / "out")
    assert same(load(tmp_path / "out"), femto)
