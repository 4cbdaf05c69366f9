"""Using a pipeline: its stages, its forms of input, batches, options old and new, and what it says to input that it cannot use."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import softmax

from hunmin import AutoModelForSequenceClassification, AutoTokenizer, InputError, pipeline
from hunmin.errors import ConfigError, warn_once
from hunmin.pipelines import TASKS, base
from hunmin.pipelines.base import Pipeline
from hunmin.pipelines.text_classification import TextClassificationPipeline
from tests.pipeline_cases import CONTEXT, KOREAN, LONG, NFD, QUESTION, TEXT, TOPICS
from tests.pipeline_golden import plain
from tests.test_pipelines import pipe, same

GREEDY = {"do_sample": False, "max_new_tokens": 3}
DOCUMENTS = [TEXT, "Rain falls.", "Mia went home with the dog."]
# task, model, input, options: each task as it is called by hand
WORK: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("text-classification", "bert-topics", TEXT, {"top_k": 2}),
    ("token-classification", "roberta-ner", TEXT, {"aggregation_strategy": "first"}),
    ("question-answering", "bert-qa", {"question": QUESTION, "context": CONTEXT}, {"top_k": 2}),
    ("fill-mask", "bert-mask", "The [MASK] sat.", {"top_k": 3}),
    ("zero-shot-classification", "bert-nli", TEXT, {"candidate_labels": TOPICS, "multi_label": True}),
    ("zero-shot-classification", "gpt2", TEXT, {"candidate_labels": TOPICS}),
    ("summarization", "t5", TEXT, {"max_new_tokens": 5}),
    ("translation_en_to_fr", "t5", TEXT, {"max_new_tokens": 5}),
    ("text2text-generation", "bart", TEXT, {"max_new_tokens": 5}),
    ("text-generation", "gpt2", TEXT, GREEDY),
    ("feature-extraction", "bert", TEXT, {"pooling": "cls", "normalize": True}),
    ("sentence-similarity", "bert", {"source_sentence": TEXT, "sentences": DOCUMENTS}, {}),
    ("rerank", "bert-score", {"query": "rain", "documents": DOCUMENTS}, {}),
]
IDS = [f"{task}-{name}" for task, name, *_ in WORK]
MIXED = ["Rain.", LONG[:200], TEXT, "It rains, the sun shines.", LONG[:120], "Mia", KOREAN, "cat"]


@pytest.fixture(autouse=True)
def _said(caplog: pytest.LogCaptureFixture) -> None:
    """What was said in an earlier test is said again."""
    warn_once.cache_clear()
    caplog.set_level(logging.WARNING, "hunmin")


@pytest.fixture
def topics(models: Path) -> Any:
    return pipe(models, "text-classification", "bert-topics")


# -------------------------------------------------------------- the stages


@pytest.mark.parametrize(("task", "name", "given", "options"), WORK, ids=IDS)
def test_stages_by_hand(task: str, name: str, given: Any, options: dict[str, Any], models: Path) -> None:
    work = pipe(models, task, name)
    first, second, third = work.split(options)
    by_hand = work.postprocess(work.forward(work.preprocess(given, **first), **second), **third)
    same(plain(work(given, **options)), plain(by_hand))


def test_a_stage_replaced(models: Path) -> None:
    class Loud(TextClassificationPipeline):
        def postprocess(self, outputs: Any, *, marks: int = 1, **_: Any) -> Any:  # type: ignore[override]
            return super().postprocess(outputs)["label"].upper() + "!" * marks

    loud = pipeline("text-classification", model=str(models / "bert-topics"), pipeline_class=Loud, marks=2)
    assert isinstance(loud, Loud) and isinstance(loud, Pipeline)
    label = pipe(models, "text-classification", "bert-topics")([TEXT])[0]["label"].upper()
    assert loud([TEXT]) == [f"{label}!!"] and loud([TEXT], marks=0) == [label]


def test_a_task_of_ones_own(models: Path) -> None:
    """A class and a name that the library does not know."""

    class Length(Pipeline):
        def _forward(self, batch: Any) -> Any:
            return [{"tokens": int(n)} for n in batch["attention_mask"].sum(-1)]

        def postprocess(self, outputs: Any, *, scale: int = 1) -> int:
            return outputs["tokens"] * scale

    count = pipeline("count-tokens", model=str(models / "bert-topics"), pipeline_class=Length)
    assert count.task == "count-tokens"
    assert count(["Rain", TEXT], scale=10) == [10 * len(count.tokenizer(t)["input_ids"]) for t in ("Rain", TEXT)]


class CustomPipeline:
    """As taught: tokenizer, model and softmax in a class of one's own."""

    def __init__(self, model_id: str) -> None:
        self.model = AutoModelForSequenceClassification.from_pretrained(model_id)
        self.tokenizer = AutoTokenizer.from_pretrained(model_id)
        self.model.eval()

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        tokenized = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
        with torch.no_grad():
            outputs = self.model(**tokenized)
            logits = outputs.logits
        probabilities = softmax(logits, dim=-1)
        scores, labels = torch.max(probabilities, dim=-1)
        labels_str = [self.model.config.id2label[label_idx] for label_idx in labels.tolist()]
        return [{"label": label, "score": score.item()} for label, score in zip(labels_str, scores, strict=True)]


