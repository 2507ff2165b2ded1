"""What a few lengths say of others: extrapolation, and where two parties break even."""

import math
from collections.abc import Mapping

__all__ = ["break_even", "extrapolate", "told"]


def extrapolate(known: Mapping[int, float], length: int) -> float:
    """What the two longest known lengths say of `length`: a + b N where the cost grows no faster
    than the length, else b N + c N^2, where a, b, c >= 0.

    A cost with one known length counts as quadratic: that is the most that attention grows.
    ValueError if nothing is known.
    """
    if length in known:
        return known[length]
    if not known:
        raise ValueError("nothing is known to go by; measure at least one length")
    *_, last = lengths = sorted(known)
    if len(lengths) == 1:
        return known[last] * (length / last) ** 2
    n, m = lengths[-2:]
    rate_n, rate_m = known[n] / n, known[m] / m
    square = (rate_m - rate_n) / (m - n)
    if square <= 0:
        slope = max(0.0, (known[m] - known[n]) / (m - n))
        return known[m] + slope * (length - m)
    linear = rate_n - square * n
    if linear < 0:
        return known[m] * (length / m) ** 2
    return linear * length + square * length**2


def break_even(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """The length from which on ours takes no longer; between two lengths both costs are straight
    lines on logarithmic axes. 0 if it is so at all known lengths, None if not at the longest.
    """
    lengths = sorted(ours.keys() & theirs.keys())
    gaps = [math.log(ours[n] / theirs[n]) for n in lengths]
    if not gaps or gaps[-1] > 0:
        return None
    slower = [i for i, gap in enumerate(gaps) if gap > 0]
    if not slower:
        return 0.0
    i = slower[-1]
    share = gaps[i] / (gaps[i] - gaps[i + 1])
    return lengths[i] * (lengths[i + 1] / lengths[i]) ** share


def told(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """`break_even` in words."""
    lengths = sorted(ours.keys() & theirs.keys())
    if not lengths:
        return "not measured"
    found = break_even(ours, theirs)
    if found is None:
        return f"none up to {lengths[-1]:,}"
    return f"at most {lengths[0]:,}" if found == 0.0 else f"{found:,.0f}"
