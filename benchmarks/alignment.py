"""Seconds a step, peak memory and losses of aligning SmolLM2-135M, beside TRL and PEFT on the same batches.

    python benchmarks/alignment.py PAIRS [--part dpo|sft|packed|reward|grpo|given|all] [--runs N] [--steps N] [--longest N] [--threads N] [--quick]

PAIRS is a file of hh-rlhf (JSON lines with ``chosen`` and ``rejected``, plain or .gz), of which the first pairs are taken whose texts have at
most ``--longest`` tokens. LoRA with r=8 on queries and values; every library starts from the same adapter, in the same order, without
dropout.

dpo: 4 pairs a step. sft: the whole text of 8 chosen answers a step. packed: the same texts in rows of 1,024 tokens. reward: 4 pairs under a
fresh head. grpo: 8 completions of a prompt, 64 sampled tokens each, and the step. given: GRPO's step on completions that were drawn before,
of several lengths: libraries draw other ones, so only here losses can be compared.

Every run is a process of its own; libraries take turns. The first step of a run is not counted. Memory is the peak beyond the process with
its libraries and rows. "apart" is by how much losses differ from TRL's in the same arithmetic, relative, at the worst step; bf16 means
weights and products in bfloat16 and adapters in fp32, and there it shows the noise of both. ``--checkpointing yes`` recomputes activations
on both sides, which is TRL's default; ``--monitor yes`` lets Hunmin watch GRPO, which is Hunmin's.
"""

from __future__ import annotations

import gzip
import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT, SMOLLM2, available, calm, fresh, machine, memory, options, table

PARTS = ("dpo", "sft", "packed", "reward", "grpo", "given")
LIBRARIES = ("Hunmin fp32", "Hunmin bf16", "TRL fp32", "TRL bf16")
BATCH = {"dpo": 4, "sft": 8, "packed": 8, "reward": 4, "grpo": 8, "given": 8}  # rows of a step; of the last two completions
ROW = 1024  # tokens of a packed row
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 1, "learning_rate": 1e-4, "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no",
    "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 0,
}  # fmt: skip
BETA = 0.1  # of the KL of "given", so that its loss is not zero

Row = dict[str, Any]


# ---------------------------------------------------------------- what both libraries get


def pairs_of(path: Path, count: int, longest: int, tokenizer: Any) -> list[Row]:
    """The first ``count`` pairs of hh-rlhf with one prompt and two answers, of which neither text is longer than ``longest`` tokens."""
    found, turn = list[Row](), "\n\nAssistant:"
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            (prompt, _, chosen), (other, _, rejected) = (row[side].rpartition(turn) for side in ("chosen", "rejected"))
            if prompt != other or chosen == rejected or not chosen.strip() or not rejected.strip():
                continue
            if all(len(tokenizer(f"{prompt}{turn}{answer}")["input_ids"]) < longest for answer in (chosen, rejected)):
                found.append({"prompt": prompt + turn, "chosen": chosen, "rejected": rejected})
            if len(found) == count:
                return found
    raise SystemExit(f"{path} has only {len(found)} pairs of at most {longest} tokens, not {count}")


