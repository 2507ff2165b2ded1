"""What is shown of one model that has looked at one input: its layers, rollouts, spans, buckets.

    shown = look(model, inputs, title="performer", labels={"tokens": words})
    Page([shown]).write(path)                      (`subquad.viz.page`)

Axes: B batch, N queries, M keys, H heads, R rounds of hashing, G cells on a side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from subquad.nn.choices import choose
from subquad.nn.hashing import Hashed
from subquad.nn.span import DynamicSpan, SpanRamp
from subquad.viz.maps import check_numbers, chosen
from subquad.viz.pyramid import Head, drawn, of_array, of_sight, scales
from subquad.viz.rollout import gradients, origin, rollout
from subquad.viz.seen import Inputs, Sight, sights

__all__ = ["VIEWS", "Layer", "Shown", "Views", "look"]

#: what may be shown beside the maps
VIEWS = ("rollout", "gradient", "spans", "buckets")
#: tiles of all heads and finer levels together that a page keeps
_TILES = 240


@dataclass(frozen=True)
class Layer:
    """A layer's heads. title, note: for people.  numbers: of the heads, from 1 on; 0: their mean.

    spans: of each head, tokens, the mean and the largest (H, 2).  buckets: labels (H, R, N) and
    how many there are.
    """

    title: str
    name: str
    kind: str
    note: str
    queries: int
    keys: int
    queries_are: str
    keys_are: str
    numbers: tuple[int, ...]
    heads: list[Head]
    spans: np.ndarray | None = None
    buckets: tuple[np.ndarray, int] | None = None


@dataclass(frozen=True)
class Shown:
    """A model that has looked. labels: of an axis ("tokens", ...) what stands at each position.

    over: the input itself as a page lays weights on it, or None.  facts: told beside the picture.
    """

    title: str
    layers: list[Layer]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    over: Mapping[str, Any] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Views:
    """What to show. layers, heads: numbers from 1 on, default all.

    rows: queries whose weights are kept token by token, whatever the length; default: 16, spread.
    views: some of VIEWS; default: all that the model has.  memory: bytes for rows of matrices.
    """

    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    rows: Sequence[int] | None = None
    views: Sequence[str] | None = None
    memory: int = 1 << 28


def look(
    model: nn.Module,
    inputs: Inputs,
    *,
    title: str,
    labels: Mapping[str, Sequence[str]] | None = None,
    over: Mapping[str, Any] | None = None,
    facts: Mapping[str, str] | None = None,
    views: Views | None = None,
) -> Shown:
    """What a model looks at. ValueError for layers or heads out of range, views that are asked for
    and that it has not, or what `sights` refuses.
    """
    views = views or Views()
    for name in views.views or ():
        choose("view", name, dict.fromkeys(VIEWS))
    found = sights(model, inputs)
    return of_sights(
        found, title=title, labels=labels, over=over, facts=facts, views=views,
        slopes=lambda: gradients(model, inputs, found),
    )  # fmt: skip


def of_sights(
    found: Sequence[Sight],
    *,
    title: str,
    labels: Mapping[str, Sequence[str]] | None,
    over: Mapping[str, Any] | None,
    facts: Mapping[str, str] | None,
    views: Views,
    slopes: Any,
) -> Shown:
    """The same for what has looked already; slopes() gives gradients."""
    some = chosen(found, views.layers)
    numbers = [check_numbers("head", views.heads, sight.heads) for _, sight in some]
    told = dict(facts or {})
    pairs = [(heads, sight) for heads, (_, sight) in zip(numbers, some, strict=True)]
    fine = sum(len(h) * (len(scales(s.queries, s.keys)) - 1) for h, s in pairs)
    tiles = max(1, _TILES // max(1, fine))
    several = len({_axes(sight) for sight in found}) > 1
    titles = [f"layer {n}, {_axes(s)}" if several else f"layer {n}" for n, s in some]
    layers = [_layer(t, s, h, views, tiles) for t, (h, s) in zip(titles, pairs, strict=True)]
    for name, has in (("spans", "spans"), ("buckets", "buckets")):
        if name in (views.views or ()) and not any(getattr(x, has) is not None for x in layers):
            raise ValueError(f"this model has no {name} to show: {_has(name)}")
    for name in ("rollout", "gradient"):
        if views.views is not None and name not in views.views:
            continue
        try:
            weighed = slopes() if name == "gradient" else None
        except ValueError as error:
            if views.views is not None:
                raise
            told[f"no {name}"] = str(error)
            continue
        layers.append(_rolled(name, found, weighed, views.memory))
    return Shown(title, layers, labels or {}, over, told)


def _has(name: str) -> str:
    return {
        "spans": "adaptive_span learns them",
        "buckets": "layers that hash have them, as in reformer",
    }[name]


def _axes(sight: Sight) -> str:
    """What looks at what, where a model has several kinds of tokens."""
    here, there = sight.queries_are, sight.keys_are
    return here if here == there else f"{here} to {there}"


def _layer(title: str, sight: Sight, heads: tuple[int, ...], views: Views, tiles: int) -> Layer:
    rows = views.rows
    if rows is None:
        rows = np.linspace(0, sight.queries - 1, 16).astype(int).tolist() if sight.queries else ()
    for row in rows if views.rows is not None else ():
        if not 0 <= row < sight.queries:
            raise ValueError(
                f"there is no query {row}; the {sight.queries_are} of {title.split(',')[0]} are "
                f"0 to {sight.queries - 1}"
            )
    pick = [n - 1 for n in heads]
    spans, buckets = _spans(sight), _buckets(sight)
    doc = " ".join((type(sight.mixer).__doc__ or "").split("\n\n")[0].split())
    doc = doc.split(". ")[0].rstrip(".").replace("`", "") + "."
    return Layer(
        title,
        sight.name,
        sight.kind,
        doc,
        sight.queries,
        sight.keys,
        sight.queries_are,
        sight.keys_are,
        heads,
        drawn(of_sight(sight, heads, views.memory), tiles=tiles, rows=rows),
        None if spans is None else spans[pick],
        None if buckets is None else (buckets[0][pick], buckets[1]),
    )


@torch.no_grad()
def _spans(sight: Sight) -> np.ndarray | None:
    """The mean and the largest span of each head (H, 2), if it learns them."""
    position = getattr(sight.mixer, "position", None)
    if isinstance(position, SpanRamp):
        own = position.spans().double()
        return torch.stack((own, own), 1).cpu().numpy()
    if isinstance(position, DynamicSpan):
        every = position.spans(sight.context.clean(sight.x))[0].double()
        return torch.stack((every.mean(1), every.amax(1)), 1).cpu().numpy()
    return None


def _buckets(sight: Sight) -> tuple[np.ndarray, int] | None:
    """Labels of each head, round and token (H, R, N), and how many there are, if it hashes."""
    mixer = sight.mixer
    if not isinstance(mixer, Hashed) or mixer.rounds is None:
        return None
    labels = mixer.hash(sight.x, sight.context)[0]
    return labels.cpu().numpy(), int(np.prod(mixer.buckets))


_ROLLED = {
    "rollout": (
        "rollout",
        "what outputs owe to inputs through all layers, half by residuals",
    ),
    "gradient": (
        "rollout by gradient",
        "the same by what moves the likeliest output: max(0, gradient x weight) of every layer, "
        "beyond the token itself",
    ),
}


def _rolled(name: str, found: Sequence[Sight], slopes: Any, memory: int) -> Layer:
    """A rollout as a layer with one head, in as many cells as show the whole."""
    queries, first = found[-1].queries, origin(found)
    block = scales(queries, first.keys)[0][0]
    owed = rollout(found, block=block, gradients=slopes, memory=memory)
    title, note = _ROLLED[name]
    queries_are = found[-1].queries_are
    square = queries_are == first.keys_are and block == 1
    if name == "gradient" and queries_are == first.keys_are:
        owed = owed - _itself(*owed.shape, block)
    (head,) = drawn(of_array(owed[None], square), tiles=1)
    if name == "gradient":  # no distribution, so no entropy
        head.entropy = head.distance = None
    for level in head.levels:
        level["down"] *= block
    if block > 1:  # rows stand for blocks, so only the whole is kept
        head.levels, head.rows = head.levels[:1], {}
    return Layer(
        title, "all layers", "rollout", note, queries, owed.shape[1], queries_are,
        first.keys_are, (0,), [head],
    )  # fmt: skip


def _itself(rows: int, count: int, block: int) -> np.ndarray:
    """The identity (N, N), the mean of each block of its rows."""
    at = np.arange(count)
    out = np.zeros((rows, count))
    out[at // block, at] = 1.0 / np.bincount(at // block)[at // block]
    return out