def test_the_taught_custom_pipeline_gives_the_same(models: Path, topics: Any) -> None:
    model_id, titles = str(models / "bert-topics"), MIXED[:5]
    same(pipeline("text-classification", model=model_id)(titles), CustomPipeline(model_id)(titles))


def test_a_loaded_model_and_tokenizer(models: Path, topics: Any) -> None:
    model, tokenizer = (kind.from_pretrained(models / "bert-topics") for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    assert pipeline("text-classification", model=model, tokenizer=tokenizer)(TEXT) == topics(TEXT)
    assert pipeline(model=model, tokenizer=tokenizer)(TEXT) == topics(TEXT)


@pytest.mark.parametrize(
    ("name", "task"),
    [("bert-topics", "text-classification"), ("bert-ner", "token-classification"), ("bert-qa", "question-answering"),
     ("roberta-mask", "fill-mask"), ("gpt2", "text-generation"), ("bert", "feature-extraction"), ("bart", "text2text-generation")],
)  # fmt: skip
def test_the_model_names_the_task(name: str, task: str, models: Path) -> None:
    assert pipeline(model=str(models / name)).task == task


# -------------------------------------------------------------- forms of input


class Column(Sequence[str]):
    """What ``dataset["title"]`` gives: texts by their index, read one by one."""

    def __init__(self, rows: list[str]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]


def test_forms_of_many(topics: Any) -> None:
    import numpy as np

    want = topics(MIXED)
    assert isinstance(want, list) and len(want) == len(MIXED)
    for form in (tuple(MIXED), Column(MIXED), np.array(MIXED)):
        answers = topics(form)
        assert isinstance(answers, list)
        same(answers, want)
    for lazy in (iter(MIXED), (text for text in MIXED), dict.fromkeys(MIXED).keys()):
        answers = topics(lazy)
        assert isinstance(answers, Iterator)
        same(list(answers), want)
    assert topics([]) == [] and list(topics(iter([]))) == []
    assert topics([TEXT])[0] == topics(TEXT)[0]


def test_a_generator_is_read_as_answers_are_wanted(topics: Any) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"Rain {taken}"

    answers = topics(endless())
    assert taken == 0
    next(answers)
    assert 1 <= taken <= 2 * base.LOOK_AHEAD
    for _ in range(base.LOOK_AHEAD):
        next(answers)
    assert taken <= 3 * base.LOOK_AHEAD
    answers = topics(endless(), batch_size=1)
    before = taken
    next(answers)
    assert taken == before + 1, "one by one, nothing is read ahead"


def test_later_batches_are_computed_while_answers_are_used(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = list[int]()

    class Slow(TextClassificationPipeline):
        def _forward(self, batch: Any) -> Any:
            rows = super()._forward(batch)
            computed.append(len(rows))
            return rows

    monkeypatch.setattr(base, "LOOK_AHEAD", 2)
    work = pipeline("text-classification", model=str(models / "bert-topics"), pipeline_class=Slow)
    answers = work(iter(["Rain."] * 100))
    next(answers)
    until = time.monotonic() + 10
    while sum(computed) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    assert sum(computed) == 4, "the next part is computed, and no more"
    answers.close()  # who leaves early does not wait for all
    assert sum(computed) <= 6
    assert len(list(work(iter(["Rain."] * 7)))) == 7
    with pytest.raises(InputError):
        list(work(iter(["Rain."] * 5 + [None])))


@pytest.mark.parametrize(("task", "name", "given", "options"), WORK, ids=IDS)
def test_batches_change_nothing(task: str, name: str, given: Any, options: dict[str, Any], models: Path) -> None:
    """The answers of texts of mixed lengths, in order, are those of each text alone, however they are put together."""
    work = pipe(models, task, name)
    masks = {text: text + " [MASK]" for text in MIXED}
    as_input = {
        "fill-mask": lambda t: masks[t],
        "question-answering": lambda t: {"question": QUESTION, "context": t},
        "sentence-similarity": lambda t: {"source_sentence": t, "sentences": DOCUMENTS},
        "rerank": lambda t: {"query": t, "documents": DOCUMENTS},
    }.get(task, lambda t: t)
    short = [text[:60] for text in MIXED] if name == "gpt2" else MIXED  # room for what is generated
    masks |= {text: text + " [MASK]" for text in short}
    inputs = [as_input(text) for text in short]
    alone = [work([item], **options) for item in inputs]
    alone = plain([a[0] if isinstance(a, list) and task not in ("fill-mask", "question-answering") else a for a in alone])
    for size in ("auto", 1, 3):
        same(plain(work(inputs, batch_size=size, **options)), alone, f"batch_size={size}")
    lazy = plain(list(work(iter(inputs), batch_size=2, **options)))
    same([a[0] for a in lazy] if "max_new_tokens" in options and task != "text-generation" else lazy, alone)


@pytest.mark.parametrize(("task", "name", "given", "options"), WORK, ids=IDS)
def test_an_encoder_computes_no_padding(task: str, name: str, given: Any, options: dict[str, Any], models: Path) -> None:
    work = pipe(models, task, name)
    if work.model.decoder is not None:
        return
    first = work.split(options)[0]
    prepared = work.preprocess(given, **first)
    items = [*(prepared if isinstance(prepared, list) else [prepared])] * 2
    items[0] = {
        k: v[:3] if isinstance(v, list) and len(v) == len(items[0]["input_ids"]) else v for k, v in items[0].items()
    }  # a shorter one
    batch = work.collate(items)
    assert batch["input_ids"].shape == (1, sum(len(item["input_ids"]) for item in items)) and batch["where"].kind == "packed"


def test_batches_follow_lengths() -> None:
    lengths = [5, 90, 7, 30, 6, 90]
    together = list(base.batches(lengths, "auto", 100))
    assert together == [[1], [5], [3, 2, 4], [0]]
    assert list(base.batches(lengths, 4, 100)) == [[1, 5, 3, 2], [4, 0]]
    assert sorted(i for batch in together for i in batch) == list(range(6))


# -------------------------------------------------------------- errors among many


def test_a_bad_input_is_skipped(topics: Any, caplog: pytest.LogCaptureFixture) -> None:
    inputs = [TEXT, None, "Rain.", "a \ud800 b"]
    for answers in (topics(inputs, on_error="skip"), list(topics(iter(inputs), on_error="skip", batch_size=1))):
        for mine, want in zip([answers[0], answers[2]], topics([TEXT, "Rain."]), strict=True):  # company may change the last bit
            assert mine == {"label": want["label"], "score": pytest.approx(want["score"], rel=1e-5)}
        for i in (1, 3):
            assert set(answers[i]) == {"error", "index"} and answers[i]["index"] == i and "text" in answers[i]["error"]
    assert [m for m in caplog.messages if m.startswith("input ")][:2] == [f"input {i}: {answers[i]['error']}" for i in (1, 3)]
    far = topics(["Rain."] * 300 + [3], on_error="skip")
    assert len(far) == 301 and far[300]["index"] == 300
    with pytest.raises(InputError, match="text-classification takes a text"):
        topics(inputs, on_error="raise")
    with pytest.raises(InputError):
        topics(inputs)
    with pytest.raises(InputError, match="'raise' or 'skip'"):
        topics(inputs, on_error="ignore")


@pytest.mark.parametrize(
    ("task", "name", "good", "bad", "options"),
    [("fill-mask", "bert-mask", "The [MASK] sat.", LONG + "[MASK]", {}), ("text-generation", "gpt2", "Rain", LONG, GREEDY),
     ("text-classification", "bert-topics", "Rain.", LONG, {"truncation": False})],
)  # fmt: skip
def test_a_text_that_is_too_long_is_skipped(task: str, name: str, good: str, bad: str, options: Any, models: Path) -> None:
    """What the model, and not the tokenizer, refuses."""
    work = pipe(models, task, name)
    answers = work([good, bad, good], on_error="skip", **options)
    assert set(answers[1]) == {"error", "index"} and answers[1]["index"] == 1
    same([answers[0], answers[2]], work([good, good], **options))


def test_progress(topics: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    topics(["Rain."] * 3)
    topics(["Rain."] * 300)  # nobody is watching
    topics(["Rain."] * 3, progress=True)  # done before anyone asks
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(base, "PATIENCE", 0.0)
    topics(["Rain."] * 3, progress=False)
    assert capsys.readouterr().err == ""
    topics(["Rain."] * 3, progress=True)
    assert "3/3" in capsys.readouterr().err


# -------------------------------------------------------------- options


def test_options_of_the_pipeline_and_of_a_call(models: Path, topics: Any) -> None:
    two = pipeline("text-classification", model=str(models / "bert-topics"), top_k=2, batch_size=3, on_error="skip")
    assert two.batch_size == 3 and len(two(TEXT)[0]) == 2 and len(two(TEXT, top_k=1)) == 1 and len(two([TEXT], top_k=None)[0]) == 3
    assert len(two(TEXT)[0]) == 2, "an option of a call ends with it"
    assert "error" in two([None])[0]
    t5 = pipe(models, "summarization", "t5", max_new_tokens=2)
    assert t5(TEXT) == pipe(models, "summarization", "t5")(TEXT, max_new_tokens=2) != t5(TEXT, max_new_tokens=9)


def test_old_names(models: Path, topics: Any, caplog: pytest.LogCaptureFixture) -> None:
    ner = pipe(models, "ner", "bert-ner")
    assert ner(TEXT, grouped_entities=True) == ner(TEXT, aggregation_strategy="simple")
    assert ner(TEXT, grouped_entities=True, ignore_subwords=True) == ner(TEXT, aggregation_strategy="first")
    assert sorted(str(a) for a in topics([TEXT], return_all_scores=True)[0]) == sorted(str(a) for a in topics([TEXT], top_k=None)[0])
    assert topics([TEXT], return_all_scores=False) == topics([TEXT])
    half = pipeline("text-classification", model=str(models / "bert-topics"), torch_dtype=torch.bfloat16, framework="pt", use_fast=True)
    assert half.model.dtype == torch.bfloat16
    rough, exact = ({row["label"]: row["score"] for row in work([TEXT], top_k=None)[0]} for work in (half, topics))
    assert rough == pytest.approx(exact, abs=0.05)
    qa = pipe(models, "question-answering", "bert-qa")
    assert qa(question=QUESTION, context=CONTEXT, topk=2) == qa(question=QUESTION, context=CONTEXT, top_k=2)
    zero = pipe(models, "zero-shot-classification", "roberta-nli")
    assert zero(TEXT, TOPICS, multi_class=True) == zero(TEXT, candidate_labels=TOPICS, multi_label=True)


def test_question_answering_reads_as_the_model_says(models: Path) -> None:
    asked = {"question": QUESTION, "context": "Unbelievable cats understanding mattresses. " * 9}  # words of several tokens
    qa, told = pipe(models, "question-answering", "bert-qa"), pipeline("question-answering", model=str(models / "bert-qa"))
    told.model.config["task_specific_params"] = {"question-answering": {"max_seq_len": 32, "align_to_words": False}}
    assert len(told.preprocess(asked)) > len(qa.preprocess(asked))
    short = [qa(asked, top_k=9, max_seq_len=32, align_to_words=wide) for wide in (False, True)]
    assert told(asked, top_k=9) == short[0] != short[1]
    assert told(asked, top_k=3, max_seq_len=min(qa.tokenizer.model_max_length, 384), align_to_words=True) == qa(asked, top_k=3)


@pytest.mark.parametrize(("task", "name"), [(task, name) for task, name, *_ in WORK], ids=IDS)
def test_unknown_options_are_named_with_those_that_exist(task: str, name: str, models: Path) -> None:
    work = pipe(models, task, name)
    known = {option for named, _ in work._stages() for option in named}
    given = {"question-answering": {"question": QUESTION, "context": CONTEXT}, "fill-mask": "The [MASK]."}.get(task, TEXT)
    with pytest.raises(InputError, match="has no option 'colour'") as error:
        work([given], colour="red")
    generates = any(anything for _, anything in work._stages())
    assert ("temperature" if generates else sorted(known)[0]) in str(error.value)


def test_unknown_tasks_are_named_with_those_that_exist(models: Path) -> None:
    for task in ("paint", "translation_en", "text_classification", ""):
        with pytest.raises(InputError, match="Unknown task") as error:
            pipeline(task, model=str(models / "bert"))
        assert all(known in str(error.value) for known in (*TASKS, "sentiment-analysis", "ner", "translation_XX_to_YY"))
    with pytest.raises(InputError, match="Name a task or a model"):
        pipeline()


# -------------------------------------------------------------- tasks


def test_rerank(models: Path) -> None:
    rerank = pipe(models, "rerank", "bert-score")
    ranked = rerank({"query": "Where does it rain?", "documents": DOCUMENTS})
    assert [list(row) for row in ranked] == [["index", "score", "document"]] * 3
    assert sorted(row["index"] for row in ranked) == [0, 1, 2] and all(row["document"] == DOCUMENTS[row["index"]] for row in ranked)
    assert [row["score"] for row in ranked] == sorted((row["score"] for row in ranked), reverse=True)
    scores = pipe(models, "text-classification", "bert-score")([{"text": "Where does it rain?", "text_pair": d} for d in DOCUMENTS])
    same([row["score"] for row in ranked], [scores[row["index"]]["score"] for row in ranked])
    assert rerank({"query": "Where does it rain?", "documents": DOCUMENTS}, top_k=1) == ranked[:1]
    assert rerank([{"query": "rain", "documents": DOCUMENTS[:n]} for n in (0, 1)])[0] == []


def test_an_encoder_without_a_head_reranks_by_cosines(models: Path) -> None:
    rerank = pipeline("rerank", model=str(models / "bert"))
    ranked = rerank({"query": TEXT, "documents": DOCUMENTS})
    cosines = pipe(models, "sentence-similarity", "bert")({"source_sentence": TEXT, "sentences": DOCUMENTS})
    assert ranked[0]["document"] == TEXT and ranked[0]["score"] == pytest.approx(1.0, abs=1e-5)
    same([row["score"] for row in ranked], [cosines[row["index"]] for row in ranked])
    assert [row["score"] for row in ranked] == sorted(cosines, reverse=True)
    assert rerank({"query": TEXT, "documents": DOCUMENTS}, top_k=1) == ranked[:1]
    assert rerank([{"query": TEXT, "documents": [TEXT][:n]} for n in (0, 1)])[0] == []
    with pytest.raises(InputError, match="documents"):
        rerank({"query": TEXT})


def test_sentence_similarity(models: Path) -> None:
    similar, mean = (pipe(models, task, "bert") for task in ("sentence-similarity", "feature-extraction"))
    cosines = similar({"source_sentence": TEXT, "sentences": DOCUMENTS})
    vectors = torch.nn.functional.normalize(torch.tensor(mean([TEXT, *DOCUMENTS], pooling="mean")), dim=-1)
    same(cosines, (vectors[1:] @ vectors[0]).tolist())
    assert cosines[0] == pytest.approx(1, abs=1e-5)
    assert similar((TEXT, DOCUMENTS[1])) == pytest.approx(cosines[1], abs=1e-5)
    same(similar([(TEXT, d) for d in DOCUMENTS]), cosines)


@pytest.mark.parametrize("task", ["summarization", "translation_en_to_fr"])
@pytest.mark.parametrize("text", [LONG + LONG, "서울에비가온다。" * 60, "naïve" * 100], ids=["sentences", "no spaces", "one word"])
def test_long_texts_in_parts(task: str, text: str, models: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = pipe(models, task, "bart")
    whole = work(text, chunk=True, max_new_tokens=2)[0]
    assert not caplog.messages or all("was not made for this text" in m for m in caplog.messages)
    (key,) = whole
    windows = work.preprocess(text, chunk=True)
    parts = [work.postprocess(work.forward(part, max_new_tokens=2))[0][key] for part in windows]
    assert len(parts) > 1 and whole[key] == " ".join(parts)
    seen = "".join(work.tokenizer.decode(part["input_ids"], skip_special_tokens=True) for part in windows)
    assert "".join(seen.split()) == "".join(text.split()), "nothing is left out"
    assert work("Rain.", chunk=True, max_new_tokens=2) == work("Rain.", max_new_tokens=2)


def test_long_texts_are_cut_with_one_warning(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = pipe(models, "summarization", "bart")
    for _ in range(2):
        cut = work(LONG + LONG, max_new_tokens=2)
    assert len(caplog.messages) == 1 and "chunk=True" in caplog.messages[0]
    assert work(LONG + LONG, truncation=True, max_new_tokens=2) == cut


EMOJI = "🐈‍⬛ Mia went to 서울 🇰🇷, Café «Paris» — 1️⃣ " + NFD


@pytest.mark.parametrize("name", ["bert-ner", "roberta-ner"])
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("text", [EMOJI, (EMOJI + ". ") * 15, "\ufeff" + TEXT, "a\u3000 \u200b b\tMia\n\nParis"])
def test_places_of_entities_are_exact(name: str, strategy: str, text: str, models: Path) -> None:
    """``text[start:end]`` is what the tokens cover, in order, with nothing lost between windows."""
    ner = pipe(models, "ner", name)
    found = ner(text, aggregation_strategy=strategy, ignore_labels=[], stride=12)
    offsets = ner.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    starts, ends = {a for a, _ in offsets}, {b for _, b in offsets}
    assert found and all(row["start"] in starts and row["end"] in ends and row["start"] <= row["end"] for row in found)
    assert [row["start"] for row in found] == sorted(row["start"] for row in found)
    if len(offsets) > 80 and strategy != "none":
        assert all(a["end"] <= b["start"] for a, b in pairwise(found))
    assert found[-1]["end"] == max(ends), "the last window is read"
    if len(offsets) < 60 and strategy == "none":
        assert [(row["start"], row["end"]) for row in found] == offsets


def test_masks_and_entailment_are_asked_for_by_name(models: Path) -> None:
    for name, mask in (("bert-mask", r"\[MASK\]"), ("roberta-mask", "<mask>")):
        for text in ("The cat sat.", "The ____ sat.", "The <MASK> sat.", ""):
            with pytest.raises(InputError, match=f"mask is {mask}"):
                pipe(models, "fill-mask", name)(text)
    with pytest.raises(ConfigError, match=r"no label that starts with 'entail' \(it has sports, politics, weather\)"):
        pipe(models, "zero-shot-classification", "bert-topics")(TEXT, candidate_labels=TOPICS)
