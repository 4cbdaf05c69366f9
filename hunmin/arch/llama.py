"""Llama (Touvron et al. 2023) and models that are Llama in all but size; parent of the other modern decoders."""

from __future__ import annotations

from typing import Any

from hunmin.arch._arch import Arch, Head, refuse
from hunmin.arch._heads import body, causal_lm, classifier, decoder_dropout, span, tagger
from hunmin.arch._rope import rope
from hunmin.arch._rules import DERIVED, Config, Rules, under
from hunmin.nn.model import Backbone
from hunmin.nn.spec import FFN, Attn, Embed, Norm, Stack

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "sliding_window": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYER: Rules = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.o_proj": "attn.o",
    "self_attn.rotary_emb.inv_freq": DERIVED,
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn.gate",
    "mlp.up_proj": "ffn.up",
    "mlp.down_proj": "ffn.down",
}


def rules(c: Config, layer: Rules = LAYER) -> Rules:
    return {"embed_tokens": "decoder.embed.tokens", "norm": "decoder.stack.norm", **under("layers.*", "decoder.stack.layers.*", layer)}


def attn(c: Config, **extra: Any) -> Attn:
    """``extra`` replaces fields of the spec."""
    heads = c["num_attention_heads"]
    fields: dict[str, Any] = {
        "kv_heads": c["num_key_value_heads"] or heads,
        "head_dim": c["head_dim"] or c["hidden_size"] // heads,
        "bias": "qkvo" if c["attention_bias"] else "",
        "causal": True,
        "dropout": c["attention_dropout"],
    }
    if "rope" not in extra:
        fields["rope"] = rope(c)
    return Attn(heads, **{**fields, **extra})


def stack(c: Config, attention: Attn, **extra: Any) -> Stack:
    """Pre-norm, RMS, gated FFN; ``extra`` replaces fields of the spec."""
    act = c.get("hidden_activation") or c["hidden_act"]
    ffn = FFN(c["intermediate_size"], act, gated=True, bias=c["mlp_bias"])
    norm = extra.pop("norm", Norm("rms", c["rms_norm_eps"]))
    return Stack(c["hidden_size"], c["num_hidden_layers"], attention, ffn, norm, **extra)


def embed(c: Config, **extra: Any) -> Embed:
    return Embed(c["vocab_size"], c["hidden_size"], pad=c.get("pad_token_id"), **extra)


def decoder(c: Config) -> Backbone:
    refuse(c, pretraining_tp=1)  # other values slice matrices for a bit-exact replay of one training run
    return Backbone(embed(c), stack(c, attn(c, window=c["sliding_window"])))


def heads(softcap: str | None = None) -> dict[str, Head]:
    return {
        "Model": body(),
        "CausalLM": causal_lm(softcap=softcap),
        "SequenceClassification": classifier("score", pool="last", bias=False, dropout=lambda c: (0.0, 0.0)),
        "TokenClassification": tagger("score", decoder_dropout),
        "QuestionAnswering": span(prefix="transformer."),
    }


ARCH = Arch(prefix="model.", defaults=DEFAULTS, rules=rules, decoder=decoder, heads=heads())
