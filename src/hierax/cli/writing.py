"""Files that are there whole or not at all."""

from hierax.atomic import written

__all__ = ["written"]
