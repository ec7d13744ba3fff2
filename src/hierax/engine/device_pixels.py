"""Pixels of images: decoded on the CPU; resized, cropped and normalized on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.processing import Geometry, HieraImageProcessor, ImageInput
from hierax.processing.record import Preprocessing
from hierax.processing.record_fields import RESAMPLING
from hierax.processing.resize import columns_first

_MODES = {RESAMPLING["bilinear"]: "bilinear", RESAMPLING["bicubic"]: "bicubic"}


class DevicePixels:
    """Makes the pixels of `processor` on `device`, within one gray level.

    For noise, and for sizes that hardly change, one value in 10,000 is two levels off: a tie in rounding after the
    first axis.

    Images of 8 bits are decoded on the CPU and copied to the device in 8 bits, a quarter of float32. There they are
    resized in float32, first along one axis, then along the other, and rounded to 8 bits after each, as Pillow does.
    The processor makes the pixels in all other cases: interpolations other than bilinear and bicubic, and arrays of
    floats. Thread-safe.
    """

    def __init__(self, processor: HieraImageProcessor, device: torch.device) -> None:
        self.processor, self.device = processor, device
        self._use(processor.record)

    def _use(self, record: Preprocessing) -> None:
        self._record = record
        self._mode = _MODES.get(record.resample)
        factor = record.rescale_factor if record.do_rescale else 1.0
        mean, std = (record.image_mean, record.image_std) if record.do_normalize else (0.0, 1.0)
        scale = factor / np.broadcast_to(np.asarray(std), (record.num_channels,))
        offset = -np.asarray(mean) / std * np.ones(record.num_channels)
        self._scale, self._offset = (
            torch.tensor(values, dtype=torch.float32, device=self.device)[:, None, None] for values in (scale, offset)
        )

    def __call__(self, images: ImageInput | Sequence[ImageInput]) -> Tensor:
        """`[B, C, H, W]` in float32 on the device. Raises as the processor does."""
        if self.processor.record is not self._record:  # a field of the processor was changed
            self._use(self.processor.record)
        if self.processor.record.do_resize and self._mode is None:
            return self.processor(images).pixel_values.to(self.device)
        pixels: list[Tensor] = []
        with torch.inference_mode(False), torch.no_grad():
            for image, plan in self.processor.decoded(images):
                array = np.asarray(image)
                if array.dtype == np.uint8:
                    levels = self._window(array if array.ndim == 3 else array[:, :, None], plan)
                    pixels.append(levels * self._scale + self._offset)
                else:
                    pixels.append(self.processor(array).pixel_values[0].to(self.device))
            if any(one.shape != pixels[0].shape for one in pixels):
                return self.processor(images).pixel_values  # the processor raises the error for it
            return torch.stack(pixels)

    def _window(self, array: np.ndarray, plan: Geometry) -> Tensor:
        """Gray levels `[C, height, width]` of the window that `plan` keeps; black outside of the image."""
        levels = self._upload(array).permute(2, 0, 1)[None].float()
        (top, bottom), (left, right) = plan.rows, plan.columns
        height, width = array.shape[:2]
        sizes = [(plan.resized_height, height, top, bottom), (plan.resized_width, width, left, right)]
        for axis in (0, 1) if columns_first(width, height, plan.resized_width, plan.resized_height) else (1, 0):
            resized, length, first, last = sizes[axis]
            if resized != length:
                levels = self._resized(levels, axis, resized)
            levels = levels.narrow(2 + axis, first, last - first)
        margins = (left - plan.left, plan.left + plan.width - right, top - plan.top, plan.top + plan.height - bottom)
        return F.pad(levels[0], margins) if any(margins) else levels[0]

    def _resized(self, levels: Tensor, axis: int, length: int) -> Tensor:
        size = list(levels.shape[2:])
        size[axis] = length
        assert self._mode is not None
        resized = F.interpolate(levels, size, mode=self._mode, antialias=True, align_corners=False)
        return resized.add_(0.5).floor_().clamp_(0, 255)  # halves are rounded up, as in Pillow

    def _upload(self, array: np.ndarray) -> Tensor:
        """The array as a tensor on the device, through pinned memory, which PyTorch reuses only after the copy."""
        cuda = self.device.type == "cuda"
        host = torch.empty(array.shape, dtype=torch.uint8, pin_memory=cuda)
        np.copyto(host.numpy(), array)  # also copies read-only or mirrored arrays, which torch does not accept
        return host.to(self.device, non_blocking=cuda)
