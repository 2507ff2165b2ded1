"""How long is a training step, as the context grows? Dense, Transformer-XL and Perceiver AR.

    python benchmarks/reproduce/step_time.py

The figure of the Perceiver AR article (arXiv 2202.07765) in small: 6 layers, dim 256, 4 heads, ffn
1024, bytes, batch 1, float32, no dropout. Context is what the last target may look at:

    transformer      all of N tokens; N targets
    transformer_xl   a segment of 1,024 and a memory of N - 1,024; 1,024 targets
    perceiver_ar     all of N tokens; the last 1,024 are latents and targets

A step is forward, loss, backward and AdamW. Each arm runs in a fresh process: one untimed step,
then `--reps` timed ones of which the median counts (only one where a step takes over 20 s). Seconds
are those of the processor, all threads added, so that a busy machine changes little. An arm that is
predicted to take longer than `--limit` seconds a step, from the growth so far, is skipped.
Resumable: a JSON per architecture and length; the table says what is missing, and why.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

from subquad.model import Model, build
from subquad.nn.past import Memory
from subquad.nn.state import ModelState

LENGTHS = [1024 << i for i in range(7)]
TARGETS = 1024
FIELDS = {"dim": 256, "num_layers": 6, "num_heads": 4, "ffn_dim": 1024, "dropout": 0.0}
ARMS = {
    "transformer": lambda n: {},
    "transformer_xl": lambda n: {"segment": TARGETS, "memory": n - TARGETS},
    "perceiver_ar": lambda n: {"latents": TARGETS},
}


def memory(model: Model, length: int) -> ModelState | None:
    """A memory of `length` tokens, as training carries it: layer inputs, here random ones."""
    state = model.init_memory(1)

    def fill(kept: Memory) -> Memory:
        x = torch.randn(1, length, FIELDS["dim"])
        return replace(kept, x=x, pos=torch.arange(length)[None])

    layers = pytree.tree_map(fill, state.layers, is_leaf=lambda s: isinstance(s, Memory))
    return ModelState(torch.tensor([length]), layers)


def measure(arch: str, length: int, reps: int) -> dict[str, Any]:
    """Seconds of a step and the most memory, in this process."""
    torch.manual_seed(0)
    model = build(arch, {**FIELDS, **ARMS[arch](length)}, vocab_size=256).train()
    adam = torch.optim.AdamW(model.parameters(), 1e-4)
    carried = arch == "transformer_xl"
    ids = torch.randint(0, 256, (1, TARGETS if carried else length))
    state = memory(model, length - TARGETS) if carried and length > TARGETS else None
    targets, seconds = 0, []
    while len(seconds) < reps + 1:
        start = time.process_time()
        y, _ = model(ids, state=state)
        goal = ids[:, -y.shape[1] :].roll(-1, 1)
        F.cross_entropy(y.flatten(0, 1), goal.flatten()).backward()
        adam.step()
        adam.zero_grad()
        targets = y.shape[1]
        seconds.append(time.process_time() - start)
        if seconds[-1] > 20:
            break
    timed = seconds[1:] or seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "arch": arch,
        "context": length,
        "targets": targets,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": statistics.median(timed),
        "steps timed": len(timed),
        "peak resident GiB": round(peak, 3),
    }


def foresee(before: list[dict[str, Any]]) -> float:
    """Seconds of a step at twice the longest context so far: as it grew last, at least linearly."""
    if len(before) < 2:
        return 4 * before[-1]["seconds"] if before else 0.0
    growth = before[-1]["seconds"] / before[-2]["seconds"]
    return before[-1]["seconds"] * min(4.0, max(2.0, growth))


def found(folder: Path, arch: str, length: int) -> dict[str, Any] | None:
    path = folder / f"{arch}-{length}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(folder: Path, limit: float) -> str:
    """What exists, as Markdown; what is missing says so."""
    lines = ["| context | " + " | ".join(f"{arch}, s | GiB" for arch in ARMS) + " |"]
    lines.append("|---" * (1 + 2 * len(ARMS)) + "|")
    for length in LENGTHS:
        cells = []
        for arch in ARMS:
            row = found(folder, arch, length)
            if row is None:
                cells += ["missing", ""]
            elif "skipped" in row:
                cells += [f"over {limit:.0f} s, foreseen {row['foreseen']:.0f}", ""]
            else:
                cells += [f"{row['seconds']:.2f}", f"{row['peak resident GiB']:.2f}"]
        lines.append(f"| {length:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = Path(__file__).resolve().parents[1] / "results" / "step_time"
    parser.add_argument("--out", type=Path, default=results)
    parser.add_argument("--limit", type=float, default=240.0, help="seconds of the longest step")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs=2, metavar=("ARCH", "LENGTH"), help="one arm, in here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        arch, length = args.only[0], int(args.only[1])
        write(args.out / f"{arch}-{length}.json", measure(arch, length, args.reps))
        return
    for arch in ARMS:
        before: list[dict[str, Any]] = []
        for length in LENGTHS:
            row = found(args.out, arch, length)
            if row is None and (soon := foresee(before)) > args.limit:
                note = {"skipped": True, "foreseen": soon, "limit": args.limit}
                write(args.out / f"{arch}-{length}.json", {"arch": arch, "context": length, **note})
                break
            if row is None:
                command = [sys.executable, __file__, "--only", arch, str(length)]
                command += ["--out", str(args.out), "--reps", str(args.reps)]
                subprocess.run([*command, "--threads", str(args.threads)], check=True)
                row = found(args.out, arch, length)
                print(f"{arch} {length:,}: {row['seconds']:.2f} s", flush=True)
            if "skipped" in row:
                break
            before.append(row)
    print(table(args.out, args.limit))


if __name__ == "__main__":
    main()
