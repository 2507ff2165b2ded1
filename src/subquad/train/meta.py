"""Reptile: weights from which a few steps learn a few classes from a few rows.

    w' = w after `inner_steps` steps on an episode         w <- optimizer(w, gradient = w - w')

Nichol, Achiam, Schulman, 2018, https://arxiv.org/abs/1803.02999. A step costs as much as its
episodes' inner steps; no second derivatives, memory as in plain training and two copies of the
weights. Ours differs: the gradient goes to the optimizer of plain training, with its schedule; the
inner optimizer begins afresh in each episode.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from subquad.train.config import MetaConfig
from subquad.train.loop import Loop

__all__ = ["MetaLoop", "adapt", "restored"]

Batch = dict[str, Tensor]

INNER: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": partial(torch.optim.Adam, betas=(0.0, 0.999)),
}


def adapt(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    config: MetaConfig,
) -> Tensor:
    """One step of the inner optimizer for each batch, in place; the mean loss before each.

    Gradients are gone afterwards.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = INNER[config.inner](params, lr=config.inner_lr)
    losses = []
    with torch.enable_grad():
        for batch in batches:
            optimizer.zero_grad()
            found = loss(model, batch)
            found.backward()
            optimizer.step()
            torch.clear_autocast_cache()  # it would hold the weights as they were
            losses.append(found.detach())
    optimizer.zero_grad()
    return torch.stack(losses).mean()


@contextmanager
def restored(model: nn.Module) -> Iterator[list[tuple[nn.Parameter, Tensor]]]:
    """Parameters that learn, with copies of what they are; they are that again afterwards."""
    kept = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    try:
        yield kept
    finally:
        with torch.no_grad():
            for p, before in kept:
                p.copy_(before)
        torch.clear_autocast_cache()


class MetaLoop(Loop):
    """Trains by episodes: its task is `subquad.train.episodic.Episodic`."""

    def __init__(self, task: Any, *args: Any) -> None:
        super().__init__(task, *args)
        if self.args.world_size > 1:
            raise ValueError(
                f"episodes run in one process, and there are {self.args.world_size}: start "
                "without torchrun"
            )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """The mean loss of the inner steps; gradients are the mean of w - w' over the episodes."""
        model.train()
        episodes = self._prepare_inputs(inputs)["episodes"]
        share = 1 / (len(episodes) * self.args.gradient_accumulation_steps)
        # what batches before this one have accumulated
        sums = {p: p.grad for p in model.parameters() if p.requires_grad}
        total = torch.zeros((), device=self.args.device)
        for batches in episodes:
            with restored(model) as kept:
                model.zero_grad()
                total += share * adapt(model, batches, self._inner_loss, self.task.meta)
                with torch.no_grad():
                    for p, before in kept:
                        way, done = share * (before - p), sums[p]
                        sums[p] = way if done is None else done + way
        for p, way in sums.items():
            p.grad = way
        return total

    def _inner_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with self.accelerator.autocast():
            return self.compute_loss(model, batch)
