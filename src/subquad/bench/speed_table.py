"""What `subquad.bench.speed` found: Markdown, comma-separated values, break-even lengths."""

import csv
import io
from collections.abc import Mapping, Sequence

from subquad.bench.growth import told
from subquad.bench.machine import Ceiling
from subquad.bench.speed import Row

__all__ = ["against", "break_evens", "comma_separated", "markdown"]

_FIELDS = (
    "party what length causal median_s fastest_s slowest_s runs flops peak_bytes floor_s bound "
    "share left_out"
)


def against(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of torch's attention that a row is compared with; None if it is that, or none."""
    name = "dense" if row.party.whole else "sdpa"
    name += " causal" if row.party.causal else ""
    for other in rows:
        same = other.what == row.what and other.length == row.length
        if same and other.party.name == name and other.party is not row.party:
            return other
    return None


def markdown(rows: Sequence[Row], ceilings: Sequence[Ceiling]) -> str:
    """A table of all rows, then one of break-even lengths, and what the ceilings were."""
    head = ("work", "N", "party", "ms", "of torch's time", "GFLOP", "peak MB", "of the ceiling")
    lines = [_line(head), "|---" * len(head) + "|"]
    lines += [_line(_cells(row, rows)) for row in rows]
    lines += ["", *_break_even_table(rows), ""]
    flops = sorted(c.flops for c in ceilings)
    moved = sorted(c.bytes for c in ceilings)
    lines.append(
        f"Ceilings of this run: matrix products {_span([f / 1e9 for f in flops])} GFLOP/s, memory "
        f"{_span([b / 1e9 for b in moved])} GB/s (read and written). ms: median (fastest to "
        "slowest). Peak: what torch holds at once beyond inputs and weights, as its profiler sees "
        "it. Of the ceiling: the least time for the counted FLOPs, or for the bytes of inputs, "
        "weights, states and results (mem), over the time taken."
    )
    return "\n".join(lines)


def break_evens(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """(party, kind of work) -> the length from which on it takes no longer than torch's attention,
    interpolated between measured ones, in words.
    """
    ours: dict[tuple[str, str], dict[int, float]] = {}
    theirs: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if row.seconds and (other := against(row, rows)) and other.seconds:
            key = row.party.name, row.what
            ours.setdefault(key, {})[row.length] = row.median
            theirs.setdefault(key, {})[row.length] = other.median
    return {key: told(ours[key], theirs[key]) for key in ours}


def comma_separated(rows: Sequence[Row]) -> str:
    """All rows with full numbers, a header first."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _FIELDS.split(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        timed = (
            {
                "median_s": row.median,
                "fastest_s": min(row.seconds),
                "slowest_s": max(row.seconds),
                "flops": row.flops,
                "peak_bytes": row.peak,
                "floor_s": row.floor,
                "bound": row.bound,
                "share": row.share,
            }
            if row.seconds
            else {}
        )
        known: Mapping[str, object] = {
            "party": row.party.name,
            "what": row.what,
            "length": row.length,
            "causal": row.party.causal,
            "runs": len(row.seconds),
            "left_out": row.left_out,
            **timed,
        }
        writer.writerow(known)
    return out.getvalue()


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    name = row.party.name + (f" (beside {row.party.beside})" if row.party.beside else "")
    start = [row.what, f"{row.length:,}", name]
    if not row.seconds:
        return [*start, row.left_out, "", "", "", ""]
    other = against(row, rows)
    ms = f"{1e3 * row.median:,.4g} ({1e3 * min(row.seconds):,.4g} to {1e3 * max(row.seconds):,.4g})"
    ratio = f"{row.median / other.median:.2f}" if other and other.seconds else ""
    share = f"{row.share:.0%}" + (" mem" if row.bound == "memory" else "")
    return [*start, ms, ratio, f"{row.flops / 1e9:,.4g}", f"{row.peak / 1e6:,.4g}", share]


def _break_even_table(rows: Sequence[Row]) -> list[str]:
    found = break_evens(rows)
    kinds = list(dict.fromkeys(what for _, what in found))
    names = list(dict.fromkeys(name for name, _ in found))
    if not names:
        return ["Nothing here has torch's attention to break even with."]
    head = ["breaks even with torch's attention at N", *kinds]
    lines = [_line(head), "|---" * len(head) + "|"]
    return lines + [_line([name, *(found.get((name, k), "") for k in kinds)]) for name in names]


def _line(cells: Sequence[str]) -> str:
    told = (f"| {cell}".strip() for cell in cells)
    return f"{' '.join(told)} |"


def _span(numbers: Sequence[float]) -> str:
    low, high = f"{min(numbers):,.4g}", f"{max(numbers):,.4g}"
    return low if low == high else f"{low} to {high}"
