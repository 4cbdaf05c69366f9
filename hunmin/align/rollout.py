"""Rollouts: prompts become completions through the generation engine, and completions the log-probabilities that were theirs.

All completions of all prompts run in one stream of the engine (continuous batching), those of one prompt over the same pages of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hunmin.align import policy_losses as losses
from hunmin.align.logprobs import Scored, bare, pack, score
from hunmin.errors import InputError, say, warn_once
from hunmin.generate import Engine, GenerationConfig
from hunmin.generate.prompt import end_ids
from hunmin.hub.config import Config
from hunmin.model import PreTrainedModel
from hunmin.nn.losses import IGNORE
from hunmin.quantize import Packed

Row = Mapping[str, Any]
KEYS = ("prompt", "query", "input_ids")  # where a row may have its prompt


@dataclass
class Rollout:
    """B completions, those of one prompt side by side. ``ended``: with an end token, not by length."""

    rows: list[Row]
    prompts: list[list[int]]
    completions: list[list[int]]
    ended: list[bool]
    texts: list[Any] = field(default_factory=list[Any])  # as reward functions get them: text, messages, or ids without a tokenizer

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.completions]

    def among(self, chosen: Iterable[int]) -> Rollout:
        """Some of the completions."""
        at = list(chosen)
        held: list[list[Any]] = [self.rows, self.prompts, self.completions, self.ended, self.texts]
        return Rollout(*([values[i] for i in at] for values in held))

    def labelled(self, among: Sequence[int] | None = None) -> list[dict[str, list[int]]]:
        """Prompt and completion of each (or of those in ``among``), with the completion as labels."""
        every = range(len(self)) if among is None else among
        return [labelled(self.prompts[i], self.completions[i]) for i in every]


def labelled(prompt: Sequence[int], completion: Sequence[int]) -> dict[str, list[int]]:
    """Ids and labels of a prompt with its completion: only the completion is scored."""
    return {"input_ids": [*prompt, *completion], "labels": [IGNORE] * len(prompt) + list(completion)}


# -------------------------------------------------------------- prompts


def prompt_of(row: Row) -> Any:
    """What a row asks: text, messages or ids. Raises InputError when it has none of them."""
    for key in KEYS:
        if key in row:
            return row[key]
    listed = ", ".join(map(str, row)) or "-"
    raise InputError(
        say(
            f"A row has no prompt, only {listed}. Name the column 'prompt': text or a list of messages.",
            f"행에 프롬프트가 없습니다(있는 열: {listed}). 열 이름을 'prompt'로 하고 텍스트나 메시지 목록을 넣으세요.",
        )
    )


def conversational(prompt: Any) -> bool:
    """Whether a prompt is a list of messages."""
    return isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], Mapping)  # pyright: ignore[reportUnknownArgumentType]


def encode(prompt: Any, tokenizer: Any, longest: int | None = None, template: Mapping[str, Any] | None = None) -> list[int]:
    """The ids of a prompt; of more than ``longest`` the last ones. Messages end with what starts the assistant's turn.

    Raises InputError for an empty prompt, and for text without a tokenizer.
    """
    if isinstance(prompt, Tensor) or (isinstance(prompt, list | tuple) and not conversational(prompt)):
        ids = [int(i) for i in (prompt.tolist() if isinstance(prompt, Tensor) else prompt)]
    elif tokenizer is None:
        raise InputError(say("Prompts of text need processing_class=.", "텍스트 프롬프트에는 processing_class=가 필요합니다."))
    elif conversational(prompt):
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False, **(template or {}))
    else:
        ids = tokenizer(prompt)["input_ids"]
        end = getattr(tokenizer, "eos_token_id", None)
        ids = ids[:-1] if len(ids) > 1 and ids[-1] == end else ids  # a tokenizer that closes texts would end the answer before it began
    if not ids:
        raise InputError(say("A prompt is empty: filter such rows out.", "빈 프롬프트가 있습니다. 그런 행을 빼세요."))
    return ids if longest is None else ids[-longest:]


def check_room(prompts: Sequence[Sequence[int]], new: int, config: Config) -> None:
    """Raises InputError when a prompt and ``new`` tokens go beyond the model's context."""
    room = config.get("max_position_embeddings")
    for i, ids in enumerate(prompts):
        if room is not None and len(ids) + new > room:
            raise InputError(
                say(
                    f"Prompt {i} of the batch has {len(ids)} tokens; with {new} new ones it goes beyond the model's context of {room}."
                    " Set max_prompt_length, or max_completion_length lower, or filter the data.",
                    f"배치의 {i}번 프롬프트가 {len(ids)}토큰이라 새 토큰 {new}개를 더하면 모델의 문맥 {room}을 넘습니다."
                    " max_prompt_length를 정하거나, max_completion_length를 줄이거나, 데이터를 거르세요.",
                )
            )


