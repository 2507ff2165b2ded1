"""What every mixer looked at in one forward pass, as rows of its matrix, formed when asked for.

A Sight is one call of one mixer. Its matrix is the one that the mixer multiplies by
(`Mixer.weights`), its columns pulled back to positions: columns of the same token are added (the
second projections of marked queries), blends of all tokens are multiplied out (low rank).

Axes: B batch, N queries, M keys, H heads, R rows asked for, W windows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.cross import CrossAttention
from subquad.nn.kernel import KernelCrossAttention
from subquad.nn.lowrank import LowRankAttention
from subquad.nn.lowrank_cross import LowRankCrossAttention
from subquad.nn.mixer import Mixer
from subquad.nn.read import Read
from subquad.viz.places import Place, places

__all__ = ["Factors", "Inputs", "Sight", "call", "pull", "sights"]

#: what a model is called with: one tensor, or arguments by name
Inputs = Tensor | Mapping[str, Tensor]


class Factors(NamedTuple):
    """What a mixer's product is made of: rows of its matrix as it is, (H, R, M), values (H, M, D),
    the map behind, and the position of each column (M,). Values are None where gradients are those
    of the matrix itself."""

    weights: Callable[[Tensor], Tensor]
    values: Callable[[], Tensor] | None
    output: Callable[[Tensor], Tensor] | None
    columns: Tensor


@dataclass(frozen=True)
class Sight:
    """One call of one mixer, with a batch of one row.

    name: of the module.  kind: its class.  queries_are, keys_are: what the axes stand for.
    look(rows (R,)) -> (H, R, M).  factors: None where values belong to no position.
    """

    name: str
    kind: str
    heads: int
    queries: int
    keys: int
    queries_are: str
    keys_are: str
    look: Callable[[Tensor], Tensor]
    mixer: nn.Module
    x: Tensor
    context: Context
    factors: Factors | None = None


def call(model: nn.Module, inputs: Inputs) -> Any:
    """What the model gives for the inputs."""
    return model(inputs) if isinstance(inputs, Tensor) else model(**inputs)


@torch.no_grad()
def sights(model: nn.Module, inputs: Inputs) -> list[Sight]:
    """What each mixer looks at, in the order in which they run.

    ValueError if none runs, or for a batch of several rows. The model is put in eval mode while it
    runs, so that nothing is dropped.
    """
    seen: list[tuple[Place, tuple[Any, ...]]] = []
    hooks = [
        place.module.register_forward_pre_hook(_noting(place, seen), with_kwargs=True)
        for place in places(model)
    ]
    was = model.training
    model.eval()
    try:
        call(model, inputs)
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError("this model has no mixer whose matrix could be drawn")
    return [_sight(place, calls) for place, calls in _joined(seen)]


def _noting(place: Place, seen: list) -> Callable:
    def note(module: nn.Module, args: tuple, given: dict[str, Any]) -> None:
        names = ("x", "context", "seen" if isinstance(module, Read) else "state")
        told = dict(zip(names, args, strict=False)) | given
        x, context, extra = told["x"], told["context"], told.get("seen")
        if place.windows:
            # what was read comes first, and tells how many positions there are
            extra = next(x.shape[1] for one, (x, *_) in reversed(seen) if not one.windows)
        elif len(x) != 1:
            raise ValueError(
                f"a map is of one row, and this batch has {len(x)}: give one row of it at a time"
            )
        seen.append((place, (x, context, extra)))

    return note


def _joined(seen: list[tuple[Place, tuple]]) -> Iterator[tuple[Place, list[tuple]]]:
    """Calls of each mixer; those over windows that were run by and by are one."""
    together: dict[int, list[tuple]] = {}
    for place, one in seen:
        if place.windows:
            together.setdefault(id(place.module), []).append(one)
    for place, one in seen:
        if not place.windows:
            yield place, [one]
        elif (calls := together.pop(id(place.module), None)) is not None:
            yield place, calls


def _sight(place: Place, calls: list[tuple]) -> Sight:
    x, context, seen = calls[0]
    if place.windows:
        return _windowed(place, calls)
    if isinstance(place.module, Read):
        read = place.module

        def look(rows: Tensor) -> Tensor:
            return read.weights(x, context, seen, rows)[0]

        keys = (seen.k.shape[2], place.here)
        return _made(place, read.mixer, (x, context), keys, look, None)
    mixer = place.module
    assert isinstance(mixer, Mixer)
    factors = _factors(mixer, x, context)
    n = x.shape[1]
    if isinstance(mixer, LowRankAttention):

        def multiplied(rows: Tensor) -> Tensor:
            return mixer.matrix(x, context, rows)[0]

        return _made(place, mixer, (x, context), (n, place.here), multiplied, None)
    if isinstance(mixer, CrossAttention | KernelCrossAttention):
        axis = "slots" if isinstance(mixer, LowRankCrossAttention) else place.memory
        keys = (mixer.values(x, context).shape[2], axis)
        return _made(place, mixer, (x, context), keys, factors.weights, factors)
    look = partial(_pulled, factors, mixer.columns(x, context), n)
    return _made(place, mixer, (x, context), (n, place.here), look, factors)


def _factors(mixer: Mixer, x: Tensor, context: Context) -> Factors:
    return Factors(
        lambda rows: mixer.weights(x, context, rows)[0],
        lambda: mixer.values(x, context)[0],
        mixer.output,
        mixer.columns(x, context),
    )


def _pulled(factors: Factors, columns: Tensor, count: int, rows: Tensor) -> Tensor:
    """Rows of the matrix, one column for each of `count` positions."""
    return pull(factors.weights(rows), columns, count)


def pull(found: Tensor, columns: Tensor, count: int) -> Tensor:
    """Columns (H, R, M) added up by the position (M,) that each is, to (H, R, N)."""
    if len(columns) == count and torch.equal(columns, torch.arange(count, device=columns.device)):
        return found
    there = columns >= 0
    out = found.new_zeros(*found.shape[:2], count)
    return out.index_add_(2, columns[there], found[..., there])


def _made(
    place: Place,
    mixer: Mixer,
    at: tuple[Tensor, Context],
    keys: tuple[int, str],
    look: Callable[[Tensor], Tensor],
    factors: Factors | None,
    queries: int | None = None,
) -> Sight:
    return Sight(
        place.name,
        "Read" if isinstance(place.module, Read) else type(mixer).__name__,
        mixer.num_heads,
        at[0].shape[1] if queries is None else queries,
        keys[0],
        place.here,
        keys[1],
        look,
        mixer,
        *at,
        factors,
    )


def _windowed(place: Place, calls: list[tuple]) -> Sight:
    """Each position by the window that its output comes from, the first that holds it."""
    mixer, count = place.module, calls[0][2]
    assert isinstance(mixer, Mixer)
    x = torch.cat([one[0] for one in calls])
    # at least one position more than there are may stand in the last window: nobody asks for it
    pos = torch.cat([one[1].pos.expand(len(one[0]), -1) for one in calls])
    whole = x[:1], Context(pos[:1])
    if len(x) == 1:
        factors = _factors(mixer, *whole)
        return _made(place, mixer, whole, (count, place.here), factors.weights, factors)

    def look(rows: Tensor) -> Tensor:
        owner = torch.searchsorted(pos[:, -1].contiguous(), rows)
        out = x.new_zeros(mixer.num_heads, len(rows), count)
        for w in owner.unique().tolist():
            own, first = (owner == w).nonzero()[:, 0], int(pos[w, 0])
            found = mixer.weights(x[w : w + 1], Context(pos[w : w + 1]), rows[own] - first)[0]
            end = min(first + found.shape[2], count)
            out[:, own, first:end] = found[..., : end - first]
        return out

    return _made(place, mixer, whole, (count, place.here), look, None, count)
