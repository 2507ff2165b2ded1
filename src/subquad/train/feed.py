"""What training reads: items of the task, lanes that go on, or batches of about so many tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from subquad.tasks.task import Task
from subquad.train.carry import Carry
from subquad.train.config import TrainConfig

__all__ = ["Feed", "feed"]


@dataclass(frozen=True)
class Feed:
    """Data with how its items become a batch, the memory that is carried, and tokens of a step."""

    data: Dataset
    collate: Callable[[list[Any]], Any] | None
    carry: Carry | None
    tokens_per_step: int


def feed(task: Task, model: nn.Module, config: TrainConfig, args: TrainingArguments) -> Feed:
    """What a task trains on. ValueError if it has no batches of so many tokens."""
    batches = config.accumulate * args.world_size
    if config.batch_tokens is not None:
        count = config.limit * batches
        made: Any = task.token_batches(count, config.seed, config.batch_tokens)
        # an item is a batch already
        return Feed(made, lambda items: items[0], None, batches * made.mean)
    items = config.batch * batches
    count, tokens, start = config.limit * items, items * task.tokens_per_item, task.memory_of(model)
    if start is None:
        return Feed(task.train_set(count, config.seed), task.collate, None, tokens)
    lanes = task.lanes(count, config.seed, config.batch * args.world_size)
    return Feed(lanes, task.collate, Carry(start, args.process_index), tokens)
