"""Long Range Arena as rows to classify: {"ids": tokens, "label": str}."""

from collections.abc import Sequence
from typing import Any

from subquad.data.examples import Examples
from subquad.data.listops import Tokens
from subquad.data.lra import SUITES, Rows, Suite, open_lra
from subquad.data.lra_published import CAVEATS, published
from subquad.data.vocabulary import Bytes, Symbols
from subquad.nn.choices import choose

__all__ = ["CONTEXTS", "beside", "suite_rows", "suite_sizes", "suite_words"]

#: tokens of the longest row and a mark
CONTEXTS = {
    "listops": 2000,
    "listops-short": 200,
    "text": 4001,
    "image": 1025,
    "pathfinder": 1025,
}


class _Rows(Sequence[dict[str, Any]]):
    """Rows of a suite as dictionaries, each made when it is asked for."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        ids, label = self.rows[index]
        return {"ids": ids, "label": label}


def suite_rows(name: str, data: str | None, context: int) -> tuple[Examples, Suite]:
    """The rows of a suite. ValueError if they do not fit the context, which cuts nothing here."""
    choose("suite", name, SUITES)
    if context < CONTEXTS[name]:
        raise ValueError(
            f"rows of {name} have up to {CONTEXTS[name] - 1:,} tokens, and --task.context is "
            f"{context}; give --task.context {CONTEXTS[name]}"
        )
    suite = open_lra(name, data)
    rows = {part: _Rows(some) for part, some in suite.rows.items()}
    return Examples(rows, suite.source, suite.key), suite


def suite_sizes(rows: Sequence[dict[str, Any]], context: int) -> list[int]:
    """Tokens of each row and a mark; the longest there may be where only making it would tell."""
    if not isinstance(rows, _Rows):
        return [len(row["ids"]) + 1 for row in rows]
    lengths = rows.rows.lengths
    return [context] * len(rows) if lengths is None else [length + 1 for length in lengths]


def suite_words(name: str) -> Symbols:
    """The vocabulary of a suite."""
    if name.startswith("listops"):
        return Tokens()
    return Bytes() if name == "text" else Symbols("pixels", 256)


def beside(name: str, archs: Sequence[str]) -> str:
    """What was published for these architectures, and how far those settings were from theirs."""
    paper = {} if name == "listops-short" else published(name)
    known = ", ".join(f"{arch} {paper[arch]:.2f}" for arch in archs if arch in paper)
    if not known:
        return ""
    notes = "\n".join(f"- {note}" for note in CAVEATS)
    return (
        f"Published accuracies in percent (Tay et al., 2021, table 1): {known}. They are of these "
        f"settings, not of the methods at their best:\n{notes}"
    )
