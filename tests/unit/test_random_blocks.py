"""BigBird's random blocks: what is drawn, how it is run, and what it costs."""

from __future__ import annotations

import pytest
import torch

import subquad as sq
from subquad.ops.band import band
from subquad.ops.drawn import drawn, drawn_of
from subquad.ops.marked import marked
from subquad.ops.partial import Scoring, Where
from subquad.ops.pattern import Coords
from subquad.ops.patterns import Chunks, Full, Marked, RandomBlocks, SameLabel
from subquad.ops.plan import plan
from subquad.ops.tiles import Scratch, Tile, tile_forward

pytestmark = pytest.mark.usefixtures("one_thread")

ARCH = sq.ARCHS["bigbird"]


def place(n: int) -> Where:
    at = Coords(torch.arange(n).view(1, 1, n))
    return Where(at, at)


def blocks(pattern: RandomBlocks, count: int) -> torch.Tensor:
    """What the first blocks draw: (blocks, drawn)."""
    every = torch.arange(count)
    return torch.stack([pattern.drawn(every, which) for which in range(pattern.count)], -1)


@pytest.mark.parametrize("seed", [0, 7, 2**31])
def test_draws_are_different_and_below_the_power_of_two_above(seed: int):
    found = blocks(RandomBlocks(64, 16, seed), 700)
    assert all(len(set(row)) == 16 for row in found.tolist())
    for block, row in enumerate(found):
        assert row.min() >= 0
        assert row.max() < max(16, 1 << block.bit_length())
    assert sorted(found[3].tolist()) == list(range(16)), "sixteen different ones of sixteen"


def test_every_block_is_drawn_about_as_often():
    """Chi-squared over 262,144 draws in each range; 255 degrees of freedom have 255 +- 22.6."""
    for which in (0, 1, 2):
        counts = torch.zeros(256)
        for seed in range(2048):
            at = torch.arange(128, 256)
            counts += torch.bincount(RandomBlocks(1, 3, seed).drawn(at, which), minlength=256)
        expected = 2048 * 128 / 256
        assert 255 - 5 * 22.6 < ((counts - expected) ** 2 / expected).sum() < 255 + 5 * 22.6


def test_draws_of_a_block_and_of_seeds_are_unlike():
    """Two draws of a block, of neighbours and of seeds agree about as often as chance has it."""
    at = torch.arange(2048, 4096)
    a, b = (RandomBlocks(1, 2, seed) for seed in (0, 1))
    pairs = [(a.drawn(at, 0), b.drawn(at, 0)), (a.drawn(at, 0)[1:], a.drawn(at, 0)[:-1])]
    for x, y in pairs:
        assert (x == y).float().mean() < 5 / 4096
    # the distance of two draws is as random as each: no arithmetic progression
    gap = (a.drawn(at, 0) - a.drawn(at, 1)) % 4096
    assert 0.45 < (gap < 2048).float().mean() < 0.55
    assert len(gap.unique()) > 1400  # 2,048 draws of 4,096 give about 1,611 different ones


def test_no_length_changes_what_is_drawn():
    p = RandomBlocks(5, 3, 11)
    long = place(500).allowed(p)
    for n in (1, 63, 499):
        assert torch.equal(place(n).allowed(p), long[..., :n, :n])


def test_attend_gives_drawn_blocks_to_their_engine():
    q = torch.empty(1, 2, 4096, 8)
    whole = ARCH.pattern(ARCH.Config(), 0)
    parts = plan(
        q, q, sq.ops.lowering.without(whole, labels=False, marks=True), place(4096), Scoring(1.0)
    )
    assert [p.engine for p in parts] == [band, drawn, marked]
    q = q[:, :, :300]
    assert [p.engine for p in plan(q, q, whole, place(300), Scoring(1.0))] == [band]
    few, many = RandomBlocks(4, 1), RandomBlocks(4, 3)
    assert drawn_of(Full() & (many - Chunks(4, 1))) == many
    assert drawn_of(many & few) == drawn_of(few & many) == few
    assert drawn_of(many | few) is None


def test_scores_grow_with_the_length_alone(monkeypatch: pytest.MonkeyPatch):
    """A layer of the paper's shape: 192 pairs for each query, whatever the length."""
    scored = []

    def counting(tile: Tile, scratch: Scratch):
        scored.append(tile.q.shape[0] * tile.q.shape[1] * tile.k.shape[1])
        return tile_forward(tile, scratch)

    monkeypatch.setattr("subquad.ops.drawn.tile_forward", counting)
    for n in (4096, 8192):
        scored.clear()
        q = torch.randn(1, 1, n, 8)
        drawn(q, q, q, RandomBlocks(64, 3), place(n), Scoring(1.0))
        assert sum(scored) == 192 * n


def test_the_pattern_of_a_layer():
    config = ARCH.Config(block=32, window=2, random_blocks=1, seed=3)
    near, far = Chunks(32, 2, 2), RandomBlocks(32, 1, 3005)
    assert ARCH.pattern(config, 5) == (near | far | Marked()) & SameLabel()
    none = ARCH.Config(block=32, random_blocks=0)
    assert ARCH.pattern(none, 0) == (Chunks(32, 1, 1) | Marked()) & SameLabel()
    with pytest.raises(ValueError, match="count must be a whole number of at least 1, not -1"):
        ARCH.pattern(ARCH.Config(random_blocks=-1), 0)
