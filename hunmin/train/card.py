"""``README.md`` of a trained model: what people and the Hub want to know about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hunmin.errors import InputError, say
from hunmin.train import facts
from hunmin.train.arguments import TrainingArguments
from hunmin.train.state import TrainerState

ABOUT = ("language", "license", "tags", "model_name", "finetuned_from", "tasks", "dataset_tags", "dataset", "dataset_args")
# What the Hub calls the task of a model.
PIPELINE_TAGS = {
    "CausalLM": "text-generation",
    "MaskedLM": "fill-mask",
    "Model": "feature-extraction",
    "MultipleChoice": "multiple-choice",
    "QuestionAnswering": "question-answering",
    "Seq2SeqLM": "text2text-generation",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
}
# Metrics that the Hub knows; a number whose name contains one of these is one.
METRICS = ("accuracy", "bleu", "f1", "matthews_correlation", "pearsonr", "precision", "recall", "rouge", "sacrebleu", "spearmanr", "wer")
SPEEDS = ("runtime", "samples_per_second", "steps_per_second")
FILE_KINDS = ("csv", "json", "pandas", "parquet", "text", "arrow", "generator")  # readers of files, not data sets
ALWAYS = (
    "learning_rate",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "num_train_epochs",
    "seed",
    "optim",
    "lr_scheduler_type",
)
UNTOLD = ("output_dir", "logging_dir", "report_to", "run_name", "disable_tqdm", "html_report", "resume_from_checkpoint", "hub_token")


def model_card(trainer: Any, about: Mapping[str, Any]) -> str:
    """The text of ``README.md``: a YAML header for the Hub, then results, data, settings and versions for people.

    ``about`` has the arguments that Transformers gives ``create_model_card`` (``ABOUT``); what is left out is found out where it can be.
    Raises InputError for any other.
    """
    for name in about:
        if name not in ABOUT:
            near = ", ".join(get_close_matches(name, ABOUT, 1) or ABOUT)
            raise InputError(say(f"A model card has no argument {name!r}: {near}.", f"모델 카드에 {name!r} 인자가 없습니다: {near}."))
    known = {**_found(trainer), **{name: value for name, value in about.items() if value is not None}}
    results = last_results(trainer.state, trainer.args.load_best_model_at_end)
    data = ", ".join(map(str, _list(known.get("dataset")))) or say("data that was not named", "이름을 밝히지 않은 데이터")
    base = known.get("finetuned_from")
    link = f"[{base}](https://huggingface.co/{base})"
    intro = say(f"A fine-tuned version of {link}, trained on {data}", f"{link}을(를) {data}(으)로 미세조정한 모델입니다")
    if base is None:
        intro = say(f"Trained from scratch on {data}", f"{data}(으)로 처음부터 학습한 모델입니다")
    lines = [header(known, results), f"# {known['model_name']}", f"{intro} (Hunmin {facts.versions().get('hunmin', '')})."]
    columns = say("metric", "지표"), say("value", "값")
    if results:
        lines += [say("## Results on the evaluation data", "## 평가 데이터에서의 결과"), table([columns, *results.items()])]
    lines += [say("## Data", "## 데이터"), _data(trainer)]
    columns = say("argument", "인자"), say("value", "값")
    lines += [say("## Training", "## 학습"), say("### Hyper-parameters", "### 하이퍼파라미터")]
    lines += [table([columns, *hyperparameters(trainer.args).items()])]
    if progress := _progress(trainer.state):
        lines += [say("### Progress", "### 경과"), progress]
    lines += [say("### Framework versions", "### 프레임워크 버전")]
    return "\n\n".join([*lines, "\n".join(f"- {name} {number}" for name, number in facts.versions().items())]) + "\n"


def header(known: Mapping[str, Any], results: Mapping[str, float]) -> str:
    """The YAML between two lines of dashes."""
    from huggingface_hub import EvalResult, ModelCardData

    metrics = {name: kind for name in results if (kind := metric_kind(name)) is not None}
    kinds, names, tasks = _list(known.get("dataset_tags")), _list(known.get("dataset")), _list(known.get("tasks"))
    settings = _list(known.get("dataset_args"))
    measured = [
        EvalResult(
            task_type=task,
            dataset_type=kind,
            dataset_name=names[i] if i < len(names) else kind,
            dataset_config=str(settings[i]) if i < len(settings) and settings[i] is not None else None,
            metric_type=metrics[name],
            metric_name=name,
            metric_value=results[name],
        )
        for task in tasks
        for i, kind in enumerate(kinds)
        for name in metrics
    ]
    values = ModelCardData(
        language=known.get("language"),
        license=known.get("license"),
        library_name="transformers",  # the files are in its format
        base_model=known.get("finetuned_from"),
        tags=list(dict.fromkeys([*_list(known.get("tags")), "generated_from_trainer", "hunmin"])),
        datasets=kinds or None,
        metrics=list(dict.fromkeys(metrics.values())) or None,
        pipeline_tag=tasks[0] if tasks else None,
        model_name=known["model_name"],
        eval_results=measured or None,
    )
    return f"---\n{values.to_yaml().strip()}\n---"


def _found(trainer: Any) -> dict[str, Any]:
    """What the Trainer itself knows."""
    model, known = getattr(trainer.model, "base_model", trainer.model), dict[str, Any]()
    known["model_name"] = Path(trainer.args.output_dir).resolve().name
    source = str(getattr(model, "name_or_path", None) or "")
    if source and not Path(source).exists() and source.count("/") <= 1 and ":" not in source:  # a name on the Hub
        known["finetuned_from"] = source
    if (task := PIPELINE_TAGS.get(getattr(model, "task", ""))) is not None:
        known["tasks"] = task
    dataset = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
    kind = getattr(dataset, "builder_name", None)
    if isinstance(kind, str) and kind not in FILE_KINDS:
        known |= {"dataset_tags": kind, "dataset": kind, "dataset_args": getattr(dataset, "config_name", None)}
    return known


def last_results(state: TrainerState, best: bool = False) -> dict[str, float]:
    """The last evaluation's loss and metrics, without ``eval_`` and without speeds.

    ``best``: the model is that of the best evaluation, so unless there was one after training, that evaluation's.
    """
    for logs in reversed(state.log_history):
        if best and "train_loss" in logs and state.best_global_step is not None:
            return next((found for at in state.log_history if at["step"] == state.best_global_step and (found := _results(at))), {})
        if found := _results(logs):
            return found
    return {}


def _results(logs: Mapping[str, Any]) -> dict[str, float]:
    """An evaluation's numbers among what was logged."""
    found = {key.removeprefix("eval_"): value for key, value in logs.items() if key.startswith("eval_") and not key.endswith(SPEEDS)}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def hyperparameters(args: TrainingArguments) -> dict[str, Any]:
    """The arguments that say how the model was trained: the usual ones, and those that differ from their defaults."""
    changed, _ = facts.settings(args)
    named = {name: getattr(args, name) for name in ALWAYS} | {name: value for name, value in changed.items() if name not in UNTOLD}
    return {name: value for name, value in named.items() if not name.startswith("hub_")}


