"""What the site's build adds to the written pages: cards, tables and references.

A line `<!-- NAME: ARGUMENT -->` in a page stands for Markdown that is made from the code, from the
docstrings or from benchmarks/results when the site is built, so that neither can go stale. An
unknown name stops the build.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT / "src")]

import architectures  # noqa: E402
import commands  # noqa: E402
import python  # noqa: E402
import results  # noqa: E402

#: what a directive is replaced by, from its argument
DIRECTIVES: dict[str, Callable[[str], str]] = {
    "file": python.file,
    "section": python.section,
    "patterns": python.patterns,
    "functions": python.functions,
    "nn": python.nn,
    "hf": python.hf,
    "card": architectures.card,
    "fields": architectures.fields,
    "architectures": architectures.everything,
    "tasks": commands.tasks,
    "verbs": commands.verbs,
    "every-command": commands.every,
    "training": commands.training,
    "task": commands.task,
    "results": results.table,
    "every-result": results.everything,
    "break-even": results.break_even,
    "faster": results.faster,
}

LINE = re.compile(r"^<!-- ([a-z-]+)(?:: (.+?))? -->$", re.MULTILINE)


def filled(markdown: str) -> str:
    """A page with its directives replaced. ValueError for one that is not known."""

    def made(found: re.Match[str]) -> str:
        name, argument = found[1], found[2] or ""
        if name not in DIRECTIVES:
            raise ValueError(f"no directive {name!r}; known: {', '.join(DIRECTIVES)}")
        return DIRECTIVES[name](argument)

    return LINE.sub(made, markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return filled(markdown)
