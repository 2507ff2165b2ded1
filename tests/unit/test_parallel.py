"""Texts line by line beside their translations: files, parts, what is left out and refused."""

import json
import lzma

import pytest

from subquad.data.examples import open_examples
from subquad.data.forms import CLASSIFY, TRANSLATE
from subquad.data.sources import absolute

LINES = {"en": [f"line {i}" for i in range(40)], "fr": [f"ligne {i}" for i in range(40)]}


def write(folder, name, lines):
    text = "".join(f"{line}\n" for line in lines)
    if name.endswith(".xz"):
        (folder / name).write_bytes(lzma.compress(text.encode()))
    else:
        (folder / name).write_text(text)
    return str(folder / name)


def test_two_files(tmp_path):
    source, target = (write(tmp_path, f"all.{lang}.xz", LINES[lang]) for lang in LINES)
    found = open_examples(f"{source}::{target}", TRANSLATE)
    every = found.take("all")
    assert len(every) == 40
    assert all(row["translation"] == row["text"].replace("line", "ligne") for row in every)
    assert "all.en.xz and all.fr.xz" in found.source
    assert all(len(rows) for rows in found.rows.values())


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "valid", "test")])
def test_files_of_parts(parts, tmp_path):
    sides = [
        ",".join(write(tmp_path, f"{p}.{lang}", [f"{p} {x}" for x in lines]) for p in parts)
        for lang, lines in LINES.items()
    ]
    found = open_examples("::".join(sides), TRANSLATE)
    for part in parts:
        assert {row["text"].split()[0] for row in found.rows[part]} == {part}
    assert sum(map(len, found.rows.values())) == 40 * len(parts)


def test_empty_lines_are_left_out_and_counted(tmp_path):
    source = write(tmp_path, "a.en", ["one", "", "three", "  ", "five"])
    target = write(tmp_path, "a.fr", ["un", "deux", "", "quatre", "cinq"])
    found = open_examples(f"{source}::{target}", TRANSLATE)
    assert sorted(row["translation"] for row in found.take("all")) == ["cinq", "un"]
    assert found.left_out == {"no text": 2, "no translation": 1}
    # a form feed and a line separator end no line
    source = write(tmp_path, "b.en", ["one\x0cmore", "two\u2028more"])
    target = write(tmp_path, "b.fr", ["un", "deux"])
    found = open_examples(f"{source}::{target}", TRANSLATE)
    assert {row["translation"] for row in found.take("all")} == {"un", "deux"}


def test_tables(tmp_path):
    rows = [{"id": i, "translation": {"en": f"line {i}", "fr": f"ligne {i}"}} for i in range(30)]
    (tmp_path / "hub.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = {"text": "en", "translation": "fr"}
    found = open_examples(str(tmp_path / "hub.jsonl"), TRANSLATE, columns=named).take("all")
    assert sorted(row["text"] for row in found) == sorted(f"line {i}" for i in range(30))
    assert all(row["translation"] == row["text"].replace("line", "ligne") for row in found)
    with pytest.raises(ValueError, match=r"no column for text .* its columns are id, en, fr: say"):
        open_examples(str(tmp_path / "hub.jsonl"), TRANSLATE)
    (tmp_path / "some.tsv").write_text("source\ttarget\nline\tligne\n")
    found = open_examples(str(tmp_path / "some.tsv"), TRANSLATE).take("all")
    assert [*found] == [{"text": "line", "translation": "ligne"}]


def test_left_out_of_each_part(tmp_path):
    files = [write(tmp_path, name, ["x", ""]) for name in ("t.en", "v.en", "t.fr", "v.fr")]
    write(tmp_path, "v.fr", ["x", "y"])
    found = open_examples(f"{files[0]},{files[1]}::{files[2]},{files[3]}", TRANSLATE)
    assert found.left("train") == found.left("test") == {"no text": 1}
    assert found.left("all") == {"no text": 2}


def test_what_is_refused(tmp_path):
    source, target = (write(tmp_path, f"x.{lang}", LINES[lang]) for lang in LINES)
    short = write(tmp_path, "short.fr", LINES["fr"][:-1])
    both = r"x\.en has 40 lines and .*short\.fr 39; line n of one is"
    with pytest.raises(ValueError, match=both):
        open_examples(f"{source}::{short}", TRANSLATE)
    with pytest.raises(ValueError, match=r"short\.fr has 39 lines and .*x\.en 40"):
        open_examples(f"{short}::{source}", TRANSLATE)
    with pytest.raises(ValueError, match="names 2 and 1 files"):
        open_examples(f"{source},{source}::{target}", TRANSLATE)
    with pytest.raises(ValueError, match="names 1 and 1 and 1 files"):
        open_examples(f"{source}::{target}::{target}", TRANSLATE)
    with pytest.raises(ValueError, match="there is nothing at none"):
        open_examples(f"{source}::none.fr", TRANSLATE)
    with pytest.raises(ValueError, match="is a folder; name the file of one language"):
        open_examples(f"{source}::{tmp_path}", TRANSLATE)
    with pytest.raises(ValueError, match="classify reads no texts line by line"):
        open_examples(f"{source}::{target}", CLASSIFY)
    (tmp_path / "raw.fr").write_bytes(b"ligne\n\xff\n")
    with pytest.raises(ValueError, match=r"raw\.fr line 2 is not UTF-8"):
        open_examples(f"{write(tmp_path, 'two.en', ['a', 'b'])}::{tmp_path / 'raw.fr'}", TRANSLATE)
    (tmp_path / "cut.fr.xz").write_bytes(lzma.compress(b"ligne\n" * 40)[:-20])
    with pytest.raises(ValueError, match=r"cut\.fr\.xz is damaged"):
        open_examples(f"{source}::{tmp_path / 'cut.fr.xz'}", TRANSLATE)


def test_absolute_paths(tmp_path, monkeypatch):
    write(tmp_path, "a.en", ["x"])
    write(tmp_path, "a,b", ["x"])
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path / "a.en")
    assert absolute("a.en") == here
    assert absolute("a.en,a.en::a.en") == f"{here},{here}::{here}"
    assert absolute("a,b") == str(tmp_path / "a,b")
    assert absolute("owner/name:part") == "owner/name:part"
