"""The commands that run models, each for real on tiny ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.predict.classify import classify
from hierax.predict.features import features
from hierax.predict.reconstruct import draw_keep, reconstruct
from hierax.viz.sheets import Tile, sheet
from small import image_config

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)


def size_of(picture: str) -> tuple[int, int]:
    """Width and height of a picture file."""
    with Image.open(picture) as opened:
        return opened.size


def labels_of(model: str) -> dict[int, str]:
    return dict(hierax.load(model).config.id2label)


# -- classify


def test_classify_writes_a_line_for_each_picture(run: Run, classifier_folder: str) -> None:
    code, out, err = run("classify", "a", "b/dog.png", "--model", classifier_folder, "--top-k", "2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["a/cat.jpg", "b/dog.png"]
    assert all(line.count(" %") == 2 for line in out.splitlines())
    line = f"hierax: {classifier_folder}: weights under CC-BY-NC-4.0 (not for commercial use); "
    assert err.startswith(line)
    assert err.endswith(" on cpu\n")


def test_classify_as_json_is_one_object_a_line(run: Run, classifier_folder: str) -> None:
    code, out, _ = run("classify", "a/cat.jpg", "notes.txt", "--model", classifier_folder, "--json")
    good, bad = (json.loads(line) for line in out.splitlines())
    assert code == 3
    assert bad == {"path": "notes.txt", "error": "not an image (PNG, JPEG, WebP, … are read)"}
    assert good["path"] == "a/cat.jpg"
    assert {entry["index"]: entry["label"] for entry in good["predictions"]} == labels_of(classifier_folder)
    assert sum(entry["probability"] for entry in good["predictions"]) == pytest.approx(1)


def test_classify_agrees_with_the_model(here: Path, classifier_folder: str) -> None:
    model = hierax.HieraForImageClassification.from_pretrained(classifier_folder)
    processor = hierax.AutoImageProcessor.from_pretrained(classifier_folder)
    with torch.no_grad():
        wanted = model(**processor("a/cat.jpg")).logits[0].softmax(-1)
    (found,) = classify(["a/cat.jpg"], model=classifier_folder, top_k=1, precision="fp32")
    assert found.predictions[0].index == wanted.argmax()
    assert found.predictions[0].probability == pytest.approx(float(wanted.max()))
    assert found.predictions[0].label == model.config.id2label[int(wanted.argmax())]


def test_classify_at_another_size_shows_the_model_that_many_pixels(
    here: Path, classifier_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sizes = hierax.load(classifier_folder), []
    monkeypatch.setattr(type(model), "forward", _noting(type(model).forward, sizes))
    list(classify(["a/cat.jpg"], model=model, size=96))
    assert sizes == [(1, 3, 96, 96)]


def _noting(forward: Callable[..., Any], sizes: list[tuple[int, ...]]) -> Callable[..., Any]:
    def noted(self: Any, pixel_values: torch.Tensor, *rest: Any) -> Any:
        sizes.append(tuple(pixel_values.shape))
        return forward(self, pixel_values, *rest)

    return noted


def test_classify_refuses_a_model_without_classes(run: Run, mae_folder: str) -> None:
    code, _, err = run("classify", "a/cat.jpg", "--model", mae_folder)
    assert code == 2
    assert err.splitlines()[-1].startswith("hierax: this model is for mae; classify needs a classifier")


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_classify_refuses_a_top_k_that_is_no_count(run: Run, classifier_folder: str, value: str) -> None:
    code, _, err = run("classify", "a/cat.jpg", "--model", classifier_folder, f"--top-k={value}")
    assert code == 2
    assert f"--top-k: {value!r} is not a whole number above 0" in err


# -- features


def test_features_writes_the_maps_that_the_backbone_returns(run: Run, classifier_folder: str) -> None:
    exact = ("--precision", "fp32", "--backend", "torch")
    code, out, _ = run("features", "a/cat.jpg", "-o", "out", "--model", classifier_folder, *exact)
    assert (code, out) == (0, "a/cat.jpg: out/cat.npz, out/cat.png\n")
    stages = ("stage1", "stage2", "stage3", "stage4")
    backbone = hierax.HieraBackbone.from_pretrained(classifier_folder, out_features=stages)
    with torch.no_grad():
        wanted = backbone(**hierax.AutoImageProcessor.from_pretrained(classifier_folder)("a/cat.jpg")).feature_maps
    with np.load("out/cat.npz") as found:
        assert tuple(found) == stages
        for name, expected in zip(stages, wanted, strict=True):
            assert found[name].dtype == np.float32
            assert np.allclose(found[name], expected[0].numpy(), rtol=1e-4, atol=1e-5)


def test_features_overwrites_no_picture_with_another_of_its_name(run: Run, classifier_folder: str) -> None:
    assert run("features", "a", "b", "-o", "out", "--model", classifier_folder)[0] == 0
    names = {"a-cat", "b-cat", "dog", "owl"}
    assert {path.name for path in Path("out").iterdir()} == {f"{n}{s}" for n in names for s in (".npz", ".png")}


def test_features_replaces_files_only_when_told_to(run: Run, classifier_folder: str) -> None:
    command = ("features", "a", "-o", "out", "--model", classifier_folder)
    run(*command)
    Path("out/cat.png").write_text("mine")
    code, _, err = run(*command)
    assert code == 2
    assert "out/cat.npz and 1 more would be replaced" in err
    assert Path("out/cat.png").read_text() == "mine"
    assert run(*command, "--overwrite")[0] == 0
    assert run(*command, "--force")[0] == 0  # its former name
    assert size_of("out/cat.png")[0] > 1000


def test_features_of_the_whole_picture_keep_its_shape(run: Run, mae_folder: str) -> None:
    run("features", "a", "-o", "out", "--model", mae_folder, "--whole", "--size", "128")
    with np.load("out/cat.npz") as found:
        assert found["stage1"].shape == (8, 32, 40)  # 80 x 100 pixels become 128 x 160


def test_features_with_attention_adds_a_row_to_the_picture(run: Run, classifier_folder: str) -> None:
    run("features", "a", "-o", "plain", "--model", classifier_folder)
    run("features", "a", "-o", "attention", "--model", classifier_folder, "--attention")
    plain, attention = size_of("plain/cat.png"), size_of("attention/cat.png")
    assert attention[0] == plain[0]
    assert attention[1] > plain[1] + 200


def test_features_takes_a_loaded_model_and_skips_what_cannot_be_read(here: Path) -> None:
    model = hierax.HieraModel(image_config()).eval()
    results = list(features(["notes.txt", "a/cat.jpg"], "out", model=model))
    assert [result.error is None for result in results] == [False, True]
    assert sorted(path.name for path in Path("out").iterdir()) == ["cat.npz", "cat.png"]


# -- reconstruct


def test_reconstruct_makes_one_sheet_with_a_row_for_each_picture(run: Run, mae_folder: str) -> None:
    code, out, err = run("reconstruct", "a", "-o", "one/sheet.png", "--model", mae_folder)
    assert (code, out) == (0, "wrote one/sheet.png: 1 image\n")
    assert err.startswith(f"hierax: {mae_folder}: the checkpoint states no license for its weights; ")
    assert run("reconstruct", "a", "b", "-o", "four.png", "--model", mae_folder)[1] == "wrote four.png: 4 images\n"
    assert size_of("four.png")[1] > 3 * size_of("one/sheet.png")[1]


def test_reconstruct_hides_the_share_that_is_asked_for(here: Path, mae_folder: str) -> None:
    (found,) = reconstruct(["a/cat.jpg"], model=mae_folder, mask_ratio=0.75, size=128)
    assert [tile.title for tile in found.tiles] == ["cat.jpg", "visible", "reconstruction"]
    assert found.tiles[1].note == "4 of 16 mask units"


def test_reconstruct_of_an_encoder_alone_says_what_it_lacks(run: Run, tmp_path: Path) -> None:
    hierax.Hiera(image_config()).save_pretrained(tmp_path / "encoder")
    code, out, err = run("reconstruct", "a", "-o", "x.png", "--model", str(tmp_path / "encoder"))
    assert (code, out) == (2, "")
    assert "is an encoder without a decoder (as written by hierax.inflate, or by pretraining with target=hog)" in err


def test_reconstruct_says_whose_statistics_it_used(here: Path, mae_folder: str) -> None:
    visible, true = (
        next(reconstruct(["a/cat.jpg"], model=mae_folder, statistics=s)).tiles[2] for s in ("visible", "true")
    )
    assert visible.note == "brightness and contrast estimated from visible patches"
    assert "part of the answer is given" in true.note
    assert visible.picture.tobytes() != true.picture.tobytes()


def test_the_same_seed_hides_the_same_units() -> None:
    config = image_config()
    one, same, other = (draw_keep(config, (256, 256), mask_ratio=0.5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.sum() == 32


def test_drawing_a_mask_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    draw_keep(image_config(), (64, 64), mask_ratio=None, seed=0)
    for seed in ("x", 2**70, -1):
        with pytest.raises(ValueError, match=f"seed is {seed!r}; expected a whole number from 0 to"):
            draw_keep(image_config(), (64, 64), mask_ratio=None, seed=seed)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)


def test_reconstruct_refuses_a_model_that_is_no_mae_model(run: Run, classifier_folder: str) -> None:
    code, _, err = run("reconstruct", "a", "-o", "out.png", "--model", classifier_folder)
    assert code == 2
    assert "reconstruct needs an MAE model, such as hierax/femto.mae" in err
    assert not Path("out.png").exists()


def test_reconstruct_names_the_sizes_that_it_takes(run: Run, mae_folder: str) -> None:
    code, _, err = run("reconstruct", "a", "-o", "out.png", "--model", mae_folder, "--size", "100")
    assert code == 2
    assert "multiples of 32x32" in err


@pytest.mark.parametrize(
    ("kind", "count", "most"),
    [
        (".webp", 26, "25 rows; .png has up to 1,000"),
        (".jpg", 101, "100 rows; .png has up to 1,000"),
        (".png", 1001, "1,000 rows"),
    ],
)
def test_more_rows_than_an_image_can_have_are_refused_before_the_work(
    run: Run, mae_folder: str, kind: str, count: int, most: str
) -> None:
    for number in range(count):
        Path(f"a/{number}.png").write_bytes(b"")
    Path("a/cat.jpg").unlink()
    code, _, err = run("reconstruct", "a", "-o", f"out{kind}", "--model", mae_folder)
    assert err == f"hierax: --output out{kind}: {count:,} images; a {kind} file has at most {most}\n"
    assert (code, Path(f"out{kind}").exists()) == (2, False)


def test_as_many_rows_as_are_allowed_fit_into_a_webp(tmp_path: Path) -> None:
    tile = Tile(
        Image.new("RGB", (512, 512)), "a name that is long " * 4, "a note that is long enough for two lines " * 2
    )
    sheet([[tile]] * 25, heading="Masked reconstruction", note="model").save(tmp_path / "out.webp")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--mask-ratio=1.5", "between 0 and 1"),
        ("-o=out.gif", "for images, expected one of .png"),
        ("-o=out.txt", "not the name of an image"),
    ],
)
def test_reconstruct_refuses_options_before_it_begins(run: Run, option: str, said: str) -> None:
    code, _, err = run("reconstruct", "a", "-o", "out.png", option)
    assert code == 2
    assert said in err


# -- convert


@pytest.mark.parametrize("dialect", ["transformers", "official", "timm"])
def test_convert_writes_weights_that_load_again(run: Run, classifier_folder: str, dialect: str) -> None:
    code, out, err = run("convert", classifier_folder, "out", "--to", dialect)
    assert code == 0
    assert out.splitlines()[:2] == [
        f"read {classifier_folder} (transformers)",
        f"wrote out ({dialect}): HieraForImageClassification, 0.1 M parameters",
    ]
    assert {line.split()[0] for line in out.splitlines()[2:]} == {str(path) for path in Path("out").iterdir()}
    assert "CC-BY-NC-4.0" in err
    before, after = (next(classify(["a/cat.jpg"], model=source)) for source in (classifier_folder, "out"))
    assert [p.index for p in after.predictions] == [p.index for p in before.predictions]


def test_convert_replaces_weights_only_when_told_to(run: Run, classifier_folder: str) -> None:
    command = ("convert", classifier_folder, "out", "--to", "transformers")
    run(*command)
    code, _, err = run(*command)
    assert code == 2
    assert "model.safetensors would be replaced" in err
    assert run(*command, "--overwrite")[0] == 0


def test_convert_changes_the_kind_of_position_embedding(run: Run, classifier_folder: str) -> None:
    assert run("convert", classifier_folder, "out", "--to", "transformers", "--pos-embed", "abswin")[0] == 0
    assert hierax.load("out").config.position_embedding == "abs_win"


def test_convert_says_what_a_dialect_cannot_express(run: Run, classifier_folder: str) -> None:
    code, _, err = run("convert", classifier_folder, "out.pth", "--to", "official", "--pos-embed", "abswin")
    assert code == 2
    assert "official" in err
    assert not Path("out.pth").exists()
