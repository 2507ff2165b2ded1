"""The files by which transformers makes of a text the same tokens as a task."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, processors

__all__ = ["Reading", "write"]


@dataclass(frozen=True)
class Reading:
    """How a task reads a text: at most `most` tokens, of which the first is the mark, or the last
    the boundary. Where a question goes before a document, the boundary parts them."""

    most: int
    mark: bool = False
    end: bool = False

    def template(self, mark: str, boundary: str, tokenizer: Tokenizer) -> object:
        """What adds them to the tokens of a text, or of two."""
        before, after = f"{mark} " * self.mark, f" {boundary}" * self.end
        ids = [(word, tokenizer.token_to_id(word)) for word in dict.fromkeys((mark, boundary))]
        return processors.TemplateProcessing(
            single=f"{before}$A{after}", pair=f"{before}$A {boundary} $B{after}", special_tokens=ids
        )


def write(
    tokenizer: Tokenizer,
    folder: Path,
    *,
    boundary: str,
    pad: str,
    hidden: str | None,
    mark: str | None,
    reading: Reading | None,
) -> None:
    """Write a tokenizer whose special tokens have these names; without a reading it adds none."""
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer.from_str(tokenizer.to_str())
    own.post_processor = reading and reading.template(mark or boundary, boundary, own)
    names = {"pad_token": pad, "mask_token": hidden, "cls_token": mark}
    how = {name: word for name, word in names.items() if word is not None}
    if reading is not None:
        # as for the task, what a text says is text, also where it spells a special token
        how |= {"model_max_length": reading.most, "split_special_tokens": True}
    PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token=boundary,
        eos_token=boundary,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **how,
    ).save_pretrained(folder)
