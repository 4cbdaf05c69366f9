"""The objectives of recipes: for each its head, its columns, its rows, its collator, its options and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from hunmin.errors import InputError, say
from hunmin.train import collators, evaluation
from hunmin.train.objectives import ContrastiveTrainer, DistillationTrainer, ElectraTrainer
from hunmin.train.recipe import encode
from hunmin.train.recipe.checks import fit
from hunmin.train.recipe.encode import Columns, Work
from hunmin.train.recipe.schema import Stage
from hunmin.train.seq2seq import Seq2SeqTrainer
from hunmin.train.trainer import Trainer

Metrics = Callable[[Any], dict[str, float]]
MASKING: dict[str, Any] = {"mlm_probability": float, "whole_word_mask": bool, "mask_replace_prob": float, "random_replace_prob": float}
DISTIL: dict[str, Any] = {"temperature": float, "alpha": float}


@dataclass(frozen=True)
class Goal:
    """An objective.

    ``roles`` are fields of ``data`` whose columns are read, ``optional`` those that are read where the recipe names them. ``named``: labels
    have names. ``plain``: rows are texts alone, and may be packed. ``teachable``: logits over classes, which a teacher can soften.
    """

    task: str
    encode: Callable[[Columns, Sequence[int], Work], Columns]
    collator: Callable[..., Any]
    roles: tuple[str, ...] = ("text",)
    optional: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trainer_options: tuple[str, ...] = ()  # those of the options that the trainer takes, not the collator
    trainer: Callable[..., Trainer] = Trainer
    metrics: Callable[[Work], Metrics | None] = lambda work: None
    problem: str | None = None
    named: bool = False
    plain: bool = False
    teachable: bool = False


def _token_metrics(work: Work) -> Metrics:
    """Entities where labels are those of entities and seqeval is there; otherwise the accuracy of labels."""
    entities = all(name == "O" or name[1:2] == "-" for name in work.labels) and find_spec("seqeval") is not None
    return evaluation.token_classification_metrics(work.labels) if entities else evaluation.language_model_metrics


def span_metrics(eval_pred: Any) -> dict[str, float]:
    """The share of windows whose answer was found exactly: start and end logits ``(B, N)``, positions ``(B,)``."""
    logits, labels = eval_pred
    right = [np.asarray(side).argmax(-1) == np.asarray(true) for side, true in zip(logits[:2], labels, strict=True)]
    return {"exact": float((right[0] & right[1]).mean())}


def _written(work: Work) -> Metrics | None:
    """Texts that the model writes are scored where the arguments ask for them."""
    if not work.stage.training.get("predict_with_generate"):
        return None
    return evaluation.generation_metrics(work.tokenizer, work.options.get("metrics", ["chrf"]))


def _padded(work: Work, kind: Callable[..., Any], **options: Any) -> Any:
    return kind(work.tokenizer, **options)


def _contrastive(work: Work, **options: Any) -> Any:
    columns = ["anchor", "positive"] + (["negative"] if work.data.negative is not None else [])
    return collators.DataCollatorForContrastive(work.tokenizer, columns, work.length, **options)


masked = partial(_padded, kind=collators.DataCollatorForLanguageModeling)
classified = partial(_padded, kind=collators.DataCollatorWithPadding)
PAIR = ("text_pair",)
GOALS: dict[str, Goal] = {
    "mlm": Goal("MaskedLM", encode.plain, masked, options=MASKING, plain=True, teachable=True),
    "clm": Goal("CausalLM", encode.causal, partial(masked, mlm=False), plain=True, teachable=True),
    "electra": Goal(
        "PreTraining", encode.plain, masked, options={"mlm_probability": float, "weight": float, "generator": float | str},
        trainer_options=("weight", "generator"), trainer=ElectraTrainer, plain=True,
    ),
    "bart": Goal(
        "Seq2SeqLM", encode.plain, partial(_padded, kind=collators.DataCollatorForDenoising), plain=True,
        options={"noises": list[str], "rate": float, "poisson": float, "stops": list[str]},
    ),
    "t5": Goal(
        "Seq2SeqLM", encode.plain, partial(_padded, kind=collators.DataCollatorForSpanCorruption), plain=True,
        options={"rate": float, "mean_span": float},
    ),
    "prefix-lm": Goal("Seq2SeqLM", encode.plain, partial(_padded, kind=collators.DataCollatorForPrefixLM), plain=True),
    "next-sentence": Goal(
        "NextSentencePrediction", encode.documents,
        lambda work, **options: collators.DataCollatorForNextSentence(work.tokenizer, work.length, **options),
        metrics=lambda work: evaluation.classification_metrics,
    ),
    "seq2seq": Goal(
        "Seq2SeqLM", encode.target, partial(_padded, kind=collators.DataCollatorForSeq2Seq), ("text", "target"), PAIR,
        options={"metrics": list[str]}, trainer_options=("metrics",), trainer=Seq2SeqTrainer, metrics=_written, teachable=True,
    ),
    "classification": Goal(
        "SequenceClassification", encode.classes, classified, ("text", "label"), PAIR, problem="single_label_classification",
        metrics=lambda work: evaluation.classification_metrics, named=True, teachable=True,
    ),
    "multi-label": Goal(
        "SequenceClassification", encode.several, classified, ("text", "label"), PAIR, problem="multi_label_classification",
        metrics=lambda work: evaluation.multi_label_metrics, named=True,
    ),
    "regression": Goal(
        "SequenceClassification", encode.numbers_of, classified, ("text", "label"), PAIR, problem="regression",
        metrics=lambda work: evaluation.regression_metrics,
    ),
    "token-classification": Goal(
        "TokenClassification", encode.tags, partial(_padded, kind=collators.DataCollatorForTokenClassification), ("text", "label"),
        metrics=_token_metrics, named=True, teachable=True,
    ),
    "question-answering": Goal(
        "QuestionAnswering", encode.answers, classified, ("question", "context", "answers"), metrics=lambda work: span_metrics
    ),
    "multiple-choice": Goal(
        "MultipleChoice", encode.choices, partial(_padded, kind=collators.DataCollatorForMultipleChoice), ("text", "choices", "label"),
        metrics=lambda work: evaluation.classification_metrics, teachable=True,
    ),
    "contrastive": Goal(
        "Model", encode.together, _contrastive, ("text", "text_pair"), ("negative",), trainer=ContrastiveTrainer,
        options={"scale": float, "symmetric": bool, "pool": str}, trainer_options=("scale", "symmetric", "pool"),
    ),
}  # fmt: skip


def check_stage(stage: Stage) -> None:
    """What the objective of a stage allows. Raises InputError with the place."""
    goal, place = GOALS[stage.objective], stage.place
    known = {**goal.options, **(DISTIL if stage.teacher is not None else {})}
    for key, value in list(stage.options.items()):
        if key not in known:
            raise (place / "options").unknown(key, known)
        stage.options[key] = fit(known[key], value, place / "options" / key)
    if stage.pack is not None and (not goal.plain or stage.pack < 2):
        plain = ", ".join(name for name, other in GOALS.items() if other.plain)
        raise (place / "pack").error(
            f"rows of at least 2 tokens are packed for objectives on plain text: {plain}.",
            f"2 이상이고 텍스트만 쓰는 목적({plain})에만 쓸 수 있습니다.",
        )
    if stage.adapter is not None:
        chosen = stage.adapter.chosen()
        if len(chosen) != 1:
            raise (place / "adapter").error("names one of lora, ia3, prompt, prefix.", "lora, ia3, prompt, prefix 가운데 하나를 적으세요.")
        if stage.adapter.merge and {"prompt", "prefix"} & chosen.keys():
            raise (place / "adapter" / "merge").error(
                "virtual tokens cannot be merged into weights: merge: false.", "가상 토큰은 가중치에 병합할 수 없습니다: merge: false."
            )
    if stage.teacher is not None and not goal.teachable:
        listed = ", ".join(name for name, other in GOALS.items() if other.teachable)
        raise (place / "teacher").error(f"can teach {listed}.", f"{listed}에만 쓸 수 있습니다.")
    if isinstance(stage.data.label, list) and stage.objective != "multi-label":
        raise (stage.data_place / "label").error("only multi-label reads several columns.", "여러 열은 multi-label에서만 씁니다.")
    if stage.objective == "contrastive" and stage.data.text_pair is None:
        raise (stage.data_place / "text_pair").error(
            "this objective needs a column of second texts.", "이 목적에는 두 번째 텍스트 열이 필요합니다."
        )


def columns_of(stage: Stage) -> list[str]:
    """The columns that a stage reads."""
    goal, data = GOALS[stage.objective], stage.data
    names: list[str] = []
    for role in (*goal.roles, *goal.optional):
        value = getattr(data, role)
        names += value if isinstance(value, list) else [value] if value is not None else []
    if stage.objective == "contrastive" and data.label is not None:
        names.append(str(data.label))
    return list(dict.fromkeys(names))


def named_by(stage: Stage, train: Any) -> list[str]:
    """The names that the data set itself gives to the numbers in its column of labels (``ClassLabel``)."""
    if not GOALS[stage.objective].named or isinstance(stage.data.label, list):
        return []
    feature = train.features[stage.data.label or "label"]
    return list(getattr(getattr(feature, "feature", feature), "names", None) or [])


def label_names(stage: Stage, train: Any, held: Sequence[str]) -> list[str]:
    """The names of the labels: those of the recipe, of the data set, of the model (``held``) where they fit the values, or the values.

    Raises InputError for a classifier with fewer than two.
    """
    data = stage.data
    if not GOALS[stage.objective].named:
        return []
    if data.labels is not None:
        return data.labels
    if isinstance(data.label, list):
        return data.label
    if names := named_by(stage, train):
        return names
    values = distinct(train[data.label or "label"], stage.objective)
    if set(values) <= set(held) or (values == [str(i) for i in range(len(held))]):
        return list(held)
    if len(values) < 2:
        raise (stage.data_place / "label").error(
            f"column {data.label!r} has {len(values)} distinct values; there must be two or more.",
            f"{data.label!r} 열의 값이 {len(values)}가지뿐입니다. 둘 이상이어야 합니다.",
        )
    return values


def distinct(column: Any, objective: str) -> list[str]:
    """The distinct labels of a column, sorted. Whole numbers are classes from 0 to the largest, unless most of those do not occur."""
    found: set[str] = set()
    separator = "," if objective == "multi-label" else None
    for value in column:
        parts: Any = value if isinstance(value, list) else [value]
        if isinstance(value, str) and objective in ("multi-label", "token-classification"):
            parts = [part.strip() for part in value.split(separator) if part.strip()]
        found |= {str(part) for part in parts if part is not None}
    if not found or not all(value.isdecimal() for value in found):
        return sorted(found)
    largest = max(map(int, found))
    return [str(i) for i in range(largest + 1)] if largest < 2 * len(found) else sorted(found, key=int)


def trainer_for(work: Work, **options: Any) -> Trainer:
    """The trainer of a stage: its collator, its metrics, and what its objective adds."""
    stage, goal = work.stage, GOALS[work.stage.objective]
    given = dict(work.options)
    own = {name: given.pop(name) for name in goal.trainer_options if name in given}
    soft = {name: given.pop(name) for name in DISTIL if name in given and name not in goal.options}
    options |= {"data_collator": goal.collator(work, **given), "processing_class": work.tokenizer, "compute_metrics": goal.metrics(work)}
    if stage.teacher is not None:
        from hunmin.auto import load

        return DistillationTrainer(work.model, teacher=load(stage.teacher, goal.task), **soft, **options)
    if goal.trainer is ElectraTrainer:
        generator = generator_of(work.model, own.pop("generator", 0.25), work)
        return ElectraTrainer(work.model, generator=generator, **own, **options)
    if goal.trainer is ContrastiveTrainer:
        return ContrastiveTrainer(work.model, columns=2 + (work.data.negative is not None), **own, **options)
    return goal.trainer(work.model, **options)


def generator_of(discriminator: Any, share: float | str, work: Work) -> Any:
    """ELECTRA's generator: a source, or a fresh model with ``share`` of the discriminator's width (Clark et al. 2020, section 3.2)."""
    from copy import deepcopy

    from hunmin.auto import load
    from hunmin.model import PreTrainedModel

    if isinstance(share, str):
        return load(share, "MaskedLM")
    if not 0 < share <= 1:
        raise (work.stage.place / "options" / "generator").error(
            f"is a share above 0, up to 1, not {share}.", f"0보다 크고 1 이하여야 합니다: {share}."
        )
    config = deepcopy(discriminator.config)
    heads = max(1, round(config["num_attention_heads"] * share))
    width = config["hidden_size"] // config["num_attention_heads"] * heads
    config.update(
        {"num_attention_heads": heads, "hidden_size": width, "intermediate_size": max(1, round(config["intermediate_size"] * share))}
    )
    model = PreTrainedModel(config, "MaskedLM")
    from hunmin.hub import weights

    weights.initialize(model, config)
    return model


def no_head(task: str, model_type: str, objective: str) -> InputError:
    """The error for an architecture without the head that an objective needs."""
    return InputError(say(f"{objective}: {model_type} has no head for {task}.", f"{objective}: {model_type}에는 {task} 헤드가 없습니다."))
