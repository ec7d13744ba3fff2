"""Numbers that are public for published checkpoints, and the checks that compare them with hierax's.

All are from the tests of transformers: `tests/models/hiera/test_modeling_hiera.py` and
`tests/models/sam2/test_modeling_sam2.py`. They are for the photo 000000039769 of COCO (two cats), and for a truck.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import hierax

CLASSIFIER = "facebook/hiera-tiny-224-in1k-hf"
FEATURES = "facebook/hiera-tiny-224-hf"
MAE = "facebook/hiera-tiny-224-mae-hf"
SAM = "facebook/sam2.1-hiera-tiny"
OTHERS = ("facebook/hiera_tiny_224.mae_in1k_ft_in1k", "timm/hiera_tiny_224.mae_in1k_ft_in1k")
"""The weights of `CLASSIFIER` in the two other formats."""
CATS = ("hf-internal-testing/fixtures-coco", "val2017/000000039769.jpg")
TRUCK = ("hf-internal-testing/sam2-fixtures", "truck.jpg")
"""Data sets of the Hub, and files in them."""
NOT_TESTED = "published checkpoints are NOT tested"
NUMBERS = "HIERAX_HUB_NUMBERS"
"""Names a file with other numbers, for a test of these tests with other weights."""

Options = dict[str, Any]
"""Arguments of `from_pretrained` that say where the Hub's files are, such as `cache_dir`."""


@dataclass(frozen=True)
class Numbers:
    """What is stated of the photo of two cats.

    Attributes:
        pixels: the first 3 rows and columns of each channel, `[3, 3, 3]`.
        logits: the first five of the classifier.
        tokens: the first 3 x 3 of `last_hidden_state` at 448 pixels.
        reconstruction: the first 5 x 5 of the logits of the MAE model, with noise drawn after `torch.manual_seed(2)`.
    """

    pixels: list[list[list[float]]]
    logits: list[float]
    tokens: list[list[float]]
    reconstruction: list[list[float]]

    @classmethod
    def stated(cls) -> Numbers:
        """The public numbers, or those of the file that the variable names."""
        file = os.environ.get(NUMBERS)
        return cls(**json.loads(Path(file).read_text(encoding="utf-8"))) if file else PUBLIC

    def write(self, file: Path) -> None:
        """Writes a file for the variable."""
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")


PUBLIC = Numbers(
    pixels=[
        [[0.2967, 0.4679, 0.4508], [0.3309, 0.4337, 0.3309], [0.3309, 0.3823, 0.3309]],
        [[-1.5455, -1.4930, -1.5455], [-1.5280, -1.4755, -1.5980], [-1.5630, -1.5280, -1.4755]],
        [[-0.6367, -0.4973, -0.5321], [-0.7936, -0.6715, -0.6715], [-0.8284, -0.7413, -0.5670]],
    ],
    logits=[0.8028, 0.2409, -0.2254, -0.3712, -0.2848],
    tokens=[[1.7853, 0.0690, 0.3177], [2.6853, -0.2334, 0.0889], [1.5445, -0.1515, -0.0300]],
    reconstruction=[
        [1.6407, 1.6506, 1.6541, 1.6617, 1.6703],
        [1.9730, 1.9842, 1.9848, 1.9896, 1.9947],
        [1.5949, 1.8262, 1.2602, 1.4801, 1.4448],
        [1.2341, 1.7907, 0.8618, 1.5202, 1.4523],
        [2.0140, 1.9846, 1.9434, 1.9019, 1.8648],
    ],
)
TRUCK_PROMPTS: tuple[tuple[dict[str, Any], list[float]], ...] = (
    ({"points": [[500, 375]], "masks": 3}, [0.9547, 0.4932, 0.0427]),
    ({"points": [[500, 375]], "masks": 1}, [0.9364]),
    (
        {"boxes": [[75, 275, 1725, 850], [425, 600, 700, 875], [1375, 550, 1650, 800], [1240, 675, 1400, 750]]},
        [0.9904, 0.9689, 0.9770, 0.9079],
    ),
)
"""Points or boxes in pixels of the truck, and the scores of SAM 2.1 tiny; several masks are sorted by score."""


# -- the Hub ----------------------------------------------------------------------------------------------------------


def require_hub() -> None:
    """Skips a test if the Hub cannot be reached; conftest.py shows the reason at the end of the run.

    An answer that says no is not a reason to skip: the test then fails.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        pytest.skip(f"the Hub is switched off (run `pytest -m hub`, without HF_HUB_OFFLINE): {NOT_TESTED}")
    try:
        get_hf_file_metadata(hf_hub_url(CLASSIFIER, "config.json"), timeout=10)
    except HfHubHTTPError:
        return
    except Exception as error:  # errors of the HTTP library of the client, which differ between versions
        pytest.skip(f"the Hub cannot be reached ({type(error).__name__}: {error}): {NOT_TESTED}")


def photo(source: tuple[str, str], options: Options) -> Image.Image:
    """A photo of a data set of the Hub, read by Pillow as in transformers' tests."""
    from huggingface_hub import hf_hub_download

    repository, file = source
    return Image.open(hf_hub_download(repository, file, repo_type="dataset", **options)).convert("RGB")


