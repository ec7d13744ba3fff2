"""Benchmarks of engines: speed, memory and share of the machine's limit, compared with published implementations."""

from hierax.benchmark.measure import bench
from hierax.benchmark.results import BenchReport, Cell, Machine, Ratio, Timing
from hierax.benchmark.settings import Settings

__all__ = ["BenchReport", "Cell", "Machine", "Ratio", "Settings", "Timing", "bench"]
