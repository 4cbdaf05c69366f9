"""Extractive question answering: the span of a context that answers a question."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hunmin.errors import InputError, say, short
from hunmin.pipelines.base import PACKED, Pipeline, Rows
from hunmin.text import BatchEncoding
from hunmin.text.options import whole

PROMPT = "Answer the question in a few words taken from the text.\n\nText: {context}\n\nQuestion: {question}"  # for chat models
WORDS = 32  # new tokens of a chat model's answer
Floats = NDArray[np.float64]
HIDDEN = -10000.0


def examples(question: Any, context: Any) -> tuple[list[dict[str, str]], bool]:
    """Questions and contexts, in lists or alone, as pairs; and whether it was one alone. One context may serve several questions."""
    single = isinstance(question, str) and isinstance(context, str)
    questions = [question] if isinstance(question, str) else list(question or [])
    contexts = [context] if isinstance(context, str) else list(context or [])
    if len(contexts) == 1:
        contexts *= len(questions)
    if len(questions) == 1:
        questions *= len(contexts)
    if len(questions) != len(contexts):
        raise InputError(
            say(
                f"{len(questions)} questions do not fit {len(contexts)} contexts.",
                f"질문 {len(questions)}개와 본문 {len(contexts)}개의 수가 다릅니다.",
            )
        )
    return [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)], single


def best_spans(start: Floats, end: Floats, allowed: NDArray[np.bool_], longest: int, top_k: int) -> list[tuple[int, int, float]]:
    """(first token, last token, score) of the best spans: the product of both chances, at most ``longest`` tokens long."""
    scores = np.tril(np.triu(np.outer(start, end)), longest - 1)
    order = np.argsort(-scores, axis=None, kind="stable")[:top_k] if top_k > 1 else [int(scores.argmax())]
    pairs = [divmod(int(flat), len(end)) for flat in order]
    return [(s, e, float(scores[s, e])) for s, e in pairs if allowed[s] and allowed[e]]


class QuestionAnsweringPipeline(Pipeline):
    """``{"score", "start", "end", "answer"}``, places in the context as it was given; ``top_k`` above one gives a list.

    Models may say in their ``config.json`` how much they read at once, and whether answers end with words
    (``task_specific_params["question-answering"]``: ``max_seq_len``, ``align_to_words``).

    A chat model (a causal language model) is asked with ``PROMPT``; its score is the mean likelihood of its words, and ``start`` and ``end``
    are None when they do not stand in the context.

    Call it with a question and a context, with ``{"question": …, "context": …}``, or with lists of either.
    """

    packs = True
    budget = PACKED

    def is_single(self, inputs: Any) -> bool:
        return isinstance(inputs, dict)

    def __call__(self, inputs: Any = None, context: Any = None, *, question: Any = None, data: Any = None, **options: Any) -> Any:
        given = inputs if inputs is not None else data
        if isinstance(given, str) or (given is not None and context is not None):
            given, question = None, given
        if given is None:
            if question is None or context is None:
                missing = "question" if question is None else "context"
                raise InputError(say(f"question-answering needs a {missing}.", f"question-answering에 {missing}이(가) 필요합니다."))
            pairs, single = examples(question, context)
            given = pairs[0] if single else pairs
        answers = super().__call__(given, **options)
        return answers[0] if isinstance(given, list) and len(given) == 1 and question is None else answers

    def preprocess(
        self, inputs: Any, *, doc_stride: int | None = None, max_seq_len: int | None = None, max_question_len: int = 64, padding: Any = None
    ) -> Any:
        for name in ("question", "context"):
            value = inputs.get(name) if isinstance(inputs, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise InputError(
                    say(
                        f"question-answering needs a {name} with text, not {short(value)}.",
                        f"question-answering에는 비어 있지 않은 {name}이(가) 필요합니다: {short(value)}.",
                    )
                )
        if self.model.task == "CausalLM":
            return self.chat_prompt(PROMPT.format(**inputs), context=inputs["context"])
        max_seq_len = self.settings.get("max_seq_len") if max_seq_len is None else max_seq_len
        limit = whole("max_seq_len", max_seq_len, 1) if max_seq_len is not None else min(self.tokenizer.model_max_length, 384)
        question, room = self._shortened(inputs["question"], whole("max_question_len", max_question_len, 1), limit)
        stride = whole("doc_stride", doc_stride) if doc_stride is not None else min(limit // 2, 128, room - 1)
        if stride >= room:
            raise InputError(
                say(
                    f"doc_stride ({stride}) must be below the {room} tokens that max_seq_len ({limit}) leaves to the context.",
                    f"doc_stride({stride})는 max_seq_len({limit})에서 본문에 남는 {room}토큰보다 작아야 합니다.",
                )
            )
        first = self.tokenizer.padding_side == "right"  # models that pad on the left read the context first
        texts = (question, inputs["context"]) if first else (inputs["context"], question)
        encoded = self.tokenizer(
            *texts,
            truncation="only_second" if first else "only_first",
            max_length=limit,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        encoded.pop("overflow_to_sample_mapping", None)
        rows = list[BatchEncoding]()
        for i in range(len(encoded["input_ids"])):
            row = BatchEncoding({k: encoded[k][i] for k in encoded})
            side = encoded.sequence_ids(i)
            row["context"], row["words"] = inputs["context"], encoded.word_ids(i)
            row["allowed"] = [s == int(first) for s in side]
            row["null"] = row["input_ids"].index(self.tokenizer.cls_token_id) if self.tokenizer.cls_token_id in row["input_ids"] else None
            rows.append(row)
        return rows

    def _shortened(self, question: str, longest: int, limit: int) -> tuple[str, int]:
        """The question's first ``longest`` tokens, and how many tokens of a window of ``limit`` are left to the context."""
        encoded = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        count = min(longest, len(encoded["input_ids"]))
        if count < len(encoded["input_ids"]):
            question = question[: encoded["offset_mapping"][count - 1][1]]
        room = limit - count - self.tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            raise InputError(
                say(
                    f"max_seq_len ({limit}) leaves no room for the context beside a question of {count} tokens. Ask in fewer words.",
                    f"max_seq_len({limit})에는 {count}토큰인 question 옆에 본문이 들어갈 자리가 없습니다. 질문을 줄이세요.",
                )
            )
        return question, room

    def collate(self, items: list[BatchEncoding]) -> BatchEncoding:
        return self.collate_left(items) if self.model.task == "CausalLM" else super().collate(items)

    def _forward(self, batch: BatchEncoding) -> Rows:
        if self.model.task == "CausalLM":
            return self._told(batch)
        out = self.model(**batch)
        ends = (self.by_row(logits.float().cpu(), batch) for logits in (out.start_logits, out.end_logits))
        return [{"start": start, "end": end} for start, end in zip(*ends, strict=True)]

    def postprocess(
        self,
        outputs: Any,
        *,
        top_k: int = 1,
        topk: int | None = None,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool | None = None,
    ) -> Any:
        """``handle_impossible_answer`` lets the empty answer compete, with the chance of the model's "no answer" token."""
        if isinstance(outputs, dict):
            place = outputs["context"].lower().find(outputs["answer"].lower()) if outputs["answer"] else -1
            end = place + len(outputs["answer"])
            return {"score": outputs["score"], "start": place if place >= 0 else None, "end": end if place >= 0 else None} | {
                "answer": outputs["context"][place:end] if place >= 0 else outputs["answer"]
            }
        count, longest = whole("top_k", topk if topk is not None else top_k, 1), whole("max_answer_len", max_answer_len, 1)
        align_to_words = bool(self.settings.get("align_to_words", True)) if align_to_words is None else align_to_words
        answers, nothing = list[dict[str, Any]](), 1.0
        for row in outputs:
            allowed = np.array(row["allowed"])
            start, end = (self._chances(row[key].double().numpy(), allowed, row["null"]) for key in ("start", "end"))
            if handle_impossible_answer and row["null"] is not None:
                nothing = min(nothing, float(start[row["null"]] * end[row["null"]]))
            if row["null"] is not None:
                start[row["null"]] = end[row["null"]] = 0.0
            for s, e, score in best_spans(start, end, allowed, longest, count):
                first, last = self._places(row, s, e, align_to_words)
                answers.append({"score": score, "start": first, "end": last, "answer": row["context"][first:last]})
        if handle_impossible_answer:
            answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        answers.sort(key=lambda answer: -answer["score"])
        answers = answers[:count]
        return answers[0] if len(answers) == 1 else answers

    def _told(self, batch: BatchEncoding) -> Rows:
        """A chat model's answers, each with the mean likelihood of its tokens."""
        count = self.new_tokens(WORDS, batch["input_ids"].shape[1])
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": count, "return_dict_in_generate": True, "output_scores": True}
        out = self.model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **options)
        new = out.sequences[:, batch["input_ids"].shape[1] :]
        chances = torch.stack([s.float().log_softmax(-1) for s in out.scores], 1).gather(-1, new[..., None])[..., 0]
        rows: Rows = []
        for ids, chance in zip(new, chances, strict=True):
            text = self.tokenizer.decode(ids, skip_special_tokens=True).strip().strip(".\"'")
            said = len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) or 1
            rows.append({"answer": text, "score": chance[:said].mean().exp().item()})
        return rows

    def _chances(self, logits: Floats, allowed: NDArray[np.bool_], null: int | None) -> Floats:
        """Chances of every token of the context, and of the "no answer" token, to be an end of the answer."""
        seen = allowed.copy()
        if null is not None:
            seen[null] = True
        logits = np.where(seen, logits, HIDDEN)
        chances = np.exp(logits - logits.max())
        return chances / chances.sum()

    def _places(self, row: dict[str, Any], start: int, end: int, whole_words: bool) -> tuple[int, int]:
        """Characters of a span of tokens, widened to whole words where the tokenizer knows words."""
        offsets, words = row["offset_mapping"], row["words"]
        if not whole_words or words[start] is None or words[end] is None:
            return offsets[start][0], offsets[end][1]
        spans = {i: offsets[i] for i, ok in enumerate(row["allowed"]) if ok}
        return (
            min(span[0] for i, span in spans.items() if words[i] == words[start]),
            max(span[1] for i, span in spans.items() if words[i] == words[end]),
        )
