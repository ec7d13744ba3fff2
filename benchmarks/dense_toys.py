"""Detection and segmentation models of transformers on the maps of `hierax/femto`, trained on drawn shapes.

    python benchmarks/dense_toys.py [--models rt-detr,upernet,mask2former] [--backbones hierax,transformers,scratch]
        [--steps 600] [--seeds 0] [--json FILE]

Circles, squares and triangles are drawn on noise, 128 pixels wide: 400 images to train, 80 held out. RT-DETR is
measured by COCO's average precision (faster-coco-eval), the others by the mean intersection over union of four classes.
"hierax" is `HieraxBackbone` with the weights of femto, "transformers" is transformers' own `HieraBackbone` with the
same weights, and "scratch" is `HieraxBackbone` with random weights. All take the same steps on the same images.
"""

import argparse
import functools
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

import hierax
from hierax.integrations.transformers import HieraxBackbone, HieraxConfig, register
from toy_shapes import CLASSES, Shapes, draw

SIZE, BATCH = 128, 8
LABELS: list[dict[str, Any]] = [{"num_labels": CLASSES}, {"num_labels": CLASSES + 1}]  # boxes; masks with a background
STAGES = ["stage1", "stage2", "stage3", "stage4"]


@dataclass
class Drawn:
    """An image `[3, SIZE, SIZE]`, its index mask (0 is the background), and the corners and classes of its shapes."""

    pixels: Tensor
    mask: Tensor
    boxes: Tensor
    classes: Tensor


def drawn(shapes: Shapes) -> Drawn:
    """Shapes as tensors."""
    pixels = hierax.HieraImageProcessor(size=SIZE, crop_size=SIZE)(shapes.image)["pixel_values"][0]
    mask = torch.from_numpy(np.array(shapes.mask)).long()
    return Drawn(pixels, mask, torch.tensor(shapes.boxes).float(), torch.tensor(shapes.classes))


@functools.cache
def drawings(count: int, seed: int) -> list[Drawn]:
    """`count` drawings."""
    random = np.random.RandomState(seed)
    return [drawn(draw(random, SIZE)) for _ in range(count)]


def stacked(samples: list[Drawn]) -> Tensor:
    """The pixels of a batch."""
    return torch.stack([sample.pixels for sample in samples])


# -- models --------------------------------------------------------------------------------------------------------


def backbone(kind: str, features: list[str]) -> Any:
    """The maps of femto: in hierax, in transformers' own class, or with random weights."""
    if kind == "scratch":
        return HieraxBackbone(HieraxConfig.from_hierax(hierax.load("hierax/femto").config, out_features=features))
    with tempfile.TemporaryDirectory() as folder:
        hierax.HieraModel.from_pretrained("hierax/femto", image_size=SIZE).save_pretrained(folder)
        cls = HieraxBackbone if kind == "hierax" else transformers.HieraBackbone
        return cls.from_pretrained(folder, out_features=features, dtype=torch.float32)


def with_backbone(model: Any, place: str, part: Any) -> Any:
    """`model` with the weights of `part` in its backbone."""
    model.get_submodule(place).load_state_dict(part.state_dict())
    return model


def rt_detr(kind: str) -> Any:
    """A small RT-DETR."""
    part = backbone(kind, STAGES[1:])
    config = transformers.RTDetrConfig(
        backbone_config=part.config,
        encoder_hidden_dim=64,
        encoder_in_channels=list(part.channels),
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        d_model=64,
        num_queries=30,
        decoder_in_channels=[64] * 3,
        decoder_ffn_dim=128,
        decoder_layers=3,
        decoder_attention_heads=4,
        num_denoising=20,
        **LABELS[0],
        anchor_image_size=None,
    )
    return with_backbone(transformers.RTDetrForObjectDetection(config), "model.backbone.model", part)


def upernet(kind: str) -> Any:
    """A small UperNet."""
    part = backbone(kind, STAGES)
    config = transformers.UperNetConfig(
        backbone_config=part.config, **LABELS[1], hidden_size=64, use_auxiliary_head=False
    )
    return with_backbone(transformers.UperNetForSemanticSegmentation(config), "backbone", part)


def mask2former(kind: str) -> Any:
    """A small Mask2Former."""
    part = backbone(kind, STAGES)
    config = transformers.Mask2FormerConfig(
        backbone_config=part.config,
        **LABELS[1],
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=128,
        dim_feedforward=128,
        encoder_layers=2,
        decoder_layers=3,
        num_attention_heads=4,
        num_queries=20,
        train_num_points=1024,
    )
    place = "model.pixel_level_module.encoder"
    return with_backbone(transformers.Mask2FormerForUniversalSegmentation(config), place, part)


def as_boxes(samples: list[Drawn]) -> dict[str, Any]:
    """The labels of detection: centers and sides relative to the image."""
    centers = [torch.cat([(s.boxes[:, :2] + s.boxes[:, 2:]) / 2, s.boxes[:, 2:] - s.boxes[:, :2]], 1) for s in samples]
    return {"labels": [{"class_labels": s.classes, "boxes": b / SIZE} for s, b in zip(samples, centers, strict=True)]}


def as_masks(samples: list[Drawn]) -> dict[str, Any]:
    """The labels of Mask2Former: a binary mask per class that is there."""
    present = [sample.mask.unique() for sample in samples]
    masks = [(s.mask == p[:, None, None]).float() for s, p in zip(samples, present, strict=True)]
    return {"mask_labels": masks, "class_labels": present}


def as_map(samples: list[Drawn]) -> dict[str, Any]:
    """The labels of UperNet."""
    return {"labels": torch.stack([sample.mask for sample in samples])}


