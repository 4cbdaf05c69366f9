"""The best of N: more computing when answering in place of learning (Nakano et al. 2021, section 3.2; Gao et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hunmin.align.rewards import Rewards, Worth
from hunmin.align.rollout import Rollout, Row, complete, ends_of, roll
from hunmin.errors import InputError, say
from hunmin.generate import GenerationConfig
from hunmin.generate.sampling import drawn


class Best(NamedTuple):
    """The best completions of one prompt, best first, with their scores."""

    texts: list[Any]
    scores: list[float]


class BestOfNSampler:
    """Draws ``sample_size`` completions of each prompt and keeps the ``n_candidates`` best.

    Args:
        model: a causal language model of Hunmin, with adapters, a value head or none of them.
        tokenizer: of the model.
        queries_to_scores: a function from whole texts (prompt and completion) to scores, as TRL's sampler had; or give ``reward_funcs``.
        length_sampler: gives the number of new tokens of the next prompt; without it ``generation_config`` does.
        sample_size: N.
        seed: makes the draws repeatable.
        n_candidates: how many of the N are kept.
        generation_config: how completions are drawn; by default from the model's whole distribution.
        reward_funcs, reward_weights: functions, reward models or paths as :class:`~hunmin.align.GRPOTrainer` takes them.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        queries_to_scores: Callable[[list[str]], Sequence[float]] | None = None,
        length_sampler: Callable[[], int] | None = None,
        sample_size: int = 4,
        seed: int | None = None,
        n_candidates: int = 1,
        generation_config: GenerationConfig | None = None,
        *,
        reward_funcs: Any = None,
        reward_weights: Sequence[float] | None = None,
    ) -> None:
        self.model, self.tokenizer = getattr(model, "pretrained_model", model), tokenizer
        if (queries_to_scores is None) == (reward_funcs is None):
            raise InputError(
                say("Give one of queries_to_scores= and reward_funcs=.", "queries_to_scores=와 reward_funcs= 가운데 하나를 주세요.")
            )
        if not 1 <= n_candidates <= sample_size:
            raise InputError(
                say(
                    f"n_candidates={n_candidates} has to be between 1 and sample_size={sample_size}.",
                    f"n_candidates={n_candidates}은(는) 1과 sample_size={sample_size} 사이여야 합니다.",
                )
            )
        self.queries_to_scores, self.length_sampler = queries_to_scores, length_sampler
        self.rewards = Rewards(reward_funcs, reward_weights, None, tokenizer) if reward_funcs is not None else None
        self.sample_size, self.n_candidates, self.config = sample_size, n_candidates, generation_config
        self.chance = torch.Generator().manual_seed(seed) if seed is not None else None

    def settings(self, **options: Any) -> GenerationConfig:
        """How completions of a prompt are drawn. Without a length they have 64 tokens at most."""
        own: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": 64}
        config = GenerationConfig(**own) if self.config is None else self.config.over(GenerationConfig(**own))
        if self.length_sampler is not None:
            config.update(max_new_tokens=self.length_sampler())
        config.update(**options)
        if config.eos_token_id is None:
            config.update(eos_token_id=ends_of(self.model, self.tokenizer) or None)
        config.update(num_return_sequences=self.sample_size)
        return config

    def best(self, rows: Sequence[Any], **generation_options: Any) -> list[Best]:
        """For each of ``rows`` - prompts as text or messages, or dictionaries with ``prompt`` and columns for rewards - its best completions.

        All completions of all prompts are drawn in one stream.
        """
        given: list[Row] = [row if isinstance(row, dict) else {"prompt": row} for row in rows]
        config = self.settings(**generation_options)
        rollout = roll(self.model, given, config, tokenizer=self.tokenizer, seed=drawn(self.chance))
        return [Best([rollout.texts[i] for i in at], scores) for at, scores in self.chosen(rollout, self.worth(rollout).total)]

    def worth(self, rollout: Rollout) -> Worth:
        """What completions are worth."""
        if self.rewards is not None:
            return self.rewards(rollout)
        assert self.queries_to_scores is not None
        return Rewards(_whole_texts(self.queries_to_scores, self.tokenizer))(rollout)

    def chosen(self, rollout: Rollout, scores: Tensor) -> list[tuple[list[int], list[float]]]:
        """Places and scores of the best of every prompt; what nobody scored comes last."""
        found = list[tuple[list[int], list[float]]]()
        for begin in range(0, len(rollout), self.sample_size):
            top = scores[begin : begin + self.sample_size].nan_to_num(nan=-torch.inf).topk(self.n_candidates)
            found.append(([begin + i for i in top.indices.tolist()], top.values.tolist()))
        return found

    def generate(
        self, tokenized_query: Any, skip_special_tokens: bool = True, device: Any = None, **generation_kwargs: Any
    ) -> list[list[str]]:
        """The best whole texts (prompt and completion) of each tokenized query: ids, a tensor ``(N,)``, or a list of either.

        ``device`` is accepted: the model stays where it is.
        """
        one = isinstance(tokenized_query, Tensor) and tokenized_query.ndim == 1
        one = one or (isinstance(tokenized_query, list) and bool(tokenized_query) and isinstance(tokenized_query[0], int))
        queries = [tokenized_query] if one else list(tokenized_query)
        found = list[list[str]]()
        for query in queries:
            ids = [int(i) for i in (query.flatten().tolist() if isinstance(query, Tensor) else query)]
            new = complete(self.model, [ids], self.settings(**generation_kwargs), drawn(self.chance))[0]
            answers = [self.tokenizer.decode(each, skip_special_tokens=True) for each in new]
            rollout = Rollout([{"input_ids": ids}] * len(new), [ids] * len(new), new, [True] * len(new), answers)
            texts = [self.tokenizer.decode([*ids, *each], skip_special_tokens=skip_special_tokens) for each in new]
            found += [[texts[i] for i in at] for at, _ in self.chosen(rollout, self.worth(rollout).total)]
        return found


def _whole_texts(scores: Callable[[list[str]], Sequence[float]], tokenizer: Any) -> Any:
    """A function of whole texts with the protocol of rewards."""

    def whole_texts(prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]) -> Sequence[float]:
        ids = [[*p, *c] for p, c in zip(prompt_ids, completion_ids, strict=True)]
        return scores([tokenizer.decode(row, skip_special_tokens=True) for row in ids])

    return whole_texts
