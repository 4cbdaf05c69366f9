"""Training: the Trainer, objectives, collators that need no padding, packing and mixing of data sets, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hunmin.train.arguments import Seq2SeqTrainingArguments as Seq2SeqTrainingArguments
    from hunmin.train.arguments import TrainingArguments as TrainingArguments
    from hunmin.train.callbacks import DefaultFlowCallback as DefaultFlowCallback
    from hunmin.train.callbacks import EarlyStoppingCallback as EarlyStoppingCallback
    from hunmin.train.callbacks import LogFileCallback as LogFileCallback
    from hunmin.train.callbacks import PrinterCallback as PrinterCallback
    from hunmin.train.callbacks import ProgressCallback as ProgressCallback
    from hunmin.train.callbacks import TrainerCallback as TrainerCallback
    from hunmin.train.collators import DataCollatorForContrastive as DataCollatorForContrastive
    from hunmin.train.collators import DataCollatorForDenoising as DataCollatorForDenoising
    from hunmin.train.collators import DataCollatorForLanguageModeling as DataCollatorForLanguageModeling
    from hunmin.train.collators import DataCollatorForMultipleChoice as DataCollatorForMultipleChoice
    from hunmin.train.collators import DataCollatorForNextSentence as DataCollatorForNextSentence
    from hunmin.train.collators import DataCollatorForPrefixLM as DataCollatorForPrefixLM
    from hunmin.train.collators import DataCollatorForReplacedTokens as DataCollatorForReplacedTokens
    from hunmin.train.collators import DataCollatorForSeq2Seq as DataCollatorForSeq2Seq
    from hunmin.train.collators import DataCollatorForSpanCorruption as DataCollatorForSpanCorruption
    from hunmin.train.collators import DataCollatorForTokenClassification as DataCollatorForTokenClassification
    from hunmin.train.collators import DataCollatorForWholeWordMask as DataCollatorForWholeWordMask
    from hunmin.train.collators import DataCollatorWithFlattening as DataCollatorWithFlattening
    from hunmin.train.collators import DataCollatorWithPadding as DataCollatorWithPadding
    from hunmin.train.collators import default_data_collator as default_data_collator
    from hunmin.train.mixing import interleave as interleave
    from hunmin.train.mixing import mixing_rates as mixing_rates
    from hunmin.train.objectives import ContrastiveTrainer as ContrastiveTrainer
    from hunmin.train.objectives import DistillationTrainer as DistillationTrainer
    from hunmin.train.objectives import ElectraTrainer as ElectraTrainer
    from hunmin.train.packing import group_texts as group_texts
    from hunmin.train.packing import pack as pack
    from hunmin.train.ray import train_on_ray as train_on_ray
    from hunmin.train.recipe import train_from_scratch as train_from_scratch
    from hunmin.train.report import ReportCallback as ReportCallback
    from hunmin.train.rows import flatten as flatten
    from hunmin.train.rows import unpadded as unpadded
    from hunmin.train.rows import without_padding as without_padding
    from hunmin.train.schedules import get_constant_schedule as get_constant_schedule
    from hunmin.train.schedules import get_constant_schedule_with_warmup as get_constant_schedule_with_warmup
    from hunmin.train.schedules import get_cosine_schedule_with_warmup as get_cosine_schedule_with_warmup
    from hunmin.train.schedules import get_linear_schedule_with_warmup as get_linear_schedule_with_warmup
    from hunmin.train.schedules import get_scheduler as get_scheduler
    from hunmin.train.seq2seq import Seq2SeqTrainer as Seq2SeqTrainer
    from hunmin.train.staged import gradual_unfreezing as gradual_unfreezing
    from hunmin.train.staged import layer_groups as layer_groups
    from hunmin.train.staged import layerwise_parameters as layerwise_parameters
    from hunmin.train.staged import slanted_triangular as slanted_triangular
    from hunmin.train.state import BestRun as BestRun
    from hunmin.train.state import EvalPrediction as EvalPrediction
    from hunmin.train.state import TrainerControl as TrainerControl
    from hunmin.train.state import TrainerState as TrainerState
    from hunmin.train.trackers import CodeCarbonCallback as CodeCarbonCallback
    from hunmin.train.trackers import MLflowCallback as MLflowCallback
    from hunmin.train.trackers import TensorBoardCallback as TensorBoardCallback
    from hunmin.train.trackers import WandbCallback as WandbCallback
    from hunmin.train.trainer import Trainer as Trainer

_NAMES = {
    "arguments": "Seq2SeqTrainingArguments TrainingArguments",
    "callbacks": "DefaultFlowCallback EarlyStoppingCallback LogFileCallback PrinterCallback ProgressCallback TrainerCallback",
    "collators": "DataCollatorForContrastive DataCollatorForDenoising DataCollatorForLanguageModeling DataCollatorForMultipleChoice "
    "DataCollatorForNextSentence DataCollatorForPrefixLM DataCollatorForReplacedTokens DataCollatorForSeq2Seq "
    "DataCollatorForSpanCorruption DataCollatorForTokenClassification DataCollatorForWholeWordMask DataCollatorWithFlattening "
    "DataCollatorWithPadding default_data_collator",
    "mixing": "interleave mixing_rates",
    "objectives": "ContrastiveTrainer DistillationTrainer ElectraTrainer",
    "packing": "group_texts pack",
    "report": "ReportCallback",
    "recipe": "train_from_scratch",
    "ray": "train_on_ray",
    "rows": "flatten unpadded without_padding",
    "schedules": "get_constant_schedule get_constant_schedule_with_warmup get_cosine_schedule_with_warmup get_linear_schedule_with_warmup "
    "get_scheduler",
    "seq2seq": "Seq2SeqTrainer",
    "staged": "gradual_unfreezing layer_groups layerwise_parameters slanted_triangular",
    "state": "BestRun EvalPrediction TrainerControl TrainerState",
    "trackers": "CodeCarbonCallback MLflowCallback TensorBoardCallback WandbCallback",
    "trainer": "Trainer",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hunmin.train' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hunmin.train.{_HOME[name]}"), name)
