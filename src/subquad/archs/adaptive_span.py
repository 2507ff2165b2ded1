"""Adaptive Span: every head learns how far back it looks, so most heads stay cheap.

Sukhbaatar, Grave, Bojanowski, Joulin, 2019, https://arxiv.org/abs/1905.07799
    a_ij = m_z(x) exp(s_ij) / sum_j' m_z(x') exp(s_ij'),   m_z(x) = clamp((R + z - x) / R, 0, 1)
    s_ij = q_i . (k_j + p_x) / sqrt(D),   x = i - j from 1 to S;   loss += cost sum of mean z
Time O(N z) for the largest span z of a layer, memory O(N).  Streams exactly; the state of a layer
holds as many tokens as its widest head sees now.  The token itself is left out: it arrives by the
residual.
Ours differs: the newest key is at distance 1 as in the paper (`newest` 0: as in the released code);
keys are cut at the exact reach, not in steps of 64; the log of the mask is added to scores, which
spares the second sum and its 1e-8; parameters start as everywhere here.
"""

from dataclasses import dataclass

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import choose, stack
from subquad.nn.span import Borrowed, DynamicSpan, RelativeTable, SpanRamp, Table
from subquad.nn.stacks import Stack
from subquad.ops.patterns import SameLabel, Window

__all__ = ["ONLY_PREDICTS", "PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`max_span` S, `ramp` R and `cost` (the paper's lambda) are in tokens.

    `position`: "span", one for each head, or "dynamic_span", another for every token: it may always
    be S, so what a layer computes and keeps is then that of the whole window.

    `newest` is the distance that a span takes the newest key for.

    With `carry`, training runs over segments that follow each other and hands on the layer inputs
    that spans reach.
    """

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    max_span: int = 1024
    ramp: int = 32
    cost: float = 2e-6
    position: str = "span"
    newest: int = 1
    carry: bool = True
    norm: str = "layer"
    mlp: str = "relu"
    dropout: float = 0.1


#: there is no form that looks ahead
ONLY_PREDICTS = True

PRESETS = {
    "base": Config(),
    "small": Config(num_layers=12, max_span=8192, cost=5e-7, dropout=0.3),
    "large": Config(dim=768, num_layers=24, ffn_dim=4096, max_span=8192, cost=5e-7, dropout=0.4),
    "one-gpu": Config(dim=256, num_layers=8, num_heads=4, ffn_dim=1024, dropout=0.0),
    "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, max_span=12, ramp=4, dropout=0.0),
}


def _learned(c: Config, table: Table) -> SpanRamp:
    return SpanRamp(c.num_heads, c.max_span, ramp=c.ramp, cost=c.cost, table=table, newest=c.newest)


def _dynamic(c: Config, table: Table) -> DynamicSpan:
    return DynamicSpan(c.dim, c.num_heads, c.max_span, ramp=c.ramp, cost=c.cost, table=table)


SPANS = {"span": _learned, "dynamic_span": _dynamic}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration. ValueError unless causal."""
    c = config
    if not c.causal:
        raise ValueError(
            f"adaptive spans reach into the past alone, so causal must be True, not {c.causal}"
        )
    table = RelativeTable(divide(c.dim, c.num_heads), c.max_span)
    span = choose("position", c.position, SPANS)
    # before the window, so that a span that cannot be is called by its name
    spans = [span(c, Borrowed(table) if layer else table) for layer in range(c.num_layers)]
    mixers = [
        Attention(
            c.dim,
            c.num_heads,
            Window(c.max_span, -1) & SameLabel(),
            position=one,
            bias=False,
            dropout=c.dropout,
        )
        for one in spans
    ]
    return stack(
        mixers,
        c.dim,
        c.ffn_dim,
        causal=c.causal,
        norm=c.norm,
        mlp=c.mlp,
        wiring="post",
        dropout=c.dropout,
    )
