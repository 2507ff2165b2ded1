"""Heads for labels, tags and spans, over every architecture: padding, save and load, training."""

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from catalog import BOTH_WAYS, tiny
from subquad.hf import (
    SubquadConfig,
    SubquadForCausalLM,
    SubquadForMaskedLM,
    SubquadForQuestionAnswering,
    SubquadForSequenceClassification,
    SubquadForTokenClassification,
)
from subquad.nn.pooling import first, largest, last, mean

LABELS = 5
HEADS = {
    "labels": (SubquadForSequenceClassification, AutoModelForSequenceClassification),
    "tags": (SubquadForTokenClassification, AutoModelForTokenClassification),
    "spans": (SubquadForQuestionAnswering, AutoModelForQuestionAnswering),
}


def config(arch, causal, **fields):
    model = tiny(arch, causal=causal)
    return SubquadConfig(arch=arch, model=model, vocab_size=50, num_labels=LABELS, **fields)


def made(kind, arch, causal=False, **fields):
    torch.manual_seed(4)
    return HEADS[kind][0](config(arch, causal, **fields)).double().eval()


def outputs(m, **given):
    out = m(**given)
    return [out.start_logits, out.end_logits] if hasattr(out, "start_logits") else [out.logits]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_batched_equals_alone(kind, arch, causal, side):
    m, ids, lengths = made(kind, arch, causal), torch.randint(0, 50, (3, 40)), [40, 23, 1]
    slots = torch.arange(40)
    ends = torch.tensor(lengths)[:, None]
    mask = (slots < ends if side == "right" else slots >= 40 - ends).long()
    found = outputs(m, input_ids=ids, attention_mask=mask)
    for b in range(3):
        real = mask[b].bool()
        for many, alone in zip(found, outputs(m, input_ids=ids[b][real][None]), strict=True):
            row = many[b] if kind == "labels" else many[b][real]
            torch.testing.assert_close(row, alone[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_saved_and_loaded_by_the_auto_classes(kind, arch, causal, tmp_path):
    m, ids = made(kind, arch, causal).float(), torch.randint(0, 50, (2, 20))
    m.save_pretrained(tmp_path)
    again = HEADS[kind][1].from_pretrained(tmp_path)
    assert type(again) is type(m)
    for a, b in zip(outputs(m, input_ids=ids), outputs(again, input_ids=ids), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("pool", ["first", "last", "mean", "max"])
def test_pools(pool):
    m = made("labels", "transformer", head={"kind": "labels", "pool": pool})
    ids = torch.randint(0, 50, (2, 12))
    y = m.features({"input_ids": ids})[0]
    row = {"first": y[:, 0], "last": y[:, -1], "mean": y.mean(1), "max": y.amax(1)}[pool]
    torch.testing.assert_close(m(ids).logits, m.model.head.label(row))
    # as a plain Model, without the shell
    torch.testing.assert_close(m.model(ids)[0], m(ids).logits)


def test_pools_of_what_stands_anywhere():
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    valid = torch.tensor([[False, True, True, False], [False] * 4])
    x = x.masked_fill(~valid[..., None], torch.nan)
    assert torch.equal(first(x, valid)[0], x[0, 1])
    assert torch.equal(last(x, valid)[0], x[0, 2])
    torch.testing.assert_close(mean(x, valid)[0], x[0, 1:3].mean(0))
    for pool in (first, last, mean, largest):
        assert torch.equal(pool(x, valid)[1], torch.zeros(3, dtype=torch.float64))
        assert torch.equal(pool(x[:, :0], None), torch.zeros(2, 3, dtype=torch.float64))
    # fewer outputs than tokens are those of the last tokens, right-aligned
    valid = torch.tensor([[True, True, True, False]])
    y = torch.randn(1, 2, 3)
    assert torch.equal(mean(y, valid), y.mean(1))


def test_the_first_token_is_marked_unless_marks_are_given():
    m, ids = made("labels", "longformer"), torch.randint(0, 50, (1, 40))
    marks = torch.zeros_like(ids)
    plain = m(ids, global_attention_mask=marks).logits
    marks[:, 0] = 1
    assert torch.equal(m(ids).logits, m(ids, global_attention_mask=marks).logits)
    assert not torch.equal(m(ids).logits, plain)
    embedded = m.get_input_embeddings()(ids)
    assert torch.equal(m(inputs_embeds=embedded).logits, m(ids).logits)


def test_spans_never_point_at_padding():
    m, ids = made("spans", "local"), torch.randint(0, 50, (1, 9))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0, 0]])
    start = m(ids, attention_mask=mask).start_logits
    assert (start[mask == 0] == torch.finfo(start.dtype).min).all()
    loss = m(ids, start_positions=torch.tensor([3]), end_positions=torch.tensor([5])).loss
    start, end = outputs(m, input_ids=ids)
    wanted = (start.logsumexp(-1) - start[0, 3] + end.logsumexp(-1) - end[0, 5]) / 2
    torch.testing.assert_close(loss, wanted[0])


@pytest.mark.parametrize("source", [SubquadForCausalLM, SubquadForMaskedLM])
def test_a_language_model_becomes_a_classifier(source, tmp_path):
    causal = source is SubquadForCausalLM
    lm = source(config("performer", causal))
    lm.save_pretrained(tmp_path)
    m = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    for name, t in lm.model.backbone.state_dict().items():
        assert torch.equal(m.model.backbone.state_dict()[name], t)
    assert m.model.head.label.weight.shape == (3, 32)
    assert 0 < m.model.head.label.weight.std() < 0.1
    assert (m.model.head.label.bias == 0).all()


def test_trainer_trains(tmp_path):
    m = made("labels", "local").float()
    rows = [{"input_ids": torch.full((16,), i % LABELS), "labels": i % LABELS} for i in range(40)]
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=20,
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model=m, args=args, train_dataset=rows)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.5


def test_pipelines(tmp_path):
    from subquad.data.vocabulary import Bytes

    fields = {"arch": "performer", "model": tiny("performer", causal=False), "vocab_size": 260}
    names = {0: "bad", 1: "good"}
    for kind, task in (("labels", "text-classification"), ("tags", "token-classification")):
        folder = tmp_path / kind
        HEADS[kind][0](SubquadConfig(**fields, id2label=names)).save_pretrained(folder)
        Bytes().save(folder)
        found = pipeline(task, model=str(folder), device="cpu")("Call me")
        found = found if kind == "labels" else found[:1]
        assert (found[0].get("label") or found[0]["entity"]) in ("bad", "good")
