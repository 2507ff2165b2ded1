"""Labels for pictures, by the name that transformers looks for."""

from typing import Any

from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput

from subquad.hf.config import SubquadConfig
from subquad.hf.inputs import loss_options
from subquad.hf.modeling import SubquadPreTrainedModel
from subquad.model import build

__all__ = ["SubquadForImageClassification"]


class SubquadForImageClassification(SubquadPreTrainedModel):
    """One label for each picture; `config.stem` is of a kind that reads pictures ("patches").

    `config.num_labels` is the number of labels, and `config.head` tells how patches are pooled.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        config.set_labels("labels")
        self.model = build(**config.parts())
        if not getattr(self.model.stem, "whole", False):
            raise ValueError(
                f"a stem of kind {config.stem['kind']!r} reads no pictures; give stem="
                "{'kind': 'patches', 'image_size': 224, 'patch': 16}"
            )
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> ImageClassifierOutput | tuple:
        """Logits (B, L) of pictures (B, channels, height, width), normalised; labels (B,)."""
        options = loss_options(inputs)
        y, _ = self.features({"pixel_values": pixel_values, **inputs})
        logits = self.model.head(y)
        loss = (
            None if labels is None else self.loss_function(labels, logits, self.config, **options)
        )
        out = ImageClassifierOutput(loss=loss, logits=logits)
        return out if return_dict is not False else out.to_tuple()
