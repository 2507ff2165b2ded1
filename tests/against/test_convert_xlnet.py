"""XLNet as it was released, both ways, through the converter: words, labels, choices.

float64 on both sides; their sinusoids are float32 whatever the weights are.
"""

import json

import pytest
import torch
import transformers as hf

import subquad.hf as shell
from converting import config, converted, there_and_back
from subquad.cli import main
from subquad.convert.folder import convert

WORDS, CLOSE = 60, 1e-5
SIZES = {"vocab_size": WORDS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
SIZES |= {"untie_r": True, "mem_len": None}
NAMED = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}}


def made(kind, **fields):
    """Their class, its weights so large that every part matters."""
    torch.manual_seed(0)
    model = getattr(hf, kind)(hf.XLNetConfig(**{**SIZES, **fields}))
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    return model.eval()


def tokens(*lengths, left=True):
    """Random words, padded as their tokenizer pads, and their mask."""
    torch.manual_seed(1)
    most = max(lengths)
    mask = (torch.arange(most) < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if left else mask
    ids = torch.randint(6, WORDS, (len(lengths), most))
    return {"input_ids": ids.masked_fill(mask == 0, 5), "attention_mask": mask}


@pytest.mark.parametrize("fields", [{}, {"mem_len": 16}], ids=["without", "with-memory"])
def test_words_both_ways(fields, tmp_path):
    """Each token sees itself and all others; a memory is none before the second call."""
    model = made("XLNetLMHeadModel", **fields)
    ours = there_and_back(model, tmp_path)
    assert isinstance(ours, shell.SubquadForMaskedLM)
    assert config(tmp_path / "ours")["model"]["causal"] is False
    model.double()
    for given in (tokens(1), tokens(2), tokens(90, 61), tokens(90, 61, left=False)):
        with torch.no_grad():
            found, wanted = ours(**given).logits, model(**given).logits
        real = given["attention_mask"] > 0
        torch.testing.assert_close(found[real], wanted[real], rtol=CLOSE, atol=CLOSE)
        assert wanted[real].std() > 0.02


def test_the_last_token_moves_the_first(tmp_path):
    ours = converted(made("XLNetLMHeadModel"), tmp_path)
    ids = tokens(20)["input_ids"]
    other = ids.clone()
    other[0, -1] = 6 + ids[0, -1] % 9
    assert ((ours(ids).logits - ours(other).logits).abs().amax(-1) > 1e-6).all()


def test_a_way_that_is_not_told_is_both(tmp_path):
    """As their configuration has it by default."""
    made("XLNetLMHeadModel").save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    told = json.loads(path.read_text())
    assert told.pop("attn_type") == "bi"
    path.write_text(json.dumps(told))
    for name in ("ours", "back"):
        (tmp_path / name).mkdir()
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert config(tmp_path / "ours")["architectures"] == ["SubquadForMaskedLM"]
    convert(tmp_path / "ours", tmp_path / "back")
    assert config(tmp_path / "back")["attn_type"] == "bi"


@pytest.mark.parametrize("way", ["bi", "uni"])
def test_labels_by_the_last_token(way, tmp_path):
    model = made("XLNetForSequenceClassification", attn_type=way, **NAMED)
    ours = there_and_back(model, tmp_path)
    assert config(tmp_path / "ours")["head"]["dropout"] == 0.1
    given = tokens(40, 27)
    if way == "uni":  # theirs takes no padding then
        given = {"input_ids": given["input_ids"]}
    with torch.no_grad():
        found, wanted = ours(**given).logits, model.double()(**given).logits
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, wanted, rtol=CLOSE, atol=CLOSE)
    assert wanted.std() > 0.02


def test_choices(tmp_path):
    model = made("XLNetForMultipleChoice")
    ours = there_and_back(model, tmp_path)
    given = {name: t.view(2, 3, -1) for name, t in tokens(20, 11, 17, 20, 20, 8).items()}
    with torch.no_grad():
        found, wanted = ours(**given).logits, model.double()(**given).logits
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, wanted, rtol=CLOSE, atol=CLOSE)
    assert wanted.std() > 0.02


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("XLNetForQuestionAnswering", {}, "not converted: it looks for ends of answers from each"),
        ("XLNetLMHeadModel", {"clamp_len": 9}, "has clamp_len 9, which ours does not compute"),
        ("XLNetLMHeadModel", {"same_length": True}, "has same_length True, which ours does not"),
        ("XLNetLMHeadModel", {"bi_data": True}, "has bi_data True, which ours does not compute"),
        (
            "XLNetForSequenceClassification",
            {"summary_type": "mean"},
            "has summary_type 'mean', which ours does not compute; it needs 'last'",
        ),
        (
            "XLNetForSequenceClassification",
            {"summary_activation": "relu"},
            "has summary_activation 'relu', which ours does not compute; it needs 'tanh'",
        ),
    ],
)
def test_what_ours_does_not_compute(kind, fields, says, tmp_path, capsys):
    made(kind, **fields).save_pretrained(tmp_path / "theirs")
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said


@pytest.mark.parametrize(("causal", "way"), [(True, "uni"), (False, "bi")])
def test_ours_alone_goes_the_way_it_looks(causal, way, tmp_path):
    fields = {"dim": 32, "num_layers": 1, "num_heads": 4, "ffn_dim": 48, "position": "xl"}
    fields |= {"causal": causal, "wiring": "post", "bias": False, "dropout": 0.0}
    kind = shell.SubquadForCausalLM if causal else shell.SubquadForMaskedLM
    head = {"kind": "tokens", "bias": True}
    settings = shell.SubquadConfig(arch="transformer", model=fields, vocab_size=WORDS, head=head)
    ours = kind(settings).eval()
    ours.save_pretrained(tmp_path / "ours")
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back", "xlnet")
    assert config(tmp_path / "back")["attn_type"] == way
    model = hf.XLNetLMHeadModel.from_pretrained(tmp_path / "back").eval()
    ids = tokens(30)["input_ids"]
    torch.testing.assert_close(ours(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
