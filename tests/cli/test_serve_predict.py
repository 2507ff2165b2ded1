"""/predict of runs that hear, translate and forecast: each answers over HTTP what the run says."""

import io
import json
import wave
from types import SimpleNamespace

import numpy as np
import pytest

import subquad as sq
from serving import ask, serving
from subquad.cli import main
from subquad.cli.serving import answers
from subquad.cli.serving.answers import Late, predict

pytest.importorskip("uvicorn", reason="serving needs uvicorn")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TINY = ["--preset", "tiny", "--train.reports", "1", "--train.steps", "2"]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBQUAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def wav(seconds=0.5, rate=16_000):
    """The bytes of a tone, of 16 bits."""
    tone = 9000 * np.sin(np.arange(int(seconds * rate)) / 9)
    out = io.BytesIO()
    with wave.open(out, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(rate)
        made.writeframes(tone.astype("<i2").tobytes())
    return out.getvalue()


def message(answer):
    """Status, and the one line that says why."""
    status, said = answer
    assert "\n" not in said["error"]["message"]
    return status, said["error"]["message"]


@pytest.fixture(scope="module")
def hears(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hears")
    (folder / "tones").mkdir()
    told = []
    for i in range(12):
        (folder / "tones" / f"u{i}.wav").write_bytes(wav(0.4 + i / 40))
        told.append(f"{'train' if i < 8 else 'valid' if i < 10 else 'test'}\tu{i}\tab ba\n")
    (folder / "tones" / "transcripts.tsv").write_text("".join(told))
    words = ["train", "asr", "--arch", "local", "--data", str(folder / "tones")]
    words += ["--task.speed", "false", "--task.mask", "false", "--train.batch", "4"]
    assert main([*words, "--out", str(folder / "run"), *TINY]) == 0
    return folder / "run"


def test_a_recording_is_the_body(hears, tmp_path):
    run, path = sq.load(hears), tmp_path / "a.wav"
    path.write_bytes(wav())
    want = json.loads(json.dumps(run.predict(run.task.read(path))))
    assert want.keys() >= {"text", "words"}
    with serving(hears, "--max-bytes", "100000") as (process, port):
        for kind in ("audio/wav", "Audio/X-WAV", "application/octet-stream"):
            assert ask(port, "/predict", wav(), kind) == (200, {"answer": want})
        status, said = message(ask(port, "/predict", b"RIFF nothing", "audio/wav"))
        assert (status, said.startswith("recording is no recording that can be read: ")) == (
            400,
            True,
        )
        assert message(ask(port, "/predict", b"", "audio/wav")) == (
            400,
            "recording is empty; a recording holds samples",
        )
        status, said = message(ask(port, "/predict", wav(rate=1, seconds=300), "audio/wav"))
        assert (status, "less than 1,000 samples a second" in said) == (400, True)
        status, said = message(ask(port, "/predict", bytes(100_001), "audio/wav"))
        assert (status, "the limit is 100000" in said) == (413, True)
        # neither as JSON, nor as the name of a file here
        for body in ({"input": str(path)}, {"input": {"audio": str(path)}}):
            status, said = message(ask(port, "/predict", body))
            assert (status, said) == (
                400,
                "send the recording itself as the body, with Content-Type audio/...",
            )
        status, said = message(ask(port, "/predict", wav(), "text/plain"))
        assert (status, said.endswith("or a file, with Content-Type: audio/")) == (415, True)
        process.terminate()
        assert process.wait(60) == 0


def test_a_late_recording_is_not_heard_to_its_end(hears, monkeypatch):
    """Or those who wait behind it would be late as well."""
    run, heard = sq.load(hears), []
    monkeypatch.setattr(answers, "time", SimpleNamespace(monotonic=lambda: len(heard)))
    listen = run.task._waves

    def counted(path):
        for piece in listen(path):
            heard.append(len(piece))
            yield piece

    monkeypatch.setattr(run.task, "_waves", counted)
    body = wav(seconds=60)
    with pytest.raises(Late):
        predict(run, body, 2.5)
    assert heard == [160_000] * 3  # of 6 blocks
    heard.clear()
    assert predict(run, body, 10)["answer"].keys() >= {"text", "words"}
    assert len(heard) == 6


def test_sentences_are_translated(tmp_path):
    for part, count in {"train": 40, "valid": 8, "test": 8}.items():
        (tmp_path / f"{part}.en").write_text("".join(f"a b {i}\n" for i in range(count)))
        (tmp_path / f"{part}.to").write_text("".join(f"{i} b a\n" for i in range(count)))
    sides = [
        ",".join(str(tmp_path / f"{p}.{to}") for p in ("train", "valid", "test"))
        for to in ("en", "to")
    ]
    words = ["train", "translate", "--data", *sides, "--out", str(tmp_path / "run"), *TINY]
    words += ["--task.tokenizer", "bytes", "--task.target", "20", "--task.beams", "2"]
    assert main([*words, "--train.batch_tokens", "200"]) == 0
    run = sq.load(tmp_path / "run")
    want = [run.predict(run.task.read(text)) for text in ("a b 7", "b")]
    with serving(tmp_path / "run") as (_, port):
        assert ask(port, "/predict", {"input": "a b 7"}) == (200, {"answer": want[0]})
        rows = ["a b 7", {"text": "b"}, ""]
        status, said = ask(port, "/predict", {"input": rows})
        assert (status, said["answers"][:2]) == (200, want)
        assert [*said["answers"][2].values()] == [""]  # an empty line stays one
        for bad in (3, None, [["a"]], {"txt": "a"}, {"text": 3}, {"text": ["a"]}):
            status, said = message(ask(port, "/predict", {"input": bad}))
            assert (status, bool(said)) == (400, True)
        status, said = message(ask(port, "/predict", {"inputs": "a"}))
        assert (status, said) == (400, 'the body must be {"input": ...}')


def test_series_are_forecast_of_json_and_of_tables(tmp_path):
    hours = [f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00" for i in range(120)]
    lines = [
        f"{name},{t},{5 + i % 6 + level:.2f}"
        for level, name in enumerate(("a", "b"))
        for i, t in enumerate(hours)
    ]
    table = "\n".join(["item_id,timestamp,target", *lines]) + "\n"
    (tmp_path / "waves.csv").write_text(table)
    words = ["train", "forecast", "--arch", "local", "--data", str(tmp_path / "waves.csv"), *TINY]
    words += ["--horizon", "4", "--freq=H", "--task.context", "12", "--train.batch", "4"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    run = sq.load(tmp_path / "run")
    row = {"start": hours[0], "item_id": "a", "target": [5 + i % 6 for i in range(60)]}
    of_row = json.loads(json.dumps(run.predict(run.task.read(row))))
    of_table = json.loads(json.dumps(run.predict(run.task.read(tmp_path / "waves.csv"))))
    assert (len(of_row), len(of_table)) == (1, 2)
    with serving(tmp_path / "run") as (_, port):
        assert ask(port, "/predict", {"input": row}) == (200, {"answer": of_row})
        assert ask(port, "/predict", {"input": [row]}) == (200, {"answers": [of_row]})
        kind = "text/csv; charset=utf-8"
        assert ask(port, "/predict", table.encode(), kind) == (200, {"answer": of_table})
        for bad, why in (
            ({**row, "target": "x"}, "a row wants a list target"),
            ({**row, "target": ["x"]}, "target[0]"),
            ({**row, "start": "never"}, "start"),
            ({**row, "other": 1}, "a row has other"),
            (str(tmp_path / "waves.csv"), "a series is a JSON object"),
        ):
            status, said = message(ask(port, "/predict", {"input": bad}))
            assert (status, why in said) == (400, True), said
        for bad in (
            b"",
            b"\xff\xfe\x00",
            b"item_id,timestamp,target\na,never,1\n",
            table.replace("5.00", "x").encode(),
        ):
            status, said = message(ask(port, "/predict", bad, "text/csv"))
            assert (status, "/" in said) == (400, False), said


def test_what_nobody_foresaw_is_one_line_too(hears, capsys, monkeypatch):
    import asyncio

    from subquad.cli.serving.app import App, Limits

    def broken(*given):
        raise RuntimeError("out of order")

    monkeypatch.setattr(answers.tempfile, "TemporaryDirectory", broken)
    sent = []

    async def receive():
        return {"type": "http.request", "body": wav(), "more_body": False}

    async def send(part):
        sent.append(part)

    headers = [(b"content-type", b"audio/wav")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    asyncio.run(App(sq.load(hears), "run", Limits(1 << 20, 60.0, 4, 9))(scope, receive, send))
    assert sent[0]["status"] == 500
    said = json.loads(sent[1]["body"])["error"]["message"]
    assert said == "this failed; the server has printed why"
    assert "out of order" in capsys.readouterr().err
