"""Pictures and texts that belong together: two towers, as transformers' CLIP is called.

Its Auto class is AutoModelForZeroShotImageClassification, to which CLIP belongs too: a picture is
named by the text, of several, that goes with it best.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.utils import ModelOutput

from subquad.hf.config import SubquadConfig
from subquad.hf.inputs import token_inputs
from subquad.hf.modeling import SubquadPreTrainedModel
from subquad.model import complete
from subquad.nn.contrast import alike, contrastive_loss
from subquad.towers import build

__all__ = ["ImageTextOutput", "SubquadForImageTextMatching"]


@dataclass
class ImageTextOutput(ModelOutput):
    """Logits both ways, (I, T) and (T, I), and the unit vectors (I, W) and (T, W) behind them."""

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None


class SubquadForImageTextMatching(SubquadPreTrainedModel):
    """How well each text goes with each picture.

    The configuration describes the tower of texts, and its `encoder` that of pictures, with a stem
    that reads them ("patches"). `config.head` is of kind "vector": `width`, that of both towers'
    vectors, and `pool`, how a text becomes one vector; a picture is the mean of its patches.
    """

    main_input_name = "input_ids"
    input_modalities = ("image", "text")

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        if config.head["kind"] != "vector":
            head = {"kind": "vector"}
            config.head = complete(config.arch, config.model, config.stem, head)["head"]
        parts = config.pair_parts()
        del parts["tie"], parts["cross"]  # no head of words to share with, and nothing is read
        self.model = build(**parts)
        self.post_init()

    @property
    def _parts(self) -> nn.Module:
        return self.model.texts

    def see(self, pixel_values: Tensor) -> Tensor:
        """Unit vectors (I, W) of pictures (I, channels, height, width), normalised."""
        return self.model.see(pixel_values)

    def read(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Unit vectors (T, W) of texts, given as to every model of the shell."""
        tokens, about = _texts({"input_ids": input_ids, "attention_mask": attention_mask, **inputs})
        return self.model.read(tokens, valid=about["valid"], mark=about["mark"])

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_loss: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> ImageTextOutput | tuple:
        """Logits of texts (T, N) and pictures (I, channels, height, width).

        return_loss: text i belongs to picture i, and to that of every equal text.
        """
        if pixel_values is None:
            raise ValueError("pass pixel_values beside the texts; `read` takes texts alone")
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        texts, images = self.read(**given), self.see(pixel_values)
        logits = self.model.temperature(texts @ images.T)
        loss = None
        if return_loss:
            if input_ids is None:
                raise ValueError("return_loss wants input_ids: it asks which texts are equal")
            mask = None if attention_mask is None else attention_mask.bool()
            loss = contrastive_loss(logits, alike(input_ids, mask))
        out = ImageTextOutput(
            loss=loss,
            logits_per_image=logits.T,
            logits_per_text=logits,
            text_embeds=texts,
            image_embeds=images,
        )
        return out if return_dict is not False else out.to_tuple()


def _texts(given: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor | None]]:
    if given.get("document_ids") is not None:
        raise ValueError("texts that are matched take no document_ids: give each text a row")
    return token_inputs(given)
