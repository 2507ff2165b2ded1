"""The page of maps: one HTML file in which one looks from the whole to single tokens.

Page([shown]).write(path)          in a notebook `Page([shown])` shows itself
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from subquad.viz.html import asset, document, facts, table
from subquad.viz.pyramid import Head, as_text
from subquad.viz.shown import Layer, Shown

__all__ = ["Page"]


@dataclass(frozen=True)
class Page:
    """Models that have looked at the same input, side by side."""

    shown: Sequence[Shown]

    @property
    def title(self) -> str:
        return "Attention: " + " beside ".join(one.title for one in self.shown)

    def html(self) -> str:
        """The whole file as text."""
        data = json.dumps({"models": [_data(one) for one in self.shown]}, ensure_ascii=False)
        data = data.replace("</", "<\\/").replace("<!--", "<\\u0021--")
        script = f'<script type="application/json" id="data">{data}</script>\n'
        for name in ("map.js", "page.js"):
            script += f"<script>\n{asset(name)}</script>\n"
        body = _BODY.format(
            count=len(self.shown),
            spans="".join(_spans(one) for one in self.shown),
            numbers="".join(_numbers(one) for one in self.shown),
            facts="".join(f"<h3>{escape(x.title)}</h3>{facts(x.facts)}" for x in self.shown),
        )
        return document(self.title, body, script)

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(self.html(), encoding="utf-8")

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own."""
        return (
            f'<iframe srcdoc="{escape(self.html(), quote=True)}" title="{escape(self.title)}" '
            'style="width: 100%; height: 900px; border: 0"></iframe>'
        )


def _data(shown: Shown) -> dict[str, Any]:
    """What a page's script reads."""
    layers = []
    for layer in shown.layers:
        told: dict[str, Any] = {
            "title": layer.title,
            "name": layer.name,
            "kind": layer.kind,
            "note": layer.note,
            "queries": layer.queries,
            "keys": layer.keys,
            "queriesAre": layer.queries_are,
            "keysAre": layer.keys_are,
            "heads": [_head(n, head) for n, head in zip(layer.numbers, layer.heads, strict=True)],
        }
        if layer.buckets is not None:
            labels, count = layer.buckets
            kept = as_text(np.where(labels > 32_000, -1, labels))
            told["buckets"] = {"labels": kept, "rounds": labels.shape[1], "count": count}
        layers.append(told)
    labels = {axis: [*names] for axis, names in shown.labels.items()}
    return {"title": shown.title, "layers": layers, "labels": labels, "over": shown.over}


def _head(number: int, head: Head) -> dict[str, Any]:
    return {
        "title": f"head {number}" if number else "all heads",
        "entropy": head.entropy,
        "distance": head.distance,
        "levels": head.levels,
        "rows": head.rows,
        "rowsKept": [*head.rows],
    }


def _spans(shown: Shown) -> str:
    """How far back each head looks, if heads learn it, as bars."""
    layers = [layer for layer in shown.layers if layer.spans is not None]
    if not layers:
        return ""
    most = max(float(layer.spans.max()) for layer in layers if layer.spans is not None) or 1.0
    rows = ""
    for layer in layers:
        assert layer.spans is not None
        for number, (mean, top) in zip(layer.numbers, layer.spans, strict=True):
            says = f"{mean:.1f} tokens" + (f", up to {top:.1f}" if top > mean + 0.05 else "")
            rows += (
                f'<div class="span"><span>{escape(layer.title)}, {number}</span>'
                f'<i style="width: {100 * mean / most:.2f}%"></i><em>{says}</em></div>\n'
            )
    return (
        f'<section><h2>Spans: {escape(shown.title)}</h2>\n<p class="faint">How far back each head '
        f"has learned to look.</p>\n{rows}</section>\n"
    )


def _numbers(shown: Shown) -> str:
    rows = [
        (f"{layer.title}, head {n}" if n else layer.title, layer.kind, *_told(layer, i))
        for layer in shown.layers
        for i, n in enumerate(layer.numbers)
    ]
    head = ("", "kind", "entropy, bits", "mean distance", "queries", "keys")
    return f"<h3>{escape(shown.title)}</h3>" + table(head, rows, f"Numbers of {shown.title}")


def _told(layer: Layer, i: int) -> list[str]:
    head = layer.heads[i]
    found = [head.entropy, head.distance]
    return [
        *("" if x is None else f"{x:.2f}" for x in found),
        f"{layer.queries:,} {layer.queries_are}",
        f"{layer.keys:,} {layer.keys_are}",
    ]


_BODY = """<p>Rows are queries, columns the keys they look at. A cell is the weight by which the
layer multiplies; where tokens are joined to blocks, the mean over their queries of what all their
keys get. Colour grows with the root of the weight; orange is below zero.</p>
<div class="bar" role="group" aria-label="Zoom">
<button type="button" id="zoom-in">Closer</button>
<button type="button" id="zoom-out">Farther</button>
<button type="button" id="reset">All</button>
<label>Query <input type="number" id="query" min="0" step="1"></label>
<label>Contrast <input type="range" id="contrast" min="0.5" max="4" step="0.1" value="1"></label>
</div>
<div class="stage" data-models="{count}">
<div class="models" id="models"></div>
<section><h2>One query, on its input</h2>
<div class="models" id="rows" aria-live="polite"></div></section>
</div>
<section id="overview"><h2>All heads</h2></section>
{spans}<section id="buckets" hidden><h2>Buckets</h2></section>
<section><h2>Numbers</h2>
<p class="faint">Entropy: how many keys a query spreads over, in bits, the mean over queries.
Distance: how far they lie, in positions, the mean by weight.</p>
{numbers}</section>
<section><h2>Facts</h2>
{facts}</section>"""
