"""Feature extraction: texts as vectors, one a token or one a text."""

from __future__ import annotations

import gc
import json
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hunmin.errors import FormatError, InputError, say
from hunmin.pipelines.base import PACKED, Pipeline, Rows
from hunmin.text import BatchEncoding

Pooling = Literal["none", "auto", "mean", "cls", "max", "last"]
POOLINGS = ("none", "auto", "mean", "cls", "max", "last")
MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}


def sentence_settings(source: Any) -> dict[str, Any]:
    """Pooling, normalization and length limit as a sentence-transformers folder states them; empty for any other."""
    from hunmin.hub.config import read_json

    if (modules := source.file("modules.json")) is None:
        return {}
    out: dict[str, Any] = {"pooling": "mean", "normalize": False}
    try:
        listed = [dict(module) for module in json.loads(modules.read_text(encoding="utf-8"))]
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(say(f"{modules} is not a list of modules: {error}.", f"{modules}에 모듈 목록이 없습니다: {error}.")) from None
    for module in listed:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Normalize":
            out["normalize"] = True
        elif kind == "Pooling" and (path := source.file(f"{module.get('path', '')}/config.json")):
            on = [key for key, value in read_json(path).items() if key.startswith("pooling_mode_") and value]
            if len(on) != 1 or on[0] not in MODES:
                named = ", ".join(on) or "none"
                raise InputError(
                    say(
                        f"{source.name} pools in a way that Hunmin does not have ({named}). Pass pooling= one of {', '.join(POOLINGS)}.",
                        f"{source.name}의 풀링 방식({named})은 지원하지 않습니다. pooling=에 {', '.join(POOLINGS)} 가운데 하나를 주세요.",
                    )
                )
            out["pooling"] = MODES[on[0]]
        elif kind not in ("Transformer", "Pooling"):
            raise InputError(
                say(f"{source.name} ends in a {kind} layer, which Hunmin does not have.", f"{source.name}의 {kind} 층은 지원하지 않습니다.")
            )
    if path := source.file("sentence_bert_config.json"):
        out["max_length"] = read_json(path).get("max_seq_length")
    return out


def pool(hidden: Tensor, how: str) -> Tensor:
    """The vectors of a text ``(N, C)`` as one ``(C,)``."""
    match how:
        case "cls":
            return hidden[0]
        case "last":
            return hidden[-1]
        case "max":
            return hidden.amax(0)
        case _:
            return hidden.mean(0)


def _lists(vectors: Tensor) -> list[Any]:
    """Nested lists. Python's collector would walk through all lists made so far again and again: it takes as long as making them."""
    watched = gc.isenabled()
    gc.disable()
    try:
        return vectors.float().cpu().numpy().tolist()  # a third faster than a tensor's own
    finally:
        if watched:
            gc.enable()


