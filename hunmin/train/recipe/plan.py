"""What a recipe would do and cost, measured on a sample: rows, tokens, steps, memory, time, and one batch to look at. Nothing is written."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hunmin.generate import set_seed
from hunmin.nn.losses import IGNORE
from hunmin.train.callbacks import PrinterCallback, ProgressCallback, TrainerCallback
from hunmin.train.recipe import sources
from hunmin.train.recipe.encode import Work
from hunmin.train.recipe.goals import GOALS, columns_of, trainer_for
from hunmin.train.recipe.run import adapted, arguments_of, prepare, tokenizer_of
from hunmin.train.recipe.schema import Checked, Stage, read

SAMPLE, STEPS = 512, 3  # rows that are tokenized; steps that are timed, of which the first warms up
SHOWN = 32  # tokens of the batch that is shown


@dataclass(frozen=True)
class StagePlan:
    """A stage: rows of each split; tokens an epoch (estimated from the sample); bytes; seconds of training."""

    name: str
    objective: str
    model: str
    labels: list[str]
    rows: dict[str, int]
    tokens: int
    packed: int | None
    batch: int
    steps: int
    epochs: float
    parameters: int
    trained: int
    memory: dict[str, int]
    seconds: float
    device: str
    example: list[tuple[str, str]]  # tokens of the first row of the first batch, each with its label


@dataclass(frozen=True)
class Plan:
    """The stages of a recipe, and where its results would go."""

    output: str
    stages: list[StagePlan]


def plan(recipe: Any, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Plan:
    """The plan of a recipe. Each stage computes a few steps on a model that is then forgotten; stages after the first begin with the first's model.

    Raises InputError for everything that :func:`run` would refuse before it trains.
    """
    checked = read(recipe, overrides)
    set_seed(checked.recipe.seed)
    tokenizer = tokenizer_of(checked, None, SAMPLE)
    new = checked.recipe.tokenizer is not None and checked.recipe.tokenizer.train is not None
    if new and checked.recipe.tokenizer is not None:  # the whole text fills a vocabulary that the sample does not
        size = max(checked.recipe.tokenizer.vocab_size, len(tokenizer))
        model = dataclasses.replace(checked.recipe.model, config={"vocab_size": size, **checked.recipe.model.config})
        checked = dataclasses.replace(checked, recipe=dataclasses.replace(checked.recipe, model=model))
    return Plan(str(checked.output), [_stage(checked, stage, tokenizer) for stage in checked.stages])


def _stage(checked: Checked, stage: Stage, tokenizer: Any) -> StagePlan:
    whole = sources.load_splits(stage.data, columns_of(stage), checked.recipe.seed, stage.data_place)
    rows = {name: len(split) for name, split in vars(whole).items() if split is not None}
    work, splits = prepare(checked, stage, tokenizer, None, sample=SAMPLE)
    work.model = adapted(work.model, stage.adapter, GOALS[stage.objective].task, stage.place)
    share = rows["train"] / min(SAMPLE, rows["train"])
    tokens, packed = round(share * _tokens(splits.train)), round(share * len(splits.train))
    given = arguments_of(stage, "")
    size = given.per_device_train_batch_size * given.world_size
    each = max(1, -(-packed // size // given.gradient_accumulation_steps))
    steps = given.max_steps if given.max_steps > 0 else math.ceil(given.num_train_epochs * each)
    with tempfile.TemporaryDirectory() as folder:
        off: dict[str, Any] = {"max_steps": STEPS, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
        off |= {"report_to": "none", "push_to_hub": False, "eval_on_start": False, "html_report": False}
        off |= {"logging_dir": folder, "metric_for_best_model": None, "logging_strategy": "no"}
        args = arguments_of(stage, Path(folder), **off)
        trainer = trainer_for(work, args=args, train_dataset=splits.train)
        batch = next(iter(trainer.get_train_dataloader().epoch(0)))
        measured = _measure(trainer)
    model = trainer.model
    return StagePlan(
        stage.name,
        stage.objective,
        str(checked.recipe.model.source or checked.recipe.model.scratch),
        work.labels,
        rows,
        tokens,
        packed if stage.pack is not None or stage.objective == "question-answering" else None,
        size * given.gradient_accumulation_steps,
        steps,
        steps / each,
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        measured.memory(model),
        measured.seconds * steps,
        str(args.device),
        shown(batch, work),
    )


def _tokens(rows: Any) -> int:
    """Tokens of a data set, whatever its columns of ids are called."""
    total = 0
    for name in set(rows.column_names) & {"input_ids", "anchor", "positive", "negative", "sentences"}:
        total += sum(_length(value) for value in rows[name])
    return total


def _length(value: Any) -> int:
    return sum(map(_length, value)) if value and isinstance(value[0], list) else len(value)


# ---------------------------------------------------------------- memory and time


class Meter(TrainerCallback):
    """Time of every step, bytes that its forward pass kept for the backward pass, and bytes of the optimizer's state."""

    def __init__(self) -> None:
        self.times, self.kept, self.states, self._begun = list[float](), 0, 0, 0.0
        self._seen = dict[int, int]()

    @property
    def seconds(self) -> float:
        return min(self.times[1:] or self.times)

    def saved(self, tensor: Tensor) -> Tensor:
        """A hook of autograd: what it keeps, every piece of memory once."""
        if not isinstance(tensor, torch.nn.Parameter):
            memory = tensor.untyped_storage()
            self._seen[memory.data_ptr()] = memory.nbytes()
        return tensor

    def on_step_begin(self, *_: Any, **about: Any) -> None:
        self._seen = {}
        self._begun = time.perf_counter()

    def on_step_end(self, *_: Any, **about: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter() - self._begun)
        weights = {p.untyped_storage().data_ptr() for p in about["model"].parameters()}
        self.kept = max(self.kept, sum(size for place, size in self._seen.items() if place not in weights))
        state = getattr(about["optimizer"], "state", {})
        self.states = sum(t.nbytes for values in state.values() for t in values.values() if isinstance(t, Tensor))

    def memory(self, model: Any) -> dict[str, int]:
        """Bytes by what they hold."""
        weights, gradients = sum(p.nbytes for p in model.parameters()), sum(p.nbytes for p in model.parameters() if p.requires_grad)
        return {"weights": weights, "gradients": gradients, "optimizer": self.states, "activations": self.kept}


