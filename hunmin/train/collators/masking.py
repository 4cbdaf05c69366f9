"""Objectives that replace single tokens: causal and masked language models, whole words, replaced tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hunmin.errors import InputError, say
from hunmin.nn.losses import IGNORE
from hunmin.train.collators.basic import finish
from hunmin.train.losses import replace_tokens
from hunmin.train.rows import Row, as_rows, unpadded

Flags = np.ndarray[Any, Any]
MARKS = ("##", "Ġ", "▁")  # how vocabularies tell pieces apart: "##" goes on with a word, the others begin one


class Chance:
    """Random numbers of a collator: its own from ``seed``, otherwise from torch's, which ``set_seed`` and checkpoints govern.

    Every worker process of a data loader draws others, and others again in each epoch: there the seed goes together with torch's.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed, self._own = seed, dict[int, np.random.Generator]()

    def __call__(self) -> np.random.Generator:
        if self.seed is None:
            return np.random.default_rng(int(torch.randint(2**62, ())))
        worker = torch.utils.data.get_worker_info()
        other = worker.seed if worker else 0
        if other not in self._own:
            self._own[other] = np.random.default_rng([self.seed, other])
        return self._own[other]


class Words:
    """Which word each token of a row belongs to: ``word_ids`` of the row, or the marks of the tokenizer's vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def mark(self) -> str:
        vocabulary: Iterable[str] = self.tokenizer.get_vocab()
        counts = {mark: sum(piece.startswith(mark) for piece in vocabulary) for mark in MARKS}
        mark = max(counts, key=lambda mark: counts[mark])
        if not counts[mark]:
            raise InputError(
                say(
                    f"The vocabulary marks no words (by {', '.join(MARKS)}): give rows with word_ids to mask whole words.",
                    f"어휘에 단어 표시({', '.join(MARKS)})가 없습니다. 단어 단위로 가리려면 word_ids가 있는 행을 주세요.",
                )
            )
        return mark

    def __call__(self, row: Row, special: Flags) -> Flags:
        """The number of each token's word, ``(N,)``; special tokens stand alone."""
        given = row.get("word_ids")
        if given is not None:
            begins = np.array([i == 0 or given[i] != given[i - 1] for i in range(len(given))], bool)
        else:
            marked = [token.startswith(self.mark) for token in self.tokenizer.convert_ids_to_tokens(list(row["input_ids"]))]
            begins = np.array(marked, bool) ^ (self.mark == "##")
        begins |= special | np.concatenate([[True], special[:-1]])[: len(special)]
        return begins.cumsum()


def special_tokens(tokenizer: Any, row: Row) -> Flags:
    """True where a row has a special token, ``(N,)``."""
    if "special_tokens_mask" in row:
        return np.array(row["special_tokens_mask"], bool)
    return np.isin(np.array(row["input_ids"], np.int64), tokenizer.all_special_ids)


def choose(row: Row, special: Flags, rate: float, words: Words | None, chance: np.random.Generator) -> Flags:
    """True for the tokens to predict, ``(N,)``: each token, or with ``words`` each word, with probability ``rate``."""
    if words is None:
        return (chance.random(len(special)) < rate) & ~special
    word = words(row, special)
    return (chance.random(int(word.max(initial=0)) + 1) < rate)[word] & ~special


