import copy
import io
import math
import pickle
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import hierax
from hierax.config import HieraConfig, list_models
from hierax.encoder import Hiera
from hierax.models import (
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
    create_model,
)
from small import CONFIGS, abs_win_config, fresh_seed, image_config, pixels, randomise, relative, units_of, video_config

KINDS = sorted(CONFIGS)
EVERY = ("stem", "stage1", "stage2", "stage3", "stage4")


def make(kind: str, task: str, std: float | None = 0.2, **changes: Any) -> Any:
    """A model of a task on a kind of input, in eval mode; `std` None leaves the weights as they are initialised."""
    pools = {"num_query_pool": 2, "mask_ratio": 0.5} if task == "mae" else {}
    config = CONFIGS[kind](**{**pools, **changes})
    model: Any
    if task == "backbone":
        model = HieraBackbone(config, out_features=EVERY, norms=True)
    elif task == "classification":
        model = (HieraForVideoClassification if kind == "video" else HieraForImageClassification)(config)
    else:
        model = {"encoder": Hiera, "features": HieraModel, "mae": HieraForPreTraining}[task](config)
    if std is not None:
        randomise(model, std)
    return model.eval()


def total(task: str, out: Any) -> Tensor:
    """A scalar that depends on everything the task gives."""
    if task == "classification":
        return out.logits.square().sum()
    if task == "features":
        return out.pooler_output.square().sum()
    return out.loss if task == "mae" else sum((m.square().mean() for m in out.feature_maps), torch.zeros(()))


TASKS = ("features", "backbone", "classification", "mae")
PAIRS = [(kind, task) for kind in KINDS for task in TASKS]


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
    assert len(list_models()) == len(set(list_models())) == 22
    for name in hierax.list_models():
        with torch.device("meta"):
            create_model(name)
    with pytest.raises(ValueError, match=r"'hiera_nano_224' is no variant; variants are hiera_tiny_224"):
        create_model("hiera_nano_224")


def test_overrides_are_fields_of_the_configuration() -> None:
    with torch.device("meta"):
        model: Any = create_model("hiera_tiny_224", num_labels=7, num_channels=4, num_query_pool=2, depths=(1, 1, 1, 1))
    assert model.head.weight.shape == (7, 768)
    assert model.config.depths == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="'num_classes' is no field of HieraConfig; fields are"):
        create_model("hiera_tiny_224", num_classes=7)
    with pytest.raises(ValueError, match="drop_path_rate is 2; expected"):
        create_model("hiera_tiny_224", drop_path_rate=2)


# -- size and cost: the table of the specification --------------------------------------------------------------------

PARAMETERS = {
    "hiera_tiny_224": 27_910_216, "hiera_small_224": 35_008_072, "hiera_base_224": 51_524_968,
    "hiera_base_plus_224": 69_896_616, "hiera_large_224": 213_739_912, "hiera_huge_224": 672_779_752,
    "hiera_base_16x224": 51_092_560, "hiera_base_plus_16x224": 69_392_240, "hiera_large_16x224": 213_091_600,
    "hiera_huge_16x224": 671_627_664, "mae_hiera_tiny_224": 55_020_896, "mae_hiera_small_224": 62_118_752,
    "mae_hiera_base_224": 78_635_648, "mae_hiera_base_plus_224": 97_584_064, "mae_hiera_large_224": 242_875_808,
    "mae_hiera_base_16x224": 79_367_104, "mae_hiera_base_plus_16x224": 98_320_352,
    "mae_hiera_large_16x224": 243_621_760, "hiera_small_abswin_256": 34_361_800, "hiera_base_abswin_256": 51_267_304,
}  # fmt: skip

