"""Morse code: words keyed as short and long tones, each made when it is asked for.

The embedded data of speech recognition: one to three words, by keyers of different pitch and pace,
in noise. A dot lasts a unit, a dash three; a unit of silence stands between them, three between
letters and seven between words (ITU-R M.1677-1).
"""

from dataclasses import dataclass

import numpy as np

from subquad.data.audio import RATE, Heard
from subquad.data.examples import Examples
from subquad.data.made import draws

__all__ = ["CODE", "Keyed", "morse", "units"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SIGNS = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- "
    "-..- -.-- --.."
)
CODE = dict(zip(_LETTERS, _SIGNS.split(), strict=True))
_SPOKEN = (
    "all and bay box bread calm cold copy day deck dew east end far fair fix fog for gale here "
    "high ice jet just keel key left light low map mast mild near night north not off oil one open "
    "port quay quick rain red rope sail sea ship sky slow snow south star storm sun tide two up "
    "wave west wind yes zone"
)
_WORDS = _SPOKEN.split()
_COUNTS = {"train": 3_000, "valid": 200, "test": 400}
_VERSION = 1  # of what a row of a number holds
_EDGE = 0.004  # seconds in which a tone comes and goes, so that it does not click


@dataclass(frozen=True)
class Keyed:
    """A text and how it is keyed: seconds of a unit, pitch in Hz, loudness of tone and noise."""

    text: str
    unit: float
    pitch: float
    loud: float
    noise: float
    seed: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self._samples / RATE

    def wave(self) -> np.ndarray:
        """(S,) float32 at 16 kHz."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, _VERSION]))
        on = np.zeros(self._samples, np.float32)
        edge = np.ones(round(_EDGE * RATE), np.float32)
        for start, length in _tones(self.text):
            begin, end = (round((at + 3) * self.unit * RATE) for at in (start, start + length))
            on[begin:end] = 1.0
        on = np.convolve(on, edge / len(edge), "same")
        turns = 2 * np.pi * self.pitch / RATE * np.arange(len(on))
        noise = self.noise * draw.standard_normal(len(on))
        return (self.loud * on * np.sin(turns) + noise).astype(np.float32)

    @property
    def _samples(self) -> int:
        # three units of silence before and behind
        return round((units(self.text) + 6) * self.unit * RATE)


def units(text: str) -> int:
    """How many units a text takes. ValueError for what cannot be keyed."""
    return max((start + length for start, length in _tones(text)), default=0)


def _tones(text: str) -> list[tuple[int, int]]:
    """(first unit, units) of each tone."""
    tones, at = [], 0
    for word in text.split():
        for letter in word:
            if letter not in CODE:
                raise ValueError(f"{letter!r} has no Morse code here; letters a to z have")
            for sign in CODE[letter]:
                tones.append((at, 1 if sign == "." else 3))
                at += tones[-1][1] + 1
            at += 2
        at += 4
    return tones


def morse() -> Examples:
    """The embedded recordings."""
    rows = {part: Heard(_rows(part, count)) for part, count in _COUNTS.items()}
    sizes = ", ".join(f"{count:,} {part}" for part, count in _COUNTS.items())
    return Examples(rows, f"made-up Morse code ({sizes})", f"morse-{_VERSION}")


def _rows(part: str, count: int) -> list[dict]:
    draw = draws(0, part, 0)
    unit, pitch = draw.uniform(0.03, 0.05, count), draw.uniform(400, 900, count)
    loud, noise = draw.uniform(0.1, 0.5, count), draw.uniform(0.0, 0.02, count)
    how = zip(*(t.tolist() for t in (unit, pitch, loud, noise)), strict=True)
    chosen, many = draw.integers(len(_WORDS), size=(count, 3)), draw.integers(1, 4, count)
    rows = []
    for i, (given, some, numbers) in enumerate(zip(how, chosen, many, strict=True)):
        text = " ".join(_WORDS[word] for word in some[:numbers])
        keyed = Keyed(text, *given, i)
        row = {"audio": keyed, "text": text, "name": f"{part}-{i}", "seconds": keyed.seconds}
        rows.append(row)
    return rows
