"""Speech recognition: recordings to text, by connectionist temporal classification.

Any architecture that looks both ways reads frames (`subquad.nn.FrameStem`), and says a letter, a
piece of a word, or nothing, every 40 ms (`subquad.nn.ctc`). While training goes on a part is scored
by the likeliest token of each output; `eval` and `predict` may follow several texts at once, and
ask a language model about them (`subquad.tasks.ctc`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from subquad.archs import configure
from subquad.data.audio import RATE, Careful, Heard
from subquad.data.examples import Examples
from subquad.data.listening import blocks, piped, seconds_of
from subquad.data.rows import alike, spread
from subquad.hf import SubquadConfig, SubquadForCTC
from subquad.nn.logmel import LogMel
from subquad.tasks.asr_config import Answering, AsrConfig, AsrScoring
from subquad.tasks.ctc.beams import Beams
from subquad.tasks.ctc.lms import BEAMS, find_beams
from subquad.tasks.hearing import Hearing, Said
from subquad.tasks.looks import Look, frames
from subquad.tasks.rows import Row
from subquad.tasks.spelling import writes
from subquad.tasks.spoken import SpokenTask, closed
from subquad.tasks.task import Result, Share, add
from subquad.tasks.telling import tell
from subquad.tasks.transcripts import COUNTS, counted, intervals, rates, table

__all__ = ["Asr"]

_SIDE_BY_SIDE = 16_384  # frames in one call of an evaluation
_GREEDY, _HALVINGS = "the likeliest token of each output", 2  # halvings: 10 ms to 40 ms a frame


class Asr(SpokenTask):
    """The task `asr`."""

    name = "asr"
    Config = AsrConfig
    Scoring = AsrScoring
    Answering = Answering
    metric = "wer"
    greater_is_better = False
    looks_ahead = True
    model_class: ClassVar[Any] = SubquadForCTC
    beams: Beams | None = None
    times = False
    _decoding = _GREEDY

    # --- model --------------------------------------------------------------------------------

    def outputs(self, frames: int) -> int:
        for _ in range(_HALVINGS):
            frames = max(frames - 1, 0) // 2
        return frames

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForCTC:
        backbone = configure(arch, fields)
        own = getattr(backbone, "position", "none") != "none"
        stem = {
            "kind": "frames",
            "halvings": _HALVINGS,
            "channels": self.config.channels,
            "position": "none" if own else "sinusoidal",
            "dropout": getattr(backbone, "dropout", 0.0),
        }
        return SubquadForCTC(
            SubquadConfig(
                arch=arch,
                model=fields,
                stem=stem,
                head=self._head(backbone),
                vocab_size=self.words.size,
                pad_token_id=self.words.blank,
                # by this name transformers' pipelines count samples to an output
                inputs_to_logits_ratio=LogMel.hop * 2**_HALVINGS,
            )
        )

    def _head(self, backbone: Any) -> dict[str, Any]:
        """Fields of the head: CTC, with a decoder of the encoder's sizes if there is to be one."""
        blank, layers = {"blank": self.words.blank}, self.config.decoder
        if not layers:
            return {"kind": "ctc", **blank}
        ffn, drop = (
            getattr(backbone, "ffn_dim", 4 * backbone.dim),
            getattr(backbone, "dropout", 0.0),
        )
        sizes = {"num_heads": backbone.num_heads, "num_layers": layers, "ffn_dim": ffn}
        return {
            "kind": "joint",
            "weight": self.config.ctc_weight,
            "dropout": drop,
            **blank,
            **sizes,
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        if label_smoothing:
            raise ValueError(
                f"label smoothing {label_smoothing} does not go with CTC, whose labels have no "
                "place; leave it at 0"
            )
        return model(**batch).loss

    # --- evaluation ---------------------------------------------------------------------------

    def settle(self, *, times: bool = False, **how: Any) -> None:
        self.times, self.beams, self._decoding = times, None, _GREEDY
        if self.config.decoder and how.get("beams") is None:
            how["beams"] = BEAMS  # where the decoder takes part
        found = find_beams(self.words, self._ngrams, **how)
        if found is not None:
            parts = ", with the decoder" if self.config.decoder else ""
            self.beams, self._decoding = found[0], found[1] + parts

    def hearing(self, model: Any) -> Hearing:
        """The model with what stands before and behind it."""
        raw = writes(self.words)
        return Hearing(model, self.log_mel, raw, self.beams, self.config.window)

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
        every = closed(found.take(part))
        if not len(every):
            raise ValueError(f"{found.source} has no rows to score in its {part} part")
        rows = [every[i] for i in spread(len(every), most or len(every))]
        opened, was = Careful(Heard(rows), tell), model.training
        model.eval()
        said: dict[int, str] = {}
        for number, group in enumerate(alike(self.sizes(rows), _SIDE_BY_SIDE)):
            if share.mine(number):
                heard = {place: row for place in group for row in opened.those([place])}
                answers = self.answers(model, [*heard.values()])
                said |= {p: one.text for p, one in zip(heard, answers, strict=True)}
                report(len(group), len(rows))
        model.train(was)
        return self._result(found, part, rows, said, share, opened.left_out)

    def _result(
        self,
        found: Examples,
        part: str,
        rows: Sequence[Row],
        said: dict[int, str],
        share: Share,
        damaged: dict[str, int],
    ) -> Result:
        """Numbers, how they were measured, and the list of errors."""
        mine = [rows[place] for place in said]
        counts = counted([*said.values()], [row["text"] for row in mine])
        total = torch.tensor(add(share, *counts.sum(0).tolist()), dtype=torch.float64)
        if not total[-1]:
            raise ValueError(
                f"none of {len(rows):,} rows of the {part} part of {found.source} can be decoded, "
                "so there is nothing to score"
            )
        numbers = rates(total)
        left = {**found.left(part), **damaged}
        out = ", ".join(f"{many:,} with {why}" for why, many in left.items())
        out = f"; left out: {out}" if out else ""
        told = f"{int(total[-1]):,} rows, the {part} part of {found.source}; {self._decoding}{out}"
        files = {}
        if share.world == 1 and mine:
            numbers |= intervals(counts)
            files = {"errors.tsv": table(mine, [*said.values()], counts)}
            told += "; intervals hold 95 % of a thousand draws of as many rows (bootstrap)"
        return Result({**numbers, "rows": int(total[-1])}, told, files)

    @property
    def sums(self) -> int:
        return len(COUNTS)

    def counted(self, answers: Sequence[Said], rows: Sequence[Row]) -> Tensor:
        return counted([one.text for one in answers], [row["text"] for row in rows]).sum(0)

    def measured(self, counts: Tensor) -> dict[str, float]:
        return rates(counts)

    # --- answers ------------------------------------------------------------------------------

    def answers(self, model: Any, rows: Sequence[Row]) -> list[Said]:
        """What is said in each row; those longer than the window are heard by and by."""
        hearing, waves = self.hearing(model), [torch.as_tensor(row["audio"]) for row in rows]
        short = [i for i, wave in enumerate(waves) if len(wave) <= self.config.window * RATE]
        found = dict(zip(short, hearing.transcripts([waves[i] for i in short]), strict=True))
        long = (i for i in range(len(rows)) if i not in found)
        found |= {i: hearing.transcript([waves[i]]) for i in long}
        return [found[i] for i in range(len(rows))]

    def read(self, raw: str | Path | dict[str, Any]) -> Row:
        """A row from a recording's file, the name of one, or a row of JSON that names it."""
        named = raw.get("audio") if isinstance(raw, dict) else raw
        if not isinstance(named, str | Path):
            raise ValueError("a row wants the name of a recording as its audio")
        return {"audio": Path(named)}

    def predict(self, model: Any, row: Any) -> dict[str, Any]:
        """Text and words of a recording: a row with a file or wave as audio, or the wave (S,)."""
        audio = row["audio"] if isinstance(row, dict) else row
        waves = self._waves(audio) if isinstance(audio, str | Path) else [torch.as_tensor(audio)]
        return self.hearing(model).transcript(waves).plain()

    def _waves(self, path: str | Path) -> Iterator[Tensor]:
        seconds = seconds_of(Path(path))
        for wave in blocks(Path(path)):
            yield torch.from_numpy(wave)
            self.report(len(wave) / RATE, seconds)

    def told(self, answer: dict[str, Any]) -> str:
        lines = (f"{w['start']:9.2f} {w['end']:9.2f}  {w['word']}" for w in answer["words"])
        return "\n".join(lines) if self.times else answer["text"]

    def look(self, model: Any, raw: Any) -> Look:
        """Of a recording, no longer than what is heard at once."""
        wave = torch.cat([*self._waves(self.read(raw)["audio"])])
        seconds, most = len(wave) / RATE, self.config.window
        if seconds > most:
            raise ValueError(f"a recording of {seconds:.1f} s; {most:g} s are heard at once")
        features, valid = self.log_mel(wave[None].float(), torch.ones(1, len(wave)).bool())
        count = int(model.lengths(valid.sum(1)))
        names = [f"{i * self.hearing(model).step:.2f}s" for i in range(count)]
        given = {"input_features": features, "attention_mask": valid.long()}
        return Look(given, {"tokens": names}, frames(features[0], count, seconds))

    def stream(self, model: Any, items: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """What waves (S,) at 16 kHz add to the text, as they come."""
        return self.hearing(model).stream(torch.as_tensor(wave) for wave in items)

    def hear(
        self, model: Any, source: Path | Callable[[int], bytes]
    ) -> tuple[str, Iterator[dict[str, Any]]]:
        """How late text may come, in words, and the text of a file or pipe, as it comes."""
        waves = self._waves(source) if isinstance(source, Path) else piped(source)
        return self.hearing(model).lateness, self.stream(model, waves)
