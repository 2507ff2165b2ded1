"""A Trainer whose model may be spread over processes (`subquad.train.sharding`).

It is spread once its weights are read and before an optimizer holds them; what is saved is whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import Trainer

from subquad.train.carry import Carry
from subquad.train.sharding import gathered, kept_whole, like_parameters, shard

__all__ = ["SpreadTrainer"]


class SpreadTrainer(Trainer):
    """Trains copies of a model, as its base does, or one that is spread."""

    carry: Carry | None

    def shards(self, yes: bool) -> None:
        """Shall the model be spread?"""
        # the base class's word for a model that is spread already, and not to be copied
        self.is_distributed_loading_by_transformers = yes

    @property
    def spread(self) -> bool:
        """Is the model spread, or about to be?"""
        return self.is_distributed_loading_by_transformers

    def _prepare_for_training(self, *args: Any) -> Any:
        if self.spread:
            self.kind = type(self.model)  # `shard` changes the class of what it spreads
            shard(self.model, self.args.device)
            if self.carry is not None:
                self.carry.start = kept_whole(self.model, self.carry.start)
        return super()._prepare_for_training(*args)

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def total(self, part: Tensor) -> Tensor:
        """The sum of what all processes have."""
        if self.args.world_size > 1:
            part = part.to(self.args.device)
            distributed.all_reduce(part)
        return part

    def weights(self) -> dict[str, Tensor] | None:
        """All weights, where processes hold parts of them; else None: the model's own."""
        return gathered(self.model.state_dict(keep_vars=True)) if self.spread else None

    def plain_model(self) -> nn.Module:
        """A model that each process may run by itself: they score unlike numbers of batches, and
        none can wait for another's weights. All processes call it."""
        weights = self.weights()
        if weights is None:
            return self.model
        with torch.random.fork_rng(devices=[]):  # weights are drawn, and replaced
            plain = self.kind(self.model.config)
        plain.load_state_dict(weights)
        return plain.to(self.args.device).eval()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights into a folder; all processes call it."""
        self._save(output_dir, self.weights())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.spread:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = gathered(self.optimizer.state_dict())
        if self.args.should_save:
            torch.save(state, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.spread:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        own = self.optimizer.optimizer  # without what accelerate puts around it
        hook = own.register_load_state_dict_pre_hook(lambda opt, state: like_parameters(state, opt))
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        finally:
            hook.remove()
