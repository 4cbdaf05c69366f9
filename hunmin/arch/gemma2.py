"""Gemma 2 (Gemma Team 2024): norms at both ends of a sublayer, soft-capped scores, every other layer with a window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hunmin.arch import llama
from hunmin.arch._arch import Arch, refuse
from hunmin.arch._rules import Config, Rules
from hunmin.nn.model import Backbone
from hunmin.nn.spec import Attn, Norm

DEFAULTS: dict[str, Any] = {
    **llama.DEFAULTS,
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_act": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def rules(c: Config) -> Rules:
    at = "decoder.stack.layers.*."
    return {
        **llama.rules(c),
        "layers.*.post_attention_layernorm": at + "attn_out_norm",  # in Llama this name is the FFN's norm
        "layers.*.pre_feedforward_layernorm": at + "ffn_norm",
        "layers.*.post_feedforward_layernorm": at + "ffn_out_norm",
    }


def body(c: Config, attention: Attn, kinds: list[str], local: dict[str, Any]) -> Backbone:
    """``local`` replaces fields of the attention in layers whose kind is sliding."""
    refuse(c, use_bidirectional_attention=False)
    vary = lambda i, a: replace(a, **local) if kinds[i] == "sliding_attention" else a  # noqa: E731
    stack = llama.stack(c, attention, norm=Norm("rms", c["rms_norm_eps"], offset=1.0), order="sandwich", vary=vary)
    return Backbone(llama.embed(c, scale=c["hidden_size"] ** 0.5), stack)


def decoder(c: Config) -> Backbone:
    kinds = c["layer_types"] or ["full_attention" if i % 2 else "sliding_attention" for i in range(c["num_hidden_layers"])]
    attention = llama.attn(c, scale=c["query_pre_attn_scalar"] ** -0.5, softcap=c["attn_logit_softcapping"])
    return body(c, attention, kinds, {"window": c["sliding_window"]})


ARCH = Arch(
    prefix="model.",
    defaults=DEFAULTS,
    rules=rules,
    decoder=decoder,
    heads=llama.heads(softcap="final_logit_softcapping"),
    partial=("final_logit_softcapping",),
)
