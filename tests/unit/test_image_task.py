"""Pictures: what the model sees of them, how they are varied in training, what is counted."""

from collections import Counter

import numpy as np
import pytest
import torch

from catalog import tiny
from subquad.data.augment import Augment, Augmented
from subquad.data.examples import Examples
from subquad.data.shapes import shapes
from subquad.tasks.image import Image, ImageConfig
from subquad.tasks.task import Share
from subquad.tasks.views import View, read_pictures

pytestmark = pytest.mark.usefixtures("one_thread")


def bars(count, side=8):
    """Bright bars that lie or stand, each with some noise."""
    draw = np.random.default_rng(0)
    rows = []
    for i in range(count):
        image = draw.integers(0, 60, (side, side, 1), dtype=np.uint8)
        at = draw.integers(side)
        image[(at, slice(None)) if i % 2 else (slice(None), at)] = 250
        rows.append({"image": image, "label": ("stands", "lies")[i % 2]})
    return rows


def opened(rows, **fields):
    """A task whose data is open: these rows in every part."""
    task = Image(ImageConfig(patch=4, dropout=0.0, **fields))
    task.examples = Examples(dict.fromkeys(("train", "valid", "test"), rows), "some rows", "key")
    task.learn(rows)
    return task


def test_pixels_are_normalised_by_the_training_rows():
    rows = bars(40)
    view = opened(rows).view
    pixels = np.stack([row["image"] for row in rows]) / 255
    assert view.shape == (8, 8, 1)
    assert view.mean[0] == pytest.approx(pixels.mean(), rel=1e-6)
    assert view.std[0] == pytest.approx(pixels.std(), rel=1e-6)
    seen = torch.stack([view.seen(row["image"]) for row in rows])
    assert seen.shape == (40, 1, 8, 8)
    torch.testing.assert_close(seen.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.std(correction=0), torch.tensor(1.0))
    assert torch.equal(view.seen(rows[0]["image"][..., 0]), seen[0])
    black = View.of([{"image": np.zeros((4, 4, 2), np.uint8)}])
    assert torch.equal(black.seen(np.zeros((4, 4, 2), np.uint8)), torch.zeros(2, 4, 4))
    assert View.told({"shape": [8, 8, 1], "mean": [0.5], "std": [2]}) == View(
        (8, 8, 1), (0.5,), (2,)
    )


def test_another_size_is_refused_by_both():
    rows = bars(6)
    with pytest.raises(ValueError, match=r"10 x 8 x 1 .* training rows are 8 x 8 x 1 .*; resize"):
        opened(rows).inputs({"image": np.zeros((10, 8, 1), np.uint8)})
    with pytest.raises(ValueError, match=r"8 x 8 x 1 \(torch.float64\)"):
        opened(rows).inputs({"image": np.zeros((8, 8, 1))})
    mixed = [*rows, {"image": np.zeros((8, 8, 3), np.uint8), "label": "lies"}]
    with pytest.raises(ValueError, match=r"8 x 8 x 3 .* training rows are 8 x 8 x 1"):
        opened(mixed)
    with pytest.raises(ValueError, match="6 x 6 pixels is not made of patches of 4 x 4"):
        opened(bars(6, side=6))


def test_pictures_move_and_are_mirrored():
    image = np.arange(1, 31, dtype=np.uint8).reshape(5, 6, 1)
    draw = np.random.default_rng(0)
    assert Augment()(image, draw) is image
    assert np.array_equal(Augment(flip=1.0)(image, draw), image[:, ::-1])
    seen = Counter()
    for _ in range(300):
        found = Augment(shift=2)(image, draw)
        assert found.shape == image.shape
        wanted = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if np.array_equal(found, moved(image, y, x))
        ]
        assert len(wanted) == 1
        seen.update(wanted)
    assert len(seen) == 25
    mirrored = sum(not np.array_equal(Augment(flip=0.3)(image, draw), image) for _ in range(1000))
    assert 240 < mirrored < 360  # 4 standard deviations of a binomial


def moved(image, y, x):
    out = np.zeros_like(image)
    height, width = image.shape[:2]
    for i in range(height):
        for j in range(width):
            if 0 <= i - y < height and 0 <= j - x < width:
                out[i, j] = image[i - y, j - x]
    return out


