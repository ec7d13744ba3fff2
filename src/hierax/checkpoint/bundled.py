"""The checkpoints that are part of the package. Nothing here imports torch.

`hierax/NAME` is the folder `assets/NAME` of the package, which contains the usual files of a checkpoint. Metrics are in
`metrics.json`, a flat object that the measuring script wrote. Every field may be missing. These fields are used:

    top1                  top-1 accuracy in percent, on held-out images of the checkpoint's own categories
    top1_low, top1_high   95 % confidence interval of top1, in percent
    test_pictures         number of images of the measurement
    classes               number of categories of these images
    data                  a sentence about the data for training and measurement
    sure                  smallest probability of the first label at which `hierax demo` gives it as an answer
    sure_temperature      by which logits are divided for `sure`
    sure_side             side in pixels of the images for which both were chosen
    sure_coverage, sure_precision   share of test images with an answer, and of right answers among these, in percent
    loss                  for a masked autoencoder: the loss on held-out images
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

FEMTO: Final = "hierax/femto"
FEMTO_MAE: Final = "hierax/femto.mae"
BUNDLED: Final = (FEMTO, FEMTO_MAE)
_OWNER = "hierax/"
_ASSETS = Path(__file__).parent.parent / "assets"


def bundled_folder(name: str) -> Path | None:
    """The folder of the bundled checkpoint `hierax/NAME`; None for a name of another owner.

    Raises:
        FileNotFoundError: no bundled checkpoint has this name; the message lists the bundled checkpoints.
    """
    if not name.startswith(_OWNER):
        return None
    if name not in BUNDLED:
        raise FileNotFoundError(
            f"{name}: no such file or folder, and no checkpoint of that name comes with hierax; "
            f"there are {' and '.join(BUNDLED)}"
        )
    return _ASSETS / name.removeprefix(_OWNER)


def bundled_metrics(name: str) -> Mapping[str, Any]:
    """The content of `metrics.json` of a bundled checkpoint; empty if there is none, and for every other checkpoint."""
    return _fields(name, "metrics.json")


def bundled_labels(name: str) -> int:
    """The number of classes of a bundled checkpoint, from its configuration; 0 without a head."""
    return len(_fields(name, "config.json").get("id2label", ()))


def bundled_parameters(name: str) -> int | None:
    """The number of parameters in a bundled checkpoint, from the header of its tensor file; None if it is missing."""
    folder = bundled_folder(name)
    file = folder and folder / "model.safetensors"
    if file is None or not file.is_file():
        return None
    with file.open("rb") as opened:  # the first eight bytes are the length of the JSON object that follows
        tensors = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return sum(math.prod(entry["shape"]) for key, entry in tensors.items() if key != "__metadata__")


def _fields(name: str, file: str) -> Mapping[str, Any]:
    folder = bundled_folder(name)
    path = folder and folder / file
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
