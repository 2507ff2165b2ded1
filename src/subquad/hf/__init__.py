"""The Hugging Face shell. Importing it registers subquad with transformers' Auto classes.

import subquad.hf
model = AutoModelForCausalLM.from_pretrained("runs/x")
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTimeSeriesPrediction,
    AutoModelForTokenClassification,
    AutoModelForZeroShotImageClassification,
)

from subquad.hf.audio import SubquadFeatureExtractor
from subquad.hf.cache import StateCache
from subquad.hf.classification import (
    SubquadForQuestionAnswering,
    SubquadForSequenceClassification,
    SubquadForTokenClassification,
)
from subquad.hf.config import SubquadConfig
from subquad.hf.ctc import SubquadForCTC
from subquad.hf.images import SubquadForImageClassification
from subquad.hf.match import SubquadForImageTextMatching
from subquad.hf.modeling import SubquadForCausalLM, SubquadForMaskedLM, SubquadModel
from subquad.hf.multiple_choice import SubquadForMultipleChoice
from subquad.hf.seq2seq import SubquadForSeq2SeqLM
from subquad.hf.series import SubquadForTimeSeries
from subquad.hf.swapping import restore, swap
from subquad.hf.swapping.folder import register

__all__ = [
    "StateCache",
    "SubquadConfig",
    "SubquadFeatureExtractor",
    "SubquadForCTC",
    "SubquadForCausalLM",
    "SubquadForImageClassification",
    "SubquadForImageTextMatching",
    "SubquadForMaskedLM",
    "SubquadForMultipleChoice",
    "SubquadForQuestionAnswering",
    "SubquadForSeq2SeqLM",
    "SubquadForSequenceClassification",
    "SubquadForTimeSeries",
    "SubquadForTokenClassification",
    "SubquadModel",
    "restore",
    "swap",
]

AutoConfig.register("subquad", SubquadConfig, exist_ok=True)
AutoModel.register(SubquadConfig, SubquadModel, exist_ok=True)
AutoModelForCausalLM.register(SubquadConfig, SubquadForCausalLM, exist_ok=True)
AutoModelForMaskedLM.register(SubquadConfig, SubquadForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(
    SubquadConfig, SubquadForSequenceClassification, exist_ok=True
)
AutoModelForTokenClassification.register(
    SubquadConfig, SubquadForTokenClassification, exist_ok=True
)
AutoModelForMultipleChoice.register(SubquadConfig, SubquadForMultipleChoice, exist_ok=True)
AutoModelForQuestionAnswering.register(SubquadConfig, SubquadForQuestionAnswering, exist_ok=True)
AutoModelForImageClassification.register(
    SubquadConfig, SubquadForImageClassification, exist_ok=True
)
AutoModelForSeq2SeqLM.register(SubquadConfig, SubquadForSeq2SeqLM, exist_ok=True)
AutoModelForZeroShotImageClassification.register(
    SubquadConfig, SubquadForImageTextMatching, exist_ok=True
)
AutoModelForCTC.register(SubquadConfig, SubquadForCTC, exist_ok=True)
AutoFeatureExtractor.register(SubquadConfig, SubquadFeatureExtractor, exist_ok=True)
AutoModelForTimeSeriesPrediction.register(SubquadConfig, SubquadForTimeSeries, exist_ok=True)

# folders of swapped models hold models of other families
register(
    [
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForCTC,
        AutoModelForImageClassification,
        AutoModelForMaskedLM,
        AutoModelForQuestionAnswering,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        AutoModelForSpeechSeq2Seq,
        AutoModelForTokenClassification,
    ]
)
