"""What people get wrong when they align a model: one or two lines that say what to do, and nothing lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hunmin
from hunmin import (
    CPOConfig,
    DistillConfig,
    DistillTrainer,
    DPOConfig,
    DPOTrainer,
    HunminError,
    InputError,
    KTOConfig,
    KTOTrainer,
    LoraConfig,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
    TrainingArguments,
)
from hunmin.align.sft import DataCollatorForCompletionOnlyLM
from tests.align_cases import ANSWERS, PAIRS, STEPS, TEXTS, folder
from tests.test_align_logprobs import Foreign
from tests.test_align_trainers import QUIET
from tests.train_cases import make

Case = Callable[[dict[str, Any]], Any]
CASES: dict[str, tuple[str, Case]] = {
    "unknown argument": ("Did you mean max_length", lambda p: SFTConfig(maxlength=3)),
    "an argument twice": ("max_length was given twice", lambda p: SFTConfig(max_length=3, max_seq_length=4)),
    "a loss that is none": ("loss_type is 'sigmoyd'", lambda p: DPOConfig(loss_type="sigmoyd")),
    "one of several losses": ("loss_type is 'x'", lambda p: DPOConfig(loss_type=["sigmoid", "x"])),
    "weights of losses": ("loss_weights", lambda p: DPOConfig(loss_type=["sigmoid", "sft"], loss_weights=[1.0])),
    "beta": ("beta is 0", lambda p: DPOConfig(beta=0)),
    "robust labels": ("below 0.5", lambda p: DPOConfig(loss_type="robust", label_smoothing=0.5)),
    "lmbda": ("lmbda is 2", lambda p: DistillConfig(lmbda=2)),
    "a length of nothing": ("max_length is 0", lambda p: CPOConfig(max_length=0)),
    "no model": ("needs model=", lambda p: SFTTrainer(train_dataset=TEXTS)),
    "no tokenizer": ("processing_class=", lambda p: SFTTrainer(make("causal"), p["sft"], train_dataset=TEXTS)),
    "rows that are no rows": ("A row is a dictionary", lambda p: SFTTrainer(p["model"](), p["sft"], train_dataset=["text"])),
    "rows of another method": ("Rows need text", lambda p: DPOTrainer(p["model"](), args=p["dpo"], train_dataset=TEXTS)),
    "nothing but equal pairs": (
        "No row of the data can be learnt from: 1 .chosen and rejected are identical",
        lambda p: DPOTrainer(p["model"](), args=p["dpo"], train_dataset=[PAIRS[0] | {"rejected": PAIRS[0]["chosen"]}]),
    ),
    "no label": (
        "KTO needs a label",
        lambda p: KTOTrainer(p["model"](), args=p["kto"], train_dataset=[{"prompt": "a", "completion": "b"}]),
    ),
    "packing without length": ("packing is for models", lambda p: SFTTrainer(Foreign(p["model"]()), p["packed"], train_dataset=[])),
    "options of a model that is there": ("by its name", lambda p: SFTTrainer(p["model"](), p["init"], train_dataset=TEXTS)),
    "adapters of another's model": (
        "models of Hunmin",
        lambda p: SFTTrainer(Foreign(p["model"]()), p["sft"], train_dataset=TEXTS, peft_config=LoraConfig(r=2)),
    ),
    "another vocabulary": ("different vocabularies", lambda p: DPOTrainer(p["model"](), make("causal"), p["dpo"], train_dataset=PAIRS)),
    "a reference that moves and is stored": (
        "cannot be precomputed",
        lambda p: DPOTrainer(p["model"](), args=p["moving"], train_dataset=PAIRS),
    ),
    "a reward of classes": ("one output", lambda p: rewarded(p, "SequenceClassification", 3, PAIRS)),
    "steps without tokens": ("AutoModelForTokenClassification", lambda p: rewarded(p, "SequenceClassification", 1, STEPS)),
    "steps without labels": ("one label a step", lambda p: rewarded(p, "TokenClassification", 2, [STEPS[0] | {"labels": [True]}])),
    "no teacher": ("needs teacher_model=", lambda p: DistillTrainer(p["model"](), args=p["distill"], train_dataset=TEXTS)),
    "a teacher of another language": (
        "different vocabularies",
        lambda p: DistillTrainer(p["model"](), make("causal"), args=p["distill"], train_dataset=TEXTS),
    ),
    "no prompt to answer": (
        "rows need a prompt",
        lambda p: DistillTrainer(p["model"](), p["model"](), args=p["distill"], train_dataset=TEXTS).train(),
    ),
    "packed prompts": (
        "sampled answers are not packed",
        lambda p: DistillTrainer(p["model"](), p["model"](), args=p["distill packed"], train_dataset=TEXTS),
    ),
    "a template without its tokenizer": ("needs tokenizer=", lambda p: DataCollatorForCompletionOnlyLM("### Answer:")),
    "a table of a stream": ("rows have numbers", lambda p: DPOTrainer(p["model"](), args=p["dpo"], train_dataset=PAIRS).table(iter(PAIRS))),
}


def rewarded(p: dict[str, Any], task: str, labels: int, data: Any) -> Any:
    model = getattr(hunmin, f"AutoModelFor{task}").from_pretrained(p["place"], num_labels=labels)
    return RewardTrainer(model, p["reward"], train_dataset=data, processing_class=hunmin.AutoTokenizer.from_pretrained(p["place"])).train()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("bad")
    model, out = folder(place / "model"), place / "out"
    return {
        "place": model,
        "model": lambda: hunmin.AutoModelForCausalLM.from_pretrained(model),
        "sft": SFTConfig(out, **QUIET),
        "packed": SFTConfig(out, **QUIET, packing=True),
        "init": SFTConfig(out, **QUIET, model_init_kwargs={"dtype": "bfloat16"}),
        "dpo": DPOConfig(out, **QUIET),
        "moving": DPOConfig(out, **QUIET, sync_ref_model=True, precompute_ref_log_probs=True),
        "kto": KTOConfig(out, **QUIET),
        "reward": RewardConfig(out, **QUIET),
        "distill": DistillConfig(out, **QUIET, lmbda=1.0),
        "distill packed": DistillConfig(out, **QUIET, packing=True),
    }


@pytest.mark.parametrize("name", CASES)
def test_messages_say_what_to_do(name: str, parts: dict[str, Any]) -> None:
    message, case = CASES[name]
    with pytest.raises(HunminError, match=message) as caught:
        case(parts)
    assert len(str(caught.value).splitlines()) <= 2 and len(str(caught.value)) < 600


def test_bad_rows_among_good_ones_are_left_out(parts: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    bad = [PAIRS[0] | {"rejected": PAIRS[0]["chosen"]}, PAIRS[1] | {"chosen": ""}, PAIRS[2] | {"prompt": "Hello " * 300}]
    with caplog.at_level(logging.WARNING):
        trainer = DPOTrainer(parts["model"](), args=parts["dpo"], train_dataset=[*bad, *PAIRS])
    assert len(trainer.train_dataset) == len(PAIRS) and "3 of 7 rows were left out" in caplog.text
    answers = [*ANSWERS, ANSWERS[0] | {"completion": ""}]
    assert len(KTOTrainer(parts["model"](), args=parts["kto"], train_dataset=answers).train_dataset) == len(ANSWERS)


def test_a_response_template_that_is_not_there_is_said_once(parts: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = hunmin.AutoTokenizer.from_pretrained(parts["place"])
    collate = DataCollatorForCompletionOnlyLM(" jumps", instruction_template="Who", tokenizer=tokenizer)
    ids = [tokenizer(text)["input_ids"] for text in ("Who jumps over\nWho jumps the dog", "Hello", "The fox jumps over")]
    with caplog.at_level(logging.WARNING):
        batch = collate([{"input_ids": row} for row in ids])
    learnt = [tokenizer.decode([i for i in row if i != -100]) for row in batch["labels"].tolist()]
    assert learnt == [" over\n the dog", "", " over"]
    assert "was not found in a row" in caplog.text
    plain = DataCollatorForCompletionOnlyLM(tokenizer(" jumps")["input_ids"], packed=True)([{"input_ids": ids[2]}])
    assert plain["where"].lengths == [len(ids[2])]


def test_plain_arguments_keep_what_was_set(tmp_path: Path) -> None:
    args = SFTConfig.of(TrainingArguments(str(tmp_path), learning_rate=1e-3, logging_steps=7), max_seq_length=9)
    assert (args.learning_rate, args.logging_steps, args.max_length, args.output_dir) == (1e-3, 7, 9, str(tmp_path))
    assert SFTConfig.of(TrainingArguments(str(tmp_path))).learning_rate == TrainingArguments().learning_rate
    assert SFTConfig.of(None).learning_rate == 2e-5
    assert DPOConfig.of(DPOConfig(beta=0.3), beta=None).beta == 0.3
    with pytest.raises(InputError, match="no argument"):
        SFTConfig.of(None, max_lenght=3)
