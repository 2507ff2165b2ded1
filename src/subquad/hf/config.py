"""The shell's configuration: one model type, the architecture's own Config nested as plain data."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from subquad.archs import configure
from subquad.model import FORMAT, complete
from subquad.pair import complete_cross, complete_encoder

__all__ = ["SubquadConfig"]

#: kinds of heads that give what another gives: those that ask, and those with a layer of their own
_LIKE = {"labels": ("query_label",), "tags": ("answers",)}


@strict
class SubquadConfig(PreTrainedConfig):
    """Configuration of every subquad model on the hub or on disk.

    arch: a name of `subquad.ARCHS`.  model: fields of that architecture's Config.
    stem, head: fields as `subquad.model.build` takes them.
    encoder: "arch", "model" and "stem" of what reads the source of an encoder-decoder, whose
    decoder the fields above describe, and "words" if it has a vocabulary of its own; None for all
    other models.
    cross: fields of what reads the source in that decoder, as `subquad.pair.build` takes them.
    ValueError with the nearest name for an unknown architecture or field.
    """

    model_type = "subquad"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "past_key_values",
        "encoder_last_hidden_state",
    ]

    arch: str = "transformer"
    model: dict[str, Any] | None = None
    stem: dict[str, Any] | None = None
    head: dict[str, Any] | None = None
    encoder: dict[str, Any] | None = None
    cross: dict[str, Any] | None = None
    vocab_size: int = 256
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True
    format_version: int = FORMAT

    def __post_init__(self, **kwargs: Any) -> None:
        if self.format_version != FORMAT:
            raise ValueError(
                f"this checkpoint is of format version {self.format_version}; "
                f"this library reads {FORMAT}"
            )
        full = complete(self.arch, self.model, self.stem, self.head)
        self.model, self.stem, self.head = full["model"], full["stem"], full["head"]
        self.encoder = None if self.encoder is None else complete_encoder(self.encoder)
        self.cross = None if self.encoder is None else complete_cross(self.cross)
        self.is_encoder_decoder = self.encoder is not None
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, name: Any, **how: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers has it. ValueError for JSON that is no object, which it trips over."""
        try:
            return super().get_config_dict(name, **how)
        except (TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"the configuration of {name} is no object: {error}") from None

    @property
    def backbone(self) -> Any:
        """The architecture's Config."""
        return configure(self.arch, self.model or {})

    @property
    def hidden_size(self) -> int:
        return self.backbone.dim

    @property
    def num_hidden_layers(self) -> int:
        return self.backbone.num_layers

    @property
    def num_attention_heads(self) -> int:
        return self.backbone.num_heads

    @property
    def is_causal(self) -> bool:
        """Does the backbone never look ahead?"""
        return bool(getattr(self.backbone, "causal", False))

    def check_causal(self) -> None:
        """ValueError if the backbone looks ahead."""
        if self.is_causal:
            return
        if not hasattr(self.backbone, "causal"):
            raise ValueError(
                f"{self.arch} always looks ahead, so it cannot predict what comes next; "
                "take an architecture that streams (subquad list)"
            )
        raise ValueError(f"to predict what comes next, it needs {self.arch} with causal=True")

    def set_labels(self, kind: str, num_labels: int | None = None) -> None:
        """Give the head the kind `kind` and `num_labels` labels, by default the configuration's, if
        it has not both already; a head that does the same otherwise stays."""
        kinds = (kind, *_LIKE.get(kind, ()))
        head = self.head if self.head and self.head["kind"] in kinds else {"kind": kind}
        labels = self.num_labels if num_labels is None else num_labels
        head = {**head, "num_labels": labels}
        self.head = complete(self.arch, self.model, self.stem, head)["head"]

    def parts(self) -> dict[str, Any]:
        """The arguments of `subquad.model.build`. ValueError if there is an encoder besides."""
        if self.encoder is not None:
            raise ValueError(
                "this configuration is of an encoder and a decoder: take SubquadForSeq2SeqLM"
            )
        return self._decoder_parts()

    def pair_parts(self) -> dict[str, Any]:
        """The arguments of `subquad.pair.build`. ValueError if there is no encoder."""
        if self.encoder is None:
            raise ValueError(
                'this configuration is of one model: for a pair give encoder={"arch": ...}, or '
                "take SubquadForCausalLM"
            )
        return {**self._decoder_parts(), "encoder": self.encoder, "cross": self.cross}

    def _decoder_parts(self) -> dict[str, Any]:
        return {
            "arch": self.arch,
            "model": self.model,
            "vocab_size": self.vocab_size,
            "stem": self.stem,
            "head": self.head,
            "tie": self.tie_word_embeddings,
        }