# -------------------------------------------------------------- completions


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end a completion: the model's and the tokenizer's."""
    base = bare(model)
    found = end_ids(base.generation_config) if base.generation_config is not None else []
    for end in (base.config.get("eos_token_id"), getattr(tokenizer, "eos_token_id", None)):
        found += [] if end is None else [end] if isinstance(end, int) else list(end)
    return list(dict.fromkeys(found))


@contextmanager
def sampling(model: Any) -> Generator[PreTrainedModel]:
    """The model as the engine runs it fastest: in evaluation mode, adapters folded into its weights, without settings of its own.

    Raises InputError for models that the engine cannot run.
    """
    base = bare(model)
    if not isinstance(base, PreTrainedModel) or base.task != "CausalLM":
        raise InputError(
            say(
                f"Completions are drawn from a causal language model of Hunmin, not {type(base).__name__}. Use AutoModelForCausalLM.",
                f"완성은 Hunmin의 인과 언어 모델에서 뽑습니다. 받은 것: {type(base).__name__}. AutoModelForCausalLM을 쓰세요.",
            )
        )
    if len(getattr(model, "virtual", ())):
        raise InputError(
            say(
                "Completions cannot be drawn with virtual tokens in front of the text: train a LoRA adapter.",
                "텍스트 앞에 가상 토큰이 있으면 완성을 뽑을 수 없습니다. LoRA 어댑터를 쓰세요.",
            )
        )
    foldable = base is not model and not any(isinstance(module, Packed) for module in base.modules())
    learning, own = model.training, base.generation_config
    model.eval()
    base.generation_config = None
    try:
        with model.adapters.folded() if foldable else nullcontext():
            yield base if foldable else model
    finally:
        base.generation_config = own
        model.train(learning)


def complete(model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig, seed: int) -> list[list[list[int]]]:
    """``config.num_return_sequences`` completions of each prompt, with their end tokens. ``config`` counts, not the model's own."""
    with sampling(model) as served:
        engine = Engine(served, config)
        return [result.new for result in engine.run(prompts, seed=seed % (1 << 32))]


def roll(
    model: Any,
    rows: Sequence[Row],
    config: GenerationConfig,
    *,
    tokenizer: Any = None,
    seed: int = 0,
    longest_prompt: int | None = None,
    template: Mapping[str, Any] | None = None,
) -> Rollout:
    """Completions of the prompts in ``rows``. Raises InputError for prompts that are empty or too long for the model's context."""
    prompts = [encode(prompt_of(row), tokenizer, longest_prompt, template) for row in rows]
    assert config.max_new_tokens is not None
    check_room(prompts, config.max_new_tokens, bare(model).config)
    ends = set(end_ids(config))
    if not ends:
        warn_once(
            say(
                "Neither model nor tokenizer has an end token: every completion runs to max_completion_length.",
                "모델과 토크나이저에 끝 토큰이 없어 모든 완성이 max_completion_length까지 이어집니다.",
            )
        )
    copies = config.num_return_sequences
    completions = [ids for each in complete(model, prompts, config, seed) for ids in each]
    every = [row for row in rows for _ in range(copies)]
    found = Rollout(every, [ids for ids in prompts for _ in range(copies)], completions, [ids[-1] in ends for ids in completions])
    found.texts = [_shown(row, ids, tokenizer) for row, ids in zip(every, completions, strict=True)]
    return found


def _shown(row: Row, completion: list[int], tokenizer: Any) -> Any:
    if tokenizer is None:
        return completion
    text = tokenizer.decode(completion, skip_special_tokens=True)
    return [{"role": "assistant", "content": text}] if conversational(prompt_of(row)) else text


def plain(text: Any) -> str:
    """A prompt or completion as people read it."""
    if conversational(text):
        return "\n".join(str(message.get("content", "")) for message in text)
    return text if isinstance(text, str) else " ".join(map(str, text.tolist() if isinstance(text, Tensor) else text))


# -------------------------------------------------------------- log-probabilities


def on(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch on ``device``."""
    return {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}


def parts(count: int, size: int) -> list[range]:
    """``count`` rows in parts of ``size`` at most."""
    return [range(i, min(i + size, count)) for i in range(0, count, size)]


def side_by_side(scored: Scored, values: Tensor | None = None) -> Tensor:
    """Values of tokens ``(T,)``, or the log-probabilities, as ``(B, L)``; gradients pass."""
    return losses.grid(scored.split(values))


@torch.no_grad()
def rescore(model: Any, rollout: Rollout, size: int, *, temperature: float = 1.0, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of all completions under ``model``, and entropies, ``(B, L)``, ``size`` sequences at a time."""
    learning = model.training
    model.eval()
    found, entropies = list[Tensor](), list[Tensor]()
    device = next(model.parameters()).device
    try:
        for part in parts(len(rollout), size):
            scored = score(model, on(pack(rollout.labelled(part), model), device), temperature=temperature, entropy=entropy)
            found += scored.split()
            entropies += scored.split(scored.entropy) if scored.entropy is not None else []
    finally:
        model.train(learning)
    return losses.grid(found), losses.grid(entropies) if entropies else None
