"""What LogSparse attention takes beside dense attention, by length: keys, seconds, memory.

    python benchmarks/reproduce/logsparse_memory.py --lengths 1024 2048 4096 8192 16384 32768 65536

Li et al., 2019 (https://arxiv.org/abs/1907.00235) state O(N log N) keys and memory; with a mask
over dense attention neither holds. 8 heads of 64, batch 1, float32, one attention without
projections, forward alone and with backward. Steps: distances 0, 1, 2, 4, ..; local: with a window
of log2 N besides. Dense: torch's fused causal attention, which keeps no matrix; masked: the steps
as a mask over written-out scores. `--dense 16384` and its like leave a party out above that length.

Keys are counted by FLOPs, and must be those of the closed form. Memory is the most that torch holds
at once beyond inputs, output and gradients, also in floats of (N, H, K), of which at most 4 are
meant to be taken. Seconds are those of the processor, all threads added, medians of interleaved
rounds; what takes over a minute runs once.

Resumable: a JSON per length; the table is made from those that exist.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import peak, write

import subquad as sq
from subquad.ops.dense import dense as written_out
from subquad.ops.shifts import shifts

HEADS, WIDTH = 8, 64
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
#: each party, and the longest that it is measured at
LONGEST = {"steps": 65536, "local": 65536, "dense": 65536, "masked": 4096}
#: seconds beyond which a party runs once
LONG = 60.0
WAYS = ("forward", "both")


def variants(length: int) -> dict[str, sq.LogSteps]:
    """The pattern, and the same with a local window, by name."""
    return {"steps": sq.LogSteps(), "local": sq.LogSteps(length.bit_length() - 1)}


def parties(length: int, longest: dict[str, int]) -> dict[str, Callable]:
    """What is compared at a length, up to the longest of each: a call of q, k, v."""

    def over(pattern: sq.ops.pattern.Pattern, engine: Callable | None) -> Callable:
        return lambda q, k, v: sq.attend(q, k, v, pattern, engine=engine)

    made = {name: over(pattern, shifts) for name, pattern in variants(length).items()}
    made["dense"] = over(sq.Causal(), None)
    made["masked"] = over(sq.LogSteps(), written_out)
    return {name: call for name, call in made.items() if length <= longest[name]}


def runs(attention: Callable, length: int) -> dict[str, Callable]:
    """Forward alone, and with backward, on the same inputs."""
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(1, length, HEADS, WIDTH).transpose(1, 2) for _ in range(4))
    inputs = [t.requires_grad_() for t in (q, k, v)]

    @torch.no_grad()
    def forward() -> object:
        return attention(q, k, v)

    return {
        "forward": forward,
        "both": lambda: torch.autograd.grad(attention(q, k, v), inputs, grad),
    }


def timed(run: Callable[[], object]) -> tuple[float, object]:
    """Processor seconds, and what came out."""
    before = time.process_time()
    out = run()
    return time.process_time() - before, out


def keys(length: int, name: str, forward: Callable[[], object]) -> dict[str, int]:
    """How many keys all queries of a head look at: by the FLOPs of a call, and in closed form."""
    pattern = variants(length)[name]
    with FlopCounterMode(display=False) as counter:
        forward()
    counted = counter.get_total_flops() // (2 * 2 * WIDTH * HEADS)
    far = pattern.offsets(length - 1)
    known = sum(length - d for d in far)
    if name == "steps" and length & (length - 1) == 0:
        assert known == length * (length.bit_length() - 1) + 1  # N log2 N + 1
    assert counted == known, (counted, known)
    return {"a query at most": len(far), "counted": counted, "of dense": length * (length + 1) // 2}


def measure_length(length: int, reps: int, longest: dict[str, int]) -> dict:
    """Keys, seconds and bytes of every party at one length."""
    every = {name: runs(call, length) for name, call in parties(length, longest).items()}
    times: dict = {way: {name: [] for name in every} for way in WAYS}
    extra: dict = {way: {} for way in WAYS}
    one = 4 * length * HEADS * WIDTH
    for way, results in zip(WAYS, (1, 4), strict=True):  # the output; and three gradients
        for name, of in every.items():
            first: list[float] = []
            most = peak(lambda run=of[way], first=first: first.append(timed(run)[0]))
            extra[way][name] = most - results * one
            times[way][name] += first
            print(f"{length} {name} {way}: {first[0]:.2f} s", flush=True)
        short = [name for name in every if times[way][name][0] < LONG]
        for name in short:
            times[way][name].clear()  # it warmed up, under the profiler
        for _ in range(reps):
            for name in short:
                times[way][name].append(timed(every[name][way])[0])
    listed = [name for name in every if name in variants(length)]
    counted = {name: keys(length, name, every[name]["forward"]) for name in listed}
    unit = {name: 4 * length * HEADS * k["a query at most"] for name, k in counted.items()}
    return {
        "length": length,
        "repetitions": reps,
        "keys": counted,
        "processor seconds": {
            way: {name: statistics.median(all_) for name, all_ in by.items()}
            for way, by in times.items()
        },
        "extra bytes": extra,
        "extra in floats of (N, H, K)": {
            way: {name: extra[way][name] / unit[name] for name in unit} for way in WAYS
        },
    }


def table(folder: Path) -> str:
    """What exists, as Markdown."""
    lines = ["| length | keys of a head | of dense | party | s forward | s both |"]
    lines[0] += " extra MB forward | extra MB both | in (N, H, K) floats |"
    lines.append("|---" * 9 + "|")
    found = [json.loads(p.read_text()) for p in folder.glob("*.json")]
    for one in sorted(found, key=lambda one: one["length"]):
        for name in one["processor seconds"]["forward"]:
            count, share = one["keys"].get(name), ["", ""]
            if count:
                share = [f"{count['counted']:,}", f"{count['counted'] / count['of dense']:.2%}"]
            cells = [f"{one['length']:,}", *share, name]
            cells += [f"{one['processor seconds'][way][name]:.3f}" for way in WAYS]
            cells += [f"{one['extra bytes'][way][name] / 1e6:,.1f}" for way in WAYS]
            floats = [one["extra in floats of (N, H, K)"][way].get(name) for way in WAYS]
            cells.append("" if floats[0] is None else " / ".join(f"{x:.2f}" for x in floats))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--reps", type=int, default=3)
    for name, most in LONGEST.items():
        parser.add_argument(f"--{name}", type=int, default=most, help=f"longest of {name}")
    parser.add_argument("--threads", type=int, default=1)
    results = Path(__file__).resolve().parents[1] / "results" / "logsparse_memory"
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    longest = {name: getattr(args, name) for name in LONGEST}
    for length in args.lengths:
        path = args.out / f"{length}.json"
        if not path.exists():
            write(path, measure_length(length, args.reps, longest))
            print(f"wrote {path}", flush=True)
    shown = table(args.out)
    (args.out / "table.md").write_text(shown + "\n")
    print(shown)


if __name__ == "__main__":
    main()
