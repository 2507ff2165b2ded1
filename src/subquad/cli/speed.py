"""`subquad bench` of speed and memory: what it measures, and where the tables go."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subquad.nn.choices import choose

if TYPE_CHECKING:
    from subquad.bench.party import Party, Size
    from subquad.bench.speed import Plan, Row

__all__ = ["add_speed_flags", "measured", "named", "size_of"]

_TYPES = ("float32", "bfloat16")


def add_speed_flags(parser: Any) -> None:
    """The flags of measuring, and sizes."""
    add = parser.add_argument
    add("--mixers", type=str | None, default=None, help="names with commas between, or all")
    add("--archs", type=str | None, default=None, help="whole architectures, or all")
    add("--lengths", type=str, default="1024,4096,16384", help="tokens, with commas between")
    add("--what", type=str, default="forward,training,decode", help="kinds of work")
    add("--peers", action="store_true", help="also other packages that do alike, where installed")
    add("--dim", type=int, default=512, help="width")
    add("--heads", type=int, default=8, help="of attention")
    add("--layers", type=int, default=6, help="of whole architectures")
    add("--ffn", type=int, default=2048, help="width inside their feed-forward parts")
    add("--dtype", type=str, default="float32", help=" or ".join(_TYPES))
    add("--threads", type=int | None, default=None, help="default: as torch chooses")
    add("--reps", type=int, default=9, help="timed calls of each party; slow ones get fewer")
    add("--limit", type=float, default=30.0, help="seconds that one call may take")
    add("--memory", type=float | None, default=None, help="GiB there is; default: what is free")
    add("--out", type=str | None, default=None, help="a folder for table.md, rows.csv, chart.svg")


def size_of(given: Any) -> "Size":
    """The widths that were asked for. ValueError for those that cannot be."""
    from subquad.bench.party import Size

    for flag in ("dim", "heads", "layers", "ffn", "words", "reps"):
        if getattr(given, flag) < 1:
            raise ValueError(f"--{flag} {getattr(given, flag)} must be at least 1")
    size = Size(given.dim, given.heads, given.layers, given.ffn, given.words)
    _ = size.width
    return size


def measured(given: Any) -> int:
    """Measure, print, and write if a folder was named."""
    import torch

    from subquad.bench.peers import absent
    from subquad.bench.speed import measure
    from subquad.bench.speed_table import comma_separated, markdown

    plan = _plan(given)
    parties, names = _parties(given)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    missing = absent(names) if given.peers else []
    rows, ceilings = measure(parties, plan, lambda said: print(said, flush=True))
    text = markdown(rows, ceilings)
    if missing:
        text += f"\n\nNot installed, so not measured: {', '.join(missing)}."
    print(f"\n{text}")
    if given.out is not None:
        folder = Path(given.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(f"{_machine(given)}\n\n{text}\n", encoding="utf-8")
        (folder / "rows.csv").write_text(comma_separated(rows), encoding="utf-8")
        for what in plan.what:
            (folder / f"{what}.svg").write_text(_drawn(rows, what), encoding="utf-8")
        print(f"wrote {folder}")
    return 0


def _plan(given: Any) -> "Plan":
    import torch

    from subquad.bench.speed import Plan
    from subquad.bench.work import WHAT

    what = _words("--what", given.what)
    for kind in what:
        choose("kind of work", kind, dict.fromkeys(WHAT))
    choose("type", given.dtype, dict.fromkeys(_TYPES))
    return Plan(
        _numbers("--lengths", given.lengths),
        what,
        size_of(given),
        getattr(torch, given.dtype),
        given.reps,
        given.limit,
        None if given.memory is None else int(given.memory * 2**30),
    )


def _parties(given: Any) -> tuple[list["Party"], list[str]]:
    """Those asked for after what they are compared with, and their names."""
    from subquad.bench.parties import architectures, baseline, mixers
    from subquad.bench.peers import present

    both = given.mixers is None and given.archs is None
    chosen = named("mixer", "all" if both else given.mixers, mixers())
    chosen += named("architecture", "all" if both else given.archs, architectures())
    names = [party.name for party in chosen]
    peers = present(names) if given.peers else []
    kinds = sorted({(party.causal, party.whole) for party in (*chosen, *peers)})
    return [*(baseline(*kind) for kind in kinds), *chosen, *peers], names


def named(what: str, asked: str | None, known: Mapping[str, "Party"]) -> list["Party"]:
    """The parties that a flag names, "all" or with commas between."""
    if asked is None:
        return []
    if asked == "all":
        return list(known.values())
    return [choose(what, name, known) for name in _words(f"--{what}s", asked)]


def _words(flag: str, text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words or len(set(words)) < len(words):
        raise ValueError(f"{flag} {text!r} must name each once, with commas between")
    return words


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    words = _words(flag, text)
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"{flag} {text!r} must be whole numbers of tokens, as in 1024,4096")
    return tuple(map(int, words))


def _machine(given: Any) -> str:
    import datetime

    from subquad.bench.machine import machine

    facts = machine()
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{today}, {facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, "
        f"{given.dtype}, one row, dim {given.dim}, {given.heads} heads; whole architectures: "
        f"{given.layers} layers, ffn {given.ffn}"
    )


def _drawn(rows: list["Row"], what: str) -> str:
    """Seconds over lengths, a line for each party."""
    from subquad.viz.curves import Chart, Line, svg

    lines = {}
    for row in rows:
        if row.what == what and row.seconds:
            lines.setdefault(row.party.name, []).append((row.length, row.median))
    drawn = [Line(name, *zip(*points, strict=True)) for name, points in lines.items()]
    return svg(Chart(what, "tokens", "seconds", drawn, log_x=True, log_y=True))
