import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import hierax
from hierax.model.config import list_models
from hierax.model.encoder import Hiera
from hierax.model.registry import create_model
from hierax.model.tasks import (
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
)
from small import fresh_seed, image_config, pixels, relative, units_of
from tasks import PAIRS, TASKS, make, total

# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        ("hiera_tiny_224", HieraForImageClassification, 1000),
        ("hiera_base_16x224", HieraForVideoClassification, 400),
        ("mae_hiera_tiny_224", HieraForPreTraining, None),
        ("mae_hiera_base_16x224", HieraForPreTraining, None),
        ("hiera_small_abswin_256", HieraForImageClassification, 1000),
    ],
)
def test_names_give_the_models_that_the_published_code_gives(name: str, kind: type, labels: int | None) -> None:
    with torch.device("meta"):
        model: Any = create_model(name)
    assert type(model) is kind
    if labels:
        assert model.head.weight.shape[0] == labels


def test_every_listed_model_can_be_made_and_nothing_else() -> None:
    assert len(list_models()) == len(set(list_models())) == 28
    assert list_models("mae_*") == tuple(name for name in list_models() if name.startswith("mae_"))
    assert list_models("nothing*") == ()
    for name in hierax.list_models():
        with torch.device("meta"):
            create_model(name)
    with pytest.raises(
        ValueError, match=r"'hiera_nano_224' is not a variant.*; variants are hiera_femto_160, hiera_tiny_224"
    ):
        create_model("hiera_nano_224")


def test_overrides_are_fields_of_the_configuration() -> None:
    with torch.device("meta"):
        model: Any = create_model("hiera_tiny_224", num_labels=7, num_channels=4, num_query_pool=2, depths=(1, 1, 1, 1))
    assert model.head.weight.shape == (7, 768)
    assert model.config.depths == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"'num_classes' is not a field .*did you mean num_labels\?\)$"):
        create_model("hiera_tiny_224", num_classes=7)
    with pytest.raises(ValueError, match="drop_path_rate is 2; expected"):
        create_model("hiera_tiny_224", drop_path_rate=2)


# -- what all models share --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_every_parameter_gets_a_gradient(kind: str, task: str) -> None:
    model = make(kind, task).train()
    total(task, model(pixels(model.config))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_models_can_be_pickled_and_copied(kind: str, task: str) -> None:
    model = make(kind, task)
    x = pixels(model.config)
    mask = {"keep": (torch.arange(units_of(model.config)) % 2 == 0).expand(2, -1)} if task == "mae" else {}
    buffer = io.BytesIO()
    torch.save(model, buffer)
    with torch.no_grad():
        expected = total(task, model(x, **mask))
        for twin in (
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            torch.load(io.BytesIO(buffer.getvalue()), weights_only=False),
        ):
            assert torch.equal(total(task, twin(x, **mask)), expected)
            assert twin.config == model.config


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_half_precision_runs_forward_and_backward(kind: str, task: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = make(kind, task, std=0.05)
    sizes = [None, [n + 32 for n in model.config.image_size]]
    if task != "mae":
        sizes.append([n - 3 for n in model.config.image_size])
    for size in sizes if model.config.axes < 3 else sizes[:1]:  # PyTorch computes 3-D convolutions in fp16 slowly
        x = pixels(model.config, size=size)
        mask = {"noise": torch.rand(2, units_of(model.config, size))} if task == "mae" else {}
        low = copy.deepcopy(model).to(dtype).train()
        assert low.dtype == dtype
        got, expected = low(x, **mask), model(x, **mask)
        loss = total(task, got)
        loss.backward()
        for name in ("logits", "pooler_output"):
            if name in expected:
                assert got[name].dtype == dtype
                assert relative(got[name], expected[name]) < (0.05 if dtype == torch.bfloat16 else 0.01), (name, size)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in low.parameters())


def test_the_loss_of_half_precision_models_is_in_float32() -> None:
    x = pixels(image_config())
    assert make("image", "mae").bfloat16()(x).loss.dtype == torch.float32
    assert make("image", "classification").half()(x, torch.tensor([0, 1])).loss.dtype == torch.float32


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_autocast_to_bfloat16_trains_in_float32_weights(kind: str, task: str) -> None:
    torch.manual_seed(0)
    model = make(kind, task, std=0.05).train()
    x = pixels(model.config)
    mask = {"noise": torch.rand(2, units_of(model.config))} if task == "mae" else {}
    expected = total(task, model(x, **mask)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(task, model(x, **mask))
    loss.backward()
    assert relative(loss.detach().reshape(1), expected.reshape(1)) < 0.05
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_autocast_really_computes_in_bfloat16() -> None:
    model = make("image", "classification")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert model(pixels(model.config)).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pixels_are_taken_in_any_floating_point_type(dtype: torch.dtype) -> None:
    model = make("image", "features")
    x = pixels(model.config).to(dtype)
    with torch.no_grad():
        assert torch.equal(model(x).pooler_output, model(x.float()).pooler_output)


@pytest.mark.parametrize("task", ["features", "classification", "mae"])
@torch.no_grad()
def test_memory_layout_of_pixels_does_not_matter(task: str) -> None:
    model = make("image", task).double()
    x = pixels(model.config, dtype=torch.float64)
    strided = pixels(model.config, 4, size=(64, 128), dtype=torch.float64)[::2, :, :, ::2].copy_(x)
    mask = {"noise": torch.rand(2, 4)} if task == "mae" else {}
    expected = total(task, model(x, **mask))
    for same in (strided, x.contiguous(memory_format=torch.channels_last), x.expand(2, 3, 64, 64)):
        torch.testing.assert_close(total(task, model(same, **mask)), expected)


@pytest.mark.parametrize("task", ["features", "classification", "mae"])
def test_recomputing_blocks_reaches_the_encoder_of_every_task_and_keeps_the_gradients(task: str) -> None:
    seed = fresh_seed()
    model = make("image", task, drop_path_rate=0.3).double().train()
    x, grads = pixels(model.config, dtype=torch.float64), []
    for enabled in (False, True):
        model.zero_grad()
        model.gradient_checkpointing_enable(enabled)
        assert model.encoder.gradient_checkpointing is enabled
        torch.manual_seed(seed)
        total(task, model(x)).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", [HieraModel, HieraBackbone, HieraForImageClassification, HieraForPreTraining, Hiera])
def test_models_take_a_configuration_and_nothing_like_one(kind: Any) -> None:
    with pytest.raises(TypeError, match="config is a dict; expected a HieraConfig"):
        kind({"embed_dim": 8})


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 1, 64, 64), r"shape \[1, 1, 64, 64\]; expected \[batch, 3, height, width\]"),
        (torch.zeros(3, 64, 64), r"shape \[3, 64, 64\]; expected"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"dtype torch\.uint8; expected normalized"),
    ],
    ids=["channels", "rank", "dtype"],
)
def test_wrong_pixels_are_refused_by_every_task(task: str, x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("image", task)(x)


def test_what_a_model_says_about_itself() -> None:
    model = make("image", "classification", license="cc-by-nc-4.0")
    assert (model.license, model.dtype, model.device) == ("cc-by-nc-4.0", torch.float32, torch.device("cpu"))
    assert model.loading_report is None
    assert model.preprocessing is None
    assert make("image", "features").license is None
