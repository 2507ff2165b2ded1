"""What a task over recordings with transcripts shares: data, features, vocabulary, run folder.

Recordings whose transcripts cannot be learnt are left out of training, and counted; one that turns
out damaged when it is decoded is told of, by name, and another takes its place. All others are
scored, whatever stands in their transcripts and however long they are.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from subquad.data.audio import RATE, Careful, Heard
from subquad.data.augment import Augmented
from subquad.data.examples import Examples
from subquad.data.forms import Form
from subquad.data.kept import Kept
from subquad.data.morse import morse
from subquad.data.rows import spread
from subquad.data.spec_augment import SPEEDS, SpecAugment, any_speed, faster, mean_and_std
from subquad.data.speech import open_speech
from subquad.data.spoken import speech, synthesiser
from subquad.data.transcripts import Letters, Transcripts, usable
from subquad.hf import SubquadFeatureExtractor
from subquad.nn.logmel import LogMel
from subquad.tasks import spelling
from subquad.tasks.ctc.ngrams import Ngrams, counted
from subquad.tasks.rows import Row, RowTask
from subquad.tasks.telling import tell

__all__ = ["SpokenTask", "closed"]

_ROOM = 1 << 28  # bytes of features that are kept from epoch to epoch
_LEARNT = 20_000  # transcripts that n-grams are counted in
_NGRAMS = "transcripts.arpa"


def closed(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows without decoding a recording."""
    return rows.closed if isinstance(rows, Heard) else rows


def embedded() -> Examples:
    """Sentences where the machine can speak, else Morse code, which says what to install."""
    try:
        synthesiser()
    except ValueError:
        found = morse()
        return replace(found, source=f"{found.source}; espeak-ng, if installed, speaks sentences")
    return speech()


