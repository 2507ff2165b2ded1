"""What a low rank saves: attention layers of Linformer against dense ones, by length and rank.

    python benchmarks/reproduce/linformer_grid.py --lengths 512 1024 2048 4096 8192 16384

Wang et al., 2020, table 3 (https://arxiv.org/abs/2006.04768): how many times faster inference is
and how many times larger a batch may be, on one GPU of 16 GB whose dense attention keeps its
matrix. Here one attention layer of their shape (dim 768, 12 heads, E = F), random weights, batch
1, float32, without gradients. Two dense layers beside it: torch's fused attention, which keeps no
matrix, and the written-out one, as in the paper, up to `--written-out` tokens. Seconds are those of
the processor, all threads added, medians of interleaved rounds; memory is the most that torch holds
at once beyond weights and input.

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
from measure import peak, write

from subquad.nn import Attention, Context, LowRankAttention, Mixer, Projection
from subquad.ops.dense import dense
from subquad.ops.patterns import Full

DIM, HEADS = 768, 12
RANKS = (128, 256, 512, 1024)
#: the paper's table 3 by length and rank: times faster, times the batch
FASTER = {
    512: (1.5, 1.3),
    1024: (1.7, 1.6, 1.3),
    2048: (2.6, 2.4, 2.1, 1.3),
    4096: (3.4, 3.2, 2.8, 2.2),
    8192: (5.5, 5.0, 4.4, 3.5),
    16384: (8.6, 7.8, 7.0, 5.6),
}
SMALLER = {
    512: (1.7, 1.5),
    1024: (3.0, 2.9, 1.8),
    2048: (6.1, 5.6, 3.6, 2.0),
    4096: (14, 13, 8.3, 4.3),
    8192: (28, 26, 17, 8.5),
    16384: (56, 48, 32, 16),
}


def layers(length: int, written_out: int) -> dict[str, Mixer]:
    """The layers to compare at one length, by name."""
    torch.manual_seed(0)
    made: dict[str, Mixer] = {"dense": Attention(DIM, HEADS, Full())}
    if length <= written_out:
        made["written out"] = Attention(DIM, HEADS, Full(), engine=dense)
    for rank in RANKS:
        if rank < length:
            both = Projection(rank, length)
            made[f"rank {rank}"] = LowRankAttention(DIM, HEADS, both, both)
    return made


def seconds(parties: dict[str, Callable], reps: int) -> dict[str, float]:
    """Median processor seconds of each party, in rounds of all, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in parties}
    for turn in range(reps + 1):
        for name, run in parties.items():
            before = time.process_time()
            run()
            if turn:
                found[name].append(time.process_time() - before)
    return {name: statistics.median(all_) for name, all_ in found.items()}


@torch.no_grad()
def measure_length(length: int, reps: int, written_out: int) -> dict:
    """Seconds and bytes of every layer at one length, and the ratios of the paper's table."""
    x = torch.randn(1, length, DIM)
    at = Context.of(x)
    parties = {name: (lambda m=m: m(x, at)) for name, m in layers(length, written_out).items()}
    time_of, bytes_of = seconds(parties, reps), {name: peak(run) for name, run in parties.items()}
    ratios = {
        f"{what} than {base}": {
            name: of[base] / of[name] for name in parties if name.startswith("rank")
        }
        for what, of in (("faster", time_of), ("smaller", bytes_of))
        for base in ("dense", "written out")
        if base in parties
    }
    return {
        "length": length,
        "repetitions": reps,
        "processor seconds": time_of,
        "bytes": bytes_of,
        "ratios": ratios,
    }


def table(folder: Path) -> str:
    """What exists, as Markdown: the paper's figure, then ours against both dense layers."""
    kinds = (("faster", FASTER), ("smaller", SMALLER))
    heads = [f"{what}: paper | than written out | than dense" for what, _ in kinds]
    lines = ["| length | rank | " + " | ".join(heads) + " |", "|---" * 8 + "|"]
    found = [json.loads(p.read_text()) for p in folder.glob("*.json")]
    for one in sorted(found, key=lambda one: one["length"]):
        for i, rank in enumerate(r for r in RANKS if r < one["length"]):
            cells = [f"{one['length']:,}", str(rank)]
            for what, paper in kinds:
                row = paper.get(one["length"], ())
                cells.append(f"{row[i]:g}x" if i < len(row) else "")
                for base in ("written out", "dense"):
                    ours = one["ratios"].get(f"{what} than {base}", {})
                    cells.append(f"{ours[f'rank {rank}']:.2g}x" if ours else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=list(FASTER))
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--written-out", type=int, default=4096, help="longest with its matrix")
    parser.add_argument("--threads", type=int, default=2)
    results = Path(__file__).resolve().parents[1] / "results" / "linformer_grid"
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for length in args.lengths:
        path = args.out / f"{length}.json"
        if not path.exists():
            write(path, measure_length(length, args.reps, args.written_out))
            print(f"wrote {path}", flush=True)
    print(table(args.out))


if __name__ == "__main__":
    main()
