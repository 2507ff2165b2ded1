"""What a swapped model is tuned towards, and measured by: its own task on somebody's text.

Axes: B batch, N tokens.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from subquad.data.text import open_text
from subquad.nn.losses import IGNORED

_BATCH = 8  # held-out rows at a time

__all__ = ["GOALS", "Goal", "goal_of"]


class Goal:
    """Rows of `context` tokens from text, and a loss. Base of those below: `loss` and `metric`."""

    #: what `measure` gives is called so
    metric = "loss"

    def __init__(
        self, tokenizer: Any, data: str | None, context: int, *, rows: int, seed: int
    ) -> None:
        self.tokenizer, self.context, self.seed = tokenizer, context, seed
        ends = [tokenizer.cls_token_id, tokenizer.sep_token_id]
        self.ends = [] if None in ends else ends
        if self._inner < 2:
            raise ValueError(
                f"--context is {context}, of which {len(self.ends)} tokens are marks of a row's "
                f"ends; it must be at least {len(self.ends) + 2}"
            )
        text = open_text(data)
        self.train = self._ids(text.take("train"), 64 * rows * context)
        self.valid = self._ids(text.take("valid"), 8 * rows * context)
        self.count = min(rows, (len(self.valid) - 1) // self._inner)

    @property
    def _inner(self) -> int:
        return self.context - len(self.ends)

    @property
    def batches(self) -> int:
        """Batches of held-out rows."""
        return math.ceil(self.count / _BATCH)

    def _ids(self, documents: Any, most: int) -> Tensor:
        """Tokens of about so many bytes of text."""
        found = []
        for document in documents.head(most).documents():
            found += self.tokenizer(document.decode(errors="replace"), add_special_tokens=False)[
                "input_ids"
            ]
        if len(found) <= self._inner:
            raise ValueError(
                f"{documents.source} has {len(found)} tokens, and a row takes {self.context}; give "
                "more text or a shorter --context"
            )
        return torch.tensor(found)

    def rows(self, count: int) -> Dataset:
        """So many training rows at random places."""
        return _Rows(self, self.train, count)

    def held_out(self, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """Batches of held-out rows, one after the other, the same each time."""
        rows = _Rows(self, self.valid, self.count, random=False)
        for batch in DataLoader(rows, batch_size=_BATCH):
            yield {name: t.to(device) for name, t in batch.items()}

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a model is given of a batch."""
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def row(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        """One row: tokens between the model's own ends."""
        whole = [*self.ends[:1], *ids.tolist(), *self.ends[1:]]
        tokens = torch.tensor(whole)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def against(self, original: Any) -> None:
        """Keep the model that rows are measured against, where a goal has one."""

    def loss(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    @torch.no_grad()
    def measure(self, model: Any) -> float:
        """The mean over held-out rows of what `metric` names."""
        model.eval()
        return (
            sum(float(self.loss(model, batch)) for batch in self.held_out(model.device))
            / self.batches
        )


class NextToken(Goal):
    """Causal language models: nats per token; the perplexity is exp of it."""

    metric = "nats per token"

    def loss(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        logits = model(**self.inputs(batch)).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1).float(), batch["input_ids"][:, 1:].flatten())


class HiddenToken(Goal):
    """Masked language models: nats per hidden token; 15 % are hidden, and at least one of a row."""

    metric = "nats per hidden token"

    def row(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        made = super().row(ids, draw)
        hidden = torch.zeros_like(made["input_ids"], dtype=torch.bool)
        first = len(self.ends[:1])
        chance = torch.rand(len(ids), generator=draw)
        # the mean over no token at all would be no number
        hidden[first : first + len(ids)] = (chance < 0.15) | (chance == chance.min())
        labels = made["input_ids"].masked_fill(~hidden, IGNORED)
        made["input_ids"] = made["input_ids"].masked_fill(hidden, self.tokenizer.mask_token_id)
        return {**made, "labels": labels}

    def loss(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        logits = model(**self.inputs(batch)).logits.flatten(0, 1).float()
        return F.cross_entropy(logits, batch["labels"].flatten(), ignore_index=IGNORED)


class Vectors(Goal):
    """Encoders without a head: 1 - cosine of a row's mean vector to that of the original."""

    metric = "1 - cosine to the original"
    original: Any

    def against(self, original: Any) -> None:
        self.original = copy.deepcopy(original).eval()

    def loss(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            self.original.to(batch["input_ids"].device)
            wanted = self.original(**self.inputs(batch)).last_hidden_state.mean(1)
        found = model(**self.inputs(batch)).last_hidden_state.mean(1)
        return 1 - F.cosine_similarity(found, wanted, dim=-1).mean()


class _Rows(Dataset):
    """Rows at random places, each by its number alone; or one after the other."""

    def __init__(self, goal: Goal, ids: Tensor, count: int, *, random: bool = True) -> None:
        self.goal, self.ids, self.count, self.random = goal, ids, count, random

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(1_000_003 * self.goal.seed + index)
        inner, last = self.goal._inner, len(self.ids) - self.goal._inner
        at = index * inner
        if self.random:
            at = int(torch.randint(last, (), generator=draw))
        return self.goal.row(self.ids[at : at + inner], draw)


#: by the end of a model's class name
GOALS = {
    "ForCausalLM": NextToken,
    "LMHeadModel": NextToken,
    "ForMaskedLM": HiddenToken,
    "Model": Vectors,
}


def goal_of(model: Any) -> type[Goal]:
    """What a model is measured by. ValueError for a head whose task text alone does not tell."""
    name = type(model).__name__
    for end, goal in GOALS.items():
        if name.endswith(end):
            return goal
    raise ValueError(
        f"{name} has a head whose labels text alone does not give; recover its base model, or one "
        f"that ends in {', '.join(GOALS)}"
    )
