"""Hyper-parameter search by Optuna: a run for every trial, stopped early where it falls behind."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunmin.errors import InputError, say, short
from hunmin.train import parallel
from hunmin.train.arguments import bad, current
from hunmin.train.state import BestRun, TrainerState, TrainOutput

if TYPE_CHECKING:
    from hunmin.train.arguments import TrainingArguments

DIRECTIONS = ("minimize", "maximize")
OF_OPTIMIZE = ("timeout", "n_jobs", "gc_after_trial", "catch", "callbacks", "show_progress_bar")
Objective = float | Sequence[float]


def default_hp_space(trial: Any) -> dict[str, Any]:
    """Learning rate, epochs, seed and batch size, in the ranges of Transformers."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
    }


def default_compute_objective(metrics: dict[str, float]) -> float:
    """The sum of all metrics, or the loss where there are no others. Speeds do not count.

    Raises InputError when there is neither.
    """
    counted = {name: value for name, value in metrics.items() if name != "epoch" and not name.endswith(("_runtime", "_per_second"))}
    chosen = {name: value for name, value in counted.items() if not name.endswith("_loss")} or counted
    if not chosen:
        raise InputError(
            say(
                "The evaluation gave no number to search by: the rows need labels, or give compute_objective=.",
                "탐색할 수치가 평가에 없습니다. 행에 labels를 넣거나 compute_objective=를 지정하세요.",
            )
        )
    return sum(chosen.values())


