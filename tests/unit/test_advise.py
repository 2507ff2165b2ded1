"""`subquad bench --advise`: what is foreseen, against measurements at a small scale."""

import statistics
import time
from itertools import permutations

import pytest
import torch

from subquad.bench.advise import Advice, advise, calibration, counted, markdown
from subquad.bench.memory import peak
from subquad.bench.parties import architectures, mixers
from subquad.bench.party import Party, Size
from subquad.bench.timing import samples
from subquad.bench.work import cost, inputs, work
from subquad.cli import main

# of the processor's seconds one thread spends as many as it takes
pytestmark = [pytest.mark.no_poison, pytest.mark.usefixtures("one_thread")]

SIZE = Size(64, 2, 1, 64, 20)
NAMES = ("causal", "window-causal", "random-features-causal", "fixed")


def quiet(said):
    pass


def run_of(party, length, what):
    made = party.make(SIZE, length)
    return work(made, inputs(made, SIZE, length, torch.float32), what).run


def test_lengths_to_calibrate_at():
    assert calibration(100_000) == (1024, 2048)
    assert calibration(400) == (100, 200)
    with pytest.raises(ValueError, match="--length 7 is too short to be advised on"):
        calibration(7)


@pytest.mark.parametrize("name", [*NAMES, "hashed-causal"])
def test_counts_without_running(name):
    party = mixers()[name]
    assert counted(party, SIZE, 600) == cost(run_of(party, 600, "forward")).flops


@pytest.mark.slow
def test_order_and_memory_are_those_measured():
    """Of two that differ by more than twofold the advice names the same first. What is said to fit
    must fit: memory may be foreseen larger than it is (tiles grow until they have their size).
    """
    parties = [mixers()[name] for name in NAMES] + [architectures(True)["transformer"]]
    length = 4096
    found = {one.party.name: one for one in advise(parties, SIZE, length, quiet, time.process_time)}
    calls = {party.name: run_of(party, length, "training") for party in parties}
    times = samples(calls, dict.fromkeys(calls, 3), time.process_time)
    seconds = {name: statistics.median(t) for name, t in times.items()}
    apart = [(a, b) for a, b in permutations(seconds, 2) if seconds[a] > 2 * seconds[b]]
    assert apart, seconds
    for slow, fast in apart:
        assert found[slow].training > found[fast].training, (slow, fast, seconds)
    for party in parties:
        lasting = 3 * sum(p.nbytes for p in party.make(SIZE, length).module.parameters())
        held = peak(calls[party.name])
        assert 0.9 * held <= found[party.name].held - lasting <= 2 * held, party.name


def test_what_fits_stands_first():
    one, other = (Party(name, None, True) for name in ("one", "other"))
    found = [Advice(one, 1.0, 0.5, 3e9), Advice(other, 2.0, 1.0, 1e9)]
    found.append(Advice(Party("odd", None, True, True), refused="no such length"))
    lines = markdown(found, 2e9).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| other", "| one", "| odd"]
    assert lines[2].endswith("| yes |")
    assert lines[3].endswith("| no |")
    assert "refused: no such length" in lines[4]


def test_by_command(capsys):
    words = ["bench", "--advise", "--length", "64", "--dim", "16", "--heads", "2", "--layers", "1"]
    words += ["--ffn", "16"]
    assert main([*words, "--task", "lm", "--mixers", "strided", "--archs", "local,performer"]) == 0
    said = capsys.readouterr().out
    assert "lm, one row of 64 tokens, dim 16" in said
    assert "fastest architecture that fits: " in said
    assert main([*words, "--task", "mlm", "--mixers", "window", "--memory", "0"]) == 0
    assert "nothing fits: take a shorter row" in capsys.readouterr().out
    assert main([*words, "--task", "mlm", "--archs", "transformer_xl"]) == 2
    assert "no architecture is called 'transformer_xl'" in capsys.readouterr().err
    assert main([*words, "--task", "translate", "--archs", "lite_pair", "--memory", "9999"]) == 0
    assert "| lite_pair | architecture |" in capsys.readouterr().out
