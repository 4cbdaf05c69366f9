"""Experiment trackers that other packages bring: TensorBoard, Weights & Biases, MLflow, CodeCarbon.

A package is imported when a run begins, not before. Names and their ``train/``, ``eval/`` and ``test/`` numbers are those of Transformers.
"""

from __future__ import annotations

import netrc
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.train.arguments import TrainingArguments, bad
from hunmin.train.callbacks import TrainerCallback
from hunmin.train.state import TrainerControl, TrainerState

ENERGY = "energy"  # where CodeCarbon's measured kWh lie in ``state.callbacks``
MEASURED = {"intel_rapl", "intel_power_gadget", "windows_emi"}  # how CodeCarbon reads a processor's counters, of its modes


def rewrite_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """``eval_loss`` as ``eval/loss``, ``test_loss`` as ``test/loss``, and anything else under ``train/``."""
    out: dict[str, Any] = {}
    for name, value in logs.items():
        part, _, rest = name.partition("_")
        out[f"{part}/{rest}" if part in ("eval", "test") and rest else f"train/{name}"] = value
    return out


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """What of ``logs`` is a number, tensors of one element included."""
    one = {name: value for name, value in logs.items() if isinstance(value, int | float | np.number)}
    return {name: float(value) for name, value in logs.items() if name in one or (isinstance(value, Tensor) and value.numel() == 1)}


def need(package: str) -> None:
    """Raises InputError when a tracker's package is not installed."""
    if find_spec(package) is None:
        raise InputError(
            say(
                f"report_to={package!r} needs a package: pip install {package}",
                f"report_to={package!r}에 필요한 패키지가 없습니다: pip install {package}",
            )
        )


