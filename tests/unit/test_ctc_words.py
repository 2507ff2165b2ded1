"""Words with their times, windows over long recordings, and where those are cut."""

import pytest
import torch

from subquad.tasks.ctc.paths import Placed, best_path
from subquad.tasks.ctc.windows import parts, windows
from subquad.tasks.ctc.words import Word, words

PIECES = [b"", b" ", b"a", b"b", b" the", b"t ", b"\xc3", b"\xa9", b"x y"]


def said(*tokens):
    placed = [Placed(token, 2 * n, 2 * n) for n, token in enumerate(tokens)]
    return list(words(placed, PIECES.__getitem__, 0.04))


def test_words_of_letters():
    assert said(2, 3, 1, 3) == [Word("ab", 0.0, 0.12), Word("b", 0.24, 0.28)]
    assert said(1, 1, 2, 1) == [Word("a", 0.16, 0.2)]
    assert said() == said(1) == []


def test_words_of_pieces():
    assert said(4, 2, 4) == [Word("thea", 0.0, 0.12), Word("the", 0.16, 0.2)]
    assert [one.word for one in said(5, 6, 7, 8)] == ["t", "éx", "y"]


@pytest.mark.parametrize("length", [1, 9, 10, 11, 13, 64, 65, 127])
@pytest.mark.parametrize("piece", [1, 5, 200])
def test_middles_of_windows_are_the_whole(length, piece):
    whole = torch.arange(length).float()
    found = list(windows(whole.split(piece), 10, 3))
    assert all(len(window) <= 10 for window, _, _ in found)
    torch.testing.assert_close(torch.cat([w[a:b] for w, a, b in found]), whole)
    for n, (window, begin, end) in enumerate(found):
        assert begin == (3 if n else 0)
        assert (end is None) == (n == len(found) - 1)
        assert end is None or len(window) - end == 3


def test_windows_without_a_middle_or_samples():
    with pytest.raises(ValueError, match="6 samples has no middle between margins of 3"):
        next(windows([torch.zeros(9)], 6, 3))
    assert list(windows([], 10, 3)) == []


def silent(p):
    return p.argmax(-1) == 0


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_parts_say_what_the_whole_says(piece):
    torch.manual_seed(2)
    p = torch.randn(90, 3)
    p[:, 0] += 0.7
    found = list(parts(p.split(piece), silent, 20))
    torch.testing.assert_close(torch.cat([part for _, part in found]), p)
    assert all(10 <= len(part) <= 20 for _, part in found[:-1])
    joined = []
    for first, part in found:
        joined += [Placed(x.token, x.first + first, x.last + first) for x in best_path(part, 0)]
    assert joined == best_path(p, 0)


def test_a_part_without_blanks_is_cut_at_its_end():
    p = torch.zeros(10, 2)
    p[:, 1] = 1
    assert [first for first, _ in parts([p], silent, 4)] == [0, 4, 8]
