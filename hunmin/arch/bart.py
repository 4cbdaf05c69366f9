"""BART (Lewis et al. 2020): post-norm encoder and decoder with learned positions; parent of the other translators."""

from __future__ import annotations

from typing import Any

from hunmin.arch._arch import Arch, Head, refuse
from hunmin.arch._heads import TOKENS, body, classifier, span
from hunmin.arch._rules import Config, Row, Rules, under
from hunmin.nn.heads import LMHead
from hunmin.nn.model import Backbone
from hunmin.nn.spec import FFN, Attn, Embed, Norm, Stack

LAYER: Rules = {
    **{f"self_attn.{theirs}": f"attn.{ours}" for theirs, ours in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("out_proj", "o"))},
    "self_attn_layer_norm": "attn_norm",
    **{
        f"encoder_attn.{theirs}": f"cross.{ours}" for theirs, ours in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("out_proj", "o"))
    },
    "encoder_attn_layer_norm": "cross_norm",
    "fc1": "ffn.up",
    "fc2": "ffn.down",
    "final_layer_norm": "ffn_norm",
}


def side(name: str) -> Rules:
    return {
        f"{name}.embed_tokens": f"{name}.embed.tokens",
        f"{name}.embed_positions": f"{name}.embed.positions",
        f"{name}.layernorm_embedding": f"{name}.embed.norm",
        f"{name}.layer_norm": f"{name}.stack.norm",
        **under(f"{name}.layers.*", f"{name}.stack.layers.*", LAYER),
    }


def rules(c: Config) -> Rules:
    return {"shared": "encoder.embed.tokens", **side("encoder"), **side("decoder")}


def backbone(c: Config, side: str, *, pre: bool = False, **embed: Any) -> Backbone:
    """``pre``: norms before the sublayers and one after the stack. ``embed`` replaces fields of the embedding's spec."""
    width, norm, drop, decoder = c["d_model"], Norm("layer", 1e-5), c["dropout"], side == "decoder"
    spec: dict[str, Any] = {
        "vocab": c["vocab_size"],
        "width": width,
        "positions": c["max_position_embeddings"],
        "offset": 2,
        "norm": norm,
        "scale": width**0.5 if c["scale_embedding"] else 1.0,
        "dropout": drop,
        "pad": c["pad_token_id"],
        **embed,
    }
    refuse(c, normalize_before=pre, add_final_layer_norm=pre, add_bias_logits=False)
    refuse(c, normalize_embedding=spec["norm"] is not None, static_position_embeddings=bool(spec.get("sinusoid")))
    attn: dict[str, Any] = {"heads": c[f"{side}_attention_heads"], "dropout": c["attention_dropout"]}
    stack = Stack(
        width,
        c[f"{side}_layers"],
        Attn(**attn, causal=decoder),
        FFN(c[f"{side}_ffn_dim"], c["activation_function"], dropout=c["activation_dropout"]),
        norm,
        order="pre" if pre else "post",
        cross=Attn(**attn) if decoder else None,
        final_norm=pre,
        dropout=drop,
        layer_drop=c[f"{side}_layerdrop"],
    )
    return Backbone(Embed(**spec), stack)


def lm_head(c: Config) -> LMHead:
    return LMHead(c["d_model"], c["vocab_size"], bias=True)


def seq2seq(name: str = "{}ForConditionalGeneration") -> Head:
    return Head(name, lm_head, {"final_logits_bias": Row("head.out.bias"), "lm_head": "head.out"}, tied="encoder." + TOKENS)


def dropouts(c: Config) -> tuple[float, float]:
    return c["classifier_dropout"], c["classifier_dropout"]


DEFAULTS: dict[str, Any] = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "activation_function": "gelu",
    "d_model": 1024,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.02,
    "classifier_dropout": 0.0,
    "scale_embedding": False,
    "tie_word_embeddings": True,
    "num_labels": 3,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
SEQUENCE = Head(
    "{}ForSequenceClassification",
    lambda c: classifier("", "dense", pool="end", end=c["eos_token_id"], dropout=dropouts).build(c),
    {"classification_head.dense": "head.dense", "classification_head.out_proj": "head.out"},
)
ARCH = Arch(
    prefix="model.",
    defaults=DEFAULTS,
    rules=rules,
    encoder=lambda c: backbone(c, "encoder"),
    decoder=lambda c: backbone(c, "decoder"),
    heads={"Model": body(), "Seq2SeqLM": seq2seq(), "SequenceClassification": SEQUENCE, "QuestionAnswering": span()},
    aliases={"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads", "num_hidden_layers": "encoder_layers"},
    tied=lambda c: {"decoder.embed.tokens.weight": "encoder.embed.tokens.weight"},
    std=lambda c, name: float(c["init_std"]),
)
