"""Ours against `transformers`, weights at random: stage maps, hidden states, attentions, logits, losses, gradients."""

import inspect
import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.config import HieraConfig, variant_config
from hierax.model.tasks import HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel
from small import fresh_seed, image_config, pixels, randomize, relative, units_of

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

OURS: dict[str, Any] = {
    "features": HieraModel,
    "classification": HieraForImageClassification,
    "mae": HieraForPreTraining,
}
THEIRS: dict[str, Any] = {
    "features": transformers.HieraModel,
    "classification": transformers.HieraForImageClassification,
    "mae": transformers.HieraForPreTraining,
}
STATES = ("hidden_states", "reshaped_hidden_states", "attentions")


def their_config(config: HieraConfig, **more: Any) -> Any:
    """The same model as their configuration, field by field."""
    return transformers.HieraConfig(
        embed_dim=config.embed_dim,
        image_size=list(config.image_size),
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        num_query_pool=config.num_query_pool,
        num_channels=config.num_channels,
        drop_path_rate=config.drop_path_rate,
        decoder_hidden_size=config.decoder_hidden_size,
        decoder_depth=config.decoder_depth,
        decoder_num_heads=config.decoder_num_heads,
        normalize_pixel_loss=config.normalize_pixel_loss,
        mask_ratio=config.mask_ratio,
        problem_type=config.problem_type,
        num_labels=config.num_labels,
        **more,
    )


# written down here a second time, so that a slip in `hierax.checkpoint.dialects.transformers` cannot agree with itself
_OUTSIDE = {
    "encoder.pos_embed.weight": "embeddings.position_embeddings",
    "encoder.patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "pooler.layernorm",
    "head": "classifier",
    "fusion.convs": "multiscale_fusion.multi_scale_fusion_heads",
    "encoder_norm": "encoder_norm",
    "decoder.embed": "decoder.decoder_embeddings",
    "decoder.mask_token.weight": "decoder.mask_token",
    "decoder.pos_embed.weight": "decoder.decoder_position_embeddings",
    "decoder.norm": "decoder.decoder_norm",
    "decoder.pred": "decoder.decoder_pred",
}


def their_name(ours: str, config: HieraConfig, task: str) -> str:
    """Their name of one of our parameters."""
    parts = ours.split(".")
    if "blocks" in parts:
        inside = ".".join(parts[3:]).replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
        stage, layer = 0, int(parts[2])
        while parts[0] == "encoder" and layer >= config.depths[stage]:
            stage, layer = stage + 1, layer - config.depths[stage]
        where = f"encoder.stages.{stage}" if parts[0] == "encoder" else "decoder.decoder_block"
        name = f"{where}.layers.{layer}.{inside}"
    else:
        name = next(theirs + ours[len(own) :] for own, theirs in _OUTSIDE.items() if f"{ours}.".startswith(f"{own}."))
    return f"hiera.{name}" if task != "features" and name.startswith(("embeddings", "encoder.", "pooler")) else name


@dataclass
class Pair:
    """The same model twice."""

    config: HieraConfig
    task: str
    ours: Any
    theirs: Any

    def parameters(self) -> list[tuple[str, Any, Any]]:
        """Name, our parameter, theirs."""
        own = dict(self.theirs.named_parameters())
        return [(n, p, own[their_name(n, self.config, self.task)]) for n, p in self.ours.named_parameters()]


def pair(
    config: HieraConfig, task: str, *, dtype: torch.dtype = torch.float32, std: float = 0.05, **options: Any
) -> Pair:
    """Both models with the same weights, drawn with deviation `std`, in eval mode."""
    ours = OURS[task](config)
    randomize(ours, std)
    theirs = THEIRS[task](their_config(config), **options)
    weights = {their_name(n, config, task): p.detach().clone() for n, p in ours.named_parameters()}
    assert len(weights) == len(list(ours.parameters()))
    if options.get("add_pooling_layer") is False:
        weights = {n: p for n, p in weights.items() if not n.startswith("pooler")}
    theirs.load_state_dict(weights, strict=True)
    return Pair(config, task, ours.to(dtype).eval(), theirs.to(dtype).eval())


def mae_of(config: HieraConfig) -> HieraConfig:
    return config.replace(num_query_pool=2)


def flat(out: Any) -> dict[str, Tensor]:
    """Every tensor of an output by name, tuples taken apart."""
    named: dict[str, Tensor] = {}
    for name, value in out.items():
        named |= {f"{name}.{i}": t for i, t in enumerate(value)} if isinstance(value, tuple) else {name: value}
    return named


