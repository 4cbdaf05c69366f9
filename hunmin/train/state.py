"""What a training run knows about itself, and what it hands out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hunmin.errors import FormatError, say

STATE = "trainer_state.json"


@dataclass
class TrainerState:
    """Progress of a run. ``log_history`` has a dictionary for everything that was logged, with ``step`` and ``epoch``."""

    epoch: float = 0.0
    global_step: int = 0
    max_steps: int = 0
    num_train_epochs: int = 0
    train_batch_size: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    log_history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_world_process_zero: bool = True
    is_local_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    num_input_tokens_seen: int = 0  # by this process, without padding
    num_input_rows_seen: int = 0  # by this process
    callbacks: dict[str, Any] = field(default_factory=dict[str, Any])  # what callbacks want to find again

    def save(self, folder: Path) -> None:
        (folder / STATE).write_text(json.dumps(dataclasses.asdict(self), indent=2, default=float) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TrainerState:
        """Raises FormatError when the file is missing or is no state."""
        try:
            values = json.loads((folder / STATE).read_text(encoding="utf-8"))
            known = {f.name for f in dataclasses.fields(cls)}
            return cls(**{key: value for key, value in values.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise FormatError(
                say(f"{folder} is no checkpoint of a training run: {error}.", f"{folder}은(는) 훈련 체크포인트가 아닙니다: {error}.")
            ) from error


@dataclass
class TrainerControl:
    """What a callback may ask for; read by the Trainer after each event."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False


class TrainOutput(NamedTuple):
    """What ``train`` returns."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class PredictionOutput(NamedTuple):
    """What ``predict`` returns: arrays over all rows (tuples of them for several outputs), padded with -100 where rows differ in length."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


class EvalPrediction:
    """What ``compute_metrics`` gets: ``predictions, label_ids = eval_pred``."""

    def __init__(self, predictions: Any, label_ids: Any, inputs: Any = None, losses: Any = None) -> None:
        self.predictions, self.label_ids, self.inputs, self.losses = predictions, label_ids, inputs, losses

    def __iter__(self) -> Iterator[Any]:
        return iter(value for value in (self.predictions, self.label_ids, self.inputs, self.losses) if value is not None)

    def __getitem__(self, index: int) -> Any:
        return list(self)[index]


class BestRun(NamedTuple):
    """What a hyper-parameter search found."""

    run_id: str
    objective: float | list[float]
    hyperparameters: dict[str, Any]
    run_summary: Any = None
