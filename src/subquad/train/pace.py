"""Pace: how far training is, by steps or by the clock, and what is due at that point.

    fraction = step / steps, or elapsed / minutes if minutes are given (steps may end it sooner)

The schedule of the learning rate follows the fraction, reports come at its multiples of
1 / reports, and training ends at 1. With several processes all go by the first one's clock.
"""

import signal
import threading
import time
from functools import partial
from typing import Any

import torch
from torch import distributed
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainingArguments, get_scheduler

from subquad.train.config import TrainConfig

__all__ = ["Pace", "by_clock"]

_TICKS = 100_000  # the grain of a schedule that follows the clock


class Pace(TrainerCallback):
    """Decides when to report, save and stop. `elapsed` counts seconds, over all resumed parts."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.fraction = 0.0
        self.stopped_by: str | None = None
        self.elapsed_before = 0.0
        self._begun = time.monotonic()
        self._due = 1
        self._restore: dict[int, Any] = {}
        self._alone = True

    @property
    def elapsed(self) -> float:
        """Seconds of training until now."""
        return self.elapsed_before + time.monotonic() - self._begun

    def _measure(self, step: int) -> float:
        by_step = step / self.config.limit
        if self.config.minutes is None:
            return by_step
        return max(by_step, self.elapsed / (60.0 * self.config.minutes))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = time.monotonic()
        self.fraction = self._measure(state.global_step)
        self._due = int(self.fraction * self.config.reports) + 1
        self._alone = args.world_size == 1
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._restore[number] = signal.signal(number, self._interrupted)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.release()

    def release(self) -> None:
        """Give signals back to whoever had them."""
        for number, handler in self._restore.items():
            signal.signal(number, handler)
        self._restore = {}

    def _interrupted(self, number: int, frame: Any) -> None:
        self.stopped_by = signal.Signals(number).name
        # a second Ctrl-C ends the process at once; but a second SIGTERM is the first one again, for
        # schedulers send it to every process, and launchers pass on what they get
        if number == signal.SIGINT and self._alone and number in self._restore:
            signal.signal(number, self._restore.pop(number))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        fraction, stop = self._measure(state.global_step), self.stopped_by is not None
        if args.world_size > 1:
            number = 0 if self.stopped_by is None else signal.Signals[self.stopped_by].value
            told = torch.tensor([fraction, number], dtype=torch.float64, device=args.device)
            distributed.all_reduce(told, distributed.ReduceOp.MAX)
            fraction, stop = told[0].item(), bool(told[1])
            if stop:  # all say the same, whichever process was told
                self.stopped_by = signal.Signals(int(told[1])).name
        self.fraction = fraction
        if fraction >= 1 or fraction * self.config.reports >= self._due:
            self._due = int(fraction * self.config.reports) + 1
            control.should_log = control.should_evaluate = control.should_save = True
        if stop:
            control.should_log = control.should_save = True
        if stop or fraction >= 1:
            control.should_training_stop = True


def by_clock(args: TrainingArguments, optimizer: Optimizer, pace: Pace) -> LambdaLR:
    """The schedule of the arguments over ticks; the clock says how many have passed."""
    over_ticks = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(_TICKS),
        num_training_steps=_TICKS,
    )
    return LambdaLR(optimizer, partial(_at_clock, over_ticks.lr_lambdas[0], pace))


def _at_clock(schedule: Any, pace: Pace, step: int) -> float:
    return schedule(int(min(pace.fraction, 1.0) * _TICKS))
