"""Tables of measurements, read from benchmarks/results."""

import json
import statistics
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results"


def table(name: str) -> str:
    """The table of one experiment, as the script that measured it wrote it, and where it is."""
    (path,) = (RESULTS / name).glob("*.md")
    text = path.read_text(encoding="utf-8").strip()
    if text.startswith("# "):  # a title of its own is one level too high in a page
        text = text.split("\n", 1)[1].strip()
    return f"{text}\n\n*From `benchmarks/results/{name}/`.*"


def everything(_: str) -> str:
    """All experiments, one section each."""
    names = sorted(p.parent.name for p in RESULTS.glob("*/*.md"))
    return "\n\n".join(f"## {name}\n\n{table(name)}" for name in names)


def faster(asked: str) -> str:
    """How many times faster one was than another, by length, in all runs: `WHAT than PEER`."""
    what, peer = asked.split(" than ")
    lines = ["| length | forward | forward and backward |", "|---|---|---|"]
    for n, said in sorted(spreads(what, peer).items()):
        lines.append(f"| {n:,} | {said['forward']} | {said['forward+backward']} |")
    return "\n".join(lines)


def spreads(what: str, peer: str) -> dict[int, dict[str, str]]:
    """The least and the most of the medians of all runs, by length and way, as pages say it."""
    found: dict[int, dict[str, list[float]]] = {}
    for path in _runs(what):
        said = _read(path)["found"]
        for way in ("forward", "forward+backward"):
            ratio = said["median"].get(f"times faster than {peer}, {way}") if "n" in said else None
            if ratio is not None:
                found.setdefault(said["n"], {}).setdefault(way, []).append(ratio)
    return {n: {way: _spread(found[n][way]) for way in found[n]} for n in found}


def _spread(ratios: list[float]) -> str:
    least, most = (f"{ratio:.{0 if ratio >= 10 else 1}f}x" for ratio in (min(ratios), max(ratios)))
    return f"{least} faster" if least == most else f"{least} to {most} faster"


def break_even(_: str) -> str:
    """Where each mechanism passes exact attention, from all the files that measured both."""
    rows = [_kernel(), *_low_rank(), _log_steps(), *_steps()]
    head = ["mechanism", "measured", "times faster than exact attention, by length", "break-even"]
    lines = [" | ".join(head), "|".join(["---"] * len(head))]
    for what, how, ratios in rows:
        said = ", ".join(f"{n:,}: {ratio:.2g}x" for n, ratio in sorted(ratios.items()))
        lines.append(f"{what} | {how} | {said} | {_first(ratios)}")
    return "\n".join(f"| {line} |" for line in lines)


def _first(ratios: dict[int, float]) -> str:
    """The least measured length from which on the ratio stays above 1."""
    above: int | None = None
    for n, ratio in sorted(ratios.items(), reverse=True):
        if ratio <= 1:
            break
        above = n
    if above is None:
        return f"beyond {max(ratios):,}"
    return f"at or below {above:,}" if above == min(ratios) else f"{above:,}"


def _runs(what: str) -> list[Path]:
    """The files of a section of the speed benchmarks, with the C library's own settings."""
    kept = ("foundation-*", "speed-*")
    return [path for folder in kept for path in RESULTS.glob(f"{folder}/glibc/{what}-*.json")]


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


Row = tuple[str, str, dict[int, float]]


def _kernel() -> Row:
    found: dict[int, list[float]] = {}
    for path in _runs("kernel"):
        said = _read(path)["found"]
        if isinstance(said, dict) and "median" in said:
            ratio = said["median"].get("times faster than exact, forward+backward")
            if ratio is not None:
                found.setdefault(said["n"], []).append(ratio)
    ratios = {n: statistics.median(values) for n, values in found.items()}
    how = "forward and backward, causal, 8 heads of 64, 2 threads, median of all runs"
    return "256 random features (`performer`)", how, ratios


def _low_rank() -> list[Row]:
    found: dict[str, dict[int, float]] = {}
    for path in (RESULTS / "linformer_grid").glob("*.json"):
        said = _read(path)
        for rank, ratio in said["ratios"]["faster than dense"].items():
            found.setdefault(rank, {})[said["length"]] = ratio
    how = "forward, both ways, 12 heads of 64, 1 thread"
    return [(f"`linformer`, {rank}", how, found[rank]) for rank in ("rank 128", "rank 512")]


def _log_steps() -> Row:
    ratios = {}
    for path in (RESULTS / "logsparse_memory").glob("*.json"):
        said = _read(path)
        seconds = said["processor seconds"]["both"]
        if "dense" in seconds:
            ratios[said["length"]] = seconds["dense"] / seconds["steps"]
    how = "forward and backward, causal, 8 heads of 64, 1 thread, 1 repetition"
    return "steps of 1, 2, 4, ... (`logsparse`)", how, ratios


def _steps() -> list[Row]:
    seconds: dict[str, dict[int, float]] = {}
    for path in (RESULTS / "step_time").glob("*.json"):
        said = _read(path)
        if "seconds" in said:
            seconds.setdefault(said["arch"], {})[said["context"]] = said["seconds"]
    exact = seconds["transformer"]
    how = "a whole training step, 6 layers of 256, 1 thread, 1 repetition"
    return [
        (f"`{arch}`", how, {n: exact[n] / s for n, s in seconds[arch].items() if n in exact})
        for arch in sorted(seconds)
        if arch != "transformer"
    ]
