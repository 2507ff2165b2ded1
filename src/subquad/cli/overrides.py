"""Fields of a run's architecture read otherwise than it was trained: --arch.FIELD VALUE."""

from typing import Any

from subquad.archs import ARCHS, PAIRS
from subquad.cli.parser import Parser, add_fields
from subquad.nn.choices import choose

__all__ = ["HELP", "read", "split"]

HELP = (
    "--arch.FIELD VALUE takes another value than the run was trained with, for fields that leave "
    "the weights as they are (a longer memory, say)"
)


def split(argv: list[str], group: str = "arch") -> tuple[list[str], list[str]]:
    """The words without --arch.FIELD VALUE, or another group of flags, and those."""
    rest: list[str] = []
    ours: list[str] = []
    words = iter(argv)
    for word in words:
        if not word.startswith(f"--{group}."):
            rest.append(word)
            continue
        flag, equals, value = word.partition("=")
        if not equals and (value := next(words, "")) == "":
            raise ValueError(f"{flag} wants a value")
        ours.append(f"{flag}={value}")
    return rest, ours


def read(words: list[str], facts: dict[str, Any]) -> dict[str, Any]:
    """The fields that `split` found, by the types of the run's architecture.

    ValueError with the nearest name for one that it does not have.
    """
    if words and facts["arch"] in PAIRS:
        raise ValueError(f"fields of {facts['arch']}, an encoder with a decoder, stay as trained")
    arch = choose("architecture", facts["arch"], {**ARCHS, **PAIRS})
    parser = Parser("subquad", HELP)
    add_fields(parser, "arch", arch.Config, arch.Config())
    given = parser.read(words)
    names = [word.removeprefix("--arch.").partition("=")[0] for word in words]
    return {name: given.arch[name] for name in names}
