"""``config.json`` from the keys of a GGUF file."""

from __future__ import annotations

import math
import struct
from typing import Any

import torch
from torch import Tensor

from hunmin.errors import ConfigError, FormatError, say
from hunmin.hub.gguf_header import Header
from hunmin.hub.gguf_names import FAMILIES, Family

LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}  # layers of the 27B models: only there scores are scaled by width / heads
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


class Keys:
    """The keys that begin with the file's architecture, each checked for kind and range."""

    def __init__(self, header: Header) -> None:
        self.header = header
        if "general.architecture" not in header:
            header.fail("it does not name its architecture", "아키텍처가 적혀 있지 않습니다")
        self.name = str(header["general.architecture"])
        if self.name not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ConfigError(
                say(
                    f"{header.path}: Hunmin does not read GGUF files of architecture {self.name[:40]!r} yet. Known: {known}.",
                    f"{header.path}: GGUF 아키텍처 {self.name[:40]!r}은(는) 아직 읽을 수 없습니다. 지원: {known}.",
                )
            )
        self.family: Family = FAMILIES[self.name]

    def __contains__(self, key: str) -> bool:
        return f"{self.name}.{key}" in self.header

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or ``default``; FormatError without either. Of an array with one entry a layer, the one value that all have."""
        key = f"{self.name}.{key}"
        value = self.header.get(key, default)
        if value is None:
            self.header.fail(f"key {key} is missing", f"키 {key}이(가) 없습니다")
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise ConfigError(
                    say(
                        f"{self.header.path}: layers with different {key} are not supported.",
                        f"{self.header.path}: 층마다 다른 {key}은(는) 지원하지 않습니다.",
                    )
                )
            return value[0]
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if type(value) is not int or not 0 < value < 1 << 31:
            self.header.fail(f"{self.name}.{key} is {value!r}", f"{self.name}.{key} 값이 {value!r}입니다")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if not isinstance(value, float) or not 0 < value < math.inf:
            self.header.fail(f"{self.name}.{key} is {value!r}", f"{self.name}.{key} 값이 {value!r}입니다")
        return shortest(value)


def shortest(value: float) -> float:
    """The number with the fewest digits that is ``value`` in fp32: 1e-05, not 9.999999747378752e-06."""
    return next((x for d in range(1, 9) if struct.pack("f", x := float(f"{value:.{d}g}")) == struct.pack("f", value)), value)


def special_ids(header: Header) -> dict[str, int]:
    """Ids of bos_token, eos_token, pad_token and unk_token, where the file names one that is in the vocabulary."""
    spm = header.get("tokenizer.ggml.model") == "llama"
    ids: dict[str, Any] = {"bos_token": 1, "eos_token": 2, "unk_token": 0} if spm else {}
    for token, key in SPECIAL.items():
        ids[token] = header.get(f"tokenizer.ggml.{key}_token_id", ids.get(token))
    embedding = header.tensors.get("token_embd.weight")
    size = embedding.shape[0] if embedding else 1 << 31
    return {token: i for token, i in ids.items() if type(i) is int and 0 <= i < size}


def config(header: Header, factors: Tensor | None) -> dict[str, Any]:
    """Keys and values of ``config.json``.

    Args:
        header: of the file.
        factors: what Llama 3 divides inverse frequencies by, fp32 (head_dim / 2,), where the file has them.

    Raises:
        ConfigError: an architecture or a setting that Hunmin does not know.
        FormatError: values that are missing, impossible or at odds with the tensors.
    """
    keys = Keys(header)
    if header.get(f"{keys.name}.expert_count"):
        raise ConfigError(
            say(
                f"{header.path}: mixtures of experts are not supported yet.",
                f"{header.path}: 전문가 혼합(MoE) 모델은 아직 지원하지 않습니다.",
            )
        )
    ids = {f"{name}_id": i for name, i in special_ids(header).items() if name != "unk_token"}
    found = {
        "model_type": keys.family.model_type,
        "architectures": [keys.family.architecture],
        "vocab_size": _matrix(header, "token_embd.weight")[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        **ids,
    }
    _check_sizes(keys)
    if keys.name == "gpt2":
        return found | _gpt2(keys)
    found |= _llama(keys, factors)
    if keys.family.shifted:
        found |= _gemma(keys, found)
    elif keys.name == "llama" and "attention.sliding_window" in keys and keys.get("attention.sliding_window"):
        found |= {
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "sliding_window": keys.integer("attention.sliding_window"),
        }
    return found


def _matrix(header: Header, name: str) -> tuple[int, int]:
    shape = header.check(name).shape
    if len(shape) != 2:
        header.fail(f"tensor {name} is no matrix", f"텐서 {name}이(가) 행렬이 아닙니다")
    return shape[0], shape[1]


def _check_sizes(keys: Keys) -> None:
    """The number of layers and the widths are those of the tensors."""
    header, width = keys.header, keys.integer("embedding_length")
    stated = keys.integer("block_count"), width, keys.integer("feed_forward_length", 4 * width if keys.name == "gpt2" else None)
    layers = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    actual = len(layers), _matrix(header, "token_embd.weight")[1], _matrix(header, "blk.0.ffn_up.weight")[0]
    if stated != actual:
        header.fail(
            f"layers and widths should be {stated}, but the tensors have {actual}",
            f"층 수와 폭이 {stated}이어야 하지만 텐서는 {actual}입니다",
        )


def _gpt2(keys: Keys) -> dict[str, Any]:
    width, heads, length = keys.integer("embedding_length"), keys.integer("attention.head_count"), keys.integer("context_length")
    if width % heads or _matrix(keys.header, "position_embd.weight") != (length, width):
        keys.header.fail("heads or context length do not fit the tensors", "헤드 수나 문맥 길이가 텐서와 맞지 않습니다")
    return {
        "n_embd": width,
        "n_layer": keys.integer("block_count"),
        "n_head": heads,
        "n_positions": length,
        "n_inner": keys.integer("feed_forward_length", 4 * width),
        "layer_norm_epsilon": keys.real("attention.layer_norm_epsilon", 1e-5),
        "activation_function": "gelu_new",
    }


def _llama(keys: Keys, factors: Tensor | None) -> dict[str, Any]:
    """What all families with rotary positions share."""
    header, width, heads = keys.header, keys.integer("embedding_length"), keys.integer("attention.head_count")
    shared, head_dim = keys.integer("attention.head_count_kv", heads), keys.integer("attention.key_length", width // heads or 1)
    rows = _matrix(header, "blk.0.attn_q.weight")[0], _matrix(header, "blk.0.attn_k.weight")[0]
    if rows != (heads * head_dim, shared * head_dim) or heads % shared or head_dim % 2:
        header.fail(
            f"{heads} heads and {shared} key heads of {head_dim} do not fit the tensors {rows}",
            f"헤드 {heads}개, 키 헤드 {shared}개, 크기 {head_dim}이(가) 텐서 {rows}와 맞지 않습니다",
        )
    found: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_hidden_layers": keys.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": head_dim,
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.real("attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": keys.real("rope.freq_base", 10000.0),
    }
    if not keys.family.shifted:
        found["hidden_act"] = "silu"
    if keys.name == "llama":
        found |= {key: f"blk.0.{part}.bias" in header.tensors for key, part in (("attention_bias", "attn_q"), ("mlp_bias", "ffn_up"))}
    if (rotated := keys.integer("rope.dimension_count", head_dim)) != head_dim:
        if rotated > head_dim:
            header.fail(
                f"{rotated} of {head_dim} dimensions are rotated", f"차원 {head_dim}개 가운데 {rotated}개를 회전한다고 되어 있습니다"
            )
        found["partial_rotary_factor"] = rotated / head_dim
    if scaling := _scaling(keys, found, factors):
        found["rope_scaling"] = scaling
    return found


def _scaling(keys: Keys, found: dict[str, Any], factors: Tensor | None) -> dict[str, Any] | None:
    """``rope_scaling``, or None for a plain rotation."""
    if factors is not None:
        return _llama3(keys, found, factors)
    kind = str(keys.get("rope.scaling.type", "linear" if "rope.scale_linear" in keys else "none"))
    if kind == "none":
        return None
    factor = keys.real("rope.scaling.factor" if "rope.scaling.factor" in keys else "rope.scale_linear", 1.0)
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor} if factor != 1.0 else None
    if kind != "yarn" or any(keys.get(f"rope.scaling.{key}", 1.0) != 1.0 for key in ("attn_factor", "yarn_attn_factor")):
        raise ConfigError(
            say(
                f"{keys.header.path}: rope scaling {kind!r} with these settings is not supported.",
                f"{keys.header.path}: 이 설정의 rope scaling {kind!r}은(는) 지원하지 않습니다.",
            )
        )
    betas = {
        f"beta_{end}": keys.real(f"rope.scaling.yarn_beta_{end}") for end in ("fast", "slow") if f"rope.scaling.yarn_beta_{end}" in keys
    }
    trained = keys.integer("rope.scaling.original_context_length", found["max_position_embeddings"])
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained, **betas}


def _llama3(keys: Keys, found: dict[str, Any], factors: Tensor) -> dict[str, Any] | None:
    """The settings of Llama 3.1 that give ``factors``: long waves are slowed by the whole factor, short ones not at all."""
    dim, factor, low, high, trained = found["head_dim"], float(factors.max()), 1.0, 4.0, 8192
    if bool((factors == 1).all()):
        return None
    inverse = found["rope_theta"] ** -(torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim)
    smooth = ((trained * inverse / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    if factors.shape == inverse.shape and torch.allclose(1 / ((1 - smooth) / factor + smooth), factors.double(), rtol=1e-3):
        settings = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": trained}
        return {"rope_type": "llama3", **settings}
    raise FormatError(
        say(
            f"{keys.header.path}: rope_freqs.weight is not that of Llama 3, which is the only such rotation that Hunmin knows.",
            f"{keys.header.path}: rope_freqs.weight가 Llama 3의 것과 다릅니다. 지원하지 않는 회전입니다.",
        )
    )


def _gemma(keys: Keys, found: dict[str, Any]) -> dict[str, Any]:
    layers, second = found["num_hidden_layers"], keys.name == "gemma2"
    largest = layers == LARGEST_GEMMA[keys.name]
    every = keys.header.get(f"{keys.name}.attention.sliding_window_pattern", 2 if second else 6)
    local = every if isinstance(every, list) else [bool((i + 1) % every) for i in range(layers)] if type(every) is int and every > 0 else []
    if len(local) != layers:
        keys.header.fail(f"sliding_window_pattern is {every!r}", f"sliding_window_pattern 값이 {every!r}입니다")
    more: dict[str, Any] = {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": found["hidden_size"] // found["num_attention_heads"] if largest else found["head_dim"],
        "sliding_window": keys.integer("attention.sliding_window", 4096),
        "layer_types": ["sliding_attention" if x else "full_attention" for x in local],
    }
    for key, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        more[key] = keys.real(key, default) if second or key in keys else None
    if not second:
        more |= {"rope_theta": keys.real("rope.freq_base", 1e6), "rope_local_base_freq": keys.real("rope.freq_base_swa", 10000.0)}
    return more
