"""One training step on 1,048,576 tokens: seconds, and the most memory it ever held.

    python benchmarks/reproduce/million_tokens.py [--archs performer longformer] [--tokens 65536]

6 layers, dim 256, 4 heads, ffn 1024, random bytes, float32. Reformer: local, local, lsh, local, as
released, axial positions; Performer: 256 random features; Longformer: a causal window of 256. All
are wired reversibly, and feed-forward parts take 8,192 positions at a time. The loss is over all
positions; one step of Adam; every gradient must be finite. Memory is the peak of a process of its
own, VmHWM, the libraries it loads included. A JSON for each, which is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import write

from subquad.hf import SubquadConfig, SubquadForCausalLM

SIZE = {
    "dim": 256,
    "num_layers": 6,
    "num_heads": 4,
    "ffn_dim": 1024,
    "wiring": "reversible",
    "mlp_chunk": 8192,
    "dropout": 0.0,
}
ARCHS = {
    "performer": {"features": 256},
    "longformer": {"windows": [256]},
    "reformer": {
        "layers": ["local", "local", "lsh", "local"],
        "rounds": 2,
        "buckets": [64, 128],
        "window": 128,
        "local_window": 128,
    },
}


def resident() -> int:
    """The most bytes that this process ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def stem(arch: str, tokens: int) -> dict:
    """Positions of the Reformer are a table, those of the others are in the scores."""
    if arch != "reformer":
        return {}
    width = 2 ** math.ceil(math.log2(tokens) / 2)
    return {"position": "axial", "axial_shape": [math.ceil(tokens / width), width]}


def step(arch: str, tokens: int, seed: int) -> dict:
    """What one step on one row of `tokens` tokens took."""
    torch.manual_seed(seed)
    config = SubquadConfig(
        arch=arch, model={**SIZE, **ARCHS[arch]}, stem=stem(arch, tokens), vocab_size=256
    )
    model = SubquadForCausalLM(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    ids = torch.randint(0, 256, (1, tokens + 1))
    before, times, busy = resident(), {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal start
        now = time.perf_counter()
        times[name], start = round(now - start, 2), now
        print(f"{name}: {times[name]:.1f} s, peak {resident() / 2**30:.2f} GiB", flush=True)

    start = time.perf_counter()
    loss = model(input_ids=ids[:, :-1], targets=ids[:, 1:]).loss
    lap("forward")
    loss.backward()
    lap("backward")
    grads = [p.grad for p in model.parameters()]
    finite = all(g is not None and bool(torch.isfinite(g).all()) for g in grads)
    optimizer.step()
    lap("optimizer")
    return {
        "arch": arch,
        "tokens": tokens,
        "loss": loss.item(),
        "every gradient is finite": finite,
        "seconds": {**times, "total": round(sum(times.values()), 2)},
        "processor seconds": round(time.process_time() - busy, 1),
        "peak resident GiB": round(resident() / 2**30, 3),
        "before the step GiB": round(before / 2**30, 3),
        "parameters": sum(p.numel() for p in model.parameters()),
        "model": config.model,
        "stem": config.stem,
        "seed": seed,
    }


def main() -> None:
    results = Path(__file__).parents[1] / "results" / "million_tokens"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1 << 20)
    parser.add_argument("--archs", nargs="+", default=list(ARCHS), choices=ARCHS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    for arch in args.archs:
        path = args.out / f"{args.tokens}-{arch}.json"
        if path.exists():
            continue
        if len(args.archs) > 1:  # a peak is one of a whole process
            words = ["--tokens", args.tokens, "--archs", arch, "--threads", args.threads]
            words += ["--seed", args.seed, "--out", args.out]
            subprocess.run([sys.executable, __file__, *map(str, words)], check=True)
            continue
        torch.set_num_threads(args.threads)
        found = step(arch, args.tokens, args.seed)
        print(json.dumps(found, indent=2))
        write(path, found)
        if not found["every gradient is finite"]:
            raise SystemExit("a gradient is not finite")


if __name__ == "__main__":
    main()
