"""Draws the matrix of every architecture: `python docs/pictures/draw.py [NAME ...]`.

Each picture shows the matrices that mixers of a small model multiply by, as their own `weights`
write them down; `matrices` is the one place that gets them. Nothing is drawn where a query does not
look.

Axes: B batch, H heads, N queries, M keys, C model width.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor

import subquad as sq

mpl.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
LENGTH = 48
DIM = 32

#: fields beside those of the preset "tiny", so that a pattern shows at 48 tokens
FIELDS: dict[str, dict[str, Any]] = {
    "longformer": {"causal": False, "windows": (4, 8), "dilations": (1, 2), "dilated_heads": 2},
    "transformer_xl": {"segment": 12, "memory": 12},
    "adaptive_span": {"max_span": 24, "ramp": 8},
    "local": {"window": 6},
    "conformer": {"mixer": "chunks", "chunk": 8, "left": 1, "conv": "chunk"},
    "bigbird": {"block": 4, "random_blocks": 2},
    "linformer": {"max_len": LENGTH},
    "reformer": {"window": 6, "local_window": 6},
    "hybrid": {"kinds": ("local", "kernel", "full"), "window": 6},
    "sparse_transformer": {"kind": "fixed", "stride": 8, "columns": 2, "combine": "heads"},
    "logsparse": {"local": 2, "restart": None},
}
#: (mixer, head) of the panels; the first heads of the first two mixers unless said otherwise
PANELS: dict[str, list[tuple[int, int]]] = {
    "longformer": [(0, 0), (1, 0)],
    "sparse_transformer": [(0, 0), (0, 3)],
    "adaptive_span": [(0, 0), (0, 3)],
    "hybrid": [(0, 0), (1, 0), (2, 0)],
    "reformer": [(0, 0), (1, 0)],
}


def matrices(name: str) -> list[tuple[str, Tensor]]:
    """(mixer, weights (H, N, M)) of each mixer of a small model, in the order in which they run."""
    torch.manual_seed(1)
    module = sq.ARCHS[name]
    config = replace(module.PRESETS["tiny"], **FIELDS.get(name, {}))
    stack = module.build(config).eval()
    for parameter in stack.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    spread_spans(stack)
    seen: list[tuple[Any, tuple]] = []
    for part in stack.modules():
        if hasattr(part, "weights") and hasattr(part, "values"):
            part.register_forward_hook(lambda part, given, _: seen.append((part, given)))
    x = torch.randn(1, LENGTH, DIM).cumsum(1) / 3  # neighbours are alike, as in real inputs
    mark = torch.zeros(1, LENGTH, dtype=torch.bool)
    mark[0, 0] = True
    context = replace(sq.nn.Context.of(x), mark=mark)
    with torch.no_grad():
        stack(x, context)
        return [(type(part).__name__, by_token(part, given)) for part, given in seen]


def by_token(part: Any, given: tuple) -> Tensor:
    """The weights (H, N, M), columns that stand for the same token added up."""
    weights = part.weights(*given[:2])[0]
    if not isinstance(part, sq.nn.Mixer):
        return weights
    tokens = part.columns(*given[:2])
    if tokens.min() < 0 or tokens.unique().numel() == len(tokens):  # blends are no tokens
        return weights
    return weights.new_zeros(*weights.shape[:2], LENGTH).index_add(2, tokens, weights)


def spread_spans(stack: torch.nn.Module) -> None:
    """Spans of heads from short to long, where they are learnt; untrained they are all 0."""
    for part in stack.modules():
        if isinstance(part, sq.nn.SpanRamp):
            with torch.no_grad():
                part.span.copy_(torch.linspace(0.0, 1.0, len(part.span))[:, None])


def draw(name: str) -> Path:
    """Write NAME.png."""
    found = matrices(name)
    panels = PANELS.get(name) or [(number, 0) for number in range(min(2, len(found)))]
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 2.9), squeeze=False)
    for axis, (number, head) in zip(axes[0], panels, strict=True):
        kind, weights = found[number]
        shown = weights[head].float()
        colours = plt.get_cmap("viridis")(0.15 + 0.85 * (shown / shown.max()).sqrt().numpy())
        colours[..., 3] = (shown != 0).numpy()
        axis.imshow(colours, interpolation="nearest", aspect="auto")
        axis.set_title(f"{kind}\nmixer {number + 1}, head {head + 1}", fontsize=7, color="#888888")
        axis.tick_params(colors="#888888", labelsize=6, length=2)
        for spine in axis.spines.values():
            spine.set_color("#888888")
    axes[0][0].set_ylabel("query", fontsize=7, color="#888888")
    axes[0][0].set_xlabel("key", fontsize=7, color="#888888")
    figure.tight_layout()
    path = HERE / f"{name}.png"
    figure.savefig(path, dpi=110, transparent=True)
    plt.close(figure)
    return path


if __name__ == "__main__":
    for each in sys.argv[1:] or sq.ARCHS:
        print(draw(each))
