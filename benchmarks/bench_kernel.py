"""Measures causal kernel attention: speed against its peers, growth with length, memory.

    python benchmarks/bench_kernel.py --out benchmarks/results/kernel.json

B = 1, H = 8, D = 64, F = 256, float32, two threads unless told otherwise. Parties run interleaved
and their medians are compared, because a shared machine changes its speed from second to second;
the fastest runs are kept as well: nearer to what an idle machine gives.
Useful work is 2 N H (2 D F + 2 F (D + 1) + 32 (F + D + 1)): features, state, and a triangle of 64.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as nnf
from measure import compared, growth_of, interleaved, main_of

import subquad as sq
from subquad.nn.features import PositiveRandomFeatures
from subquad.ops.linear import kernel_attention

B, H, D, F = 1, 8, 64, 256
MATMUL = 4096


def tensors(n: int) -> list[torch.Tensor]:
    """q, k, v and a gradient of the output."""
    return [torch.randn(B, H, n, D) for _ in range(4)]


def party(attend: Callable[..., torch.Tensor], n: int, backward: bool) -> Callable[[], object]:
    """One run of a party: forward without gradients, or forward and backward."""
    *inputs, gradient = tensors(n)
    if not backward:

        def forward() -> None:
            with torch.no_grad():
                attend(*inputs)

        return forward
    leaves = [t.requires_grad_() for t in inputs]
    # what hashes has no keys of its own
    return lambda: torch.autograd.grad(attend(*leaves), leaves, gradient, allow_unused=True)


def ours() -> Callable[..., torch.Tensor]:
    features = PositiveRandomFeatures(D, F)
    return lambda q, k, v: kernel_attention(q, k, v, features)[0]


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return nnf.scaled_dot_product_attention(q, k, v, is_causal=True)


def performer(causal: bool = True) -> Callable[..., torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from performer_pytorch import FastAttention
    return FastAttention(D, F, causal=causal)


def bidirectional(n: int, reps: int, slow: int) -> dict:
    """Features that look both ways, next to performer-pytorch and torch's exact attention."""
    features = PositiveRandomFeatures(D, F)
    attends = {
        "ours": lambda q, k, v: kernel_attention(q, k, v, features, causal=False)[0],
        "performer-pytorch": performer(causal=False),
        "exact": nnf.scaled_dot_product_attention,
    }
    return compared(n, attends, party, {"ours": reps, "performer-pytorch": slow, "exact": slow})


def low_precision(n: int, reps: int) -> dict:
    """The same work in bfloat16 and in float32: causal features, and a causal window of 256.

    Where the CPU has no units for bfloat16, that is missing.
    """
    units = torch.cpu.get_capabilities()
    if not (units.get("avx512_bf16") or units.get("amx_bf16")):
        return {"missing": "units for bfloat16"}
    result = {}
    for name, attend in {"features": ours(), "window": _window}.items():
        attends = {"bfloat16": _in_bfloat16(attend), "float32": attend}
        result[name] = compared(n, attends, party, reps)
    return result


def _window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return sq.attend(q, k, v, sq.Window(256))


def _in_bfloat16(attend: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Rounding on the way in and out counts as its time."""
    return lambda q, k, v: attend(q.bfloat16(), k.bfloat16(), v.bfloat16()).float()


def matmul() -> Callable[[], object]:
    a, b = torch.randn(2, MATMUL, MATMUL)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def useful(n: int) -> int:
    return 2 * n * H * (2 * D * F + 2 * F * (D + 1) + 32 * (F + D + 1))


def against_peers(n: int, reps: int, slow: int) -> dict:
    """Speed at one length next to torch's exact attention, performer-pytorch and a product."""
    parties, counts = {"matmul": matmul()}, {"matmul": reps}
    peers = {"ours": (ours(), reps), "exact": (exact, reps)}
    if slow:
        peers["performer-pytorch"] = (performer(), slow)
    for name, (attend, count) in peers.items():
        for mode in ("forward", "forward+backward"):
            parties[f"{name} {mode}"] = party(attend, n, mode != "forward")
            counts[f"{name} {mode}"] = count
    result: dict = {"n": n, "repetitions": counts}
    for kind, seconds in interleaved(parties, counts).items():
        rate = 2 * MATMUL**3 / seconds["matmul"]
        result[kind] = {
            "seconds": seconds,
            "matmul GFLOP/s": rate / 1e9,
            "useful share of that, forward": useful(n) / seconds["ours forward"] / rate,
            # a backward pass is worth two forward ones: a product has two gradients
            "useful share of that, forward+backward": 3
            * useful(n)
            / seconds["ours forward+backward"]
            / rate,
        }
        for name in peers:
            for mode in ("forward", "forward+backward"):
                times = seconds[f"{name} {mode}"] / seconds[f"ours {mode}"]
                if name != "ours":
                    result[kind][f"times faster than {name}, {mode}"] = times
    return result


def growth(lengths: list[int], reps: int) -> dict:
    """How forward time grows when the length doubles."""
    attend = ours()
    parties = {str(n): party(attend, n, False) for n in lengths}
    return growth_of(parties, lengths, reps)


def memory_of(n: int, backward: bool) -> dict:
    """Peak resident memory of one call beyond inputs and results, in this very process."""
    attend = ours()
    party(attend, 300, backward)()  # thread pools and first imports
    run = party(attend, n, backward)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    run()
    results = (4 if backward else 1) * B * H * n * D * 4
    extra = _status("VmHWM") - before - results
    return {"n": n, "backward": backward, "extra_mb": extra / 2**20}


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(n: int) -> list[dict]:
    """`memory_of` in fresh processes."""
    command = [sys.executable, __file__, "--memory-of", str(n)]
    runs = [command, [*command, "--backward"]]
    return [json.loads(subprocess.check_output(run, text=True)) for run in runs]


def report(reps: int, slow_reps: int) -> dict:
    """All that is measured here."""
    return {
        "sizes": {"B": B, "H": H, "D": D, "F": F, "dtype": "float32"},
        "memory": memory(65_536),
        "growth": growth([16_384, 32_768, 65_536, 131_072], max(3, reps // 3)),
        "crossover": [against_peers(n, reps, 0) for n in (1024, 2048, 3072, 8192)],
        "peers": against_peers(4096, reps, slow_reps),
    }


if __name__ == "__main__":
    if "--memory-of" in sys.argv:
        torch.set_num_threads(2)
        print(json.dumps(memory_of(int(sys.argv[2]), "--backward" in sys.argv)))
    else:
        main_of(report, __doc__, __file__)
