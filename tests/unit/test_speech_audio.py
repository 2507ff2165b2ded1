"""Recordings: any rate, any number of channels, and damage that stops nobody."""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from subquad.data.audio import Careful, Heard, Member, Samples, Sound
from subquad.data.forms import UnfitError
from subquad.data.resample import filter_at, ratio, resample

pytest.importorskip("soundfile")


def write_wav(file: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """Samples (S,) or (S, channels), -1 to 1, as a .wav of 16 bits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as out:
        out.setparams((samples[0].size if samples.ndim > 1 else 1, 2, rate, 0, "NONE", ""))
        out.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return file


def tone(hertz: float, rate: int, seconds: float = 0.25) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


# --- resampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "to"),
    [
        *((rate, 16_000) for rate in (8_000, 11_025, 14_400, 17_600, 44_100, 48_000)),
        *((149, 151), (1_000, 7)),
    ],
)
@pytest.mark.parametrize("samples", [1, 2, 63, 1025])
def test_resampled_is_scipys(rate: int, to: int, samples: int):
    """The same sum over the same filter, by someone else's loop."""
    signal = pytest.importorskip("scipy.signal")
    up, down = ratio(rate, to)
    half = 64 * max(up, down)
    taps = filter_at(np.arange(-half, half + 1) / up, up, down) / up
    x = np.random.default_rng(0).standard_normal(samples)
    got = resample(x, rate, to)
    # sums of 130 or more products in another order: 1e-16 each
    np.testing.assert_allclose(got, signal.resample_poly(x, up, down, window=taps), atol=1e-13)
    assert len(got) == -(-samples * to // rate)
    single = resample(x.astype(np.float32), rate, to)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, got, atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_a_tone_stays_what_it_is(rate: int):
    got, want = resample(tone(3_000, rate), rate), tone(3_000, 16_000)
    middle = slice(400, -400)
    np.testing.assert_allclose(got[middle], want[middle], atol=1e-4)


def test_what_the_lower_rate_cannot_hold_is_gone():
    got = resample(tone(8_200, 48_000), 48_000)
    assert np.abs(got[400:-400]).max() < 1e-4
    assert np.abs(resample(np.ones(9_600), 48_000)[400:-400] - 1).max() < 1e-4


def test_long_waves_are_resampled_in_pieces(monkeypatch: pytest.MonkeyPatch):
    x = np.random.default_rng(0).standard_normal(3_000)
    whole = resample(x, 44_100)
    monkeypatch.setattr("subquad.data.resample._PIECE", 1)
    np.testing.assert_allclose(resample(x, 44_100), whole, atol=1e-13)


def test_the_same_rate_changes_nothing():
    x = tone(100, 16_000)
    assert resample(x, 16_000) is x
    assert len(resample(x[:0], 8_000)) == 0
    with pytest.raises(ValueError, match="from 0 to 16000 a second; both must be positive"):
        resample(x, 0)


# --- recordings ---------------------------------------------------------------------------------


def test_a_recording_is_mixed_and_resampled(tmp_path: Path):
    left, right = tone(500, 48_000), tone(700, 48_000)
    file = write_wav(tmp_path / "a.wav", np.stack([left, right], 1), 48_000)
    sound = Sound("a", file)
    assert sound.seconds() == 0.25
    got = sound.wave()
    assert (got.shape, got.dtype) == ((4_000,), np.float32)
    want = (tone(500, 16_000) + tone(700, 16_000)) / 2
    # 16 bits are 3e-5
    np.testing.assert_allclose(got[400:-400], want[400:-400], atol=1.5e-4)


def test_a_recording_is_read_from_wherever_it_lies(tmp_path: Path):
    x = tone(500, 16_000)
    data = write_wav(tmp_path / "a.wav", x).read_bytes()
    (tmp_path / "b.bin").write_bytes(b"x" * 100 + data + b"y" * 100)
    member = Member(tmp_path / "b.bin", 100, len(data))
    assert member.read() == data
    values = (x * 32767).round().astype(np.int16)
    for source in (tmp_path / "a.wav", member, data, Samples(values, 16_000)):
        sound = Sound("a", source)
        assert sound.seconds() == 0.25
        np.testing.assert_allclose(sound.wave(), x, atol=1e-4)
    assert len(Sound("a", Samples(values, 8_000)).wave()) == 2 * len(x)


def test_what_a_header_tells(tmp_path: Path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "page.wav").write_bytes(b"<html>" * 100)
    write_wav(tmp_path / "none.wav", np.zeros(0))
    write_wav(tmp_path / "slow.wav", np.zeros(9), 10)
    for name, reason in {
        "missing.wav": "an audio file that is not there",
        "empty.wav": "an empty audio file",
        "page.wav": "a file that is no audio",
        "none.wav": "audio without samples",
        "slow.wav": "audio of less than 1,000 samples a second",
    }.items():
        with pytest.raises(UnfitError, match=f"^{reason}$"):
            Sound(name, tmp_path / name).seconds()
    with pytest.raises(UnfitError, match="audio without samples"):
        Sound("", Samples(np.zeros(0, np.int16), 8_000)).seconds()


def damaged(folder: Path) -> list[dict]:
    """Three rows, the second damaged in the middle."""
    import soundfile

    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8_000)
    for name in "abc":
        soundfile.write(folder / f"{name}.flac", noise, 16_000)
    data = bytearray((folder / "b.flac").read_bytes())
    data[4_000:6_000] = bytes(2_000)
    (folder / "b.flac").write_bytes(data)
    return [{"audio": Sound(name, folder / f"{name}.flac"), "text": name} for name in "abc"]


def test_damage_inside_is_told_by_name_and_passed_over(tmp_path: Path):
    closed = damaged(tmp_path)
    rows, said = Heard(closed), []
    assert rows.closed[1]["audio"].seconds() == 0.5
    with pytest.raises(ValueError, match="the recording b cannot be decoded: "):
        rows[1]
    careful = Careful(rows, said.append)
    assert [row["text"] for row in careful.those([0, 1, 2, 1])] == ["a", "c"]
    assert [careful.near(i)["text"] for i in range(3)] == ["a", "c", "c"]
    assert careful.left_out == {"a recording that is damaged inside": 1}
    assert len(said) == 1
    assert said[0].endswith("it is left out")
    with pytest.raises(ValueError, match="none of 1 recordings can be decoded"):
        Careful(rows[1:2], said.append).near(0)


def test_other_damage(tmp_path: Path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.full(100, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match="the recording a holds samples that are no numbers"):
        Sound("a", tmp_path / "a.wav").wave()
    with pytest.raises(ValueError, match="the recording a cannot be decoded: "):
        Sound("a", b"<html>").wave()
    with pytest.raises(ValueError, match="the recording a cannot be decoded: "):
        Sound("a", tmp_path / "missing.wav").wave()


def test_without_soundfile_an_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"recordings need soundfile: pip install 'subquad\[audio"):
        Sound("a", b"RIFF").seconds()
