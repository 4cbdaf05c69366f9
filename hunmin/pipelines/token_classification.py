"""Token classification: names of people, places, … in a text, with their places in it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from hunmin.errors import InputError, say
from hunmin.pipelines.base import PACKED, Pipeline, Rows
from hunmin.text import BatchEncoding
from hunmin.text.options import whole

Strategy = Literal["none", "simple", "first", "average", "max"]
STRATEGIES = ("none", "simple", "first", "average", "max")
Entity = dict[str, Any]


def tag_of(label: str) -> tuple[str, str]:
    """("B", "PER") of "B-PER"; a label without a prefix continues the one before it."""
    return (label[0], label[2:]) if label[:2] in ("B-", "I-") else ("I", label)


class TokenClassificationPipeline(Pipeline):
    """``{"entity", "score", "index", "word", "start", "end"}`` a token, or ``{"entity_group", …}`` a group of them.

    ``aggregation_strategy``: "none" every token, "simple" joins neighbours of one label, "first", "average" and "max" also let the tokens of
    a word agree: on its first token's label, on their mean, on the surest. ``start`` and ``end`` are places in the text as it was given.
    Long texts are read in windows that share ``stride`` tokens.
    """

    packs = True
    budget = PACKED

    def preprocess(self, inputs: Any, *, stride: int | None = None, is_split_into_words: bool = False, offset_mapping: Any = None) -> Any:
        if not isinstance(inputs, str):
            raise InputError(
                say(
                    f"{self.task} takes text, not {type(inputs).__name__}.",
                    f"{self.task}에는 텍스트가 필요합니다. 받은 형식: {type(inputs).__name__}.",
                )
            )
        limit = self.tokenizer.model_max_length
        if stride is not None and (room := limit - self.tokenizer.num_special_tokens_to_add()) <= whole("stride", stride):
            raise InputError(
                say(
                    f"stride ({stride}) must be below the {room} tokens of text that the model reads at once.",
                    f"stride({stride})는 모델이 한 번에 읽는 {room}토큰보다 작아야 합니다.",
                )
            )
        many = {"return_overflowing_tokens": True, "stride": stride} if stride is not None else {}
        encoded = self.tokenizer(inputs, truncation=limit < 10**9, return_offsets_mapping=True, return_special_tokens_mask=True, **many)
        encoded.pop("overflow_to_sample_mapping", None)
        keys = list(encoded)
        count = len(encoded["input_ids"]) if many else 1
        rows = [BatchEncoding({k: encoded[k][i] if many else encoded[k] for k in keys}) for i in range(count)]
        for i, row in enumerate(rows):
            row["sentence"], row["ids"] = inputs, row["input_ids"]
            row["words"] = encoded.word_ids(i)
        return rows

    def _forward(self, batch: BatchEncoding) -> Rows:
        return [{"logits": row} for row in self.by_row(self.model(**batch).logits, batch)]

    def postprocess(
        self,
        outputs: Any,
        *,
        aggregation_strategy: Strategy | None = None,
        grouped_entities: bool | None = None,
        ignore_subwords: bool | None = None,
        ignore_labels: list[str] | None = None,
    ) -> list[Entity]:
        """``grouped_entities=True``, the older way, is "simple"; with ``ignore_subwords`` it is "first"."""
        strategy = str(aggregation_strategy or ("none" if not grouped_entities else "first" if ignore_subwords else "simple")).lower()
        if strategy not in STRATEGIES:
            listed = ", ".join(STRATEGIES)
            raise InputError(
                say(
                    f"aggregation_strategy is one of {listed}, not {strategy!r}.",
                    f"aggregation_strategy는 {listed} 가운데 하나입니다: {strategy!r}.",
                )
            )
        ignored = ignore_labels if ignore_labels is not None else ["O"]
        found = list[Entity]()
        for row in outputs:
            for entity in self._grouped(self._tokens(row), strategy):
                if entity.get("entity", entity.get("entity_group")) not in ignored:
                    found.append(entity)
        return without_overlaps(found) if len(outputs) > 1 else found

    def _tokens(self, row: dict[str, Any]) -> list[Entity]:
        """Every real token with its scores, its place and whether it continues a word."""
        scores = row["logits"].float().softmax(-1).cpu().numpy()
        tokens = list[Entity]()
        wordpiece = bool(getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None))
        for i, token in enumerate(row["ids"]):
            if row["special_tokens_mask"][i]:
                continue
            start, end = row["offset_mapping"][i]
            word, seen = self.tokenizer.convert_ids_to_tokens(token), row["sentence"][start:end]
            if wordpiece:
                inside = len(word) != len(seen)
            else:
                inside = start > 0 and " " not in row["sentence"][start - 1 : start + 1]
            if token == self.tokenizer.unk_token_id:
                word, inside = seen, False
            tokens.append({"word": word, "scores": scores[i], "start": start, "end": end, "index": i, "inside": inside})
        return tokens

    def _grouped(self, tokens: list[Entity], strategy: str) -> list[Entity]:
        names = self.model.config.id2label
        if strategy in ("none", "simple"):
            entities = [
                {"entity": names[int(t["scores"].argmax())], "score": t["scores"].max(), "index": t["index"]}
                | {k: t[k] for k in ("word", "start", "end")}
                for t in tokens
            ]
            return entities if strategy == "none" else self._joined(entities)
        words = list[list[Entity]]()
        for token in tokens:
            if words and token["inside"]:
                words[-1].append(token)
            else:
                words.append([token])
        return self._joined([self._word(word, strategy) for word in words])

    def _word(self, tokens: list[Entity], strategy: str) -> Entity:
        """The tokens of a word agree on one label."""
        if strategy == "average":
            scores = np.stack([t["scores"] for t in tokens]).mean(0)
        else:
            scores = (tokens[0] if strategy == "first" else max(tokens, key=lambda t: t["scores"].max()))["scores"]
        return {
            "entity": self.model.config.id2label[int(scores.argmax())],
            "score": scores.max(),
            "word": self.tokenizer.convert_tokens_to_string([t["word"] for t in tokens]),
            "start": tokens[0]["start"],
            "end": tokens[-1]["end"],
        }

    def _joined(self, entities: list[Entity]) -> list[Entity]:
        """Neighbours with one label as one group; a label that begins ("B-") starts another."""
        groups = list[list[Entity]]()
        for entity in entities:
            begins, tag = tag_of(entity["entity"])
            if groups and begins != "B" and tag == tag_of(groups[-1][-1]["entity"])[1]:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": np.mean([e["score"] for e in group]),
                "word": self.tokenizer.convert_tokens_to_string([e["word"] for e in group]),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]


def without_overlaps(entities: list[Entity]) -> list[Entity]:
    """Windows share text: of entities that overlap the longest stays, of equally long ones the surest."""
    kept = list[Entity]()
    for entity in sorted(entities, key=lambda e: e["start"]):
        if not kept or entity["start"] >= kept[-1]["end"]:
            kept.append(entity)
        elif (entity["end"] - entity["start"], entity["score"]) > (kept[-1]["end"] - kept[-1]["start"], kept[-1]["score"]):
            kept[-1] = entity
    return kept
