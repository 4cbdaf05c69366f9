"""Several low-rank updates of one layer as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hunmin.adapters.lora import LoRA
from hunmin.errors import InputError, say

WAYS = ("linear", "cat", "svd")


@torch.no_grad()
def combine(parts: Sequence[Sequence[LoRA]], weights: Sequence[float], way: str, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """A ``(r, in)`` and B ``(out, r)`` of scale one from several updates with weights; each is given as the parts that share one A.

    ``linear`` adds the As and the Bs, each times the root of its weight: equal ranks, and cross terms remain. ``cat`` puts them side by
    side: the exact sum, of the summed rank. ``svd`` is the best approximation of the exact sum of ``rank`` (default: the largest).
    """
    if way not in WAYS:
        raise InputError(
            say(
                f"combination_type {way!r} is unknown; use {', '.join(WAYS)}.",
                f"combination_type {way!r}을(를) 알 수 없습니다. 가능한 값: {', '.join(WAYS)}.",
            )
        )
    if any(part.magnitude is not None for group in parts for part in group):
        raise InputError(
            say("DoRA adapters do not add up: their updates are no sums.", "DoRA 어댑터는 합으로 표현되지 않아 합칠 수 없습니다.")
        )
    pairs = [(group[0].lora_A, torch.cat([part.lora_B for part in group])) for group in parts]
    pairs = [(_with(a, group[0].start_A), _with(b, _starts(group), 1)) for (a, b), group in zip(pairs, parts, strict=True)]
    scales = [w * group[0].scale for w, group in zip(weights, parts, strict=True)]
    if way == "linear":
        if len({a.shape for a, _ in pairs}) > 1:
            raise InputError(
                say(
                    "combination_type='linear' needs adapters of one rank; use 'cat' or 'svd'.",
                    "combination_type='linear'는 r이 같은 어댑터만 합칠 수 있습니다. 'cat'이나 'svd'를 쓰세요.",
                )
            )
        roots = [math.sqrt(abs(s)) for s in scales]
        a = sum((math.copysign(root, s) * pair[0] for root, s, pair in zip(roots, scales, pairs, strict=True)), torch.zeros(()))
        return a, sum((root * pair[1] for root, pair in zip(roots, pairs, strict=True)), torch.zeros(()))
    a, b = torch.cat([a * s for (a, _), s in zip(pairs, scales, strict=True)]), torch.cat([b for _, b in pairs], 1)
    if way == "cat":
        return a, b
    wanted = rank or max(len(a) for a, _ in pairs)
    u, s, v = torch.linalg.svd(b @ a, full_matrices=False)
    return v[:wanted], u[:, :wanted] * s[:wanted]


def _with(t: Tensor, start: Tensor | None, dim: int = 0) -> Tensor:
    """An update that is counted from its start, as one of twice the rank."""
    return t if start is None else torch.cat([t, -start if dim else start], dim)


def _starts(group: Sequence[LoRA]) -> Tensor | None:
    found = [part.start_B for part in group if part.start_B is not None]
    return torch.cat(found) if found else None
