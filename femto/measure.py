"""Measures the checkpoints that come with hierax on held-out pictures.

    python femto/measure.py all PICTURES --classifier RUN --mae RUN --teacher teacher.onnx -o OUT
    python femto/measure.py accuracy|sure|baselines|neighbors|masked|engines|parity|sizes …

PICTURES is the folder of femto/pictures.py: the test set is `labeled/test`, `held_out_photos` is what the masked
autoencoder is measured on. OUT gets a JSON file per part, `tables.md`, `confusion.png` and `metrics.json`.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import hierax
from hierax.data.dataset import Dataset
from hierax.data.sources import open_dataset
from hierax.demo.images import gallery
from hierax.model.mae import visible_patches
from hierax.model.tasks import HieraForPreTraining
from hierax.processing import HieraImageProcessor
from hierax.train.evaluation import Evaluation, evaluate
from hierax.train.probe import linear
from hierax.train.teacher import open_teacher
from split import is_photo
from sure import DRAWS, parts, sure, sure_metrics

Json = dict[str, Any]
AT = 5  # neighbors


# -- accuracy ---------------------------------------------------------------------------------------------------------


def balanced(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the share that was found."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def interval(predicted: np.ndarray, labels: np.ndarray, measure: Callable[..., float]) -> tuple[float, float]:
    """95 % interval of a measure by a bootstrap over the pictures of each class."""
    random = np.random.default_rng(0)
    places = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    drawn = []
    for _ in range(DRAWS):
        chosen = np.concatenate([random.choice(place, len(place)) for place in places])
        drawn.append(measure(predicted[chosen], labels[chosen]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def scored(predicted: np.ndarray, labels: np.ndarray) -> Json:
    """Top-1 and balanced top-1 with their intervals, in per cent."""
    found: Json = {"pictures": len(labels)}
    for name, measure in (("top1", lambda p, y: float((p == y).mean())), ("balanced", balanced)):
        low, high = interval(predicted, labels, measure)
        found[name] = [round(100 * v, 2) for v in (measure(predicted, labels), low, high)]
    return found


def accuracy(a: argparse.Namespace) -> Json:
    """Of the classifier on the test set: whole, photos and drawings apart, and by class."""
    test = a.pictures / "labeled" / "test"
    found: Evaluation = evaluate(test, model=a.classifier, device="cpu")
    photos = are_photos(open_dataset(test))
    predicted, labels = found.predictions.logits.argmax(1).numpy(), found.predictions.labels.numpy()
    found.draw_confusion(a.out / "confusion.png")
    top5 = 100 * found.metrics["top5"]
    return {
        **scored(predicted, labels),
        "top5": round(top5, 2),
        **{name: scored(predicted[chosen], labels[chosen]) for name, chosen in parts(photos)[1:]},
        "per class": found.per_class,
        "labels": found.labels,
    }


def are_photos(dataset: Dataset) -> np.ndarray:
    """Which pictures of a folder are photos."""
    return np.array([is_photo(dataset.sample(index).name) for index in range(len(dataset))])


def baselines(a: argparse.Namespace) -> Json:
    """Linear classifiers on other features of the same pictures: color histograms, the teacher's, the MAE's stages."""
    train, test = (open_dataset(a.pictures / "labeled" / part) for part in ("train", "test"))
    classes = len(train.classes)
    answers = {"color histogram": histograms, "teacher": taught(a.teacher), "random stages": None}
    results: Json = {}
    for name, features in answers.items():
        if features is None:
            continue
        x, y = featured(train, features, limit=a.limit)
        tx, ty = featured(test, features)
        results[name] = scored(linear(x, y, tx, classes=classes).numpy(), ty.numpy())
    return results


def featured(dataset: Dataset, features: Callable[[Sequence[bytes]], Tensor], *, limit: int | None = None) -> tuple[Tensor, Tensor]:  # noqa: E501  # fmt: skip
    """Features `[N, C]` and labels `[N]` of every picture, or of about `limit` spread over the set."""
    step = max(len(dataset) // limit, 1) if limit else 1
    parts, labels, batch = [], [], []
    for index in range(0, len(dataset), step):
        sample = dataset.sample(index)
        batch.append(sample.content)
        labels.append(int(sample.label))  # type: ignore[arg-type]
        if len(batch) == 32:
            parts.append(features(batch))
            batch = []
    if batch:
        parts.append(features(batch))
    return torch.cat(parts), torch.tensor(labels)


def histograms(contents: Sequence[bytes]) -> Tensor:
    """Joint histograms of color, 4 x 4 x 4 bins, and of gray levels, 16 bins."""
    rows = []
    for content in contents:
        pixels = np.asarray(opened(content).convert("RGB").resize((64, 64), Image.Resampling.BOX), np.int64)
        joint = np.bincount((pixels // 64 @ np.array([16, 4, 1])).ravel(), minlength=64)
        gray = np.bincount((pixels.mean(2) // 16).astype(int).ravel(), minlength=16)
        rows.append(np.sqrt(np.concatenate([joint, gray]) / 4096))
    return torch.from_numpy(np.stack(rows)).float()


def opened(content: Any) -> Image.Image:
    """A picture from a path or bytes."""
    import io

    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)


def taught(path: Path) -> Callable[[Sequence[bytes]], Tensor]:
    """The teacher's features of pictures, each resized to its size."""
    teacher = open_teacher(path, size=(224, 224), device=torch.device("cpu"))
    side = (teacher.size or (224, 224))[0]
    processor = HieraImageProcessor(
        hierax.Preprocessing(size={"height": side, "width": side}, do_center_crop=False, do_normalize=False)
    )
    mean, std = torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), 255.0)

    def features(contents: Sequence[bytes]) -> Tensor:
        pixels = torch.cat([processor(opened(c).convert("RGB")).pixel_values for c in contents])
        found = teacher(pixels, mean, std).features
        assert found is not None
        return found

    return features


