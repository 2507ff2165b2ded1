"""Seconds of several parties that take turns.

A shared machine is not equally fast from second to second, so parties run interleaved, and medians
are compared; how far the samples lie apart is kept beside them.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

__all__ = ["LONG", "growth_of", "interleaved", "samples"]

#: seconds of a call that heeds no one's caches
LONG = 2.0


def samples(
    parties: Mapping[str, Callable[[], object]],
    reps: Mapping[str, int],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """All seconds of each party; round r runs those with more than r reps.

    A timed call follows an untimed one of the same party: none pays for the caches and the heap
    that another left behind. Later calls of what takes `LONG` do not: they hardly feel either.
    """
    times: dict[str, list[float]] = {name: [] for name in parties}
    for r in range(max(reps.values(), default=0)):
        for name, run in parties.items():
            if r < reps[name]:
                if not times[name] or times[name][-1] < LONG:
                    run()
                start = clock()
                run()
                times[name].append(clock() - start)
    return times


def interleaved(
    parties: Mapping[str, Callable[[], object]], reps: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Seconds of each party, "median" and "fastest" of its `samples`."""
    times = samples(parties, reps)
    return {
        "median": {name: statistics.median(seconds) for name, seconds in times.items()},
        "fastest": {name: min(seconds) for name, seconds in times.items()},
    }


def growth_of(
    parties: Mapping[str, Callable[[], object]], lengths: Sequence[int], reps: int
) -> dict:
    """Seconds at each length, and how they grow from one to the next."""
    result: dict = interleaved(parties, dict.fromkeys(parties, reps))
    for kind, seconds in tuple(result.items()):
        result[f"ratios of {kind}"] = {
            f"{a} -> {b}": seconds[str(b)] / seconds[str(a)] for a, b in pairwise(lengths)
        }
    return result
