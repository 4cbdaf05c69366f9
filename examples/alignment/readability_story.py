"""The course's story of code readability, run for real: a reward model, best-of-n, DPO, PPO, and a reward that is hacked.

    python examples/alignment/readability_story.py HumanEval.jsonl.gz mbpp.jsonl.gz --output runs/story

1. A policy learns to rewrite unreadable functions (supervised), into readable ones or other unreadable ones by chance: the reference.
2. A reward model learns from pairs which of two functions is easier to read. It sees the answer alone, as a judge of readability would.
3. From the same start, with the same number of generated tokens: best-of-n, DPO on answers that the reward model ranked, PPO with a small and
   a larger KL penalty (the course's model C), and the same PPO without (model A). The start itself is model B: near, but of low reward.

Measured on functions that nobody has seen: the reward, the rule-based readability score, the KL to the reference in nats an answer, and
whether the answer still passes the task's tests in the sandbox, which no method is told about. ``--methods`` runs some of them.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from statistics import fmean
from typing import Any

import shared
import torch
from readability import Task, pairs_of, split, task_of

import hunmin
from hunmin import DPOConfig, DPOTrainer, PPOConfig, PPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from hunmin.align import policy_losses
from hunmin.align.code import parsed_part, run_many
from hunmin.align.files import read_rows, write_rows
from hunmin.align.readability import readability
from hunmin.align.rewards import RewardModel
from hunmin.align.rollout import Rollout, rescore

ASK = "{}# The same function, written again:\n"
TOKENS = 72  # of a readable solution, and so of an answer at most
TEMPERATURE = 0.7  # of everything that is drawn, and at which distances are measured
STRICT = 5  # times as large is the KL's coefficient of "ppo-strict"
METHODS = ("best-of-n", "dpo", "ppo", "ppo-strict", "ppo-no-kl")
NAMES = {
    "start": "B (start)",
    "best-of-n": "best of n",
    "dpo": "DPO",
    "ppo": "PPO, some KL",
    "ppo-strict": "C (PPO, KL)",
    "ppo-no-kl": "A (PPO, no KL)",
}
Row = dict[str, Any]


# ---------------------------------------------------------------- data


def tasks_of(given: argparse.Namespace, tokenizer: Any) -> list[Task]:
    """Tasks with short solutions, in a random order that ``--seed`` fixes."""
    found = list[Task]()
    for path in given.data:
        for row in read_rows(path):
            try:
                task = task_of(row)
            except SyntaxError:  # a few solutions of MBPP are of Python 2
                continue
            if len(tokenizer(task.solution)["input_ids"]) < given.longest:
                found.append(task)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(given.seed)).tolist()
    return [found[i] for i in order][: given.tasks]


def rewrites(given: argparse.Namespace, tokenizer: Any) -> dict[str, list[Row]]:
    """Rows ``prompt`` (to rewrite an unreadable function), ``chosen``, ``rejected``, ``tests``; both answers pass. Kept in the output folder."""
    paths = {name: given.output / f"rewrites.{name}.jsonl" for name in ("train", "test")}
    if all(path.exists() for path in paths.values()):
        return {name: read_rows(path) for name, path in paths.items()}
    parts = split(pairs_of(tasks_of(given, tokenizer), 2, given.seed), given.held_out, given.seed)
    found = dict[str, list[Row]]()
    for name, rows in parts.items():
        by_task = dict[int, list[Row]]()
        for row in rows:
            by_task.setdefault(row["task"], []).append(row)
        found[name] = [
            {"prompt": ASK.format(of[0]["rejected"]), "chosen": of[0]["chosen"], "rejected": of[-1]["rejected"], "tests": of[0]["tests"]}
            for of in by_task.values()
        ]
        write_rows(paths[name], found[name])
    return found


# ---------------------------------------------------------------- what answers are worth


def passes(completions: Sequence[str], tests: Sequence[str], **_: Any) -> list[float]:
    """1 where the answer itself passes. (``pass_reward`` would also run the prompt, in which the function already stands.)"""
    return [float(outcome.passed) for outcome in run_many(zip(map(parsed_part, completions), tests, strict=True), workers=1, timeout=3.0)]


def reads(completions: Sequence[str], **_: Any) -> list[float]:
    """The rule-based readability score, 0 to 1, which no method is told about either."""
    return [readability(parsed_part(text)) for text in completions]


class Judge:
    """The reward model as a reward function of the answer alone."""

    __name__ = "readable"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = RewardModel(model, tokenizer, batch=32)

    def __call__(self, completions: Sequence[str], **_: Any) -> list[float]:
        ids = [[0]] * len(completions)  # of the policy; a model with a tokenizer of its own reads texts
        return self.model(prompts=[""] * len(completions), completions=list(completions), prompt_ids=ids, completion_ids=ids)


def train_judge(given: argparse.Namespace, data: Mapping[str, list[Row]]) -> tuple[Judge, Row]:
    """A reward model from pairs without their prompts, and how many held-out pairs it orders."""
    place, kept = given.output / "reward", (given.output / "reward" / "config.json").exists()
    hunmin.set_seed(given.seed)  # of the fresh head
    model = hunmin.AutoModelForSequenceClassification.from_pretrained(str(place) if kept else given.reward_model, num_labels=1)
    tokenizer = hunmin.AutoTokenizer.from_pretrained(given.reward_model)
    parts = {name: [{"prompt": "", "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows] for name, rows in data.items()}
    how = {"learning_rate": 1e-4, "num_train_epochs": 1, "per_device_train_batch_size": 8, "max_length": 256, "warmup_ratio": 0.1}
    args = RewardConfig(**shared.settings(given, "reward-run", center_rewards_coefficient=0.01, **how))
    trainer = RewardTrainer(model, args=args, train_dataset=parts["train"], eval_dataset=parts["test"], processing_class=tokenizer)
    seconds = 0.0 if kept else shared.timed(trainer.train)[1]
    model.save_pretrained(place)
    found = trainer.evaluate()
    told = {
        "accuracy": found["eval_accuracy"],
        "margin": found["eval_margin"],
        "pairs": len(parts["train"]),
        "held out": len(parts["test"]),
    }
    return Judge(model, tokenizer), {**told, "seconds": seconds}


def draw(given: argparse.Namespace, model: Any, tokenizer: Any, rows: Sequence[Row], copies: int, seed: int) -> Rollout:
    """``copies`` answers to every prompt, drawn as PPO draws them."""
    how = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0, "num_return_sequences": copies}
    return shared.answers(model, tokenizer, rows, given.tokens, seed=given.seed + seed, **how)


def worth(rollout: Rollout, judge: Judge) -> Row:
    """Means over answers of what can be seen in them."""
    tests = [row["tests"] for row in rollout.rows]
    reward, score, passed = judge(rollout.texts), reads(rollout.texts), passes(rollout.texts, tests)
    found = {"reward": fmean(reward), "readability": fmean(score), "passes": fmean(passed)}
    return found | {"length": fmean(rollout.lengths), "ended": fmean(rollout.ended), "samples": rollout.texts[:6]}


def distance(model: Any, rollout: Rollout) -> float:
    """The KL of a policy with an adapter to the same without it, in nats an answer, from the policy's own answers."""
    mask = policy_losses.mask_of(rollout.lengths)
    sums = list[torch.Tensor]()
    for off in (False, True):
        with model.disable_adapter() if off else nullcontext():
            sums.append((rescore(model, rollout, 16, temperature=TEMPERATURE)[0] * mask).sum(-1))
    return float((sums[0] - sums[1]).mean())