class SpokenTask(RowTask):
    """A task over recordings. Its `config` has the fields of `AsrConfig`."""

    form = Form("asr", {"audio": (), "text": ()}, lambda found: found, "text")
    columns = ("audio", "text")
    reads = ("audio",)
    fill = {"input_features": 0, "attention_mask": 0, "labels": -100}  # noqa: RUF012

    def __init__(
        self,
        config: Any,
        words: Transcripts | None = None,
        log_mel: LogMel | None = None,
        ngrams: Ngrams | None = None,
    ) -> None:
        self.config, self._words, self._log_mel, self._ngrams = config, words, log_mel, ngrams

    def begin(self, folder: Path) -> None:
        self._words = spelling.open_words(folder)
        self._log_mel = _features_in(folder)

    @property
    def words(self) -> Transcripts:
        """The vocabulary, known once data is open."""
        assert self._words is not None
        return self._words

    @property
    def log_mel(self) -> LogMel:
        """The features, normalised by the training part, known once data is open."""
        assert self._log_mel is not None
        return self._log_mel

    # --- data ---------------------------------------------------------------------------------

    def outputs(self, frames: int) -> int:
        """How many outputs the model has for so many frames."""
        raise NotImplementedError

    def open(self, data: str | None) -> Examples:
        return open_speech(data, columns=self.told_columns, default=embedded)

    def fitting(self, found: Examples) -> Examples:
        """The training recordings whose transcripts can be written, the others counted."""
        # played faster, a recording has fewer frames
        pace = max(SPEEDS) if self.config.speed else 1.0

        def allowed(seconds: float) -> int:
            return self.outputs(LogMel.frames(int(seconds * RATE / pace)))

        every = closed(found.rows["train"])
        places, why = usable(every, self.words, allowed)
        some = [every[place] for place in places]
        heard = [row for row in some if row["seconds"] <= self.config.window]
        why += Counter({"a training recording longer than the window": len(some) - len(heard)})
        return replace(
            found,
            rows={**found.rows, "train": Heard(heard)},
            left_out=dict(Counter(found.left_out) + why),
            left_in={**found.left_in, "train": Counter(found.left_in.get("train", {})) + why},
        )

    def learn(self, rows: Sequence[Row]) -> None:
        texts = [row["text"] for row in closed(rows)]
        if self._words is None:
            self._words = spelling.learn(self.config.tokenizer, texts)
        self.examples = self.fitting(self.known)
        if why := self._left_out(self.examples):
            tell(f"left out of training: {why}")
        if not len(self.known.rows["train"]):
            raise ValueError(
                f"{self.known.source}: no recording of its train part can be used; left out are "
                f"{why}"
            )
        if self._log_mel is None:
            self._log_mel = self._normal(self.known.rows["train"])
        if self._ngrams is None and self.config.ngram:
            self._ngrams = self._counted([t for t in texts if not self.words.strange(t)])

    @torch.no_grad()
    def _normal(self, rows: Sequence[Row]) -> LogMel:
        """Features, normalised by mean and deviation of all these recordings, one after another."""
        opened, plain = Careful(rows, tell), LogMel()

        def features() -> Iterator[Tensor]:
            for place in range(len(rows)):
                for row in opened.those([place]):
                    yield plain(_wave(row)[None])[0][0]
                self.report(1, len(rows))

        return LogMel(*mean_and_std(features()))

    @staticmethod
    def _left_out(found: Examples) -> str:
        return ", ".join(f"{many:,} with {why}" for why, many in found.left("train").items())

    def _counted(self, texts: Sequence[str]) -> Ngrams:
        known = spelling.names(self.words)
        some = (self.words.encode(texts[i]) for i in spread(len(texts), _LEARNT))
        said = [[known[token] for token in ids] for ids in some]
        return counted(said, self.config.ngram, set(known[2:]))

    # --- items --------------------------------------------------------------------------------

    def inputs(self, row: Row) -> dict[str, Tensor]:
        with torch.no_grad():
            features = self.log_mel(_wave(row)[None])[0][0]
        return {"input_features": features, "attention_mask": torch.ones(len(features)).long()}

    def targets(self, row: Row) -> dict[str, Tensor]:
        return {"labels": torch.tensor(self.words.encode(row["text"]), dtype=torch.int64)}

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        return [LogMel.frames(int(row["seconds"] * RATE)) for row in closed(rows)]

    @property
    def tokens_per_item(self) -> int:
        sizes = self.sizes(self.known.rows["train"])
        return max(1, sum(sizes) // len(sizes))

    def train_set(self, count: int, seed: int) -> Dataset:
        every = self.known.rows["train"]
        rows, hide, kept = Careful(every, tell), SpecAugment(), Kept(_ROOM)

        def played(place: int, speed: float) -> dict[str, Tensor]:
            row = rows.near(place)
            row = {**row, "audio": faster(row["audio"], speed)}
            return self.inputs(row) | self.targets(row)

        def item(place: int, draw: Any) -> dict[str, Tensor]:
            speed = any_speed(draw) if self.config.speed else 1.0
            given = kept((place, speed), partial(played, place, speed))
            if self.config.mask:
                hidden = hide(given["input_features"][None], None, [draw])[0]
                given = {**given, "input_features": hidden}
            return given

        return Augmented(item, self.sizes(every), count, seed)

    # --- the run folder -----------------------------------------------------------------------

    def save(self, folder: Path) -> dict[str, Any]:
        spelling.keep(self.words, folder)
        told = (t.tolist() for t in (self.log_mel.mean, self.log_mel.std))
        SubquadFeatureExtractor(*told).save_pretrained(folder)
        if self._ngrams is not None:
            self._ngrams.write(folder / _NGRAMS)
        kind = "letters" if isinstance(self.words, Letters) else "pieces"
        return {
            "config": asdict(self.config),
            "vocabulary": {"kind": kind, "size": self.words.size},
        }

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "SpokenTask":
        words, log_mel = spelling.open_words(folder), _features_in(folder)
        path = folder / _NGRAMS
        ngrams = Ngrams.read(path) if path.is_file() else None
        return cls(cls.Config(**facts["config"]), words, log_mel, ngrams)


def _features_in(folder: Path) -> LogMel:
    """The features of a run or checkpoint. ValueError if it heard none."""
    if not (folder / "preprocessor_config.json").is_file():
        raise ValueError(f"{folder} has no preprocessor_config.json, so what it heard is not known")
    return SubquadFeatureExtractor.from_pretrained(folder, local_files_only=True).log_mel()


def _wave(row: Row) -> Tensor:
    return torch.as_tensor(row["audio"]).float()
