"""BERT (Devlin et al. 2019). RoBERTa, ALBERT, ELECTRA and DistilBERT change its embeddings, sharing and heads.

With ``is_decoder`` a token sees only those before it, and the model writes texts (``BertLMHeadModel``; RoBERTa has it too).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from hunmin.arch._arch import Arch, Head, refuse
from hunmin.arch._heads import TOKENS, classifier, masked_lm, multiple_choice, span, tagger, width
from hunmin.arch._rules import DERIVED, Config, Rules, under
from hunmin.errors import ConfigError, say
from hunmin.nn.heads import Pooler
from hunmin.nn.model import Backbone
from hunmin.nn.spec import FFN, Attn, Embed, Norm, Stack

DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
    "classifier_dropout": None,
    "is_decoder": False,
}
LAYER: Rules = {
    "attention.self.query": "attn.q",
    "attention.self.key": "attn.k",
    "attention.self.value": "attn.v",
    "attention.output.dense": "attn.o",
    "attention.output.LayerNorm": "attn_norm",
    "intermediate.dense": "ffn.up",
    "output.dense": "ffn.down",
    "output.LayerNorm": "ffn_norm",
}
EMBED: Rules = {
    "embeddings.word_embeddings": "encoder.embed.tokens",
    "embeddings.position_embeddings": "encoder.embed.positions",
    "embeddings.token_type_embeddings": "encoder.embed.types",
    "embeddings.LayerNorm": "encoder.embed.norm",
    "embeddings.position_ids": DERIVED,
    "embeddings.token_type_ids": DERIVED,
}


def rules(c: Config) -> Rules:
    found = {**EMBED, **under("encoder.layer.*", "encoder.stack.layers.*", LAYER)}
    if not c["is_decoder"]:
        return found
    return {theirs: ours.replace("encoder.", "decoder.", 1) if isinstance(ours, str) else ours for theirs, ours in found.items()}


def encoder(c: Config, *, shared: int | None = None, causal: bool = False, **embed: Any) -> Backbone:
    """``embed`` replaces fields of the embedding's spec."""
    refuse(c, position_embedding_type="absolute", is_decoder=causal, add_cross_attention=False)
    norm, drop = Norm("layer", c["layer_norm_eps"]), c["hidden_dropout_prob"]
    spec: dict[str, Any] = {
        "vocab": c["vocab_size"],
        "width": c["hidden_size"],
        "positions": c["max_position_embeddings"],
        "types": c["type_vocab_size"],
        "norm": norm,
        "dropout": drop,
        "pad": c["pad_token_id"],
    }
    stack = Stack(
        c["hidden_size"],
        c["num_hidden_layers"],
        Attn(c["num_attention_heads"], causal=causal, dropout=c["attention_probs_dropout_prob"]),
        FFN(c["intermediate_size"], c["hidden_act"]),
        norm,
        order="post",
        final_norm=False,
        shared=shared,
        dropout=drop,
    )
    return Backbone(Embed(**{**spec, **embed}), stack)


def pooled(dense: str = "pooler.dense") -> Head:
    """The bare backbone with its pooler."""
    return Head("{}Model", lambda c: Pooler(width(c)), body={dense: "head.dense"})


def reader(head: Head) -> Head:
    """A head that needs tokens on both sides."""
    return replace(head, build=lambda c: refuse(c, is_decoder=False) or head.build(c))


def writer(head: Head, name: str) -> Head:
    """The head of masked words as one that writes the next word. Raises ConfigError where tokens see those after them."""

    def build(c: Config) -> nn.Module | None:
        if not c["is_decoder"]:
            kind = c["model_type"]
            raise ConfigError(
                say(
                    f"{kind} writes texts only as a decoder, in which tokens do not see those after them: pass is_decoder=True.",
                    f"{kind}은(는) 뒤 토큰을 보지 않는 디코더일 때만 글을 씁니다. is_decoder=True를 주세요.",
                )
            )
        return head.build(c)

    return replace(head, name=name, build=build, tied="decoder." + TOKENS)


MASKED = masked_lm(
    "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder", "cls.predictions.bias"
)
ARCH = Arch(
    prefix="bert.",
    defaults=DEFAULTS,
    rules=rules,
    encoder=lambda c: encoder(c, causal=c["is_decoder"]),
    heads={
        "Model": pooled(),
        "MaskedLM": reader(MASKED),
        "CausalLM": writer(MASKED, "{}LMHeadModel"),
        "SequenceClassification": classifier("classifier", "pooler.dense", in_body=True),
        "MultipleChoice": multiple_choice("pooler.dense", in_body=True),
        "TokenClassification": tagger(),
        "QuestionAnswering": span(),
        "NextSentencePrediction": Head(
            "{}ForNextSentencePrediction",
            classifier("cls.seq_relationship", "pooler.dense", in_body=True, dropout=lambda c: (0.0, 0.0)).build,
            {"cls.seq_relationship": "head.out"},
            {"pooler.dense": "head.dense"},
        ),
    },
)
