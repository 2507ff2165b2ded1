"""A run folder's tokenizer gives transformers the tokens that the task gives its model."""

import json

import pytest
import torch
from transformers import AutoTokenizer, pipeline

import subquad as sq
from subquad.cli import main
from subquad.data.vocabulary import Bytes, vocabulary
from subquad.tasks.translate import Translate

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.slow,
]

QUICK = ["--preset", "tiny", "--train.batch", "8", "--train.reports", "1", "--task.valid_rows", "8"]
QUICK += ["--train.steps", "2", "--task.context", "24"]
# longer than the context, one that spells special tokens, and letters of several bytes
TEXTS = [
    "film 7",
    "film 7 was lovely, and so was film 8, and 9",
    "a <|mark|> <|endoftext|>",
    "Größe",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def trained(folder, task, field, *how):
    said = {"label": "good", "summary": "a film", "translation": "ein film"}
    rows = (
        {"text": f"film {i} was lovely {i}", field: said[field] if i % 2 else f"{i}"[-1:]}
        for i in range(80)
    )
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["train", task, "--data", str(data), "--out", "run", *QUICK, *how]) == 0
    return sq.load("run")


KINDS = {
    "classify": ("classify", "label", "--arch", "local", "--task.tokenizer", "bytes"),
    "subwords": ("classify", "label", "--arch", "local", "--task.tokenizer", "bpe:280"),
    "summarize": ("summarize", "summary", "--arch", "led", "--task.tokenizer", "bpe:280"),
    "bytes": ("summarize", "summary", "--arch", "led", "--task.tokenizer", "bytes"),
    "translate": ("translate", "translation", "--task.tokenizer", "bpe:280"),
    "two": (
        *("translate", "translation", "--task.tokenizer", "bpe:280", "--task.joint", "false"),
        *("--task.beams", "1"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokens(kind, tmp_path):
    run = trained(tmp_path, *KINDS[kind])
    theirs = AutoTokenizer.from_pretrained("run")
    assert theirs.model_max_length == 24
    for text in TEXTS:
        ours = run.task.inputs({"text": text})["input_ids"].tolist()
        found = theirs(text, truncation=True)
        assert found["input_ids"] == ours
        assert found.keys() <= {"input_ids", "attention_mask"}
    rows = run.task.collate([run.task.inputs({"text": text}) for text in TEXTS])
    batch = theirs(TEXTS, truncation=True, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], rows["input_ids"])
    assert torch.equal(batch["attention_mask"], rows["attention_mask"])
    # and ours adds nothing twice
    words = run.task.source_words if isinstance(run.task, Translate) else run.task.words
    again = words if isinstance(words, Bytes) else vocabulary("run")
    assert again.encode(TEXTS[1].encode()).tolist() == words.encode(TEXTS[1].encode()).tolist()


@pytest.mark.parametrize("kind", ["classify", "subwords"])
def test_a_pipeline_says_what_predict_says(kind, tmp_path):
    run = trained(tmp_path, *KINDS[kind])
    read = pipeline("text-classification", model="run", device="cpu", top_k=None)
    for text in TEXTS:
        odds = run.predict({"text": text})["labels"]
        (found,) = read([text], truncation=True)
        assert {one["label"]: one["score"] for one in found} == pytest.approx(odds, rel=1e-4)


def test_questions_and_documents(tmp_path):
    rows = [
        {
            "question": "Which?",
            "context": f"Box {i}.",
            "answers": {"text": ["Box"], "answer_start": [0]},
        }
        for i in range(60)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "answer", "--arch", "local", "--data", "q.jsonl", "--out", "run", *QUICK]
    assert main(words) == 0
    row = {"question": "Which?", "context": "Box 7."}
    ours = sq.load("run").task.inputs({**row, "answers": []})["input_ids"].tolist()
    assert AutoTokenizer.from_pretrained("run")(*row.values())["input_ids"] == ours


def test_what_is_trained_on_from_there_reads_bare_text(tmp_path):
    trained(tmp_path, *KINDS["subwords"])
    (tmp_path / "text.txt").write_text("\n".join(f"film {i} was lovely" for i in range(3000)))
    words = ["train", "mlm", "--init-from", "run", "--data", "text.txt", "--task.context", "24"]
    words += ["--task.valid_bytes", "300", "--train.batch", "2", "--train.reports", "1"]
    assert main([*words, "--train.steps", "1", "--out", "bare"]) == 0
    theirs = AutoTokenizer.from_pretrained("bare")
    assert theirs(TEXTS[0])["input_ids"] == vocabulary("bare").encode(TEXTS[0].encode()).tolist()
