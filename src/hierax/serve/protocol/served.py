"""What the Open Inference Protocol v2 says of the server and its model: names, tensors, shapes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hierax.serve.errors import refuse
from hierax.serve.protocol.requests import Given, InferRequest, Wanted
from hierax.serve.protocol.tensors import bad
from hierax.serve.reading import MOST_PIXELS

if TYPE_CHECKING:
    from hierax.serve.service import Service

VERSION = "1"
"""The only version of a model."""
PIXELS, IMAGE = "pixel_values", "image"
_CLASSES = ("logits", "probabilities")


def server_metadata() -> dict[str, Any]:
    """The answer of GET /v2."""
    from hierax import __version__

    return {"name": "hierax", "version": __version__, "extensions": ["binary_tensor_data", "classification"]}


@dataclass(frozen=True)
class Served:
    """The model as the protocol describes it.

    Attributes:
        name: its source: an id such as `hierax/femto`; of a folder or file, the last part of the path.
        outputs: name and shape of each output for one image; -1 for what depends on the size.
        labels: the labels of a classifier, in the order of its logits; else empty.
        channels: channels of an image.
        view: height and width of the view of an image.
        strides: of the outputs that are maps: pixels of the input for each cell.
    """

    name: str
    outputs: Mapping[str, tuple[int, ...]]
    labels: Sequence[str]
    channels: int
    view: tuple[int, int]
    strides: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, service: Service) -> Served:
        """The model of a service that is open."""
        model = service.describe()["model"]
        source = str(model["source"] or "model")
        name = os.path.basename(source.rstrip("/\\")) if os.path.exists(source) else source
        config, outputs = service.engine.config, service.tensor_names()
        stages = {name for name in (*config.stage_names, *config.map_names) if name in outputs}
        strides = {name: config.stage_stride(config.feature_stage(name)) for name in stages}
        height, width = model["image_size"]
        return cls(name, outputs, model.get("labels") or (), config.num_channels, (height, width), strides)

    def bytes_of(self, names: Sequence[str], size: Sequence[int]) -> int:
        """The bytes of an image and of these outputs for it.

        Args:
            names: of outputs.
            size: height and width of the input.
        """
        numbers = self.channels * math.prod(size)
        for name in names:
            stride = self.strides.get(name, (1,) * len(size))
            cells = iter(-(-side // step) for side, step in zip(size, stride, strict=True))
            numbers += math.prod(next(cells) if side < 0 else side for side in self.outputs[name])
        return 4 * numbers

    def check(self, name: str, version: str | None = None) -> None:
        """Checks that a request is for this model.

        Raises:
            Refusal: 404.
        """
        if name != self.name:
            raise refuse("not_found", f"there is no model {name[:200]!r} here; this server has {self.name!r}")
        if version not in (None, VERSION):
            raise refuse("not_found", f"{name!r} has no version {version[:20]!r}; the only version is {VERSION!r}")

    def metadata(self) -> dict[str, Any]:
        """The answer of GET /v2/models/NAME. A request has one of the inputs."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "hierax",
            "inputs": [
                {"name": IMAGE, "datatype": "BYTES", "shape": [-1]},
                {"name": PIXELS, "datatype": "FP32", "shape": [-1, self.channels, -1, -1]},
            ],
            "outputs": [
                {"name": name, "datatype": "FP32", "shape": [-1, *shape]} for name, shape in self.outputs.items()
            ],
        }

    def wanted(self, request: InferRequest) -> tuple[Wanted, ...]:
        """The outputs that a request asks for; if it names none, all but the maps.

        Raises:
            Refusal: the model has no such output, or it has no classes.
        """
        if request.outputs is None:
            small = [name for name, shape in self.outputs.items() if len(shape) == 1]
            return tuple(Wanted(name, request.binary) for name in small or self.outputs)
        for wanted in request.outputs:
            if wanted.name not in self.outputs:
                expected = ", ".join(self.outputs)
                raise bad(f"outputs has {wanted.name!r}; expected some of {expected}", "outputs")
            if wanted.classes and (wanted.name not in _CLASSES or not self.labels):
                raise bad(f"classification is asked of {wanted.name!r}; expected logits of a classifier", "outputs")
        return request.outputs

    def given(self, request: InferRequest) -> Given:
        """The input of a request, checked: images, or pixels `[N, C, H, W]`.

        Raises:
            Refusal: there is another one, or its type or shape is wrong.
        """
        if len(request.inputs) != 1 or request.inputs[0].name not in (IMAGE, PIXELS):
            names = ", ".join(repr(given.name) for given in request.inputs)
            raise bad(f"inputs has {names}; expected either {IMAGE!r} or {PIXELS!r}", "inputs")
        given = request.inputs[0]
        if given.name == IMAGE:
            if given.numbers is not None:
                raise bad(f"datatype of {IMAGE} is a number; expected BYTES: the content of an image file", IMAGE)
            if not (len(given.shape) == 1 or (len(given.shape) == 2 and given.shape[1] == 1)):
                raise bad(f"shape of {IMAGE} is {list(given.shape)}; expected [N] or [N, 1]", IMAGE)
        else:
            self._check_pixels(given)
        if not given.shape[0]:
            raise bad(f"shape of {given.name} is {list(given.shape)}; expected at least one image", given.name)
        return given

    def _check_pixels(self, given: Given) -> None:
        if given.numbers is None:
            raise bad(f"datatype of {PIXELS} is BYTES; expected FP32", PIXELS)
        shape = given.shape
        if len(shape) != 4 or shape[1] != self.channels or 0 in shape[2:] or math.prod(shape[2:]) > MOST_PIXELS:
            expected = f"[N, {self.channels}, H, W] of at most {MOST_PIXELS:,} pixels"
            raise bad(f"shape of {PIXELS} is {list(shape)}; expected {expected}", PIXELS)

    def size(self, request: InferRequest, given: Given) -> int | None:
        """The parameter `size` of a request: the side of the view of images in pixels.

        Raises:
            Refusal: it is no whole number, or too large, or the request has pixels, which have their size.
        """
        size = request.parameters.get("size")
        if size is None:
            return None
        if given.name != IMAGE:
            raise bad(f"size is given with {PIXELS}, which have their size; expected it with {IMAGE} only", "size")
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= math.isqrt(MOST_PIXELS):
            most = math.isqrt(MOST_PIXELS)
            raise bad(f"size is {str(size)[:40]}; expected a whole number from 1 to {most:,}", "size")
        return size
