"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with q, k and v biases and windows in its upper layers when switched on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hunmin.arch import llama
from hunmin.arch._arch import Arch
from hunmin.arch._rules import Config
from hunmin.nn.model import Backbone

DEFAULTS: dict[str, Any] = {
    **llama.DEFAULTS,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "max_window_layers": 28,
    "layer_types": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def decoder(c: Config, **extra: Any) -> Backbone:
    """``extra`` replaces fields of the attention's spec."""
    window, first = c["sliding_window"] if c["use_sliding_window"] else None, c["max_window_layers"]
    kinds = c["layer_types"] or ["sliding_attention" if window and i >= first else "full_attention" for i in range(c["num_hidden_layers"])]
    attention = llama.attn(c, **{"bias": "qkv", **extra})
    vary = lambda i, a: replace(a, window=window if kinds[i] == "sliding_attention" else None)  # noqa: E731
    return Backbone(llama.embed(c), llama.stack(c, attention, vary=vary))


ARCH = Arch(prefix="model.", defaults=DEFAULTS, rules=llama.rules, decoder=decoder, heads=llama.heads())
