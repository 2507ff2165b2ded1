"""Docstrings as Markdown: what the house writes as `name: text` lines becomes a list.

    q: (B, H, N, D).                                       - **q**: (B, H, N, D).
    valid: (B, M), True where a key exists; contents  ->   - **valid**: (B, M), True where a key ...
        of the others are never read.

Only names of arguments, fields and attributes begin an item, so prose with a colon stays prose.
"""

import re

import griffe

ITEM = re.compile(r"^((\w+)(?:, \w+)*(?: \([^)]*\))?):\s+(.*)$")


class Items(griffe.Extension):
    """Rewrites the docstrings of a package once it is read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        for thing in _within(pkg):
            if thing.docstring is not None:
                thing.docstring.value = listed(thing.docstring.value, _names(thing))


def listed(text: str, names: set[str]) -> str:
    """A docstring with a list in place of lines that explain names, and equations set apart."""
    lines: list[str] = []
    before = ""
    for line in text.splitlines():
        found = ITEM.match(line)
        if found and found[2] in names:
            if lines and lines[-1].strip() and not lines[-1].startswith(("- ", "  ")):
                lines.append("")
            lines.append(f"- **{found[1]}**: {found[3]}")
            before = "item"
        elif before == "item" and line.strip() and not line.startswith("    "):
            lines.append(f"  {line}")
        elif before == "item" and line.strip():
            lines.append(f"  {line.strip()}")
        else:
            apart = line.startswith("    ") and lines and lines[-1].strip()
            if apart and not lines[-1].startswith("    ") and not lines[-1].endswith(":"):
                lines.append("")
            lines.append(line)
            before = ""
    return "\n".join(lines)


def _within(thing: griffe.Object) -> list[griffe.Object]:
    own = [m for m in thing.members.values() if not m.is_alias]
    return [thing, *(inner for member in own for inner in _within(member))]


def _names(thing: griffe.Object) -> set[str]:
    """Names of arguments of a function; of a class those of its fields and its constructor too."""
    names = set(thing.members)
    if isinstance(thing, griffe.Function):
        names |= {p.name for p in thing.parameters}
    if isinstance(thing, griffe.Class) and isinstance(
        made := thing.members.get("__init__"), griffe.Function
    ):
        names |= {p.name for p in made.parameters}
    return names
