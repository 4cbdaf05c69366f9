"""Hyper-parameter search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hunmin import InputError, TrainerCallback
from hunmin.train.search import default_compute_objective
from tests.runs import tiny, trainer

optuna = pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def rates(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_categorical("learning_rate", [1e-5, 1e-2])}


class Seen(TrainerCallback):
    """What every run was told."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[int] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begun.append((args.learning_rate, Path(args.output_dir).name, Path(args.logging_dir).parent.name, state.trial_name))
        assert state.is_hyper_param_search

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended.append(state.global_step)


def test_search_finds_the_rate_that_learns(tmp_path: Path) -> None:
    seen = Seen()
    run = trainer(tmp_path, model_init=tiny, compute_metrics=None, callbacks=[seen], num_train_epochs=6)
    kept, values = run.args, dict(vars(run.args))
    best = run.hyperparameter_search(rates, n_trials=4, sampler=optuna.samplers.GridSampler({"learning_rate": [1e-5, 1e-2]}, seed=0))
    assert not isinstance(best, list)
    assert best.hyperparameters == {"learning_rate": 1e-2}
    study = best.run_summary
    assert best.objective == study.best_value == study.trials[int(best.run_id)].value
    assert run.args is kept and dict(vars(kept)) == values
    assert [name for _, name, _, _ in seen.begun] == [name for _, _, name, _ in seen.begun] == [name for _, _, _, name in seen.begun]
    assert {(name, rate) for rate, name, _, _ in seen.begun} == {(f"run-{t.number}", t.params["learning_rate"]) for t in study.trials}
    assert all((tmp_path / f"run-{t.number}" / "report.html").is_file() for t in study.trials)
    run.remove_callback(Seen)
    run.train()
    assert not run.state.is_hyper_param_search and run.state.trial_name is None


def test_hopeless_trials_are_pruned(tmp_path: Path) -> None:
    seen = Seen()
    run = trainer(tmp_path, model_init=lambda trial: tiny(), compute_metrics=None, callbacks=[seen], eval_strategy="steps", eval_steps=1)
    values = iter([1.0, 0.9, 0.8, 0.7, 5.0])  # of the first trial's four evaluations, and of the second's first
    best = run.hyperparameter_search(
        rates, lambda metrics: next(values), n_trials=2, pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0)
    )
    states = [trial.state.name for trial in best.run_summary.trials]  # type: ignore[union-attr]
    assert states == ["COMPLETE", "PRUNED"] and seen.ended == [4, 1]
    assert best.objective == 0.7  # type: ignore[union-attr]
    assert best.run_summary.trials[1].intermediate_values == {1: 5.0}  # type: ignore[union-attr]
    with pytest.raises(InputError, match="None of 1 trials was completed"):
        run.hyperparameter_search(rates, n_trials=1, pruner=optuna.pruners.ThresholdPruner(upper=0.0))


def test_a_run_without_evaluations_is_evaluated_at_its_end(tmp_path: Path) -> None:
    run = trainer(tmp_path, model_init=tiny, eval_strategy="no")
    seen: list[dict[str, float]] = []
    best = run.hyperparameter_search(rates, lambda metrics: seen.append(metrics) or metrics["eval_loss"], n_trials=1)
    assert len(seen) == 1 and best.objective == seen[0]["eval_loss"]  # type: ignore[union-attr]


def test_the_best_checkpoint_is_judged_when_it_is_loaded(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "save_strategy": "epoch", "learning_rate": 0.5}  # far too high: the loss grows
    run = trainer(tmp_path, model_init=tiny, **best)
    found = run.hyperparameter_search(lambda trial: {}, lambda metrics: metrics["eval_loss"], n_trials=1)
    losses = [logs["eval_loss"] for logs in run.state.log_history if "eval_loss" in logs]
    assert found.objective == pytest.approx(min(losses), rel=1e-5)  # type: ignore[union-attr]


def test_several_directions(tmp_path: Path) -> None:
    run = trainer(tmp_path, model_init=tiny)
    found = run.hyperparameter_search(
        rates,
        lambda m: (m["eval_loss"], m["eval_accuracy"]),
        n_trials=2,
        direction=["minimize", "maximize"],
        hp_name=lambda t: f"try{t.number}",
    )
    assert isinstance(found, list) and 1 <= len(found) <= 2
    assert all(len(run.objective) == 2 for run in found)  # type: ignore[arg-type]
    assert (tmp_path / "try0").is_dir() and (tmp_path / "try1").is_dir()


def test_default_space(tmp_path: Path) -> None:
    found = trainer(tmp_path, model_init=tiny).hyperparameter_search(
        n_trials=1, compute_objective=lambda m: m["eval_loss"], direction="minimize"
    )
    values = found.hyperparameters  # type: ignore[union-attr]
    assert 1e-6 <= values["learning_rate"] <= 1e-4 and values["num_train_epochs"] in range(1, 6) and values["seed"] in range(1, 41)
    assert values["per_device_train_batch_size"] in (4, 8, 16, 32, 64)


def test_default_objective() -> None:
    speeds = {"eval_runtime": 9.0, "eval_samples_per_second": 9.0, "epoch": 3.0}
    assert default_compute_objective({"eval_loss": 0.5, **speeds}) == 0.5
    assert default_compute_objective({"eval_loss": 0.5, "eval_f1": 0.25, "eval_accuracy": 0.5, **speeds}) == 0.75
    with pytest.raises(InputError, match="compute_objective"):
        default_compute_objective(speeds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "ray"}, "backend is 'ray'; it has to be: optuna"),
        ({"direction": "up"}, "direction is 'up'; it has to be: minimize, maximize"),
        ({"direction": ["minimize", "down"]}, "direction is"),
        ({"n_jobs": 2}, "one trial at a time"),
        ({"hp_space": lambda trial: {"learning_rat": 1.0}}, "no argument 'learning_rat'. Did you mean learning_rate"),
        ({"hp_space": lambda trial: {"optim": "adamw_torch", "learning_rate": -1.0}}, "learning_rate is -1.0"),
        ({"hp_space": lambda trial: None}, "hp_space returned None"),
    ],
)
def test_what_cannot_be_searched(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, model_init=tiny)
    kept = run.args
    with pytest.raises(InputError, match=message):
        run.hyperparameter_search(**{"n_trials": 1} | options)
    assert run.args is kept


def test_what_a_search_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="model_init"):
        trainer(tmp_path).hyperparameter_search()
    with pytest.raises(InputError, match="eval_dataset"):
        trainer(tmp_path, model_init=tiny, eval_dataset=None, eval_strategy="no").hyperparameter_search()
    monkeypatch.setattr("hunmin.train.search.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install optuna"):
        trainer(tmp_path, model_init=tiny).hyperparameter_search()


def test_model_init_with_and_without_a_trial(tmp_path: Path) -> None:
    given: list[Any] = []

    def with_trial(trial: Any) -> Any:
        given.append(trial)
        return tiny()

    run = trainer(tmp_path, model_init=with_trial, eval_strategy="no")
    assert given == [None]
    run.hyperparameter_search(rates, n_trials=1)
    assert given[1].number == 0
    with pytest.raises(InputError, match="model_init returned no model"):
        trainer(tmp_path, model_init=lambda: None)
