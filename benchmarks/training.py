"""Rows a second of training, and peak memory, beside Transformers' Trainer and PEFT.

    python benchmarks/training.py [--part book|mixed|lora|all] [--rows N] [--runs N] [--threads N]

book: a 6-layer, 256-wide BERT with the settings of a course: batch 8, every headline padded to 512 tokens. mixed: MiniLM on texts of mixed
length, Transformers with dynamic padding. lora: LoRA on SmolLM2, 512 tokens a row, batch 4. Every run is a process of its own, so that peak
memory is that run's; libraries take turns, and printed are medians over the rounds, and of the ratios within each
round. Rows a second are those
of the whole run; "steady" leaves out its first quarter, in which memory and threads are set up, and "CPU ms" is the processor time of a row then,
of all threads. The losses of the last steps are printed so that one sees that both learn the same.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import MINILM, SMOLLM2, WORDS, texts  # noqa: E402

LIBRARIES = {
    "book": ("Hunmin", "Hunmin bf16", "Transformers"),
    "mixed": ("Hunmin", "Hunmin bf16", "Transformers", "Transformers bf16"),
    "lora": ("Hunmin", "Hunmin bf16", "PEFT", "PEFT bf16"),
}
BOOK = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "num_labels": 7,
}
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0, "task_type": "CAUSAL_LM"}


def prepare(part: str, folder: Path) -> None:
    """The model that both libraries start from, as a folder."""
    import torch

    import hunmin

    torch.manual_seed(0)
    if part == "lora":
        hunmin.AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32).save_pretrained(folder)
        return
    if part == "book":
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        hunmin.AutoModelForSequenceClassification.from_config(hunmin.AutoConfig.for_model("bert", **BOOK, **still)).save_pretrained(folder)
        return
    model = hunmin.AutoModelForSequenceClassification.from_pretrained(MINILM, num_labels=7)
    model.save_pretrained(folder)
    hunmin.AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)


def rows_of(part: str, folder: str, count: int) -> list[dict[str, Any]]:
    """Rows whose label a model can learn, the same for every library."""
    draw = random.Random(0)
    if part == "book":  # headlines of 12 to 30 tokens, padded as the course's map does
        out = list[dict[str, Any]]()
        for _ in range(count):
            label, size = draw.randrange(7), draw.randrange(10, 28)
            ids = [2, *(10 + label if draw.random() < 0.4 else draw.randrange(20, 1000) for _ in range(size)), 3]
            mask = [1] * len(ids) + [0] * (512 - len(ids))
            out.append({"input_ids": ids + [0] * (512 - len(ids)), "attention_mask": mask, "label": label})
        return out
    import transformers

    if part == "lora":
        return [{"input_ids": (ids := [draw.randrange(20, 20000) for _ in range(512)]), "labels": ids} for _ in range(count)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lines = texts(count)
    return [{**tokenizer(line, truncation=True), "label": WORDS.index(line.split()[0].lower().strip(".")) % 7} for line in lines]


def train(library: str, part: str, folder: str, count: int, threads: int) -> dict[str, Any]:
    """One run without loading: rows a second, also without its first quarter (``steady``, ``cpu`` seconds a row),
    losses, peak of memory."""
    import torch

    torch.set_num_threads(threads)
    rows = rows_of(part, folder, count)
    own, half = library.startswith("Hunmin"), library.endswith("bf16")
    if own:
        import hunmin as used
    else:
        import transformers as used  # type: ignore[no-redef]

        used.logging.set_verbosity_error()  # type: ignore[attr-defined]
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kind: Any = used.AutoModelForCausalLM if part == "lora" else used.AutoModelForSequenceClassification
    settings: dict[str, Any] = {"per_device_train_batch_size": 4 if part == "lora" else 8, "num_train_epochs": 1, "learning_rate": 5e-5}
    settings |= {"use_cpu": True, "disable_tqdm": True, "logging_steps": 5, "save_strategy": "no", "report_to": "none", "bf16": half}
    more: dict[str, Any] = {}
    if part == "lora":
        if own:
            from hunmin import LoraConfig, get_peft_model
        else:
            from peft import LoraConfig, get_peft_model  # type: ignore[no-redef]
        model = get_peft_model(kind.from_pretrained(folder, dtype=torch.float32), LoraConfig(**LORA))
    else:
        model = kind.from_pretrained(folder, dtype=torch.float32)
        if part == "mixed":
            more["processing_class"] = used.AutoTokenizer.from_pretrained(folder)
    if own:
        settings["html_report"] = False
    ends = list[tuple[float, float]]()  # of every step, by the clock and in CPU time

    class Clock(used.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as output:
        arguments = used.TrainingArguments(output, **settings)  # type: ignore[attr-defined]
        run = used.Trainer(model, arguments, train_dataset=rows, callbacks=[Clock], **more)  # type: ignore[attr-defined]
        began = time.perf_counter()
        run.train()
        seconds = time.perf_counter() - began
    first, rest = ends[len(ends) // 4], ends[-1]  # after a quarter of the steps: what happens once is over
    done = (len(ends) - 1 - len(ends) // 4) * settings["per_device_train_batch_size"]
    steady = {"steady": done / (rest[0] - first[0]), "cpu": (rest[1] - first[1]) / done} if done > 0 else {"steady": 0.0, "cpu": 0.0}
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
    return {"rate": count / seconds, **steady, "losses": losses, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=(*LIBRARIES, "all"), default="all")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # a run of its own: library, folder
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(train(arguments.one[0], arguments.part, arguments.one[1], arguments.rows, arguments.threads)))
        return
    for part in LIBRARIES if arguments.part == "all" else (arguments.part,):
        compare(part, arguments.rows or {"book": 240, "mixed": 512, "lora": 24}[part], arguments.runs, arguments.threads)


def compare(part: str, rows: int, runs: int, threads: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {library: [] for library in LIBRARIES[part]}
    with tempfile.TemporaryDirectory() as folder:
        prepare(part, Path(folder))
        for i in range(runs):
            for library in LIBRARIES[part][:: 1 if i % 2 else -1]:
                command = [
                    sys.executable,
                    __file__,
                    "--part",
                    part,
                    "--rows",
                    str(rows),
                    "--threads",
                    str(threads),
                    "--one",
                    library,
                    folder,
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
                if done.returncode:
                    raise SystemExit(f"{library}: {done.stderr[-2000:]}")
                found[library].append(json.loads(done.stdout.strip().splitlines()[-1]))
    peer = next(name for name in LIBRARIES[part] if not name.startswith("Hunmin"))
    print(f"\n{part}: {rows} rows, {runs} rounds, {threads} threads")
    print(
        f"  {'':18}{'rows/s':>8}{'range':>14}{'steady':>8}{'CPU ms':>8}{'over ' + peer:>20}{'steady':>8}{'peak MB':>9}{'ratio':>6}  last losses"
    )
    for library, results in found.items():
        over, steadily = (
            statistics.median(a[key] / (b[key] or 1.0) for a, b in zip(results, found[peer], strict=True)) for key in ("rate", "steady")
        )
        rates = [r["rate"] for r in results]
        rate, steady, cpu, peak = (statistics.median(r[key] for r in results) for key in ("rate", "steady", "cpu", "peak"))
        share = peak / statistics.median(r["peak"] for r in found[peer])
        tail = " ".join(f"{x:.4f}" for x in results[-1]["losses"][-4:])
        span = f"{min(rates):.1f}-{max(rates):.1f}"
        speed = f"{rate:8.1f}{span:>14}{steady:8.1f}{cpu * 1000:8.1f}{over:19.1f}x{steadily:7.1f}x"
        print(f"  {library:18}{speed}{peak:9.0f}{share:6.2f}  {tail}", flush=True)


if __name__ == "__main__":
    main()
