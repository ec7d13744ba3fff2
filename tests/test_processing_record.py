"""The preprocessing record: the dialects it reads, what it refuses, what it writes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from transformers import BitImageProcessorPil

from hierax.processing import IMAGENET, KINETICS, AutoImageProcessor, Preprocessing

HIERA = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}


def test_the_defaults_are_the_record_of_the_published_image_checkpoints() -> None:
    assert Preprocessing().to_dict() == HIERA
    assert Preprocessing.from_dict(HIERA) == IMAGENET


def test_a_written_record_is_read_back_equal_with_its_unknown_keys(tmp_path: Path) -> None:
    record = Preprocessing.from_dict({**HIERA, "size": {"shortest_edge": 300}, "hub_note": {"a": [1, 2]}, "fps": 25})
    assert record.write(tmp_path) == tmp_path / "preprocessor_config.json"
    assert Preprocessing.read(tmp_path) == record
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["hub_note"] == {"a": [1, 2]}


def test_transformers_reads_a_written_record(tmp_path: Path) -> None:
    IMAGENET.replace(size=300, resample="bilinear", image_mean=(0.1, 0.2, 0.3)).write(tmp_path)
    theirs = BitImageProcessorPil.from_pretrained(tmp_path)
    assert dict(theirs.size) == {"shortest_edge": 300}
    assert (theirs.resample, list(theirs.image_mean)) == (2, [0.1, 0.2, 0.3])


def test_a_record_written_by_transformers_is_read(tmp_path: Path) -> None:
    BitImageProcessorPil(size={"shortest_edge": 248}, crop_size={"height": 200, "width": 224}).save_pretrained(tmp_path)
    record = Preprocessing.read(tmp_path)
    assert record.size == {"shortest_edge": 248}
    assert record.crop_size == {"height": 200, "width": 224}
    assert record.image_mean == (0.48145466, 0.4578275, 0.40821073)


def test_writing_leaves_one_file_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Preprocessing().write(tmp_path)

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        IMAGENET.replace(size=7).write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["preprocessor_config.json"]
    assert Preprocessing.read(tmp_path) == IMAGENET


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("do_resize", 1, "true or false"),
        ("size", {"longest_edge": 3}, "shortest_edge"),
        ("size", {"height": 3}, "'height': pixels, 'width': pixels"),
        ("size", 0, "whole number above 0"),
        ("resample", 9, "3 (bicubic)"),
        ("resample", "cubic", "3 (bicubic)"),
        ("resample", True, "3 (bicubic)"),
        ("crop_size", {"height": 3, "width": "3"}, "'height': pixels, 'width': pixels"),
        ("rescale_factor", 0, "a number above 0"),
        ("rescale_factor", float("nan"), "a number above 0"),
        ("image_mean", [], "one per channel"),
        ("image_mean", [0.5, "0.5", 0.5], "one per channel"),
        ("image_std", [0.5, 0.0, 0.5], "numbers above 0"),
        ("image_std", [0.5], "as many numbers as image_mean has (3)"),
        ("image_processor_type", 3, "the name of a class"),
        ("num_frames", 0, "a whole number above 0"),
        ("fps", -1, "a number above 0"),
    ],
)
def test_a_bad_value_is_named_with_its_field_and_what_is_allowed(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} is ") as caught:
        Preprocessing.from_dict({**HIERA, field: value})
    shown = [float("nan")] if value != value else value
    assert repr(shown if isinstance(value, list) else value) in str(caught.value)
    assert allowed in str(caught.value)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    for text in ("not json", "[1]", '{"size": -1}'):
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(ValueError, match=r"preprocessor_config\.json: "):
            Preprocessing.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        Preprocessing.read(tmp_path / "missing")


def test_numbers_stand_for_edges_and_names_for_interpolations() -> None:
    record = IMAGENET.replace(size=300, crop_size=280, resample="lanczos")
    assert record.size == {"shortest_edge": 300}
    assert record.crop_size == {"height": 280, "width": 280}
    assert record.resample == 1


def test_null_fields_take_the_defaults() -> None:
    assert Preprocessing.from_dict({**HIERA, "do_convert_rgb": None, "resample": None}) == IMAGENET


def test_a_record_that_squashes_and_names_no_crop_has_none() -> None:
    squashing = {"size": {"height": 1024, "width": 1024}}
    assert not Preprocessing.from_dict(squashing).do_center_crop
    assert Preprocessing.from_dict({**squashing, "crop_size": 224}).do_center_crop


def test_replace_checks_names_and_values() -> None:
    assert IMAGENET.replace(size=300).size == {"shortest_edge": 300}
    with pytest.raises(TypeError, match=r"'mean' is not a field .* image_mean"):
        IMAGENET.replace(mean=[0.5])
    with pytest.raises(ValueError, match="resample is 17"):
        IMAGENET.replace(resample=17)


def test_a_record_is_hashable_and_survives_pickling() -> None:
    record = Preprocessing.from_dict({**HIERA, "note": [1]})
    assert len({record, Preprocessing.from_dict({**HIERA, "note": [1]})}) == 1
    assert pickle.loads(pickle.dumps(record)) == record


def test_timm_records_resize_to_the_floor_of_size_over_crop_pct() -> None:
    cfg: dict[str, Any] = {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", "license": "…"}
    record = Preprocessing.from_timm({**cfg, "mean": [0.5, 0.5, 0.5], "std": (0.2, 0.2, 0.2)})
    assert (record.size, record.crop_size) == ({"shortest_edge": 248}, {"height": 224, "width": 224})
    assert (record.image_mean, record.image_std, record.resample) == ((0.5,) * 3, (0.2,) * 3, 3)
    abswin = Preprocessing.from_timm(
        {**cfg, "input_size": (3, 256, 256), "crop_pct": 0.95, "interpolation": "bilinear"}
    )
    assert (abswin.size, abswin.resample, abswin.image_mean) == ({"shortest_edge": 269}, 2, IMAGENET.image_mean)
    squash = Preprocessing.from_timm({**cfg, "crop_mode": "squash", "crop_pct": 1.0})
    assert squash.size == {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("field", "value"),
    [("input_size", [3, 224, 192]), ("crop_pct", -1), ("crop_mode", "border"), ("interpolation", "random")],
)
def test_timm_records_without_a_counterpart_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} is .*; expected "):
        Preprocessing.from_timm({field: value})


def test_the_video_record_carries_the_clip() -> None:
    written = KINETICS.to_dict()
    assert (written["num_frames"], written["sampling_rate"], written["fps"]) == (16, 4, 30)
    assert written["image_mean"] == [0.45] * 3
    assert written["image_std"] == [0.225] * 3
    assert "num_frames" not in IMAGENET.to_dict()
    assert Preprocessing.from_dict(written) == KINETICS


def test_a_folder_without_anything_of_a_checkpoint_has_no_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config.json, no config.json and no weights"):
        AutoImageProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": {"shortest_edge": 183}, "crop_size": 160},
        {"size": {"height": 96, "width": 96}, "crop_size": 96, "resample": 2},
        {"image_mean": (0.1, 0.2, 0.3), "image_std": (0.4, 0.5, 0.6)},
        {"size": {"shortest_edge": 248}, "crop_size": 224},
    ],
)
def test_the_settings_of_timm_mean_the_same_record(changes: dict[str, Any]) -> None:
    record = Preprocessing(**changes)
    side = record.crop_size["height"]
    assert Preprocessing.from_timm({"input_size": (3, side, side), **record.to_timm()}) == record


def test_what_timm_cannot_express_is_left_out() -> None:
    assert Preprocessing(do_rescale=False).to_timm() == {}
    assert "crop_pct" not in Preprocessing(crop_size={"height": 64, "width": 96}).to_timm()
    whole = Preprocessing(size={"height": 96, "width": 96}, do_center_crop=False).to_timm()
    assert (whole["crop_pct"], whole["crop_mode"]) == (1.0, "squash")
