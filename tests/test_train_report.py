"""The report of a run, its curves, and model cards."""

from __future__ import annotations

import logging
import math
import random
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hunmin import InputError, TrainerCallback, TrainingArguments
from hunmin.train import facts
from hunmin.train.card import last_results, model_card
from hunmin.train.charts import averaged, chart, number, thinned, ticks
from hunmin.train.report import REPORT, ReportCallback, curves, duration, report
from hunmin.train.state import TrainerState
from hunmin.train.trackers import ENERGY
from tests.runs import rows, tiny, trainer

FINITE = st.floats(-1e12, 1e12).map(lambda value: 0.0 if abs(value) < 1e-9 else value)
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps their names, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.names: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def titles(self) -> list[str]:
        return [value for tag, name, value in self.attributes if tag == "svg" and name == "aria-label"]


def page(folder: Path) -> tuple[Page, str]:
    text = (folder / REPORT).read_text(encoding="utf-8")
    return Page(text), text


# -------------------------------------------------------------- curves


@given(FINITE, FINITE)
@settings(deadline=None)
def test_ticks_enclose_and_are_few(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    found = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), high - low)
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))


@given(st.lists(FINITE, min_size=1, max_size=3000))
@settings(deadline=None, max_examples=40)
def test_thinned_keeps_extremes_and_order(values: list[float]) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    kept = thinned(points)
    assert len(kept) <= 400
    assert kept == sorted(kept, key=lambda p: p[0]) and set(kept) <= set(points)
    assert {min(values), max(values)} <= {y for _, y in kept}
    assert len(points) > 400 or kept == points


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1.0, "1"), (0.12344, "0.1234"), (9999.0, "9999"), (12345.0, "12.35k"), (2.5e6, "2.5M"), (3e9, "3G"), (5e-5, "5e-5"),
     (1.25e-7, "1.25e-7"), (-20000.0, "-20k"), (math.inf, "inf")],
)  # fmt: skip
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


@given(st.dictionaries(st.text(max_size=9), st.lists(st.tuples(st.integers(0, 99), st.floats(-1e9, 1e9) | st.just(math.nan)), max_size=60)))
@settings(deadline=None, max_examples=60)
def test_chart_is_well_formed_and_inside_its_frame(series: dict[str, list[tuple[float, float]]]) -> None:
    drawn = chart("<loss>", {name: sorted(points, key=lambda p: p[0]) for name, points in series.items()}, "step")
    finite = {name: [y for _, y in points if math.isfinite(y)] for name, points in series.items()}
    assert bool(drawn) == any(finite.values())
    if drawn:
        found = Page(drawn)
        assert found.names.count("polyline") == len(series)
        assert found.names.count("circle") == 2 * sum(map(len, finite.values()))
        places = [float(v) for tag, name, v in found.attributes if tag == "circle" and name in ("cx", "cy")]
        assert all(0 <= place <= 480 for place in places)


def test_many_points_have_a_mean_line() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    assert averaged(points[:400]) == []
    assert averaged(points) == [(i * 10 + 4.5, 0.5) for i in range(100)]
    drawn = Page(chart("loss", {"train": points, "eval": points[::100]}, "step"))
    assert [value for tag, name, value in drawn.attributes if tag == "polyline" and name == "class"] == [
        "line c0 pale",
        "line c0",
        "line c1",
    ]


def test_an_evaluation_without_training_keeps_its_colour() -> None:
    both, alone = chart("f1", {"train": [(1, 2)], "eval": [(1, 3)]}, "step"), chart("f1", {"train": [], "eval": [(1, 3)]}, "step")
    assert 'class="dot c1"' in both and 'class="dot c1"' in alone and "c0" not in re.sub(r"<polyline[^>]*>", "", alone)


