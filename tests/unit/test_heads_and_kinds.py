"""Parts that checkpoints of others need: kinds of tokens, a map before words and labels, and
numbers inside names."""

import pytest
import torch
import torch.nn.functional as F

from subquad.hf import SubquadConfig, SubquadForMaskedLM, SubquadForSequenceClassification
from subquad.nn.choices import normalise, position
from subquad.nn.heads import LabelHeadConfig, TokenHeadConfig

FIELDS = {"dim": 8, "num_layers": 1, "num_heads": 2, "ffn_dim": 8, "dropout": 0.0, "causal": False}


def masked(**stem):
    torch.manual_seed(0)
    config = SubquadConfig(arch="transformer", model=FIELDS, vocab_size=9, stem=stem)
    return SubquadForMaskedLM(config).double().eval()


def test_kinds_are_added_to_tokens():
    model, ids = masked(types=3, scale=2.0), torch.randint(9, (2, 5))
    kinds = torch.tensor([[0, 0, 1, 1, 2], [2, 2, 0, 0, 0]])
    stem = model.model.stem
    wanted = 2 * stem.embedding(ids) + stem.types(kinds)
    torch.testing.assert_close(stem(torch.stack((ids, kinds), -1))[0], wanted)
    torch.testing.assert_close(stem(ids)[0], 2 * stem.embedding(ids) + stem.types.weight[0])
    embedded = stem.embedding(ids)
    torch.testing.assert_close(stem(embedded)[0], embedded + stem.types.weight[0])
    assert torch.equal(model(ids).logits, model(ids, token_type_ids=kinds * 0).logits)
    assert not torch.equal(model(ids).logits, model(ids, token_type_ids=kinds).logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_kinds_move_with_padding(side):
    model, ids = masked(types=2, position="learned", max_len=8), torch.randint(9, (1, 5))
    kinds = torch.tensor([[0, 1, 1, 0, 1]])
    alone = model(ids, token_type_ids=kinds).logits
    pad = (2, 0) if side == "left" else (0, 2)
    mask, ids, kinds = (F.pad(t, pad) for t in (torch.ones_like(ids), ids, kinds))
    found = model(ids, attention_mask=mask, token_type_ids=kinds).logits
    torch.testing.assert_close(found[mask > 0], alone[0])


def test_kinds_without_a_table():
    ids = torch.randint(9, (1, 5))
    model = masked()
    assert torch.equal(model(ids).logits, model(ids, token_type_ids=torch.ones_like(ids)).logits)
    model = masked(types=2)
    embedded = model.model.stem.embedding(ids)
    with pytest.raises(ValueError, match="token_type_ids go with input_ids; add the vectors"):
        model(inputs_embeds=embedded, token_type_ids=ids * 0)


def test_kinds_beside_ngrams():
    with pytest.raises(ValueError, match="types = 2: a stem of n-grams tells no kinds apart"):
        masked(kind="ngrams", types=2)


def test_a_map_before_words():
    head = TokenHeadConfig(bias=True, transform="gelu", norm="layer:0.5").build(8, 9)
    x = torch.randn(2, 3, 8)
    dense, norm = head.transform.dense, head.transform.norm
    y = F.layer_norm(F.gelu(dense(x)), (8,), norm.weight, norm.bias, 0.5)
    torch.testing.assert_close(head(x), head.project(y))
    targets = torch.randint(9, (2, 3))
    wanted = F.cross_entropy(head(x).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(head.loss(x, targets), wanted)
    with pytest.raises(ValueError, match="no activation is called 'gelo'; did you mean 'gelu'"):
        TokenHeadConfig(transform="gelo").build(8, 9)


def test_a_map_before_labels():
    head = LabelHeadConfig(num_labels=3, hidden="tanh").build(8, 9)
    x = torch.randn(2, 4, 8)
    wanted = head.label(torch.tanh(head.hidden.dense(x[:, 0])))
    torch.testing.assert_close(head(x), wanted)
    config = SubquadConfig(
        arch="transformer", model=FIELDS, vocab_size=9, num_labels=3, head={"kind": "labels"}
    )
    assert "hidden" not in str(SubquadForSequenceClassification(config).state_dict().keys())


def test_numbers_inside_names():
    assert normalise("layer:1e-12")(8).eps == 1e-12
    assert normalise("layer")(8).eps == 1e-5
    assert normalise("rms:0.25")(8).eps == 0.25
    assert position("rotary:500000", 2, 8).base == 500000
    assert position("rotary", 2, 8).base == 10000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: normalise("layer:x"), "norm 'layer:x': after a colon stands a positive number"),
        (lambda: normalise("layer:0"), "norm 'layer:0': after a colon stands a positive number"),
        (lambda: normalise("layer:inf"), "and before it one of layer, rms"),
        (lambda: normalise("lazer:1"), "and before it one of layer, rms"),
        (lambda: position("alibi:2", 2, 8), "and before it one of rotary"),
        (lambda: normalise("lazer"), "no norm is called 'lazer'; did you mean 'layer'"),
    ],
    ids=["word", "zero", "infinite", "misspelt", "without", "plain"],
)
def test_numbers_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()
