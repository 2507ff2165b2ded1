"""The reference of the command line, read from its own parsers."""

import argparse
import re
from importlib import import_module
from unittest.mock import patch

from subquad.cli import VERBS
from subquad.cli.parser import Parser
from subquad.tasks import TASKS, find_task

#: commands whose flags depend on a task, besides `train`
WANT_A_TASK = ("compare",)


class _FoundError(Exception):
    """Carries a parser out of the command that was about to use it."""


def parser_of(verb: str, *words: str) -> Parser:
    """The parser that `subquad VERB WORDS` would read its words with."""

    def read(self: Parser, argv: list[str]) -> None:
        raise _FoundError(self)

    with patch.object(Parser, "read", read):
        try:
            import_module(f"subquad.cli.{verb}").run([*words])
        except _FoundError as found:
            return found.args[0]
    raise ValueError(f"subquad {verb} did not read its words")


def verbs(_: str) -> str:
    """The commands in one table."""
    rows = [f"| [`{verb}`](#{verb}) | {says} |" for verb, says in VERBS.items()]
    return "\n".join(["| command | does |", "|---|---|", *rows])


def tasks(_: str) -> str:
    """The tasks in one table."""
    rows = [f"| [`{name}`](#{name}) | {says} |" for name, (_, _, says) in TASKS.items()]
    return "\n".join(["| task | learns |", "|---|---|", *rows])


def every(_: str) -> str:
    """A section for each command but `train`; those that want a task first are shown for one."""
    parts = []
    for verb in VERBS:
        if verb != "train":
            words = [next(iter(TASKS))] if verb in WANT_A_TASK else []
            parts.append(f"## {verb}\n\n{_told(parser_of(verb, *words), lambda flag: True)}")
    return "\n\n".join(parts)


def training(_: str) -> str:
    """What `subquad train` takes for every task."""
    parser = parser_of("train", next(iter(TASKS)))
    first = {"--arch.name", "--arch.preset"}
    told = _told(parser, lambda flag: flag in first or not flag.startswith(("--arch.", "--task.")))
    return told.rsplit("\n\n", 1)[1]


def task(name: str) -> str:
    """What `subquad train` takes for one task."""
    about = f"{TASKS[name][2]}. Architectures: "
    archs = ", ".join(f"[{arch}](../papers/{arch}.md)" for arch in find_task(name).archs)
    told = _told(parser_of("train", name), lambda flag: flag.startswith("--task."))
    rows = told.rsplit("\n\n", 1)[1]
    return f"{about[0].upper()}{about[1:]}{archs}.\n\n{rows}"


def _told(parser: Parser, wanted) -> str:
    words = [a for a in parser._actions if not a.option_strings and a.dest != argparse.SUPPRESS]
    usage = " ".join([parser.prog, *(_positional(a) for a in words), "[flags]"])
    rows = ["| argument | default | says |", "|---|---|---|"]
    rows += [f"| `{_positional(a)}` | | {_help(a)} |" for a in words]
    for action in parser._actions:
        flags = [f for f in action.option_strings if f.startswith("--")]
        if flags and wanted(flags[-1]) and flags[-1] not in ("--help",):
            kind = _kind(action)
            shown = f"`{flags[-1]}{' ' + kind if kind else ''}`"
            rows.append(f"| {shown} | {_default(action)} | {_help(action)} |")
    described = re.sub(r"\s+", " ", parser.description or "")
    return f"```text\n{usage}\n```\n\n{described}\n\n" + "\n".join(rows)


def _positional(action: argparse.Action) -> str:
    name = action.dest.upper()
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(action.nargs, name)


def _kind(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    kind = getattr(action, "_typehint", None) or action.type
    name = getattr(kind, "__name__", None) if isinstance(kind, type) else None
    text = name or str(kind).replace("typing.", "").removesuffix(" | None")
    return "" if kind is None else f"<{text}>"


def _default(action: argparse.Action) -> str:
    value = action.default
    if value in (None, argparse.SUPPRESS) or action.nargs == 0:
        return ""
    return f"`{value}`"


def _help(action: argparse.Action) -> str:
    if action.help in (None, argparse.SUPPRESS):
        return ""
    text = re.sub(r"\s+", " ", action.help.replace("%%", "%"))
    return text.replace("|", "\\|").replace("<", "&lt;")
