"""The table of architectures that parity tests run over: tiny configurations, the plain one and every variant that computes differently.

Weights are not stored. They follow from the tensors' names and shapes, so that a golden file holds only configuration, shapes and results.
"""

# ruff: noqa: C408  keyword form reads like the configuration classes
from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

VOCAB, PAD, EOS = 99, 1, 2
ROWS = torch.tensor([[5, 17, 42, 8, 91, 33, 64, 28, EOS], [77, 3, 59, 20, 11, EOS, PAD, PAD, PAD]])
MASK = (ROWS != PAD).long()
TYPES = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0, 0]])
TARGET = torch.tensor([[4, 50, 7, 31, EOS], [9, 61, EOS, 12, 6]])

SMALL = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, vocab_size=VOCAB, max_position_embeddings=64)
IDS = dict(pad_token_id=PAD, eos_token_id=EOS, bos_token_id=0)
GQA = {**SMALL, **IDS, "num_key_value_heads": 2}
PAIR = dict(
    d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=2, encoder_ffn_dim=48,
    decoder_ffn_dim=40, vocab_size=VOCAB, max_position_embeddings=64, decoder_start_token_id=2, forced_eos_token_id=None, **IDS,
)  # fmt: skip
T5 = dict(d_model=32, d_kv=6, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4, vocab_size=VOCAB, relative_attention_num_buckets=8,
          relative_attention_max_distance=12, decoder_start_token_id=PAD, **IDS)  # fmt: skip
GPT2 = dict(n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=VOCAB, **IDS)
DEBERTA = dict(relative_attention=True, share_att_key=True, norm_rel_ebd="layer_norm", position_buckets=8, max_relative_positions=12,
               pos_att_type=["p2c", "c2p"], type_vocab_size=0, position_biased_input=False)  # fmt: skip
DISTIL = dict(dim=32, n_layers=3, n_heads=4, hidden_dim=48, vocab_size=VOCAB, max_position_embeddings=64, **IDS)
STRETCH = dict(factor=4.0, original_max_position_embeddings=16)


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 1000.0, "rope_type": kind, **settings}}


@dataclass(frozen=True)
class Case:
    """``config`` goes to transformers' config class; ``edit`` changes the written config.json (None deletes a key), as old files have it."""

    model_type: str
    name: str
    config: dict[str, Any]
    tasks: tuple[str, ...] = ()
    edit: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.model_type}-{self.name}"


ENCODER_DECODERS = ("t5", "mt5", "bart", "marian", "mbart", "pegasus", "m2m_100")
ENCODER = ("Model", "MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")
DECODER = ("Model", "CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")
SEQ2SEQ = ("Model", "Seq2SeqLM", "SequenceClassification", "QuestionAnswering")
V4_YARN = {"rope_parameters": None, "rope_theta": 1000.0, "rope_scaling": {"type": "yarn", **STRETCH}}
FACTORS = dict(short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[2.0, 2.5, 3.0, 4.0])

