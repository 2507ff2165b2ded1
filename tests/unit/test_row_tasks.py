"""Tasks over rows: what the model reads of a row, the order of training, what is counted."""

import sys
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catalog import tiny
from subquad.data.examples import Examples
from subquad.data.places import placed, tokens_of
from subquad.data.rows import Shuffled, alike, padded
from subquad.data.vocabulary import Bytes, Subwords, learn
from subquad.tasks.answer import Answer, AnswerConfig, best_span
from subquad.tasks.classify import Classify, ClassifyConfig
from subquad.tasks.labels import Labels
from subquad.tasks.summarize import Summarize, SummarizeConfig
from subquad.tasks.tag import Tag, TagConfig
from subquad.tasks.task import Share

pytestmark = pytest.mark.usefixtures("one_thread")


def opened(task, rows):
    """A task whose data is open: these rows in every part."""
    task.examples = Examples(dict.fromkeys(("train", "valid", "test"), rows), "some rows", "key")
    task.learn(rows)
    return task


# --- order and batches --------------------------------------------------------------------------


def test_every_epoch_holds_every_row_once_in_an_order_of_its_own():
    sizes = [i * 7 % 50 for i in range(2500)]
    items = Shuffled(lambda i: i, sizes, 5000, seed=3)
    first, second = [items[i] for i in range(2500)], [items[i] for i in range(2500, 5000)]
    assert sorted(first) == sorted(second) == list(range(2500))
    assert first != second
    assert first == [Shuffled(lambda i: i, sizes, 5000, seed=3)[i] for i in range(2500)]
    assert first != [Shuffled(lambda i: i, sizes, 5000, seed=4)[i] for i in range(2500)]
    spans = [np.ptp([sizes[row] for row in first[i : i + 16]]) for i in range(0, 2000, 16)]
    assert np.median(spans) <= 2  # of 50


def test_batches_of_rows_alike():
    sizes = [9, 1, 3, 3, 100, 2]
    batches = alike(sizes, 10)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len(b) == 1 or len(b) * max(sizes[i] for i in b) <= 10 for b in batches)
    assert [4] in batches
    assert len(alike(sizes, 10_000)) == 1


def test_padding_a_batch():
    rows = [{"a": torch.tensor([1, 2, 3]), "b": torch.tensor(5)}] * 2
    rows[1] = {"a": torch.tensor([4]), "b": torch.tensor(6)}
    batch = padded(rows, {"a": -1})
    assert batch["a"].tolist() == [[1, 2, 3], [4, -1, -1]]
    assert batch["b"].tolist() == [5, 6]
    with pytest.raises(ValueError, match="differ in their length of a"):
        padded(rows, {})


# --- labels -------------------------------------------------------------------------------------


def test_labels_count_and_measure():
    labels = Labels.among(["10", "9", "b", "a", "9"])
    assert labels.names == ["9", "10", "a", "b"]
    true, said = ["9", "9", "a", "b"], ["9", "a", "a", "a"]
    counts = labels.counted(true, said)
    assert counts.view(4, 4)[0].tolist() == [1, 0, 1, 0]
    found = labels.measured(counts)
    assert found["accuracy"] == 0.5
    assert found["accuracy_of_one_label"] == 0.5
    # by hand: F1 of 9 is 2/3, of a is 1/2, of b is 0; 10 neither occurs nor is said
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    with pytest.raises(ValueError, match=r"the label 'c' was not there in training; known: 9, 10"):
        labels.number("c")
    with pytest.raises(ValueError, match="all training rows have one label, x"):
        Labels.among(["x", "x"])


def test_what_measures_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    labels = Labels(["a", "b"])
    with pytest.raises(ValueError, match=r"pip install 'subquad\[metrics\]'"):
        labels.measured(labels.counted(["a"], ["b"]))


def test_a_label_of_the_validation_part_alone_is_known():
    task = Classify(ClassifyConfig())
    rare = [{"text": "so so", "label": "perhaps"}]
    task.examples = Examples({"train": REVIEWS, "valid": rare, "test": []}, "some rows", "key")
    task.learn(REVIEWS)
    assert task.labels.names == ["no", "perhaps", "yes"]


# --- classify -----------------------------------------------------------------------------------

REVIEWS = [{"text": "so good " * (1 + i % 3), "label": "yes"} for i in range(20)]
REVIEWS += [{"text": "so bad " * (1 + i % 4), "label": "no"} for i in range(20)]


