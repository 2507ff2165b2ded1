"""Rows of labelled data: each reader on small files, each bad input by its message, real files."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from subquad.data.decoding import Picture, decode
from subquad.data.documents import PARTS
from subquad.data.examples import Examples, open_examples
from subquad.data.forms import ANSWER, CAPTION, CLASSIFY, FORMS, IMAGE, SUMMARIZE, TAG

PACKERS = [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress), (".bz2", bz2.compress)]


def written(path: Path, content: bytes | str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def json_lines(path: Path, rows: list[dict]) -> str:
    return written(path, "".join(json.dumps(row) + "\n" for row in rows))


def reviews(count: int, first: int = 0) -> list[dict]:
    return [
        {"id": i, "label": ("bad", "good")[i % 2], "text": f"review {i}"}
        for i in range(first, first + count)
    ]


def everything(examples: Examples) -> list[dict]:
    return [row for part in PARTS for row in examples.rows[part]]


def sizes(examples: Examples) -> list[int]:
    return [len(examples.rows[part]) for part in PARTS]


# --- tables -------------------------------------------------------------------------------------

CSV = (
    '\ufefftext,label\n"one, with ""quotes""\nand a second line",good\n\ntwo,0\nthree \N{SUN},1\r\n'
)
CSV_ROWS = [
    {"text": 'one, with "quotes"\nand a second line', "label": "good"},
    {"text": "two", "label": "0"},
    {"text": "three \N{SUN}", "label": "1"},
]


@pytest.mark.parametrize(("suffix", "pack"), PACKERS)
def test_csv_plain_and_packed(tmp_path, suffix, pack):
    found = open_examples(written(tmp_path / f"a.csv{suffix}", pack(CSV.encode())), CLASSIFY)
    assert sorted(everything(found), key=str) == sorted(CSV_ROWS, key=str)
    assert sizes(found) == [1, 1, 1]  # of three rows no part is empty
    assert found.left_out == {}
    assert found.source == f"a.csv{suffix} (1 train, 1 valid, 1 test)"


def test_a_tab_separated_table_knows_no_quotation(tmp_path):
    path = written(tmp_path / "a.TSV", 'label\tSentence\n1\t"open\n2\tan "other" one\n')
    rows = everything(open_examples(path, CLASSIFY))
    assert [row["text"] for row in rows] == ['"open', 'an "other" one']


def test_a_document_of_any_length_fits_a_cell(tmp_path):
    text = "long " * 100_000
    path = written(tmp_path / "a.csv", f"text,label\n{text},1\n")
    assert everything(open_examples(path, CLASSIFY)) == [{"text": text, "label": "1"}]


def test_labels_become_strings(tmp_path):
    labels = [3, 3.0, "3", " 3 ", True, 0.5]
    path = json_lines(
        tmp_path / "a.jsonl", [{"text": f"t{i}", "label": l} for i, l in enumerate(labels)]
    )
    rows = sorted(everything(open_examples(path, CLASSIFY)), key=lambda row: row["text"])
    assert [row["label"] for row in rows] == ["3", "3", "3", "3", "True", "0.5"]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(reviews(5)),
        json.dumps({"version": 1, "data": reviews(5)}, indent=1),
        "\n".join(map(json.dumps, reviews(5))),
    ],
    ids=["list", "data", "lines"],
)
def test_json_files_hold_rows(tmp_path, content):
    rows = everything(open_examples(written(tmp_path / "a.json", content), CLASSIFY))
    assert sorted(row["text"] for row in rows) == [f"review {i}" for i in range(5)]


def test_columns_are_found_by_their_usual_names_or_by_the_given_one(tmp_path):
    row = {"Document": "some words", "Category": "a", "stars": 4}
    path = json_lines(tmp_path / "a.jsonl", [row])
    assert everything(open_examples(path, CLASSIFY)) == [{"text": "some words", "label": "a"}]
    starred = open_examples(path, CLASSIFY, columns={"label": "stars"})
    assert everything(starred) == [{"text": "some words", "label": "4"}]
    # a column that was given to one field is not taken for another
    path = json_lines(tmp_path / "b.jsonl", [{"text": "the summary", "article": "the text"}])
    rows = everything(open_examples(path, SUMMARIZE, columns={"summary": "text"}))
    assert rows == [{"text": "the text", "summary": "the summary"}]


def test_summaries(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", [{"article": "long", "highlights": "short", "id": 1}])
    assert everything(open_examples(path, SUMMARIZE)) == [{"text": "long", "summary": "short"}]


# --- tags ---------------------------------------------------------------------------------------

CONLL = """-DOCSTART- -X- O

