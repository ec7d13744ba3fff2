"""Gradient-weighted class activation: which cells of a map speak for a class, on the classifier's own forward pass.

Sources: Grad-CAM (Selvaraju et al., arXiv 1610.02391), HiResCAM (Draelos and Carin, arXiv 2011.08891), LayerCAM (Jiang
et al., IEEE TIP 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hierax.model.pretrained import Pretrained

if TYPE_CHECKING:
    from torch import nn

Choice = Callable[[Tensor], Sequence[Sequence[int]]]
"""Chooses the classes of each image, from logits `[B, classes]`; the same number for every image."""


def _grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return (activation * gradient.mean(tuple(range(1, gradient.ndim - 1)), keepdim=True)).sum(-1).relu()


def _hires_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return (activation * gradient).sum(-1).relu()


def _layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return (activation * gradient.relu()).sum(-1).relu()


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _grad_cam,
    "hirescam": _hires_cam,
    "layercam": _layer_cam,
}
"""From a map `[B, *grid, C]` and its gradient to the heat `[B, *grid]`, 0 or more."""


def _precise(values: Tensor) -> Tensor:
    """At least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module has its own mode again."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def class_activations(
    model: Pretrained, pixels: Tensor, choose: Choice, *, stage: int, kind: str = "gradcam"
) -> tuple[Tensor, list[list[Tensor]]]:
    """The logits `[B, classes]`, and for each image the heat `[*grid]` of each chosen class, 0 or more.

    The gradient is that of the logit of the class with respect to the map after `stage`. It is computed without
    touching the `grad` of any parameter, and the model gets no hooks. The images of a batch do not affect each other.

    Args:
        model: a classifier, of any device and precision; not changed, so that several threads may share it.
        pixels: `[B, C, *size]`, any size.
        choose: gives the classes of each image, from the logits.
        stage: number of the stage whose map is used; the last one is `config.stages`.
        kind: one of `KINDS`.
    """
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        # a clone: the caller's pixels keep their own state, and those of inference mode cannot have gradients
        leaf = pixels.detach().to(model.device, model.dtype, copy=True).requires_grad_()
        out = model(leaf, output_hidden_states=True)
        chosen = torch.as_tensor(choose(out.logits.detach()), device=out.logits.device)
        activation = out.reshaped_hidden_states[stage]
        heats = []
        for number, classes in enumerate(chosen.unbind(1), 1):
            target = out.logits.gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(target, [activation], retain_graph=number < chosen.shape[1])
            heats.append(KINDS[kind](_precise(activation.detach()), _precise(gradient)))
        return out.logits.detach(), [list(rows) for rows in zip(*heats, strict=True)]