def test_a_document_is_a_mark_and_its_first_tokens():
    task = opened(Classify(ClassifyConfig(context=8)), REVIEWS)
    item = task.inputs({"text": "abcdefghij"})
    assert item["input_ids"].tolist() == [task.words.mark, *b"abcdefg"]
    assert item["global_attention_mask"].tolist() == [1] + 7 * [0]
    assert task.inputs({"text": "a"})["attention_mask"].tolist() == [1, 1]
    assert "40 may be longer" in task.says([{"text": "x" * 9}] * 40)
    assert opened(Classify(ClassifyConfig()), REVIEWS).says(REVIEWS) == ""


@pytest.mark.parametrize("arch", ["longformer", "performer", "transformer_xl"])
def test_classify_learns_and_is_scored_as_counted_by_hand(arch):
    torch.manual_seed(0)
    task = opened(Classify(ClassifyConfig(context=32, dropout=0.0)), REVIEWS)
    causal = arch == "transformer_xl"
    model = task.build(arch, tiny(arch, causal=causal))
    assert model.config.head["pool"] == ("last" if causal else "mean")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    items = task.train_set(400, seed=0)
    for step in range(12):
        batch = task.collate([items[step * 16 + i] for i in range(16)])
        task.loss(model, batch, 0.0).backward()
        optimizer.step()
        optimizer.zero_grad()
    result = task.validate(model, Share())
    assert result.numbers["accuracy"] == 1.0
    assert not model.eval().training
    said = [task.predict(model, row)["label"] for row in REVIEWS]
    assert said == [row["label"] for row in REVIEWS]
    answer = task.predict(model, {"text": "so good"})
    assert answer["probability"] == max(answer["labels"].values())
    assert sum(answer["labels"].values()) == pytest.approx(1)
    assert task.told(answer).startswith("yes  0.")


def test_processes_add_what_they_counted():
    task = opened(Classify(ClassifyConfig(context=32)), REVIEWS * 30)
    model = task.build("local", tiny("local", causal=False))
    whole = task.validate(model, Share()).numbers
    parts = []
    for rank in range(2):
        task.validate(model, Share(rank, 2, lambda part: parts.append(part) or part))
    joined = task.measured(sum(parts))
    assert joined == {name: whole[name] for name in joined}


# --- tag ----------------------------------------------------------------------------------------

SENTENCES = [{"tokens": ["a", "12", "bc"], "tags": ["word", "number", "word"]}] * 8


def test_tags_stand_at_the_last_byte_of_their_tokens():
    task = opened(Tag(TagConfig()), SENTENCES)
    row = SENTENCES[0]
    ids, labels = task.inputs(row)["input_ids"], task.targets(row)["labels"]
    assert bytes(ids[1:].tolist()) == b" a 12 bc"
    number, word = (task.labels.number(name) for name in ("number", "word"))
    assert labels.tolist() == [-100, -100, word, -100, -100, number, -100, -100, word]


@pytest.mark.parametrize("kind", ["tag", "answer"])
def test_a_row_to_learn_from_is_tokenised_once(kind, monkeypatch):
    rows = SENTENCES if kind == "tag" else [ASKED] * 8
    task = opened(Tag(TagConfig()) if kind == "tag" else Answer(AnswerConfig()), rows)
    both = task.inputs(rows[0]) | task.targets(rows[0])
    encoded, plain = [], task.words.encode
    monkeypatch.setattr(
        type(task.words), "encode", lambda self, text: encoded.append(text) or plain(text)
    )
    item = task.train_set(1, 0)[0]
    texts = [b" a", b" 12", b" bc"] if kind == "tag" else [CONTEXT.encode(), b"When?"]
    assert encoded == texts
    assert item.keys() == both.keys()
    assert all(torch.equal(item[name], both[name]) for name in both)


