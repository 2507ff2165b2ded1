"""The reference of Python names, all of those that packages export; and files of the repository."""

import inspect
import re
from importlib import import_module
from pathlib import Path

from torch.nn import Module

import subquad
import subquad.hf
from subquad.nn import Mixer, Position
from subquad.nn.features import FeatureMap
from subquad.ops.pattern import Pattern

ROOT = Path(__file__).resolve().parent.parent.parent


def file(name: str) -> str:
    """A file of the repository without its title."""
    return (ROOT / name).read_text(encoding="utf-8").split("\n", 1)[1].strip()


def section(asked: str) -> str:
    """What stands under a heading: `FILE | HEADING`."""
    name, heading = (part.strip() for part in asked.split("|"))
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE
    )
    if found is None:
        raise ValueError(f"{name} has no section {heading!r}")
    # a bar inside a cell: GitHub wants it escaped in code too, the site does not
    return found[1].strip().replace("`\\|`", "`|`")


def patterns(_: str) -> str:
    """All patterns, and what they are made of."""
    made = [n for n in subquad.__all__ if _is(getattr(subquad, n), Pattern)]
    return _all("subquad", [*made, "Coords", "parse"])


def functions(_: str) -> str:
    """The functions that attend, and what they take."""
    return _all("subquad", ["attend", "kernel_attention", "lsh_attention", "Distance"])


def nn(group: str) -> str:
    """The parts of `subquad.nn` of one group."""
    groups = {name: _group(getattr(subquad.nn, name)) for name in subquad.nn.__all__}
    names = [name for name, said in groups.items() if said == group]
    return _all("subquad.nn", names, 2 if group == "mixers" else 3)


def hf(_: str) -> str:
    """The Hugging Face shell."""
    return _all("subquad.hf", subquad.hf.__all__)


def _group(thing: object) -> str:
    """Where a part of nn stands in the reference."""
    if _is(thing, Mixer):
        return "mixers"
    if _is(thing, Position):
        return "positions"
    if _is(thing, FeatureMap):
        return "features"
    return "modules" if _is(thing, Module) else "others"


def _is(thing: object, kind: type) -> bool:
    return inspect.isclass(thing) and issubclass(thing, kind)


def _all(package: str, names: list[str], level: int = 2) -> str:
    """A reference of each name. ValueError for one without a docstring of its own."""
    for name in names:
        if not getattr(import_module(package), name).__doc__:
            raise ValueError(f"{package}.{name} is public and has no docstring")
    how = f"\n    options:\n      heading_level: {level}"
    return "\n\n".join(f"::: {package}.{name}{how}" for name in names)
