"""M2M-100 (Fan et al. 2021) and NLLB-200: many-to-many translators; BART with norms before the sublayers and computed positions."""

from __future__ import annotations

from dataclasses import replace

from hunmin.arch import bart, marian
from hunmin.arch._arch import Head
from hunmin.arch._heads import TOKENS, body
from hunmin.arch._rules import Config
from hunmin.nn.heads import LMHead
from hunmin.nn.model import Backbone


def backbone(c: Config, side: str) -> Backbone:
    return bart.backbone(c, side, pre=True, norm=None, offset=c["pad_token_id"] + 1, sinusoid="fairseq")


ARCH = replace(
    bart.ARCH,
    defaults={
        **bart.DEFAULTS,
        "vocab_size": 128112,
        "activation_function": "relu",
        "scale_embedding": True,
        "attention_dropout": 0.1,
        "encoder_layerdrop": 0.05,
        "decoder_layerdrop": 0.05,
        "forced_eos_token_id": None,
    },
    rules=marian.rules,
    encoder=lambda c: backbone(c, "encoder"),
    decoder=lambda c: backbone(c, "decoder"),
    heads={
        "Model": body(),
        "Seq2SeqLM": Head(
            "{}ForConditionalGeneration", lambda c: LMHead(c["d_model"], c["vocab_size"]), {"lm_head": "head.out"}, tied="encoder." + TOKENS
        ),
    },
)
