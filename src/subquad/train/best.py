"""The best weights of a short training, held in memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

__all__ = ["Best"]

#: looks at held-out rows in a training, besides the one before its first step
LOOKS = 10


class Best(TrainerCallback):
    """Looks LOOKS times at what `measure` gives, and keeps the weights where it was lowest.

    What is measured before the first step counts too; what is no number never wins.
    """

    def __init__(self, weights: list[nn.Parameter], measure: Callable[[], float]) -> None:
        self.weights, self.measure = weights, measure
        self.step, self.lowest = 0, float("nan")

    def look(self, step: int) -> None:
        """Measure now, and keep the weights if they are the best until now, or the first."""
        found = self.measure()
        if step == 0 or found < self.lowest or self.lowest != self.lowest:
            self.step, self.lowest = step, found
            self.kept = [p.detach().to("cpu", copy=True) for p in self.weights]

    @torch.no_grad()
    def restore(self) -> None:
        """Write the best weights back."""
        for p, kept in zip(self.weights, self.kept, strict=True):
            p.copy_(kept)

    def told(self, steps: int, metric: str) -> str:
        """What is kept, in words."""
        return f"kept: step {self.step} of {steps}, {self.lowest:.4f} {metric} on held-out rows"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.look(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = state.global_step == state.max_steps
        if last or state.global_step % -(-state.max_steps // LOOKS) == 0:
            self.look(state.global_step)
