"""Objectives that rebuild a text from a damaged one: BART's noises, T5's spans, and the rest of a text from its beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hunmin.errors import InputError, say
from hunmin.nn.losses import IGNORE
from hunmin.train.collators.basic import finish
from hunmin.train.collators.masking import MARKS, Chance
from hunmin.train.rows import Row, texts

Ids = list[int]
NOISES = ("masking", "deletion", "infilling", "permutation", "rotation")


def body(ids: Ids, special: frozenset[int]) -> tuple[Ids, Ids, Ids]:
    """The special tokens in front, the text, and the special tokens behind it."""
    first = next((i for i, index in enumerate(ids) if index not in special), len(ids))
    last = next((i for i in range(len(ids), first, -1) if ids[i - 1] not in special), first)
    return ids[:first], ids[first:last], ids[last:]


def _seq2seq(collator: Any, rows: list[Row]) -> dict[str, Any]:
    batch = finish(collator, rows, "decoder")
    if collator.model is not None:
        batch["decoder_input_ids"] = collator.model.shift_right(batch["labels"], batch.get("decoder_where"))
    return batch


@dataclass
class DataCollatorForDenoising:
    """The text from a noisy copy of it (Lewis et al. 2020, section 2.2). Special tokens at both ends stay where they are.

    Args:
        tokenizer: has a mask token.
        model: makes ``decoder_input_ids`` from the labels here; otherwise the model does when it is called.
        noises: applied in this order, of "masking" (a token becomes the mask), "deletion", "infilling" (a span of Poisson length becomes
            one mask; spans of no length insert one), "permutation" (of sentences), "rotation" (the text begins at another token).
        rate: the share of tokens that masking, deletion and infilling each take.
        poisson: the mean length of spans.
        stops: tokens that end a sentence.
        seed: own random numbers; otherwise those of ``set_seed``.
    """

    tokenizer: Any
    model: Any = None
    noises: Sequence[str] = ("permutation", "infilling")
    rate: float = 0.3
    poisson: float = 3.0
    stops: Sequence[str] = (".", "?", "!", "。")
    seed: int | None = None
    packed: bool = False

    def __post_init__(self) -> None:
        unknown = [noise for noise in self.noises if noise not in NOISES]
        if unknown or not 0 < self.rate < 1 or self.poisson <= 0 or self.tokenizer.mask_token_id is None:
            raise InputError(
                say(
                    f"Denoising needs a tokenizer with a mask token, 0 < rate < 1, poisson > 0 and noises of {', '.join(NOISES)}.",
                    f"노이즈 제거에는 마스크 토큰이 있는 토크나이저, 0 < rate < 1, poisson > 0, {', '.join(NOISES)} 가운데 noises가 필요합니다.",
                )
            )
        self._chance, self._special = Chance(self.seed), frozenset(self.tokenizer.all_special_ids)
        marks = "".join(MARKS)
        self._stops = frozenset(i for token, i in self.tokenizer.get_vocab().items() if token.lstrip(marks) in self.stops)

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        return _seq2seq(self, [self._noisy(ids) for ids in texts(features)])

    def _noisy(self, ids: Ids) -> Row:
        front, text, back = body(ids, self._special)
        steps: dict[str, Callable[[Ids, np.random.Generator], Ids]] = {
            "masking": self.mask,
            "deletion": self.delete,
            "infilling": self.infill,
            "permutation": self.permute,
            "rotation": self.rotate,
        }
        chance, noisy = self._chance(), text
        for noise in self.noises:
            noisy = steps[noise](noisy, chance) if noisy else noisy
        return {"input_ids": front + noisy + back, "labels": list(ids)}

    def mask(self, ids: Ids, chance: np.random.Generator) -> Ids:
        """Some tokens become the mask token."""
        return [self.tokenizer.mask_token_id if drawn < self.rate else i for i, drawn in zip(ids, chance.random(len(ids)), strict=True)]

    def delete(self, ids: Ids, chance: np.random.Generator) -> Ids:
        """Some tokens are gone; at least one stays."""
        return [i for i, drawn in zip(ids, chance.random(len(ids)), strict=True) if drawn >= self.rate] or ids[:1]

    def infill(self, ids: Ids, chance: np.random.Generator) -> Ids:
        """Spans with lengths of a Poisson distribution become one mask each, until the wanted share of tokens is gone."""
        budget, spans = round(len(ids) * self.rate), list[int]()
        while budget > 0:
            spans.append(min(int(chance.poisson(self.poisson)), budget))
            budget -= spans[-1]
        kept = len(ids) - sum(spans)
        # Between the tokens that stay, and at both ends, there are kept + 1 gaps; every span falls into another one while they last.
        gaps = np.concatenate([chance.permutation(kept + 1) for _ in range(1 + len(spans) // (kept + 1))])[: len(spans)]
        out, at, past = Ids(), 0, 0
        for i in np.argsort(gaps, kind="stable"):
            out += [*ids[at : at + gaps[i] - past], self.tokenizer.mask_token_id]
            at, past = at + gaps[i] - past + spans[i], gaps[i]
        return out + ids[at:]

    def permute(self, ids: Ids, chance: np.random.Generator) -> Ids:
        """Sentences, which end with a stop, in random order."""
        ends = [i + 1 for i, index in enumerate(ids) if index in self._stops and i + 1 < len(ids)]
        sentences = [ids[a:b] for a, b in zip([0, *ends], [*ends, len(ids)], strict=True)]
        return [index for i in chance.permutation(len(sentences)) for index in sentences[i]]

    def rotate(self, ids: Ids, chance: np.random.Generator) -> Ids:
        """The text begins at a random token, and what stood before it follows at the end."""
        at = int(chance.integers(len(ids)))
        return ids[at:] + ids[:at]


def partition(total: int, parts: int, chance: np.random.Generator) -> list[int]:
    """``parts`` positive numbers that add up to ``total``, every choice equally likely."""
    cuts = np.sort(chance.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff([0, *cuts.tolist(), total]).tolist()


@dataclass
class DataCollatorForSpanCorruption:
    """Spans of a text become sentinels; the target lists each sentinel with its span, and a last one (Raffel et al. 2020, section 3.1.4).

    Args:
        tokenizer: has sentinels ``<extra_id_0>``, ``<extra_id_1>``, … unless ``sentinels`` gives their ids.
        model: makes ``decoder_input_ids`` here.
        rate: the share of tokens in spans.
        mean_span: their mean length.
        seed: own random numbers; otherwise those of ``set_seed``.
    """

    tokenizer: Any
    model: Any = None
    rate: float = 0.15
    mean_span: float = 3.0
    sentinels: Sequence[int] | None = None
    seed: int | None = None
    packed: bool = False

    def __post_init__(self) -> None:
        vocabulary = self.tokenizer.get_vocab() if self.sentinels is None else {}
        named = [vocabulary[name] for i in range(100) if (name := f"<extra_id_{i}>") in vocabulary]
        self._sentinels = list(named if self.sentinels is None else self.sentinels)
        if len(self._sentinels) < 2 or not 0 < self.rate < 1 or self.mean_span < 1:
            raise InputError(
                say(
                    "Span corruption needs a tokenizer with <extra_id_0>, … or sentinels=[ids], 0 < rate < 1 and mean_span >= 1.",
                    "구간 손상에는 <extra_id_0>, …이 있는 토크나이저나 sentinels=[id들], 0 < rate < 1, mean_span >= 1이 필요합니다.",
                )
            )
        self._chance, self._special = Chance(self.seed), frozenset(self.tokenizer.all_special_ids) - frozenset(self._sentinels)

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        return _seq2seq(self, [self._corrupted(ids) for ids in texts(features)])

    def _corrupted(self, ids: Ids) -> Row:
        front, text, back = body(ids, self._special)
        if len(text) < 2:
            raise InputError(
                say("Span corruption needs texts of two tokens or more.", "구간 손상에는 토큰이 둘 이상인 텍스트가 필요합니다.")
            )
        chance, noise = self._chance(), min(max(round(len(text) * self.rate), 1), len(text) - 1)
        spans = min(max(round(noise / self.mean_span), 1), noise, len(text) - noise, len(self._sentinels) - 1)
        source, target, at = Ids(), Ids(), 0
        for i, (kept, hidden) in enumerate(zip(partition(len(text) - noise, spans, chance), partition(noise, spans, chance), strict=True)):
            source += [*text[at : at + kept], self._sentinels[i]]
            target += [self._sentinels[i], *text[at + kept : at + kept + hidden]]
            at += kept + hidden
        return {"input_ids": front + source + back, "labels": [*target, self._sentinels[spans], *back]}


@dataclass
class DataCollatorForPrefixLM:
    """The rest of a text from its beginning (Raffel et al. 2020, section 3.2.3). The text is cut at a random token.

    An encoder-decoder reads the beginning and writes the rest; with ``decoder_only`` the text stays whole and the beginning has no labels.
    """

    tokenizer: Any
    model: Any = None
    decoder_only: bool = False
    seed: int | None = None
    packed: bool = False

    def __post_init__(self) -> None:
        self._chance = Chance(self.seed)

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        rows = [self._cut(ids) for ids in texts(features)]
        return finish(self, rows, "token") if self.decoder_only else _seq2seq(self, rows)

    def _cut(self, ids: Ids) -> Row:
        if len(ids) < 2:
            raise InputError(say("A prefix needs texts of two tokens or more.", "접두사를 나누려면 토큰이 둘 이상이어야 합니다."))
        at = int(self._chance().integers(1, len(ids)))
        if self.decoder_only:
            return {"input_ids": list(ids), "labels": [IGNORE] * at + ids[at:]}
        return {"input_ids": ids[:at], "labels": ids[at:]}