def assert_equal_outputs(ours: Any, theirs: Any, limit: float) -> None:
    """All tensors of all fields: the same names in the same order, near in value; integers equal."""
    made, expected = flat(ours), flat(theirs)
    assert list(made) == list(expected)
    whole = {name for name, value in expected.items() if not value.is_floating_point()}
    assert [name for name in whole if not torch.equal(made[name], expected[name])] == []
    assert_near({name: (made[name], expected[name]) for name in expected.keys() - whole}, limit)


def assert_near(pairs: dict[str, tuple[Tensor, Tensor]], limit: float) -> None:
    """Every pair within `limit`; the furthest is printed, for `pytest -s`."""
    distances = {name: relative(*tensors) for name, tensors in pairs.items()}
    furthest = max(distances, key=distances.__getitem__)
    print(f"{len(distances)} tensors, the furthest {distances[furthest]:.1e} ({furthest})")
    assert {name: d for name, d in distances.items() if not d <= limit} == {}


def everything(model: Any, *args: Any, **options: Any) -> Any:
    return model(*args, output_hidden_states=True, output_attentions=True, **options)


SIZES = [
    "tiny",
    pytest.param("small", marks=pytest.mark.slow),
    pytest.param("base", marks=pytest.mark.slow),
    pytest.param("base_plus", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_a_published_classifier_gives_the_same_everywhere(size: str) -> None:
    fresh_seed()
    both = pair(variant_config(f"hiera_{size}_224"), "classification")
    x = pixels(both.config, 1)
    ours, theirs = everything(both.ours, x), everything(both.theirs, x)
    assert len(ours.reshaped_hidden_states) == 5
    assert_equal_outputs(ours, theirs, 1e-4)
    backbone = HieraBackbone(both.config, out_features=both.config.stage_names).eval()
    backbone.encoder.load_state_dict(both.ours.encoder.state_dict())
    seen = both.ours(x, output_hidden_states=True).reshaped_hidden_states
    for made, own, rows in zip(backbone(x).feature_maps, seen, theirs.reshaped_hidden_states, strict=True):
        assert torch.equal(made, own.movedim(-1, 1))
        assert relative(made, rows.movedim(-1, 1)) <= 1e-4


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_published_features_are_the_same_everywhere(size: str) -> None:
    fresh_seed()
    both = pair(variant_config(f"hiera_{size}_224"), "features")
    x = pixels(both.config, 1)
    ours = everything(both.ours, x)
    assert {"last_hidden_state", "pooler_output"} <= set(ours)
    assert_equal_outputs(ours, everything(both.theirs, x), 1e-4)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_a_published_mae_gives_the_same_everywhere(size: str) -> None:
    fresh_seed()
    both = pair(variant_config(f"mae_hiera_{size}_224"), "mae")
    x, noise = pixels(both.config, 2), torch.rand(2, 49)
    ours = everything(both.ours, x, noise=noise)
    assert {"loss", "logits", "bool_masked_pos", "ids_restore"} <= set(ours)
    assert_equal_outputs(ours, everything(both.theirs, x, noise=noise), 1e-4)


@pytest.mark.parametrize("pools", [2, 3])  # with fewer, theirs attends to parts of mask units in stage 3
@pytest.mark.parametrize("task", ["features", "classification"])
@torch.no_grad()
def test_small_models_give_the_same_in_double_precision(task: str, pools: int) -> None:
    fresh_seed()
    both = pair(image_config(num_query_pool=pools), task, dtype=torch.float64, std=0.3)
    x = pixels(both.config, 3, dtype=torch.float64)
    assert_equal_outputs(everything(both.ours, x), everything(both.theirs, x), 1e-12)


@pytest.mark.parametrize(
    "changes", [{}, {"normalize_pixel_loss": False}, {"mask_ratio": 0.3}, {"num_channels": 1}], ids=str
)
@torch.no_grad()
def test_small_maes_give_the_same_in_double_precision(changes: dict[str, Any]) -> None:
    fresh_seed()
    both = pair(mae_of(image_config(image_size=(96, 96), **changes)), "mae", dtype=torch.float64, std=0.3)
    x, noise = pixels(both.config, 3, dtype=torch.float64), torch.rand(3, 9)
    assert_equal_outputs(everything(both.ours, x, noise), everything(both.theirs, x, noise), 1e-12)


@torch.no_grad()
def test_features_under_a_mask_are_the_same() -> None:
    """Their name for it is `is_mae`; they pool nothing then."""
    fresh_seed()
    config = mae_of(image_config(mask_ratio=0.5))
    both = pair(config, "features", dtype=torch.float64, std=0.3, is_mae=True, add_pooling_layer=False)
    x, noise = pixels(config, dtype=torch.float64), torch.rand(2, 4)
    ours = everything(both.ours, x, noise)
    ours.pooler_output = None
    assert_equal_outputs(ours, everything(both.theirs, x, noise), 1e-12)


@pytest.mark.parametrize("size", [(128, 128), (64, 96), (32, 160)])
@torch.no_grad()
def test_other_sizes_are_the_same_where_theirs_run(size: tuple[int, int]) -> None:
    """They take other sizes only without hidden states, and only when told to interpolate."""
    fresh_seed()
    both = pair(image_config(), "features", dtype=torch.float64, std=0.3)
    x = pixels(both.config, size=size, dtype=torch.float64)
    theirs = both.theirs(x, interpolate_pos_encoding=True)
    # our table is resized in float32 whatever the model's precision
    assert_equal_outputs(both.ours(x, interpolate_pos_encoding=True), theirs, 1e-6)
    assert_equal_outputs(both.ours(x), theirs, 1e-6)


# -- gradients: in double precision, since in single a tie of the max-pooling flips whole gradients --------------------


def assert_equal_gradients(both: Pair, *args: Any, limit: float = 1e-8, **options: Any) -> None:
    for model in (both.ours, both.theirs):
        model.train()  # no drop path here: the modes agree
        model(*args, **options).loss.backward()
    parameters = both.parameters()
    assert_near({name: (ours.grad, theirs.grad) for name, ours, theirs in parameters}, limit)
    compared = sum(ours.numel() for _, ours, _ in parameters)
    assert compared == sum(p.numel() for p in both.theirs.parameters() if p.requires_grad)


@pytest.mark.parametrize("size", ["toy", pytest.param("tiny", marks=pytest.mark.slow)])
def test_all_gradients_of_a_classifier_are_the_same(size: str) -> None:
    fresh_seed()
    config = image_config() if size == "toy" else variant_config("hiera_tiny_224")
    both = pair(config, "classification", dtype=torch.float64, std=0.3 if size == "toy" else 0.05)
    labels = torch.randint(config.num_labels, (2,))
    assert_equal_gradients(both, pixels(config, dtype=torch.float64), labels=labels)


@pytest.mark.parametrize("size", ["toy", pytest.param("tiny", marks=pytest.mark.slow)])
def test_all_gradients_of_a_mae_are_the_same(size: str) -> None:
    fresh_seed()
    config = mae_of(image_config()) if size == "toy" else variant_config("mae_hiera_tiny_224")
    both = pair(config, "mae", dtype=torch.float64, std=0.3 if size == "toy" else 0.05)
    x = pixels(config, dtype=torch.float64)
    assert_equal_gradients(both, x, noise=torch.rand(2, units_of(config)))


def test_the_gradient_of_the_pixels_is_the_same() -> None:
    fresh_seed()
    both = pair(image_config(), "features", dtype=torch.float64, std=0.3)
    x, grads = pixels(both.config, dtype=torch.float64), []
    for model in (both.ours, both.theirs):
        own = x.clone().requires_grad_()
        model(own).pooler_output.square().sum().backward()
        grads.append(own.grad)
    assert relative(grads[0], grads[1]) <= 1e-8


def test_drop_path_has_the_same_rates() -> None:
    both = pair(image_config(drop_path_rate=0.6), "features")
    theirs = [layer.drop_path for stage in both.theirs.encoder.stages for layer in stage.layers]
    rates = [getattr(part, "drop_prob", 0.0) for part in theirs]  # their block without one is an identity
    assert [b.drop_path.rate for b in both.ours.encoder.blocks] == pytest.approx(rates)


# -- losses of labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "changes"),
    [
        (torch.tensor([1, 4]), {}),
        (torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.3], [1.0, 0.0, 0.0, 0.0, 1.0]]), {}),
        (torch.tensor([0.5, -2.0]), {"num_labels": 1}),
        (torch.tensor([[0.5], [-2.0]]), {"num_labels": 1}),
        (torch.tensor([[0.5, 1, 2, 3, 4], [-2.0, 0, 0, 1, 0]]), {"problem_type": "regression"}),
        (torch.tensor([1, 4]), {"problem_type": "single_label_classification"}),
        (torch.eye(2, 5), {"problem_type": "multi_label_classification"}),
    ],
    ids=["classes", "several", "regression", "regression column", "regressions", "told single", "told several"],
)
@torch.no_grad()
def test_losses_of_labels_are_the_same(labels: Tensor, changes: dict[str, Any]) -> None:
    fresh_seed()
    both = pair(image_config(**changes), "classification", std=0.3)
    x = pixels(both.config)
    ours, theirs = both.ours(x, labels), both.theirs(x, labels)
    assert list(ours) == list(theirs) == ["loss", "logits"]
    torch.testing.assert_close(ours.loss, theirs.loss)


