"""What completions are worth: Python functions, reward models, or several of both with weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hunmin.align.formats import as_numbers
from hunmin.align.rollout import Rollout, conversational, parts, prompt_of
from hunmin.errors import InputError, say, short, warn_once
from hunmin.model import PreTrainedModel
from hunmin.nn.where import Where

Reward = Callable[..., Sequence[float | None]]
SAME = 3  # rollouts without any difference in reward, from the start of a run, before somebody is told


class Worth(NamedTuple):
    """``total`` ``(B,)``, the weighted sum, NaN where no function had an opinion; ``each`` ``(B, F)``."""

    total: Tensor
    each: Tensor


class Rewards:
    """Several rewards as one.

    Args:
        funcs: each a function with TRL's protocol, ``fn(prompts=…, completions=…, completion_ids=…, **columns) -> list[float | None]``
            (it gets what its signature names), a classification model with one label, or a path to one.
        weights: of each; 1 without.
        tokenizers: of the reward models, where they differ from the policy's ``tokenizer``.
        batch: completions that a reward model reads at a time.
    """

    def __init__(
        self, funcs: Any, weights: Sequence[float] | None = None, tokenizers: Any = None, tokenizer: Any = None, batch: int = 16
    ) -> None:
        listed = list(funcs) if isinstance(funcs, list | tuple) else [funcs]
        if not listed or listed == [None]:
            raise InputError(say("Give reward_funcs=: a function or a reward model.", "reward_funcs=에 함수나 보상 모델을 주세요."))
        held = list(tokenizers) if isinstance(tokenizers, list | tuple) else [tokenizers] * len(listed)
        self.weights = [float(w) for w in weights] if weights is not None else [1.0] * len(listed)
        if len(self.weights) != len(listed) or len(held) != len(listed):
            raise InputError(
                say(
                    f"{len(listed)} rewards need as many reward_weights (and tokenizers), not {len(self.weights)} ({len(held)}).",
                    f"보상이 {len(listed)}개이므로 reward_weights(와 토크나이저)도 그만큼 필요합니다: {len(self.weights)}개({len(held)}개).",
                )
            )
        self.funcs = [_function(f, t, tokenizer, batch) for f, t in zip(listed, held, strict=True)]
        self.names = _names(self.funcs)
        self._seen, self._only = 0, math.nan

    def __call__(self, rollout: Rollout) -> Worth:
        """Raises InputError for NaN and for lists of another length, with the name of the function."""
        each = torch.stack([ask(f, name, rollout) for f, name in zip(self.funcs, self.names, strict=True)], 1)
        total = (each * torch.tensor(self.weights)).nansum(1).masked_fill(each.isnan().all(1), math.nan)
        if bool(total.isnan().any()):
            warn_once(
                say(
                    f"{int(total.isnan().sum())} completions have no reward from any function; they do not count.",
                    f"어떤 함수도 보상을 주지 않은 완성이 {int(total.isnan().sum())}개 있어 학습에서 뺍니다.",
                )
            )
        self._constant(total)
        return Worth(total, each)

    def _constant(self, total: Tensor) -> None:
        """Say once when all rewards since the start were the same."""
        known = total[~total.isnan()]
        if self._seen < 0 or not len(known):
            return
        self._only = float(known[0]) if self._seen == 0 else self._only
        self._seen = self._seen + 1 if bool((known == self._only).all()) else -1
        if self._seen == SAME:
            self._seen = -1
            warn_once(
                say(
                    f"Every reward so far is {self._only:g}: there is nothing to learn from. Look at the reward function and at the samples.",
                    f"지금까지 보상이 모두 {self._only:g}입니다. 배울 것이 없으니 보상 함수와 샘플을 확인하세요.",
                )
            )


def ask(function: Reward, name: str, rollout: Rollout) -> Tensor:
    """What a function says of a rollout, ``(B,)`` fp32, NaN for None. Raises InputError for anything else than numbers."""
    columns = {key: [row.get(key) for row in rollout.rows] for key in rollout.rows[0] if key not in ("prompt", "input_ids")}
    known: dict[str, Any] = {"prompts": [prompt_of(row) for row in rollout.rows], "completions": rollout.texts}
    known |= {"completion_ids": rollout.completions, "prompt_ids": rollout.prompts, **columns}
    values = function(**_fitting(function, known))
    values = values.tolist() if isinstance(values, Tensor) else list(values)
    numbers = as_numbers(values, len(rollout), say(f"Reward {name}", f"보상 {name}"))
    for number, text in zip(numbers, rollout.texts, strict=True):
        if number is not None and not math.isfinite(number):
            raise InputError(
                say(
                    f"Reward {name} is {number} for the completion {short(text)}. Return a finite number, or None for no opinion.",
                    f"보상 {name}이(가) 완성 {short(text)}에 대해 {number}입니다. 유한한 수를 돌려주거나, 판단하지 않으려면 None을 쓰세요.",
                )
            )
    return torch.tensor([math.nan if number is None else number for number in numbers])


def _fitting(function: Reward, known: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a function's signature names; all where it takes any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return dict(known)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return dict(known)
    wanted = {p.name for p in parameters}
    if missing := [p.name for p in parameters if p.default is p.empty and p.name not in known and p.kind is not p.VAR_POSITIONAL]:
        listed = ", ".join(known)
        raise InputError(
            say(
                f"A reward function wants {missing[0]!r}; there are {listed}.",
                f"보상 함수가 {missing[0]!r}을(를) 받으려 하지만 있는 것은 {listed}입니다.",
            )
        )
    return {name: value for name, value in known.items() if name in wanted}


def _function(reward: Any, own: Any, shared: Any, batch: int) -> Any:
    """A reward as a function; a model or path becomes one."""
    if isinstance(reward, str) or hasattr(reward, "__fspath__"):
        from hunmin.auto import AutoModelForSequenceClassification
        from hunmin.text import AutoTokenizer

        own = own if own is not None else AutoTokenizer.from_pretrained(reward)
        reward = AutoModelForSequenceClassification.from_pretrained(reward, num_labels=1)
    if isinstance(reward, nn.Module):
        return RewardModel(reward, own if own is not None else shared, shared, batch)
    if not callable(reward):
        raise InputError(
            say(
                f"A reward is a function, a model with one label, or a path, not {type(reward).__name__}.",
                f"보상은 함수, 라벨이 하나인 모델, 또는 경로여야 합니다: {type(reward).__name__}.",
            )
        )
    return reward


def _names(funcs: Sequence[Any]) -> list[str]:
    """A name for each, also where two functions have the same."""
    found = list[str]()
    for f in funcs:
        name = str(getattr(f, "__name__", type(f).__name__)).replace("<lambda>", "reward")
        found.append(name if name not in found else f"{name}_{len(found) + 1}")
    return found


class RewardModel:
    """A classification model with one label as a reward function: the score of prompt and completion.

    With the policy's own tokenizer it reads the very ids; with another, the text of both, a conversation through that tokenizer's template.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None, policy_tokenizer: Any = None, batch: int = 16) -> None:
        base = getattr(model, "base_model", model) if hasattr(model, "peft_config") else model
        labels = getattr(getattr(base, "config", None), "num_labels", None)
        if not isinstance(base, PreTrainedModel) or base.task != "SequenceClassification" or labels != 1:
            raise InputError(
                say(
                    f"A reward model is a sequence classifier with one label; this is {type(base).__name__} with {labels}."
                    " Load it with AutoModelForSequenceClassification.from_pretrained(…, num_labels=1).",
                    f"보상 모델은 라벨이 하나인 문장 분류 모델입니다. 받은 것: {type(base).__name__}, 라벨 {labels}개."
                    " AutoModelForSequenceClassification.from_pretrained(…, num_labels=1)로 불러오세요.",
                )
            )
        self.model, self.batch = model.eval().requires_grad_(False), batch
        self.tokenizer, self.same = tokenizer, tokenizer is policy_tokenizer
        self.__name__ = str(getattr(base, "name_or_path", "") or "reward_model").rstrip("/").rpartition("/")[2]

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]
    ) -> list[float]:
        rows = [[*p, *c] for p, c in zip(prompt_ids, completion_ids, strict=True)]
        if not self.same:
            rows = [self._ids(p, c) for p, c in zip(prompts, completions, strict=True)]
        self._check(rows)
        device, found = next(self.model.parameters()).device, list[float]()
        for part in parts(len(rows), self.batch):
            ids = torch.tensor([[i for row in part for i in rows[row]]], device=device)
            where = Where.packed([len(rows[row]) for row in part], device)
            found += self.model(input_ids=ids, where=where).logits[:, 0].float().tolist()
        return found

    def _ids(self, prompt: Any, completion: Any) -> list[int]:
        if conversational(prompt):
            return self.tokenizer.apply_chat_template([*prompt, *completion], return_dict=False)
        if not isinstance(prompt, str) or not isinstance(completion, str):
            raise InputError(
                say(
                    "A reward model with another tokenizer needs prompts of text, not of ids.",
                    "토크나이저가 다른 보상 모델에는 id가 아닌 텍스트 프롬프트가 필요합니다.",
                )
            )
        return self.tokenizer(prompt + completion)["input_ids"]

    def _check(self, rows: Sequence[Sequence[int]]) -> None:
        """Raises InputError for ids that the reward model does not know: it was made for another tokenizer."""
        size = self.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        highest = max(max(row) for row in rows)
        if highest >= size:
            raise InputError(
                say(
                    f"The reward model has a vocabulary of {size}, the completions hold id {highest}: give its tokenizer with"
                    " reward_processing_classes=.",
                    f"보상 모델의 어휘는 {size}인데 완성에 id {highest}가 있습니다. reward_processing_classes=에 그 토크나이저를 주세요.",
                )
            )
