"""Summaries: a long text is read, a short one written.

A source is a mark, then its tokens, the first `context` of them together; the mark is the one
global token of encoders that have any (LED, section 7 of https://arxiv.org/abs/2004.05150).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from subquad.data import stdlib
from subquad.data.forms import SUMMARIZE
from subquad.data.tokenizer_files import Reading
from subquad.tasks.encoder import placed
from subquad.tasks.rows import Row
from subquad.tasks.texts import arguments
from subquad.tasks.written import WrittenTask

__all__ = ["Summarize", "SummarizeConfig"]


@dataclass(frozen=True)
class SummarizeConfig:
    """Fields of the task `summarize`.

    Args:
        context: tokens of a source that are read, its mark among them; the rest is cut off.
        target: tokens that are written at most, the end among them.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        beams: of the search for the likeliest summary; 1 takes the likeliest token each time.
        position: absolute positions added to the embeddings of both sides: none, sinusoidal,
            learned, axial, or auto (those of the architecture, and sinusoidal where a side has none
            at all).
        valid_rows: rows of the validation part that are scored at each report.
        text: the column that holds the source; default: the usual names.
        summary: the column that holds the summary; default: the usual names.
    """

    context: int = 1024
    target: int = 128
    tokenizer: str = "bpe:2000"
    beams: int = 1
    position: str = "auto"
    valid_rows: int = 200
    text: str | None = None
    summary: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("context", 2), ("target", 2), ("beams", 1), ("valid_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


class Summarize(WrittenTask):
    """The task `summarize`."""

    name = "summarize"
    Config = SummarizeConfig
    form = SUMMARIZE
    columns = ("text", "summary")
    default = staticmethod(stdlib.summarize)
    writes = "summary"

    def texts(self, rows: Sequence[Row]) -> Iterable[str]:
        return (row[field] for row in rows for field in ("text", "summary"))

    def inputs(self, row: Row) -> dict[str, Tensor]:
        ids = self.words.encode(row["text"].encode())[: self.config.context - 1]
        return arguments([self.words.mark, *ids.tolist()], slice(0, 1))

    @property
    def reading(self) -> Reading:
        return Reading(self.config.context, mark=True)

    def begin(self, folder: Path) -> None:
        super().begin(folder)
        if self._stem["words"] is not None:
            raise ValueError(
                f"{folder} has a vocabulary for each language, and a summary is of one; begin from "
                "a run of one vocabulary"
            )

    def parts(self, arch: str, fields: dict[str, Any]) -> dict[str, Any]:
        c, parts = self.config, super().parts(arch, fields)
        return parts if self._stem else placed(parts, c.position, c.context, c.target)

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        c = self.config
        return [min(len(row["text"]) + 1, c.context) + c.target for row in rows]
