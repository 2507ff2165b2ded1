"""Connectionist temporal classification: transcripts of frames, by the name transformers looks for.

Its Auto class is AutoModelForCTC; `pipeline("automatic-speech-recognition", model=FOLDER)` finds
the feature extractor and the tokenizer that stand beside the weights.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutput

from subquad.hf.config import SubquadConfig
from subquad.hf.inputs import as_frames, check_whole, loss_options
from subquad.hf.modeling import SubquadPreTrainedModel
from subquad.model import build, complete
from subquad.nn.context import take
from subquad.nn.ctc import CTCHead

__all__ = ["SubquadForCTC"]


class SubquadForCTC(SubquadPreTrainedModel):
    """Log-probabilities of the vocabulary and a blank, `config.pad_token_id`, at each output.

    The head is of kind "ctc", or "joint", which has a decoder besides (`subquad.nn.joint`).

    The stem is of kind "frames", and makes N outputs of T frames (`subquad.nn.FrameStem`).
    """

    main_input_name = "input_features"
    input_modalities = ("audio",)

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        if config.head["kind"] not in ("ctc", "joint"):
            head = {"kind": "ctc", "blank": config.pad_token_id or 0}
            config.head = complete(config.arch, config.model, config.stem, head)["head"]
        blank = config.head["blank"]
        if config.pad_token_id not in (None, blank):
            raise ValueError(
                f"the blank of the head is {blank} and pad_token_id is {config.pad_token_id}; they "
                "are one token, so give the same number"
            )
        self.model = build(**config.parts())
        if not getattr(self.model.stem, "frames", False):
            raise ValueError(
                f"a stem of kind {config.stem['kind']!r} reads no frames; give stem="
                "{'kind': 'frames'}"
            )
        if config.stem["kind"] == "waves":
            self.main_input_name = "input_values"
        self.post_init()

    @property
    def blank(self) -> int:
        """The number that stands for nothing."""
        head = self.model.head
        assert isinstance(head, CTCHead)
        return head.blank

    def lengths(self, frames: Tensor) -> Tensor:
        """How many outputs so many frames (B,) have."""
        return self.model.stem.count(frames)

    def heard(
        self,
        input_features: Tensor | None,
        attention_mask: Tensor | None = None,
        **inputs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Features (B, N, C) that the head takes, and how many of each row are real (B,)."""
        if input_features is None or input_features.dim() != 3:
            what = None if input_features is None else tuple(input_features.shape)
            raise ValueError(f"pass input_features (batch, frames, bands), not {what}")
        frames = torch.full((len(input_features),), input_features.shape[1])
        frames = frames.to(input_features.device)
        if attention_mask is not None:
            order = (attention_mask == 0).to(torch.int8).argsort(dim=1, stable=True)
            input_features, attention_mask = (
                take(input_features, order),
                take(attention_mask, order),
            )
            frames = attention_mask.sum(1)
        given = {"input_features": input_features, "attention_mask": attention_mask, **inputs}
        return self.features(given)[0], self.lengths(frames)

    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        input_values: Tensor | None = None,
        **inputs: Any,
    ) -> CausalLMOutput | tuple:
        """Log-probabilities (B, N, V), as `logits`, of features (B, T, F), or of waves (B, S) in
        their place, `input_values`.

        attention_mask (B, T): 0 marks padding. Wherever it stands, a row's outputs come first, and
        behind them blanks are certain, so that whoever takes the likeliest finds nothing there.
        labels (B, S): the transcript, -100 behind it; the loss is nats for each label.
        """
        options = loss_options(inputs)
        if input_values is not None:
            check_whole(self.model.stem, {"input_values": input_values})
            input_features = as_frames(input_values)
        y, lengths = self.heard(input_features, attention_mask, **inputs)
        log_probs = self.model.head(y)
        loss = None
        if labels is not None:
            loss = self.model.head.loss(y, log_probs, lengths, labels)
            if (items := options.get("num_items_in_batch")) is not None:
                # of this batch and of those that are summed with it
                loss = loss * (labels >= 0).sum() / items
        out = CausalLMOutput(loss=loss, logits=self._silenced(log_probs, lengths))
        return out if return_dict is not False else out.to_tuple()

    def _silenced(self, log_probs: Tensor, lengths: Tensor) -> Tensor:
        slots = torch.arange(log_probs.shape[1], device=log_probs.device)
        never = log_probs.new_full(log_probs.shape[-1:], torch.finfo(log_probs.dtype).min)
        never[self.blank] = 0.0
        return torch.where((slots < lengths[:, None]).unsqueeze(-1), log_probs, never)