def test_curves_pair_training_and_evaluations() -> None:
    history = [
        {"loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0, "epoch": 0.5, "step": 1},
        {"eval_loss": 1.5, "eval_accuracy": 0.5, "eval_runtime": 1.0, "eval_steps_per_second": 1.0, "epoch": 1.0, "step": 2},
        {"eval_dev_loss": 1.6, "eval_dev_samples_per_second": 3.0, "kl": 0.3, "epoch": 1.0, "step": 2},
        {"train_runtime": 3.0, "train_loss": 1.0, "train_samples_per_second": 4.0, "total_flos": 1.0, "epoch": 1.0, "step": 2},
    ]
    assert curves(history, ["eval dev"]) == {
        "loss": {"train": [(1, 2.0)], "eval": [(2, 1.5)], "eval dev": [(2, 1.6)]},
        "accuracy": {"eval": [(2, 0.5)]},
        "kl": {"train": [(2, 0.3)]},
    }


# -------------------------------------------------------------- the page


def test_a_run_leaves_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    run = trainer(tmp_path, run_name="first <try> & more")
    run.train()
    found, text = page(tmp_path)
    assert {"script", "link", "img", "iframe", "base"}.isdisjoint(found.names)
    assert not [value for _, name, value in found.attributes if name in ("src", "href", "style") or name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text and "prefers-color-scheme:dark" in text and "Malgun Gothic" in text
    assert escape("first <try> & more") in text and "<try>" not in text
    assert found.titles() == [
        "loss", "accuracy", "learning rate", "gradient norm", "rows a second", "tokens a second", "peak memory (GiB)"
    ]  # fmt: skip
    shown = set(found.text)
    assert {"SHA-256", "BertForSequenceClassification", "num_train_epochs", "torch"} <= shown | {
        w for t in shown for w in re.findall(r"[\w-]+", t)
    }
    assert text.index("num_train_epochs") < text.index("Settings left at their defaults") < text.index("weight_decay")
    assert f"{sum(p.numel() for p in run.model.parameters()):,}" in shown


def test_rows_and_tokens_are_counted_without_padding(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train()
    assert run.state.num_input_rows_seen == 2 * len(rows())
    assert run.state.num_input_tokens_seen == 2 * sum(len(row["input_ids"]) for row in rows())


def test_speed_leaves_out_evaluation_and_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 100.0, 103.0])  # begin, a step of 2 s, an evaluation, a step of 3 s
    monkeypatch.setattr("hunmin.train.report.time.perf_counter", lambda: next(clock))
    measures, args, state, control = ReportCallback(), TrainingArguments(tmp_path, use_cpu=True), TrainerState(), run_control()
    measures.on_train_begin(args, state, control)
    state.global_step, state.num_input_rows_seen, state.num_input_tokens_seen = 1, 20, 200
    measures.on_step_end(args, state, control)
    measures.on_log(args, state, control, logs={})
    measures.on_evaluate(args, state, control)
    state.global_step, state.num_input_rows_seen, state.num_input_tokens_seen = 2, 50, 500
    measures.on_step_end(args, state, control)
    measures.on_log(args, state, control, logs={})
    kept = state.callbacks["report"]
    assert [(m["step"], m["rows"], m["tokens"]) for m in kept["measured"]] == [(1, 10.0, 100.0), (2, 10.0, 100.0)]
    assert (kept["seconds"], kept["busy"]) == (103.0, 5.0)


def run_control() -> Any:
    from hunmin import TrainerControl

    return TrainerControl()


def test_a_resumed_run_has_one_report(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= state.global_step == 3

    steps = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "no"}
    trainer(tmp_path, callbacks=[Stop], **steps).train()
    assert ">3 / 4<" in page(tmp_path)[1]
    run = trainer(tmp_path, **steps)
    run.train(resume_from_checkpoint=True)
    assert [m["step"] for m in run.state.callbacks["report"]["measured"]] == [1, 2, 3, 4]
    found, text = page(tmp_path)
    assert "resumed 1 times" in text and ">4<" in text
    assert sum(f"(step {step})" in told for told in found.text for step in (1, 2, 3, 4) if told.startswith("train: ")) == 4


def test_an_evaluation_after_the_run_is_added(tmp_path: Path) -> None:
    run = trainer(tmp_path, eval_strategy="no")
    run.train()
    assert "accuracy" not in page(tmp_path)[0].titles()
    run.evaluate()
    assert "accuracy" in page(tmp_path)[0].titles()


def test_no_report_when_none_is_wanted(tmp_path: Path) -> None:
    trainer(tmp_path, html_report=False).train()
    assert not (tmp_path / REPORT).exists()


def test_nothing_logged_says_why(tmp_path: Path) -> None:
    trainer(tmp_path, logging_steps=500, eval_strategy="no").train()
    found, text = page(tmp_path)
    assert "loss" not in found.titles() and "rows a second" in found.titles()
    assert "No losses were logged: logging_steps is 500." in text


def test_a_report_that_fails_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / REPORT).mkdir()
    with caplog.at_level(logging.WARNING, "hunmin"):
        assert trainer(tmp_path).train().global_step == 4
    assert "The report was not written: IsADirectoryError" in caplog.text


