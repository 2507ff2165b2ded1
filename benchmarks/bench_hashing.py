"""Measures LSH attention: speed, memory and counted work beside reformer-pytorch, and growth.

    python benchmarks/bench_hashing.py --out benchmarks/results/hashing.json

8 rounds, B = 1, 8 heads of 64, float32, hashing included, without projections. Ours looks at the
last 64 tokens of the bucket, each pair once; reformer-pytorch at its chunk of 64 and the one before
in both of its settings: "masked" to its own bucket, each pair once, which is nearest to ours, and
as it comes, without either. "ours in chunks" is what runs its checkpoints: in its chunks, likewise
without either. FLOPs are counted of all.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from bench_kernel import party
from measure import MODES, compared, growth_of, held, main_of

import subquad as sq
from subquad.bench.count import counter
from subquad.ops.hashing import hash_labels, rotations
from subquad.ops.lsh import unit
from subquad.ops.sorted_chunks import Chunking, attend_chunks

ROUNDS, BUCKET = 8, 64
CHUNKS = Chunking(BUCKET, same_bucket=False, count_once=False, circle=True)


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Queries are keys."""
    return sq.lsh_attention(q, v, rounds=ROUNDS, buckets=(16, 16), window=BUCKET)


def in_chunks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Both off, and chunks in a circle, as reformer-pytorch has them."""
    labels = hash_labels(q, rotations(ROUNDS, (16, 16), q.shape[-1], 0), (16, 16), None)
    return attend_chunks(q, unit(q), v, labels, CHUNKS, causal=True)


def reformer(masked: bool) -> Callable[..., torch.Tensor]:
    from reformer_pytorch.reformer_pytorch import LSHAttention

    inner = LSHAttention(
        bucket_size=BUCKET,
        n_hashes=ROUNDS,
        causal=True,
        attend_across_buckets=not masked,
        allow_duplicate_attention=not masked,
    ).eval()

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out, _, _ = inner(q.flatten(0, 1), v.flatten(0, 1))
        return out.view_as(q)

    return attend


def against_reformer(n: int, reps: int, slow: int) -> dict:
    """Both settings of reformer-pytorch, or that it is missing; ours alone then."""
    attends: dict[str, Callable] = {"ours": ours}
    missing = {} if find_spec("reformer_pytorch") else {"missing": "reformer-pytorch"}
    if not missing:
        attends |= {"ours in chunks": in_chunks}
        attends |= {"reformer masked": reformer(True), "reformer": reformer(False)}
    counts = {name: reps if name == "ours" else slow for name in attends}
    found = compared(n, attends, party, counts)
    if not missing:
        for kind in ("median", "fastest"):
            seconds = found[kind]["seconds"]
            found[kind]["in chunks"] = {
                mode: seconds[f"reformer {mode}"] / seconds[f"ours in chunks {mode}"]
                for mode in MODES
            }
    flops = {name: counted(attend, n) for name, attend in attends.items()}
    return {**found, "peak bytes": held(n, attends, party), "FLOPs forward": flops, **missing}


def counted(attend: Callable, n: int) -> int:
    run = party(attend, n, False)
    with counter() as seen:
        run()
    return seen.get_total_flops()


def growth(lengths: list[int], reps: int) -> dict:
    """How forward time grows when the length doubles, hashing included."""
    return growth_of({str(n): party(ours, n, False) for n in lengths}, lengths, reps)


def report(reps: int, slow_reps: int) -> dict:
    """All that is measured here."""
    return {
        "against": against_reformer(16_384, reps, slow_reps),
        "growth": growth([32_768, 65_536], max(3, reps // 3)),
    }


if __name__ == "__main__":
    main_of(report, __doc__, __file__)
