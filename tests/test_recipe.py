"""Recipes: every objective from a file to a model, what a recipe may not say, plans, resumed runs, and a whole run from nothing."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hunmin import AutoConfig, AutoTokenizer, pipeline
from hunmin.cli import main
from hunmin.errors import InputError, SourceError
from hunmin.train import TrainerCallback
from hunmin.train.recipe import plan, read, run, train_from_scratch
from hunmin.train.recipe.goals import GOALS
from hunmin.train.recipe.schema import ALIASES

GOOD, BAD = ["good", "great", "lovely", "fine"], ["bad", "awful", "poor", "grim"]
REVIEWS = [f"the film was {words[i % 4]} and the day {words[(i + 1) % 4]}" for i in range(20) for words in (GOOD, BAD)]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
BERT = {"scratch": "bert", **SMALL}
BART = {"scratch": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}  # fmt: skip
T5 = {"scratch": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
GPT2 = {"scratch": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
ELECTRA = {"scratch": "electra", **SMALL, "embedding_size": 16}
STEPS = {"max_steps": 2, "disable_tqdm": True, "report_to": "none", "html_report": False}
ROWS: list[dict[str, Any]] = [
    {
        "text": review,
        "label": "pos" if i % 2 == 0 else "neg",
        "both": ["pos", "day"] if i % 2 == 0 else ["neg"],
        "stars": 1 + i % 5,
        "words": review.split(),
        "tags": ["O" if word in ("the", "was", "and") else "B-X" for word in review.split()],
        "target": review.split()[3],
        "question": "how was the film?",
        "context": review,
        "answers": {"text": [review.split()[3]], "answer_start": [review.index(review.split()[3])]},
        "choices": ["good", "bad", "none"],
        "right": i % 3,
        "pair": REVIEWS[(i + 2) % 40],
        "other": REVIEWS[(i + 1) % 40],
        "document": [review, review[:12], review[5:]],
    }
    for i, review in enumerate(REVIEWS)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the rows of the tests in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    return tmp_path


def recipe(model: dict[str, Any] = BERT, vocabulary: str = "wordpiece", **more: Any) -> dict[str, Any]:
    """A recipe on the rows; ``data`` adds to its own."""
    data = {"train": "rows.jsonl", "validation": 4, **more.pop("data", {})}
    training = {**STEPS, **more.pop("training", {})}
    out = {"output": "out", "data": data, "tokenizer": {"train": vocabulary, "vocab_size": 400}, "model": model, "training": training}
    return {**out, **more}


# objective: (recipe, what must stand in the results of its validation rows, task of the pipeline that loads the model)
OBJECTIVES: dict[str, tuple[dict[str, Any], str, str]] = {
    "mlm": (recipe(pack=32, options={"whole_word_mask": True}), "perplexity", "fill-mask"),
    "clm": (recipe(GPT2, "byte-level-bpe", pack=32), "perplexity", "text-generation"),
    "electra": (recipe(ELECTRA, options={"generator": 0.5, "weight": 20}), "loss", ""),
    "bart": (recipe(BART, "byte-level-bpe", options={"noises": ["infilling"]}), "loss", "text2text-generation"),
    "t5": (recipe(T5, "unigram"), "loss", "text2text-generation"),
    "prefix-lm": (recipe(T5, "unigram"), "loss", "text2text-generation"),
    "next-sentence": (recipe(data={"text": "document"}), "accuracy", ""),
    "seq2seq": (recipe(BART, "bpe", training={"predict_with_generate": True, "generation_max_length": 8}), "chrf", "summarization"),
    "classification": (recipe(data={"text_pair": "pair"}), "f1_macro", "text-classification"),
    "multi-label": (recipe(data={"label": "both"}), "f1_micro", "text-classification"),
    "regression": (recipe(data={"label": "stars"}), "pearson", "text-classification"),
    "token-classification": (recipe(data={"text": "words", "label": "tags"}), "f1", "token-classification"),
    "question-answering": (recipe(), "exact", "question-answering"),
    "multiple-choice": (recipe(data={"label": "right"}), "accuracy", ""),
    "contrastive": (recipe(data={"text_pair": "pair", "negative": "other"}), "loss", "feature-extraction"),
}
ASKED: dict[str, Any] = {
    "fill-mask": "the film was [MASK]",
    "question-answering": {"question": "how was the film?", "context": "the film was good"},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_goes_from_rows_to_a_model_with_scores(objective: str, folder: Path) -> None:
    settings, metric, task = OBJECTIVES[objective]
    results = run({**settings, "objective": objective})
    found = results[objective]["validation"]
    assert any(name == metric or name.startswith(metric) for name in found), found
    assert json.loads((folder / "out" / "results.json").read_text())[objective]["validation"] == found
    assert AutoConfig.from_pretrained("out").model_type == settings["model"]["scratch"]
    if task:
        answer = pipeline(task, "out")(ASKED.get(task, "the film was good"), **({"max_new_tokens": 3} if "generation" in task else {}))
        assert answer


def test_every_objective_is_tried() -> None:
    assert OBJECTIVES.keys() == GOALS.keys()
    assert set(ALIASES.values()) <= GOALS.keys()


def test_no_batch_of_one_document_is_left_for_next_sentences(folder: Path) -> None:
    sizes = {"per_device_train_batch_size": 7, "per_device_eval_batch_size": 4, "max_steps": 6}  # 35 rows and 5
    found = run(recipe(objective="next-sentence", data={"text": "document", "validation": 5, "max_rows": 36}, training=sizes))
    assert 0 <= found["next-sentence"]["validation"]["accuracy"] <= 1


def test_a_fresh_head_of_several_labels_begins_at_their_shares(folder: Path) -> None:
    settings = {"objective": "multi-label", "training": {"max_steps": 1, "learning_rate": 0.0}}
    for name, rare, often in (("rare", "rare", "often"), ("turned", "often", "rare")):
        rows = [{"text": review, "label": [often if i % 20 else rare]} for i, review in enumerate(REVIEWS)]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    run(recipe(**settings, data={"train": "rare.jsonl", "validation": None}))
    bias = load_file("out/model.safetensors")["classifier.bias"]
    names = AutoConfig.from_pretrained("out").label2id
    assert dict(zip(names, bias.sigmoid().tolist(), strict=True)) == pytest.approx({"often": 39 / 42, "rare": 3 / 42})
    run(recipe({"from": "out"}, **settings, tokenizer={"from": "out"}, output="on", data={"train": "turned.jsonl", "validation": None}))
    assert torch.equal(load_file("on/model.safetensors")["classifier.bias"], bias)  # a head that has learned goes on where it is


def test_labels_have_their_names_in_the_model(folder: Path) -> None:
    run(recipe(objective="sentiment-analysis"))
    assert AutoConfig.from_pretrained("out").id2label == {0: "neg", 1: "pos"}
    run(recipe(objective="classification", output="two", data={"labels": ["pos", "neg"]}))
    assert AutoConfig.from_pretrained("two").id2label == {0: "pos", 1: "neg"}
    run(recipe({"from": "two"}, tokenizer={"from": "two"}, objective="classification", output="three"))
    assert AutoConfig.from_pretrained("three").id2label == {0: "pos", 1: "neg"}  # the model knows these labels already


def test_labels_by_number_keep_the_names_of_data_set_and_model(folder: Path) -> None:
    from datasets import ClassLabel, Dataset

    rows = Dataset.from_list([{"text": text, "label": i % 2} for i, (text, _) in enumerate(PAIRS)])
    rows.cast_column("label", ClassLabel(names=["1", "0"])).save_to_disk("odd")  # names that look like other numbers
    run(recipe(objective="classification", data={"train": "odd"}, training={"max_steps": 60, "learning_rate": 1e-2}))
    assert pipeline("text-classification", "out")("the film was great and the day lovely")[0]["label"] == "1"
    run(recipe(objective="classification", output="named"))
    rows.save_to_disk("plain")
    run(recipe({"from": "named"}, tokenizer={"from": "named"}, objective="classification", output="two", data={"train": "plain"}))
    assert AutoConfig.from_pretrained("two").id2label == {0: "neg", 1: "pos"}


def test_an_error_names_the_row_of_the_file_also_after_a_split(folder: Path) -> None:
    rows = [{**row, "label": "odd" if i == 17 else row["label"]} for i, row in enumerate(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(InputError, match=r"data: row 18, column 'label': the label 'odd' is none of pos, neg"):
        run(recipe(objective="classification", data={"labels": ["pos", "neg"], "validation": 0.4}))


def test_large_numbers_are_names(folder: Path) -> None:
    (folder / "n.csv").write_text("text,label\n" + "".join(f"{text},{[1000, 7][i % 2]}\n" for i, (text, _) in enumerate(PAIRS)))
    assert plan(recipe(objective="classification", data={"train": "n.csv"})).stages[0].labels == ["7", "1000"]


def test_numbers_are_classes_in_their_order(folder: Path) -> None:
    (folder / "n.csv").write_text("text,label\n" + "".join(f"{review},{i % 12}\n" for i, review in enumerate(REVIEWS)))
    run(recipe(objective="classification", data={"train": "n.csv"}))
    assert AutoConfig.from_pretrained("out").id2label == {i: str(i) for i in range(12)}
    run(recipe({"from": "out"}, objective="classification", tokenizer={"from": "out"}, output="two", data={"train": "n.csv"}))
    assert AutoConfig.from_pretrained("two").id2label == {i: str(i) for i in range(12)}


def test_a_classifier_learns(folder: Path) -> None:
    found = run(recipe(objective="classification", training={"max_steps": 60, "learning_rate": "1e-2"}))["classification"]
    assert found["validation"]["accuracy"] == 1.0
    assert pipeline("text-classification", "out")("the film was great and the day lovely")[0]["label"] == "pos"


def test_a_student_learns_from_a_teacher(folder: Path) -> None:
    run(recipe(objective="classification", training={"max_steps": 120, "learning_rate": 1e-2}))
    found = run(
        recipe(
            BERT, objective="classification", output="student", teacher="out", tokenizer={"from": "out"},
            options={"temperature": 3, "alpha": 1.0}, training={"max_steps": 120, "learning_rate": 1e-2},
        )
    )  # fmt: skip
    assert found["classification"]["validation"]["accuracy"] == 1.0  # alpha 1: the labels themselves were not learned


def test_pairs_with_a_score_learn_their_cosine(folder: Path) -> None:
    found = run(recipe(objective="contrastive", data={"text_pair": "pair", "label": "stars"}))
    assert found["contrastive"]["validation"]["loss"] > 0


# ---------------------------------------------------------------- files


def _gz(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def _parquet(path: Path) -> None:
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist([{"text": row["text"], "label": row["label"]} for row in ROWS]), path)


def _saved(path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict

    rows = Dataset.from_list([{"text": row["text"], "label": i % 2} for i, row in enumerate(ROWS)]).cast_column(
        "label", ClassLabel(names=["pos", "neg"])
    )
    DatasetDict({"train": rows, "dev": rows.select(range(4))}).save_to_disk(path)


PAIRS = [(row["text"], row["label"]) for row in ROWS]
WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.csv": lambda path: path.write_text("text,label\n" + "\n".join(f'"{text}, yes",{label}' for text, label in PAIRS)),
    "a.tsv": lambda path: path.write_text("text\tlabel\n" + "\n".join(f'{text} "\t{label}' for text, label in PAIRS)),
    "a.tsv.gz": lambda path: _gz(path, "text\tlabel\n" + "\n".join(f"{text}\t{label}" for text, label in PAIRS)),
    "a.json": lambda path: path.write_text(json.dumps([{"text": text, "label": label} for text, label in PAIRS])),
    "b.json": lambda path: path.write_text(json.dumps({"text": [t for t, _ in PAIRS], "label": [label for _, label in PAIRS]})),
    "a.parquet": _parquet,
    "saved": _saved,
}


@pytest.mark.parametrize("name", WRITERS)
def test_rows_come_from_any_usual_file(name: str, folder: Path) -> None:
    WRITERS[name](folder / name)
    data = {"train": name, "validation": "saved:dev" if name == "saved" else None}
    made = plan(recipe(objective="classification", data=data)).stages[0]
    assert made.rows["train"] == 40
    assert made.labels == (["pos", "neg"] if name == "saved" else ["neg", "pos"])


def test_splits_are_cut_from_the_training_rows_and_never_overlap(folder: Path) -> None:
    from hunmin.train.recipe.sources import load_splits

    checked = read(recipe(objective="classification", data={"validation": 0.25, "test": 6, "text": "document"}))
    stage = checked.stages[0]
    splits = load_splits(stage.data, ["text", "stars"], 1, stage.data_place)
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [40 - 6 - round(34 * 0.25), round(34 * 0.25), 6]
    again = load_splits(stage.data, ["text", "stars"], 1, stage.data_place)
    assert splits.test["text"] == again.test["text"]


def test_a_run_leaves_the_folder_of_its_data_alone(folder: Path) -> None:
    _saved(folder / "saved")
    before = sorted(path for path in (folder / "saved").rglob("*"))
    run(recipe(objective="classification", data={"train": "saved"}))
    run(recipe(objective="mlm", pack=32, output="packed", data={"train": "saved"}))
    assert sorted(path for path in (folder / "saved").rglob("*")) == before
    assert not [path for path in folder.rglob("*") if path.suffix == ".arrow" and "saved" not in path.parts]


@pytest.mark.parametrize("pack", [40, 200])
def test_no_token_of_a_long_text_is_lost_where_rows_are_packed(pack: int, folder: Path) -> None:
    """Also where a row is longer than the texts that the model takes (64 tokens)."""
    from hunmin.train.recipe.run import prepare, tokenizer_of

    (folder / "long.txt").write_text(" ".join(REVIEWS) + "\n" + REVIEWS[0] + "\n")
    checked = read(recipe(objective="mlm", pack=pack, data={"train": "long.txt", "validation": None}))
    tokenizer = tokenizer_of(checked, None)
    rows = prepare(checked, checked.stages[0], tokenizer, None)[1].train
    whole = [tokenizer(text)["input_ids"] for text in (" ".join(REVIEWS), REVIEWS[0])]
    assert sum(map(len, rows["input_ids"])) == sum(map(len, whole))
    assert max(map(len, rows["input_ids"])) <= pack and max(length for lengths in rows["lengths"] for length in lengths) <= 64


def test_patterns_and_lists_join_files_and_mixtures_draw_from_sources(folder: Path) -> None:
    for name in ("p1.txt", "p2.txt"):
        (folder / name).write_text("one line here\n\nand one line there\n")
    joined = plan(recipe(objective="mlm", data={"train": "p*.txt", "validation": None})).stages[0]
    assert joined.rows == {"train": 4}
    (folder / "other.csv").write_text("body\n" + "a text of another kind\n" * 40)
    mix = [{"train": "rows.jsonl", "weight": 3}, {"train": "other.csv", "weight": 1, "rename": {"body": "text"}}]
    mixed = plan(recipe(objective="mlm", data={"train": None, "mix": mix, "validation": None, "max_rows": 100})).stages[0]
    assert mixed.rows["train"] == 100


# ---------------------------------------------------------------- what a recipe may not say

CLASSIFY = recipe(objective="classification")


def change(*keys: Any, value: Any = None, base: dict[str, Any] = CLASSIFY) -> dict[str, Any]:
    """The recipe with one value changed."""
    out: dict[str, Any] = json.loads(json.dumps(base))
    at: Any = out
    for key in keys[:-1]:
        at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
    at[keys[-1]] = value
    return out


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown argument": (change("training", "learnin_rate", value=1), r"training\.learnin_rate: there is no such key.*learning_rate"),
    "unknown key": (change("dta", value={}), r"dta: there is no such key.*data"),
    "unknown key of a part": (change("data", "txt", value="a"), r"data\.txt: there is no such key.*text"),
    "unknown key of a model": (change("model", "hidden_siz", value=8), r"model\.hidden_siz: there is no such key.*hidden_size"),
    "unknown model": (change("model", "scratch", value="brt"), r"model\.scratch: is 'brt' \((bert|bart)\?\)"),
    "unknown objective": (change("objective", value="classificaton"), r"objective: is 'classificaton' \(classification\?\)"),
    "unknown option": (change("options", "rate", value=0.1), r"options\.rate: there is no such key"),
    "type": (change("training", "max_steps", value="many"), r"training\.max_steps: must be a whole number, not 'many'"),
    "choice": (change("training", "eval_strategy", value="stps"), r"training\.eval_strategy: is 'stps' \(steps\?\); it can be no, steps, epoch"),
    "argument that cannot be": (change("training", "warmup_ratio", value=2), r"training: warmup_ratio is 2"),
    "output in the arguments": (change("training", "output_dir", value="x"), r"training\.output_dir: a recipe says this with output"),
    "no mapping": (change("data", value=[1]), r"data: must be keys with values"),
    "missing key": ({"model": BERT}, r"output: this key is needed"),
    "no objective": (change("objective", value=None), r"objective: this key is needed, or stages"),
    "two models": (change("model", "from", value="x"), r"model: says either from"),
    "no tokenizer": (change("tokenizer", value=None), r"tokenizer: a model from scratch needs a tokenizer"),
    "new words, old model": (change("model", value={"from": "x"}), r"tokenizer\.train: a new vocabulary needs a new model"),
    "packed classes": (change("pack", value=64), r"pack: rows of at least 2 tokens are packed for objectives on plain text: mlm, clm"),
    "taught regression": (change("objective", value="regression", base=change("teacher", value="x")), r"teacher: can teach mlm"),
    "stage key outside": (change("stages", value=[{"objective": "mlm"}]), r"objective: belongs into a stage"),
    "two names": (
        {**recipe(), "stages": [{"objective": "mlm"}, {"objective": "mlm"}]},
        r"stages\.1\.name: two stages are called mlm",
    ),
    "no stage": ({**recipe(), "stages": []}, r"stages: is empty"),
    "no data": (change("data", value=None), r"data\.train: data needs train or mix"),
    "missing column": (change("data", "text", value="title"), r"data: train has no column 'title'; its columns are: text, label, both"),
    "missing file": (change("data", "train", value="gone.csv"), r"data\.train: there is no file gone\.csv"),
    "no match": (change("data", "train", value="gone*.csv"), r"data\.train: no file matches"),
    "ending": (change("data", "train", value="odd.xyz"), r"data\.train: the ending of odd\.xyz is none of"),
    "unequal columns": (change("data", "train", value="unequal.csv"), r"unequal\.csv, line 3: 3 columns, the header has 2"),
    "unequal lengths": (change("data", "train", value="unequal.json"), r"unequal\.json: its columns are of unequal length \(text: 2, label: 1\)"),
    "broken line": (change("data", "train", value="broken.jsonl"), r"broken\.jsonl, line 2: not JSON"),
    "no rows": (change("data", "train", value="empty.csv"), r"data\.train: there is no row"),
    "empty file": (change("data", "train", value="nothing.csv"), r"train has no column 'text'; its columns are: none"),
    "not a parquet": (change("data", "train", value="fake.parquet"), r"fake\.parquet cannot be read as parquet"),
    "no text": (change("data", "train", value="holes.jsonl", base=change("data", "validation")), r"row 2, column 'text': a text is needed, not None"),
    "one label": (change("data", "label", value="question"), r"column 'question' has 1 distinct values"),
    "unknown label": (change("data", "labels", value=["pos", "meh"]), r"column 'label': the label 'neg' is none of pos, meh"),
    "no number": (change("objective", value="regression"), r"column 'label': a number is needed"),
    "all cut away": (change("data", "validation", value=40), r"data\.validation: 40 of 40 training rows"),
    "evaluation of nothing": (
        change("data", "validation", base=change("training", "eval_strategy", value="epoch")), r"eval_strategy needs validation rows"
    ),
    "too long": (change("data", "max_length", value=100), r"data\.max_length: is 100; this model takes 3 to 64 tokens"),
    "small vocabulary": (change("tokenizer", "vocab_size", value=3), r"tokenizer: A tokenizer is one of .* above 5"),
    "no such head": (change("objective", value="bart", base=change("data", "validation")), r"model: bart: bert has no head for Seq2SeqLM"),
    "no adapters": (change("adapter", value={}), r"adapter: names one of lora"),
    "no virtual weights": (change("adapter", value={"prompt": {}}), r"adapter\.merge: virtual tokens cannot be merged"),
    "adapter in between": (
        {**recipe(), "stages": [{"objective": "mlm", "adapter": {"lora": {}, "merge": False}}, {"objective": "clm"}]},
        r"stages\.0\.adapter: must be merged, for the next stage",
    ),
    "no words to mix": (change("data", value={"mix": []}), r"data\.mix: needs sources"),
}  # fmt: skip


@pytest.fixture
def files(folder: Path) -> Path:
    """Broken files beside the good ones."""
    held = {
        "odd.xyz": "text", "unequal.csv": "text,label\na,b\na,b,c\n", "unequal.json": '{"text": ["a", "b"], "label": ["x"]}',
        "broken.jsonl": '{"text": "a"}\n{"text"\n', "empty.csv": "text,label\n", "nothing.csv": "", "fake.parquet": "text",
        "holes.jsonl": '{"text": "a", "label": "x"}\n{"label": "y"}\n',
    }  # fmt: skip
    for name, text in held.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_what_a_recipe_may_not_say_is_said_in_one_message(name: str, files: Path) -> None:
    settings, message = WRONG[name]
    with pytest.raises(InputError, match=message) as caught:
        run(settings)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    assert not (files / "out" / "results.json").exists()


def test_messages_are_korean_where_that_is_the_language(files: Path, korean: None) -> None:
    for settings, _ in WRONG.values():
        with pytest.raises(InputError, match=r"[가-힣]"):
            run(settings)


def test_a_place_has_the_line_of_the_file(folder: Path) -> None:
    path = folder / "r.yaml"
    path.write_text(
        "output: out\nmodel: {from: x}\nobjective: mlm\ndata: {train: rows.jsonl}\ntraining:\n  seed: 1\n  learnin_rate: 1e-4\n"
    )
    with pytest.raises(InputError, match=r"r\.yaml:7: training\.learnin_rate"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: [", r"r\.yaml:\d+: this is not valid YAML"),
        ("output: a\noutput: b\n", r"r\.yaml:2: output: this key stands here twice"),
        ("- a\n", r"the recipe: must be keys with values"),
        ("", r"the recipe: must be keys with values"),
        ("a: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe(text: str, message: str, folder: Path) -> None:
    (folder / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read("r.yaml")


def test_a_recipe_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml cannot be read"):
        read("gone.yaml")


# ---------------------------------------------------------------- overrides

STAGES = {
    **recipe(),
    "stages": [
        {"name": "pretrain", "objective": "mlm", "pack": 32, "training": {"max_steps": 2}},
        {"name": "finetune", "objective": "classification", "training": {"max_steps": 3}},
    ],
}


def test_overrides_replace_values_by_their_keys(folder: Path) -> None:
    (folder / "r.yaml").write_text(yaml.safe_dump(STAGES))
    made = read(
        "r.yaml",
        ["training.learning_rate=1e-4", "stages.pretrain.training.max_steps=7", "stages.1.name=tune", "data.labels=[a, b]", "output=there"],
    )
    assert [stage.training["learning_rate"] for stage in made.stages] == [1e-4, 1e-4]
    assert [stage.training["max_steps"] for stage in made.stages] == [7, 3]
    assert made.stages[1].name == "tune" and made.stages[0].data.labels == ["a", "b"] and str(made.output) == "there"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learnin_rate=1", r"training\.learnin_rate: there is no such key"),
        ("learning_rate", "--set wants KEY=VALUE"),
        ("stages.train.pack=3", r"stages\.train: there is no such item; there are pretrain, finetune"),
        ("output.name=3", "output has no keys"),
    ],
)
def test_overrides_that_cannot_be(override: str, message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(STAGES, [override])


# ---------------------------------------------------------------- plans


def test_a_plan_counts_and_measures_and_writes_nothing(folder: Path) -> None:
    before = sorted(path.name for path in folder.rglob("*"))
    made = plan({**STAGES, "training": {**STEPS, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}})
    assert sorted(path.name for path in folder.rglob("*")) == before
    first, second = made.stages
    assert (second.rows, second.steps, second.batch) == ({"train": 36, "validation": 4}, 3, 8)
    assert first.packed is not None and first.packed < 36 and second.packed is None
    for stage in made.stages:
        assert stage.memory["weights"] == stage.memory["gradients"] == 4 * stage.parameters
        assert stage.memory["optimizer"] >= 2 * stage.memory["weights"] and stage.memory["activations"] > 0  # AdamW's two moments
        assert stage.seconds > 0 and stage.trained == stage.parameters
    assert second.example[0][0] == "[CLS]" and second.example[0][1] in ("pos", "neg")
    assert any(label != "-" for _, label in first.example)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "next-sentence"])
def test_a_batch_of_every_objective_is_shown(objective: str, folder: Path) -> None:
    made = plan({**OBJECTIVES[objective][0], "objective": objective}).stages[0]
    assert made.example and all(isinstance(token, str) and isinstance(label, str) for token, label in made.example)
    if objective != "contrastive":
        assert any(label not in ("", "-") for _, label in made.example)


# ---------------------------------------------------------------- whole runs


def test_from_scratch_end_to_end(folder: Path) -> None:
    (folder / "r.yaml").write_text(yaml.safe_dump(STAGES))
    results = train_from_scratch("r.yaml", ["stages.finetune.training.max_steps=60", "training.learning_rate=1e-2", "data.test=4"])
    assert list(results) == ["pretrain", "finetune"]
    assert results["pretrain"]["validation"]["perplexity"] > 1 and results["finetune"]["test"]["accuracy"] == 1.0
    assert pipeline("text-classification", "out")("the film was awful and the day poor")[0]["label"] == "neg"
    assert yaml.safe_load((folder / "out" / "recipe.yaml").read_text())["stages"][1]["training"]["max_steps"] == 60
    assert AutoTokenizer.from_pretrained("out").model_max_length == 64


def test_fine_tuning_begins_with_the_weights_of_pre_training(folder: Path) -> None:
    run({**STAGES, "training": {**STEPS, "learning_rate": 0.0}})
    stored = [load_file(folder / "out" / name / "model.safetensors") for name in ("pretrain", ".")]
    shared = stored[0].keys() & stored[1].keys()
    assert any("attention" in name for name in shared)
    for name in shared:
        assert torch.equal(*(tensors[name] for tensors in stored)), name


def test_only_a_model_from_scratch_is_trained_from_scratch(folder: Path) -> None:
    with pytest.raises(InputError, match=r"model\.scratch: this key is needed"):
        train_from_scratch(recipe({"from": "x"}, tokenizer=None, objective="mlm"))


def test_a_run_is_not_written_over(folder: Path) -> None:
    first = run(CLASSIFY)
    with pytest.raises(InputError, match=r"output: out holds a run already"):
        run(CLASSIFY)
    again = run({**CLASSIFY, "overwrite": True})
    assert again["classification"]["validation"]["loss"] == first["classification"]["validation"]["loss"]  # the same seed


class Stop(TrainerCallback):
    """Breaks off a run."""

    def on_save(self, *_: Any, **about: Any) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("hunmin.train.recipe.run")
    settings = {**STAGES, "training": {**STEPS, "max_steps": 4, "save_steps": 2}}
    settings["stages"] = [{**stage, "training": {}} for stage in settings["stages"]]
    whole = run({**settings, "output": "whole"})
    original = module.trainer_for

    def stopping(work: Any, **options: Any) -> Any:
        trainer = original(work, **options)
        if work.stage.name == "finetune":
            trainer.add_callback(Stop())
        return trainer

    monkeypatch.setattr(module, "trainer_for", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert list(json.loads((folder / "out" / "results.json").read_text())) == ["pretrain"]
    seen: list[str] = []
    monkeypatch.setattr(module, "trainer_for", lambda work, **options: (seen.append(work.stage.name), original(work, **options))[1])
    with pytest.raises(InputError, match="holds a run already"):
        run(settings)
    resumed = run(settings, resume=True)
    assert seen == ["finetune"]
    for split in ("train", "validation"):
        key = "train_loss" if split == "train" else "loss"
        assert resumed["finetune"][split][key] == pytest.approx(whole["finetune"][split][key], abs=1e-6)
    with pytest.raises(InputError, match=r"stages\.0: was finished with another training"):
        run(settings, ["stages.pretrain.training.max_steps=9"], resume=True)


def test_an_adapter_is_trained_and_merged(folder: Path) -> None:
    settings = recipe(objective="classification", adapter={"lora": {"r": 2, "target_modules": "all-linear"}})
    try:
        import hunmin.peft  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="adapter: this version of Hunmin has no adapters"):
            run(settings)
        return
    made = plan(settings).stages[0]
    assert 0 < made.trained < made.parameters
    run(settings)
    assert pipeline("text-classification", "out")("the film")[0]["label"] in ("pos", "neg")


def test_a_source_that_cannot_be_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def gone(name: str, config: str | None) -> Any:
        raise ConnectionError(f"no way to {name}")

    monkeypatch.setattr(datasets, "load_dataset", gone)
    with pytest.raises(SourceError, match=r"data\.train: org/name cannot be loaded: no way to org/name"):
        run(change("data", "train", value="org/name"))


# ---------------------------------------------------------------- the command line


@pytest.fixture
def cli(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``cli("--dry-run")`` as ``hunmin train r.yaml --dry-run``: exit code, standard output, standard error."""
    monkeypatch.setenv("HUNMIN_DEBUG", "")
    (folder / "r.yaml").write_text(yaml.safe_dump(STAGES))

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hunmin", "train", "r.yaml", *args])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return call


