"""The task translate: what is read and written, batches, vocabularies, search, scores."""

import dataclasses

import pytest
import torch
from torch import nn

from subquad.archs import PAIRS
from subquad.data.examples import Examples
from subquad.data.sentences import Sentences
from subquad.data.vocabulary import Subwords
from subquad.tasks import find_task
from subquad.tasks.bleu import scores, table
from subquad.tasks.task import Share
from subquad.tasks.translate import Translate
from subquad.tasks.translate_config import Search, TranslateConfig

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [
    {"text": f"{name} sees the {thing}", "translation": f"{thing}ta sa {name} na mako"}
    for name in ("Al", "Bob", "Carol")
    for thing in ("sea", "wood", "house", "mountain")
]


def opened(rows=ROWS, **fields):
    task = Translate(TranslateConfig(**{"tokenizer": "bytes", "beams": 2, "target": 32, **fields}))
    task.examples = Examples(dict.fromkeys(("train", "valid", "test"), rows), "some rows", "key")
    task.learn(rows)
    return task


def model_of(task, pair="lite_pair"):
    torch.manual_seed(0)
    return task.build(pair, dict(vars(PAIRS[pair].PRESETS["tiny"])))


def taught(task, model, steps, tokens=400):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    batches = task.token_batches(steps, 0, tokens)
    for step in range(steps):
        task.loss(model, batches[step], 0.1).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_what_is_read_and_written():
    task = opened()
    assert find_task("translate") is Translate
    assert [*Translate.archs] == ["lite_pair", "encoder_decoder", "led"]
    item = task.inputs(ROWS[0]) | task.targets(ROWS[0])
    end = task.words.boundary
    assert item["input_ids"].tolist() == [*b"Al sees the sea", end]
    assert item["labels"].tolist() == [*b"seata sa Al na mako", end]
    assert task.sizes(ROWS[:2]) == [16 + 20, 17 + 21]
    batch = task.token_batches(10, 0, 150)[0]
    rows, read, written = *batch["input_ids"].shape, batch["labels"].shape[1]
    assert rows > 1
    assert rows * (read + written) <= 150


def test_what_is_too_long_is_left_out_of_training_alone(capsys):
    task = opened(context=18)
    left = {"more than 18 tokens to read or 32 to write": 7}
    assert "left out of training: 7 with more than 18 tokens" in capsys.readouterr().err
    assert len(task.known.rows["train"]) == 5
    assert len(task.known.rows["test"]) == 12
    assert task.data_facts["left_out"] == left
    cut = task.inputs(ROWS[-1])["input_ids"].tolist()
    assert cut == [*b"Carol sees the mo", task.words.boundary]
    assert "7 sources cut at 18 tokens" in task.says(ROWS)
    assert task.predict(model_of(task).eval(), ROWS[-1])
    assert "a source of 24 tokens is cut at 18" in capsys.readouterr().err
    with pytest.raises(ValueError, match="all 12 pairs have more than 2 tokens to read or 32"):
        opened(context=2)


@pytest.fixture(scope="module", params=["lite_pair", "encoder_decoder"])
def learnt(request):
    task = opened()
    return task, taught(task, model_of(task, request.param), 250, 900)


@pytest.mark.slow
def test_it_writes_what_it_learnt(learnt):
    task, model = learnt
    result = task.score(model, task.known, "test", None, Share())
    assert result.numbers["bleu"] == pytest.approx(100)
    assert result.numbers["exact_match"] == 1.0
    assert "with 2 beams, length penalty 1" in result.protocol
    assert "BLEU nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in result.protocol
    assert "chrF2 nrefs:1|" in result.protocol
    lines = result.files["translations.tsv"].splitlines()
    assert lines[1] == "Al sees the sea\tseata sa Al na mako\tseata sa Al na mako"
    assert task.told(task.predict(model, {"text": ROWS[3]["text"]})) == ROWS[3]["translation"]
    assert task.predict(model, {"text": " "}) == {"translation": ""}


@pytest.mark.slow
def test_length_penalty_is_heeded(learnt):
    task, model = learnt
    said = []
    for penalty in (-20.0, 20.0):
        task.settle(beams=4, length_penalty=penalty)
        said.append(sum(len(x) for x in task.answers(model, ROWS)))
    task.settle()
    assert said[0] < said[1]


