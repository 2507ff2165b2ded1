"""What a forecasting model is asked: its loss on windows, and paths that go on from an origin."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from subquad.data.series_windows import Told, together
from subquad.tasks.forecast_config import ForecastConfig
from subquad.tasks.task import Share

__all__ = ["drawn", "scored"]

#: the number of a series, and the step at which a forecast of it begins
Window = tuple[int, int]

_SIDE_BY_SIDE = 16_384  # steps in one call of a validation
_KEPT = 65_536  # steps of all paths of a call: each copies the state of its own past at each step


def scored(
    model: Any, told: Told, windows: Sequence[Window], config: ForecastConfig, share: Share
) -> tuple[float, float]:
    """The loss summed over the horizons of windows, and how many values they have."""
    total, points = 0.0, 0.0
    length = config.context + config.horizon
    for number, some in enumerate(_groups(windows, _SIDE_BY_SIDE // length)):
        if not share.mine(number):
            continue
        items = []
        for which, origin in some:
            first = max(0, origin - config.context)
            item = told.window(which, first, origin, origin + config.horizon)
            item["targets"][: origin - first] = float("nan")
            items.append(item)
        batch = _there(model, together(items))
        many = int((~batch["targets"].isnan()).sum())
        if many:
            total += float(model(**batch).loss) * many
            points += many
    return total, points


def drawn(
    model: Any,
    told: Told,
    windows: Sequence[Window],
    config: ForecastConfig,
    samples: int,
    seed: tuple[int, int],
) -> Tensor:
    """Paths (samples, W, horizon) from origins on, in the units of the series, float64 on the CPU.

    Nothing after an origin is told, but for covariates that are known ahead.  seed: two numbers
    from which the draws follow.
    """
    horizon = config.horizon
    found = []
    at = next(model.parameters()).device
    draw = torch.Generator(at).manual_seed(hash(seed) % (1 << 63))
    for some in _groups(windows, _KEPT // ((config.context + horizon) * samples)):
        items = []
        for which, origin in some:
            first = max(0, origin - config.context)
            items.append(told.window(which, first, origin, origin + horizon))
        whole = [item["inputs"] for item in items]
        before = [len(inputs) - horizon + 1 for inputs in whole]
        parts = [
            {**item, "inputs": inputs[:n], "targets": item["targets"][:n]}
            for item, inputs, n in zip(items, whole, before, strict=True)
        ]
        batch = _there(model, together(parts))
        future = torch.stack([w[n:, 1:] for w, n in zip(whole, before, strict=True)]).to(at)
        # rows of one length are read without a mask
        mask = batch["attention_mask"] if len(set(before)) > 1 else None
        paths = model.paths(
            batch["inputs"],
            future,
            batch["scale"],
            horizon=horizon,
            num_samples=samples,
            generator=draw,
            attention_mask=mask,
        )
        own = [told.units(which, max(0, origin - config.context), origin) for which, origin in some]
        centre, unit = torch.tensor(own, dtype=torch.float64)[:, :, None, None].unbind(1)
        paths = paths.double().cpu() * unit + centre
        found.append(paths.transpose(0, 1))
    return torch.cat(found, 1)


def _groups(windows: Sequence[Window], many: int) -> Iterator[Sequence[Window]]:
    for at in range(0, len(windows), max(1, many)):
        yield windows[at : at + max(1, many)]


def _there(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    at = next(model.parameters()).device
    return {name: t.to(at) for name, t in batch.items()}
