"""Benchmarks of engines: speed, memory and share of the machine's limit, beside the published implementations."""

from hierax.engine.bench.measure import bench
from hierax.engine.bench.results import BenchReport, Cell, Machine, Ratio, Timing
from hierax.engine.bench.settings import Settings

__all__ = ["BenchReport", "Cell", "Machine", "Ratio", "Settings", "Timing", "bench"]
