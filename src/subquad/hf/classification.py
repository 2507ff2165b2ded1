"""Labels for rows and for tokens, and spans: one class per head, as transformers names them.

All take what every model of the shell takes (`SubquadPreTrainedModel`). `config.num_labels` is the
number of labels, and `config.head` tells how a row is pooled.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from subquad.hf.config import SubquadConfig
from subquad.hf.inputs import loss_options, real_outputs
from subquad.hf.marks import first_token, question, through_separator, unmarked
from subquad.hf.modeling import SubquadPreTrainedModel
from subquad.model import build

__all__ = [
    "Labelled",
    "SubquadForQuestionAnswering",
    "SubquadForSequenceClassification",
    "SubquadForTokenClassification",
]


class Labelled(SubquadPreTrainedModel):
    """A model whose head has one logit for each of `config.num_labels`."""

    kind: str
    #: how many logits, where that is no setting
    num_logits: int | None = None

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        config.set_labels(self.kind, self.num_logits)
        self.model = build(**config.parts())
        self.post_init()


class SubquadForSequenceClassification(Labelled):
    """One label for each row."""

    kind = "labels"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Logits (B, L); labels (B,). Without marks the first token of each row is marked."""
        options = loss_options(inputs)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        given["global_attention_mask"] = global_attention_mask
        if unmarked(self.model.stem, given):
            given["global_attention_mask"] = first_token(given)
        y, _ = self.features(given)
        logits = self.model.head(y, real_outputs(self.model.stem, attention_mask))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, **options)
        out = SequenceClassifierOutput(loss=loss, logits=logits)
        return out if return_dict is not False else out.to_tuple()


class SubquadForTokenClassification(Labelled):
    """One label for each token."""

    kind = "tags"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> TokenClassifierOutput | tuple:
        """Logits (B, N, L); labels (B, N) hold -100 where a token is not scored."""
        options = loss_options(inputs)
        y, _ = self.features({"input_ids": input_ids, "attention_mask": attention_mask, **inputs})
        logits = self.model.head(y)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, **options)
        out = TokenClassifierOutput(loss=loss, logits=logits)
        return out if return_dict is not False else out.to_tuple()


class SubquadForQuestionAnswering(Labelled):
    """The span of a document that answers a question: where it starts, and where it ends."""

    kind = "tags"

    def __init__(self, config: SubquadConfig) -> None:
        config.num_labels = 2
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> QuestionAnsweringModelOutput | tuple:
        """Logits (B, N) of the first and of the last token of the answer; positions are (B,).

        Padding has the lowest logit there is. `global_attention_mask` marks the question; without
        it, what stands before the first separator is marked, if `config.sep_token_id` tells one.
        Under a head of kind "answers" it holds no answer, and is of the first kind of tokens, and
        the rest of the second, unless token_type_ids say otherwise.
        """
        options = loss_options(inputs)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        separator = getattr(self.config, "sep_token_id", None)
        if unmarked(self.model.stem, given):
            given["global_attention_mask"] = question(given, separator)
        logits = self._logits(given, separator)
        if attention_mask is not None:
            lowest = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~attention_mask.bool().unsqueeze(-1), lowest)
        start, end = logits.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start, end, start_positions, end_positions, **options)
        out = QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end)
        return out if return_dict is not False else out.to_tuple()

    def _logits(self, given: dict[str, Any], separator: int | None) -> Tensor:
        """Logits (B, N, 2); of a head that tells the question apart, without those of it."""
        apart = getattr(self.model.head, "without", None)
        asked = None if apart is None else through_separator(given, separator)
        if asked is not None and given.get("token_type_ids") is None:
            given = {**given, "token_type_ids": (~asked).long()}
        logits = self.model.head(self.features(given)[0])
        if apart is None or asked is None:
            return logits
        # what is read from the first token is that there is no answer
        return apart(logits, asked & ~first_token(given))
