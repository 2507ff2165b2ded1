"""Long recordings in bounded memory: windows that overlap, and cuts where nothing is said.

A model that looks both ways hears a window of `length` samples at a time; the outputs of `margin`
samples on each side, which would want to know what comes before or behind, are left out, and the
middles joined. What is joined is decoded in parts, cut in the middle of the longest run of blanks.
Greedy decoding does not notice a cut among blanks; where there are none, a token that is said on
both sides of the cut is said twice. A language model begins anew after each.

Axes: S samples, N outputs.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from subquad.data.audio import RATE

__all__ = ["numbers", "parts", "windows"]


def numbers(waves: Iterable[Tensor]) -> Iterator[Tensor]:
    """Waves (S,) that follow each other. ValueError, with the place, if a sample is no number."""
    begin = 0
    for wave in waves:
        if not (finite := wave.isfinite()).all():
            at = begin + int((~finite).int().argmax())
            raise ValueError(
                f"what came holds samples that are no numbers, the first at {at / RATE:.3f} s, "
                f"sample {at:,}"
            )
        begin += len(wave)
        yield wave


def windows(
    waves: Iterable[Tensor], length: int, margin: int
) -> Iterator[tuple[Tensor, int, int | None]]:
    """(a window (S,), where its middle begins, where that ends) of waves (S,) that follow each
    other; None: with the window.
    """
    if length <= 2 * margin:
        raise ValueError(f"a window of {length} samples has no middle between margins of {margin}")
    held, begin = torch.zeros(0), 0
    for wave in waves:
        held = torch.cat((held, wave))
        while len(held) > length:
            yield held[:length], begin, length - margin
            held, begin = held[length - 2 * margin :], margin
    if len(held):
        yield held, begin, None


def parts(
    pieces: Iterable[Tensor], silent: Callable[[Tensor], Tensor], longest: int
) -> Iterator[tuple[int, Tensor]]:
    """(its first output, outputs (N, ...)) of parts that are decoded by themselves.

    pieces (N, ...): they follow each other.  silent: tells which of them (N,) are blanks.  longest:
    outputs of a part at most; it is cut in the second half of so many.
    """
    held, first = None, 0
    for piece in pieces:
        held = piece if held is None else torch.cat((held, piece))
        while len(held) > longest:
            half = longest // 2
            cut = half + _quiet(silent(held[half:longest]).tolist())
            yield first, held[:cut]
            held, first = held[cut:], first + cut
    if held is not None and len(held):
        yield first, held


def _quiet(silent: list[bool]) -> int:
    """The middle of the longest run of blanks, or the end where there is none."""
    best, run, cut = 0, 0, len(silent)
    for n, yes in enumerate(silent):
        run = run + 1 if yes else 0
        if run > best:
            best, cut = run, n + 1 - run // 2
    return cut