@dataclass
class DataCollatorForLanguageModeling:
    """Labels from the text itself, for causal (``mlm=False``) or masked language models (Devlin et al. 2019, section 3.1).

    Args:
        tokenizer: knows the special tokens, which are never masked.
        mlm: masked; otherwise labels are the ids, and -100 for padding.
        whole_word_mask: choose words, by ``word_ids`` of the row or the marks of the vocabulary (``##``, ``Ġ``, ``▁``).
        mlm_probability: the share of tokens to predict; at least one token or word a batch.
        mask_replace_prob: the share of those that becomes the mask token.
        random_replace_prob: the share that becomes another ordinary token; the rest stays as it is.
        seed: own random numbers; otherwise those of ``set_seed``.
        packed: one row without padding (:func:`hunmin.train.rows.flatten`).
    """

    tokenizer: Any
    mlm: bool = True
    whole_word_mask: bool = False
    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    seed: int | None = None
    packed: bool = False

    def __post_init__(self) -> None:
        shares = (self.mlm_probability, self.mask_replace_prob, self.random_replace_prob)
        if (
            not all(0 <= share <= 1 for share in shares)
            or self.mask_replace_prob + self.random_replace_prob > 1
            or not self.mlm_probability
        ):
            raise InputError(say(f"Probabilities {shares} are not shares of one.", f"확률 {shares}이(가) 올바르지 않습니다."))
        if self.mlm and self.tokenizer.mask_token_id is None:
            raise InputError(
                say(
                    "This tokenizer has no mask token: use mlm=False for a causal model.",
                    "이 토크나이저에는 마스크 토큰이 없습니다: 인과 언어 모델이면 mlm=False를 주세요.",
                )
            )
        self._chance, self._words = Chance(self.seed), Words(self.tokenizer)
        if self.mlm:
            self._ordinary = np.setdiff1d(np.arange(len(self.tokenizer)), self.tokenizer.all_special_ids)

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        rows = as_rows(features)
        if not self.mlm:
            return finish(self, [_causal(row) for row in rows], "token")
        chance = self._chance()
        special = [self._special(row) for row in rows]
        words = self._words if self.whole_word_mask else None
        chosen = [choose(row, s, self.mlm_probability, words, chance) for row, s in zip(rows, special, strict=True)]
        if not any(c.any() for c in chosen):  # nothing to predict would be a mean over nothing
            free = [(i, int(j)) for i, s in enumerate(special) for j in np.flatnonzero(~s)]
            for i, j in [free[int(chance.integers(len(free)))]] if free else []:
                word = words(rows[i], special[i]) if words else np.arange(len(special[i]))
                chosen[i] = word == word[j]
        return finish(self, [self._masked(row, c, chance) for row, c in zip(rows, chosen, strict=True)], "token")

    def _special(self, row: Row) -> Flags:
        special = special_tokens(self.tokenizer, row)
        return special | ~np.array(row["attention_mask"], bool) if "attention_mask" in row else special

    def _masked(self, row: Row, chosen: Flags, chance: np.random.Generator) -> Row:
        ids, draw = np.array(row["input_ids"], np.int64), chance.random(len(chosen))
        masked = chosen & (draw < self.mask_replace_prob)
        other = chosen & ~masked & (draw < self.mask_replace_prob + self.random_replace_prob)
        labels = np.where(chosen, ids, IGNORE)
        ids = np.where(masked, self.tokenizer.mask_token_id, np.where(other, chance.choice(self._ordinary, len(ids)), ids))
        return {**row, "input_ids": ids.tolist(), "labels": labels.tolist()}


def _causal(row: Row) -> Row:
    real = row.get("attention_mask") or [1] * len(row["input_ids"])
    return {**row, "labels": [index if seen else IGNORE for index, seen in zip(row["input_ids"], real, strict=True)]}


@dataclass
class DataCollatorForWholeWordMask(DataCollatorForLanguageModeling):
    """:class:`DataCollatorForLanguageModeling` with ``whole_word_mask=True``."""

    whole_word_mask: bool = True


@dataclass
class DataCollatorForReplacedTokens(DataCollatorForLanguageModeling):
    """Text with some tokens replaced, and for every token whether it was (Clark et al. 2020).

    The replacements are samples of ``generator``, a masked language model that does not learn here (for joint training see
    :func:`hunmin.train.losses.electra`); without one they are ordinary tokens drawn at random.
    """

    generator: Any = None
    mask_replace_prob: float = 1.0
    random_replace_prob: float = 0.0

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        rows = unpadded(as_rows(features))
        batch = super().__call__(rows)
        places = batch["labels"] != IGNORE
        if self.generator is None:
            drawn = torch.from_numpy(self._chance().choice(self._ordinary, int(places.sum())))
            filled = batch["input_ids"].masked_scatter(places, drawn)
            return {**batch, "input_ids": filled, "labels": (places & (filled != batch["labels"])).long()}
        with torch.no_grad():
            logits = self.generator(**{key: value for key, value in batch.items() if key != "labels"}).logits
        filled, replaced = replace_tokens(batch["input_ids"], batch["labels"], logits)
        return {**batch, "input_ids": filled, "labels": replaced.long()}
