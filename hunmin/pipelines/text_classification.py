"""Text classification: a label for a text, or for a pair of texts."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from hunmin.errors import InputError, say, short
from hunmin.pipelines.base import PACKED, Pipeline, Rows
from hunmin.text import BatchEncoding
from hunmin.text.options import whole

Activation = Literal["sigmoid", "softmax", "none"]


class TextClassificationPipeline(Pipeline):
    """``{"label": …, "score": …}``, the best label; ``top_k`` gives a list of the best, ``top_k=None`` of all.

    Inputs are texts or pairs, ``{"text": …, "text_pair": …}``. As taught, one text alone gives its answer in a list of one.
    """

    texts = packs = True
    budget = PACKED

    def __call__(self, inputs: Any, **options: Any) -> Any:
        answer = super().__call__(inputs, **options)
        return [answer] if isinstance(inputs, str) and "top_k" not in options else answer

    def preprocess(self, inputs: Any, *, truncation: bool = True, max_length: int | None = None, padding: Any = None) -> BatchEncoding:
        if isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], list | tuple) and len(inputs[0]) == 2:
            inputs = {"text": inputs[0][0], "text_pair": inputs[0][1]}  # an older way to write a pair
        if isinstance(inputs, str):
            inputs = {"text": inputs}
        if (
            not isinstance(inputs, dict)
            or not {"text"} <= set(inputs) <= {"text", "text_pair"}
            or not all(isinstance(v, str) for v in inputs.values())
        ):
            raise InputError(
                say(
                    f'{self.task} takes a text or a pair {{"text": …, "text_pair": …}}, not {short(inputs)}.',
                    f'{self.task}에는 텍스트나 {{"text": …, "text_pair": …}} 쌍이 필요합니다. 받은 값: {short(inputs)}.',
                )
            )
        return self.tokenizer(**inputs, truncation=truncation, max_length=max_length)

    def preprocess_texts(
        self, texts: list[str], *, truncation: bool = True, max_length: int | None = None, padding: Any = None
    ) -> list[BatchEncoding] | None:
        return self.tokenized(texts, truncation=truncation, max_length=max_length)

    def _forward(self, batch: BatchEncoding) -> Rows:
        return [{"logits": logits} for logits in self.model(**batch).logits]

    def scores(self, logits: Tensor, function_to_apply: Activation | None) -> Tensor:
        """Logits ``(L,)`` as scores: as the function says, else as the model's kind of problem asks."""
        config = self.model.config
        if function_to_apply is None:
            several = config.problem_type == "multi_label_classification" or config.num_labels == 1
            function_to_apply = "none" if config.problem_type == "regression" else "sigmoid" if several else "softmax"
        match str(function_to_apply).lower():
            case "sigmoid":
                return logits.float().sigmoid()
            case "softmax":
                return logits.float().softmax(-1)
            case "none":
                return logits.float()
            case other:
                raise InputError(
                    say(
                        f"function_to_apply is 'sigmoid', 'softmax' or 'none', not {other!r}.",
                        f"function_to_apply는 'sigmoid', 'softmax', 'none' 가운데 하나입니다: {other!r}.",
                    )
                )

    def postprocess(
        self,
        outputs: Any,
        *,
        top_k: int | Literal["best"] | None = "best",
        return_all_scores: bool | None = None,
        function_to_apply: Activation | None = None,
    ) -> Any:
        """``return_all_scores=True``, the older way, gives all labels in the model's order."""
        scores, names = self.scores(outputs["logits"], function_to_apply), self.model.config.id2label
        if top_k == "best" and not return_all_scores:
            best = int(scores.argmax())
            return {"label": names[best], "score": scores[best].item()}
        every = [{"label": names[i], "score": score} for i, score in enumerate(scores.tolist())]
        if top_k == "best":
            return every
        every.sort(key=lambda answer: -answer["score"])
        return every[: None if top_k is None else whole("top_k", top_k, 1)]
