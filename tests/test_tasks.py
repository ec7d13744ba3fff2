from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.config import HieraConfig
from hierax.model.tasks import (
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
)
from small import abs_win_config, image_config, pixels, units_of, video_config
from tasks import EVERY, KINDS, make

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
    torch.testing.assert_close(as_tuple[1], out.pooler_output)


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
    [(None, [64], [32]), (EVERY, [8, 8, 16, 32, 64], [4, 4, 8, 16, 32]), (("stem", "stage3"), [8, 32], [4, 16])],
)
def test_a_backbone_says_what_its_maps_are(features: Any, channels: list[int], strides: list[int]) -> None:
    model = HieraBackbone(image_config(), out_features=features)
    assert (model.channels, model.strides) == (channels, strides)
    maps = model(pixels(model.config, 1)).feature_maps
    assert [tuple(m.shape[1:]) for m in maps] == [(c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]


def test_a_backbone_of_a_mae_record_has_strides_4_8_16_16() -> None:
    assert HieraBackbone(image_config(num_query_pool=2), out_features=EVERY[1:]).strides == [4, 8, 16, 16]


def test_a_video_backbone_has_a_stride_per_axis_and_maps_with_time() -> None:
    model = HieraBackbone(video_config(), out_features=("stage2", "stage4"))
    assert model.strides == [(2, 8, 8), (2, 32, 32)]
    assert [tuple(m.shape) for m in model(pixels(model.config, 1)).feature_maps] == [(1, 16, 4, 8, 8), (1, 64, 4, 2, 2)]


def test_maps_are_chosen_by_name_by_number_or_by_the_configuration() -> None:
    by_name = HieraBackbone(image_config(), out_features=("stage1", "stage4"))
    assert (by_name.out_features, by_name.out_indices) == (["stage1", "stage4"], [1, 4])
    assert HieraBackbone(image_config(), out_indices=(1, -1)).out_features == ["stage1", "stage4"]
    assert HieraBackbone(image_config(out_features=("stem", "stage2"))).out_indices == [0, 2]
    assert HieraBackbone(image_config(out_features=("stem",)), out_indices=[3]).out_features == ["stage3"]


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
        (torch.tensor([0.0, 1.0]), r"labels has shape \[2\]; expected \[2, 5\] for .*; class indices are integers$"),
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
    plain: Any = HieraModel(model.config).eval()
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
