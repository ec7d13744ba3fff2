"""The objectives of training: the loss of an MAE, and the loss of a classifier with mixup, cutmix and label
smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.checkpoint.lora import merged_state
from hierax.data.loader import Batch
from hierax.data.mixup import mix_batch, soft_targets
from hierax.data.order import random_stream
from hierax.model.blocks import Block
from hierax.model.config import HieraConfig
from hierax.model.encoder import Hiera
from hierax.model.layers import Linear, init_weights
from hierax.model.mae import visible_patches
from hierax.model.pretrained import Pretrained
from hierax.model.tasks import HieraForPreTraining
from hierax.train.hog import hog_targets, hog_width
from hierax.train.settings import Recipe

_MIX = 2  # the stream of random numbers that mix batches; hierax.data.order has the others


class Objective(nn.Module):
    """A model and its loss as one module, so that it can be wrapped, compiled and called as one.

    Mean and standard deviation are in gray levels of 0 to 255 for images, in the array's units for arrays.
    """

    model: Pretrained
    mean: Tensor
    std: Tensor

    def __init__(self, model: Pretrained, recipe: Recipe, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.config: HieraConfig = model.config
        shape = (1, -1, *[1] * self.config.axes)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(shape), persistent=False)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 or float, normalized by the mean and standard deviation of the data."""
        kind = torch.float64 if self.recipe.precision == "fp64" else torch.float32
        return (pixels.to(kind) - self.mean) / self.std

    def train(self, mode: bool = True) -> Objective:
        """Like the method of `nn.Module`, but frozen blocks stay in eval mode, without drop path."""
        super().train(mode)
        for part in self.model.modules():
            if isinstance(part, Block) and not any(p.requires_grad for p in part.parameters()):
                part.eval()
        return self

    def prepare_inputs(self, batch: Batch, device: torch.device, *, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """The inputs of `forward`, on the device. `key` (step, number of the micro-batch) decides how it is mixed."""
        raise NotImplementedError

    def model_to_save(self) -> Pretrained:
        """The model that the run saves, with an adapter's matrices added to its weights."""
        if self.recipe.adapter is None:
            return self.model
        with torch.device("meta"):
            plain = type(self.model)(self.config)
        self.fill_plain(plain)
        return plain

    def fill_plain(self, plain: Pretrained) -> None:
        """Gives a model on the meta device the weights of this one, as far as it has them."""
        state = merged_state(self.model.state_dict(), self.recipe.adapter_scale)
        plain.load_state_dict({name: state[name] for name in plain.state_dict()}, assign=True)


class Pretraining(Objective):
    """Masked image modeling: predicts pixels."""

    def prepare_inputs(self, batch: Batch, device: torch.device, *, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """Normalized pixels, and the noise that decides the mask."""
        assert batch.noise is not None
        pixels = batch.pixels.to(device, non_blocking=True)
        return self.normalize(pixels), batch.noise.to(device, non_blocking=True)

    def forward(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """The loss, in float32."""
        return self.model(pixels, noise=noise).loss


class HogPretraining(Pretraining):
    """Masked image modeling that predicts histograms of oriented gradients.

    The decoder's last layer is replaced by one of the histograms' width. Only the encoder is saved, because the decoder
    has not learned to predict pixels.
    """

    def __init__(self, model: Pretrained, recipe: Recipe, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(model, recipe, mean=mean, std=std)
        decoder = self.mae.decoder
        decoder.pred = Linear(decoder.pred.in_features, hog_width(self.config), device=model.device, dtype=model.dtype)
        if model.device.type != "meta":
            init_weights(decoder.pred, self.config, mae=True, name="decoder.pred")

    @property
    def mae(self) -> HieraForPreTraining:
        """The model."""
        assert isinstance(self.model, HieraForPreTraining)
        return self.model

    def forward(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error over the masked patches, in float32 (float64 stays)."""
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            targets = hog_targets(pixels, self.config)
        kept, _ = self.mae.visible(pixels, keep=None, noise=noise)
        _, logits = self.mae.predict(pixels, kept)
        hidden = ~visible_patches(kept, self.config.unit_grid(pixels.shape[2:]), self.config)
        errors = (logits.to(targets.dtype) - targets).square().mean(-1)
        return (errors * hidden).sum() / hidden.sum()

    def model_to_save(self) -> Pretrained:
        """The encoder."""
        with torch.device("meta"):
            encoder = Hiera(self.config)
        encoder.load_state_dict(self.mae.encoder.state_dict(), assign=True)
        return encoder


class Finetuning(Objective):
    """Classification; with several true labels, binary cross entropy of each."""

    class_weights: Tensor | None

    def __init__(
        self,
        model: Pretrained,
        recipe: Recipe,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(model, recipe, mean=mean, std=std)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.multi_label = self.config.problem_type == "multi_label_classification"

    def prepare_inputs(self, batch: Batch, device: torch.device, *, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """Normalized pixels and targets, after mixup and cutmix."""
        assert batch.labels is not None
        recipe, labels = self.recipe, batch.labels.to(device)
        pixels = self.normalize(batch.pixels.to(device, non_blocking=True))
        if labels.ndim == 1:
            targets = soft_targets(
                labels, self.config.num_labels, smoothing=0 if self.multi_label else recipe.label_smoothing
            )
        else:
            targets = labels
        random = random_stream(recipe.seed, _MIX, *key)
        return mix_batch(pixels, targets.to(pixels.dtype), random, mixup=recipe.mixup, cutmix=recipe.cutmix)

    def forward(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """The loss, in float32 (float64 stays)."""
        return self.classification_loss(self.model(pixels).logits, targets)

    def classification_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of `logits` `[B, classes]`, in float32 (float64 stays)."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        weights = self.class_weights
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), weight=weights)
        per_class = targets.to(logits.dtype) * logits.log_softmax(-1)
        if weights is not None:
            per_class = per_class * weights.to(logits.dtype)
        return -per_class.sum(-1).mean()
