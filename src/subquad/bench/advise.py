"""Which mixers and architectures fit into memory at a length, and are fastest: a quick calibration.

Each is timed at a short length, in turns with the others, and its time grows from there as its
counted FLOPs do: t(N) = t(n) F(N) / F(n). FLOPs at N are counted on shapes alone (what hashes is
run once). Memory at N is extrapolated from what two short lengths held (`growth.extrapolate`), plus
weights and the two moments of Adam; where tiles still grow at the short lengths, that is more than
it will be. Times are good for an order, not for a plan.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from subquad.bench.count import counter, on_shapes, planned_as_long
from subquad.bench.growth import extrapolate
from subquad.bench.memory import peak
from subquad.bench.party import Party, Size
from subquad.bench.timing import samples
from subquad.bench.work import Work, inputs, work

__all__ = ["Advice", "advise", "calibration", "counted", "markdown"]


@dataclass(frozen=True)
class Advice:
    """What a training pass and a forward of one row are foreseen to take: seconds, bytes."""

    party: Party
    training: float = 0.0
    forward: float = 0.0
    held: float = 0.0
    refused: str = ""


def calibration(length: int) -> tuple[int, int]:
    """Two lengths to calibrate at, the first timed: 1024 and 2048, or a quarter and a half of a
    shorter one. (torch's attention changes its blocks, and with them its memory, at 768.)

    ValueError for a length too short to have them.
    """
    if length < 8:
        raise ValueError(f"--length {length} is too short to be advised on; it must be at least 8")
    short = min(1024, length // 4)
    return short, 2 * short


def counted(party: Party, size: Size, length: int) -> int:
    """FLOPs of a forward at a length, without running it if that can be."""

    def run() -> int:
        call = _call(party, size, length, "forward").run
        with planned_as_long(), counter() as seen:
            call()
        return seen.get_total_flops()

    return on_shapes(run)


def advise(
    parties: Sequence[Party],
    size: Size,
    length: int,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
    reps: int = 2,
) -> list[Advice]:
    """What is foreseen of each party at a length, fastest training first, refusals last."""
    short, long = calibration(length)
    tell(f"calibrating {len(parties)} parties at {short:,} and {long:,} tokens")
    kept: dict[str, dict[str, Work]] = {"training": {}, "forward": {}}
    held: dict[str, float] = {}
    growth: dict[str, float] = {}
    found: list[Advice] = []
    for party in parties:
        try:
            growth[party.name] = counted(party, size, length) / counted(party, size, short)
            training = _call(party, size, short, "training")
            training.run()  # first calls hold what they set up
            longer = _call(party, size, long, "training")
            known = {short: float(peak(training.run)), long: float(peak(longer.run))}
            held[party.name] = extrapolate(known, length) + _lasting(party, size, length)
        except (ValueError, RuntimeError, AssertionError) as error:
            found.append(Advice(party, refused=" ".join(str(error).split())[:120]))
            continue
        kept["training"][party.name] = training
        kept["forward"][party.name] = _call(party, size, short, "forward")
    seconds = {what: _medians(calls, reps, clock) for what, calls in kept.items()}
    for party in parties:
        if (name := party.name) in held:
            times = (seconds[what][name] * growth[name] for what in ("training", "forward"))
            found.append(Advice(party, *times, held[name]))
    return sorted(found, key=lambda one: (bool(one.refused), one.training))


def markdown(found: Sequence[Advice], memory: float) -> str:
    """A table, those that fit into so many bytes first."""
    head = "| | | training pass, s | forward, s | memory to train, GiB | fits |"
    lines = [head, "|---" * 6 + "|"]
    for one in sorted(found, key=lambda one: bool(one.refused) or one.held > memory):
        kind = "architecture" if one.party.whole else "mixer"
        if one.refused:
            lines.append(f"| {one.party.name} | {kind} | refused: {one.refused} | | | no |")
            continue
        fits = "yes" if one.held <= memory else "no"
        lines.append(
            f"| {one.party.name} | {kind} | {one.training:.3g} | {one.forward:.3g} | "
            f"{one.held / 2**30:.3g} | {fits} |"
        )
    return "\n".join(lines)


def _call(party: Party, size: Size, length: int, what: str) -> Work:
    torch.manual_seed(0)
    made = party.make(size, length)
    run = work(made, inputs(made, size, length, torch.float32), what)
    assert run is not None  # only decoding may not be there
    return run


def _lasting(party: Party, size: Size, length: int) -> int:
    """Bytes that stay between steps: weights, and Adam's two moments of each."""
    made = on_shapes(lambda: party.make(size, length))
    return 3 * sum(p.nbytes for p in made.module.parameters())


def _medians(calls: dict[str, Work], reps: int, clock: Callable[[], float]) -> dict[str, float]:
    runs = {name: call.run for name, call in calls.items()}
    times = samples(runs, dict.fromkeys(runs, reps), clock)
    return {name: statistics.median(seconds) for name, seconds in times.items()}
