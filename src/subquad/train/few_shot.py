"""Few-shot: how well a model learns classes that it has never seen, from a few rows of each.

It adapts to each episode from its trained weights; beside it stands the same from fresh weights.
"""

from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any

import torch

from subquad.data.documents import PARTS
from subquad.data.episodes import Episodes, held_out, places
from subquad.tasks.task import Result
from subquad.train.config import MetaConfig
from subquad.train.episodic import Episodic, summed

__all__ = ["by_episodes"]

_SEED = 0  # of fresh weights


def by_episodes(
    run: Any,
    data: str | None,
    meta: MetaConfig,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Result:
    """How well a run learns classes that are held out, and the same from fresh weights.

    The head of a run that was not trained by such episodes is replaced by a fresh one.
    ValueError if the data is not the run's own, and not given.
    """
    base, facts = copy(run.task), run.facts  # whose labels are other ones here
    before = facts["task_facts"].get("meta")
    task = Episodic(base, meta)
    path = facts["data"]["path"] if data is None else data
    found = task.open(path) if before or data is not None else base.open(path)
    if data is None and found.key != facts["data"]["key"]:
        raise ValueError(
            f"{found.source} is not what this run was trained on: it has moved, or its size or "
            "time has changed; name what to score with --data"
        )
    names = {name for part in PARTS for name in found.column("label", part)}
    held = held_out(names, meta.ways)
    seen = {*held} & {*(base.labels.names if before is None else facts["data"]["classes"])}
    task.relabel()
    fresh = _of_ways(run.model, meta.ways)
    model, keeps = deepcopy(fresh), before is not None and before["ways"] == meta.ways
    told = run.model.state_dict()
    model.load_state_dict(
        {k: v for k, v in told.items() if keeps or not k.startswith("model.head.")}, strict=False
    )
    at = places(found, PARTS, held)
    episodes = Episodes(at, at, meta.ways, meta.shots)
    numbers = {}
    for weights, of in ((model, ""), (fresh, "_of_fresh_weights")):
        right = task.scores(weights, found, episodes, "test", lambda n, many: report(n, 2 * many))
        numbers |= summed(right, of)
    numbers |= {"chance": 1 / meta.ways, "episodes": meta.episodes}
    known = f"{len(seen)} of them trained on" if seen else "none of them trained on"
    said = f"{task.says()} of {len(held)} held-out classes of {found.source}, {known}"
    return Result(numbers, said)


def _of_ways(model: Any, ways: int) -> Any:
    """A fresh model of the same kind with so many labels."""
    config = deepcopy(model.config)
    config.num_labels = ways
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return type(model)(config).to(next(model.parameters()).device)
