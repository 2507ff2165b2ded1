"""Linformer: every token looks at a fixed number of learned blends of all tokens.

Wang, Li, Khabsa, Fang, Ma, 2020, https://arxiv.org/abs/2006.04768
    y = softmax(q (E k)^T / sqrt(D)) (F v)      E and F (rank, max_len), learned
Time O(N rank), memory O(N + rank).  Never streams: every blend holds the whole input.
Ours differs: padding never enters a blend, and shorter inputs use the first columns; where no
position turns keys, x is blended before it is projected, which is the same product and cheaper;
positions are rotary by default (the paper's are the stem's, learned).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from subquad.nn.attention import divide
from subquad.nn.choices import choose, of_layer, position, stack
from subquad.nn.lowrank import LowRankAttention, Projection
from subquad.nn.stacks import Stack

__all__ = ["PRESETS", "SHARING", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`max_len`: the longest input; `ranks`: blends, one number for all layers or one for each.

    `sharing`: "headwise" (E and F for each layer, all its heads alike), "key_value" (E = F) or
    "layerwise" (one for everything). It always looks ahead, so there is no field `causal`.
    """

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    max_len: int = 1024
    ranks: tuple[int, ...] = (256,)
    sharing: str = "layerwise"
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "gelu"
    wiring: str = "pre"
    dropout: float = 0.1


def _roberta(max_len: int, rank: int) -> Config:
    """The paper's shape, that of RoBERTa-base; its stem learns absolute positions."""
    return Config(
        dim=768,
        num_layers=12,
        num_heads=12,
        ffn_dim=3072,
        max_len=max_len,
        ranks=(rank,),
        position="none",
        wiring="post",
    )


PRESETS = {
    "base": Config(),
    "paper_512": _roberta(512, 128),
    "paper_1024": _roberta(1024, 256),
    "tiny": Config(
        dim=32, num_layers=2, num_heads=4, ffn_dim=64, max_len=1100, ranks=(16,), dropout=0.0
    ),
}

#: E and F of every layer
Pairs = list[tuple[Projection, Projection]]


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    mixers = [
        LowRankAttention(
            c.dim,
            c.num_heads,
            *pair,
            position=position(c.position, c.num_heads, divide(c.dim, c.num_heads)),
            dropout=c.dropout,
        )
        for pair in choose("sharing", c.sharing, SHARING)(c)
    ]
    return stack(
        mixers,
        c.dim,
        c.ffn_dim,
        causal=False,
        norm=c.norm,
        mlp=c.mlp,
        wiring=c.wiring,
        dropout=c.dropout,
    )


def _projection(c: Config, layer: int) -> Projection:
    return Projection(of_layer("ranks", c.ranks, layer, c.num_layers), c.max_len)


def _headwise(c: Config) -> Pairs:
    return [(_projection(c, layer), _projection(c, layer)) for layer in range(c.num_layers)]


def _key_value(c: Config) -> Pairs:
    return [(one, one) for one in (_projection(c, layer) for layer in range(c.num_layers))]


def _layerwise(c: Config) -> Pairs:
    if len(set(c.ranks)) > 1:
        raise ValueError(
            f"sharing = 'layerwise' has one projection and ranks = {c.ranks} are several; "
            "give one rank, or share 'key_value'"
        )
    one = _projection(c, 0)
    return [(one, one)] * c.num_layers


SHARING: Mapping[str, Callable[[Config], Pairs]] = {
    "headwise": _headwise,
    "key_value": _key_value,
    "layerwise": _layerwise,
}
