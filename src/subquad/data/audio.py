"""Recordings as waves: float32, one channel, 16 kHz; decoded when asked for.

A recording of several channels becomes their mean, one at another rate is resampled. Of a recording
that nobody has asked for only the header is read.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from subquad.data.decoding import Opened
from subquad.data.forms import UnfitError
from subquad.data.npz import memory
from subquad.data.resample import resample

__all__ = [
    "RATE",
    "SUFFIXES",
    "Careful",
    "Heard",
    "Member",
    "Samples",
    "Sound",
    "soundfile",
    "unusual",
]

RATE = 16_000
SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"}
_SOUNDFILE = "recordings need soundfile: pip install 'subquad[audio]'"
_LONGEST = 1 << 40  # samples; headers that do not know their length say more
_BLOCK = 1 << 20  # samples read at once, of all channels
_SLOWEST, _FASTEST = 1_000, 768_000  # samples a second; others are a header gone wrong


def soundfile() -> Any:
    """The module soundfile. ValueError with what to install if it is absent."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without the library that it wraps
        raise ValueError(_SOUNDFILE) from error
    return soundfile


@dataclass(frozen=True)
class Member:
    """A run of bytes inside a file, such as a member of a .tar."""

    file: Path
    start: int
    size: int

    def read(self) -> bytes:
        """All its bytes; fewer if the file ends before."""
        with open(self.file, "rb") as stream:
            stream.seek(self.start)
            return stream.read(self.size)


@dataclass(frozen=True)
class Samples:
    """A wave (S,) int16, at so many samples a second."""

    values: np.ndarray
    rate: int


class _Window(io.RawIOBase):
    """A member as a file of its own."""

    def __init__(self, member: Member) -> None:
        self.stream, self.member, self.at = open(member.file, "rb"), member, 0  # noqa: SIM115

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = (0, self.at, self.member.size)[whence] + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.member.size - self.at)
        self.stream.seek(self.member.start + self.at)
        found = self.stream.read(left if size < 0 else min(size, left))
        self.at += len(found)
        return found

    def readinto(self, into: Any) -> int:
        found = self.read(len(into))
        into[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self.stream.close()
        super().close()


@dataclass(frozen=True)
class Sound:
    """A recording that is not decoded yet.

    name: the same on every machine.  data: a file, a member of one, the bytes of one, or samples.
    """

    name: str
    data: Path | Member | bytes | Samples

    def seconds(self) -> float:
        """Its length by its header. UnfitError with the reason if there is no sound to be had."""
        if isinstance(self.data, Samples):
            count, rate = len(self.data.values), self.data.rate
        else:
            if self._size() == 0:
                raise UnfitError("an empty audio file")
            library = soundfile()
            try:
                with self._stream() as stream, library.SoundFile(stream) as opened:
                    count, rate = opened.frames, opened.samplerate
            except (library.SoundFileError, OSError, RuntimeError, TypeError):
                raise UnfitError("a file that is no audio") from None
        if not 0 < count < _LONGEST:
            raise UnfitError("audio without samples")
        if reason := unusual(rate):
            raise UnfitError(reason)
        return count / rate

    def wave(self) -> np.ndarray:
        """(S,) float32 at 16 kHz. ValueError that names the recording if it is damaged."""
        if isinstance(self.data, Samples):
            return resample(self.data.values.astype(np.float32) / 32768, self.data.rate, RATE)
        library = soundfile()
        try:
            with self._stream() as stream, library.SoundFile(stream) as opened:
                found, count, rate = _mean(opened, self.name), opened.frames, opened.samplerate
        except (library.SoundFileError, OSError, RuntimeError, TypeError) as error:
            raise ValueError(f"the recording {self.name} cannot be decoded: {error}") from None
        if len(found) < count or not len(found):
            raise ValueError(
                f"the recording {self.name} is damaged: it has {len(found):,} samples, and its "
                f"header says {count:,}"
            )
        if reason := unusual(rate):
            raise ValueError(f"the recording {self.name} is {reason}")
        if not np.isfinite(found).all():
            raise ValueError(f"the recording {self.name} holds samples that are no numbers")
        return resample(found, rate, RATE)

    def _size(self) -> int:
        """Bytes. UnfitError if there is no such file."""
        if isinstance(self.data, Member):
            return self.data.size
        if isinstance(self.data, bytes):
            return len(self.data)
        assert isinstance(self.data, Path)
        try:
            return self.data.stat().st_size
        except OSError:
            raise UnfitError("an audio file that is not there") from None

    @contextmanager
    def _stream(self) -> Iterator[BinaryIO]:
        found: Any
        if isinstance(self.data, Member):
            found = _Window(self.data)
        elif isinstance(self.data, bytes):
            found = io.BytesIO(self.data)
        else:
            assert isinstance(self.data, Path)
            found = open(self.data, "rb")  # noqa: SIM115
        with found:
            yield found


def _mean(opened: Any, name: str) -> np.ndarray:
    """The mean of all channels (S,), by blocks: a header may declare more than there is memory.

    ValueError for one that takes more than half of it: silence is packed to next to nothing.
    """
    found, need, most = [np.zeros(0, np.float32)], 0.0, memory()
    step = max(1, _BLOCK // max(1, opened.channels))
    # held as blocks and as a whole, then as it is and resampled
    each = 4 * (1 + max(1.0, RATE / max(1, opened.samplerate)))
    while len(block := opened.read(step, dtype="float32", always_2d=True)):
        found.append(block.mean(1))
        need += each * len(block)
        if need > most:
            raise ValueError(
                f"the recording {name} takes more than {most:,} bytes once it is decoded, half of "
                "this machine's memory; cut it into pieces"
            )
    return np.concatenate(found)


def unusual(rate: int) -> str:
    """What is wrong with so many samples a second, if anything is."""
    if rate < _SLOWEST:
        return f"audio of less than {_SLOWEST:,} samples a second"
    return f"audio of more than {_FASTEST:,} samples a second" if rate > _FASTEST else ""


class Heard(Opened):
    """Rows whose field `audio` is a Sound: it is decoded when the row is asked for."""

    def open(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "audio": row["audio"].wave()}


class Careful:
    """Rows of recordings for training and scoring, which must not stop at one that is damaged.

    A header does not tell that the middle of a file is damaged. Such a recording is told of once,
    by name, counted in `left_out`, and not decoded again.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], tell: Callable[[str], None]) -> None:
        self.rows, self.tell = rows, tell
        self.left_out: Counter[str] = Counter()
        self._damaged: set[int] = set()

    def those(self, places: Iterable[int]) -> list[dict[str, Any]]:
        """The rows at these places that can be opened."""
        found = (self._at(place) for place in places)
        return [row for row in found if row is not None]

    def near(self, place: int) -> dict[str, Any]:
        """The row at this place or, where it is damaged, the next one that is not, so that every
        item of an epoch is there. ValueError if none can be opened."""
        for step in range(len(self.rows)):
            if (row := self._at((place + step) % len(self.rows))) is not None:
                return row
        raise ValueError(f"none of {len(self.rows):,} recordings can be decoded")

    def _at(self, place: int) -> dict[str, Any] | None:
        if place in self._damaged:
            return None
        try:
            return self.rows[place]
        except ValueError as error:
            self._damaged.add(place)
            self.left_out["a recording that is damaged inside"] += 1
            self.tell(f"{error}; it is left out")
            return None
