import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hierax.model.registry import create_model
from tasks import KINDS, PAIRS, make

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


# -- initialization ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "task"), [*PAIRS, ("image", "encoder"), ("video", "encoder")])
def test_every_parameter_has_somebody_who_initializes_it(kind: str, task: str) -> None:
    model = make(kind, task)
    for parameter in model.parameters():
        nn.init.constant_(parameter, math.nan)
    model.init_weights()
    assert [n for n, p in model.named_parameters() if not p.isfinite().all()] == []


@pytest.mark.parametrize(("kind", "task"), [*PAIRS, ("image", "encoder")])
def test_a_new_model_is_initialized(kind: str, task: str) -> None:
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


def test_making_a_model_on_the_meta_device_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("initialized")

    for name in [n for n in dir(nn.init) if n.endswith("_") and not n.startswith("_")]:
        monkeypatch.setattr(nn.init, name, fail)
    with pytest.raises(AssertionError, match="initialized"):
        make("image", "classification", std=None)
    with torch.device("meta"):
        create_model("mae_hiera_tiny_224")
        create_model("hiera_tiny_224")


def test_making_a_model_on_the_meta_device_does_not_import_sympy() -> None:
    code = (
        "import sys, torch, hierax; before = 'sympy' in sys.modules\n"
        "with torch.device('meta'): hierax.create_model('hiera_tiny_224'); hierax.create_model('mae_hiera_tiny_224')\n"
        "assert before or 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
