"""What the Trainer says to data, labels and models that do not fit: one short message each, before or instead of a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from hunmin import HunminError, InputError, Trainer, TrainingArguments, default_data_collator
from tests.train_cases import make, rows, trainer


def broken(task: str, **change: Any) -> list[dict[str, Any]]:
    data = rows(task)
    return [{**row, **change} for row in data[:1]] + data[1:]


def without(name: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != name} for row in rows("classes")]


CASES: list[tuple[str, str, Any, str]] = [
    (
        "class too large",
        "classes",
        broken("classes", label=3),
        r"labels hold 3, but the model has 3 classes \(0 to 2\): load it with num_labels",
    ),
    ("class below zero", "classes", broken("classes", label=-1), "labels hold -1"),
    ("token class too large", "words", broken("words", labels=[9] * len(rows("words")[0]["input_ids"])), "labels hold 9"),
    ("no input", "classes", without("input_ids"), "input_ids"),
    ("empty", "classes", [], "data set is empty"),
    ("nothing", "classes", None, "needs train_dataset"),
    ("no tokens", "classes", broken("classes", input_ids=[], attention_mask=[]), "has no tokens"),
    ("unequal columns", "words", broken("words", labels=[0, 1]), "labels"),
    ("token out of the vocabulary", "classes", broken("classes", input_ids=[1, 99, 2], attention_mask=[1, 1, 1]), "99"),
    ("text", "classes", [{"text": "hello", "label": 0}] * 8, "Tokenize the data set"),
    ("not rows", "classes", [1, 2, 3], "rows with input_ids"),
]


@pytest.mark.parametrize(("task", "data", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_clear_message(task: str, data: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(HunminError, match=words) as error:
        trainer(make(task), tmp_path, data).train()
    assert str(error.value).count("\n") <= 1 and len(str(error.value)) < 500


def test_no_labels(tmp_path: Path) -> None:
    data = [{"input_ids": row["input_ids"][:4]} for row in rows("classes")]
    with pytest.raises(InputError, match=r"returned no loss: the batch has .*input_ids.*no labels"):
        trainer(make("classes"), tmp_path, data, data_collator=default_data_collator).train()


def test_labels_that_are_no_numbers(tmp_path: Path) -> None:
    model = make("classes", num_labels=1)
    for value in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="NaN or an infinity"):
            trainer(model, tmp_path, broken("classes", label=value)).train()


def test_a_data_set_without_columns_that_the_model_reads(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict({"title": ["a", "b"], "topic": [0, 1]})
    with pytest.raises(InputError, match=r"no column that the model reads, only title, topic"):
        trainer(make("classes"), tmp_path, data).train()
    with pytest.raises(InputError, match="no column that the model reads"):
        trainer(make("classes"), tmp_path, rows("classes")).evaluate(data)


def test_unused_columns_are_left_out(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list([{**row, "title": "x", "url": None} for row in rows("classes")])
    run = trainer(make("classes"), tmp_path, data)
    run.train()
    assert run.state.global_step == 12
    kept = trainer(make("classes"), tmp_path, rows("classes"))
    kept.train()
    assert [e["loss"] for e in kept.state.log_history if "loss" in e] == [e["loss"] for e in run.state.log_history if "loss" in e]


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model= or model_init="):
        Trainer(args=TrainingArguments(str(tmp_path)))
    run = trainer(make("classes"), tmp_path, rows("classes"))
    with pytest.raises(InputError, match="needs eval_dataset"):
        run.evaluate()
    with pytest.raises(InputError, match="derives from TrainerCallback"):
        run.add_callback(print)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"metric_for_best_model 'eval_f1' is none of eval_loss"):
        trainer(
            make("classes"), tmp_path, rows("classes"), eval_dataset=rows("classes", 8), eval_strategy="epoch", metric_for_best_model="f1"
        ).train()
    frozen = make("classes").requires_grad_(False)
    with pytest.raises(InputError, match="no parameter that learns"):
        trainer(frozen, tmp_path, rows("classes")).train()


def test_memory_that_runs_out_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(make("classes"), tmp_path, rows("classes"))

    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(run, "compute_loss", full)
    with pytest.raises(
        InputError, match=r"per_device_train_batch_size=4, gradient_accumulation_steps=2; gradient_checkpointing=True; bf16=True"
    ):
        run.train()


def test_a_batch_size_is_found(tmp_path: Path) -> None:
    class Small(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            if len(inputs["labels"]) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    run = trainer(make("classes"), tmp_path, rows("classes", 16), kind=Small, auto_find_batch_size=True, num_train_epochs=1)
    run.train()
    assert run.args.per_device_train_batch_size <= 3 and run.state.epoch == 1


def test_unknown_optimizers_and_schedules(tmp_path: Path) -> None:
    for options, words in (({"optim": "adam9"}, "adamw_torch, "), ({"optim_args": "momentum=1"}, "optim_args do not fit"),
                           ({"optim": "paged_adamw_8bit"}, "pip install bitsandbytes"),
                           ({"lr_scheduler_kwargs": {"steepness": 1}}, "lr_scheduler_kwargs do not fit")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            trainer(make("classes"), tmp_path, rows("classes"), **options).train()
