"""Forecasts of series: parameters of a likelihood for each step, and sampled paths.

Token t of a series holds the value before it, z_(t-1) / scale, and what is known of its own time;
what comes out is the distribution of z_t. So a forecast reads the context once, draws z, and reads
what it drew.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from transformers.utils import ModelOutput

from subquad.hf.cache import StateCache
from subquad.hf.config import SubquadConfig
from subquad.hf.inputs import last_outputs, loss_options
from subquad.hf.modeling import SubquadPreTrainedModel
from subquad.model import build, complete
from subquad.nn.context import take
from subquad.nn.likelihoods import Likelihood
from subquad.nn.state import ModelState, select

__all__ = ["ForecastOutput", "SubquadForTimeSeries"]


@dataclass
class ForecastOutput(ModelOutput):
    """Parameters (B, N, P) of the likelihood, for target / scale; the loss of targets, if given."""

    loss: Tensor | None = None
    params: Tensor | None = None
    past_key_values: StateCache | None = None


class SubquadForTimeSeries(SubquadPreTrainedModel):
    """A distribution of each step of a series, given what came before; any causal architecture.

    `config.stem` is of kind "series" and tells the columns; `config.head` is of kind "forecast" and
    tells the likelihood, Gaussian by default.
    """

    main_input_name = "inputs"
    input_modalities = ("time",)

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        config.check_causal()
        if config.stem["kind"] != "series":
            raise ValueError(
                f"a stem of kind {config.stem['kind']!r} reads no series; give stem="
                "{'kind': 'series', 'covariates': 4}, with as many covariates as there are"
            )
        if config.head["kind"] != "forecast":
            head = {"kind": "forecast"}
            config.head = complete(config.arch, config.model, config.stem, head)["head"]
        self.model = build(**config.parts())
        self.post_init()

    @property
    def likelihood(self) -> Likelihood:
        """What the parameters mean: scores, samples, quantiles, means."""
        return self.model.head.likelihood

    def forward(
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        targets: Tensor | None = None,
        observed: Tensor | None = None,
        scale: Tensor | None = None,
        past_key_values: StateCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> ForecastOutput | tuple:
        """Parameters (B, N, P) for inputs (B, N, F), whose columns are those of the stem.

        targets (B, N): z_t of each token, in its own units; the loss is the likelihood's, over what
        is `observed` (B, N), by default what is not NaN, and no padding.  scale (B,): what inputs
        were divided by, 1 by default (`subquad.nn.mean_scale`).
        """
        loss_options(others)
        given = {"inputs_embeds": inputs, "attention_mask": attention_mask, **others}
        y, cache = self.features(given, past_key_values, use_cache)
        params, loss = self.model.head(y), None
        if targets is not None:
            if targets.shape != inputs.shape[:2]:
                raise ValueError(
                    f"targets are {tuple(targets.shape)} and inputs {tuple(inputs.shape[:2])}; "
                    "(batch, length) must agree"
                )
            known = ~targets.isnan() if observed is None else observed.bool()
            targets, known = last_outputs(targets, known, attention_mask, params.shape[1])
            loss = self.likelihood.loss(params, targets, known, _scale(scale, inputs))
        out = ForecastOutput(loss=loss, params=params, past_key_values=cache)
        return out if return_dict is not False else out.to_tuple()

    @torch.no_grad()
    def paths(
        self,
        context: Tensor,
        future: Tensor,
        scale: Tensor | None = None,
        *,
        horizon: int,
        num_samples: int = 100,
        generator: Generator | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Sampled continuations (B, S, horizon) of series, in the units of the targets.

        context (B, N, F): inputs up to the first step to forecast, whose token holds the last value
        that is known.  future (B, at least horizon - 1, F - 1): the other columns of the tokens
        after it.  scale (B,): as in `forward`.  Each sample is fed back as the value before the
        next token; the context is read once, and its state repeated for each of `num_samples`.
        ValueError if the future is too short.
        """
        _check_future(context, future, horizon, num_samples)
        scale = _scale(scale, context)
        params, state = self._read(context, attention_mask)
        each = torch.arange(len(context), device=context.device).repeat_interleave(num_samples)
        state, params, scale = select(state, each), params[each], scale[each]
        drawn = [self.likelihood.sample(params, scale, generator)]
        for step in range(horizon - 1):
            value = (drawn[-1] / scale[:, None]).to(context.dtype)
            token = torch.cat((value, future[each, step].to(context.dtype)), 1)
            params, state = self.model(token[:, None], state=state)
            drawn.append(self.likelihood.sample(params, scale, generator))
        return torch.cat(drawn, 1).unflatten(0, (-1, num_samples))

    def _read(self, context: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, ModelState]:
        """Parameters (B, 1, P) of each row's last token, and the state after it."""
        state = self.model.init_state(len(context))
        if attention_mask is None:
            return self.model(context, state=state, last=1)
        valid = attention_mask.bool()
        params, state = self.model(context, valid=valid, state=state)
        slots = torch.arange(valid.shape[1], device=valid.device)
        return take(params, (slots * valid).amax(1, keepdim=True)), state


def _scale(scale: Tensor | None, inputs: Tensor) -> Tensor:
    if scale is None:
        return inputs.new_ones(len(inputs))
    if scale.shape != inputs.shape[:1]:
        raise ValueError(
            f"scale is {tuple(scale.shape)} and the batch has {len(inputs)} rows; give one number "
            "for each"
        )
    return scale


def _check_future(context: Tensor, future: Tensor, horizon: int, num_samples: int) -> None:
    if min(horizon, num_samples, context.shape[1]) < 1:
        raise ValueError(
            f"a forecast of {num_samples} samples over {horizon} steps after {context.shape[1]} "
            "tokens; each must be at least 1"
        )
    rows, steps, width = len(context), horizon - 1, context.shape[-1] - 1
    wrong = future.dim() != 3 or (len(future), future.shape[-1]) != (rows, width)
    if wrong or future.shape[1] < steps:
        raise ValueError(
            f"future is {tuple(future.shape)}; for a horizon of {horizon} it must be ({rows}, at "
            f"least {steps}, {width}): all columns but the first of the tokens after the context"
        )
