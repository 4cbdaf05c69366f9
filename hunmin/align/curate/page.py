"""What curation left out, as one HTML page that needs nothing else; it looks as the reports of training do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from hunmin.errors import language, say
from hunmin.train.charts import chart, number
from hunmin.train.report import STYLE, duration

if TYPE_CHECKING:
    from hunmin.align.curate.run import Curated, Done, Sample

BINS = 30


def page(curated: Curated) -> str:
    """The page, as HTML. Texts of the data are escaped; the page allows no script."""
    title = say("Curation report", "데이터 정제 보고서")
    left = len(curated.rows)
    tiles = {
        say("Rows read", "읽은 행"): f"{curated.before:,}",
        say("Rows kept", "남은 행"): f"{left:,}",
        say("Share kept", "남은 비율"): f"{left / max(1, curated.before):.1%}",
        say("Time", "시간"): duration(sum(step.seconds for step in curated.steps)),
    }
    body = [
        f"<header><h1>{title}</h1><p>{escape(curated.recipe.output)}</p></header>",
        f'<dl class="tiles">{"".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in tiles.items())}</dl>',
        f"<section><h2>{say('Steps', '단계')}</h2>{_overview(curated.steps)}</section>",
        *(_step(place, step) for place, step in enumerate(curated.steps, 1)),
        f"<section><h2>{say('Recipe', '레시피')}</h2>{_recipe(curated)}</section>",
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="{language()}"><head><meta charset="utf-8"><title>{title}: {escape(curated.recipe.output)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _overview(steps: Sequence[Done]) -> str:
    titles = (say("step", "단계"), say("before", "전"), say("dropped", "제외"), say("after", "후"), say("seconds", "초"))
    rows = [(step.name, f"{step.before:,}", f"{step.before - step.after:,}", f"{step.after:,}", number(step.seconds)) for step in steps]
    return _table(titles, rows, numbers=True)


def _step(place: int, step: Done) -> str:
    gone = step.before - step.after
    reasons = [(reason, f"{count:,}", f"{count / max(1, step.before):.1%}") for reason, count in step.reasons.most_common()]
    parts = [
        f"<p>{escape(', '.join(f'{name}: {value}' for name, value in step.facts.items()))}</p>" if step.facts else "",
        _table((say("reason", "이유"), say("rows", "행"), say("share", "비율")), reasons),
        f'<div class="charts">{_histogram(step)}</div>',
        _samples(say("Dropped", "제외한 예"), step.samples, opened=True),
        _samples(say("Kept", "남긴 예"), step.kept, opened=False),
    ]
    return f"<section><h2>{place}. {escape(step.name)} (−{gone:,})</h2>{''.join(parts)}</section>"


def _histogram(step: Done) -> str:
    """How the measure of a step is spread over rows that stayed and rows that went."""
    values = sorted(value for value, _ in step.scores)
    if len(values) < 2 or values[0] == values[-1]:
        return ""
    low, high = values[0], values[min(len(values) - 1, int(0.99 * len(values)))]  # a few extremes would hide the rest
    high = high if high > low else values[-1]
    width = (high - low) / BINS
    series = {say("kept", "남음"): [0] * BINS, say("dropped", "제외"): [0] * BINS}
    kept, gone = series.values()
    for value, stays in step.scores:
        (kept if stays else gone)[min(BINS - 1, int((value - low) / width))] += 1
    points = {
        name: [(low + (place + 0.5) * width, float(count)) for place, count in enumerate(bins)]
        for name, bins in series.items()
        if any(bins)
    }
    return chart(say("rows by score", "점수별 행 수"), points, say("score", "점수"))


def _samples(title: str, samples: Iterable[Sample], *, opened: bool) -> str:
    rows = [(sample.reason or "–", "" if sample.score is None else number(sample.score), sample.text) for sample in samples]
    if not rows:
        return ""
    inner = _table((say("reason", "이유"), say("score", "점수"), say("text", "텍스트")), rows)
    return f"<details{' open' if opened else ''}><summary>{escape(title)} ({len(rows)})</summary>{inner}</details>"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="numbers"' if numbers else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _recipe(curated: Curated) -> str:
    """Every setting that is set."""
    rows: list[tuple[str, str]] = []

    def walk(value: Any, name: str) -> None:
        if dataclasses.is_dataclass(value):
            for item in dataclasses.fields(value):
                walk(getattr(value, item.name), f"{name}.{item.metadata.get('key', item.name)}" if name else item.name)
        elif value is not None:
            rows.append((name, str(value)))

    recipe = curated.recipe
    for item in dataclasses.fields(recipe):
        if item.name != "steps":
            walk(getattr(recipe, item.name), item.name)
    for place, part in enumerate(recipe.steps, 1):
        for name, step in part.chosen():
            walk(step, f"{place}.{name}")
    return _table((say("setting", "설정"), say("value", "값")), rows)