def test_the_command_plans_and_trains_and_goes_on(cli: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    code, out, _ = cli("--dry-run", "--set", "stages.finetune.training.max_steps=5")
    assert code == 0 and not (folder / "out").exists()
    assert re.search(r"stage finetune: classification\nmodel +bert\nrows +train 36, validation 4\nlabels +2: neg, pos\n", out)
    assert re.search(r"steps +5 of 8 rows, 1 epochs\n", out)
    assert re.search(r"memory +about [\d.]+ [kM]B: weights [\d.]+ kB  gradients .*optimizer .*activations", out)
    assert re.search(r"time +about [\d.]+ s on ", out) and re.search(r"TOKEN +LABEL\n\[CLS\] +(neg|pos)\nthe\n", out)
    code, out, _ = cli()
    assert code == 0 and re.search(r"finetune +validation +accuracy +[01]\.\d{4}\n", out) and "saved in out" in out
    code, _, err = cli()
    assert code == 1 and err.startswith("error: r.yaml:") and "holds a run already" in err
    assert cli("--resume")[0] == 0
    code, _, err = cli("--set", "training.learnin_rate=1")
    assert code == 1 and "training.learnin_rate: there is no such key. Did you mean learning_rate" in err


def test_a_plan_in_korean(cli: Callable[..., tuple[int, str, str]], korean: None) -> None:
    out = cli("--dry-run")[1]
    assert all(word in out for word in ("단계 pretrain", "파라미터", "메모리", "아무것도 쓰지 않았습니다"))


# ---------------------------------------------------------------- examples and documentation

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["classify.yaml", "from_scratch.yaml", "lora.yaml"])
def test_the_examples_are_recipes(name: str) -> None:
    assert read(ROOT / "examples" / "recipes" / name).stages


def test_the_example_from_scratch_runs(folder: Path) -> None:
    shutil.copytree(ROOT / "examples", folder / "examples")
    results = train_from_scratch(
        "examples/recipes/from_scratch.yaml",
        ["training.disable_tqdm=true", "stages.pretrain.training.max_steps=4", "stages.finetune.training.max_steps=4"],
    )
    assert results["finetune"]["test"]["accuracy"] >= 0


def test_the_page_lists_every_key() -> None:
    import dataclasses

    from hunmin.train.recipe import schema
    from hunmin.train.recipe.checks import key_of

    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for part in (
        schema.Recipe,
        schema.DataPart,
        schema.TokenizerPart,
        schema.ModelPart,
        schema.AdapterPart,
        schema.StagePart,
        schema.MixPart,
    ):
        for item in dataclasses.fields(part):
            if not item.metadata.get("rest"):
                assert re.search(rf"`{key_of(item)}`", page), f"{part.__name__}.{key_of(item)}"
    for name, goal in GOALS.items():
        assert all(f"`{word}`" in page for word in (name, *goal.options))
