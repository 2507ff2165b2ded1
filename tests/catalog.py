"""What the contract tests go through: every mixer and every architecture, at tiny size.

A new mixer is tested by its line in MIXERS; a new architecture by its line in `subquad.ARCHS`; a
setting of one that takes another stack by its line in VARIANTS.

Axes: B batch, N tokens, C model width.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import subquad as sq
from subquad import nn
from subquad.archs import configure
from subquad.model import Model, build
from subquad.nn.context import Context
from subquad.nn.mixer import Mixer
from subquad.ops.band import band
from subquad.ops.conv import Taps
from subquad.ops.shifts import shifts

DIM, HEADS = 24, 4
WIDTH = DIM // HEADS


def _attention(pattern: sq.ops.pattern.Pattern, **options) -> Callable[[], Mixer]:
    return lambda: nn.Attention(DIM, HEADS, pattern, **options)


def _low_rank_shared() -> Mixer:
    both = nn.Projection(5, 140)
    return nn.LowRankAttention(DIM, HEADS, both, both, bias=False)


MIXERS: dict[str, Callable[[], Mixer]] = {
    "full": _attention(sq.Full()),
    "causal": _attention(sq.Causal()),
    "causal-rotary": lambda: nn.Attention(DIM, HEADS, sq.Causal(), position=nn.Rotary(WIDTH)),
    "causal-grouped": _attention(sq.Causal(), num_kv_heads=2),
    "causal-band": _attention(sq.Causal(), engine=band),
    "window": _attention(sq.Window(5, 3), engine=band),
    "window-causal": _attention(sq.Window(6), engine=band),
    "window-dilated": _attention(sq.PerHead((3, sq.Window(4)), (1, sq.Window(4, 0, 3)))),
    "window-alibi": lambda: nn.Attention(DIM, HEADS, sq.Window(9), position=nn.ALiBi(HEADS)),
    "window-xl": lambda: nn.Attention(
        DIM, HEADS, sq.Window(7, 7), position=nn.XLRelative(HEADS, WIDTH), engine=band
    ),
    "causal-xl": lambda: nn.Attention(
        DIM, HEADS, sq.Causal(), position=nn.XLRelative(HEADS, WIDTH, clamp_len=11)
    ),
    "window-marked": _attention(sq.Window(3, 3) | sq.Marked()),
    "window-marked-causal": _attention(sq.Causal() & (sq.Window(3) | sq.Marked())),
    "marked": lambda: nn.MarkedAttention(DIM, HEADS, sq.Window(4, 4)),
    "span": lambda: nn.Attention(
        DIM,
        HEADS,
        sq.Window(20, -1),
        position=nn.SpanRamp(HEADS, 20, ramp=5, table=nn.RelativeTable(WIDTH, 20)),
        engine=band,
    ),
    "span-with-itself": lambda: nn.Attention(
        DIM,
        HEADS,
        sq.Window(9),
        position=nn.SpanRamp(HEADS, 9, ramp=3, table=nn.RelativeTable(WIDTH, 10, nearest=0)),
        bias=False,
    ),
    "span-dynamic": lambda: nn.Attention(
        DIM,
        HEADS,
        sq.Window(20, -1),
        position=nn.DynamicSpan(DIM, HEADS, 20, ramp=5, table=nn.RelativeTable(WIDTH, 20)),
        engine=band,
    ),
    "kernel": lambda: nn.KernelAttention(DIM, HEADS, nn.PositiveRandomFeatures(WIDTH, 32)),
    "kernel-causal": lambda: nn.KernelAttention(
        DIM,
        HEADS,
        nn.PositiveRandomFeatures(WIDTH, 32),
        causal=True,
        position=nn.Rotary(WIDTH),
        num_kv_heads=2,
    ),
    "kernel-relu": lambda: nn.KernelAttention(DIM, HEADS, nn.ReLUFeatures(WIDTH, 32), causal=True),
    "kernel-elu": lambda: nn.KernelAttention(DIM, HEADS, nn.EluFeatures(), causal=True),
    "kernel-offset": lambda: nn.OffsetKernelAttention(
        DIM, HEADS, nn.PositiveRandomFeatures(WIDTH, 32)
    ),
    "kernel-offset-causal": lambda: nn.OffsetKernelAttention(
        DIM,
        HEADS,
        nn.PositiveRandomFeatures(WIDTH, 32),
        causal=True,
        position=nn.Rotary(WIDTH),
        num_kv_heads=2,
    ),
    "kernel-relu-offset": lambda: nn.OffsetKernelAttention(
        DIM, HEADS, nn.ReLUFeatures(WIDTH, 32), causal=True
    ),
    "chunks": _attention(sq.Chunks(4, 2)),
    "full-xl": lambda: nn.Attention(DIM, HEADS, sq.Full(), position=nn.XLRelative(HEADS, WIDTH)),
    "chunks-xl": lambda: nn.Attention(
        DIM, HEADS, sq.Chunks(3, 2), position=nn.XLRelative(HEADS, WIDTH)
    ),
    "segments": _attention(sq.Segments(6, 5)),
    "segments-xl": lambda: nn.Attention(
        DIM, HEADS, sq.Segments(6, 5), position=nn.XLRelative(HEADS, WIDTH, clamp_len=7), bias=False
    ),
    "window-xl-causal": lambda: nn.Attention(
        DIM, HEADS, sq.Window(9), position=nn.XLRelative(HEADS, WIDTH), engine=band
    ),
    "strided": _attention(sq.Causal() & (sq.Window(4) | sq.Strided(5))),
    "fixed": lambda: nn.Attention(
        DIM, HEADS, sq.Causal() & (sq.Blocks(6) | sq.Columns(6, 2)), position=nn.Rotary(WIDTH)
    ),
    "fixed-by-head": _attention(
        sq.Causal() & sq.PerHead((2, sq.Blocks(6)), (1, sq.Columns(6, 1)), (1, sq.Columns(6, 1, 2)))
    ),
    "narrow-keys": _attention(sq.Causal() & sq.Columns(3, 1), head_dim=5, value_dim=9),
    "logsteps": _attention(sq.LogSteps(2)),
    "conv": lambda: nn.ConvAttention(DIM, HEADS, sq.Causal(), kernel=3),
    "conv-logsteps": lambda: nn.ConvAttention(
        DIM, HEADS, sq.LogSteps(2, 16), kernel=4, position=nn.Rotary(WIDTH), engine=shifts
    ),
    "hashed": lambda: nn.HashedAttention(DIM, HEADS, rounds=3, buckets=(2, 2), window=3),
    "hashed-once": lambda: nn.HashedAttention(DIM, HEADS, rounds=1, buckets=(4,), window=9),
    "hashed-full": lambda: nn.HashedAttention(DIM, HEADS, rounds=None),
    "hashed-both": lambda: nn.HashedAttention(
        DIM, HEADS, rounds=3, buckets=(4,), window=5, causal=False
    ),
    "chunked-hash": lambda: nn.SortedChunkAttention(
        DIM, HEADS, rounds=3, buckets=(2, 2), chunks=nn.Chunking(5)
    ),
    "chunked-hash-both": lambda: nn.SortedChunkAttention(
        DIM, HEADS, rounds=2, buckets=(4,), chunks=nn.Chunking(8), causal=False
    ),
    "chunked-hash-across": lambda: nn.SortedChunkAttention(
        DIM, HEADS, rounds=3, buckets=(4,), chunks=nn.Chunking(8, False, False), head_dim=5
    ),
    "chunked-hash-circle": lambda: nn.SortedChunkAttention(
        DIM, HEADS, buckets=(4,), chunks=nn.Chunking(8, False, False, True, True, 1e-6)
    ),
    "chunks-both": _attention(sq.Chunks(4, 1, 2)),
    "random-blocks": _attention(sq.Chunks(4, 1, 1) | sq.RandomBlocks(4, 2) | sq.Marked()),
    "random-blocks-causal": lambda: nn.Attention(
        DIM, HEADS, sq.Causal() & sq.RandomBlocks(3, 4, 7), position=nn.ALiBi(HEADS)
    ),
    "low-rank": lambda: nn.LowRankAttention(
        DIM, HEADS, nn.Projection(6, 140), nn.Projection(6, 130)
    ),
    "low-rank-shared": _low_rank_shared,
    "low-rank-rotary": lambda: nn.LowRankAttention(
        DIM, HEADS, nn.Projection(9, 140), nn.Projection(9, 140), position=nn.Rotary(WIDTH)
    ),
    "light-conv": lambda: nn.LightConv(DIM, HEADS, Taps(2, 3)),
    "light-conv-causal": lambda: nn.LightConv(
        DIM, HEADS, Taps.behind(7), enter=nn.GatedLinear(DIM)
    ),
    "dynamic-conv": lambda: nn.DynamicConv(DIM, HEADS, Taps(3, 3), enter=nn.GatedLinear(DIM)),
    "dynamic-conv-causal": lambda: nn.DynamicConv(DIM, HEADS, Taps.behind(6)),
    "split": lambda: nn.Split(
        DIM, nn.Attention(12, 2, sq.Window(4, 4)), nn.LightConv(12, 2, Taps(1, 2))
    ),
    "split-causal": lambda: nn.Split(
        DIM,
        nn.KernelAttention(12, 2, nn.PositiveRandomFeatures(WIDTH, 32), causal=True),
        nn.DynamicConv(12, 2, Taps.behind(5)),
    ),
}

#: how many tokens of a stream must come together, for every mixer that can stream
STEPS = {name: step for name, make in MIXERS.items() if (step := make().step) is not None}

STREAMING = [name for name, step in STEPS.items() if step == 1]


def mixer(name: str, dtype: torch.dtype = torch.float64) -> Mixer:
    """A mixer of the list, its parameters large enough that scores differ."""
    torch.manual_seed(7)
    made = MIXERS[name]().to(dtype).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


def inputs(batch: int, length: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random features (B, N, C)."""
    return torch.randn(batch, length, DIM, dtype=dtype)


