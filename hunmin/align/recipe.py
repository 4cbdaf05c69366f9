"""Alignment by a recipe: what ``hunmin align`` reads. The classes are its schema, as those of ``hunmin.train.recipe`` are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from hunmin.align.files import Journal, read_rows, write_rows
from hunmin.align.formats import Kind, Row
from hunmin.align.judge import JudgePart, function_at
from hunmin.align.shapes import convert
from hunmin.errors import InputError, logger, say, warn_once
from hunmin.train.arguments import TrainingArguments
from hunmin.train.checkpoint import Checkpoints
from hunmin.train.recipe.checks import Place, build, choice, parse, read_text
from hunmin.train.recipe.schema import AdapterPart, arguments, override

RESULTS, BEST, DRAWN = "results.json", "best.jsonl", "drawn.jsonl"
AT_ONCE = 32  # prompts of best-of-n that are drawn and kept together


class Method(NamedTuple):
    """The classes of a method in ``hunmin.align``, which rows it learns from, and whether it needs a reward."""

    trainer: str
    config: str | None
    kind: Kind
    reward: bool = False


METHODS = {
    "sft": Method("SFTTrainer", "SFTConfig", "sft"),
    "reward": Method("RewardTrainer", "RewardConfig", "preference"),
    "dpo": Method("DPOTrainer", "DPOConfig", "preference"),
    "kto": Method("KTOTrainer", "KTOConfig", "unpaired"),
    "ppo": Method("PPOTrainer", "PPOConfig", "prompts", True),
    "rloo": Method("RLOOTrainer", "RLOOConfig", "prompts", True),
    "grpo": Method("GRPOTrainer", "GRPOConfig", "prompts", True),
    "rejection": Method("RejectionSamplingTrainer", "RejectionConfig", "prompts", True),
    "best-of-n": Method("BestOfNSampler", None, "prompts", True),
}


def found(name: str) -> Any:
    """A class of ``hunmin.align``, loaded when it is needed."""
    return getattr(import_module("hunmin.align"), name)


@dataclass
class RewardPart(JudgePart):
    """One reward of several: a judge, and what it weighs."""

    weight: float = 1.0


@dataclass
class DataPart:
    """Rows of any form that docs/alignment/data.md lists."""

    train: str | list[str]  # files or patterns
    validation: str | list[str] | float | None = None  # the same; below 1 a share of the training rows, above it their number
    max_rows: int | None = None  # at most so many of each
    chat: bool = False  # texts become messages, which the chat template puts into form


@dataclass
class Recipe:
    """A run of one method."""

    model: str  # a source of models
    output: str
    data: DataPart
    tokenizer: str | None = None  # a source; otherwise beside the model
    dtype: str | None = None
    ref_model: str | None = None  # a source; otherwise the model as it is at first
    reward: RewardPart | list[RewardPart] | None = None  # what ppo, grpo, rloo, rejection and best-of-n climb
    adapter: AdapterPart | None = None
    training: dict[str, Any] = field(default_factory=dict[str, Any])  # fields of the method's configuration, under TRL's names
    samples: int = 4  # best-of-n: answers to each prompt
    keep: int = 1  # best-of-n: how many of them
    generation: dict[str, Any] = field(default_factory=dict[str, Any])  # best-of-n: fields of GenerationConfig
    seed: int = 42
    overwrite: bool = False  # begin again where an earlier run has left its results

    def rewards(self) -> list[RewardPart]:
        """All of them."""
        return self.reward if isinstance(self.reward, list) else [self.reward] if self.reward is not None else []


@dataclass(frozen=True)
class Checked:
    """A recipe that was read, for a method."""

    method: str
    recipe: Recipe
    training: dict[str, Any]
    values: dict[str, Any]
    place: Place


def read(method: str, source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Checked:
    """A recipe from a YAML file or a dictionary. Raises InputError for everything that the method does not take, with its place."""
    if method not in METHODS:
        choice(method, METHODS, Place("hunmin align"))
    if isinstance(source, Mapping):
        values, place = deepcopy(dict(source)), Place("recipe")
    else:
        values, lines = parse(read_text(Path(source)), Path(source).name)
        place = Place(Path(source).name, lines=lines)
    if isinstance(values, dict):
        override(cast("dict[str, Any]", values), overrides, place)
    recipe, about = build(Recipe, values, place), METHODS[method]
    if about.reward and not recipe.rewards():
        raise (place / "reward").error(
            "is needed: {function: file.py:name}, {reward: source} or {url: …, model: …}.",
            "항목이 필요합니다: {function: 파일.py:이름}, {reward: 위치}, {url: …, model: …} 가운데 하나.",
        )
    if recipe.rewards() and not about.reward:
        raise (place / "reward").error(f"{method} climbs no reward.", f"{method}에는 보상이 없습니다.")
    if method == "best-of-n" and recipe.training:
        raise (place / "training").error("best-of-n trains nothing.", "best-of-n은 학습하지 않습니다.")
    if method != "best-of-n" and recipe.generation:
        raise (place / "generation").error(
            "is of best-of-n; elsewhere say training.", "best-of-n의 항목입니다. 다른 방법에서는 training에 적으세요."
        )
    if method == "best-of-n" and not 1 <= recipe.keep <= recipe.samples:
        raise (place / "keep").error(f"is 1 to {recipe.samples} (samples).", f"1부터 samples({recipe.samples})까지입니다.")
    if recipe.adapter is not None and len(recipe.adapter.chosen()) != 1:
        raise (place / "adapter").error("names one of lora, ia3, prompt, prefix.", "lora, ia3, prompt, prefix 가운데 하나를 적으세요.")
    config = found(about.config) if about.config is not None else TrainingArguments
    training = {"seed": recipe.seed} | arguments(recipe.training, place / "training", config)
    return Checked(method, recipe, training, cast("dict[str, Any]", values), place)


class Rows(NamedTuple):
    """Training rows, and those to evaluate on."""

    train: list[Row]
    validation: list[Row] | None


def rows_of(checked: Checked) -> Rows:
    """The rows of a recipe in the form that its method takes. Raises InputError as ``shapes.convert``, naming the place."""
    data, kind = checked.recipe.data, METHODS[checked.method].kind

    def load(source: str | list[str], name: str) -> list[Row]:
        try:
            rows = [row for path in ([source] if isinstance(source, str) else source) for row in read_rows(path)]
            return convert(rows, kind, chat=data.chat)[: data.max_rows]
        except InputError as error:
            raise InputError(f"{checked.place / 'data' / name}: {error}") from error

    train = load(data.train, "train")
    if data.validation is None or isinstance(data.validation, str | list):
        return Rows(train, load(data.validation, "validation") if data.validation is not None else None)
    count = int(data.validation) if data.validation >= 1 else round(data.validation * len(train))
    if not 0 < count < len(train):
        raise (checked.place / "data" / "validation").error(
            f"{data.validation} of {len(train)} training rows leaves one side empty.",
            f"학습 데이터 {len(train)}행을 {data.validation}만큼 나눌 수 없습니다.",
        )
    drawn = np.random.default_rng(checked.recipe.seed).permutation(len(train))
    held = {int(place) for place in drawn[:count]}
    return Rows([row for i, row in enumerate(train) if i not in held], [row for i, row in enumerate(train) if i in held])


def run(method: str | Checked, recipe: Any = None, overrides: Sequence[str] = (), *, resume: bool = False) -> dict[str, Any]:
    """Carry out a recipe; the model is saved in its ``output``. Returns metrics by split.

    Raises InputError for a recipe that does not fit, and an output where another run has left its results.
    """
    checked = method if isinstance(method, Checked) else read(method, recipe, overrides)
    folder = Path(checked.recipe.output)
    done = folder / (BEST if checked.method == "best-of-n" else RESULTS)
    if not resume and not checked.recipe.overwrite and (done.exists() or Checkpoints(folder).all()):
        raise (checked.place / "output").error(
            f"{folder} holds a run already: go on with --resume, begin again with overwrite: true, or name another folder.",
            f"{folder}에 이미 실행 결과가 있습니다. --resume으로 이어 가거나, overwrite: true로 새로 시작하거나, 다른 폴더를 적으세요.",
        )
    rows = rows_of(checked)
    folder.mkdir(parents=True, exist_ok=True)
    results = _best(checked, rows.train, folder, resume) if checked.method == "best-of-n" else _train(checked, rows, folder, resume)
    import yaml

    (folder / "recipe.yaml").write_text(yaml.safe_dump(checked.values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    (folder / RESULTS).write_text(json.dumps({checked.method: results}, indent=1) + "\n", encoding="utf-8")
    return results


def _rewards(checked: Checked, folder: Path) -> list[Any]:
    """Reward functions, and paths of reward models, which the trainers load."""
    made: list[Any] = []
    for place, part in enumerate(checked.recipe.rewards()):
        if part.reward is not None and part.url is None and part.function is None:
            made.append(part.reward)
        elif part.function is not None and part.url is None and part.reward is None:
            made.append(function_at(part.function))
        else:
            made.append(part.build(folder / f"judge-{place}.jsonl"))
    return made


def _loaded(checked: Checked, task: str) -> tuple[Any, Any]:
    from hunmin import AutoTokenizer
    from hunmin.auto import load
    from hunmin.quantize import Packed

    recipe = checked.recipe
    more: dict[str, Any] = {"dtype": recipe.dtype} if recipe.dtype is not None else {}
    more |= {"num_labels": 1} if task == "SequenceClassification" else {}
    tokenizer = AutoTokenizer.from_pretrained(recipe.tokenizer or recipe.model)
    model = load(recipe.model, task, **more)
    merged = recipe.adapter is None or recipe.adapter.merge
    if checked.method != "best-of-n" and merged and any(isinstance(layer, Packed) for layer in model.modules()):
        text = "is stored quantized; its weights are trained as float32", "은(는) 양자화되어 저장된 모델이라 float32로 풀어 학습합니다"
        logger.warning(say(f"{recipe.model} {text[0]}.", f"{recipe.model}{text[1]}."))
        model = load(recipe.model, task, **{**more, "quantization": "bf16"}).float()
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        warn_once(
            say("The tokenizer has no padding token: its end token fills rows, unseen.", "패딩 토큰이 없어 끝 토큰으로 채웁니다(학습에는 쓰지 않음).")
        )  # fmt: skip
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config["pad_token_id"] = tokenizer.pad_token_id
    return model, tokenizer


def _adapter(part: AdapterPart, task: str) -> Any:
    import hunmin.peft as peft

    kinds = {"lora": "LoraConfig", "ia3": "IA3Config", "prompt": "PromptTuningConfig", "prefix": "PrefixTuningConfig"}
    name, settings = next(iter(part.chosen().items()))
    return getattr(peft, kinds[name])(task_type={"SequenceClassification": "SEQ_CLS"}.get(task, "CAUSAL_LM"), **settings)


def _train(checked: Checked, rows: Rows, folder: Path, resume: bool) -> dict[str, Any]:
    """Train, evaluate and save."""
    recipe, about = checked.recipe, METHODS[checked.method]
    assert about.config is not None
    kind, task = found(about.trainer), "SequenceClassification" if checked.method == "reward" else "CausalLM"
    model, tokenizer = _loaded(checked, task)
    more: dict[str, Any] = {}
    training = dict(checked.training)
    if about.reward:
        more["reward_funcs"] = _rewards(checked, folder)
        weights = [part.weight for part in recipe.rewards()]
        if any(weight != 1.0 for weight in weights):
            training.setdefault("reward_weights", weights)
    if recipe.ref_model is not None:
        from hunmin.auto import load

        more["ref_model"] = load(recipe.ref_model, "CausalLM", **({"dtype": recipe.dtype} if recipe.dtype else {}))
    if recipe.adapter is not None:
        more["peft_config"] = _adapter(recipe.adapter, task)
    trainer = kind(
        model=model,
        args=found(about.config)(str(folder), **training),
        train_dataset=rows.train,
        eval_dataset=rows.validation,
        processing_class=tokenizer,
        **more,
    )
    last = Checkpoints(folder).last() if resume else None
    results: dict[str, Any] = {"train": trainer.train(resume_from_checkpoint=str(last) if last is not None else None).metrics}
    if rows.validation is not None:
        measured = trainer.evaluate(metric_key_prefix="validation")
        results["validation"] = {key.removeprefix("validation_"): value for key, value in measured.items()}
    policy = getattr(trainer, "policy", None) or trainer.model
    if recipe.adapter is not None and recipe.adapter.merge:
        policy.merge_and_unload().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    else:
        trainer.save_model(str(folder))
    return results


def _best(checked: Checked, rows: list[Row], folder: Path, resume: bool) -> dict[str, Any]:
    """Write the best answers to every prompt. Blocks of prompts that were drawn before are not drawn again."""
    from hunmin import GenerationConfig

    recipe = checked.recipe
    if not resume:
        (folder / DRAWN).unlink(missing_ok=True)
    kept = Journal(folder / DRAWN)
    sampler: Any = None
    for start in range(0, len(rows), AT_ONCE):
        if str(start) in kept:
            continue
        if sampler is None:
            model, tokenizer = _loaded(checked, "CausalLM")
            rewards, weights = _rewards(checked, folder), [part.weight for part in recipe.rewards()]
            config = GenerationConfig(**recipe.generation) if recipe.generation else None
            sampler = found(METHODS[checked.method].trainer)(
                model, tokenizer, sample_size=recipe.samples, n_candidates=recipe.keep, seed=recipe.seed + start, generation_config=config,
                reward_funcs=rewards, reward_weights=weights,
            )  # fmt: skip
        kept.add(str(start), [[one.texts, one.scores] for one in sampler.best(rows[start : start + AT_ONCE])])
    chosen = [one for start in range(0, len(rows), AT_ONCE) for one in kept[str(start)]]
    best = [
        {"prompt": row["prompt"], "completion": text, "score": score}
        for row, (texts, scores) in zip(rows, chosen, strict=True)
        for text, score in zip(texts, scores, strict=True)
    ]
    count = write_rows(folder / BEST, best)
    first = [scores[0] for _, scores in chosen]
    return {"best": {"prompts": len(rows), "answers": count, "score": float(np.mean(first))}}
