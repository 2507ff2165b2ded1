"""Typed flags from dataclasses, and errors that name the nearest name."""

import contextlib
import dataclasses
import inspect
import io
import re
from argparse import ArgumentError
from difflib import get_close_matches
from typing import Any, NoReturn, get_type_hints

from jsonargparse import ArgumentParser, Namespace

__all__ = ["Parser", "add_fields", "add_flags", "fields_of", "flag_of", "two_files"]


class Parser(ArgumentParser):
    """Raises ValueError where argparse would print its usage and exit."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog, description=description, exit_on_error=False, allow_abbrev=False
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(self._clear(message)) from ex

    def read(self, argv: list[str]) -> Namespace:
        """The parsed arguments. ValueError, in one line, for what cannot be parsed."""
        try:
            # jsonargparse prints what it raises
            with contextlib.redirect_stderr(io.StringIO()):
                return self.parse_args(argv)
        except ArgumentError as error:
            raise ValueError(self._clear(str(error))) from error

    def words_first(self, argv: list[str]) -> list[str]:
        """The same words, those that belong to no flag before all others.

        argparse gives a list of no length to the first word it meets alone, so that inputs after a
        flag would be unknown.
        """
        alone: list[str] = []
        flags: list[str] = []
        values = 0  # how many of the words that follow belong to the last flag
        for word in argv:
            if word.startswith("--"):
                action = self._option_string_actions.get(word)
                values = 0 if action is None or action.nargs == 0 else 1
                flags.append(word)
            elif values:
                values -= 1
                flags.append(word)
            else:
                alone.append(word)
        return [*alone, *flags]

    def _clear(self, message: str) -> str:
        """A message in one line, with the nearest flag beside an unknown one."""
        lines = [line.strip() for line in message.strip().splitlines()]
        text = " ".join(line for line in lines if line)
        unknown = re.search(r"[Uu]nrecognized arguments?:? *--([\w.\-]+)", text) or re.search(
            r"(?:[Kk]ey|Option) ['\"]?([\w.]+)['\"]? is not (?:expected|accepted)", text
        )
        if unknown is None:
            return text
        name = unknown[1]
        known = [flag.lstrip("-") for flag in self._option_string_actions if flag[:2] == "--"]
        near = get_close_matches(name, known, 1, cutoff=0.5)
        group = name.rsplit(".", 1)[0] + "."
        siblings = [flag for flag in known if flag.startswith(group)] if "." in name else []
        hint = f"; did you mean --{near[0]}?" if near else ""
        hint += f" known: {', '.join(f.removeprefix(group) for f in siblings)}" if siblings else ""
        return f"there is no --{name}{hint}"


def two_files(argv: list[str]) -> list[str]:
    """Words in which `--data SRC TGT` is one source, SRC::TGT; nothing else may follow a path."""
    words: list[str] = []
    for word in argv:
        if words[-2:-1] == ["--data"] and not word.startswith("-"):
            words[-1] += f"::{word}"
        else:
            words.append(word)
    return words


def add_fields(parser: Parser, group: str, config: type, defaults: Any) -> None:
    """One flag --GROUP.FIELD for each field of a dataclass."""
    types, says = get_type_hints(config), _documented(config)
    for field in dataclasses.fields(config):
        parser.add_argument(
            f"--{group}.{field.name}",
            type=types[field.name],
            default=getattr(defaults, field.name),
            help=says.get(field.name, ""),
        )


def add_flags(parser: Parser, config: type) -> None:
    """One flag --FIELD for each field of a dataclass whose fields are all optional.

    What is not given is None; a flag that is there already serves both.
    """
    types, says = get_type_hints(config), _documented(config)
    there = parser._option_string_actions
    for field in dataclasses.fields(config):
        flag = f"--{flag_of(field)}"
        if flag in there:
            continue
        how: dict[str, Any] = {"type": types[field.name], "default": None}
        if types[field.name] == bool | None:
            how = {"action": "store_true"}
        parser.add_argument(flag, dest=field.name, help=says.get(field.name, ""), **how)


def flag_of(field: dataclasses.Field) -> str:
    """What the flag of an optional field is called."""
    return field.metadata.get("flag", field.name.replace("_", "-"))


def fields_of(config: type, given: Namespace) -> dict[str, Any]:
    """The values of a dataclass's fields among parsed arguments."""
    return {field.name: given[field.name] for field in dataclasses.fields(config)}


def _documented(config: type) -> dict[str, str]:
    """field -> what the class's docstring says of it under `Args:`."""
    _, _, block = (inspect.getdoc(config) or "").partition("Args:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", block, re.MULTILINE)
    return {name: " ".join(text.split()).replace("%", "%%") for name, text in found}
