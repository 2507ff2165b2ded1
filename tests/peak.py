"""How much memory a call takes, seen by torch's profiler."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

__all__ = ["largest", "peak"]


def peak(run: Callable[[], object]) -> int:
    """The most bytes that `run` holds at once beyond what there was before."""
    held = most = 0
    for nbytes in _taken(run):
        held += nbytes
        most = max(most, held)
    return most


def largest(run: Callable[[], object]) -> int:
    """The bytes of the largest tensor that `run` makes."""
    return max(_taken(run))


def _taken(run: Callable[[], object]) -> list[int]:
    """The bytes that `run` takes, and, below zero, gives back, in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = seen.profiler.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]"]
