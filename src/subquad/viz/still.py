"""Still pictures of maps, as PNG or SVG: a row for each layer, a column for each head."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
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
    lines = [line for one in shown for line in _lines(one)]
    wide = max(len(line) for line in lines)
    side = 4.4 if wide == 1 else 2.6 if wide > 3 else 3.4
    with plot.rc_context(_STYLE):
        figure, axes = plot.subplots(
            len(lines), wide, figsize=(side * wide + 0.3, (side + 0.4) * len(lines) + 0.3),
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for panels, line in zip(axes, lines, strict=True):
            for panel, cell in zip(panels, line, strict=False):
                _panel(panel, *cell)
            for panel in panels[len(line) :]:
                panel.axis("off")
        title = fill(" | ".join(one.title for one in shown), int(16 * side * wide))
        figure.suptitle(title, fontsize=10)
        figure.savefig(path, dpi=120, metadata=_DATELESS[path.suffix.lower()])
        plot.close(figure)


_DATELESS: dict[str, Any] = {".png": {"Software": None}, ".svg": {"Date": None}}


def _lines(shown: Shown) -> list[list[tuple[Shown, Layer, Head, int]]]:
    """A line of panels for each layer, and one for all rollouts."""
    own = [layer for layer in shown.layers if layer.numbers != (0,)]
    joint = [layer for layer in shown.layers if layer.numbers == (0,)]
    groups = [[layer] for layer in own] + ([joint] if joint else [])
    return [
        [
            (shown, layer, head, number)
            for layer in group
            for number, head in zip(layer.numbers, layer.heads, strict=True)
        ]
        for group in groups
    ]


def _panel(panel: Any, shown: Shown, layer: Layer, head: Head, number: int) -> None:
    roots = np.sign(head.whole) * np.sqrt(np.abs(head.whole))
    most = float(np.abs(roots).max(initial=0.0)) or 1.0
    signed = bool((roots < 0).any())
    panel.set_box_aspect(1)
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
    bits = "" if head.entropy is None else f"{head.entropy:.1f} bits"
    kind = layer.kind if number else ""
    panel.set_title(f"{title}\n{', '.join(filter(None, (kind, bits)))}", fontsize=8)
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
