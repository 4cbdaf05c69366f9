"""The Trainer's laws: what must not change the result of a run, and what a run must leave behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hunmin import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    IA3Config,
    InputError,
    LoraConfig,
    PromptTuningConfig,
    Seq2SeqTrainer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_peft_model,
)
from tests.train_cases import MODELS, losses, make, padded, rows, trainer

TASKS = list(MODELS)


def run(task: str, folder: Path, data: Any, **options: Any) -> Trainer:
    trained = trainer(make(task), folder, data, **options)
    trained.train()
    return trained


def same_weights(a: Any, b: Any, tolerance: float = 0.0) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=tolerance, atol=tolerance * float(p.detach().abs().max())) if tolerance else torch.equal(p, q), (
            name
        )


# -------------------------------------------------------------- what changes nothing


@pytest.mark.parametrize("task", TASKS)
def test_packed_is_padded(task: str, tmp_path: Path) -> None:
    """The same losses step by step whether padding is computed or not, and whoever padded the rows."""
    data = rows(task)
    packed = run(task, tmp_path, data)
    of_padded = run(task, tmp_path, padded(data))
    computed = run(task, tmp_path, padded(data), padding_free=False, data_collator=lambda batch: stack(batch))
    assert losses(packed)[-1] < losses(packed)[0]
    np.testing.assert_allclose(losses(of_padded), losses(packed), rtol=1e-6)
    np.testing.assert_allclose(losses(computed), losses(packed), rtol=2e-4)


def stack(batch: list[dict[str, Any]]) -> dict[str, Any]:
    longest = max((len(row["labels"]) for row in batch if isinstance(row.get("labels"), list)), default=0)
    for row in batch:
        if isinstance(row.get("labels"), list):
            row["labels"] = row["labels"] + [-100] * (longest - len(row["labels"]))
    names = {"label": "labels"}
    return {names.get(key, key): torch.tensor([row[key] for row in batch]) for key in batch[0]}


def test_no_padding_reaches_the_model(tmp_path: Path) -> None:
    seen = list[torch.Size]()

    class Watch(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            seen.append(inputs["input_ids"].shape)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    data = rows("classes", 16)
    trainer(make("classes"), tmp_path, padded(data, 60), kind=Watch, num_train_epochs=1).train()
    assert sum(shape[0] * shape[1] for shape in seen) == sum(len(row["input_ids"]) for row in data)


@pytest.mark.parametrize("task", TASKS)
def test_eight_by_one_is_one_by_eight(task: str, tmp_path: Path) -> None:
    """The loss of a step is the mean over its tokens or rows, however they are spread over batches."""
    data = rows(task)
    whole = run(task, tmp_path, data, per_device_train_batch_size=8)
    for size in (1, 4):
        parts = run(task, tmp_path, data, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size)
        np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-4)
        assert parts.state.global_step == whole.state.global_step


@pytest.mark.parametrize(
    "options", [{"gradient_checkpointing": True}, {"dataloader_num_workers": 2}, {"async_save": True, "save_strategy": "epoch"}]
)
def test_options_that_change_no_number(options: dict[str, Any], tmp_path: Path) -> None:
    data = rows("causal")
    plain, other = run("causal", tmp_path, data), run("causal", tmp_path, data, **options)
    assert losses(plain) == losses(other)
    same_weights(plain.model, other.model)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's compiler warns about itself
def test_compiled_is_eager(tmp_path: Path) -> None:
    data = rows("classes", 8)
    eager = run("classes", tmp_path, data, num_train_epochs=2)
    compiled = run("classes", tmp_path, data, num_train_epochs=2, torch_compile=True, torch_compile_backend="aot_eager")
    np.testing.assert_allclose(losses(compiled), losses(eager), rtol=1e-5)
    assert all(module._compiled_call_impl is None for module in compiled.model.modules())


def test_the_order_of_rows_follows_from_the_seed(tmp_path: Path) -> None:
    data = rows("classes")
    assert losses(run("classes", tmp_path, data)) == losses(run("classes", tmp_path, data))
    assert losses(run("classes", tmp_path, data, seed=1)) != losses(run("classes", tmp_path, data))
    assert losses(run("classes", tmp_path, data, data_seed=1)) != losses(run("classes", tmp_path, data))
    grouped = run("classes", tmp_path, data, group_by_length=True)
    assert sorted(losses(grouped)) != sorted(losses(run("classes", tmp_path, data))) and grouped.state.global_step == 12
    assert losses(run("classes", tmp_path, data, train_sampling_strategy="group_by_length")) == losses(grouped)
    ordered = run("classes", tmp_path, data, train_sampling_strategy="sequential")
    assert losses(ordered) == losses(run("classes", tmp_path, data, train_sampling_strategy="sequential", data_seed=1))
    assert losses(ordered) != losses(run("classes", tmp_path, data))


# -------------------------------------------------------------- how long


@pytest.mark.parametrize(
    ("options", "steps", "epoch"),
    [({}, 12, 2.0), ({"max_steps": 5}, 5, 5 / 6), ({"num_train_epochs": 0.5}, 3, 0.5), ({"max_steps": 20}, 20, 20 / 6),
     ({"gradient_accumulation_steps": 4}, 4, 2.0), ({"per_device_train_batch_size": 7}, 14, 2.0),
     ({"per_device_train_batch_size": 7, "dataloader_drop_last": True}, 12, 2.0)],
)  # fmt: skip
def test_steps_and_epochs(options: dict[str, Any], steps: int, epoch: float, tmp_path: Path) -> None:
    done = run("classes", tmp_path, rows("classes"), **options)
    assert done.state.global_step == done.state.max_steps == steps and done.state.epoch == pytest.approx(epoch)
    assert len(losses(done)) == steps


def test_a_stream(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(rows("classes"))

    done = run("classes", tmp_path, Stream(), max_steps=9)
    assert done.state.global_step == 9
    with pytest.raises(InputError, match="give max_steps"):
        run("classes", tmp_path, Stream())


# -------------------------------------------------------------- logs, evaluation, the best


def accuracy(prediction: Any) -> dict[str, float]:
    logits, labels = prediction
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


def test_what_is_logged(tmp_path: Path) -> None:
    done = run("classes", tmp_path, rows("classes"), eval_dataset=rows("classes", 20, 1), compute_metrics=accuracy, evaluation_strategy="epoch",
               logging_steps=4, learning_rate=1e-2)  # fmt: skip
    history = done.state.log_history
    assert [(entry["step"], entry["epoch"]) for entry in history if "loss" in entry] == [(4, 4 / 6), (8, 8 / 6), (12, 2.0)]
    assert [set(entry) for entry in history if "eval_loss" in entry] == [
        {"eval_loss", "eval_accuracy", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "epoch", "step"}
    ] * 2
    assert {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"} <= set(history[-1])
    assert [entry["learning_rate"] for entry in history if "loss" in entry] == pytest.approx([1e-2 * k / 12 for k in (9, 5, 1)])


def test_predictions_are_those_of_the_model(tmp_path: Path) -> None:
    for task in ("classes", "words", "spans", "causal"):
        done, data = trainer(make(task), tmp_path, rows(task)), rows(task, 11, 3)
        found = done.predict(data)
        done.model.eval()
        for i, row in enumerate(data):
            with torch.no_grad():
                out = done.model(torch.tensor([row["input_ids"]]))
            want = [out.start_logits, out.end_logits] if task == "spans" else [out.logits]
            got = found.predictions if task == "spans" else [found.predictions]
            for w, g in zip(want, got, strict=True):
                part = g[i][: w.shape[1]] if task != "classes" else g[i]
                np.testing.assert_allclose(part, w[0].numpy(), rtol=1e-4, atol=1e-5)
                assert task == "classes" or np.all(g[i][w.shape[1] :] == -100)
        assert "test_loss" in found.metrics and math.isfinite(found.metrics["test_loss"])


def test_the_best_model_comes_back(tmp_path: Path) -> None:
    class Spoil(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step:  # after the first epoch everything is lost
                with torch.no_grad():
                    model.head.out.weight.zero_()
                    model.head.out.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))

    options: dict[str, Any] = {
        "eval_dataset": rows("classes", 20, 1),
        "compute_metrics": accuracy,
        "eval_strategy": "epoch",
        "learning_rate": 1e-2,
    }
    options |= {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "num_train_epochs": 3}
    done = run("classes", tmp_path, rows("classes"), callbacks=[Spoil], save_total_limit=1, **options)
    assert done.state.best_global_step == 6 and done.state.best_model_checkpoint == str(tmp_path / "checkpoint-6")
    assert done.evaluate()["eval_accuracy"] == done.state.best_metric
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-18", "checkpoint-6"]
    stopped = run("classes", tmp_path, rows("classes"), callbacks=[Spoil, EarlyStoppingCallback(early_stopping_patience=1)], **options)
    assert stopped.state.global_step == 12
    best = run("classes", tmp_path / "b", rows("classes"), callbacks=[Spoil], **options | {"save_strategy": "best"})
    assert [p.name for p in (tmp_path / "b").glob("checkpoint-*")] == ["checkpoint-6"] and best.state.best_global_step == 6


def test_several_evaluation_sets_and_generation(tmp_path: Path) -> None:
    done = run(
        "classes", tmp_path, rows("classes"), eval_dataset={"a": rows("classes", 8, 1), "b": rows("classes", 8, 2)}, eval_strategy="epoch"
    )
    assert {"eval_a_loss", "eval_b_loss"} <= {key for entry in done.state.log_history for key in entry}
    writer = trainer(make("seq2seq"), tmp_path, rows("seq2seq"), kind=Seq2SeqTrainer, predict_with_generate=True,
                     data_collator=pad_rows, compute_metrics=lambda p: {"length": p.predictions.shape[1]})  # fmt: skip
    writer.train()
    found = writer.predict(rows("seq2seq", 5, 1), max_length=7)
    assert found.predictions.shape[0] == 5 and found.metrics["test_length"] <= 7 and found.label_ids.shape[0] == 5


def pad_rows(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return stack(padded(batch, max(len(row["input_ids"]) for row in batch)))


def test_callbacks_see_every_event_in_order(tmp_path: Path) -> None:
    seen = list[str]()

    class Watch(TrainerCallback):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                return lambda *_, **__: seen.append(name)
            return super().__getattribute__(name)

    run("classes", tmp_path, rows("classes", 16), callbacks=[Watch()], num_train_epochs=1, per_device_train_batch_size=4,
        gradient_accumulation_steps=2, save_strategy="epoch", eval_strategy="epoch", eval_dataset=rows("classes", 4))  # fmt: skip
    step = ["on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log"]
    end = ["on_epoch_end", "on_prediction_step", "on_log", "on_evaluate", "on_save", "on_log", "on_train_end"]
    assert seen == ["on_init_end", "on_train_begin", "on_epoch_begin", *step, *step, *end]


# -------------------------------------------------------------- additions


def test_label_smoothing_and_own_losses(tmp_path: Path) -> None:
    data = rows("causal")
    plain = run("causal", tmp_path, data, num_train_epochs=1)
    assert losses(run("causal", tmp_path, data, num_train_epochs=1, label_smoothing_factor=0.2))[0] != losses(plain)[0]

    def total(outputs: Any, labels: Any, num_items_in_batch: float) -> torch.Tensor:
        kept = labels.new_full(labels.shape, -100)
        kept[:, :-1] = labels[:, 1:]
        return torch.nn.functional.cross_entropy(outputs.logits[0], kept[0], ignore_index=-100, reduction="sum") / num_items_in_batch

    own = run("causal", tmp_path, data, num_train_epochs=1, compute_loss_func=total)
    assert np.isfinite(losses(own)).all() and losses(own)[0] > losses(plain)[0]  # it also predicts across texts


def test_noise_and_average(tmp_path: Path) -> None:
    data = rows("causal")
    plain = run("causal", tmp_path, data)
    noisy = run("causal", tmp_path, data, neftune_noise_alpha=5.0)
    assert losses(noisy) != losses(plain) and not noisy.model.get_input_embeddings()._forward_hooks
    average = run("causal", tmp_path, data, ema_decay=0.99)
    assert losses(average) == losses(plain)
    with pytest.raises(AssertionError):
        same_weights(average.model, plain.model)


def test_the_average_is_evaluated_saved_and_the_result(tmp_path: Path) -> None:
    options: dict[str, Any] = {"ema_decay": 0.9, "eval_strategy": "epoch", "save_strategy": "epoch", "eval_dataset": rows("causal", 8, 1)}
    done = run("causal", tmp_path, rows("causal"), learning_rate=1e-2, **options)
    told = [entry["eval_loss"] for entry in done.state.log_history if "eval_loss" in entry]
    assert done.evaluate()["eval_loss"] == told[-1], "also after the run"
    for step, loss in zip((6, 12), told, strict=True):
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / f"checkpoint-{step}")
        assert trainer(saved, tmp_path / "x", None).evaluate(rows("causal", 8, 1))["eval_loss"] == loss
    best = run("causal", tmp_path / "best", rows("causal"), learning_rate=1e-2, load_best_model_at_end=True, **options)
    assert best.evaluate()["eval_loss"] == best.state.best_metric == min(told)


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop", "lion", "muon"])
def test_every_optimizer_learns_and_resumes(name: str, tmp_path: Path) -> None:
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        with pytest.raises(InputError, match=r"PyTorch 2\.9"):
            run("words", tmp_path, rows("words"), optim=name)
        return
    rate = {"sgd": 0.5, "adagrad": 0.03, "lion": 3e-3, "adafactor": 0.03}.get(name, 1e-2)
    options: dict[str, Any] = {"optim": name, "learning_rate": rate, "save_strategy": "steps", "save_steps": 6, "num_train_epochs": 4}
    done = run("words", tmp_path, rows("words"), **options)
    assert np.mean(losses(done)[-3:]) < 0.9 * np.mean(losses(done)[:3])
    again = trainer(make("words", 5), tmp_path, rows("words"), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert losses(again) == losses(done)
    same_weights(done.model, again.model)


def test_layers_below_learn_more_slowly(tmp_path: Path) -> None:
    done = trainer(make("classes"), tmp_path, rows("classes"), layerwise_lr_decay=0.5)
    rates = {id(p): group["lr"] for group in done.create_optimizer().param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in done.model.named_parameters()}
    lower, upper = (named[f"encoder.stack.layers.{i}.attn.q.weight"] for i in (0, 1))
    assert lower == upper / 2 and named["head.out.weight"] == 1e-3


@pytest.mark.parametrize("method", ["lora", "ia3", "prompt"])
def test_adapters(method: str, tmp_path: Path) -> None:
    """Only they learn, packed or padded alike; a run goes on from its checkpoint, and their folder is small."""
    configs = {"lora": LoraConfig(r=4, lora_alpha=8), "ia3": IA3Config(), "prompt": PromptTuningConfig(num_virtual_tokens=3)}

    def made(seed: int = 0) -> Any:
        torch.manual_seed(seed)
        return get_peft_model(make("causal"), configs[method])

    data, options = rows("causal"), {"learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 7}
    if method == "prompt":  # virtual tokens stand before each row, so these are never packed
        options["data_collator"], data = stack, padded(data)
    done = trainer(made(), tmp_path / "a", data, **options)
    done.train()
    assert losses(done)[-1] < losses(done)[0]
    if method != "prompt":
        computed = trainer(made(), tmp_path / "b", padded(data), padding_free=False, data_collator=stack, **options)
        computed.train()
        np.testing.assert_allclose(losses(computed), losses(done), rtol=2e-4)
    same_weights(done.model.get_base_model().decoder.embed, make("causal").decoder.embed)
    again = trainer(made(1), tmp_path / "a", data, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-7"))
    assert losses(again) == losses(done)
    assert not (tmp_path / "a" / "checkpoint-12" / "model.safetensors").exists()


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = torch.nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.out(x)
            return {"loss": ((y - labels) ** 2).mean(), "logits": y}

    data = [{"x": [float(i)], "labels": [2.0 * i + 1]} for i in range(-8, 8)]
    collate = lambda batch: {k: torch.tensor([row[k] for row in batch]) for k in batch[0]}  # noqa: E731
    options: dict[str, Any] = {"data_collator": collate, "num_train_epochs": 150, "learning_rate": 0.05, "save_strategy": "epoch"}
    done = trainer(Line(), tmp_path, data, save_total_limit=2, **options)
    done.train()
    assert done.model.out.weight.item() == pytest.approx(2, abs=0.05)
    again = trainer(Line(), tmp_path, data, **options)
    again.train(resume_from_checkpoint=True)
    same_weights(done.model, again.model)


def test_what_was_trained_is_saved_and_loaded(tmp_path: Path) -> None:
    done = run("classes", tmp_path, rows("classes"))
    done.save_model()
    same_weights(AutoModelForSequenceClassification.from_pretrained(tmp_path), done.model)


def test_arguments() -> None:
    old = TrainingArguments("x", evaluation_strategy="steps", no_cuda=True, per_gpu_train_batch_size=4, push_to_hub_token="t", learning_rate="2e-4",
                            overwrite_output_dir=True, save_safetensors=True, warmup_ratio=0.1, logging_dir="logs")  # fmt: skip
    assert (old.eval_strategy, old.use_cpu, old.per_device_train_batch_size, old.hub_token) == ("steps", True, 4, "t")
    assert old.learning_rate == 2e-4 and old.eval_steps == old.logging_steps == 500 and old.get_warmup_steps(95) == 10
    assert "t" not in old.to_dict().values()
    for wrong, words in (({"learnin_rate": 1}, "Did you mean learning_rate"), ({"eval_strategy": "never"}, "no, steps, epoch"),
                         ({"per_device_train_batch_size": 0}, "above 0"), ({"learning_rate": float("nan")}, "learning_rate"),
                         ({"bf16": True, "fp16": True}, "one of bf16 and fp16"), ({"lr_scheduler_type": "x"}, "linear, cosine"),
                         ({"load_best_model_at_end": True}, "to be equal"), ({"evaluation_strategy": "no", "eval_strategy": "no"}, "twice"),
                         ({"save_steps": "x"}, "a number"), ({"deepspeed": "x"}, "fsdp")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            TrainingArguments("x", **wrong)
