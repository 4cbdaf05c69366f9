"""A run for tests/test_train_checkpoint.py to kill: ``python -m tests.train_killed FOLDER [resume]``. Prints a line when its steps begin."""

from __future__ import annotations

import sys
from typing import Any

from hunmin import TrainerCallback
from tests.train_cases import make, rows, trainer


class Tell(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        print(f"step {state.global_step}", flush=True)


def made(folder: str, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 2,
        "num_train_epochs": 20,
        "logging_steps": 10**6,
    }
    return trainer(make("classes", hidden_dropout_prob=0.1), folder, rows("classes"), callbacks=[Tell], **settings | options)


def main() -> None:
    from hunmin.train.checkpoint import Checkpoints

    run = made(sys.argv[1], async_save="threaded" in sys.argv)
    run.train(resume_from_checkpoint=Checkpoints(sys.argv[1]).last() is not None)
    run.save_model()


if __name__ == "__main__":
    main()
