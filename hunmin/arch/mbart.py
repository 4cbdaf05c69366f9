"""mBART and mBART-50 (Liu et al. 2020): BART with norms before the sublayers; a language code starts the decoder."""

from __future__ import annotations

from dataclasses import replace

from hunmin.arch import bart

ARCH = replace(
    bart.ARCH,
    defaults={**bart.DEFAULTS, "forced_eos_token_id": 2, "decoder_start_token_id": None},
    encoder=lambda c: bart.backbone(c, "encoder", pre=True),
    decoder=lambda c: bart.backbone(c, "decoder", pre=True),
    wraps=True,
)
