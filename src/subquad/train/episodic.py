"""Episodic: a task of labels taken by episodes.

Classes that are held out (`subquad.data.episodes`) are never trained on. While training goes on,
episodes of other classes are scored: taught by rows of the training part, asked about the
validation part, so that nothing is chosen by what is held out.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from subquad.data.documents import PARTS
from subquad.data.episodes import Episode, Episodes, Place, draws, held_out, places
from subquad.data.examples import Examples
from subquad.tasks import find_task
from subquad.tasks.labels import Labels
from subquad.tasks.task import Result, Share, Task
from subquad.train.config import MetaConfig
from subquad.train.meta import adapt, restored

__all__ = ["Episodic", "summed"]

_SEED = 0  # of the episodes that are scored
_FIXED = ("lra", "shift", "flip")  # fields that would make other rows, or have labels of their own


class Episodic(Task):
    """A task of `EPISODIC` by episodes: its labels are numbers, and mean another class in each."""

    greater_is_better = True
    metric = "accuracy"
    unit = "episodes"

    def __init__(self, base: Any, meta: MetaConfig) -> None:
        fixed = [name for name in _FIXED if getattr(base.config, name, None)]
        if fixed:
            raise ValueError(f"episodes do not go with --task.{fixed[0]}; leave it out")
        self.base, self.meta, self.name = base, meta, base.name
        self._labels = Labels([f"class {i + 1}" for i in range(meta.ways)])

    @property
    def config(self) -> Any:  # type: ignore[override]
        """That of the task itself; `meta` says how episodes are."""
        return self.base.config

    @property
    def model_class(self) -> Any:
        return self.base.model_class

    def begin(self, folder: Path) -> None:
        self.base.begin(folder)

    # --- data ---------------------------------------------------------------------------------

    def open(self, data: str | None) -> Examples:
        """The rows at a path; the embedded ones are of many classes."""
        if data is None and self.base.many is not None:
            return self.base.many()
        return self.base.open(data)

    def prepare(self, data: str | None) -> None:
        found = self.open(data)
        names = {name for part in PARTS for name in found.column("label", part)}
        held = held_out(names, self.meta.ways)
        at = {part: places(found, [part], names - {*held}) for part in ("train", "valid")}
        self.taught = Episodes(at["train"], at["train"], self.meta.ways, self.meta.shots)
        self.watched = Episodes(at["train"], at["valid"], self.meta.ways, self.meta.shots)
        self.names = sorted(names - {*held})
        self.base.examples = found
        ours = sorted(number for some in at["train"].values() for _, number in some)
        self.base.learn(Subset(found.rows["train"], ours))
        self.relabel()

    def relabel(self) -> None:
        """Give the task as many labels as an episode has classes."""
        self.base._labels = self._labels

    def data_key(self, data: str | None) -> str:
        return self.open(data).key

    @property
    def data_facts(self) -> dict[str, Any]:
        return {**self.base.data_facts, "classes": self.names}

    @property
    def tokens_per_item(self) -> int:
        rows = min(self.meta.inner_batch, self.meta.ways * self.meta.shots)
        return self.base.tokens_per_item * self.meta.inner_steps * rows

    def train_set(self, count: int, seed: int) -> Dataset:
        return _Drawn(self, count, seed)

    def collate(self, items: Sequence[list[dict[str, Tensor]]]) -> dict[str, Any]:
        """A batch of episodes, each a list of batches of rows."""
        return {"episodes": [*items]}

    def batches(self, found: Examples, episode: Episode) -> list[dict[str, Tensor]]:
        """What the inner steps of an episode learn from."""
        return [self.base.collate([self._item(found, *one) for one in b]) for b in episode.batches]

    def _item(self, found: Examples, place: Place, label: int) -> dict[str, Tensor]:
        row = _row(found, place)
        return self.base.inputs(row) | {"labels": torch.tensor(label)}

    # --- model --------------------------------------------------------------------------------

    def build(self, arch: str, fields: dict[str, Any]) -> nn.Module:
        return self.base.build(arch, fields)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        return self.base.loss(model, batch, label_smoothing)

    # --- evaluation ---------------------------------------------------------------------------

    def scores(
        self,
        model: Any,
        found: Examples,
        episodes: Episodes,
        part: str,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> Tensor:
        """The accuracy in each episode, (episodes,) float64; the model stays as it is."""
        was, at, c = model.training, next(model.parameters()).device, self.meta
        model.eval()  # dropout is off while it adapts, so that numbers are the same each time
        right = []
        for i in range(c.episodes):
            episode = episodes.draw(draws(_SEED, part, i), c.adapt_steps, c.inner_batch, c.queries)
            batches = [_to(batch, at) for batch in self.batches(found, episode)]
            with restored(model):
                adapt(model, batches, lambda m, batch: self.loss(m, batch, 0.0), c)
                right.append(self._asked(model, found, episode))
            report(1, c.episodes)
        model.train(was)
        return torch.tensor(right, dtype=torch.float64)

    @torch.no_grad()
    def _asked(self, model: Any, found: Examples, episode: Episode) -> float:
        said = self.base.answers(model, [_row(found, place) for place, _ in episode.asked])
        true = [self._labels.names[label] for _, label in episode.asked]
        return sum(a["label"] == t for a, t in zip(said, true, strict=True)) / len(true)

    def validate(self, model: nn.Module, share: Share) -> Result:
        right = self.scores(model, self.base.known, self.watched, "valid")
        return Result(
            {**summed(right, ""), "chance": 1 / self.meta.ways, "episodes": len(right)},
            f"{self.says()} of classes that are trained on, taught by the train part of "
            f"{self.base.known.source} and asked about its valid part",
        )

    def says(self) -> str:
        """How episodes are, for the protocol."""
        c = self.meta
        return (
            f"{c.episodes:,} episodes, {c.ways} ways and {c.shots} shots, {c.adapt_steps} steps of "
            f"{c.inner} at {c.inner_lr:g}, intervals of 95 %,"
        )

    def evaluate_on(
        self, model: nn.Module, data: str | None, trained_on: dict[str, Any], **how: Any
    ) -> Result:
        raise ValueError("what a run says to new classes is scored by `by_episodes`")

    # --- the run folder -----------------------------------------------------------------------

    def save(self, folder: Path) -> dict[str, Any]:
        return {**self.base.save(folder), "meta": asdict(self.meta), "task": self.name}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "Episodic":
        base = find_task(facts["task"]).load(folder, facts)
        return cls(base, MetaConfig(**facts["meta"]))


class _Drawn(Dataset):
    """Episodes of training."""

    def __init__(self, task: Episodic, count: int, seed: int) -> None:
        self.task, self.count, self.seed = task, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> list[dict[str, Tensor]]:
        c = self.task.meta
        draw = draws(self.seed, "train", index)
        episode = self.task.taught.draw(draw, c.inner_steps, c.inner_batch)
        return self.task.batches(self.task.base.known, episode)


def summed(right: Tensor, of: str) -> dict[str, float]:
    """The mean of accuracies, and half of its interval of 95 %."""
    half = 1.96 * right.std().item() / sqrt(len(right)) if len(right) > 1 else 1.0
    return {f"accuracy{of}": right.mean().item(), f"interval{of}": half}


def _row(found: Examples, place: Place) -> dict[str, Any]:
    part, number = place
    return found.rows[part][number]


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: t.to(device) for name, t in batch.items()}
