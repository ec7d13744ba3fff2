"""Answers of the Open Inference Protocol v2: tensors as JSON, or as bytes after the JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hierax.serve.protocol.tensors import texts_to_bytes

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Answer:
    """An output tensor: float32 values, or for BYTES texts of this shape; and whether it is sent as bytes."""

    name: str
    shape: tuple[int, ...]
    binary: bool
    numbers: np.ndarray | None = None
    texts: tuple[bytes, ...] = ()

    def bytes(self) -> bytes:
        """The tensor as the bytes of the protocol."""
        if self.numbers is None:
            return texts_to_bytes(self.texts)
        return self.numbers.astype("<f4", copy=False).tobytes()

    def data(self) -> list[Any]:
        """The values for JSON, in one flat list."""
        if self.numbers is None:
            return [text.decode("utf-8", "replace") for text in self.texts]
        return self.numbers.ravel().tolist()


def encode(model: str, answers: Sequence[Answer], *, request_id: str | None) -> tuple[bytes, int | None]:
    """The body of an answer; and how many of its bytes are JSON, or None if all are."""
    outputs, parts = [], []
    for answer in answers:
        entry: dict[str, Any] = {
            "name": answer.name,
            "datatype": "BYTES" if answer.numbers is None else "FP32",
            "shape": list(answer.shape),
        }
        if answer.binary:
            parts.append(answer.bytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = answer.data()
        outputs.append(entry)
    head: dict[str, Any] = {"model_name": model, "model_version": "1"}
    if request_id is not None:
        head["id"] = request_id
    text = json.dumps({**head, "outputs": outputs}, allow_nan=False, separators=(",", ":")).encode()
    return (b"".join([text, *parts]), len(text)) if parts else (text, None)
