"""Embedded speech: sentences of a small grammar, spoken by a synthesiser of the machine.

There is no recording that could be carried along, so espeak-ng (or its forerunner espeak) speaks:
a thousand sentences, no two alike, each by one of eight voices at one of three speeds. They are
made once, which takes about a minute, and kept in the cache as 16 bits at 16 kHz.

    sentence = verb "the" colour thing place | "call" name "at" hour minute
             | name "has" number colour things | "dial" digit digit digit digit

A tenth of the sentences are the valid part and a tenth the test part, by a hash of what they say;
the voices are the same. It is clean speech of machines: a model that understands it has learnt the
task, and not yet people.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from subquad.data import cache
from subquad.data.audio import RATE, Heard, Samples, Sound
from subquad.data.documents import PARTS, by_hash
from subquad.data.examples import Examples
from subquad.data.resample import resample

__all__ = ["sentences", "speech", "synthesiser"]

PROGRAMS = ("espeak-ng", "espeak")
VOICES = tuple(f"{tongue}+{who}" for tongue in ("en-us", "en") for who in ("m1", "m3", "f1", "f4"))
SPEEDS = (140, 165, 190)  # words a minute
COUNT = 1000
_VERSION = 1  # of what is kept in the cache
_PATIENCE = 60  # seconds for a sentence

_NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
_DIGITS = ["zero", "one", *_NUMBERS[:8]]
_NAMES = ["anna", "ben", "carla", "david", "emma", "felix", "grace", "henry"]
_COLOURS = ["black", "blue", "brown", "green", "orange", "purple", "red", "white", "yellow"]
_THINGS = ["ball", "book", "box", "chair", "cup", "door", "hat", "key", "lamp", "map"]
_VERBS = ["bring", "clean", "find", "hide", "open", "paint", "push", "show", "take", "wash"]
_PLACES = ["again", "at home", "before lunch", "in the garden", "near the window", "now"]
_PLACES += ["on the table", "tomorrow", "under the bed", "with care"]
_MINUTES = ["fifteen", "forty five", "thirty", "twenty"]


def sentences(count: int) -> list[str]:
    """So many different sentences, always the same ones."""
    draw = np.random.Generator(np.random.Philox(key=[0, 0]))

    def one(words: list[str]) -> str:
        return words[draw.integers(len(words))]

    found: dict[str, None] = {}
    while len(found) < count:
        said = (
            lambda: f"{one(_VERBS)} the {one(_COLOURS)} {one(_THINGS)} {one(_PLACES)}",
            lambda: f"call {one(_NAMES)} at {one(_NUMBERS)} {one(_MINUTES)}",
            lambda: f"{one(_NAMES)} has {one(_NUMBERS)} {one(_COLOURS)} {_many(one(_THINGS))}",
            lambda: "dial " + " ".join(one(_DIGITS) for _ in range(4)),
        )
        found[said[draw.integers(len(said))]()] = None
    return list(found)


def _many(thing: str) -> str:
    return thing + ("es" if thing.endswith("x") else "s")


def synthesiser() -> tuple[str, str]:
    """The program that speaks, and what it says of itself. ValueError if there is none."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise ValueError(
            "the embedded speech is spoken by espeak-ng, which is not installed: install it (on "
            "Debian and Ubuntu: apt install espeak-ng), or give recordings of your own with --data"
        )
    said = _run([program, "--version"]).strip().split("\n")[0]
    return program, said.split("  ")[0] or Path(program).name


def speech(count: int = COUNT) -> Examples:
    """The sentences, spoken. ValueError if there is no synthesiser, or if it fails."""
    program, version = synthesiser()
    asked = f"{_VERSION} {count} {version} {VOICES} {SPEEDS}"
    key = hashlib.sha256(asked.encode()).hexdigest()[:32]
    folder = cache.entry("spoken", key, lambda made: _speak_all(program, count, made))
    with cache.reading(folder):
        lines = (folder / "rows.jsonl").read_text().splitlines()
        told = [json.loads(line) for line in lines]
        whole = np.load(folder / "waves.npy", mmap_mode="r", allow_pickle=False)
        if (need := sum(row["samples"] for row in told)) != len(whole):
            raise ValueError(f"waves.npy has {len(whole)} samples of {need}")
    rows: dict[str, list] = {part: [] for part in PARTS}
    end = 0
    for row in told:
        end += row["samples"]
        sound = Sound(row["name"], Samples(whole[end - row["samples"] : end], RATE))
        seconds = row["samples"] / RATE
        rows[row["part"]].append(
            {"audio": sound, "text": row["text"], "name": row["name"], "seconds": seconds}
        )
    sizes = ", ".join(f"{len(some):,} {part}" for part, some in rows.items())
    says = f"sentences of a small grammar, spoken by {version} ({sizes}; {end / RATE / 3600:.2f}"
    return Examples({part: Heard(some) for part, some in rows.items()}, f"{says} hours)", key)


def _speak_all(program: str, count: int, folder: Path) -> None:
    """Write waves.npy, all sentences end to end, and rows.jsonl."""
    texts = sentences(count)
    draw = np.random.Generator(np.random.Philox(key=[0, 1]))
    who = [(VOICES[draw.integers(len(VOICES))], SPEEDS[draw.integers(len(SPEEDS))]) for _ in texts]
    with (
        tempfile.TemporaryDirectory() as place,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        files = [Path(place) / f"{i}.wav" for i in range(count)]
        waves = list(pool.map(_speak, [program] * count, texts, who, files))
    np.save(folder / "waves.npy", np.concatenate(waves))
    parts = by_hash(texts, valid=0.1, test=0.1)
    with open(folder / "rows.jsonl", "w") as out:
        for i, (text, (voice, speed), part) in enumerate(zip(texts, who, parts, strict=True)):
            name = f"{i:04}-{voice}-{speed}"
            row = {"text": text, "name": name, "samples": len(waves[i]), "part": PARTS[part]}
            out.write(json.dumps(row) + "\n")


def _speak(program: str, text: str, who: tuple[str, int], file: Path) -> np.ndarray:
    """(S,) int16 at 16 kHz."""
    voice, speed = who
    _run([program, "-v", voice, "-s", str(speed), "-w", str(file), text])
    try:
        with wave.open(str(file), "rb") as opened:
            rate, width, channels = (
                opened.getframerate(),
                opened.getsampwidth(),
                opened.getnchannels(),
            )
            data = opened.readframes(opened.getnframes())
        file.unlink()
    except (OSError, EOFError, wave.Error) as error:
        raise ValueError(f"{program} wrote no recording of {text!r}: {error}") from None
    if (width, channels) != (2, 1) or not data:
        raise ValueError(
            f"{program} wrote {len(data)} bytes of {channels} channels of {width} bytes for "
            f"{text!r}; one channel of 2 bytes is read"
        )
    heard = resample(np.frombuffer(data, "<i2").astype(np.float32), rate, RATE)
    return heard.round().clip(-32_768, 32_767).astype(np.int16)


def _run(command: list[str]) -> str:
    """What a program writes. ValueError if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{command[0]} does not run: {error}") from None
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").split("\n")[-1]
        raise ValueError(f"{command[0]} fails: {reason}")
    return done.stdout
