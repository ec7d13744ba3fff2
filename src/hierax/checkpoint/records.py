"""The table of published Hiera weights: their ids, tasks and licenses.

There is one record per id. Several ids may have the same weights in different formats; they then share a `name`.
Nothing here imports torch, so that the command line lists checkpoints at once.

Sources: ids and licenses from the publishers (facebookresearch/hiera and sam2, transformers, timm); top-1 from the
paper (Ryali et al., ICML 2023) and, for the abs-win weights, from timm's release notes of August 2024; parameters are
counted. The records of the two bundled checkpoints are read from their files.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, Literal, NamedTuple, get_args

from hierax.advice import did_you_mean
from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE, bundled_labels, bundled_metrics, bundled_parameters
from hierax.reprs.text import short_repr

Task = Literal["classification", "features", "mae", "backbone"]
Dialect = Literal["official", "transformers", "timm"]
Preprocessing = Literal["imagenet", "timm", "kinetics", "sam2"]

CC_BY_NC: Final = "CC-BY-NC-4.0"
APACHE: Final = "Apache-2.0"


@short_repr(changed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRecord:
    """The facts about one checkpoint that are known before it is opened."""

    name: str
    """`variant.tag`. Records of the same weights in other formats have the same name."""
    variant: str
    """The architecture, a name of `hierax.model.config`'s table of variants."""
    task: Task
    """The task: "classification" has a head, "mae" has a decoder, "features" has neither, "backbone" gives
    maps (the image encoders of SAM 2)."""
    dialect: Dialect
    """The library that defines the format of its tensor names and its configuration file."""
    hub_id: str
    """`owner/repository` on the Hugging Face Hub, or `hierax/…` if it is `bundled`; unique in the table."""
    license: str
    """SPDX identifier of the license of the weights (not of hierax)."""
    pretraining_data: str
    """Data set of the (first) training: "imagenet-1k", "imagenet-12k", "kinetics-400", "sa-1b" or
    "free-pictures"."""
    finetuning_data: str | None = None
    """Data set of the supervised training after it, if any."""
    num_labels: int = 0
    """Number of classes of the trained head; 0 without a head."""
    labels: str | None = None
    """The name of the classes for `hierax.checkpoint.class_names.load_labels`, if it has them."""
    top1: float | None = None
    """Published top-1 accuracy in percent on ImageNet-1k or Kinetics-400 (images: one center crop; video: 3 spatial x
    5 temporal views). Accuracies on other categories are in `metrics`."""
    parameters: int | None = None
    """Number of parameters in the file, if known."""
    preprocessing: Preprocessing = "imagenet"
    """"imagenet" and "timm" normalize with mean and std of ImageNet, "kinetics" with 0.45 and 0.225 in all channels
    (16 frames, stride 4 at 30 frames per second); "sam2" resizes to a square with bilinear interpolation."""
    crop_pct: float = 0.875
    """Side of the center crop, divided by the side to which the shorter edge is resized: 0.875 is 224 of 256."""
    note: str = ""
    """What a user must know, in one sentence."""
    bundled: bool = False
    """Whether the files are part of hierax. Such a checkpoint opens offline, and is not on the Hub."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics of a bundled checkpoint, see `hierax.checkpoint.bundled`; empty for other checkpoints."""
        return bundled_metrics(self.hub_id) if self.bundled else {}


class _Published(NamedTuple):
    """Numbers of one variant: parameters of its classifier, of its MAE, and of its encoder with norm; top-1
    in percent.
    """

    classifier: int
    mae: int
    top1: float
    encoder: int | None = None


_IMAGE: Final = {
    "hiera_tiny_224": _Published(27_910_216, 55_020_896, 82.8, 27_141_216),
    "hiera_small_224": _Published(35_008_072, 62_118_752, 83.8, 34_239_072),
    "hiera_base_224": _Published(51_524_968, 78_635_648, 84.5, 50_755_968),
    "hiera_base_plus_224": _Published(69_896_616, 97_584_064, 85.2, 68_999_616),
    "hiera_large_224": _Published(213_739_912, 242_875_808, 86.1, 212_586_912),
    "hiera_huge_224": _Published(672_779_752, 710_081_792, 86.9, 670_730_752),
}
_VIDEO: Final = {
    "hiera_base_16x224": _Published(51_092_560, 79_367_104, 84.0),
    "hiera_base_plus_16x224": _Published(69_392_240, 98_320_352, 85.0),
    "hiera_large_16x224": _Published(213_091_600, 243_621_760, 87.3),
    "hiera_huge_16x224": _Published(671_627_664, 710_861_568, 87.8),
}

_NOTE_MAE: Final = "MAE-pretrained encoder and decoder; pooler norm and head are not in it"
_NOTE_FEATURES: Final = (
    "MAE-pretrained encoder; its pooler norm was never trained (weight 1, bias 0.02); "
    "fine-tuned features are in -224-in1k-hf"
)
_NOTE_TIMM_MAE: Final = (
    "MAE-pretrained encoder without its decoder; its head.norm normalized the fused maps of pretraining, "
    "so the norm before the head is new"
)
_NOTE_SAM2: Final = "frozen: good at instances, weak at semantics; fine-tune it for classes"
_NOTE_IN12K: Final = "11,821 classes of ImageNet-12k, whose names are not packaged"


