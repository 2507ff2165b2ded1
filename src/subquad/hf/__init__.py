"""The Hugging Face shell. Importing it registers subquad with transformers' Auto classes.

import subquad.hf
model = AutoModelForCausalLM.from_pretrained("runs/x")
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from subquad.hf.cache import StateCache
from subquad.hf.config import SubquadConfig
from subquad.hf.modeling import SubquadForCausalLM, SubquadForMaskedLM, SubquadModel

__all__ = [
    "StateCache",
    "SubquadConfig",
    "SubquadForCausalLM",
    "SubquadForMaskedLM",
    "SubquadModel",
]

AutoConfig.register("subquad", SubquadConfig, exist_ok=True)
AutoModel.register(SubquadConfig, SubquadModel, exist_ok=True)
AutoModelForCausalLM.register(SubquadConfig, SubquadForCausalLM, exist_ok=True)
AutoModelForMaskedLM.register(SubquadConfig, SubquadForMaskedLM, exist_ok=True)
