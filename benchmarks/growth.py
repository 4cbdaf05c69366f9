"""How time and memory of a Llama-shaped model grow: with sequence length, batch, model size and threads, beside
transformers, all in bfloat16.

    python benchmarks/growth.py [--runs N] [--quick]

Weights are random; the shapes are those of SmolLM2-135M, -360M and -1.7B. Reading is the time to the first token,
decoding the time of further
ones. Every line of points is measured in a process of its own, in growing order, so that the peak of its memory belongs to the newest
point. Prints tables for docs/performance.md, and writes plots to docs/assets (with --quick to build/). Needs 4.5 GB
of disk for a while, and
8 GB of memory.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypedDict

from common import ROOT, calm, endless, fresh, machine, memory, options

SIZES = {  # hidden, layers, heads, heads of keys and values, feed-forward
    "135M": (576, 30, 9, 3, 1536),
    "360M": (960, 32, 15, 5, 2560),
    "1.7B": (2048, 24, 32, 32, 8192),
}
WORDS, POSITIONS = 49152, 8192
LIBRARIES = ("Hunmin", "transformers")


class Series(TypedDict):
    """Points that one process measures for each library."""

    name: str
    size: str
    threads: int
    points: list[tuple[int, int]]  # (batch, tokens of a row in all)


class Point(TypedDict):
    read: float  # seconds to the first token
    step: float  # seconds of a further step
    peak: float  # MB


# ---------------------------------------------------------------- the process that measures


def build(size: str, folder: Path) -> None:
    """Write a model with random bfloat16 weights, each drawn in place: never more than its own size is held."""
    import torch

    import hunmin
    from hunmin.model import PreTrainedModel

    hidden, layers, heads, pairs, inner = SIZES[size]
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": pairs}
    more = {"intermediate_size": inner, "vocab_size": WORDS, "max_position_embeddings": POSITIONS, "tie_word_embeddings": True}
    with torch.device("meta"):
        model = PreTrainedModel(hunmin.AutoConfig.for_model("llama", **shape, **more), "CausalLM")
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            new = torch.empty(old.shape, dtype=torch.bfloat16)
            setattr(module, name, torch.nn.Parameter(new.fill_(1) if new.ndim == 1 else new.normal_(std=0.02)))
    model.tie_weights()
    model.save_pretrained(folder)


def load(library: str, folder: str) -> Any:
    import torch

    if library == "Hunmin":
        import hunmin as used
    else:
        import transformers as used  # type: ignore[no-redef]
    return endless(used.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16))


def measure(library: str, folder: str, points: list[tuple[int, int]], threads: int, runs: int, new: int) -> list[Point]:
    """Medians of every point, after a short warm-up."""
    import torch

    calm(threads)
    model = load(library, folder)

    def generate(ids: torch.Tensor, count: int) -> list[float]:
        """When each new token was there, in seconds since the call."""
        start, times = time.perf_counter(), list[float]()

        def seen(found: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            times.append(time.perf_counter() - start)
            return torch.zeros(len(found), dtype=torch.bool)

        watch: Any = [seen]
        mask = torch.ones_like(ids)
        model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=count, pad_token_id=0, stopping_criteria=watch)
        return times

    out: list[Point] = []
    torch.manual_seed(0)
    generate(torch.randint(WORDS, (1, 16)), 3)
    for batch, length in points:
        ids = torch.randint(WORDS, (batch, length - new))
        found = [generate(ids, new + 1) for _ in range(runs)]
        steps = [after - before for times in found for before, after in pairwise(times)]
        out.append({"read": statistics.median(times[0] for times in found), "step": statistics.median(steps), "peak": memory()})
    return out


# ---------------------------------------------------------------- tables and plots


def plan(threads: int, quick: bool) -> Iterator[Series]:
    """What is measured, line by line."""
    lengths = (64, 128) if quick else (256, 512, 1024, 2048, 4096, 8192)
    batches, row = ((1, 2), 48) if quick else ((1, 4, 16, 64), 96)
    yield {"name": "sequence", "size": "135M", "threads": threads, "points": [(1, n) for n in lengths]}
    yield {"name": "batch", "size": "135M", "threads": threads, "points": [(b, row) for b in batches]}
    for size in list(SIZES)[: 2 if quick else None]:
        yield {"name": "size", "size": size, "threads": threads, "points": [(1, 64 if quick else 256)]}
    for count in (1, 2):
        yield {"name": "threads", "size": "135M", "threads": count, "points": [(1, 64 if quick else 512)]}


def label(series: Series, point: tuple[int, int]) -> int | str:
    """The value that the series varies."""
    match series["name"]:
        case "sequence":
            return point[1]
        case "batch":
            return point[0]
        case "size":
            return series["size"]
        case _:
            return series["threads"]


HEADS = {"sequence": "tokens in a row", "batch": "rows of {row} tokens", "size": "parameters", "threads": "threads"}
Rows = dict[int | str, dict[str, Point]]


def markdown(name: str, rows: Rows, counts: dict[int | str, tuple[int, int]], new: int) -> str:
    """A table: prompt tokens a second, new tokens a second and MB, for both libraries."""
    head = HEADS[name].format(row=next(iter(counts.values()))[1])
    lines = [
        f"| {head} | " + " | ".join(f"{what}, {who}" for what in ("read, tok/s", "decode, tok/s", "peak MB") for who in LIBRARIES) + " |"
    ]
    lines.append("|" + "---|" * 7)
    for value, found in rows.items():
        batch, length = counts[value]
        cells = [f"{batch * (length - new) / found[who]['read']:,.0f}" for who in LIBRARIES]
        cells += [f"{batch / found[who]['step']:,.1f}" for who in LIBRARIES]
        cells += [f"{found[who]['peak']:,.0f}" for who in LIBRARIES]
        lines.append(f"| {value:,} | " if isinstance(value, int) else f"| {value} | ")
        lines[-1] += " | ".join(cells) + " |"
    return "\n".join(lines)


def plot(name: str, rows: Rows, path: Path) -> None:
    """Three panels: seconds to the first token, milliseconds of a step, peak of memory."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    panels: tuple[tuple[Literal["read", "step", "peak"], str, float], ...] = (
        ("read", "to the first token, s", 1.0),
        ("step", "a further step, ms", 1000.0),
        ("peak", "peak memory, MB", 1.0),
    )
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 2.9), layout="constrained")
    ticks = list(rows)
    places = [float(value) if isinstance(value, int) else float(value[:-1]) * {"M": 1, "B": 1000}[value[-1]] for value in ticks]
    for axis, (key, title, scale) in zip(axes, panels, strict=True):
        for who, colour, mark in zip(LIBRARIES, ("#1b6ca8", "#d1781f"), "os", strict=True):
            heights = [rows[value][who][key] * scale for value in ticks]
            axis.plot(places, heights, marker=mark, markersize=4, color=colour, label=who)
        axis.set_xscale("log", base=2)
        axis.set_xticks(places, [f"{value:,}" if isinstance(value, int) else value for value in ticks])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_title(title, loc="left", fontsize=9)
        axis.set_xlabel(HEADS[name].split(" of ")[0])
        axis.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes[0].legend(frameon=False, loc="upper left")
    path.mkdir(parents=True, exist_ok=True)
    figure.savefig(path / f"growth-{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps({"points": measure(**json.loads(sys.argv[2]))}))
        return
    given = options(__doc__, runs=(1, 1), new=(16, 4))
    rows: dict[str, Rows] = {}
    counts: dict[str, dict[int | str, tuple[int, int]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for series in plan(given.threads, given.quick):
            folder = Path(place) / series["size"]
            if not folder.exists():
                build(series["size"], folder)
            for library in LIBRARIES:
                asked = {"library": library, "folder": str(folder), "points": series["points"], "threads": series["threads"]}
                command = [str(Path(__file__)), "--one", json.dumps({**asked, "runs": given.runs, "new": given.new})]
                for point, found in zip(series["points"], fresh(command, series["threads"])["points"], strict=True):
                    value = label(series, point)
                    rows.setdefault(series["name"], {}).setdefault(value, {})[library] = found
                    counts.setdefault(series["name"], {})[value] = point
            print(f"  {series['name']}: {series['size']}, {series['threads']} threads: done", file=sys.stderr, flush=True)
    calm(given.threads)
    print(machine(given.threads))
    for name, found in rows.items():
        print(f"\n{markdown(name, found, counts[name], given.new)}", flush=True)
        if name != "threads":  # two values are a table
            plot(name, found, ROOT / ("build" if given.quick else "docs/assets"))


if __name__ == "__main__":
    main()
