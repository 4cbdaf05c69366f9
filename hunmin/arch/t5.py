"""T5 v1.0, v1.1, Flan-T5 (Raffel et al. 2020) and mT5: relative position buckets, unscaled attention, RMS norms, no biases."""

from __future__ import annotations

from typing import Any

from hunmin.arch._arch import Arch, Head
from hunmin.arch._heads import TOKENS, body, classifier, span, tagger
from hunmin.arch._rules import Config, Rules, under
from hunmin.errors import ConfigError, say
from hunmin.nn.heads import LMHead
from hunmin.nn.model import Backbone
from hunmin.nn.spec import FFN, Attn, Buckets, Embed, Norm, Stack


def feed_forward(c: Config) -> tuple[str, bool]:
    """(activation, gated) from ``feed_forward_proj``: "relu", "gated-gelu", …"""
    gate, _, act = c["feed_forward_proj"].rpartition("-")
    if gate not in ("", "gated"):
        raise ConfigError(
            say(
                f"feed_forward_proj {c['feed_forward_proj']!r} is unknown.",
                f"feed_forward_proj {c['feed_forward_proj']!r}을(를) 알 수 없습니다.",
            )
        )
    return ("gelu_new" if gate and act == "gelu" else act), bool(gate)


def side(c: Config, name: str, cross: bool) -> Rules:
    ffn = f"layer.{1 + cross}"
    layer: dict[str, Any] = {f"layer.0.SelfAttention.{p}": f"attn.{p}" for p in "qkvo"}
    layer |= {"layer.0.layer_norm": "attn_norm", f"{ffn}.layer_norm": "ffn_norm", f"{ffn}.DenseReluDense.wo": "ffn.down"}
    gated = {"wi_0": "gate", "wi_1": "up"} if feed_forward(c)[1] else {"wi": "up"}
    layer |= {f"{ffn}.DenseReluDense.{theirs}": f"ffn.{ours}" for theirs, ours in gated.items()}
    if cross:
        layer |= {f"layer.1.EncDecAttention.{p}": f"cross.{p}" for p in "qkvo"} | {"layer.1.layer_norm": "cross_norm"}
    return {
        **under(f"{name}.block.*", f"{name}.stack.layers.*", layer),
        f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias": f"{name}.stack.bias.table",
        f"{name}.final_layer_norm": f"{name}.stack.norm",
        f"{name}.embed_tokens": f"{name}.embed.tokens",
    }


def rules(c: Config) -> Rules:
    return {"shared": "encoder.embed.tokens", **side(c, "encoder", False), **side(c, "decoder", True)}


def backbone(c: Config, layers: int, causal: bool) -> Backbone:
    drop, (act, gated) = c["dropout_rate"], feed_forward(c)
    attn: dict[str, Any] = {"head_dim": c["d_kv"], "bias": "", "scale": 1.0, "dropout": drop}
    stack = Stack(
        c["d_model"],
        layers,
        Attn(c["num_heads"], causal=causal, **attn),
        FFN(c["d_ff"], act, gated, bias=False, dropout=drop),
        Norm("rms", c["layer_norm_epsilon"]),
        cross=Attn(c["num_heads"], **attn) if causal else None,
        buckets=Buckets(c["relative_attention_num_buckets"], c["relative_attention_max_distance"]),
        dropout=drop,
        final_dropout=drop,
    )
    return Backbone(Embed(c["vocab_size"], c["d_model"], dropout=drop), stack)


def lm_head(c: Config) -> LMHead:
    """Version 4 wrote ``tie_word_embeddings: false`` for "neither tied nor scaled"; version 5 has a key for the scale. mT5 never scales."""
    scaled = c.get("scale_decoder_outputs")
    if scaled is None:
        scaled = c["tie_word_embeddings"] and c["model_type"] != "mt5"
    return LMHead(c["d_model"], c["vocab_size"], scale=c["d_model"] ** -0.5 if scaled else 1.0)


def std(c: Config, name: str) -> float:
    """Fan-in scaling without the attention's 1/sqrt(d), which the query weights absorb (mesh-tensorflow's initializers)."""
    d, inner = c["d_model"], c["num_heads"] * c["d_kv"]
    by_end = {"attn.q": (d * c["d_kv"]) ** -0.5, "cross.q": (d * c["d_kv"]) ** -0.5, "attn.o": inner**-0.5, "cross.o": inner**-0.5}
    by_end |= {"ffn.down": c["d_ff"] ** -0.5, "embed.tokens": 1.0, "head.out": 1.0}
    return float(c["initializer_factor"] * next((v for k, v in by_end.items() if name.endswith(k + ".weight")), d**-0.5))


def head_dropout(c: Config) -> float:
    return float(c["classifier_dropout"])


ARCH = Arch(
    prefix="",
    defaults={
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": None,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "classifier_dropout": 0.0,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    rules=rules,
    encoder=lambda c: backbone(c, c["num_layers"], causal=False),
    decoder=lambda c: backbone(c, c["num_decoder_layers"] or c["num_layers"], causal=True),
    heads={
        "Model": body(),
        "Seq2SeqLM": Head("{}ForConditionalGeneration", lm_head, {"lm_head": "head.out"}, tied="encoder." + TOKENS),
        "SequenceClassification": Head(
            "{}ForSequenceClassification",
            lambda c: classifier(
                "", "dense", pool="end", end=c["eos_token_id"], dropout=lambda c: (head_dropout(c), head_dropout(c))
            ).build(c),
            {"classification_head.dense": "head.dense", "classification_head.out_proj": "head.out"},
            prefix="transformer.",
        ),
        "TokenClassification": tagger(dropout=head_dropout, prefix="transformer.", encoder_only=True),
        "QuestionAnswering": span(),
        "TextEncoding": Head("{}EncoderModel", lambda c: None, encoder_only=True),
    },
    aliases={"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers", "head_dim": "d_kv"},
    tied=lambda c: {"decoder.embed.tokens.weight": "encoder.embed.tokens.weight"},
    std=std,
    fp32=("ffn.down",),  # fp16 overflows here
    partial=("scale_decoder_outputs", "num_decoder_layers"),
)
