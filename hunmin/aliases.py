"""Old and new names of arguments, in one table, and arguments that need no action here."""

from __future__ import annotations

from typing import Any

from hunmin.errors import InputError, say

RENAMED = {
    "torch_dtype": "dtype",
    "use_auth_token": "token",
    "pretrained_model_name_or_path": "source",
    "max_new_token": "max_new_tokens",
    "stop_sequence": "stop_strings",
}
# Accepted because taught code passes them; each is either always on, always off, or without meaning in Hunmin.
IGNORED = frozenset(
    """
    _fast_init attn_implementation from_flax from_tf low_cpu_mem_usage mirror offload_folder offload_state_dict proxies resume_download
    trust_remote_code use_fast use_safetensors use_kernels weights_only state_dict_dtype adapter_kwargs commit_message_hash
    """.split()
)


def current(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` under today's names, without those that need no action. Raises InputError when one is given under both names."""
    out: dict[str, Any] = {}
    for key, value in options.items():
        if key in IGNORED:
            continue
        name = RENAMED.get(key, key)
        if name in out and out[name] != value:
            raise InputError(
                say(f"{name!r} was given twice, also under an old name.", f"{name!r}을(를) 옛 이름과 함께 두 번 지정했습니다.")
            )
        out[name] = value
    return out
