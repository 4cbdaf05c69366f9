"""Collators: rows of a data set in, the keyword arguments of a model out."""

from hunmin.train.collators.basic import (
    DataCollatorForMultipleChoice,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    default_data_collator,
)
from hunmin.train.collators.denoising import DataCollatorForDenoising, DataCollatorForPrefixLM, DataCollatorForSpanCorruption
from hunmin.train.collators.masking import DataCollatorForLanguageModeling, DataCollatorForReplacedTokens, DataCollatorForWholeWordMask
from hunmin.train.collators.pairs import DataCollatorForContrastive, DataCollatorForNextSentence

__all__ = [
    "DataCollatorForContrastive",
    "DataCollatorForDenoising",
    "DataCollatorForLanguageModeling",
    "DataCollatorForMultipleChoice",
    "DataCollatorForNextSentence",
    "DataCollatorForPrefixLM",
    "DataCollatorForReplacedTokens",
    "DataCollatorForSeq2Seq",
    "DataCollatorForSpanCorruption",
    "DataCollatorForTokenClassification",
    "DataCollatorForWholeWordMask",
    "DataCollatorWithFlattening",
    "DataCollatorWithPadding",
    "default_data_collator",
]
