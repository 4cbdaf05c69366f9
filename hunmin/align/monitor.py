"""The reward-hacking monitor: what a policy pays for its reward (Amodei et al. 2016, section 4; Gao et al. 2023).

After every rollout it measures distance, entropy, length, repetition, diversity and refusals, and asks the user's side metrics and held-out
metrics. Where the reward rises while one of these gets worse, the two have parted: the run says so, marks the place, and may stop.
"""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal, NamedTuple, cast

from hunmin.align.rewards import Reward, ask
from hunmin.align.rollout import Rollout, plain, prompt_of
from hunmin.errors import InputError, logger, say, short
from hunmin.train import parallel
from hunmin.train.arguments import TrainingArguments
from hunmin.train.callbacks import TrainerCallback
from hunmin.train.data import sized
from hunmin.train.state import TrainerControl, TrainerState

KEPT = "monitor"  # its measurements in ``state.callbacks``
Better = Literal["max", "min"]
# How an answer says no. Searched for in its beginning, where refusals stand.
REFUSALS = (
    r"\bI(?:['’]m| am) (?:very |so |really )?(?:sorry|unable|not able)\b",
    r"\bI (?:can(?:not|['’]t| not)|won['’]t|will not|must decline|refuse)\b",
    r"\bas an AI\b",
    r"\b(?:not|in)appropriate (?:for me )?to\b",
    r"죄송(?:합니다|하지만|해요)|유감(?:입니다|이지만)",
    r"(?:도와|답|말씀|알려|제공)\S{0,4}(?:드릴|할|해 ?드릴) ?수 ?(?:는 |가 )?없",
    r"(?:인공지능|AI)(?:으로서|로서|이기 때문에|라서)",
)
BEGINNING = 200  # characters
FEWEST, NOISE, WINDOWS = 8, 4.0, 8  # points before anything is said; deviations that count as a change; windows in a run
SPAN = 3  # rollouts that a condition of ``stop_on`` is a mean over
OPERATORS: dict[str, Callable[[float, float], bool]] = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}


class Watch(NamedTuple):
    """Which way a metric is better, and by how much it has to get worse to count: absolutely, or as a share of its best."""

    better: Better
    absolute: float = 0.0
    share: float = 0.0


OWN = {
    "repetition": Watch("min", absolute=0.2),
    "refusal": Watch("min", absolute=0.2),
    "distinct_2": Watch("max", share=0.5),
    "length": Watch("min", share=1.0),
}
PLOTTED = ("kl", "entropy", "length", "repetition", "distinct_1", "distinct_2", "refusal", "ended")
USER = 0.1  # the share for metrics that the user named


class Parting(NamedTuple):
    """Reward and a metric before and after ``step``, from which on one rose and the other got worse."""

    step: float
    reward: tuple[float, float]
    metric: tuple[float, float]


# -------------------------------------------------------------- measuring


def repetition(ids: Sequence[int], n: int = 4) -> float:
    """The share of a completion's n-grams that stood in it before."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(completions: Iterable[Sequence[int]], n: int) -> float:
    """Different n-grams by all n-grams of a rollout (Li et al. 2016, section 5.3)."""
    counts = Counter(tuple(ids[i : i + n]) for ids in completions for i in range(len(ids) - n + 1))
    return len(counts) / counts.total() if counts else 1.0


def measures(rollout: Rollout, refusals: re.Pattern[str]) -> dict[str, float]:
    """What can be seen in the completions themselves."""
    no = [bool(refusals.search(plain(text)[:BEGINNING])) for text in rollout.texts]
    return {
        "length": fmean(rollout.lengths),
        "ended": fmean(rollout.ended),
        "repetition": fmean(map(repetition, rollout.completions)),
        "distinct_1": distinct(rollout.completions, 1),
        "distinct_2": distinct(rollout.completions, 2),
        "refusal": fmean(no),
    }


def means(shares: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """The mean of each name's values over all processes, which then judge alike."""
    found: dict[str, list[float]] = {}
    for share in shares:
        for name, values in share.items():
            found.setdefault(name, []).extend(values)
    return {name: fmean(values) for name, values in found.items()}


