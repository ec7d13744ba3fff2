"""Folding: fewer operations, the same function in real arithmetic."""

from typing import Any

import pytest
import torch

from hierax.engine.fold import BareNorm, FoldedBlock, fold
from hierax.model.encoder import Hiera
from hierax.model.layers import LayerNorm
from small import CONFIGS, image_config, pixels, randomize, relative, units_of
from tasks import PAIRS, make

EXACT = 1e-12  # what float64 leaves of equal sums in another order
SIZES = {"image": (72, 100), "abs_win": (72, 100), "video": (7, 70, 64), "line": (530,), "volume": (40, 64, 70)}


def results(model: Any, task: str, x: torch.Tensor) -> list[torch.Tensor]:
    """Every tensor that the model gives, maps of all stages included."""
    with torch.no_grad():
        if task == "backbone":
            return list(model(x).feature_maps)
        if task == "mae":
            units = units_of(model.config, x.shape[2:])
            keep = (torch.arange(units) % 2 == 0).expand(len(x), -1)
            out = model(x, keep=keep, output_hidden_states=True)
            return [out.logits, out.loss[None], *out.reshaped_hidden_states]
        out = model(x, output_hidden_states=True)
        first = (out.logits,) if task == "classification" else (out.pooler_output, out.last_hidden_state)
        return [*first, *out.reshaped_hidden_states]


def worst(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max(relative(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_a_folded_model_is_the_same_function(kind: str, task: str) -> None:
    torch.manual_seed(0)
    model = make(kind, task).double()
    x = pixels(model.config, dtype=torch.float64)
    assert worst(results(fold(model), task, x), results(model, task, x)) <= EXACT


@pytest.mark.parametrize("kind", SIZES)
def test_it_is_so_at_other_sizes_which_are_padded(kind: str) -> None:
    """Tables are resized in float32, which is all that is lost."""
    torch.manual_seed(0)
    model = make(kind, "features").double()
    x = pixels(model.config, size=SIZES[kind], dtype=torch.float64)
    assert worst(results(fold(model), "features", x), results(model, "features", x)) <= 1e-6


@pytest.mark.parametrize("method", ["bicubic", "window"])
def test_the_patch_bias_survives_both_ways_to_resize_a_table(method: str) -> None:
    torch.manual_seed(0)
    model = make("image", "features", position_resize=method)
    model.encoder.patch_embed.proj.bias.data.fill_(3.0)
    x = pixels(model.config, size=(96, 128))
    assert worst(results(fold(model), "features", x), results(model, "features", x)) <= 1e-5


@pytest.mark.parametrize(
    "changes",
    [{"layer_scale_init": 0.5}, {"pooled_shortcut": True}, {"layer_scale_init": 0.5, "pooled_shortcut": True}],
)
def test_layer_scale_and_pooled_shortcuts_are_folded_rightly(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = make("image", "classification", **changes).double()
    x = pixels(model.config, dtype=torch.float64)
    assert worst(results(fold(model), "classification", x), results(model, "classification", x)) <= EXACT


def test_a_bare_encoder_can_be_folded_too() -> None:
    torch.manual_seed(0)
    model: Any = randomize(Hiera(image_config()), 0.2).eval().double()
    x = pixels(model.config, dtype=torch.float64)
    with torch.no_grad():
        assert relative(fold(model)(x).last, model(x).last) <= EXACT


@pytest.mark.parametrize("kind", CONFIGS)
def test_folding_leaves_the_model_as_it_was(kind: str) -> None:
    model = make(kind, "mae").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold(model)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)  # nothing is shared either
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_all_of_the_copy_is_in_eval_mode_and_takes_no_gradient() -> None:
    folded = fold(make("image", "mae").train())
    assert not any(module.training for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_folding_twice_is_folding_once() -> None:
    torch.manual_seed(0)
    once = fold(make("abs_win", "classification"))
    twice = fold(once)
    x = pixels(once.config)
    assert once.state_dict().keys() == twice.state_dict().keys()
    assert all(map(torch.equal, results(once, "classification", x), results(twice, "classification", x)))


def test_no_block_keeps_the_affine_part_of_a_norm() -> None:
    folded = fold(make("image", "mae"))
    blocks = [part for part in folded.modules() if isinstance(part, FoldedBlock)]
    assert len(blocks) == sum(folded.config.depths) + folded.config.decoder_depth
    parts = [part for block in blocks for part in block.modules()]
    assert sum(isinstance(part, BareNorm) for part in parts) == 2 * len(blocks)
    assert not any(isinstance(part, LayerNorm) for part in parts)


class Adapted(torch.nn.Module):
    """A linear layer with LoRA, as PEFT puts it in the place of one: `weight` and `bias` are those of the base."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer, self.rank = base, torch.nn.Linear(base.in_features, base.out_features)

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor:
        return self.base_layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.rank(x)


def _adapt(module: Any, name: str) -> None:
    setattr(module, name, Adapted(getattr(module, name)))


def _doubled(*call: Any) -> torch.Tensor:
    return 2 * call[-1]


CHANGES: dict[str, Any] = {
    "an adapter in attention": lambda m: _adapt(m.encoder.blocks[1].attn, "qkv"),
    "an adapter in the MLP": lambda m: _adapt(m.encoder.blocks[1].mlp, "fc2"),
    "a norm of another kind": lambda m: setattr(m.encoder.blocks[1], "norm1", torch.nn.Tanh()),
    "a layer without bias": lambda m: setattr(m.encoder.blocks[1].mlp, "fc1", torch.nn.Linear(16, 64, bias=False)),
    "a hook on a block": lambda m: m.encoder.blocks[1].register_forward_hook(_doubled),
    "a hook within a block": lambda m: m.encoder.blocks[1].attn.qkv.register_forward_hook(_doubled),
    "a hook on the patch embedding": lambda m: m.encoder.patch_embed.register_forward_hook(_doubled),
    "a hook on the positions": lambda m: m.encoder.pos_embed.register_forward_hook(_doubled),
    "a function in the place of a call": lambda m: setattr(m.encoder.blocks[2], "forward", torch.tanh),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_put_into_a_model_is_not_lost(change: str) -> None:
    torch.manual_seed(0)
    model = make("image", "classification").double()
    x = pixels(model.config, dtype=torch.float64)
    before = results(model, "classification", x)
    CHANGES[change](model)
    model.double().eval()
    after = results(model, "classification", x)
    assert worst(after, before) > 0.01
    folded = fold(model)
    assert worst(results(folded, "classification", x), after) <= EXACT
    assert sum(isinstance(part, FoldedBlock) for part in folded.modules()) >= sum(model.config.depths) - 1


def test_the_precision_of_the_weights_stays() -> None:
    folded = fold(make("image", "classification").to(torch.bfloat16))
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.bfloat16}
