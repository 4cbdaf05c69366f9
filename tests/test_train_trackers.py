"""Experiment trackers: TensorBoard by reading its files back, the others as fakes that write down what they are told."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hunmin import InputError, TrainingArguments
from hunmin.train.trackers import (
    ENERGY,
    TRACKERS,
    CodeCarbonCallback,
    MLflowCallback,
    TensorBoardCallback,
    WandbCallback,
    numbers,
    rewrite_logs,
    trackers,
)
from tests.runs import tiny, trainer

WANDB = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_PROJECT", "WANDB_BASE_URL")


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No tracker but TensorBoard is installed, and nobody is logged in."""
    for name in ("wandb", "mlflow", "codecarbon"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("hunmin.train.trackers.find_spec", lambda name: sys.modules.get(name) if name != "tensorboard" else True)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in WANDB:
        monkeypatch.delenv(name, raising=False)


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> Any:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module


class Wandb:
    """``wandb``: what it was told, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[str, Any]] = []
        self.module = fake(monkeypatch, "wandb", run=None, init=self.init)

    def init(self, **options: Any) -> Any:
        self.told.append(("init", options))
        self.module.run = SimpleNamespace(
            config=SimpleNamespace(update=lambda values, allow_val_change: self.told.append(("config", values))),
            define_metric=lambda name, **options: self.told.append(("metric", (name, options))),
            log=lambda values: self.told.append(("log", values)),
            finish=self.finish,
        )
        return self.module.run

    def finish(self) -> None:
        self.told.append(("finish", None))
        self.module.run = None

    def all(self, what: str) -> list[Any]:
        return [value for kind, value in self.told if kind == what]


class MLflow:
    """``mlflow``: parameters and numbers by run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.active: Any = None
        self.runs: list[str] = []
        self.params: list[dict[str, Any]] = []
        self.metrics: list[tuple[dict[str, float], int, str]] = []
        fake(monkeypatch, "mlflow", active_run=lambda: self.active, start_run=self.start, end_run=self.end, log_params=self.params.append,
             log_metrics=lambda values, step, run_id: self.metrics.append((values, step, run_id)))  # fmt: skip

    def start(self, run_name: str | None = None) -> Any:
        assert self.active is None
        self.runs.append(f"run{len(self.runs)}")
        self.active = SimpleNamespace(info=SimpleNamespace(run_id=self.runs[-1]))
        return self.active

    def end(self) -> None:
        self.active = None


# -------------------------------------------------------------- names and numbers


def test_names_are_those_of_transformers() -> None:
    logs = {"loss": 1, "eval_loss": 2, "eval_dev_f1": 3, "test_accuracy": 4, "evaluation": 5, "epoch": 6, "train_runtime": 7, "eval_": 8}
    assert rewrite_logs(logs) == {
        "train/loss": 1, "eval/loss": 2, "eval/dev_f1": 3, "test/accuracy": 4, "train/evaluation": 5, "train/epoch": 6,
        "train/train_runtime": 7, "train/eval_": 8,
    }  # fmt: skip


def test_only_numbers_are_told() -> None:
    logs = {"a": 1, "b": np.float32(2), "c": torch.tensor([3.0]), "d": torch.ones(2), "e": "four", "f": None, "g": np.int64(5)}
    assert numbers(logs) == {"a": 1.0, "b": 2.0, "c": 3.0, "g": 5.0}


# -------------------------------------------------------------- which


def chosen(report_to: Any, folder: Path) -> list[str]:
    return [type(found).__name__ for found in trackers(TrainingArguments(folder, report_to=report_to))]


def test_all_means_installed_and_able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert chosen("none", tmp_path) == chosen([], tmp_path) == chosen(["none"], tmp_path) == []
    assert chosen(None, tmp_path) == chosen("all", tmp_path) == ["TensorBoardCallback"]
    fake(monkeypatch, "wandb")
    fake(monkeypatch, "mlflow")
    assert chosen(None, tmp_path) == ["TensorBoardCallback", "MLflowCallback"]
    assert chosen(["mlflow", "mlflow"], tmp_path) == ["MLflowCallback"]


def login(monkeypatch: pytest.MonkeyPatch, home: Path, how: str) -> None:
    if how == "netrc":
        (home / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    elif how == "own server":
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com")
        (home / "_netrc").write_text("machine wandb.example.com\n  login user\n  password secret\n")
    else:
        name, _, value = how.partition("=")
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("how", ["WANDB_API_KEY=x", "WANDB_MODE=offline", "netrc", "own server"])
def test_wandb_only_with_a_login(how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, "wandb")
    with pytest.raises(InputError, match="wandb login"):
        chosen("wandb", tmp_path)
    login(monkeypatch, tmp_path, how)
    assert chosen("wandb", tmp_path) == ["WandbCallback"] and "WandbCallback" in chosen("all", tmp_path)
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert "WandbCallback" not in chosen("all", tmp_path)


@pytest.mark.parametrize("text", ["machine other.host\n login a\n password b\n", "this is no netrc {"])
def test_other_logins_are_none(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, "wandb")
    (tmp_path / ".netrc").write_text(text)
    assert "WandbCallback" not in chosen("all", tmp_path)


@pytest.mark.parametrize("name", sorted(set(TRACKERS) - {"tensorboard"}))
def test_missing_package(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"pip install {name}"):
        chosen(name, tmp_path)


def test_unknown_tracker(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="report_to is 'tensorbord'; it has to be: tensorboard, wandb, mlflow, codecarbon, all, none"):
        chosen(["tensorboard", "tensorbord"], tmp_path)


def test_the_trainer_takes_them(tmp_path: Path) -> None:
    run = trainer(tmp_path, report_to="tensorboard")
    assert isinstance(run.pop_callback(TensorBoardCallback), TensorBoardCallback)


# -------------------------------------------------------------- what they are told


def test_tensorboard_files_hold_what_was_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(tmp_path, report_to="tensorboard", logging_dir=str(tmp_path / "events"))
    run.train()
    run.evaluate()  # after the run: a file of its own
    assert len(list((tmp_path / "events").iterdir())) == 2
    held = EventAccumulator(str(tmp_path / "events"))
    held.Reload()
    for name, key in (("train/loss", "loss"), ("eval/accuracy", "eval_accuracy"), ("train/learning_rate", "learning_rate")):
        read = [(event.step, event.value) for event in held.Scalars(name)]
        logged = [(logs["step"], pytest.approx(logs[key], rel=1e-5)) for logs in run.state.log_history if key in logs]
        assert read[: len(logged)] == logged, name
    assert {"args/text_summary", "model_config/text_summary"} <= set(held.Tags()["tensors"])


def test_wandb_gets_settings_and_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "korean")
    wandb = Wandb(monkeypatch)
    run = trainer(tmp_path, report_to="wandb", run_name="first", hub_token="hf_secret")
    run.train()
    run.evaluate()
    assert wandb.all("init") == [{"project": "korean", "name": "first"}] and not wandb.all("finish")
    (config,) = wandb.all("config")
    assert config["learning_rate"] == 1e-3 and config["hidden_size"] == 32 and "hf_secret" not in str(config)
    assert ("*", {"step_metric": "train/global_step", "step_sync": True}) in wandb.all("metric")
    assert [logs["train/global_step"] for logs in wandb.all("log") if "train/loss" in logs] == [1, 2, 3, 4]
    assert "eval/accuracy" in wandb.all("log")[-1]
    run.train()
    assert len(wandb.all("finish")) == 1 and len(wandb.all("init")) == 2


def test_wandb_uses_an_open_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x")
    wandb = Wandb(monkeypatch)
    wandb.init(project="mine")
    run = trainer(tmp_path, callbacks=[WandbCallback])
    run.train()
    run.train()
    assert len(wandb.all("init")) == 1 and not wandb.all("finish") and wandb.all("log")


def test_mlflow_gets_short_settings_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = MLflow(monkeypatch)
    run = trainer(tmp_path, report_to="mlflow", label_names=["labels"] * 200, remove_unused_columns=False)
    run.label_names = ["labels"]
    run.train()
    assert mlflow.active is None and mlflow.runs == ["run0"]
    assert all(len(part) <= 100 for part in mlflow.params)
    names = {name for part in mlflow.params for name in part}
    assert {"learning_rate", "hidden_size"} <= names and "label_names" not in names
    assert [step for values, step, _ in mlflow.metrics if "train/loss" in values] == [1, 2, 3, 4]
    run.evaluate()
    assert mlflow.active is None and mlflow.metrics[-1][2] == "run0" and "eval/loss" in mlflow.metrics[-1][0]
    run.train()
    assert mlflow.runs == ["run0", "run1"] and mlflow.active is None


def test_mlflow_leaves_an_active_run_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = MLflow(monkeypatch)
    mlflow.start()
    run = trainer(tmp_path, callbacks=[MLflowCallback])
    run.train()
    run.train()
    assert mlflow.runs == ["run0"] and mlflow.active is not None


class Meter:
    """``codecarbon.EmissionsTracker``."""

    open = 0
    mode = "intel_rapl"

    def __init__(self, output_dir: str, project_name: str, log_level: str) -> None:
        assert Path(output_dir).is_dir()
        self._hardware = [SimpleNamespace(_mode=self.mode), SimpleNamespace()]
        self.final_emissions_data: Any = None

    def start(self) -> None:
        Meter.open += 1

    def stop(self) -> float:
        Meter.open -= 1
        self.final_emissions_data = SimpleNamespace(cpu_energy=0.5, gpu_energy=0.0, ram_energy=9.0, energy_consumed=9.5)
        return 0.25


@pytest.mark.parametrize("mode", ["intel_rapl", "cpu_load", "constant"])
def test_codecarbon_measures_a_run_for_its_report(mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it only estimates is left out."""
    monkeypatch.setattr(Meter, "mode", mode)
    fake(monkeypatch, "codecarbon", EmissionsTracker=Meter)
    run = trainer(tmp_path / "new", report_to="codecarbon")
    run.train()
    run.evaluate()
    measured = mode == "intel_rapl"
    assert run.state.callbacks[ENERGY] == ({"cpu": 0.5} if measured else {}) and Meter.open == 0
    assert (">500 Wh<" in (tmp_path / "new" / "report.html").read_text(encoding="utf-8")) == measured


def test_a_failed_run_leaves_no_meter_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, "codecarbon", EmissionsTracker=Meter)
    run = trainer(tmp_path, callbacks=[CodeCarbonCallback])
    run.train_dataset = [{"input_ids": [1, 2], "label": 7}]
    with pytest.raises(InputError):
        run.train()
    assert Meter.open == 1
    run.train_dataset = run.eval_dataset
    run.train()
    assert Meter.open == 0


def test_other_processes_are_silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hunmin import TrainerControl, TrainerState

    args, state = TrainingArguments(tmp_path), TrainerState(is_world_process_zero=False, is_local_process_zero=False)
    teller = TensorBoardCallback()
    for event in ("on_train_begin", "on_log", "on_train_end"):
        getattr(teller, event)(args, state, TrainerControl(), model=tiny(), logs={"loss": 1.0})
    assert teller.writer is None and not list(tmp_path.iterdir())


def test_nothing_is_imported_before_a_run() -> None:
    import subprocess

    code = (
        "import sys; from hunmin import TrainingArguments; from hunmin.train.trackers import trackers;"
        "assert trackers(TrainingArguments('x', report_to='tensorboard')); print('tensorboard' in sys.modules, 'optuna' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["False", "False"]
