"""SpecAugment, speeds, and the statistics of a training set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from subquad.data.spec_augment import (
    SPEEDS,
    SpecAugment,
    any_speed,
    draw_of,
    faster,
    mean_and_std,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def hidden(lengths: list[int], augment: SpecAugment, seed: int = 0) -> torch.Tensor:
    """Where ones became zeros."""
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    draws = [draw_of(seed, item) for item in range(len(lengths))]
    return augment(torch.ones(*valid.shape, 80), valid, draws) == 0


def test_each_row_is_hidden_by_its_own_draws_within_its_own_length():
    lengths = [1000, 0, 19, 300]
    found = hidden(lengths, SpecAugment())
    for item, n in enumerate(lengths):
        alone = SpecAugment()(torch.ones(1, n, 80), None, [draw_of(0, item)])[0] == 0
        torch.testing.assert_close(found[item, :n], alone)
    assert not torch.equal(hidden([300] * 2, SpecAugment())[0], hidden([300] * 2, SpecAugment())[1])
    assert torch.equal(hidden(lengths, SpecAugment()), found)
    assert not torch.equal(hidden(lengths, SpecAugment(), seed=1), found)


def test_bands_are_as_wide_as_the_paper_says():
    widths = [
        int(hidden([3], SpecAugment(band_masks=1, time_masks=0), seed)[0].all(0).sum())
        for seed in range(300)
    ]
    assert set(widths) == set(range(28))
    both = [hidden([3], SpecAugment(time_masks=0), seed)[0].all(0) for seed in range(50)]
    runs = [int((row.int().diff() == 1).sum() + row[0]) for row in both]
    assert max(runs) == 2


def test_time_masks_grow_with_the_recording():
    for n in (19, 20, 60):
        counts = [
            int(hidden([n, 70], SpecAugment(band_masks=0, time_masks=1), seed)[0].all(1).sum())
            for seed in range(60)
        ]
        assert set(counts) == set(range(int(0.05 * n) + 1))
    found = hidden([100, 120], SpecAugment(band_masks=0, ratio=1.0))[0].all(1)
    assert not found[100:].any()
    many = [hidden([400], SpecAugment(band_masks=0), seed)[0].all(1).sum() for seed in range(20)]
    assert 60 < sum(many) / 20 < 100  # ten of 10 on average, less what overlaps


def test_nothing_is_hidden_without_masks_and_gradients_pass():
    x = torch.randn(2, 30, 80, requires_grad=True)
    draws = [draw_of(0, 0), draw_of(0, 1)]
    assert torch.equal(SpecAugment(band_masks=0, time_masks=0)(x, None, draws), x)
    y = SpecAugment()(x, None, draws)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y == 0)


def test_errors():
    with pytest.raises(ValueError, match=r"bands 27, .* and ratio 2 in 0 to 1"):
        SpecAugment(ratio=2)
    with pytest.raises(ValueError, match="there are 2 rows of features, and 1 draws for them"):
        SpecAugment()(torch.ones(2, 3, 80), None, [draw_of(0, 0)])
    with pytest.raises(ValueError, match="need a recording, and there is none"):
        mean_and_std([torch.zeros(0, 80)])


def test_a_wave_is_played_at_every_speed():
    wave = np.sin(np.arange(1_600) * 0.1).astype(np.float32)
    assert {any_speed(draw_of(0, item)) for item in range(30)} == {*SPEEDS}
    assert [len(faster(wave, speed)) for speed in SPEEDS] == [1_778, 1_600, 1_455]
    quick = faster(wave, 1.1)
    want = np.sin(np.arange(1_455) * 0.11)
    np.testing.assert_allclose(quick[200:-200], want[200:-200], atol=1e-3)
    assert any_speed(draw_of(0, 3)) == any_speed(draw_of(0, 3))


def test_statistics_are_those_of_all_frames():
    some = [torch.randn(n, 80) * 2 + 7 for n in (5, 0, 300)]
    mean, std = mean_and_std(iter(some))
    whole = torch.cat(some).double()
    torch.testing.assert_close(mean.double(), whole.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(std.double(), whole.std(0, correction=0), rtol=0, atol=1e-6)
    assert mean.dtype == std.dtype == torch.float32
    flat, least = mean_and_std([torch.full((9, 80), -10.0)])
    assert (flat == -10).all()
    assert (least == 0.1).all()
