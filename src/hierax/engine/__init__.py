"""Fast inference: precisions, backends, compiled shapes, exports with a parity report."""

from hierax.engine.engine import Engine

__all__ = ["Engine"]
