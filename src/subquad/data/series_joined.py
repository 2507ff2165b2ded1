"""Series of which the end, the test, is given apart.

The test goes on where the training part ends; or, if its dates say so, it holds that part too, with
the same values: other ones are those of another series.
"""

from typing import Any

import numpy as np

from subquad.data.series import Collected, Series

__all__ = ["joined"]


def joined(train: Series, test: Series) -> tuple[Series, np.ndarray]:
    """The series, and how many steps of each are test. ValueError if the two do not agree."""
    frequency, numbers = train.frequency, {name: i for i, name in enumerate(test.names)}
    if str(frequency) != str(test.frequency):
        raise ValueError(
            f"{train.source} has a step of {frequency}, and {test.source} one of {test.frequency}"
        )
    if missing := [name for name in train.names if name not in numbers]:
        raise ValueError(
            f"{test.source} has no series {missing[0]!r}, and {train.source} has; a test holds "
            f"all of them ({len(missing):,} are not there)"
        )
    made, held = Collected(train.covariate_names), []
    for name, count in (*train.counts.items(), *test.counts.items()):
        made.counts[name] += count
    if more := len(test) - len(train):
        made.counts["series left out that are only in the test"] += more
    for i, name in enumerate(train.names):
        j = numbers[name]
        before, after = train.of(i), test.of(j)
        at = len(before)
        if train.dated and test.dated and frequency is not None:
            at = int(frequency.places(train.start[i], test.start[j : j + 1])[0])
        elif not test.dated:  # blank cells before its first value are steps
            at += int(test.blank[j])
        if (at < len(before) and at != 0) or at + len(after) <= len(before):
            raise ValueError(
                f"series {name!r} of {test.source} begins at {test.start[j]}, and that of "
                f"{train.source} at {train.start[i]} with {len(before):,} steps of {frequency}; "
                "the test must go on after its end, or hold it all"
            )
        if at == 0:
            _agreed(train, i, test, after)
        values = np.full(at + len(after), np.nan, np.float32)
        values[: len(before)] = before
        values[at:] = after
        known = None
        if train.covariate_names:
            told = test.known(j)
            known = np.full((at + len(told), len(train.covariate_names)), np.nan, np.float32)
            known[: len(before)] = train.known(i)[: len(before)]
            known[at:] = told
            values = np.concatenate([values, np.full(len(known) - len(values), np.nan)])
        every = frequency and frequency.on(train.day[i])
        made.add(name, values, train.start[i], every, known)
        held.append(at + len(after) - len(before))
    key = f"{train.key[:16]}{test.key[:16]}"
    source = f"{train.source} and {test.source}"
    how: dict[str, Any] = {"dated": train.dated, "together": train.together}
    return made.done(source, key, frequency, **how), np.asarray(held)


def _agreed(train: Series, number: int, test: Series, after: np.ndarray) -> None:
    """ValueError if a test that holds the training part has other values there."""
    before = train.of(number)
    after = after[: len(before)]
    for step in np.flatnonzero((before != after) & ~(np.isnan(before) & np.isnan(after)))[:1]:
        when = str(train.stamps(number, int(step), 1)[0]).replace("T", " ")
        raise ValueError(
            f"series {train.names[number]!r} of {test.source} holds that of {train.source}, but "
            f"other values: at {when} it has {after[step]:g}, not {before[step]:g}"
        )
