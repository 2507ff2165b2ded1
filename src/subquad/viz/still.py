"""Still pictures of maps, as PNG or SVG: a row for each layer, a column for each head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.viz.curves import pyplot
from subquad.viz.pyramid import Head
from subquad.viz.shown import Layer, Shown

__all__ = ["still"]

#: labels are written where there are no more than so many
_LABELS = 36
_STYLE = {"font.family": "sans-serif", "font.size": 8, "svg.hashsalt": "subquad"}


def still(shown: Sequence[Shown], path: Path) -> None:
    """All maps of some models. Colour grows with the root of the weight; orange is below zero.

    ValueError for a file that is neither .png nor .svg, or without matplotlib.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{path} must be a .png or .svg file")
    plot = pyplot()
    layers = [(one, layer) for one in shown for layer in one.layers]
    wide = max(len(layer.heads) for _, layer in layers)
    side = 4.2 if wide == 1 else 2.4 if wide > 3 else 3.2
    with plot.rc_context(_STYLE):
        figure, axes = plot.subplots(
            len(layers), wide, figsize=(side * wide + 0.6, side * len(layers) + 0.4),
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for line, (one, layer) in zip(axes, layers, strict=True):
            for panel, number, head in zip(line, layer.numbers, layer.heads, strict=False):
                _panel(panel, one, layer, head, number)
            for panel in line[len(layer.heads) :]:
                panel.axis("off")
        figure.suptitle(" | ".join(one.title for one in shown), fontsize=10)
        figure.savefig(path, dpi=120, metadata=_DATELESS[path.suffix.lower()])
        plot.close(figure)


_DATELESS: dict[str, Any] = {".png": {"Software": None}, ".svg": {"Date": None}}


def _panel(panel: Any, shown: Shown, layer: Layer, head: Head, number: int) -> None:
    roots = np.sign(head.whole) * np.sqrt(np.abs(head.whole))
    most = float(np.abs(roots).max(initial=0.0)) or 1.0
    signed = bool((roots < 0).any())
    panel.imshow(
        roots,
        cmap="PuOr" if signed else "Blues",
        vmin=-most if signed else 0,
        vmax=most,
        aspect="auto",
        interpolation="nearest",
        extent=(0, layer.keys, layer.queries, 0),
    )
    title = f"{layer.title}, head {number}" if number else layer.title
    bits = "" if head.entropy is None else f", {head.entropy:.1f} bits"
    panel.set_title(f"{title}{bits}\n{layer.kind}", fontsize=8)
    for axis, name, count in (
        (panel.yaxis, layer.queries_are, layer.queries),
        (panel.xaxis, layer.keys_are, layer.keys),
    ):
        words = shown.labels.get(name, ())
        if len(words) == count <= _LABELS:
            axis.set_ticks(np.arange(count) + 0.5, [_short(word) for word in words], fontsize=6)
        else:
            axis.set_label_text(name, fontsize=7)
            axis.set_tick_params(labelsize=6)
    panel.tick_params(axis="x", rotation=90 if layer.keys <= _LABELS else 0, length=2)
    panel.tick_params(axis="y", length=2)


def _short(word: str) -> str:
    """A label of at most 8 characters, its white space to be seen; $ is no formula."""
    plain = word.replace("\n", "\\n").replace("\t", "\\t").replace("$", "\\$")
    plain = plain.replace(" ", "\N{OPEN BOX}") if plain.strip(" ") != plain else plain
    return plain if len(plain) <= 8 else plain[:7] + "\N{HORIZONTAL ELLIPSIS}"
