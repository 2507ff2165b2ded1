"""`subquad bench`: turns, growth, break-even, what is counted, every party, the command."""

import csv
import re
from functools import partial

import pytest
import torch

from subquad.bench import machine
from subquad.bench.count import counter
from subquad.bench.growth import break_even, extrapolate, told
from subquad.bench.machine import Ceiling
from subquad.bench.parties import architectures, baseline, mixers
from subquad.bench.party import Made, Party, Size
from subquad.bench.peers import PEERS, absent, present
from subquad.bench.speed import Plan, Row, measure
from subquad.bench.speed_table import break_evens, comma_separated, markdown
from subquad.bench.timing import LONG, samples
from subquad.bench.work import cost, inputs, work
from subquad.cli import main

pytestmark = pytest.mark.no_poison

TINY = Size(16, 2, 1, 32, 20)


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch):
    monkeypatch.setattr(machine, "SIDE", 32)
    monkeypatch.setattr(machine, "COPIED", 1 << 12)


def quiet(said):
    pass


def test_parties_take_turns_after_an_untimed_call():
    said, ticks = [], iter(range(100))
    calls = {name: partial(said.append, name) for name in "ab"}
    times = samples(calls, {"a": 2, "b": 1}, lambda: next(ticks))
    assert said == ["a", "a", "b", "b", "a", "a"]
    assert times == {"a": [1, 1], "b": [1]}
    said.clear()
    assert samples(calls, {"a": 2, "b": 1}, lambda: next(ticks) * LONG)["a"] == [LONG, LONG]
    assert said == ["a", "a", "b", "b", "a"]  # a long one goes without later on


@pytest.mark.parametrize("law", [lambda n: 3 * n, lambda n: n * n, lambda n: 7 * n + 2 * n * n])
def test_lines_and_squares_are_extrapolated_exactly(law):
    known = {n: float(law(n)) for n in (64, 128)}
    assert extrapolate(known, 1000) == pytest.approx(law(1000))
    assert extrapolate(known, 64) == law(64)


def test_extrapolation_stays_between_a_constant_and_a_square():
    assert extrapolate({10: 10.0, 20: 15.0}, 40) == 25.0  # a constant and a line
    assert extrapolate({10: 10.0, 20: 9.0}, 40) == 9.0
    assert extrapolate({10: 1.0, 20: 8.0}, 40) == 32.0  # faster than its square
    assert extrapolate({10: 2.0}, 20) == 8.0
    with pytest.raises(ValueError, match="nothing is known to go by; measure at least one length"):
        extrapolate({}, 5)


