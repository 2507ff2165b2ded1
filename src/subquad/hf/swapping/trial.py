"""A short forward: does a swapped model run at all?

Some attentions show only in a forward that they do more than ours (sinks, capped scores, values of
another width than keys). What is swapped is tried before anything is written.
"""

from typing import Any

import torch

__all__ = ["check_runs", "runs_on"]


@torch.no_grad()
def runs_on(model: Any) -> dict[str, Any] | None:
    """Short inputs that a model runs on as it is; None where it reads something else than those."""
    try:
        given = _inputs(model)
        model(**given)
    except MemoryError:
        raise
    except Exception:  # of a model that reads sound, or more than one input
        return None
    return given


@torch.no_grad()
def check_runs(model: Any, given: dict[str, Any] | None) -> None:
    """ValueError, in one line, if a swapped model does not run on what it ran on before."""
    if given is None:
        return
    try:
        model(**given)
    except MemoryError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = kind + " ".join(str(error).split())
        name = type(model).__name__
        raise ValueError(f"{name} does not run with its attention swapped: {reason}") from error


def _inputs(model: Any) -> dict[str, Any]:
    """A few tokens, or a picture."""
    config = model.config
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 224)
        size = size if isinstance(size, list | tuple) else (size, size)
        images = torch.zeros(1, getattr(config, "num_channels", 3), *size)
        return {"pixel_values": images.to(model.device, model.dtype)}
    ids = torch.arange(8, device=model.device)[None] % config.get_text_config().vocab_size
    pair = {"decoder_input_ids": ids} if config.is_encoder_decoder else {}
    return {"input_ids": ids, **pair}
