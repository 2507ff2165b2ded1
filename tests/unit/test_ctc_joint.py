"""A decoder beside CTC: what it says of a transcript, its loss, its padding."""

import pytest
import torch

from subquad.hf import SubquadConfig, SubquadForCTC
from subquad.model import build
from subquad.nn.context import Context
from subquad.nn.joint import JointHead

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ([2, 3, 3], [4], [])


def head(**fields):
    torch.manual_seed(2)
    parts = {"kind": "joint", "num_layers": 2, "num_heads": 2, "ffn_dim": 16, **fields}
    sizes = {"dim": 8, "num_heads": 2, "num_layers": 1, "kernel": 3, "ffn_dim": 8}
    stem = {"kind": "frames", "bands": 16}
    return build("conformer", sizes, vocab_size=6, stem=stem, head=parts).head.double().eval()


def labels_of(texts):
    found = torch.full((len(texts), max(map(len, texts))), -100)
    for row, text in zip(found, texts, strict=True):
        row[: len(text)] = torch.tensor(text, dtype=torch.int64)
    return found


def batch():
    x, lengths = torch.randn(3, 9, 8, dtype=torch.float64), torch.tensor([9, 6, 4])
    return x, lengths


def test_a_transcript_is_written_token_by_token():
    """Each token, and the end, from nothing but those before it."""
    made, (x, lengths) = head(), batch()
    found = made.written(x, lengths, labels_of(TEXTS))
    for row, text in enumerate(TEXTS):
        nats = 0.0
        for i, token in enumerate([*text, 0]):
            given = torch.tensor([[0, *text[:i]]])
            context = Context(torch.arange(i + 1)[None], memory=x[row : row + 1, : lengths[row]])
            y, _ = made.decoder(made.words(given), context)
            nats = nats + made.write(y)[0, -1].log_softmax(-1)[token]
        torch.testing.assert_close(found[row], nats, rtol=1e-10, atol=1e-10)


def test_padding_does_not_matter():
    made, (x, lengths) = head(), batch()
    labels = labels_of(TEXTS)
    alone = [
        made.written(x[i : i + 1, : lengths[i]], lengths[i : i + 1], labels[i : i + 1, : len(t)])
        for i, t in enumerate(TEXTS)
    ]
    for row, length in enumerate(lengths):
        x[row, length:] = float("nan")
    torch.testing.assert_close(
        made.written(x, lengths, labels), torch.cat(alone), rtol=1e-10, atol=1e-10
    )


def test_loss_weighs_both():
    made, (x, lengths) = head(weight=0.25), batch()
    labels = labels_of(TEXTS)
    p = made(x)
    ctc = super(JointHead, made).loss(x, p, lengths, labels)
    written = made.written(x, lengths, labels).sum() / 4
    torch.testing.assert_close(made.loss(x, p, lengths, labels), 0.25 * ctc - 0.75 * written)
    made.loss(x, p, lengths, labels).backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    with pytest.raises(ValueError, match="the weight of CTC is 2; it lies from 0 to 1"):
        head(weight=2)


def test_the_shell_trains_and_keeps_it(tmp_path):
    sizes = {"dim": 8, "num_heads": 2, "num_layers": 1, "kernel": 3, "ffn_dim": 8}
    config = SubquadConfig(
        arch="conformer",
        model=sizes,
        stem={"kind": "frames"},
        head={"kind": "joint", "num_heads": 2, "num_layers": 1, "ffn_dim": 8},
        vocab_size=6,
        pad_token_id=0,
    )
    made = SubquadForCTC(config).eval()
    x, labels = torch.randn(2, 30, 80), torch.tensor([[2, 3], [4, -100]])
    loss = made(x, labels=labels).loss
    made.save_pretrained(tmp_path)
    again = SubquadForCTC.from_pretrained(tmp_path).eval()
    assert torch.equal(again(x, labels=labels).loss, loss)