# ---------------------------------------------------------------- the methods


def start(given: argparse.Namespace, data: Mapping[str, list[Row]]) -> Row:
    """Supervised tuning on readable and unreadable answers, one or the other by chance; the model lies in ``sft``."""
    chance = torch.rand(len(data["train"]), generator=torch.Generator().manual_seed(given.seed))
    rows = [
        {"prompt": row["prompt"], "completion": row["chosen" if x < given.readable else "rejected"]}
        for row, x in zip(data["train"], chance.tolist(), strict=True)
    ]
    model, tokenizer = shared.language_model(given.model)
    how = {"learning_rate": 5e-4, "num_train_epochs": 1, "per_device_train_batch_size": 8, "max_length": 256, "warmup_ratio": 0.1}
    args = SFTConfig(**shared.settings(given, "sft-run", max_steps=4 if given.quick else -1, **how))
    trainer = SFTTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=shared.lora())
    _, seconds = shared.timed(trainer.train)
    trainer.model.merge_and_unload().save_pretrained(given.output / "sft")
    tokenizer.save_pretrained(given.output / "sft")
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return {"rows": len(rows), "seconds": seconds, "loss": [losses[0], losses[-1]]}


def ppo(given: argparse.Namespace, data: Mapping[str, list[Row]], judge: Judge, name: str) -> tuple[Any, Row]:
    """PPO against the reward model. Its rollouts set the budget of generated tokens."""
    kl = {"ppo": given.kl, "ppo-strict": STRICT * given.kl, "ppo-no-kl": 0.0}[name]
    model, tokenizer = shared.language_model(given.output / "sft")
    how = {"max_completion_length": given.tokens, "temperature": TEMPERATURE, "kl_coef": kl, "num_ppo_epochs": 2, "num_mini_batches": 2}
    how |= {"lam": 1.0, "learning_rate": given.rate, "lr_scheduler_type": "constant", "monitor_samples": 2, "logging_steps": 4}
    size = given.completions // 2
    args = PPOConfig(**shared.settings(given, name, **how), per_device_train_batch_size=size, max_steps=4 * given.rollouts)
    trainer = PPOTrainer(
        args,
        tokenizer,
        model,
        train_dataset=[{"prompt": row["prompt"], "tests": row["tests"]} for row in data["train"]],
        peft_config=shared.lora(),
        reward_funcs=judge,
        side_metrics={"passes": passes, "readability": reads},
    )
    _, seconds = shared.timed(trainer.train)
    monitor = trainer.monitor
    assert monitor is not None
    names = ("reward", "kl", "passes", "readability", "length", "repetition")
    course = {name: [value for _, value in monitor.series(name)] for name in names}
    parted = {name: found.step for name, found in monitor.parted.items()}
    generated = round(sum(course["length"]) * given.completions)
    return trainer.policy, {"seconds": seconds, "generated": generated, "kl_coef": kl, "course": course, "parted": parted}


