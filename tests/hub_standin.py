"""A Hub of small models with random weights, as a folder that the Hub's client has cached, or as a server."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import transformers

import hierax
import published
from published import Numbers
from sam2_small import SIZE, small_sam
from small import randomize

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CAT = Path(hierax.__file__).parent / "assets" / "cat.jpg"
_SMALL: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "decoder_hidden_size": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
    "num_labels": 7,
}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class StandIn:
    """The repositories that `published` asks for, and the numbers that transformers gives for them.

    Attributes:
        repositories: a folder with `models/OWNER/NAME` and `datasets/OWNER/NAME`.
        numbers: as published.Numbers.
        prompts: as published.TRUCK_PROMPTS.
    """

    def __init__(self, folder: Path) -> None:
        self.repositories = folder / "repositories"
        for repository, file in (published.CATS, published.TRUCK):
            target = self.repositories / "datasets" / repository / file
            target.parent.mkdir(parents=True)
            shutil.copy(CAT, target)
        self.numbers = self._hiera()
        self.prompts = self._sam()

    def cache(self, folder: Path) -> Path:
        """The same files as the Hub's client leaves them in its cache."""
        for kind in ("models", "datasets"):
            for repository in (self.repositories / kind).glob("*/*"):
                name = f"{kind}--{repository.parent.name}--{repository.name}"
                shutil.copytree(repository, folder / name / "snapshots" / COMMIT)
                (folder / name / "refs").mkdir()
                (folder / name / "refs" / "main").write_text(COMMIT)
        return folder

    def model(self, repository: str) -> Path:
        """The folder of a model."""
        return self.repositories / "models" / repository

    @torch.no_grad()
    def _hiera(self) -> Numbers:
        small = transformers.HieraConfig(image_size=[224, 224], **_SMALL)
        classes = {
            published.CLASSIFIER: transformers.HieraForImageClassification,
            published.FEATURES: transformers.HieraModel,
            published.MAE: transformers.HieraForPreTraining,
        }
        models: dict[str, Any] = {}
        for repository, cls in classes.items():
            models[repository] = randomize(cls(small)).eval()
            models[repository].save_pretrained(self.model(repository))
            self._processor().save_pretrained(self.model(repository))
        for repository, dialect in zip(published.OTHERS, ("official", "timm"), strict=True):
            hierax.convert(self.model(published.CLASSIFIER), self.model(repository), to=dialect)
        photo = published.Image.open(CAT).convert("RGB")
        pixels = self._processor()(photo, return_tensors="pt")["pixel_values"]
        large = self._processor(448)(photo, return_tensors="pt")["pixel_values"]
        tokens = models[published.FEATURES](large, interpolate_pos_encoding=True).last_hidden_state
        torch.manual_seed(2)
        mae: Any = transformers.HieraForPreTraining.from_pretrained(self.model(published.MAE)).eval()
        reconstruction = mae(pixels, noise=torch.rand(1, 49)).logits
        return Numbers(
            pixels[0, :, :3, :3].tolist(),
            models[published.CLASSIFIER](pixels).logits[0, :5].tolist(),
            tokens[0, :3, :3].tolist(),
            reconstruction[0, :5, :5].tolist(),
        )

    def _processor(self, size: int = 224) -> Any:
        edge = 256 if size == 224 else size
        return transformers.BitImageProcessorPil(
            size={"shortest_edge": edge}, crop_size={"height": size, "width": size}, **_IMAGENET
        )

    @torch.no_grad()
    def _sam(self) -> Any:
        sam = small_sam()
        sam.save_pretrained(self.model(published.SAM))
        record = {
            "image_processor_type": "Sam2ImageProcessorFast",
            "size": {"height": SIZE, "width": SIZE},
            **_IMAGENET,
        }
        (self.model(published.SAM) / "preprocessor_config.json").write_text(json.dumps(record))
        photo = published.Image.open(CAT).convert("RGB")
        pixels = hierax.AutoImageProcessor.from_pretrained(self.model(published.SAM))(photo)["pixel_values"]
        x, y = SIZE / photo.width, SIZE / photo.height
        point = {
            "input_points": torch.tensor([[[[30 * x, 40 * y]]]]),
            "input_labels": torch.ones(1, 1, 1, dtype=torch.int),
        }
        boxes = [[10, 20, 200, 120], [50, 60, 90, 99]]
        corners = torch.tensor(boxes) * torch.tensor([x, y, x, y])
        return (
            ({"points": [[30, 40]], "masks": 3}, _scores(sam, pixels, **point).sort(descending=True).values.tolist()),
            ({"points": [[30, 40]], "masks": 1}, _scores(sam, pixels, multimask_output=False, **point).tolist()),
            ({"boxes": boxes}, _scores(sam, pixels, multimask_output=False, input_boxes=corners[None]).tolist()),
        )


def _scores(sam: Any, pixels: torch.Tensor, **prompt: Any) -> torch.Tensor:
    return sam(pixel_values=pixels, **prompt).iou_scores.flatten()


@contextmanager
def served(repositories: Path) -> Iterator[str]:
    """Serves the repositories as the Hub does, on this machine; the value is the address for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            kind = "" if repository.startswith("datasets/") else "models/"
            file = repositories / f"{kind}{repository}" / rest.partition("/")[2]
            content = file.read_bytes() if rest and file.is_file() else None
            self.send_response(200 if content is not None else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{abs(hash(content)):032x}"')
            self.send_header("Content-Length", str(len(content or b"")))
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if body and content:
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
