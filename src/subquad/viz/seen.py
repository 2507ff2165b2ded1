"""What every mixer looked at in one forward pass, as rows of its matrix, formed when asked for.

A Sight is one call of one mixer. Its matrix is the one that the mixer multiplies by
(`Mixer.weights`), its columns pulled back to positions (`subquad.viz.factors`).

Axes: B batch, N queries, M keys, H heads, R rows asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.cross import CrossAttention
from subquad.nn.kernel import KernelCrossAttention
from subquad.nn.mixer import Mixer
from subquad.nn.read import Read
from subquad.viz.factors import Factors, of_mixer, of_read, pull
from subquad.viz.places import Place, places
from subquad.viz.windows import Call, of_windows

__all__ = ["Inputs", "Sight", "call", "joined", "sights"]

#: what a model is called with: one tensor, or arguments by name
Inputs = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class Sight:
    """One call of one mixer, with a batch of one row.

    name: of the module.  kind: its class.  queries_are, keys_are: what the axes stand for.
    look(rows (R,)) -> (H, R, M).  factors: None where others hold the values.
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
    counts: dict[nn.Module, int] = {}
    found = list(places(model))
    hooks = [
        place.module.register_forward_pre_hook(_noting(place, seen, counts), with_kwargs=True)
        for place in found
    ]
    hooks += [
        stack.register_forward_pre_hook(partial(_counting, counts), with_kwargs=True)
        for stack in {place.windows for place in found if place.windows is not None}
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
    return [_sight(place, calls) for place, calls in joined(seen)]


def _counting(counts: dict, stack: nn.Module, args: tuple, given: dict[str, Any]) -> None:
    """How many positions there are before they are cut."""
    counts[stack] = (args[0] if args else given["x"]).shape[1]


def _noting(place: Place, seen: list, counts: Mapping[nn.Module, int]) -> Callable:
    def note(module: nn.Module, args: tuple, given: dict[str, Any]) -> None:
        names = ("x", "context", "seen" if isinstance(module, Read) else "state")
        told = dict(zip(names, args, strict=False)) | given
        x, context, extra = told["x"], told["context"], told.get("seen")
        if place.windows is not None:
            extra = counts[place.windows], extra
        elif len(x) != 1:
            raise ValueError(
                f"a map is of one row, and this batch has {len(x)}: give one row of it at a time"
            )
        seen.append((place, (x, context, extra)))

    return note


def joined(seen: Sequence[tuple[Place, Any]]) -> Iterator[tuple[Place, list[Any]]]:
    """Calls of each mixer; those over windows that were run by and by are one."""
    together: dict[int, list[Any]] = {}
    for place, one in seen:
        if place.windows is not None:
            together.setdefault(id(place.module), []).append(one)
    for place, one in seen:
        if place.windows is None:
            yield place, [one]
        elif (calls := together.pop(id(place.module), None)) is not None:
            yield place, calls


def _sight(place: Place, calls: list[tuple]) -> Sight:
    x, context, seen = calls[0]
    module, here = place.module, place.here
    mixer = module.mixer if isinstance(module, Read) else module
    assert isinstance(mixer, Mixer)
    assert isinstance(module, Mixer | Read)
    queries, keys, keys_are = x.shape[1], x.shape[1], here
    if place.windows is not None:
        queries = keys = seen[0]
        cut = [Call(x, context, extra[1]) for x, context, extra in calls]
        look, factors = of_windows(module, cut, queries)
        x, context = x[:1], Context(context.pos[:1])
    else:
        factors = (
            of_read(module, x, context, seen)
            if isinstance(module, Read)
            else of_mixer(mixer, x, context)
        )
        if isinstance(module, Read):
            keys = len(factors.columns)
        elif isinstance(mixer, CrossAttention | KernelCrossAttention):
            keys, keys_are = len(factors.columns), place.memory
        look = partial(_pulled, factors, keys)
    return Sight(
        place.name, type(module).__name__, mixer.num_heads, queries, keys, here, keys_are, look,
        mixer, x, context, factors,
    )  # fmt: skip


def _pulled(factors: Factors, count: int, rows: Tensor) -> Tensor:
    """Rows of the matrix, one column for each of `count` positions."""
    return pull(factors.weights(rows), factors.columns, count)
