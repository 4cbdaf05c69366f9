"""The policy that training starts from, which later ones are measured against."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hunmin.adapters import LoRA
from hunmin.align.logprobs import Scored, bare, score
from hunmin.errors import InputError, say


class Reference:
    """Scores of the reference policy, without gradients and dropout.

    ``ref_model`` where it is given. Otherwise it is what ``model`` was when this was made: with a fresh LoRA adapter the model with the
    adapter off, with any other adapter the model with its first adapter put back for the moment, and else a frozen copy. ``cache`` is a
    folder for what :meth:`cached` computes; with ``copied=False`` no copy is made for it, and the model itself is asked until ``moved``.

    Raises InputError where the vocabularies differ.
    """

    def __init__(self, model: Any, ref_model: Any = None, cache: str | Path | None = None, *, copied: bool = True) -> None:
        self.policy, self.cache = model, Path(cache) if cache is not None else None
        self.own: Any = ref_model
        self.moved = False  # whether training has begun
        self.start: dict[nn.Parameter, Tensor] | None = None  # what adapters were, where they had learnt something before
        if ref_model is not None:
            if ref_model is model:
                raise InputError(say("ref_model is the model itself: leave it out.", "ref_model이 학습할 모델과 같습니다. 빼세요."))
            same_vocabulary(model, ref_model)
            ref_model.eval().requires_grad_(False)
        elif hasattr(model, "disable_adapter"):
            if not _fresh(model):
                self.start = {p: p.detach().clone() for p in model.parameters() if p.requires_grad}
        elif copied:
            self.own = copy.deepcopy(model).eval().requires_grad_(False)

    @contextmanager
    def model(self) -> Generator[Any]:
        """The reference policy, in evaluation mode and without gradients, for the length of a ``with``."""
        with torch.no_grad():
            if self.own is not None:
                yield self.own.to(next(self.policy.parameters()).device)
                return
            training = self.policy.training
            self.policy.eval()
            try:
                with self._first():
                    yield self.policy
            finally:
                self.policy.train(training)

    @contextmanager
    def _first(self) -> Generator[None]:
        """The policy as it was. Raises InputError where nobody remembers."""
        if self.start is None and hasattr(self.policy, "disable_adapter"):
            with self.policy.disable_adapter():
                yield
            return
        if self.start is None and self.moved:
            raise InputError(
                say("These rows have no reference probabilities: give them as eval_dataset, or leave out precompute_ref_log_probs.",
                    "참조 확률이 없는 행입니다. eval_dataset으로 주거나 precompute_ref_log_probs를 빼세요.")
            )  # fmt: skip
        start = self.start or {}
        now = {p: p.data for p in start}
        for p, first in start.items():
            p.data = first.to(p.device)
        try:
            yield
        finally:
            for p, held in now.items():
                p.data = held

    def score(self, batch: Mapping[str, Any], **how: Any) -> Scored:
        """:func:`hunmin.align.logprobs.score` of the reference policy."""
        with self.model() as model:
            return score(model, batch, **how)

    @torch.no_grad()
    def sync(self, share: float) -> None:
        """Move the reference ``share`` of the way to the policy (TR-DPO, Gorbatovski et al. 2024, equation 4). Raises InputError with adapters."""
        if self.own is None:
            raise InputError(
                say("sync_ref_model needs a reference model of its own: train without peft_config.",
                    "sync_ref_model에는 따로 있는 참조 모델이 필요합니다. peft_config 없이 학습하세요.")
            )  # fmt: skip
        for ours, theirs in zip(self.own.parameters(), bare(self.policy).parameters(), strict=True):
            ours.lerp_(theirs.to(ours), share)

    def cached(
        self, rows: Sequence[Any], values: Callable[[Sequence[Any]], Mapping[str, Tensor]], size: int, about: str = ""
    ) -> dict[str, Tensor]:
        """``values`` of all ``rows``, ``size`` at a time: each a tensor with an entry a row, computed once for one model and one data set.

        With a ``cache`` folder they are read from there where they are known, and written where not. ``about`` is what else they depend on.
        """
        place = None
        if self.cache is not None:
            off = self.own is None and self.start is None and hasattr(self.policy, "disable_adapter")
            with self.model() as model:
                place = self.cache / f"{fingerprint(model, off)}-{rows_fingerprint([about, *rows])}.safetensors"
            if place.is_file():
                try:
                    return load_file(place)
                except (SafetensorError, OSError):
                    place.unlink()  # half a file of a run that was killed
        parts = [values(rows[i : i + size]) for i in range(0, len(rows), size)]
        found = {name: torch.cat([part[name].detach().float().cpu() for part in parts]) for name in (parts[0] if parts else {})}
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_suffix(f".{os.getpid()}")
            save_file(found, part)
            part.replace(place)
        return found


def _fresh(model: Any) -> bool:
    """Whether the model with its adapters computes what it does without: LoRA at its start, nothing else trained."""
    if len(model.virtual) or any(p.requires_grad for p in model.base_model.parameters()):
        return False
    parts = [part for name in model.active_adapters for part in model.adapters.at(name).values()]
    return all(isinstance(part, LoRA) and part.magnitude is None and _at_start(part) for part in parts)


def _at_start(part: LoRA) -> bool:
    if part.start_A is not None and part.start_B is not None:
        return torch.equal(part.lora_A, part.start_A) and torch.equal(part.lora_B, part.start_B)
    return not bool(part.lora_A.any()) or not bool(part.lora_B.any())


def same_vocabulary(model: Any, other: Any) -> None:
    """Raises InputError where two models have vocabularies of different sizes."""
    sizes = [int(size) for m in (model, other) if (size := getattr(getattr(bare(m), "config", None), "vocab_size", None)) is not None]
    if len(set(sizes)) > 1:
        raise InputError(
            say(
                f"The models have different vocabularies ({sizes[0]} and {sizes[1]} tokens): their probabilities cannot be compared.",
                f"두 모델의 어휘가 다릅니다(토큰 {sizes[0]}개와 {sizes[1]}개). 확률을 비교할 수 없습니다.",
            )
        )


def fingerprint(model: Any, base: bool = False) -> str:
    """16 hexadecimal digits of a model's weights, of the ``base`` without adapters if asked for."""
    found = hashlib.blake2b(digest_size=8)
    for name, p in sorted((bare(model) if base else model).named_parameters()):
        found.update(f"{name} {tuple(p.shape)} {p.dtype}".encode())
        found.update(p.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def rows_fingerprint(rows: Iterable[Any]) -> str:
    """16 hexadecimal digits of rows of tokens."""
    found = hashlib.blake2b(digest_size=8)
    for row in rows:
        found.update(repr(row).encode())
    return found.hexdigest()
