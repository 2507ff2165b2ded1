"""A stem that reads waves: rows in a batch are rows alone, and what it refuses."""

import pytest
import torch

from subquad.nn.waves import WaveStemConfig

SIZES = {"channels": (6, 8), "kernels": (5, 2), "strides": (3, 2), "bias": True}


def stem(norms):
    torch.manual_seed(0)
    made = WaveStemConfig(**SIZES, norms=norms).build(12, 1).double().eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made


@pytest.mark.parametrize("norms", ["first", "layer"])
def test_rows_of_a_batch_are_rows_alone(norms):
    made, lengths = stem(norms), [41, 8, 7, 0, 25]
    assert made.field == 8
    assert made.factor == 6
    wave = torch.randn(5, 41, 1, dtype=torch.float64)
    valid = torch.arange(41) < torch.tensor(lengths)[:, None]
    x, context = made(wave.masked_fill(~valid.unsqueeze(-1), torch.nan), valid)
    assert x.shape == (5, made.count(41), 12)
    assert torch.equal(context.valid, made.real(valid))
    for i, length in enumerate(lengths):
        alone, _ = made(wave[i : i + 1, :length])
        assert alone.shape[1] == made.count(length) == int(context.valid[i].sum())
        torch.testing.assert_close(x[i, : alone.shape[1]], alone[0], rtol=1e-12, atol=1e-12)


def test_what_is_refused():
    made = stem("layer")
    with pytest.raises(ValueError, match=r"\(batch, samples, 1\), not torch.float64 \(2, 9\)"):
        made(torch.zeros(2, 9, dtype=torch.float64))
    with pytest.raises(ValueError, match="cannot be fed piece by piece"):
        made(torch.zeros(2, 9, 1), None, torch.zeros(2))
    with pytest.raises(ValueError, match="name 2, 1 and 2 convolutions; they must agree"):
        WaveStemConfig(channels=(6, 8), kernels=(5,), strides=(3, 2)).build(12, 1)
