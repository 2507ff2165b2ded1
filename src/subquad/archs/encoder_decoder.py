"""Encoder-decoder: any architecture reads a source, any that predicts writes what follows from it.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762
    memory = encoder(source)
    y = decoder(tokens), whose layers also look at the memory: softmax(q k^T / sqrt(D)) v
Time O(N M) for the looks at N tokens read from M written, O(N + M) unless `cross` is "full", and
what the two architectures take.
The decoder streams exactly; its state is its architecture's and the source, projected once, or its
sum over features or its learned blends, which are as large for any source.
Ours differs: each side is any architecture of `ARCHS`; norms inside the residual branch and rotary
positions unless fields say otherwise, as those of the paper's own presets do.
"""

from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["PRESETS", "Config", "parts"]


@dataclass(frozen=True)
class Config:
    """Sizes of both sides, and an architecture for each; the fields that it has besides go into
    `encoder_fields` and `decoder_fields`.

    `cross`: what reads the source, "full", "kernel", "linear" or "low_rank", and `cross_fields` its
    fields (`subquad.nn.crosses`).
    `position`: absolute ones of both stems, "none" or "sinusoidal"; embeddings count sqrt(dim)-fold
    next to sinusoids, as in the paper.
    """

    dim: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    encoder: str = "transformer"
    decoder: str = "transformer"
    encoder_fields: dict = field(default_factory=dict)
    decoder_fields: dict = field(default_factory=dict)
    cross: str = "full"
    cross_fields: dict = field(default_factory=dict)
    position: str = "none"
    dropout: float = 0.1


_PAPER = {"position": "none", "wiring": "post", "mlp": "relu"}
_TINY = Config(dim=32, encoder_layers=2, decoder_layers=2, num_heads=4, ffn_dim=64, dropout=0.0)

PRESETS = {
    "base": Config(encoder_fields=_PAPER, decoder_fields=_PAPER, position="sinusoidal"),
    "big": Config(
        dim=1024,
        num_heads=16,
        ffn_dim=4096,
        encoder_fields=_PAPER,
        decoder_fields=_PAPER,
        position="sinusoidal",
        dropout=0.3,
    ),
    "performer": Config(encoder="performer", decoder="performer", cross="kernel"),
    "tiny": _TINY,
    "tiny-performer": replace(
        _TINY,
        encoder="performer",
        decoder="performer",
        encoder_fields={"features": 16},
        decoder_fields={"features": 16},
        cross="kernel",
        cross_fields={"features": 16},
    ),
}


def parts(config: Config) -> dict[str, Any]:
    """What `subquad.pair.build` takes: the decoder, and the encoder inside."""
    c = config
    both = {"dim": c.dim, "num_heads": c.num_heads, "ffn_dim": c.ffn_dim, "dropout": c.dropout}
    scale = 1.0 if c.position == "none" else c.dim**0.5
    stem = {"kind": "tokens", "position": c.position, "scale": scale, "dropout": c.dropout}
    return {
        "arch": c.decoder,
        "model": {**both, "num_layers": c.decoder_layers, **c.decoder_fields},
        "stem": stem,
        "cross": {"kind": c.cross, **c.cross_fields},
        "encoder": {
            "arch": c.encoder,
            "model": {**both, "num_layers": c.encoder_layers, **c.encoder_fields},
            "stem": stem,
        },
    }
