"""Measures window attention: speed against Longformer of transformers, and growth with length.

    python benchmarks/bench_window.py --out benchmarks/results/window.json

Window 256 each side (their `attention_window` 512), B = 1, 8 heads of 64, float32. Query, key and
value projections are inside on both sides; neither has the output projection.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import compared, growth_of, main_of
from torch import nn

from subquad.nn import Attention, Context
from subquad.ops.patterns import Window

DIM, HEADS, WINDOW = 512, 8, 256


def ours() -> Callable[[torch.Tensor], torch.Tensor]:
    mixer = Attention(DIM, HEADS, Window(WINDOW, WINDOW)).eval()
    mixer.out = nn.Identity()
    return lambda x: mixer(x, Context.of(x))[0]


def longformer() -> Callable[[torch.Tensor], torch.Tensor]:
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    config = LongformerConfig(
        hidden_size=DIM, num_attention_heads=HEADS, attention_window=[2 * WINDOW]
    )
    mixer = LongformerSelfAttention(config, 0).eval()

    def attend(x: torch.Tensor) -> torch.Tensor:
        none = torch.zeros(x.shape[:2], dtype=torch.bool)
        return mixer(
            x,
            attention_mask=none.float(),
            is_index_masked=none,
            is_index_global_attn=none,
            is_global_attn=False,
        )[0]

    return attend


def party(attend: Callable, n: int, backward: bool) -> Callable[[], object]:
    """One run: forward without gradients, or forward and backward to x and the weights."""
    x = torch.randn(1, n, DIM)
    if backward:
        x.requires_grad_()
        return lambda: attend(x).sum().backward()

    def forward() -> None:
        with torch.no_grad():
            attend(x)

    return forward


def against_longformer(n: int, reps: int) -> dict:
    """Seconds of both, and how many times faster ours is."""
    return compared(n, {"ours": ours(), "longformer": longformer()}, party, reps)


def growth(lengths: list[int], reps: int) -> dict:
    """How forward time grows when the length doubles."""
    attend = ours()
    parties = {str(n): party(attend, n, False) for n in lengths}
    return growth_of(parties, lengths, reps)


def report(reps: int, slow_reps: int) -> dict:
    """All that is measured here."""
    return {
        "sizes": {"B": 1, "dim": DIM, "heads": HEADS, "window": WINDOW, "dtype": "float32"},
        "against": [against_longformer(n, reps) for n in (4096, 16_384)],
        "growth": growth([16_384, 32_768, 65_536, 131_072], max(3, reps // 3)),
    }


if __name__ == "__main__":
    main_of(report, __doc__, __file__)