def prepare(folder: Path, given: Namespace) -> None:
    """Models, tokenizer, the start of the adapters, rows and completions, as files that every run reads."""
    import torch

    import hunmin

    tokenizer = hunmin.AutoTokenizer.from_pretrained(SMOLLM2)
    tokenizer.pad_token = "<|endoftext|>"  # not the end of an answer, or TRL's reward models would not read that
    pairs = pairs_of(given.pairs, 8 * given.steps, given.longest, tokenizer)
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    for name, task, more in (("policy", "CausalLM", {}), ("judge", "SequenceClassification", {"num_labels": 1})):
        torch.manual_seed(0)
        model = getattr(hunmin, f"AutoModelFor{task}").from_pretrained(SMOLLM2, dtype=torch.float32, **more)
        model.config["pad_token_id"] = tokenizer.pad_token_id
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        adapted = hunmin.get_peft_model(model, hunmin.LoraConfig(**LORA, task_type="CAUSAL_LM" if name == "policy" else "SEQ_CLS"))
        adapted.save_pretrained(folder / f"{name}-adapter")
    ids = [tokenizer(row["prompt"] + row["chosen"])["input_ids"] for row in pairs]
    new, size = given.new, BATCH["given"]
    drawn = [[ids[i][-(new // 2 + j * new // 2 // size) :] for j in range(size)] for i in range(given.steps)]  # of text: its own is as good
    (folder / "completions.json").write_text(json.dumps(drawn))


def tokens_of(folder: Path, steps: int, tokenizer: Any) -> str:
    """How many tokens a step of pairs has in the mean, by whether rows are padded, lie side by side, or share what their answers have in common."""
    pairs, sums = json.loads((folder / "pairs.json").read_text(encoding="utf-8")), [0, 0, 0]
    for i in range(0, steps * BATCH["dpo"], BATCH["dpo"]):
        sizes = [[len(tokenizer(text)["input_ids"]) for text in (row["prompt"], row["prompt"] + row["chosen"], row["prompt"] + row["rejected"])]
                 for row in pairs[i : i + BATCH["dpo"]]]  # fmt: skip
        sums[0] += 2 * BATCH["dpo"] * max(max(size) for size in sizes)
        sums[1] += sum(chosen + rejected for _, chosen, rejected in sizes)
        sums[2] += sum(chosen + rejected - prompt for prompt, chosen, rejected in sizes)
    padded, packed, shared = (total // steps for total in sums)
    return f"pairs: {padded} tokens a step with padding, {packed} without, {shared} with every prompt once"


def rows_of(part: str, folder: Path, steps: int) -> list[Row]:
    """The rows of a run, in the order in which they are learnt."""
    pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    if part in ("sft", "packed"):
        texts = [{"text": row["prompt"] + row["chosen"]} for row in pairs[: BATCH[part] * (steps if part == "sft" else 1)]]
        return texts
    if part in ("grpo", "given"):
        return [{"prompt": row["prompt"]} for row in pairs[:steps]]
    return pairs[: BATCH[part] * steps]


def variety(completions: list[Any], **_: Any) -> list[float]:
    """A reward that costs nothing, and differs from answer to answer."""
    return [float(len(set(text)) + len(text) % 7) for text in completions]


def settings_of(part: str, folder: Path, given: Row) -> Row:
    """Arguments that both libraries take."""
    # a packed batch is all rows, so that their order among the packs does not matter; every epoch is then a step
    size = {"packed": 64}.get(part, BATCH[part])
    own: Row = {"per_device_train_batch_size": size, "bf16": given["half"], "gradient_checkpointing": given["checkpointing"]}
    own |= {"num_train_epochs": given["steps"]} if part == "packed" else {}
    match part:
        case "sft":
            own |= {"max_length": None}
        case "packed":
            own |= {"max_length": ROW, "packing": True}
        case "grpo" | "given":
            own |= {"num_generations": BATCH[part], "max_completion_length": given["new"], "beta": BETA if part == "given" else 0.0}
            own |= {"generation_kwargs": {"min_new_tokens": given["new"]}} if part == "grpo" else {}
        case _:
            own |= {"max_length": None}
    return SETTINGS | own | {"output_dir": str(folder / "out")}


# ---------------------------------------------------------------- one run


class Clock:
    """When each step ended, for callbacks of both libraries; rollouts are part of the step that they are for."""

    def __init__(self, base: type) -> None:
        self.times = times = list[float]()

        class Ends(base):  # type: ignore[misc]
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                times.append(time.perf_counter())

            def on_step_end(self, *_: Any, **__: Any) -> None:
                times.append(time.perf_counter())

        self.callback = Ends()


def hunmin_trainer(part: str, folder: Path, rows: list[Row], given: Row) -> Callable[[Any], Any]:
    """Makes the trainer, from a callback; libraries are loaded before."""
    import torch

    import hunmin
    from hunmin.align.rollout import Rollout

    names = {"dpo": "DPO", "sft": "SFT", "packed": "SFT", "reward": "Reward", "grpo": "GRPO", "given": "GRPO"}
    trainer, config = (getattr(hunmin, f"{names[part]}{kind}") for kind in ("Trainer", "Config"))
    drawn = iter(json.loads((folder / "completions.json").read_text()))

    class InOrder(trainer):  # type: ignore[misc, valid-type]
        def get_train_dataloader(self) -> Any:
            data = super().get_train_dataloader()
            getattr(data, "prompts", data).shuffle = False
            return data

        def roll(self, rows: Any, seed: int, **how: Any) -> Any:
            if part == "grpo":
                return super().roll(rows, seed, **how)
            completions, tokenizer = next(drawn), self.processing_class
            prompt = tokenizer(rows[0]["prompt"])["input_ids"]
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in completions]
            return Rollout([rows[0]] * len(texts), [prompt] * len(texts), completions, [False] * len(texts), texts)

    settings = config(
        **settings_of(part, folder, given), html_report=False, **({"monitor": given["monitor"]} if names[part] == "GRPO" else {})
    )

    def make(callback: Any) -> Any:
        name, task = ("judge", "SequenceClassification") if part == "reward" else ("policy", "CausalLM")
        options = {"num_labels": 1} if part == "reward" else {}
        model = getattr(hunmin, f"AutoModelFor{task}").from_pretrained(
            folder / name, dtype=torch.bfloat16 if given["half"] else torch.float32, **options
        )
        model = hunmin.PeftModel.from_pretrained(model, folder / f"{name}-adapter", is_trainable=True)
        more = {"reward_funcs": variety} if names[part] == "GRPO" else {}
        tokenizer = hunmin.AutoTokenizer.from_pretrained(folder / name)
        return InOrder(model, args=settings, train_dataset=rows, processing_class=tokenizer, callbacks=[callback], **more)

    return make


def trl_trainer(part: str, folder: Path, rows: list[Row], given: Row) -> Callable[[Any], Any]:
    """The same with TRL and PEFT, which put a fresh adapter on the model themselves; its start is then loaded."""
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    names = {"dpo": "DPO", "sft": "SFT", "packed": "SFT", "reward": "Reward", "grpo": "GRPO", "given": "GRPO"}
    trainer, config = (getattr(trl, f"{names[part]}{kind}") for kind in ("Trainer", "Config"))
    name, task, kind = ("judge", "SequenceClassification", "SEQ_CLS") if part == "reward" else ("policy", "CausalLM", "CAUSAL_LM")
    data, drawn = Dataset.from_list(rows), iter(json.loads((folder / "completions.json").read_text()))

    def rollout(prompts: list[str], trainer: Any) -> Row:
        ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
        return {"prompt_ids": ids, "completion_ids": next(drawn), "logprobs": None}

    order = {"shuffle_dataset": False} if names[part] == "GRPO" else {"train_sampling_strategy": "sequential"}
    settings = config(**settings_of(part, folder, given), **order, dataloader_pin_memory=False)

    def make(callback: Any) -> Any:
        dtype = torch.bfloat16 if given["half"] else torch.float32
        model = getattr(transformers, f"AutoModelFor{task}").from_pretrained(folder / name, dtype=dtype)
        more: Row = {"reward_funcs": variety} if names[part] == "GRPO" else {}
        more |= {"rollout_func": rollout} if part == "given" else {}
        adapter = LoraConfig(**LORA, task_type=kind)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / name)
        made = trainer(
            model, args=settings, train_dataset=data, processing_class=tokenizer, callbacks=[callback], peft_config=adapter, **more
        )
        set_peft_model_state_dict(made.model, load_file(folder / f"{name}-adapter" / "adapter_model.safetensors"))
        return made

    return make


def one(part: str, library: str, folder: str, given: Row) -> None:
    """One run in this process: prints seconds of every step, losses, norms of gradients, and the peak of memory in MB."""
    calm(given["threads"])
    given = given | {"half": library.endswith("bf16")}
    rows = rows_of(part, Path(folder), given["steps"])
    if library.startswith("Hunmin"):
        from hunmin import TrainerCallback

        make = hunmin_trainer(part, Path(folder), rows, given)
    else:
        from transformers import TrainerCallback  # type: ignore[assignment]

        make = trl_trainer(part, Path(folder), rows, given)
    clock, before = Clock(TrainerCallback), memory("VmRSS")
    trainer = make(clock.callback)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    found = {"losses": [float(entry["loss"]) for entry in logs], "norms": [float(entry.get("grad_norm") or 0.0) for entry in logs]}
    seconds = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    versions = {name: held.__version__ for name in ("torch", "transformers", "trl", "peft") if (held := _loaded(name)) is not None}
    print(json.dumps({**found, "seconds": seconds, "peak": memory() - before, "versions": versions}))


def _loaded(name: str) -> Any:
    return sys.modules.get(name)


# ---------------------------------------------------------------- tables


def apart(one: list[float], other: list[float]) -> float:
    """The largest relative difference of two lists."""
    return max((abs(a - b) / max(abs(a), abs(b), 1e-9) for a, b in zip(one, other, strict=True)), default=0.0)


def compare(part: str, folder: Path, given: Namespace, libraries: tuple[str, ...]) -> None:
    """Run all libraries of a part in turns and print its tables."""
    how = {"steps": given.steps, "new": given.new, "threads": given.threads}
    how |= {"checkpointing": given.checkpointing == "yes", "monitor": given.monitor == "yes"}
    found: dict[str, list[Row]] = {name: [] for name in libraries}
    for i in range(given.runs):
        for library in libraries[:: -1 if i % 2 else 1]:
            call = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import alignment; "
            found[library].append(fresh(["-c", f"{call}alignment.one({part!r}, {library!r}, {str(folder)!r}, {how!r})"], given.threads))
    notes = dict[str, str]()
    for library, runs in found.items():
        losses, peer = runs[-1]["losses"], f"TRL {library.split()[-1]}"
        notes[library] = (
            "losses " + " ".join(f"{loss:.6g}" for loss in losses) + "  norms " + " ".join(f"{n:.5g}" for n in runs[-1]["norms"])
        )
        if peer in found and peer != library and part != "grpo":
            notes[library] += "  apart " + ", ".join(f"{apart(runs[-1][key], found[peer][-1][key]):.1e}" for key in ("losses", "norms"))
    own = [name for name in libraries if name.startswith("Hunmin")]
    times = {name: [statistics.median(run["seconds"][1:] or run["seconds"]) for run in runs] for name, runs in found.items()}
    table(part, "s/step", times, own, notes, less=True)
    table(f"{part}, peak memory", "MB", {name: [run["peak"] for run in runs] for name, runs in found.items()}, own, less=True)
    versions = {key: value for runs in found.values() for key, value in runs[0]["versions"].items()}
    print("  " + ", ".join(f"{key} {value}" for key, value in versions.items()), flush=True)


def main() -> None:
    choices = {"part": (*PARTS, "all"), "checkpointing": ("yes", "no"), "monitor": ("yes", "no")}
    given = options(__doc__, choices, ("pairs",), runs=(3, 1), steps=(4, 2), longest=(512, 128), new=(64, 8))
    calm(given.threads)
    libraries = LIBRARIES if available("trl") is not None and available("peft") is not None else LIBRARIES[:2]
    if libraries != LIBRARIES:
        print("  left out: TRL, which is not installed: pip install 'hunmin[peers]'")
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), given)
        print(machine(given.threads))
        print(f"{given.steps} steps, the first not counted; texts of at most {given.longest} tokens; {given.runs} rounds")
        from hunmin import AutoTokenizer

        print(tokens_of(Path(place), given.steps, AutoTokenizer.from_pretrained(SMOLLM2)), flush=True)
        for part in PARTS if given.part == "all" else (given.part,):
            compare(part, Path(place), given, libraries)


if __name__ == "__main__":
    main()