def _bundled() -> Iterator[CheckpointRecord]:
    """The bundled checkpoints: a small classifier with its own categories, and the MAE that it was trained from."""
    yield CheckpointRecord(
        name="hiera_femto_160.mae_free_ft_free",
        variant="hiera_femto_160",
        task="classification",
        dialect="transformers",
        hub_id=FEMTO,
        license=APACHE,
        pretraining_data="free-pictures",
        finetuning_data="free-pictures",
        num_labels=bundled_labels(FEMTO),
        parameters=bundled_parameters(FEMTO),
        note="categories of its own, not ImageNet's",
        bundled=True,
    )
    yield CheckpointRecord(
        name="hiera_femto_160.mae_free",
        variant="hiera_femto_160",
        task="mae",
        dialect="transformers",
        hub_id=FEMTO_MAE,
        license=APACHE,
        pretraining_data="free-pictures",
        parameters=bundled_parameters(FEMTO_MAE),
        note=_NOTE_MAE,
        bundled=True,
    )


def _official(
    table: Mapping[str, _Published], data: str, short: str, num_labels: int, preprocessing: Preprocessing
) -> Iterator[CheckpointRecord]:
    """The files of Meta: for each variant, the fine-tuned classifier and the MAE from which it was trained."""
    for variant, figures in table.items():
        name = f"{variant}.mae_{short}_ft_{short}"
        yield CheckpointRecord(
            name=name,
            variant=variant,
            task="classification",
            dialect="official",
            hub_id=f"facebook/{name}",
            license=CC_BY_NC,
            pretraining_data=data,
            finetuning_data=data,
            num_labels=num_labels,
            labels=data,
            top1=figures.top1,
            parameters=figures.classifier,
            preprocessing=preprocessing,
        )
        name = f"{variant}.mae_{short}"
        yield CheckpointRecord(
            name=name,
            variant=variant,
            task="mae",
            dialect="official",
            hub_id=f"facebook/{name}",
            license=CC_BY_NC,
            pretraining_data=data,
            parameters=figures.mae,
            preprocessing=preprocessing,
            note=_NOTE_MAE,
        )


def _transformers() -> Iterator[CheckpointRecord]:
    """The same image weights in the format of transformers."""
    for variant, figures in _IMAGE.items():
        folder = f"facebook/{variant.replace('_', '-')}"
        yield CheckpointRecord(
            name=f"{variant}.mae_in1k_ft_in1k",
            variant=variant,
            task="classification",
            dialect="transformers",
            hub_id=f"{folder}-in1k-hf",
            license=CC_BY_NC,
            pretraining_data="imagenet-1k",
            finetuning_data="imagenet-1k",
            num_labels=1000,
            labels="imagenet-1k",
            top1=figures.top1,
            parameters=figures.classifier,
        )
        yield CheckpointRecord(
            name=f"{variant}.mae_in1k",
            variant=variant,
            task="features",
            dialect="transformers",
            hub_id=f"{folder}-hf",
            license=CC_BY_NC,
            pretraining_data="imagenet-1k",
            parameters=figures.encoder,
            note=_NOTE_FEATURES,
        )
        yield CheckpointRecord(
            name=f"{variant}.mae_in1k",
            variant=variant,
            task="mae",
            dialect="transformers",
            hub_id=f"{folder}-mae-hf",
            license=CC_BY_NC,
            pretraining_data="imagenet-1k",
            parameters=figures.mae,
            note=_NOTE_MAE,
        )


def _timm() -> Iterator[CheckpointRecord]:
    """The same image weights as timm has them."""
    for variant, figures in _IMAGE.items():
        record = partial(
            CheckpointRecord,
            variant=variant,
            dialect="timm",
            license=CC_BY_NC,
            pretraining_data="imagenet-1k",
            preprocessing="timm",
            crop_pct=0.9,
        )
        yield record(
            name=f"{variant}.mae_in1k_ft_in1k",
            task="classification",
            hub_id=f"timm/{variant}.mae_in1k_ft_in1k",
            finetuning_data="imagenet-1k",
            num_labels=1000,
            labels="imagenet-1k",
            top1=figures.top1,
            parameters=figures.classifier,
        )
        yield record(
            name=f"{variant}.mae_in1k",
            task="features",
            hub_id=f"timm/{variant}.mae",
            parameters=figures.encoder,
            note=_NOTE_TIMM_MAE,
        )


