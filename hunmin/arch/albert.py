"""ALBERT (Lan et al. 2020): a narrow embedding that is projected, and one set of weights for all layers."""

from __future__ import annotations

from hunmin.arch import bert
from hunmin.arch._arch import Arch, refuse
from hunmin.arch._heads import classifier, masked_lm, multiple_choice, span, tagger
from hunmin.arch._rules import Config, Rules, under
from hunmin.nn.model import Backbone

LAYER: Rules = {
    "attention.query": "attn.q",
    "attention.key": "attn.k",
    "attention.value": "attn.v",
    "attention.dense": "attn.o",
    "attention.LayerNorm": "attn_norm",
    "ffn": "ffn.up",
    "ffn_output": "ffn.down",
    "full_layer_layer_norm": "ffn_norm",
}


def rules(c: Config) -> Rules:
    group = under("encoder.albert_layer_groups.*.albert_layers.0", "encoder.stack.layers.*", LAYER)
    return {**bert.EMBED, "encoder.embedding_hidden_mapping_in": "encoder.embed.project", **group}


def encoder(c: Config) -> Backbone:
    refuse(c, inner_group_num=1)
    return bert.encoder(c, shared=c["num_hidden_groups"], width=c["embedding_size"], project=c["hidden_size"])


def dropout(c: Config) -> float:
    own = c["classifier_dropout_prob"]
    return float(own if own is not None else c["hidden_dropout_prob"])


ARCH = Arch(
    prefix="albert.",
    defaults={
        **bert.DEFAULTS,
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_hidden_groups": 1,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    rules=rules,
    encoder=encoder,
    heads={
        "Model": bert.pooled("pooler"),
        "MaskedLM": masked_lm(
            "predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias", inner="embedding_size"
        ),
        "SequenceClassification": classifier("classifier", "pooler", in_body=True, dropout=lambda c: (0.0, dropout(c))),
        "MultipleChoice": multiple_choice("pooler", in_body=True, dropout=lambda c: (0.0, c["classifier_dropout_prob"])),
        "TokenClassification": tagger(dropout=dropout),
        "QuestionAnswering": span(),
    },
)