def test_the_loss_is_a_mean_over_targets():
    """Smoothing too: by definition, each row by itself, without padding."""
    task = opened()
    model, rows = model_of(task).double().eval(), [ROWS[0], ROWS[-1]]
    found = task.loss(model, task.collate([*map(task.item, rows)]), 0.1)
    losses = []
    for row in rows:
        log_p = model(**task.collate([task.item(row)])).logits[0].log_softmax(-1)
        for place, token in enumerate(task.target(row)):
            losses.append(-0.9 * log_p[place, token] - 0.1 * log_p[place].mean())
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-10, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
def test_beams_are_ranked_by_their_penalised_likelihood(penalty):
    """Log-probabilities, each token's by itself, over a power of how many there are."""
    task = opened(beams=4, length_penalty=penalty)
    model = model_of(task).double().eval()
    model.get_input_embeddings().weight[task.words.boundary] *= 4  # so that some end early
    given = {**task.batch(model, ROWS[3:5]), "num_return_sequences": 4, "do_sample": False}
    told = {"max_new_tokens": 12, "return_dict_in_generate": True, "output_scores": True}
    out = model.generate(**given, **task.search, **told)
    scores, lengths = [], set()
    for place, said in enumerate(out.sequences.tolist()):
        ids = said[1:]
        end = task.words.boundary
        ids = ids[: ids.index(end) + 1] if end in ids else ids
        begun = torch.tensor([[end, *ids[:-1]]])
        log_p = model(**task.batch(model, [ROWS[3 + place // 4]]), decoder_input_ids=begun).logits
        total = log_p[0].log_softmax(-1)[range(len(ids)), ids].sum()
        scores.append(total / len(ids) ** penalty)
        lengths.add(len(ids))
    assert min(lengths) < 12
    torch.testing.assert_close(
        out.sequences_scores.double(), torch.stack(scores), rtol=1e-5, atol=0
    )
    ranked = out.sequences_scores.view(2, 4)
    assert torch.equal(ranked, ranked.sort(descending=True).values)


def test_each_language_its_own_words(tmp_path):
    rows = [Sentences(60, 0, "train")[i] for i in range(60)]
    task = opened(rows, tokenizer="bpe:300", joint=False)
    sizes = {task.words.size, task.source_words.size}
    assert task.words is not task.source_words
    assert isinstance(task.source_words, Subwords)
    assert (
        task.source_words.decode(task.inputs(rows[0])["input_ids"][:-1]).decode() == rows[0]["text"]
    )
    model = model_of(task)
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    assert len(tables) == 2
    assert tables[0].weight is not tables[1].weight
    assert {len(table.weight) for table in tables} == sizes
    assert task.loss(model, task.token_batches(1, 0, 200)[0], 0.0).isfinite()
    (tmp_path / "none").mkdir()
    again = Translate.load(tmp_path, task.save(tmp_path))
    assert again.inputs(rows[3])["input_ids"].tolist() == task.inputs(rows[3])["input_ids"].tolist()
    assert again.target(rows[3]) == task.target(rows[3])
    assert again.fill["input_ids"] == again.source_words.pad == task.source_words.pad
    # a folder of before: there the source had a file of its own
    task.words.save(tmp_path)
    task.source_words.tokenizer.save(str(tmp_path / "source_tokenizer.json"))
    old = {**again.save(tmp_path / "none"), "source_vocabulary": "bpe:300"}
    del old["target_vocabulary"]
    before = Translate.load(tmp_path, old)
    assert before.target(rows[3]) == task.target(rows[3])
    assert torch.equal(before.inputs(rows[3])["input_ids"], task.inputs(rows[3])["input_ids"])
    model.save_pretrained(tmp_path)
    back = type(model).from_pretrained(tmp_path).eval()
    assert back.config.encoder["words"] == task.source_words.size
    batch = task.token_batches(1, 0, 200)[0]
    assert torch.equal(back(**batch).logits, model.eval()(**batch).logits)


def test_search_as_asked():
    task = opened()
    assert task.search == {"num_beams": 2, "length_penalty": 1.0}
    task.settle(beams=1)
    assert task.search == {"num_beams": 1}
    task.settle(beams=5, length_penalty=0.6)
    assert task.search == {"num_beams": 5, "length_penalty": 0.6}
    assert "with 5 beams, length penalty 0.6" in task.says(ROWS)
    task.settle()
    assert task.search["num_beams"] == 2
    with pytest.raises(ValueError, match="translate takes no --times"):
        task.settle(times=True)
    with pytest.raises(ValueError, match="--beams is 0; it must be at least 1"):
        task.settle(beams=0)


def test_fields_that_cannot_be():
    with pytest.raises(ValueError, match="beams is 0; it must be at least 1"):
        TranslateConfig(beams=0)
    with pytest.raises(ValueError, match="context is 1; it must be at least 2"):
        TranslateConfig(context=1)
    with pytest.raises(ValueError, match="bytes are the same in both languages"):
        TranslateConfig(tokenizer="bytes", joint=False)
    assert {f.name for f in dataclasses.fields(Search)} == {"beams", "length_penalty"}


def test_other_tasks_count_items():
    task = find_task("summarize")(find_task("summarize").Config())
    with pytest.raises(
        ValueError, match=r"summarize counts a batch in items .*batch_tokens 64 out"
    ):
        task.token_batches(1, 0, 64)


def test_scores_as_sacrebleu_gives_them():
    said, true = ["the cat sat on the mat", "a dog"], ["the cat sat on a mat", "a dog"]
    numbers, signatures = scores(said, true)
    assert numbers["exact_match"] == 0.5
    # n-grams 7/8, 4/6, 2/4 and 1/3 match, and lengths are equal
    product = 7 / 8 * 4 / 6 * 2 / 4 * 1 / 3
    assert numbers["bleu"] == pytest.approx(100 * product**0.25)
    assert scores(true, true)[0]["bleu"] == pytest.approx(100)
    assert signatures.count("version:") == 2
    assert table(["x\ty"], ["a"], ["b"]) == "text\tsaid\ttrue\nx y\ta\tb\n"