CASES = [
    Case("bert", "plain", SMALL | IDS, (*ENCODER, "NextSentencePrediction")),
    Case("bert", "relu", SMALL | IDS | dict(hidden_act="relu", type_vocab_size=3, layer_norm_eps=1e-3), ("MaskedLM",)),
    Case("bert", "untied", SMALL | IDS | dict(tie_word_embeddings=False, num_hidden_layers=1), ("MaskedLM",)),
    Case("bert", "decoder", SMALL | IDS | dict(is_decoder=True), ("Model", "CausalLM", "TokenClassification")),
    Case("bert", "untied-decoder", SMALL | IDS | dict(is_decoder=True, tie_word_embeddings=False), ("CausalLM",)),
    Case("roberta", "plain", SMALL | IDS, ENCODER),
    Case("roberta", "decoder", SMALL | IDS | dict(is_decoder=True), ("CausalLM",)),
    Case("roberta", "klue", SMALL | IDS | dict(type_vocab_size=1, tokenizer_class="BertTokenizer"), ("Model", "MaskedLM")),
    Case("roberta", "relu", SMALL | IDS | dict(hidden_act="relu", pad_token_id=0, bos_token_id=1), ("MaskedLM",)),
    Case("xlm-roberta", "plain", SMALL | IDS | dict(type_vocab_size=1), ("MaskedLM", "TokenClassification")),
    Case("camembert", "plain", SMALL | IDS | dict(type_vocab_size=1), ("MaskedLM", "SequenceClassification")),
    Case("deberta-v2", "plain", SMALL | IDS | DEBERTA, ENCODER, {"pos_att_type": "p2c|c2p"}),
    Case("deberta-v2", "conv", SMALL | IDS | DEBERTA | dict(conv_kernel_size=3, conv_act="gelu", attention_head_size=8, position_buckets=4,
         max_relative_positions=6, legacy=False), ENCODER),
    Case("deberta-v2", "groups", SMALL | IDS | DEBERTA | dict(conv_kernel_size=5, conv_groups=4, share_att_key=False, max_relative_positions=-1),
         ("MaskedLM",)),
    Case("deberta-v2", "narrow", SMALL | IDS | DEBERTA | dict(embedding_size=16, type_vocab_size=2, position_biased_input=True, share_att_key=False,
         pos_att_type=["c2p"], norm_rel_ebd="none", position_buckets=-1, max_relative_positions=5), ENCODER),
    Case("deberta-v2", "p2c", SMALL | IDS | DEBERTA | dict(share_att_key=False, pos_att_type=["p2c"], pooler_hidden_act="tanh", hidden_act="relu",
         cls_dropout=0.0, tie_word_embeddings=False), ("MaskedLM", "SequenceClassification")),
    Case("deberta-v2", "v3", SMALL | IDS | DEBERTA | dict(hidden_act="gelu_new", layer_norm_eps=1e-4, legacy=False), ("MaskedLM", "QuestionAnswering"),
         {"pos_att_type": "p2c|c2p"}),
    Case("deberta-v2", "absolute", SMALL | IDS | dict(layer_norm_eps=1e-3), ("MaskedLM",)),
    Case("distilbert", "plain", DISTIL, ENCODER),
    Case("distilbert", "relu", DISTIL | dict(activation="relu"), ("MaskedLM",)),
    Case("distilbert", "sinusoidal", DISTIL | dict(sinusoidal_pos_embds=True, n_layers=2), ("Model",)),
    Case("albert", "plain", SMALL | IDS | dict(embedding_size=16), ENCODER),
    Case("albert", "groups", SMALL | IDS | dict(embedding_size=16, num_hidden_layers=4, num_hidden_groups=2), ("MaskedLM",)),
    Case("albert", "gelu", SMALL | IDS | dict(embedding_size=32, hidden_act="gelu"), ("MaskedLM",)),
    Case("electra", "plain", SMALL | IDS | dict(embedding_size=16), (*ENCODER, "PreTraining")),
    Case("electra", "wide", SMALL | IDS | dict(embedding_size=32), ("MaskedLM", "PreTraining")),
    Case("electra", "relu", SMALL | IDS | dict(embedding_size=16, hidden_act="relu"), ("PreTraining",)),
    Case("gpt2", "plain", GPT2, DECODER),
    Case("gpt2", "depth", GPT2 | dict(scale_attn_by_inverse_layer_idx=True, n_inner=40, activation_function="relu"), ("CausalLM",)),
    Case("gpt2", "unscaled", GPT2 | dict(scale_attn_weights=False, tie_word_embeddings=False), ("CausalLM",)),
    Case("llama", "plain", GQA | rope("default"), DECODER),
    Case("llama", "linear", GQA | rope("linear", factor=2.0) | dict(attention_bias=True, mlp_bias=True), ("CausalLM",)),
    Case("llama", "dynamic", GQA | rope("dynamic", factor=2.0) | dict(max_position_embeddings=6), ("CausalLM",)),
    Case("llama", "yarn", GQA | rope("yarn", **STRETCH) | dict(head_dim=16, tie_word_embeddings=True), ("CausalLM",)),
    Case("llama", "yarn-mscale", GQA | rope("yarn", mscale=0.7, mscale_all_dim=1.1, beta_fast=16, truncate=False, **STRETCH), ("CausalLM",)),
    Case("llama", "yarn-v4", GQA, ("CausalLM",), V4_YARN),
    Case("llama", "longrope-short", GQA | rope("longrope", **FACTORS, **STRETCH), ("CausalLM",)),
    Case("llama", "longrope-long", GQA | rope("longrope", **FACTORS, factor=4.0, original_max_position_embeddings=4), ("CausalLM",)),
    Case("llama", "llama3", GQA | rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0, **STRETCH), ("CausalLM",)),
    Case("llama", "mqa", GQA | dict(num_key_value_heads=1, hidden_act="gelu", rms_norm_eps=1e-3), ("CausalLM",)),
    Case("mistral", "plain", GQA | dict(sliding_window=None), DECODER),
    Case("mistral", "window", GQA | dict(sliding_window=4, head_dim=16), ("Model", "CausalLM")),
    Case("mistral", "tied", GQA | dict(sliding_window=100, tie_word_embeddings=True), ("CausalLM",)),
    Case("qwen2", "plain", GQA, DECODER),
    Case("qwen2", "window", GQA | dict(use_sliding_window=True, sliding_window=4, max_window_layers=1), ("CausalLM",)),
    Case("qwen2", "switched-off", GQA | dict(use_sliding_window=False, sliding_window=4, tie_word_embeddings=True), ("CausalLM",)),
    Case("qwen3", "plain", GQA | dict(head_dim=16), DECODER),
    Case("qwen3", "bias", GQA | dict(head_dim=8, attention_bias=True), ("CausalLM",)),
    Case("qwen3", "window", GQA | dict(head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=2), ("CausalLM",)),
    Case("gemma2", "plain", GQA | dict(head_dim=16, sliding_window=4, query_pre_attn_scalar=20), ("Model", "CausalLM", "SequenceClassification")),
    Case("gemma2", "uncapped", GQA | dict(head_dim=8, attn_logit_softcapping=None, final_logit_softcapping=None), ("CausalLM",)),
    Case("gemma2", "bias", GQA | dict(head_dim=8, attention_bias=True, tie_word_embeddings=False, attn_logit_softcapping=3.0), ("CausalLM",)),
    Case("gemma3_text", "plain", GQA | dict(head_dim=16, sliding_window=4, query_pre_attn_scalar=20), ("Model", "CausalLM")),
    Case("gemma3_text", "mixed", GQA | dict(head_dim=8, sliding_window=4, layer_types=["full_attention", "sliding_attention", "full_attention"]),
         ("CausalLM",)),
    Case("gemma3_text", "scaled", GQA | dict(head_dim=8, sliding_window=4, layer_types=["sliding_attention"] * 2 + ["full_attention"]),
         ("CausalLM",), {"rope_parameters": None, "rope_theta": 5000.0, "rope_local_base_freq": 100.0,
                         "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    Case("t5", "plain", T5, ("Model", "Seq2SeqLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "TextEncoding")),
    Case("t5", "flan", T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False), ("Seq2SeqLM",)),
    Case("t5", "v4-untied", T5 | dict(feed_forward_proj="gated-silu", tie_word_embeddings=False), ("Seq2SeqLM",),
         {"scale_decoder_outputs": None}),
    Case("mt5", "plain", T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False), ("Seq2SeqLM",)),
    Case("bart", "plain", PAIR, SEQ2SEQ),
    Case("bart", "scaled", PAIR | dict(scale_embedding=True, activation_function="relu"), ("Seq2SeqLM",)),
    Case("bart", "lopsided", PAIR | dict(encoder_layers=1, decoder_layers=4, encoder_attention_heads=8), ("Seq2SeqLM",)),
    Case("marian", "plain", PAIR | dict(decoder_start_token_id=PAD, scale_embedding=True, activation_function="swish"), ("Model", "Seq2SeqLM")),
    Case("marian", "unscaled", PAIR | dict(decoder_start_token_id=PAD), ("Seq2SeqLM",)),
    Case("marian", "odd", PAIR | dict(decoder_start_token_id=PAD, activation_function="gelu", encoder_layers=3, decoder_layers=1), ("Seq2SeqLM",)),
    Case("mbart", "plain", PAIR, SEQ2SEQ),
    Case("mbart", "scaled", PAIR | dict(scale_embedding=True, activation_function="relu"), ("Seq2SeqLM",)),
    Case("mbart", "deep", PAIR | dict(encoder_layers=3, decoder_layers=1), ("Seq2SeqLM",)),
    Case("pegasus", "plain", PAIR | dict(decoder_start_token_id=PAD), ("Model", "Seq2SeqLM")),
    Case("pegasus", "scaled", PAIR | dict(decoder_start_token_id=PAD, scale_embedding=True, activation_function="relu"), ("Seq2SeqLM",)),
    Case("pegasus", "wide", PAIR | dict(decoder_start_token_id=PAD, d_model=48), ("Seq2SeqLM",)),
    Case("m2m_100", "plain", PAIR, ("Model", "Seq2SeqLM")),
    Case("m2m_100", "unscaled", PAIR | dict(scale_embedding=False, activation_function="gelu"), ("Seq2SeqLM",)),
    Case("m2m_100", "deep", PAIR | dict(encoder_layers=3, decoder_layers=1), ("Seq2SeqLM",)),
]  # fmt: skip
PAIRS = [(case, task) for case in CASES for task in case.tasks]
PAIR_IDS = [f"{case.id}-{task}" for case, task in PAIRS]