def refusal_pattern(own: Sequence[str] | None) -> re.Pattern[str]:
    """The built-in expressions and a user's. Raises InputError for one that is none."""
    try:
        return re.compile("|".join(f"(?:{part})" for part in (*REFUSALS, *(own or ()))), re.IGNORECASE)
    except re.error as error:
        raise InputError(
            say(f"refusals holds a broken regular expression: {error}.", f"refusals에 잘못된 정규 표현식이 있습니다: {error}.")
        ) from None


# -------------------------------------------------------------- judging


def parted(reward: Sequence[tuple[float, float]], metric: Sequence[tuple[float, float]], watch: Watch) -> Parting | None:
    """Where ``reward`` and ``metric``, both ``(step, value)``, part; None when they do not.

    The run is seen through windows of an eighth of it. Between the window in which the metric was best and the last one, the metric must have
    become worse and the reward better, each by more than chance (``NOISE`` standard errors, with the variance of single points taken from
    their differences to the next), and the metric by what ``watch`` asks for. They part where the metric was last as good as at its best,
    within chance.
    """
    if len(metric) < FEWEST:
        return None
    steps, values = [s for s, _ in metric], [v for _, v in metric]
    gains = _at(reward, steps)
    width = max(2, len(values) // WINDOWS)
    seen, sign, chance = _means(values, width), 1 if watch.better == "max" else -1, _error(values, width)
    last = len(seen) - 1
    best = max(range(max(1, last - width + 1)), key=lambda i: sign * seen[i])
    lost = [sign * (seen[best] - value) for value in seen]
    rewards = _means(gains, width)
    if lost[last] <= max(NOISE * chance, watch.absolute, watch.share * abs(seen[best]), 1e-9):
        return None
    if rewards[last] - rewards[best] <= max(NOISE * _error(gains, width), 1e-9):
        return None
    since = max(i for i in range(last) if lost[i] <= 2 * chance)
    return Parting(steps[since + width // 2], (rewards[since], rewards[last]), (seen[since], seen[last]))


def _means(values: Sequence[float], width: int) -> list[float]:
    return [fmean(values[i : i + width]) for i in range(len(values) - width + 1)]


def _error(values: Sequence[float], width: int) -> float:
    """The standard error of the difference of two means of ``width`` points, whose trend does not count as noise."""
    variance = fmean((b - a) ** 2 for a, b in pairwise(values)) / 2
    return math.sqrt(2 * variance / width)


def _at(points: Sequence[tuple[float, float]], steps: Sequence[float]) -> list[float]:
    """The mean of ``points`` since the step before, for each of ``steps``; where there is none, what was known last."""
    found, begun = list[float](), 0
    for step in steps:
        end = begun
        while end < len(points) and points[end][0] <= step:
            end += 1
        known = [value for _, value in points[begun:end]]
        found.append(fmean(known) if known else found[-1] if found else points[0][1])
        begun = end
    return found


class Condition(NamedTuple):
    """One of ``stop_on``: ``name > bound``, or for ``parted`` a name or none."""

    text: str
    name: str | None
    compare: str | None
    bound: float


def condition(text: str, known: Iterable[str]) -> Condition:
    """``"kl > 20"``, ``"parted"`` or ``"parted: tests"``. Raises InputError for anything else and for names that are not measured."""
    names = list(known)
    split = re.fullmatch(r"\s*(?:(parted)\s*(?::\s*(.+?))?|(\S.*?)\s*(>=|<=|>|<)\s*([-+.\deE]+))\s*", text)
    try:
        bound = float(split[5]) if split is not None and split[5] else 0.0
    except ValueError:
        split, bound = None, 0.0
    if split is None:
        raise InputError(
            say(
                f'stop_on: {short(text)} is no condition. Write "kl > 20", "parted" or "parted: metric".',
                f'stop_on: {short(text)}은(는) 조건이 아닙니다. "kl > 20", "parted", "parted: 지표"처럼 쓰세요.',
            )
        )
    name = split[2] or split[3]
    if name is not None and name not in names and not name.startswith("eval_"):
        listed = ", ".join(names)
        raise InputError(
            say(f"stop_on: {name!r} is not measured. There are {listed}.", f"stop_on: {name!r}은(는) 재지 않습니다. 있는 것: {listed}.")
        )
    return Condition(text, name, split[4], bound)


# -------------------------------------------------------------- the callback


class Monitor(TrainerCallback):
    """Watches a run.

    Args:
        side_metrics: ``name: function`` with the protocol of rewards, or ``name: (function, "min")`` where less is better.
        stop_on: conditions that end the run, each on the mean of three rollouts: ``"kl > 20"``, ``"parted"``, ``"parted: name"``.
        refusals: regular expressions beside the built-in English and Korean ones.
        samples: how many prompts are answered (greedily) again and again, every ``every`` steps.

    ``parted`` holds what has parted so far, by metric; ``stopped`` the condition that ended the run. All of it lies in the state of the run,
    and so in checkpoints.
    """

    def __init__(
        self,
        side_metrics: Mapping[str, Any] | None = None,
        stop_on: Sequence[str] | None = None,
        refusals: Sequence[str] | None = None,
        samples: int = 4,
        every: int | None = None,
    ) -> None:
        self.side, self.watches = dict[str, Reward](), dict(OWN)
        for name, given in (side_metrics or {}).items():
            function, better = cast("tuple[Any, Any]", given if isinstance(given, tuple) else (given, "max"))
            if better not in ("max", "min") or not callable(function):
                raise InputError(
                    say(
                        f'side_metrics[{name!r}] is a function, or (function, "max" or "min").',
                        f'side_metrics[{name!r}]에는 함수나 (함수, "max" 또는 "min")을 주세요.',
                    )
                )
            self.side[name], self.watches[name] = cast("Reward", function), Watch(better, share=USER)
        self.conditions = [condition(text, ("reward", *PLOTTED, *self.side)) for text in stop_on or ()]
        self.pattern, self.samples, self.every = refusal_pattern(refusals), samples, every
        self.pending: dict[str, list[float]] = {}
        self.kept: dict[str, Any] = _fresh()
        self._rows: list[Any] | None = None

    @property
    def parted(self) -> dict[str, Parting]:
        return {name: Parting(step, tuple(reward), tuple(metric)) for name, (step, reward, metric) in self.kept["parted"].items()}

    @property
    def stopped(self) -> str | None:
        return self.kept["stopped"]

    # -------------------------------------------------------------- measuring

    def observe(self, rollout: Rollout, reward: float) -> dict[str, float]:
        """A rollout and its mean reward. Returns what was measured."""
        found = {"reward": reward, **measures(rollout, self.pattern), **self.ask(rollout)}
        self.note(**found)
        return found

    def ask(self, rollout: Rollout) -> dict[str, float]:
        """The side metrics of a rollout."""
        values = {name: ask(function, name, rollout) for name, function in self.side.items()}
        return {name: float(value.nanmean()) for name, value in values.items() if not bool(value.isnan().all())}

    def note(self, **values: float) -> None:
        """More of the current rollout; of several values of a name the mean counts."""
        for name, value in values.items():
            self.pending.setdefault(name, []).append(value)

    # -------------------------------------------------------------- events

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, trainer: Any = None, **_: Any) -> None:
        self.kept = state.callbacks.setdefault(KEPT, _fresh())
        self.pending = {}
        self.every = self.every or max(1, state.max_steps // 8)
        self._rows = _first(trainer, self.samples)
        if not self.kept["samples"]:
            self._sample(state, trainer)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, trainer: Any = None, **_: Any) -> None:
        found, self.pending = means(parallel.gather_shares(self.pending, args)), {}
        if "reward" in found:  # a step of an older rollout says nothing new
            self.kept["points"].append({"step": state.global_step, **found})
            self._judge(self.kept["points"], self.watches)
            self._stop(self.kept["points"], control)
        last = state.global_step >= state.max_steps or control.should_training_stop
        if last or (self.every and state.global_step % self.every == 0):
            self._sample(state, trainer)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Mapping[str, Any], **_: Any
    ) -> None:
        speeds = ("_runtime", "_per_second", "_length", "_entropy", "_kl")
        point = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float) and not name.endswith(speeds)}
        self.kept["heldout"].append({"step": state.global_step, **point})
        worse_when_high = ("loss", "repetition", "refusal")
        watches = {name: Watch("min" if name.endswith(worse_when_high) else "max", share=USER) for name in point}
        watches |= {f"eval_{name}": self.watches[name] for name in self.side}
        self._judge(self.kept["heldout"], watches)
        self._stop(self.kept["heldout"], control)

    # -------------------------------------------------------------- judging

    def series(self, name: str, points: Sequence[Mapping[str, float]] | None = None) -> list[tuple[float, float]]:
        """``(step, value)`` of what was measured."""
        every = self.kept["points"] + self.kept["heldout"] if points is None else points
        return [(point["step"], point[name]) for point in every if name in point and math.isfinite(point[name])]

    def _judge(self, points: Sequence[Mapping[str, float]], watches: Mapping[str, Watch]) -> None:
        reward = self.series("reward", self.kept["points"])
        for name, watch in watches.items():
            if not reward or name in self.kept["parted"]:
                continue
            if (found := parted(reward, self.series(name, points), watch)) is not None:
                self.kept["parted"][name] = [found.step, list(found.reward), list(found.metric)]
                (before, after), (was, now) = found.reward, found.metric
                logger.warning(
                    say(
                        f"Reward and {name} part at step {found.step:g}: since then reward {before:.4g} -> {after:.4g}, {name} {was:.4g} ->"
                        f" {now:.4g}. The policy may be hacking its reward; look at the samples, raise the KL coefficient, or stop_on='parted'.",
                        f"{found.step:g}단계에서 보상과 {name}이(가) 갈라집니다. 그 뒤 보상 {before:.4g} -> {after:.4g}, {name} {was:.4g} ->"
                        f" {now:.4g}. 보상 해킹일 수 있으니 샘플을 보고 KL 계수를 올리거나 stop_on='parted'를 쓰세요.",
                    )
                )

    def _stop(self, points: Sequence[Mapping[str, float]], control: TrainerControl) -> None:
        for each in self.conditions:
            if each.compare is None:
                met = each.name in self.kept["parted"] if each.name is not None else bool(self.kept["parted"])
            else:
                recent = [value for _, value in self.series(str(each.name), points)[-SPAN:]]
                met = bool(recent) and OPERATORS[each.compare](fmean(recent), each.bound)
            if met and self.stopped is None:
                self.kept["stopped"] = each.text
                control.should_training_stop = True
                logger.warning(say(f"Training stops: {each.text}.", f"학습을 멈춥니다: {each.text}."))

    # -------------------------------------------------------------- samples

    def _sample(self, state: TrainerState, trainer: Any) -> None:
        done = [sample["step"] for sample in self.kept["samples"]]
        if self._rows and trainer is not None and state.global_step not in done:
            rollout: Rollout = trainer.answers(self._rows)
            prompts = [plain(prompt_of(row)) for row in self._rows]
            texts = [plain(text) for text in rollout.texts]
            self.kept["samples"].append({"step": state.global_step, "prompts": prompts, "texts": texts})

    def sections(self, args: TrainingArguments, state: TrainerState) -> list[tuple[str, str]]:
        """What the run's report shows: titles and HTML."""
        from hunmin.align.monitor_page import sections

        return sections(self)


def _fresh() -> dict[str, Any]:
    return {"points": [], "heldout": [], "samples": [], "parted": {}, "stopped": None}


def _first(trainer: Any, count: int) -> list[Any] | None:
    """The first rows of the evaluation data, or of the training data; None for streams."""
    dataset = getattr(trainer, "eval_dataset", None)
    dataset = dataset if dataset is not None and sized(dataset) and not isinstance(dataset, Mapping) else trainer.train_dataset
    if dataset is None or not sized(dataset) or not count:
        return None
    return [dataset[i] for i in range(min(count, len(dataset)))]