def context(x: Tensor, lengths: list[int] | None = None, marks: list[int] | None = None) -> Context:
    """A context of right-padded rows, some tokens marked if `marks` lists them."""
    n = x.shape[1]
    valid = None if lengths is None else torch.arange(n) < torch.tensor(lengths)[:, None]
    mark = None
    if marks is not None:
        mark = torch.zeros(x.shape[:2], dtype=torch.bool)
        mark[:, [m for m in marks if m < n]] = True
    return Context(torch.arange(n)[None], valid, mark=mark)


#: settings that take another stack: its name, the architecture, and they
VARIANTS = {"perceiver_ar-prefix": ("perceiver_ar", {"read": "prefix"})}


def model(arch: str, *, causal: bool = True, dtype: torch.dtype = torch.float64) -> Model:
    """The tiny preset of an architecture over 50 words, weights large enough to matter."""
    torch.manual_seed(7)
    fields = tiny(arch, causal=causal)
    base, _ = VARIANTS.get(arch, (arch, {}))
    made = build(base, fields, vocab_size=50).to(dtype).eval()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return made


def tiny(arch: str, *, causal: bool = True) -> dict:
    """Fields of the tiny preset; one that always looks ahead has no field `causal`."""
    base, more = VARIANTS.get(arch, (arch, {}))
    fields = {**vars(sq.ARCHS[base].PRESETS["tiny"]), **more}
    return {**fields, "causal": causal} if "causal" in fields else dict(fields)


def _builds(arch: str, causal: bool) -> bool:
    if "causal" not in tiny(arch):
        return not causal
    try:
        sq.ARCHS[arch].build(configure(arch, tiny(arch, causal=causal)))
    except ValueError:
        return False
    return True


#: every architecture both ways, where it has both: those that only predict refuse causal=False, and
#: those that always look ahead have no such field
BOTH_WAYS = [
    (arch, causal) for arch in sq.ARCHS for causal in (True, False) if _builds(arch, causal)
]

CAUSAL = [arch for arch, causal in BOTH_WAYS if causal]

#: for laws that ask for nothing but a model
STACKS = [*BOTH_WAYS, *((name, True) for name in VARIANTS)]
STREAMS = [name for name, causal in STACKS if causal]

#: architectures whose state grows with what they have read, and says so
GROWING = {
    "transformer",
    "perceiver_ar",
    "perceiver_ar-prefix",
    "sparse_transformer",
    "logsparse",
    "lite_transformer",
}


def cuts(length: int) -> Iterator[list[int]]:
    """Some ways to cut a length into pieces."""
    yield [1] * length
    yield [length]
    yield [length // 2, length - length // 2]
    yield [1, *[7] * ((length - 1) // 7), (length - 1) % 7]
