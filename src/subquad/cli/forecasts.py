"""What is written of forecasts: a table, fans, errors by series, attention over lags."""

import csv
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from subquad.tasks.task import Result
from subquad.train.run import Run

__all__ = ["errors", "write"]

_PANELS = 6


def write(
    run: Run,
    rows: Iterable[Any],
    *,
    out: Path | None = None,
    plot: Path | None = None,
    attention: Path | None = None,
) -> str:
    """Write the table, the fans of the first series, and attention; what was written, in words."""
    for path, kind in ((out, ".csv"), (plot, ".png"), (attention, ".png")):
        if path is not None and path.suffix.lower() != kind:
            raise ValueError(f"{path} must be a {kind} file")
    count, first, table, given = 0, list[dict[str, Any]](), None, [*rows]
    with ExitStack() as stack:
        for answer in run.predict_all(given):
            steps = run.task.table(answer)
            if out is not None:
                if table is None:
                    file = stack.enter_context(open(out, "w", encoding="utf-8", newline=""))
                    table = csv.DictWriter(file, list(steps[0]))
                    table.writeheader()
                table.writerows(steps)
            if len(first) < _PANELS:
                first.append(answer)
            count += 1
    told = []
    if out is not None:
        told.append(f"{count:,} series: {out}")
    if plot is not None:
        from subquad.viz.series import fans

        fans([_fan(answer) for answer in first], plot)
        told.append(f"picture of {len(first)}: {plot}")
    if attention is not None:
        from subquad.viz.lags import attention as looked
        from subquad.viz.series import lags

        read = run.task.last_read(given[0])
        lags(looked(run.model, read), run.task.season, attention)
        told.append(f"attention of {first[0]['item_id']}: {attention}")
    return "\n".join(told)


def errors(result: Result, path: Path) -> None:
    """A picture of errors by series. ValueError if the evaluation has none."""
    if "mase" not in result.parts:
        raise ValueError("there are no errors by series to draw; leave --plot out")
    from subquad.viz.series import errors as draw

    mase = dict(result.parts["mase"])
    ours = mase.pop("ours")
    names = {"seasonal_naive": "seasonal naive", "ets": "ETS"}
    draw(ours, {names[n]: one for n, one in mase.items()}, result.parts["names"], "MASE", path)


def _fan(answer: dict[str, Any]) -> Any:
    import numpy as np

    from subquad.viz.series import Fan

    def when(times: list[Any]) -> Any:
        return np.asarray(times, "M8[s]") if isinstance(times[0], str) else np.asarray(times)

    past = np.asarray([np.nan if x is None else x for x in answer["past"]["target"]])
    quantiles = {float(level): np.asarray(row) for level, row in answer["quantiles"].items()}
    x = when(answer["timestamp"])
    return Fan(answer["item_id"], when(answer["past"]["timestamp"]), past, x, quantiles)
