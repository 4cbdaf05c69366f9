"""Supervised tuning: a model learns to answer in the taught form, and to stop.

    python examples/alignment/sft.py self_instruct_seed_tasks.jsonl gpteacher_*.json.gz ChatbotData.csv --output runs/sft

Twice: SmolLM2-135M-Instruct with LoRA (its base is not published as a package), and a model of 3 million weights from scratch. Questions stand
in the template of the course's listing 4.1, which SmolLM2 does not know: it was tuned on another. Of 100 held-out prompts, before and after,
a program says whether the answer keeps the form: :func:`adherence`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import shared
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import hunmin
from hunmin import SFTConfig, SFTTrainer, set_seed
from hunmin.align.files import read_rows
from hunmin.align.formats import alpaca
from hunmin.align.rollout import Rollout

LIMIT = 64  # tokens: an answer that goes on has not kept the form
END = "<|end|>"
TINY = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 6, "intermediate_size": 512}
SHORT, ASKED = 120, 500  # bytes of a taught answer, which are fewer than LIMIT tokens; characters of a prompt with its template
CHECKS = ("ends", "answers only", "right language")
COLUMNS = {"model": "model", "": "when", **{name: name for name in CHECKS}, "all of them": "all", "tokens": "tokens"}
Row = dict[str, str]


# ---------------------------------------------------------------- data


def rows_of(paths: Sequence[str]) -> list[Row]:
    """Instructions and answers of all files, in the template, with the name of their file."""
    files = list[list[Row]]()
    for path in paths:
        rows = read_rows(path, "sft")
        plain = "### " not in str(rows[0]["prompt"])  # questions without a template get the same
        rows = [alpaca({"instruction": row["prompt"], "output": row["completion"]}) if plain else row for row in rows]
        files.append([{**ended(row["prompt"], row["completion"]), "file": Path(path).name} for row in rows])
    return [row for rows in files for row in rows]


def ended(prompt: str, answer: str) -> Row:
    """A row whose prompt ends with a letter or sign: the space and the line's end after "### Response:" belong to the answer.

    Byte-level tokenizers read " \\n" as one token where a text ends and as two where it goes on, so a model that learned the whole text has
    never seen what a prompt with its spaces would end with. The model from scratch answered nothing at all then.
    """
    kept = prompt.rstrip()
    return {"prompt": kept, "completion": prompt[len(kept) :] + answer.strip()}


def parts_of(rows: list[Row], given: argparse.Namespace, most: int) -> tuple[list[Row], list[Row]]:
    """Rows with short answers, split: at most ``most`` of each file to train on, in random order, and ``--held`` prompts of all files.

    Files have equal shares in what is held out, but none gives more than half of its rows. Held out are the same prompts whatever ``most``
    is; none of them is trained on.
    """
    draw, train, held, files = random.Random(given.seed), list[Row](), list[Row](), dict[str, dict[str, Row]]()
    for row in rows:
        if len(row["completion"].encode()) < SHORT and len(row["prompt"]) < ASKED:
            files.setdefault(row["file"], {})[row["prompt"]] = row
    for left, short in zip(range(len(files), 0, -1), sorted((list(of.values()) for of in files.values()), key=len), strict=True):
        draw.shuffle(short)
        share = min(len(short) // 2, (given.held - len(held)) // left)
        held += short[:share]
        train += short[share : share + most]
    draw.shuffle(train)
    return train, held


# ---------------------------------------------------------------- what is measured


def hangul(text: str) -> float:
    """The share of Hangul among the letters; 0 without letters."""
    letters = [c for c in text if c.isalpha()]
    return fmean("가" <= c <= "힣" for c in letters) if letters else 0.0


def adherence(rollout: Rollout) -> dict[str, float]:
    """Shares of answers that keep the taught form.

    ``ends``: the model says that it is done, within the limit. ``answers only``: there is an answer, and no part of the template or of
    another turn in it. ``right language``: Korean where, and only where, the taught answer is Korean.
    """
    found: dict[str, list[bool]] = {name: [] for name in CHECKS}
    for row, text, ended in zip(rollout.rows, rollout.texts, rollout.ended, strict=True):
        found["ends"].append(ended)
        found["answers only"].append(bool(text.strip()) and not re.search(r"###|<\|im_|Below is an instruction", text))
        found["right language"].append((hangul(text) > 0.5) == (hangul(row["completion"]) > 0.5) and bool(text.strip()))
    return {name: fmean(values) for name, values in found.items()} | {
        "all": fmean(map(all, zip(*found.values(), strict=True))),
        "tokens": fmean(rollout.lengths),
    }


def asked(name: str, when: str, model: Any, tokenizer: Any, held: list[Row]) -> dict[str, Any]:
    """The most likely answers to all held-out prompts, judged."""
    rollout, seconds = shared.timed(lambda: shared.answers(model, tokenizer, held, LIMIT))
    korean = [i for i, row in enumerate(rollout.rows) if hangul(row["completion"]) > 0.5]
    other = [i for i in range(len(rollout)) if i not in set(korean)]
    found: dict[str, Any] = {"model": name, "when": when, **adherence(rollout), "seconds": seconds}
    found |= {f"all, {language}": adherence(rollout.among(at))["all"] for language, at in (("Korean", korean), ("English", other)) if at}
    samples = [(row["prompt"][-120:], row["completion"], text) for row, text in zip(rollout.rows, rollout.texts, strict=True)]
    return found | {"samples": samples[:: max(1, len(samples) // 8)]}


# ---------------------------------------------------------------- the two models


def tuned(given: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    """SmolLM2 with LoRA."""
    model, tokenizer = shared.language_model(given.model)
    train, held = parts_of(rows, given, given.most)
    before = asked("SmolLM2, LoRA", "before", model, tokenizer, held)
    how = {"learning_rate": 3e-4, "num_train_epochs": 1, "per_device_train_batch_size": 8, "max_length": 192, "warmup_ratio": 0.1}
    args = SFTConfig(**shared.settings(given, "smollm2", max_steps=4 if given.quick else -1, **how))
    trainer = SFTTrainer(model, args=args, train_dataset=train, processing_class=tokenizer, peft_config=shared.lora())
    _, seconds = shared.timed(trainer.train)
    after = asked("SmolLM2, LoRA", "after", trainer.model, tokenizer, held)
    return {"before": before, "after": after, "rows": len(train), "held out": len(held), "seconds": seconds, "loss": curve(trainer)}


def own_tokenizer(rows: list[Row], place: Path) -> Any:
    """Byte-level BPE with 6,000 pieces of the training texts; its end token ends answers."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner = trainers.BpeTrainer(vocab_size=6000, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    pieces.train_from_iterator((row["prompt"] + row["completion"] for row in rows), learner)
    place.mkdir(parents=True, exist_ok=True)
    pieces.save(str(place / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END}
    (place / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return hunmin.AutoTokenizer.from_pretrained(place)


def scratch(given: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    """A small decoder that has read nothing but these rows."""
    train, held = parts_of(rows, given, given.scratch_most)
    tokenizer = own_tokenizer(train, given.output / "scratch")
    config = hunmin.AutoConfig.for_model("llama", **TINY, vocab_size=len(tokenizer), max_position_embeddings=256,
                                         eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=tokenizer.eos_token_id,
                                         tie_word_embeddings=True)  # fmt: skip
    set_seed(given.seed)
    model = hunmin.AutoModelForCausalLM.from_config(config)
    before = asked("from scratch", "before", model, tokenizer, held)
    how = {"learning_rate": 2e-3, "per_device_train_batch_size": 48, "max_length": 192, "warmup_ratio": 0.1, "weight_decay": 0.1}
    steps = 4 if given.quick else given.scratch_steps
    args = SFTConfig(**shared.settings(given, "scratch-run", max_steps=steps, completion_only_loss=False, **how))
    trainer = SFTTrainer(model, args=args, train_dataset=train, processing_class=tokenizer)
    _, seconds = shared.timed(trainer.train)
    after = asked("from scratch", "after", model, tokenizer, held)
    found: dict[str, Any] = {
        "before": before,
        "after": after,
        "rows": len(train),
        "held out": len(held),
        "seconds": seconds,
        "loss": curve(trainer),
    }
    return found | {"parameters": model.num_parameters()}


def curve(trainer: Any) -> list[tuple[float, float]]:
    return [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]


def main() -> None:
    parser = shared.arguments(__doc__, "sft")
    parser.add_argument("data", nargs="+", help="files of instructions and answers, of any form that hunmin.align.files reads")
    parser.add_argument("--held", type=int, default=100, help="held-out prompts")
    parser.add_argument("--most", type=int, default=50, help="training rows of a file, for SmolLM2")
    parser.add_argument("--scratch-most", type=int, default=8000, help="the same, for the model from scratch")
    parser.add_argument("--scratch-steps", type=int, default=120)
    parser.add_argument("--only", choices=("smollm2", "scratch"))
    given = parser.parse_args()
    if given.quick:
        given.held, given.most, given.scratch_most = 8, 8, 50
    rows = rows_of(given.data)
    runs = {"smollm2": tuned, "scratch": scratch}
    found: dict[str, Any] = {}
    for name in [given.only] if given.only else runs:
        found[name] = runs[name](given, rows)
        print(shared.table([found[name]["before"], found[name]["after"]], COLUMNS), flush=True)
        shared.save(given, found, f"results{'.' + given.only if given.only else ''}.json")
    lines = {name: part["loss"] for name, part in found.items()}
    panel = shared.Panel("loss of supervised tuning", "step", "nats a token", {name: line[-1] for name, line in lines.items()}, lines)
    (given.output / "sft.svg").write_text(shared.figure([panel]), encoding="utf-8")


if __name__ == "__main__":
    main()
