"""A curation recipe carried out: steps one after another, what each left out and why, and the rows that stay."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hunmin.align.curate.steps import Columns, Language, Length, NearDuplicates, Perplexity, Quality, Step
from hunmin.align.files import read_rows, write_rows
from hunmin.align.formats import Kind, Row
from hunmin.errors import InputError, SourceError, say
from hunmin.train.recipe.checks import Place, build, parse, read_text
from hunmin.train.recipe.schema import override

SHOWN = 400  # characters of a sample


@dataclass
class StepPart:
    """One kind of step, with its settings."""

    near_duplicates: NearDuplicates | None = None
    language: Language | None = None
    length: Length | None = None
    perplexity: Perplexity | None = None
    quality: Quality | None = None

    def chosen(self) -> list[tuple[str, Step]]:
        """The kinds that are named."""
        held = ((item.name, getattr(self, item.name)) for item in dataclasses.fields(self))
        return [(name, step) for name, step in held if step is not None]


@dataclass
class Recipe:
    """What to read, what to leave out, and where the rest goes."""

    steps: list[StepPart]
    data: str | list[str] | None = None  # files or patterns; the command line names them instead
    output: str = "curated.jsonl"
    report: str | None = None  # a page (.html); otherwise beside the output
    dropped: str | None = None  # a file for the rows that went, with step and reason
    kind: Kind | None = None  # read the rows as sft, preference, unpaired or prompts first
    text: Columns = None  # the columns that steps look at; otherwise all texts of a row
    samples: int = 5  # of what each step left out


@dataclass
class Sample:
    """A text, why it went, and what was measured of it."""

    text: str
    reason: str
    score: float | None


@dataclass
class Done:
    """What a step did. ``scores``: of every row, and whether it stayed."""

    name: str
    before: int
    after: int
    seconds: float
    reasons: Counter[str]
    samples: list[Sample]
    kept: list[Sample]
    scores: list[tuple[float, bool]]
    facts: dict[str, str]


@dataclass
class Curated:
    """The rows that stayed, and what each step did."""

    rows: list[Row]
    before: int
    steps: list[Done]
    recipe: Recipe
    dropped: list[Row] = field(default_factory=list[Row])
    report: Path | None = None


def read(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file or a dictionary. Raises InputError for what it cannot say, with its place."""
    if isinstance(source, Mapping):
        values, place = dict(source), Place("recipe")
    else:
        values, lines = parse(read_text(Path(source)), Path(source).name)
        place = Place(Path(source).name, lines=lines)
    if isinstance(values, dict):
        override(cast("dict[str, Any]", values), overrides, place)
    recipe = build(Recipe, values, place)
    if not recipe.steps:
        raise (place / "steps").error("needs a step.", "단계가 하나 이상 필요합니다.")
    for number, part in enumerate(recipe.steps):
        if len(part.chosen()) != 1:
            raise (place / "steps" / number).error("names one kind of step.", "단계 종류를 하나만 적으세요.")
    return recipe


def run(recipe: Any, data: Sequence[str] | str | None = None, overrides: Sequence[str] = (), *, write: bool = True) -> Curated:
    """Carry out a recipe (a :class:`Recipe`, a YAML file or a dictionary) on ``data`` or the data that it names.

    The output is written at the end, whole or not at all. Raises InputError for rows and settings that do not fit, and as the steps do.
    """
    made = recipe if isinstance(recipe, Recipe) else read(recipe, overrides)
    wanted = data if data is not None else made.data
    sources = [wanted] if isinstance(wanted, str) else list(wanted or [])
    if not sources:
        raise InputError(
            say(
                "Name the data: hunmin curate DATA RECIPE, or data: in the recipe.",
                "데이터를 적으세요: hunmin curate DATA RECIPE 또는 레시피의 data:.",
            )
        )
    rows = [row for source in sources for row in read_rows(source)]
    if made.kind is not None:
        from hunmin.align.shapes import convert

        rows = convert(rows, made.kind)
    if not rows:
        raise InputError(say("There is no row in this data.", "데이터에 행이 없습니다."))
    curated = Curated(rows, len(rows), [], made)
    for part in made.steps:
        _step(curated, *part.chosen()[0])
    if write:
        _write(curated)
    return curated


def _step(curated: Curated, name: str, step: Step) -> None:
    begun, rows = time.perf_counter(), curated.rows
    texts = [step.of(row, curated.recipe.text) for row in rows]
    found = step.judge(rows, texts) if rows else None
    reasons = found.reasons if found is not None else []
    scores: list[float | None] = found.scores if found is not None else []
    samples = [Sample(text[:SHOWN], reason or "", score) for text, reason, score in zip(texts, reasons, scores, strict=True)]
    gone = [sample for sample in samples if sample.reason]
    curated.rows = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    curated.dropped += [
        {"step": name, "reason": reason, "row": row} for row, reason in zip(rows, reasons, strict=True) if reason is not None
    ]
    counted = Counter(sample.reason.partition(": ")[0] for sample in gone)
    done = Done(
        name=name,
        before=len(rows),
        after=len(curated.rows),
        seconds=time.perf_counter() - begun,
        reasons=counted,
        samples=_spread(gone, curated.recipe.samples),
        kept=_spread([sample for sample in samples if not sample.reason], min(3, curated.recipe.samples)),
        scores=[(sample.score, not sample.reason) for sample in samples if sample.score is not None],
        facts=found.facts if found is not None else {},
    )
    curated.steps.append(done)


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """``count`` of them from the whole length, every reason before the second of any."""
    if count < 1:
        return []
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.reason, sample)
    several = list(first.values()) if len(first) <= count else []
    others = [sample for sample in samples if not any(sample is one for one in several)]
    left = min(count - len(several), len(others))
    return several + [others[place * len(others) // left] for place in range(left)] if left > 0 else several


def _write(curated: Curated) -> None:
    from hunmin.align.curate.page import page

    recipe, output = curated.recipe, Path(curated.recipe.output)
    curated.report = Path(recipe.report) if recipe.report is not None else output.with_suffix(".html")
    write_rows(output, curated.rows)
    if recipe.dropped is not None:
        write_rows(recipe.dropped, curated.dropped)
    try:
        curated.report.parent.mkdir(parents=True, exist_ok=True)
        curated.report.write_text(page(curated), encoding="utf-8")
    except OSError as error:
        raise SourceError(
            say(f"{curated.report} cannot be written: {error.strerror}.", f"{curated.report}에 쓸 수 없습니다: {error.strerror}.")
        ) from error
