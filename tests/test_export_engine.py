"""The engine on an export, and on one that is damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from exports import Exported, copied, engine_of, few, truth
from hierax import Engine
from hierax.engine.backends.exported import is_export
from small import relative

pytest_plugins = ("exports",)


# -- the engine on an export ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["pt2", "onnx", "openvino"])
def test_an_engine_runs_an_export_on_pictures_and_pixels(exported: Exported, format: str) -> None:
    model, folder, _ = exported("classifier", format)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    with engine_of(folder, threads=1) as engine:
        x = engine.processor([picture, picture]).pixel_values
        assert x.shape[2:] == model.config.image_size
        expected = truth(model, x)[0]
        assert relative(engine([picture, picture]).logits, expected) < 1e-5
        assert relative(engine(x).logits, expected) < 1e-5
        assert engine.config.id2label == model.config.id2label


def test_an_engine_of_a_mae_export_gives_loss_and_mask(exported: Exported) -> None:
    model, folder, _ = exported("mae", "openvino")
    x, noise = few(model), torch.rand(3, 4)
    with engine_of(folder) as engine, torch.no_grad():
        found, expected = engine(x, noise=noise), model(x, noise=noise)
        assert relative(found.logits, expected.logits) < 1e-5
        assert found.loss == pytest.approx(float(expected.loss), rel=1e-5)
        assert torch.equal(found.bool_masked_pos, expected.bool_masked_pos)
        with pytest.raises(ValueError, match=r"1 mask units are visible; .* was exported for 2 alone"):
            engine(x, keep=torch.eye(4, dtype=torch.bool)[:3])


def test_an_engine_refuses_sizes_that_were_not_exported(exported: Exported) -> None:
    model, folder, _ = exported("classifier", "openvino")
    with engine_of(folder) as engine:
        with pytest.raises(ValueError, match=r"pixels are 96x64; .* was exported for 64x64 alone"):
            engine(few(model, 1, (96, 64)))
        assert engine(few(model)).logits.shape == (3, 5)


@pytest.mark.parametrize(
    "asked",
    [
        {"precision": "int8"}, {"backend": "torch"}, {"task": "features"}, {"hidden_states": True},
        {"device": "cuda"}, {"out_features": ("stage1",)},
    ],
)  # fmt: skip
def test_an_engine_refuses_what_an_export_is_not(exported: Exported, asked: dict[str, Any]) -> None:
    _, folder, _ = exported("classifier", "openvino")
    with pytest.raises(ValueError, match=rf"{next(iter(asked))} is .* is an export for the CPU \(openvino, fp32"):
        Engine(folder, **asked)


def test_an_engine_takes_what_an_export_is(exported: Exported) -> None:
    _, folder, _ = exported("classifier", "openvino")
    with Engine(folder, precision="fp32", backend="openvino", task="classification", device="cpu") as engine:
        assert (engine.precision, engine.backend, engine.device.type) == ("fp32", "openvino", "cpu")


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openvino_model.bin", "openvino_model.xml", "config.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "altered"])
def test_a_damaged_export_names_the_file(exported: Exported, tmp_path: Path, name: str, damage: str) -> None:
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] if damage == "short" else bytes([content[0] ^ 1]) + content[1:])
    if damage == "missing":
        (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"copy/{name}: is (missing|not the exported file)"):
        Engine(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "format": "tflite"}', "\x00"])
def test_a_record_that_is_none_is_named(exported: Exported, tmp_path: Path, text: str) -> None:
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    (folder / "export.json").write_text(text)
    with pytest.raises(ValueError, match=r"export\.json: is not a record of an export"):
        Engine(folder)


def test_a_record_of_a_later_version_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    values = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**values, "version": 99}))
    with pytest.raises(ValueError, match="version 99 was written by a later hierax"):
        Engine(folder)


@pytest.mark.parametrize(("format", "file"), [("pt2", "model.pt2"), ("openvino", "openvino_model.xml")])
def test_an_engine_opens_an_export_by_its_folder_or_its_file(format: str, file: str, exported: Exported) -> None:
    model, folder, _ = exported("classifier", format)
    for source in (folder, folder / file, str(folder / file)):
        assert is_export(source)
        with engine_of(source, threads=1) as engine:
            assert engine.task == "classification"
            assert dict(engine.config.id2label) == dict(model.config.id2label)
            assert engine.preprocessing.crop_size == {"height": 64, "width": 64}
            assert engine.license == model.license


def test_a_file_without_its_folder_is_an_error_that_says_so(exported: Exported, tmp_path: Path) -> None:
    _, folder, _ = exported("classifier", "pt2")
    (alone := tmp_path / "model.pt2").write_bytes((folder / "model.pt2").read_bytes())
    with pytest.raises(ValueError, match=r"model\.pt2: is not an export of hierax \(no export\.json beside it\)"):
        engine_of(alone)


def test_another_file_in_the_folder_of_an_export_is_an_error(exported: Exported, tmp_path: Path) -> None:
    folder = copied(exported("classifier", "pt2")[1], tmp_path / "copy")
    (folder / "other.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"other\.onnx: is not the file of this export; expected .*model\.pt2"):
        engine_of(folder / "other.onnx")


def test_the_guides_program_of_onnx_runtime_alone_gives_what_the_engine_gives(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (Path(__file__).parents[1] / "docs" / "engine.md").read_text(encoding="utf-8")
    (program,) = [
        b for b in re.findall(r"^```python\n(.*?)^```$", guide, flags=re.DOTALL | re.M) if "onnxruntime.Inf" in b
    ]
    _, folder, _ = exported("classifier", "onnx")
    (tmp_path / "tiny-onnx").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    with engine_of(folder, threads=1) as engine:
        for size in ((90, 171), (133, 70), (64, 64)):
            Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save("photo.png")
            found: dict[str, Any] = {}
            exec(program.replace("photo.jpg", "photo.png"), found)
            assert relative(torch.from_numpy(found["logits"]), engine("photo.png").logits) < 1e-5
