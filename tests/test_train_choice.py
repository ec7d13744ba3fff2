"""What a run does where nothing is said: by the machine and the number of samples."""

import json
from pathlib import Path
from typing import Any

import pytest

from hierax.train import RunExists, finetune, pretrain
from hierax.train.choice import choose, default_source, epochs_for, largest_batch
from hierax.train.modes import MODES
from hierax.train.recipes import recipe
from hierax.train.request import Request, finished_message, resolve_choice
from samples import Listed
from training import ALONE, pictures

TASKS = ("pretrain", "finetune")
QUICK = ("epochs=1", "image_size=64", "workers=0", "batch_size=4")


@pytest.mark.parametrize(
    ("samples", "batch"), [(1, 4), (24, 4), (47, 4), (48, 8), (60, 8), (96, 16), (200, 32), (10**6, 32)]
)
def test_an_epoch_has_six_steps_if_the_data_gives_them(samples: int, batch: int) -> None:
    assert largest_batch(samples, 32) == batch


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("place", ["cpu", "gpu"])
def test_little_data_is_seen_often_and_much_data_a_few_times(task: str, place: str) -> None:
    found = [epochs_for(task, place, samples) for samples in (10, 100, 1_000, 10_000, 100_000, 10**7)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] >= 3


def test_a_cpu_is_not_asked_for_more_than_it_can_do() -> None:
    """Twenty thousand images of femto are minutes on two cores; the least is three epochs."""
    for task in TASKS:
        for samples in (20, 200, 2_000, 6_000):
            found = choose(task, device="cpu", samples=samples, source=f"hierax/femto{'.mae' * (task == 'pretrain')}")
            assert found.recipe.epochs * samples <= 21_000
            assert found.recipe.precision == "fp32"


@pytest.mark.parametrize("task", TASKS)
def test_the_machine_decides_and_the_reason_says_so(task: str) -> None:
    cpu, gpu = (choose(task, device=device, samples=60, source=None) for device in ("cpu", "cuda"))
    assert cpu.recipe.name == gpu.recipe.name + "_cpu"
    assert cpu.reason.startswith(f"recipe {cpu.recipe.name}, for a CPU and 60 images: ")
    assert gpu.reason.startswith(f"recipe {gpu.recipe.name}, for a GPU and 60 images: ")
    assert f"{cpu.recipe.epochs} epochs, batches of 8" in cpu.reason


def test_where_few_are_validated_on_the_last_weights_are_kept() -> None:
    shared: Any = {"device": "cpu", "samples": 60, "source": None}
    kept = {n: choose("finetune", validation_samples=n, **shared).recipe.weights for n in (9, 50)}
    assert kept == {9: "last", 50: "best"}
    assert choose("finetune", device="cpu", samples=60, source=None).recipe.weights == "last"
    assert choose("finetune", device="cpu", samples=600, source=None).recipe.weights == "best"
    few = choose("finetune", device="cpu", samples=60, validation_samples=6, source=None)
    assert few.reason.count("too few validation samples") == 1


@pytest.mark.parametrize(("settings", "weights"), [((), "last"), (("validation_fraction=0.5",), "best")])
def test_the_validation_fraction_that_is_set_counts_for_the_choice(settings: tuple[str, ...], weights: str) -> None:
    data: Any = Listed([b""] * 120, [0] * 120, classes=2)
    request = Request(MODES["finetune"], "data", "hierax/femto", None, None, settings)
    assert resolve_choice(request, None, None, (data, None), ALONE).recipe.weights == weights


def test_femto_is_the_start_for_images_unless_an_architecture_is_named() -> None:
    def start(task: str, *settings: str, pictures: bool = True, device: str = "cpu", samples: int = 60) -> str | None:
        return default_source(task, device=device, samples=samples, pictures=pictures, settings=settings)

    assert (start("pretrain"), start("finetune")) == ("hierax/femto.mae", "hierax/femto")
    assert start("finetune", "epochs", "num_channels", "image_size", "drop_path") == "hierax/femto"
    assert start("finetune", "model") is start("pretrain", "embed_dim") is start("pretrain", "decoder_depth") is None
    assert start("pretrain", pictures=False) is None
    assert start("pretrain", device="cuda", samples=10**6) is None
    assert start("finetune", device="cuda", samples=10**6) == "hierax/femto"


def test_fresh_weights_learn_in_all_layers_alike() -> None:
    assert choose("finetune", device="cpu", samples=60, source=None).recipe.layer_decay == 1
    assert choose("finetune", device="cpu", samples=60, source="hierax/femto").recipe.layer_decay == 0.65


def test_a_run_without_a_recipe_takes_what_fits_and_takes_it_again(tmp_path: Path, capsys: Any) -> None:
    data, out = pictures(tmp_path / "data", each=4), tmp_path / "run"
    finetune(data, out=out, settings=QUICK, device="cpu")
    said = capsys.readouterr().err
    run = json.loads((out / "run.json").read_text())
    assert run["from"] == "hierax/femto"
    assert (run["recipe"]["name"], run["recipe"]["epochs"]) == ("finetune_tiny_small_data_cpu", 1)
    assert "recipe finetune_tiny_small_data_cpu, for a CPU and 8 images: model/ gets the last weights" in said
    assert "20 epochs" not in said  # the settings state others
    assert "2 classes: class0 (4), class1 (4)" in said
    assert "starts from hierax/femto" in said
    assert "only 1 sample to validate on" in said
    pictures(data / "more", classes=1, each=90)
    finetune(data, out=out, settings=QUICK, device="cpu")
    assert "is already finished: model: step 1 of 1, top-1 " in capsys.readouterr().err
    with pytest.raises(RunExists, match="epochs was 1, now 2"):
        finetune(data, out=out, settings=("epochs=2", *QUICK[1:]), device="cpu")


def test_pretraining_of_a_named_recipe_starts_from_nothing_as_before(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", each=4)
    tiny = ("embed_dim=8", "depths=[1,1,1,1]", "num_heads=[1,1,1,1]", "decoder_hidden_size=16", "decoder_depth=1",
            "decoder_num_heads=2")  # fmt: skip
    named = recipe("mae_tiny_small_data_cpu")
    run = pretrain(data, out=tmp_path / "run", recipe=named, settings=(*tiny, *QUICK), device="cpu", quiet=True)
    assert json.loads((run / "run.json").read_text())["from"] is None


def test_a_finished_run_without_facts_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    told = finished_message(tmp_path, {"result": {"steps": 3, "weights": "last", "last": {"top1": 0.5}}})
    assert told.startswith(f"{tmp_path} is already finished: model: step 3 of 3, top-1 50.0 %")
