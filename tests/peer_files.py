"""Files written by the packages `hiera-transformer` and `timm` open here with equal outputs, and ours open there.

Needs an environment with both (`DIR`). `test_checkpoint_peers.py` runs the cases under pytest; as
a script, this prints the differences of every comparison:

    PYTHONPATH=src:tests DIR/bin/python -W ignore tests/peer_files.py
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierax import (
    HieraConfig,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
    convert,
    load,
)
from hierax.checkpoint.save import save_model
from small import randomize, relative

os.environ["HF_HUB_OFFLINE"] = "1"
Differences = dict[str, float]
LIMIT = 1e-5
SMALL: Mapping[str, Any] = {"embed_dim": 8, "stages": (1, 2, 3, 2), "num_classes": 5}
CLIP: Mapping[str, Any] = {
    **SMALL,
    "input_size": (8, 64, 96),
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}
DECODER: Mapping[str, Any] = {"q_pool": 2, "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 4}


def official(name: str, **arguments: Any) -> Any:
    """A model of the authors' package with weights in which nothing hides, in eval mode."""
    return randomize(getattr(import_module("hiera"), name)(**arguments)).eval()


def worst(ours: Any, theirs: Any) -> float:
    """The largest relative difference over a list of tensors."""
    return max(relative(a, b) for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
def compare_classifier(theirs: Any, ours: Any, size: tuple[int, ...]) -> Differences:
    """Stage maps, and probabilities: their classifier applies a softmax in eval mode."""
    x = torch.randn(2, 3, *size)
    probabilities, maps = theirs(x, return_intermediates=True)
    out = ours(x, output_hidden_states=True)
    return {
        "stage maps": worst(out.reshaped_hidden_states[1:], maps),
        "probabilities": relative(out.logits.softmax(-1), probabilities),
        "logits": relative(out.logits, theirs.train()(x)),  # theirs are logits in training; nothing is dropped
    }


@torch.no_grad()
def compare_mae(theirs: Any, ours: Any, size: tuple[int, ...], ratio: float) -> Differences:
    """Predictions of the masked patches and the loss, under the same mask."""
    x = torch.randn(2, 3, *size)
    loss, predicted, _, keep = theirs(x, mask_ratio=ratio)
    out = ours(x, keep=keep.bool().flatten(1))
    hidden = out.logits[~out.bool_masked_pos]
    return {"predictions": relative(hidden, predicted.flatten(0, -2)), "loss": relative(out.loss, loss)}


# -- their files, read here -------------------------------------------------------------------------------------------


def official_tiny_pth(folder: Path) -> Differences:
    theirs = official("hiera_tiny_224")
    torch.save({"model_state": theirs.state_dict(), "epoch": 3}, folder / "tiny.pth")
    ours = HieraForImageClassification.from_pretrained(folder / "tiny.pth")
    assert ours.config.id2label[281] == "tabby, tabby cat"
    return compare_classifier(theirs, ours, (224, 224))


def official_mae_tiny_pth(folder: Path) -> Differences:
    theirs = official("mae_hiera_tiny_224")
    torch.save({"model_state": theirs.state_dict()}, folder / "mae.pth")
    return compare_mae(theirs, HieraForPreTraining.from_pretrained(folder / "mae.pth"), (224, 224), 0.6)


def official_folder(folder: Path) -> Differences:
    """What `save_pretrained` writes by itself: only the arguments that were passed."""
    theirs = official("Hiera", input_size=(64, 96), **SMALL)
    theirs.save_pretrained(folder)
    return compare_classifier(theirs, HieraForImageClassification.from_pretrained(folder), (64, 96))


def official_folder_with_all_arguments(folder: Path) -> Differences:
    """What `save_pretrained(config=model.config)` writes, as in the authors' README."""
    theirs = official("Hiera", input_size=(64, 96), q_pool=1, mask_unit_attn=(False, True, False, False), **SMALL)
    theirs.save_pretrained(folder, config=theirs.config)
    return compare_classifier(theirs, HieraForImageClassification.from_pretrained(folder), (64, 96))


def official_video_folder(folder: Path) -> Differences:
    theirs = official("Hiera", **CLIP)
    theirs.save_pretrained(folder)
    return compare_classifier(theirs, HieraForVideoClassification.from_pretrained(folder), (8, 64, 96))


def official_base_16x224(folder: Path) -> Differences:
    theirs = official("hiera_base_16x224")
    torch.save({"model_state": theirs.state_dict()}, folder / "base.pth")
    return compare_classifier(theirs, HieraForVideoClassification.from_pretrained(folder / "base.pth"), (16, 224, 224))


def official_mae_base_16x224(folder: Path) -> Differences:
    theirs = official("mae_hiera_base_16x224")
    torch.save({"model_state": theirs.state_dict()}, folder / "mae.pth")
    return compare_mae(theirs, HieraForPreTraining.from_pretrained(folder / "mae.pth"), (16, 224, 224), 0.9)


def official_mae_folder(folder: Path) -> Differences:
    theirs = official("MaskedAutoencoderHiera", input_size=(64, 96), **{**SMALL, **DECODER})
    theirs.save_pretrained(folder)
    return compare_mae(theirs, HieraForPreTraining.from_pretrained(folder), (64, 96), 0.6)


def official_video_mae_folder(folder: Path) -> Differences:
    theirs = official("MaskedAutoencoderHiera", **{**CLIP, **DECODER})
    theirs.save_pretrained(folder)
    return compare_mae(theirs, HieraForPreTraining.from_pretrained(folder), (8, 64, 96), 0.9)


@torch.no_grad()
def from_timm(folder: Path, name: str, size: int, **arguments: Any) -> Differences:
    timm = import_module("timm")
    theirs = randomize(timm.create_model(name, **arguments)).eval()
    import_module("timm.models").save_for_hf(theirs, folder, safe_serialization=True)
    ours = load(folder)
    assert isinstance(ours, HieraForImageClassification)
    return compare_timm(theirs, ours, size)


@torch.no_grad()
def compare_timm(theirs: Any, ours: Any, size: int) -> Differences:
    x = torch.randn(1, 3, size, size)
    last, maps = theirs.forward_intermediates(x)
    out = ours(x, output_hidden_states=True)
    return {
        "stage maps": worst([m.movedim(-1, 1) for m in out.reshaped_hidden_states[1:]], maps),
        "logits": relative(out.logits, theirs.forward_head(last)),
    }


def timm_tiny(folder: Path) -> Differences:
    return from_timm(folder, "hiera_tiny_224", 224)


def timm_small_abswin(folder: Path) -> Differences:
    return from_timm(folder, "hiera_small_abswin_256", 256)


def timm_base_abswin(folder: Path) -> Differences:
    return from_timm(folder, "hiera_base_abswin_256", 256)


def timm_with_other_arguments(folder: Path) -> Differences:
    """Arguments that are not those of the architecture, and another size."""
    arguments = {"embed_dim": 8, "stages": (1, 1, 2, 1), "q_pool": 2, "init_values": 0.1, "num_classes": 7}
    return from_timm(folder, "hiera_base_abswin_256", 128, img_size=128, **arguments)


# -- our files, read there --------------------------------------------------------------------------------------------


def fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields for the arguments of the small models."""
    names = {"input_size": "image_size", "stages": "depths", "num_classes": "num_labels", "q_stride": "query_stride",
             "mask_unit_size": "masked_unit_size", "patch_kernel": "patch_size", "q_pool": "num_query_pool",
             "decoder_embed_dim": "decoder_hidden_size"}  # fmt: skip
    own = {names.get(name, name): value for name, value in arguments.items() if name != "sep_pos_embed"}
    return own | ({"position_embedding": "separable"} if "sep_pos_embed" in arguments else {})


def ours_in_the_official_package(folder: Path) -> Differences:
    config = HieraConfig(image_size=(64, 96), id2label=dict(enumerate("abcde")), extra={"theirs": 1}, license="MIT",
                         **{k: v for k, v in fields(SMALL).items() if k != "num_labels"})  # fmt: skip
    ours: Any = randomize(HieraForImageClassification(config)).eval()
    save_model(ours, folder, dialect="official")
    return compare_classifier(import_module("hiera").Hiera.from_pretrained(folder).eval(), ours, (64, 96))


def our_clips_in_the_official_package(folder: Path) -> Differences:
    ours: Any = randomize(HieraForVideoClassification(HieraConfig(**fields(CLIP)))).eval()
    save_model(ours, folder, dialect="official")
    return compare_classifier(import_module("hiera").Hiera.from_pretrained(folder).eval(), ours, (8, 64, 96))


def our_mae_in_the_official_package(folder: Path) -> Differences:
    ours: Any = randomize(HieraForPreTraining(HieraConfig(image_size=(64, 96), **fields({**SMALL, **DECODER})))).eval()
    save_model(ours, folder, dialect="official")
    theirs = import_module("hiera").MaskedAutoencoderHiera.from_pretrained(folder).eval()
    return compare_mae(theirs, ours, (64, 96), 0.6)


def our_pth_in_the_official_package(folder: Path) -> Differences:
    ours: Any = randomize(HieraForImageClassification(HieraConfig(depths=(1, 2, 7, 2)))).eval()
    ours.save_pretrained(folder)
    convert(folder, folder / "tiny.pth", to="official")
    theirs = import_module("hiera").hiera_tiny_224()
    theirs.load_state_dict(torch.load(folder / "tiny.pth", weights_only=True)["model_state"])
    return compare_classifier(theirs.eval(), ours, (224, 224))


def in_timm(folder: Path, size: int, **changes: Any) -> Differences:
    ours: Any = randomize(HieraForImageClassification(HieraConfig(image_size=(size, size), **fields(SMALL), **changes)))
    save_model(ours.eval(), folder, dialect="timm")
    theirs = import_module("timm").create_model(f"local-dir:{folder}", pretrained=True).eval()
    return compare_timm(theirs, ours, size)


def ours_in_timm(folder: Path) -> Differences:
    return in_timm(folder, 64, num_query_pool=2, num_heads=(2, 2, 2, 2))


def our_abswin_in_timm(folder: Path) -> Differences:
    tables = {"position_embedding": "abs_win", "global_position_size": (10, 10)}
    return in_timm(folder, 64, **tables, layer_scale_init=1e-5, pooled_shortcut=True)


@torch.no_grad()
def our_features_in_timm(folder: Path) -> Differences:
    ours: Any = randomize(HieraModel(HieraConfig(image_size=(64, 64), **fields(SMALL)))).eval()
    save_model(ours, folder, dialect="timm")
    theirs, x = (
        import_module("timm").create_model(f"local-dir:{folder}", pretrained=True).eval(),
        torch.randn(2, 3, 64, 64),
    )
    return {"pooled": relative(ours(x).pooler_output, theirs(x))}


CASES: tuple[Callable[[Path], Differences], ...] = (
    official_tiny_pth,
    official_mae_tiny_pth,
    official_folder,
    official_folder_with_all_arguments,
    official_video_folder,
    official_base_16x224,
    official_mae_base_16x224,
    official_mae_folder,
    official_video_mae_folder,
    timm_tiny,
    timm_small_abswin,
    timm_base_abswin,
    timm_with_other_arguments,
    ours_in_the_official_package,
    our_clips_in_the_official_package,
    our_mae_in_the_official_package,
    our_pth_in_the_official_package,
    ours_in_timm,
    our_abswin_in_timm,
    our_features_in_timm,
)


def main() -> int:
    """Prints the differences of every case; the exit status says whether all are small enough."""
    torch.manual_seed(int.from_bytes(os.urandom(3), "big"))
    largest = 0.0
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            found: dict[str, float | Tensor] = dict(case(Path(folder)))
        largest = max(largest, *map(float, found.values()))
        print(f"{case.__name__:38}", "  ".join(f"{name} {value:.1e}" for name, value in found.items()), flush=True)
    print(f"largest {largest:.1e}, allowed {LIMIT:.0e}")
    return int(largest > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
