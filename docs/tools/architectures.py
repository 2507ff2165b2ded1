"""Pages of architectures: the paper card, fields and presets, from the modules of `archs`."""

import dataclasses
import inspect
import re
from types import ModuleType

from subquad.archs import ARCHS, PAIRS

EVERY: dict[str, ModuleType] = {**ARCHS, **PAIRS}


def card(name: str) -> str:
    """The paper card: what, source, equation, cost, and what ours does differently."""
    parts: list[list[str]] = [[]]
    for line in (inspect.getdoc(EVERY[name]) or "").splitlines():
        apart = line.startswith("    ") != any(part.startswith("    ") for part in parts[-1][:1])
        if not line or apart or line.startswith(("Time O", "Ours differs")):
            parts.append([])
        if line:
            parts[-1].append(line)
    shown = [_equations(p) if p[0][0] == " " else _linked(" ".join(p)) for p in parts if p]
    quoted = "\n\n".join(shown).replace("\n", "\n    ")
    return f'!!! quote "The card of `subquad.archs.{name}`"\n\n    {quoted}'.replace(
        "\n    \n", "\n\n"
    )


def fields(name: str) -> str:
    """The fields of a Config with their types and defaults, and the presets by what they change."""
    config = EVERY[name].Config
    about = " ".join((inspect.getdoc(config) or "").split("\n\nArgs:")[0].split())
    rows = ["| field | type | default |", "|---|---|---|"]
    for field in dataclasses.fields(config):
        kind = inspect.formatannotation(field.type)
        rows.append(f"| `{field.name}` | `{kind}` | {_code(_default(field))} |")
    presets = ["| preset | changes |", "|---|---|"]
    for preset, made in EVERY[name].PRESETS.items():
        said = ", ".join(
            f"`{f.name}` {_code(getattr(made, f.name))}"
            for f in dataclasses.fields(config)
            if getattr(made, f.name) != _default(f)
        )
        presets.append(f"| `{preset}` | {said or 'nothing: the defaults'} |")
    return "\n".join([about, "", *rows, "", *presets])


def everything(_: str) -> str:
    """A section for each architecture and pair."""
    parts = []
    for name, module in EVERY.items():
        title = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
        parts += [f"## {name}", f"{title} [Explained](../papers/{name}.md).", fields(name)]
    return "\n\n".join(parts)


def _equations(lines: list[str]) -> str:
    return "\n".join(["```text", *(line[4:] for line in lines), "```"])


def _linked(text: str) -> str:
    return re.sub(r"https://[\w./-]*\w", r"<\g<0>>", text)


def _default(field: dataclasses.Field) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _code(value: object) -> str:
    text = re.sub(r"\s+", " ", repr(value))
    return f"`{text}`"
