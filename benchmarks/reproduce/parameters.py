"""Do the presets have the papers' sizes? Parameters without embeddings and heads, on no memory.

    python benchmarks/reproduce/parameters.py

Published: what the papers say. Formula: the part of it that the matrices make up, d being the width
and f that of the feed-forward part; norms, biases and small tables are what is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from subquad.archs import ARCHS

RESULTS = Path(__file__).parents[1] / "results" / "parameters"

#: architecture, preset, formula in words, the formula, millions as published
ROWS: list[tuple[str, str, str, Callable[[int, int, int], int], float]] = [
    (
        "transformer_xl",
        "enwik8_base",
        "L (5 d^2 + 2 d f)",
        lambda n, d, f: n * (5 * d * d + 2 * d * f),
        41,
    ),
    (
        "transformer_xl",
        "enwik8_large",
        "L (5 d^2 + 2 d f)",
        lambda n, d, f: n * (5 * d * d + 2 * d * f),
        277,
    ),
    (
        "adaptive_span",
        "small",
        "L (4 d^2 + 2 d f) + 64 x 8192",
        lambda n, d, f: n * (4 * d * d + 2 * d * f) + 64 * 8192,
        38,
    ),
    (
        "adaptive_span",
        "large",
        "L (4 d^2 + 2 d f) + 96 x 8192",
        lambda n, d, f: n * (4 * d * d + 2 * d * f) + 96 * 8192,
        209,
    ),
    ("sparse_transformer", "enwik8", "L 12 d^2", lambda n, d, f: n * 12 * d * d, 95),
    ("perceiver_ar", "imagenet64", "(L + 1) 12 d^2", lambda n, d, f: (n + 1) * 12 * d * d, 770.1),
]


def count(arch: str, preset: str) -> int:
    """Parameters of the backbone."""
    with torch.device("meta"):
        backbone = ARCHS[arch].build(ARCHS[arch].PRESETS[preset])
    return sum(p.numel() for p in backbone.parameters())


def main() -> None:
    found = []
    lines = ["| preset | formula | by formula | ours | off by | published |", "|---" * 6 + "|"]
    for arch, preset, words, formula, published in ROWS:
        c = ARCHS[arch].PRESETS[preset]
        ours, wanted = count(arch, preset), formula(c.num_layers, c.dim, c.ffn_dim)
        off = ours / wanted - 1
        found.append({"arch": arch, "preset": preset, "ours": ours, "formula": wanted})
        lines.append(
            f"| {arch} {preset} | {words} | {wanted / 1e6:.1f}M | {ours / 1e6:.1f}M | "
            f"{off:+.2%} | {published}M |"
        )
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "parameters.json").write_text(json.dumps(found, indent=2) + "\n")
    (RESULTS / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
