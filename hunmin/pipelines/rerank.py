"""Reranking: documents by how well they answer a query. A cross-encoder reads both together, an encoder without a head compares their vectors."""

from __future__ import annotations

from typing import Any, Literal

import torch

from hunmin.errors import InputError, say
from hunmin.pipelines.base import Pipeline
from hunmin.pipelines.feature_extraction import SentenceSimilarityPipeline
from hunmin.pipelines.text_classification import Activation, TextClassificationPipeline
from hunmin.text import BatchEncoding
from hunmin.text.options import whole

Best = int | Literal["best"] | None


def asked(inputs: Any) -> tuple[str, list[str]]:
    """The query and the documents of an input. Raises InputError for one of another form."""
    good = isinstance(inputs, dict) and isinstance(inputs.get("query"), str) and isinstance(inputs.get("documents"), list | tuple)
    if not good or not all(isinstance(d, str) for d in inputs["documents"]):
        raise InputError(
            say(
                'rerank takes {"query": text, "documents": [text, …]}.',
                'rerank에는 {"query": 텍스트, "documents": [텍스트, …]}가 필요합니다.',
            )
        )
    return inputs["query"], list(inputs["documents"])


def ranked(scores: list[float], documents: list[str], top_k: Best) -> list[dict[str, Any]]:
    """``{"index", "score", "document"}`` of the best, the highest score first; all of them without ``top_k``."""
    count = len(scores) if top_k is None else 1 if top_k == "best" else whole("top_k", top_k, 1)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[:count]
    return [{"index": i, "score": scores[i], "document": documents[i]} for i in order]


class RerankPipeline(TextClassificationPipeline):
    """Documents by how well they answer a query, best first: a cross-encoder reads each pair.

    Input: ``{"query": …, "documents": […]}``. Answer: ``[{"index": …, "score": …, "document": …}]``.
    """

    texts = False

    def __call__(self, inputs: Any, **options: Any) -> Any:
        return Pipeline.__call__(self, inputs, **options)

    def preprocess(self, inputs: Any, *, truncation: bool = True, max_length: int | None = None, padding: Any = None) -> Any:
        query, documents = asked(inputs)
        rows = list[BatchEncoding]()
        for document in documents:
            row = super().preprocess({"text": query, "text_pair": document}, truncation=truncation, max_length=max_length)
            row["document"] = document
            rows.append(row)
        return rows

    def postprocess(
        self, outputs: Any, *, top_k: Best = None, return_all_scores: bool | None = None, function_to_apply: Activation | None = None
    ) -> Any:
        """The score is the model's only label, or the last one (relevant) where it has several."""
        scores = [self.scores(row["logits"], function_to_apply)[-1].item() for row in outputs]
        return ranked(scores, [row["document"] for row in outputs], top_k)


class VectorRerankPipeline(SentenceSimilarityPipeline):
    """The same with an encoder that has no head: documents by the cosine of their vectors with the query's (a bi-encoder)."""

    def compared(self, inputs: Any) -> tuple[str, list[str]]:
        return asked(inputs)

    def postprocess(self, outputs: Any, *, top_k: Best = None, return_tensors: bool | str = False) -> Any:
        vectors = torch.stack([row["vectors"] for row in outputs]).float()
        return ranked((vectors[1:] @ vectors[0]).tolist(), [row["text"] for row in outputs[1:]], top_k)
