"""Mistral (Jiang et al. 2023): Llama with grouped queries and a sliding window."""

from __future__ import annotations

from dataclasses import replace

from hunmin.arch import llama
from hunmin.arch._heads import span

ARCH = replace(
    llama.ARCH,
    heads={**llama.heads(), "QuestionAnswering": span()},
    defaults={
        **llama.DEFAULTS,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
)
