"""Lite Transformer that reads and writes: translations, and summaries of short articles.

Wu et al., 2020, section 4, https://arxiv.org/abs/2004.11886
    encoder: each token attends to all, and convolves its neighbours (`archs.lite_transformer`)
    decoder: the same of what is before it, then full cross-attention over all that was read
Time O(N^2 + M^2 + N M) for N tokens read and M written, memory O(N + M).  The decoder streams
exactly; its state holds the source, projected once, and grows with M.
At 30 tokens read and 30 written the layers take the paper's multiply-adds within 1 percent: 54, 119
and 210 million for IWSLT, 91, 361 and 529 for WMT (the paper: 54, 119, 209; 90, 360, 527), logits
left out. With one table of 6,632 words, as for IWSLT, parameters are the paper's 2.8, 5.4 and 8.9
million (`subquad bench --count --arch lite_pair --preset iwslt-160 --words 6632 --length 30`).
Ours differs: encoder and decoder share one table of words where they have the same vocabulary; the
rest as in `archs.lite_transformer`.
"""

from dataclasses import dataclass, replace
from typing import Any

__all__ = ["PRESETS", "Config", "parts"]


@dataclass(frozen=True)
class Config:
    """Sizes of both sides, and of what stands in a layer (`archs.lite_transformer`).

    `num_heads`: of either half of a layer; `cross_heads`: of cross-attention, which is as wide as
    the model. `drop_weights`: of attention weights, cross-attention's too, and of taps.
    """

    dim: int = 496
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_heads: int = 4
    cross_heads: int = 8
    ffn_dim: int = 496
    conv: str = "dynamic"
    glu: bool = True
    kernels: tuple[int, ...] = (3, 7, 15, 31)
    dropout: float = 0.1
    drop_weights: float = 0.1


_SMALL = Config(conv="light", glu=False, cross_heads=4, dropout=0.2)

PRESETS = {
    # IWSLT'14 de-en
    "iwslt-160": replace(_SMALL, dim=160, ffn_dim=160),
    "iwslt-240": replace(_SMALL, dim=240, ffn_dim=240),
    "iwslt-320": replace(_SMALL, dim=320, ffn_dim=320),
    # WMT'14 en-fr and WMT'16 en-de
    "wmt-200": Config(dim=200, ffn_dim=200, drop_weights=0.05),
    "wmt-408": Config(dim=408, ffn_dim=408, drop_weights=0.05),
    "wmt-496": Config(drop_weights=0.05),
    # CNN/DailyMail
    "summaries": Config(dropout=0.15),
    # learns a simple language on one core
    "small": replace(
        _SMALL,
        dim=96,
        encoder_layers=2,
        decoder_layers=2,
        ffn_dim=192,
        dropout=0.0,
        drop_weights=0.0,
    ),
    "tiny": Config(
        dim=32,
        encoder_layers=2,
        decoder_layers=2,
        num_heads=2,
        cross_heads=4,
        ffn_dim=32,
        kernels=(3, 6),
        dropout=0.0,
        drop_weights=0.0,
    ),
}


def parts(config: Config) -> dict[str, Any]:
    """What `subquad.pair.build` takes: the decoder, and the encoder inside."""
    c = config
    both = {
        "dim": c.dim,
        "num_heads": c.num_heads,
        "ffn_dim": c.ffn_dim,
        "conv": c.conv,
        "glu": c.glu,
        "kernels": list(c.kernels),
        "position": "none",
        "dropout": c.dropout,
        "drop_weights": c.drop_weights,
    }
    stem = {
        "kind": "tokens",
        "position": "sinusoidal",
        "scale": c.dim**0.5,
        "dropout": c.dropout,
    }
    return {
        "arch": "lite_transformer",
        "model": {**both, "num_layers": c.decoder_layers, "causal": True},
        "stem": stem,
        "cross": {"kind": "full", "num_heads": c.cross_heads, "dropout": c.drop_weights},
        "encoder": {
            "arch": "lite_transformer",
            "model": {**both, "num_layers": c.encoder_layers, "causal": False},
            "stem": stem,
        },
    }
