"""The loop: transformers' Trainer with the task's loss and metric, and checkpoints written whole.

A run folder holds the best weights at its top and the newest checkpoint (weights, optimizer,
schedule, random states, data position, and the memory that is carried, if one is) in
checkpoint-STEP.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, TrainerCallback

from subquad.nn.mixer import after_step, penalty
from subquad.tasks.task import Share, Task
from subquad.train.arguments import arguments
from subquad.train.atomic import finish_folder, reporting, write_files
from subquad.train.checkpoint import check_whole, reading, remove_older, write_sums
from subquad.train.config import TrainConfig
from subquad.train.feed import feed
from subquad.train.pace import Pace, by_clock
from subquad.train.records import Metrics, Progress
from subquad.train.sharding import check_shardable
from subquad.train.transfer import by_depth, freeze
from subquad.train.watch import WatchingTrainer

__all__ = ["Loop"]


class Loop(WatchingTrainer):
    """Trains a model for a task into a run folder."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        config: TrainConfig,
        folder: Path,
        callbacks: tuple[TrainerCallback, ...] = (),
    ) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.pace = Pace(config)
        self.protocol = ""
        args = arguments(task, config, folder)
        freeze(model, config.freeze)
        self.feed = feed(task, model, config, args)
        self.carry, tokens = self.feed.carry, self.feed.tokens_per_step
        if config.shard:
            check_shardable(model, args.world_size)
        self.progress = Progress(self.pace, tokens, task.metric)
        super().__init__(
            model,
            args,
            train_dataset=self.feed.data,
            data_collator=self.feed.collate,
            callbacks=[
                _AfterStep(),
                self.pace,
                Metrics(folder / "metrics.jsonl", self.pace, tokens),
                self.progress,
                *callbacks,
            ],
        )
        self.remove_callback(PrinterCallback)
        # the Trainer takes the mean over a step's batches, and `compute_loss` weighs them
        self.model_accepts_loss_kwargs, self.loss_is_scaled_for_ga = False, False
        self.shards(config.shard)

    # --- what a step computes -----------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        # items are random by themselves: in plain order a resumed run finds its place
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """The batches of a step, and how many targets one of them has on average."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.world_size * len(batches) < 2:
            return batches, None
        scored = torch.stack([self.task.scored(batch).to(device) for batch in batches]).double()
        number = scored.new_tensor(len(batches))
        scored, number = self.total(torch.stack((scored.sum(), number)))
        return batches, scored.clamp(min=1) / number  # of a step without targets the loss is 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        given = inputs if self.carry is None else self.carry.into(inputs)
        loss = self.task.loss(model, given, self.config.label_smoothing)
        if num_items_in_batch is not None:  # the mean over all targets, not one of means
            loss = loss * (self.task.scored(inputs) / num_items_in_batch).to(loss.dtype)
        loss = loss + penalty(self.model)
        self.see(inputs, loss)
        return (loss, {}) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> Any:
        made = self.optimizer
        optimizer = super().create_optimizer(model)
        if made is None and self.config.layer_decay != 1:
            by_depth(optimizer, self.model, self.config.layer_decay)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.config.minutes is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = by_clock(self.args, optimizer or self.optimizer, self.pace)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # --- evaluation ---------------------------------------------------------------------------

    def measure(self) -> dict[str, float]:
        """The numbers of the validation part; all processes call it."""
        share = Share(self.args.process_index, self.args.world_size, self.total)
        with self.accelerator.autocast():
            result = self.task.validate(self.plain_model(), share)
        wrong = {k: v for k, v in result.numbers.items() if not math.isfinite(v)}
        if wrong:  # before anything is written over the weights that were good
            said = ", ".join(f"{name} {value}" for name, value in wrong.items())
            raise ValueError(
                f"the validation part scores {said} at step {self.state.global_step}: training "
                "has diverged; a smaller --train.lr or a longer --train.warmup may help, and the "
                "last checkpoint is untouched"
            )
        self.protocol = result.protocol
        return result.numbers

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict:
        metrics = {f"{metric_key_prefix}_{k}": v for k, v in self.measure().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best = super()._determine_best_metric(metrics, trial)
        if best:
            self.state.best_global_step = self.state.global_step
            self.save_best()
        elif self.config.patience is not None:
            name = f"eval_{self.task.metric}"
            scored = [row["step"] for row in self.state.log_history if name in row]
            since = sum(step > (self.state.best_global_step or 0) for step in scored)
            self.control.should_training_stop |= since >= self.config.patience
        return best

    def save_best(self) -> None:
        """Write the weights as they are now to the top of the run folder; all processes call it."""
        weights = self.weights()
        if self.args.should_save:
            with write_files(self.folder, "best weights") as part:
                self.model.save_pretrained(part, state_dict=weights)

    def save_if_none(self) -> None:
        """Write the weights if no report has found better ones; all processes call it."""
        there = (self.folder / "model.safetensors").is_file()
        if self.total(torch.tensor(float(self.args.should_save and not there))):
            self.save_best()

    # --- checkpoints --------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        staging = Path(self._get_output_dir(trial))
        with reporting(name, self.folder):
            try:
                if self.args.should_save:
                    shutil.rmtree(staging, ignore_errors=True)
                    staging.mkdir()
                self._wait()
                super()._save_checkpoint(model, trial)
                self._wait()
                if self.args.should_save:
                    write_sums(staging / name)
                    finish_folder(staging / name, self.folder / name)
                    remove_older(self.folder, self.state.global_step)
            finally:
                if self.args.should_save:
                    shutil.rmtree(staging, ignore_errors=True)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.folder / ".checkpoint.part")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # the Trainer's own adds its arguments as a pickle
        if self.args.should_save and output_dir is not None:
            self.model.save_pretrained(output_dir, state_dict=state_dict)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.carry is not None:
            self.carry.save(Path(output_dir))
        if self.args.should_save:
            text = json.dumps({"elapsed": self.pace.elapsed, "protocol": self.protocol})
            (Path(output_dir) / "clock.json").write_text(text)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        clock = Path(checkpoint) / "clock.json"
        with reading(clock):
            told = json.loads(clock.read_text())
            self.pace.elapsed_before = float(told["elapsed"])
            self.protocol = told.get("protocol", "")
        if self.carry is not None:
            self.carry.load(Path(checkpoint))
        with reading(Path(checkpoint) / "optimizer.pt or scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # the first of the readers, so that nothing is read if something is missing
        whole = Path(resume_from_checkpoint)
        check_whole(whole, self.args.process_index, self.args.world_size)
        with reading(whole / "model.safetensors"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with reading(Path(checkpoint) / "rng_state.pth"):
                super()._load_rng_state(checkpoint)

    def _wait(self) -> None:
        if self.args.world_size > 1:
            distributed.barrier()

    def close(self) -> None:
        """Give signals and the terminal back, also after an error."""
        self.pace.release()
        self.progress.close()


class _AfterStep(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        after_step(model, state.global_step)
