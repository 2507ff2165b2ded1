"""Pathfinder pictures solved from their pixels, and what must not tell the label."""

import numpy as np
import pytest

from subquad.data.pathfinder import CLEAR, DASH, GAP, LABELS, MARGIN, RADIUS, Pathfinder


def discs(image: np.ndarray) -> np.ndarray:
    """(2, 2): the middles of the two discs, (x, y). Lines are a pixel wide, so only discs fill."""
    middles = np.arange(len(image)) + 0.5
    x, y = np.meshgrid(middles, middles)
    left = image.astype(float)
    found = []
    for _ in range(2):
        around = sum(np.roll(left, (dy, dx), (0, 1)) for dy in range(-1, 2) for dx in range(-1, 2))
        at = np.unravel_index(around.argmax(), around.shape)
        near = np.hypot(x - x[at], y - y[at]) <= RADIUS + 1
        mass = left * near
        found.append(((x * mass).sum() / mass.sum(), (y * mass).sum() / mass.sum()))
        left[near] = 0
    return np.asarray(found)


@pytest.mark.parametrize(("side", "dashes"), [(32, 9), (64, 14)])
def test_the_label_says_whose_ends_are_marked(monkeypatch, side, dashes):
    drawn, draw = [], Pathfinder._drawn

    def spied(self, paths, marked):
        drawn.append((paths, marked))
        return draw(self, paths, marked)

    monkeypatch.setattr(Pathfinder, "_drawn", spied)
    for row in Pathfinder(12, 0, "train", side, dashes):
        paths, marked = drawn[-1]
        ends = [{tuple(path[0, 0]), tuple(path[-1, 1])} for path in paths]
        owners = [[i for i, some in enumerate(ends) if tuple(disc) in some] for disc in marked]
        assert sorted(map(len, owners)) == [1, 1]
        assert (owners[0] == owners[1]) == (row["label"] == "joined")
        assert {*owners[0], *owners[1]} <= {0, 1}  # the long ones
        image = row["image"]
        assert image.shape == (side, side, 1)
        assert image.dtype == np.uint8
        seen = discs(image[..., 0])
        far = np.linalg.norm(seen[:, None] - marked, axis=-1)
        assert min(np.trace(far), np.trace(far[::-1])) < 2  # where the picture shows them
        # each dash is bright in its middle
        for x, y in np.concatenate(paths).mean(1):
            assert image[int(y), int(x), 0] > 70


def test_labels_alternate():
    made = Pathfinder(10, 0, "valid")
    assert [row["label"] for row in made] == [*LABELS] * 5


def test_paths_bend_little_and_keep_clear():
    made = Pathfinder(1, 0, "train", 48, 9, 6)
    draw = np.random.default_rng(0)
    whole = 0
    for _ in range(6):
        paths = made._paths(draw)
        whole += len(paths) == 8
        dense = []
        for number, path in enumerate(paths):
            assert len(path) == (9 if number < 2 else 3)
            ways = path[:, 1] - path[:, 0]
            assert np.linalg.norm(ways, axis=1) == pytest.approx(DASH)
            gaps = path[1:, 0] - path[:-1, 1]
            assert np.linalg.norm(gaps, axis=1) == pytest.approx(GAP)
            cosines = (ways[1:] * ways[:-1]).sum(1) / DASH**2
            assert (cosines > np.cos(0.61)).all()
            assert MARGIN <= path.min() <= path.max() <= 48 - MARGIN
            steps = np.linspace(0, 1, 41)[:, None, None]
            dense.append((path[:, 0] + steps * ways).transpose(1, 0, 2))
        for number, one in enumerate(dense):
            for other in dense[:number]:
                far = np.linalg.norm(one.reshape(-1, 1, 2) - other.reshape(-1, 2), axis=-1)
                # between the places compared a dash is half a step nearer, at most
                assert far.min() > np.sqrt(CLEAR**2 - (DASH / 8) ** 2) - DASH / 8
            far = np.linalg.norm(one[2:, None, :, None] - one[None, :, None], axis=-1).min((2, 3))
            assert all(far[i, : i + 1].min() > CLEAR - DASH / 4 for i in range(len(far)))
    assert whole > 0


@pytest.mark.slow
def test_the_distance_of_the_discs_does_not_tell():
    made = Pathfinder(160, 0, "train")
    far = np.asarray([np.linalg.norm(np.subtract(*discs(row["image"][..., 0]))) for row in made])
    joined = np.arange(160) % 2 == 0
    right = [(joined == (far < cut)).mean() for cut in np.sort(far)]
    # the best of 160 cuts and both directions, where nothing tells: about 0.5 + 1.4 / sqrt(160)
    assert max(max(right), 1 - min(right)) < 0.65
    light = np.asarray([row["image"].sum() for row in made], float)
    apart = abs(light[joined].mean() - light[~joined].mean())
    assert apart < 4 * light.std() * (2 / 80) ** 0.5


@pytest.mark.parametrize(
    ("side", "dashes", "others"), [(32, 40, 0), (32, 2, 0), (32, 9, -1), (8, 3, 0)]
)
def test_paths_that_find_no_room_are_named(side, dashes, others):
    with pytest.raises(ValueError, match=f"of {dashes} dashes and {others} others do not fit"):
        Pathfinder(1, 0, "train", side, dashes, others)
