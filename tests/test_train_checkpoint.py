"""Checkpoints: whole or not there, and a run that goes on is the run that never stopped."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hunmin import AutoModelForSequenceClassification, FormatError, InputError, SourceError, TrainerCallback, TrainerState
from hunmin.train import checkpoint
from hunmin.train.checkpoint import Checkpoints
from tests.test_train import same_weights
from tests.train_cases import MODELS, losses, make, rows, trainer

SAVED: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step >= self.step


@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("step", [3, 6, 10])
def test_resumed_is_uninterrupted(task: str, step: int, tmp_path: Path) -> None:
    """Bit for bit, in the middle of an epoch and at its end, with dropout."""
    dropout = {"hidden_dropout_prob": 0.1} if MODELS[task][0] == "bert" else {"dropout_rate": 0.1} if task == "seq2seq" else {}
    data, options = rows(task), SAVED | {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    whole = trainer(make(task, **dropout), tmp_path / "whole", data, **options)
    whole.train()
    trainer(make(task, **dropout), tmp_path / "parts", data, callbacks=[StopAt(step)], **options).train()
    resumed = trainer(make(task, 7, **dropout), tmp_path / "parts", data, **options)
    result = resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole) and result.global_step == 12
    same_weights(resumed.model, whole.model)


@pytest.mark.parametrize("options", [{"ema_decay": 0.9}, {"neftune_noise_alpha": 5.0}, {"dataloader_num_workers": 1}, {"group_by_length": True},
                                     {"lr_scheduler_type": "cosine", "warmup_ratio": 0.3}, {"async_save": True}])  # fmt: skip
def test_resumed_is_uninterrupted_with(options: dict[str, Any], tmp_path: Path) -> None:
    data = rows("masked")
    whole = trainer(make("masked"), tmp_path / "whole", data, **SAVED | options)
    whole.train()
    trainer(make("masked"), tmp_path / "parts", data, callbacks=[StopAt(5)], **SAVED | options).train()
    resumed = trainer(make("masked", 7), tmp_path / "parts", data, **SAVED | options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-5"))
    assert losses(resumed) == losses(whole)
    same_weights(resumed.model, whole.model)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Twenty times ``kill -9``: what is there is whole, a step that was reported is not lost, and the end is that of an undisturbed run."""
    draw, killed = random.Random(0), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}

    def start(folder: Path, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.train_killed", str(folder), *more], stdout=subprocess.PIPE, text=True, env=environment
        )

    whole = start(tmp_path / "whole")
    whole.communicate(timeout=120)
    while killed < 20:
        process, told = start(tmp_path / "killed", *(["threaded"] if killed % 2 else [])), 0
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step "):
                told = int(line.split()[1])
                time.sleep(draw.random() * 0.03)
                if draw.random() < 0.25:
                    break
        process.kill()
        process.communicate()
        kept = Checkpoints(tmp_path / "killed").all()
        last = int(kept[-1].name.split("-")[1]) if kept else 0
        assert last >= told - (2 if killed % 2 else 1), "nothing is lost but the step in flight, and the one that a thread writes"
        for place in kept:
            assert json.loads((place / "trainer_state.json").read_text())["global_step"] == int(place.name.split("-")[1])
            AutoModelForSequenceClassification.from_pretrained(place)
        killed += 1
        if last >= 120:
            break
    end = start(tmp_path / "killed")
    end.communicate(timeout=120)
    assert end.returncode == 0 and not list((tmp_path / "killed").glob(".checkpoint-*"))
    same_weights(*(AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in ("killed", "whole")))


def test_a_full_disk_stops_and_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, real = rows("classes"), TrainerState.save
    run = trainer(make("classes"), tmp_path, data, **SAVED)

    def save(self: Any, folder: Path) -> None:
        if self.global_step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, folder)

    monkeypatch.setattr(TrainerState, "save", save)
    with pytest.raises(SourceError, match=r"checkpoint-4 could not be written: .*No space left.*last good checkpoint is .*checkpoint-3"):
        run.train()
    assert [p.name for p in Checkpoints(tmp_path).all()] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert not list(tmp_path.glob(".checkpoint-*"))
    monkeypatch.undo()
    again, whole = (trainer(make("classes"), tmp_path / n, data, **SAVED) for n in (".", "whole"))
    again.train(resume_from_checkpoint=True)
    whole.train()
    same_weights(again.model, whole.model)


def test_a_loss_that_is_no_number_stops_before_it_spoils_anything(tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 3:
                self.before = {n: p.detach().clone() for n, p in model.named_parameters()}
                self.hook = model.head.register_forward_hook(lambda module, args, out: out * float("nan"))

    poison = Poison()
    run = trainer(make("classes"), tmp_path, rows("classes"), callbacks=[poison], **SAVED)
    with pytest.raises(FormatError, match=r"loss of step 4 is nan.*checkpoint-3"):
        run.train()
    assert all(torch.equal(p, poison.before[n]) for n, p in run.model.named_parameters())
    assert Checkpoints(tmp_path).last() == tmp_path / "checkpoint-3"


def test_old_checkpoints_go(tmp_path: Path) -> None:
    trainer(make("classes"), tmp_path, rows("classes"), save_total_limit=3, **SAVED).train()
    assert [p.name for p in Checkpoints(tmp_path).all()] == ["checkpoint-10", "checkpoint-11", "checkpoint-12"]


def test_checkpoints_that_cannot_be_resumed(tmp_path: Path) -> None:
    data = rows("classes")
    for wanted in (True, str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match="No checkpoint to resume from"):
            trainer(make("classes"), tmp_path / "none", data).train(resume_from_checkpoint=wanted)
    trainer(make("classes"), tmp_path, data, save_only_model=True, **SAVED | {"save_steps": 6}).train()
    with pytest.raises(FormatError, match="save_only_model"):
        trainer(make("classes"), tmp_path, data).train(resume_from_checkpoint=True)
    trainer(make("classes"), tmp_path / "small", data, **SAVED | {"save_steps": 12}).train()
    place = tmp_path / "small" / "checkpoint-12"
    for other in (make("classes", hidden_size=48), make("causal"), torch.nn.Linear(2, 2)):
        with pytest.raises(FormatError, match="not a checkpoint of this model"):
            trainer(other, tmp_path, data).train(resume_from_checkpoint=str(place))
    for name in ("optimizer.pt", "trainer_state.json", "model.safetensors"):
        kept = (place / name).read_bytes()
        (place / name).write_bytes(kept[: len(kept) // 2])
        with pytest.raises(FormatError):
            trainer(make("classes"), tmp_path, data).train(resume_from_checkpoint=str(place))
        (place / name).write_bytes(kept)


def test_random_numbers_come_back() -> None:
    state = checkpoint.random_state()
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    checkpoint.restore_random(state)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())
