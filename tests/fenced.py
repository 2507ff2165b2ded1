"""Fenced blocks of Markdown, and the commands in them, for the tests that run what pages show."""

import re
import shlex

#: words that the tests leave out of a shown `train` or `compare`, with their values
_SIZES = ("--train.", "--preset", "--arch.dim", "--arch.num_layers", "--arch.num_heads")
_SIZES += ("--arch.ffn_dim", "--arch.features", "--task.context", "--budget-minutes")


def blocks(text: str, language: str) -> list[str]:
    """The code of all blocks of a language."""
    return [code for told, code in in_order(text) if told == language]


def in_order(text: str) -> list[tuple[str, str]]:
    """(language, code) of all blocks."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(code: str) -> list[list[str]]:
    """The words of each command of a bash block, comments left out."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def small(words: list[str], sizes: dict[str, list[str]]) -> list[str]:
    """A `train` or `compare` of a page as the tests run it: its own sizes out, those given in.

    sizes: by the task, and those of compare by its own name.
    """
    if words[0] not in ("train", "compare"):
        return words
    kept, skip = [], False
    for word in words:
        if not skip and not word.startswith(_SIZES):
            kept.append(word)
        # a flag takes the next word along
        skip = word.startswith(_SIZES) and "=" not in word
    return [*kept, *sizes[words[1] if words[0] == "train" else "compare"]]
