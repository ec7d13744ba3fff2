"""The preprocessing record of a checkpoint: from its files, from the settings of timm, or the published one."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.checkpoint.dialects.timm import KEPT
from hierax.checkpoint.files import CONFIG, PROCESSOR, Source, locate
from hierax.checkpoint.hub import HubOptions
from hierax.checkpoint.opened import Checkpoint, read_checkpoint

if TYPE_CHECKING:
    from hierax.model.config import HieraConfig
    from hierax.processing import Preprocessing


def preprocessing_of(opened: Checkpoint) -> "Preprocessing | None":
    """The record of an open checkpoint; None if it has none and its inputs are not color images.

    Raises:
        ValueError: the record has a wrong value; the message names the file and the field.
    """
    from hierax.processing import Preprocessing

    config = opened.config
    stated = _stated(opened.source, opened.notes, config.extra.get(KEPT, {}).get("pretrained_cfg"))
    return stated or Preprocessing.for_model(config)  # the stated record of a video model may lack the frames


def resize_record(record: "Preprocessing", before: "HieraConfig", after: "HieraConfig") -> "Preprocessing":
    """The record for a model with a changed native size. A record for the old native size is adapted."""
    if after.is_video and record.num_frames == before.image_size[0]:
        record = record.replace(num_frames=after.image_size[0])
    made_for_it = after.axes > 1 and record.output_size == tuple(before.image_size[-2:])
    return record.at(after.image_size[-2:]) if made_for_it else record


def _stated(source: Source, notes: Mapping[str, Any], timm: Any) -> "Preprocessing | None":
    """The record in the files of a checkpoint."""
    from hierax.processing import Preprocessing

    path = source.processor.path if source.processor else source.config.path if source.config else source.weights
    try:
        if source.processor is not None:
            return Preprocessing.from_dict(source.processor.values)
        if notes.get("preprocessing"):
            return Preprocessing.from_dict(notes["preprocessing"])
        return _from_timm(timm) if isinstance(timm, Mapping) and timm else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _from_timm(record: Mapping[str, Any]) -> "Preprocessing":
    """The record from settings of timm. If the input is not square, the resize is computed for the longer side."""
    from hierax.processing import Preprocessing

    size = record.get("input_size")
    if not isinstance(size, (list, tuple)) or len(size) != 3 or size[1] == size[2]:
        return Preprocessing.from_timm(record)
    square = Preprocessing.from_timm({**record, "input_size": [size[0], *[max(size[1:])] * 2]})
    return square.replace(crop_size={"height": size[1], "width": size[2]})


def timm_settings(before: dict[str, Any], record: "Preprocessing") -> dict[str, Any]:
    """`pretrained_cfg` with the settings of a record; unchanged if it means this record."""
    with suppress(ValueError):
        if _from_timm(before).to_timm() == record.to_timm() != {}:
            return before
    stale = {"mean", "std", "interpolation", "crop_pct", "crop_mode", "test_crop_pct", "test_input_size"}
    return {**{key: value for key, value in before.items() if key not in stale}, **record.to_timm()}


def load_preprocessing(
    source: str | os.PathLike[str] | Checkpoint,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> "Preprocessing":
    """The preprocessing record of a checkpoint, or the published record for its task.

    Raises:
        OSError: there is no checkpoint, or the Hub cannot be reached.
        ValueError: the record has a wrong value (the message names the field); or there is none, and the inputs are not
            color images.
    """
    if isinstance(source, Checkpoint):
        return _required(source.preprocessing, source.name)
    hub = HubOptions(revision, cache_dir, token, local_files_only)
    return _required(located_preprocessing(locate(source, hub, weights=False)), str(source))


def located_preprocessing(found: Source) -> "Preprocessing | None":
    """The record of a source, from its JSON files if they state one, otherwise from its tensors."""
    values = found.values or {}
    record = _stated(found, {}, values.get("pretrained_cfg") or _kept_by_us(values))
    if record is None and found.weights is not None:
        return preprocessing_of(read_checkpoint(found, found.hub, any_of_them=True))
    if record is None:
        if not (found.config or found.processor or found.record):
            raise FileNotFoundError(f"{found.name}: has no {PROCESSOR}, no {CONFIG} and no weights")
        record = _convention_of(found)
    return record


def _required(record: "Preprocessing | None", name: str) -> "Preprocessing":
    if record is None:
        raise ValueError(f"{name}: has no preprocessing record, and there is no convention for its inputs")
    return record


def _kept_by_us(values: Mapping[str, Any]) -> Any:
    kept = values.get(KEPT)
    return kept.get("pretrained_cfg") if isinstance(kept, Mapping) else None


def _convention_of(source: Source) -> "Preprocessing | None":
    """The published preprocessing for a repository, based on its JSON files and its record in the table."""
    from hierax.processing.record import SAM_2, published

    values = source.values or {}
    if str(values.get("model_type")).startswith("sam2") or (source.record and source.record.preprocessing == "sam2"):
        return published(SAM_2.fixed_size, 3, windowed=True)
    size = values.get("image_size") or values.get("input_size")
    if not isinstance(size, (list, tuple)) or not all(isinstance(side, int) and side > 0 for side in size):
        clips = source.record is not None and source.record.preprocessing == "kinetics"
        size = [16, 224, 224] if clips else [size, size] if isinstance(size, int) and size > 0 else [224, 224]
    channels = values.get("num_channels", values.get("in_chans", 3))
    return published(size, channels)
