"""What the benchmarks share: interleaved timing, memory of a fresh process, the machine, the file.

Parties run interleaved and medians are compared, because a shared machine is not equally fast from
second to second.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["growth_of", "interleaved", "machine", "main_of", "peak", "write"]


def interleaved(parties: dict[str, Callable], reps: dict[str, int]) -> dict[str, dict[str, float]]:
    """Seconds of each party, "median" and "fastest"; round r runs those with more than r reps.

    Every timed call follows an untimed one of the same party: no party pays for the caches and the
    heap that another left behind.
    """
    times: dict[str, list[float]] = {name: [] for name in parties}
    for r in range(max(reps.values())):
        for name, run in parties.items():
            if r < reps[name]:
                run()
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    return {
        "median": {name: statistics.median(seconds) for name, seconds in times.items()},
        "fastest": {name: min(seconds) for name, seconds in times.items()},
    }


def growth_of(parties: dict[str, Callable], lengths: list[int], reps: int) -> dict:
    """Seconds at each length, and how they grow from one to the next."""
    result: dict = interleaved(parties, dict.fromkeys(parties, reps))
    for kind, seconds in tuple(result.items()):
        result[f"ratios of {kind}"] = {
            f"{a} -> {b}": seconds[str(b)] / seconds[str(a)] for a, b in pairwise(lengths)
        }
    return result


def peak(run: Callable[[], object]) -> int:
    """The most bytes that torch holds at once during `run`, beyond what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def machine() -> dict:
    """Processor, cores, threads and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(names),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write(path: Path, found: dict) -> None:
    """Keep what was found, with date, command and machine."""
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    root = f"{Path(__file__).resolve().parent.parent}/"
    command = " ".join(["python", *(word.replace(root, "") for word in sys.argv)])
    full = {"date": stamp, "command": command, "machine": machine(), **found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(full, indent=2) + "\n")


def main_of(report: Callable[[int, int], dict], doc: str, file: str) -> None:
    """The command line of one benchmark: repetitions, threads, where the JSON goes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    default = Path(file).parent / "results" / f"{Path(file).stem.removeprefix('bench_')}.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--reps", type=int, default=15)
    parser.add_argument("--slow-reps", type=int, default=3, help="of peers that take seconds")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found = report(args.reps, args.slow_reps)
    write(args.out, found)
    print(json.dumps(found, indent=2))