# -- arguments and the behavior of outputs ---------------------------------------------------------------------------

TASKS = ["features", "classification", "mae"]


def config_of(task: str) -> HieraConfig:
    return mae_of(image_config(mask_ratio=0.5)) if task == "mae" else image_config()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [*((OURS[t], THEIRS[t]) for t in TASKS), (HieraBackbone, transformers.HieraBackbone)],
    ids=[*TASKS, "backbone"],
)
def test_arguments_have_the_same_names_in_the_same_places(ours: Any, theirs: Any) -> None:
    def positional(model: Any) -> list[str]:
        parameters = inspect.signature(model.forward).parameters.values()
        return [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]

    expected = positional(theirs)
    assert positional(ours)[: len(expected)] == expected
    assert set(positional(ours)[len(expected) :]) <= {"keep", "mask_ratio", "interpolate_pos_encoding"}


@pytest.mark.parametrize("asked", [{}, {"output_hidden_states": True}, {"output_attentions": True},
                                   {"output_hidden_states": True, "output_attentions": True},
                                   {"interpolate_pos_encoding": True}], ids=str)  # fmt: skip
@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_outputs_behave_as_theirs(task: str, asked: dict[str, bool]) -> None:
    both = pair(config_of(task), task)
    x = pixels(both.config)
    mask = {"noise": torch.rand(2, 4)} if task == "mae" else {}
    ours, theirs = both.ours(x, **asked, **mask), both.theirs(x, **asked, **mask)
    assert list(ours) == list(theirs)
    assert list(ours.keys()) == list(theirs.keys())
    assert len(ours.to_tuple()) == len(theirs.to_tuple())
    assert len(ours[:2]) == len(theirs[:2])
    assert set(dict(ours)) == set(dict(theirs))
    torch.testing.assert_close(ours[0], theirs[0])
    for name in STATES:
        assert (getattr(ours, name) is None) == (getattr(theirs, name) is None)
    as_tuple, their_tuple = (m(x, return_dict=False, **asked, **mask) for m in (both.ours, both.theirs))
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == len(their_tuple) == len(ours)
    for own, other in zip(as_tuple, their_tuple, strict=True):
        assert type(own) is type(other)
        pairs = zip(own, other, strict=True) if isinstance(own, tuple) else [(own, other)]
        assert all(a.shape == b.shape for a, b in pairs)


