"""What heads drop in training goes along: as the official classes do, and as their settings say it.

With bodies that drop nothing, both draw the same numbers from one seed, and give equal logits.
"""

import json

import pytest
import torch
import transformers as hf

import subquad.hf as shell
from converting import config, converted
from subquad.convert.folder import convert

WORDS, LENGTH = 60, 24
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 90,
    "attention_probs_dropout_prob": 0.0,
    "num_labels": 3,
}
LATER = {**SIZES, "pad_token_id": 1}
BIG = {**SIZES, "block_size": 64, "num_random_blocks": 2}
LONG = {**LATER, "attention_window": [8]}
GPT2 = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 1, "n_head": 4, "num_labels": 3}
GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "n_positions": 64}
LLAMA = {name: SIZES[name] for name in list(SIZES)[:5]} | {"num_labels": 3}
LLAMA |= {"num_key_value_heads": 2}
QUIET = {"hidden_dropout_prob": 0.0, "classifier_dropout": 0.5}

#: heads that drop once: a class and its settings, of which one alone drops (in training BigBird
#: draws blocks too, from another generator)
ONCE = {
    "bert-labels": ("BertForSequenceClassification", SIZES | QUIET),
    "bert-tags": ("BertForTokenClassification", SIZES | QUIET),
    "bert-choices": ("BertForMultipleChoice", SIZES | QUIET),
    "roberta-tags": ("RobertaForTokenClassification", LATER | QUIET),
    "gpt2-tags": ("GPT2ForTokenClassification", GPT2),
    "gpt2-tags-told": ("GPT2ForTokenClassification", GPT2 | {"classifier_dropout": 0.3}),
    "llama-tags": ("LlamaForTokenClassification", LLAMA),
    "mistral-tags": ("MistralForTokenClassification", LLAMA | {"hidden_dropout": 0.3}),
    "qwen2-tags": ("Qwen2ForTokenClassification", LLAMA | {"classifier_dropout": 0.5}),
}

SET = {"hidden_dropout_prob": 0.2, "classifier_dropout": 0.3}
UNSET = {"hidden_dropout_prob": 0.2}
#: a class, its settings, what ours drops; of some of theirs it is one setting with the body's
RATES = [
    ("BertForSequenceClassification", SIZES | UNSET, 0.2),
    ("BertForSequenceClassification", SIZES | SET, 0.3),
    ("BertForTokenClassification", SIZES | UNSET, 0.2),
    ("BertForMultipleChoice", SIZES | SET, 0.3),
    ("BertForQuestionAnswering", SIZES | SET, 0.0),
    ("BertForNextSentencePrediction", SIZES | SET, 0.0),
    ("RobertaForSequenceClassification", LATER | UNSET, 0.2),
    ("RobertaForSequenceClassification", LATER | SET, 0.3),
    ("RobertaForTokenClassification", LATER | SET, 0.3),
    ("RobertaForMultipleChoice", LATER | SET, 0.2),
    ("RobertaForQuestionAnswering", LATER | SET, 0.0),
    ("BigBirdForSequenceClassification", BIG | UNSET, 0.2),
    ("BigBirdForSequenceClassification", BIG | SET, 0.3),
    ("BigBirdForTokenClassification", BIG | UNSET, 0.2),
    ("BigBirdForMultipleChoice", BIG | SET, 0.2),
    ("BigBirdForQuestionAnswering", BIG | SET, 0.2),
    ("LongformerForSequenceClassification", LONG | SET, 0.2),
    ("LongformerForTokenClassification", LONG | SET, 0.2),
    ("LongformerForMultipleChoice", LONG | SET, 0.2),
    ("LongformerForQuestionAnswering", LONG | SET, 0.0),
    ("GPT2ForTokenClassification", GPT2, 0.1),
    ("GPT2ForTokenClassification", GPT2 | {"classifier_dropout": 0.0}, 0.0),
    ("GPT2ForTokenClassification", GPT2 | {"hidden_dropout": 0.4}, 0.4),
    ("GPT2ForSequenceClassification", GPT2, 0.0),
    ("LlamaForTokenClassification", LLAMA, 0.1),
    ("LlamaForSequenceClassification", LLAMA, 0.0),
]


def made(kind, fields):
    """Their class, its weights so large that every part matters."""
    torch.manual_seed(0)
    if kind.endswith(("QuestionAnswering", "NextSentencePrediction")):  # two are what they have
        fields = {name: value for name, value in fields.items() if name != "num_labels"}
    kind = getattr(hf, kind)
    model = kind(kind.config_class(**fields))
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    return model


def back(folder, name="back"):
    """The settings that come back."""
    (folder / name).mkdir()
    convert(folder / "ours", folder / name)
    return config(folder / name)


@pytest.mark.parametrize("name", ONCE)
def test_one_seed_drops_the_same(name, tmp_path):
    kind, fields = ONCE[name]
    model = made(kind, fields)
    ours = converted(model, tmp_path).train()
    model.train()
    ids = torch.randint(3, WORDS, (2, 2, LENGTH) if "Choice" in kind else (2, LENGTH))
    logits = []
    for one in (ours, model):
        torch.manual_seed(3)
        logits.append(one(input_ids=ids).logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    assert (logits[0] - ours.eval()(input_ids=ids).logits).abs().max() > 0.01


@pytest.mark.parametrize(("kind", "fields", "rate"), RATES)
def test_the_rate_and_the_way_back(kind, fields, rate, tmp_path):
    """Of a rate that was not set, too: it is not set when it comes back."""
    ours = converted(made(kind, fields), tmp_path)
    assert config(tmp_path / "ours")["head"]["dropout"] == rate
    assert ours.model.head.dropout.p == rate
    assert back(tmp_path) == config(tmp_path / "theirs")


def changed(folder, **rates):
    """Other rates of ours, by part."""
    told = config(folder / "ours")
    for part, rate in rates.items():
        told[part]["dropout"] = rate
    (folder / "ours" / "config.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("BertForTokenClassification", SIZES | UNSET), ("LlamaForTokenClassification", LLAMA)],
)
def test_a_rate_that_was_changed_here_is_set_there(kind, fields, tmp_path):
    converted(made(kind, fields), tmp_path)
    changed(tmp_path, head=0.45)
    assert back(tmp_path)["classifier_dropout"] == 0.45
    again = getattr(hf, kind).from_pretrained(tmp_path / "back")
    assert again.dropout.p == 0.45


def test_one_setting_there_is_one_rate_here(tmp_path):
    converted(made("LongformerForTokenClassification", LONG | UNSET), tmp_path)
    changed(tmp_path, head=0.4)
    says = "hidden_dropout_prob is one setting there: head.dropout would have it 0.4, and others 0"
    with pytest.raises(ValueError, match=says):
        back(tmp_path)
    changed(tmp_path, head=0.4, model=0.4, stem=0.4)
    assert back(tmp_path, "again")["hidden_dropout_prob"] == 0.4


def test_ours_alone_says_its_rate(tmp_path):
    """A model that never was another's."""
    fields = {"dim": 32, "num_layers": 1, "num_heads": 4, "ffn_dim": 48, "norm": "rms"}
    fields |= {"mlp": "swiglu", "bias": False, "dropout": 0.0}
    head = {"kind": "tags", "num_labels": 2, "dropout": 0.25}
    settings = shell.SubquadConfig(arch="transformer", model=fields, vocab_size=WORDS, head=head)
    shell.SubquadForTokenClassification(settings).save_pretrained(tmp_path / "ours")
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back", "llama")
    assert hf.LlamaForTokenClassification.from_pretrained(tmp_path / "back").dropout.p == 0.25
