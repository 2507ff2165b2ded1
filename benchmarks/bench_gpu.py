"""Measures causal random features on a GPU against flash attention and flash-linear-attention.

    python benchmarks/bench_gpu.py --out benchmarks/results/gpu.json        about 4 minutes
    python benchmarks/bench_gpu.py --tune                                   tiles, about 4 more

B = 1, H = 8, D = 64, F = 256, bfloat16, N = 1,024 to 65,536, forward and forward+backward, parties
interleaved, medians. A timed call is several runs and one wait for the device, so that it counts
what the host takes to start kernels where that is more. flash-linear-attention (package `fla`) runs
where it is installed: its chunked kernel alone, on features that are given and without normaliser,
and with features and normaliser in torch, which is the same work as ours. Beside times: peak
memory, the share of the device's matrix-product rate and memory bandwidth that the counted work
comes to, a window of 256, a decoding step of 32 streams as a CUDA graph, and how far outputs are
from float64.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as nnf
from measure import MODES, write

import subquad as sq
from subquad.bench.timing import samples
from subquad.nn.features import PositiveRandomFeatures
from subquad.ops.linear import Sum, kernel_attention

B, H, D, F = 1, 8, 64, 256
LENGTHS = [1024, 2048, 4096, 8192, 16_384, 32_768, 65_536]
#: runs between two waits for the device
RUNS = 5
#: settings of the kernels that --tune goes through: (rows, features of a block, warps, MiB)
TILES = [(64, 64, 4, 128), (64, 64, 8, 128), (64, 32, 4, 128), (128, 64, 8, 128), (64, 64, 4, 32)]
DEVICE = "cuda"
#: the arm that is given features in place of queries and keys
GIVEN = "fla, features given"


def tensors(n: int, dtype: torch.dtype, width: int = D) -> list[torch.Tensor]:
    """q and k of a width, v, and a gradient of the output, as a projection lays them out."""
    return [
        torch.randn(B, n, H, w, device=DEVICE, dtype=dtype).transpose(1, 2)
        for w in (width, width, D, D)
    ]


def party(attend: Callable, n: int, backward: bool, width: int = D) -> Callable[[], None]:
    """RUNS runs of an arm, to their end on the device."""
    *inputs, gradient = tensors(n, torch.bfloat16, width)
    leaves = [t.requires_grad_() for t in inputs] if backward else inputs

    def runs() -> None:
        for _ in range(RUNS):
            if backward:
                torch.autograd.grad(attend(*leaves), leaves, gradient)
            else:
                with torch.no_grad():
                    attend(*leaves)
        torch.cuda.synchronize()

    return runs


def ours(dtype: torch.dtype = torch.bfloat16) -> Callable:
    features = PositiveRandomFeatures(D, F).to(DEVICE, dtype)
    return lambda q, k, v: kernel_attention(q, k, v, features)[0]


def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's exact attention, which is flash attention for these types."""
    return nnf.scaled_dot_product_attention(q, k, v, is_causal=True)


