"""More positions for a pretrained model: its table, copied end to end.

Beltagy et al., Longformer, https://arxiv.org/abs/2004.05150, section 5: the 512 positions of
RoBERTa, repeated, are a better start for 4,096 than new ones, since most of what they have learnt
is which token is near.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

__all__ = ["extend_positions"]

_NAMES = ("position_embeddings", "embed_positions", "wpe")
_BUFFERS = ("position_ids", "token_type_ids")


@torch.no_grad()
def extend_positions(model: PreTrainedModel, length: int) -> tuple[int, int]:
    """Give a model places for `length` tokens, in place; how many it had, and has.

    A table of learnt positions is repeated; rotary positions need no table, and only the number in
    the config changes. ValueError if the model has as many already, or none that are known here.
    """
    config, tables = model.config, _tables(model)
    if not tables and not hasattr(config, "rope_parameters"):
        raise ValueError(
            f"{config.model_type} has no table of learnt positions and no rotary ones; it cannot "
            "be made longer here"
        )
    before = int(config.max_position_embeddings)
    for name, table in tables.items():
        first = _first(model.get_submodule(name), table)
        before = table.num_embeddings - first
        if length <= before:
            raise ValueError(f"{config.model_type} has {before} positions already, {length} asked")
        learnt = table.weight[first:]
        copies = learnt.repeat(-(-length // before), 1)[:length]
        table.weight = nn.Parameter(torch.cat((table.weight[:first], copies)))
        table.num_embeddings = first + length
    extra = max((t.num_embeddings - length for t in tables.values()), default=0)
    if not tables and length <= before:
        raise ValueError(f"{config.model_type} has {before} positions already, {length} asked")
    # RoBERTa's number counts the places that no token uses; BART's does not
    counts = config.model_type not in ("bart", "mbart", "opt")
    config.max_position_embeddings = length + (extra if counts else 0)
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


def _first(module: nn.Module, table: nn.Embedding) -> int:
    """The row of the first position: RoBERTa begins after its padding, BART at an offset."""
    if table.padding_idx is not None:
        return table.padding_idx + 1
    return int(getattr(module, "offset", 0))
