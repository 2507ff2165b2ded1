"""The best of several answers, by the name that transformers looks for.

Axes: B batch, K choices, N tokens, C model width.
"""

from typing import Any

from torch import Tensor
from transformers.loss.loss_utils import fixed_cross_entropy
from transformers.modeling_outputs import MultipleChoiceModelOutput

from subquad.hf.classification import Labelled
from subquad.hf.inputs import loss_options, real_outputs
from subquad.hf.marks import behind_question, first_token, unmarked

__all__ = ["SubquadForMultipleChoice"]


class SubquadForMultipleChoice(Labelled):
    """How good each of several continuations is: every choice is read whole, with its question.

    `config.head` is of kind "labels" and tells how the tokens of a choice are pooled.
    """

    kind, num_logits = "labels", 1

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> MultipleChoiceModelOutput | tuple:
        """Logits (B, K) of input_ids (B, K, N), or inputs_embeds (B, K, N, C); whatever describes
        tokens is (B, K, N) too. labels (B,): which choice is the best.

        Without marks, the answer is marked, from the second token behind the first separator on,
        as Longformer has it, if `config.sep_token_id` tells one; else each first token.
        ValueError for inputs without an axis of choices.
        """
        options = loss_options(inputs)
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        given |= {"attention_mask": attention_mask, **inputs}
        shape = _choices(given)
        flat = {name: t.flatten(0, 1) if isinstance(t, Tensor) else t for name, t in given.items()}
        if unmarked(self.model.stem, flat):
            answer = behind_question(flat, getattr(self.config, "sep_token_id", None))
            flat["global_attention_mask"] = first_token(flat) if answer is None else answer
        y, _ = self.features(flat)
        real = real_outputs(self.model.stem, flat["attention_mask"])
        logits = self.model.head(y, real).view(shape)
        loss = None
        if labels is not None:
            loss = fixed_cross_entropy(logits, labels.to(logits.device), **options)
        out = MultipleChoiceModelOutput(loss=loss, logits=logits)
        return out if return_dict is not False else out.to_tuple()


def _choices(given: dict[str, Any]) -> tuple[int, int]:
    """Batch and choices. ValueError unless all inputs have both, in the same number."""
    ids, embedded = given["input_ids"], given["inputs_embeds"]
    if ids is None and embedded is None:
        raise ValueError("pass input_ids (batch, choices, length), or inputs_embeds in their place")
    shape = (embedded if ids is None else ids).shape[:3]
    for name, t in given.items():
        if not isinstance(t, Tensor):
            continue
        axes = 4 if name == "inputs_embeds" else 3
        if t.dim() != axes or t.shape[:3] != shape:
            raise ValueError(
                f"{name} is {tuple(t.shape)}: choices come as (batch, choices, length), here all "
                f"{tuple(shape)}; one choice alone needs that axis too"
            )
    return shape[0], shape[1]