GMAC = {
    "hiera_tiny_224": 4.90, "hiera_small_224": 6.41, "hiera_base_224": 9.38, "hiera_base_plus_224": 12.64,
    "hiera_large_224": 40.27, "hiera_huge_224": 124.73, "hiera_base_16x224": 101.73,
    "hiera_base_plus_16x224": 132.30, "hiera_large_16x224": 412.13, "hiera_huge_16x224": 1157.80,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_number_of_parameters_is_that_of_the_published_model(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert model.num_parameters() == PARAMETERS[name]
    assert sum(t.numel() for t in model.state_dict().values()) == PARAMETERS[name]  # and there are no buffers


@pytest.mark.parametrize("name", GMAC)
def test_the_multiplications_are_those_of_the_published_model(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name).eval()
        x = torch.empty(1, 3, *model.config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert round(counter.get_total_flops() / 2e9, 2) == GMAC[name]


# -- initialisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "task"), [*PAIRS, ("image", "encoder"), ("video", "encoder")])
def test_every_parameter_has_somebody_who_initialises_it(kind: str, task: str) -> None:
    model = make(kind, task)
    for parameter in model.parameters():
        nn.init.constant_(parameter, math.nan)
    model.init_weights()
    assert [n for n, p in model.named_parameters() if not p.isfinite().all()] == []


@pytest.mark.parametrize(("kind", "task"), [*PAIRS, ("image", "encoder")])
def test_a_new_model_is_initialised(kind: str, task: str) -> None:
    """Memory that was never written is often zero, so look for what was never touched in a model full of ones."""
    twin = make(kind, task, std=None)
    torch.manual_seed(0)
    twin.init_weights()
    torch.manual_seed(0)
    fresh = make(kind, task, std=None)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), twin.parameters(), strict=True))


def is_normal(weight: Tensor, std: float) -> bool:
    """Whether values look like a normal's: its deviation within 6 errors, and more than uniform ones could reach."""
    n = weight.numel()
    error = 1 / math.sqrt(2 * n)
    far = n < 2000 or float(weight.detach().abs().max()) > 2.5 * std
    return abs(float(weight.detach().std()) / std - 1) < 6 * error and far


def is_uniform(weight: Tensor, bound: float) -> bool:
    """Whether values look evenly spread between the bounds."""
    values = weight.detach()
    near = values.numel() < 100 or float(values.abs().max()) > 0.9 * bound
    return float(values.abs().max()) <= bound and near and abs(float(values.std()) / bound * 3**0.5 - 1) < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_starts_as_published(kind: str) -> None:
    torch.manual_seed(0)
    model = make(kind, "classification", std=None, num_labels=64)
    for name, part in model.named_modules():
        if isinstance(part, nn.LayerNorm):
            assert bool((part.weight == 1).all()), name
            assert bool((part.bias == 0.02).all()), name
        elif name == "head":
            assert is_normal(part.weight, 2e-5), name
            assert torch.allclose(part.bias, torch.tensor(2e-5)), name
        elif isinstance(part, nn.Linear):
            assert is_normal(part.weight, 0.02), name
            assert bool((part.bias == 0.02).all()), name
        elif isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            assert part.bias is not None
            assert is_normal(part.weight, 0.02), name
            assert is_uniform(part.bias, 1 / math.sqrt(part.weight[0].numel())), name
    for name, table in model.encoder.pos_embed.named_parameters():
        assert is_normal(table, 0.02), name
    assert all(bool((p == 0.5).all()) for n, p in model.named_parameters() if ".ls" in n)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mae_starts_as_published(kind: str) -> None:
    torch.manual_seed(0)
    model = make(kind, "mae", std=None)
    for name, part in model.named_modules():
        if isinstance(part, nn.LayerNorm):
            assert bool((part.weight == 1).all()), name
            assert not part.bias.any(), name
        elif isinstance(part, nn.Linear):
            assert is_uniform(part.weight, math.sqrt(6 / sum(part.weight.shape))), name
            assert not part.bias.any(), name
        elif isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            own = 1 / math.sqrt(part.weight[0].numel())
            as_linear = math.sqrt(6 / (part.weight.shape[0] + part.weight[0].numel()))
            assert is_uniform(part.weight, own if "fusion" in name else as_linear), name
            assert part.bias is not None
            assert is_uniform(part.bias, own), name
    tables = [*model.encoder.pos_embed.parameters(), model.decoder.pos_embed.weight, model.decoder.mask_token.weight]
    assert all(is_normal(table, 0.02) for table in tables)


def test_the_deviation_of_the_start_is_a_field() -> None:
    torch.manual_seed(0)
    model = make("image", "classification", std=None, initializer_range=0.1, layer_norm_init=0.5)
    assert is_normal(model.encoder.blocks[-1].mlp.fc1.weight, 0.1)
    assert bool((model.norm.weight == 0.5).all())


