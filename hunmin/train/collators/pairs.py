"""Objectives over several texts: does one follow the other, and which belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hunmin.errors import InputError, say
from hunmin.train.collators.basic import finish
from hunmin.train.collators.masking import Chance
from hunmin.train.rows import Row


@dataclass
class DataCollatorForNextSentence:
    """Pairs of texts, half of them neighbours (label 0), half drawn from another document (label 1) (Devlin et al. 2019, section 3.1).

    A row is a document: ``sentences``, a list of at least two lists of token ids without special tokens. Each document gives one pair,
    cut at a random sentence; the longer side loses tokens at its end until the pair fits ``max_length``.
    """

    tokenizer: Any
    max_length: int = 512
    seed: int | None = None
    packed: bool = False

    def __post_init__(self) -> None:
        self._chance = Chance(self.seed)
        self._room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        if self._room < 2:
            raise InputError(
                say(f"max_length={self.max_length} has no room for two texts.", f"max_length={self.max_length}이(가) 너무 작습니다.")
            )

    def __call__(self, features: Sequence[Mapping[str, Any]], return_tensors: str = "pt") -> dict[str, Any]:
        documents = [[list(sentence) for sentence in row.get("sentences", ())] for row in features]
        if len(documents) < 2 or any(len(document) < 2 or not all(document) for document in documents):
            raise InputError(
                say(
                    "Next-sentence prediction needs two documents a batch or more, each with 'sentences': two or more lists of token ids.",
                    "다음 문장 예측에는 배치마다 문서가 둘 이상, 문서마다 'sentences'(토큰 id 리스트 둘 이상)가 필요합니다.",
                )
            )
        return finish(self, [self._pair(i, documents) for i in range(len(documents))], "sequence")

    def _pair(self, index: int, documents: list[list[list[int]]]) -> Row:
        chance, document = self._chance(), documents[index]
        at, drawn = int(chance.integers(1, len(document))), int(chance.random() < 0.5)
        if drawn:
            other = documents[(index + int(chance.integers(1, len(documents)))) % len(documents)]
            rest = other[int(chance.integers(len(other))) :]
        else:
            rest = document[at:]
        first, second = ([token for sentence in part for token in sentence] for part in (document[:at], rest))
        while len(first) + len(second) > self._room:
            (first if len(first) > len(second) else second).pop()
        ids = self.tokenizer.build_inputs_with_special_tokens(first, second)
        head = len(self.tokenizer.build_inputs_with_special_tokens(first))
        return {"input_ids": ids, "token_type_ids": [0] * head + [1] * (len(ids) - head), "labels": drawn}


@dataclass
class DataCollatorForContrastive:
    """Texts that belong together, as one batch of sequences: all of the first column, then all of the second, and so on.

    Rows are texts by column - anchor, positive and perhaps negatives -, or lists of token ids. ``label`` or ``score`` become labels.
    With ``hidden = model(**batch).last_hidden_state``, ``losses.pool(hidden, where).chunk(columns)`` gives the embeddings of each column.
    """

    tokenizer: Any
    columns: Sequence[str] | None = None
    max_length: int | None = None
    packed: bool = True

    def __call__(self, features: Sequence[Mapping[str, Any]], return_tensors: str = "pt") -> dict[str, Any]:
        scores = [row[key] for row in features for key in ("label", "labels", "score") if key in row]
        columns = list(self.columns or [key for key in features[0] if key not in ("label", "labels", "score")]) if features else []
        texts = [row.get(column) for column in columns for row in features]
        if len(columns) < 2 or any(not isinstance(text, (str, list)) for text in texts):
            raise InputError(
                say(
                    f"Contrastive learning needs two columns of texts or more, not {', '.join(map(str, columns)) or 'nothing'}.",
                    f"대조 학습에는 텍스트 열이 둘 이상 필요합니다. 받은 열: {', '.join(map(str, columns)) or '없음'}.",
                )
            )
        rows = [self._ids(text) for text in texts]
        batch = finish(self, rows)
        return {**batch, "labels": torch.tensor(scores)} if len(scores) == len(features) else batch

    def _ids(self, text: Any) -> Row:
        if isinstance(text, list):
            return {"input_ids": text[: self.max_length]}
        encoded = self.tokenizer(text, truncation=True, max_length=self.max_length, return_attention_mask=False)
        return {key: list(value) for key, value in encoded.items()}
