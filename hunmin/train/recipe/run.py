"""A recipe, carried out: tokenizer, then stage after stage, each evaluated, and a final model that pipelines load."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from hunmin.errors import ConfigError, InputError, say
from hunmin.generate import set_seed
from hunmin.train import parallel
from hunmin.train.arguments import TrainingArguments
from hunmin.train.checkpoint import Checkpoints
from hunmin.train.metrics import perplexity
from hunmin.train.packing import pack
from hunmin.train.recipe import sources
from hunmin.train.recipe.encode import Work
from hunmin.train.recipe.goals import GOALS, columns_of, label_names, named_by, no_head, trainer_for
from hunmin.train.recipe.schema import AdapterPart, Checked, ModelPart, Stage, read

RESULTS, RECIPE, TOKENIZER = "results.json", "recipe.yaml", "tokenizer"
LONGEST = 512  # tokens of a row where nobody says otherwise
Results = dict[str, dict[str, Any]]


def run(recipe: Any, overrides: Sequence[str] | Mapping[str, Any] = (), *, resume: bool = False) -> Results:
    """Carry out a recipe: a YAML file, a dictionary, or what :func:`read` returned.

    ``output`` gets the model and its tokenizer, ``results.json`` (the metrics of every stage, which are also returned), the recipe with its
    overrides, and a folder of checkpoints for each stage. With ``resume`` finished stages are skipped, and the one that was interrupted
    goes on at its last checkpoint.

    Raises:
        InputError: a recipe or data that cannot be used, or an output folder that holds another run.
    """
    checked = read(recipe, overrides)
    results = _begin(checked, resume)
    set_seed(checked.recipe.seed)
    tokenizer = tokenizer_of(checked, checked.output / TOKENIZER)
    place: str | None = None
    for i, stage in enumerate(checked.stages):
        folder = checked.output / stage.name
        goal = checked.output if i + 1 == len(checked.stages) else folder
        if stage.name not in results:
            results[stage.name] = _run_stage(checked, stage, tokenizer, place, goal, resume)
            _write(checked.output / RESULTS, json.dumps(results, indent=2, ensure_ascii=False, default=float))
        place = str(goal)
    return {name: {key: value for key, value in found.items() if key != "settings"} for name, found in results.items()}


def train_from_scratch(recipe: Any, overrides: Sequence[str] | Mapping[str, Any] = (), *, resume: bool = False) -> Results:
    """:func:`run` for a recipe that begins with nothing: tokenizer, pre-training, fine-tuning and evaluation in one file.

    Raises InputError for a recipe whose model is not ``scratch``.
    """
    checked = read(recipe, overrides)
    if checked.recipe.model.scratch is None:
        raise (checked.place / "model" / "scratch").error(
            "this key is needed to train from scratch; `run` takes models that exist.",
            "처음부터 학습하려면 필요한 항목입니다. 있는 모델은 run으로 학습하세요.",
        )
    return run(checked, resume=resume)


# ---------------------------------------------------------------- the folder


def _begin(checked: Checked, resume: bool) -> Results:
    """The results that are there already. Raises InputError where another run would be written over, or was another recipe's."""
    folder, results = checked.output, Results()
    if (folder / RESULTS).is_file() and resume:
        results = cast("Results", json.loads((folder / RESULTS).read_text(encoding="utf-8")))
        for stage in checked.stages:
            old = results.get(stage.name, {}).get("settings")
            if old is not None and old != json.loads(json.dumps(stage.settings())):
                changed = ", ".join(key for key, value in json.loads(json.dumps(stage.settings())).items() if old.get(key) != value)
                raise stage.place.error(
                    f"was finished with another {changed}: begin again with overwrite: true or another output.",
                    f"다른 {changed}(으)로 끝난 단계입니다. overwrite: true나 다른 output으로 새로 시작하세요.",
                )
    elif not resume:
        checkpoints = [path for stage in checked.stages for path in Checkpoints(folder / stage.name).all()]
        if not checked.recipe.overwrite and (checkpoints or (folder / RESULTS).exists()):
            raise (checked.place / "output").error(
                f"{folder} holds a run already: go on with --resume, begin again with overwrite: true, or name another folder.",
                f"{folder}에 이미 실행 결과가 있습니다. --resume으로 이어 가거나, overwrite: true로 새로 시작하거나, 다른 폴더를 적으세요.",
            )
        for path in checkpoints:
            shutil.rmtree(path)
        shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
        (folder / RESULTS).unlink(missing_ok=True)
    if parallel.rank() == 0:
        import yaml

        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / RECIPE, yaml.safe_dump(checked.values, allow_unicode=True, sort_keys=False))
    return results


