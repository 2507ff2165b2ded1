"""What BigBird's checkpoints need: marks of both ends of a row, and a layer before the answers."""

import pytest
import torch
import torch.nn.functional as F

from subquad.hf import (
    SubquadConfig,
    SubquadForCausalLM,
    SubquadForMaskedLM,
    SubquadForQuestionAnswering,
    SubquadForSequenceClassification,
)
from subquad.nn.answers import AnswerHeadConfig
from subquad.nn.context import Context
from subquad.nn.ends import Ends
from subquad.nn.stems import NGramStemConfig, TokenStemConfig

FIELDS = {"dim": 8, "num_layers": 1, "num_heads": 2, "ffn_dim": 8, "dropout": 0.0}
BIG = {**FIELDS, "block": 4, "random_blocks": 0, "window": 0}


def shell(kind, arch="bigbird", fields=BIG, **more):
    torch.manual_seed(2)
    return kind(SubquadConfig(arch=arch, model=fields, vocab_size=9, **more)).double().eval()


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 63, 65])
@pytest.mark.parametrize(("block", "whole"), [(4, 0), (4, 5), (7, 20), (64, 0)])
def test_marks_by_their_definition(n, block, whole):
    lengths = sorted({n, n // 2, 0})
    valid = torch.arange(n) < torch.tensor(lengths)[:, None]
    tokens = torch.zeros(len(lengths), n, dtype=torch.int64)
    found = Ends(block, whole)(tokens, Context.of(tokens, valid), None).mark
    for row, length in zip(found, lengths, strict=True):
        last = (length - 1) // block
        wanted = [
            i < length and (i < block or i // block == last or length <= whole) for i in range(n)
        ]
        assert row.tolist() == wanted
    bare = Ends(block, whole)(tokens, Context.of(tokens), None).mark
    assert bare.shape == tokens.shape
    assert torch.equal(bare[0], found[-1])


def test_ends_that_are_none():
    with pytest.raises(ValueError, match="ends of 0 tokens, whole up to 3: a block has 1 or more"):
        Ends(0, 3)
    with pytest.raises(ValueError, match="ends = 4: a stem of n-grams marks no tokens"):
        NGramStemConfig(ends=4)
    assert TokenStemConfig().build(8, 9).ends is None


@pytest.mark.parametrize("kind", [SubquadForMaskedLM, SubquadForSequenceClassification])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_no_mark(kind, side):
    """The last block is a row's own."""
    m = shell(kind, stem={"ends": 4, "whole_up_to": 6})
    rows = [torch.randint(0, 9, (1, n)) for n in (21, 13, 5)]
    pads = [(21 - r.shape[1], 0) if side == "left" else (0, 21 - r.shape[1]) for r in rows]
    ids = torch.cat([F.pad(r, p) for r, p in zip(rows, pads, strict=True)])
    mask = torch.cat([F.pad(torch.ones_like(r), p) for r, p in zip(rows, pads, strict=True)])
    found = m(ids, attention_mask=mask).logits
    for b, row in enumerate(rows):
        one = found[b] if found.dim() == 2 else found[b][mask[b] > 0]
        torch.testing.assert_close(one, m(row).logits[0], rtol=1e-10, atol=1e-10)


def test_marks_that_are_given_stay():
    m = shell(SubquadForMaskedLM, stem={"ends": 4})
    ids, marks = torch.randint(0, 9, (1, 21)), torch.zeros(1, 21, dtype=torch.int64)
    marks[:, :4] = marks[:, 20:] = 1
    assert torch.equal(m(ids).logits, m(ids, global_attention_mask=marks).logits)
    marks[:, 9] = 1
    assert not torch.equal(m(ids).logits, m(ids, global_attention_mask=marks).logits)


def test_a_stream_has_no_last_block():
    fields = {**FIELDS, "causal": True}
    m = shell(SubquadForCausalLM, "transformer", fields, stem={"ends": 4})
    with pytest.raises(ValueError, match="rows whose ends are marked come whole; for a stream"):
        m(torch.randint(0, 9, (1, 5)), use_cache=True)


def test_the_layer_before_the_answers():
    head = AnswerHeadConfig(num_labels=3, ffn_dim=20, mlp="relu").build(8, 9).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    hidden = head.mlp.down(head.mlp.up(x).relu())
    wanted = head.label(F.layer_norm(x + hidden, (8,), head.norm.weight, head.norm.bias))
    torch.testing.assert_close(head(x), wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_question_is_no_answer(side):
    """Whatever padding stands beside it; without separators all but the first are of one kind."""
    head = {"kind": "answers", "ffn_dim": 20}
    m = shell(SubquadForQuestionAnswering, stem={"types": 2}, head=head, sep_token_id=2)
    assert m.config.head["kind"] == "answers"
    ids = torch.tensor([[3, 4, 2, 5, 6, 7, 2]])
    for row, question in ((ids, 3), (ids.clamp(3), 1)):
        kinds = (torch.arange(7) >= question).long()[None]
        plain = m(row)
        told = m(row, token_type_ids=kinds)
        assert torch.equal(plain.start_logits, told.start_logits)
        below = plain.start_logits[0] < -9e5
        assert below.tolist() == [0 < i < question for i in range(7)]
        pad = (3, 0) if side == "left" else (0, 3)
        mask = F.pad(torch.ones_like(row), pad)
        found = m(F.pad(row, pad), attention_mask=mask).end_logits[mask > 0]
        torch.testing.assert_close(found, plain.end_logits[0], rtol=1e-10, atol=1e-9)
    embedded = m(inputs_embeds=m.get_input_embeddings()(ids))
    assert (embedded.start_logits.abs() < 100).all()
