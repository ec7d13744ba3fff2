"""The errors of reading images."""

from __future__ import annotations


class ImageError(ValueError):
    """An image that cannot be read or used. `source` names it (a path, or its place in the batch); `problem` says why.

    It prints as `notes.txt: not an image (...)`.
    """

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(source, problem)  # both as arguments, so that it survives pickling between processes
        self.source = source
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}"


class RefusedError(ImageError):
    """An image that may be undamaged but is not read now: it is larger than the limit, or its format needs another
    package. An update of a collection tries it again.
    """
