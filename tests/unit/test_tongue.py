"""The made-up language: what is said in it, and that it can be taken apart again."""

import pytest

from subquad.data.documents import PARTS
from subquad.data.sentences import Sentences, sentences
from subquad.data.tongue import Noun, Sentence, english, read, tongue, translate


def test_one_sentence_by_hand():
    cats = Noun("cat", True, "two", ("old",))
    said = Sentence(
        cats,
        "see",
        Noun("house", False, "", ("red",)),
        tense="past",
        negated=True,
        place=("near", Noun("river")),
        time="yesterday",
    )
    assert english(said) == "two old cats did not see a red house near the river yesterday."
    # time; river-near the; house-object red-object a; cat-s old-s two; not-see-past-plural
    words = "nahul jokinde sa talota punoata ko mirula vanoala kaksi nemakonas."
    assert tongue(said) == words
    assert read(words) == said
    assert translate(words) == english(said)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Sentence(Noun("dog"), "see", Noun("cat")), "the dog sees the cat."),
        (Sentence(Noun("dog", True), "see", Noun("cat")), "the dogs see the cat."),
        (Sentence(Noun("dog"), "see", Noun("cat", True, "")), "the dog sees cats."),
        (Sentence(Noun("dog"), "hear", Noun("cat", False, "", ("old",)), "past"), "an old cat"),
        (Sentence(Noun("dog"), "see", Noun("cat"), "future", True), "the dog will not see"),
        (Sentence(Noun("dog"), "see", Noun("cat"), asked=True), "does the dog see the cat?"),
        (Sentence(Noun("dog", True), "see", Noun("cat"), negated=True), "the dogs do not see"),
    ],
)
def test_english(said, words):
    assert words in english(said)
    assert read(tongue(said)) == said


@pytest.mark.parametrize("part", PARTS)
def test_either_side_is_a_function_of_the_other(part):
    rows = [Sentences(400, 3, part)[i] for i in range(400)]
    assert all(translate(row["translation"]) == row["text"] for row in rows)
    assert len({r["text"] for r in rows}) == len({r["translation"] for r in rows}) > 390
    assert rows[7] == Sentences(400, 3, part)[7] != Sentences(400, 4, part)[7]


def test_no_sentence_is_in_two_parts():
    found = sentences({"train": 3000, "valid": 1000, "test": 1000})
    said = {p: {some[i]["text"] for i in range(len(some))} for p, some in found.rows.items()}
    assert not said["train"] & (said["valid"] | said["test"])
    assert not said["valid"] & said["test"]
    assert "3,000 train, 1,000 valid, 1,000 test" in found.source


@pytest.mark.parametrize(
    "words", ["", "taso.", "mirula vanoala nemakonas.", "the cat sees.", "miruta ko taso sa makor."]
)
def test_what_is_no_sentence(words):
    with pytest.raises(ValueError, match="is no sentence of the tongue"):
        read(words)