def _timm_abswin() -> Iterator[CheckpointRecord]:
    """timm's own weights, with window-aware position embeddings."""
    variant = "hiera_small_abswin_256"
    record = partial(
        CheckpointRecord,
        variant=variant,
        task="classification",
        dialect="timm",
        license=APACHE,
        pretraining_data="imagenet-12k",
        preprocessing="timm",
        crop_pct=0.95,
    )
    for tag, top1 in (("sbb2_e200_in12k", 84.912), ("sbb2_pd_e200_in12k", 84.56)):
        yield record(
            name=f"{variant}.{tag}_ft_in1k",
            hub_id=f"timm/{variant}.{tag}_ft_in1k",
            finetuning_data="imagenet-1k",
            num_labels=1000,
            labels="imagenet-1k",
            top1=top1,
            parameters=34_361_800,
        )
        yield record(
            name=f"{variant}.{tag}",
            hub_id=f"timm/{variant}.{tag}",
            num_labels=11_821,
            parameters=42_683_149,
            note=_NOTE_IN12K,
        )


class _Trunk(NamedTuple):
    """Numbers of one image encoder of SAM 2: parameters of trunk and neck; the pixels at which timm lists it."""

    trunk: int
    neck: int
    pixels: int


_SAM2: Final = {
    "tiny": _Trunk(26_849_472, 369_664, 896),
    "small": _Trunk(33_947_328, 369_664, 896),
    "base_plus": _Trunk(68_675_712, 431_104, 896),
    "large": _Trunk(212_149_296, 553_984, 1024),
}


def _sam2() -> Iterator[CheckpointRecord]:
    """The image encoders of SAM 2 and 2.1, with their necks, and the trunks as timm has them."""
    for size, figures in _SAM2.items():
        variant, short = f"sam2_hiera_{size}", size.replace("_", "-")
        record = partial(
            CheckpointRecord,
            variant=variant,
            task="backbone",
            license=APACHE,
            pretraining_data="sa-1b",
            note=_NOTE_SAM2,
        )
        for family, release, suffix in (("sam2.1", "sam2_1", "_2pt1"), ("sam2", "sam2", "")):
            name = f"{variant}.{release}"
            yield record(
                name=name,
                dialect="transformers",
                hub_id=f"facebook/{family}-hiera-{short}",
                parameters=figures.trunk + figures.neck,
                preprocessing="sam2",
                crop_pct=1.0,
            )
            yield record(
                name=name,
                dialect="timm",
                hub_id=f"timm/{variant}.fb_r{figures.pixels}{suffix}",
                parameters=figures.trunk,
                preprocessing="timm",
                crop_pct=1.0,
            )


@cache
def _records() -> tuple[CheckpointRecord, ...]:
    """The table. It is built at first use, because the records of bundled checkpoints are read from their files."""
    return (
        *_bundled(),
        *_official(_IMAGE, "imagenet-1k", "in1k", 1000, "imagenet"),
        *_official(_VIDEO, "kinetics-400", "k400", 400, "kinetics"),
        *_transformers(),
        *_timm(),
        *_timm_abswin(),
        *_sam2(),
    )


def list_checkpoints(
    *, task: str | None = None, variant: str | None = None, license: str | None = None, dialect: str | None = None
) -> tuple[CheckpointRecord, ...]:
    """The checkpoints that match all filters. Bundled checkpoints come first, then official ones; small ones come
    first.

    Args:
        task: "classification", "features", "mae" or "backbone".
        variant: an architecture with published weights, such as "hiera_tiny_224".
        license: SPDX identifier, "CC-BY-NC-4.0" (non-commercial) or "Apache-2.0".
        dialect: "official", "transformers" or "timm".

    Raises:
        ValueError: a filter has a value that no record has; the message lists the possible values.
    """
    wanted = {"task": task, "variant": variant, "license": license, "dialect": dialect}
    allowed = {
        "task": get_args(Task),
        "variant": tuple(dict.fromkeys(record.variant for record in _records())),
        "license": (CC_BY_NC, APACHE),
        "dialect": get_args(Dialect),
    }
    given = {field: value for field, value in wanted.items() if value is not None}
    for field, value in given.items():
        if value not in allowed[field]:
            near = did_you_mean(value, allowed[field]) if isinstance(value, str) else ""
            raise ValueError(f"{field} is {value!r}{near}; expected one of {', '.join(allowed[field])}")
    return tuple(r for r in _records() if all(getattr(r, field) == value for field, value in given.items()))


def find_record(name_or_hub_id: str) -> CheckpointRecord | None:
    """The record of a checkpoint; None if the table has none.

    Args:
        name_or_hub_id: a Hub id ("facebook/hiera-tiny-224-hf"), a name ("hiera_tiny_224.mae_in1k"), or a Hub id
            without its owner ("hiera-tiny-224-hf"). If several records share the name, the official one is returned.
    """
    return _by_key().get(name_or_hub_id)


def checkpoint_names() -> tuple[str, ...]:
    """Every string that `find_record` knows."""
    return tuple(_by_key())


@cache
def _by_key() -> dict[str, CheckpointRecord]:
    """The records by every string that finds them. Hub ids are unique; for other strings, the first record is used."""
    keyed = {record.hub_id: record for record in _records()}
    for record in _records():
        keyed.setdefault(record.name, record)
        keyed.setdefault(record.hub_id.partition("/")[2], record)
    return keyed
