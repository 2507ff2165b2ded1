"""Places spread over rows: increasing, reproducible, and blind to rows that take turns."""

import pytest

from subquad.data.rows import spread


@pytest.mark.parametrize(("length", "most"), [(0, 5), (1, 1), (7, 7), (7, 9), (10, 3), (1000, 63)])
def test_places_are_spread(length, most):
    places = spread(length, most)
    count = min(length, most)
    assert places == spread(length, most)
    assert all(i * length // count <= at < (i + 1) * length // count for i, at in enumerate(places))
    assert len(places) == count
    if most >= length:
        assert places == [*range(length)]


@pytest.mark.parametrize("turns", [2, 10])
def test_labels_that_take_turns_are_all_there(turns):
    """As in Pathfinder, whose labels alternate: 1,000 of 2,000 rows."""
    for length, most in ((2000, 1000), (1000, 100), (400, 40)):
        labels = [at % turns for at in spread(length, most)]
        often = [labels.count(label) for label in range(turns)]
        # binomial, 5 standard deviations
        wanted = most / turns
        assert all(abs(n - wanted) < 5 * (wanted * (1 - 1 / turns)) ** 0.5 for n in often)
