"""Series of numbers as a task opens them: their parts, the units they are told in, what is kept."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from subquad.data.frequency import Frequency
from subquad.data.seasonal import seasonal
from subquad.data.series import Parts, Series, divided
from subquad.data.series_files import from_row, open_series
from subquad.data.series_steps import Steps
from subquad.data.series_units import scales, units
from subquad.data.series_windows import Told, ToldByWindow, Windows, together
from subquad.tasks.forecast_config import ForecastConfig
from subquad.tasks.task import Task

__all__ = ["SeriesTask"]

_FILE = "series.json"


class SeriesTask(Task):
    """A task over series, whose `config` says how they are read."""

    unit = "forecasts"
    collate = staticmethod(together)
    config: ForecastConfig
    series: Series
    parts: Parts
    steps: Steps

    def __init__(self, config: ForecastConfig) -> None:
        self.config = config
        #: of series that were there in training: name -> centre and unit
        self.own: dict[str, tuple[float, float]] = {}

    def open(self, data: str | None, frequency: str | None) -> tuple[Series, Any]:
        """The series at a path, or the embedded ones; how much of each is test, if files say so."""
        columns, held = self.config.columns, None
        if data is None:
            found = seasonal()
        else:
            asked = None if frequency is None else Frequency.of(frequency)
            least = 0.0 if self.config.counts else None
            found, held = open_series(data, columns, asked, least)
        if len(found.covariate_names) != len(columns.covariates):
            raise ValueError(
                f"{found.source} has no columns {', '.join(columns.covariates)}; --task.known and "
                "--task.late go with tables in the form long or columns"
            )
        return self._as_trained(found), held

    def _as_trained(self, found: Series) -> Series:
        """Series whose steps mean what they did in training. ValueError for others."""
        if not hasattr(self, "steps"):
            return found
        if self.steps.frequency is None and found.frequency is not None:
            raise ValueError(
                f"{found.source} has a step of {found.frequency}, and the run was trained on "
                "series without dates and without --freq"
            )
        if self.steps.frequency is not None and self.steps.dated not in (None, found.dated):
            has, had = ("dates", "none") if found.dated else ("no dates", "them")
            raise ValueError(
                f"{found.source} has {has}, and the series that the run was trained on had {had}: "
                "the calendar would say something else"
            )
        return found

    def data_key(self, data: str | None) -> str:
        return self.open(data, self.config.freq)[0].key

    def blank(self, model: nn.Module, tokens: int) -> Tensor:
        return torch.zeros(1, tokens, 1 + self.steps.covariates + bool(self.steps.names))

    def parted(self, series: Series, held: Any) -> tuple[Series, Parts]:
        """Those that are long enough, with their parts."""
        own = self.config.held
        given = held if own is None else [own] * len(series)
        return divided(series, self.config.horizon, given, self.config.split)

    def prepare(self, data: str | None) -> None:
        c = self.config
        if data is None and c.freq not in (None, "H"):
            raise ValueError(f"the embedded series are hourly; leave --freq {c.freq} out")
        self.series, self.parts = self.parted(*self.open(data, c.freq))
        ends = self.parts.train
        if c.lags and max(c.lags) >= ends.max():
            raise ValueError(
                f"lag {max(c.lags)} reaches back before all that is trained on: the longest "
                f"training part of {self.series.source} has {int(ends.max()):,} values"
            )
        self.steps = Steps.fit(
            self.series, ends, known=len(c.known), late=c.horizon, named=c.named, lags=c.lags
        )
        centre, unit = units(self.series, ends, c.scaled)
        pairs = zip(centre.tolist(), unit.tolist(), strict=True)
        self.own = dict(zip(self.series.names, pairs, strict=True))

    def scaled(self, series: Series, ends: Any) -> Told:
        """Series as the model is told them; one that was not in training has units of its own, of
        its values before `ends` (S,)."""
        centre, unit = units(series, ends, self.config.scaled)
        for number, name in enumerate(series.names):
            if name in self.own:
                centre[number], unit[number] = self.own[name]
        kind = ToldByWindow if self.config.scaled == "window" else Told
        return kind(series, self.steps, centre, unit)

    def train_set(self, count: int, seed: int) -> Dataset:
        weights = None
        if self.config.weights == "scale":
            weights = scales(self.series, self.parts.train)
        return Windows(
            self.scaled(self.series, self.parts.train),
            self.parts.train,
            before=self.config.context,
            length=self.tokens_per_item,
            count=count,
            seed=seed,
            weights=weights,
        )

    @property
    def tokens_per_item(self) -> int:
        return self.config.context + self.config.horizon

    @property
    def data_facts(self) -> dict[str, Any]:
        """What a run remembers of its data."""
        series = self.series
        return {
            "source": series.says,
            "key": series.key,
            "frequency": self.steps.frequency,
            "counts": dict(series.counts),
        }

    @property
    def season(self) -> int:
        """Steps after which things come again."""
        if self.config.season is not None:
            return self.config.season
        return Frequency.of(self.steps.frequency).season if self.steps.frequency else 1

    def read(self, raw: str | Path | dict[str, Any]) -> Series:
        """The series of a file, or of a row of JSON (`series_files.from_row`)."""
        if isinstance(raw, dict):
            step = self.steps.frequency and Frequency.of(self.steps.frequency)
            least = 0.0 if self.config.counts else None
            return self._as_trained(from_row(raw, self.config.columns, step or None, least))
        return self.open(str(raw), self.steps.frequency)[0]

    def check_future(self, series: Series, number: int) -> None:
        """ValueError if what is known ahead of a series is not told for a forecast."""
        known, horizon = self.config.known, self.config.horizon
        future = series.known(number)[int(series.length[number]) :][:horizon]
        if known and len(future) < horizon:
            raise ValueError(
                f"series {series.names[number]!r} tells {', '.join(known)} for {len(future)} "
                f"steps after its last value, and {horizon} are forecast; add rows with an empty "
                "target"
            )
        for column, name in enumerate(known):
            missing = future[:, column] != future[:, column]
            if missing.all():
                raise ValueError(
                    f"series {series.names[number]!r} has rows after its last value, and no "
                    f"{name} in the {horizon} that are forecast; it is known ahead, so fill it in"
                )

    def remark(self, row: Series) -> str:
        """What a file holds, if anything was left out or filled."""
        return row.says if row.counts or row.untold else ""

    def save(self, folder: Path) -> dict[str, Any]:
        kept = {"steps": self.steps.facts(), "own": self.own}
        (folder / _FILE).write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
        return {"config": asdict(self.config)}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "SeriesTask":
        task = cls(ForecastConfig(**{k: _tuple(v) for k, v in facts["config"].items()}))
        kept = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        task.steps = Steps.of(kept["steps"])
        task.own = {name: (centre, unit) for name, (centre, unit) in kept["own"].items()}
        return task


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
