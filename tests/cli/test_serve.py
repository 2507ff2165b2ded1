"""subquad serve as clients meet it: a process of its own on loopback, stopped by its number."""

import json
import os
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import torch

import subquad as sq
from serving import ask, serving
from subquad.cli import main
from subquad.cli.serving import answers
from subquad.cli.serving.answers import Ask, Late, Pieces
from subquad.tasks import sampling
from subquad.tasks.sampling import begin, continued

pytest.importorskip("uvicorn", reason="serving needs uvicorn")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TINY = ["--preset", "tiny", "--train.reports", "1", "--train.batch", "4", "--train.steps", "2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "text.txt").write_text("the cat sat on the mat. " * 400)
    rows = [{"review": f"film {i}", "label": "good" if i % 2 else "bad"} for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    before = os.environ.get("SUBQUAD_CACHE")
    os.environ["SUBQUAD_CACHE"] = str(folder / "cache")
    text = ["--data", str(folder / "text.txt"), "--out", str(folder / "words")]
    assert main(["train", "lm", "--arch", "performer", *text, "--task.context", "32", *TINY]) == 0
    table = ["--data", str(folder / "rows.jsonl"), "--out", str(folder / "reviews")]
    assert main(["train", "classify", "--arch", "local", *table, *TINY]) == 0
    yield folder
    os.environ.pop("SUBQUAD_CACHE")
    if before is not None:
        os.environ["SUBQUAD_CACHE"] = before


@pytest.fixture(scope="module")
def words(root):
    flags = ["--max-bytes", "20000", "--max-tokens", "64", "--max-waiting", "3", "--seconds", "60"]
    with serving(root / "words", *flags) as (_, port):
        yield port


JSON = "Content-Type: application/json"
GREEDY = {"prompt": "the c", "max_tokens": 24, "temperature": 0}


def generated(root):
    """What generate() says to the same."""
    run = sq.load(root / "words")
    ids = begin(run.task.words, b"the c")
    how = {"max_new_tokens": 24, "do_sample": False, "suppress_tokens": [*run.task.words.unsaid]}
    out = run.model.generate(ids, attention_mask=torch.ones_like(ids), **how)
    return run.task.words.decode(out[0, ids.shape[1] :].tolist()).decode(errors="replace")


def test_openai_client_gets_what_generate_says(root, words):
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{words}/v1", api_key="none", max_retries=0)
    (only,) = client.models.list().data
    assert only.id == "words"
    said = client.completions.create(model="words", **GREEDY)
    want = generated(root)
    assert said.choices[0].text == want
    assert said.usage.completion_tokens <= 24
    parts = list(client.completions.create(model="words", stream=True, **GREEDY))
    assert "".join(p.choices[0].text for p in parts) == want
    assert parts[-1].choices[0].finish_reason in ("length", "stop")
    client.close()


def test_a_seed_gives_the_same_text(words):
    body = {"prompt": "the", "seed": 5, "max_tokens": 20}
    first, again = (ask(words, "/v1/completions", body) for _ in range(2))
    assert first[0] == 200
    assert first[1]["choices"] == again[1]["choices"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/nowhere", {}, 404, "there is nothing at /nowhere"),
        ("/v1/completions", None, 405, "does not take GET"),
        ("/v1/completions", b"{", 400, "the body is not JSON"),
        ("/v1/completions", b"[" * 15000, 400, "the body is not JSON"),
        ("/v1/completions", [1], 400, "must be a JSON object"),
        ("/v1/completions", {"prompt": 3}, 400, "prompt must be a text"),
        ("/v1/completions", {"prompt": "a\ud800"}, 400, "half of a surrogate pair"),
        ("/v1/completions", {"\ud800": 1}, 400, "\ud800 is not known; known: prompt"),
        ("/v1/completions", {"model": "\udfff"}, 404, "there is no model '\\udfff'"),
        ("/v1/completions", {"max_tokens": 65}, 400, "must lie between 1 and 64"),
        ("/v1/completions", {"max_tokens": float("inf")}, 400, "must lie between 1 and 64"),
        ("/v1/completions", {"max_tokens": float("nan")}, 400, "must lie between 1 and 64"),
        ("/v1/completions", {"max_tokens": 1.5}, 400, "must be a whole number"),
        ("/v1/completions", {"temperature": 10**400}, 400, "must lie between 0.0 and 100.0"),
        ("/v1/completions", {"top_p": "x"}, 400, "must be a number"),
        ("/v1/completions", {"n": "x" * 9000}, 400, "n = 'xxx"),
        ("/v1/completions", {"temprature": 1}, 400, "temprature is not known"),
        ("/v1/completions", {"n": 2}, 400, "n = 2 is not supported"),
        ("/v1/completions", {"model": "gpt"}, 404, "there is no model 'gpt'"),
        ("/v1/completions", {"prompt": "x" * 30000}, 413, "the limit is 20000"),
        ("/v1/chat/completions", {"messages": []}, 400, "trained on no chats"),
        ("/predict", {"input": "x"}, 400, "ask /v1/completions"),
    ],
)
def test_bad_requests_get_a_reason(words, path, body, status, said):
    got, answer = ask(words, path, body)
    assert got == status
    assert said in answer["error"]["message"]
    assert len(answer["error"]["message"]) <= 500


def test_other_types_are_refused(words):
    status, answer = ask(words, "/v1/completions", GREEDY, kind="text/plain")
    assert status == 415
    assert "Content-Type: application/json" in answer["error"]["message"]


def test_more_than_may_wait_are_sent_away_and_the_rest_answered(words):
    found = []
    body = {"prompt": "the", "max_tokens": 64, "temperature": 0}

    def one():
        found.append(ask(words, "/v1/completions", body)[0])

    threads = [threading.Thread(target=one) for _ in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(found) <= {200, 503}
    assert found.count(200) >= 3
    assert 503 in found
    assert ask(words, "/health")[1] == {"status": "ok", "waiting": 0}


def test_predictions_are_those_of_the_run(root):
    with serving(root / "reviews") as (_, port):
        run = sq.load(root / "reviews")
        want = run.predict(run.task.read("a film"))
        assert ask(port, "/predict", {"input": "a film"}) == (200, {"answer": want})
        row = {"text": "a film"}
        assert ask(port, "/predict", {"input": [row, row]})[1] == {"answers": [want, want]}
        # the name of a file is a text like another
        name = str(root / "text.txt")
        assert ask(port, "/predict", {"input": name})[1]["answer"] == run.predict(
            run.task.read(name)
        )
        status, answer = ask(port, "/predict", b"RIFF", kind="audio/wav")
        assert (status, answer["error"]["message"]) == (415, f"send JSON, with {JSON}")
        status, answer = ask(port, "/v1/completions", GREEDY)
        assert (status, "ask /predict" in answer["error"]["message"]) == (400, True)


def test_time_is_limited_and_sigterm_lets_work_end(root):
    with serving(root / "words", "--seconds", "2", "--max-tokens", "100000") as (process, port):
        long = {"prompt": "the", "max_tokens": 100000, "temperature": 0}
        status, answer = ask(port, "/v1/completions", long)
        assert (status, "longer than 2 seconds" in answer["error"]["message"]) == (504, True)
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        assert b" 408 " in slow.recv(4096)
        slow.close()
        answers = []
        last = threading.Thread(
            target=lambda: answers.append(ask(port, "/v1/completions", GREEDY)[0])
        )
        last.start()
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        last.join()
        assert process.wait(30) == 0
        assert answers == [200]


@pytest.fixture
def clock(root, monkeypatch):
    """(run, pieces that its model has read); each takes a second."""
    run, read = sq.load(root / "words"), []
    monkeypatch.setattr(answers, "time", SimpleNamespace(monotonic=lambda: len(read)))

    def counted(model, given, named):
        read.append(named["input_ids"].shape[1])

    run.model.register_forward_pre_hook(counted, with_kwargs=True)
    return run, read


LONG = Ask("the cat " * 1000, 4, 0.0, 1.0, None, False)


def test_a_prompt_that_is_late_is_not_read_to_its_end(clock):
    """Or those who wait behind it would be late as well."""
    run, read = clock
    with pytest.raises(Late):
        Pieces(run, 2.5, str).run(run, LONG)
    assert read == [1024] * 3  # of 7 and a rest
    read.clear()
    pieces = Pieces(run, 100.0, str)
    assert pieces.run(run, LONG) == "length"
    assert read == [1024] * 7 + [833, 1, 1, 1]
    assert (pieces.read, len(pieces.ids)) == (8001, 4)


def test_a_prompt_that_nobody_waits_for_is_not_read_on(clock):
    run, read = clock
    pieces = Pieces(run, 100.0, str)
    pieces.cancelled = True
    with pytest.raises(Late):
        pieces.run(run, LONG)
    assert read == []


def test_a_prompt_read_in_pieces_is_read_whole(root, monkeypatch):
    run = sq.load(root / "words")
    how = {"max_new_tokens": 24, "temperature": 0.0}
    pieces = continued(run.model.double(), run.task.words, LONG.prompt.encode(), **how)
    monkeypatch.setattr(sampling, "_PIECE", 1 << 20)
    assert continued(run.model, run.task.words, LONG.prompt.encode(), **how) == pieces


def test_mistakes_of_the_command_are_one_line(root, capsys):
    assert main(["serve", str(root / "none")]) == 2
    assert "there is no run folder" in capsys.readouterr().err
    assert main(["serve", str(root / "words"), "--seconds", "0"]) == 2
    assert "--seconds is 0.0; it must be above 0" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", str(root / "words"), "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
