"""Speech recognition as a user meets it: train, eval, predict, hear as it comes."""

import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import subquad as sq
from subquad.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

RATE = 16_000


def spoken(text, draw):
    """A tone for each letter, silence for a space."""
    parts = [np.zeros(800)]
    for letter in text:
        turns = 2 * np.pi / RATE * np.arange(1920)
        pitch = 400 + 500 * "abcd".find(letter)
        parts.append(0.3 * np.sin(pitch * turns) * np.hanning(1920) * (letter != " "))
    wave = np.concatenate([*parts, np.zeros(800)])
    return (wave + 0.003 * draw.standard_normal(len(wave))).astype(np.float32)


def texts(count, draw):
    for _ in range(count):
        words = [draw.choice([*"abcd"], draw.integers(1, 3)) for _ in range(draw.integers(1, 3))]
        yield " ".join("".join(word) for word in words)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of recordings, and a run that has learnt them."""
    folder, draw = tmp_path_factory.mktemp("asr"), np.random.default_rng(0)
    (folder / "tones").mkdir()
    lines = []
    for i, text in enumerate(texts(60, draw)):
        soundfile.write(folder / "tones" / f"u{i}.wav", spoken(text, draw), RATE)
        part = "train" if i < 44 else "valid" if i < 50 else "test"
        lines.append(f"{part}\tu{i}\t{text}\n")
    (folder / "tones" / "transcripts.tsv").write_text("".join(lines))
    words = ["train", "asr", "--arch", "conformer", "--preset", "tiny-chunks", "--data"]
    words += [str(folder / "tones"), "--out", str(folder / "run"), "--task.speed", "false"]
    words += ["--task.mask", "false", "--train.steps", "60", "--train.batch", "8"]
    assert main([*words, "--train.reports", "1", "--train.lr", "0.01"]) == 0
    return folder


def write(path, data):
    path.write_bytes(data)
    return path


def said(capsys, *words, code=0):
    capsys.readouterr()
    assert main(list(map(str, words))) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_eval_tells_rates_with_intervals_and_errors(run, capsys):
    out = said(capsys, "eval", run / "run")
    assert "wer                      0.0000" in out
    assert "cer high " in out
    assert "10 rows, the test part of the folder tones" in out
    assert "the likeliest token of each output" in out
    lines = (run / "run" / "errors.tsv").read_text().splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("word errors\twords\twer")
    out = said(capsys, "eval", run / "run", "--rows", "3", "--lm", "ngram", "--bonus", "0.5")
    assert "3 rows" in out
    assert "16 beams, ngram with weight 0.5 as language model, bonus 0.5" in out
    assert "bonus are for beams" in said(capsys, "eval", run / "run", "--bonus", "1", code=2)


def test_predict_tells_text_words_and_times(run, capsys):
    wave = spoken("ab cd", np.random.default_rng(9))
    path = run / "one.wav"
    soundfile.write(path, wave, RATE)
    assert said(capsys, "predict", run / "run", path) == "ab cd\n"
    assert said(capsys, "predict", run / "run", path, "--beams", "4") == "ab cd\n"
    lines = said(capsys, "predict", run / "run", path, "--times").splitlines()
    assert [line.split()[2] for line in lines] == ["ab", "cd"]
    told = json.loads(said(capsys, "predict", run / "run", path, "--json"))
    assert told["text"] == "ab cd"
    first, second = told["words"]
    # letters of 120 ms after 50 ms; an output stands for 40 ms, and reads 70
    assert 0.0 <= first["start"] < 0.17
    assert 0.17 < first["end"] <= second["start"] <= 0.53
    row = json.dumps({"audio": str(path)})
    (run / "rows.jsonl").write_text(row + "\n")
    assert json.loads(said(capsys, "predict", run / "run", run / "rows.jsonl")) == told


def test_other_rates_and_channels_are_heard(run, capsys):
    wave = spoken("ad b", np.random.default_rng(9))
    fine = np.interp(np.arange(3 * len(wave)) / 3, np.arange(len(wave)), wave)
    for name, data, rate in (
        ("both.wav", np.stack((wave, wave), 1), RATE),
        ("fine.flac", fine, 3 * RATE),
    ):
        soundfile.write(run / name, data, rate)
        assert said(capsys, "predict", run / "run", run / name) == "ad b\n"
    # tones below 2 kHz are there at a fourth of the rate that is heard, but for what is above
    soundfile.write(run / "coarse.wav", wave[::2], RATE // 2)
    assert said(capsys, "predict", run / "run", run / "coarse.wav") == "ad b\n"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("text.wav", b"hello", "text.wav is no recording that can be read: Format not recognised"),
        ("none.wav", b"", "none.wav is empty; a recording holds samples"),
        ("absent.wav", None, "there is no file"),
    ],
)
def test_files_that_are_no_recordings(run, capsys, name, data, says):
    if data is not None:
        (run / name).write_bytes(data)
    out = said(capsys, "predict", run / "run", run / name, code=2)
    assert says in out
    assert out.count("\n") == 1


@pytest.mark.parametrize("header", [False, True])
def test_stream_reads_what_comes(run, capsys, monkeypatch, header):
    wave = spoken("ab cd", np.random.default_rng(9))
    data = (wave * 32767).astype("<i2").tobytes()
    if header:
        form = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
        head = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data))
        data = b"RIFF" + struct.pack("<I", 36 + len(data)) + head + data
    raw = io.FileIO(write(run / "pipe", data))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw)))
    capsys.readouterr()
    assert main(["predict", str(run / "run"), "--stream", "-"]) == 0
    out = capsys.readouterr()
    assert out.out == "ab cd\n"
    # a chunk of 4 outputs, 40 ms each; 7 frames of which 4 are of the output; half a window
    assert "text comes at most 193 ms after its sound: a chunk of 160 ms, and 33 ms" in out.err


def test_stream_from_python_and_its_errors(run, capsys):
    loaded = sq.load(run / "run")
    wave = spoken("ab cd", np.random.default_rng(9))
    pieces = list(loaded.stream(np.array_split(wave, 7)))
    assert "".join(piece["text"] for piece in pieces) == loaded.predict(wave)["text"] == "ab cd"
    assert len(pieces) > 1
    assert "takes one recording" in said(
        capsys, "predict", run / "run", "a.wav", "b.wav", "--stream", code=2
    )
    for flags in (["--beams", "4"], ["--lm", "ngram", "--bonus", "1"], ["--times"]):
        out = said(capsys, "predict", run / "run", "a.wav", "--stream", *flags, code=2)
        assert f"takes no {', '.join(f for f in sorted(flags) if f.startswith('-'))}: leave" in out
    none = write(run / "nothing.flac", b"")
    out = said(capsys, "predict", run / "run", none, "--stream", code=2)
    assert "nothing.flac is empty" in out
    soundfile.write(run / "one.flac", wave, RATE)
    out = said(capsys, "predict", run / "run", run / "one.flac", "--stream", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert "".join(piece["text"] for piece in told) == "ab cd"


@pytest.mark.parametrize("bounded", [True, False])
def test_long_recordings_with_beams(run, capsys, monkeypatch, bounded):
    """Piece by piece and in windows: longer than a part that beams are kept for."""
    if not bounded:
        monkeypatch.setattr("subquad.model.Model.bounded", False)
    text, path = " ".join(["ab cd"] * 60), run / "hour.wav"
    soundfile.write(path, spoken(text, np.random.default_rng(9)), RATE)
    assert soundfile.info(path).duration > 40
    assert said(capsys, "predict", run / "run", path, "--beams", "4") == f"{text}\n"
    lines = said(capsys, "predict", run / "run", path, "--beams", "4", "--times").splitlines()
    assert len(lines) == 120
    starts = [float(line.split()[0]) for line in lines]
    # a word of two letters and a space last 360 ms; as close as that of a short recording
    for number, start in enumerate(starts):
        assert -0.06 < start - (0.05 + 0.36 * number) < 0.12


def test_other_recordings_are_scored_whole(run, tmp_path, capsys):
    """Rules of training are for training: strange letters, more text than frames, no frame at all,
    and a recording longer than the window count as what they are, in data without parts too."""
    draw = np.random.default_rng(2)
    said_in = ["ab", "cd a", "a é", "abcd" * 20]
    for number, text in enumerate(said_in):
        soundfile.write(tmp_path / f"u{number}.wav", spoken(text[:4], draw), RATE)
    soundfile.write(tmp_path / "long.wav", np.tile(spoken("ab", draw), 80), RATE)
    soundfile.write(tmp_path / "u4.wav", np.zeros(50), RATE)
    said_in.append("b b")
    lines = [f"u{number}\t{text}\n" for number, text in enumerate(said_in)]
    table = tmp_path / "transcripts.tsv"
    table.write_text("".join([*lines, "long\tab\n", "absent\tab\n"]))
    out = said(capsys, "eval", run / "run", "--data", tmp_path)
    assert "6 rows, the all part of the folder" in out
    assert "left out: 1 with an audio file that is not there" in out
    lines = (run / "run" / "errors.tsv").read_text().splitlines()[1:]
    words = {line.split("\t")[7]: line.split("\t")[:2] for line in lines}
    assert set(words) == {*said_in, "ab"}
    assert words["abcd" * 20] == ["1", "1"]
    assert words["a é"][0] != "0"
    assert words["b b"] == ["2", "2"]


def test_what_is_left_out_is_told_of_the_part_that_is_scored(run, tmp_path, capsys):
    soundfile.write(tmp_path / "one.wav", spoken("ab", np.random.default_rng(2)), RATE)
    table = "train\tone\tab\ntrain\tabsent\tab\ntest\tone\tab\ntest\tone\t \n"
    (tmp_path / "transcripts.tsv").write_text(table)
    out = said(capsys, "eval", run / "run", "--data", tmp_path, "--part", "test")
    assert "1 rows, the test part" in out
    assert "left out: 1 with no text" in out
    assert "not there" not in out


def test_where_nothing_can_be_decoded_nothing_is_perfect(run, tmp_path, capsys):
    soundfile.write(tmp_path / "cut.flac", np.tile(spoken("ab", np.random.default_rng(2)), 3), RATE)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    (tmp_path / "transcripts.tsv").write_text("cut.flac\tab\n")
    out = said(capsys, "eval", run / "run", "--data", tmp_path, code=2)
    assert "none of 1 rows of the all part of the folder" in out
    assert "so there is nothing to score" in out


def test_pipeline_of_transformers_reads_the_run(run):
    from transformers import pipeline

    import subquad.hf

    assert subquad.hf.SubquadForCTC
    listen = pipeline("automatic-speech-recognition", model=str(run / "run"))
    wave = spoken("ab cd", np.random.default_rng(9))
    assert listen(wave) == {"text": "ab cd"}
    words = listen(wave, return_timestamps="word")["chunks"]
    assert [word["text"] for word in words] == ["ab", "cd"]
    assert sq.load(run / "run").predict(wave)["words"][0]["end"] == pytest.approx(
        float(words[0]["timestamp"][1])
    )


def test_recordings_that_do_not_do_are_left_out_with_the_reason(tmp_path, capsys):
    folder, draw = tmp_path / "mixed", np.random.default_rng(1)
    folder.mkdir()
    lines = []

    def add(part, name, text, wave=None, rate=RATE):
        if wave is not None:
            soundfile.write(folder / name, wave, rate)
        lines.append(f"{part}\t{name}\t{text}\n")

    for i, text in enumerate(texts(12, draw)):
        add("train" if i < 8 else "valid", f"u{i}.wav", text, spoken(text, draw))
    wave = spoken("ab", draw)
    add("train", "both.wav", "ab", np.stack((wave, wave), 1))
    add("train", "coarse.wav", "ab", wave[::2], 8000)
    add("train", "fine.wav", "ab", np.repeat(wave, 3), 48_000)
    add("train", "long.wav", "abcd" * 20, wave)
    add("valid", "strange.wav", "a é", wave)
    add("train", "hours.wav", "a", np.tile(wave, 9))
    add("train", "cut.flac", "ab", np.tile(wave, 3))
    cut = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(cut[: len(cut) // 2])
    for name, data in (("text.wav", b"hello"), ("none.wav", b"")):
        (folder / name).write_bytes(data)
        add("train", name, "ab")
    (folder / "transcripts.tsv").write_text("".join(lines))
    words = ["train", "asr", "--arch", "conformer", "--preset", "tiny", "--data", folder]
    words += ["--train.steps", "8", "--train.batch", "2", "--train.reports", "1", "--out"]
    words += [tmp_path / "run", "--task.window", "2", "--task.ngram", "0", "--task.decoder", "1"]
    assert main([*map(str, words)]) == 0
    told = capsys.readouterr().err
    assert "left out of training: 1 with a file that is no audio" in told.replace("\n", " ")
    left = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["left_out"]
    assert left == {
        "a file that is no audio": 1,
        "an empty audio file": 1,
        "a transcript longer than its frames allow": 1,
        "a training recording longer than the window": 1,
    }
    assert not Path(tmp_path / "run" / "transcripts.arpa").exists()
    out = said(capsys, "eval", tmp_path / "run", "--part", "valid", "--beams", "2")
    # what is left out of training is none of the validation part, all of which is scored
    assert "5 rows, the valid part" in out
    assert "2 beams, bonus 0.0, with the decoder" in out
    assert "left out" not in out
    one = folder / "u0.wav"
    out = said(capsys, "predict", tmp_path / "run", one, "--stream", code=2)
    assert "this run looks ahead without a limit" in out
    assert "was trained with ngram 0" in said(
        capsys, "eval", tmp_path / "run", "--part", "valid", "--lm", "ngram", code=2
    )