def test_korean(tmp_path: Path, korean: None) -> None:
    trainer(tmp_path).train()
    found, text = page(tmp_path)
    assert '<html lang="ko">' in text and {"학습 보고서", "곡선", "평가", "설정", "데이터", "모델", "환경"} <= set(found.text)
    assert "학습률" in found.titles()


def test_energy_only_when_measured(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train()
    assert " Wh" not in report(run.args, run.state, run)
    run.state.callbacks[ENERGY] = {"gpu": 0.0123}
    text = Page(report(run.args, run.state, run)).text
    assert text[text.index("GPU energy") + 1] == "12.3 Wh" and "Processor energy" not in text


def test_several_evaluations_and_a_stream(tmp_path: Path) -> None:
    def stream() -> Any:
        yield from rows(40)

    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return stream()

    run = trainer(tmp_path, train_dataset=Stream(), eval_dataset={"ko": rows(4), "en": rows(4, 1)}, max_steps=2, eval_strategy="steps")
    run.train()
    found, text = page(tmp_path)
    assert {"eval ko", "eval en", "a stream"} <= {part.strip() for part in found.text}
    assert found.titles()[:2] == ["loss", "accuracy"]
    table = text[text.index('<table class="numbers">') : text.index("<h2>Settings")]
    assert table.count("<tr>") == 1 + 2 and "eval_en_accuracy" in table and "per_second" not in table  # both evaluations of a step in a row


@pytest.mark.parametrize(("seconds", "shown"), [(0.04, "0.0 s"), (59.0, "59.0 s"), (61.2, "0:01:01"), (3 * 3600 + 62, "3:01:02")])
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


# -------------------------------------------------------------- facts


def test_fingerprints_follow_values_not_types() -> None:
    plain = rows()
    arrays = [{"label": row["label"], "input_ids": np.array(row["input_ids"])} for row in plain]
    tensors = [{"input_ids": torch.tensor(row["input_ids"]), "label": row["label"]} for row in plain]
    assert facts.fingerprint(plain) == facts.fingerprint(arrays) == facts.fingerprint(tensors)
    for i, change in ((0, {"label": 9}), (15, {"input_ids": [1]})):
        other = [dict(row) for row in plain]
        other[i] |= change
        assert facts.fingerprint(other) != facts.fingerprint(plain)
    assert facts.fingerprint([{"x": object()}]) == facts.fingerprint([{"x": object()}])  # no address


def test_looking_at_data_draws_no_random_numbers() -> None:
    class Noisy:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, row: int) -> dict[str, Any]:
            return {"input_ids": [row], "noise": random.random() + float(torch.rand(())) + np.random.rand()}

    before = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    assert facts.data(Noisy())["Columns"] == "input_ids, noise"
    assert random.getstate() == before[0] and torch.equal(torch.random.get_rng_state(), before[1])
    assert np.random.get_state()[1].tolist() == before[2]


def test_first_row_is_decoded() -> None:
    class Letters:
        def decode(self, ids: Any) -> str:
            return "".join(map(chr, ids))

    shown = facts.data([{"input_ids": [104, 105], "label": 1}], Letters())["First row"]
    assert shown == "input_ids: [104, 105]\nlabel: 1\n= 'hi'"