def test_making_a_model_on_the_meta_device_draws_nothing_and_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("initialised")

    for name in [n for n in dir(nn.init) if n.endswith("_") and not n.startswith("_")]:
        monkeypatch.setattr(nn.init, name, fail)
    with pytest.raises(AssertionError, match="initialised"):
        make("image", "classification", std=None)
    started = time.perf_counter()
    with torch.device("meta"):
        create_model("mae_hiera_tiny_224")
        create_model("hiera_tiny_224")
    assert time.perf_counter() - started < 1.0


def test_making_a_model_on_the_meta_device_does_not_import_sympy() -> None:
    code = (
        "import sys, torch, hierax; before = 'sympy' in sys.modules\n"
        "with torch.device('meta'): hierax.create_model('hiera_tiny_224'); hierax.create_model('mae_hiera_tiny_224')\n"
        "assert before or 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
    for size in sizes:
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
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"dtype torch\.uint8; expected normalised"),
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


# -- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (48, 70), (96, 32)])
@pytest.mark.parametrize("pools", [2, 3])
@torch.no_grad()
def test_the_pooled_output_is_the_norm_of_the_mean_over_the_picture(size: tuple[int, int], pools: int) -> None:
    model = make("image", "features", num_query_pool=pools)
    out = model(pixels(model.config, size=size), output_hidden_states=True)
    mean = out.reshaped_hidden_states[-1].mean((1, 2))
    expected = F.layer_norm(mean, (64,), model.norm.weight, model.norm.bias, eps=1e-6)
    torch.testing.assert_close(out.pooler_output, expected)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_hidden_states_are_the_stem_and_the_ends_of_the_stages(kind: str) -> None:
    model = make(kind, "features")
    out = model(pixels(model.config), output_hidden_states=True)
    assert [h.shape[-1] for h in out.hidden_states] == [8, 8, 16, 32, 64]
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    for flat, rows in zip(out.hidden_states, out.reshaped_hidden_states, strict=True):
        assert flat.shape[1] == torch.Size(rows.shape[1:-1]).numel()
        assert torch.equal(flat.sort(dim=1).values, rows.flatten(1, -2).sort(dim=1).values)


@torch.no_grad()
def test_hidden_states_keep_the_padding_and_maps_lose_it() -> None:
    model = make("image", "features")
    out = model(pixels(model.config, size=(33, 40)), output_hidden_states=True)
    assert [h.shape[1] for h in out.hidden_states] == [256, 256, 64, 16, 4]
    assert [tuple(r.shape[1:3]) for r in out.reshaped_hidden_states] == [(9, 10), (9, 10), (5, 5), (3, 3), (2, 2)]
    assert out.last_hidden_state.shape[1] == 4


@torch.no_grad()
def test_features_under_a_mask() -> None:
    model = make("image", "features", num_query_pool=2, mask_ratio=0.5)
    x = pixels(model.config)
    out = model(x, noise=torch.tensor([[0.3, 0.1, 0.9, 0.2], [0.1, 0.2, 0.3, 0.4]]), output_hidden_states=True)
    assert out.ids_restore.tolist() == [[2, 0, 3, 1], [0, 1, 2, 3]]
    assert out.bool_masked_pos.tolist() == [[False, True, False, True], [True, True, False, False]]
    assert [tuple(h.shape) for h in out.hidden_states] == [
        (2, 128, 8), (2, 128, 8), (2, 32, 16), (2, 8, 32), (2, 8, 64),
    ]  # fmt: skip
    own = model(x, keep=out.bool_masked_pos)
    assert own.ids_restore is None
    assert torch.equal(own.last_hidden_state, out.last_hidden_state)


