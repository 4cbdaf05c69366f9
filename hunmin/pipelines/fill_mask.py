"""Fill-mask: the words that a model expects in the place of a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hunmin.errors import InputError, say, short, warn_once
from hunmin.pipelines.base import Pipeline, Rows
from hunmin.text import BatchEncoding
from hunmin.text.options import whole


class FillMaskPipeline(Pipeline):
    """The ``top_k`` best tokens for a mask: ``{"score", "token", "token_str", "sequence"}``; a list of these for each of several masks.

    ``targets`` limits the answers to the given words. The mask is ``pipe.tokenizer.mask_token``.
    """

    packs = True

    def __call__(self, inputs: Any, **options: Any) -> Any:
        answers = super().__call__(inputs, **options)
        return answers[0] if isinstance(inputs, list) and len(inputs) == 1 else answers

    def preprocess(self, inputs: Any, *, tokenizer_kwargs: dict[str, Any] | None = None) -> BatchEncoding:
        mask = self.tokenizer.mask_token
        if mask is None:
            raise InputError(
                say(
                    f"The tokenizer of {self.tokenizer.name_or_path} has no mask token: it belongs to no masked language model.",
                    f"{self.tokenizer.name_or_path}의 토크나이저에 마스크 토큰이 없습니다. 마스크 언어 모델의 것이 아닙니다.",
                )
            )
        if not isinstance(inputs, str) or mask not in inputs:
            raise InputError(
                say(
                    f"The text has no mask. This model's mask is {mask}: {short(inputs)}",
                    f"텍스트에 마스크가 없습니다. 이 모델의 마스크는 {mask}입니다: {short(inputs)}",
                )
            )
        item = self.tokenizer(inputs, **(tokenizer_kwargs or {}))
        item["ids"] = item["input_ids"]
        return item

    def _forward(self, batch: BatchEncoding) -> Rows:
        """Logits of the masks only: ``(masks, V)`` a row."""
        at, logits = self.by_row(batch["input_ids"] == self.tokenizer.mask_token_id, batch), self.by_row(self.model(**batch).logits, batch)
        return [{"logits": row[masks]} for row, masks in zip(logits, at, strict=True)]

    def target_ids(self, targets: Any) -> list[int]:
        """Token ids of the words that may be answered; of a word that is no token its first piece, with a warning."""
        vocabulary, ids = self.tokenizer.get_vocab(), dict[int, None]()
        words = [targets] if isinstance(targets, str) else targets
        if not isinstance(words, Iterable) or not all(isinstance(word, str) for word in words):
            raise InputError(
                say(f"targets is a word or a list of words, not {short(targets)}.", f"targets는 단어나 단어 목록입니다: {short(targets)}.")
            )
        for word in words:
            found = vocabulary.get(word)
            if found is None:
                pieces = self.tokenizer(word, add_special_tokens=False)["input_ids"]
                if not pieces:
                    continue
                found = pieces[0]
                piece = self.tokenizer.convert_ids_to_tokens(found)
                warn_once(
                    say(
                        f"The target {word!r} is no token of this model; {piece!r} stands for it.",
                        f"{word!r}은(는) 이 모델의 토큰이 아니어서 {piece!r}(으)로 대신합니다.",
                    )
                )
            ids[found] = None
        if not ids:
            raise InputError(say("targets names no word.", "targets에 단어가 없습니다."))
        return sorted(ids)

    def postprocess(self, outputs: Any, *, top_k: int = 5, targets: str | list[str] | None = None) -> Any:
        ids: list[int] = outputs["ids"]
        masks = [i for i, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
        chances, allowed = outputs["logits"].float().softmax(-1), self.target_ids(targets) if targets is not None else None
        chances = chances[:, allowed] if allowed is not None else chances
        best = chances.topk(min(whole("top_k", top_k, 1), chances.shape[-1]))
        answers = list[list[dict[str, Any]]]()
        for place, values, tokens in zip(masks, best.values.tolist(), best.indices.tolist(), strict=True):
            row = list[dict[str, Any]]()
            for value, token in zip(values, tokens, strict=True):
                token = allowed[token] if allowed is not None else token
                filled = [*ids[:place], token, *ids[place + 1 :]]
                sequence = self.tokenizer.decode(filled, skip_special_tokens=len(masks) == 1)
                row.append({"score": value, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": sequence})
            answers.append(row)
        return answers[0] if len(masks) == 1 else answers
