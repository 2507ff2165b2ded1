"""What of ours is measured: every mixer in its usual settings, and every whole architecture.

`mixers()` and `architectures()` are the only lists; `baseline` is what they are measured against.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from torch import Tensor

from subquad import nn
from subquad.archs import ARCHS, PAIRS, configure, pair_parts
from subquad.bench.party import Made, Party, Size, of_mixer, of_torch
from subquad.model import Model, build
from subquad.nn.mixer import Mixer
from subquad.nn.state import nbytes
from subquad.ops.conv import Taps
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import (
    Blocks,
    Causal,
    Chunks,
    Columns,
    Full,
    LogSteps,
    Marked,
    RandomBlocks,
    Segments,
    Strided,
    Window,
)
from subquad.pair import build as build_pair

__all__ = ["architectures", "baseline", "mixers"]

Make = Callable[[Size, int], Mixer]


def baseline(causal: bool, whole: bool) -> Party:
    """torch's scaled_dot_product_attention; for whole models, the transformer built around it."""
    way = " causal" if causal else ""
    if whole:
        return Party(f"dense{way}", partial(_architecture, "transformer", causal), causal, True)
    return Party(f"sdpa{way}", lambda size, _: of_torch(size, causal), causal)


def mixers() -> dict[str, Party]:
    """Every mixer by name."""
    ways = ((_BOTH_WAYS, False), (_CAUSAL, True))
    return {
        name: Party(name, partial(_mixer, make, name in _MARKED), causal)
        for table, causal in ways
        for name, make in table.items()
    }


def architectures(causal: bool | None = None) -> dict[str, Party]:
    """Every architecture by name; those of either direction if one is asked for, else as they are
    by default; pairs read and write N tokens each, and are left out where a direction is asked for.
    """
    found = {}
    for name, arch in ARCHS.items():
        has = {field.name: field.default for field in fields(arch.Config)}
        by_default = bool(has.get("causal", False))
        way = by_default if causal is None else causal
        if way != by_default and ("causal" not in has or hasattr(arch, "ONLY_PREDICTS")):
            continue
        found[name] = Party(name, partial(_architecture, name, way), way, whole=True)
    if causal is None:
        for name in PAIRS:
            found[name] = Party(name, partial(_pair, name), False, whole=True)
    return found


def _mixer(make: Make, marks: bool, size: Size, length: int) -> Made:
    return of_mixer(make(size, length), marks=marks)


def _architecture(name: str, causal: bool, size: Size, length: int) -> Made:
    known = {
        "dim": size.dim,
        "num_layers": size.layers,
        "num_heads": size.heads,
        "ffn_dim": size.ffn,
        "causal": causal,
        "max_len": length,
    }
    has = ARCHS[name].Config.__dataclass_fields__
    chosen = {field: value for field, value in known.items() if field in has}
    chosen |= dict.fromkeys((field for field in has if "drop" in field), 0.0)  # any kind of it
    configure(name, chosen)
    model = build(name, chosen, vocab_size=size.words)

    def follow(ids: Tensor) -> tuple[Callable[[], object], int]:
        _, state = model(ids, state=model.init_state(1), last=1)
        return lambda: model(ids[:, -1:], state=state)[0], nbytes(state)

    streams = isinstance(model, Model) and model.streams and model.delay == 0
    return Made(model, lambda ids: model(ids)[0], follow if streams else None, reads_words=True)


def _pair(name: str, size: Size, length: int) -> Made:
    has = PAIRS[name].Config.__dataclass_fields__
    known: dict[str, Any] = {
        "dim": size.dim,
        "num_heads": size.heads,
        "ffn_dim": size.ffn,
        "encoder_layers": size.layers,
        "decoder_layers": size.layers,
        "dropout": 0.0,
    }
    chosen = {field: value for field, value in known.items() if field in has}
    pair = build_pair(**pair_parts(name, chosen), vocab_size=size.words)
    return Made(pair, lambda ids: pair(ids, ids), reads_words=True)


def _over(pattern: Pattern) -> Make:
    return lambda size, _: nn.Attention(size.dim, size.heads, pattern)


