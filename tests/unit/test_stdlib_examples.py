"""The embedded examples: what rows of code say, and that parts are disjoint by file."""

import functools
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from subquad.data import sources, stdlib
from subquad.data.documents import PARTS
from subquad.data.examples import Examples, open_examples
from subquad.data.forms import FORMS
from subquad.data.snippets import pieces, questions, summaries, tagged

MAKERS: dict[str, Callable[[], Examples]] = {
    "classify": stdlib.classify,
    "tag": stdlib.tag,
    "answer": stdlib.answer,
    "summarize": stdlib.summarize,
}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Iterator[Callable[[str], Examples]]:
    """Each made once for this file, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBQUAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield functools.cache(lambda name: MAKERS[name]())


# --- rows of one source -------------------------------------------------------------------------

SOURCE = '''"""A module."""

import os.path  # two words


class Box:
    """Holds things, größer or smaller.

    More about it.
    """

    def put(self, thing, *, twice=False):
        """Put a thing into the box.  It stays
        there."""
        for _ in range(2 if twice else 1):
            self.things.append(thing)
        return len(self.things)  # how many

    def empty(self):
        """Takes everything out of it."""


def short(): "Says nothing at all"


def other(x):
    r"""Tell whether x is a path of \\d, is it? Yes."""

    return os.path.exists(f"a {x} b") and not x == 3.5 and not os.path.isdir(x) is None or x
'''


def test_words_and_what_they_are():
    rows = list(tagged(SOURCE))
    assert min(len(row["tokens"]) for row in rows) >= 64
    pairs = [p for row in rows for p in zip(row["tokens"], row["tags"], strict=True)]
    assert pairs[:8] == [
        ('"""A', "string"),
        ('module."""', "string"),
        ("import", "keyword"),
        ("os", "name"),
        (".", "operator"),
        ("path", "attribute"),
        ("#", "comment"),
        ("two", "comment"),
    ]
    for pair in (("Box", "definition"), ("put", "definition"), ("append", "attribute")):
        assert pair in pairs
    for pair in (("range", "builtin"), ("len", "builtin"), ("twice", "name"), ("2", "number")):
        assert pair in pairs
    assert ("More", "string") in pairs


def test_an_fstring_is_a_string_but_for_what_it_holds():
    [row] = tagged("x = f'a {y} b'\n" + "z = 1\n" * 30)
    pairs = list(zip(row["tokens"], row["tags"], strict=True))
    assert ("b'", "string") in pairs or {("b", "string"), ("'", "string")} <= set(pairs)


def test_long_statements_are_cut_and_of_a_file_come_the_first():
    [row] = tagged(f"x = [{'1, ' * 300}]\n")
    assert len(row["tokens"]) == len(row["tags"]) == 256
    rows = list(tagged("value = 1\n" * 5000))
    assert len(rows) == 40
    assert {len(row["tokens"]) for row in rows} == {66}


def test_questions_are_answered_where_the_docstring_stands():
    rows = {row["question"]: row for row in questions(SOURCE)}
    texts = {
        "What does Box do?": "Holds things, größer or smaller.",
        "What does put do?": "Put a thing into the box.  It stays",
        "What does empty do?": "Takes everything out of it.",
        "What does short do?": "Says nothing at all",
        "What does other do?": "Tell whether x is a path of \\d, is it? Yes.",
    }
    assert {q: row["answers"][0]["text"] for q, row in rows.items()} == texts
    for row in rows.values():
        [answer] = row["answers"]
        assert row["context"].startswith(answer["text"], answer["start"])
        assert row["context"] in SOURCE