def test_long_rows_are_tagged_in_pieces():
    task = opened(Tag(TagConfig(context=6)), SENTENCES)
    model = task.build("local", tiny("local", causal=False)).eval()
    long = {"tokens": ["a", "123456789", "bc", "d", "e"], "tags": ["word"] * 5}
    pieces = list(task._pieces(long["tokens"]))
    assert all(len(ids) <= 6 for ids, _, _ in pieces)
    assert [i for _, _, which in pieces for i in range(5)[which]] == list(range(5))
    assert len(task.predict(model, long)["tags"]) == 5
    assert task.score(model, task.known, "valid", None, Share()).numbers["tokens"] == 24
    assert task.read("a 1 b")["tokens"] == ["a", "1", "b"]
    assert task.read({"tokens": ["a", "1 b"]})["tokens"] == ["a", "1 b"]
    for wrong in (3, ["a", 1], ["a", ""], None):
        with pytest.raises(ValueError, match="they must be a text, or a list of texts"):
            task.read({"tokens": wrong})
    for nothing in ("", " ", []):
        with pytest.raises(ValueError, match="there is nothing in the tokens"):
            task.read({"tokens": nothing})


# --- answer -------------------------------------------------------------------------------------

CONTEXT = "The café of Zoë opened in 1931. Nobody knows why it closed."
ASKED = {"question": "When?", "context": CONTEXT, "answers": [{"text": "1931", "start": 26}]}


@pytest.mark.parametrize("kind", ["bytes", "subwords"])
def test_places_of_tokens_in_a_text(kind):
    words = Bytes() if kind == "bytes" else Subwords(learn(iter([CONTEXT.encode()]), 280), "x")
    ids, where = placed(words, CONTEXT)
    assert words.decode(ids).decode() == CONTEXT
    first, last = tokens_of(where, 26, 30)
    assert CONTEXT[where[first, 0] : where[last, 1]].strip() == "1931"
    assert tokens_of(where, 5, 5) is None
    assert placed(words, "")[1].shape == (0, 2)


@pytest.mark.parametrize("context", [100, 30, 24])
def test_a_lesson_holds_the_whole_answer(context):
    task = opened(Answer(AnswerConfig(context=context)), [ASKED])
    ids = task.inputs(ASKED)["input_ids"].tolist()
    start, end = (task.targets(ASKED)[f"{name}_positions"] for name in ("start", "end"))
    assert len(ids) <= context
    assert bytes(ids[start : end + 1]) == b"1931"
    assert ids[:7] == [task.words.mark, *b"When?", task.words.boundary]
    assert task.inputs(ASKED)["global_attention_mask"].sum() == 7
    none = {**ASKED, "answers": []}
    assert [t.item() for t in task.targets(none).values()] == [0, 0]


def test_an_answer_that_does_not_fit_is_read_from_its_start():
    task = opened(Answer(AnswerConfig(context=24)), [ASKED])
    long = {**ASKED, "answers": [{"text": CONTEXT[4:50], "start": 4}]}
    ids = task.inputs(long)["input_ids"].tolist()
    start, end = (int(task.targets(long)[f"{name}_positions"]) for name in ("start", "end"))
    assert 7 <= start <= end == len(ids) - 1
    assert bytes(ids[start : start + 5]) == CONTEXT[4:].encode()[:5]


def test_windows_cover_the_document():
    task = opened(Answer(AnswerConfig(context=20)), [ASKED])
    document, _ = placed(task.words, CONTEXT)
    windows = task._windows(ASKED, document)
    seen = set()
    for window in windows:
        rest = window.ids[window.begins :]
        assert rest == document[window.first : window.first + len(rest)].tolist()
        seen |= set(range(window.first, window.first + len(rest)))
    assert seen == set(range(len(document)))


@pytest.mark.parametrize(("n", "longest"), [(1, 5), (7, 3), (40, 40), (9, 1)])
def test_best_span_by_brute_force(n, longest):
    start, end = torch.randn(n), torch.randn(n)
    pairs = [(i, j) for i in range(n) for j in range(i, min(n, i + longest))]
    best = max(pairs, key=lambda p: float(start[p[0]] + end[p[1]]))
    first, last, score = best_span(start, end, longest)
    assert (first, last) == best
    assert score == pytest.approx(float(start[first] + end[last]))


class Pointing(torch.nn.Module):
    """Points at the bytes of a word, wherever they stand in what is read."""

    def __init__(self, word: bytes) -> None:
        super().__init__()
        self.word = word
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, input_ids, **_):
        raw = bytes(min(i, 255) for i in input_ids[0].tolist())
        at = raw.rfind(self.word)
        start = F.one_hot(torch.tensor(max(at, 0)), len(raw)).float()[None]
        end = F.one_hot(torch.tensor(max(at + len(self.word) - 1, 0)), len(raw)).float()[None]
        return type("Out", (), {"start_logits": start, "end_logits": end})


