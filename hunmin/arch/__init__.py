"""One file an architecture. ``FAMILIES`` says which file reads which ``model_type``, and how the family's classes are called."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from hunmin.arch._arch import Arch
from hunmin.errors import ConfigError, say

FAMILIES: dict[str, tuple[str, str]] = {  # model_type: (file, class name stem)
    "albert": ("albert", "Albert"),
    "bart": ("bart", "Bart"),
    "bert": ("bert", "Bert"),
    "camembert": ("roberta", "Camembert"),
    "deberta-v2": ("deberta_v2", "DebertaV2"),
    "distilbert": ("distilbert", "DistilBert"),
    "electra": ("electra", "Electra"),
    "gemma2": ("gemma2", "Gemma2"),
    "gemma3_text": ("gemma3", "Gemma3"),
    "gpt2": ("gpt2", "GPT2"),
    "llama": ("llama", "Llama"),
    "m2m_100": ("m2m_100", "M2M100"),
    "marian": ("marian", "Marian"),
    "mbart": ("mbart", "MBart"),
    "mistral": ("mistral", "Mistral"),
    "mt5": ("t5", "MT5"),
    "pegasus": ("pegasus", "Pegasus"),
    "qwen2": ("qwen2", "Qwen2"),
    "qwen3": ("qwen3", "Qwen3"),
    "roberta": ("roberta", "Roberta"),
    "t5": ("t5", "T5"),
    "xlm-roberta": ("roberta", "XLMRoberta"),
}


@cache
def architecture(model_type: str) -> Arch:
    """The architecture of a ``model_type``. Raises ConfigError for one that Hunmin does not have, naming those that it has."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigError(
            say(
                f"model_type {model_type!r} is not an architecture that Hunmin has. It has: {known}.",
                f"model_type {model_type!r}은(는) 지원하지 않는 아키텍처입니다. 지원: {known}.",
            )
        )
    return import_module(f"hunmin.arch.{FAMILIES[model_type][0]}").ARCH
