"""``report.html``: what a run was, and how it went, on one page that needs nothing else.

No script, no font, no picture from elsewhere; the page itself forbids it. Whatever comes from users or data is escaped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from hunmin.errors import language, logger, say
from hunmin.train import facts
from hunmin.train.arguments import TrainingArguments
from hunmin.train.callbacks import TrainerCallback
from hunmin.train.charts import chart, number
from hunmin.train.parallel import data_world
from hunmin.train.state import TrainerControl, TrainerState
from hunmin.train.trackers import ENERGY

REPORT, KEPT = "report.html", "report"  # the file, and its measurements in ``state.callbacks``
NOT_CURVES = ("epoch", "step", "learning_rate", "grad_norm", "total_flos", "train_loss")
SPEEDS = ("runtime", "samples_per_second", "steps_per_second")

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1c2024;--soft:#60646c;--rule:#e3e5e8;--card:#f7f8f9;
--c0:#2463c9;--c1:#c4560a;--c2:#17794f;--c3:#7d44b8;--c4:#b0275d;--c5:#5c6672}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--ink:#e8eaed;--soft:#9ba1a9;--rule:#2d3136;--card:#1c1f23;
--c0:#7fb0ff;--c1:#ff9f59;--c2:#5bc796;--c3:#c39af2;--c4:#f286ab;--c5:#a9b3bf}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:66rem;padding:2rem 1.25rem 4rem;background:var(--bg);color:var(--ink);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Apple SD Gothic Neo","Malgun Gothic","Noto Sans KR","Noto Sans CJK KR",sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2.5rem 0 .75rem}h3{font-size:.95rem;margin:1.25rem 0 .25rem}
p{margin:.25rem 0;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.75rem;margin:1.5rem 0 0}
.tiles div{background:var(--card);border-radius:.5rem;padding:.6rem .8rem}
.tiles dt{color:var(--soft);font-size:.8rem}.tiles dd{margin:0;font-size:1.2rem;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.5rem}
figure{margin:0;min-width:0;max-width:40rem}figcaption{font-size:.85rem;display:flex;flex-wrap:wrap;gap:.1rem .9rem;align-items:baseline}
.key{color:var(--soft);white-space:nowrap}.key b{color:var(--ink);font-weight:500;font-variant-numeric:tabular-nums}
.key i{display:inline-block;width:.8em;height:.2em;margin-right:.4em;vertical-align:.25em;background:currentColor}
svg{display:block;width:100%;height:auto}.grid{stroke:var(--rule)}.tick,.axis{fill:var(--soft);font-size:11px}
.mark{stroke:var(--c4);stroke-dasharray:4 3}
.line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}.pale{stroke-opacity:.35;stroke-width:1}
circle{fill:currentColor}.hit circle,circle.near{fill:transparent}
g:hover circle:first-child{fill:currentColor;stroke:currentColor;stroke-width:3}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem}
th,td{text-align:left;vertical-align:top;padding:.25rem 1.25rem .25rem 0;border-bottom:1px solid var(--rule)}
th{font-weight:500;color:var(--soft);white-space:nowrap}td{white-space:pre-wrap;overflow-wrap:anywhere}
table.numbers td,table.numbers th{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
details{margin:.75rem 0}summary{cursor:pointer;color:var(--soft);font-size:.85rem}
@media print{body{max-width:none}details{display:none}}
"""


