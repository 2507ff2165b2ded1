"""Bytes that one attention layer sends when several processes hold one sequence.

    python benchmarks/sent_bytes.py 2 4 --out benchmarks/results/sent_bytes

starts as many processes on this machine each time, joined by gloo, and writes what each has sent,
forward and backward, as `subquad.ops.across.Ranks` counts it. The tests compare that count with the
formulas of the docstrings and, between two network namespaces, with the bytes on the cable.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed

from subquad.nn.features import PositiveRandomFeatures
from subquad.ops import across
from subquad.ops.patterns import Causal, Full, Marked, Window

HEADS, WIDTH, TOKENS, FEATURES = 8, 64, 1024, 256
PATTERNS = {
    "window, 256 behind": Window(256),
    "window, 128 each side, 1 marked token a process": Window(128, 128) | Marked(),
    "exact, causal": Causal(),
    "exact, both ways": Full(),
}


def layer(name: str, qkv: list[Tensor], mark: Tensor, ranks: across.Ranks) -> Tensor:
    """One layer over the tokens of this process."""
    if name.startswith("kernel"):
        phi = PositiveRandomFeatures(head_dim=WIDTH, num_features=FEATURES, seed=0)
        return across.kernel_attention(*qkv, phi, ranks, causal=name.endswith("causal"))[0]
    return across.attend(*qkv, PATTERNS[name], ranks, mark=mark if "marked" in name else None)


def measure() -> dict[str, dict[str, int]]:
    """What the process that sends most sends, in each layer."""
    found = {}
    for name in ("kernel, causal", "kernel, both ways", *PATTERNS):
        ranks = across.Ranks.of(TOKENS)
        qkv = [torch.randn(1, HEADS, TOKENS, WIDTH, requires_grad=True) for _ in range(3)]
        mark = torch.zeros(1, 1, TOKENS, dtype=torch.bool)
        mark[..., 0] = True
        out = layer(name, qkv, mark, ranks)
        forward = ranks.sent
        out.sum().backward()
        most = torch.tensor([forward, ranks.sent - forward])
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        found[name] = {"forward": int(most[0]), "backward": int(most[1])}
    return found


def work(out: str) -> None:
    """In a process that torchrun has started."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = measure()
    if distributed.get_rank() == 0:
        facts = {"processes": distributed.get_world_size(), "tokens of a process": TOKENS}
        facts |= {"heads": HEADS, "head width": WIDTH, "features": FEATURES, "dtype": "float32"}
        path = Path(out) / f"processes-{facts['processes']}.json"
        path.write_text(json.dumps({**facts, "torch": torch.__version__, "sent": found}, indent=2))
    distributed.destroy_process_group()


def main() -> None:
    """Start torchrun for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("processes", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--out", required=True)
    parser.add_argument("--work", action="store_true", help="used by this program itself")
    given = parser.parse_args()
    if given.work:
        work(given.out)
        return
    Path(given.out).mkdir(parents=True, exist_ok=True)
    for size in given.processes:
        words = ["--standalone", "--nproc-per-node", str(size), __file__, "--work"]
        run = [sys.executable, "-m", "torch.distributed.run", *words, "--out", given.out]
        subprocess.run(run, check=True)


if __name__ == "__main__":
    main()
