"""How much memory a call takes: what torch's profiler sees it take and give back.

It counts the bytes of tensors, exactly and alike in every run. What the allocator, threads and
loaded libraries hold besides shows only in a fresh process (`subquad.bench.process`).
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

__all__ = ["available", "largest", "peak"]


def peak(run: Callable[[], object]) -> int:
    """The most bytes that torch holds at once during `run`, beyond what there was before."""
    held = most = 0
    for nbytes in _taken(run):
        held += nbytes
        most = max(most, held)
    return most


def largest(run: Callable[[], object]) -> int:
    """The bytes of the largest tensor that `run` makes."""
    return max(_taken(run))


def available() -> int:
    """Bytes that this machine can still give: /proc/meminfo. ValueError where there is none."""
    told = Path("/proc/meminfo")
    if told.is_file():
        for line in told.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise ValueError("this system does not say how much memory is free; pass --memory GIB")


def _taken(run: Callable[[], object]) -> list[int]:
    """The bytes that `run` takes, and, below zero, gives back, in order."""
    seen = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _unsaid():
        seen.start()
    try:
        run()
    finally:
        with _unsaid():
            seen.stop()
    events = seen.profiler.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]"]


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Without the lines that the profiler's library writes to standard error by itself."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