def test_lines_break_even_where_they_cross():
    linear, square = ({n: float(n**p) for n in (100, 1000, 4000)} for p in (1, 2))
    half = {n: s / 2000 for n, s in square.items()}
    assert break_even(linear, half) == pytest.approx(2000)
    assert told(linear, half) == "2,000"
    assert told(half, linear) == "none up to 4,000"
    assert told(linear, square) == "at most 100"
    assert told(linear, {7: 1.0}) == "not measured"
    # faster for a while only does not count
    assert break_even({1: 2.0, 2: 1.0, 4: 3.0, 8: 1.0}, dict.fromkeys((1, 2, 4, 8), 2.0)) > 4


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_torch_is_counted(causal):
    n, h, d = 70, 3, 8
    q, k, v = (torch.randn(1, h, n, d, requires_grad=True) for _ in range(3))
    pairs = h * (n * (n + 1) // 2 if causal else n * n)
    with counter() as forward:
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    with counter() as backward:
        y.sum().backward()
    assert forward.get_total_flops() == 2 * pairs * 2 * d
    assert backward.get_total_flops() == 2 * pairs * 5 * d  # scores again, then four gradients


def test_the_ceiling_is_the_slower_of_two():
    top = Ceiling(flops=100.0, bytes=10.0)
    assert top.floor(200, 5) == (2.0, "product")
    assert top.floor(200, 50) == (5.0, "memory")


MIXING = {**mixers(), **{(b := baseline(c, False)).name: b for c in (False, True)}}


@pytest.mark.parametrize("name", MIXING)
def test_every_mixer_does_all_its_work(name):
    party = MIXING[name]
    made = party.make(TINY, 40)
    x = inputs(made, TINY, 40, torch.float32)
    y = work(made, x, "forward").run()
    assert y.shape == x.shape
    forward, training = (work(made, x.clone(), what).run for what in ("forward", "training"))
    assert training()[-1].shape == x.shape
    once, both = cost(forward), cost(training)
    assert 0 < 2 * once.flops < both.flops
    assert 0 < once.peak <= both.peak  # what hashes holds most while it sorts
    step = work(made, x.detach(), "decode")
    assert (step is not None) <= party.causal
    if step is not None:
        once, again = step.run(), step.run()
        assert torch.equal(once, again)  # the state stays as it was
        longer = torch.cat([x.detach(), x.detach()[:, -1:]], 1)
        whole = party.make(TINY, 41)
        whole.module.load_state_dict(made.module.state_dict())
        expected = work(whole, longer, "forward").run()[:, -1:]
        torch.testing.assert_close(once, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures())
def test_every_architecture_does_all_its_work(name):
    made = architectures()[name].make(TINY, 40)
    x = inputs(made, TINY, 40, torch.float32)
    assert work(made, x, "forward").run().shape[:2] == (1, 40)
    assert any(g is not None for g in work(made, x, "training").run())
    step = work(made, x, "decode")
    if step is not None:
        assert step.run().shape[:2] == (1, 1)


def test_architectures_of_a_direction():
    assert {"performer", "transformer_xl", "logsparse"} <= set(architectures(True))
    both = set(architectures(False))
    assert {"performer", "vit", "linformer"} <= both
    assert not {"transformer_xl", "perceiver_ar"} & both
    assert not {"vit", "perceiver"} & set(architectures(True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_runs(peer):
    pytest.importorskip(peer.package, reason=f"{peer.package} is not installed")
    size = Size(64, 2, 1, 64, 20)  # some ask for heads of 32
    made = peer.make(size, 1024)
    x = inputs(made, size, 1024, torch.float32)
    y = work(made, x, "forward").run()
    assert torch.isfinite(y).all()
    assert any(g is not None for g in work(made, x, "training").run())


def test_peers_beside_what_is_asked_for():
    names = {name for peer in PEERS for name in peer.beside}
    assert names <= {*mixers(), *architectures()}
    assert "transformers Longformer" in [party.name for party in present(["window"])]
    missing = absent([*names])
    assert set(missing).isdisjoint(party.name for party in present([*names]))
    assert present(["full"]) == []


def rows_of():
    ours, theirs = mixers()["window-causal"], baseline(True, False)
    plan = Plan((64, 128), ("training", "decode"), TINY, reps=3)
    return measure([theirs, ours], plan, quiet)


def test_rows_hold_what_was_measured():
    rows, ceilings = rows_of()
    assert [(r.party.name, r.what, r.length) for r in rows[:4]] == [
        ("sdpa causal", "training", 64),
        ("window-causal", "training", 64),
        ("sdpa causal", "decode", 64),
        ("window-causal", "decode", 64),
    ]
    assert len(rows) == 8
    assert len(ceilings) == 4
    for row in rows:
        assert len(row.seconds) == 3
        assert row.flops > 0
        assert row.peak > 0
        assert row.floor > 0
        assert row.bound in ("product", "memory")
    assert set(break_evens(rows)) == {("window-causal", "training"), ("window-causal", "decode")}
    text = markdown(rows, ceilings)
    assert "| training | 64 | window-causal |" in text
    assert "| breaks even with torch's attention at N | training | decode |" in text
    assert "GFLOP/s, memory" in text
    read = list(csv.DictReader(comma_separated(rows).splitlines()))
    assert [float(r["median_s"]) for r in read] == [row.median for row in rows]
    assert {r["left_out"] for r in read} == {""}


def test_what_would_take_too_long_is_left_out(monkeypatch):
    party = mixers()["window-causal"]
    plan = Plan((64, 128), ("forward",), TINY, reps=3, limit=1e-9)
    rows, _ = measure([party], plan, quiet)
    assert len(rows[0].seconds) == 1
    assert rows[1].left_out == "about 0 s foreseen, over --limit"
    rows, _ = measure([party], Plan((64, 128), ("forward",), TINY, reps=3, memory=10), quiet)
    assert re.fullmatch(r"about 0.0 GiB foreseen, more than there is", rows[1].left_out)
    assert rows[1].left_out in markdown(rows, [Ceiling(1.0, 1.0)])


def test_refusals_are_told():
    def make(size: Size, length: int) -> Made:
        raise ValueError("rows must be even")

    rows, _ = measure([Party("odd", make, True)], Plan((3,), ("forward",), TINY), quiet)
    assert rows[0].left_out == "refused: rows must be even"
    streams = measure([mixers()["window"]], Plan((8,), ("decode",), TINY), quiet)[0]
    assert streams[0].left_out == "does not stream by tokens"


def test_shares_are_of_the_floor():
    row = Row(baseline(True, False), "forward", 8, (0.2, 0.4, 0.9), floor=0.1)
    assert row.median == 0.4
    assert row.share == 0.25


SMALL = ["--dim", "16", "--heads", "2", "--layers", "1", "--ffn", "32", "--reps", "2"]


def test_by_command(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    words = ["bench", "--mixers", "window-causal,random-features-causal", "--lengths", "32,64"]
    out = tmp_path / "out"
    assert main([*words, *SMALL, "--what", "forward", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "| breaks even with torch's attention at N | forward |" in said
    assert (out / "table.md").read_text().count("| forward |") == 7
    assert len((out / "rows.csv").read_text().splitlines()) == 7
    assert "random-features-causal" in (out / "forward.svg").read_text()


def test_what_is_not_installed_is_told(capsys, monkeypatch):
    monkeypatch.setattr("subquad.bench.peers.find_spec", lambda name: None)
    words = ["bench", "--mixers", "low-rank", "--lengths", "32", "--what", "forward", "--peers"]
    assert main([*words, *SMALL]) == 0
    assert "Not installed, so not measured: linformer." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mixers", "windw"], "no mixer is called 'windw'; did you mean 'window'?"),
        (["--archs", "performr"], "no architecture is called 'performr'"),
        (["--mixers", "window,window"], "must name each once, with commas between"),
        (["--lengths", "0"], "--lengths '0' must be whole numbers of tokens, as in 1024,4096"),
        (["--what", "backward"], "no kind of work is called 'backward'"),
        (["--dtype", "float8"], "no type is called 'float8'"),
        (["--dim", "10", "--heads", "3"], "--dim 10 is not a multiple of --heads 3"),
        (["--reps", "0"], "--reps 0 must be at least 1"),
        (["--arch", "local"], "say what is to be measured: --count"),
        (["--advise"], "say for what: --advise --length N --task TASK"),
        (
            ["--advise", "--task", "lm", "--length", "5"],
            "--length 5 is too short to be advised on; it must be at least 8",
        ),
    ],
)
def test_what_is_refused(capsys, words, message):
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err
