"""How much runs at once: rows, prompt tokens between two steps, pages of the cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hunmin.errors import InputError, say
from hunmin.generate.paged import READ, token_bytes
from hunmin.nn.pages import SIZE

if TYPE_CHECKING:
    from hunmin.model import PreTrainedModel

LOGITS = 64 << 20  # bytes that the scores of all rows may take
SHARE = 0.3  # of the free memory for the pages; PyTorch's step keeps a copy of those that run


@dataclass
class Budget:
    """``rows`` that run together, ``prompt_tokens`` read between two steps, ``pages`` in the cache."""

    rows: int
    prompt_tokens: int
    pages: int

    @classmethod
    def of(cls, model: PreTrainedModel, rows: int | None, prompt_tokens: int | None, cached_tokens: int | None, rounded: bool) -> Budget:
        """What is not given follows from the model and from free memory. Raises InputError for numbers that are not above 0."""
        for name, value in (("rows", rows), ("prompt_tokens", prompt_tokens), ("cached_tokens", cached_tokens)):
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(
                    say(f"{name} is a whole number above 0, not {value!r}.", f"{name}의 값은 1 이상의 정수여야 합니다: {value!r}.")
                )
        vocab = model.get_input_embeddings().num_embeddings
        cached = cached_tokens or max(16 * SIZE, int(free_memory(model.device) * SHARE) // token_bytes(model, rounded))
        return cls(rows or min(256, max(8, LOGITS // (4 * vocab))), prompt_tokens or READ, max(1, cached // SIZE))

    def refusal(self, prompt: int, longest: int, copies: int) -> InputError:
        """The error for a request that would not fit alone."""
        if copies > self.rows:
            return InputError(
                say(
                    f"num_return_sequences={copies} needs as many rows, the engine has {self.rows}. Set rows.",
                    f"num_return_sequences={copies}에는 그만큼의 행이 필요한데 엔진은 {self.rows}행입니다. rows를 늘리세요.",
                )
            )
        tokens, new = self.pages * SIZE, longest - prompt
        return InputError(
            say(
                f"{copies} x {longest} tokens (prompt {prompt}, new {new}) do not fit into the cache of {tokens}. Set cached_tokens higher, or"
                " shorten the prompt or max_new_tokens.",
                f"{copies} x {longest}토큰(프롬프트 {prompt}, 새 토큰 {new})이 캐시 {tokens}토큰에 들어가지 않습니다. cached_tokens를 늘리거나"
                " 프롬프트나 max_new_tokens를 줄이세요.",
            )
        )


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; 2 GiB where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = list[int]()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        known.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError, IndexError):  # no such system, or a group without a limit
        pass
    if not known and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(0, min(known, default=2 << 30))
