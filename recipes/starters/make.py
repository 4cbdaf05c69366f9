"""Make a starter with one command: prepare the data, train by its recipe, export, measure the exported folder, write card and index.

    python recipes/starters/make.py en/sentiment --data FOLDER
    python recipes/starters/make.py en/sentiment --data FOLDER --only measure --only card   # the last steps again, without training

``FOLDER`` holds the raw data sets, each in a folder of its own name. Everything in between goes below ``runs/starters``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from card import Made, Starter, entry, index, write
from measure import HEADS, Measured

RUNS, DATA = Path("runs/starters"), Path("runs/starters/data")
MODULES = ("english", "korean", "generation", "translation")  # each with a list STARTERS
STEPS = ("prepare", "train", "export", "measure", "card")


def starters() -> dict[str, Starter]:
    """All starters by name, of the modules that are here."""
    here = Path(__file__).parent
    found = [one for name in MODULES if (here / f"{name}.py").is_file() for one in importlib.import_module(name).STARTERS]
    return {one.name: one for one in found}


def recipe_of(starter: Starter) -> Path:
    return Path(__file__).parent / starter.recipe


def train(starter: Starter) -> dict[str, Any]:
    """Carry out the recipe. Returns its results."""
    from hunmin.train.recipe import run

    return run(recipe_of(starter), ["overwrite=true"])


def export(starter: Starter, run: Path, prepared: Path, out: Path) -> Path:
    """The folder of the starter from that of the run: weights as fp16, ``adapter_config.json`` with the body's name, and ``config.json``:
    the body's configuration with the names of the labels and the architecture, from which the model can be built without the recipe.
    """
    from safetensors.torch import load_file, save_file

    from hunmin.auto import AutoConfig

    folder = out / starter.place
    folder.mkdir(parents=True, exist_ok=True)
    if starter.base is None:
        return export_whole(run, folder, starter)
    tensors = load_file(run / "adapter_model.safetensors")
    save_file({k: rounded(v) for k, v in sorted(tensors.items())}, folder / "adapter_model.safetensors", {"format": "pt"})
    adapter = json.loads((run / "adapter_config.json").read_text(encoding="utf-8"))
    adapter["base_model_name_or_path"] = starter.base
    _write(folder / "adapter_config.json", adapter)
    body = str((folder / str(starter.base)).resolve()) if str(starter.base).startswith(".") else str(starter.base)
    config = dict(AutoConfig.from_pretrained(body).to_dict())
    names = json.loads((prepared / "labels.json").read_text(encoding="utf-8")) if (prepared / "labels.json").is_file() else None
    config.pop("id2label", None), config.pop("label2id", None), config.pop("_name_or_path", None)
    if names is not None:
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    if (problem := _problem(starter)) is not None:
        config["problem_type"] = problem
    head = "CausalLM" if adapter["task_type"] == "CAUSAL_LM" else HEADS[starter.task]  # a chat model answers questions too
    config["architectures"] = [_architecture(config, head)]
    _write(folder / "config.json", config | starter.config)
    return folder


def rounded(weights: Any) -> Any:
    """Weights as fp16 with the precision of bf16, in which they were trained: the three last bits are zero, so that git packs a sixth more."""
    return weights.bfloat16().half().contiguous()


def _problem(starter: Starter) -> str | None:
    """What the last stage of the recipe trained: one label a text, several, or a number. Pipelines choose softmax or sigmoid by it."""
    from hunmin.train.recipe import read
    from hunmin.train.recipe.goals import GOALS

    if starter.build is not None:
        return None
    return GOALS[read(recipe_of(starter)).stages[-1].objective].problem


def export_whole(run: Path, folder: Path, starter: Starter) -> Path:
    """A whole model: its weights as fp16, or rounded to 8 bits, its configuration and its tokenizer."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(run / "model.safetensors")
    save_file({k: v.half().contiguous() for k, v in sorted(tensors.items())}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    _write(folder / "config.json", {key: value for key, value in config.items() if key != "_name_or_path"} | {"dtype": "float16"})
    for path in run.iterdir():
        if path.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "generation_config", "chat_template")):
            shutil.copy(path, folder)
    if starter.int8:
        from hunmin.auto import load

        load(folder, HEADS[starter.task], quantization="int8").save_pretrained(folder)
    return folder


def _architecture(config: dict[str, Any], task: str) -> str:
    """The name that checkpoints give to the model of a task: ``BertForSequenceClassification``, ``BertModel``."""
    from hunmin.arch import FAMILIES, architecture

    return architecture(config["model_type"]).heads[task].name.format(FAMILIES[config["model_type"]][1])


def _write(path: Path, values: dict[str, Any]) -> None:
    """JSON whose keys are sorted, but not those inside: labels stay in the order of their numbers."""
    path.write_text(json.dumps(dict(sorted(values.items())), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make(starter: Starter, raw: Path, out: Path, steps: tuple[str, ...] = STEPS) -> None:
    """All steps, or some of them again. Minutes of the CPU and what was measured are kept beside the run, for the card."""
    run, prepared = RUNS / starter.name, DATA / starter.name
    made, numbers = RUNS / f"{starter.name}.json", RUNS / f"{starter.name}.measured.json"
    folder, spent = out / starter.place, dict[str, float]()
    made.parent.mkdir(parents=True, exist_ok=True)
    if made.is_file():
        spent = json.loads(made.read_text(encoding="utf-8"))
    for step in [step for step in STEPS if step in steps]:
        before = time.process_time()
        if step == "prepare":
            shutil.rmtree(prepared, ignore_errors=True)
            prepared.mkdir(parents=True)
            starter.prepare(raw, prepared)
        elif step == "train":
            starter.build(raw, run) if starter.build else train(starter)
        elif step == "export":
            folder = export(starter, run, prepared, out)
        elif step == "measure":
            numbers.write_text(starter.measure(folder, prepared).to_json() + "\n", encoding="utf-8")
        else:
            how = Made((spent.get("prepare", 0) + spent.get("train", 0)) / 60, 1)
            measured = Measured.from_json(numbers.read_text(encoding="utf-8"))
            print(write(starter, how, measured, folder))
            index(out / "index.json", starter.name, entry(starter, how, measured, folder))
        spent[step] = time.process_time() - before
        made.write_text(json.dumps(spent) + "\n", encoding="utf-8")
        print(f"{starter.name}: {step} took {spent[step] / 60:.1f} minutes of CPU time", flush=True)


def main() -> None:
    known = starters()
    parser = argparse.ArgumentParser(description="Make a starter: prepare, train, export, measure.")
    parser.add_argument("name", nargs="+", choices=sorted(known), metavar="NAME", help=f"one or more of {', '.join(sorted(known))}")
    parser.add_argument("--data", type=Path, required=True, help="folder of the raw data sets")
    parser.add_argument("--out", type=Path, default=Path("hunmin/starters"))
    parser.add_argument("--only", choices=STEPS, action="append", help="this step alone (may be repeated)")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs a hub
    for name in asked.name:
        make(known[name], asked.data, asked.out, tuple(asked.only or STEPS))


if __name__ == "__main__":
    main()