# -- measures ------------------------------------------------------------------------------------------------------


def batches(samples: list[Drawn]) -> Iterator[list[Drawn]]:
    """Of 20 samples each."""
    return (samples[start : start + 20] for start in range(0, len(samples), 20))


@torch.no_grad()
def average_precision(model: Any, samples: list[Drawn]) -> float:
    """COCO's AP over thresholds of intersection over union from 0.50 to 0.95."""
    from faster_coco_eval import COCO, COCOeval_faster

    processor: Any = transformers.RTDetrImageProcessor()
    boxes, found = [], []
    for image, sample in enumerate(samples):
        for (left, top, right, bottom), kind in zip(sample.boxes.tolist(), sample.classes.tolist(), strict=True):
            wide, high = right - left, bottom - top
            box = {"bbox": [left, top, wide, high], "area": wide * high, "iscrowd": 0}
            boxes.append({"id": len(boxes) + 1, "image_id": image, "category_id": kind, **box})
    for part in batches(samples):
        sizes = torch.tensor([[SIZE, SIZE]] * len(part))
        answers = processor.post_process_object_detection(model(stacked(part)), threshold=0.0, target_sizes=sizes)
        for answer in answers:
            image = len({f["image_id"] for f in found})
            for score, kind, (left, top, right, bottom) in zip(
                *(answer[key].tolist() for key in ("scores", "labels", "boxes")), strict=True
            ):
                box = [left, top, right - left, bottom - top]
                found.append({"image_id": image, "category_id": kind, "score": score, "bbox": box})
    truth = COCO(
        {
            "images": [{"id": n, "width": SIZE, "height": SIZE} for n in range(len(samples))],
            "categories": [{"id": n, "name": str(n)} for n in range(CLASSES)],
            "annotations": boxes,
            "info": {},
        }
    )
    evaluation = COCOeval_faster(truth, truth.loadRes(found), "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


@torch.no_grad()
def mean_iou(model: Any, samples: list[Drawn]) -> float:
    """The mean of intersection over union of the background and the classes that occur."""
    counts = torch.zeros(CLASSES + 1, CLASSES + 1)
    processor: Any = transformers.Mask2FormerImageProcessor()
    for part in batches(samples):
        out = model(stacked(part))
        if isinstance(model, transformers.UperNetForSemanticSegmentation):
            answers = F.interpolate(out.logits, (SIZE, SIZE), mode="bilinear").argmax(1)
        else:
            sizes = [(SIZE, SIZE)] * len(part)
            answers = torch.stack(processor.post_process_semantic_segmentation(out, target_sizes=sizes))
        pairs = (as_map(part)["labels"] * (CLASSES + 1) + answers).flatten()
        counts += pairs.bincount(minlength=counts.numel()).view_as(counts)
    return (counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag())).nanmean().item()


@dataclass
class Kind:
    """A kind of model: how it is built, its labels, its measure, and the learning rate of all but the backbone."""

    build: Callable[[str], Any]
    labels: Callable[[list[Drawn]], dict[str, Any]]
    measure: Callable[[Any, list[Drawn]], float]
    lr: float = 1e-3


KINDS = {
    "rt-detr": Kind(rt_detr, as_boxes, average_precision),
    "upernet": Kind(upernet, as_map, mean_iou),
    "mask2former": Kind(mask2former, as_masks, mean_iou),
}


def train(name: str, backbone: str, *, steps: int, seed: int, every: int = 150) -> dict[int, float]:
    """The measure on held-out drawings after each `every` steps, by step."""
    register()
    torch.manual_seed(seed)
    kind, random = KINDS[name], np.random.RandomState(seed + 3)
    model, samples, held_out = kind.build(backbone), drawings(400, 0), drawings(80, 1)
    groups = [{"params": [], "top": 2e-4}, {"params": [], "top": kind.lr}]
    for parameter, value in model.named_parameters():
        groups["backbone" not in parameter and "encoder.embeddings" not in parameter]["params"].append(value)
    optimizer, measured = torch.optim.AdamW(groups, weight_decay=1e-4), {}
    started = time.perf_counter()
    for step in range(steps):
        model.train()
        batch = [samples[n] for n in random.randint(0, len(samples), BATCH)]
        for group in optimizer.param_groups:
            group["lr"] = group["top"] * min(1, (step + 1) / 30) * (1 - step / steps)
        loss = model(stacked(batch), **kind.labels(batch)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % every == 0 or step + 1 == steps:
            measured[step + 1] = kind.measure(model.eval(), held_out)
            seconds = time.perf_counter() - started
            print(f"{name}, {backbone}, seed {seed}, step {step + 1}: loss {loss.item():.2f}, "
                  f"{measured[step + 1]:.3f}, {seconds:.0f} s", flush=True)  # fmt: skip
    return measured


def main(words: Sequence[str] | None = None) -> None:
    """Trains all, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", default="rt-detr,upernet")
    parser.add_argument("--backbones", default="hierax,transformers")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    results = []
    for name in arguments.models.split(","):
        for kind in arguments.backbones.split(","):
            for seed in map(int, arguments.seeds.split(",")):
                measured = train(name, kind, steps=arguments.steps, seed=seed)
                results.append({"model": name, "backbone": kind, "seed": seed, "measured": measured})
    steps = list(results[0]["measured"])
    print(f"\n| model | backbone | seed | {' | '.join(f'{step} steps' for step in steps)} |")
    print("|---" * (3 + len(steps)) + "|")
    for row in results:
        values = " | ".join(f"{row['measured'][step]:.3f}" for step in steps)
        print(f"| {row['model']} | {row['backbone']} | {row['seed']} | {values} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