def test_every_eighth_question_has_no_answer():
    define = 'def {}(x):\n    """Makes {} of what it is given."""\n' + "    x = x + 1\n" * 60
    rows = list(questions("".join(define.format(f"f{i}", f"f{i}") for i in range(64))))
    assert [i for i, row in enumerate(rows) if not row["answers"]] == [
        7,
        15,
        23,
        31,
        39,
        47,
        55,
        63,
    ]
    assert rows[7]["question"] == "What does f39 do?"
    for row in rows:
        name = row["question"].split()[2]
        assert row["context"].count(f"def {name}(") == bool(row["answers"])
        assert len(row["context"]) <= 2000
    starts = {row["answers"][0]["start"] // 500 for row in rows if row["answers"]}
    assert starts == {0, 1, 2, 3}  # anywhere in the context


def test_a_name_that_is_defined_twice_is_not_asked_for():
    twice = 'class A:\n    def go(self):\n        """Goes somewhere else."""\n'
    assert list(questions(twice + twice.replace("A", "B"))) == []


def test_functions_and_their_first_sentence():
    rows = list(summaries(SOURCE))
    assert [row["summary"] for row in rows] == [
        "Put a thing into the box.",
        "Tell whether x is a path of \\d, is it?",
    ]
    assert rows[0]["text"] == inspect.cleandoc(
        """
        def put(self, thing, *, twice=False):
            for _ in range(2 if twice else 1):
                self.things.append(thing)
            return len(self.things)  # how many
        """
    )


def test_pieces_are_cut_after_a_line():
    source = "".join(f"line {i}\n" for i in range(500)) + "x" * 2000 + "\n" + "y\n" * 300 + "end"
    found = [row["text"] for row in pieces(source)]
    assert all(512 <= len(text) <= 1000 and text.endswith("\n") for text in found)
    assert source.startswith(found[0] + found[1])
    assert not any("x" in text for text in found)
    assert "end" not in found[-1]


# --- all of them --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_rows_are_whole_many_and_say_how_many(embedded, name):
    found = embedded(name)
    assert found.left_out == {}
    assert "the source files of Python 3." in found.source
    for part in PARTS:
        assert f"{len(found.rows[part]):,} {part}" in found.source
        for row in found.rows[part]:
            assert FORMS[name].whole(row) == row
    assert len(found.rows["train"]) > 2000
    assert min(len(found.rows["valid"]), len(found.rows["test"])) > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_no_row_is_in_two_parts(embedded, name):
    sets = [set(map(json.dumps, embedded(name).rows[part])) for part in PARTS]
    assert [len(some) for some in sets] == [len(embedded(name).rows[part]) for part in PARTS]
    assert len(set.union(*sets)) == sum(map(len, sets))


@pytest.mark.slow
def test_areas_are_in_every_part_and_about_equally_large(embedded):
    for part in PARTS:
        assert set(embedded("classify").column("label", part)) == set(stdlib.AREAS)
        counts = Counter(embedded("classify").column("label", part))
        assert max(counts.values()) < 4 * min(counts.values())


@pytest.mark.slow
def test_words_of_every_kind(embedded):
    kinds = {tag for tags in embedded("tag").column("tags", "test") for tag in tags}
    assert kinds == {
        *("keyword", "definition", "attribute", "builtin", "name"),
        *("number", "operator", "string", "comment"),
    }


@pytest.mark.slow
def test_some_questions_have_no_answer(embedded):
    answers = embedded("answer").column("answers")
    assert 0.03 < sum(not some for some in answers) / len(answers) < 0.2


# --- a small library ----------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files for each area and some of none, in place of the library."""
    root = tmp_path / "lib"
    names = [f"{modules[0]}/m{i}.py" for modules in stdlib.AREAS.values() for i in range(3)]
    for name in [*names, "one.py", "two.py", "three.py", "idlelib/left.py", "asyncio/empty.py"]:
        word = name.replace("/", "_").removesuffix(".py")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        source = SOURCE.replace("thing", word) * 2 if "empty" not in name else ""
        (root / name).write_text(source, encoding="utf-8")
    monkeypatch.setattr(sources.sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    return root


def test_parts_are_disjoint_by_file_and_rows_are_the_same_each_time(library, tmp_path, monkeypatch):
    found = open_examples(None, FORMS["classify"], default=stdlib.classify)
    files: dict[str, set[str]] = {part: set() for part in PARTS}
    for part in PARTS:
        assert set(found.column("label", part)) == set(stdlib.AREAS)
        for text in found.column("text", part):
            files[part] |= {word for word in text.replace(".", " ").split() if "_m" in word}
    assert not files["train"] & files["valid"]
    assert not files["train"] & files["test"]
    assert not files["valid"] & files["test"]
    assert "left" not in str(found.rows)
    assert stdlib.classify() == found  # out of the cache
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "other"))
    assert stdlib.classify() == found
    (library / "one.py").write_text("x = 1\n")
    assert stdlib.classify().key != found.key


def test_damage_in_the_cache_is_named(library, tmp_path):
    stdlib.tag()
    [damaged] = (tmp_path / "cache").rglob("valid.jsonl")
    damaged.write_text("{")
    with pytest.raises(ValueError, match=r"the prepared data in .* are damaged .*; delete that"):
        stdlib.tag()