class FeatureExtractionPipeline(Pipeline):
    """Hidden states of the last layer: ``[1][N][C]`` nested lists a text, or tensors.

    ``pooling`` makes one vector a text, ``(C,)``: "mean", "cls", "max", "last", or "auto" - what the model's sentence-transformers files
    say (its normalization included), else the mean.
    """

    texts = packs = True
    budget = PACKED

    def preprocess(
        self,
        inputs: Any,
        *,
        pooling: Pooling = "none",
        truncation: bool = True,
        max_length: int | None = None,
        tokenize_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        item = self.tokenizer(inputs, **self._tokenizing(pooling, truncation, max_length, tokenize_kwargs))
        if not item["input_ids"]:
            raise InputError(say("The text is empty: it has no tokens.", "텍스트가 비어 있어 토큰이 없습니다."))
        return item

    def _tokenizing(self, pooling: Pooling, truncation: bool, max_length: int | None, more: dict[str, Any] | None) -> dict[str, Any]:
        limit = max_length or (self.sentence.get("max_length") if pooling != "none" else None)
        if limit is None and truncation and self.tokenizer.model_max_length > 10**9:
            limit = self.model.config.max_position_embeddings
        return {"truncation": truncation, "max_length": limit, **(more or {})}

    def preprocess_texts(
        self,
        texts: list[str],
        *,
        pooling: Pooling = "none",
        truncation: bool = True,
        max_length: int | None = None,
        tokenize_kwargs: dict[str, Any] | None = None,
    ) -> list[BatchEncoding] | None:
        return self.tokenized(texts, **self._tokenizing(pooling, truncation, max_length, tokenize_kwargs))

    def _forward(self, batch: BatchEncoding, *, pooling: Pooling = "none", normalize: bool | None = None) -> Rows:
        """Vectors of every text: ``(N, C)``, or ``(C,)`` when pooled."""
        if pooling not in POOLINGS:
            raise InputError(
                say(
                    f"Unknown pooling {pooling!r}. Known: {', '.join(POOLINGS)}.",
                    f"알 수 없는 pooling {pooling!r}. 가능: {', '.join(POOLINGS)}.",
                )
            )
        rows = self.by_row(self.model(**batch, logits_to_keep=None).last_hidden_state, batch)
        stated = self.sentence if pooling == "auto" else {}
        if pooling != "none":
            how = stated.get("pooling", "mean") if pooling == "auto" else pooling
            rows = [pool(row, how) for row in rows]
        unit = normalize if normalize is not None else stated.get("normalize", False)
        return [{"vectors": F.normalize(row, dim=-1) if unit else row} for row in rows]

    def postprocess(self, outputs: dict[str, Any], *, return_tensors: bool | str = False) -> Any:
        """Nested lists, or with ``return_tensors`` a tensor: ``(1, N, C)``, pooled ``(C,)``."""
        vectors: Tensor = outputs["vectors"]
        vectors = vectors[None] if vectors.ndim == 2 else vectors
        return vectors if return_tensors else _lists(vectors)

    @property
    def sentence(self) -> dict[str, Any]:
        """What the model's folder says as a sentence-transformers model."""
        if "_sentence" not in self.__dict__:
            source = self.model.source
            self._sentence = sentence_settings(source) if source is not None else {}
        return self._sentence


class SentenceSimilarityPipeline(FeatureExtractionPipeline):
    """How alike texts are: cosines of their sentence vectors.

    Input: ``{"source_sentence": …, "sentences": […]}``, or two texts as a pair. Answer: a cosine for each sentence, or one for a pair.
    """

    texts = False

    def is_single(self, inputs: Any) -> bool:
        return isinstance(inputs, dict) or (isinstance(inputs, tuple) and all(isinstance(t, str) for t in inputs))

    def preprocess(
        self,
        inputs: Any,
        *,
        pooling: Pooling = "auto",
        truncation: bool = True,
        max_length: int | None = None,
        tokenize_kwargs: dict[str, Any] | None = None,
    ) -> list[BatchEncoding]:
        source, others = self.compared(inputs)
        options: dict[str, Any] = {"truncation": truncation, "max_length": max_length, "tokenize_kwargs": tokenize_kwargs}
        rows = [super(SentenceSimilarityPipeline, self).preprocess(t, pooling=pooling, **options) for t in (source, *others)]
        for row, text in zip(rows, (source, *others), strict=True):
            row["text"], row["pair"] = text, not isinstance(inputs, dict)
        return rows

    def compared(self, inputs: Any) -> tuple[str, list[str]]:
        """The text of an input and those that it is compared with. Raises InputError for another form."""
        pair = isinstance(inputs, list | tuple) and len(inputs) == 2
        source = inputs[0] if pair else inputs.get("source_sentence") if isinstance(inputs, dict) else None
        others = [inputs[1]] if pair else inputs.get("sentences") if isinstance(inputs, dict) else None
        if not isinstance(source, str) or not isinstance(others, list | tuple) or not all(isinstance(t, str) for t in others):
            raise InputError(
                say(
                    'sentence-similarity takes {"source_sentence": text, "sentences": [text, …]} or a pair of texts.',
                    'sentence-similarity에는 {"source_sentence": 텍스트, "sentences": [텍스트, …]}나 텍스트 쌍이 필요합니다.',
                )
            )
        return source, list(others)

    def _forward(self, batch: BatchEncoding, *, pooling: Pooling = "auto", normalize: bool | None = True) -> Rows:
        return super()._forward(batch, pooling=pooling, normalize=True)

    def postprocess(self, outputs: Any, *, return_tensors: bool | str = False) -> Any:
        vectors = torch.stack([row["vectors"] for row in outputs]).float()
        cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
        return cosines[0] if outputs[0]["pair"] else cosines
