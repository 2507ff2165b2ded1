"""Pictures of forecasts, as PNG: fans of quantiles, errors by series, attention over lags.

Okabe and Ito's colours on white; what differs in colour differs in form as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from subquad.viz.curves import COLOURS, MARKS, pyplot

__all__ = ["Fan", "errors", "fans", "lags"]

_BLUE, _ORANGE, _GREY = COLOURS[0], COLOURS[1], "#444444"
_FAINT = 1e-5  # weights below are not drawn
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Fan:
    """One forecast over its history. x are numbers of steps or datetime64; NaN leaves a gap.

    quantiles: level -> values (N,).  actual: what came then, if it is known.
    """

    title: str
    past_x: np.ndarray
    past: np.ndarray
    x: np.ndarray
    quantiles: Mapping[float, np.ndarray]
    actual: np.ndarray = field(default_factory=lambda: np.empty(0))


def fans(charts: Sequence[Fan], path: Path) -> None:
    """A panel for each forecast, two beside each other from the second on."""
    plot = pyplot()
    wide = min(2, len(charts))
    high = -(-len(charts) // wide)
    with plot.rc_context(_STYLE):
        figure, axes = plot.subplots(
            high, wide, figsize=(7.2 if wide == 1 else 11, 2.9 * high), squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for panel, chart in zip(axes.flat, charts, strict=False):
            _fan(panel, chart)
        for panel in axes.flat[len(charts) :]:
            panel.axis("off")
        known = {
            label: handle
            for panel in axes.flat
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(known.values(), known, loc="outside upper right", ncols=len(known))
        figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
        plot.close(figure)


def _fan(panel: Any, chart: Fan) -> None:
    levels = sorted(chart.quantiles)
    panel.plot(chart.past_x, chart.past, color=_GREY, linewidth=1.1, label="history")
    pairs = [(level, round(1 - level, 6)) for level in levels if level < 0.5]
    pairs = [pair for pair in pairs if pair[1] in chart.quantiles]
    for number, (low, high) in enumerate(pairs):
        # the outermost and the innermost are named; each lies over those before it
        named = number in (0, len(pairs) - 1)
        panel.fill_between(
            chart.x,
            chart.quantiles[low],
            chart.quantiles[high],
            color=_tint(1 - 0.45 * number / max(len(pairs) - 1, 1)),
            linewidth=0,
            label=f"{100 * (high - low):.0f} %" if named else None,
        )
    if 0.5 in chart.quantiles:
        panel.plot(chart.x, chart.quantiles[0.5], color=_BLUE, linewidth=1.8, label="median")
    if len(chart.actual):
        panel.plot(
            chart.x, chart.actual, color=_ORANGE, linestyle="--", linewidth=1.4, label="what came"
        )
    panel.set_title(chart.title)
    panel.margins(x=0.01)
    _dates(panel, chart.past_x)


def _tint(share: float) -> tuple[float, ...]:
    """The colour of forecasts, mixed with white: a share of 1 is hardly blue."""
    blue = [int(_BLUE[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return tuple(1 - (1 - part) * (1 - 0.82 * share) for part in blue)


def _dates(panel: Any, x: np.ndarray) -> None:
    if np.issubdtype(x.dtype, np.datetime64):
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=3, maxticks=7)
        panel.xaxis.set_major_locator(locator)
        panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        panel.set_xlabel("step")


def errors(ours: Sequence[float], others: Mapping[str, Sequence[float]], names: Sequence[str],
           measure: str, path: Path) -> None:  # fmt: skip
    """Each series as a point: our error against that of another method, a panel for each method.

    Points below the diagonal are forecast better by us; the worst three are named. What is not
    finite, or not above 0, has no point, and the panel says how many those are.
    """
    plot = pyplot()
    with plot.rc_context(_STYLE):
        figure, axes = plot.subplots(
            1, len(others), figsize=(4.6 * len(others), 4.6), squeeze=False, layout="constrained"
        )
        for panel, (name, theirs) in zip(axes.flat, others.items(), strict=True):
            x, y = np.asarray(theirs, float), np.asarray(ours, float)
            shown = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
            panel.scatter(x[shown], y[shown], s=16, color=_BLUE, alpha=0.6, linewidth=0)
            if shown.any():
                low = 0.8 * min(x[shown].min(), y[shown].min())
                high = 1.25 * max(x[shown].max(), y[shown].max())
                panel.plot([low, high], [low, high], color=_ORANGE, linestyle="--", linewidth=1.2)
                panel.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
                _ticks(panel, (1.0, 2.0, 5.0) if high < 100 * low else (1.0,))
                for i in sorted(np.flatnonzero(shown), key=lambda i: -y[i] / x[i])[:3]:
                    panel.annotate(
                        names[i], (x[i], y[i]), (4, 4), textcoords="offset points", color=_GREY
                    )
            better = int((y[shown] < x[shown]).sum())
            left = "" if shown.all() else f"; {int((~shown).sum())} without"
            panel.set_box_aspect(1)
            panel.set(xlabel=f"{measure} of {name}", ylabel=f"{measure} of the run")
            panel.set_title(f"better in {better} of {int(shown.sum())} series{left}")
        figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
        plot.close(figure)


def _ticks(panel: Any, digits: tuple[float, ...]) -> None:
    """Ticks of logarithmic axes at these digits, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(LogLocator(subs=digits))
        axis.set_major_formatter(FuncFormatter(lambda x, at: f"{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def lags(layers: Sequence[tuple[str, np.ndarray, np.ndarray]], season: int, path: Path) -> None:
    """How much attention goes how far back: for each layer its name, lags (M,), weights (H, M).

    A dotted line stands at each season; lags beyond the last that is looked at are left out.
    """
    plot = pyplot()
    most = max(int(lag[(weight > _FAINT).any(0)].max(initial=season)) for _, lag, weight in layers)
    with plot.rc_context(_STYLE):
        figure, axes = plot.subplots(
            len(layers), 1, figsize=(8, 0.6 + 1.9 * len(layers)), squeeze=False, sharex=True,
            layout="constrained",
        )  # fmt: skip
        for panel, (name, lag, weight) in zip(axes.flat, layers, strict=True):
            for head, row in enumerate(weight):
                # alone, a lag is a dot; what is not looked at leaves a gap
                panel.plot(
                    lag,
                    np.where(row > 0, row, np.nan),
                    marker=MARKS[head % len(MARKS)],
                    markersize=2.5,
                    color=COLOURS[head % len(COLOURS)],
                    linestyle=("-", "--", ":", "-.")[head // len(COLOURS) % 4],
                    linewidth=1.1,
                    label=f"head {head + 1}",
                )
            for at in range(season, most + 1, season) if season > 1 else ():
                panel.axvline(at, color="#999999", linestyle=":", linewidth=0.9, zorder=0)
            panel.set(title=name, ylabel="weight", yscale="log", ylim=(_FAINT, 1.5))
            panel.set_xlim(-0.01 * most, 1.02 * most)  # the last marks whole
        axes.flat[-1].set_xlabel(f"steps back (dotted: every {season})")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
        figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
        plot.close(figure)