def _write(path: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    if parallel.rank() == 0:
        part = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)


# ---------------------------------------------------------------- tokenizer and model


def tokenizer_of(checked: Checked, kept: Path | None, rows: int | None = None) -> Any:
    """The tokenizer of a recipe. A new one is learned from the training texts of the first stage, and kept in a folder.

    ``rows``: look at so many rows only.
    """
    from hunmin.text import AutoTokenizer
    from hunmin.text.scratch import train_tokenizer

    part, model = checked.recipe.tokenizer, checked.recipe.model
    if part is None or part.train is None:
        return AutoTokenizer.from_pretrained(str(part.source if part is not None and part.source is not None else model.source))
    if kept is not None and (kept / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(str(kept))
    stage = checked.stages[0]
    labels = stage.data.label if isinstance(stage.data.label, list) else [stage.data.label]
    columns = [name for name in columns_of(stage) if name not in labels]
    train = sources.load_splits(stage.data, columns_of(stage), checked.recipe.seed, stage.data_place).train
    texts = sources.texts_of(train if rows is None else sources.first_rows(train, rows), columns)
    options: dict[str, Any] = {"min_frequency": part.min_frequency, "lowercase": part.lowercase, "model_type": str(model.scratch)}
    try:
        tokenizer = train_tokenizer(texts, part.train, part.vocab_size, **options)
    except InputError as error:
        raise InputError(f"{checked.place / 'tokenizer'}: {error}") from error
    if kept is not None and parallel.rank() == 0:
        part = kept.with_name(f".{kept.name}")
        tokenizer.save_pretrained(part)
        shutil.rmtree(kept, ignore_errors=True)
        part.rename(kept)
    return tokenizer


def model_of(checked: Checked, stage: Stage, tokenizer: Any, labels: Sequence[str], place: str | None) -> Any:
    """The model of a stage with its head: from the stage before (``place``), from the recipe's source, or fresh."""
    from hunmin.auto import load

    part, goal = checked.recipe.model, GOALS[stage.objective]
    config = dict(part.config) if place is None else {}
    if goal.named:
        config |= {"id2label": dict(enumerate(labels))}
    elif stage.objective == "regression":
        config |= {"num_labels": 1}
    config |= {"problem_type": goal.problem} if goal.problem is not None else {}
    source = place if place is not None else part.source
    try:
        if source is None:
            model = fresh(part, goal.task, tokenizer, config, stage.objective)
        else:
            model = load(source, goal.task, ignore_mismatched_sizes=True, **config, **({"dtype": part.dtype} if part.dtype else {}))
            if len(tokenizer) > model.get_input_embeddings().num_embeddings:
                model.resize_token_embeddings(len(tokenizer))
    except (ConfigError, InputError) as error:
        raise type(error)(f"{checked.place / 'model'}: {error}") from error
    if tokenizer.pad_token_id is not None and model.config.pad_token_id is None:
        model.config["pad_token_id"] = tokenizer.pad_token_id
    return model


def fresh(part: ModelPart, task: str, tokenizer: Any, config: dict[str, Any], objective: str) -> Any:
    """A model with fresh weights whose configuration fits the tokenizer. Raises InputError for a head that its family lacks."""
    from hunmin.arch import FAMILIES, architecture
    from hunmin.auto import by_name
    from hunmin.hub.config import Config

    kind = str(part.scratch)
    heads = architecture(kind).heads
    if task not in heads:
        raise no_head(task, kind, objective)
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": first, "eos_token_id": tokenizer.eos_token_id}
    if architecture(kind).encoder is not None and architecture(kind).decoder is not None:
        ids["decoder_start_token_id"] = tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.eos_token_id
    values = {"vocab_size": len(tokenizer), **{key: value for key, value in ids.items() if value is not None}, **config}
    if not isinstance(values["vocab_size"], int) or values["vocab_size"] < len(tokenizer):
        raise InputError(
            say(
                f"vocab_size is below the {len(tokenizer)} tokens of the tokenizer.",
                f"vocab_size가 토크나이저의 토큰 수 {len(tokenizer)}보다 작습니다.",
            )
        )
    made = Config(kind, **values)
    return by_name(heads[task].name.format(FAMILIES[kind][1])).from_config(made, **({"dtype": part.dtype} if part.dtype else {}))


def adapted(model: Any, part: AdapterPart | None, task: str, place: Any) -> Any:
    """The model under the adapter of a stage. Raises InputError where there are no adapters, or not this one."""
    if part is None:
        return model
    kinds = {"lora": "LoraConfig", "ia3": "IA3Config", "prompt": "PromptTuningConfig", "prefix": "PrefixTuningConfig"}
    try:
        module = import_module("hunmin.peft")
    except ImportError as error:
        raise (place / "adapter").error("this version of Hunmin has no adapters.", "이 버전의 Hunmin에는 어댑터가 없습니다.") from error
    name, settings = next(iter(part.chosen().items()))
    names = {"CausalLM": "CAUSAL_LM", "Seq2SeqLM": "SEQ_2_SEQ_LM", "SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS"}
    names |= {"QuestionAnswering": "QUESTION_ANS", "Model": "FEATURE_EXTRACTION"}
    try:
        return module.get_peft_model(model, getattr(module, kinds[name])(task_type=names.get(task), **settings))
    except InputError as error:
        raise InputError(f"{place / 'adapter' / name}: {error}") from error


# ---------------------------------------------------------------- a stage


def prepare(
    checked: Checked, stage: Stage, tokenizer: Any, place: str | None, *, folder: str | None = None, sample: int | None = None
) -> tuple[Work, sources.Splits]:
    """The model of a stage, and its rows, tokenized.

    ``folder`` takes the tokens of rows that are not in memory themselves; ``sample``: of each split so many rows only.
    """
    splits = sources.load_splits(stage.data, columns_of(stage), checked.recipe.seed, stage.data_place)
    labels = label_names(stage, splits.train, _held(checked, place))
    work = Work(stage, tokenizer, LONGEST, labels, numbered=bool(named_by(stage, splits.train)))
    work.model = model_of(checked, stage, tokenizer, labels, place)
    work.room, work.length = row_length(work)
    if splits.validation is None and stage.training.get("eval_strategy", "no") != "no":
        raise (stage.data_place / "validation").error("eval_strategy needs validation rows.", "eval_strategy에는 검증 데이터가 필요합니다.")
    rows = sources.Splits(*(encoded(rows, name, work, folder, sample) for name, rows in vars(splits).items()))
    if stage.objective == "multi-label":
        start_at_shares(work.model, rows.train["labels"])
    tokenizer.model_max_length = min(tokenizer.model_max_length, work.room)  # what pipelines cut texts to
    return work, rows


def start_at_shares(model: Any, labels: Sequence[Sequence[float]]) -> None:
    """Let a fresh head begin at the share of the rows that each label has: its biases are set to the shares' log-odds.

    Labels of a text are rare. From biases of zero every score must fall first, and the blocks learn that instead of the texts (Lin et al.
    2017, Focal Loss, section 4.1).
    """
    bias = getattr(getattr(model.head, "out", None), "bias", None)
    if bias is not None and not bias.any():
        counts = np.asarray(labels).sum(0)
        with torch.no_grad():
            bias.copy_(torch.from_numpy((counts + 1) / (len(labels) + 2)).logit())


def _held(checked: Checked, place: str | None) -> list[str]:
    """The label names of the model that a stage begins with, unless they are only numbered."""
    from hunmin.auto import AutoConfig

    source = place if place is not None else checked.recipe.model.source
    held = AutoConfig.from_pretrained(source).id2label if source is not None else {}
    names = [held[i] for i in sorted(held)]
    return [] if any(name.startswith("LABEL_") for name in names) else names


def row_length(work: Work) -> tuple[int, int]:
    """Tokens that tokenizer and model take, and those of a row: what the recipe says. Raises InputError for more than they take."""
    model = getattr(work.model, "base_model", work.model)
    limits = [side.embed.spec.positions for side in (model.encoder, model.decoder) if side is not None and not side.embed.spec.sinusoid]
    room = min([work.tokenizer.model_max_length, *(limit for limit in limits if limit)])
    wanted = work.data.max_length or min(LONGEST, room)
    if not 2 < wanted <= room:
        raise (work.stage.data_place / "max_length").error(
            f"is {wanted}; this model takes 3 to {room} tokens.", f"값이 {wanted}입니다. 이 모델은 3~{room}토큰을 받습니다."
        )
    return room, wanted


def encoded(rows: Any, name: str, work: Work, folder: str | None, sample: int | None = None) -> Any:
    """A split, tokenized, without rows that have no tokens, and packed where the stage says so."""
    if rows is None:
        return None
    goal = GOALS[work.stage.objective]
    rows = sources.first_rows(rows, sample) if sample is not None else rows
    stored = folder is not None and bool(rows.cache_files)  # else the library would write beside the data
    out = rows.map(
        lambda batch: goal.encode(batch, batch[sources.ROW], work),
        batched=True,
        remove_columns=rows.column_names,
        new_fingerprint=uuid.uuid4().hex,  # or it would be computed from everything that the function refers to
        keep_in_memory=not stored,
        cache_file_name=f"{folder}/{name}.arrow" if stored else None,
        desc=f"{work.stage.name}: {name}",
    )
    if not len(out):
        raise (work.stage.data_place / name).error("there is no text in this data set.", "데이터셋에 텍스트가 없습니다.")
    args = arguments_of(work.stage, "")
    size = args.per_device_train_batch_size if name == "train" else args.per_device_eval_batch_size
    if work.stage.objective == "next-sentence" and len(out) % size == 1:  # a batch of one document has no other to draw from
        out = sources.first_rows(out, len(out) - 1)
    if work.stage.pack is None:
        return out
    return pack(out, work.stage.pack)


def arguments_of(stage: Stage, folder: str | Path, **more: Any) -> TrainingArguments:
    """The training arguments of a stage, writing to a folder."""
    return TrainingArguments(folder, **{"remove_unused_columns": False, **stage.training, **more})


def _run_stage(checked: Checked, stage: Stage, tokenizer: Any, place: str | None, final: Path, resume: bool) -> dict[str, Any]:
    """Train, save and evaluate one stage. Returns its metrics by split."""
    with tempfile.TemporaryDirectory(prefix=".rows-", dir=checked.output, ignore_cleanup_errors=True) as folder:
        work, splits = prepare(checked, stage, tokenizer, place, folder=folder)
        return _train_stage(checked, work, splits, final, resume)


def _train_stage(checked: Checked, work: Work, splits: sources.Splits, final: Path, resume: bool) -> dict[str, Any]:
    stage = work.stage
    work.model = adapted(work.model, stage.adapter, GOALS[stage.objective].task, stage.place)
    args = arguments_of(stage, checked.output / stage.name)
    trainer = trainer_for(work, args=args, train_dataset=splits.train, eval_dataset=splits.validation)
    last = Checkpoints(args.output_dir).last() if resume else None
    results: dict[str, Any] = {"train": trainer.train(resume_from_checkpoint=str(last) if last is not None else None).metrics}
    for name, rows in (("validation", splits.validation), ("test", splits.test)):
        if rows is not None:
            found = trainer.evaluate(rows, metric_key_prefix=name)
            results[name] = {key.removeprefix(f"{name}_"): value for key, value in found.items()}
            if GOALS[stage.objective].task in ("CausalLM", "MaskedLM") and "loss" in results[name]:
                results[name]["perplexity"] = perplexity(results[name]["loss"])
    save(trainer, work, final)
    return {**results, "settings": json.loads(json.dumps(stage.settings()))}


def save(trainer: Any, work: Work, folder: Path) -> None:
    """The model of a stage, an adapter merged into it, and its tokenizer."""
    if work.stage.adapter is not None and work.stage.adapter.merge:
        whole = trainer.model.merge_and_unload()
        if parallel.rank() == 0:
            whole.save_pretrained(folder)
            work.tokenizer.save_pretrained(folder)
        parallel.barrier()
    else:
        trainer.save_model(folder)
