"""More positions for a pretrained model: its table, copied end to end.

Beltagy et al., Longformer, https://arxiv.org/abs/2004.05150, section 5: the 512 positions of
RoBERTa, repeated, are a better start for 4,096 than new ones, since most of what they have learnt
is which token is near.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

__all__ = ["extend_positions", "places"]

_NAMES = ("position_embeddings", "embed_positions", "wpe")
_BUFFERS = ("position_ids", "token_type_ids")


def places(model: PreTrainedModel) -> int | None:
    """How many tokens the learnt tables of positions have a place for; None: there is no table.

    ValueError for tables of sines, and for tables that the config does not count by one number
    (Whisper's of sound and of text).
    """
    family, counts = model.config.model_type, set()
    tables = _tables(model)
    for name, table in tables.items():
        if "Sinus" in type(table).__name__:
            raise ValueError(
                f"{family} has {name}, a table of sines, which is not learnt: {_OTHER}"
            )
        counts.add(table.num_embeddings - _first(table))
    if not tables:
        return None
    if len(counts) > 1 or not hasattr(model.config, "max_position_embeddings"):
        told = ", ".join(f"{name} {table.num_embeddings}" for name, table in tables.items())
        raise ValueError(f"{family} counts its positions apart ({told}): {_OTHER}")
    return counts.pop()


_OTHER = "it cannot be made longer here"


@torch.no_grad()
def extend_positions(model: PreTrainedModel, length: int) -> tuple[int, int]:
    """Give a model places for `length` tokens, in place; how many it had, and has.

    A table of learnt positions is repeated; rotary positions need no table, and only the number in
    the config changes. ValueError if the model has as many already, or none that are known here.
    """
    config, before = model.config, places(model)
    if before is None:
        if not hasattr(config, "rope_parameters"):
            raise ValueError(
                f"{config.model_type} has no table of learnt positions and no rotary ones; {_OTHER}"
            )
        before = int(config.max_position_embeddings)
    if length <= before:
        raise ValueError(f"{config.model_type} has {before} positions already, {length} asked")
    uncounted = 0
    for table in _tables(model).values():
        first = _first(table)
        copies = table.weight[first:].repeat(-(-length // before), 1)[:length]
        table.weight = nn.Parameter(
            torch.cat((table.weight[:first], copies)), table.weight.requires_grad
        )
        table.num_embeddings = first + length
        # the config counts RoBERTa's rows without a token, and not those that a class adds itself
        uncounted = 0 if hasattr(table, "offset") else first
    config.max_position_embeddings = length + uncounted
    for module in model.modules():
        for name in _BUFFERS:
            old = module._buffers.get(name)
            if old is not None and old.dim() == 2 and old.shape[1] < config.max_position_embeddings:
                size = config.max_position_embeddings
                new = torch.arange(size)[None] if name == "position_ids" else old.new_zeros(1, size)
                module._buffers[name] = new.to(old)
    return before, length


def _tables(model: nn.Module) -> dict[str, nn.Embedding]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in _NAMES
    }


def _first(table: nn.Embedding) -> int:
    """The row of the first position: BART's class adds rows before it, RoBERTa begins after its
    padding.
    """
    if hasattr(table, "offset"):
        return int(table.offset)
    return 0 if table.padding_idx is None else table.padding_idx + 1
