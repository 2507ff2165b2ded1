"""Hearing: from waves to words, whole, in windows, or as they come.

    samples -> features (100 a second) -> outputs (25 a second) -> log-probabilities -> words

A model that streams with a state of bounded size hears a long recording piece by piece, and what it
says is what it says of the whole; any other hears windows that overlap
(`subquad.tasks.ctc.windows`). Either way memory does not grow with the length, but for the text.

Axes: B batch, S samples, N outputs, C model width, V vocabulary.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from subquad.model import run
from subquad.nn.joint import JointHead
from subquad.nn.logmel import LogMel
from subquad.nn.streams import ended
from subquad.tasks.ctc.beams import Beams
from subquad.tasks.ctc.joint import search
from subquad.tasks.ctc.paths import Placed, align, best_path
from subquad.tasks.ctc.windows import numbers, parts, windows
from subquad.tasks.ctc.words import Word, words

__all__ = ["Hearing", "Said", "Spelling"]

_PART = 750  # outputs, half a minute, that beams are kept for at most in a long recording
_PIECE = 16_000  # samples that a model which streams is fed at once


@dataclass(frozen=True)
class Said:
    """A transcript: the text, and its words with their seconds."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """Words with a space between."""
        return " ".join(one.word for one in self.words)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"text": self.text, "words": [asdict(one) for one in self.words]}


@dataclass(frozen=True)
class Hearing:
    """A model of speech (`SubquadForCTC`) with what stands before and behind it.

    raw: what a token writes.  beams: how the likeliest text is sought; None takes the likeliest
    token of each output.  window: seconds that are heard at once; a sixth of them on each side is
    left out where a window stands inside a recording.
    """

    model: Any
    log_mel: LogMel
    raw: Callable[[int], bytes]
    beams: Beams | None = None
    window: float = 30.0

    @property
    def blank(self) -> int:
        """The token that says nothing."""
        return self.model.blank

    @property
    def unit(self) -> int:
        """Samples from output to output."""
        return LogMel.hop * self.model.model.stem.factor

    @property
    def step(self) -> float:
        """Seconds from output to output."""
        return self.unit / LogMel.rate

    @property
    def delay(self) -> int:
        """Milliseconds, rounded up, that may pass between a sound and the text of it. ValueError
        for a model that looks ahead without a limit.
        """
        if not self.model.model.streams:
            raise ValueError(
                "this run looks ahead without a limit, so it hears whole recordings only: train "
                "one that looks ahead by chunks (a conformer with --arch.mixer chunks --arch.conv "
                "chunk), or not at all (--arch.causal true)"
            )
        frames = self.model.model.delay
        return -(-1000 * (frames * LogMel.hop + LogMel.ahead + 1) // LogMel.rate)

    @property
    def lateness(self) -> str:
        """The delay in words."""
        delay, grows = self.delay, ""
        if not self.model.model.bounded:
            grows = "; its memory grows with the length, since it looks back without a limit"
        chunk = round(1000 * self.step * self.model.model.backbone.step)
        return (
            f"text comes at most {delay} ms after its sound: a chunk of {chunk} ms, and "
            f"{delay - chunk} ms that features and their subsampling look ahead{grows}"
        )

    # --- whole --------------------------------------------------------------------------------

    @torch.no_grad()
    def outputs(self, waves: Sequence[Tensor]) -> list[Tensor]:
        """What the head takes, (N, C), of each wave (S,), heard side by side."""
        at = next(self.model.parameters()).device
        lengths = torch.tensor([len(wave) for wave in waves])
        batch = pad_sequence([wave.float() for wave in waves], batch_first=True)
        features, valid = self.log_mel(batch, torch.arange(batch.shape[1]) < lengths[:, None])
        found, counts = self.model.heard(features.to(at), valid.long().to(at))
        return [y[:count] for y, count in zip(found, counts.tolist(), strict=True)]

    @torch.no_grad()
    def log_probs(self, outputs: Tensor) -> Tensor:
        """Log-probabilities (N, V) of outputs (N, C)."""
        return self.model.model.head(outputs).cpu()

    @torch.no_grad()
    def said(self, outputs: Tensor) -> list[Placed]:
        """The tokens that outputs (N, C) say, and when."""
        p = self.log_probs(outputs)
        if self.beams is None or not len(p):
            return best_path(p, self.blank)
        head = self.model.model.head
        if isinstance(head, JointHead):
            found = search(head, outputs, self.beams)
        else:
            found = self.beams.search(p, self.blank)
        return align(p, found[0].tokens, self.blank)

    def transcripts(self, waves: Sequence[Tensor]) -> list[Said]:
        """What is said in each wave (S,)."""
        if not waves:
            return []
        return [self._told(self.said(y)) for y in self.outputs(waves)]

    def _told(self, placed: Iterable[Placed]) -> Said:
        return Said(tuple(words(placed, self.raw, self.step)))

    # --- long ---------------------------------------------------------------------------------

    def transcript(self, waves: Iterable[Tensor]) -> Said:
        """What is said in a recording of any length, given as waves (S,) that follow each other.

        ValueError for samples that are no numbers.
        """
        waves = numbers(waves)
        pieces = self._by_pieces(waves) if self.model.model.bounded else self._by_windows(waves)
        placed: list[Placed] = []
        for first, part in parts(pieces, self._silent, _PART):
            placed += [
                Placed(one.token, one.first + first, one.last + first) for one in self.said(part)
            ]
        return self._told(placed)

    def _silent(self, outputs: Tensor) -> Tensor:
        return self.log_probs(outputs).argmax(-1) == self.blank

    def _by_windows(self, waves: Iterable[Tensor]) -> Iterator[Tensor]:
        margin = max(1, round(self.window / 6 / self.step)) * self.unit
        length = max(3 * margin, round(self.window / self.step) * self.unit)
        for window, begin, end in windows(waves, length, margin):
            y = self.outputs([window])[0]
            yield y[begin // self.unit : None if end is None else end // self.unit]

    @torch.no_grad()
    def _by_pieces(self, waves: Iterable[Tensor]) -> Iterator[Tensor]:
        """Outputs (N, C) as soon as they are known."""
        inner = self.model.model
        stem, stack = inner.stem, inner.backbone
        at = next(self.model.parameters()).device
        state, tail = inner.init_state(1), self.log_mel.init_state(1)
        for wave in waves:
            for piece in wave.float().split(_PIECE):
                features, _, tail = self.log_mel.stream(piece[None], tail)
                if features.shape[1]:
                    y, state = run(stem, stack, None, features.to(at), state=state)
                    yield y[0]
        features, _ = self.log_mel.flush(tail)
        y, state = run(stem, stack, None, features.to(at), state=state)
        yield y[0]
        inputs, state = ended(state)
        yield run(stem, stack, None, inputs, state=state)[0][0]

    # --- as it comes --------------------------------------------------------------------------

    def stream(self, waves: Iterable[Tensor]) -> Iterator[dict[str, Any]]:
        """What waves (S,) add to the text, as they come: {"text", "start", "end"}, in seconds.

        Nothing that came is taken back, and all of it joined is the text of the whole recording,
        token by token the likeliest. Memory grows if the model's state does. ValueError for a model
        that looks ahead without a limit, and for samples that are no numbers.
        """
        _ = self.delay  # says why if there is none
        before, count, spelling = self.blank, 0, Spelling()
        for outputs in self._by_pieces(numbers(waves)):
            said = []
            for n, token in enumerate(self.log_probs(outputs).argmax(-1).tolist(), count):
                if token not in (self.blank, before):
                    said.append(Placed(token, n, n))
                before = token
            count += len(outputs)
            if text := spelling.more(b"".join(self.raw(one.token) for one in said)):
                start, end = said[0].first * self.step, (said[-1].last + 1) * self.step
                yield {"text": text, "start": round(start, 3), "end": round(end, 3)}


class Spelling:
    """A text from its bytes as they come: one space between words, none before the first, and none
    that nothing follows."""

    def __init__(self) -> None:
        self._decode = getincrementaldecoder("utf-8")(errors="replace").decode
        self._begun = self._apart = False

    def more(self, raw: bytes) -> str:
        """What the text gains."""
        said = ""
        for char in self._decode(raw):
            if char == " ":
                self._apart = self._begun
            else:
                said += f" {char}" if self._apart else char
                self._begun, self._apart = True, False
        return said
