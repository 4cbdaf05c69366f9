"""Hunmin: transformers from a dozen blocks.

Nothing heavy is imported here. A name such as ``pipeline`` or ``AutoModel`` is looked up in the table below when it is first used
(PEP 562), and a class name that Transformers taught, such as ``BertForMaskedLM``, is made from its family and its task by ``hunmin.auto``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from hunmin.align import AutoModelForCausalLMWithValueHead as AutoModelForCausalLMWithValueHead
    from hunmin.align import BestOfNSampler as BestOfNSampler
    from hunmin.align import CPOConfig as CPOConfig
    from hunmin.align import CPOTrainer as CPOTrainer
    from hunmin.align import DataCollatorForCompletionOnlyLM as DataCollatorForCompletionOnlyLM
    from hunmin.align import DistillConfig as DistillConfig
    from hunmin.align import DistillTrainer as DistillTrainer
    from hunmin.align import DPOConfig as DPOConfig
    from hunmin.align import DPOTrainer as DPOTrainer
    from hunmin.align import GKDConfig as GKDConfig
    from hunmin.align import GKDTrainer as GKDTrainer
    from hunmin.align import GRPOConfig as GRPOConfig
    from hunmin.align import GRPOTrainer as GRPOTrainer
    from hunmin.align import KTOConfig as KTOConfig
    from hunmin.align import KTOTrainer as KTOTrainer
    from hunmin.align import LengthSampler as LengthSampler
    from hunmin.align import ORPOConfig as ORPOConfig
    from hunmin.align import ORPOTrainer as ORPOTrainer
    from hunmin.align import PPOConfig as PPOConfig
    from hunmin.align import PPOTrainer as PPOTrainer
    from hunmin.align import RejectionConfig as RejectionConfig
    from hunmin.align import RejectionSamplingTrainer as RejectionSamplingTrainer
    from hunmin.align import RewardConfig as RewardConfig
    from hunmin.align import RewardTrainer as RewardTrainer
    from hunmin.align import RLOOConfig as RLOOConfig
    from hunmin.align import RLOOTrainer as RLOOTrainer
    from hunmin.align import SFTConfig as SFTConfig
    from hunmin.align import SFTTrainer as SFTTrainer
    from hunmin.align import create_reference_model as create_reference_model
    from hunmin.auto import AutoConfig as AutoConfig
    from hunmin.auto import AutoModel as AutoModel
    from hunmin.auto import AutoModelForCausalLM as AutoModelForCausalLM
    from hunmin.auto import AutoModelForMaskedLM as AutoModelForMaskedLM
    from hunmin.auto import AutoModelForMultipleChoice as AutoModelForMultipleChoice
    from hunmin.auto import AutoModelForNextSentencePrediction as AutoModelForNextSentencePrediction
    from hunmin.auto import AutoModelForPreTraining as AutoModelForPreTraining
    from hunmin.auto import AutoModelForQuestionAnswering as AutoModelForQuestionAnswering
    from hunmin.auto import AutoModelForSeq2SeqLM as AutoModelForSeq2SeqLM
    from hunmin.auto import AutoModelForSequenceClassification as AutoModelForSequenceClassification
    from hunmin.auto import AutoModelForTokenClassification as AutoModelForTokenClassification
    from hunmin.errors import ConfigError as ConfigError
    from hunmin.errors import FormatError as FormatError
    from hunmin.errors import HunminError as HunminError
    from hunmin.errors import InputError as InputError
    from hunmin.errors import SourceError as SourceError
    from hunmin.generate import GenerationConfig as GenerationConfig
    from hunmin.generate import TextIteratorStreamer as TextIteratorStreamer
    from hunmin.generate import TextStreamer as TextStreamer
    from hunmin.generate import set_seed as set_seed
    from hunmin.model import PreTrainedModel as PreTrainedModel
    from hunmin.peft import AutoPeftModel as AutoPeftModel
    from hunmin.peft import AutoPeftModelForCausalLM as AutoPeftModelForCausalLM
    from hunmin.peft import AutoPeftModelForQuestionAnswering as AutoPeftModelForQuestionAnswering
    from hunmin.peft import AutoPeftModelForSeq2SeqLM as AutoPeftModelForSeq2SeqLM
    from hunmin.peft import AutoPeftModelForSequenceClassification as AutoPeftModelForSequenceClassification
    from hunmin.peft import AutoPeftModelForTokenClassification as AutoPeftModelForTokenClassification
    from hunmin.peft import IA3Config as IA3Config
    from hunmin.peft import LoraConfig as LoraConfig
    from hunmin.peft import PeftConfig as PeftConfig
    from hunmin.peft import PeftModel as PeftModel
    from hunmin.peft import PeftType as PeftType
    from hunmin.peft import PrefixTuningConfig as PrefixTuningConfig
    from hunmin.peft import PromptTuningConfig as PromptTuningConfig
    from hunmin.peft import PromptTuningInit as PromptTuningInit
    from hunmin.peft import TaskType as TaskType
    from hunmin.peft import get_peft_model as get_peft_model
    from hunmin.peft import prepare_model_for_kbit_training as prepare_model_for_kbit_training
    from hunmin.pipelines import pipeline as pipeline
    from hunmin.quantization import AwqConfig as AwqConfig
    from hunmin.quantization import BitsAndBytesConfig as BitsAndBytesConfig
    from hunmin.quantization import GPTQConfig as GPTQConfig
    from hunmin.text import AutoTokenizer as AutoTokenizer
    from hunmin.text import BatchEncoding as BatchEncoding
    from hunmin.text import Tokenizer as Tokenizer
    from hunmin.train import DataCollatorForLanguageModeling as DataCollatorForLanguageModeling
    from hunmin.train import DataCollatorForMultipleChoice as DataCollatorForMultipleChoice
    from hunmin.train import DataCollatorForSeq2Seq as DataCollatorForSeq2Seq
    from hunmin.train import DataCollatorForTokenClassification as DataCollatorForTokenClassification
    from hunmin.train import DataCollatorForWholeWordMask as DataCollatorForWholeWordMask
    from hunmin.train import DataCollatorWithFlattening as DataCollatorWithFlattening
    from hunmin.train import DataCollatorWithPadding as DataCollatorWithPadding
    from hunmin.train import EarlyStoppingCallback as EarlyStoppingCallback
    from hunmin.train import EvalPrediction as EvalPrediction
    from hunmin.train import PrinterCallback as PrinterCallback
    from hunmin.train import ProgressCallback as ProgressCallback
    from hunmin.train import Seq2SeqTrainer as Seq2SeqTrainer
    from hunmin.train import Seq2SeqTrainingArguments as Seq2SeqTrainingArguments
    from hunmin.train import Trainer as Trainer
    from hunmin.train import TrainerCallback as TrainerCallback
    from hunmin.train import TrainerControl as TrainerControl
    from hunmin.train import TrainerState as TrainerState
    from hunmin.train import TrainingArguments as TrainingArguments
    from hunmin.train import default_data_collator as default_data_collator
    from hunmin.train import get_constant_schedule as get_constant_schedule
    from hunmin.train import get_constant_schedule_with_warmup as get_constant_schedule_with_warmup
    from hunmin.train import get_cosine_schedule_with_warmup as get_cosine_schedule_with_warmup
    from hunmin.train import get_linear_schedule_with_warmup as get_linear_schedule_with_warmup
    from hunmin.train import get_scheduler as get_scheduler

_NAMES = {
    "hunmin.align": "AutoModelForCausalLMWithValueHead BestOfNSampler CPOConfig CPOTrainer DPOConfig DPOTrainer "
    "DataCollatorForCompletionOnlyLM DistillConfig DistillTrainer GKDConfig GKDTrainer GRPOConfig GRPOTrainer "
    "KTOConfig KTOTrainer LengthSampler ORPOConfig ORPOTrainer PPOConfig PPOTrainer RLOOConfig RLOOTrainer "
    "RejectionConfig RejectionSamplingTrainer RewardConfig RewardTrainer SFTConfig SFTTrainer create_reference_model",
    "hunmin.auto": "AutoConfig AutoModel AutoModelForCausalLM AutoModelForMaskedLM AutoModelForMultipleChoice "
    "AutoModelForNextSentencePrediction AutoModelForPreTraining AutoModelForQuestionAnswering AutoModelForSeq2SeqLM "
    "AutoModelForSequenceClassification AutoModelForTokenClassification",
    "hunmin.errors": "ConfigError FormatError HunminError InputError SourceError",
    "hunmin.generate": "GenerationConfig TextIteratorStreamer TextStreamer set_seed",
    "hunmin.model": "PreTrainedModel",
    "hunmin.peft": "AutoPeftModel AutoPeftModelForCausalLM AutoPeftModelForQuestionAnswering AutoPeftModelForSeq2SeqLM "
    "AutoPeftModelForSequenceClassification AutoPeftModelForTokenClassification IA3Config LoraConfig PeftConfig PeftModel PeftType "
    "PrefixTuningConfig PromptTuningConfig PromptTuningInit TaskType get_peft_model prepare_model_for_kbit_training",
    "hunmin.pipelines": "pipeline",
    "hunmin.quantization": "AwqConfig BitsAndBytesConfig GPTQConfig",
    "hunmin.text": "AutoTokenizer BatchEncoding Tokenizer",
    "hunmin.train": "DataCollatorForLanguageModeling DataCollatorForMultipleChoice DataCollatorForSeq2Seq "
    "DataCollatorForTokenClassification DataCollatorForWholeWordMask DataCollatorWithFlattening DataCollatorWithPadding "
    "EarlyStoppingCallback EvalPrediction PrinterCallback ProgressCallback Seq2SeqTrainer Seq2SeqTrainingArguments "
    "Trainer TrainerCallback TrainerControl TrainerState TrainingArguments default_data_collator get_constant_schedule "
    "get_constant_schedule_with_warmup get_cosine_schedule_with_warmup get_linear_schedule_with_warmup get_scheduler",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
# How the class names of Transformers end or, with a task, what they contain. Only these load torch to find out whether they exist.
_TAUGHT = ("Model", "Config", "Tokenizer", "TokenizerFast", "PreTrainedModel")

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if home := _HOME.get(name):
        found = getattr(import_module(home), name)
    elif name[:1].isupper() and (name.endswith(_TAUGHT) or "For" in name):
        found = import_module("hunmin.auto").by_name(name)
    else:
        found = None
    if found is None:
        raise AttributeError(f"module 'hunmin' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