# -- features and reconstructions -------------------------------------------------------------------------------------


def neighbors(a: argparse.Namespace) -> Json:
    """Precision at 5 of a search among the test pictures, mean over pictures of a category and then over categories."""
    test = open_dataset(a.pictures / "labeled" / "test")
    found: Json = {}
    for name, source in (("before distillation (MAE)", a.mae), ("after", a.classifier)):
        model = hierax.load(source, task="features", reinit=("norm",))
        processor = HieraImageProcessor(model.preprocessing or hierax.Preprocessing())

        def features(contents: Sequence[bytes], model: Any = model, processor: Any = processor) -> Tensor:
            with torch.inference_mode():
                out = model(torch.cat([processor(c).pixel_values for c in contents]), output_hidden_states=True)
            stages = [state.flatten(1, -2).mean(1) for state in out.reshaped_hidden_states[-4:]]
            return torch.cat([*stages, out.pooler_output], 1)

        x, y = featured(test, features)
        config = model.config
        widths = [*config.dims[-4:], config.hidden_size]
        names = [f"stage{i + 1}" for i in range(4)] + ["pooled"]
        if sum(widths) != x.shape[1]:  # hidden states hold the patch embedding too where there are five
            raise SystemExit(f"features of {x.shape[1]} numbers; expected {sum(widths)}")
        parts = dict(zip(names, x.split(widths, 1), strict=True))
        found[name] = {key: round(100 * precision(part, y), 2) for key, part in parts.items()}
    counts = torch.bincount(torch.tensor(test.labels()))
    chance = statistics.mean(((n - 1) / (len(test) - 1)) for n in counts.tolist() if n > 1)
    return {**found, "chance": round(100 * chance, 2), "pictures": len(test)}


def precision(features: Tensor, labels: Tensor) -> float:
    """Precision at 5 by cosine of standardized features, averaged by class."""
    centered = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    unit = F.normalize(centered, dim=1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-2)
    hits = (labels[similarity.topk(AT).indices] == labels[:, None]).float().mean(1)
    return statistics.mean(hits[labels == c].mean().item() for c in labels.unique())


