"""Callbacks: what happens at the events of a training run. Names, events and their arguments are those of Transformers."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable
from html import escape
from typing import Any

from hunmin.errors import InputError, say
from hunmin.train.arguments import TrainingArguments
from hunmin.train.state import TrainerControl, TrainerState

EVENTS = (
    "on_init_end on_train_begin on_train_end on_epoch_begin on_epoch_end on_step_begin on_pre_optimizer_step on_optimizer_step "
    "on_substep_end on_step_end on_evaluate on_predict on_save on_log on_prediction_step"
).split()


class TrainerCallback:
    """Override the events that you want: ``on_log(self, args, state, control, **kwargs)``.

    ``kwargs`` hold ``model``, ``processing_class`` (also as ``tokenizer``), ``optimizer``, ``lr_scheduler``, ``train_dataloader``, and
    ``metrics`` or ``logs`` where there are some. Changing ``control`` asks the Trainer to log, evaluate, save or stop.
    """

    def __getattr__(self, name: str) -> Any:
        if name in EVENTS:
            return _nothing
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


def _nothing(*_: Any, **__: Any) -> None:
    """An event that a callback does not care about."""


class CallbackList:
    """The callbacks of a Trainer, called in the order in which they were added."""

    def __init__(self, callbacks: Iterable[Any]) -> None:
        self.items: list[TrainerCallback] = []
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: Any) -> None:
        made = callback() if isinstance(callback, type) else callback
        if not isinstance(made, TrainerCallback):
            raise InputError(
                say(
                    f"A callback derives from TrainerCallback; {type(made).__name__} does not.",
                    f"콜백은 TrainerCallback을 상속해야 합니다: {type(made).__name__}.",
                )
            )
        self.items.append(made)

    def pop(self, callback: Any) -> TrainerCallback | None:
        """Take out a callback, or the first of a class."""
        for item in self.items:
            if item is callback or (isinstance(callback, type) and isinstance(item, callback)):
                self.items.remove(item)
                return item
        return None

    def call(self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for item in self.items:
            getattr(item, event)(args, state, control, **kwargs)


class DefaultFlowCallback(TrainerCallback):
    """Asks for logs, evaluations and checkpoints when the arguments say so, and ends the run after its last step."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step = state.global_step
        last = step >= state.max_steps
        if (step == 1 and args.logging_first_step) or (args.logging_strategy == "steps" and step % state.logging_steps == 0):
            control.should_log = True
        if args.eval_strategy == "steps" and step % state.eval_steps == 0 and args.eval_delay <= step:
            control.should_evaluate = True
        if args.save_strategy == "steps" and (step % state.save_steps == 0 or last):
            control.should_save = True
        if last:
            control.should_training_stop = True
            control.should_evaluate |= args.eval_strategy == "steps"

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_log |= args.logging_strategy == "epoch"
        control.should_evaluate |= args.eval_strategy == "epoch" and args.eval_delay <= state.epoch
        control.should_save |= args.save_strategy == "epoch"


class EarlyStoppingCallback(TrainerCallback):
    """Stop when ``metric_for_best_model`` has not become better by ``early_stopping_threshold`` in ``early_stopping_patience`` evaluations."""

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float = 0.0) -> None:
        self.patience, self.threshold = early_stopping_patience, early_stopping_threshold

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.metric_for_best_model is None or args.eval_strategy == "no":
            raise InputError(
                say(
                    "Early stopping needs metric_for_best_model and an eval_strategy.",
                    "조기 종료에는 metric_for_best_model과 eval_strategy가 필요합니다.",
                )
            )

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        kept = state.callbacks.setdefault("early_stopping", {"best": None, "waited": 0})
        value = metrics.get(named(args.metric_for_best_model))
        if value is None:
            return
        gain = math.inf if kept["best"] is None else (value - kept["best"]) * (1 if args.greater_is_better else -1)
        if gain > self.threshold:
            kept.update(best=value, waited=0)
            return
        kept["waited"] += 1
        control.should_training_stop |= kept["waited"] >= self.patience


def named(metric: str | None) -> str:
    """A metric's key in the results of ``evaluate``."""
    return f"eval_{str(metric).removeprefix('eval_')}"


def shown(logs: dict[str, Any]) -> dict[str, Any]:
    """Logs with numbers as short as people read them."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in logs.items() if key != "total_flos"}


class PrinterCallback(TrainerCallback):
    """Prints what is logged, a dictionary a line."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        if state.is_local_process_zero:
            print(shown(logs))


class ProgressCallback(TrainerCallback):
    """A progress bar over the steps of the run, and one over an evaluation; in a notebook also a growing table of losses and metrics."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.inner: Any = None
        self.table: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_local_process_zero:
            return
        self.bar = bar(total=state.max_steps, initial=state.global_step)
        self.table = NotebookTable() if "ipykernel" in sys.modules else None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, eval_dataloader: Any = None, **_: Any
    ) -> None:
        if not state.is_local_process_zero:
            return
        if self.inner is None:
            total = len(eval_dataloader) if eval_dataloader is not None and not eval_dataloader.stream else None
            self.inner = bar(total=total, leave=self.bar is None, delay=0.5)  # a short evaluation needs none
        self.inner.update(1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.inner is not None:
            self.inner.close()
            self.inner = None

    on_predict = on_evaluate

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        if not state.is_local_process_zero:
            return
        self.on_evaluate(args, state, control)  # logs of an evaluation come when it is over
        if self.table is not None:
            self.table.add(state.global_step, shown(logs))
        elif self.bar is not None:
            self.bar.write(str(shown(logs)))
        else:
            print(shown(logs))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def bar(**options: Any) -> Any:
    """A progress bar as wide as the terminal, or a notebook's."""
    from tqdm.auto import tqdm

    return tqdm(dynamic_ncols=True, mininterval=0.5, **options)


class NotebookTable:
    """A table under a notebook's cell: a row a logged step, a column a number, without speeds. Of a long run the last hundred rows."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.view: Any = None

    def add(self, step: int, logs: dict[str, Any]) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        told = {name: value for name, value in logs.items() if not name.endswith(("runtime", "_per_second"))}
        self.rows.setdefault(step, {"step": step}).update(told)
        page = HTML(self.html())
        if self.view is None:
            self.view = display(page, display_id=True)
        else:
            self.view.update(page)

    def html(self) -> str:
        rows = list(self.rows.values())[-100:]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        head = "".join(f"<th>{escape(str(name))}</th>" for name in columns)
        lines = ("".join(f"<td>{escape(str(row.get(name, '')))}</td>" for name in columns) for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"


class LogFileCallback(TrainerCallback):
    """Appends what is logged to ``logging_dir``/``log.jsonl``, a JSON object a line, for other programs to read."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        from pathlib import Path

        path = Path(str(args.logging_dir)) / "log.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**logs, "step": state.global_step, "time": round(time.time(), 3)}, default=float) + "\n")
