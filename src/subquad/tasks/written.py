"""Tasks whose answers are written: a source is read, and a decoder writes what belongs to it.

A target begins behind the boundary, and ends with it unless it is cut. While training goes on a
part is scored by how well its targets are foreseen (teacher-forced); `eval` lets the model write,
and compares.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.archs import PAIRS, pair_parts
from subquad.data.examples import Examples
from subquad.data.rows import alike
from subquad.hf import SubquadConfig, SubquadForSeq2SeqLM
from subquad.nn.losses import IGNORED
from subquad.tasks.encoder import described, words_in
from subquad.tasks.given import row_given
from subquad.tasks.looks import Look, spelled
from subquad.tasks.pairs import ends_in, standing
from subquad.tasks.rouge import KEYS, RULE, rouge
from subquad.tasks.rows import Row, rows_of
from subquad.tasks.task import Result, Share, add
from subquad.tasks.texts import TextTask

__all__ = ["WrittenTask"]

_SIDE_BY_SIDE = 16_384  # elements in one call of an evaluation
_WORDS = ("tokens", "adaptive")  # kinds of stems that read words, and of heads that say them


class WrittenTask(TextTask):
    """A task that writes. Its `config` has `target`, the most tokens that are written, and `beams`.

    A subclass names the field of a row that is written, `writes`, and gives `inputs` and `sizes`.
    """

    archs = PAIRS
    metric = "bits_per_token"
    greater_is_better = False
    model_class: ClassVar[Any] = SubquadForSeq2SeqLM
    writes: ClassVar[str]

    def begin(self, folder: Path) -> None:
        wanted = "a run that writes from texts, or a converted LED, BART or Lite Transformer"
        self._stem = ends_in(folder, _WORDS, _WORDS, wanted)
        self._words = words_in(folder)

    def target(self, row: Row) -> list[int]:
        """The tokens of what is to be written, and the boundary where that is all: what is cut
        must not teach to end."""
        return self._all(row)[: self.config.target]

    def _all(self, row: Row) -> list[int]:
        return [*self.words.encode(row[self.writes].encode()).tolist(), self.words.boundary]

    def cut(self, rows: Sequence[Row]) -> str:
        """How many targets are longer than what is written, for the protocol."""
        most = self.config.target
        many = sum(len(self._all(row)) > most for row in rows)
        return f"; {many:,} targets cut at {most:,} tokens, without an end" if many else ""

    def targets(self, row: Row) -> dict[str, Tensor]:
        return {"labels": torch.tensor(self.target(row))}

    # --- model --------------------------------------------------------------------------------

    def parts(self, arch: str, fields: dict[str, Any]) -> dict[str, Any]:
        start = {"decoder_start_token_id": self.words.boundary}
        made = standing(pair_parts(arch, fields), self._stem)
        return {**made, **described(self.words), **start}

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForSeq2SeqLM:
        return SubquadForSeq2SeqLM(SubquadConfig(**self.parts(arch, fields)))

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        batch = dict(batch)
        labels = batch.pop("labels")
        whole = getattr(model, "module", model)
        given = whole.prepare_decoder_input_ids_from_labels(labels)
        logits = model(**batch, decoder_input_ids=given).logits
        return F.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        )

    # --- evaluation ---------------------------------------------------------------------------

    def validate(self, model: nn.Module, share: Share) -> Result:
        rows = rows_of(self.known, "valid", self.config.valid_rows)
        said = f"{len(rows):,} rows, the valid part of {self.known.source}; targets as foreseen, "
        said += f"the right tokens before them given{self.cut(rows)}"
        return Result(self.foreseen(model, rows, share), said)

    @torch.no_grad()
    def foreseen(self, model: Any, rows: Sequence[Row], share: Share) -> dict[str, float]:
        """Bits for each token of the targets, and the share whose likeliest token is right."""
        was, at = model.training, next(model.parameters()).device
        model.eval()
        found = torch.zeros(3, dtype=torch.float64)
        for number, group in enumerate(alike(self.sizes(rows), _SIDE_BY_SIDE)):
            if share.mine(number):
                some = [rows[i] for i in group]
                batch = self.collate([*map(self.item, some)])
                batch = {name: t.to(at) for name, t in batch.items()}
                logits, labels = model(**batch).logits.float(), batch["labels"]
                asked = labels != IGNORED
                nats = F.cross_entropy(logits[asked], labels[asked], reduction="sum")
                right = (logits.argmax(-1) == labels)[asked].sum()
                found += torch.stack((asked.sum(), nats, right)).cpu()
        model.train(was)
        tokens, nats, right = add(share, *found.tolist())
        bits = nats / math.log(2) / tokens
        return {"bits_per_token": bits, "token_accuracy": right / tokens, "tokens": int(tokens)}

    def score(
        self,
        model: Any,
        found: Examples,
        part: str,
        most: int | None,
        share: Share,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> Result:
        written = super().score(model, found, part, most, share, report)
        numbers = self.foreseen(model, rows_of(found, part, most), share)
        return Result({**written.numbers, **numbers}, written.protocol)

    def says(self, rows: Sequence[Row]) -> str:
        beams = self.config.beams
        how = "greedily" if beams == 1 else f"with {beams} beams"
        written = f"at most {self.config.target:,} tokens written {how}{self.cut(rows)}"
        return f"{written}; {RULE}"

    # --- answers ------------------------------------------------------------------------------

    @property
    def search(self) -> dict[str, Any]:
        """How the likeliest text is sought, in words of generate()."""
        return {"num_beams": self.config.beams}

    def answers(self, model: Any, rows: Sequence[Row]) -> list[str]:
        out = self._written(model, self.batch(model, rows))
        return [self._said(ids) for ids in out[:, 1:].tolist()]

    def _written(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """What the model writes, (B, N), behind the token that begins it."""
        words = self.words
        never = sorted({words.pad, words.hidden, words.mark} - {words.boundary})
        return model.generate(
            **batch,
            **self.search,
            max_new_tokens=self.config.target,
            do_sample=False,
            suppress_tokens=never or None,
        )

    def look(self, model: Any, raw: Any) -> Look:
        """What is read, and what a row of JSON says is written of it, or else what the model writes
        itself."""
        row = self.uncut(raw)
        given = self.batch(model, [row])
        told = isinstance(raw, dict) and self.writes in raw
        said = self._told(model, raw) if told else self._written(model, given)
        own, over = self._source(row, given)
        labels = {"source": own, "target": spelled(self.words, said[0].tolist())}
        return Look({**given, "decoder_input_ids": said}, labels, over)

    def _told(self, model: Any, raw: Row) -> Tensor:
        """What is written according to a row (1, N), behind the token that begins it."""
        row = row_given(raw, (self.writes,))
        count, most = len(self._all(row)), self.config.target
        if count > most:
            raise ValueError(
                f"the {self.writes} has {count:,} tokens, its end among them, and {most:,} are "
                "written at most; cut it"
            )
        return torch.tensor([[self.words.boundary, *self.target(row)]], device=model.device)

    def _source(self, row: Row, given: dict[str, Tensor]) -> tuple[list[str], Any]:
        """What stands at each place of the source, and the source itself where it is no text."""
        return spelled(self.words, given["input_ids"][0].tolist()), None

    def _said(self, ids: list[int]) -> str:
        end = ids.index(self.words.boundary) if self.words.boundary in ids else len(ids)
        return self.words.decode(ids[:end]).decode(errors="replace").strip()

    def predict(self, model: Any, row: Row) -> dict[str, str]:
        return {self.writes: super().predict(model, row)}

    def told(self, answer: dict[str, str]) -> str:
        return answer[self.writes]

    @property
    def sums(self) -> int:
        return 2 + len(KEYS)

    def counted(self, answers: Sequence[str], rows: Sequence[Row]) -> Tensor:
        counts = torch.zeros(self.sums, dtype=torch.float64)
        for said, row in zip(answers, rows, strict=True):
            true = row[self.writes].strip()
            found = [1.0, said == true, *rouge(said, true)]
            counts += torch.tensor(found, dtype=torch.float64)
        return counts

    def measured(self, counts: Tensor) -> dict[str, float]:
        rows, exact, *sums = counts.tolist()
        scores = {key: value / rows for key, value in zip(KEYS, sums, strict=True)}
        return {"exact_match": exact / rows, **scores}
