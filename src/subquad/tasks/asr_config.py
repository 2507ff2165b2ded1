"""Fields of speech recognition: of the task, of its scoring, of its answers."""

from dataclasses import dataclass

from subquad.tasks.rows import RowScoring

__all__ = ["Answering", "AsrConfig", "AsrScoring"]


@dataclass(frozen=True)
class AsrConfig:
    """Fields of the task `asr`.

    Args:
        tokenizer: what is written: characters; unigram:N or bpe:N, word pieces learnt from the
            training transcripts.
        window: seconds of a recording that are heard at once. Training leaves longer ones out;
            models that look both ways hear them in windows that overlap by a third.
        channels: of the two convolutions that make a token of four frames; default: the model's
            width, as published. They cost most of a small model's time, and a third of it will do.
        speed: training recordings are also played at 0.9 and 1.1 of their speed.
        mask: parts of the features of training recordings are hidden (SpecAugment).
        decoder: layers of a decoder that writes the transcript by attention besides; beams then
            follow both, token by token; 0 for none.
        ctc_weight: that of CTC beside the decoder, in training and in beams; above 0, since CTC
            alone is scored while training goes on, and tells when a word is said.
        ngram: tokens of the longest n-gram that is counted in training transcripts, for --lm ngram.
        valid_rows: recordings of the validation part that are scored at each report.
        audio: the column that names the recording's file; default: the usual names.
        text: the column that holds what is said; default: the usual names.
    """

    tokenizer: str = "characters"
    window: float = 30.0
    channels: int | None = None
    speed: bool = True
    mask: bool = True
    decoder: int = 0
    ctc_weight: float = 0.3
    ngram: int = 5
    valid_rows: int = 500
    audio: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("decoder", 0), ("ngram", 0), ("valid_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.ctc_weight <= 1:
            raise ValueError(f"ctc_weight is {self.ctc_weight}; it lies from 0 to 1")
        if self.decoder and not self.ctc_weight:
            raise ValueError(
                "ctc_weight is 0 beside a decoder; it must be above 0, since CTC alone tells when "
                "words are said"
            )
        kind, _, size = self.tokenizer.partition(":")
        if kind not in ("characters", "unigram", "bpe") or (kind == "characters") == bool(size):
            raise ValueError(
                f"tokenizer is {self.tokenizer!r}; it is characters, unigram:N or bpe:N"
            )
        if size and not size.isdecimal():
            raise ValueError(f"{kind} wants its size, as in {kind}:200, not {self.tokenizer!r}")


@dataclass(frozen=True)
class AsrScoring(RowScoring):
    """How `subquad eval` scores recordings.

    Args:
        part: train, valid, test or all; default: test of the run's own data, all of other data.
        rows: score only so many rows, spread over the part.
        beams: texts that are followed at once; default: 16 with a language model or a decoder, else
            the likeliest token of each output is taken.
        lm: a language model: ngram, counted in the run's training transcripts; an ARPA file, of
            tokens or words; a run of the task lm over bytes.
        lm_weight: how much its logarithms count; default 0.5.
        bonus: for each token, or word, that the language model scores, in nats; default 0.
    """

    beams: int | None = None
    lm: str | None = None
    lm_weight: float | None = None
    bonus: float | None = None


@dataclass(frozen=True)
class Answering:
    """How `subquad predict` answers.

    Args:
        times: each word on a line, with the seconds at which it begins and ends.
        beams: texts that are followed at once, as for `eval`.
        lm: a language model, as for `eval`.
        lm_weight: how much its logarithms count; default 0.5.
        bonus: for each token, or word, that the language model scores, in nats; default 0.
    """

    times: bool | None = None
    beams: int | None = None
    lm: str | None = None
    lm_weight: float | None = None
    bonus: float | None = None