def pixels_of(source: str, options: Options, **changes: Any) -> Tensor:
    """The photo of two cats as `[1, 3, H, W]`, prepared as a checkpoint says."""
    processor = hierax.AutoImageProcessor.from_pretrained(source, **options, **changes)
    return processor(photo(CATS, options), return_tensors="pt")["pixel_values"]


def equal(found: Tensor, stated: Any, what: str, *, tolerance: float = 1e-4) -> None:
    """Compares with stated numbers, which have four decimals."""
    torch.testing.assert_close(found, torch.tensor(stated), rtol=1e-5, atol=tolerance, msg=lambda m: f"{what}: {m}")


# -- the checks -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_classifier(stated: Numbers, options: Options) -> None:
    """Pixels and logits."""
    pixels = pixels_of(CLASSIFIER, options)
    equal(pixels[0, :, :3, :3], stated.pixels, "pixels")
    logits = hierax.HieraForImageClassification.from_pretrained(CLASSIFIER, **options).eval()(pixels).logits
    equal(logits[0, :5], stated.logits, "logits")


@torch.no_grad()
def check_formats(options: Options) -> None:
    """The same weights in the formats of the authors and of timm give the same logits."""
    pixels = pixels_of(CLASSIFIER, options)
    expected = hierax.load(CLASSIFIER, **options).eval()(pixels).logits
    for other in OTHERS:
        logits = hierax.load(other, **options).eval()(pixels).logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4, msg=lambda m, other=other: f"{other}: {m}")


@torch.no_grad()
def check_tokens(stated: Numbers, options: Options) -> None:
    """The last tokens, at twice the size of training: position embeddings are interpolated."""
    size = {"size": {"shortest_edge": 448}, "crop_size": {"height": 448, "width": 448}}
    pixels = pixels_of(FEATURES, options, **size)
    tokens = hierax.HieraModel.from_pretrained(FEATURES, **options).eval()(pixels).last_hidden_state
    assert tokens.shape[:2] == (1, 196)
    equal(tokens[0, :3, :3], stated.tokens, "last_hidden_state")


@torch.no_grad()
def check_reconstruction(stated: Numbers, options: Options) -> None:
    """Reconstruction and loss. No loss is public: it is compared with that of transformers for the same noise.

    The noise depends on how many random numbers transformers draws while it loads the model. If its own result differs
    from the numbers, the noise is another one than theirs was, and ours is compared with its result.
    """
    import transformers

    torch.manual_seed(2)
    theirs: Any = transformers.HieraForPreTraining.from_pretrained(MAE, **options).eval()
    pixels = pixels_of(CLASSIFIER, options)
    noise = torch.rand(1, 49)
    expected = theirs(pixels, noise=noise)
    ours = hierax.HieraForPreTraining.from_pretrained(MAE, **options).eval()(pixels, noise=noise)
    assert ours.loss is not None
    torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.loss, expected.loss, rtol=1e-5, atol=1e-6)
    if torch.allclose(expected.logits[0, :5, :5], torch.tensor(stated.reconstruction), atol=1e-3):
        equal(ours.logits[0, :5, :5], stated.reconstruction, "reconstruction")
    else:
        pytest.skip(f"transformers draws other noise than it did when its numbers were written: these are {NOT_TESTED}")


@torch.no_grad()
def check_truck(prompts: Any, options: Options) -> None:
    """Scores of SAM 2's decoder on hierax's image encoder. They hold within the rounding of a resize."""
    import transformers

    from sam2_small import embeddings

    sam: Any = transformers.Sam2Model.from_pretrained(SAM, **options).eval()
    encoder: Any = hierax.load(SAM, **options).eval()
    image = photo(TRUCK, options)
    pixels = hierax.AutoImageProcessor.from_pretrained(SAM, **options)(image)["pixel_values"]
    maps = embeddings(sam, encoder(pixels).feature_maps)
    scale = torch.tensor([pixels.shape[-1] / image.width, pixels.shape[-2] / image.height])
    for prompt, stated in prompts:
        masks = prompt.get("masks", 1)
        if "points" in prompt:
            points = torch.tensor(prompt["points"]) * scale
            given = {"input_points": points[None, None], "input_labels": torch.ones(1, 1, len(points), dtype=torch.int)}
        else:
            given = {"input_boxes": (torch.tensor(prompt["boxes"]) * scale.repeat(2))[None]}
        scores = sam(image_embeddings=maps, multimask_output=masks > 1, **given).iou_scores.flatten()
        ordered = scores.sort(descending=True).values if masks > 1 else scores
        equal(ordered, stated, f"scores for {prompt}", tolerance=0.01)
