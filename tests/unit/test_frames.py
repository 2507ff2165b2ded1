"""Frames: what a token reads, padding, pieces; every architecture behind them."""

import pytest
import torch
import torch.nn.functional as F

from catalog import BOTH_WAYS, CAUSAL, tiny
from subquad.hf import SubquadConfig, SubquadForSequenceClassification, SubquadModel
from subquad.model import build
from subquad.nn.frames import FrameStemConfig
from subquad.ops.positions import sinusoids

pytestmark = pytest.mark.usefixtures("one_thread")

BANDS = 9
STEM = {"kind": "frames", "bands": BANDS}


def model(arch, causal=False, head=None, **stem):
    torch.manual_seed(3)
    fields, head = tiny(arch, causal=causal), head or {"kind": "tags", "num_labels": 5}
    made = build(arch, fields, vocab_size=1, stem={**STEM, **stem}, head=head).double().eval()
    for p in made.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)
    return made


def stem(halvings=2, **fields):
    torch.manual_seed(1)
    return FrameStemConfig(bands=BANDS, halvings=halvings, **fields).build(6, 0).double()


def frames(batch, length):
    return torch.randn(batch, length, BANDS, dtype=torch.float64)


@pytest.mark.parametrize(("halvings", "channels"), [(1, None), (2, None), (2, 3)])
def test_convolutions_without_padding(halvings, channels):
    made = stem(halvings, channels=channels)
    assert [conv.out_channels for conv in made.convs] == [channels or 6] * halvings
    for length in (0, 1, 2, 3, 6, 7, 10, 11, 63, 65, 127):
        x, context = made(given := frames(2, length))
        assert x.shape == (2, made.count(length), 6)
        assert context.pos.tolist() == [list(range(made.count(length)))]
        assert made.count(torch.tensor([length])).tolist() == [made.count(length)]
        if x.shape[1]:
            y = given[:, None]
            for conv in made.convs:
                y = F.relu(F.conv2d(y, conv.weight, conv.bias, stride=2))
            wanted = made.project(y.permute(0, 2, 1, 3).flatten(2))
            torch.testing.assert_close(x, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("halvings", [1, 2])
def test_a_token_reads_its_field(halvings):
    made, given = stem(halvings), frames(1, 40).requires_grad_()
    assert (made.factor, made.field) == ((2, 3), (4, 7))[halvings - 1]
    for j in (0, 3, made.count(40) - 1):
        (grad,) = torch.autograd.grad(made(given)[0][0, j].abs().sum(), given)
        read = grad[0].any(1).nonzero().flatten()
        assert read.min() >= j * made.factor
        assert read.max() == j * made.factor + made.field - 1


def test_sinusoids_of_the_tokens_place():
    x, context = stem(position="sinusoidal")(given := frames(1, 30))
    plain = stem()(given)[0]
    torch.testing.assert_close(x - plain, sinusoids(context.pos, 6).double())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_batched_equals_alone(arch, causal, side):
    m, lengths = model(arch, causal), torch.tensor([61, 30, 7, 3])
    slots = torch.arange(61)
    valid = slots < lengths[:, None] if side == "right" else slots >= 61 - lengths[:, None]
    given = frames(4, 61)
    y = m(given.masked_fill(~valid[..., None], torch.nan), valid=valid)[0]
    for row, real, x in zip(y, valid, given, strict=True):
        alone = m(x[real][None])[0][0]
        assert len(alone) == m.stem.count(int(real.sum())) or arch == "perceiver_ar"
        torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-10, atol=1e-10)


def test_gradients_are_finite_whatever_stands_in_the_padding():
    m, valid = model("conformer"), torch.arange(50) < torch.tensor([50, 21])[:, None]
    given = frames(2, 50).masked_fill(~valid[..., None], torch.nan).requires_grad_()
    real = torch.arange(m.stem.count(50)) < m.stem.count(torch.tensor([50, 21]))[:, None]
    m(given, valid=valid)[0][real].square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in m.parameters())
    assert torch.isfinite(given.grad).all()


@pytest.mark.parametrize("arch", CAUSAL)
def test_frames_streamed_equal_whole(arch):
    m, given = model(arch, causal=True), frames(2, 90)
    whole = m(given)[0]
    assert m.delay == 6
    state, parts = m.init_state(2), []
    for part in given.split([1, 5, 1, 0, 3, 50, 30], 1):
        y, state = m(part, state=state)
        parts.append(y)
    y, state = m.flush(state)
    assert y.shape[1] == 0  # nothing is withheld where no token waits for others
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
    assert state.length.tolist() == [m.stem.count(90)] * 2


@pytest.mark.parametrize("pool", ["first", "last", "mean"])
def test_a_row_is_pooled_over_its_own_tokens(pool):
    m = model("conformer", head={"kind": "labels", "num_labels": 4, "pool": pool})
    given, lengths = frames(2, 60), [60, 25]
    valid = torch.arange(60) < torch.tensor(lengths)[:, None]
    found = m(given, valid=valid)[0]
    for row, x, n in zip(found, given, lengths, strict=True):
        torch.testing.assert_close(row, m(x[None, :n])[0][0], rtol=1e-10, atol=1e-10)


def test_the_shell_reads_input_features(tmp_path):
    config = SubquadConfig(arch="conformer", model=tiny("conformer"), stem=STEM)
    m, given = SubquadModel(config).eval(), frames(2, 40).float()
    mask = (torch.arange(40) < torch.tensor([40, 20])[:, None]).long()
    y = m(input_features=given, attention_mask=mask).last_hidden_state
    alone = m(input_features=given[1:, :20]).last_hidden_state
    torch.testing.assert_close(y[1:, : alone.shape[1]], alone, rtol=1e-4, atol=1e-5)
    m.save_pretrained(tmp_path)
    again = SubquadModel.from_pretrained(tmp_path).eval()
    found = again(input_features=given, attention_mask=mask).last_hidden_state
    assert torch.equal(found, y)
    with pytest.raises(ValueError, match="reads frames, so pass input_features"):
        m(inputs_embeds=given)
    words = SubquadModel(SubquadConfig(arch="conformer", model=tiny("conformer")))
    with pytest.raises(ValueError, match="reads no frames; one with the stem"):
        words(input_features=given)


def test_the_shell_labels_rows_of_frames():
    torch.manual_seed(2)
    head = {"kind": "labels", "pool": "mean"}
    config = SubquadConfig(arch="conformer", model=tiny("conformer"), stem=STEM, head=head)
    m, given = SubquadForSequenceClassification(config).double().eval(), frames(2, 40)
    for mask in (torch.arange(40) < 18, torch.arange(40) >= 22):
        both = torch.stack((torch.ones(40, dtype=torch.bool), mask))
        found = m(input_features=given, attention_mask=both.long()).logits
        alone = m(input_features=given[1:, mask]).logits
        torch.testing.assert_close(found[1:], alone, rtol=1e-10, atol=1e-10)


def test_what_does_not_fit_is_said():
    made = stem()
    with pytest.raises(ValueError, match=r"9 bands\), not torch.float64 \(2, 5, 8\)"):
        made(frames(2, 5)[..., :8])
    with pytest.raises(ValueError, match=r"9 bands\), not torch.int64 \(2, 5\)"):
        made(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs the state of its stem"):
        made(frames(1, 5), None, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"6 bands cannot be halved 2 times.* at least 7"):
        FrameStemConfig(bands=6).build(4, 0)
    with pytest.raises(ValueError, match=r"a stem of 0 channels reads nothing; .* at least 1"):
        stem(channels=0)
    with pytest.raises(ValueError, match="looks ahead"):
        assert model("conformer").delay