def _measure(trainer: Any) -> Meter:
    """A few steps of a trainer, measured."""
    meter = Meter()
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(meter)
    with torch.autograd.graph.saved_tensors_hooks(meter.saved, lambda tensor: tensor):
        trainer.train()
    return meter


# ---------------------------------------------------------------- one batch, decoded


def shown(batch: Mapping[str, Any], work: Work) -> list[tuple[str, str]]:
    """The first row of a batch as tokens with their labels beside them; a label of the whole row stands beside its first token."""
    ids = _first(batch, "input_ids", "where")
    tokens = [token.replace("\n", "\\n") for token in work.tokenizer.convert_ids_to_tokens(ids)]
    labels = batch.get("labels")
    spans = [int(batch[key][0]) for key in ("start_positions", "end_positions") if key in batch]
    if spans:
        marks = [("start " if i == spans[0] else "") + ("end" if i == spans[1] else "") for i in range(len(tokens))]
    elif labels is None:
        marks = [""] * len(tokens)
    elif GOALS[work.stage.objective].task == "Seq2SeqLM":
        return _two_columns(
            tokens, work.tokenizer.convert_ids_to_tokens([i for i in _first(batch, "labels", "decoder_where") if i != IGNORE])
        )
    elif labels.ndim == 2 and labels.shape == batch["input_ids"].shape:
        marks = [_token_label(label, work) for label in _first(batch, "labels", "where")]
    else:
        marks = [_row_label(labels[0], work)] + [""] * (len(tokens) - 1)
    return list(zip(tokens, marks, strict=True))[:SHOWN]


def _first(batch: Mapping[str, Any], key: str, where: str) -> list[int]:
    """The first sequence of a batch, packed or padded."""
    ids, at = batch[key], batch.get(where)
    ids = ids.flatten(0, -2)[0] if ids.ndim > 1 else ids
    return (ids[: at.lengths[0]] if at is not None and at.lengths else ids).tolist()


def _two_columns(left: list[str], right: list[str]) -> list[tuple[str, str]]:
    """Input and target, which have no places in common."""
    size = min(max(len(left), len(right)), SHOWN)
    return [(left[i] if i < len(left) else "", right[i] if i < len(right) else "") for i in range(size)]


def _token_label(label: int, work: Work) -> str:
    if label == IGNORE:
        return "-"
    if work.labels:
        return work.labels[label]
    return work.tokenizer.convert_ids_to_tokens([label])[0]


def _row_label(label: Tensor, work: Work) -> str:
    if label.ndim:
        names = [name for name, flag in zip(work.labels, label.tolist(), strict=True) if flag > 0]
        return ", ".join(names) or "-"
    value = label.item()
    return work.labels[int(value)] if work.labels else f"{value:g}"