# a comment, of which there are many
EU NNP B-ORG
rejects VBZ O
# NN O

Peter\u00a0B NNP B-PER
"""


def test_tokens_and_tags(tmp_path):
    rows = [
        {"tokens": ["EU", "rejects", "#"], "tags": ["B-ORG", "O", "O"]},
        {"tokens": ["Peter\u00a0B"], "tags": ["B-PER"]},
    ]
    tabs = re.sub(r"(\S+) (\S+) (\S+)\n", r"\1\t\2\t\3\n", CONLL)
    found = [
        open_examples(written(tmp_path / "a.conll", CONLL), TAG),
        open_examples(written(tmp_path / "a.bio", tabs), TAG),
        open_examples(json_lines(tmp_path / "a.jsonl", rows), TAG),
    ]
    for examples in found:
        assert sorted(everything(examples), key=str) == sorted(rows, key=str)
    path = json_lines(tmp_path / "b.jsonl", [{"words": "a b", "ner_tags": [1, 0]}])
    assert everything(open_examples(path, TAG)) == [{"tokens": ["a", "b"], "tags": ["1", "0"]}]


# --- answers ------------------------------------------------------------------------------------

CONTEXT = "Ada met Bob. Bob met Cy."


def asked(answers, **more) -> dict:
    return {"question": "Who?", "context": CONTEXT, "answers": answers, **more}


@pytest.mark.parametrize(
    "row",
    [
        asked({"text": ["Cy"], "answer_start": [21]}),
        asked([{"text": "Cy", "answer_start": 21}]),
        asked([{"text": "Cy", "start": 21}]),
        asked(["Cy"]),
        asked("Cy"),
        asked("Cy", answer_start="21"),
        asked({"text": "Cy", "start": 21}),
        asked({"text": ["Cy"], "answer_start": [20]}),  # it stands at one place alone
        asked({"text": ["Cy", "nobody"], "answer_start": [21, 3]}),
    ],
)
def test_answers_in_every_spelling(tmp_path, row):
    found = everything(open_examples(json_lines(tmp_path / "a.jsonl", [row]), ANSWER))
    assert found == [asked([{"text": "Cy", "start": 21}])]


def test_a_start_tells_which_of_two_places(tmp_path):
    rows = [asked([{"text": "Bob", "start": 13}]), asked([{"text": "Bob", "start": 8}])]
    found = everything(open_examples(json_lines(tmp_path / "a.jsonl", rows), ANSWER))
    assert [row["answers"][0]["start"] for row in found] == [13, 8]


def test_squad_as_it_is_published_and_questions_without_an_answer(tmp_path):
    questions = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Cy", "answer_start": 21}]},
        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    nested = {"data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": questions}]}]}
    rows = everything(open_examples(written(tmp_path / "a.json", json.dumps(nested)), ANSWER))
    assert [row["answers"] for row in rows] == [[{"text": "Cy", "start": 21}], []]
    flat = asked({"text": [], "answer_start": []})
    assert everything(open_examples(json_lines(tmp_path / "a.jsonl", [flat]), ANSWER)) == [
        asked([])
    ]
    path = written(tmp_path / "a.csv", f"question,context,answer\nWhy?,{CONTEXT},\n")
    assert everything(open_examples(path, ANSWER))[0]["answers"] == []


def test_questions_about_one_text_are_in_one_part(tmp_path):
    rows = [{"question": f"q{i}", "context": f"text {i % 40}", "answers": []} for i in range(200)]
    found = open_examples(json_lines(tmp_path / "a.jsonl", rows), ANSWER)
    texts = [{row["context"] for row in found.rows[part]} for part in PARTS]
    assert all(texts)
    assert sum(map(len, texts)) == 40


# --- parts --------------------------------------------------------------------------------------


def test_a_row_keeps_its_part_when_others_come(tmp_path):
    def part_of(path: str) -> dict[str, str]:
        found = open_examples(path, CLASSIFY)
        return {row["text"]: part for part in PARTS for row in found.rows[part]}

    before = part_of(json_lines(tmp_path / "a.jsonl", reviews(300)))
    after = part_of(json_lines(tmp_path / "b.jsonl", reviews(400)[::-1]))
    assert before.items() <= after.items()
    shares = [sum(p == part for p in after.values()) / 400 for part in PARTS]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.04)


def test_equal_rows_are_in_one_part(tmp_path):
    found = open_examples(json_lines(tmp_path / "a.jsonl", reviews(50) * 3), CLASSIFY)
    texts = [{row["text"] for row in found.rows[part]} for part in PARTS]
    assert sum(sizes(found)) == 150
    assert sum(map(len, texts)) == 50


def test_train_and_test_by_comma_leave_a_twentieth_to_valid(tmp_path):
    train = json_lines(tmp_path / "a.jsonl", reviews(400))
    test = json_lines(tmp_path / "b.jsonl", reviews(30, 400))
    found = open_examples(f"{train}, {test}", CLASSIFY)
    assert [row["text"] for row in found.rows["test"]] == [f"review {i}" for i in range(400, 430)]
    assert sum(sizes(found)) == 430
    assert len(found.rows["valid"]) == pytest.approx(20, abs=12)
    assert "a.jsonl and b.jsonl" in found.source
    valid = json_lines(tmp_path / "c.jsonl", reviews(7, 500))
    assert sizes(open_examples(f"{train},{valid},{test}", CLASSIFY)) == [400, 7, 30]
    # a file may have a comma in its name
    assert sum(sizes(open_examples(json_lines(tmp_path / "d,e.jsonl", reviews(4)), CLASSIFY))) == 4


def test_a_folder_of_tables_called_by_their_part(tmp_path):
    json_lines(tmp_path / "train-00000-of-00002.jsonl", reviews(10))
    json_lines(tmp_path / "train-00001-of-00002.jsonl", reviews(10, 10))
    json_lines(tmp_path / "reviews_dev.jsonl", reviews(3, 20))
    written(tmp_path / "test.csv", "text,label\nx,good\n")
    json_lines(tmp_path / "others.jsonl", [{"a": 1}])
    written(tmp_path / "README.md", "words")
    assert sizes(open_examples(str(tmp_path), CLASSIFY)) == [20, 3, 1]


def test_a_folder_with_train_alone_or_tables_of_no_part_is_divided(tmp_path):
    json_lines(tmp_path / "a" / "train.jsonl", reviews(100))
    json_lines(tmp_path / "b" / "one.jsonl", reviews(50))
    json_lines(tmp_path / "b" / "two.jsonl", reviews(50, 50))
    a, b = (open_examples(str(tmp_path / name), CLASSIFY) for name in "ab")
    assert a.rows == b.rows
    assert min(sizes(a)) > 0


def test_a_test_part_alone_stays_the_test_part(tmp_path):
    json_lines(tmp_path / "test.jsonl", reviews(9))
    assert sizes(open_examples(str(tmp_path), CLASSIFY)) == [0, 0, 9]


def test_a_folder_per_class_of_texts_with_and_without_parts(tmp_path):
    for part in ("train", "test"):
        for name in ("pos", "neg"):
            for i in range(30):
                written(tmp_path / "a" / part / name / f"{i}.txt", f"{part} {name} {i}\n")
    written(tmp_path / "a" / "train" / "pos" / ".hidden", b"\xff")
    found = open_examples(str(tmp_path / "a"), CLASSIFY)
    assert sum(sizes(found)) == 120
    assert len(found.rows["test"]) == 60
    assert found.rows["valid"]
    assert all(row["label"] == row["text"].split()[1] for row in everything(found))
    whole = open_examples(str(tmp_path / "a" / "train"), CLASSIFY)
    assert sum(sizes(whole)) == 60
    assert set(whole.column("label")) == {"pos", "neg"}


def test_all_parts_and_columns_of_them(tmp_path):
    found = open_examples(json_lines(tmp_path / "a.jsonl", reviews(60)), CLASSIFY)
    assert found.take("all") == everything(found)
    assert found.take("valid") is found.rows["valid"]
    assert found.column("text", "valid") == [row["text"] for row in found.rows["valid"]]
    with pytest.raises(ValueError, match="no part 'tset'; parts are all, train, valid, test"):
        found.take("tset")


def test_the_key_changes_with_the_file_the_form_and_the_columns(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", [{"text": "a", "label": "b", "summary": "c"}])
    keys = [
        open_examples(path, CLASSIFY).key,
        open_examples(path, SUMMARIZE).key,
        open_examples(path, CLASSIFY, columns={"label": "summary"}).key,
    ]
    assert open_examples(path, CLASSIFY).key == keys[0]
    json_lines(tmp_path / "a.jsonl", [{"text": "a", "label": "other"}])
    assert len({*keys, open_examples(path, CLASSIFY).key}) == 4


# --- pictures -----------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 3, 4, 3)).astype(np.uint8)


def saved(path: Path, **arrays) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


def painted(path: Path, pixels: np.ndarray) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(pixels).save(path)


def test_arrays_with_labels_and_a_split(tmp_path):
    split, label = np.repeat([0, 1, 2], [40, 12, 8]), np.arange(60) % 3
    path = saved(tmp_path / "a.npz", images=IMAGES, labels=label, split=split)
    found = open_examples(path, IMAGE)
    assert sizes(found) == [40, 12, 8]
    row = found.rows["valid"][5]
    assert row["label"] == str(45 % 3)
    assert (row["image"] == IMAGES[45]).all()
    assert found.column("label", "test") == [str(i % 3) for i in range(52, 60)]
    assert len(found.take("all")) == 60
    assert (found.take("all")[-1]["image"] == IMAGES[59]).all()
    assert len(found.rows["train"][3:5]) == 2
    again = pickle.loads(pickle.dumps(found.rows["test"]))  # what workers of a loader get
    assert (again[0]["image"] == IMAGES[52]).all()


def test_grey_arrays_have_one_channel_and_names_of_classes_are_used(tmp_path):
    names = np.asarray(["cat", "dog"])
    path = saved(tmp_path / "a.npz", images=IMAGES[..., 0], label=np.arange(60) % 2, classes=names)
    found = open_examples(path, IMAGE)
    assert min(sizes(found)) > 0
    assert {row["image"].shape for row in everything(found)} == {(3, 4, 1)}
    assert set(found.column("label")) == {"cat", "dog"}


def test_pictures_of_sixteen_bits_keep_the_upper_eight(tmp_path):
    grey = np.asarray([[0, 255, 256], [20_000, 50_000, 65_535]], np.uint16)
    for name in ("a.png", "a.tiff"):
        painted(tmp_path / name, grey)
        assert decode(tmp_path / name, name).tolist() == [[0, 0, 1], [78, 195, 255]]
    for kind in (np.float32, np.int32):
        painted(tmp_path / "b.tiff", grey.astype(kind))
        with pytest.raises(ValueError, match=r"b\.tiff holds numbers of 32 bits; write it with 8"):
            decode(tmp_path / "b.tiff", "b.tiff")


def test_no_picture_starts_a_program(tmp_path, monkeypatch):
    pytest.importorskip("PIL.Image")
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ValueError, match=r"a\.png is damaged: cannot identify"):
        decode(drawing, "a.png")
    assert not (tmp_path / "started").exists()


def test_jpeg_arrays_are_opened_when_they_are_asked_for(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    smooth = ((np.indices((8, 8)).sum(0) * 9)[..., None] + np.zeros(3)).astype(np.uint8)
    file = io.BytesIO()
    image.fromarray(smooth).save(file, "JPEG", quality=95)
    jpeg, good = np.frombuffer(file.getvalue() + b"no picture", np.uint8), len(file.getvalue())
    arrays = {"jpeg": jpeg, "length": np.asarray([good, 10]), "split": np.asarray([0, 1])}
    path = saved(tmp_path / "a.npz", **arrays, caption=np.asarray(["a ramp", "nothing"]))
    found = open_examples(path, CAPTION)
    assert found.rows["train"][0]["caption"] == "a ramp"
    assert np.abs(found.rows["train"][0]["image"].astype(int) - smooth).max() < 8
    with pytest.raises(ValueError, match=r"a\.npz: picture 1 is damaged: cannot identify"):
        found.rows["test"][0]
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"need Pillow: pip install 'subquad\[pictures\]'"):
        found.rows["train"][0]


def test_a_folder_per_class_of_pictures(tmp_path):
    for i, suffix in enumerate([".png", ".bmp", ".png"]):
        painted(tmp_path / "cat" / f"{i}{suffix}", IMAGES[i])
        painted(tmp_path / "dog" / "more" / f"{i}{suffix}", IMAGES[i, :, :, 0])
    written(tmp_path / "dog" / "notes.txt", "no picture")
    found = open_examples(str(tmp_path), IMAGE)
    assert sum(sizes(found)) == 6
    for row in everything(found):
        assert row["image"].shape == (3, 4, {"cat": 3, "dog": 1}[row["label"]])


def test_tables_name_pictures_beside_them(tmp_path):
    painted(tmp_path / "train" / "pictures" / "0.png", IMAGES[0])
    rows = [
        {"file_name": "pictures/0.png", "text": "a caption"},
        {"file_name": "pictures/1.png", "text": "of a picture that is not there"},
        {"file_name": "", "text": "of none"},
    ]
    json_lines(tmp_path / "train" / "metadata.jsonl", rows)
    found = open_examples(str(tmp_path), FORMS["match"])
    assert found.left_out == {"an image file that is not there": 1, "no image": 1}
    [row] = everything(found)
    assert row["caption"] == "a caption"
    assert (row["image"] == IMAGES[0]).all()


def test_captions_of_one_picture_are_in_one_part(tmp_path):
    for i in range(30):
        written(tmp_path / f"{i}.png", "never opened")
    rows = [{"image": f"{i % 30}.png", "caption": f"caption {i}"} for i in range(150)]
    found = open_examples(json_lines(tmp_path / "a.jsonl", rows), CAPTION)
    names = [{picture.name for picture in found.column("image", part)} for part in PARTS]
    assert isinstance(found.column("image")[0], Picture)
    assert all(names)
    assert sum(map(len, names)) == 30


# --- what is left out ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "good", "bad", "reason"),
    [
        (CLASSIFY, {"text": "a", "label": 1}, {"text": "b"}, "no label"),
        (CLASSIFY, {"text": "a", "label": 1}, {"text": "b", "label": " "}, "no label"),
        (CLASSIFY, {"text": "a", "label": 1}, {"text": "b", "label": float("nan")}, "no label"),
        (
            CLASSIFY,
            {"text": "a", "label": 1},
            {"text": "b", "label": [1]},
            "a label that is neither text nor a number",
        ),
        (CLASSIFY, {"text": "a", "label": 1}, {"text": " \n", "label": 1}, "no text"),
        (CLASSIFY, {"text": "a", "label": 1}, {"text": None, "label": 1}, "no text"),
        (CLASSIFY, {"text": "a", "label": 1}, {"text": 5, "label": 1}, "a text that is no text"),
        (SUMMARIZE, {"text": "a", "summary": "b"}, {"text": "a", "summary": ""}, "no summary"),
        (
            TAG,
            {"tokens": ["a"], "tags": ["b"]},
            {"tokens": ["a", "b"], "tags": ["b"]},
            "tokens and tags of different lengths",
        ),
        (TAG, {"tokens": ["a"], "tags": ["b"]}, {"tokens": [], "tags": []}, "no tokens"),
        (
            TAG,
            {"tokens": ["a"], "tags": ["b"]},
            {"tokens": ["a"], "tags": 3},
            "tags that are no list",
        ),
        (
            TAG,
            {"tokens": ["a"], "tags": ["b"]},
            {"tokens": [1], "tags": [1]},
            "a token that is no text",
        ),
        (TAG, {"tokens": ["a"], "tags": ["b"]}, {"tokens": ["a"], "tags": [None]}, "no tag"),
        (ANSWER, asked([]), asked(None), "no answers"),
        (ANSWER, asked([]), asked([7]), "an answer that is no text"),
        (ANSWER, asked([]), asked(7), "answers that are no list"),
        (ANSWER, asked([]), asked({"start": [7]}), "answers without texts"),
        (ANSWER, asked([]), asked(["nobody"]), "an answer that is not in its context"),
        (
            ANSWER,
            asked([]),
            asked([{"text": "Bob", "start": 7}]),
            "an answer that is not at its start and more than once in its context",
        ),
        (ANSWER, asked([]), {**asked([]), "context": ""}, "no context"),
        (ANSWER, asked([]), {**asked([]), "question": ""}, "no question"),
    ],
)
def test_rows_that_lack_something_are_left_out_and_counted(tmp_path, form, good, bad, reason):
    found = open_examples(json_lines(tmp_path / "a.jsonl", [good, bad, bad]), form)
    assert sum(sizes(found)) == 1
    assert found.left_out == {reason: 2}
    assert found.source.endswith(f"; left out: 2 with {reason})")
    path = json_lines(tmp_path / "b.jsonl", [{**dict.fromkeys(good), **bad}] * 1200)
    message = f"b.jsonl: no row can be used; left out are 1,200 with {re.escape(reason)}$"
    with pytest.raises(ValueError, match=message):
        open_examples(path, form)


# --- what is wrong with files -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\na,b\nc\n", r"a\.csv line 3 has 1 cells and the first line names 2"),
        ("a.csv", b'text,label\n"a\nb",c\n1,2,3\n', r"a\.csv line 4 has 3 cells"),
        ("a.csv", b'text,label\n"a,b\n', r"a\.csv line 2 is no CSV: unexpected end of data"),
        ("a.csv", b"text,text\na,b\n", r"a\.csv has two columns 'text'"),
        ("a.csv", b"text,label\n", r"a\.csv holds no rows"),
        (
            "a.tsv",
            b"text\tlabel\na\tb\tc\n",
            r"a\.tsv line 2 has 3 cells and the first line names 2",
        ),
        (
            "a.csv",
            b"id,words\n1,b\n",
            r"a\.csv has no column for text \(one of text, sentence, .*\); "
            r"its columns are id, words: say which one it is",
        ),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\n{"text"\n',
            r"a\.jsonl line 2 is not JSON: Expecting",
        ),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl line 1 is not JSON"),
        ("a.jsonl", b"[1, 2]\n", r"a\.jsonl line 1 is a list; a row is an object"),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\n\n{"text": "\xff"}',
            r"a\.jsonl line 3 is not UTF-8",
        ),
        ("a.json", b'[\n{"text" 5}]', r"a\.json line 2 is not JSON"),
        ("a.json", b"[" * 100_000, r"a\.json is not JSON"),
        ("a.json", b'["a"]', r"a\.json: row 1 is a str; a row is an object"),
        ("a.json", b'{"data": 5}', r"a\.json holds neither a list of rows nor one as \"data\""),
        (
            "a.json",
            b'[{"paragraphs": [{"context": "x"}]}]',
            r"row 1 has a paragraph without a list",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}' * 99, mtime=0)[:-9],
            r"a\.jsonl\.gz is damaged: ",
        ),
        ("a.jsonl.xz", b"no xz", r"a\.jsonl\.xz is damaged: "),
        ("a.csv.bz2", b"no bz2", r"a\.csv\.bz2 is damaged: "),
        ("a.csv", b"", r"a\.csv is empty"),
        ("a.txt", b"words", r"a\.txt is no table that is read here: \.jsonl, .* are, plain or as"),
        ("a.npz", b"words", r"holds arrays, and classify wants a table"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    path = written(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as error:
        open_examples(path, CLASSIFY)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value) or "holds no rows" in message


def test_conll_lines_have_as_many_cells_as_the_first(tmp_path):
    for content, message in (
        ("a B\n\nc\n", "line 3 has 1 cells; .* here 2"),
        ("a\n", "line 1 has 1"),
    ):
        with pytest.raises(ValueError, match=rf"a\.conll {message}"):
            open_examples(written(tmp_path / "a.conll", content), TAG)


def test_what_is_not_there_is_named(tmp_path):
    there = json_lines(tmp_path / "a.jsonl", reviews(3))
    for path, message in (
        ("", "an empty path"),
        (str(tmp_path / "no.csv"), r"there is nothing at .*no\.csv"),
        ("data/no.csv", r"there is nothing at data/no\.csv"),
        (f"{there},{tmp_path / 'no.csv'}", r"there is nothing at .*no\.csv"),
        (",".join([there] * 4), "names 4 files; TRAIN,TEST or TRAIN,VALID,TEST are read"),
    ):
        with pytest.raises(ValueError, match=message):
            open_examples(path, CLASSIFY)


def test_columns_that_are_not_there_are_named(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", reviews(3))
    with pytest.raises(ValueError, match=r"no column 'stars'; its columns are id, label, text"):
        open_examples(path, CLASSIFY, columns={"label": "stars"})
    with pytest.raises(ValueError, match=r"classify has no field 'lable' .*; known: text, label"):
        open_examples(path, CLASSIFY, columns={"lable": "label"})


def test_folders_that_hold_nothing_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=r"the folder .*a holds no files"):
        open_examples(str(tmp_path / "a"), CLASSIFY)
    written(tmp_path / "a" / "x" / "y.txt", "words")
    for form, message in (
        (TAG, r"holds no tables \(\.jsonl, "),
        (IMAGE, "holds neither tables nor a folder per class of pictures"),
    ):
        with pytest.raises(ValueError, match=message):
            open_examples(str(tmp_path / "a"), form)
    written(tmp_path / "a" / "x" / "z.txt", b"\xff")
    with pytest.raises(ValueError, match=r"z\.txt line 1 is not UTF-8"):
        open_examples(str(tmp_path / "a"), CLASSIFY)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": IMAGES}, "holds the arrays label, pixels; pictures are images, or jpeg and"),
        ({"images": IMAGES[0, 0]}, r"images must be uint8 .* not uint8 \(4, 3\)"),
        ({"images": IMAGES.astype(float)}, "images must be uint8 .* not float64"),
        (
            {"images": IMAGES, "label": np.arange(3)},
            r"one value for each of 60 pictures; it is \(3,\)",
        ),
        ({"images": IMAGES, "classes": np.asarray(["a"])}, "from 0 to 59, and there are 1 classes"),
        ({"images": IMAGES, "split": np.arange(60)}, "split must hold 0, 1 or 2 for each of 60"),
        ({"jpeg": np.zeros(3, np.uint8), "length": np.asarray([2])}, "jpeg has 3 bytes and length"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=rf"a\.npz.*{message}"):
        open_examples(saved(tmp_path / "a.npz", **{"label": np.arange(60), **arrays}), IMAGE)


def test_damaged_arrays_and_pictures_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.npz is damaged: it is no \.npz file"):
        open_examples(written(tmp_path / "a.npz", b"words"), IMAGE)
    pytest.importorskip("PIL")
    written(tmp_path / "b" / "cat" / "1.png", b"words")
    with pytest.raises(ValueError, match=r"1\.png is damaged: cannot identify"):
        open_examples(str(tmp_path / "b"), IMAGE).take("all")[0]


# --- what is embedded, and the hub --------------------------------------------------------------


def test_without_a_path_the_default_is_made():
    embedded = Examples({part: [] for part in PARTS}, "made up", "key")
    assert open_examples(None, IMAGE, default=lambda: embedded) is embedded
    with pytest.raises(ValueError, match="caption has no embedded examples: give some with --data"):
        open_examples(None, CAPTION)
    with pytest.raises(ValueError, match="columns belong to data of your own"):
        open_examples(None, IMAGE, columns={"label": "x"}, default=lambda: embedded)


def test_the_hub_wants_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = "there is nothing at owner/name; .* of the hub: pip install datasets"
    with pytest.raises(ValueError, match=message):
        open_examples("owner/name", CLASSIFY)


class Split(list):
    """What this project uses of a split of `datasets`."""

    def __init__(self, rows, features):
        super().__init__(rows)
        self.features, self._fingerprint = features, str(rows)

    def cast_column(self, column, feature):
        return Split(self, {**self.features, column: feature})


def test_data_sets_of_the_hub(monkeypatch):
    class Image:
        def __init__(self, decode=True):
            self.decode = decode

    file = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(IMAGES[0]).save(file, "PNG")
    classes = types.SimpleNamespace(names=["neg", "pos"])
    tags = types.SimpleNamespace(feature=types.SimpleNamespace(names=["O", "B"]))
    text = {"text": None, "label": classes}
    hub = {
        "owner/reviews": {
            "train": Split([{"text": f"t{i}", "label": i % 2} for i in range(50)], text),
            "test": Split([{"text": "a", "label": 1}, {"text": "b", "label": -1}], text),
            "unsupervised": Split([{"text": "c", "label": -1}], text),
        },
        "owner/tags": {
            "all": Split([{"tokens": ["a"], "ner_tags": [1]}], {"tokens": None, "ner_tags": tags})
        },
        "owner/pictures": {
            "train": Split(
                [{"image": {"bytes": file.getvalue(), "path": None}, "label": 0}],
                {"image": Image(), "label": classes},
            )
        },
    }

    def load_dataset(name, config):
        if name not in hub:
            raise FileNotFoundError(f"no {name}\nwith a second line")
        assert config == ("small" if name == "owner/tags" else None)
        return hub[name]

    fake = types.SimpleNamespace(load_dataset=load_dataset, Image=Image)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    found = open_examples("owner/reviews", CLASSIFY)
    assert found.rows["test"] == [{"text": "a", "label": "pos"}]
    assert found.left_out == {"no label": 1}
    assert sum(sizes(found)) == 51
    assert found.source.startswith("owner/reviews of the hub (")
    assert everything(open_examples("owner/tags:small", TAG)) == [{"tokens": ["a"], "tags": ["B"]}]
    [row] = open_examples("owner/pictures", IMAGE).take("all")
    assert row["label"] == "neg"
    assert (row["image"] == IMAGES[0]).all()
    with pytest.raises(
        ValueError, match=r"the hub gives no such data set: FileNotFoundError: no owner/b$"
    ):
        open_examples("owner/b", CLASSIFY)


# --- real files ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_imdb(data_dir):
    train, test = (data_dir / "text" / f"imdb.{p}.25000.jsonl.xz" for p in ("train", "test"))
    found = open_examples(f"{train},{test}", CLASSIFY)
    assert sizes(found)[2] == 25_000
    assert sum(sizes(found)) == 50_000
    assert len(found.rows["valid"]) == pytest.approx(1250, abs=150)
    assert found.left_out == {}
    assert len(set(found.column("label"))) == 2


def test_mnist(data_dir):
    found = open_examples(str(data_dir / "image" / "mnist10k.npz"), IMAGE)
    assert sizes(found) == [7996, 999, 1005]
    assert set(found.column("label", "test")) == set("0123456789")
    assert found.rows["train"][0]["image"].shape == (28, 28, 1)


def test_cifar(data_dir):
    pytest.importorskip("PIL")
    found = open_examples(str(data_dir / "image" / "cifar10_jpeg_8k2k.npz"), IMAGE)
    assert len(found.rows["test"]) == 2000
    assert sum(sizes(found)) == 10_000
    assert {"airplane", "truck"} < set(found.column("label", "test"))
    row = found.rows["test"][0]
    assert row["image"].shape == (32, 32, 3)
    assert row["image"].dtype == np.uint8
