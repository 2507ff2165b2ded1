"""Our fields of training in transformers' words."""

import os
from pathlib import Path

import torch
from transformers import TrainingArguments

from subquad.tasks.task import Task
from subquad.train.config import TrainConfig

__all__ = ["arguments"]


def arguments(task: Task, config: TrainConfig, folder: Path) -> TrainingArguments:
    """Our fields in transformers' words."""
    cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=config.limit,
        per_device_train_batch_size=config.batch if config.batch_tokens is None else 1,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.lr,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        max_grad_norm=config.clip,
        bf16=config.bf16,
        activation_checkpointing=config.recompute,
        metric_for_best_model=task.metric,
        greater_is_better=task.greater_is_better,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        seed=config.seed,
        eval_strategy="no",  # Pace decides
        save_strategy="no",
        report_to="none",
        log_level="error",
        log_level_replica="error",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=cpu,
        ddp_find_unused_parameters=False,
        # naming a backend asks for processes, also where torchrun has not started any
        ddp_backend="gloo" if cpu and int(os.environ.get("WORLD_SIZE", 1)) > 1 else None,
    )
