"""What objects look like at a prompt and in a debugger: short, with shapes instead of numbers, and never an error."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hierax
from hierax.model.outputs import Output
from hierax.reprs.text import described
from public_surface import PACKAGES

PUBLIC = [package for package in PACKAGES if not package.startswith("hierax.integrations")]


def classes() -> Iterator[type]:
    """The public classes whose objects can exist, without errors and protocols."""
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and not issubclass(value, BaseException) and not inspect.isabstract(value):
                yield value


@pytest.fixture(scope="module")
def model() -> hierax.HieraForImageClassification:
    return hierax.HieraForImageClassification.from_pretrained("hierax/femto")


# -- models -------------------------------------------------------------------------------------------------------


def test_the_repr_of_a_model_is_one_line_with_what_matters(model: hierax.Pretrained) -> None:
    assert repr(model) == (
        "HieraForImageClassification(hiera_femto_160 from 'hierax/femto', 2.9 M parameters, 160x160 pixels, "
        "30 classes, Apache-2.0, float32 on cpu)"
    )


def test_printing_a_model_shows_its_modules_as_pytorch_does(model: nn.Module) -> None:
    assert str(model) == nn.Module.__repr__(model)
    assert f"{model}".count("\n") > 90
    assert "(encoder): Hiera(\n    (patch_embed): PatchEmbed(" in str(model)


@pytest.mark.parametrize("wrap", [nn.Sequential, lambda model: nn.ModuleList([model]), nn.DataParallel])
def test_printing_a_module_that_contains_a_model_shows_the_modules_of_both(wrap: Any, model: nn.Module) -> None:
    assert repr(wrap(model)).count("(norm1): LayerNorm") == str(model).count("(norm1): LayerNorm") > 4


def test_a_model_in_a_list_is_one_line(model: nn.Module) -> None:
    assert repr([model]) == f"[{model!r}]"


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: hierax.create_model("mae_hiera_femto_160"), "decoder of 2 blocks, 60 % masked"),
        (lambda: hierax.HieraBackbone.from_pretrained("hierax/femto", out_features=["stage2"]), "maps of stage2"),
        (lambda: hierax.create_model("hiera_femto_160"), "in training mode"),
        (lambda: hierax.create_model("hiera_femto_160", num_channels=8), "160x160 pixels, 8 channels"),
        (lambda: hierax.create_model("hiera_femto_160", embed_dim=16), "an architecture without a name"),
        (lambda: hierax.HieraForSemanticSegmentation(hierax.HieraConfig(num_labels=7)), "7 classes for each pixel"),
        (lambda: hierax.create_model("hiera_femto_160").half().to("meta"), "float16 on meta"),
        (lambda: hierax.create_model("hiera_femto_160"), "no license stated"),
    ],
)
def test_the_repr_of_a_model_says_what_is_special(build: Any, expected: str) -> None:
    with torch.device("meta"):
        built = build()
    assert expected in repr(built)
    assert "\n" not in repr(built)


def test_every_variant_is_known_by_its_configuration() -> None:
    for name in hierax.list_models("*_224"):
        if not name.startswith("mae_"):
            with torch.device("meta"):
                assert f"({name}," in repr(hierax.create_model(name))


def test_frozen_weights_are_told(model: hierax.Pretrained) -> None:
    copy = hierax.load("hierax/femto")
    copy.encoder.requires_grad_(False)
    assert "2.9 M parameters, 10,270 of them trained" in repr(copy)


# -- outputs ------------------------------------------------------------------------------------------------------


def test_outputs_show_shapes_and_dtypes_not_numbers(model: nn.Module) -> None:
    with torch.inference_mode():
        out = model(torch.zeros(2, 3, 64, 96), output_hidden_states=True)
    assert repr(model(torch.zeros(2, 3, 32, 32))) == "ClassifierOutput(logits=float32 [2, 30])"
    assert "hidden_states=(float32 [2, 384, 40], " in repr(out)
    assert len(repr(out)) < 500


def test_a_loss_is_a_number(model: nn.Module) -> None:
    out = model(torch.zeros(1, 3, 32, 32), labels=torch.tensor([1]))
    assert repr(out).startswith(f"ClassifierOutput(loss=float32 [] {out.loss.item():.6g}, ")


@pytest.mark.parametrize("batch", [0, 3])
def test_tensors_without_numbers_have_a_repr(batch: int) -> None:
    out = hierax.HieraModelOutput(
        last_hidden_state=torch.empty(batch, 5, device="meta"), pooler_output=torch.tensor(1.0, device="meta")
    )
    assert repr(out) == (
        f"HieraModelOutput(last_hidden_state=float32 [{batch}, 5] on meta, pooler_output=float32 [] on meta)"
    )


def test_an_output_is_shown_inside_vmap_and_while_it_is_traced(model: nn.Module) -> None:
    shown = []

    def run(x: torch.Tensor) -> torch.Tensor:
        shown.append(repr(hierax.ClassifierOutput(loss=x.sum(), logits=x)))
        return x

    torch.vmap(run)(torch.zeros(2, 3))
    assert shown == ["ClassifierOutput(loss=float32 [], logits=float32 [3])"]


def test_a_batch_shows_shapes() -> None:
    batch = hierax.AutoImageProcessor.from_pretrained("hierax/femto")(
        np.zeros((9, 9, 3), np.uint8), return_tensors="pt"
    )
    assert repr(batch) == "BatchFeature(pixel_values=float32 [1, 3, 160, 160])"


# -- everything ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", sorted(set(classes()), key=str))
def test_an_object_that_is_half_made_has_a_short_repr(cls: Any) -> None:
    """A debugger asks for it before `__init__` has run, too."""
    try:
        half = cls.__new__(cls)
    except TypeError:  # a protocol, or a class that needs arguments
        return
    assert len(repr(half)) < 2000
    assert str(half) is not None
    html = getattr(half, "_repr_html_", lambda: None)()
    assert html is None or isinstance(html, str)


def test_the_configuration_names_what_differs_from_the_base_model() -> None:
    assert repr(hierax.HieraConfig()) == "HieraConfig()"
    small = hierax.HieraConfig(image_size=(160, 160), depths=(1, 2, 5, 1), id2label={0: "a", 1: "b"})
    assert repr(small) == "HieraConfig(depths=(1, 2, 5, 1), num_labels=2, id2label={0: 'a', 1: 'b'})"
    assert len(repr(hierax.HieraConfig(id2label={i: f"name {i}" for i in range(5000)}))) < 300


def test_an_open_checkpoint_does_not_print_its_weights() -> None:
    opened = hierax.open_checkpoint("hierax/femto")
    assert repr(opened) == (
        f"Checkpoint('hierax/femto', classification, {len(opened.tensors)} tensors, transformers format, Apache-2.0)"
    )


def test_a_dataset_shows_its_numbers(tmp_path: Path) -> None:
    photos = Path(hierax.__file__).parent / "assets" / "photos"
    count = len(list(photos.glob("*.jpg")))
    assert repr(hierax.data.open_dataset(photos)) == f"FolderDataset({count} samples, no classes)"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((2, 3), np.uint8), "uint8 [2, 3]"),
        (np.float64(1.5), "float64 [] 1.5"),
        (torch.zeros(2, 1, dtype=torch.bfloat16), "bfloat16 [2, 1]"),
        ([torch.zeros(2)] * 2, "[float32 [2], float32 [2]]"),
        (list(range(100)), "[0, 1, 2, 3, … 100 in all]"),
        (b"\x00" * 1000, "<1,000 bytes>"),
        (Path("a/b"), "'a/b'"),
        (1 / 3, "0.333333"),
        ("x" * 999, f"'{'x' * 199}…"),
        ("\x1b[31m\u202e", r"'\x1b[31m\u202e'"),
        (Broken(), "<Broken, which cannot be shown: RuntimeError>"),
        ([Broken()], "[<Broken, which cannot be shown: RuntimeError>]"),
        ({}, "{}"),
        ((1,), "(1,)"),
    ],
)
def test_a_value_is_described_in_short(value: Any, expected: str) -> None:
    assert described(value) == expected


def test_values_within_each_other_are_bounded() -> None:
    deep: list[Any] = []
    inner = deep
    for _ in range(1000):
        inner.append([None] * 50)
        inner = inner[-1]
        inner[0] = []
        inner = inner[0]
    assert len(described(deep)) < 1000
    circle: dict[str, Any] = {}
    circle["again"] = circle
    assert len(described(circle)) < 1000


def test_outputs_of_users_have_the_repr_too() -> None:
    class Mine(Output):
        pass

    assert Mine.__repr__ is object.__repr__  # a dataclass decorator of the user decides
