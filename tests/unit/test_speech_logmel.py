"""Log-mel features: the same numbers as transformers', alone, in batches and in any pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from subquad.nn.logmel import LogMel, mel_bank
from subquad.nn.state import nbytes, select

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = (1, 2, 39, 40, 159, 160, 161, 199, 200, 201, 359, 360, 361, 399, 560, 1025, 2400)


def foreign(wave: Tensor) -> Tensor:
    """Hugging Face's features (T, 80)."""
    bank = mel_filter_bank(257, 80, 0, 8000, 16000, norm="slaney", mel_scale="slaney")
    hann = window_function(400, "hann")
    found = spectrogram(
        wave.numpy(), hann, 400, 160, 512, power=2.0, mel_filters=bank, log_mel="log10"
    )
    return torch.from_numpy(found).T


def waves(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Noise with a loud low tone, padded with NaN, and valid."""
    x = torch.full((len(lengths), max(lengths, default=0)), torch.nan)
    for row, n in zip(x, lengths, strict=True):
        row[:n] = 0.01 * torch.randn(n) + 0.9 * torch.sin(torch.arange(n) * 0.05)
    return x, ~x.isnan()


def test_the_bank_is_transformers():
    theirs = mel_filter_bank(257, 80, 0, 8000, 16000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_bank().numpy(), theirs, rtol=0, atol=1e-12)
    theirs = mel_filter_bank(129, 20, 0, 400, 800, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_bank(20, 129, 800).numpy(), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", LENGTHS)
def test_features_are_transformers(samples: int):
    x, _ = waves((samples,))
    y, valid = LogMel()(x)
    assert y.dtype == torch.float32
    assert valid.all()
    assert y.shape == (1, LogMel.frames(samples), 80)
    torch.testing.assert_close(y[0], foreign(x[0]), rtol=0, atol=1e-5)


def test_silence_is_the_floor():
    y, _ = LogMel()(torch.zeros(1, 500))
    assert (y == -10).all()


def test_batched_is_alone():
    x, valid = waves((2400, 1, 0, 199, 1025))
    y, frames = LogMel()(x, valid)
    assert frames.sum(1).tolist() == [16, 1, 0, 2, 7]
    for wave, there, row, real in zip(x, valid, y, frames, strict=True):
        alone, _ = LogMel()(wave[there][None])
        # taken in float64, so equal up to how a number around 10 is rounded
        torch.testing.assert_close(row[real], alone[0], rtol=0, atol=2e-6)
        assert (row[~real] == 0).all()
    nothing, none = LogMel()(torch.zeros(2, 0))
    assert nothing.shape == (2, 0, 80)
    assert none.shape == (2, 0)


def test_long_waves_go_in_pieces(monkeypatch: pytest.MonkeyPatch):
    x, valid = waves((2400, 700))
    whole, _ = LogMel()(x, valid)
    monkeypatch.setattr("subquad.nn.logmel._PIECE", 6)
    pieces, _ = LogMel()(x, valid)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-6)


def test_gradients_reach_real_samples_alone():
    x, valid = waves((700, 300))
    x.requires_grad_()
    y, _ = LogMel()(x, valid)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[~valid] == 0).all()
    assert x.grad[0].count_nonzero() > 650


def streamed(mel: LogMel, x: Tensor, valid: Tensor, cuts: list[int]) -> list[Tensor]:
    """The frames of each row, from pieces that end at the cuts."""
    state = mel.init_state(len(x), x)
    parts: list[list[Tensor]] = [[] for _ in x]
    size = nbytes(state)
    for a, b in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        y, real, state = mel.stream(x[:, a:b], state, valid[:, a:b])
        assert nbytes(state) == size
        for part, row, some in zip(parts, y, real, strict=True):
            part.append(row[some])
    y, real = mel.flush(state)
    return [torch.cat([*part, row[r]]) for part, row, r in zip(parts, y, real, strict=True)]


@pytest.mark.parametrize("cuts", [[], [1, 1, 2, 201], [199, 200, 360], [160, 320, 2399], [1500]])
def test_streamed_is_whole(cuts: list[int]):
    x, valid = waves((2400, 1, 0, 200, 361, 1025))
    mel = LogMel(torch.randn(80), torch.rand(80) + 0.5)
    whole, real = mel(x, valid)
    for got, row, some in zip(streamed(mel, x, valid, cuts), whole, real, strict=True):
        torch.testing.assert_close(got, row[some], rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", LENGTHS)
def test_any_length_streams(samples: int):
    x, valid = waves((samples,))
    mel = LogMel()
    got = streamed(mel, x, valid, list(range(37, samples, 37)))[0]
    torch.testing.assert_close(got, mel(x)[0][0], rtol=0, atol=1e-5)


def test_a_frame_comes_as_soon_as_its_samples_are_there():
    x, _ = waves((1000,))
    mel = LogMel()
    for frame in range(4):
        need = frame * mel.hop + mel.ahead + 1
        _, early, _ = mel.stream(x[:, : need - 1], mel.init_state(1))
        _, there, _ = mel.stream(x[:, :need], mel.init_state(1))
        assert (early.sum(), there.sum()) == (frame, frame + 1)


def test_rows_of_a_state_are_chosen():
    x, valid = waves((500, 700, 650))
    mel, order = LogMel(), torch.tensor([2, 0])
    _, _, state = mel.stream(x[:, :450], mel.init_state(3), valid[:, :450])
    y, real, _ = mel.stream(x[order, 450:], select(state, order), valid[order, 450:])
    other, some, _ = mel.stream(x[:, 450:], state, valid[:, 450:])
    torch.testing.assert_close(y[real], other[order][some[order]], rtol=0, atol=0)


def test_features_are_normalised_by_the_training_set():
    x, _ = waves((800,))
    plain, _ = LogMel()(x)
    mean, std = torch.randn(80), torch.rand(80) + 0.5
    y, _ = LogMel(mean, std)(x)
    torch.testing.assert_close(y, (plain - mean) / std, rtol=1e-6, atol=1e-5)
    again = LogMel()
    again.load_state_dict(LogMel(mean, std).state_dict())
    torch.testing.assert_close(again(x)[0], y, rtol=0, atol=0)


def test_float64_stays():
    x, _ = waves((800,))
    y, _ = LogMel()(x.double())
    assert y.dtype == torch.float64
    assert LogMel()(x.bfloat16())[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: LogMel(torch.zeros(40)), r"mean is of shape \(40,\); there are 80 mel bands"),
        (lambda: LogMel(std=torch.zeros(80)), "std must be positive in every band; the least is 0"),
        (lambda: LogMel()(torch.zeros(9)), r"waves must be .* not \(9,\) of torch.float32"),
        (lambda: LogMel()(torch.zeros(1, 9).short()), "in floating point, not .* of torch.int16"),
        (
            lambda: LogMel()(torch.zeros(1, 9), torch.ones(1, 8, dtype=torch.bool)),
            r"valid is of shape \(1, 8\), and the waves of \(1, 9\)",
        ),
        (
            lambda: LogMel().stream(torch.zeros(2, 9), LogMel().init_state(3)),
            "the waves are a batch of 2, and the state is one of 3",
        ),
    ],
)
def test_errors(call, says: str):
    with pytest.raises(ValueError, match=says):
        call()


def test_features_of_people_are_transformers(data_dir):
    """Real speech has bands far below its loudest, which float32 spectra would lose."""
    pytest.importorskip("soundfile")
    from subquad.data.speech import open_speech

    rows = open_speech(str(data_dir / "speech" / "an4_16k_flac.tar")).rows["test"]
    for i in (0, 40, 99):
        wave = torch.from_numpy(rows[i]["audio"])
        y, _ = LogMel()(wave[None])
        torch.testing.assert_close(y[0], foreign(wave), rtol=0, atol=1e-5)
