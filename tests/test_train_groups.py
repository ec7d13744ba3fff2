"""Groups of parameters by layer and weight decay, and the learning rate along a run."""

import math
from typing import Any

import pytest
import torch

from hierax import create_model
from hierax.train.optimizer import ParameterGroup, build_optimizer, learning_rate, parameter_groups, set_lr
from training import toy


def meta_model(name: str) -> Any:
    with torch.device("meta"):
        return create_model(name)


def block(index: int, *, widens: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names with and without weight decay of a block."""
    path = f"encoder.blocks.{index}."
    linears = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", *(["proj"] if widens else [])]
    norms = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"]
    decayed = tuple(f"{path}{name}.weight" for name in linears)
    return decayed, tuple(path + name for name in [*norms, *(f"{name}.bias" for name in linears)])


def table(depth: int, widening: set[int], positions: list[str], decay: float) -> dict[tuple[int, float], set[str]]:
    """By hand: (layer, weight decay) -> names, for a classifier."""
    found = {
        (0, 0.05): {"encoder.patch_embed.proj.weight"},
        (0, 0.0): {"encoder.patch_embed.proj.bias", *positions},
    }
    for index in range(depth):
        decayed, free = block(index, widens=index in widening)
        found[index + 1, 0.05], found[index + 1, 0.0] = set(decayed), set(free)
    found[depth + 1, 0.05] = {"head.weight"}
    found[depth + 1, 0.0] = {"head.bias", "norm.weight", "norm.bias"}
    return found


def by_place(found: list[ParameterGroup]) -> dict[tuple[int, float], set[str]]:
    return {(group.layer, group.weight_decay): set(group.names) for group in found}


CASES = {
    "hiera_tiny_224": (12, {1, 3, 10}, ["encoder.pos_embed.weight"], 0.65),
    "hiera_base_16x224": (24, {2, 5, 21}, ["encoder.pos_embed.spatial", "encoder.pos_embed.temporal"], 0.85),
}


@pytest.mark.parametrize("name", CASES)
def test_the_groups_of_a_classifier_are_those_written_by_hand(name: str) -> None:
    depth, widening, positions, decay = CASES[name]
    model = meta_model(name)
    found = parameter_groups(model, layer_decay=decay, weight_decay=0.05)
    assert by_place(found) == table(depth, widening, positions, decay)
    assert {g.layer: g.scale for g in found} == {layer: decay ** (depth + 1 - layer) for layer in range(depth + 2)}


def test_the_scales_of_tiny_are_the_published_ones() -> None:
    """0.65 per layer: the head is layer 13 of 13, the last block has one factor, the embeddings thirteen."""
    found = parameter_groups(meta_model("hiera_tiny_224"), layer_decay=0.65, weight_decay=0.05)
    scales = {name: group.scale for group in found for name in group.names}
    assert scales["head.weight"] == scales["norm.bias"] == 1
    assert scales["encoder.blocks.11.attn.qkv.weight"] == 0.65
    assert scales["encoder.blocks.0.mlp.fc1.bias"] == pytest.approx(0.65**12)
    assert scales["encoder.patch_embed.proj.weight"] == scales["encoder.pos_embed.weight"] == pytest.approx(0.65**13)
    found = parameter_groups(meta_model("mae_hiera_tiny_224"), layer_decay=0.65, weight_decay=0.05)
    scales = {name: group.scale for group in found for name in group.names}
    outside = {scale for name, scale in scales.items() if not name.startswith("encoder.")}
    assert outside == {1}, "fusion, norm and decoder"


@pytest.mark.peers
@pytest.mark.parametrize("name", ["hiera_tiny_224", "hiera_small_224", "hiera_base_224"])
def test_the_scales_are_those_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    param_groups_layer_decay = pytest.importorskip("timm.optim").param_groups_layer_decay
    theirs = timm.create_model(name)
    places = {id(p): n for n, p in theirs.named_parameters()}
    expected = {
        places[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(theirs, weight_decay=0.05, layer_decay=0.7)
        for p in group["params"]
    }
    found = {
        n.removeprefix("encoder."): (g.scale, g.weight_decay)
        for g in parameter_groups(meta_model(name), layer_decay=0.7, weight_decay=0.05)
        for n in g.names
    }
    blocks = [n for n in found if n.startswith(("blocks.", "patch_embed."))]
    assert len(blocks) > 100
    assert {n: found[n] for n in blocks} == {n: pytest.approx(expected[n]) for n in blocks}
    assert found["pos_embed.weight"][0] == pytest.approx(expected["pos_embed"][0]), "which timm decays, the paper not"
    assert found["head.weight"] == pytest.approx(expected["head.fc.weight"])
    assert found["norm.weight"] == pytest.approx(expected["head.norm.weight"])


@pytest.mark.parametrize("name", ["mae_hiera_tiny_224", "mae_hiera_base_16x224", "hiera_small_abswin_256"])
def test_the_groups_are_a_partition(name: str) -> None:
    model = meta_model(name)
    names = [n for group in parameter_groups(model, layer_decay=0.9, weight_decay=0.05) for n in group.names]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())


@pytest.mark.parametrize("name", ["mae_hiera_tiny_224", "hiera_small_abswin_256"])
def test_positions_tokens_norms_biases_and_scales_do_not_decay(name: str) -> None:
    found = by_place(parameter_groups(meta_model(name), layer_decay=0.9, weight_decay=0.05))
    decayed = {n for (_, decay), names in found.items() if decay for n in names}
    assert not [n for n in decayed if "pos_embed" in n or "mask_token" in n or "norm" in n or n.endswith("bias")]
    assert not [n for n in decayed if ".ls1" in n or ".ls2" in n]
    assert all(n.endswith(".weight") for n in decayed)


def test_without_layer_decay_every_rate_is_the_same() -> None:
    assert {
        g.scale for g in parameter_groups(meta_model("mae_hiera_tiny_224"), layer_decay=1.0, weight_decay=0.05)
    } == {1.0}


def test_frozen_parameters_are_in_no_group() -> None:
    model = meta_model("hiera_tiny_224")
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(False)
    names = {n for g in parameter_groups(model, layer_decay=1.0, weight_decay=0.05) for n in g.names}
    assert names == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def test_nothing_to_train_is_an_error() -> None:
    model = meta_model("hiera_tiny_224").requires_grad_(False)
    with pytest.raises(ValueError, match="leaves nothing to train"):
        build_optimizer(model, toy("finetune"))


@pytest.mark.parametrize(("kind", "expected"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_optimizer_is_the_recipe_s_and_follows_the_rate(kind: str, expected: type) -> None:
    from hierax import HieraForImageClassification
    from small import image_config

    recipe = toy("finetune", optimizer=kind, layer_decay=0.5, betas=(0.8, 0.7), momentum=0.6, weight_decay=0.3)
    made = build_optimizer(HieraForImageClassification(image_config()), recipe)
    assert type(made) is expected
    assert {group["weight_decay"] for group in made.param_groups} == {0.0, 0.3}
    moments = {"adamw": ("betas", (0.8, 0.7)), "sgd": ("momentum", 0.6)}[kind]
    assert {group[moments[0]] for group in made.param_groups} == {moments[1]}
    set_lr(made, 0.8)
    assert sorted({group["lr"] for group in made.param_groups})[-3:] == [0.2, 0.4, 0.8]


def test_the_rate_rises_to_its_peak_and_falls_along_a_cosine() -> None:
    recipe = toy(epochs=10, warmup_epochs=2, lr=1.0, min_lr=0.1)
    rates = [learning_rate(recipe, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    assert rates[10:] == pytest.approx(expected)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)


def test_the_rate_scales_with_the_batch_where_the_recipe_says_so() -> None:
    assert toy(lr=0.1, batch_size=512, reference_batch=256, scale_lr=True).peak_lr == pytest.approx(0.2)
    assert toy(lr=0.1, batch_size=512, reference_batch=256, scale_lr=False).peak_lr == 0.1


def test_a_run_that_is_all_warm_up_rises_to_its_end() -> None:
    recipe = toy(epochs=2, warmup_epochs=4, lr=1.0)
    assert [learning_rate(recipe, step, 2) for step in range(4)] == [0.125, 0.25, 0.375, 0.5]
