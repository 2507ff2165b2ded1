"""What a carried memory spares in evaluation: Transformer-XL against recomputing every window.

    python benchmarks/reproduce/xl_speed.py --lengths 800 1800 2800 3800

Dai et al., 2019, table 9 (https://arxiv.org/abs/1901.02860): the vanilla model forms the whole
window anew for each token, Transformer-XL reads on. Their 12-layer shape (dim 512, 8 heads, ffn
2048, bytes), random weights, batch 1, float32. Per token: segments of 128 tokens with the memory
carried; single tokens likewise; a dense Transformer of the same shape over the window for its last
token (the paper's comparison); the same Transformer-XL over the window. Ratios are of processor
seconds, all threads added, which other programs on the machine change least; elapsed seconds stand
beside them. Also whether segments with memory give what one pass over everything gives (float64).

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

import subquad.model as core
from subquad.nn.state import nbytes

#: how many times slower the paper's vanilla model is per token, on one GPU
PAPER = {800: 363, 1800: 773, 2800: 1409, 3800: 1874}
SEGMENT, CLAMP, WORDS = 128, 820, 256


def shape(layers: int) -> dict:
    """Widths of the paper's 12-layer model."""
    return {"dim": 512, "num_layers": layers, "num_heads": 8, "ffn_dim": 2048, "dropout": 0.0}


def models(length: int, layers: int) -> tuple[core.Model, core.Model]:
    """Transformer-XL that sees `length` tokens before each, and a dense Transformer."""
    torch.manual_seed(0)
    memory = {"memory": length, "same_length": True, "clamp_len": CLAMP}
    xl = core.build("transformer_xl", {**shape(layers), **memory}, vocab_size=WORDS)
    plain = {**shape(layers), "position": "none"}
    stem = {"position": "sinusoidal"}
    dense = core.build("transformer", plain, vocab_size=WORDS, stem=stem)
    return xl.eval(), dense.eval()


def timed(parties: dict[str, Callable], counts: dict[str, int]) -> dict[str, dict[str, float]]:
    """Median seconds of each party, by the processor and by the clock, in rounds of all."""
    clocks = {"processor": time.process_time, "elapsed": time.perf_counter}
    found: dict = {clock: {name: [] for name in parties} for clock in clocks}
    for turn in range(max(counts.values())):
        for name, run in parties.items():
            if turn < counts[name]:
                if turn == 0:
                    run()  # warm
                before = {clock: now() for clock, now in clocks.items()}
                run()
                for clock, now in clocks.items():
                    found[clock][name].append(now() - before[clock])
    return {c: {n: statistics.median(all_) for n, all_ in by.items()} for c, by in found.items()}


@torch.no_grad()
def measure_length(length: int, layers: int, reps: int) -> dict:
    """Seconds per token of each party at one attention length, and the state's bytes."""
    xl, dense = models(length, layers)
    ids = torch.randint(WORDS, (1, length + 1))
    state = xl.init_state(1)
    for part in ids[:, :-1].split(1024, 1):
        state = xl(part, state=state, last=1)[1]
    some = torch.randint(WORDS, (1, SEGMENT))
    parties = {
        "segment": lambda: xl(some, state=state),
        "token": lambda: xl(some[:, :1], state=state),
        "window, dense": lambda: dense(ids[:, 1:], last=1),
        "window, same model": lambda: xl(ids[:, 1:], last=1),
    }
    counts = {name: reps if "window" in name else 3 * reps for name in parties}
    seconds = timed(parties, counts)
    for by in seconds.values():
        by["segment"] /= SEGMENT
    cpu = seconds["processor"]
    return {
        "length": length,
        "layers": layers,
        "repetitions": counts,
        "seconds per token": seconds,
        "ratios": {
            "vanilla": cpu["window, dense"] / cpu["segment"],
            "same model": cpu["window, same model"] / cpu["segment"],
            "vanilla against single tokens": cpu["window, dense"] / cpu["token"],
        },
        "paper": PAPER.get(length),
        "state bytes": nbytes(state),
    }


@torch.no_grad()
def check(length: int, layers: int) -> float:
    """The largest difference of log-probabilities: segments with memory against one pass."""
    xl = models(length, layers)[0].double()
    ids = torch.randint(WORDS, (1, length + 2 * SEGMENT))
    whole = xl(ids)[0].log_softmax(-1)
    state, parts = xl.init_state(1), []
    for part in ids.split(SEGMENT, 1):
        y, state = xl(part, state=state)
        parts.append(y.log_softmax(-1))
    return float((torch.cat(parts, 1) - whole).abs().max())


def table(folder: Path, layers: int) -> str:
    """What exists, as Markdown."""
    lines = ["| attention length | paper | ours | the same model recomputed | single tokens |"]
    lines[0] += " processor ms per token carried | segments equal one pass to |"
    lines.append("|---|---|---|---|---|---|---|")
    found = [json.loads(p.read_text()) for p in folder.glob(f"*-{layers}.json")]
    for one in sorted(found, key=lambda one: one["length"]):
        ratios, paper = one["ratios"], "" if one["paper"] is None else f"{one['paper']:,}x"
        cells = [f"{one['length']:,}", paper, f"{ratios['vanilla']:,.0f}x"]
        cells += [f"{ratios['same model']:,.0f}x"]
        cells += [f"{ratios['vanilla against single tokens']:,.0f}x"]
        cells += [f"{1000 * one['seconds per token']['processor']['segment']:.2f}"]
        cells += [f"{one['largest difference']:.0e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=list(PAPER))
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--reps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    results = Path(__file__).parents[1] / "results" / "xl_speed"
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for length in args.lengths:
        path = args.out / f"{length}-{args.layers}.json"
        if path.exists():
            continue
        found = measure_length(length, args.layers, args.reps)
        found["largest difference"] = check(length, args.layers)
        assert found["largest difference"] < 1e-9, found
        write(path, found)
        print(f"wrote {path}", flush=True)
    print(table(args.out, args.layers))


if __name__ == "__main__":
    main()
