"""Gemma 3 text models (Gemma Team 2025): Gemma 2 with query and key norms, five local layers to a global one, two rotations."""

from __future__ import annotations

from hunmin.arch import gemma2, llama
from hunmin.arch._arch import Arch, Head
from hunmin.arch._rope import rope
from hunmin.arch._rules import Config, Rules
from hunmin.nn.model import Backbone
from hunmin.nn.spec import Norm


def rules(c: Config) -> Rules:
    at = "decoder.stack.layers.*.attn."
    return {**gemma2.rules(c), "layers.*.self_attn.q_norm": at + "q_norm", "layers.*.self_attn.k_norm": at + "k_norm"}


def decoder(c: Config) -> Backbone:
    every = c.get("sliding_window_pattern") or c.get("_sliding_window_pattern") or 6
    kinds = c["layer_types"] or ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(c["num_hidden_layers"])]
    attention = llama.attn(
        c,
        scale=c["query_pre_attn_scalar"] ** -0.5,
        softcap=c["attn_logit_softcapping"],
        qk_norm=Norm("rms", c["rms_norm_eps"], offset=1.0),
        rope=rope(c, "full_attention"),
    )
    local = rope({**c, "rope_scaling": None}, "sliding_attention", theta="rope_local_base_freq")
    return gemma2.body(c, attention, kinds, {"window": c["sliding_window"], "rope": local})


ARCH = Arch(
    prefix="model.",
    defaults={
        **gemma2.DEFAULTS,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    rules=rules,
    decoder=decoder,
    heads={**llama.heads(softcap="final_logit_softcapping"), "Model": Head("Gemma3TextModel", lambda c: None)},
    partial=("final_logit_softcapping",),
)
