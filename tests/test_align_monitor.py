"""The reward-hacking monitor: a made-up run that hacks, one that does not, conditions that stop, and the page."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest

from hunmin.align.grpo import GRPOTrainer
from hunmin.align.monitor import REFUSALS, Condition, Monitor, Watch, condition, distinct, measures, parted, refusal_pattern, repetition
from hunmin.align.online_config import GRPOConfig
from hunmin.align.rollout import Rollout
from hunmin.errors import InputError
from hunmin.train.arguments import TrainingArguments
from hunmin.train.state import TrainerControl, TrainerState
from tests.online_cases import PROMPTS, policy, settings, share


def wave(count: int, seed: int, start: float, end: float, noise: float, turn: float = 0.0) -> list[tuple[float, float]]:
    """Points that stay at ``start`` for the share ``turn`` of a run, then go to ``end``, with noise."""
    draw = random.Random(seed)
    places = [max(0.0, (i / (count - 1) - turn) / (1 - turn)) for i in range(count)]
    return [(i + 1, start + (end - start) * place + draw.gauss(0, noise)) for i, place in enumerate(places)]


@pytest.mark.parametrize("seed", range(20))
def test_a_hacked_run_is_flagged_and_a_healthy_one_is_not(seed: int) -> None:
    reward = wave(60, seed, 0.1, 0.9, 0.05)
    watch = Watch("max", share=0.1)
    found = parted(reward, wave(60, seed + 100, 0.8, 0.2, 0.05, turn=0.4), watch)
    assert found is not None
    assert found.step <= 40
    assert found.reward[1] > found.reward[0]
    assert found.metric[1] < found.metric[0]
    assert parted(reward, wave(60, seed + 200, 0.5, 0.8, 0.05), watch) is None  # better together
    assert parted(reward, wave(60, seed + 300, 0.8, 0.8, 0.05), watch) is None  # no change
    assert parted(wave(60, seed, 0.5, 0.5, 0.05), wave(60, seed + 100, 0.8, 0.2, 0.05), watch) is None  # no reward to blame


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_flagged_at_any_time_of_a_healthy_run(seed: int) -> None:
    """As a run is judged: after every rollout."""
    reward, metric = wave(80, seed, 0.1, 0.9, 0.1), wave(80, seed + 1, 0.6, 0.6, 0.1)
    assert not any(parted(reward[:n], metric[:n], Watch("max", share=0.1)) for n in range(1, 81))


def test_a_metric_of_which_less_is_better_is_read_the_other_way() -> None:
    reward, errors = wave(30, 0, 0, 1, 0.01), wave(30, 1, 0.1, 0.9, 0.01)
    assert parted(reward, errors, Watch("min", absolute=0.2)) is not None
    assert parted(reward, errors, Watch("max", share=0.1)) is None


def test_few_points_say_nothing() -> None:
    assert parted(wave(7, 0, 0, 1, 0), wave(7, 0, 1, 0, 0), Watch("max", share=0.1)) is None


def test_what_completions_show() -> None:
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(5 / 9)
    assert repetition([1, 2, 3, 4, 5, 6]) == repetition([1, 2]) == 0
    assert distinct([[1, 1, 1], [1, 1, 2]], 1) == pytest.approx(2 / 6)
    assert distinct([[1, 1, 1], [1, 1, 2]], 2) == pytest.approx(2 / 4)
    rollout = Rollout([{}] * 2, [[1]] * 2, [[5, 6], [7, 8, 9, 2]], [False, True], ["I'm sorry, I can't help.", "Seoul."])
    found = measures(rollout, refusal_pattern(None))
    assert (found["length"], found["ended"], found["refusal"]) == (3, 0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I cannot assist with that.", True),
        ("As an AI language model, I do not have opinions.", True),
        ("I won’t do that.", True),
        ("죄송하지만 그 요청은 도와드릴 수 없습니다.", True),
        ("그런 정보는 제공할 수 없어요.", True),
        ("인공지능으로서 의견이 없습니다.", True),
        ("The capital of Korea is Seoul.", False),
        ("물론입니다! 서울은 한국의 수도입니다.", False),
        ("You can do it with a for loop.", False),
        ("이렇게 하면 도울 수 있습니다.", False),
        ("Yes. " * 60 + "I'm sorry", False),
    ],
)
def test_refusals_in_both_languages(text: str, refused: bool) -> None:
    rollout = Rollout([{}], [[1]], [[5]], [True], [text])
    assert measures(rollout, refusal_pattern(None))["refusal"] == refused
    assert len(REFUSALS) >= 5


def test_conditions_are_read() -> None:
    known = ("kl", "tests passed")
    assert condition("kl > 20", known) == Condition("kl > 20", "kl", ">", 20.0)
    assert condition(" tests passed <= 1e-1", known)[1:] == ("tests passed", "<=", 0.1)
    assert condition("parted", known)[1:] == (None, None, 0.0)
    assert condition("parted: kl", known)[1:] == ("kl", None, 0.0)
    assert condition("eval_reward < 0", known)[1:] == ("eval_reward", "<", 0.0)


@pytest.mark.parametrize(
    ("text", "match"), [("kl 20", "no condition"), ("kll > 2", "not measured"), ("kl > 1e", "no condition"), ("", "no")]
)
def test_conditions_that_are_none(text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        condition(text, ("kl",))


def told(monitor: Monitor, points: list[dict[str, float]]) -> tuple[TrainerState, TrainerControl, int]:
    """A run with these measurements, until it is stopped; the number of its steps."""
    args, state, control = TrainingArguments("x", report_to="none"), TrainerState(max_steps=len(points)), TrainerControl()
    for point in points:
        state.global_step += 1
        monitor.note(**point)
        monitor.on_step_end(args, state, control)
        if control.should_training_stop:
            break
    return state, control, state.global_step


def made_up(hacked: bool) -> list[dict[str, float]]:
    reward, tests = wave(40, 0, 0.1, 0.9, 0.02), wave(40, 1, 0.8, 0.1 if hacked else 0.9, 0.02, turn=0.3)
    return [
        {"reward": r, "tests": t, "kl": 0.5 * i, "repetition": 0.05} for i, ((_, r), (_, t)) in enumerate(zip(reward, tests, strict=True))
    ]


def test_a_run_that_hacks_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor({"tests": lambda completions: [0.0] * len(completions)})
    with caplog.at_level(logging.WARNING):
        told(monitor, made_up(hacked=True))
    assert [record.message.split(" at ")[0] for record in caplog.records] == ["Reward and tests part"]
    assert list(monitor.parted) == ["tests"]
    assert 5 <= monitor.parted["tests"].step <= 20


def test_a_healthy_run_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor({"tests": lambda completions: [0.0] * len(completions)}, stop_on=["parted"])
    with caplog.at_level(logging.WARNING):
        _, control, steps = told(monitor, made_up(hacked=False))
    assert not caplog.records
    assert not monitor.parted
    assert steps == 40
    assert not control.should_training_stop


@pytest.mark.parametrize(("stop_on", "earliest", "latest"), [("kl > 5", 11, 13), ("parted", 14, 36), ("parted: tests", 14, 36), ("tests < 0.5", 15, 30)])  # fmt: skip
def test_conditions_stop_a_run(stop_on: str, earliest: int, latest: int) -> None:
    monitor = Monitor({"tests": lambda completions: [0.0] * len(completions)}, stop_on=[stop_on])
    _, control, steps = told(monitor, made_up(hacked=True))
    assert control.should_training_stop
    assert earliest <= steps <= latest
    assert monitor.stopped == stop_on


def test_a_step_without_a_rollout_is_no_point() -> None:
    monitor = Monitor()
    told(monitor, [{"reward": 1.0}, {"kl": 1.0}, {"reward": 2.0}])
    assert [point["step"] for point in monitor.kept["points"]] == [1, 3]


def test_what_a_monitor_cannot_be_given() -> None:
    with pytest.raises(InputError, match="side_metrics"):
        Monitor({"tests": "no function"})
    with pytest.raises(InputError, match="side_metrics"):
        Monitor({"tests": (len, "up")})
    with pytest.raises(InputError, match="regular expression"):
        Monitor(refusals=["("])


def hacked_trainer(folder: Path, **more: Any) -> GRPOTrainer:
    """The reward wants some tokens; the side metric is that they are not the only ones."""

    def other(completion_ids: list[list[int]]) -> list[float]:
        return [1 - reward for reward in share(completion_ids)]

    options = {"per_device_train_batch_size": 32, "max_steps": 40, "learning_rate": 5e-3, "monitor_samples": 2, "html_report": True} | more
    return GRPOTrainer(policy(), share, settings(GRPOConfig, folder, **options), PROMPTS, side_metrics={"other <b>": other})


def test_a_real_run_is_stopped_and_its_report_tells(tmp_path: Path) -> None:
    trainer = hacked_trainer(tmp_path, stop_on="parted: other <b>", monitor_every=10)
    trainer.train()
    assert trainer.monitor is not None
    assert trainer.monitor.stopped == "parted: other <b>"
    assert 8 <= trainer.state.global_step < 40
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Reward and what it costs" in page
    assert "reward / KL" in page
    assert 'class="mark"' in page
    assert "other &lt;b&gt;" in page
    assert "other <b>" not in page
    assert "Samples over time" in page
    samples = trainer.monitor.kept["samples"]
    assert samples[0]["step"] == 0
    assert samples[-1]["step"] == trainer.state.global_step
    assert samples[0]["prompts"] == ["1 21", "1 22"]
    assert samples[0]["texts"] != samples[-1]["texts"]


def test_without_a_monitor_nothing_is_watched(tmp_path: Path) -> None:
    trainer = hacked_trainer(tmp_path, monitor=False, max_steps=2)
    trainer.train()
    assert trainer.monitor is None
    assert trainer.reference is None
    assert "Samples over time" not in (tmp_path / "report.html").read_text(encoding="utf-8")