class Search:
    """``hyperparameter_search``, for a Trainer with these attributes."""

    args: TrainingArguments
    model_init: Callable[..., Any] | None
    eval_dataset: Any
    state: TrainerState
    train: Callable[..., TrainOutput]
    evaluate: Callable[..., dict[str, float]]
    _call: Callable[..., None]
    _trial: Trial | None = None

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], Objective] | None = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: Any = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> BestRun | list[BestRun]:
        """Train ``n_trials`` times with arguments that Optuna proposes, each from a new model in ``output_dir/run-N``.

        Args:
            hp_space: makes a dictionary of arguments out of an ``optuna.Trial``; see :func:`default_hp_space`.
            compute_objective: metrics to the number that counts, or to as many as there are directions; see
                :func:`default_compute_objective`.
            direction: "minimize" or "maximize", or a list of them.
            hp_name: a name for a trial's folder.
            kwargs: for ``optuna.create_study`` (``pruner``, ``sampler``, ``storage``, ``study_name``, …) and ``Study.optimize``
                (``timeout``, ``catch``, ``callbacks``, …).

        Returns the best run (``run_summary`` is the study); with several directions all runs that no other run beats in all of them.
        The Trainer has its own arguments again afterwards.

        A trial is given up (pruned) after an evaluation, when Optuna says so; not with several directions.

        Raises:
            InputError: no ``model_init`` or evaluation data, no Optuna, an argument that does not exist, or no trial that was completed.
        """
        self._check_search(direction, backend, kwargs)
        import optuna

        several = isinstance(direction, list)
        of_optimize = {name: kwargs.pop(name) for name in OF_OPTIMIZE if name in kwargs}
        study = optuna.create_study(**{"directions" if several else "direction": direction}, **kwargs)  # pyright: ignore[reportArgumentType]
        space, objective = hp_space or default_hp_space, compute_objective or default_compute_objective

        def run(trial: Any) -> Objective:
            return self._run_trial(Trial(trial, objective, prune=not several), space(trial), hp_name)

        study.optimize(run, n_trials=n_trials, **of_optimize)  # pyright: ignore[reportArgumentType]
        best = [trial for trial in study.get_trials(deepcopy=False) if trial.state == optuna.trial.TrialState.COMPLETE]
        if not best:
            raise InputError(
                say(
                    f"None of {len(study.trials)} trials was completed: all failed or were pruned.",
                    f"시도 {len(study.trials)}번이 모두 실패하거나 중단되었습니다.",
                )
            )
        if several:
            return [BestRun(str(found.number), list(found.values), found.params, study) for found in study.best_trials]
        return BestRun(str(study.best_trial.number), study.best_value, study.best_params, study)

    def call_model_init(self, trial: Any = None) -> Any:
        """A new model from ``model_init``, which may take the trial. Raises InputError when it returns none."""
        assert self.model_init is not None
        model = self.model_init(trial) if inspect.signature(self.model_init).parameters else self.model_init()
        if model is None:
            raise InputError(say("model_init returned no model.", "model_init이 모델을 돌려주지 않았습니다."))
        return model

    def _check_search(self, direction: str | list[str], backend: Any, kwargs: dict[str, Any]) -> None:
        """Raises InputError for a search that cannot begin."""
        if self.model_init is None:
            raise InputError(
                say(
                    "hyperparameter_search needs Trainer(model_init=...): every trial starts from a new model.",
                    "hyperparameter_search에는 Trainer(model_init=...)이 필요합니다. 시도마다 새 모델에서 시작합니다.",
                )
            )
        if self.eval_dataset is None:
            raise InputError(say("hyperparameter_search needs eval_dataset=.", "hyperparameter_search에 eval_dataset=이 필요합니다."))
        if backend is not None and str(getattr(backend, "value", backend)).lower() != "optuna":
            raise bad("backend", backend, "optuna")
        if any(one not in DIRECTIONS for one in (direction if isinstance(direction, list) else [direction])) or not direction:
            raise bad("direction", direction, ", ".join(DIRECTIONS))
        if parallel.processes() > 1 or kwargs.get("n_jobs", 1) != 1:
            raise InputError(
                say(
                    "hyperparameter_search runs one trial at a time, in one process (n_jobs=1). Several programs may share a storage=.",
                    "hyperparameter_search는 한 프로세스에서 한 번에 하나씩 시도합니다(n_jobs=1). 여러 프로그램이 storage=를 함께 쓸 수 있습니다.",
                )
            )
        if find_spec("optuna") is None:
            raise InputError(say("Searching needs a package: pip install optuna", "탐색에 필요한 패키지가 없습니다: pip install optuna"))

    def _run_trial(self, trial: Trial, found: Any, hp_name: Callable[[Any], str] | None) -> Objective:
        """Train with the arguments of a trial. Returns its objective."""
        if not isinstance(found, dict):
            raise InputError(
                say(f"hp_space returned {short(found)}, not a dictionary.", f"hp_space가 사전이 아닌 {short(found)}을(를) 돌려주었습니다.")
            )
        from optuna import TrialPruned

        kept = self.args
        name = hp_name(trial.optuna) if hp_name is not None else f"run-{trial.optuna.number}"
        self.args, self._trial = changed(kept, name, found), trial  # pyright: ignore[reportUnknownArgumentType]
        try:
            self.train(trial=trial.optuna)
            if trial.step != self.state.global_step or self.args.load_best_model_at_end:
                return trial.judge(self.evaluate())
            return trial.value
        except TrialPruned:
            self._call("on_train_end")  # so that progress bars and trackers close
            raise
        finally:
            self.args, self._trial = kept, None

    def report_to_trial(self, metrics: dict[str, float]) -> None:
        """Tell a running trial what an evaluation found. Raises TrialPruned when Optuna gives it up."""
        if self._trial is not None:
            self._trial.report(metrics, self.state.global_step)


class Trial:
    """One of Optuna's trials, and its last objective: that of ``step``."""

    def __init__(self, optuna: Any, objective: Callable[[dict[str, float]], Objective], prune: bool) -> None:
        self.optuna, self.judge, self.prune = optuna, lambda metrics: objective(dict(metrics)), prune
        self.value: Objective = ()
        self.step = -1

    def report(self, metrics: dict[str, float], step: int) -> None:
        self.value, self.step = self.judge(metrics), step
        if not self.prune:
            return
        self.optuna.report(self.value, step)
        if self.optuna.should_prune():
            from optuna import TrialPruned

            raise TrialPruned(say(f"Pruned after step {step}.", f"{step}단계에서 중단했습니다."))


def changed(args: TrainingArguments, name: str, found: dict[str, Any]) -> TrainingArguments:
    """``args`` with what a trial found, in a folder of its own. Raises InputError for what is no argument."""
    values = {field.name: getattr(args, field.name) for field in fields(args)}
    folder = Path(args.output_dir) / name
    values |= {"output_dir": str(folder), "logging_dir": str(folder / "runs"), "run_name": name}
    return type(args)(**values | current(found, set(values)))
