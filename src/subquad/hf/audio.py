"""The feature extractor of speech: log-mel features as transformers' pipelines ask for them."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import BatchFeature, SequenceFeatureExtractor

from subquad.nn.logmel import LogMel

__all__ = ["SubquadFeatureExtractor"]


class SubquadFeatureExtractor(SequenceFeatureExtractor):
    """Waves at 16 kHz to input_features (B, T, 80) and attention_mask (B, T): `subquad.nn.LogMel`.

    mean, std: of each band over a training set, kept in preprocessor_config.json; without them
    nothing is normalised.
    """

    model_input_names: ClassVar[list[str]] = ["input_features", "attention_mask"]

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        feature_size: int = LogMel.bands,
        sampling_rate: int = LogMel.rate,
        padding_value: float = 0.0,
        **kwargs: Any,  # what transformers keeps in its files besides
    ) -> None:
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        if (feature_size, sampling_rate) != (LogMel.bands, LogMel.rate):
            raise ValueError(
                f"{feature_size} bands at {sampling_rate} Hz are asked for; there are "
                f"{LogMel.bands} at {LogMel.rate} Hz"
            )
        self.mean = None if mean is None else [*mean]
        self.std = None if std is None else [*std]

    def log_mel(self) -> LogMel:
        """The module that does it."""
        told = (None if t is None else torch.tensor(t) for t in (self.mean, self.std))
        return LogMel(*told)

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        padding: bool | str | None = None,
        truncation: bool | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """Features of a wave (S,), or of a list of them, padded on the right to the longest.

        ValueError for another sampling rate than 16 kHz, for what is no wave, and for no sample.
        """
        if sampling_rate not in (None, LogMel.rate):
            raise ValueError(
                f"the wave is sampled at {sampling_rate} Hz, and features are those of "
                f"{LogMel.rate} Hz; resample it"
            )
        if padding not in (None, True, "longest") or truncation:
            raise ValueError("waves are padded to the longest of them, and none is cut off")
        waves = [_wave(one) for one in _rows(raw_speech)]
        longest = max(map(len, waves))
        batch = torch.stack([torch.nn.functional.pad(w, (0, longest - len(w))) for w in waves])
        ends = torch.tensor([len(w) for w in waves])
        valid = torch.arange(longest) < ends[:, None]
        with torch.no_grad():
            features, real = self.log_mel()(batch, valid)
        data = {"input_features": features, "attention_mask": real.long()}
        if return_attention_mask is False:
            del data["attention_mask"]
        arrays = {name: t.numpy() for name, t in data.items()}
        return BatchFeature(arrays, tensor_type=return_tensors)


def _rows(raw: Any) -> list[Any]:
    """One wave, or several, as a list of them."""
    if isinstance(raw, list | tuple) and raw and not isinstance(raw[0], int | float):
        return [*raw]
    if getattr(raw, "ndim", 1) == 2:
        return [*raw]
    return [raw]


def _wave(given: Any) -> Tensor:
    wave = torch.as_tensor(given, dtype=torch.float32)
    if wave.dim() != 1 or not len(wave):
        raise ValueError(f"a wave has one axis, of at least one sample, not {tuple(wave.shape)}")
    return wave