@torch.no_grad()
def test_the_pooled_output_under_a_mask_is_over_the_picture_too() -> None:
    """48 x 48 pixels: a token of the last stage stands for 16, so one in four of each unit's lies outside."""
    model = make("image", "features", num_query_pool=2)
    x = pixels(model.config, size=(48, 48))
    everything = model(x, keep=torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(everything.pooler_output, model(x).pooler_output)


@torch.no_grad()
def test_the_arguments_of_transformers_are_taken() -> None:
    model = make("image", "features")
    x = pixels(model.config)
    out = model(x, None, True, True, True, None)
    assert out.keys() == ("last_hidden_state", "pooler_output", "hidden_states", "attentions", "reshaped_hidden_states")
    as_tuple = model(x, output_hidden_states=True, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == 4
    assert torch.equal(as_tuple[1], out.pooler_output)


# -- backbone ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("less", [0, 5])
@torch.no_grad()
def test_backbone_maps_equal_the_classifier_forward_pass(kind: str, less: int) -> None:
    classifier = make(kind, "classification")
    backbone = HieraBackbone(classifier.config, out_features=EVERY).eval()
    backbone.encoder.load_state_dict(classifier.encoder.state_dict())
    x = pixels(classifier.config, size=[n - less for n in classifier.config.image_size])
    seen = classifier(x, output_hidden_states=True).reshaped_hidden_states
    maps = backbone(x).feature_maps
    assert len(maps) == len(seen) == 5
    for made, rows in zip(maps, seen, strict=True):
        assert torch.equal(made, rows.movedim(-1, 1))
        assert made.is_contiguous()


@pytest.mark.parametrize(
    ("features", "channels", "strides"),
    [(None, (64,), (32,)), (EVERY, (8, 8, 16, 32, 64), (4, 4, 8, 16, 32)), (("stem", "stage3"), (8, 32), (4, 16))],
)
def test_a_backbone_says_what_its_maps_are(features: Any, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    model = HieraBackbone(image_config(), out_features=features)
    assert (model.channels, model.strides) == (channels, strides)
    maps = model(pixels(model.config, 1)).feature_maps
    assert [tuple(m.shape[1:]) for m in maps] == [(c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]


def test_a_backbone_of_a_mae_record_has_strides_4_8_16_16() -> None:
    assert HieraBackbone(image_config(num_query_pool=2), out_features=EVERY[1:]).strides == (4, 8, 16, 16)


def test_a_video_backbone_has_a_stride_per_axis_and_maps_with_time() -> None:
    model = HieraBackbone(video_config(), out_features=("stage2", "stage4"))
    assert model.strides == ((2, 8, 8), (2, 32, 32))
    assert [tuple(m.shape) for m in model(pixels(model.config, 1)).feature_maps] == [(1, 16, 4, 8, 8), (1, 64, 4, 2, 2)]


def test_maps_are_chosen_by_name_by_number_or_by_the_configuration() -> None:
    by_name = HieraBackbone(image_config(), out_features=("stage1", "stage4"))
    assert (by_name.out_features, by_name.out_indices) == (("stage1", "stage4"), (1, 4))
    assert HieraBackbone(image_config(), out_indices=(1, -1)).out_features == ("stage1", "stage4")
    assert HieraBackbone(image_config(out_features=("stem", "stage2"))).out_indices == (0, 2)
    assert HieraBackbone(image_config(out_features=("stem",)), out_indices=[3]).out_features == ("stage3",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_features": ("stage5",)}, r"out_features is \('stage5',\); expected names of stem, stage1"),
        ({"out_features": ("stage2", "stage1")}, "out_features is .*in this order"),
        ({"out_features": ("stage1", "stage1")}, "out_features is .*each once"),
        ({"out_indices": (5,)}, r"out_indices is \(5,\); expected numbers from 0 to 4"),
        ({"out_indices": (1, 1)}, "out_features is .*each once"),
        ({"out_features": ("stage1",), "out_indices": (2,)}, r"out_indices names \('stage2',\)"),
    ],
)
def test_maps_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HieraBackbone(image_config(), **options)


@torch.no_grad()
def test_norms_are_layer_norms_of_every_map() -> None:
    """With the eps 1e-5 of the published module, not the 1e-6 of the encoder."""
    model = make("image", "backbone")
    plain = HieraBackbone(model.config).eval()
    assert not list(plain.norms)
    plain.encoder.load_state_dict(model.encoder.state_dict())
    assert set(model.norms) == set(EVERY)
    x = pixels(model.config)
    for name, normed, made in zip(EVERY, model(x).feature_maps, plain(x).feature_maps, strict=True):
        part = model.norms[name]
        rows = F.layer_norm(made.movedim(1, -1), part.normalized_shape, part.weight, part.bias, eps=1e-5)
        torch.testing.assert_close(normed, rows.movedim(-1, 1))
        assert normed.is_contiguous()
        assert part.eps == 1e-5


@torch.no_grad()
def test_a_backbone_gives_hidden_states_and_attentions_on_request() -> None:
    model = make("image", "backbone")
    x = pixels(model.config)
    assert model(x).keys() == ("feature_maps",)
    out = model(x, True, True)
    assert (len(out.hidden_states), len(out.attentions)) == (5, 4)
    assert isinstance(model(x, return_dict=False)[0], tuple)


# -- classifiers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_are_the_head_of_the_normed_mean_in_eval_and_in_training(kind: str) -> None:
    model, plain = make(kind, "classification"), make(kind, "features")
    plain.encoder.load_state_dict(model.encoder.state_dict())
    plain.norm.load_state_dict(model.norm.state_dict())
    x = pixels(model.config)
    expected = F.linear(plain(x).pooler_output, model.head.weight, model.head.bias)
    assert torch.equal(model(x).logits, expected)
    assert torch.equal(model.train()(x).logits, expected)


def test_dropout_stands_between_norm_and_head_and_only_in_training() -> None:
    torch.manual_seed(0)
    model = make("image", "classification", dropout=0.5)
    seen: dict[str, Tensor] = {}
    model.norm.register_forward_hook(lambda *a: seen.update(norm=a[2]))
    model.head.register_forward_pre_hook(lambda _, a: seen.update(head=a[0]))
    x = pixels(model.config, 8)
    model(x)
    assert torch.equal(seen["head"], seen["norm"])
    model.train()(x)
    dropped = seen["head"] == 0
    assert 0.3 < float(dropped.float().mean()) < 0.7
    torch.testing.assert_close(seen["head"][~dropped], 2 * seen["norm"][~dropped])


@torch.no_grad()
def test_a_classifier_sees_only_what_its_mask_shows() -> None:
    model = make("image", "classification")
    x, keep = pixels(model.config), torch.tensor([[True, False, False, True]] * 2)
    other = x.clone()
    other[:, :, :32, 32:] = 7.0
    assert torch.equal(model(x, keep=keep).logits, model(other, keep=keep).logits)
    assert not torch.equal(model(x, keep=keep).logits, model(x).logits)
    with pytest.raises(ValueError, match="2 mask units in image 0 and 1 in image 1"):
        model(x, keep=torch.tensor([[True, True, False, False], [True, False, False, False]]))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([1, 3]), lambda x: F.cross_entropy(x, torch.tensor([1, 3]))),
        pytest.param(torch.tensor([1, 3], dtype=torch.int32), lambda x: F.cross_entropy(x, torch.tensor([1, 3]))),
        (torch.eye(2, 5), lambda x: F.binary_cross_entropy_with_logits(x, torch.eye(2, 5))),
        pytest.param(torch.eye(2, 5).bool(), lambda x: F.binary_cross_entropy_with_logits(x, torch.eye(2, 5))),
    ],
    ids=["classes", "int32", "probabilities", "booleans"],
)
def test_the_loss_follows_from_the_labels(labels: Tensor, expected: Any) -> None:
    model = make("image", "classification")
    x = pixels(model.config)
    out = model(x, labels)
    assert torch.equal(out.loss, expected(out.logits))
    assert torch.equal(model(x, labels=labels)[0], out.loss)


