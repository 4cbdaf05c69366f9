"""What pipelines say to input and options that they cannot use: one short error that names the argument, or a result, and never a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hunmin import HunminError, InputError
from tests.pipeline_cases import CONTEXT, LONG, QUESTION, TEXT, TOPICS
from tests.test_pipelines import pipe
from tests.test_pipelines_use import IDS, WORK

BIG = "The cat sat on the mat. " * 4300
BAD: dict[str, Any] = {
    "empty": "", "spaces": " \n\t", "100 kB": BIG, "half a pair": "a \ud800 b", "zero byte": "a\0b", "none": None, "number": 3, "float": 1.5,
    "true": True, "bytes": b"abc", "object": object(), "nested": [["a", ["b"]]], "pairs": [["a", "b"]], "long nested": [[BIG]],
    "list of none": [None], "list of numbers": [1, 2], "list of empty": [""], "wrong key": {"x": 1}, "wrong keys": [{"x": "y"}],
    "no keys": {}, "none inside": {"text": None}, "number as key": {1: "a"}, "second only": {"text_pair": "b"}, "range": range(3),
}  # fmt: skip
ARGUMENTS = ("text", "prompt", "sequence", "question", "context", "candidate_labels", "documents", "tokens")


def accepted(work: Any, *given: Any, **options: Any) -> str | None:
    """Call with what may be unusable: None for a result, else the words of the error, which is Hunmin's and short."""
    try:
        work(*given, **options)
    except HunminError as error:
        said = str(error)
        assert said.count("\n") <= 1 and len(said) < 400, f"{len(said)} characters: {said[:200]}"
        return said
    return None


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(("task", "name", "good", "options"), WORK, ids=IDS)
def test_bad_input(task: str, name: str, good: Any, options: dict[str, Any], kind: str, models: Path) -> None:
    work, bad = pipe(models, task, name), BAD[kind]
    said = [accepted(work, bad, **options)]
    if isinstance(good, dict):
        said += [accepted(work, {**good, key: bad}, **options) for key in good]
        said += [accepted(work, {**good, key: [bad]}, **options) for key in good]
        said += [accepted(work, {k: v for k, v in good.items() if k != key}, **options) for key in good]
        assert None not in said[-len(good) :]
    if task == "fill-mask" and isinstance(bad, str):
        said.append(accepted(work, bad + "[MASK]", **options))
    if task == "zero-shot-classification":
        said += [accepted(work, TEXT, candidate_labels=bad), accepted(work, TEXT, candidate_labels=[TOPICS[0], bad])]
    assert all(any(word in message for word in (task, work.task, *ARGUMENTS)) for message in said if message), said
    if kind in ("none", "number", "float", "object", "nested", "list of none", "list of numbers", "wrong key", "wrong keys", "no keys"):
        assert said[0] is not None, "this is no text"


@pytest.mark.parametrize(("task", "name", "good", "options"), WORK, ids=IDS)
def test_a_megabyte(task: str, name: str, good: Any, options: dict[str, Any], models: Path) -> None:
    """A result, or an error that names the text, in the place of one text or of the last of an input's."""
    megabyte = BIG * 10 + ("[MASK]" if task == "fill-mask" else "")
    given = {**good, list(good)[-1]: megabyte if task == "question-answering" else [megabyte]} if isinstance(good, dict) else megabyte
    said = accepted(pipe(models, task, name), given, **options)
    assert said is None or "tokens" in said


@pytest.mark.parametrize(
    ("task", "name", "given", "options", "named"),
    [
        *[("text-classification", "bert-topics", [TEXT], {"top_k": k}, "top_k") for k in ("x", 2.5, -1, 0)],
        ("text-classification", "bert-topics", [TEXT], {"function_to_apply": "tanh"}, "function_to_apply"),
        ("text-classification", "bert-topics", [TEXT], {"max_length": -1}, "max_length"),
        *[("text-classification", "bert-topics", [TEXT, "Rain"], {"batch_size": k}, "batch_size") for k in ("x", 2.5, -1)],
        *[("fill-mask", "bert-mask", "The [MASK]", {"top_k": k}, "top_k") for k in ("x", 2.5, -1, 0)],
        *[("fill-mask", "bert-mask", "The [MASK]", {"targets": t}, "targets") for t in (3, [], "", [3])],
        *[("zero-shot-classification", "bert-nli", TEXT, {"candidate_labels": TOPICS, "hypothesis_template": t}, "hypothesis_template")
          for t in ("This", "{} {}", "{topic} {}", "{{}}", "{", 3)],
        *[("zero-shot-classification", "bert-nli", TEXT, {"candidate_labels": t}, "candidate_labels") for t in (None, [], "", " , ", [1], 3)],
        *[("question-answering", "bert-qa", {"question": QUESTION, "context": CONTEXT}, {k: v}, k)
          for k, v in (("top_k", 0), ("top_k", "x"), ("max_answer_len", 0), ("max_answer_len", "x"), ("max_seq_len", 3),
                       ("max_seq_len", "x"), ("doc_stride", -1), ("doc_stride", 1000))],
        *[("ner", "bert-ner", LONG, {"stride": k}, "stride") for k in (-1, 78, 100, "x")],
        ("ner", "bert-ner", TEXT, {"aggregation_strategy": "best"}, "aggregation_strategy"),
        ("feature-extraction", "bert", TEXT, {"pooling": "best"}, "pooling"),
        ("summarization", "t5", TEXT, {"max_new_tokens": 0}, "max_new_tokens"),
        ("summarization", "t5", TEXT, {"num_beams": 0}, "num_beams"),
        ("text-generation", "gpt2", TEXT, {"max_new_tokens": "x"}, "max_new_tokens"),
    ],
)  # fmt: skip
def test_bad_options(task: str, name: str, given: Any, options: dict[str, Any], named: str, models: Path) -> None:
    said = accepted(pipe(models, task, name), given, **options)
    assert said is not None and named in said


def test_windows_that_leave_little_room(models: Path) -> None:
    """A question that is nearly as long as the model, or windows that are short: an answer, or an error in words, and no crash."""
    qa = pipe(models, "question-answering", "bert-qa")
    for words in range(1, 100, 3):
        said = accepted(qa, question="Where " * words, context=CONTEXT * 5)
        assert said is None or "question" in said
    for size in range(1, 40):
        for stride in (None, 0, 1, 4, 20):
            said = accepted(qa, question=QUESTION, context=CONTEXT, max_seq_len=size, doc_stride=stride)
            assert said is None or "max_seq_len" in said
    ner = pipe(models, "ner", "bert-ner")
    for stride in range(70, 90):
        said = accepted(ner, LONG, stride=stride)
        assert said is None or "stride" in said


def test_questions_and_contexts_that_do_not_fit(models: Path) -> None:
    qa = pipe(models, "question-answering", "bert-qa")
    assert qa(QUESTION, CONTEXT) == qa(question=QUESTION, context=CONTEXT)
    for given, words in ((["a", "b"], "2 questions do not fit 3 contexts"), (None, "needs a question")):
        with pytest.raises(InputError, match=words):
            qa(question=given, context=["c", "d", "e"])
    with pytest.raises(InputError, match="needs a context"):
        qa(question=QUESTION)