def masked(a: argparse.Namespace) -> Json:
    """Error on masked pixels of held-out photos, in gray levels: of the model, of the mean color of what is seen, and
    of a smooth inpainting.
    """
    model = hierax.load(a.mae)
    assert isinstance(model, HieraForPreTraining)
    record, config = model.preprocessing, model.config
    assert record is not None
    processor = HieraImageProcessor(record)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (record.image_mean, record.image_std))
    errors: dict[str, list[float]] = {"model": [], "mean color": [], "bicubic inpainting": []}
    for number, path in enumerate(sorted((a.pictures / "held_out_photos").iterdir())):
        pixels = processor(path).pixel_values
        units = math.prod(config.unit_grid(pixels.shape[2:]))
        noise = torch.rand(1, units, generator=torch.Generator().manual_seed(number))
        with torch.inference_mode():
            kept, _ = model.visible(pixels, keep=None, noise=noise)
            _, logits = model.predict(pixels, kept)
        seen = _seen(visible_patches(kept, config.unit_grid(pixels.shape[2:]), config), config, pixels)
        truth = pixels * std + mean
        guesses = {
            "model": _picture(logits, config, pixels) * std + mean,
            "mean color": ((truth * seen).sum((2, 3), keepdim=True) / seen.sum()).expand_as(truth),
            "bicubic inpainting": inpainted(truth, seen),
        }
        hidden = (1 - seen).expand_as(truth).bool()
        for name, guess in guesses.items():
            errors[name].append(((guess.clamp(0, 255) - truth)[hidden] ** 2).mean().item())
    rms = {name: round(math.sqrt(statistics.mean(values)), 3) for name, values in errors.items()}
    better = statistics.mean(m < b for m, b in zip(errors["model"], errors["bicubic inpainting"], strict=True))
    return {"photos": len(errors["model"]), "root mean square error": rms, "photos where the model is best": better}