def test_one_label_is_regression() -> None:
    model = make("image", "classification", num_labels=1)
    labels = torch.tensor([0.5, -1.0])
    out = model(pixels(model.config), labels)
    torch.testing.assert_close(out.loss, (out.logits[:, 0] - labels).square().mean())


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("regression", torch.randn(2, 5)),
        ("single_label_classification", torch.tensor([0, 4])),
        ("multi_label_classification", torch.ones(2, 5, dtype=torch.long)),
    ],
)
def test_the_problem_type_of_the_configuration_decides(kind: str, labels: Tensor) -> None:
    model = make("image", "classification", problem_type=kind)
    out = model(pixels(model.config), labels)
    expected = {
        "regression": lambda: F.mse_loss(out.logits, labels),
        "single_label_classification": lambda: F.cross_entropy(out.logits, labels),
        "multi_label_classification": lambda: F.binary_cross_entropy_with_logits(out.logits, labels.float()),
    }[kind]()
    assert torch.equal(out.loss, expected)
    assert model.config.problem_type == kind


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2]), r"labels has shape \[3\]; expected \[2\] for single_label_classification"),
        (torch.zeros(2, 4), r"labels has shape \[2, 4\]; expected \[2, 5\] for multi_label_classification"),
        pytest.param(torch.zeros(5, 2), r"labels has shape \[5, 2\]; expected \[2, 5\] for multi_label_classification"),
    ],
)
def test_labels_of_another_shape_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("image", "classification")(pixels(image_config()), labels)


