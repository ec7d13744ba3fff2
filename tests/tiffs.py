"""TIFF files by hand: what other programs write and Pillow cannot."""

import struct
from typing import Any

import numpy as np

_KIND = {"u": 1, "i": 2, "f": 3}


def tiff(
    values: np.ndarray,
    *,
    photometric: int,
    apart: bool = False,
    order: str = "<",
    tags: dict[int, tuple[int, ...]] | None = None,
) -> bytes:
    """`[height, width, samples]` as one strip (one a plane if `apart`), not compressed; `tags` are further shorts."""
    values = values if values.ndim == 3 else values[:, :, None]
    height, width, samples = values.shape
    data = np.ascontiguousarray(values.astype(f"{order}{values.dtype.kind}{values.dtype.itemsize}"))
    planes = [np.ascontiguousarray(data[:, :, s]).tobytes() for s in range(samples)] if apart else [data.tobytes()]
    bits = values.dtype.itemsize * 8
    given: dict[int, tuple[int, ...]] = {
        256: (width,), 257: (height,), 258: (bits,) * samples, 259: (1,), 262: (photometric,), 277: (samples,),
        278: (height,), 284: (2 if apart else 1,), 339: (_KIND[values.dtype.kind],) * samples, **(tags or {}),
    }  # fmt: skip
    place, offsets, body = 8, [], b""
    for plane in planes:
        offsets.append(place + len(body))
        body += plane
    longs = {273: tuple(offsets), 279: tuple(map(len, planes))}
    table, after = [], place + len(body)
    extra = b""
    entries: list[tuple[int, str, tuple[Any, ...]]] = [
        *((tag, "H", numbers) for tag, numbers in given.items()),
        *((tag, "I", numbers) for tag, numbers in longs.items()),
    ]  # fmt: skip
    for tag, kind, numbers in sorted(entries):
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(packed) > 4:
            packed, extra = struct.pack(order + "I", after + len(extra)), extra + packed
        table.append(struct.pack(order + "HHI", tag, 3 if kind == "H" else 4, len(numbers)) + packed.ljust(4, b"\0"))
    first = after + len(extra)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, first)
    return head + body + extra + struct.pack(order + "H", len(table)) + b"".join(table) + bytes(4)