class ReportCallback(TrainerCallback):
    """Measures speed and memory while a run goes on, and writes ``report.html`` in ``output_dir`` at its end.

    Measurements are kept in the state and so in checkpoints: a run that goes on has one report over all of it. An evaluation after the run
    is added. A report that cannot be written is a warning, never the end of a run.
    """

    def __init__(self) -> None:
        self.mark = self.started = 0.0
        self.busy, self.tokens, self.rows, self.ended = 0.0, 0, 0, False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        kept = state.callbacks.setdefault(KEPT, {"measured": [], "seconds": 0.0, "busy": 0.0, "begun": []})
        kept["begun"].append(datetime.now().astimezone().isoformat(timespec="seconds"))
        self.mark = self.started = time.perf_counter()
        self.earlier = kept["seconds"]
        self.busy, self.ended = 0.0, False
        self.tokens, self.rows = state.num_input_tokens_seen, state.num_input_rows_seen

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now, kept = time.perf_counter(), state.callbacks[KEPT]
        spent, self.mark = now - self.mark, now
        self.busy += spent
        kept["busy"] += spent
        kept["seconds"] = self.earlier + now - self.started

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **about: Any) -> None:
        self.mark = time.perf_counter()  # evaluations and checkpoints do not count as training
        if self.ended:
            self._write(args, state, about)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.mark = time.perf_counter()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        rows = state.num_input_rows_seen - self.rows
        if self.busy <= 0 or not rows or KEPT not in state.callbacks:
            return
        world, tokens = data_world(args), state.num_input_tokens_seen - self.tokens
        speeds = {"rows": world * rows / self.busy} | ({"tokens": world * tokens / self.busy} if tokens else {})
        state.callbacks[KEPT]["measured"].append({"step": state.global_step, **speeds, **facts.memory(args.device)})
        self.busy, self.tokens, self.rows = 0.0, state.num_input_tokens_seen, state.num_input_rows_seen

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **about: Any) -> None:
        self.ended = True
        self._write(args, state, about)

    def _write(self, args: TrainingArguments, state: TrainerState, about: Mapping[str, Any]) -> None:
        if not state.is_world_process_zero:
            return
        try:
            path = Path(args.output_dir) / REPORT
            text = report(args, state, about["trainer"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except Exception as error:  # a data set's own code runs here too
            cause = f"{type(error).__name__}: {error}"
            logger.warning(say(f"The report was not written: {cause}", f"보고서를 쓰지 못했습니다: {cause}"))


def report(args: TrainingArguments, state: TrainerState, trainer: Any) -> str:
    """The page, as HTML."""
    title = say("Training report", "학습 보고서")
    datasets = facts.parts(trainer.train_dataset, "train") | facts.parts(trainer.eval_dataset, "eval")
    model = facts.model(trainer.model)
    begun = state.callbacks.get(KEPT, {}).get("begun", [])
    resumed = say(f", resumed {len(begun) - 1} times", f", {len(begun) - 1}번 이어서 학습") if len(begun) > 1 else ""
    changed, usual = facts.settings(args)
    config: Any = getattr(trainer.model, "config", None)
    rest = config.to_dict() if hasattr(config, "to_dict") else {}
    named = escape(" · ".join((args.run_name or args.output_dir, str(next(iter(model.values()))))))
    body = [
        f"<header><h1>{title}</h1><p>{named}</p><p>{escape(', '.join(begun[:1]))}{escape(resumed)}</p></header>",
        _tiles(summary(args, state)),
        _section(say("Curves", "곡선"), _charts(args, state, list(facts.parts(trainer.eval_dataset, "eval")))),
        *(_section(title, content) for title, content in _told(args, state, trainer)),
        _section(say("Evaluations", "평가"), _evaluations(state)),
        _section(say("Settings", "설정"), _table(changed) + _more(say("Settings left at their defaults", "기본값 그대로인 설정"), usual)),
        _section(say("Data", "데이터"), "".join(_dataset(name, part, trainer.processing_class) for name, part in datasets.items())),
        _section(say("Model", "모델"), _table(model) + _more(say("Configuration", "구성"), rest)),
        _section(say("Environment", "환경"), _table(facts.machine(args) | facts.versions())),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="{language()}"><head><meta charset="utf-8"><title>{title}: {escape(Path(args.output_dir).name)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(part for part in body if part) + "\n</body></html>\n"
    )


def summary(args: TrainingArguments, state: TrainerState) -> dict[str, str]:
    """The numbers on top of the page."""
    last: dict[str, Any] = {}
    for logs in state.log_history:
        last |= logs
    kept = state.callbacks.get(KEPT, {})
    used: dict[str, float] = {}
    for row in kept.get("measured", []):
        used |= row
    busy, world, mean = kept.get("busy"), data_world(args), last.get("train_loss", last.get("loss"))
    decides, best = args.metric_for_best_model or "loss", state.best_metric
    rows, tokens = state.num_input_rows_seen, state.num_input_tokens_seen
    tiles: dict[str, str | None] = {
        say("Steps", "단계"): f"{state.global_step:,}" + (f" / {state.max_steps:,}" if state.global_step < state.max_steps else ""),
        say("Epochs", "에폭"): number(state.epoch),
        say("Mean training loss", "평균 학습 손실"): number(mean) if mean is not None else None,
        say(f"Best {decides}", f"최고 {decides}"): number(best) if best is not None else None,
        say("Time", "시간"): duration(kept.get("seconds", 0.0)),
        say("Rows a second", "초당 행"): number(world * rows / busy) if busy and rows else None,
        say("Tokens a second", "초당 토큰"): number(world * tokens / busy) if busy and tokens else None,
        say("Peak memory", "최대 메모리"): facts.size(used["rss"]) if "rss" in used else None,
        say("Peak GPU memory", "최대 GPU 메모리"): facts.size(used["gpu"]) if "gpu" in used else None,
    }
    for name, title in (("cpu", say("Processor energy", "프로세서 에너지")), ("gpu", say("GPU energy", "GPU 에너지"))):
        kwh = state.callbacks.get(ENERGY, {}).get(name)
        tiles[title] = f"{number(1000 * kwh)} Wh" if kwh is not None else None
    return {name: value for name, value in tiles.items() if value is not None}


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if seconds >= 60 else f"{seconds:.1f} s"


def curves(history: Iterable[Mapping[str, Any]], prefixes: Iterable[str]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Metric -> series ("train", or an evaluation's name) -> ``(step, value)``, from what was logged; speeds and totals left out.

    ``prefixes`` are names of evaluations, such as "eval" or "eval dev"; their metrics are logged as "eval_dev_loss".
    """
    known = sorted({*prefixes, "eval", "test"}, key=len, reverse=True)
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for logs in history:
        for key, value in logs.items():
            name = next((name for name in known if key.startswith(name.replace(" ", "_", 1) + "_")), "train")
            metric = key if name == "train" else key[len(name) + 1 :]
            if (
                key in NOT_CURVES
                or metric.removeprefix("train_") in SPEEDS
                or isinstance(value, bool)
                or not isinstance(value, int | float)
            ):
                continue
            found.setdefault(metric, {}).setdefault(name, []).append((logs["step"], float(value)))
    return found


# -------------------------------------------------------------- parts of the page


def _told(args: TrainingArguments, state: TrainerState, trainer: Any) -> Iterable[tuple[str, str]]:
    """Titles and HTML of callbacks that have ``sections(args, state)``."""
    for callback in trainer.callback_handler.items:
        if hasattr(callback, "sections"):
            yield from callback.sections(args, state)


def _charts(args: TrainingArguments, state: TrainerState, evaluations: list[str]) -> str:
    """All curves, and a sentence when there is none of the loss."""
    measured, across = state.callbacks.get(KEPT, {}).get("measured", []), say("step", "단계")

    def over(rows: Iterable[Mapping[str, Any]], key: str, scale: float = 1.0) -> list[tuple[float, float]]:
        return [(row["step"], row[key] * scale) for row in rows if isinstance(row.get(key), int | float)]

    found = sorted(curves(state.log_history, evaluations).items(), key=lambda item: item[0] != "loss")
    drawn = [chart(metric, {"train": [], **series}, across) for metric, series in found]
    rate, norm = say("learning rate", "학습률"), say("gradient norm", "기울기 크기")
    drawn += [chart(rate, {rate: over(state.log_history, "learning_rate")}, across)]
    drawn += [chart(norm, {norm: over(state.log_history, "grad_norm")}, across)]
    drawn += [
        chart(title, {title: over(measured, key)}, across)
        for key, title in (("rows", say("rows a second", "초당 행")), ("tokens", say("tokens a second", "초당 토큰")))
    ]
    process, tensors = say("process", "프로세스"), say("GPU tensors", "GPU 텐서")
    used = {process: over(measured, "rss", 2**-30), tensors: over(measured, "gpu", 2**-30)}
    drawn += [chart(say("peak memory (GiB)", "최대 메모리 (GiB)"), used, across)]
    steps = args.logging_steps
    note = (
        ""
        if any("loss" in logs for logs in state.log_history)
        else say(f"No losses were logged: logging_steps is {steps}.", f"기록된 손실이 없습니다. logging_steps가 {steps}입니다.")
    )
    return (f"<p>{escape(note)}</p>" if note else "") + f'<div class="charts">{"".join(drawn)}</div>'


def _evaluations(state: TrainerState) -> str:
    """A row for every evaluation that was logged, those of one step together; of very many the last hundred."""
    rows: list[dict[str, Any]] = []
    for logs in state.log_history:
        found = {key: value for key, value in logs.items() if key.startswith(("eval_", "test_")) and not key.endswith("_per_second")}
        if found and rows and rows[-1]["step"] == logs["step"] and not found.keys() & rows[-1].keys():
            rows[-1] |= found
        elif found:
            rows.append({"step": logs["step"], "epoch": logs.get("epoch"), **found})
    rows = rows[-100:]
    names = list(dict.fromkeys(key for row in rows for key in row if key not in ("step", "epoch")))
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in (say("step", "단계"), say("epoch", "에폭"), *names))
    lines = ([row["step"], row.get("epoch"), *(row.get(name) for name in names)] for row in rows)
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return escape(number(value) if isinstance(value, float) else str(value))


def _dataset(name: str, dataset: Any, tokenizer: Any) -> str:
    return f"<h3>{escape(name)}</h3>{_table(facts.data(dataset, tokenizer))}"


def _tiles(values: Mapping[str, str]) -> str:
    return f'<dl class="tiles">{"".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items())}</dl>'


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(str(k))}</th><td>{escape(str(v))}</td></tr>' for k, v in values.items())
    return f'<div class="wide"><table>{rows}</table></div>' if rows else ""


def _more(title: str, values: Mapping[str, Any]) -> str:
    return f"<details><summary>{escape(title)} ({len(values)})</summary>{_table(values)}</details>" if values else ""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""
