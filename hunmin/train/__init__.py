"""Training: objectives, collators that need no padding, packing and mixing of data sets, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from hunmin.train.packing import group_texts as group_texts
    from hunmin.train.packing import pack as pack
    from hunmin.train.rows import flatten as flatten
    from hunmin.train.rows import unpadded as unpadded
    from hunmin.train.rows import without_padding as without_padding
    from hunmin.train.staged import gradual_unfreezing as gradual_unfreezing
    from hunmin.train.staged import layer_groups as layer_groups
    from hunmin.train.staged import layerwise_parameters as layerwise_parameters
    from hunmin.train.staged import slanted_triangular as slanted_triangular

_HOME = {
    "DataCollatorForContrastive": "collators",
    "DataCollatorForDenoising": "collators",
    "DataCollatorForLanguageModeling": "collators",
    "DataCollatorForMultipleChoice": "collators",
    "DataCollatorForNextSentence": "collators",
    "DataCollatorForPrefixLM": "collators",
    "DataCollatorForReplacedTokens": "collators",
    "DataCollatorForSeq2Seq": "collators",
    "DataCollatorForSpanCorruption": "collators",
    "DataCollatorForTokenClassification": "collators",
    "DataCollatorForWholeWordMask": "collators",
    "DataCollatorWithFlattening": "collators",
    "DataCollatorWithPadding": "collators",
    "default_data_collator": "collators",
    "interleave": "mixing",
    "mixing_rates": "mixing",
    "group_texts": "packing",
    "pack": "packing",
    "flatten": "rows",
    "unpadded": "rows",
    "without_padding": "rows",
    "gradual_unfreezing": "staged",
    "layer_groups": "staged",
    "layerwise_parameters": "staged",
    "slanted_triangular": "staged",
}

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
    "flatten",
    "gradual_unfreezing",
    "group_texts",
    "interleave",
    "layer_groups",
    "layerwise_parameters",
    "mixing_rates",
    "pack",
    "slanted_triangular",
    "unpadded",
    "without_padding",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hunmin.train' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hunmin.train.{_HOME[name]}"), name)
