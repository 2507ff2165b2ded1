"""How much memory a call takes, seen by torch's profiler."""

from subquad.bench.memory import largest, peak

__all__ = ["largest", "peak"]