def dpo(given: argparse.Namespace, data: Mapping[str, list[Row]], judge: Judge, budget: int) -> tuple[Any, Row]:
    """DPO on the best and the worst of four answers of the start to as many prompts as the budget of tokens permits."""
    model, tokenizer = shared.language_model(given.output / "sft")
    asked = data["train"][: max(4, round(budget / (4 * given.mean_length)))]
    rollout, drawing = shared.timed(lambda: draw(given, model, tokenizer, asked, 4, 1))
    scores, pairs = judge(rollout.texts), list[Row]()
    for i, row in enumerate(asked):
        four = sorted(range(4 * i, 4 * i + 4), key=scores.__getitem__)
        pairs.append({"prompt": row["prompt"], "chosen": rollout.texts[four[-1]], "rejected": rollout.texts[four[0]]})
    how = {"learning_rate": 2e-4, "beta": 0.1, "num_train_epochs": 1, "per_device_train_batch_size": 8, "max_length": 256}
    args = DPOConfig(**shared.settings(given, "dpo", warmup_ratio=0.1, **how))
    trainer = DPOTrainer(model, args=args, train_dataset=pairs, processing_class=tokenizer, peft_config=shared.lora())
    _, seconds = shared.timed(trainer.train)
    last = trainer.state.log_history[-2]
    told = {"pairs": len(pairs), "generated": sum(rollout.lengths), "seconds": round(drawing + seconds, 1)}
    return trainer.model, told | {"rewards/accuracies": last.get("rewards/accuracies")}


def best_of_n(given: argparse.Namespace, held: Sequence[Row], judge: Judge, budget: int) -> Row:
    """Nothing is learned: the budget is spent on the very prompts that are measured. Its KL is at most log n - (n - 1) / n."""
    model, tokenizer = shared.language_model(given.output / "sft")
    n = max(2, round(budget / (len(held) * given.mean_length)))
    rollout, seconds = shared.timed(lambda: draw(given, model, tokenizer, held, n, 2))
    scores = judge(rollout.texts)
    best = [max(range(i, i + n), key=scores.__getitem__) for i in range(0, len(scores), n)]
    bound = float(torch.tensor(n).log()) - (n - 1) / n
    return {**worth(rollout.among(best), judge), "kl": bound, "n": n, "generated": sum(rollout.lengths), "seconds": seconds}


