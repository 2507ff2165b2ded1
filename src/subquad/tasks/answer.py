"""Extractive answers: where in a document the answer to a question stands.

What the model reads is a mark, the question, the boundary, and a window of the document. All tokens
up to the boundary are marked, so the question sees everything and is seen (Longformer, section 5,
https://arxiv.org/abs/2004.05150). The mark itself is the answer of a question without one.
Documents that do not fit are read in windows that overlap by half, and the best span of all of them
counts: its start and end, less the mark's (Devlin et al., 2019, section 4.3). Of several answers to
a question the first is learnt, and whichever is nearest to what is said counts.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.data import stdlib
from subquad.data.forms import ANSWER
from subquad.data.places import placed, tokens_of
from subquad.data.tokenizer_files import Reading
from subquad.hf import SubquadConfig, SubquadForQuestionAnswering
from subquad.tasks.labels import measuring
from subquad.tasks.rows import Row
from subquad.tasks.texts import TextTask, arguments

__all__ = ["Answer", "AnswerConfig", "best_span"]

_TARGETS = ("start_positions", "end_positions")


@dataclass(frozen=True)
class AnswerConfig:
    """Fields of the task `answer`.

    Args:
        context: tokens that are read at once: mark, question, boundary and a window.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        position: absolute positions added to the embedding: none, sinusoidal, learned, axial, or
            auto (sinusoidal for architectures that have no positions of their own).
        longest: tokens of the longest answer that is given.
        dropout: of the features that a span is told from.
        valid_rows: rows of the validation part that are scored at each report.
    """

    context: int = 1024
    tokenizer: str = "bytes"
    position: str = "auto"
    longest: int = 160
    dropout: float = 0.1
    valid_rows: int = 200

    def __post_init__(self) -> None:
        for name in ("longest", "valid_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.context < 8:
            raise ValueError(f"context is {self.context}; a question and a window need 8 at least")


class Window(NamedTuple):
    """What is read at once: tokens, where the window begins among them and in the document."""

    ids: list[int]
    begins: int
    first: int


class Answer(TextTask):
    """The task `answer`."""

    name = "answer"
    Config = AnswerConfig
    form = ANSWER
    default = staticmethod(stdlib.answer)
    metric = "f1"
    greater_is_better = True
    looks_ahead = True
    reads = ("question", "context")
    model_class: ClassVar[Any] = SubquadForQuestionAnswering

    # --- data ---------------------------------------------------------------------------------

    def texts(self, rows: Sequence[Row]) -> Iterable[str]:
        return (row[field] for row in rows for field in ("question", "context"))

    def _begun(self, row: Row) -> list[int]:
        """Mark, question and boundary; a question may take up half of what is read."""
        asked = self.words.encode(row["question"].encode())[: self.config.context // 2 - 2]
        return [self.words.mark, *asked.tolist(), self.words.boundary]

    def _windows(self, row: Row, document: Any) -> list[Window]:
        begun = self._begun(row)
        room = self.config.context - len(begun)
        last = max(0, len(document) - room)
        firsts = [*range(0, last, max(1, room // 2)), last]
        return [Window(begun + document[f : f + room].tolist(), len(begun), f) for f in firsts]

    def _lesson(self, row: Row) -> tuple[Window, int, int]:
        """A window of training, and the first and the last token of the answer in it.

        The window is any that holds the whole answer, by a hash of the question.
        """
        document, where = placed(self.words, row["context"])
        begun = self._begun(row)
        room = self.config.context - len(begun)
        span = None
        if row["answers"]:
            start, length = row["answers"][0]["start"], len(row["answers"][0]["text"])
            span = tokens_of(where, start, start + length)
        most = max(0, len(document) - room)
        low, high = 0, most
        if span is not None:
            low, high = min(max(0, span[1] + 1 - room), most), min(span[0], most)
            low = min(low, high)  # an answer that does not fit is read from its start
        first = low + zlib.crc32(row["question"].encode()) % (max(0, high - low) + 1)
        window = Window(begun + document[first : first + room].tolist(), len(begun), first)
        if span is None:
            return window, 0, 0
        shift = len(begun) - first
        return window, span[0] + shift, min(span[1] + shift, len(window.ids) - 1)

    def item(self, row: Row) -> dict[str, Tensor]:
        window, start, end = self._lesson(row)
        inputs = arguments(window.ids, slice(0, window.begins))
        places = {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}
        return inputs | places

    def inputs(self, row: Row) -> dict[str, Tensor]:
        return {name: t for name, t in self.item(row).items() if name not in _TARGETS}

    def targets(self, row: Row) -> dict[str, Tensor]:
        item = self.item(row)
        return {name: item[name] for name in _TARGETS}

    def remark(self, row: Row) -> str:
        return ""  # windows go over all of it

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        most = self.config.context
        return [min(len(row["question"]) + len(row["context"]) + 2, most) for row in rows]

    def read(self, raw: str | Path | dict[str, Any]) -> Row:
        """A row from a document, or from JSON; the question may come later, by `asked`."""
        if isinstance(raw, dict):
            raw = {"question": "", **raw}
        return super().read(raw)

    def asked(self, row: Row, question: str) -> Row:
        return {**row, "question": question}

    @property
    def reading(self) -> Reading:
        return Reading(self.config.context, mark=True)

    # --- model --------------------------------------------------------------------------------

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForQuestionAnswering:
        head = {"kind": "tags", "dropout": self.config.dropout}
        return SubquadForQuestionAnswering(SubquadConfig(**self.parts(arch, fields), head=head))

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        if label_smoothing:
            raise ValueError(
                f"label_smoothing {label_smoothing} would spread over padding; the task answer "
                "takes none"
            )
        batch = dict(batch)
        goals = batch.pop("start_positions"), batch.pop("end_positions")
        out = model(**batch)
        logits = (out.start_logits, out.end_logits)
        return sum(F.cross_entropy(*pair) for pair in zip(logits, goals, strict=True)) / 2

    # --- answers ------------------------------------------------------------------------------

    def answers(self, model: Any, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [self._answer(model, row) for row in rows]

    def _answer(self, model: Any, row: Row) -> dict[str, Any]:
        """The best span of all windows; an empty one where the mark does better everywhere."""
        if not row.get("question"):
            raise ValueError("there is no question: ask one with --question, or in the row")
        document, where = placed(self.words, row["context"])
        best: dict[str, Any] = {"answer": "", "start": None, "score": 0.0}
        for window in self._windows(row, document):
            given = self.collate([arguments(window.ids, slice(0, window.begins))])
            at = next(model.parameters()).device
            out = model(**{name: t.to(at) for name, t in given.items()})
            start, end = (t[0].float().cpu() for t in (out.start_logits, out.end_logits))
            none = float(start[0] + end[0])
            begins = window.begins
            if begins >= len(window.ids):
                continue
            first, last, score = best_span(start[begins:], end[begins:], self.config.longest)
            if score - none > best["score"]:
                a, b = where[first + window.first, 0], where[last + window.first, 1]
                # a token may hold the space before a word
                text = row["context"][a:b]
                start = int(a) + len(text) - len(text.lstrip())
                if said := text.strip():
                    best = {"answer": said, "start": start, "score": score - none}
        return best

    def told(self, answer: dict[str, Any]) -> str:
        return answer["answer"] or "(no answer)"

    @property
    def sums(self) -> int:
        return 3

    def counted(self, answers: Sequence[Any], rows: Sequence[Row]) -> Tensor:
        with measuring():
            from torchmetrics.functional.text import squad

        counts = torch.zeros(3, dtype=torch.float64)
        for answer, row in zip(answers, rows, strict=True):
            texts = [one["text"] for one in row["answers"]] or [""]
            said = [{"prediction_text": answer["answer"], "id": "0"}]
            true = [{"answers": {"answer_start": [0] * len(texts), "text": texts}, "id": "0"}]
            found = squad(said, true)
            counts += torch.tensor([1.0, found["exact_match"] / 100, found["f1"] / 100])
        return counts

    def measured(self, counts: Tensor) -> dict[str, float]:
        rows, exact, f1 = counts.tolist()
        return {"f1": f1 / rows, "exact_match": exact / rows}

    def says(self, rows: Sequence[Row]) -> str:
        return (
            f"windows of {self.config.context:,} tokens that overlap by half; F1 of words and "
            "exact match as in SQuAD, over the answers given for a question"
        )


def best_span(start: Tensor, end: Tensor, longest: int) -> tuple[int, int, float]:
    """The places i <= j < i + longest with the largest start_i + end_j, and that sum."""
    n = len(start)
    longest = min(longest, n)
    ends = F.pad(end, (0, longest - 1), value=-torch.inf).unfold(0, longest, 1)
    score, at = (start[:, None] + ends).reshape(-1).max(0)
    first, more = divmod(int(at), longest)
    return first, first + more, float(score)