def chunked() -> dict[str, Callable]:
    """flash-linear-attention at equal features, if it is installed."""
    try:
        from fla.ops.linear_attn import chunk_linear_attn
    except ImportError:
        return {}
    rows = PositiveRandomFeatures(D, F).projection.to(DEVICE, torch.bfloat16)

    def lifted(x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2) * D**-0.25
        u = x @ rows.T - x.square().sum(-1, keepdim=True) / 2
        return torch.exp(u - u.detach().amax(-1, keepdim=True))

    def alone(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        phi_q, phi_k = (torch.cat([t.transpose(1, 2).abs()] * (F // D), -1) for t in (q, k))
        return chunk_linear_attn(phi_q, phi_k, v.transpose(1, 2), normalize=False)[0].transpose(
            1, 2
        )

    def whole(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return chunk_linear_attn(lifted(q), lifted(k), v.transpose(1, 2))[0].transpose(1, 2)

    return {GIVEN: alone, "fla, features in torch": whole}


def window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return sq.attend(q, k, v, sq.Window(256))


def work(n: int, mode: str) -> tuple[int, int]:
    """FLOPs and bytes of our kernels at a length: products that are formed, states that move."""
    chunk, width = 64, D + 1
    lift, pairs, state = D * F, chunk * (F + D), F * D
    forward = 2 * lift + (lift + state) + (2 * lift + pairs + state)
    query = 2 * lift + chunk * (F + D) + state + lift
    key = 2 * lift + chunk * (2 * F + 2 * D) + 2 * state + lift
    backward = 2 * lift + 2 * (lift + state) + query + key
    states = 4 * n // chunk * F * width * H * B  # bytes; written, scanned (two ways), read
    rows = 2 * n * H * B * D
    macs, passes, tensors = (forward, 4, 8)
    if mode == MODES[1]:
        macs, passes, tensors = (forward + backward, 12, 30)
    return 2 * macs * n * H * B, passes * states + tensors * rows


def ceilings() -> dict[str, float]:
    """FLOPs of a large product in bfloat16 and bytes of a large copy, per second."""
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(1 << 28, device=DEVICE)
    target = torch.empty_like(source)

    def timed(run: Callable[[], object]) -> Callable[[], None]:
        return lambda: (run(), torch.cuda.synchronize())[1]

    found = samples(
        {"flops": timed(lambda: a @ b), "bytes": timed(lambda: target.copy_(source))},
        {"flops": 10, "bytes": 10},
    )
    seconds = {name: statistics.median(times) for name, times in found.items()}
    return {"flops": 2 * 8192**3 / seconds["flops"], "bytes": 8 * source.numel() / seconds["bytes"]}


def peak(run: Callable[[], None]) -> int:
    """Bytes that a call takes beyond what is there before it."""
    run()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def at_length(n: int, reps: int, limits: dict[str, float]) -> dict:
    """Milliseconds, peak memory and shares of the ceilings at one length."""
    arms = {"ours": ours(), "flash": flash, "window 256": window, **chunked()}
    parties = {
        f"{name} {mode}": party(attend, n, mode == MODES[1], F if name == GIVEN else D)
        for name, attend in arms.items()
        for mode in MODES
    }
    found = samples(parties, dict.fromkeys(parties, reps))
    told: dict = {"n": n, "milliseconds": {}, "spread": {}, "times faster than": {}, "shares": {}}
    for name, times in found.items():
        told["milliseconds"][name] = 1e3 / RUNS * statistics.median(times)
        told["spread"][name] = [1e3 / RUNS * t for t in (min(times), max(times))]
    told["peak bytes"] = {name: peak(run) for name, run in parties.items()}
    for mode in MODES:
        mine = told["milliseconds"][f"ours {mode}"]
        for name in [name for name in arms if name != "ours"]:
            told["times faster than"][f"{name} {mode}"] = (
                told["milliseconds"][f"{name} {mode}"] / mine
            )
        flops, moved = work(n, mode)
        told["shares"][mode] = {
            "products": flops / limits["flops"] / mine * 1e3,
            "memory": moved / limits["bytes"] / mine * 1e3,
        }
    return told


def errors(n: int = 1000) -> dict[str, float]:
    """How far outputs are from float64 on the processor: norm of the difference over the norm."""
    told = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        q, k, v, _ = tensors(n, dtype)
        features = PositiveRandomFeatures(D, F).to(DEVICE, dtype)
        got = kernel_attention(q, k, v, features)[0].double().cpu()
        wide = [t.double().cpu() for t in (q, k, v)]
        want = kernel_attention(*wide, features.to("cpu", torch.float64))[0]
        told[str(dtype)] = float((got - want).norm() / want.norm())
    return told


def decoding(streams: int = 32) -> dict[str, float]:
    """Microseconds of a step of one token for each stream, started by the host, and as a graph."""
    features = PositiveRandomFeatures(D, F).to(DEVICE, torch.bfloat16)
    q, k, v = (torch.randn(streams, H, 1, D, device=DEVICE).bfloat16() for _ in range(3))
    state = Sum.empty(streams, H, F, D, q)

    def step() -> None:
        _, after = kernel_attention(q, k, v, features, state=state)
        state.kv.copy_(after.kv), state.top.copy_(after.top)

    side = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        step()

    def many(run: Callable[[], object]) -> Callable[[], None]:
        def runs() -> None:
            with torch.no_grad():
                for _ in range(100):
                    run()
            torch.cuda.synchronize()

        return runs

    found = samples({"host": many(step), "graph": many(graph.replay)}, {"host": 5, "graph": 5})
    return {name: 1e6 / 100 * statistics.median(times) for name, times in found.items()}


def tuned(reps: int, n: int = 16_384) -> Iterator[dict]:
    """Milliseconds of our kernels with other tiles, one line at a time."""
    from subquad.ops.triton import work as kernels

    chosen, size = kernels.spec_of, kernels.WORKSPACE
    for rows, block, warps, mebibytes in TILES:
        kernels.spec_of = lambda *given, rows=rows, block=block, warps=warps: dataclasses.replace(
            chosen(*given), chunk=rows, block=block, warps=warps
        )
        kernels.WORKSPACE = mebibytes << 20
        told: dict = {"rows": rows, "block": block, "warps": warps, "workspace MiB": mebibytes}
        try:
            runs = {mode: party(ours(), n, mode == MODES[1]) for mode in MODES}
            times = samples(runs, dict.fromkeys(runs, reps))
            told |= {mode: 1e3 / RUNS * statistics.median(t) for mode, t in times.items()}
        except Exception as error:  # tiles that do not fit are a finding too
            told["error"] = str(error).splitlines()[0][:200]
        yield told
    kernels.spec_of, kernels.WORKSPACE = chosen, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent / "results" / "gpu.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--reps", type=int, default=15)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--tune", action="store_true", help="other tiles, instead of peers")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_gpu: no CUDA device, nothing was measured")
    # torch.compile speaks of precision and of the number of multiprocessors
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    found: dict = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    if args.tune:
        found["tiles"] = []
        for told in tuned(args.reps):
            found["tiles"].append(told)
            print(json.dumps(told), flush=True)
        write(args.out.with_stem(f"{args.out.stem}-tiles"), found)
        return
    found |= {"sizes": {"B": B, "H": H, "D": D, "F": F, "dtype": "bfloat16"}, "errors": errors()}
    found["ceilings"] = ceilings()
    found["decoding, microseconds"] = decoding()
    found["lengths"] = []
    for n in args.lengths:
        found["lengths"].append(at_length(n, args.reps, found["ceilings"]))
        print(json.dumps(found["lengths"][-1]), flush=True)
        write(args.out, found)  # what is measured is kept, whatever happens next


if __name__ == "__main__":
    main()
