"""Where a model looks: its outermost mixers, and what their queries and keys stand for."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from subquad.nn.latent import LatentStack
from subquad.nn.mixer import Mixer
from subquad.nn.perceive import QueryStack
from subquad.nn.prefix import PrefixStack
from subquad.nn.read import Read
from subquad.pair import Pair
from subquad.towers import Towers

__all__ = ["Place", "places"]


class Place(NamedTuple):
    """A module that looks, what its tokens and a memory are, and the stack that gives it windows of
    its tokens side by side, if one does."""

    name: str
    module: nn.Module
    here: str
    memory: str
    windows: nn.Module | None = None


def places(
    module: nn.Module, name: str = "", here: str = "tokens", memory: str = "memory"
) -> Iterator[Place]:
    """All that looks in a model, outermost mixers only, in the order of its modules."""
    if isinstance(module, Mixer | Read):
        yield Place(name, module, here, memory)
        return
    for part, child in module.named_children():
        inside = f"{name}.{part}" if name else part
        found = places(child, inside, *_axes(module, part, here, memory))
        yield from (_cut(module, part, place) for place in found)


def _cut(module: nn.Module, part: str, place: Place) -> Place:
    """A place in a part of a module that may give it windows."""
    cuts = isinstance(module, LatentStack) and part == "blocks"
    if cuts or (isinstance(module, PrefixStack) and part == "read"):
        return place._replace(windows=module)
    return place


def _axes(module: nn.Module, part: str, here: str, memory: str) -> tuple[str, str]:
    """What tokens and memory are inside a part of a module."""
    if isinstance(module, QueryStack):
        return {"answer": (here, "latents")}.get(part, ("latents", here))
    if isinstance(module, Pair):
        return ("source", "memory") if part == "encoder" else ("target", "source")
    if isinstance(module, Towers):
        return ("patches" if part == "images" else "tokens", "memory")
    return here, memory
