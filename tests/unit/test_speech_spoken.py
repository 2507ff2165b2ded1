"""The embedded speech, with a program that stands in for the synthesiser."""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from subquad.data import spoken
from subquad.data.speech import open_speech

# writes a second's tenth of a wave at 22,050 Hz, and notes that it was called
SPEAKS = """#!{python} -S
import sys, wave
given = sys.argv[1:]
open({notes!r}, "a").write(" ".join(given) + "\\n")
if given == ["--version"]:
    print("Fake synthesiser: 1.0  Data at: nowhere")
else:
    with wave.open(given[given.index("-w") + 1], "wb") as out:
        out.setparams((1, 2, 22050, 0, "NONE", ""))
        out.writeframes(bytes([len(given[-1]), 1]) * 2205)
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A program called espeak, alone on the path; where it notes its calls comes back."""
    notes = folder / "notes"
    program = folder / "bin" / "espeak"
    program.parent.mkdir()
    program.write_text(script.format(python=sys.executable, notes=str(notes)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("SUBQUAD_CACHE", str(folder / "cache"))
    return notes


def test_sentences_differ_and_stay():
    found = spoken.sentences(300)
    assert len({*found}) == 300
    assert spoken.sentences(20) == found[:20]
    assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz ") for text in found)
    firsts = {text.split()[0] for text in found}
    assert {"call", "dial", "anna", "bring"} <= firsts


def test_a_synthesiser_speaks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notes = install(tmp_path, monkeypatch, SPEAKS)
    found = open_speech(None, default=lambda: spoken.speech(12))
    calls = notes.read_text().splitlines()
    assert len(calls) == 13
    assert found.source.startswith(
        "sentences of a small grammar, spoken by Fake synthesiser: 1.0 ("
    )
    rows = list(found.take("all"))
    assert {row["text"] for row in rows} == {*spoken.sentences(12)}
    assert all(len(found.rows[part]) for part in ("train", "valid", "test"))
    for row in rows:
        _, voice, speed = row["name"].rsplit("-", 2)[-3:]
        assert row["seconds"] == 0.1
        assert len(row["audio"]) == 1_600
        # each is the constant that its own sentence gives
        assert abs(row["audio"][800] * 32_768 - (256 + len(row["text"]))) <= 1
        assert any(f"{voice} -s {speed} " in call and call.endswith(row["text"]) for call in calls)
    again = spoken.speech(12)
    assert again.key == found.key
    assert len(notes.read_text().splitlines()) == 14  # asked for its version, and no more
    (waves,) = (tmp_path / "cache").rglob("waves.npy")
    np.save(waves, np.zeros(3, np.int16))
    with pytest.raises(
        ValueError, match=r"damaged .*waves.npy has 3 samples of 19200.* delete that"
    ):
        spoken.speech(12)


def test_without_a_synthesiser_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"apt install espeak-ng.*or give recordings .* --data"):
        spoken.speech()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("wave.open", "sys.exit('no voice') or wave.open"), "bin/espeak fails: no voice"),
        (
            ('"-w") + 1]', '"-w") + 1] + "x"'),
            "bin/espeak wrote no recording of 'wash the|recording",
        ),
        (("(1, 2, 22050", "(2, 2, 22050"), "bytes of 2 channels of 2 bytes for .* one channel of"),
        (("#!{python} -S", "#!{python}/missing"), "bin/espeak does not run: "),
    ],
)
def test_a_synthesiser_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], says: str
):
    install(tmp_path, monkeypatch, SPEAKS.replace(*change))
    with pytest.raises(ValueError, match=says):
        spoken.speech(3)
    assert not list((tmp_path / "cache").rglob("rows.jsonl"))


def test_the_stand_in_is_a_wave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is read back is what was written: at 22,050 Hz and mono."""
    install(tmp_path, monkeypatch, SPEAKS)
    program, _ = spoken.synthesiser()
    spoken._run([program, "-w", str(tmp_path / "a.wav"), "text"])
    with wave.open(str(tmp_path / "a.wav")) as opened:
        assert opened.getparams()[:4] == (1, 2, 22_050, 2_205)
