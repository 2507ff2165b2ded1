"""Time, memory and FLOPs of many parties over lengths, in one run.

At each length and kind of work all parties take turns with each other, with a large matrix product
and with a large copy, so that shares of the machine's ceiling are of the same minutes. Memory is
what torch's profiler sees beyond inputs and weights (`subquad.bench.memory`).

What a party would take at a length is foreseen from the lengths before it (`growth.extrapolate`);
one that would take longer than the limit, or more memory than there is, is left out and said so.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from subquad.bench.growth import extrapolate
from subquad.bench.machine import Ceiling, ceilings
from subquad.bench.memory import available
from subquad.bench.party import Party, Size
from subquad.bench.timing import samples
from subquad.bench.work import Work, cost, inputs, work

__all__ = ["Plan", "Row", "measure"]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how far it may go.

    reps: timed calls of each party; slow ones get fewer, at least three. limit: seconds that one
    call may take. memory: bytes that one call may hold.
    """

    lengths: tuple[int, ...]
    what: tuple[str, ...]
    size: Size = field(default_factory=Size)
    dtype: torch.dtype = torch.float32
    reps: int = 9
    limit: float = 30.0
    memory: int | None = None


@dataclass(frozen=True)
class Row:
    """One party, one kind of work, one length. `left_out` says why there are no numbers."""

    party: Party
    what: str
    length: int
    seconds: tuple[float, ...] = ()
    flops: int = 0
    peak: int = 0
    floor: float = 0.0
    bound: str = ""
    left_out: str = ""

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def share(self) -> float:
        """Of the ceiling: the least time that its FLOPs and bytes could take, over its time."""
        return self.floor / self.median


#: seconds that the timed calls of one party may take together before they get fewer
_PATIENCE = 20.0


def measure(
    parties: Sequence[Party], plan: Plan, tell: Callable[[str], None]
) -> tuple[list[Row], list[Ceiling]]:
    """All rows, and the ceilings found at each length and kind of work, in their order."""
    rows: list[Row] = []
    found: list[Ceiling] = []
    for length in sorted(plan.lengths):
        for what in plan.what:
            tell(f"{what} at {length:,} tokens: {len(parties)} parties")
            new, ceiling = _block(parties, what, length, plan, rows)
            rows += new
            found.append(ceiling)
    return rows, found


def _block(
    parties: Sequence[Party], what: str, length: int, plan: Plan, before: Sequence[Row]
) -> tuple[list[Row], Ceiling]:
    """All parties at one length: first each alone, counted, then all in turns, timed."""
    rows: dict[str, Row] = {}
    runs: dict[str, Work] = {}
    once: dict[str, float] = {}
    for party in parties:
        row = _foreseen(Row(party, what, length), plan, before)
        if not row.left_out:
            row, run, seconds = _alone(row, plan)
            if run is not None:
                runs[party.name], once[party.name] = run, seconds
        rows[party.name] = row
    tops, ceiling_of = ceilings(plan.dtype)
    # what takes longer than the limit keeps its one measurement
    quick = {name: s for name, s in once.items() if s <= plan.limit}
    reps = {name: min(plan.reps, max(3, int(_PATIENCE / s))) for name, s in quick.items()}
    calls = {**tops, **{name: runs[name].run for name in quick}}
    times = samples(calls, {**dict.fromkeys(tops, plan.reps), **reps})
    times.update({name: [s] for name, s in once.items() if name not in quick})
    ceiling = ceiling_of({name: statistics.median(times[name]) for name in tops})
    for name, run in runs.items():
        floor, bound = ceiling.floor(rows[name].flops, run.moved)
        rows[name] = replace(rows[name], seconds=tuple(times[name]), floor=floor, bound=bound)
    return list(rows.values()), ceiling


def _alone(row: Row, plan: Plan) -> tuple[Row, Work | None, float]:
    """The row with counted FLOPs and memory, its call, and the seconds of one."""
    torch.manual_seed(0)
    try:
        made = row.party.make(plan.size, row.length)
        made.module.to(plan.dtype)
        x = inputs(made, plan.size, row.length, plan.dtype)
        run = work(made, x, row.what)
        if run is None:
            return replace(row, left_out="does not stream by tokens"), None, 0.0
        taken = cost(run.run)
        start = time.perf_counter()
        run.run()
        seconds = time.perf_counter() - start
    except (ValueError, RuntimeError, AssertionError, TypeError) as error:
        # peers refuse by all of these: a length that they do not take, a type that they do not know
        reason = " ".join(str(error).split()) or type(error).__name__
        return replace(row, left_out=f"refused: {reason[:120]}"), None, 0.0
    return replace(row, flops=taken.flops, peak=taken.peak), run, seconds


def _foreseen(row: Row, plan: Plan, before: Sequence[Row]) -> Row:
    """The row, left out if what came before says that it would take too long, or too much."""
    known = {r.length: r for r in before if r.party is row.party and r.what == row.what}
    measured = {n: r for n, r in known.items() if r.seconds}
    if not measured:
        return row
    seconds = extrapolate({n: r.median for n, r in measured.items()}, row.length)
    if seconds > plan.limit:
        return replace(row, left_out=f"about {seconds:.0f} s foreseen, over --limit")
    held = extrapolate({n: float(r.peak) for n, r in measured.items()}, row.length)
    most = available() if plan.memory is None else plan.memory
    if held > most:
        return replace(row, left_out=f"about {held / 2**30:.1f} GiB foreseen, more than there is")
    return row
