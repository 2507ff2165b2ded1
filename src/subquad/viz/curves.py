"""Line charts as SVG text that takes its ink from the page around it, so it reads in the dark."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

__all__ = ["COLOURS", "MARKS", "Chart", "Line", "pyplot", "svg"]

#: Okabe and Ito's palette, told apart by colour-blind readers; lines also differ in their marks
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_INK = "#010203"  # stands for the colour of the page's text until the picture is written


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A chart with its lines; `log_x` for lengths that double, `log_y` for costs that do."""

    title: str
    x: str
    y: str
    lines: Sequence[Line] = field(default_factory=tuple)
    log_x: bool = False
    log_y: bool = False


def svg(chart: Chart) -> str:
    """The chart as an <svg> element. Needs matplotlib (`pip install "subquad[viz]"`)."""
    plot = pyplot()
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "subquad",
        "font.family": "sans-serif",
        "font.size": 11,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with plot.rc_context(style):
        figure, axes = plot.subplots(figsize=(6.4, 3.8), layout="constrained")
        for i, line in enumerate(chart.lines):
            axes.plot(
                line.x,
                line.y,
                label=line.name,
                color=COLOURS[i % len(COLOURS)],
                marker=MARKS[i % len(MARKS)],
                markersize=5,
                linewidth=1.8,
            )
        if chart.log_x:
            axes.set_xscale("log", base=2)
            ticks = sorted({x for line in chart.lines for x in line.x})
            axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
            axes.minorticks_off()
        if chart.log_y:
            axes.set_yscale("log")
        axes.set(xlabel=chart.x, ylabel=chart.y, title=chart.title)
        axes.grid(color=_INK, alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        if chart.lines:
            axes.legend(frameon=False)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        plot.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def pyplot() -> Any:
    """matplotlib without a window. ValueError with the way to install it."""
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError('pictures need matplotlib: pip install "subquad[viz]"') from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
