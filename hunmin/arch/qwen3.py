"""Qwen3 (Yang et al. 2025): Qwen2 with a norm on every query and key head in place of the biases."""

from __future__ import annotations

from hunmin.arch import qwen2
from hunmin.arch._arch import Arch
from hunmin.arch._rules import Config, Rules
from hunmin.nn.model import Backbone
from hunmin.nn.spec import Norm

QK_NORM: Rules = {
    "layers.*.self_attn.q_norm": "decoder.stack.layers.*.attn.q_norm",
    "layers.*.self_attn.k_norm": "decoder.stack.layers.*.attn.k_norm",
}


def rules(c: Config) -> Rules:
    return {**qwen2.ARCH.rules(c), **QK_NORM}


def decoder(c: Config) -> Backbone:
    return qwen2.decoder(c, qk_norm=Norm("rms", c["rms_norm_eps"]), bias="qkvo" if c["attention_bias"] else "")


ARCH = Arch(prefix="model.", defaults={**qwen2.DEFAULTS, "head_dim": 128}, rules=rules, decoder=decoder, heads=qwen2.ARCH.heads)
