"""Trainers of alignment from raw rows to a model that changed: every method learns, packed batches equal padded ones, old names work."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hunmin
from hunmin import DistillConfig as Distill
from hunmin import (
    DistillTrainer,
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    LoraConfig,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from hunmin.align.distill import divergence
from hunmin.align.logprobs import pack
from hunmin.align.losses import jsd
from hunmin.train.items import Fill
from tests.align_cases import ALPACA, ANSWERS, CHATS, PAIRS, STEPS, TEXTS, folder
from tests.test_align_logprobs import Foreign, Largest

QUIET: dict[str, Any] = {"use_cpu": True, "report_to": "none", "html_report": False, "disable_tqdm": True, "save_strategy": "no",
                         "logging_steps": 1, "learning_rate": 5e-3, "num_train_epochs": 6, "per_device_train_batch_size": 2}  # fmt: skip
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])
PROMPTS = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("align")
    tasks = {"causal": "CausalLM", "judge": "SequenceClassification", "tagger": "TokenClassification"}
    return {name: folder(place / name, task, num_labels=1) for name, task in tasks.items()}


def model(places: dict[str, Path], kind: str = "causal") -> Any:
    task = {"causal": "CausalLM", "judge": "SequenceClassification", "tagger": "TokenClassification"}[kind]
    return getattr(hunmin, f"AutoModelFor{task}").from_pretrained(places[kind])


# name: trainer, configuration, kind of model, rows, settings, the metric that has to rise
METHODS: dict[str, tuple[Any, Any, str, Any, dict[str, Any], str | None]] = {
    "sft": (SFTTrainer, SFTConfig, "causal", TEXTS, {}, None),
    "sft packed": (SFTTrainer, SFTConfig, "causal", TEXTS, {"packing": True, "max_length": 48}, None),
    "sft noisy": (SFTTrainer, SFTConfig, "causal", CHATS[:0] + PROMPTS, {"neftune_noise_alpha": 5}, None),
    "alpaca": (SFTTrainer, SFTConfig, "causal", ALPACA, {}, None),
    "reward": (RewardTrainer, RewardConfig, "judge", PAIRS, {"center_rewards_coefficient": 0.01}, "margin"),
    "reward of tokens": (RewardTrainer, RewardConfig, "tagger", PAIRS, {}, "margin"),
    "reward of steps": (RewardTrainer, RewardConfig, "tagger", STEPS, {}, "accuracy"),
    "dpo": (DPOTrainer, DPOConfig, "causal", PAIRS, {}, "rewards/margins"),
    "simpo": (DPOTrainer, DPOConfig, "causal", PAIRS, {"loss_type": "simpo", "beta": 2.0}, "rewards/margins"),
    "orpo": (DPOTrainer, DPOConfig, "causal", CHATS, {"loss_type": "orpo"}, "rewards/margins"),
    "reference-free": (DPOTrainer, DPOConfig, "causal", PAIRS, {"reference_free": True}, "rewards/margins"),
    "precomputed": (DPOTrainer, DPOConfig, "causal", PAIRS, {"precompute_ref_log_probs": True}, "rewards/margins"),
    "kto": (KTOTrainer, KTOConfig, "causal", ANSWERS, {}, "rewards/margins"),
    "kto of pairs": (KTOTrainer, KTOConfig, "causal", PAIRS, {"precompute_ref_log_probs": True}, "rewards/margins"),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("adapter", [False, True])
def test_every_method_learns(name: str, adapter: bool, places: dict[str, Path], tmp_path: Path) -> None:
    trainer, config, kind, rows, settings, metric = METHODS[name]
    args = config(tmp_path, **QUIET | settings | {"gradient_checkpointing": adapter})
    made = trainer(model(places, kind), args=args, train_dataset=rows, eval_dataset=rows, peft_config=LORA if adapter else None)
    before = made.evaluate()
    made.train()
    after = made.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    logged = [entry for entry in made.state.log_history if "loss" in entry]
    if metric is not None:
        assert after[f"eval_{metric}"] >= before[f"eval_{metric}"]
        assert metric in logged[-1] or "kto" in name  # a batch may have good answers only


@pytest.mark.parametrize("name", METHODS)
def test_packed_equals_padded(name: str, places: dict[str, Path], tmp_path: Path) -> None:
    trainer, config, kind, rows, settings, _ = METHODS[name]
    if settings.get("packing") or "neftune_noise_alpha" in settings:
        settings = {}
    found = list[tuple[float, Tensor]]()
    for free in (True, False):
        args = config(tmp_path, **QUIET | settings | {"padding_free": free, "per_device_train_batch_size": 4})
        made = trainer(model(places, kind), args=args, train_dataset=rows)
        batch = next(made.get_train_dataloader().epoch(0))
        assert ("where" in batch) is free
        loss = made.compute_loss(made.model, batch)
        grads = torch.autograd.grad(loss, [p for p in made.model.parameters() if p.requires_grad])
        found.append((loss.item(), torch.cat([g.flatten() for g in grads])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)


def test_accumulated_batches_count_pairs(places: dict[str, Path], tmp_path: Path) -> None:
    """Three pairs in batches of two and one are one batch of three, however many tokens each has."""
    found = list[float]()
    for size, steps in ((3, 1), (2, 2)):
        args = DPOConfig(tmp_path, **QUIET | {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 2})
        trainer = DPOTrainer(model(places), args=args, train_dataset=PAIRS[:3])
        trainer.train()
        found.append(trainer.state.log_history[1]["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_sft_as_it_was_taught(places: dict[str, Path], tmp_path: Path) -> None:
    trainer = SFTTrainer(
        model=model(places),
        train_dataset=TEXTS,
        dataset_text_field="text",
        max_seq_length=512,
        tokenizer=hunmin.AutoTokenizer.from_pretrained(places["causal"]),
        args=hunmin.TrainingArguments(str(tmp_path), per_device_train_batch_size=4, max_steps=1, report_to="none", use_cpu=True, html_report=False, disable_tqdm=True),
        packing=False,
    )  # fmt: skip
    assert isinstance(trainer.args, SFTConfig) and trainer.args.max_length == 512
    assert trainer.train().global_step == 1


def test_dpo_and_kto_as_they_were_taught(places: dict[str, Path], tmp_path: Path) -> None:
    plain = hunmin.TrainingArguments(str(tmp_path), remove_unused_columns=False, **{**QUIET, "max_steps": 1})
    tokenizer = hunmin.AutoTokenizer.from_pretrained(places["causal"])
    trainer = DPOTrainer(model(places), None, args=plain, beta=0.3, loss_type="ipo", max_prompt_length=8, max_length=64, max_target_length=8,
                         train_dataset=PAIRS, tokenizer=tokenizer)  # fmt: skip
    assert (trainer.args.beta, trainer.args.loss_type, trainer.args.max_completion_length) == (0.3, "ipo", 8)
    assert trainer.args.learning_rate == QUIET["learning_rate"]
    assert trainer.train().global_step == 1
    args = KTOConfig(str(tmp_path), **QUIET | {"max_steps": 1, "desirable_weight": 1.0, "undesirable_weight": 1.33, "max_prompt_length": 8})
    assert KTOTrainer(model(places), args=args, train_dataset=ANSWERS, tokenizer=tokenizer).train().global_step == 1


def test_reward_rows_of_tokens_as_they_were_taught(places: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = hunmin.AutoTokenizer.from_pretrained(places["judge"])
    rows = list[dict[str, Any]]()
    for row in PAIRS:
        both = {side: tokenizer(row["prompt"] + row[side]) for side in ("chosen", "rejected")}
        rows.append({f"{name}_{side}": both[side][name] for side in both for name in ("input_ids", "attention_mask")})
    trainer = RewardTrainer(
        model(places, "judge"), RewardConfig(tmp_path, **QUIET | {"max_steps": 1}), train_dataset=rows, tokenizer=tokenizer
    )
    assert trainer.train().global_step == 1


def test_models_by_name(places: dict[str, Path], tmp_path: Path) -> None:
    args = SFTConfig(tmp_path, **QUIET | {"model_init_kwargs": {"dtype": "bfloat16"}})
    trainer = SFTTrainer(str(places["causal"]), args, train_dataset=TEXTS)
    assert trainer.model.dtype == torch.bfloat16 and trainer.processing_class is not None
    judge = RewardTrainer(str(places["tagger"]), RewardConfig(tmp_path, **QUIET), train_dataset=STEPS)
    assert judge.model.task == "TokenClassification" and judge.model.config.num_labels == 1
    judge = RewardTrainer(str(places["causal"]), RewardConfig(tmp_path, **QUIET), train_dataset=STEPS)
    assert judge.model.task == "TokenClassification" and judge.model.config.num_labels == 2


def test_streams_and_data_sets_of_the_datasets_library(places: dict[str, Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for data in (datasets.Dataset.from_list(PAIRS), datasets.Dataset.from_list(PAIRS).to_iterable_dataset()):
        trainer = DPOTrainer(model(places), args=DPOConfig(tmp_path, **QUIET | {"max_steps": 2}), train_dataset=data)
        assert trainer.train().global_step == 2
    args = SFTConfig(tmp_path, **QUIET | {"max_steps": 2, "packing": True, "group_by_length": False})
    stream = datasets.Dataset.from_list(TEXTS).to_iterable_dataset()
    assert SFTTrainer(model(places), args, train_dataset=stream).train().global_step == 2
    args = DPOConfig(tmp_path, **QUIET | {"max_steps": 2, "group_by_length": True})
    assert DPOTrainer(model(places), args=args, train_dataset=datasets.Dataset.from_list(PAIRS)).train().global_step == 2


def test_packing_of_training_and_evaluation(places: dict[str, Path], tmp_path: Path) -> None:
    args = SFTConfig(tmp_path, **QUIET | {"packing": True, "eval_packing": False, "max_length": 64})
    trainer = SFTTrainer(model(places), args, train_dataset=TEXTS, eval_dataset={"held": TEXTS})
    assert len(trainer.train_dataset) < len(TEXTS) == len(trainer.eval_dataset["held"])
    assert sum(len(row["lengths"]) for row in trainer.train_dataset) == len(TEXTS)
    packed = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    assert packed == pytest.approx(trainer.evaluate()["eval_held_loss"], rel=1e-5)


def test_a_run_goes_on_where_it_stopped(places: dict[str, Path], tmp_path: Path) -> None:
    """The reference is the model before the run, also after a resumption."""

    def run(steps: int, resume: bool) -> Any:
        settings = {**QUIET, "max_steps": steps, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
        trainer = DPOTrainer(model(places), args=DPOConfig(tmp_path / str(resume), **settings), train_dataset=PAIRS)
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer

    straight = run(4, False)
    (tmp_path / "True").mkdir()
    (tmp_path / "False" / "checkpoint-2").rename(tmp_path / "True" / "checkpoint-2")
    resumed = run(4, True)
    assert resumed.state.log_history[-2]["rewards/margins"] == pytest.approx(straight.state.log_history[-2]["rewards/margins"], rel=1e-4)


def test_the_table_of_pairs(places: dict[str, Path], tmp_path: Path) -> None:
    trainer = DPOTrainer(model(places), args=DPOConfig(tmp_path, **QUIET), train_dataset=PAIRS)
    before = trainer.table()
    assert [row["prompt"] for row in before] == [row["prompt"] for row in PAIRS]
    assert before[0]["chosen"] == " The quick brown fox.<|endoftext|>"
    assert all(row["rewards/margins"] == pytest.approx(0, abs=1e-5) for row in before)
    trainer.train()
    for old, new in zip(before, trainer.table(PAIRS), strict=True):
        assert new["ref_chosen_logps"] == pytest.approx(old["chosen_logps"], rel=1e-4)
        assert new["rewards/margins"] > 0 and new["correct"] is True
        assert new["rewards/chosen"] == pytest.approx(0.1 * (new["chosen_logps"] - new["ref_chosen_logps"]), rel=1e-4)
        assert 0 < new["chosen_probability"] < 1 and new["rejected_probability"] < new["ref_rejected_probability"]


def test_the_page_of_a_run_can_be_written(places: dict[str, Path], tmp_path: Path) -> None:
    settings = {**QUIET, "html_report": True, "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = DPOTrainer(model(places), args=DPOConfig(tmp_path, **settings), train_dataset=PAIRS, eval_dataset=PAIRS, peft_config=LORA)
    trainer.train()
    assert "rewards/margins" in next(tmp_path.glob("*.html")).read_text(encoding="utf-8")
    saved = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))
    assert "rewards/accuracies" in saved["log_history"][0]


# ---------------------------------------------------------------------- distillation


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["own", "lora on the head", "foreign"])
def test_divergence_is_that_of_whole_logits(beta: float, kind: str, places: dict[str, Path]) -> None:
    student, teacher = model(places), model(places)
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(0.05 * torch.randn_like(p))
    rows = [{"input_ids": [3, 4, 5, 6, 7], "labels": [-100, -100, 5, 6, 7]}, {"input_ids": [9, 8, 7], "labels": [-100, 8, 7]}]
    used = student
    if kind == "lora on the head":
        used = hunmin.get_peft_model(student, LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False))
    if kind == "foreign":
        used = Foreign(student)
    learnt = [p for p in used.parameters() if p.requires_grad]
    whole = list[Tensor]()
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            target = teacher(ids).logits[0, :-1]
        own = (student if kind == "foreign" else used)(ids).logits[0, :-1]
        whole.append(jsd(own, target, beta, 0.9)[torch.tensor(row["labels"][1:]) != -100])
    wanted = torch.cat(whole).mean()
    found = divergence(used, teacher, pack(rows, used), beta, 0.9, chunk=2)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(torch.autograd.grad(found, learnt), torch.autograd.grad(wanted, learnt), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("lmbda", "seq_kd"), [(0.0, False), (1.0, False), (0.0, True)])
def test_a_student_learns_from_its_teacher(lmbda: float, seq_kd: bool, places: dict[str, Path], tmp_path: Path) -> None:
    teacher = model(places)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.03 * torch.randn_like(p))
    args = Distill(tmp_path, **QUIET | {"lmbda": lmbda, "seq_kd": seq_kd, "max_new_tokens": 6, "num_train_epochs": 10})
    trainer = DistillTrainer(student, teacher, args=args, train_dataset=PROMPTS, eval_dataset=PROMPTS)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.8 * before
    assert trainer.teacher is teacher and not any(p.requires_grad for p in teacher.parameters())


def test_answers_of_the_student_go_on_its_prompts(places: dict[str, Path], tmp_path: Path) -> None:
    args = Distill(tmp_path, **QUIET | {"max_new_tokens": 5})
    trainer = DistillTrainer(model(places), model(places), args=args, train_dataset=PROMPTS)
    batch = next(trainer.get_train_dataloader().epoch(0))
    made = trainer.answered(trainer.model, batch)
    assert made["prompts"] == batch["prompts"] and trainer.model.training is False
    for ids, labels, prompt in zip(made["input_ids"][0].split(made["where"].lengths), made["labels"][0].split(made["where"].lengths),
                                   made["prompts"], strict=True):  # fmt: skip
        assert ids[: len(prompt)].tolist() == prompt and set(labels[: len(prompt)].tolist()) == {-100}
        assert 1 <= len(ids) - len(prompt) <= 5 and torch.equal(ids[len(prompt) :], labels[len(prompt) :])


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("name", ["sft", "dpo", "orpo", "kto", "distill"])
def test_no_step_makes_all_logits(name: str, tmp_path: Path) -> None:
    """With a large vocabulary the largest tensor is the embedding, not ``(B, N, V)``."""
    vocab = 20000
    place = folder(tmp_path / "wide", vocab_size=vocab, hidden_size=16, intermediate_size=16)
    rows = [{"prompt_ids": [3] * 40, "chosen_ids": list(range(4, 64)), "rejected_ids": [5] * 60} for _ in range(8)]
    own = {"per_device_train_batch_size": 8, "max_steps": 1}
    wide = hunmin.AutoModelForCausalLM.from_pretrained(place)
    if name == "kto":
        data: Any = [{"prompt_ids": r["prompt_ids"], "completion_ids": r["chosen_ids"], "label": bool(i % 2)} for i, r in enumerate(rows)]
        trainer: Any = KTOTrainer(wide, args=KTOConfig(tmp_path, **QUIET | own), train_dataset=data, peft_config=LORA)
    elif name in ("dpo", "orpo"):
        args = DPOConfig(tmp_path, **QUIET | own | {"loss_type": "sigmoid" if name == "dpo" else name})
        trainer = DPOTrainer(wide, args=args, train_dataset=rows, peft_config=LORA)
    else:
        data = [{"input_ids": r["prompt_ids"] + r["chosen_ids"]} for r in rows]
        kind, config = (SFTTrainer, SFTConfig) if name == "sft" else (DistillTrainer, Distill)
        more = {} if name == "sft" else {"teacher_model": hunmin.AutoModelForCausalLM.from_pretrained(place)}
        how = {} if name == "sft" else {"lmbda": 0.0}
        trainer = kind(wide, args=config(tmp_path, **QUIET | own | how), train_dataset=data, eval_dataset=data, peft_config=LORA, **more)
    with Largest() as seen:
        trainer.train()
        if trainer.eval_dataset is not None:
            trainer.evaluate()
    assert seen.size <= vocab * 256  # a chunk of a frozen head
    assert seen.size * 2 < 8 * 100 * vocab


def test_a_batch_that_only_waits_says_nothing(places: dict[str, Path], tmp_path: Path) -> None:
    """A process without rows computes a batch for the others' sake; it is in no loss and in no metric."""
    for name in ("dpo", "kto", "reward"):
        trainer, config, kind, data, settings, _ = METHODS[name]
        made = trainer(model(places, kind), args=config(tmp_path, **QUIET | settings), train_dataset=data)
        batch = Fill(next(made.get_train_dataloader().epoch(0)))
        made._scaler = None  # what training begins with
        assert made.items_in(batch) == 0
        assert made.training_step(made.model, batch, share=0.0) == 0
        made.prediction_step(made.model, batch, True)
        assert made._noted == {True: {}, False: {}}
        made.training_step(made.model, dict(batch))
        assert made._noted[True] and not made._noted[False]


def test_predictions_are_log_probabilities(places: dict[str, Path], tmp_path: Path) -> None:
    trainer = DPOTrainer(model(places), args=DPOConfig(tmp_path, **QUIET), train_dataset=PAIRS)
    found = trainer.predict(PAIRS)
    assert [values.shape for values in found.predictions] == [(len(PAIRS),)] * 2
    assert found.predictions[0].tolist() == pytest.approx([row["chosen_logps"] for row in trainer.table()], rel=1e-4)
    assert found.metrics["test_rewards/margins"] == pytest.approx(0, abs=1e-5)
