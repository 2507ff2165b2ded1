"""Rows that are made when they are asked for: what holds for every kind of them."""

import pickle

import numpy as np
import pytest

from subquad.data.listops import ListOps
from subquad.data.made import Made
from subquad.data.pathfinder import Pathfinder
from subquad.data.scenes import Scenes

KINDS = {
    "listops": lambda part="train", seed=3: ListOps(8, seed, part, 20, 60),
    "pathfinder": lambda part="train", seed=3: Pathfinder(8, seed, part),
    "scenes": lambda part="train", seed=3: Scenes(8, seed, part),
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def content(row: dict) -> tuple:
    """Everything of a row, in a form that compares."""
    return tuple(
        (key, value.tobytes() if isinstance(value, np.ndarray) else str(value))
        for key, value in row.items()
    )


@each_kind
def test_rows_depend_on_seed_part_and_number_alone(make):
    one, two = make(), pickle.loads(pickle.dumps(make()))
    assert one == two
    backwards = [content(two[i]) for i in reversed(range(8))]
    assert [content(row) for row in one] == backwards[::-1]


@each_kind
def test_seeds_and_parts_share_no_draw(make):
    sets = [make(), make(seed=4), make(part="valid"), make(part="test")]
    seen = [{content(row) for row in made} for made in sets]
    assert all(len(some) == 8 for some in seen)
    assert len(set().union(*seen)) == 32


@each_kind
def test_a_row_beyond_the_last_is_none(make):
    made = make()
    assert len(made) == 8
    for index in (8, -1):
        with pytest.raises(IndexError, match=rf"no row {index}; rows are 0 to 7"):
            made[index]


@each_kind
def test_parts_and_counts_that_are_none_are_named(make):
    with pytest.raises(ValueError, match="no part 'dev'; parts are train, valid, test"):
        make(part="dev")
    with pytest.raises(ValueError, match="count 8 and seed -1 must not be below 0"):
        make(seed=-1)


def test_a_kind_says_how_its_rows_are_made():
    with pytest.raises(NotImplementedError):
        Made(1, 0, "train")[0]
