"""Adapters under PEFT's names: ``LoraConfig``, ``get_peft_model``, ``PeftModel`` and PEFT's folders."""

from hunmin.peft.auto import AutoPeftModel as AutoPeftModel
from hunmin.peft.auto import AutoPeftModelForCausalLM as AutoPeftModelForCausalLM
from hunmin.peft.auto import AutoPeftModelForQuestionAnswering as AutoPeftModelForQuestionAnswering
from hunmin.peft.auto import AutoPeftModelForSeq2SeqLM as AutoPeftModelForSeq2SeqLM
from hunmin.peft.auto import AutoPeftModelForSequenceClassification as AutoPeftModelForSequenceClassification
from hunmin.peft.auto import AutoPeftModelForTokenClassification as AutoPeftModelForTokenClassification
from hunmin.peft.auto import prepare_model_for_kbit_training as prepare_model_for_kbit_training
from hunmin.peft.config import IA3Config as IA3Config
from hunmin.peft.config import LoraConfig as LoraConfig
from hunmin.peft.config import PeftConfig as PeftConfig
from hunmin.peft.config import PeftType as PeftType
from hunmin.peft.config import PrefixTuningConfig as PrefixTuningConfig
from hunmin.peft.config import PromptTuningConfig as PromptTuningConfig
from hunmin.peft.config import PromptTuningInit as PromptTuningInit
from hunmin.peft.config import TaskType as TaskType
from hunmin.peft.model import PeftModel as PeftModel
from hunmin.peft.model import get_peft_model as get_peft_model