# ---------------------------------------------------------------- the whole


def measure(given: argparse.Namespace, model: Any, tokenizer: Any, held: Sequence[Row], judge: Judge) -> Row:
    """One answer to every held-out prompt."""
    rollout = draw(given, model, tokenizer, held, 1, 3)
    return {**worth(rollout, judge), "kl": distance(model, rollout) if hasattr(model, "disable_adapter") else 0.0}


def story(given: argparse.Namespace) -> Row:
    """Everything, written to the output folder after every method; what lies there from an earlier run is not done again."""
    model, tokenizer = shared.language_model(given.model)
    data, seconds = shared.timed(lambda: rewrites(given, tokenizer))
    held = data["test"][: 4 if given.quick else given.measured]
    before = given.output / "results.json"
    found: Row = json.loads(before.read_text(encoding="utf-8")) if before.exists() else {}
    found.setdefault("data", {name: len(rows) for name, rows in data.items()} | {"seconds": seconds})
    judge, told = train_judge(given, data)
    found["reward model"] = told | ({"seconds": found["reward model"]["seconds"]} if "reward model" in found else {})
    print("reward model", found["reward model"])
    if not (given.output / "sft" / "config.json").exists():
        found["sft"] = start(given, data)
        print("sft", found["sft"])
    if "start" not in found:
        model, _ = shared.language_model(given.output / "sft")
        found["start"] = measure(given, model, tokenizer, held, judge)
    given.mean_length = found["start"]["length"]
    found["budget"] = budget = round(given.rollouts * given.completions * given.mean_length)
    for name in ("start", *given.methods):
        if name == "best-of-n":
            found[name] = best_of_n(given, held, judge, budget)
        elif name != "start":
            policy, told = dpo(given, data, judge, budget) if name == "dpo" else ppo(given, data, judge, name)
            found[name] = {**measure(given, policy, tokenizer, held, judge), **told}
            del policy
        gc.collect()
        print(name, {key: round(value, 3) for key, value in found[name].items() if isinstance(value, float)}, flush=True)
        shared.save(given, found)
        (given.output / "story.svg").write_text(picture(found), encoding="utf-8")
    return found


def apart(kl: float) -> float:
    """The root of a KL, over which rewards are usually plotted (Gao et al. 2023); an estimate may be a little below 0."""
    return max(0.0, kl) ** 0.5


def picture(found: Mapping[str, Any]) -> str:
    """Reward against KL, as in the course's figure 4.15, and the side metric against KL."""
    ran = [name for name in NAMES if name in found]
    panels = list[shared.Panel]()
    for key, title in (("reward", "reward of the reward model"), ("passes", "share that passes its tests")):
        dots = {NAMES[name]: (apart(found[name]["kl"]), found[name][key]) for name in ran}
        lines = {NAMES[n]: list(zip(map(apart, c["kl"]), c[key], strict=True)) for n in ran if (c := found[n].get("course"))}
        panels.append(shared.Panel(title, "square root of the KL to the start (nats an answer)", key, dots, lines))
    return shared.figure(panels)


def main() -> None:
    parser = shared.arguments(__doc__, "story")
    parser.add_argument("data", nargs="+", help="files of HumanEval or MBPP")
    parser.add_argument("--reward-model", default=shared.MINILM, help="an encoder to start the reward model from")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tasks", type=int, default=480, help="tasks at most, of those with short solutions")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the tasks")
    parser.add_argument("--measured", type=int, default=48, help="held-out tasks that policies are measured on")
    parser.add_argument("--readable", type=float, default=0.5, help="share of readable answers in supervised tuning")
    parser.add_argument("--rollouts", type=int, default=12)
    parser.add_argument("--completions", type=int, default=24, help="of a rollout")
    parser.add_argument("--longest", type=int, default=TOKENS, help="tokens of a readable solution")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a completion")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of PPO")
    parser.add_argument("--kl", type=float, default=0.2, help="PPO's coefficient of the KL; ppo-strict takes five times as much")
    given = parser.parse_args()
    if given.quick:
        given.tasks, given.rollouts, given.completions, given.tokens = 24, 2, 4, 24
    given.output.mkdir(parents=True, exist_ok=True)
    story(given)


if __name__ == "__main__":
    main()
