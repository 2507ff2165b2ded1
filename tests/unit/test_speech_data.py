"""Speech in folders, archives, manifests and arrays; what cannot be used is counted."""

from __future__ import annotations

import gzip
import json
import lzma
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from subquad.data.examples import Examples
from subquad.data.speech import open_speech

pytest.importorskip("soundfile")


def say(file: Path, samples: int = 400, rate: int = 16_000) -> None:
    """A small recording; how long it is tells which."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, rate, samples, "NONE", ""))
        out.writeframes(np.arange(samples, dtype="<i2").tobytes())


def lengths(found: Examples, part: str) -> dict[str, int]:
    """text -> samples at 16 kHz."""
    return {row["text"]: len(row["audio"]) for row in found.rows[part]}


def corpus(root: Path, table: str) -> Path:
    """Two parts with two recordings each."""
    for number, name in enumerate(("train/a", "train/b", "test/a", "test/c")):
        say(root / f"{name}.wav", 400 + number)
    (root / "transcripts.tsv").write_text(table)
    return root


PARTS_TABLE = "train\ta\tone\ntrain\tb\ttwo  words\ntest\ta\tthree\ntest\tc\tfour\n"


@pytest.mark.parametrize("first", ["", "part\tname\ttext\n"])
def test_a_folder_with_a_table(tmp_path: Path, first: str):
    found = open_speech(str(corpus(tmp_path / "small", first + PARTS_TABLE)))
    train = lengths(found, "train") | lengths(found, "valid")
    assert train == {"one": 400, "two words": 401}
    assert lengths(found, "test") == {"three": 402, "four": 403}
    row = found.rows["test"][0]
    assert row["audio"].dtype == np.float32
    assert (row["name"], row["seconds"]) == ("a", 402 / 16_000)
    assert found.source.startswith("the folder small (")
    assert found.column("seconds", "test") == [402 / 16_000, 403 / 16_000]


def test_recordings_by_their_paths_and_the_table_by_its_own(tmp_path: Path):
    root = corpus(tmp_path, "train/a.wav\tone\ntrain/b\ttwo\nc\tthree\n./test/a.wav\tfour\n")
    for path in (root, root / "transcripts.tsv"):
        found = open_speech(str(path))
        heard = {row["text"]: len(row["audio"]) for row in found.take("all")}
        assert heard == {"one": 400, "two": 401, "three": 403, "four": 402}
        assert not found.left_out


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_is_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    root = corpus(tmp_path / "small", PARTS_TABLE)
    where = tmp_path / "small.tar"
    with tarfile.open(where, "w") as out:
        out.add(root, ".")
    if packed:
        where = tmp_path / "small.tar.gz"
        where.write_bytes(gzip.compress((tmp_path / "small.tar").read_bytes()))
    found = open_speech(str(where))
    assert lengths(found, "test") == {"three": 402, "four": 403}
    assert found.source.startswith(where.name)
    assert (tmp_path / "cache").exists() == packed


def test_librispeech(tmp_path: Path):
    for part, speaker in (("train-clean-100", 19), ("dev-clean", 84), ("test-other", 61)):
        folder = tmp_path / "LibriSpeech" / part / str(speaker) / "7"
        for number in range(2):
            say(folder / f"{speaker}-7-000{number}.wav", 400 + number)
        lines = "".join(f"{speaker}-7-000{i} {part.upper()} {i}\n" for i in range(2))
        (folder / f"{speaker}-7.trans.txt").write_text(lines)
    found = open_speech(str(tmp_path))
    assert lengths(found, "train") == {"TRAIN-CLEAN-100 0": 400, "TRAIN-CLEAN-100 1": 401}
    assert lengths(found, "valid") == {"DEV-CLEAN 0": 400, "DEV-CLEAN 1": 401}
    assert lengths(found, "test") == {"TEST-OTHER 0": 400, "TEST-OTHER 1": 401}


def manifest(file: Path, rows: list[dict]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("column", ["audio_filepath", "audio", "path"])
def test_a_manifest(tmp_path: Path, column: str):
    for number in range(3):
        say(tmp_path / "clips" / f"{number}.wav", 400 + number)
    rows = [
        {column: "clips/0.wav", "text": "zero", "split": "train", "duration": 9},
        {column: str(tmp_path / "clips" / "1.wav"), "text": "one", "split": "dev"},
        {column: "clips/2.wav", "text": "two", "split": "test"},
    ]
    found = open_speech(manifest(tmp_path / "all.jsonl", rows))
    assert [lengths(found, part) for part in ("train", "valid", "test")] == [
        {"zero": 400},
        {"one": 401},
        {"two": 402},
    ]
    assert found.rows["train"][0]["seconds"] == 400 / 16_000


def test_manifests_of_parts_and_columns_of_other_names(tmp_path: Path):
    for number in range(2):
        say(tmp_path / f"{number}.wav", 400 + number)
    train = manifest(tmp_path / "train.jsonl", [{"sound": "0.wav", "said": "zero"}])
    test = manifest(tmp_path / "held.jsonl", [{"sound": "1.wav", "said": "one"}])
    names = {"audio": "sound", "text": "said"}
    found = open_speech(f"{train},{test}", columns=names)
    assert found.source.startswith("train.jsonl and held.jsonl (")
    assert lengths(found, "test") == {"one": 401}
    (tmp_path / "held.jsonl").rename(tmp_path / "test.jsonl")
    found = open_speech(str(tmp_path), columns=names)
    assert lengths(found, "test") == {"one": 401}
    assert lengths(found, "train") | lengths(found, "valid") == {"zero": 400}


def many(root: Path, people: int, each: int, part: str = "") -> list[str]:
    """Lines of a table of so many speakers, whose recordings are written."""
    lines = []
    for person in range(people):
        for number in range(each):
            name = f"{number}-{part}{person}-b"
            say(root / f"{name}.wav", 100)
            lines.append("\t".join(filter(None, (part, name, f"text {number}"))))
    return lines


def speakers(found: Examples, part: str) -> set[str]:
    return {name.split("-")[1] for name in found.column("name", part)}


def test_speakers_are_held_out_as_the_test_part_holds_them_out(tmp_path: Path):
    lines = [*many(tmp_path, 25, 2, "train"), *many(tmp_path, 3, 2, "test")]
    (tmp_path / "transcripts.tsv").write_text("\n".join(lines))
    found = open_speech(str(tmp_path))
    train, valid, test = (speakers(found, part) for part in ("train", "valid", "test"))
    assert (len(train), len(valid), len(test)) == (23, 2, 3)
    assert not train & valid


def test_without_parts_speakers_stay_together(tmp_path: Path):
    (tmp_path / "transcripts.tsv").write_text("\n".join(many(tmp_path, 20, 2)))
    found = open_speech(str(tmp_path))
    train, valid, test = (speakers(found, part) for part in ("train", "valid", "test"))
    assert train | valid | test == {str(i) for i in range(20)}
    assert not train & valid | train & test | valid & test
    assert all((train, valid, test))


def test_what_cannot_be_used_is_counted(tmp_path: Path):
    say(tmp_path / "good.wav")
    say(tmp_path / "none.wav", 0)
    say(tmp_path / "long.wav", 16_000)
    for folder in ("x", "y"):
        say(tmp_path / folder / "twice.wav")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "page.wav").write_text("<html>" * 99)
    rows = [
        {"audio": "good", "text": "good"},
        *({"audio": name, "text": "x"} for name in ("none", "empty", "page", "missing", "twice")),
        {"audio": "good", "text": "  "},
        {"audio": "good", "text": None},
        *({"audio": nothing, "text": "x"} for nothing in (None, "", 3)),
        {"audio": "good", "text": "x", "split": "extra"},
        *({"audio": "good", "text": "x", "offset": offset} for offset in (1.5, "0:01")),
        {"audio": "long", "text": "x", "offset": 0, "duration": 0.8},
        {"audio": "long", "text": "nearly", "offset": "0.0", "duration": "0.9"},
        {"audio": "long", "text": "so long", "duration": "one second"},
    ]
    manifest(tmp_path / "m.jsonl", rows)
    found = open_speech(str(tmp_path))
    assert found.left_out == {
        "audio without samples": 1,
        "an empty audio file": 1,
        "a file that is no audio": 1,
        "an audio file that is not there": 5,
        "no text": 2,
        "a part that is none of train, valid and test": 1,
        "an offset into its file: cut that first": 2,
        "a duration shorter than its file: cut that first": 1,
    }
    assert {row["text"] for row in found.take("all")} == {"good", "nearly", "so long"}
    rows = [{"audio": "good", "text": "a", "split": "test"}, {"audio": "good", "text": "b"}]
    manifest(tmp_path / "m.jsonl", rows)
    found, why = open_speech(str(tmp_path)), "no part, where others are of valid or test"
    # it may belong to any part, so each says it
    assert found.left_out == found.left("train") == found.left("test") == {why: 1}


def digits(file: Path, **changed: np.ndarray) -> str:
    """Three recordings as the arrays of spoken digits."""
    waves = [np.asarray(w, np.int64) for w in ([5, -3, 700], [-32_768, 32_767], [9])]
    steps = np.concatenate([np.diff(np.diff(w, prepend=0), prepend=0) for w in waves])
    coded = (steps << 1) ^ (steps >> 63)
    planes = {
        name: np.frombuffer(lzma.compress((coded >> 8 * i).astype(np.uint8).tobytes()), np.uint8)
        for i, name in enumerate(("lo_xz", "mid_xz", "hi_xz"))
    }
    about = {"length": [3, 2, 1], "label": [7, 0, 9], "take": [4, 5, 49], "speaker": [1, 0, 0]}
    arrays = {name: np.asarray(values, np.int32) for name, values in about.items()}
    np.savez(file, **{**planes, **arrays, "speakers": np.asarray(["ann", "bob"]), **changed})
    return str(file)


def test_spoken_digits(tmp_path: Path):
    found = open_speech(digits(tmp_path / "digits.npz"))
    assert found.column("text", "test") == ["seven"]
    assert found.column("name", "test") == ["7_bob_4"]
    train = {r["text"]: r["audio"] for p in ("train", "valid") for r in found.rows[p].closed}
    np.testing.assert_array_equal(train["zero"].data.values, [-32_768, 32_767])
    assert len(found.rows["test"][0]["audio"]) == 6
    assert found.column("seconds", "test") == [3 / 8_000]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda at: "a.jsonl,b.jsonl,c.jsonl,d.jsonl", "names 4 places; TRAIN,TEST or TRAIN,VALID"),
        (lambda at: None, "there is no embedded speech: give some with --data"),
        (lambda at: str(at / "nothing"), "there is nothing at"),
        (lambda at: str(at), "says nowhere what is spoken: it needs transcripts.tsv"),
        (
            lambda at: digits(at / "a.wav") and str((at / "a.wav.npz").rename(at / "a.wav")),
            "a.wav is neither a folder, a .tar, an .npz file nor a manifest",
        ),
        (lambda at: manifest(at / "m.jsonl", []) and _lone(at, "\n"), "holds no recordings"),
        (lambda at: manifest(at / "m.jsonl", [{"text": "x"}]), "has no column for audio"),
        (lambda at: manifest(at / "m.jsonl", [{"audio": "x"}]), "has no column for text .*say wh"),
        (
            lambda at: manifest(at / "m.jsonl", [{"audio": "x.wav", "text": "x"}]),
            "no recording can be used; left out are 1 with an audio file that is not there",
        ),
        (lambda at: _lone(at, "a\tb\nc\n"), "line 2 has 1 cells, and there are 2 columns: name, t"),
        (lambda at: _lone(at, "a\tb\xff\n"), "transcripts.tsv in the folder .*, line 1, is not UT"),
        (lambda at: _table(at / "m.jsonl", "{"), "m.jsonl line 1 is not JSON"),
        (lambda at: _table(at / "m.jsonl", "[1]"), "m.jsonl line 1 is a list; a row is an object"),
        (lambda at: _table(at / "m.csv", 'text,"path\n'), "m.csv line 2 is no CSV"),
        (lambda at: _table(at / "m.tar", "no archive"), "m.tar is damaged"),
        (lambda at: _table(at / "m.npz", "no arrays"), "m.npz is damaged: it is no .npz file"),
        (
            lambda at: np.savez(at / "m.npz", x=np.zeros(1)) or str(at / "m.npz"),
            "m.npz holds the arrays x; spoken digits have hi_xz, label",
        ),
        (
            lambda at: digits(at / "m.npz", length=np.asarray([3, 2])),
            r"hold \[2, 3, 3, 3\] values, and the samples are \[6, 6, 6\] of 5",
        ),
        (lambda at: digits(at / "m.npz", label=np.asarray([1, 2, 10])), r"below 10 \(most 10\)"),
    ],
)
def test_errors(tmp_path: Path, make: Callable[[Path], str | None], says: str):
    with pytest.raises(ValueError, match=says):
        open_speech(make(tmp_path))


def _table(file: Path, text: str) -> str:
    file.write_bytes(text.encode("latin-1"))
    return str(file)


def _lone(folder: Path, text: str) -> str:
    return _table(folder / "transcripts.tsv", text)


def test_columns_that_are_none(tmp_path: Path):
    with pytest.raises(ValueError, match="speech has no field 'sound'; known: audio, text, part"):
        open_speech(str(tmp_path), columns={"sound": "x"})
    with pytest.raises(ValueError, match="columns belong to data of your own"):
        open_speech(None, columns={"text": "x"}, default=lambda: Examples({}, "", ""))
    path = manifest(tmp_path / "m.jsonl", [{"audio": "x", "text": "y"}])
    with pytest.raises(ValueError, match="has no column 'z'; its columns are audio, text"):
        open_speech(path, columns={"text": "z"})


# --- real data ----------------------------------------------------------------------------------


def test_an4(data_dir: Path):
    found = open_speech(str(data_dir / "speech" / "an4_16k_flac.tar"))
    sizes = {part: len(rows) for part, rows in found.rows.items()}
    assert sizes == {"train": 859, "valid": 89, "test": 130}
    assert (len(speakers(found, "train")), len(speakers(found, "valid"))) == (67, 7)
    assert not found.left_out
    row = found.rows["test"][0]
    assert len(row["audio"]) == row["seconds"] * 16_000
    assert 0.01 < np.abs(row["audio"]).max() < 1


def test_free_spoken_digits(data_dir: Path):
    found = open_speech(str(data_dir / "speech" / "fsdd_8k.npz"))
    assert len(found.rows["test"]) == 300
    assert len(found.rows["train"]) + len(found.rows["valid"]) == 2_700
    row = found.rows["test"][17]
    assert len(row["audio"]) == row["seconds"] * 16_000
    assert 0.01 < np.abs(row["audio"]).max() < 1
