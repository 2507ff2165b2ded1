"""Longformer Encoder-Decoder (LED): a long source read through windows, a short text written.

Beltagy, Peters, Cohan, 2020, section 7, https://arxiv.org/abs/2004.05150
    encoder: a window for every token, and a few global tokens for all (`archs.longformer`)
    decoder: full causal self-attention, and full cross-attention over all that was read
Time O(N (window + marks) + M^2 + N M) for N tokens read and M written, memory O(N + M).  The
decoder streams exactly; its state holds the source, projected once, and grows with M.
Ours differs: any length and any window, and global tokens anywhere, per example (the paper's is
the first one: mark it); positions are learned from nothing, where the paper starts from copies of
BART's.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["PRESETS", "Config", "parts"]


@dataclass(frozen=True)
class Config:
    """`windows` counts tokens on each side: one number for all layers, or one for each.

    `max_source` and `max_target`: how many positions are learned. The wiring is BART's: norms after
    sums, and one after embedding.
    """

    dim: int = 768
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_heads: int = 12
    ffn_dim: int = 3072
    windows: tuple[int, ...] = (512,)
    max_source: int = 16_384
    max_target: int = 1_024
    mlp: str = "gelu"
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    "large": Config(dim=1024, encoder_layers=12, decoder_layers=12, num_heads=16, ffn_dim=4096),
    "tiny": Config(
        dim=32,
        encoder_layers=2,
        decoder_layers=2,
        num_heads=4,
        ffn_dim=64,
        windows=(6, 10),
        max_source=2_048,
        max_target=256,
        dropout=0.0,
    ),
}


def parts(config: Config) -> dict[str, Any]:
    """What `subquad.pair.build` takes: the decoder, and the encoder inside."""
    c = config
    sizes = {"dim": c.dim, "num_heads": c.num_heads, "ffn_dim": c.ffn_dim, "mlp": c.mlp}
    both = {**sizes, "position": "none", "wiring": "post", "dropout": c.dropout}
    stem = {"kind": "tokens", "position": "learned", "norm": "layer", "dropout": c.dropout}
    reader = {"num_layers": c.encoder_layers, "causal": False, "windows": list(c.windows)}
    return {
        "arch": "transformer",
        "model": {**both, "num_layers": c.decoder_layers, "causal": True},
        "stem": {**stem, "max_len": c.max_target},
        "encoder": {
            "arch": "longformer",
            "model": {**both, **reader},
            "stem": {**stem, "max_len": c.max_source},
        },
    }