def _span(size: Size, _: int) -> Mixer:
    reach = 512
    table = nn.RelativeTable(size.width, reach)
    ramp = nn.SpanRamp(size.heads, reach, ramp=32, table=table)
    return nn.Attention(size.dim, size.heads, Window(reach, -1), position=ramp)


def _segments_xl(size: Size, _: int) -> Mixer:
    far = nn.XLRelative(size.heads, size.width)
    return nn.Attention(size.dim, size.heads, Segments(512, 512), position=far)


def _kernel(features: Callable[[Size], Any], causal: bool) -> Make:
    return lambda size, _: nn.KernelAttention(size.dim, size.heads, features(size), causal=causal)


def _hashed(causal: bool) -> Make:
    return lambda size, _: nn.HashedAttention(
        size.dim, size.heads, rounds=8, buckets=(16, 16), window=64, causal=causal
    )


def _sorted(size: Size, _: int) -> Mixer:
    chunks = nn.Chunking(64)
    return nn.SortedChunkAttention(size.dim, size.heads, rounds=8, buckets=(16, 16), chunks=chunks)


def _low_rank(size: Size, length: int) -> Mixer:
    blends = nn.Projection(256, length), nn.Projection(256, length)
    return nn.LowRankAttention(size.dim, size.heads, *blends)


def _split(size: Size, _: int) -> Mixer:
    half, heads = size.dim // 2, max(1, size.heads // 2)
    attention = nn.KernelAttention(half, heads, _random(size), causal=True)
    return nn.Split(size.dim, attention, nn.DynamicConv(half, heads, Taps.behind(31)))


def _random(size: Size) -> nn.PositiveRandomFeatures:
    return nn.PositiveRandomFeatures(size.width, 256)


def _relu(size: Size) -> nn.ReLUFeatures:
    return nn.ReLUFeatures(size.width, 256)


def _elu(size: Size) -> nn.EluFeatures:
    return nn.EluFeatures()


#: those whose pattern asks for marks
_MARKED = {"marked", "random-blocks", "window-marked-causal"}

_BOTH_WAYS: dict[str, Make] = {
    "full": _over(Full()),
    "window": _over(Window(256, 256)),
    "marked": lambda size, _: nn.MarkedAttention(size.dim, size.heads, Window(256, 256)),
    "chunks-both": _over(Chunks(64, 1, 1)),
    "random-blocks": _over(Chunks(64, 1, 1) | RandomBlocks(64, 3) | Marked()),
    "random-features": _kernel(_random, False),
    "hashed": _hashed(False),
    "low-rank": _low_rank,
    "light-conv": lambda size, _: nn.LightConv(size.dim, size.heads, Taps(15, 15)),
    "dynamic-conv": lambda size, _: nn.DynamicConv(size.dim, size.heads, Taps(15, 15)),
}

_CAUSAL: dict[str, Make] = {
    "causal": _over(Causal()),
    "window-causal": _over(Window(256)),
    "window-dilated": _over(Window(256, 0, 4)),
    "window-marked-causal": _over(Causal() & (Window(256) | Marked())),
    "chunks": _over(Causal() & Chunks(64, 1)),
    "segments-xl": _segments_xl,
    "span": _span,
    "strided": _over(Causal() & (Window(128) | Strided(128))),
    "fixed": _over(Causal() & (Blocks(128) | Columns(128, 32))),
    "logsteps": _over(LogSteps(8)),
    "conv-logsteps": lambda size, _: nn.ConvAttention(size.dim, size.heads, LogSteps(8), kernel=9),
    "random-features-causal": _kernel(_random, True),
    "relu-features-causal": _kernel(_relu, True),
    "elu-features-causal": _kernel(_elu, True),
    "hashed-causal": _hashed(True),
    "sorted-chunks": _sorted,
    "light-conv-causal": lambda size, _: nn.LightConv(size.dim, size.heads, Taps.behind(31)),
    "dynamic-conv-causal": lambda size, _: nn.DynamicConv(size.dim, size.heads, Taps.behind(31)),
    "split": _split,
}
