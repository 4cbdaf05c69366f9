"""Names of tensors: as llama.cpp writes them in GGUF files, and as Hugging Face does."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """How the files of one ``general.architecture`` are turned back.

    Args:
        model_type: of ``config.json``.
        architecture: the class named there.
        outer: modules outside of the layers, GGUF name to Hugging Face name.
        layers: where the layers are.
        layer: modules inside a layer.
        interleaved: modules whose rows llama.cpp reordered for its rotation: (0, half, 1, half + 1, ...) in each head.
        shifted: whether the weights of norms are stored with 1 added.
        transposed: modules that Hugging Face stores as (in, out).
    """

    model_type: str
    architecture: str
    layer: dict[str, str]
    outer: dict[str, str] = field(
        default_factory=lambda: {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    )
    layers: str = "model.layers"
    interleaved: frozenset[str] = frozenset()
    shifted: bool = False
    transposed: frozenset[str] = frozenset()

    def name(self, stored: str) -> str | None:
        """The Hugging Face name of a tensor, None for one that this family does not have."""
        module, _, leaf = stored.rpartition(".")
        if module.startswith("blk."):
            _, _, rest = module.partition(".")
            index, _, inner = rest.partition(".")
            if not (index.isascii() and index.isdecimal() and inner in self.layer):
                return None
            return f"{self.layers}.{int(index)}.{self.layer[inner]}.{leaf}"
        return f"{self.outer[module]}.{leaf}" if module in self.outer else None


LLAMA = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
GEMMA = {
    **LLAMA,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
FAMILIES = {
    "llama": Family("llama", "LlamaForCausalLM", LLAMA, interleaved=frozenset({"attn_q", "attn_k"})),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM", LLAMA),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", LLAMA | QK_NORM),
    "gemma2": Family("gemma2", "Gemma2ForCausalLM", GEMMA, shifted=True),
    "gemma3": Family("gemma3_text", "Gemma3ForCausalLM", GEMMA | QK_NORM, shifted=True),
    "gpt2": Family(
        "gpt2",
        "GPT2LMHeadModel",
        GPT2,
        {"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f", "output": "lm_head"},
        "transformer.h",
        transposed=frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"}),
    ),
}
# What follows from the configuration: inverse frequencies, or what Llama 3 divides them by (read into rope_scaling).
DERIVED = ("rope_freqs.weight", "attn_rot_embd.weight", "attn_rot_embd.freqs")