def _picture(patches: Tensor, config: Any, pixels: Tensor) -> Tensor:
    """Pixels `[1, C, H, W]` of predictions `[1, patches, C * 16 * 16]` in the order (C, y, x)."""
    side, (rows, columns) = config.target_size[0], (pixels.shape[2] // 16, pixels.shape[3] // 16)
    tiles = patches.view(1, rows, columns, 3, side, side)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(1, 3, rows * side, columns * side)


def _seen(visible: Tensor, config: Any, pixels: Tensor) -> Tensor:
    """1 where a pixel is seen `[1, 1, H, W]`, from visible patches `[1, patches]`."""
    grid = visible.view(1, 1, pixels.shape[2] // 16, pixels.shape[3] // 16).float()
    return F.interpolate(grid, scale_factor=config.target_size[0], mode="nearest")


def inpainted(truth: Tensor, seen: Tensor) -> Tensor:
    """What is not seen, filled from coarser and coarser averages of what is, each enlarged bicubically."""
    if min(truth.shape[2:]) <= 2:
        return truth
    half = (max(truth.shape[2] // 2, 1), max(truth.shape[3] // 2, 1))
    weight = F.adaptive_avg_pool2d(seen, half)
    small = F.adaptive_avg_pool2d(truth * seen, half) / weight.clamp(min=1e-6)
    filled = inpainted(small, (weight > 0).float())
    return torch.where(seen > 0, truth, F.interpolate(filled, truth.shape[2:], mode="bicubic"))


# -- engines and sizes ------------------------------------------------------------------------------------------------


def tested(a: argparse.Namespace) -> tuple[list[Any], np.ndarray]:
    """The pictures of the test set, and their labels."""
    test = open_dataset(a.pictures / "labeled" / "test")
    return [test.sample(i).content for i in range(len(test))], np.array(test.labels())


def engines(a: argparse.Namespace) -> Json:
    """Agreement with float32 and accuracy of the engine's precisions on the whole test set; int8 is calibrated on the
    gallery of the demo.
    """
    contents, labels = tested(a)
    found: Json = {}
    reference: np.ndarray | None = None
    for precision_ in ("fp32", "bf16", "int8"):
        known = [picture.picture for picture in gallery()] if precision_ == "int8" else None
        with hierax.Engine(a.classifier, device="cpu", precision=precision_, calibration=known) as engine:
            logits = torch.cat([engine(contents[i : i + 32]).logits.float() for i in range(0, len(contents), 32)])
            predicted = logits.argmax(1).numpy()
            reference = predicted if reference is None else reference
            found[precision_] = {
                "backend": str(engine), "agreement": round(100 * float((predicted == reference).mean()), 2),
                **scored(predicted, labels),
            }  # fmt: skip
    return found


def parity(a: argparse.Namespace) -> Json:
    """The report of an export to int8, compared with the model in float32 on the whole test set."""
    contents, _ = tested(a)
    known = [picture.picture for picture in gallery()]
    how: Json = {"format": "openvino", "precision": "int8", "calibration": known, "evaluate": contents}
    with tempfile.TemporaryDirectory() as folder:
        try:
            return hierax.export(a.classifier, Path(folder) / "int8", **how).to_dict()
        except hierax.ParityError as error:
            return error.report.to_dict()


def sizes(a: argparse.Namespace) -> Json:
    """Accuracy at other sizes, by how position embeddings are resized."""
    native = hierax.load(a.classifier).config.image_size[0]
    found: Json = {}
    for factor in (0.75, 1, 1.5, 2, 3):
        for way in ("bicubic", "window"):
            side = int(native * factor)
            model = hierax.load(a.classifier, image_size=side, position_resize=way)
            out = evaluate(a.pictures / "labeled" / "test", model=model, device="cpu").predictions
            found[f"{side} px, {way}"] = scored(out.logits.argmax(1).numpy(), out.labels.numpy())
    return found


PARTS = {f.__name__: f for f in (accuracy, sure, baselines, neighbors, masked, engines, parity, sizes)}


def metrics(out: Path) -> dict[str, Json]:
    """What stands beside the weights in the package (see `hierax.checkpoint.bundled`), of the parts measured so far."""
    found: dict[str, Json] = {}
    if (out / "accuracy.json").exists():
        values = json.loads((out / "accuracy.json").read_text())
        for name in ("top1", "balanced"):
            found.setdefault("femto", {}).update(
                dict(zip((name, f"{name}_low", f"{name}_high"), values[name], strict=True))
            )
        found["femto"] |= {
            "top5": values["top5"], "test_pictures": values["pictures"], "classes": len(values["labels"]),
            "data": "drawings and photos from free packages of Debian, PyPI and npm, see femto/SOURCES.md",
        }  # fmt: skip
    if (out / "sure.json").exists():
        found.setdefault("femto", {}).update(sure_metrics(json.loads((out / "sure.json").read_text())))
    if (out / "masked.json").exists():
        values = json.loads((out / "masked.json").read_text())
        errors = {name.replace(" ", "_"): v for name, v in values["root mean square error"].items()}
        found["femto.mae"] = {"masked_rmse": errors, "test_pictures": values["photos"]}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measures a part, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("all", *PARTS))
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--classifier", default="hierax/femto")
    parser.add_argument("--mae", default="hierax/femto.mae")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--limit", type=int, help="training pictures for the baselines (default: all)")
    parser.add_argument("-o", "--out", type=Path, default=Path("measured"))
    a = parser.parse_args(argv)
    a.out.mkdir(parents=True, exist_ok=True)
    for name in PARTS if a.part == "all" else (a.part,):
        found = PARTS[name](a)
        (a.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (a.out / "metrics.json").write_text(json.dumps(metrics(a.out), indent=1) + "\n")
        print(name, json.dumps({k: v for k, v in found.items() if k not in ("per class", "labels")}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