@torch.no_grad()
def test_a_backbone_says_and_gives_what_theirs_should() -> None:
    """Their own backbone never puts its tokens in order; their classifier's `reshaped_hidden_states` are right."""
    fresh_seed()
    names = ["stem", "stage2", "stage4"]
    theirs = transformers.HieraBackbone(their_config(image_config(), out_features=names))
    ours = HieraBackbone(image_config(), out_features=names, norms=True).eval()
    randomize(ours, 0.3)
    assert list(ours.channels) == list(theirs.channels)
    assert list(ours.config.stage_names) == list(theirs.stage_names)
    assert list(ours.out_indices) == list(theirs.out_indices)
    reference = pair(image_config(), "classification", std=0.3)
    weights = {n.removeprefix("encoder."): p for n, p in ours.named_parameters() if n.startswith("encoder.")}
    reference.ours.encoder.load_state_dict(weights)
    with torch.no_grad():
        for _, own, other in reference.parameters():
            other.copy_(own)
    x = pixels(image_config())
    rows = reference.theirs(x, output_hidden_states=True).reshaped_hidden_states
    for name, made in zip(names, ours(x).feature_maps, strict=True):
        part: Any = ours.norms[name]
        seen = rows[ours.config.stage_names.index(name)]
        expected = F.layer_norm(seen, seen.shape[-1:], part.weight, part.bias, eps=1e-5).movedim(-1, 1)
        assert relative(made, expected) <= 1e-5
    assert [tuple(m.shape) for m in ours(x).feature_maps] == [tuple(m.shape) for m in theirs(x).feature_maps]
    assert list(everything(ours, x)) == list(everything(theirs, x))
