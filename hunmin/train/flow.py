"""What a run does between its steps: log, evaluate, remember the best, save - and what it says when it cannot go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunmin.errors import FormatError, InputError, say
from hunmin.train.callbacks import named
from hunmin.train.checkpoint import Checkpoints
from hunmin.train.schedules import PLATEAU
from hunmin.train.state import TrainerControl, TrainerState

if TYPE_CHECKING:
    from hunmin.train.arguments import TrainingArguments


class Flow:
    """For a Trainer with these attributes."""

    args: TrainingArguments
    model: Any
    optimizer: Any
    lr_scheduler: Any
    state: TrainerState
    control: TrainerControl
    checkpoints: Checkpoints
    evaluate: Callable[..., dict[str, float]]
    save_checkpoint: Callable[..., None]
    report_to_trial: Callable[[dict[str, float]], None]
    _call: Callable[..., None]
    _since_log: tuple[float, int]
    _norm: float | None
    _rate: float  # of the last step
    _ignored: list[str] | None  # outputs that evaluations leave out

    # -------------------------------------------------------------- what the control asks for

    def _answer_control(self) -> None:
        """Log, evaluate and save, as callbacks asked."""
        control = self.control
        if control.should_log:
            control.should_log = False
            total, count = self._since_log
            if count:
                logs = {"loss": total / count, "learning_rate": self._rate} | ({"grad_norm": self._norm} if self._norm is not None else {})
                self._since_log = (0.0, 0)
                self.log(logs)
        better = False
        if control.should_evaluate:
            control.should_evaluate = False
            metrics = self._evaluate_all()
            better = self._note_best(metrics)
        if control.should_save or (better and self.args.save_strategy == "best"):
            control.should_save = False
            self.save_checkpoint(best=better)
            self._call("on_save")

    def _evaluate_all(self) -> dict[str, float]:
        kept = self.model.training
        metrics = self.evaluate(ignore_keys=self._ignored)
        self.model.train(kept)
        self.report_to_trial(metrics)
        if self.args.lr_scheduler_type == PLATEAU:
            self.lr_scheduler.step(metrics[named(self.args.metric_for_best_model or "loss")])
        return metrics

    def _note_best(self, metrics: dict[str, float]) -> bool:
        """Whether the metric that decides became better. Raises InputError when there is no such metric."""
        if self.args.metric_for_best_model is None:
            return False
        name, state = named(self.args.metric_for_best_model), self.state
        if name not in metrics:
            listed = ", ".join(metrics)
            raise InputError(
                say(
                    f"metric_for_best_model {name!r} is none of {listed}.",
                    f"metric_for_best_model {name!r}이(가) {listed} 가운데 없습니다.",
                )
            )
        old, new = state.best_metric, metrics[name]
        if old is None or (new > old if self.args.greater_is_better else new < old):
            state.best_metric, state.best_global_step = new, state.global_step
            if self.args.save_strategy != "no":
                state.best_model_checkpoint = str(Path(self.args.output_dir) / f"checkpoint-{state.global_step}")
            return True
        return False

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to the history and tell the callbacks."""
        logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self._call("on_log", logs=logs)

    # -------------------------------------------------------------- what can go wrong

    def _not_a_number(self, value: float) -> FormatError:
        last = self.checkpoints.last()
        step = self.state.global_step + 1
        return FormatError(
            say(
                f"The loss of step {step} is {value} or its gradients are no numbers; training stops and the step is undone."
                f" Lower the learning rate ({self.optimizer.param_groups[0]['lr']:g}), or look for empty labels. Last good checkpoint: {last}.",
                f"{step}단계의 손실이 {value}이거나 기울기가 수가 아니어서 학습을 멈춥니다. 학습률({self.optimizer.param_groups[0]['lr']:g})을 낮추거나 빈 labels를 찾아보세요."
                f" 마지막 정상 체크포인트: {last}.",
            )
        )

    def _memory_advice(self) -> InputError:
        size, steps = self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        tips = [f"per_device_train_batch_size={size // 2}, gradient_accumulation_steps={steps * 2}"] if size > 1 else []
        tips += ["gradient_checkpointing=True"] if not self.args.gradient_checkpointing else []
        tips += ["bf16=True"] if not (self.args.bf16 or self.args.fp16) else ["max_length"]
        listed = "; ".join(tips)
        return InputError(
            say(
                f"Memory ran out in a batch of {size}. Same result with less, in this order: {listed}.",
                f"배치 {size}개에서 메모리가 부족합니다. 다음 순서로 줄여 보세요: {listed}.",
            )
        )