def weight(name: str, shape: list[int] | tuple[int, ...]) -> Tensor:
    """A value for the stored tensor ``name``; the same on every machine."""
    name = name.replace("predictions.decoder.bias", "predictions.bias").replace("lm_head.decoder.bias", "lm_head.bias")  # one, stored twice
    noise = torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32))
    if len(shape) > 1:
        return noise * (0.4 / shape[-1] ** 0.25 if "embed" not in name and "shared" not in name and "wte" not in name else 0.5)
    neutral = 1.0 if name.endswith("weight") else 0.0
    return neutral + noise * 0.1


def inputs(case: Case, task: str, padded: bool = True) -> dict[str, Tensor]:
    """A batch with padding; without it for rotations by length, where the reference lets the longest row decide for all."""
    kind = case.config.get("rope_parameters", {}).get("rope_type")
    out = {"input_ids": ROWS, "attention_mask": MASK}
    if not padded and kind in ("dynamic", "longrope"):
        out = {"input_ids": ROWS.clamp(min=3), "attention_mask": torch.ones_like(MASK)}
    if (
        case.config.get("type_vocab_size", 2 if case.model_type in ("bert", "albert", "electra") else 1) > 1
        and case.model_type != "distilbert"
    ):
        out["token_type_ids"] = TYPES
    if case.model_type in ENCODER_DECODERS and task in ("Model", "Seq2SeqLM"):
        out["decoder_input_ids"] = TARGET
    return out


def real(key: str, t: Tensor) -> Tensor:
    """Blank what belongs to padding: nobody reads it, and the two sides fill it differently."""
    if "attentions" in key:
        rows = MASK.bool()[:, None, :, None] if t.shape[2] == MASK.shape[1] else torch.ones(1, dtype=torch.bool)
        return t * rows
    if t.ndim >= 2 and tuple(t.shape[:2]) == tuple(MASK.shape) and not key.startswith("decoder"):
        return t * MASK.reshape(*MASK.shape, *(1,) * (t.ndim - 2))
    return t


def sample(t: Tensor, limit: int = 48) -> list[float]:
    """Evenly spaced entries and the mean: enough to notice any change, small enough to commit."""
    flat = t.detach().flatten().double()
    return [*flat[:: max(1, flat.numel() // limit)][:limit].tolist(), flat.mean().item()]


def difference(ours: Tensor, reference: Tensor) -> float:
    """Largest error relative to the largest value."""
    return ((ours - reference).abs().max() / reference.abs().max().clamp(min=1e-9)).item()