class At(torch.nn.Module):
    """Points at the last place of a token."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token, self.nothing = int(token), torch.nn.Parameter(torch.zeros(()))

    def forward(self, input_ids, **_):
        odds = (input_ids == self.token).float().cumsum(-1) * (input_ids == self.token)
        return type("Out", (), {"start_logits": odds, "end_logits": odds})


def test_an_answer_is_found_in_whichever_window_it_stands():
    task = opened(Answer(AnswerConfig(context=24)), [ASKED])
    found = task.predict(Pointing(b"closed"), ASKED)
    assert (found["answer"], found["start"]) == ("closed", CONTEXT.index("closed"))
    assert task.predict(Pointing(b"Zo\xc3\xab"), ASKED)["answer"] == "Zoë"
    assert task.told(task.predict(Pointing(b"xyz"), ASKED)) == "(no answer)"
    counts = task.counted([found, {"answer": "1931"}, {"answer": ""}], [ASKED, ASKED, ASKED])
    assert task.measured(counts) == {
        "f1": pytest.approx(1 / 3),
        "exact_match": pytest.approx(1 / 3),
    }
    with pytest.raises(ValueError, match="there is no question: ask one with --question"):
        task.predict(Pointing(b"x"), {"context": CONTEXT})
    assert task.asked({"context": CONTEXT}, "When?")["question"] == "When?"


def test_a_space_before_a_word_is_none_of_an_answer():
    task = opened(Answer(AnswerConfig(context=60, tokenizer="bpe:300")), [ASKED] * 40)
    document, where = placed(task.words, CONTEXT)
    token = tokens_of(where, 26, 30)[0]
    assert CONTEXT[where[token, 0] : where[token, 1]].startswith(" ")  # or this asks nothing
    found = task.predict(At(document[token]), ASKED)
    assert found["start"] == where[token, 0] + 1
    assert found["answer"] == CONTEXT[where[token, 0] : where[token, 1]].strip()
    blank = task.predict(At(task.words.encode(b" ")[0]), {**ASKED, "context": "a   b"})
    assert blank["start"] is None or blank["answer"]


def test_what_is_read_of_a_long_input_is_said():
    rows = [{"text": "a film", "label": "x"}, {"text": "b film", "label": "y"}]
    task = opened(Classify(ClassifyConfig(context=7)), rows)
    assert task.remark({"text": "a film"}) == ""
    assert task.remark({"text": "a film!"}) == "the input has 8 tokens; the first 7 are read"
    story = [{"text": "a long story", "summary": "story"}]
    task = opened(Summarize(SummarizeConfig(context=7, tokenizer="bytes")), story)
    assert task.remark(story[0]) == "the input has 13 tokens; the first 7 are read"
    # windows and pieces go over all of it, but for a token that fits no piece
    assert opened(Answer(AnswerConfig(context=24)), [ASKED]).remark(ASKED) == ""
    tagged = [{"tokens": ["a", "cat"] * 9, "tags": ["D", "N"] * 9}]
    task = opened(Tag(TagConfig(context=7)), tagged)
    assert task.remark(tagged[0]) == ""
    assert task.remark({"tokens": ["a", "mountain"]}) == (
        "1 tokens are read as far as the first 6 elements of each"
    )


def test_fields_that_do_not_do():
    with pytest.raises(ValueError, match="no pool is called 'men'; did you mean 'mean'"):
        ClassifyConfig(pool="men")
    with pytest.raises(ValueError, match="context 1 must be at least 2"):
        ClassifyConfig(context=1)
    with pytest.raises(ValueError, match="context is 3; a question and a window need 8 at least"):
        AnswerConfig(context=3)
    task = opened(Answer(AnswerConfig(context=24)), [ASKED])
    with pytest.raises(ValueError, match="a row wants context; this one has question"):
        task.read({"question": "x"})
    assert task.asked(task.read({"context": "x"}), "y") == {"question": "y", "context": "x"}
    with pytest.raises(ValueError, match=r"label_smoothing 0\.1 would spread over padding"):
        task.loss(None, {}, 0.1)
    assert Counter(task.read({"question": "a", "context": "b", "more": 1})) == Counter(
        {"question": "a", "context": "b"}
    )
