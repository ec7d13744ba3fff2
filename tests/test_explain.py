"""Explanations of an open model: the heat of a class, attention rollout, labels, and what a call leaves behind."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hierax
from hierax.model.plan import plan
from hierax.predict.class_activation import KINDS, class_activations
from hierax.predict.explain import Explanation, explanations, label_explanations, label_index, open_explainer
from hierax.predict.rollout import rollout
from plain import plain_block, plain_maps, pooled, windows
from sam2_small import sam_config
from small import abs_win_config, fresh_seed, image_config, pixels, randomize, relative, video_config

CONFIGS = {"image": image_config, "abs_win": abs_win_config, "windowed": sam_config, "video": video_config}


def classifier(kind: str = "image", **changes: Any) -> Any:
    """A classifier with random weights, for which the cells of an image differ."""
    config = CONFIGS[kind](**changes)
    made = (hierax.HieraForVideoClassification if config.is_video else hierax.HieraForImageClassification)(config)
    randomize(made, 0.1)
    with torch.no_grad():
        made.encoder.patch_embed.proj.weight.mul_(20)
    return made.eval()


# -- the heat of a class ----------------------------------------------------------------------------------------------


def logits_from(model: Any, rows: Tensor, stage: int) -> Tensor:
    """Logits from the map `[B, *grid, C]` after a stage, by the plain implementation of the tests."""
    config, ones = model.config, (1,) * model.config.axes
    for spec, block in zip(plan(config), model.encoder.blocks, strict=True):
        if spec.stage >= stage:
            stride = config.query_stride if spec.pool > 1 else ones
            nothing = torch.zeros(rows.shape[:-1], dtype=torch.bool)
            rows = plain_block(block, rows, spec.window, stride, nothing)
    return model.head(model.norm(rows.flatten(1, -2).mean(1)))


@pytest.mark.parametrize("stage", [2, 3, 4])
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_heat_equals_a_hand_written_one_on_the_plain_implementation(kind: str, stage: int) -> None:
    fresh_seed()
    model = classifier(kind).double()
    x = pixels(model.config, dtype=torch.float64)
    with torch.no_grad():
        rows = plain_maps(model.encoder, x)[stage].movedim(1, -1)
    leaf = rows.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(logits_from(model, leaf, stage)[[0, 1], [3, 1]].sum(), [leaf])
    weights = gradient.flatten(1, -2).mean(1)
    expected = {
        "gradcam": torch.einsum("b...c,bc->b...", rows, weights).relu(),
        "hirescam": (rows * gradient).sum(-1).relu(),
        "layercam": (rows * gradient.relu()).sum(-1).relu(),
    }
    for name in KINDS:
        _, heats = class_activations(model, x, lambda _: [[3], [1]], stage=stage, kind=name)
        scale = float((rows.abs() * gradient.abs()).sum(-1).max())  # the sums over channels nearly cancel
        found = torch.stack([heat for (heat,) in heats])
        torch.testing.assert_close(found / scale, expected[name] / scale, atol=1e-10, rtol=0)
        assert name == "layercam" or found.max() > 0  # there all cells may be negative


@pytest.mark.parametrize("stage", [3, 4])
def test_the_heat_equals_finite_differences(stage: int) -> None:
    fresh_seed()
    model = classifier().double()
    x = pixels(model.config, 1, dtype=torch.float64)
    with torch.no_grad():
        rows = plain_maps(model.encoder, x)[stage].movedim(1, -1)
        slopes = torch.empty(rows.numel(), dtype=torch.float64)
        for number in range(rows.numel()):
            step = torch.zeros(rows.numel(), dtype=torch.float64)
            step[number] = 1e-6
            up, down = (logits_from(model, rows + sign * step.view_as(rows), stage)[0, 2] for sign in (1, -1))
            slopes[number] = (up - down) / 2e-6
    _, ((heat,),) = class_activations(model, x, lambda _: [[2]], stage=stage, kind="hirescam")
    expected = (rows * slopes.view_as(rows)).sum(-1).relu()[0]
    scale = float((rows * slopes.view_as(rows)).abs().sum(-1).max())  # the sums over channels nearly cancel
    torch.testing.assert_close(heat / scale, expected / scale, atol=1e-5, rtol=0)
    assert heat.max() > 0


def test_on_the_last_maps_gradcam_is_hirescam_because_the_head_takes_a_mean() -> None:
    model = classifier().double()
    x = pixels(model.config, dtype=torch.float64)
    heats = [
        class_activations(model, x, lambda _: [[1], [1]], stage=4, kind=kind)[1] for kind in ("gradcam", "hirescam")
    ]
    for first, second in zip(*heats, strict=True):
        torch.testing.assert_close(first, second)


def test_equal_neighbors_of_a_pooling_share_the_gradient() -> None:
    """A model that sees no difference between the cells: all poolings are of ties, and all cells get equal heat."""
    model = classifier().double()
    for weight in (model.encoder.patch_embed.proj.weight, *model.encoder.pos_embed.parameters()):
        nn.init.zeros_(weight)
    x = pixels(model.config, dtype=torch.float64)
    for stage in (1, 2, 3):
        for kind in KINDS:
            _, heats = class_activations(model, x, lambda _: [[0, 1, 2, 3, 4]] * 2, stage=stage, kind=kind)
            for heat in (heat for rows in heats for heat in rows):
                torch.testing.assert_close(heat, heat.mean().expand_as(heat))


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (50, 75), (33, 129)])
@pytest.mark.parametrize("kind", ["image", "abs_win", "windowed"])
def test_an_image_of_any_size_has_a_value_for_every_cell_of_the_map(kind: str, size: tuple[int, int]) -> None:
    predictor = open_explainer(classifier(kind))
    first, second = explanations(predictor, pixels(predictor.config, 2, size))
    stride = first.stride
    assert first.values.shape == tuple(-(-side // step) for side, step in zip(size, stride, strict=True))
    assert first.values.dtype == np.float32
    for one in (first, second):
        assert one.values.min() >= 0
        assert one.values.max() in (0, 1)


def test_a_clip_has_values_over_time() -> None:
    predictor = open_explainer(classifier("video"))
    (found,) = explanations(predictor, pixels(predictor.config, 1), [2])
    assert found.index == 2
    assert found.values.shape == (4, 4, 4)
    assert found.stride == (2, 16, 16)


@pytest.mark.parametrize("method", ["gradcam", "rollout"])
def test_the_images_of_a_batch_do_not_affect_each_other(method: str) -> None:
    predictor = open_explainer(classifier().double(), method=method)
    x = pixels(predictor.config, 3, dtype=torch.float64)
    together = explanations(predictor, x, method=method)
    for one, row in zip(together, x, strict=True):
        (alone,) = explanations(predictor, row[None], method=method)
        assert alone.index == one.index
        np.testing.assert_allclose(alone.values, one.values, atol=1e-6)


def test_several_labels_of_an_image_are_each_as_if_alone() -> None:
    predictor = open_explainer(classifier().double())
    x = pixels(predictor.config, 2, dtype=torch.float64)
    rows = label_explanations(predictor, x, [[4, 0, 2], [1, 3, 0]])
    for place in range(3):
        alone = explanations(predictor, x, [row[place].index for row in rows])
        for one, row in zip(alone, rows, strict=True):
            assert one == row[place]
            np.testing.assert_allclose(one.values, row[place].values, atol=1e-6)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_the_probability_is_the_one_that_the_model_gives(problem: str) -> None:
    predictor = open_explainer(classifier(problem_type=problem))
    x = pixels(predictor.config, 2)
    with torch.no_grad():
        logits = predictor.call(x).logits
    expected = logits.sigmoid() if problem.startswith("multi") else logits.softmax(-1)
    for (first, second), row in zip(label_explanations(predictor, x, [None, None], top_k=2), expected, strict=True):
        best = row.topk(2)
        assert [first.index, second.index] == best.indices.tolist()
        assert [first.probability, second.probability] == pytest.approx(best.values.tolist())


def test_without_evidence_the_heat_is_zero_everywhere() -> None:
    model = classifier()
    nn.init.zeros_(model.head.weight)
    (found,) = explanations(open_explainer(model), pixels(model.config, 1))
    assert (found.values == 0).all()


# -- attention rollout ------------------------------------------------------------------------------------------------


def dense_block(block: Any, spec: Any, rows: Tensor, stride: tuple[int, ...]) -> Tensor:
    """`0.5 A + 0.5 S` of a block, `[queries, keys]` over whole grids, row by row; from the plain implementation."""
    grid = tuple(rows.shape[1:-1])
    window = spec.window or grid
    small = tuple(w // s for w, s in zip(window, stride, strict=True))
    cells = torch.arange(math.prod(grid)).view(1, *grid, 1)
    after = tuple(g // s for g, s in zip(grid, stride, strict=True))
    outputs = torch.arange(math.prod(after)).view(1, *after, 1)
    q, k, _ = block.attn.qkv(block.norm1(rows)).chunk(3, dim=-1)
    q = windows(pooled(q, stride), small).unflatten(-1, (block.attn.heads, -1)).transpose(2, 3)
    k = windows(k, window).unflatten(-1, (block.attn.heads, -1)).transpose(2, 3)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1).mean(2)[0]
    matrix = torch.zeros(math.prod(after), math.prod(grid), dtype=rows.dtype)
    pairs = zip(windows(outputs, small)[0, ..., 0], windows(cells, window)[0, ..., 0], weights, strict=True)
    for queries, keys, part in pairs:
        matrix[queries[:, None], keys[None]] = part
    parent = outputs
    for axis, step in enumerate(stride, 1):
        parent = parent.repeat_interleave(step, axis)
    shortcut = (parent.flatten()[None] == outputs.flatten()[:, None]).to(rows.dtype)
    return 0.5 * matrix + 0.5 * shortcut / shortcut.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", ["image", "abs_win", "video"])
@torch.no_grad()
def test_rollout_is_the_product_of_dense_matrices_whose_rows_sum_to_one(kind: str) -> None:
    fresh_seed()
    encoder = classifier(kind).double().encoder
    config, x = encoder.config, pixels(encoder.config, 1, dtype=torch.float64)
    rows = plain_maps(encoder, x)[0].movedim(1, -1)
    product = torch.eye(math.prod(rows.shape[1:-1]), dtype=torch.float64)
    for spec, block in zip(plan(config), encoder.blocks, strict=True):
        stride = config.query_stride if spec.pool > 1 else (1,) * config.axes
        product = dense_block(block, spec, rows, stride) @ product
        torch.testing.assert_close(product.sum(1), torch.ones(len(product), dtype=torch.float64))
        rows = plain_block(block, rows, spec.window, stride, torch.zeros(rows.shape[:-1], dtype=torch.bool))
    found = rollout(encoder, x)[0]
    assert relative(found.flatten(), product.mean(0)) < 1e-6


@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
@pytest.mark.parametrize("kind", ["image", "abs_win"])
def test_rollout_sums_to_one_over_the_cells_of_an_image(kind: str, size: tuple[int, int]) -> None:
    encoder = classifier(kind).encoder
    found = rollout(encoder, pixels(encoder.config, 2, size))
    assert found.shape == (2, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2))


def test_rollout_of_a_padded_image_has_only_the_cells_of_the_image() -> None:
    encoder = classifier().encoder
    found = rollout(encoder, pixels(encoder.config, 1, (50, 75)))
    assert found.shape == (1, 13, 19)
    assert 0 < float(found.sum()) < 1


def test_rollout_follows_windows_of_another_size_than_mask_units() -> None:
    encoder = classifier("windowed").encoder
    found = rollout(encoder, pixels(encoder.config, 1, (448, 448)))
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(1))


def test_rollout_of_windows_that_lack_tokens_is_a_clear_error() -> None:
    predictor = open_explainer(classifier("windowed"), method="rollout")
    with pytest.raises(ValueError, match="attention weights need whole windows"):
        explanations(predictor, pixels(predictor.config, 1), method="rollout")


@pytest.mark.parametrize("task", ["features", "mae", "backbone", "encoder"])
def test_rollout_needs_no_classifier(task: str) -> None:
    config = image_config(num_query_pool=2 if task == "mae" else 3)
    classes: dict[str, Any] = {
        "features": hierax.HieraModel,
        "mae": hierax.HieraForPreTraining,
        "backbone": hierax.HieraBackbone,
        "encoder": hierax.Hiera,
    }
    model: Any = randomize(classes[task](config))
    predictor = open_explainer(model, method="rollout")
    (found,) = explanations(predictor, pixels(config, 1), method="rollout")
    assert (found.index, found.label, found.probability) == (None, None, None)
    assert found.values.shape == (16, 16)
    assert found.values.min() == 0
    assert found.values.max() == 1


# -- what a call leaves behind ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradcam", "rollout"])
def test_a_call_leaves_the_model_as_it_was(method: str) -> None:
    model = classifier().train()
    model.encoder.blocks[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    predictor = open_explainer(model, method=method)
    explanations(predictor, pixels(model.config), method=method)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_pixels_of_the_caller_are_not_changed() -> None:
    predictor = open_explainer(classifier())
    x = pixels(predictor.config)
    before = x.clone()
    explanations(predictor, x)
    assert torch.equal(x, before)
    assert not x.requires_grad


def test_a_caller_in_inference_mode_gets_the_same() -> None:
    predictor = open_explainer("hierax/femto", device="cpu")
    expected = explanations(predictor, torch.ones(1, 3, 160, 160))
    with torch.inference_mode():
        predictor = open_explainer("hierax/femto", device="cpu")
        predictor.call(torch.ones(1, 3, 160, 160))
        found = explanations(predictor, torch.ones(1, 3, 160, 160))
    assert found == expected
    np.testing.assert_array_equal(found[0].values, expected[0].values)


def test_a_frozen_model_gets_the_same() -> None:
    model = classifier()
    frozen = copy.deepcopy(model).requires_grad_(False)
    x = pixels(model.config)
    for ours, theirs in zip(*(explanations(open_explainer(one), x) for one in (model, frozen)), strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)


def test_several_threads_get_what_one_gets() -> None:
    predictor = open_explainer(classifier())
    inputs = [pixels(predictor.config, 1) for _ in range(8)]

    def ask(number: int) -> tuple[Explanation, Explanation]:
        x = inputs[number]
        return explanations(predictor, x, [number % 5])[0], explanations(predictor, x, method="rollout")[0]

    expected = [ask(number) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(ask, range(8)), expected, strict=True):
            assert found == alone
            for ours, theirs in zip(found, alone, strict=True):
                np.testing.assert_array_equal(ours.values, theirs.values)


# -- labels and wrong arguments ---------------------------------------------------------------------------------------

NAMES = {0: "tabby, tabby cat", 1: "crane", 2: "Persian cat", 3: "crane, machine", 4: "12"}


@pytest.mark.parametrize(
    ("label", "index"),
    [
        (3, 3),
        ("3", 3),
        ("tabby", 0),
        ("TABBY CAT", 0),
        ("tabby, tabby cat", 0),
        (" persian cat ", 2),
        ("crane", 1),
        ("machine", 3),
        ("12", 4),
    ],
)
def test_a_label_is_found_by_name_or_index(label: int | str, index: int) -> None:
    assert label_index(image_config(id2label=NAMES), label) == index


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (5, "label is 5; expected one of the 5 labels, or an index from 0 to 4"),
        (-1, "label is -1; expected one of the 5 labels"),
        (True, "label is True; expected one of the 5 labels"),
        (1.5, "label is 1.5; expected one of the 5 labels"),
        ("persan cat", r"label is 'persan cat'; expected .* \(did you mean persian cat\?\)"),
        ("", "label is ''; expected one of the 5 labels"),
    ],
)
def test_an_unknown_label_is_a_clear_error(label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_index(image_config(id2label=NAMES), label)


def test_a_name_that_two_labels_have_is_a_clear_error() -> None:
    names = {**NAMES, 1: "crane, bird"}
    with pytest.raises(ValueError, match="label is 'crane', which classes 1, 3 have; expected an index"):
        label_index(image_config(id2label=names), "crane")


def test_wrong_arguments_are_clear_errors() -> None:
    predictor = open_explainer(classifier())
    x = pixels(predictor.config)
    with pytest.raises(ValueError, match="labels has 1 entries for 2 images; expected one per image"):
        explanations(predictor, x, [0])
    with pytest.raises(ValueError, match="method is 'lime'; expected gradcam or rollout"):
        explanations(predictor, x, method="lime")
    with pytest.raises(ValueError, match="rollout explains no label"):
        explanations(predictor, x, [0, None], method="rollout")
    with pytest.raises(ValueError, match="pixel_values has shape"):
        explanations(predictor, x[:, :2])
    with pytest.raises(ValueError, match="output of the model is not finite"):
        explanations(predictor, x * math.nan)


def test_only_a_classifier_explains_labels() -> None:
    with pytest.raises(ValueError, match="this model is for mae; gradcam needs a classifier, such as hierax/femto"):
        open_explainer("hierax/femto.mae")


def test_an_engine_is_refused_because_it_has_no_gradients() -> None:
    with (
        hierax.Engine("hierax/femto", device="cpu", backend="torch") as engine,
        pytest.raises(ValueError, match="an engine has neither gradients nor attention weights"),
    ):
        open_explainer(engine)


def test_an_explanation_is_written_as_json() -> None:
    one = Explanation(2, "birds", 0.5, np.array([[0, 1]], np.float32), (32, 32))
    assert one.to_dict() == {
        "label": "birds",
        "index": 2,
        "probability": 0.5,
        "shape": [1, 2],
        "stride": [32, 32],
        "values": [[0.0, 1.0]],
    }
