"""Recovery: a model whose attention was swapped learns to do what it did before.

First each swapped layer imitates the attention that it replaced, on the inputs that the original
gives it; then the whole model is tuned on its own task. Zhang et al., LoLCATs, 2024,
https://arxiv.org/abs/2410.10254.

Axes: B batch, N tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from subquad.hf.swapping.attention import PART
from subquad.hf.swapping.watch import Watched, watching
from subquad.train.best import Best
from subquad.train.goals import Goal

__all__ = ["Recovery", "layer_errors", "recover"]


@dataclass(frozen=True)
class Recovery:
    """How a swapped model recovers.

    Args:
        steps: optimizer steps of imitation, layer by layer; only where a part has weights of its
            own, and only those move.
        tune_steps: optimizer steps of the whole model on its own task; default: as many.
        batch: rows of a step.
        lr: of imitation; tuning takes a tenth of it.
        lora: the rank of low-rank adapters of the projections (by peft), which tuning moves, and
            which are merged at the end; default: none, and tuning moves all weights.
        seed: of the rows and of the adapters.
    """

    steps: int = 200
    tune_steps: int | None = None
    batch: int = 8
    lr: float = 1e-3
    lora: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = min(self.steps, self.steps if self.tune_steps is None else self.tune_steps)
        if least < 0 or self.batch < 1 or self.lr <= 0 or (self.lora is not None and self.lora < 1):
            raise ValueError(
                f"steps {self.steps} and tune_steps {self.tune_steps} must not be negative, and "
                f"batch {self.batch}, lr {self.lr} and lora {self.lora} must be positive"
            )


def recover(model: Any, goal: Goal, how: Recovery, say: Callable[[str], None]) -> Any:
    """Train a swapped model, in place; the model, its adapters merged.

    What is kept is best on held-out rows: of imitation by the mean error of layers, of tuning, and
    of both together, by what the goal measures; where nothing was better, the weights as given. A
    copy of all weights is held on the CPU meanwhile.
    """
    torch.manual_seed(how.seed)
    as_given = Best(list(model.parameters()), lambda: goal.measure(model))
    as_given.look(0)
    parts = [p for name, p in model.named_parameters() if f".{PART}." in name]
    if how.steps and parts:
        with watching(model) as layers:
            say(f"each of {len(layers)} layers imitates its attention, {how.steps} steps")

            def imitate(batch: dict[str, Tensor]) -> Tensor:
                model(**goal.inputs(batch))
                return sum(layer.error for layer in layers.values()) / len(layers)  # type: ignore

            best = Best(parts, lambda: sum(_errors(model, goal, layers).values()) / len(layers))
            _train(model, best, imitate, goal.rows, how, how.steps, how.lr)
            say(best.told(how.steps, "error of a layer"))
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    # adapters come after: while they move, what is imitated would move with them
    made = model if how.lora is None else _adapted(model, how.lora)
    learns = [p for name, p in made.named_parameters() if f".{PART}." in name or "lora_" in name]
    steps = how.steps if how.tune_steps is None else how.tune_steps
    if steps:
        say(f"the whole model is tuned, {steps} steps")
        all_of = list(made.parameters()) if how.lora is None else learns
        best = Best(all_of, lambda: goal.measure(model))
        _train(
            made, best, lambda batch: goal.loss(model, batch), goal.rows, how, steps, how.lr / 10
        )
        say(best.told(steps, goal.metric))
    merged = made if how.lora is None else made.merge_and_unload()
    for name, p in merged.named_parameters():  # adapters froze all but themselves
        p.requires_grad_(flags[name])
    before = as_given.lowest
    as_given.look(1)
    if as_given.step == 0:
        as_given.restore()
        say(
            f"nothing was below {before:.4f} {goal.metric}: the weights stay as they were before "
            "recovery"
        )
    return merged


def layer_errors(model: Any, goal: Goal) -> dict[str, float]:
    """The error of each swapped layer, by name, over held-out rows."""
    with watching(model) as layers:
        return _errors(model, goal, layers)


@torch.no_grad()
def _errors(model: Any, goal: Goal, layers: Mapping[str, Watched]) -> dict[str, float]:
    model.eval()
    total = dict.fromkeys(layers, 0.0)
    for batch in goal.held_out(model.device):
        model(**goal.inputs(batch))
        for name, layer in layers.items():
            total[name] += float(layer.error) / goal.batches  # type: ignore[arg-type]
    return total


def _adapted(model: Any, rank: int) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError('--lora needs peft: pip install "subquad[adapters]"') from error
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    )


def _train(
    model: nn.Module,
    best: Best,
    loss: Callable[[dict[str, Tensor]], Tensor],
    rows: Callable[[int], Dataset],
    how: Recovery,
    steps: int,
    lr: float,
) -> None:
    before = {p: p.requires_grad for p in model.parameters()}
    wanted = set(best.weights)
    for p in model.parameters():
        p.requires_grad_(p in wanted)
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=how.batch,
            learning_rate=lr,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 20),
            save_strategy="no",
            report_to=[],
            logging_strategy="no",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=how.seed,
        )
        trainer = _Towards(loss, model, args, train_dataset=rows(steps * how.batch))
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(best)
        trainer.train()
    best.restore()
    for p, wanted_before in before.items():
        p.requires_grad_(wanted_before)
        p.grad = None
    model.eval()


class _Towards(Trainer):
    """A Trainer that goes towards a loss of ours."""

    def __init__(
        self, loss: Callable[[dict[str, Tensor]], Tensor], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.towards = loss
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return self.towards(inputs)
