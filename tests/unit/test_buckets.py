"""Batches of about so many tokens: every row once in an epoch, sizes alike, the same again."""

import numpy as np
import pytest

from subquad.data.rows import Bucketed

SIZES = np.random.default_rng(0).integers(3, 40, 301).tolist()


def bucketed(tokens=120, seed=0):
    return Bucketed(lambda places: places, SIZES, 1000, seed, tokens)


@pytest.mark.parametrize("tokens", [1, 39, 120, 10**6])
def test_each_row_once_and_no_batch_too_large(tokens):
    data = bucketed(tokens)
    batches = len(data._bounds)
    for epoch in (0, 1):
        found = [data[epoch * batches + i] for i in range(batches)]
        assert sorted(place for rows in found for place in rows) == [*range(len(SIZES))]
        for rows in found:
            assert len(rows) == 1 or len(rows) * max(SIZES[i] for i in rows) <= tokens
    assert data.mean == round(sum(SIZES) / batches)


def test_little_is_padding():
    data = bucketed()
    found = [data[i] for i in range(len(data._bounds))]
    padded = sum(len(rows) * max(SIZES[i] for i in rows) for rows in found)
    assert padded < 1.05 * sum(SIZES)


def test_orders():
    data = bucketed()
    batches = len(data._bounds)
    assert data[5] == bucketed()[5] != bucketed(seed=1)[5]
    first = sorted(sorted(data[i]) for i in range(batches))
    assert first != sorted(sorted(data[batches + i]) for i in range(batches))
    longest = [max(SIZES[i] for i in data[b]) for b in range(batches)]
    assert longest != sorted(longest)
    assert len(data) == 1000
