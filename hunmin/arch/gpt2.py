"""GPT-2 (Radford et al. 2019): pre-norm decoder with learned positions; linear layers are stored transposed, q k v fused."""

from __future__ import annotations

from dataclasses import replace

from hunmin.arch._arch import Arch, refuse
from hunmin.arch._heads import body, causal_lm, classifier, decoder_dropout, span, tagger
from hunmin.arch._rules import DERIVED, Config, Flip, Rules, Split, under
from hunmin.nn.model import Backbone
from hunmin.nn.spec import FFN, Attn, Embed, Norm, Stack

LAYER: Rules = {
    "ln_1": "attn_norm",
    "attn.c_attn": Split(("attn.q", "attn.k", "attn.v"), flip=True),
    "attn.c_proj": Flip("attn.o"),
    "attn.bias": DERIVED,
    "attn.masked_bias": DERIVED,
    "ln_2": "ffn_norm",
    "mlp.c_fc": Flip("ffn.up"),
    "mlp.c_proj": Flip("ffn.down"),
}


def rules(c: Config) -> Rules:
    layers = under("h.*", "decoder.stack.layers.*", LAYER)
    return {"wte": "decoder.embed.tokens", "wpe": "decoder.embed.positions", "ln_f": "decoder.stack.norm", **layers}


def decoder(c: Config) -> Backbone:
    refuse(c, add_cross_attention=False)
    width, norm, drop = c["n_embd"], Norm("layer", c["layer_norm_epsilon"]), c["resid_pdrop"]
    scale = (width // c["n_head"]) ** -0.5 if c["scale_attn_weights"] else 1.0
    by_depth = c["scale_attn_by_inverse_layer_idx"]
    stack = Stack(
        width,
        c["n_layer"],
        Attn(c["n_head"], causal=True, scale=scale, dropout=c["attn_pdrop"]),
        FFN(c["n_inner"] or 4 * width, c["activation_function"]),
        norm,
        dropout=drop,
        vary=lambda i, a: replace(a, scale=scale / (i + 1)) if by_depth else a,
    )
    return Backbone(Embed(c["vocab_size"], width, c["n_positions"], dropout=c["embd_pdrop"]), stack)


def std(c: Config, name: str) -> float:
    """Projections into the residual stream start smaller the deeper the model (section 2.3)."""
    deep = name.endswith(("attn.o.weight", "ffn.down.weight"))
    return float(c["initializer_range"] / ((2 * c["n_layer"]) ** 0.5 if deep else 1.0))


ARCH = Arch(
    prefix="transformer.",
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    rules=rules,
    decoder=decoder,
    heads={
        "Model": body(),
        "CausalLM": causal_lm("{}LMHeadModel"),
        "SequenceClassification": classifier("score", pool="last", bias=False, dropout=lambda c: (0.0, 0.0)),
        "TokenClassification": tagger(dropout=decoder_dropout),
        "QuestionAnswering": span(),
    },
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    std=std,
)
