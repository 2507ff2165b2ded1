"""Fields of the task `forecast`: what is forecast, of which columns, and how it is scored."""

from dataclasses import dataclass

from subquad.data.frequency import Frequency
from subquad.data.series_sheet import LAYOUTS, Columns
from subquad.nn.choices import choose
from subquad.nn.forecast import LIKELIHOODS

__all__ = ["ForecastConfig", "ForecastScoring"]


@dataclass(frozen=True)
class ForecastConfig:
    """Fields of the task `forecast`.

    Args:
        horizon: steps that are forecast.
        freq: how often values come: s, min, H, D, B, W, M, Q, Y, as in 15min; default: as dates
            tell; needed where there are none and the calendar should be known.
        context: steps before a forecast that are read.
        likelihood: gaussian, student_t, negative_binomial (counts), or quantiles at `levels`.
        levels: the quantiles that are forecast.
        scaling: window (each window by mean and deviation of what comes before its forecast, so
            that a level that drifts is like any other; the default), standard (each series by mean
            and deviation of its training part, then each window by 1 + mean |value|) or mean (that
            alone; not for values far below 1, which it leaves as small as they are; counts have no
            other).
        weights: how likely windows are in training: even (all alike), or scale (in proportion to
            1 + mean |value| of their series: Salinas et al., 2020, section 3.3).
        season: steps after which things come again, for MASE and what stands beside; default: a
            day of hours, a week of days, a year of months.
        held: steps at the end of each series that are test, as many before them valid; default:
            the horizon, or what a test file holds.
        split: rows of train, valid and test from the beginning, as [8640,2880,2880]; default:
            by `held`.
        layout: of tables: auto, wide, columns or long.
        item: the column that names a series.
        time: the column of dates.
        target: the column of values, or the columns that are series.
        known: covariate columns that are known ahead.
        late: covariate columns that are not, and are read a horizon late.
        lags: values so many steps back are told at each step beside the one before it, as
            [48,168]; none may be shorter than the horizon.
        named: each series has a vector of its own, found by its name.
        valid_windows: windows of the validation part that are scored at each report.
    """

    horizon: int = 24
    freq: str | None = None
    context: int = 168
    likelihood: str = "gaussian"
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    scaling: str | None = None
    weights: str = "even"
    season: int | None = None
    held: int | None = None
    split: tuple[int, ...] = ()
    layout: str = "auto"
    item: str | None = None
    time: str | None = None
    target: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    lags: tuple[int, ...] = ()
    named: bool = True
    valid_windows: int = 200

    def __post_init__(self) -> None:
        choose("likelihood", self.likelihood, LIKELIHOODS)
        choose("layout", self.layout, dict.fromkeys(LAYOUTS))
        choose("weights", self.weights, dict.fromkeys(("even", "scale")))
        choose("scaling", self.scaled, dict.fromkeys(("mean", "standard", "window")))
        for name in ("horizon", "context", "season", "held", "valid_windows"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise ValueError(f"{name} is {given}; it must be at least 1")
        if self.held is not None and self.held < self.horizon:
            raise ValueError(f"held {self.held} is shorter than the horizon, {self.horizon}")
        if self.lags and min(self.lags) < self.horizon:
            raise ValueError(
                f"lag {min(self.lags)} is shorter than the horizon, {self.horizon}: its values "
                "would not be known for all steps of a forecast"
            )
        if len({*self.lags}) < len(self.lags):
            raise ValueError(f"lags {list(self.lags)} name a lag twice; once tells all")
        if self.split and (len(self.split) != 3 or min(self.split) < 1 or self.held is not None):
            raise ValueError(
                f"split {self.split} must be rows of train, valid and test, without held"
            )
        if not self.levels or not all(0 < level < 1 for level in self.levels):
            raise ValueError(f"levels are {self.levels}; they must lie between 0 and 1")
        if self.counts and self.scaled != "mean":
            raise ValueError(
                f"{self.likelihood} counts, so scaling must be mean, not {self.scaling}"
            )
        if self.freq is not None:
            Frequency.of(self.freq)

    @property
    def counts(self) -> bool:
        """Can targets not be negative?"""
        return self.likelihood == "negative_binomial"

    @property
    def scaled(self) -> str:
        """How values are scaled."""
        return self.scaling or ("mean" if self.counts else "window")

    @property
    def columns(self) -> Columns:
        """Which columns hold what."""
        return Columns(self.layout, self.item, self.time, self.target, self.known, self.late)


@dataclass(frozen=True)
class ForecastScoring:
    """How `subquad eval` scores a run of the task `forecast`.

    Args:
        part: valid or test, which is the default.
        origins: forecasts of each series, the last so many that fit; default: all that fit.
        stride: steps between their beginnings; default: the horizon.
        windows: score only so many forecasts, spread over all; default: all.
        samples: paths of each forecast; default: 200.
        seed: of the paths; default: 0.
    """

    part: str | None = None
    origins: int | None = None
    stride: int | None = None
    windows: int | None = None
    samples: int | None = None
    seed: int | None = None
