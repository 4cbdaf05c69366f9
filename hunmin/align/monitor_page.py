"""What the monitor adds to a run's report: reward and side metrics over time and against the KL, where they part, and samples over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from hunmin.errors import say
from hunmin.train.charts import chart, number

if TYPE_CHECKING:
    from hunmin.align.monitor import Monitor

LONGEST, MOST = 600, 6  # characters of a sample, and columns of samples


def sections(monitor: Monitor) -> list[tuple[str, str]]:
    """Titles and HTML. Nothing before the first rollout."""
    from hunmin.align.monitor import PLOTTED

    if not monitor.kept["points"]:
        return []
    held = list(dict.fromkeys(name for point in monitor.kept["heldout"] for name in point if name != "step"))
    names = [*monitor.side, *held, *PLOTTED]
    across, against = say("step", "단계"), say("KL to the reference (nats a completion)", "기준 모델과의 KL (완성당 nat)")
    marks = {name: found.step for name, found in monitor.parted.items()}
    over = [chart("reward", {"reward": monitor.series("reward")}, across, marks=marks)]
    over += [chart(name, {name: monitor.series(name)}, across, marks={k: v for k, v in marks.items() if k == name}) for name in names]
    paired = [chart(f"{name} / KL", {f"{name} / KL": _against_kl(monitor, name)}, against) for name in ("reward", *monitor.side)]
    return [
        (say("Reward and what it costs", "보상과 그 대가"), _verdict(monitor) + _charts([*paired, *over])),
        (say("Samples over time", "시간에 따른 샘플"), _samples(monitor.kept["samples"])),
    ]


def _charts(drawn: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(drawn)}</div>'


def _against_kl(monitor: Monitor, name: str) -> list[tuple[float, float]]:
    return sorted((point["kl"], point[name]) for point in monitor.kept["points"] if "kl" in point and name in point)


def _verdict(monitor: Monitor) -> str:
    """What has parted, as a table, and what ended the run."""
    lines = [f"<p>{escape(say('Stopped on: ', '멈춘 조건: ') + monitor.stopped)}</p>"] if monitor.stopped else []
    if not monitor.parted:
        return "".join(lines) + f"<p>{escape(say('Nothing has parted from the reward.', '보상과 갈라진 지표가 없습니다.'))}</p>"
    titles = say("metric", "지표"), say("parts at step", "갈라진 단계"), say("reward", "보상"), say("metric then", "그때 지표")
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{found.step:g}</td><td>{_change(found.reward)}</td><td>{_change(found.metric)}</td></tr>"
        for name, found in monitor.parted.items()
    )
    return "".join(lines) + f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _change(values: tuple[float, float]) -> str:
    return f"{number(values[0])} → {number(values[1])}"


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    """The same prompts at several steps, side by side; of many steps some, the first and the last always."""
    if not samples:
        return ""
    if len(samples) > MOST:
        samples = [samples[round(i * (len(samples) - 1) / (MOST - 1))] for i in range(MOST)]
    head = "".join(f"<th>{escape(say('step', '단계'))} {sample['step']}</th>" for sample in samples)
    lines = [[prompt, *(sample["texts"][i] for sample in samples)] for i, prompt in enumerate(samples[0]["prompts"])]
    rows = "".join(f"<tr>{''.join(f'<td>{_cut(text)}</td>' for text in line)}</tr>" for line in lines)
    title = escape(say("prompt", "프롬프트"))
    return f'<div class="wide"><table><thead><tr><th>{title}</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cut(text: str) -> str:
    return escape(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")
