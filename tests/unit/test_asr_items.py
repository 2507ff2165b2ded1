"""Items that speech recognition is trained on: what is kept of them, how they are normalised."""

import numpy as np
import pytest
import soundfile
import torch

from subquad.data.kept import Kept
from subquad.nn.logmel import LogMel
from subquad.tasks import spoken
from subquad.tasks.asr import Asr
from subquad.tasks.asr_config import AsrConfig

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 230


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Short recordings, each louder than the one before, the first of them damaged inside."""
    where, draw = tmp_path_factory.mktemp("items"), np.random.default_rng(0)
    lines = []
    for i in range(COUNT + 2):
        wave = draw.standard_normal(4_000 + 7 * i) * 0.1 * (i + 1) / COUNT
        soundfile.write(where / f"u{i}.flac", wave, 16_000)
        part = "train" if i < COUNT else "valid"
        lines.append(f"{part}\tu{i}\ta b\n")
    damaged = (where / "u0.flac").read_bytes()
    (where / "u0.flac").write_bytes(damaged[: len(damaged) // 2])
    (where / "transcripts.tsv").write_text("".join(lines))
    return where


def task(folder, **fields):
    made = Asr(AsrConfig(**fields))
    made.prepare(str(folder))
    return made


def test_every_training_recording_counts_for_mean_and_deviation(folder, capsys, monkeypatch):
    told = []
    monkeypatch.setattr(Asr, "report", staticmethod(lambda done, of: told.append((done, of))))
    made = task(folder)
    waves = [soundfile.read(folder / f"u{i}.flac", dtype="float32")[0] for i in range(1, COUNT)]
    every = torch.cat([LogMel()(torch.from_numpy(wave)[None])[0][0] for wave in waves]).double()
    torch.testing.assert_close(made.log_mel.mean.double(), every.mean(0), rtol=0, atol=1e-5)
    wanted = every.std(0, correction=0).clamp(min=0.1)
    torch.testing.assert_close(made.log_mel.std.double(), wanted, rtol=0, atol=1e-5)
    assert told == [(1, COUNT)] * COUNT
    assert capsys.readouterr().err.count("u0.flac cannot be decoded") == 1


def test_a_known_mean_is_not_taken_again(folder, tmp_path, monkeypatch):
    made = task(folder)
    facts = made.save(tmp_path)
    again = Asr.load(tmp_path, facts)
    monkeypatch.setattr(spoken, "mean_and_std", None)
    again.prepare(str(folder))
    assert torch.equal(again.log_mel.mean, made.log_mel.mean)


@pytest.mark.parametrize("mask", [True, False])
def test_what_is_kept_is_what_is_made_anew(folder, mask, monkeypatch):
    """Bit for bit, over three epochs, whether all, some or nothing finds room."""
    made, count, found = task(folder, mask=mask), 3 * COUNT, []
    for room in (1 << 28, 1 << 21, 0):
        monkeypatch.setattr(spoken, "_ROOM", room)
        items = made.train_set(count, seed=5)
        found.append([items[i] for i in range(count)])
    for same in zip(*found, strict=True):
        for name in ("input_features", "attention_mask", "labels"):
            assert torch.equal(same[0][name], same[1][name])
            assert torch.equal(same[0][name], same[2][name])
    lengths = [len(one["input_features"]) for one in found[0]]
    assert lengths[:COUNT] != lengths[COUNT : 2 * COUNT]  # other speeds, another order


def test_what_comes_first_is_kept_while_there_is_room():
    made, kept = [], Kept(100)

    def make(key, size):
        def one():
            made.append(key)
            return {"x": torch.zeros(size, dtype=torch.uint8)}

        return kept(key, one)["x"]

    first = make("a", 60)
    make("b", 50)
    assert make("a", 60) is first
    make("b", 50)
    make("c", 40)
    make("c", 40)
    assert made == ["a", "b", "b", "c"]
    assert kept.room == 0
