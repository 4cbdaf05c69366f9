"""Safety: a reward model for harmless answers, and what DPO on the same pairs does to refusals, in English and in Korean.

    python examples/alignment/safety.py --english hh_harmless_test.jsonl.gz --korean response_test_ood.json.gz --output runs/safety

English pairs are those of hh-rlhf (harmless), Korean ones those of SQuARe. Of each a share is held out, by prompt: the reward models' accuracy is
measured on it, and before and after DPO the share of answers of SmolLM2 that refuse, found by the monitor's expressions. The texts are
offensive; what is written to the output folder holds none of them, unless ``--samples`` asks for it.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import shared

import hunmin
from hunmin import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
from hunmin.align.files import read_rows
from hunmin.align.formats import as_text
from hunmin.align.monitor import BEGINNING, refusal_pattern
from hunmin.align.rollout import plain
from hunmin.align.shapes import convert

LONGEST = 600  # characters of a conversation
TOKENS = 48  # of an answer
COLUMNS = {"": "language", "when": "when", "refusals": "refusal", "answers": "answers", "tokens": "tokens"}
Row = dict[str, Any]


def pairs_of(path: str, given: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Pairs of short conversations as messages, for training and held out: no prompt is in both."""
    rows = convert(read_rows(path, "preference"), "preference", chat=True)
    rows = [row for row in rows if len(as_text(row["prompt"])) + max(len(as_text(row[s])) for s in ("chosen", "rejected")) < LONGEST]
    by_prompt = dict[str, list[Row]]()
    for row in rows:
        by_prompt.setdefault(as_text(row["prompt"]), []).append(row)
    names = list(by_prompt)
    random.Random(given.seed).shuffle(names)
    cut = round(given.held_out * len(names))
    held, train = ([row for name in part for row in by_prompt[name]] for part in (names[:cut], names[cut:]))
    return train, held


def spoken(row: Row) -> Row:
    """A pair as plain text for an encoder: the last question, and each answer."""
    return {"prompt": as_text(row["prompt"][-1:]) + "\n", "chosen": as_text(row["chosen"]), "rejected": as_text(row["rejected"])}


def reward(name: str, train: Sequence[Row], held: Sequence[Row], given: argparse.Namespace) -> Row:
    """A reward model's accuracy on held-out pairs; beside it that of a rule that prefers the longer answer."""
    hunmin.set_seed(given.seed)  # of the fresh head
    model = hunmin.AutoModelForSequenceClassification.from_pretrained(given.reward_model, num_labels=1)
    tokenizer = hunmin.AutoTokenizer.from_pretrained(given.reward_model)
    parts = {key: list(map(spoken, rows)) for key, rows in (("train", train), ("held", held))}
    longer = fmean(len(row["chosen"]) > len(row["rejected"]) for row in parts["held"])
    how = {"learning_rate": 5e-5, "num_train_epochs": given.epochs, "per_device_train_batch_size": 8, "max_length": 256}
    steps = 4 if given.quick else -1
    args = RewardConfig(**shared.settings(given, f"reward-{name}", warmup_ratio=0.1, max_steps=steps, **how))
    trainer = RewardTrainer(model, args=args, train_dataset=parts["train"], eval_dataset=parts["held"], processing_class=tokenizer)
    before = trainer.evaluate()["eval_accuracy"]
    _, seconds = shared.timed(trainer.train)
    found = trainer.evaluate()["eval_accuracy"]
    learnt, judged = (len(rows) for rows in (trainer.train_dataset, trainer.eval_dataset))  # without what is longer than max_length
    error = math.sqrt(found * (1 - found) / judged)
    told = {"accuracy": found, "standard error": error, "accuracy before": before, "accuracy of the longer answer": longer}
    return told | {"pairs": learnt, "held out": judged, "seconds": seconds}


