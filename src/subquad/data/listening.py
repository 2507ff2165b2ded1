"""Recordings by and by: a file block after block, and samples from a pipe as they come.

    np.concatenate([*blocks(path)])  ==  the whole wave, 16 kHz, one channel

in memory that does not grow with the length. What comes through a pipe is raw samples, 16 bit,
little-endian, one channel, 16 kHz, or a WAV file of 16 bits at 16 kHz, told by its header.
"""

import struct
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import numpy as np

from subquad.data.audio import RATE, soundfile, unusual
from subquad.data.resample import resample

__all__ = ["blocks", "piped", "seconds_of"]

_BLOCK = 10  # seconds
_MARGIN = 1  # seconds on each side that a block is resampled with: more than any filter reaches
_PIPED = 1 << 14  # bytes that are read at once at most
_OPEN = (0, 0xFFFFFFFF)  # sizes that say: until the pipe ends


def seconds_of(path: Path) -> float:
    """The length of a recording by its header. ValueError in one line for what is none."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; a recording holds samples")
    library = soundfile()
    try:
        told = library.info(str(path))
    except (library.SoundFileError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rpartition(": ")[2]
        raise ValueError(f"{path} is no recording that can be read: {reason}") from None
    if not told.frames:
        raise ValueError(f"{path} holds no samples")
    if reason := unusual(told.samplerate):
        raise ValueError(f"{path} is {reason}")
    return told.frames / told.samplerate


def blocks(path: Path) -> Iterator[np.ndarray]:
    """The wave of a file in blocks (S,) float32. ValueError for what cannot be read, and where."""
    seconds_of(path)
    library = soundfile()
    with library.SoundFile(str(path)) as file:
        rate, total = file.samplerate, file.frames
        margin = _MARGIN * rate
        kept = np.zeros(0, np.float32)  # what the next block is resampled with on its left
        coming, done = _read(file, _BLOCK * rate + margin, path), 0
        while True:
            fresh = len(coming)
            last = done + fresh >= total
            own = fresh if last else fresh - margin
            heard = np.concatenate((kept, coming))
            # a second is a whole number of samples at both rates, so blocks meet exactly
            begin = len(kept) // rate * RATE
            made = resample(heard, rate, RATE)
            yield made[begin:] if last else made[begin : begin + own // rate * RATE]
            if last:
                return
            done += own
            kept = heard[len(heard) - 2 * margin : len(heard) - margin]
            rest = heard[len(heard) - margin :]
            coming = np.concatenate((rest, _read(file, _BLOCK * rate, path)))


def _read(file: object, count: int, path: Path) -> np.ndarray:
    """The next samples, the mean of all channels. ValueError where the file is damaged."""
    library = soundfile()
    try:
        at = file.tell()  # type: ignore[attr-defined]
        found = file.read(count, dtype="float32", always_2d=True)  # type: ignore[attr-defined]
        wanted = min(count, file.frames - at)  # type: ignore[attr-defined]
        rate = file.samplerate  # type: ignore[attr-defined]
    except (library.SoundFileError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(found) < wanted:
        raise ValueError(f"{path} is damaged: it ends at {(at + len(found)) / rate:.1f} s")
    if not (finite := np.isfinite(found).all(1)).all():
        where = at + int(np.argmin(finite))
        raise ValueError(
            f"{path} holds samples that are no numbers, the first at {where / rate:.3f} s, sample "
            f"{where:,}"
        )
    return found.mean(1)


def piped(read: Callable[[int], bytes]) -> Iterator[np.ndarray]:
    """Waves (S,) float32 of what `read(most)` gives, b"" at the end, as soon as it is there.

    ValueError for a WAV file that is not of 16 bits and 16 kHz, and for a pipe without a sample.
    """
    left = _at_least(read, b"", 4)
    channels, coming = 1, inf
    if left[:4] == b"RIFF":
        channels, coming, left = _header(read, left)
    width, heard = 2 * channels, False
    while True:
        if len(left) > coming:  # what stands behind the samples is none of them
            left = left[: int(coming)]
        whole = len(left) // width * width
        if whole:
            heard = True
            samples = np.frombuffer(left[:whole], "<i2").reshape(-1, channels)
            yield (samples.astype(np.float32) / 32768).mean(1)
            left, coming = left[whole:], coming - whole
        if coming < width or not (more := read(_PIPED)):
            break
        left += more
    if not heard:
        raise ValueError("nothing came: the pipe holds no sample")


def _at_least(read: Callable[[int], bytes], had: bytes, count: int) -> bytes:
    while len(had) < count and (more := read(_PIPED)):
        had += more
    return had


def _header(read: Callable[[int], bytes], had: bytes) -> tuple[int, float, bytes]:
    """The channels of a WAV file, the bytes of its samples, and what has come of them."""
    at, channels = 12, 0
    while True:
        had = _at_least(read, had, at + 8)
        if len(had) < at + 8 or had[8:12] != b"WAVE":
            raise ValueError("what came begins as a WAV file, and its header ends or is no such")
        name, size = had[at : at + 4], struct.unpack_from("<I", had, at + 4)[0]
        if name == b"data":
            if not channels:
                raise ValueError("the WAV file does not say how its samples are written")
            return channels, inf if size in _OPEN else size, had[at + 8 :]
        had = _at_least(read, had, at + 8 + size)
        if name == b"fmt " and len(had) >= at + 24:
            form, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", had, at + 8)
            if form not in (1, 0xFFFE) or bits != 16 or rate != RATE or not channels:
                raise ValueError(
                    f"the WAV file holds {channels} channels of {bits} bits at {rate} Hz; a pipe "
                    f"takes 16 bits at {RATE} Hz: convert it, or give the file's name"
                )
        at += 8 + size + size % 2
