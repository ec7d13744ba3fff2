"""The checkpoints that come with the package: where they are, and what their files say. Nothing here imports torch.

`hierax/NAME` is the folder `assets/NAME` of the package, with the files of any checkpoint. How well it does stands
beside the weights, in `metrics.json`, since it belongs to them: one flat object, written by the script that measured.
Every field may be missing; others are kept. So far these mean something:

    top1                  top-1 accuracy in percent, on held-out images of the checkpoint's own categories
    top1_low, top1_high   95 % confidence interval of it, in percent
    test_pictures         how many images it was measured on
    classes               how many categories they belong to
    data                  what it was trained and measured on, in a sentence
    loss                  of a masked autoencoder: the loss on held-out images
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
        FileNotFoundError: no bundled checkpoint has that name; lists the bundled ones.
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
    """What `metrics.json` says of a bundled checkpoint; empty without one, and for every other checkpoint."""
    return _fields(name, "metrics.json")


def bundled_labels(name: str) -> int:
    """Classes of a bundled checkpoint's head, by its configuration; 0 without a head."""
    return len(_fields(name, "config.json").get("id2label", ()))


def bundled_parameters(name: str) -> int | None:
    """Number of parameters in a bundled checkpoint, by the head of its tensor file; None where that is missing."""
    folder = bundled_folder(name)
    file = folder and folder / "model.safetensors"
    if file is None or not file.is_file():
        return None
    with file.open("rb") as opened:  # eight bytes: the length of the JSON object that follows and describes the tensors
        tensors = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return sum(math.prod(entry["shape"]) for key, entry in tensors.items() if key != "__metadata__")


def _fields(name: str, file: str) -> Mapping[str, Any]:
    folder = bundled_folder(name)
    path = folder and folder / file
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
