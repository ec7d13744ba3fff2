"""The errors of reading images."""

from __future__ import annotations


class ImageError(ValueError):
    """An image that cannot be read or used. `source` names it (a path, or its position in the batch), and `problem`
    says why.

    Its text is, for example, `notes.txt: not an image (...)`.
    """

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(source, problem)  # both are arguments, so that it can be pickled
        self.source = source
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}"


class NotAnImageError(ImageError):
    """A file that is not an image of a known format."""


class RefusedError(ImageError):
    """An image that is not read now, although it may be valid: it is larger than the limit, or its format needs another
    package. An update of a collection tries it again.
    """


class TooLargeError(RefusedError):
    """An image with more pixels than `max_pixels`."""
