"""Zero-shot classification: labels that the model was not trained on, judged as hypotheses about the text (Yin et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hunmin.errors import ConfigError, InputError, say, short
from hunmin.pipelines.base import PACKED, Pipeline, Rows
from hunmin.text import BatchEncoding

TEMPLATE, CAUSAL_TEMPLATE = "This example is {}.", "This text is about {}."  # the second for causal language models, which complete it


def parse_labels(labels: Any) -> list[str]:
    """Candidate labels from a list or a comma-separated string. Raises InputError when there is none."""
    parsed = (
        [part.strip() for part in labels.split(",") if part.strip()]
        if isinstance(labels, str)
        else list(labels)
        if isinstance(labels, Iterable)
        else []
    )
    if not parsed or not all(isinstance(label, str) for label in parsed):
        raise InputError(
            say(
                f"zero-shot-classification needs candidate_labels, a list of words or 'a, b, c', not {short(labels)}.",
                f"zero-shot-classification에는 candidate_labels(단어 목록 또는 'a, b, c')가 필요합니다: {short(labels)}.",
            )
        )
    return parsed


def halves(template: Any) -> tuple[str, str]:
    """What stands before and after the label in a ``hypothesis_template``. Raises InputError unless it has one place for it."""
    mark = "\0"
    try:
        parts = template.format(mark).split(mark) if isinstance(template, str) else []
    except (IndexError, KeyError, ValueError, AttributeError):
        parts = []
    if len(parts) != 2:
        raise InputError(
            say(
                f"hypothesis_template needs one {{}} where the label goes, not {short(template)}.",
                f"hypothesis_template에 라벨이 들어갈 {{}}가 하나 필요합니다: {short(template)}.",
            )
        )
    return parts[0], parts[1]


class ZeroShotClassificationPipeline(Pipeline):
    """``{"sequence", "labels", "scores"}``, best label first.

    An entailment model reads each pair of text and hypothesis once; a template of its own may stand in its config
    (``task_specific_params``). A causal language model reads the text and the hypothesis up to the
    label; the scores are the mean likelihoods of the labels' tokens there.
    """

    packs = True

    @property
    def budget(self) -> int:  # type: ignore[override]
        return 512 if self.by_likelihood else PACKED  # the first computes a vocabulary of logits for every token

    @property
    def by_likelihood(self) -> bool:
        return self.model.task == "CausalLM"

    @property
    def entailment(self) -> int:
        """The output that means "follows". Raises ConfigError when the config names none."""
        found = [i for label, i in self.model.config.label2id.items() if str(label).lower().startswith("entail")]
        if not found:
            named = ", ".join(map(str, self.model.config.label2id))
            raise ConfigError(
                say(
                    f"{self.model.name_or_path} has no label that starts with 'entail' (it has {named}): it is no entailment model.",
                    f"{self.model.name_or_path}에 'entail'로 시작하는 라벨이 없습니다(라벨: {named}). 함의 판정 모델이 아닙니다.",
                )
            )
        return int(found[0])

    def __call__(self, inputs: Any = None, candidate_labels: Any = None, *, sequences: Any = None, **options: Any) -> Any:
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        return super().__call__(inputs if inputs is not None else sequences, **options)

    def preprocess(
        self, inputs: Any, *, candidate_labels: Any = None, hypothesis_template: str | None = None, truncation: Any = "only_first"
    ) -> list[BatchEncoding]:
        labels = parse_labels(candidate_labels)
        if not isinstance(inputs, str) or not inputs.strip():
            raise InputError(
                say(f"The sequence needs text, not {short(inputs)}.", f"분류할 텍스트가 비어 있거나 텍스트가 아닙니다: {short(inputs)}.")
            )
        own = self.settings.get("hypothesis_template", CAUSAL_TEMPLATE if self.by_likelihood else TEMPLATE)
        template = hypothesis_template if hypothesis_template is not None else own
        before, after = halves(template)
        rows = list[BatchEncoding]()
        for label in labels:
            if self.by_likelihood:
                row = self._completed(f"{inputs}\n\n{before.rstrip()}", label)
            else:
                row = self.tokenizer(inputs, before + label + after, truncation=truncation)
            row["sequence"], row["label"] = inputs, label
            rows.append(row)
        return rows

    def _completed(self, beginning: str, label: str) -> BatchEncoding:
        prompt, answer = self.tokenizer(beginning)["input_ids"], self.tokenizer(f" {label}", add_special_tokens=False)["input_ids"]
        row = BatchEncoding({"input_ids": [*prompt, *answer], "attention_mask": [1] * (len(prompt) + len(answer))})
        row["answer"] = len(answer)
        return row

    def collate(self, items: list[BatchEncoding]) -> BatchEncoding:
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        return super().collate(items)

    def _forward(self, batch: BatchEncoding) -> Rows:
        logits: Tensor = self.model(**batch).logits
        if not self.by_likelihood:
            return [{"logits": row} for row in logits.float()]
        chances = logits[:, :-1].float().log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        ends = batch["attention_mask"].bool()[:, 1:]
        return [{"logits": row[real]} for row, real in zip(chances, ends, strict=True)]

    def postprocess(self, outputs: Any, *, multi_label: bool = False, multi_class: bool | None = None) -> dict[str, Any]:
        """``multi_label`` judges each label alone, so the scores need not sum to one. ``multi_class`` is its older name."""
        alone = multi_label or bool(multi_class) or len(outputs) == 1
        if self.by_likelihood:
            likelihood = torch.stack([row["logits"][-row["answer"] :].mean() for row in outputs])
            scores = likelihood.exp() if alone else likelihood.softmax(0)
        else:
            logits, yes = torch.stack([row["logits"] for row in outputs]), self.entailment
            no = -1 if yes == 0 else 0
            scores = logits[:, [no, yes]].softmax(-1)[:, 1] if alone else logits[:, yes].softmax(0)
        order = scores.argsort(descending=True, stable=True).tolist()
        return {"sequence": outputs[0]["sequence"], "labels": [outputs[i]["label"] for i in order], "scores": scores[order].tolist()}
