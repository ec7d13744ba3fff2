"""Distillation: the model learns the logits and features of a teacher, with or without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.data.loader import Batch
from hierax.data.view import EvaluationView
from hierax.model.config import HieraConfig
from hierax.model.layers import Linear, init_weights
from hierax.model.pretrained import Pretrained
from hierax.model.tasks import HieraForImageClassification, HieraForVideoClassification, HieraModel
from hierax.train.objective import Finetuning
from hierax.train.parallel import World
from hierax.train.predictions import never_stop, run_on_samples
from hierax.train.settings import Recipe
from hierax.train.teacher import Teacher, TeacherOutputs
from hierax.train.teacher_cache import TeacherCache

_HEAD, _PROJECTION = "teacher_head", "teacher_projection"


class Distillation(Finetuning):
    """The objective of a student that learns from a teacher, with or without labels. The teacher sees the same crops
    and mixes.

    With `own_head`, the head of the student predicts the classes of the teacher; otherwise, a second head does. A
    projection of the features of the student predicts the centered and scaled features of the teacher. The second head
    and the projection are trained, but not saved.

    Args:
        labeled: whether to learn from labels.
        own_head: whether the model has the same classes as the teacher.
        cache: stores the outputs of the teacher on disk.
    """

    def __init__(
        self,
        model: Pretrained,
        recipe: Recipe,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        teacher: Teacher,
        labeled: bool,
        own_head: bool,
        cache: TeacherCache | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(model, recipe, mean=mean, std=std, class_weights=class_weights)
        assert isinstance(model, (HieraForImageClassification, HieraForVideoClassification))
        self.teacher, self.cache, self.labeled, self.own_head = teacher, cache, labeled, own_head
        self.learns_logits = bool(recipe.teacher_logits and teacher.logits)
        self.learns_features = bool(recipe.teacher_features and teacher.features)
        if self.learns_logits and not own_head:
            self._add_layer(_HEAD, teacher.logits)
        if self.learns_features:
            self._add_layer(_PROJECTION, teacher.features)
        if not self.has_head:
            model.head.requires_grad_(False)

    @property
    def has_head(self) -> bool:
        """Whether the model's own head learns anything."""
        return self.labeled or (self.own_head and self.learns_logits)

    def _add_layer(self, name: str, width: int) -> None:
        model = self.model
        layer = Linear(self.config.hidden_size, width, device=model.device, dtype=model.dtype)
        model.add_module(name, layer)
        if model.device.type != "meta":
            init_weights(layer, self.config, mae=False, name=name)

    def prepare_inputs(self, batch: Batch, device: torch.device, *, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """Mixed pixels and targets, and the logits and features of the teacher; empty tensors if it does
        not have them.
        """
        if not self.labeled:
            classes = max(self.config.num_labels, 1)
            batch = Batch(batch.pixels, torch.zeros(len(batch), classes), batch.noise, batch.indices, batch.bad)
        pixels, targets = super().prepare_inputs(batch, device, key=key)
        recipe = self.recipe
        mixed = (recipe.seed, *key, recipe.mixup, recipe.cutmix) if recipe.mixup or recipe.cutmix else ()
        outputs = self.teacher_outputs(batch.pixels, pixels, *mixed)
        empty = pixels.new_zeros(len(pixels), 0)
        given = [empty if t is None else t for t in (outputs.logits, outputs.features)]
        return pixels, targets, *given

    def teacher_outputs(self, loaded: Tensor, pixels: Tensor, *mixed: object) -> TeacherOutputs:
        """The outputs of the teacher for `pixels`, from the cache if possible. The key is computed from the `loaded`
        batch and from `mixed`, which describes how it was mixed.
        """
        if self.cache is None:
            return self.teacher(pixels, self.mean, self.std)
        key = self.cache.key(loaded, *mixed)
        sizes = self.teacher.logits, self.teacher.features
        found = self.cache.get(key, pixels.device, shapes=[(len(pixels), size) for size in sizes])
        return found or self.cache.put(key, self.teacher(pixels, self.mean, self.std))

    def forward(self, pixels: Tensor, targets: Tensor, *teacher_outputs: Tensor) -> Tensor:
        """The weighted sum of the losses on labels and on the teacher's logits and features, in float32 (float64 for
        float64).
        """
        logits, features = teacher_outputs
        model, recipe = self.model, self.recipe
        assert isinstance(model, (HieraForImageClassification, HieraForVideoClassification))
        pooled = model.pooled(pixels)
        dropped = model.dropout(pooled)
        head_logits = model.head(dropped) if self.has_head else None
        loss = pooled.new_zeros((), dtype=torch.promote_types(pooled.dtype, torch.float32))
        if self.labeled:
            assert head_logits is not None
            loss = loss + recipe.label_weight * self.classification_loss(head_logits, targets)
        if self.learns_logits:
            student_logits = head_logits if self.own_head else model.get_submodule(_HEAD)(dropped)
            assert student_logits is not None
            loss = loss + recipe.teacher_logits * divergence(
                student_logits, logits, temperature=recipe.teacher_temperature
            )
        if self.learns_features:
            projected = model.get_submodule(_PROJECTION)(pooled)
            loss = loss + recipe.teacher_features * (1 - similarity(projected, self.standardize(features))).mean()
        return loss

    def standardize(self, features: Tensor) -> Tensor:
        """The teacher's features `[B, width]`, centered and scaled."""
        return (features - self.teacher.feature_mean) / self.teacher.feature_std

    def model_to_save(self) -> Pretrained:
        """The student alone, without second head and projection; a model of features if its head was not trained."""
        model = self.model
        kind: type[Pretrained] = type(model) if self.has_head else HieraModel
        with torch.device("meta"):
            plain = kind(model.config)
        self.fill_plain(plain)
        return plain


def divergence(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softmaxes of logits `[B, classes]` at a temperature, times its square, so that
    gradients keep their size; mean over the batch (Hinton et al., arXiv 1503.02531).
    """
    kind = torch.promote_types(student.dtype, torch.float32)
    student_log_probs = (student.to(kind) / temperature).log_softmax(-1)
    teacher_log_probs = (teacher.to(kind) / temperature).log_softmax(-1)
    return F.kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True) * temperature**2


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Cosines `[B]` of features `[B, width]`."""
    kind = torch.promote_types(student.dtype, torch.float32)
    return F.cosine_similarity(student.to(kind), teacher.to(kind), dim=-1)


def has_same_classes(config: HieraConfig, teacher: Teacher) -> bool:
    """Whether a classifier has its teacher's classes: the same number, and the same names if both have names."""
    if config.num_labels != teacher.logits:
        return False
    return teacher.classes is None or tuple(config.id2label.values()) == teacher.classes


@torch.no_grad()
def agreement(
    objective: Distillation,
    view: EvaluationView,
    world: World,
    *,
    batch: int = 32,
    workers: int = 0,
    stop: Callable[[], bool] = never_stop,
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Measures how well the student agrees with the teacher on a dataset without labels. Returns metrics, and the
    unreadable samples.

    The metrics are "loss"; "agreement" and "agreement5", the fraction of samples for which the top class of the teacher
    is the top class of the student, or one of its top five; "cosine" of the features; and "score", which is the
    agreement, or the cosine if there are no logits.

    Raises:
        ValueError: no sample can be read.
        Interrupted: `stop` returned True on one of the ranks.
    """
    sums = torch.zeros(5, dtype=torch.float64)

    def measure(part: Batch) -> None:
        sums.add_(_metric_sums(objective, part))

    problems = run_on_samples(measure, view, world, batch=batch, workers=workers, stop=stop)
    loss, first, five, cosine, count = world.all_reduce_sum(*sums.tolist())
    found = {"loss": loss / count}
    if objective.learns_logits:
        found["agreement"] = first / count
        if objective.teacher.logits > 5:
            found["agreement5"] = five / count
    if objective.learns_features:
        found["cosine"] = cosine / count
    return {**found, "score": found.get("agreement", found.get("cosine", 0.0))}, problems


def _metric_sums(objective: Distillation, part: Batch) -> Tensor:
    """Sums over a batch: loss, agreements of the top class and of the top five, cosines, samples."""
    model, device = objective.model, objective.model.device
    assert isinstance(model, (HieraForImageClassification, HieraForVideoClassification))
    pixels = objective.normalize(part.pixels.to(device))
    outputs = objective.teacher_outputs(part.pixels, pixels)
    pooled = model.pooled(pixels)
    count, sums = len(part), torch.zeros(5, dtype=torch.float64)
    sums[4] = count
    if objective.learns_logits and outputs.logits is not None:
        student_logits = model.head(pooled) if objective.own_head else model.get_submodule(_HEAD)(pooled)
        weight, temperature = objective.recipe.teacher_logits, objective.recipe.teacher_temperature
        sums[0] += weight * divergence(student_logits, outputs.logits, temperature=temperature).item() * count
        best = outputs.logits.argmax(1, keepdim=True)
        hits = student_logits.topk(min(5, student_logits.shape[1])).indices == best
        sums[1] += hits[:, 0].sum().item()
        sums[2] += hits.any(1).sum().item()
    if objective.learns_features and outputs.features is not None:
        cosines = similarity(model.get_submodule(_PROJECTION)(pooled), objective.standardize(outputs.features))
        sums[0] += objective.recipe.teacher_features * (1 - cosines).sum().item()
        sums[3] += cosines.sum().item()
    return sums
