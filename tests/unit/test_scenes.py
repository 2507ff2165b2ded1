"""Scenes read back from their pictures and from their captions, and the pairs that are held out."""

import numpy as np
import pytest

from subquad.data.glyphs import NAMES, glyph
from subquad.data.scenes import (
    CELL,
    COLOURS,
    SIZES,
    Scenes,
    Thing,
    caption,
    held_out,
    read,
)

GLYPHS = {(size, name): glyph(name, size == "large") for size in SIZES for name in NAMES}


def cut(shape: np.ndarray) -> np.ndarray:
    """Without the empty lines around."""
    y, x = np.nonzero(shape)
    return shape[y.min() : y.max() + 1, x.min() : x.max() + 1]


KNOWN = {(cut(g).shape, cut(g).tobytes()): key for key, g in GLYPHS.items()}


def seen(image: np.ndarray) -> list[Thing]:
    """The things of a picture, from its pixels alone."""
    things = []
    for row in range(image.shape[0] // CELL):
        for column in range(image.shape[1] // CELL):
            cell = image[row * CELL :, column * CELL :][:CELL, :CELL]
            colours = {tuple(pixel) for pixel in cell.reshape(-1, 3).tolist()} - {(0, 0, 0)}
            if colours:
                (colour,) = colours
                shape = cut(cell.any(-1))
                size, name = KNOWN[shape.shape, shape.tobytes()]
                word = next(word for word, rgb in COLOURS.items() if rgb == colour)
                things.append(Thing(size, word, name, row, column))
    return things


def test_no_two_glyphs_are_alike_wherever_they_stand():
    assert len(KNOWN) == len(GLYPHS) == 2 * len(NAMES)
    assert len(set(COLOURS.values())) == len(COLOURS)
    for shape in GLYPHS.values():
        assert max(shape.shape) < CELL
        with pytest.raises(ValueError, match="read-only"):
            shape[0, 0] = True


@pytest.mark.parametrize(("side", "most"), [(16, 1), (32, 3), (48, 3), (64, 5)])
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_picture_says_the_caption(side, most, part):
    counts = set()
    for row in Scenes(150, 0, part, side, most):
        assert row["image"].shape == (side, side, 3)
        assert row["image"].dtype == np.uint8
        things = seen(row["image"])
        assert things == row["objects"]
        assert caption(things) == row["caption"]
        said, places = read(row["caption"])
        assert said == [tuple(thing[:3]) for thing in things]
        assert len(places) == len(things) - 1
        counts.add(len(things))
    assert counts == set(range(1, most + 1))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([(0, 0)], "a small red ring"),
        ([(0, 0), (0, 2)], "a small red ring left of a large blue three"),
        ([(0, 1), (2, 1)], "a small red ring above a large blue three"),
        ([(0, 0), (1, 1)], "a small red ring above and left of a large blue three"),
        ([(0, 2), (1, 0)], "a small red ring above and right of a large blue three"),
        (
            [(0, 2), (1, 0), (1, 1)],
            "a small red ring above and right of a large blue three left of a small white plus",
        ),
    ],
)
def test_captions_by_hand(cells, words):
    what = [("small", "red", "ring"), ("large", "blue", "three"), ("small", "white", "plus")]
    things = [Thing(*said, *cell) for said, cell in zip(what, cells, strict=False)]
    assert caption(things) == words
    assert read(words)[0] == what[: len(cells)]


def test_held_out_pairs_come_in_valid_and_test_alone():
    pairs = {(colour, name) for colour in COLOURS for name in NAMES}
    held = {pair for pair in pairs if held_out(*pair)}
    assert 0.05 < len(held) / len(pairs) < 0.15
    met = {
        part: {t[1:3] for row in Scenes(1500, 0, part) for t in row["objects"]}
        for part in ("train", "valid", "test")
    }
    assert met["train"] == pairs - held
    assert met["valid"] == met["test"] == pairs


def test_every_word_occurs_in_train():
    words = {word for row in Scenes(1500, 0, "train") for word in row["caption"].split()}
    assert words == {*COLOURS, *NAMES, *SIZES, "a", "above", "left", "right", "of", "and"}


def test_the_pairs_held_out_do_not_change():
    """Published numbers about unseen pairs rest on them."""
    held = sorted(f"{c} {n}" for c in COLOURS for n in NAMES if held_out(c, n))
    assert held == HELD


HELD = [
    *("blue seven", "cyan four", "green two", "green zero", "orange four", "purple circle"),
    *("red eight", "white one", "white ring", "yellow diamond", "yellow plus"),
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red ring",
        "a small red ring above",
        "a small red ring beside a small red ring",
        "a small red ringabove a small red ring",
        " a small red ring",
        "a small red ring a small red ring",
    ],
)
def test_what_is_no_caption_is_named(text):
    with pytest.raises(ValueError, match="is no caption; a caption is 'a size colour name'"):
        read(text)


@pytest.mark.parametrize(("side", "most"), [(48, 10), (40, 1), (48, 0), (0, 1)])
def test_sizes_that_do_not_do_are_named(side, most):
    with pytest.raises(ValueError, match=f"{most} things do not fit into {side} x {side}"):
        Scenes(1, 0, "train", side, most)


def test_unknown_pairs_are_named():
    with pytest.raises(ValueError, match="no thing is called 'pink' 'ring'; colours are red"):
        held_out("pink", "ring")
