"""What DPO does to every pair: the chosen answer's probability goes up, the rejected one's down, against the frozen reference.

    python examples/alignment/dpo_table.py [--pairs hh_harmless_test.jsonl.gz] --output runs/dpo-table

It is the course's figure 4.19, with its very pair first: "최고의 프로그래밍 언어는?", 파이썬 before 자바. Pairs that nobody trained on (the same
questions in other words) show what carries over. ``--pairs`` adds pairs of any form that ``hunmin.align.files`` reads.
"""

from __future__ import annotations

import argparse
import math
from statistics import fmean
from typing import Any

import shared

from hunmin import DPOConfig, DPOTrainer
from hunmin.align.files import read_rows

# Question, chosen, rejected; the last column says the question in other words, for which no answer is trained.
OPINIONS = [
    ("최고의 프로그래밍 언어는?", "파이썬", "자바", "가장 좋은 프로그래밍 언어가 뭐야?"),
    ("What is the best programming language?", "Python", "Java", "Which programming language is the greatest?"),
    ("Tabs or spaces?", "Spaces", "Tabs", "Do you indent with tabs or with spaces?"),
    ("Cats or dogs?", "Cats", "Dogs", "Which pet is better, a cat or a dog?"),
    ("Tea or coffee?", "Tea", "Coffee", "Would you rather drink tea or coffee?"),
    ("Which season is the nicest?", "Autumn", "Summer", "What is the best time of the year?"),
    ("여름과 겨울 중 언제가 좋아?", "겨울", "여름", "어느 계절이 더 좋아, 여름 아니면 겨울?"),
    ("City or village?", "Village", "City", "Where would you like to live, in a city or in a village?"),
]
LONGEST = 1200  # characters of a pair from a file: nothing is cut, so that every row of the table is a whole answer
COLUMNS = {
    "prompt": "prompt", "chosen": "chosen", "p reference": "ref_chosen_probability", "p policy": "chosen_probability", "rejected": "rejected",
    "p reference ": "ref_rejected_probability", "p policy ": "rejected_probability", "margin": "rewards/margins",
}  # fmt: skip


def talk(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    """A pair as messages, which the chat template puts into form."""
    sides = {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", chosen), ("rejected", rejected))}
    return {"prompt": [{"role": "user", "content": prompt}], **sides}


def read(given: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Pairs to train on, and pairs that are only looked at."""
    train = [talk(*row[:3]) for row in OPINIONS]
    held = [talk(row[3], row[1], row[2]) for row in OPINIONS]
    more = read_rows(given.pairs, "preference") if given.pairs else []
    more = [row for row in more if len(str(row)) < LONGEST][: 4 if given.quick else given.limit]
    return train + more[: len(more) // 2], held + more[len(more) // 2 :]


def seen(trainer: DPOTrainer, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``trainer.table`` with the probability of a token of the answers: the geometric mean, so that long ones do not vanish."""
    found = list[dict[str, Any]]()
    for row, numbers in zip(rows, trainer.table(rows), strict=True):
        asked = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
        texts = {side: row[side] if isinstance(row[side], str) else row[side][-1]["content"] for side in ("chosen", "rejected")}
        found.append({**numbers, "prompt": asked[:60], **{side: text[:40] for side, text in texts.items()}})
    return found


def told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many pairs went the way that they should."""
    up = fmean(row["chosen_logps"] > row["ref_chosen_logps"] for row in rows)
    down = fmean(row["rejected_logps"] < row["ref_rejected_logps"] for row in rows)
    before = fmean(row["ref_chosen_logps"] > row["ref_rejected_logps"] for row in rows)
    after = fmean(row["chosen_logps"] > row["rejected_logps"] for row in rows)
    ahead = {"chosen ahead under reference": before, "chosen ahead under policy": after}
    return {"pairs": len(rows), "chosen up": up, "rejected down": down, "margin above 0": fmean(row["correct"] for row in rows)} | ahead


def share_of_two(row: dict[str, Any], who: str) -> float:
    """The chosen answer's share of the probability that both answers have together, which a figure can show."""
    chosen, rejected = (row[f"{who}{side}_logps"] for side in ("chosen", "rejected"))
    return 1 / (1 + math.exp(min(50.0, rejected - chosen)))


def panel(name: str, rows: list[dict[str, Any]]) -> shared.Panel:
    """A line for each pair, from the reference to the policy."""
    lines = {row["chosen"]: [(0.0, share_of_two(row, "ref_")), (1.0, share_of_two(row, ""))] for row in rows}
    return shared.Panel(
        name, "0: reference, 1: policy", "chosen / (chosen + rejected)", {key: line[-1] for key, line in lines.items()}, lines
    )


def main() -> None:
    parser = shared.arguments(__doc__, "dpo-table")
    parser.add_argument("--pairs", help="a file of preference pairs beside the built-in ones; half of them is held out")
    parser.add_argument("--limit", type=int, default=24, help="pairs of the file")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-4)
    given = parser.parse_args()
    train, held = read(given)
    model, tokenizer = shared.language_model(given.model)
    how = {"num_train_epochs": 2 if given.quick else given.epochs, "learning_rate": given.rate, "beta": 0.1, "max_length": 384}
    args = DPOConfig(**shared.settings(given, "run", per_device_train_batch_size=4, **how))
    trainer = DPOTrainer(model, args=args, train_dataset=train, processing_class=tokenizer, peft_config=shared.lora(8))
    _, seconds = shared.timed(trainer.train)
    parts = {"trained": seen(trainer, train), "held out": seen(trainer, held)}
    results: dict[str, Any] = {"seconds": seconds}
    for name, rows in parts.items():
        results[name] = {**told(rows), "rows": rows}
        print(f"\n{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in told(rows).items()))
        print(shared.table(rows[: len(OPINIONS)], COLUMNS))
    shared.save(given, results)
    picture = shared.figure([panel(name, rows[: len(OPINIONS)]) for name, rows in parts.items()])
    (given.output / "dpo-table.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
