"""The trainers of ELECTRA, sentence embeddings and distillation: their losses are those of ``hunmin.train.losses``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hunmin import AutoModel, AutoModelForPreTraining
from hunmin.errors import InputError
from hunmin.nn.where import Where
from hunmin.train import (
    ContrastiveTrainer,
    DataCollatorForContrastive,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    DistillationTrainer,
    ElectraTrainer,
    TrainingArguments,
    losses,
)
from hunmin.train.objectives import predicted
from tests.test_train_objectives import TEXTS, model_of, rows
from tests.test_train_objectives import tokenizers as tokenizers

SMALL = {"hidden_size": 16, "embedding_size": 16}


def args(folder: Path, **more: Any) -> TrainingArguments:
    given: dict[str, Any] = {
        "max_steps": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "html_report": False,
    }
    return TrainingArguments(folder, **{**given, **more})


def changed(before: dict[str, torch.Tensor], model: Any) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


def copied(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_electra_trains_both_models_with_common_embeddings_and_saves_one(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    model, generator = model_of("electra", "PreTraining", **SMALL), model_of("electra", "MaskedLM", **SMALL)
    before = copied(model), copied(generator)
    data = [{"input_ids": row["input_ids"]} for row in rows(tokenizers["bert"])]
    collator = DataCollatorForLanguageModeling(tokenizers["bert"], mlm_probability=0.5)
    given: dict[str, Any] = {"generator": generator, "data_collator": collator, "train_dataset": data, "eval_dataset": data}
    trainer = ElectraTrainer(model, args(tmp_path), processing_class=tokenizers["bert"], **given)
    trainer.train()
    assert model.encoder.embed.tokens.weight is generator.encoder.embed.tokens.weight is generator.head.out.weight
    assert any(name.startswith("head") for name in changed(before[0], model))
    assert any(".attn." in name for name in changed(before[1], generator))
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.save_model(tmp_path / "saved")
    saved = AutoModelForPreTraining.from_pretrained(tmp_path / "saved")
    assert saved.task == "PreTraining" and torch.equal(saved.head.out.weight, model.head.out.weight)


def test_an_interrupted_electra_goes_on(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    data = [{"input_ids": row["input_ids"]} for row in rows(tokenizers["bert"])] * 4

    def trained(folder: Path, steps: int, resume: bool = False) -> Any:
        torch.manual_seed(3)
        model, generator = model_of("electra", "PreTraining", **SMALL), model_of("electra", "MaskedLM", **SMALL)
        collator = DataCollatorForLanguageModeling(tokenizers["bert"], mlm_probability=0.5)
        own = args(folder, max_steps=4, save_strategy="steps", save_steps=2, lr_scheduler_type="constant")
        own.max_steps = steps
        trainer = ElectraTrainer(model, own, generator=generator, data_collator=collator, train_dataset=data)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = trained(tmp_path / "a", 4)
    trained(tmp_path / "b", 2)
    again = trained(tmp_path / "b", 4, resume=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("scored", [False, True])
def test_contrastive_loss_is_that_of_pooled_vectors(scored: bool, tokenizers: dict[str, Any], tmp_path: Path) -> None:
    data: list[dict[str, Any]] = [{"a": text, "b": text[:20], "c": other} for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    if scored:
        data = [{"a": row["a"], "b": row["b"], "label": i / 2} for i, row in enumerate(data)]
    columns = ["a", "b"] + ([] if scored else ["c"])
    tokenizer, model = tokenizers["bert"], model_of("bert", "Model", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    collator = DataCollatorForContrastive(tokenizer, columns)
    own = args(tmp_path, per_device_eval_batch_size=3)
    trainer = ContrastiveTrainer(
        model, own, columns=len(columns), scale=10.0, data_collator=collator, train_dataset=data, eval_dataset=data
    )
    with torch.no_grad():
        vectors = [
            losses.pool(
                model(**tokenizer([row[name] for row in data], padding=True, return_tensors="pt")).last_hidden_state,
                Where.padded(tokenizer([row[name] for row in data], padding=True, return_tensors="pt")["attention_mask"]),
            )
            for name in columns
        ]
    if scored:
        expected = losses.cosine_similarity(vectors[0], vectors[1], torch.tensor([0.0, 0.5, 1.0]))
    else:
        expected = losses.multiple_negatives(vectors[0], torch.cat(vectors[1:]), 10.0)
    before = trainer.evaluate()["eval_loss"]
    assert before == pytest.approx(expected.item(), rel=1e-4)
    own.max_steps = 15
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    trainer.save_model(tmp_path / "saved")
    assert AutoModel.from_pretrained(tmp_path / "saved").task == "Model"


def test_a_student_comes_closer_to_its_teacher(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    teacher, student = (model_of("bert", "SequenceClassification", num_labels=3, initializer_range=0.5) for _ in range(2))
    kept = copied(teacher)
    data = rows(tokenizers["bert"], 0, 1, 2)
    given: dict[str, Any] = {"teacher": teacher, "alpha": 1.0, "data_collator": DataCollatorWithPadding(tokenizers["bert"])}
    trainer = DistillationTrainer(student, args(tmp_path, max_steps=30), train_dataset=data, eval_dataset=data, **given)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 2
    assert not changed(kept, teacher)


def test_alpha_shares_the_loss_between_teacher_and_labels(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    teacher, student = (model_of("gpt2", "CausalLM", initializer_range=0.5) for _ in range(2))
    data = [{"input_ids": row["input_ids"]} for row in rows(tokenizers["gpt2"])]
    collator = DataCollatorForLanguageModeling(tokenizers["gpt2"], mlm=False)

    def loss(alpha: float) -> float:
        own = args(tmp_path, per_device_eval_batch_size=3)
        return DistillationTrainer(student, own, teacher=teacher, alpha=alpha, data_collator=collator, eval_dataset=data).evaluate()[
            "eval_loss"
        ]

    hard, soft = loss(0.0), loss(1.0)
    assert loss(0.25) == pytest.approx(0.25 * soft + 0.75 * hard, rel=1e-5) and soft != pytest.approx(hard)


def test_a_teacher_with_other_labels_is_refused(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    teacher, student = (model_of("bert", "SequenceClassification", num_labels=n) for n in (3, 2))
    own: dict[str, Any] = {"data_collator": DataCollatorWithPadding(tokenizers["bert"]), "train_dataset": rows(tokenizers["bert"], 0, 1, 1)}
    with pytest.raises(InputError, match=r"The teacher's logits are \(3, 3\), the student's \(3, 2\)"):
        DistillationTrainer(student, args(tmp_path), teacher=teacher, **own).train()


def test_what_is_predicted() -> None:
    labels = torch.tensor([[-100, 5, 6, 7, 8]])
    assert predicted({"labels": labels}, "MaskedLM").tolist() == [[False, True, True, True, True]]  # type: ignore[union-attr]
    assert predicted({"labels": labels}, "CausalLM").tolist() == [[True, True, True, True, False]]  # type: ignore[union-attr]
    packed = {"labels": labels, "where": Where.packed([3, 2])}
    assert predicted(packed, "CausalLM").tolist() == [[True, True, False, True, False]]  # type: ignore[union-attr]
    assert predicted({"labels": torch.tensor([1, 0])}, "SequenceClassification") is None
