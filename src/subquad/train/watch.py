"""A Trainer that stops at the first loss or gradient that is no number, before a weight moves.

What it was computed from stays in the run folder, to be looked at: `diverged-PROCESS.safetensors`
holds the batches of that step whose loss is no number, or all of them if only their gradient is
none, as BATCH.NAME; its metadata tell the step and the losses.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subquad.train.atomic import write_files
from subquad.train.sharding import gathered
from subquad.train.spread import SpreadTrainer

__all__ = ["WatchingTrainer"]


class WatchingTrainer(SpreadTrainer):
    """Trains as its base does, as long as there are numbers."""

    folder: Path

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: list[tuple[dict[str, Tensor], Tensor]] = []

    def get_batch_samples(self, *given: Any) -> Any:
        """The batches of a step, which begins."""
        self._seen = []
        return super().get_batch_samples(*given)

    def see(self, batch: dict[str, Tensor], loss: Tensor) -> None:
        """Remember a batch of this step and its loss, ()."""
        self._seen.append((batch, loss.detach()))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of a step's gradient, which is there before the optimizer moves.

        ValueError in all processes if it or a loss of any of them is no number.
        """
        # every process knows the one norm, and of the losses only its own
        norm = gathered(super()._get_grad_norm(model, grad_norm))
        losses = torch.stack([loss for _, loss in self._seen]).double()
        lost = int(self.total((~losses.isfinite()).sum()))
        if lost == 0 and math.isfinite(norm):
            return norm
        told = losses.tolist()
        wrong = [i for i, loss in enumerate(told) if not (lost and math.isfinite(loss))]
        what, kept = "the loss of another process is no number", ""
        if wrong:
            what = f"the loss is {told[wrong[0]]}" if lost else f"the gradient's norm is {norm}"
            kept = self._keep(wrong, told)
        raise ValueError(
            f"{what} at step {self.state.global_step + 1} with learning rate "
            f"{self._get_learning_rate():.3g}{kept}; a smaller --train.lr or a longer "
            "--train.warmup may help, and the last checkpoint is untouched"
        )

    def _keep(self, wrong: list[int], losses: list[float]) -> str:
        """Write these batches of the step, and say where."""
        from safetensors.torch import save_file

        file = f"diverged-{self.args.process_index}.safetensors"
        kept = {
            f"{i}.{name}": t.detach().cpu().clone().contiguous()
            for i in wrong
            for name, t in self._seen[i][0].items()
        }
        facts = {"step": str(self.state.global_step + 1), "losses": str(losses)}
        try:
            with write_files(self.folder, file) as part:
                save_file(kept, part / file, facts)
        except OSError as error:
            return f"; what it came of is lost: {error}"
        return f"; what it came of is kept in {self.folder / file}"
