"""How to train, as typed fields: the flags --train.FIELD."""

from dataclasses import dataclass

from subquad.nn.choices import choose

__all__ = ["EPISODIC", "MetaConfig", "TrainConfig"]

SCHEDULES = ("cosine", "inverse_sqrt", "linear", "constant", "constant_with_warmup")
INNER = ("sgd", "adam")
#: the tasks that can be trained and scored by episodes: their rows have one label each
EPISODIC = ("classify", "image")


@dataclass(frozen=True)
class TrainConfig:
    """Fields of training.

    Args:
        steps: optimizer steps; without steps and minutes, 1000.
        minutes: stop by the clock instead; the learning rate follows the elapsed fraction.
        batch: items per step and process.
        batch_tokens: about so many tokens per step and process, in place of `batch` items, in
            batches of rows of about one length (task translate).
        accumulate: batches per optimizer step.
        lr: the peak learning rate.
        schedule: cosine, inverse_sqrt, linear, constant, constant_with_warmup.
        warmup: fraction of the training in which the learning rate rises.
        weight_decay: of matrices; norms and biases have none.
        beta2: AdamW's memory of squared gradients.
        clip: the largest norm of a gradient; 0 leaves it.
        label_smoothing: probability that is spread over all words.
        bf16: compute in bfloat16 where that is safe (weights stay float32).
        shard: every process keeps a part of the weights and the optimizer's state, not a copy.
        recompute: forget activations and form them again in backward: less memory, more time.
        reports: how often the validation part is scored and a checkpoint written.
        log_every: steps between two lines of metrics.jsonl.
        seed: of weights, data and dropout.
        freeze: parts that stay as they are, as in [stem,backbone.blocks.0].
        layer_decay: each block learns at this times the rate of the block above it.
        average: at the end the mean of the weights at the last so many reports is scored, and kept
            if it is no worse; 0: never.
        patience: stop after so many reports without a better score; default: never.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    batch_tokens: int | None = None
    accumulate: int = 1
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.1
    beta2: float = 0.98
    clip: float = 1.0
    label_smoothing: float = 0.0
    bf16: bool = False
    shard: bool = False
    recompute: bool = False
    reports: int = 8
    log_every: int = 10
    seed: int = 0
    freeze: tuple[str, ...] = ()
    layer_decay: float = 1.0
    average: int = 0
    patience: int | None = None

    def __post_init__(self) -> None:
        positive = ("batch", "accumulate", "lr", "reports", "log_every")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"train.{name} is {getattr(self, name)}; it must be positive")
        for name in ("steps", "minutes", "batch_tokens"):
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
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"train.layer_decay is {self.layer_decay}; it lies above 0 and up to 1"
            )
        if not (self.average == 0 or 2 <= self.average <= self.reports):
            raise ValueError(
                f"train.average is {self.average} of {self.reports} reports; it is 0, or from 2 to "
                "train.reports"
            )
        if self.average and self.shard:
            raise ValueError(
                f"train.average {self.average} keeps whole weights beside those that learn, and "
                "with train.shard no process has them; leave one of the two out"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"train.patience is {self.patience}; it must be positive")
        choose("schedule", self.schedule, dict.fromkeys(SCHEDULES))
        if not 0 <= self.warmup < 1:
            raise ValueError(f"train.warmup is {self.warmup}; it is a fraction from 0 to below 1")

    @property
    def limit(self) -> int:
        """Optimizer steps at most."""
        return self.steps or (1000 if self.minutes is None else 1_000_000_000)


@dataclass(frozen=True)
class MetaConfig:
    """Fields of training, and of scoring, by episodes.

    Args:
        ways: classes of an episode; given, training goes by episodes (Reptile).
        shots: rows of each class to learn from.
        inner: the optimizer within an episode, sgd or adam (with beta1 = 0).
        inner_lr: its learning rate.
        inner_batch: rows of one of its steps.
        inner_steps: its steps in an episode of training.
        adapt_steps: its steps in an episode that is scored.
        queries: rows of each class that are asked in an episode that is scored.
        episodes: how many are scored at each report, and by eval.
    """

    ways: int | None = None
    shots: int = 5
    inner: str = "adam"
    inner_lr: float = 1e-3
    inner_batch: int = 10
    inner_steps: int = 8
    adapt_steps: int = 20
    queries: int = 10
    episodes: int = 100

    def __post_init__(self) -> None:
        choose("inner optimizer", self.inner, dict.fromkeys(INNER))
        if self.ways is None:
            start = type(self)
            given = [name for name, value in vars(self).items() if value != getattr(start, name)]
            if given:
                raise ValueError(
                    f"meta.{given[0]} is of episodes, and there are none: give --meta.ways"
                )
        elif self.ways < 2:
            raise ValueError(f"meta.ways is {self.ways}; an episode has at least 2 classes")
        for name, value in vars(self).items():
            least = 2 if name == "episodes" else 1
            if isinstance(value, int) and value < least:
                raise ValueError(f"meta.{name} is {value}; it must be at least {least}")
        if self.inner_lr <= 0:
            raise ValueError(f"meta.inner_lr is {self.inner_lr}; it must be positive")