def table(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of a Markdown table, the first of which is its head."""
    cells = [[" ".join(str(value).split()).replace("|", "\\|") for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], ["---"] * len(cells[0]), *cells[1:]])


def _progress(state: TrainerState) -> str:
    """A line for every evaluation, with the training loss that was logged last before it; "" without evaluations."""
    loss: Any = ""
    rows: list[dict[str, Any]] = []
    for logs in state.log_history:
        loss = logs.get("loss", loss)
        if found := _results(logs):
            named = {say("evaluation loss", "평가 손실") if key == "loss" else key: value for key, value in found.items()}
            rows.append(
                {
                    say("epoch", "에폭"): logs.get("epoch"),
                    say("step", "단계"): logs["step"],
                    say("training loss", "학습 손실"): loss,
                    **named,
                }
            )
    names = list(dict.fromkeys(name for row in rows for name in row))
    return table([names, *([_short(row.get(name, "")) for name in names] for row in rows)]) if rows else ""


def _data(trainer: Any) -> str:
    """Sizes, columns and fingerprints of the data; no row, for it may be private."""
    parts = facts.parts(trainer.train_dataset, "train") | facts.parts(trainer.eval_dataset, "eval")
    told = {name: facts.data(part) for name, part in parts.items()}
    hidden = say("First row", "첫 행")
    names = list(dict.fromkeys(key for values in told.values() for key in values if key != hidden))
    if not told:
        return say("No data was given.", "데이터가 주어지지 않았습니다.")
    return table([("", *names), *((name, *(values.get(key, "") for key in names)) for name, values in told.items())])


def metric_kind(name: str) -> str | None:
    """The Hub's name for a metric: the longest of its names that is a word of ``name``, which may end in a number or "L"."""
    return max((kind for kind in METRICS if re.search(rf"(^|_){kind}(\d*|L|Lsum)(_|$)", name)), key=len, default=None)


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _list(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)  # pyright: ignore[reportUnknownVariableType]