def test_an_item_depends_on_seed_and_number_alone():
    task = opened(bars(40), shift=2, flip=0.5)
    one, again, other = (task.train_set(200, seed) for seed in (3, 3, 4))
    assert len(one) == 200
    numbers = [150, 7, 7, 199]
    for i in numbers:
        for name, t in one[i].items():
            assert torch.equal(t, again[i][name])
    assert any(not torch.equal(one[i]["pixel_values"], other[i]["pixel_values"]) for i in range(9))
    # the order is that of rows that are not varied, and one row looks different in two epochs
    rows = Augmented(lambda row, draw: row, [1] * 40, 200, 3)
    assert (
        sorted(rows[i] for i in range(40)) == sorted(rows[i] for i in range(40, 80)) == [*range(40)]
    )
    places = [next(i for i in range(e * 40, e * 40 + 40) if rows[i] == 5) for e in range(5)]
    looks = [one[i]["pixel_values"] for i in places]
    assert not all(torch.equal(looks[0], look) for look in looks)
    # neither validation nor evaluation varies anything
    image = bars(40)[5]["image"]
    assert torch.equal(task.inputs({"image": image})["pixel_values"], task.view.seen(image))


@pytest.mark.parametrize(
    ("arch", "pool", "kept"),
    [("vit", "auto", "mean"), ("vit", "first", "first"), ("transformer_xl", "auto", "last")],
)
def test_it_learns_and_is_scored_as_counted_by_hand(arch, pool, kept):
    torch.manual_seed(0)
    rows = bars(60)
    task = opened(rows, pool=pool)
    model = task.build(arch, tiny(arch, causal=kept == "last"))
    assert model.config.head["pool"] == kept
    assert model.config.stem["class_tokens"] == (kept == "first")
    assert model.config.stem["image_size"] == [8, 8]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    items = task.train_set(1600, seed=0)
    for step in range(50):
        batch = task.collate([items[step * 32 + i] for i in range(32)])
        task.loss(model, batch, 0.0).backward()
        optimizer.step()
        optimizer.zero_grad()
    result = task.validate(model, Share())
    model.eval()
    said = [task.predict(model, row)["label"] for row in rows]
    right = sum(a == row["label"] for a, row in zip(said, rows, strict=True)) / 60
    assert result.numbers["accuracy"] == pytest.approx(right)
    assert right > 0.9
    answer = task.predict(model, rows[0])
    assert answer["probability"] == max(answer["labels"].values())
    assert task.told(answer) == f"{answer['label']}  {answer['probability']:.3f}"


def test_what_predict_reads(tmp_path):
    task = opened(rows := bars(6))
    model = task.build("vit", tiny("vit")).eval()
    images = np.stack([row["image"] for row in rows])
    np.savez(tmp_path / "some.npz", images=images)
    found = task.predict(model, task.read(tmp_path / "some.npz"))
    assert found == [task.predict(model, row) for row in rows]
    assert task.told(found).count("\n") == 5
    np.savez(tmp_path / "one.npz", images=images[:1])
    one = task.predict(model, task.read(str(tmp_path / "one.npz")))
    assert one == found[0]
    assert task.predict(model, task.read({"image": str(tmp_path / "one.npz")})) == one
    assert task.predict(model, task.read({"image": images[0, ..., 0].tolist()})) == one
    with pytest.raises(ValueError, match=r"there is no file .*none\.png"):
        read_pictures(tmp_path / "none.png")
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(ValueError, match=r"note\.txt is no picture that is read here"):
        read_pictures(tmp_path / "note.txt")
    with pytest.raises(ValueError, match="a row wants image; this one has text"):
        task.read({"text": "x"})


def test_the_embedded_pictures():
    found = shapes()
    again = shapes()
    assert {part: len(rows) for part, rows in found.rows.items()} == {
        "train": 8000,
        "valid": 1000,
        "test": 1000,
    }
    for part, rows in found.rows.items():
        row = rows[17]
        assert row["image"].shape == (24, 24, 3)
        assert row["image"].dtype == np.uint8
        assert row["image"].any()
        assert np.array_equal(row["image"], again.rows[part][17]["image"])
    assert len(set(found.column("label", "test"))) == 18


def test_fields_that_do_not_do():
    with pytest.raises(ValueError, match=r"flip 1\.5 a probability"):
        ImageConfig(flip=1.5)
    with pytest.raises(ValueError, match="patch 0 and valid_rows 1000 must be positive"):
        ImageConfig(patch=0)
    with pytest.raises(ValueError, match="no pool is called 'men'; did you mean 'mean'"):
        ImageConfig(pool="men")
    with pytest.raises(ValueError, match="no stem position is called 'learnt'"):
        ImageConfig(position="learnt")
