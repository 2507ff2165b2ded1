"""The stem of series: its columns, missing values, padding and pieces of a stream."""

import pytest
import torch

from catalog import tiny
from subquad.model import build, load, save
from subquad.nn.series import SeriesStemConfig

pytestmark = pytest.mark.usefixtures("one_thread")

STEM = {"kind": "series", "covariates": 2, "num_series": 7, "embed_dim": 6}


def model(arch="local", stem=None, likelihood="gaussian", dtype=torch.float64):
    torch.manual_seed(3)
    head = {"kind": "forecast", "likelihood": likelihood}
    stem = STEM if stem is None else {"kind": "series", **stem}
    made = build(arch, tiny(arch), vocab_size=1, stem=stem, head=head).to(dtype).eval()
    for p in made.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)
    return made


def series(batch, length, dtype=torch.float64):
    x = torch.randn(batch, length, 4, dtype=dtype)
    x[..., 0].masked_fill_(torch.rand(batch, length) < 0.2, torch.nan)
    x[..., 3] = torch.arange(batch)[:, None] % 8 - 1
    return x


def test_features_by_hand():
    stem = SeriesStemConfig(covariates=1, num_series=3, embed_dim=4).build(5, 0).double()
    x = torch.tensor([[[0.5, 2.0, 1.0], [torch.nan, -1.0, 1.0]]], dtype=torch.float64)
    y, context = stem(x, None, torch.tensor([9]))
    assert context.pos.tolist() == [[9, 10]]
    at = stem.position(context.pos)[0].double() + stem.table.weight[1]
    read = torch.tensor([[0.5, 0.0, 2.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(y[0], stem.project(torch.cat((read, at), -1)))
    # a series that is none of them has its position alone
    x[..., 2] = -1
    y = stem(x)[0]
    at = stem.position(torch.arange(2)).double()
    torch.testing.assert_close(y[0], stem.project(torch.cat((read, at), -1)))


@pytest.mark.parametrize(
    ("fields", "inputs"),
    [
        ({"position": "none"}, 2),
        ({"position": "learned", "max_len": 9}, 22),
        ({"position": "none", "num_series": 4}, 22),
        ({"covariates": 3}, 25),
    ],
)
def test_what_is_left_out_has_no_columns(fields, inputs):
    stem = SeriesStemConfig(**fields).build(8, 0)
    assert stem.project.in_features == inputs
    assert stem(torch.zeros(2, 5, stem.width))[0].shape == (2, 5, 8)


@pytest.mark.parametrize("side", ["left", "right"])
def test_batched_equals_alone(side):
    m, x, lengths = model(), series(3, 40), torch.tensor([40, 23, 1])
    slots = torch.arange(40)
    valid = slots < lengths[:, None] if side == "right" else slots >= 40 - lengths[:, None]
    dirty = x.masked_fill(~valid[..., None], torch.nan)
    y = m(dirty, valid=valid)[0]
    for b in range(3):
        alone = m(x[b][valid[b]][None])[0][0]
        torch.testing.assert_close(y[b][valid[b]], alone, rtol=1e-10, atol=1e-10)
    y[valid].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in m.parameters() if p.grad is not None)


def test_streamed_equals_whole():
    m, x = model(), series(2, 30)
    whole = m(x)[0]
    for cut in ([1] * 30, [7, 0, 23]):
        state, parts = m.init_state(2), []
        for part in x.split(cut, 1):
            y, state = m(part, state=state)
            parts.append(y)
        parts.append(m.flush(state)[0])
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("likelihood", ["gaussian", "student_t", "negative_binomial", "quantiles"])
def test_every_parameter_learns_and_comes_back(likelihood, tmp_path):
    head = {"kind": "forecast", "likelihood": likelihood}
    m, x = model(likelihood=likelihood, dtype=torch.float32), series(3, 25, torch.float32)
    target, scale = torch.randint(0, 5, (3, 25)).float(), torch.ones(3)
    m.head.likelihood.loss(m(x)[0], target, None, scale).backward()
    still = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(n.endswith("key.bias") for n in still), still
    fields = {"arch": "local", "model": tiny("local"), "vocab_size": 1, "stem": STEM, "head": head}
    save(m, tmp_path, fields)
    assert torch.equal(load(tmp_path).eval()(x)[0], m(x)[0])


def test_low_precision_keeps_series_apart():
    m, x = model(dtype=torch.bfloat16), series(2, 9, torch.float32)
    assert torch.isfinite(m(x)[0]).all()
    stem = SeriesStemConfig(num_series=300).build(8, 0)
    with pytest.raises(ValueError, match="bfloat16 cannot hold the numbers of 300 series"):
        stem(torch.zeros(1, 2, 2, dtype=torch.bfloat16))
    stem(torch.full((1, 2, 2), 299.0))


def test_what_does_not_fit_is_said():
    stem = SeriesStemConfig(covariates=2, num_series=7).build(8, 0)
    with pytest.raises(ValueError, match=r"\(batch, length, 4: a value, 2 covariates, a series"):
        stem(torch.zeros(1, 5, 3))
    with pytest.raises(ValueError, match=r"not torch.int64 \(1, 5\)"):
        stem(torch.zeros(1, 5, dtype=torch.int64))
    x = torch.zeros(1, 5, 4)
    for wrong in (7.0, -2.0, 1.5):
        x[0, 3, 3] = wrong
        with pytest.raises(ValueError, match=f"series number {wrong:g} is not a whole number"):
            stem(x)