def test_a_classifier_needs_labels_and_a_clip_classifier_clips() -> None:
    with pytest.raises(ValueError, match="num_labels is 0"):
        HieraForImageClassification(image_config(num_labels=0))
    with pytest.raises(ValueError, match=r"image_size is \(64, 64\); expected \(time, height, width\)"):
        HieraForVideoClassification(image_config())


@pytest.mark.parametrize(
    ("kind", "channels", "size"),
    [
        *(("image", c, s) for c in (1, 4) for s in [(96, 96), (224, 320), (20, 20), (33, 65)]),
        ("abs_win", 3, (100, 70)),
        *(("video", 3, (frames, 64, 64)) for frames in (8, 16, 7, 1)),
        ("line", 2, (777,)),
        ("volume", 1, (40, 32, 64)),
        pytest.param("image", 3, (448, 448), marks=pytest.mark.slow),
        pytest.param("image", 3, (472, 472), marks=pytest.mark.slow),
        pytest.param("image", 3, (1000, 1000), marks=pytest.mark.slow),
    ],
)
def test_classifiers_take_and_learn_from_any_size(kind: str, channels: int, size: tuple[int, ...]) -> None:
    model = make(kind, "classification", num_channels=channels)
    model(pixels(model.config, size=size), torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("method", ["bicubic", "window"])
@torch.no_grad()
def test_both_ways_of_resizing_positions_agree_at_the_native_size_only(method: str) -> None:
    model = make("image", "classification", position_resize=method)
    other = make("image", "classification", position_resize="window" if method == "bicubic" else "bicubic")
    other.load_state_dict(model.state_dict())
    native, larger = pixels(model.config), pixels(model.config, size=(96, 96))
    assert torch.equal(model(native).logits, other(native).logits)
    assert not torch.equal(model(larger).logits, other(larger).logits)


# -- pretraining ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_hidden_states_of_a_mae_are_its_encoders(kind: str) -> None:
    model = make(kind, "mae")
    plain = HieraModel(model.config).eval()
    plain.encoder.load_state_dict(model.encoder.state_dict())
    x, noise = pixels(model.config), torch.rand(2, units_of(model.config))
    out = model(x, noise, output_hidden_states=True, output_attentions=True)
    encoder = plain(x, noise, output_hidden_states=True, output_attentions=True)
    assert torch.equal(out.ids_restore, encoder.ids_restore)
    for name in ("hidden_states", "reshaped_hidden_states", "attentions"):
        assert len(out[name]) == len(encoder[name])
        assert all(torch.equal(a, b) for a, b in zip(out[name], encoder[name], strict=True))


@torch.no_grad()
def test_a_mae_says_what_transformers_says() -> None:
    model = make("image", "mae")
    x = pixels(model.config)
    assert model(x).keys() == ("loss", "logits", "bool_masked_pos", "ids_restore")
    assert model(x, keep=torch.tensor([[True, False, False, True]] * 2)).keys() == ("loss", "logits", "bool_masked_pos")
    as_tuple = model(x, torch.rand(2, 4), return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert [tuple(t.shape) for t in as_tuple] == [(), (2, 16, 768), (2, 16), (2, 4)]


def test_a_mae_pools_as_its_configuration_says() -> None:
    """Three poolings leave one token per unit, which then predicts 32 x 32 pixels."""
    model = HieraForPreTraining(image_config(num_query_pool=3, mask_ratio=0.5))
    out = model(pixels(model.config))
    assert out.logits.shape == (2, 4, 3 * 32 * 32)
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_abs_win_mae_can_be_built_and_trained() -> None:
    model = HieraForPreTraining(abs_win_config(num_query_pool=2, mask_ratio=0.5))
    model(pixels(model.config)).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_default_configuration_makes_a_mae() -> None:
    """The published default configuration cannot be built: its decoder is None."""
    with torch.device("meta"):
        model: Any = HieraForPreTraining(HieraConfig())
    assert len(model.decoder.blocks) == 8