class Tracker(TrainerCallback, ABC):
    """A run is told to another program: ``begin``, ``write`` for everything that is logged, ``end``. Only process zero does.

    What is logged outside of a run, as by ``evaluate``, begins one. Raises InputError when the package is not installed.
    """

    package = ""

    def __init__(self) -> None:
        need(self.package)
        self.running = False

    @abstractmethod
    def begin(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        """A run begins; here the package is imported."""

    @abstractmethod
    def write(self, values: dict[str, float], step: int) -> None:
        """Numbers, under their final names."""

    def end(self) -> None:
        """Nothing, for programs that end a run by themselves."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            if self.running:
                self.end()
            self.begin(args, state, model)
            self.running = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], model: Any = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        if not self.running:
            self.on_train_begin(args, state, control, model)
        self.write(rewrite_logs(numbers(logs)), state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and self.running:
            self.end()


class TensorBoardCallback(Tracker):
    """Event files in ``logging_dir``: ``tensorboard --logdir`` shows them. ``tb_writer``: a SummaryWriter of your own."""

    package = "tensorboard"

    def __init__(self, tb_writer: Any = None) -> None:
        super().__init__()
        self.writer = tb_writer

    def begin(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer: Any = SummaryWriter(log_dir=args.logging_dir)
        self.writer.add_text("args", f"```json\n{args.to_json_string()}\n```")
        if hasattr(getattr(model, "config", None), "to_json_string"):
            self.writer.add_text("model_config", f"```json\n{model.config.to_json_string()}\n```")

    def write(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self) -> None:
        self.writer.close()
        self.writer, self.running = None, False


class WandbCallback(Tracker):
    """A run of Weights & Biases. ``WANDB_PROJECT`` names the project, ``WANDB_MODE=offline`` keeps everything on this machine.

    A run that is already open is used. It stays open after training, for evaluations, until the next one begins.
    Raises InputError without a login: a question for a key would stop an unwatched run.
    """

    package = "wandb"

    def __init__(self) -> None:
        super().__init__()
        if not _wandb_login():
            raise InputError(
                say(
                    "report_to='wandb' needs a login: run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline.",
                    "report_to='wandb'에는 로그인이 필요합니다. `wandb login`을 실행하거나 WANDB_API_KEY 또는 WANDB_MODE=offline을 설정하세요.",
                )
            )
        self.run: Any = None

    def begin(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        if self.run is not None:
            self.run.finish()
        opened: Any = wandb.run
        if opened is None:
            project = os.environ.get("WANDB_PROJECT", "huggingface")
            opened = self.run = wandb.init(project=project, name=args.run_name)
        opened.config.update(_settings(args, model), allow_val_change=True)
        opened.define_metric("train/global_step")
        opened.define_metric("*", step_metric="train/global_step", step_sync=True)
        self._log: Callable[[dict[str, float]], None] = opened.log

    def write(self, values: dict[str, float], step: int) -> None:
        self._log({**values, "train/global_step": step})


class MLflowCallback(Tracker):
    """A run of MLflow, which reads ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and ``MLFLOW_RUN_ID``. An active run is used."""

    package = "mlflow"

    def begin(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow: Any = mlflow
        active = mlflow.active_run()
        self._own = active is None
        self._run = (active or mlflow.start_run(run_name=args.run_name)).info.run_id
        # Values of at most 500 characters and a hundred a call are what every server takes.
        settings = [(key, value) for key, value in _settings(args, model).items() if len(str(value)) <= 500]
        for i in range(0, len(settings), 100):
            mlflow.log_params(dict(settings[i : i + 100]))

    def write(self, values: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics(values, step=step, run_id=self._run)

    def end(self) -> None:
        """The run ends; later evaluations are still written to it, by its id."""
        if self._own and self._mlflow.active_run() is not None:
            self._mlflow.end_run()
        self._own = False


class CodeCarbonCallback(TrainerCallback):
    """Energy and emissions of a run by CodeCarbon: ``emissions.csv`` in ``output_dir``, and the kWh that were measured in the report.

    CodeCarbon asks a server where this machine is, for the mix of its electricity, and estimates what it cannot measure. Estimates (memory
    always, the processor where its counters cannot be read) stay in its file.
    """

    def __init__(self) -> None:
        need("codecarbon")
        self.meter: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_local_process_zero:
            return
        from codecarbon import EmissionsTracker  # pyright: ignore[reportMissingImports]

        if self.meter is not None:  # of a run that failed
            self.meter.stop()
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        level = os.environ.get("CODECARBON_LOG_LEVEL", "error")  # its messages would tear the progress bar
        self.meter = EmissionsTracker(output_dir=args.output_dir, project_name=args.run_name or "hunmin", log_level=level)
        self.meter.start()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.meter is None:
            return
        self.meter.stop()
        found = getattr(self.meter, "final_emissions_data", None)
        modes = {getattr(part, "_mode", None) for part in getattr(self.meter, "_hardware", ())}
        measured = {"gpu": getattr(found, "gpu_energy", 0.0), "cpu": getattr(found, "cpu_energy", 0.0) if modes & MEASURED else 0.0}
        state.callbacks[ENERGY] = {name: float(kwh) for name, kwh in measured.items() if kwh}
        self.meter = None


TRACKERS: dict[str, type[TrainerCallback]] = {
    "tensorboard": TensorBoardCallback,
    "wandb": WandbCallback,
    "mlflow": MLflowCallback,
    "codecarbon": CodeCarbonCallback,
}


def trackers(arguments: TrainingArguments) -> list[TrainerCallback]:
    """The trackers that ``report_to`` names; None or "all": those that are installed and can work unasked.

    Raises InputError for an unknown name, for a package that is not installed and for Weights & Biases without a login.
    """
    wanted = arguments.report_to
    names = [wanted] if isinstance(wanted, str) else list(wanted) if wanted is not None else ["all"]
    if "all" in names:
        found = [name for name in TRACKERS if find_spec(name) is not None]
        # CodeCarbon asks a server where this machine stands: nobody wants that unasked
        return [TRACKERS[name]() for name in found if name != "codecarbon" and (name != "wandb" or _wandb_login())]
    if names == ["none"]:
        return []
    for name in names:
        if name not in TRACKERS:
            raise bad("report_to", name, ", ".join((*TRACKERS, "all", "none")))
    return [TRACKERS[name]() for name in dict.fromkeys(names)]


def _wandb_login() -> bool:
    """Whether Weights & Biases can start without asking, found out without importing it."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return False
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for name in (".netrc", "_netrc"):
        try:
            if netrc.netrc(Path.home() / name).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError, RuntimeError):  # none there, none readable, no home
            continue
    return False


def _settings(args: TrainingArguments, model: Any) -> dict[str, Any]:
    """The model's configuration and the arguments in one dictionary."""
    config: Any = getattr(model, "config", None)
    own = config.to_dict() if hasattr(config, "to_dict") else {}
    return own | args.to_dict()
