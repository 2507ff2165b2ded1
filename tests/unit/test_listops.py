"""ListOps against the public answers, and its generator against the published rules."""

import lzma
from collections import Counter

import numpy as np
import pytest

from subquad.data.listops import ARGUMENTS, DEPTH, OPERATORS, TOKENS, ListOps, Tokens, evaluate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN 4 7 ]", 4),
        ("[MED 1 2 9 ]", 2),
        ("[MED 9 2 4 1 ]", 3),  # the median of an even number of values is between two of them
        ("[MED 2 5 ]", 3),  # without its fraction
        ("[SM 9 9 9 ]", 7),
        ("[SM 4 ]", 4),
        ("( ( ( ( [SM 6 ) 5 ) ( ( ( [MAX 1 ) 3 ) ] ) ) ] )", 4),
    ],
)
def test_values_by_hand(text, value):
    assert evaluate(text) == value


def test_values_equal_the_public_answers(data_dir):
    path = data_dir / "text" / "listops_d20s_test.tsv.xz"
    if not path.is_file():
        pytest.skip(f"there is no {path.name}")
    with lzma.open(path, "rt") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    assert len(rows) == 10_000
    wrong = [number for number, (value, text) in enumerate(rows) if str(evaluate(text)) != value]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends with 0 lists open, and has no value"),
        ("[MAX 1 [SM 2 ]", "ends with 1 lists open"),
        ("[MAX ]", r"'\]', at token 2, closes a list without values"),
        ("]", r"'\]', at token 1, closes no list"),
        ("[MAX 1 ] 2", "'2', at token 4, stands behind the end"),
        ("[SUM 1 ]", r"'\[SUM', at place 1, is no token of ListOps: \[MIN"),
        ("[MAX 1 10 ]", "'10', at place 3, is no token"),
        ("[MAX 1 () ]", r"'\(\)', at place 3, is no token"),
    ],
)
def test_what_is_no_expression_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        evaluate(text)


def test_tokens_are_words_and_round_brackets_are_read_over(tmp_path):
    from transformers import AutoTokenizer

    words = Tokens()
    text = b"[MAX 2 9 [MIN 4 7 ] 0 ]"
    ids = words.encode(text)
    assert ids.tolist() == [1, 7, 14, 0, 9, 12, 4, 5, 4]
    assert words.decode([*ids, words.boundary, words.pad]) == text
    assert words.encode(b"( ( ( [MAX 2 ) 9 ) ] )").tolist() == words.encode(b"[MAX 2 9 ]").tolist()
    assert words.count == len(TOKENS) == 15
    with pytest.raises(ValueError, match="'x', at place 2"):
        words.encode(b"1 x")
    words.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(text.decode())["input_ids"] == ids.tolist()
    assert theirs.decode(ids.tolist()) == text.decode()


def shape(text: str) -> tuple[int, list[list[int]]]:
    """How deep an expression is, and for each depth the arguments of its nodes (0: a digit)."""
    levels, open_lists, deepest = [[] for _ in range(DEPTH + 1)], [], 0
    for word in text.split():
        if word == "]":
            at, many = open_lists.pop()
            levels[at].append(many)
            continue
        if open_lists:
            open_lists[-1][1] += 1
        depth = len(open_lists) + 1
        deepest = max(deepest, depth)
        if word in OPERATORS:
            open_lists.append([depth, 0])
        else:
            levels[depth].append(0)
    assert not open_lists
    return deepest, levels


@pytest.mark.parametrize(("shortest", "longest"), [(4, 12), (20, 60), (100, 200), (500, 2000)])
def test_trees_keep_the_rules(shortest, longest):
    made = ListOps(12, 1, "train", shortest, longest)
    for row in made:
        assert set(row) == {"text", "label"}
        assert shortest < len(row["text"].split()) < longest
        assert row["label"] == str(evaluate(row["text"]))
        deepest, levels = shape(row["text"])
        assert deepest <= DEPTH
        assert {many for level in levels for many in level} <= {0, *range(2, ARGUMENTS + 1)}
        assert not any(levels[DEPTH])  # a digit, at the greatest depth


def test_draws_are_as_likely_as_the_rules_say():
    """Where the bounds take nearly everything, nodes below the root show the rules' own shares."""
    made = ListOps(800, 0, "train", 2, 10_000)
    below, words = [], Counter()
    for row in made:
        _, levels = shape(row["text"])
        below += levels[2]
        words.update(row["text"].split())
    lists = [many for many in below if many]
    # five standard errors of a share
    assert abs(len(lists) / len(below) - 0.25) < 5 * (0.25 * 0.75 / len(below)) ** 0.5
    for many in range(2, ARGUMENTS + 1):
        share, error = 1 / 9, (1 / 9 * 8 / 9 / len(lists)) ** 0.5
        assert abs(lists.count(many) / len(lists) - share) < 5 * error
    for kind in (OPERATORS, TOKENS[5:]):
        total = sum(words[word] for word in kind)
        share = 1 / len(kind)
        for word in kind:
            assert abs(words[word] / total - share) < 5 * (share * (1 - share) / total) ** 0.5


@pytest.mark.slow
def test_labels_at_published_lengths():
    made = ListOps(1000, 0, "train")
    labels = Counter(row["label"] for row in made)
    assert set(labels) == set("0123456789")
    # 17 % is published for guessing the commonest
    assert 0.14 < labels.most_common(1)[0][1] / 1000 < 0.20
    assert len({row["text"] for row in made}) == 1000


@pytest.mark.parametrize(("shortest", "longest"), [(100, 150), (1, 100), (500, 20_000)])
def test_lengths_that_are_drawn_too_seldom_are_named(shortest, longest):
    with pytest.raises(ValueError, match=f"longer than {shortest} and shorter than {longest}"):
        ListOps(1, 0, "train", shortest, longest)


def test_ids_are_bytes():
    ids = Tokens().encode(ListOps(1, 0, "test", 20, 60)[0]["text"].encode())
    assert ids.dtype == np.uint8
    assert 20 < len(ids) < 60
