"""How to train, as typed fields: the flags --train.FIELD."""

from dataclasses import dataclass

from subquad.nn.choices import choose

__all__ = ["TrainConfig"]

SCHEDULES = ("cosine", "inverse_sqrt", "linear", "constant", "constant_with_warmup")


@dataclass(frozen=True)
class TrainConfig:
    """Fields of training.

    Args:
        steps: optimizer steps; without steps and minutes, 1000.
        minutes: stop by the clock instead; the learning rate follows the elapsed fraction.
        batch: items per step and process.
        accumulate: batches per optimizer step.
        lr: the peak learning rate.
        schedule: cosine, inverse_sqrt, linear, constant, constant_with_warmup.
        warmup: fraction of the training in which the learning rate rises.
        weight_decay: of matrices; norms and biases have none.
        beta2: AdamW's memory of squared gradients.
        clip: the largest norm of a gradient; 0 leaves it.
        label_smoothing: probability that is spread over all words.
        bf16: compute in bfloat16 where that is safe (weights stay float32).
        recompute: forget activations and form them again in backward: less memory, more time.
        reports: how often the validation part is scored and a checkpoint written.
        log_every: steps between two lines of metrics.jsonl.
        seed: of weights, data and dropout.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    accumulate: int = 1
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.1
    beta2: float = 0.98
    clip: float = 1.0
    label_smoothing: float = 0.0
    bf16: bool = False
    recompute: bool = False
    reports: int = 8
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("batch", "accumulate", "lr", "reports", "log_every")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"train.{name} is {getattr(self, name)}; it must be positive")
        for name in ("steps", "minutes"):
            if (given := getattr(self, name)) is not None and given <= 0:
                raise ValueError(f"train.{name} is {given}; it must be positive")
        for name in ("weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"train.label_smoothing is {self.label_smoothing}; it is a probability from 0 to "
                "below 1"
            )
        choose("schedule", self.schedule, dict.fromkeys(SCHEDULES))
        if not 0 <= self.warmup < 1:
            raise ValueError(f"train.warmup is {self.warmup}; it is a fraction from 0 to below 1")

    @property
    def limit(self) -> int:
        """Optimizer steps at most."""
        return self.steps or (1000 if self.minutes is None else 1_000_000_000)
