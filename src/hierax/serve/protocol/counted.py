"""Counts for the statistics of the Open Inference Protocol v2."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counted:
    """Requests, images and time of one process. It is used in one thread."""

    success: list[int] = field(default_factory=lambda: [0, 0])
    fail: list[int] = field(default_factory=lambda: [0, 0])
    images: int = 0
    last: int = 0

    def add(self, images: int, nanoseconds: int) -> None:
        """Counts a request for this many images; 0 if it failed."""
        counts = self.success if images else self.fail
        counts[0] += 1
        counts[1] += nanoseconds
        if images:
            self.images += images
            self.last = time.time_ns() // 1_000_000

    def to_dict(self) -> dict[str, Any]:
        """The counts under the names of the protocol's extension."""
        kinds = {"success": self.success, "fail": self.fail}
        return {
            "last_inference": self.last,
            "inference_count": self.images,
            "inference_stats": {kind: {"count": count, "ns": time_} for kind, (count, time_) in kinds.items()},
        }
