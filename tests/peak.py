"""How much memory a call holds at once, seen by torch's profiler."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

__all__ = ["peak"]


def peak(run: Callable[[], object]) -> int:
    """The most bytes that `run` holds at once beyond what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