def refusals(language: str, when: str, model: Any, tokenizer: Any, held: Sequence[Row], given: argparse.Namespace) -> Row:
    """The share of refusals among the most likely answers to held-out prompts, each prompt once."""
    asked = list({as_text(row["prompt"]): {"prompt": row["prompt"]} for row in held}.values())[: given.asked]
    rollout = shared.answers(model, tokenizer, asked, TOKENS)
    pattern = refusal_pattern(None)
    texts = [plain(text) for text in rollout.texts]
    found = {"refusal": fmean(bool(pattern.search(text[:BEGINNING])) for text in texts), "answers": len(texts)}
    found |= {"language": language, "when": when, "tokens": fmean(rollout.lengths)}
    return found | ({"samples": texts[:10]} if given.samples else {})


def prefer(parts: dict[str, tuple[list[Row], list[Row]]], given: argparse.Namespace) -> Row:
    """DPO with LoRA on the pairs of all languages together."""
    model, tokenizer = shared.language_model(given.model)
    train = [row for rows, _ in parts.values() for row in rows[: given.pairs]]
    held = {name: rows[: given.asked] for name, (_, rows) in parts.items()}
    how = {"learning_rate": given.rate, "beta": 0.1, "num_train_epochs": 1, "per_device_train_batch_size": 8, "max_length": 384}
    steps = 2 if given.quick else -1
    args = DPOConfig(**shared.settings(given, "dpo", warmup_ratio=0.1, max_steps=steps, rpo_alpha=given.sft_weight, **how))
    trainer = DPOTrainer(model, args=args, train_dataset=train, eval_dataset=held, processing_class=tokenizer, peft_config=shared.lora())
    rows = [refusals(name, "before", trainer.model, tokenizer, of, given) for name, (_, of) in parts.items()]
    _, seconds = shared.timed(trainer.train)
    accuracy = {name: trainer.evaluate(of)["eval_rewards/accuracies"] for name, of in held.items()}
    rows += [refusals(name, "after", trainer.model, tokenizer, of, given) for name, (_, of) in parts.items()]
    return {"refusals": rows, "held-out accuracy of implied rewards": accuracy, "pairs": len(train), "seconds": seconds}


def main() -> None:
    parser = shared.arguments(__doc__, "safety")
    parser.add_argument("--english", required=True, help="pairs of hh-rlhf")
    parser.add_argument("--korean", required=True, help="answers of SQuARe")
    parser.add_argument("--reward-model", default=shared.MINILM)
    parser.add_argument("--held-out", type=float, default=0.25, help="share of the prompts")
    parser.add_argument("--limit", type=int, default=400, help="English pairs that the reward model learns from")
    parser.add_argument("--epochs", type=int, default=2, help="of the reward models")
    parser.add_argument("--pairs", type=int, default=40, help="of each language, for DPO")
    parser.add_argument("--asked", type=int, default=24, help="held-out prompts of each language that are answered")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate of DPO")
    parser.add_argument("--sft-weight", type=float, default=None, help="weight of the chosen answers' own loss beside DPO's")
    parser.add_argument("--samples", action="store_true", help="keep answers in the results")
    given = parser.parse_args()
    if given.quick:
        given.limit, given.epochs, given.pairs, given.asked = 32, 1, 8, 4
    parts = {"English": pairs_of(given.english, given), "Korean": pairs_of(given.korean, given)}
    parts = {name: (train[: given.limit], held[: 16 if given.quick else 300]) for name, (train, held) in parts.items()}
    found: Row = {}
    for name, (train, held) in parts.items():
        found[f"reward, {name}"] = reward(name.lower(), train, held, given)
        print(name, found[f"reward, {name}"], flush=True)
    shared.save(given, found)
    found["dpo"] = prefer(parts, given)
    print(shared.table(found["dpo"]["refusals"], COLUMNS))
    shared.save(given, found)
    lines = {
        name: [(float(row["when"] == "after"), row["refusal"]) for row in found["dpo"]["refusals"] if row["language"] == name]
        for name in parts
    }
    panel = shared.Panel("share of refusals", "0: before DPO, 1: after", "share", {name: line[-1] for name, line in lines.items()}, lines)
    (given.output / "safety.svg").write_text(shared.figure([panel]), encoding="utf-8")


if __name__ == "__main__":
    main()
