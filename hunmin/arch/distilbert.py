"""DistilBERT (Sanh et al. 2019): half of BERT's layers, no segment types, no pooler."""

from __future__ import annotations

from hunmin.arch._arch import Arch
from hunmin.arch._heads import body, classifier, masked_lm, multiple_choice, span, tagger
from hunmin.arch._rules import DERIVED, Config, Rules, under
from hunmin.nn.model import Backbone
from hunmin.nn.spec import FFN, Attn, Embed, Norm, Stack

LAYER: Rules = {
    "attention.q_lin": "attn.q",
    "attention.k_lin": "attn.k",
    "attention.v_lin": "attn.v",
    "attention.out_lin": "attn.o",
    "sa_layer_norm": "attn_norm",
    "ffn.lin1": "ffn.up",
    "ffn.lin2": "ffn.down",
    "output_layer_norm": "ffn_norm",
}


def rules(c: Config) -> Rules:
    return {
        "embeddings.word_embeddings": "encoder.embed.tokens",
        "embeddings.position_embeddings": "encoder.embed.positions",
        "embeddings.LayerNorm": "encoder.embed.norm",
        "embeddings.position_ids": DERIVED,
        **under("transformer.layer.*", "encoder.stack.layers.*", LAYER),
    }


def encoder(c: Config) -> Backbone:
    norm, drop = Norm("layer", 1e-12), c["dropout"]
    attn = Attn(c["n_heads"], dropout=c["attention_dropout"])
    ffn = FFN(c["hidden_dim"], c["activation"])
    stack = Stack(c["dim"], c["n_layers"], attn, ffn, norm, order="post", final_norm=False, dropout=drop)
    embed = Embed(c["vocab_size"], c["dim"], c["max_position_embeddings"], norm=norm, dropout=drop, pad=c["pad_token_id"])
    return Backbone(embed, stack)


ARCH = Arch(
    prefix="distilbert.",
    defaults={
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "n_layers": 6,
        "n_heads": 12,
        "dim": 768,
        "hidden_dim": 3072,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation": "gelu",
        "initializer_range": 0.02,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    },
    rules=rules,
    encoder=encoder,
    heads={
        "Model": body(),
        "MaskedLM": masked_lm("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"),
        "SequenceClassification": classifier("classifier", "pre_classifier", act="relu", dropout=lambda c: (0.0, c["seq_classif_dropout"])),
        "MultipleChoice": multiple_choice("pre_classifier", act="relu", dropout=lambda c: (0.0, c["seq_classif_dropout"])),
        "TokenClassification": tagger(dropout=lambda c: c["dropout"]),
        "QuestionAnswering": span(dropout=lambda c: c["qa_dropout"]),
    },
    aliases={
        "hidden_act": "activation",
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "intermediate_size": "hidden_dim",
    },
)
