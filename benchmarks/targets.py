"""What `make bench` holds the library to: each target, and where it stands among the results.

A row says what is measured, at least or at most, the bound, and how to find it in a run's sections.
Ratios are of medians in the same process.
"""

from __future__ import annotations

from collections.abc import Callable

from measure import MODES

__all__ = ["TARGETS", "Target"]

Target = tuple[str, str, float, Callable[[dict], float]]


def faster(section: str, peer: str, mode: str) -> Callable[[dict], float]:
    """How many times faster than a peer."""
    return lambda r: r[section]["median"][f"times faster than {peer}, {mode}"]


def pairs(what: str, section: str, peer: str, *bounds: float) -> list[Target]:
    """A row for forward, and one for both passes, as far as bounds are given."""
    return [
        (f"{what}, {mode}: times {peer}", ">=", bound, faster(section, peer, mode))
        for mode, bound in zip(MODES, bounds, strict=False)
    ]


def share(mode: str) -> Callable[[dict], float]:
    """Useful work over the matrix-product rate."""
    return lambda r: r["kernel"]["median"][f"useful share of that, {mode}"]


def held(section: str, ours: str, peer: str) -> Callable[[dict], float]:
    """Our peak memory over theirs, both passes."""
    return lambda r: (
        r[section]["peak bytes"][f"{ours} {MODES[1]}"]
        / r[section]["peak bytes"][f"{peer} {MODES[1]}"]
    )


def worst(section: str) -> Callable[[dict], float]:
    """The largest factor by which time grows when the length doubles."""
    return lambda r: max(r[section]["ratios of median"].values())


def slowest_model(r: dict) -> float:
    """The least that one is faster than the dense one."""
    return min(r["models"]["median"]["times faster than the dense one"].values())


def per_key(r: dict) -> float:
    """LogSparse memory for each of N log N keys, at N over at N / 2."""
    whole, half = (r[name]["bytes per key"][MODES[1]] for name in ("logsparse", "logsparse-half"))
    return whole / half


def bfloat16(kind: str, mode: str) -> Callable[[dict], float]:
    """How many times faster than float32."""
    return lambda r: r["bfloat16"][kind]["median"][f"times faster than float32, {mode}"]


TARGETS: list[Target] = [
    *pairs("random features, N=4096", "kernel", "performer-pytorch", 50, 35),
    *(
        (f"random features, N=4096, {mode}: share of the matrix-product rate", ">=", x, share(mode))
        for mode, x in zip(MODES, (0.60, 0.45), strict=True)
    ),
    (
        "random features, N=65,536, forward+backward: extra memory, MB",
        "<=",
        128,
        lambda r: r["kernel-memory"][1]["extra_mb"],
    ),
    (
        "random features, 16k to 128k: time when N doubles, worst",
        "<=",
        2.15,
        worst("kernel-growth"),
    ),
    *pairs("random features, N=3072 (breaks even)", "kernel-3072", "exact", 1, 1),
    *pairs("random features, N=2048 (aim)", "kernel-2048", "exact", 1, 1),
    *pairs("features both ways, N=16,384", "kernel-both-ways", "performer-pytorch", 5, 3),
    *pairs("window 256+256, N=4096", "window-4096", "longformer", 4, 6),
    *pairs("window 256+256, N=16,384", "window-16384", "longformer", 4, 6),
    ("window 256+256, 16k to 128k: time when N doubles", "<=", 2.15, worst("window-growth")),
    *pairs("causal window 256, N=16,384", "window-causal", "local", 2, 2),
    *pairs("causal window 256, N=1024 (breaks even)", "window-1024", "exact", 1, 1),
    *pairs("LSH, N=16,384", "hashing", "reformer masked", 3, 2.5),
    *pairs("LSH, N=16,384", "hashing", "reformer", 8, 6),
    *(
        (
            f"LSH in its chunks, N=16,384, {mode}: times reformer",
            ">=",
            bound,
            lambda r, mode=mode: r["hashing"]["median"]["in chunks"][mode],
        )
        for mode, bound in zip(MODES, (8, 6), strict=True)
    ),
    ("LSH, N=16,384: memory of reformer's", "<=", 1 / 3, held("hashing", "ours", "reformer")),
    ("LSH, 32k to 64k: time when N doubles", "<=", 2.15, worst("hashing-growth")),
    *pairs("LogSparse, N=16,384", "logsparse", "masked", 10, 10),
    ("LogSparse, 8k to 16k: memory of a key when N doubles", "<=", 1.05, per_key),
    *pairs("strided, N=16,384", "strided", "exact", 4, 4),
    *pairs("fixed, N=16,384", "fixed", "exact", 4, 4),
    ("whole models, N=16,384: a step, times the dense one, least", ">=", 2, slowest_model),
    (
        "Reformer, N=16,384: memory of a step at twice the depth",
        "<=",
        1.1,
        lambda r: r["models-depth"]["growth"],
    ),
    *(
        (f"bfloat16, {kind}, {mode}: times float32", ">=", 1.5, bfloat16(kind, mode))
        for kind in ("features", "window")
        for mode in MODES
    ),
    (
        "decoding for 32 streams: time of a token after 16k tokens, times that after 2k, worst",
        "<=",
        1.1,
        lambda r: max(r["decode"]["median"]["growth"].values()),
    ),
    (
        "decoding: state after 16k tokens, times that after 2k, worst",
        "<=",
        1.0,
        lambda r: max(r["decode"]["state growth"].values()),
    ),
    ("import, seconds beyond torch", "<=", 0.3, lambda r: r["start"]["median"]["beyond torch"]),
    ("--help, seconds", "<=", 1.5, lambda r: r["start"]["median"]["seconds"]["subquad --help"]),
]
