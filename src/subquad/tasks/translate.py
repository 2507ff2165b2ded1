"""Translation: a sentence is read in one language and written in another.

The default is a made-up language with a grammar of its own (`subquad.data.tongue`). Training leaves
out pairs that are longer than `context` or `target`; `eval` and `predict` cut what they read at
`context`, and say so. The texts are compared as they are, by sacrebleu's BLEU and chrF.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from subquad.archs import PAIRS
from subquad.data.examples import Examples
from subquad.data.forms import TRANSLATE
from subquad.data.rows import alike, spread
from subquad.data.tongue import sentences
from subquad.tasks.labels import measuring
from subquad.tasks.rows import Row, RowScoring, rows_of
from subquad.tasks.spoken import tell
from subquad.tasks.task import Result, Share
from subquad.tasks.texts import arguments
from subquad.tasks.written import WrittenTask

__all__ = ["Search", "Translate", "TranslateConfig", "TranslateScoring"]

_SIDE_BY_SIDE = 8_192  # tokens, read and written, in one call of an evaluation
_LEARNT = 100_000  # pairs that a vocabulary is learnt from
_SIZES = {"train": 20_000, "valid": 500, "test": 1_000}
_PAIRS = ("lite_pair", "encoder_decoder", "led")


@dataclass(frozen=True)
class TranslateConfig:
    """Fields of the task `translate`.

    Args:
        context: tokens of a source that are read at most, the end among them.
        target: tokens that are written at most, the end among them.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        beams: of the search for the likeliest translation; 1 takes the likeliest token each time.
        length_penalty: with beams, log-probabilities are divided by this power of the length.
        valid_rows: rows of the validation part that are scored at each report.
        text: the column that holds the source; default: the usual names.
        translation: the column that holds the translation; default: the usual names.
    """

    context: int = 256
    target: int = 256
    tokenizer: str = "bpe:4000"
    beams: int = 4
    length_penalty: float = 1.0
    valid_rows: int = 500
    text: str | None = None
    translation: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("context", 2), ("target", 2), ("beams", 1), ("valid_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True)
class Search:
    """How `subquad predict` searches.

    Args:
        beams: texts that are followed at once; default: as trained with.
        length_penalty: log-probabilities are divided by this power of the length, with beams.
    """

    beams: int | None = None
    length_penalty: float | None = None


@dataclass(frozen=True)
class TranslateScoring(RowScoring):
    """How `subquad eval` scores translations.

    Args:
        part: train, valid, test or all; default: test of the run's own data, all of other data.
        rows: score only so many rows, spread over the part.
        beams: texts that are followed at once; default: as trained with.
        length_penalty: log-probabilities are divided by this power of the length, with beams.
    """

    beams: int | None = None
    length_penalty: float | None = None


class Translate(WrittenTask):
    """The task `translate`."""

    name = "translate"
    Config = TranslateConfig
    Scoring = TranslateScoring
    Answering = Search
    archs: ClassVar[Mapping[str, Any]] = {name: PAIRS[name] for name in _PAIRS}
    form = TRANSLATE
    columns = ("text", "translation")
    default = staticmethod(lambda: sentences(_SIZES))
    writes = "translation"
    _beams: int | None = None
    _length_penalty: float | None = None

    # --- rows ---------------------------------------------------------------------------------

    def texts(self, rows: Sequence[Row]) -> Iterable[str]:
        return (rows[i][field] for i in spread(len(rows), _LEARNT) for field in self.columns)

    def learn(self, rows: Sequence[Row]) -> None:
        super().learn(rows)
        found, c = self.known, self.config
        sizes = [(len(self.source(row)), len(self.words_of(row))) for row in rows]
        fits = [
            i
            for i, (read, written) in enumerate(sizes)
            if read <= c.context and written <= c.target
        ]
        left = dict(found.left_out)
        if long := len(rows) - len(fits):
            left[f"more than {c.context} tokens to read or {c.target} to write"] = long
        if left:
            tell(
                "left out of training: " + ", ".join(f"{n:,} with {why}" for why, n in left.items())
            )
        if not fits:
            raise ValueError(
                f"{found.source}: all {len(rows):,} pairs have more than {c.context} tokens to read "
                f"or {c.target} to write; raise --task.context or --task.target"
            )
        self.examples = replace(
            found, rows={**found.rows, "train": [rows[i] for i in fits]}, left_out=left
        )

    def source(self, row: Row) -> list[int]:
        """All tokens of what is to be read, and the boundary."""
        return [*self.words.encode(row["text"].encode()).tolist(), self.words.boundary]

    def words_of(self, row: Row) -> list[int]:
        """All tokens of what is to be written, and the boundary."""
        return [*self.words.encode(row["translation"].encode()).tolist(), self.words.boundary]

    def inputs(self, row: Row) -> dict[str, Tensor]:
        ids = self.source(row)
        return arguments([*ids[: self.config.context - 1], ids[-1]])

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        c = self.config
        return [
            min(len(self.source(row)), c.context) + min(len(self.words_of(row)), c.target)
            for row in rows
        ]

    # --- evaluation ---------------------------------------------------------------------------

    def settle(
        self, *, beams: int | None = None, length_penalty: float | None = None, **how: Any
    ) -> None:
        super().settle(**how)
        if beams is not None and beams < 1:
            raise ValueError(f"--beams is {beams}; it must be at least 1")
        self._beams, self._length_penalty = beams, length_penalty

    @property
    def search(self) -> dict[str, Any]:
        beams = self._beams or self.config.beams
        if beams == 1:
            return {"num_beams": 1}
        given = self._length_penalty
        return {
            "num_beams": beams,
            "length_penalty": self.config.length_penalty if given is None else given,
        }

    def evaluate_on(
        self,
        model: nn.Module,
        data: str | None,
        trained_on: dict[str, Any],
        *,
        part: str | None = None,
        rows: int | None = None,
        report: Callable[[int, int], None] = lambda done, of: None,
        **how: Any,
    ) -> Result:
        self.settle(**how)
        return super().evaluate_on(model, data, trained_on, part=part, rows=rows, report=report)

    @torch.no_grad()
    def score(
        self,
        model: Any,
        found: Examples,
        part: str,
        most: int | None,
        share: Share,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> Result:
        """BLEU and chrF of a whole part; each process translates all of it."""
        rows, was = rows_of(found, part, most), model.training
        model.eval()
        said: dict[int, str] = {}
        for group in alike(self.sizes(rows), _SIDE_BY_SIDE):
            answers = self.answers(model, [rows[i] for i in group])
            said |= dict(zip(group, answers, strict=True))
            report(len(group), len(rows))
        model.train(was)
        texts = [said[i] for i in range(len(rows))]
        numbers, signatures = compared(texts, [row["translation"] for row in rows])
        numbers |= self.foreseen(model, rows, share)
        told = f"{len(rows):,} rows, the {part} part of {found.source}; {self.says(rows)}; {signatures}"
        return Result(
            {**numbers, "rows": len(rows)}, told, {"translations.tsv": table(rows, texts)}
        )

    def says(self, rows: Sequence[Row]) -> str:
        search = self.search
        how = "greedily"
        if search["num_beams"] > 1:
            how = f"with {search['num_beams']} beams, length penalty {search['length_penalty']:g}"
        most = self.config.context
        cut = sum(len(self.source(row)) > most for row in rows)
        said = f"; {cut:,} sources cut at {most:,} tokens" if cut else ""
        return f"at most {self.config.target:,} tokens written {how}{said}"


def compared(said: Sequence[str], true: Sequence[str]) -> tuple[dict[str, float], str]:
    """BLEU and chrF of a whole corpus, exact matches, and the signatures of both scores."""
    with measuring("translation"):
        from sacrebleu.metrics import BLEU, CHRF

    numbers, signatures = {}, []
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        found = metric.corpus_score(said, [true])
        numbers[name] = found.score
        signatures.append(f"{found.name} {metric.get_signature()}")
    exact = sum(a == b.strip() for a, b in zip(said, true, strict=True))
    return {**numbers, "exact_match": exact / len(true)}, ", ".join(signatures)


def table(rows: Sequence[Row], said: Sequence[str]) -> str:
    """One row a line, tab-separated: source, what was said, the true translation."""
    lines = ["text\tsaid\ttrue"]
    for row, one in zip(rows, said, strict=True):
        cells = (row["text"], one, row["translation"])
        lines.append("\t".join(" ".join(cell.split()) for cell in cells))
    return "\n".join(lines) + "\n"
