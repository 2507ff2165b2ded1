"""Translation: a sentence is read in one language and written in another.

The default is a made-up language with a grammar of its own (`subquad.data.tongue`). Training leaves
out pairs that are longer than `context` or `target`; `eval` and `predict` cut what they read at
`context`, and say so. Texts are compared as they are, by BLEU and chrF.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from subquad.archs import PAIRS
from subquad.data.examples import Examples
from subquad.data.forms import TRANSLATE
from subquad.data.rows import Bucketed, alike, spread
from subquad.data.sentences import sentences
from subquad.data.tokenizer_files import Reading
from subquad.data.vocabulary import Subwords, Vocabulary
from subquad.tasks.bleu import scores, table
from subquad.tasks.encoder import learn_words
from subquad.tasks.looks import spelled
from subquad.tasks.rows import Row, rows_of
from subquad.tasks.task import Result, Share
from subquad.tasks.telling import tell
from subquad.tasks.texts import arguments
from subquad.tasks.translate_config import Search, TranslateConfig, TranslateScoring
from subquad.tasks.two_languages import both_in, keep_both, load_both
from subquad.tasks.written import WrittenTask

__all__ = ["Translate"]

_SIDE_BY_SIDE = 8_192  # tokens, read and written, in one call of an evaluation
_LEARNT = 100_000  # pairs that a vocabulary is learnt from
_SIZES = {"train": 20_000, "valid": 500, "test": 1_000}
_PAIRS = ("lite_pair", "encoder_decoder", "led")


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
    lines = True
    _asked = Search()
    _source_words: Vocabulary | None = None

    # --- rows ---------------------------------------------------------------------------------

    def texts(self, rows: Sequence[Row]) -> Iterable[str]:
        fields = self.columns if self.config.joint else (self.writes,)
        return (rows[i][field] for i in spread(len(rows), _LEARNT) for field in fields)

    @property
    def source_words(self) -> Vocabulary:
        """The vocabulary of what is read."""
        return self._source_words or self.words

    @property
    def fill(self) -> dict[str, int]:  # type: ignore[override]
        return {**super().fill, "input_ids": self.source_words.pad}

    def begin(self, folder: Path) -> None:
        super().begin(folder)
        self._words, self._source_words = both_in(folder) or (self._words, None)

    def learn(self, rows: Sequence[Row]) -> None:
        rows = list(rows)
        super().learn(rows)
        if not self.config.joint and self._source_words is None and self._stem is None:
            texts = (rows[i]["text"] for i in spread(len(rows), _LEARNT))
            self._source_words = learn_words(self.config.tokenizer, texts)
        self._fit(rows)

    def _fit(self, rows: Sequence[Row]) -> None:
        """Leave out of training what is too long, and say so."""
        found, c = self.known, self.config
        lengths = [self._lengths(row) for row in rows]
        fit = [i for i, (m, n) in enumerate(lengths) if m <= c.context and n <= c.target]
        left = dict(found.left("train"))
        why = f"more than {c.context:,} tokens to read or {c.target:,} to write"
        if len(fit) < len(rows):
            left[why] = len(rows) - len(fit)
        if left:
            told = ", ".join(f"{many:,} with {reason}" for reason, many in left.items())
            tell(f"left out of training: {told}")
        if not fit:
            raise ValueError(
                f"{found.source}: all {len(rows):,} pairs have {why}; raise --task.context or "
                "--task.target"
            )
        self.examples = replace(
            found,
            rows={**found.rows, "train": [rows[i] for i in fit]},
            left_out={**found.left_out, **left},
        )

    def _lengths(self, row: Row) -> tuple[int, int]:
        """Tokens of both texts with their ends, uncut."""
        return len(self._read(row)), len(self._all(row))

    def _read(self, row: Row) -> list[int]:
        words = self.source_words
        return [*words.encode(row["text"].encode()).tolist(), words.boundary]

    def _source(self, row: Row, given: dict[str, Tensor]) -> tuple[list[str], Any]:
        return spelled(self.source_words, given["input_ids"][0].tolist()), None

    def inputs(self, row: Row) -> dict[str, Tensor]:
        ids = self._read(row)
        return arguments([*ids[:-1][: self.config.context - 1], ids[-1]])

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        c, lengths = self.config, map(self._lengths, rows)
        return [min(read, c.context) + min(written, c.target) for read, written in lengths]

    def token_batches(self, count: int, seed: int, tokens: int) -> Dataset:
        rows = self.known.rows["train"]

        def batch(places: Sequence[int]) -> dict[str, Tensor]:
            return self.collate([self.item(rows[i]) for i in places])

        return Bucketed(batch, self.sizes(rows), count, seed, tokens)

    # --- model and run folder -----------------------------------------------------------------

    @property
    def reading(self) -> Reading:
        return Reading(self.config.context, end=True)

    def parts(self, arch: str, fields: dict[str, Any]) -> dict[str, Any]:
        parts = super().parts(arch, fields)
        if self._source_words is None:
            return parts
        return {**parts, "encoder": {**parts["encoder"], "words": self._source_words.size}}

    def save(self, folder: Path) -> dict[str, Any]:
        told = super().save(folder)
        if self._source_words is None:
            return told
        assert isinstance(self.words, Subwords)
        return told | keep_both(self._source_words, self.words, folder, self.reading)

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "Translate":
        made = super().load(folder, facts)
        assert isinstance(made, Translate)
        made._words, made._source_words = load_both(folder, facts)
        return made

    # --- evaluation ---------------------------------------------------------------------------

    def settle(self, **how: Any) -> None:
        others = {name: value for name, value in how.items() if not hasattr(Search, name)}
        super().settle(**others)
        self._asked = Search(**how)

    @property
    def search(self) -> dict[str, Any]:
        c, asked = self.config, self._asked
        beams = asked.beams or c.beams
        penalty = c.length_penalty if asked.length_penalty is None else asked.length_penalty
        return {"num_beams": beams, **({"length_penalty": penalty} if beams > 1 else {})}

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
        """BLEU and chrF of a whole part: each process translates all of it."""
        rows, was = rows_of(found, part, most), model.training
        rows = [rows[i] for i in range(len(rows))]
        model.eval()
        said: dict[int, str] = {}
        for group in alike(self.sizes(rows), _SIDE_BY_SIDE):
            answers = self.answers(model, [rows[i] for i in group])
            said |= dict(zip(group, answers, strict=True))
            report(len(group), len(rows))
        model.train(was)
        texts, true = [said[i] for i in range(len(rows))], [row[self.writes] for row in rows]
        numbers, signatures = scores(texts, true)
        numbers |= self.foreseen(model, rows, share)
        left = "".join(f"; left out: {many:,} with {why}" for why, many in found.left(part).items())
        told = f"{len(rows):,} rows, the {part} part of {found.source}{left}; {self.says(rows)}"
        files = {"translations.tsv": table([row["text"] for row in rows], texts, true)}
        return Result({**numbers, "rows": len(rows)}, f"{told}; {signatures}", files)

    def says(self, rows: Sequence[Row]) -> str:
        search, most = self.search, self.config.context
        how = "greedily"
        if search["num_beams"] > 1:
            how = f"with {search['num_beams']} beams, length penalty {search['length_penalty']:g}"
        cut = sum(len(self._read(row)) > most for row in rows)
        said = f"; {cut:,} sources cut at {most:,} tokens" if cut else ""
        return f"at most {self.config.target:,} tokens written {how}{said}{self.cut(rows)}"

    # --- answers ------------------------------------------------------------------------------

    def remark(self, row: Row) -> str:
        return ""  # `predict` tells, also where nobody asks for a remark

    def read(self, raw: str | Path | dict[str, Any]) -> Row:
        text = raw.get("text") if isinstance(raw, dict) else raw
        if isinstance(text, str) and not text.strip():
            return {"text": text}
        return super().read(raw)

    def uncut(self, raw: Any) -> Row:
        row = super().uncut(raw)
        if not row["text"].strip():
            raise ValueError("there is nothing in the text, so there is nothing to look at")
        return row

    def predict(self, model: Any, row: Row) -> dict[str, str]:
        if not row["text"].strip():
            return {self.writes: ""}  # nothing to say, and lines stay aligned
        if (length := len(self._read(row))) > self.config.context:
            tell(f"a source of {length:,} tokens is cut at {self.config.context:,}")
        return super().predict(model, row)
