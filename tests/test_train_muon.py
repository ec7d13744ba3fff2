"""The optimizer Muon: its updates, and which parameters it changes. test_train_loop.py runs and resumes with it."""

import pytest
import torch

from hierax import HieraForImageClassification
from hierax.train.muon import Muon, orthogonalize
from hierax.train.optimizer import build_optimizer, set_lr
from small import image_config
from training import toy


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (9, 9), (1, 5)])
def test_the_singular_values_of_an_update_are_near_1_and_its_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    found = orthogonalize(matrix)
    assert found.shape == shape
    values = torch.linalg.svdvals(found)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.25
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float(torch.cosine_similarity((left @ right).flatten(), found.flatten(), 0)) > 0.97
    inside = left.T @ found @ right.T  # diagonal: the singular vectors are the same
    assert float((inside - inside.diagonal().diag()).abs().max()) < 1e-9


def test_no_gradient_means_no_update() -> None:
    assert orthogonalize(torch.zeros(3, 4)).count_nonzero() == 0


def test_matrices_are_changed_as_pytorch_s_own_muon_does() -> None:
    torch_muon = getattr(torch.optim, "Muon", None)
    if torch_muon is None:
        pytest.skip("torch.optim.Muon came with PyTorch 2.9")
    own, other = (torch.nn.Parameter(torch.arange(48.0).reshape(6, 8) / 10) for _ in range(2))
    ours = Muon([{"params": [own], "matrices": True}], lr=0.02, betas=(0.9, 0.999))
    ours.param_groups[0]["weight_decay"] = 0.1
    theirs = torch_muon([other], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        gradient = torch.randn(6, 8)
        own.grad, other.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    start = torch.arange(48.0).reshape(6, 8) / 10
    assert float((own.detach() - start).abs().max()) > 0.01
    torch.testing.assert_close(own, other, rtol=0, atol=2e-3)  # theirs computes in bfloat16


def test_matrices_of_blocks_get_muon_and_all_others_what_adamw_gives_them() -> None:
    model, twin = (HieraForImageClassification(image_config()) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    recipe = toy("finetune", optimizer="muon", layer_decay=0.5, weight_decay=0.3)
    ours, theirs = (
        build_optimizer(model, recipe),
        build_optimizer(twin, toy("finetune", layer_decay=0.5, weight_decay=0.3)),
    )
    set_lr(ours, 0.01)
    set_lr(theirs, 0.01)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    ours.step()
    theirs.step()
    names = {id(p): name for name, p in model.named_parameters()}
    matrices = {names[id(p)] for group in ours.param_groups if group["matrices"] for p in group["params"]}
    assert sum(map(len, (group["params"] for group in ours.param_groups))) == len(names)
    assert {name.split(".")[-2] for name in matrices} >= {"qkv", "proj", "fc1", "fc2"}
    assert not any("pos_embed" in name or name.startswith("head") or "bias" in name for name in matrices)
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other) == (name not in matrices), name
    assert {group["lr"] for group in ours.param_groups} == {group["lr"] for group in theirs.param_groups}


def test_the_size_of_an_update_is_about_that_of_adamw() -> None:
    matrix = torch.nn.Parameter(torch.zeros(40, 160))
    optimizer = Muon([{"params": [matrix], "matrices": True, "weight_decay": 0.0}], lr=1.0, betas=(0.9, 0.999))
    matrix.grad = torch.randn(40, 160)
    optimizer.step()
    assert 0.15 < float(matrix.detach().square().mean().sqrt()) < 0.25
    assert matrix.grad is None
