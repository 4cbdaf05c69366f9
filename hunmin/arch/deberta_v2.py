"""DeBERTa-v2 and v3, mDeBERTa (He et al. 2021): attention to what tokens say and to how far apart they are, in vectors of their own."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from hunmin.arch import bert
from hunmin.arch._arch import Arch, Head, refuse
from hunmin.arch._disentangled import Convolved, Disentangled, Distances, Narrow
from hunmin.arch._heads import body, labels, masked_lm, span, tagger
from hunmin.arch._rules import DERIVED, Config, Rules, under
from hunmin.nn.heads import Classifier
from hunmin.nn.model import Backbone
from hunmin.nn.spec import FFN, Attn, Buckets, Embed, Norm, Stack

PROJECTIONS = {"query_proj": "q", "key_proj": "k", "value_proj": "v", "pos_key_proj": "pos_k", "pos_query_proj": "pos_q"}
LAYER: Rules = {
    **{f"attention.self.{theirs}": f"attn.{ours}" for theirs, ours in PROJECTIONS.items()},
    **{theirs: ours for theirs, ours in bert.LAYER.items() if ".self." not in theirs},
}
LEGACY = masked_lm(*(f"cls.predictions.{n}" for n in ("transform.dense", "transform.LayerNorm", "decoder", "bias")), inner="embedding_size")
PLAIN = masked_lm(*(f"lm_predictions.lm_head.{n}" for n in ("dense", "LayerNorm", "decoder", "bias")))


def rules(c: Config) -> Rules:
    return {
        **bert.EMBED,
        "embeddings.position_embeddings": "encoder.embed.positions" if c["position_biased_input"] else DERIVED,  # files hold it anyway
        "embeddings.embed_proj": "encoder.embed.project",
        "encoder.rel_embeddings": "encoder.stack.bias.table",
        "encoder.LayerNorm": "encoder.stack.bias.norm",
        "encoder.conv.conv": "encoder.stack.layers.0.conv",
        "encoder.conv.LayerNorm": "encoder.stack.layers.0.conv_norm",
        **under("encoder.layer.*", "encoder.stack.layers.*", LAYER),
    }


def encoder(c: Config) -> Backbone:
    width, heads, drop, norm = c["hidden_size"], c["num_attention_heads"], c["hidden_dropout_prob"], Norm("layer", c["layer_norm_eps"])
    refuse(c, attention_head_size=width // heads, pooler_hidden_size=width, norm_rel_ebd=("none", "layer_norm"))
    refuse(c, conv_kernel_size=(0, 1, 3, 5, 7, 9), is_decoder=False, add_cross_attention=False)
    named = c["pos_att_type"] or []
    kinds = {kind.strip() for kind in (named.lower().split("|") if isinstance(named, str) else named)}
    for kind in kinds:
        refuse({"model_type": c["model_type"], "pos_att_type": kind}, pos_att_type=("c2p", "p2c"))
    reach, count = c["max_relative_positions"], c["position_buckets"]
    reach = reach if reach > 0 else c["max_position_embeddings"]
    attn = Attn(heads, scale=(width // heads * (1 + len(kinds))) ** -0.5, dropout=c["attention_probs_dropout_prob"])
    buckets = Buckets(2 * (count if count > 0 else reach), reach - 1) if c["relative_attention"] else None
    ffn = FFN(c["intermediate_size"], c["hidden_act"])
    stack = Stack(width, c["num_hidden_layers"], attn, ffn, norm, order="post", final_norm=False, buckets=buckets, dropout=drop)
    narrow = c["embedding_size"] or width
    embed = Embed(
        c["vocab_size"],
        narrow,
        c["max_position_embeddings"] if c["position_biased_input"] else None,
        types=c["type_vocab_size"],
        norm=norm,
        project=width if narrow != width else None,
        dropout=drop,
        pad=c["pad_token_id"],
    )
    backbone = Backbone(embed, stack)
    if embed.project:
        backbone.embed = Narrow(embed, norm, width)
    if c["conv_kernel_size"]:
        backbone.stack.layers[0] = Convolved(stack, c["conv_kernel_size"], c["conv_groups"], c["conv_act"])
    if buckets:
        backbone.stack.bias = Distances(buckets, width, norm if c["norm_rel_ebd"] == "layer_norm" else None, count > 0)
    for layer in backbone.stack.layers:
        layer.attn = Disentangled(attn, width, kinds if buckets else set(), c["share_att_key"], drop)
    return backbone


def layout(c: Config) -> Head:
    """Where the head for masked words keeps its tensors: two ways, that the reference calls legacy and not."""
    return LEGACY if c["legacy"] else PLAIN


def mask_filler(c: Config) -> nn.Module | None:
    if not c["legacy"]:
        refuse(c, tie_word_embeddings=True, embedding_size=c["hidden_size"])
    return layout(c).build(c)


POOLED: Rules = {"pooler.dense": "head.dense", "classifier": "head.out"}


def classifier(c: Config, count: int | None = None) -> Classifier:
    after = c["cls_dropout"] if c["cls_dropout"] is not None else c["hidden_dropout_prob"]
    return Classifier(c["hidden_size"], count or labels(c), hidden=c["pooler_hidden_act"], dropout=(c["pooler_dropout"], after))


ARCH = Arch(
    prefix="deberta.",
    defaults={
        **bert.DEFAULTS,
        "vocab_size": 128100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": False,
        "max_relative_positions": -1,
        "position_buckets": -1,
        "position_biased_input": True,
        "pos_att_type": None,
        "share_att_key": False,
        "norm_rel_ebd": "none",
        "conv_kernel_size": 0,
        "conv_groups": 1,
        "conv_act": "tanh",
        "embedding_size": None,
        "pooler_hidden_act": "gelu",
        "pooler_dropout": 0.0,
        "cls_dropout": None,
        "legacy": True,
    },
    rules=rules,
    encoder=encoder,
    heads={
        "Model": body(),
        "MaskedLM": replace(LEGACY, build=mask_filler, rules=lambda c: layout(c).named(c)),
        "SequenceClassification": Head("{}ForSequenceClassification", classifier, POOLED),
        "MultipleChoice": Head("{}ForMultipleChoice", lambda c: classifier(c, 1), POOLED),
        "TokenClassification": tagger(dropout=lambda c: float(c["hidden_dropout_prob"])),
        "QuestionAnswering": span(),
    },
    partial=("conv_groups", "conv_act", "cls_dropout", "legacy", "pooler_hidden_act", "pooler_dropout"),
)
