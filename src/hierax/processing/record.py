"""The preprocessing record: how images become the pixels that a checkpoint expects (`preprocessor_config.json`)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.advice import RECORD, advice_on
from hierax.atomic import atomic_write
from hierax.processing.record_fields import FIELDS, OPTIONAL, RESAMPLING, is_list, positive_int, positive_number
from hierax.reprs.text import never_raises

if TYPE_CHECKING:
    from hierax.model.config import HieraConfig

FILE_NAME = "preprocessor_config.json"
MOST_PIXELS = 1 << 26
"""Maximum pixels of an image after it is resized. A strip of 1 x 100,000 pixels would become 256 x 25,600,000."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image of any size becomes the pixels of a model. The defaults are those of Hiera on ImageNet.

    The fields are the keys of a transformers `preprocessor_config.json` for `BitImageProcessor`, in the order in which
    they are applied:

    - `do_resize`, `size`, `resample`: `{"shortest_edge": n}` preserves the aspect ratio (the long side is rounded
      down), `{"height": h, "width": w}` does not. An int is a shortest edge. `resample` is a number of Pillow, or a
      name of `RESAMPLING`.
    - `do_center_crop`, `crop_size`: `{"height": h, "width": w}`, or an int for a square. If the image is smaller, black
      is added.
    - `do_rescale`, `rescale_factor`: gray levels 0..255 are multiplied by the factor.
    - `do_normalize`, `image_mean`, `image_std`: one value per channel, in rescaled units. Their length is the number of
      channels of the model, even if they are not applied.
    - `do_convert_rgb`: images of other color modes are converted; if false, they are refused.

    `image_dtype` is the dtype of the values on which the model was trained, if they were not gray levels of 8 bits,
    such as "uint16" or "float32". Images of 8 bits are then refused. None means that the dtype is not stated.

    `num_frames`, `sampling_rate` (every n-th frame) and `fps` (the frame rate to which `sampling_rate` refers) are for
    videos; they are None for images. `extra` contains the keys of a file that hierax does not know; they are written
    again.

    Raises:
        ValueError: a field has a wrong value; the message names the field, its value and what is expected.
    """

    do_resize: bool = True
    size: Mapping[str, int] = field(default_factory=lambda: {"shortest_edge": 256}, hash=False)
    resample: int = RESAMPLING["bicubic"]
    do_center_crop: bool = True
    crop_size: Mapping[str, int] = field(default_factory=lambda: {"height": 224, "width": 224}, hash=False)
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    do_convert_rgb: bool = True
    image_processor_type: str = "BitImageProcessor"
    image_dtype: str | None = None
    num_frames: int | None = None
    sampling_rate: int | None = None
    fps: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, (read, allowed) in FIELDS.items():
            value = getattr(self, name)
            clean = read(value)
            if clean is None and not (value is None and name in OPTIONAL):
                raise ValueError(f"{name} is {value!r}; expected {allowed}")
            object.__setattr__(self, name, clean)
        if len(self.image_mean) != len(self.image_std):
            allowed = f"as many numbers as image_mean has ({len(self.image_mean)})"
            raise ValueError(f"image_std is {list(self.image_std)!r}; expected {allowed}")
        known = sorted(set(self.extra) & set(FIELDS))
        if known:
            raise ValueError(f"extra has {known!r}; expected only keys that are not fields of the record")

    @never_raises
    def __repr__(self) -> str:
        default = type(self)()
        shown = [name for name in FIELDS if getattr(self, name) != getattr(default, name)]
        shown += ["extra"] if self.extra else []
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def num_channels(self) -> int:
        """The number of channels of the model: the length of `image_mean`."""
        return len(self.image_mean)

    @property
    def takes_values(self) -> bool:
        """Whether the model was trained on other values than 8-bit gray levels. Images of 8 bits are then refused."""
        if self.do_rescale or self.image_dtype == "uint8":
            return False
        apart = self.do_normalize and (max(map(abs, self.image_mean)) > 255 or max(self.image_std) > 128)
        return self.image_dtype is not None or apart

    def replace(self, **overrides: Any) -> Preprocessing:
        """A copy with some fields changed. Raises TypeError if a name is not a field, ValueError if a value
        is wrong.
        """
        names = [entry.name for entry in fields(self)]
        for name in overrides:
            if name not in names:
                advice = advice_on(name, names, RECORD) or f"; the fields are {', '.join(names)}"
                raise TypeError(f"{name!r} is not a field of the preprocessing record{advice}")
        return replace(self, **overrides)

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Rows and columns of the output; None if they depend on the size of each image."""
        if self.do_center_crop:
            return self.crop_size["height"], self.crop_size["width"]
        if self.do_resize and "height" in self.size:
            return self.size["height"], self.size["width"]
        return None

    @property
    def fixed_size(self) -> tuple[int, int]:
        """Like `output_size`. Raises ValueError if the size of the output depends on the image."""
        size = self.output_size
        if size is None:
            raise ValueError("the preprocessing does not crop, so images differ in size; expected do_center_crop")
        return size

    @classmethod
    def for_model(cls, config: HieraConfig, stated: Preprocessing | None = None) -> Preprocessing | None:
        """The preprocessing of a model: the `stated` record, otherwise the published one at the size of the model.

        Images in color are preprocessed as for ImageNet, clips as for Kinetics: the shortest edge is resized to 256/224
        of the longer side of the model's input, then the center is cropped. For a model with windows of its own, images
        are resized to its input without keeping the aspect ratio, as for SAM 2. If the stated record has no frames,
        clips are sampled as for Kinetics.

        Args:
            config: the configuration of the model.
            stated: the record of its checkpoint, `model.preprocessing`.

        Returns:
            The record; None if nothing is stated and nothing was published, as for other channels, signals and volumes.
        """
        if stated is None and (config.is_video or config.axes == 2):
            stated = published(config.image_size, config.num_channels, windowed=config.is_windowed)
        return stated.with_frames(config.image_size[0]) if stated and config.is_video else stated

    def at(self, size: int | Sequence[int]) -> Preprocessing:
        """The record for another size. The model sees the same part of an image: resize and crop have the same ratio.

        If the record does not preserve the aspect ratio, neither does the new one. For a rectangle, the shortest edge
        is scaled with the longer side. If the record used the whole image without a fixed size, the new one crops its
        center.

        Args:
            size: pixels of a square, or rows and columns.

        Raises:
            ValueError: there is another number of sides, or a side is below 1.
        """
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError(f"size is {size!r}; expected pixels of a square, or rows and columns, above 0")
        height, width = sides
        before = self.output_size
        if before == sides:
            return self
        crop = {"height": height, "width": width}
        if before is None:
            return self.replace(do_resize=True, size={"shortest_edge": max(sides)}, do_center_crop=True, crop_size=crop)
        if not self.do_center_crop:
            return self.replace(size=crop)
        if not self.do_resize:
            return self.replace(crop_size=crop)
        if "height" in self.size:
            resized = {edge: self.size[edge] * crop[edge] // self.crop_size[edge] for edge in crop}
        else:
            resized = {"shortest_edge": self.size["shortest_edge"] * max(sides) // max(before)}
        return self.replace(size=resized, crop_size=crop)

    def with_frames(self, count: int) -> Preprocessing:
        """The record itself if it has frames; otherwise a record with `count` frames that are sampled as
        for Kinetics.
        """
        if self.num_frames is not None:
            return self
        return self.replace(num_frames=count, sampling_rate=KINETICS.sampling_rate, fps=KINETICS.fps)

    def whole(self, shortest_edge: int | None = None) -> Preprocessing:
        """A record for the whole image, which preserves its aspect ratio.

        Args:
            shortest_edge: pixels of the shortest edge after resizing; None: the shorter side of the current output.
        """
        side = shortest_edge or min(self.output_size or self.size.values())
        return self.replace(do_resize=True, size={"shortest_edge": side}, do_center_crop=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Creates a record from the keys of a `preprocessor_config.json`. Unknown keys are stored in `extra`.

        Fields that are missing or null get the defaults of this class. One exception: if `size` has a height and a
        width, and no crop is stated, the record does not crop. Raises ValueError for a wrong value.
        """
        given = {name: value for name, value in values.items() if name in FIELDS and value is not None}
        extra = {name: value for name, value in values.items() if name not in FIELDS}
        squashes = isinstance(given.get("size"), Mapping) and "height" in given["size"]
        if squashes and not {"do_center_crop", "crop_size"} & set(given):
            given["do_center_crop"] = False
        return cls(**given, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The sorted keys and values of a `preprocessor_config.json`. `from_dict` creates an equal record from them."""
        values: dict[str, Any] = dict(self.extra)
        for name in FIELDS:
            value = getattr(self, name)
            if value is not None:
                values[name] = list(value) if isinstance(value, tuple) else value
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in sorted(values.items())}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Preprocessing:
        """Reads a JSON file, or the `preprocessor_config.json` of a folder.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not valid; the message names it.
        """
        file = Path(path)
        file = file / FILE_NAME if file.is_dir() else file
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"contains a JSON {type(values).__name__}; expected a JSON object")
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `preprocessor_config.json` into `folder` (created if missing), completely or not at all; returns its
        path.
        """
        target = Path(folder) / FILE_NAME
        with atomic_write(target) as part:
            part.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return target

    @classmethod
    def from_timm(cls, pretrained_cfg: Mapping[str, Any]) -> Preprocessing:
        """Creates a record from `pretrained_cfg` of timm (`input_size`, `crop_pct`, `crop_mode`, `interpolation`,
        `mean`, `std`).

        The image is resized to floor(size / crop_pct): the shortest edge for `crop_mode` "center", both sides for
        "squash".

        Raises:
            ValueError: a setting is not supported: "border" crops, or an input that is not square.
        """
        size = pretrained_cfg.get("input_size", (3, 224, 224))
        if not (is_list(size) and len(size) == 3 and size[1] == size[2] and positive_int(size[1])):
            raise ValueError(f"input_size is {size!r}; expected [channels, side, side] with equal sides")
        crop_pct = pretrained_cfg.get("crop_pct") or 0.875  # the default of timm
        if positive_number(crop_pct) is None:
            raise ValueError(f"crop_pct is {crop_pct!r}; expected a number above 0")
        mode = pretrained_cfg.get("crop_mode") or "center"
        if mode not in ("center", "squash"):
            raise ValueError(f"crop_mode is {mode!r}; expected 'center' or 'squash'")
        interpolation = pretrained_cfg.get("interpolation", "bicubic")
        if interpolation not in RESAMPLING:
            raise ValueError(f"interpolation is {interpolation!r}; expected one of {', '.join(RESAMPLING)}")
        side = math.floor(size[1] / crop_pct)
        return cls(
            size={"shortest_edge": side} if mode == "center" else {"height": side, "width": side},
            crop_size=size[1],
            resample=RESAMPLING[interpolation],
            image_mean=pretrained_cfg.get("mean", IMAGENET.image_mean),
            image_std=pretrained_cfg.get("std", IMAGENET.image_std),
        )

    def to_timm(self) -> dict[str, Any]:
        """The settings of timm that mean this record: the inverse of `from_timm`, without `input_size`. What timm
        cannot express is left out: all if values are not divided by 255, else a crop that is not square.
        """
        if not (self.do_rescale and self.do_normalize and abs(self.rescale_factor * 255 - 1) < 1e-6):
            return {}
        names = {number: name for name, number in RESAMPLING.items()}
        found = {"mean": list(self.image_mean), "std": list(self.image_std), "interpolation": names[self.resample]}
        sides, crop = set(self.size.values()), set(self.crop_size.values() if self.do_center_crop else ())
        if not self.do_resize or len(sides) != 1 or len(crop or sides) != 1:
            return found
        side, mode = max(sides), "center" if "shortest_edge" in self.size else "squash"
        if not crop and mode == "center":
            return found
        output = max(crop or sides)
        shares = (output / side, output / (side + 0.25))  # timm rounds down, and the first may round to one less
        share = next((one for one in shares if math.floor(output / one) == side), shares[0])
        return {**found, "crop_pct": share, "crop_mode": mode}


IMAGENET = Preprocessing()
"""The record of Hiera on ImageNet: shortest edge 256 (bicubic), center crop 224, ImageNet mean and standard
deviation.
"""

KINETICS = Preprocessing(
    image_mean=(0.45, 0.45, 0.45), image_std=(0.225, 0.225, 0.225), num_frames=16, sampling_rate=4, fps=30.0
)
"""The record of Hiera on Kinetics: 16 frames, every 4th frame at 30 frames per second; mean 0.45 and standard deviation
0.225 in all channels.
"""


SAM_2 = Preprocessing(size={"height": 1024, "width": 1024}, resample=RESAMPLING["bilinear"], do_center_crop=False)
"""The record of SAM 2: the whole image resized to 1024x1024 (bilinear), whatever its shape; mean and standard deviation
of ImageNet.
"""


def published(image_size: Sequence[int], num_channels: int, *, windowed: bool = False) -> Preprocessing | None:
    """The published preprocessing for images (two sides) or clips (frames and two sides); see `for_model`."""
    if num_channels != 3 or len(image_size) not in (2, 3):
        return None
    if windowed and len(image_size) == 2:
        return SAM_2.at(image_size)
    record = IMAGENET if len(image_size) == 2 else KINETICS.replace(num_frames=image_size[0])
    return record.at(image_size[-2:])
