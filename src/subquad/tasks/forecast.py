"""Forecasts: the distribution of what comes next in a series, step by step.

Every step is predicted from those before it (Li et al., 2019, https://arxiv.org/abs/1907.00235).
The loss is over whole windows; a run is chosen by the loss on the horizon of its validation part,
true values before each step. Forecasts are paths, each value the input of the step after it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from subquad.data.rows import spread
from subquad.data.series import Parts, Series, divided
from subquad.data.series_units import deviations
from subquad.hf import SubquadConfig, SubquadForTimeSeries
from subquad.nn.choices import choose
from subquad.tasks.backtest import backtest, origins_of
from subquad.tasks.forecast_config import ForecastConfig, ForecastScoring
from subquad.tasks.looks import Look, values
from subquad.tasks.paths import drawn, scored
from subquad.tasks.series import SeriesTask
from subquad.tasks.task import Result, Share, add

__all__ = ["Forecast", "ForecastConfig"]

_TOGETHER = 32  # series between two answers
_PATHS = 200  # of each forecast


class Forecast(SeriesTask):
    """The task `forecast`."""

    name = "forecast"
    Config = ForecastConfig
    Scoring = ForecastScoring
    metric = "loss"
    greater_is_better = False
    short = ("horizon", "freq")
    model_class: ClassVar[Any] = SubquadForTimeSeries

    # --- model --------------------------------------------------------------------------------

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForTimeSeries:
        c = self.config
        stem = {
            "kind": "series",
            "covariates": self.steps.covariates,
            "num_series": len(self.steps.names),
        }
        head = {"kind": "forecast", "likelihood": c.likelihood, "levels": list(c.levels)}
        return SubquadForTimeSeries(SubquadConfig(arch=arch, model=fields, stem=stem, head=head))

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        if label_smoothing:
            raise ValueError("forecasts have no labels to smooth; leave train.label_smoothing out")
        return model(**batch).loss

    def scored(self, batch: dict[str, Tensor]) -> Tensor:
        """Values that are there; where windows are padded, targets are NaN."""
        return (~batch["targets"].isnan()).sum()

    @torch.no_grad()
    def validate(self, model: nn.Module, share: Share) -> Result:
        """The loss on the horizon of windows of the validation part."""
        horizon = self.config.horizon
        where = [
            (number, origin)
            for number in range(len(self.series))
            for origin in self.parts.origins(number, horizon, horizon, "valid")
        ]
        some = [where[i] for i in spread(len(where), self.config.valid_windows)]
        was = model.training
        model.eval()
        total, points = scored(
            model, self.scaled(self.series, self.parts.train), some, self.config, share
        )
        model.train(was)
        total, points = add(share, total, points)
        if not points:
            raise ValueError(f"{self.series.source}: all values of the validation part are missing")
        said = (
            f"{len(some):,} of {len(where):,} horizons of {self.config.horizon} in the validation "
            f"part of {self.series.says}, true values before each step"
        )
        return Result({"loss": total / points, "windows": len(some)}, said)

    # --- evaluation ---------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate_on(
        self,
        model: nn.Module,
        data: str | None,
        trained_on: dict[str, Any],
        *,
        part: str | None = None,
        origins: int | None = None,
        stride: int | None = None,
        windows: int | None = None,
        samples: int | None = None,
        seed: int | None = None,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> Result:
        """A back-test: forecasts from several origins, beside those of the baselines."""
        horizon, which = self.config.horizon, part or "test"
        choose("part", which, dict.fromkeys(("test", "valid")))
        how = {"origins": origins, "windows": windows, "samples": samples}
        how["stride"] = stride = horizon if stride is None else stride
        for name, value in how.items():
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; it must be positive")
        last = None if origins is None else horizon + (origins - 1) * stride
        series, parts = self._opened(data, trained_on, last)
        where = origins_of(series, parts, horizon, stride, origins, which)
        some = [where[i] for i in spread(len(where), windows or len(where))]
        told = self.scaled(series, parts.valid if which == "test" else parts.train)
        deviation = deviations(series, parts.train)

        total, points = scored(model, told, some, self.config, Share())
        if not points:
            raise ValueError(f"{series.source}: all values that would be scored are missing")

        def draw(pairs: Sequence[tuple[int, int]], number: int) -> Tensor:
            return drawn(model, told, pairs, self.config, samples or 200, (seed or 0, number))

        rows = backtest(draw, series, some, horizon, self.season, deviation, report)
        every = f"{stride} apart" if len(where) > len(series) else "one of each series"
        said = (
            f"{len(some):,} of {len(where):,} forecasts of {horizon} steps, {every}, over the "
            f"{which} part of {series.says}; {samples or 200} paths, seed {seed or 0}; season "
            f"{self.season}{rows.says}"
        )
        return rows.result(said, total / points)

    def _opened(
        self, data: str | None, trained_on: dict[str, Any], last: int | None
    ) -> tuple[Series, Parts]:
        """The run's own series and parts, or those of other data: of these the `last` steps are
        test unless files say so; None: by the run's split or held, or else one horizon."""
        found, held = self.open(trained_on["path"] if data is None else data, self.steps.frequency)
        if data is None and found.key != trained_on["key"]:
            raise ValueError(
                f"{found.source} is not what this run was trained on: it has moved, or its size or "
                "time has changed; name what to score with --data"
            )
        # a file that was copied has another key, and is to be scored as the one it is a copy of
        if found.key == trained_on["key"]:
            return self.parted(found, held)
        if last is None and (self.config.split or self.config.held):
            try:
                return self.parted(found, held)
            except ValueError as error:
                raise ValueError(f"{error}; --origins 1 scores the end of each series") from None
        if held is None and last is not None:
            held = [last] * len(found)
        return divided(found, self.config.horizon, held)

    def compared(self, multiple: int, limit: int) -> dict[str, Any] | None:
        # a forecast is as long as its horizon
        return {"windows": 50, "samples": 100} if multiple == 1 else None

    # --- answers ------------------------------------------------------------------------------

    @torch.no_grad()
    def predict_all(self, model: nn.Module, rows: Iterable[Series]) -> Iterator[dict[str, Any]]:
        """For each series quantiles and mean of each step after its end, and its end itself."""
        for series in rows:
            told = self.scaled(series, series.length)
            for at in range(0, len(series), _TOGETHER):
                some = range(at, min(at + _TOGETHER, len(series)))
                windows = [(i, int(series.length[i])) for i in some]
                for i in some:
                    self.check_future(series, i)
                paths = drawn(model, told, windows, self.config, _PATHS, (0, at))
                for i, own in zip(some, paths.unbind(1), strict=True):
                    yield self._answer(series, i, own)

    def predict(self, model: nn.Module, row: Series) -> list[dict[str, Any]]:
        """The same as a list, for one file or row."""
        return [*self.predict_all(model, [row])]

    def look(self, model: Any, raw: Any) -> Look:
        """Of the first series of a file, what is read before it is forecast: each token reads the
        value before the step that it foretells."""
        series = self.read(raw)
        end = int(series.length[0])
        first = max(0, end - self.config.context) - 1
        begin = max(first, 0)
        past = [None if x != x else x for x in series.of(0)[begin:end].tolist()]
        names = [str(when) for when in _times(series, 0, begin, end - begin)]
        if first < 0:  # nothing stands before the first step
            past, names = [None, *past], ["start", *names]
        return Look(self.last_read(series), {"tokens": names}, values(past, self.season))

    def last_read(self, series: Series) -> dict[str, Tensor]:
        """What the model reads of a file's first series before it forecasts."""
        end = int(series.length[0])
        first = max(0, end - self.config.context)
        told = self.scaled(series, series.length)
        return {"inputs": told.window(0, first, end, end + 1)["inputs"][None]}

    def _answer(self, series: Series, number: int, paths: Tensor) -> dict[str, Any]:
        """paths: (S, horizon)."""
        c, end = self.config, int(series.length[number])
        first = max(0, end - c.context)
        levels = torch.tensor(c.levels, dtype=torch.float64)
        quantiles = paths.quantile(levels, 0).tolist()
        return {
            "item_id": series.names[number],
            "timestamp": _times(series, number, end, c.horizon),
            "mean": paths.mean(0).tolist(),
            "quantiles": {f"{q:g}": row for q, row in zip(c.levels, quantiles, strict=True)},
            "past": {
                "timestamp": _times(series, number, first, end - first),
                "target": [None if x != x else x for x in series.of(number)[first:].tolist()],
            },
        }

    def table(self, answer: dict[str, Any]) -> list[dict[str, Any]]:
        """A row for each step."""
        return [
            {
                "item_id": answer["item_id"],
                "timestamp": when,
                **{q: row[step] for q, row in answer["quantiles"].items()},
                "mean": answer["mean"][step],
            }
            for step, when in enumerate(answer["timestamp"])
        ]

    def told(self, answer: dict[str, Any]) -> str:
        """A series in one line: what is expected at its first step and at its last."""
        when, row = answer["timestamp"], answer["quantiles"]
        levels = [*row]
        steps = [f"{when[i]}: " + " ".join(f"{row[q][i]:.6g}" for q in levels) for i in (0, -1)]
        told = f"quantiles {levels[0]} to {levels[-1]}" if len(levels) > 1 else levels[0]
        return f"{answer['item_id']}  {told}  {' ... '.join(steps)}"


def _times(series: Series, number: int, first: int, count: int) -> list[str] | list[int]:
    """Dates of steps; of a series without dates, their numbers from 1 on."""
    if not series.dated:
        return [first + 1 + i for i in range(count)]
    return [str(t).replace("T", " ") for t in series.stamps(number, first, count)]
