"""Marian, the Helsinki-NLP translators (Junczys-Dowmunt et al. 2018): BART with computed positions and no norm on the embedding."""

from __future__ import annotations

from hunmin.arch import bart
from hunmin.arch._arch import Arch, refuse
from hunmin.arch._heads import body
from hunmin.arch._rules import DERIVED, Config, Rules
from hunmin.nn.model import Backbone


def rules(c: Config) -> Rules:
    return {**bart.rules(c), "encoder.embed_positions": DERIVED, "decoder.embed_positions": DERIVED}


def backbone(c: Config, side: str) -> Backbone:
    refuse(c, share_encoder_decoder_embeddings=True, decoder_vocab_size=c["vocab_size"])
    return bart.backbone(c, side, norm=None, offset=0, sinusoid="halves")


ARCH = Arch(
    prefix="model.",
    defaults={
        **bart.DEFAULTS,
        "vocab_size": 58101,
        "decoder_start_token_id": 58100,
        "pad_token_id": 58100,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
        "bos_token_id": None,
    },
    rules=rules,
    encoder=lambda c: backbone(c, "encoder"),
    decoder=lambda c: backbone(c, "decoder"),
    heads={"Model": body(), "Seq2SeqLM": bart.seq2seq("{}MTModel")},
    aliases=bart.ARCH.aliases,
    tied=bart.ARCH.tied,
    std=bart.ARCH.std,
)