def test_settings_that_differ_come_first_and_tokens_never(tmp_path: Path) -> None:
    changed, usual = facts.settings(TrainingArguments(tmp_path, learning_rate=1e-3, hub_token="hf_secret"))
    assert changed == {"learning_rate": 1e-3, "hub_token": "<HUB_TOKEN>"}
    assert "hf_secret" not in f"{changed}{usual}" and "weight_decay" in usual


def test_trainable_parameters_are_told_apart() -> None:
    model = tiny()
    total = sum(p.numel() for p in model.parameters())
    for p in model.encoder.parameters():
        p.requires_grad = False
    learns = sum(p.numel() for p in model.head.parameters())
    told = facts.model(model)
    assert told["Parameters"] == f"{total:,}" and told["Trainable"].startswith(f"{learns:,} (")


# -------------------------------------------------------------- model cards


def card(run: Any, **about: Any) -> tuple[dict[str, Any], str]:
    _, head, text = model_card(run, about).split("---\n", 2)
    return yaml.safe_load(head), text


def test_model_card(tmp_path: Path) -> None:
    run = trainer(tmp_path / "my-bert")
    run.train()
    about = {"license": "mit", "language": ["ko", "en"], "tags": "law", "dataset_tags": "nsmc", "dataset": "NSMC", "dataset_args": "plain"}
    head, text = card(run, finetuned_from="klue/bert-base", **about)
    accuracy = round([logs for logs in run.state.log_history if "eval_accuracy" in logs][-1]["eval_accuracy"], 4)
    assert head == {
        "license": "mit", "language": ["ko", "en"], "tags": ["law", "generated_from_trainer", "hunmin"], "datasets": ["nsmc"],
        "base_model": "klue/bert-base", "library_name": "transformers", "metrics": ["accuracy"], "pipeline_tag": "text-classification",
        "model-index": [{"name": "my-bert", "results": [{
            "task": {"type": "text-classification"},
            "dataset": {"name": "NSMC", "type": "nsmc", "config": "plain"},
            "metrics": [{"type": "accuracy", "value": accuracy, "name": "accuracy"}],
        }]}],
    }  # fmt: skip
    assert "# my-bert\n" in text and "[klue/bert-base](https://huggingface.co/klue/bert-base)" in text and "NSMC" in text
    assert f"| accuracy | {accuracy} |" in text and "| learning_rate | 0.001 |" in text and f"- torch {torch.__version__}" in text
    assert "input_ids: [" not in text and str(tmp_path) not in text  # neither rows nor places


def test_model_card_before_any_run_and_of_other_modules(tmp_path: Path) -> None:
    head, text = card(trainer(tmp_path / "a"))
    assert "model-index" not in head and head["pipeline_tag"] == "text-classification" and "license" not in head
    assert "Results" not in text and "Trained from scratch" in text


def test_create_model_card_writes_a_readme(tmp_path: Path) -> None:
    run = trainer(tmp_path / "b")
    run.create_model_card(license="apache-2.0")
    assert "license: apache-2.0" in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="no argument 'licence': license"):
        run.create_model_card(licence="mit")


def test_results_are_those_of_the_model_that_is_left() -> None:
    history = [{"eval_loss": 1.0, "step": 1}, {"eval_loss": 0.5, "step": 2}, {"eval_loss": 0.7, "step": 3}, {"train_loss": 1.0, "step": 3}]
    state = TrainerState(log_history=history, best_global_step=2)
    assert last_results(state) == {"loss": 0.7}
    assert last_results(state, best=True) == {"loss": 0.5}
    history.append({"eval_loss": 0.51234567, "step": 3})
    assert last_results(state, best=True) == {"loss": 0.5123}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("f1", "f1"), ("ko_f1", "f1"), ("rougeLsum", "rouge"), ("rouge1", "rouge"), ("wer", "wer"), ("answer", None), ("loss", None)],
)
def test_metrics_of_the_hub(name: str, kind: str | None) -> None:
    from hunmin.train.card import metric_kind

    assert metric_kind(name) == kind
