"""Gradients with respect to what a model shows of itself: hidden states, maps, attentions (Grad-CAM and its kin)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hierax import HieraBackbone, HieraForImageClassification
from hierax.checkpoint.save import save_model
from hierax.model.tasks import HieraModel
from small import image_config, pixels, randomize, relative
from tasks import KINDS, make, total
from test_parity_transformers import pair

SHOWN = ("hidden_states", "reshaped_hidden_states", "attentions")


def shown(out: Any, *names: str) -> list[Tensor]:
    return [tensor for name in names for tensor in getattr(out, name)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["features", "classification", "mae"])
def test_everything_that_is_shown_is_what_the_output_was_computed_from(kind: str, task: str) -> None:
    model = make(kind, task)
    out = model(pixels(model.config), output_hidden_states=True, output_attentions=True)
    tensors = shown(out, *SHOWN) + ([out.last_hidden_state] if task == "features" else [])
    gradients = torch.autograd.grad(total(task, out), tensors)
    assert all(g.shape == t.shape and g.abs().sum() > 0 for g, t in zip(gradients, tensors, strict=True))


@pytest.mark.parametrize("task", ["features", "classification"])
def test_gradients_of_states_and_attentions_are_those_of_transformers(task: str) -> None:
    both = pair(image_config(), task, dtype=torch.float64, std=0.3)
    x, found = pixels(both.config, 2, dtype=torch.float64), []
    for model in (both.ours, both.theirs):
        out = model(x, output_hidden_states=True, output_attentions=True)
        # their hidden states after a stage are copies of what goes on, except the stem and the last
        tensors = [out.hidden_states[0], out.hidden_states[-1], *out.attentions]
        found.append(torch.autograd.grad(total(task, out), tensors))
    assert max(relative(ours, theirs) for ours, theirs in zip(*found, strict=True)) < 1e-9


@pytest.mark.parametrize("size", [(64, 64), (40, 70)])
def test_a_map_and_the_tokens_in_published_order_have_the_same_gradient(size: tuple[int, int]) -> None:
    model = make("image", "classification").double()
    out = model(pixels(model.config, size=size, dtype=torch.float64), output_hidden_states=True)
    logit = out.logits[:, 1].sum()
    for flat, rows in zip(out.hidden_states, out.reshaped_hidden_states, strict=True):
        of_tokens, of_map = torch.autograd.grad(logit, [flat, rows], retain_graph=True)
        missing = of_tokens.shape[1] - rows.shape[1] * rows.shape[2]
        values = torch.cat([of_map.flatten(1, 2), of_map.new_zeros(2, max(missing, 0), of_map.shape[-1])], dim=1)
        if size == (64, 64):
            torch.testing.assert_close(of_tokens.sort(dim=1).values, values.sort(dim=1).values)
        else:  # tokens of the padding have gradients too
            assert of_tokens.square().sum() >= of_map.square().sum() * (1 - 1e-9)


def test_the_gradient_of_a_map_says_what_a_change_of_it_does() -> None:
    """A finite difference, by putting the changed map in the place of the first."""
    model = make("image", "classification", num_query_pool=3).double()
    x = pixels(model.config, batch=1, dtype=torch.float64)
    out = model(x, output_hidden_states=True)
    last = out.reshaped_hidden_states[-1]
    (gradient,) = torch.autograd.grad(out.logits[0, 2], last)
    changed = last.detach().clone()
    changed[0, 1, 0, 3] += 1e-6
    logits = model.head(model.norm(changed.mean((1, 2))))
    torch.testing.assert_close((logits[0, 2] - out.logits[0, 2]) / 1e-6, gradient[0, 1, 0, 3], rtol=1e-4, atol=1e-9)


def test_retained_gradients_arrive() -> None:
    model = make("image", "features")
    out = model(pixels(model.config), output_hidden_states=True, output_attentions=True)
    kept = [out.hidden_states[0], out.attentions[0], out.last_hidden_state]
    for tensor in kept:
        tensor.retain_grad()
    out.pooler_output.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in kept)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_showing_the_states_changes_no_number(kind: str) -> None:
    model = make(kind, "classification")
    x = pixels(model.config)
    plain = model(x).logits
    assert torch.equal(model(x, output_hidden_states=True).logits, plain)
    torch.testing.assert_close(model(x, output_attentions=True).logits, plain)


@pytest.mark.parametrize("keep", [[True, False, True, True], [False, True, True, False]])
def test_the_states_of_a_masked_image_have_gradients(keep: list[bool]) -> None:
    model = make("image", "features", num_query_pool=2)
    out = model(pixels(model.config), keep=torch.tensor([keep] * 2), output_hidden_states=True)
    gradients = torch.autograd.grad(out.pooler_output.sum(), shown(out, "hidden_states", "reshaped_hidden_states"))
    assert all(g.abs().sum() > 0 for g in gradients)


def test_recomputed_blocks_show_the_same_attentions() -> None:
    model = randomize(HieraForImageClassification(image_config())).train()
    assert isinstance(model, HieraForImageClassification)
    x = pixels(model.config)
    plain = model(x, output_attentions=True)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = model(x, output_attentions=True)
    for one, other in zip(shown(plain, "attentions"), shown(again, "attentions"), strict=True):
        assert torch.equal(one, other)
    torch.autograd.grad(again.logits.sum(), shown(again, "attentions"))


# -- a backbone ends where its last map is ----------------------------------------------------------------------------


@pytest.mark.parametrize("last", range(5))
def test_a_backbone_trains_every_weight_it_holds(last: int) -> None:
    model = HieraBackbone(image_config(), out_indices=(last,))
    randomize(model)
    model(pixels(image_config())).feature_maps[0].square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(model.encoder.blocks) == sum(image_config().depths[:last])


@torch.no_grad()
def test_a_shorter_backbone_gives_the_same_maps() -> None:
    whole = HieraBackbone(image_config(), out_indices=(1, 2, 3, 4))
    randomize(whole)
    short = HieraBackbone(image_config(), out_indices=(1, 2))
    short.load_state_dict({n: t for n, t in whole.state_dict().items() if not short.leaves_out(n)})
    x = pixels(image_config())
    found: Any = short(x, output_hidden_states=True, output_attentions=True)
    for one, other in zip(short(x).feature_maps, whole(x).feature_maps, strict=False):
        assert torch.equal(one, other)
    assert (len(found.hidden_states), len(found.attentions)) == (3, 2)


def test_a_backbone_says_which_blocks_of_a_checkpoint_it_does_without(saved: Any) -> None:
    folder = saved(HieraModel, image_config())
    model = HieraBackbone.from_pretrained(folder, out_features=["stage1", "stage2"])
    assert model.loading_report is not None
    assert model.loading_report.ignored == ["norm", *(f"encoder.blocks.{n}" for n in range(3, 8))]
    model.save_pretrained(folder.parent / "short")
    again = HieraBackbone.from_pretrained(folder.parent / "short")
    assert again.out_features == ["stage1", "stage2"]
    x = pixels(model.config)
    assert torch.equal(again(x).feature_maps[1], model(x).feature_maps[1])
    with pytest.raises(ValueError, match="no stages after stage2, which official cannot express"):
        save_model(model, folder.parent / "official", dialect="official")


def test_a_backbone_has_the_attributes_that_users_of_transformers_read() -> None:
    model = HieraBackbone(image_config(), out_features=["stage1", "stage3"])
    assert model.channels == [8, 32]
    assert model.out_features == ["stage1", "stage3"]
    assert model.out_indices == [1, 3]
    assert model.strides == [4, 16]
    assert model.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert model.num_features == [8, 8, 16, 32, 64]
    assert model.out_feature_channels == {"stage1": 8, "stage3": 32}


# -- a mask ratio of one call -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_call_can_have_a_mask_ratio_of_its_own() -> None:
    model = make("image", "mae", mask_ratio=0.5)
    x, noise = pixels(model.config), torch.rand(2, 4)
    assert model(x, mask_ratio=0.75).bool_masked_pos.sum(1).tolist() == [4, 4]  # one unit of four: 4 patches of 16
    assert model(x, noise, mask_ratio=0.25).bool_masked_pos.sum(1).tolist() == [12, 12]
    assert torch.equal(model(x, noise, mask_ratio=0.5).logits, model(x, noise).logits)
    features = make("image", "features", num_query_pool=2)
    assert features(x, mask_ratio=0.75).bool_masked_pos.sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 60])
def test_a_mask_ratio_that_cannot_be_is_refused(ratio: float) -> None:
    model = make("image", "mae")
    with pytest.raises(ValueError, match=f"mask_ratio is {ratio}"):
        model(pixels(model.config), mask_ratio=ratio)


def test_a_mask_and_a_ratio_together_are_refused() -> None:
    model = make("image", "mae")
    with pytest.raises(ValueError, match="keep and mask_ratio are both given"):
        model(pixels(model.config), keep=torch.ones(2, 4, dtype=torch.bool), mask_ratio=0.5)
