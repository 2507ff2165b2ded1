"""Recordings block by block, samples through a pipe, and the embedded Morse code."""

import io
import struct

import numpy as np
import pytest
import soundfile

from subquad.data.audio import RATE, Sound
from subquad.data.listening import blocks, piped, seconds_of
from subquad.data.morse import CODE, Keyed, morse, units


def noise(seconds, rate, channels=1):
    draw = np.random.default_rng(3)
    return (0.2 * draw.standard_normal((round(seconds * rate), channels))).astype(np.float32)


@pytest.mark.parametrize(
    ("seconds", "rate", "channels"),
    [(0.5, 16_000, 1), (11.0, 16_000, 2), (21.7, 8_000, 1), (23.01, 44_100, 2), (12.0, 48_000, 1)],
)
def test_blocks_are_the_whole(tmp_path, seconds, rate, channels):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(seconds, rate, channels), rate, "FLOAT")
    found = list(blocks(path))
    assert max(map(len, found)) <= 11 * RATE
    np.testing.assert_allclose(np.concatenate(found), Sound("a", path).wave(), rtol=0, atol=1e-6)
    assert seconds_of(path) == pytest.approx(seconds, abs=1e-4)


def test_files_that_are_no_recordings(tmp_path):
    for name, data, says in (
        ("text.wav", b"hello", "text.wav is no recording that can be read"),
        ("none.wav", b"", "none.wav is empty"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=says):
            next(blocks(tmp_path / name))
    soundfile.write(tmp_path / "short.wav", noise(0, 16_000), 16_000)
    with pytest.raises(ValueError, match=r"short.wav holds no samples"):
        next(blocks(tmp_path / "short.wav"))
    with pytest.raises(ValueError, match="there is no file"):
        next(blocks(tmp_path / "absent.wav"))


def pipe(data, piece):
    stream = io.BytesIO(data)
    return lambda most: stream.read(min(most, piece))


def wav(samples, rate=16_000, channels=1, bits=16, size=None):
    data = samples.tobytes()
    size = len(data) if size is None else size
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * width, width, bits)
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd chunk, which is padded
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + extra + b"data"
    return b"RIFF" + struct.pack("<I", 0) + body + struct.pack("<I", size) + data


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("channels", [0, 1, 2])
def test_pipe_gives_all_samples(piece, channels):
    """0 channels: raw samples without a header."""
    samples = np.arange(-300, 300, dtype="<i2")
    data = wav(samples, channels=channels) if channels else samples.tobytes()
    found = np.concatenate([*piped(pipe(data, piece))])
    wanted = samples.reshape(-1, max(1, channels)).astype(np.float32).mean(1) / 32768
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_stands_behind_the_samples_is_not_heard(piece, channels):
    samples = np.arange(-300, 300, dtype="<i2")
    data = wav(samples, channels=channels) + b"LIST" + struct.pack("<I", 6) + b"abcdef"
    found = np.concatenate([*piped(pipe(data, piece))])
    wanted = samples.reshape(-1, channels).astype(np.float32).mean(1) / 32768
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_size_that_nobody_knew_ends_with_the_pipe(size):
    samples = np.arange(-300, 300, dtype="<i2")
    found = np.concatenate([*piped(pipe(wav(samples, size=size), 100))])
    np.testing.assert_array_equal(found, samples.astype(np.float32) / 32768)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path, bad):
    wave = noise(12.5, 8_000, 2)
    wave[96_000, 1] = bad
    soundfile.write(tmp_path / "bad.wav", wave, 8_000, "FLOAT")
    with pytest.raises(ValueError, match=r"bad\.wav holds .* no numbers.* at 12\.000 s, sample"):
        list(blocks(tmp_path / "bad.wav"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the pipe holds no sample"),
        (wav(np.zeros(4, "<i2"), rate=8000), "16 bits at 8000 Hz; a pipe takes 16 bits at 16000"),
        (wav(np.zeros(4, "<i2"), bits=8), "of 8 bits at 16000 Hz"),
        (b"RIFF1234nope", "its header ends or is no such"),
        (wav(np.zeros(0, "<i2"))[:30], "its header ends"),
    ],
)
def test_pipes_that_do_not_do(data, says):
    with pytest.raises(ValueError, match=says):
        list(piped(pipe(data, 5)))


def test_morse_code():
    assert units("paris paris") == 50 + 43
    assert len(set(CODE.values())) == 26
    one = Keyed("et", 0.05, 500.0, 0.5, 0.0, 1)
    wave = one.wave()
    assert len(wave) == round(one.seconds * RATE) == round((units("et") + 6) * 0.05 * RATE)
    # three units of silence, a dot, three of silence, a dash, three of silence
    loud = np.abs(wave).reshape(-1, 800).max(1) > 0.3
    assert loud.tolist() == [False] * 3 + [True] + [False] * 3 + [True] * 3 + [False] * 3
    with pytest.raises(ValueError, match="'1' has no Morse code here"):
        units("1")


def test_embedded_recordings_are_made_when_asked_for():
    found = morse()
    row, again = found.rows["test"][3], morse().rows["test"][3]
    np.testing.assert_array_equal(row["audio"], again["audio"])
    assert row["audio"].dtype == np.float32
    assert len(row["audio"]) == round(row["seconds"] * RATE)
    assert found.rows["train"].closed[3]["text"] != row["text"]
