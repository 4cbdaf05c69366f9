"""Pegasus (Zhang et al. 2020): a summarizer; BART with norms before the sublayers, computed positions, no norm on the embedding."""

from __future__ import annotations

from dataclasses import replace

from hunmin.arch import bart, marian
from hunmin.arch._heads import body
from hunmin.arch._rules import Config
from hunmin.nn.model import Backbone


def backbone(c: Config, side: str) -> Backbone:
    return bart.backbone(c, side, pre=True, norm=None, offset=0, sinusoid="halves")


ARCH = replace(
    bart.ARCH,
    defaults={
        **bart.DEFAULTS,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "forced_eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    rules=marian.rules,
    encoder=lambda c: backbone(c, "encoder"),
    decoder=lambda c: backbone(c, "decoder"),
    heads={"Model": body(), "Seq2SeqLM": bart.seq2seq()},
)
