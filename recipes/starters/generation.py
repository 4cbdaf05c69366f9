"""Adapters for a small chat model, SmolLM2-135M-Instruct: one-sentence summaries, short answers from a text, and calls of functions as JSON.

Every prompt is the one that Hunmin's pipeline for the task builds, so that the adapters serve it as they are. Only answers are learned.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import generation_scores as scores
from card import Data, Starter
from english_qa import articles
from measure import write_rows
from translation import plain, read_tsv

from hunmin.hub.starter import SMOLLM2

SEED = 21
PAPERS, SENTENCES = 170, 30  # training rows: papers, and pairs of sentences of Wikipedia
QUESTIONS, YES_NO = 500, 100
LONGEST = 1400  # characters of an abstract or of a text with a question: about 300 tokens
CALLS_HELD, OTHERS = 60, 2  # calls of functions in the test; functions in each list that are not asked for
ROWS = {"papers": 50, "questions": 80, "yes-no": 50}  # test rows
Row = dict[str, Any]


def chat(prompt: str | list[dict[str, str]], answer: str) -> Row:
    """A training row: what the pipeline asks, and the answer wanted."""
    said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {"prompt": said, "completion": [{"role": "assistant", "content": answer}]}


def drawn(rows: Sequence[Any], count: int, seed: int = SEED) -> list[Any]:
    """At most ``count`` rows, drawn at random."""
    return random.Random(seed).sample(list(rows), min(count, len(rows)))


def packed(path: Path) -> list[Row]:
    """The rows of a packed file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


# ---------------------------------------------------------------- summaries


def summaries(raw: Path, out: Path) -> None:
    """Abstracts of papers with their sentence of summary (SciTLDR), and two sentences with the one they were made from (WikiSplit)."""
    from hunmin.pipelines.text2text import PROMPTS

    prompt = PROMPTS["summarization"]
    test = [_paper(row) for row in packed(raw / "scitldr_a" / "test.jsonl.gz")]
    test = drawn([row for row in test if len(row["text"]) <= LONGEST], ROWS["papers"])
    seen = {plain(row["text"]) for row in test}
    papers = [_paper(row) for row in packed(raw / "scitldr_a" / "train.jsonl.gz")]
    papers = [row for row in papers if len(row["text"]) <= LONGEST and plain(row["text"]) not in seen and len(row["targets"][0]) >= 40]
    pairs = [(tidy(two.replace("<::::>", " ")), tidy(one)) for one, two in read_tsv(raw / "wiki_split" / "tune.tsv.gz", header=False)]
    pairs = [(two, one) for two, one in pairs if 80 <= len(one) <= 200 and one[:1].isupper()]
    rows = [chat(prompt.format(text=row["text"]), row["targets"][0]) for row in drawn(papers, PAPERS)]
    rows += [chat(prompt.format(text=two), one) for two, one in drawn(pairs, SENTENCES)]
    write_rows(out / "train.jsonl", drawn(rows, len(rows)))
    write_rows(out / "test.jsonl", test)


def _paper(row: Row) -> Row:
    return {"text": " ".join(row["source"]), "first": row["source"][0], "targets": [text for text in row["target"] if text.strip()]}


def tidy(text: str) -> str:
    """Tokenized text as people write it, as far as a few rules go."""
    for old, new in (
        (" ''", '"'),
        ("'' ", '"'),
        ("`` ", '"'),
        (" ,", ","),
        (" .", "."),
        (" ;", ";"),
        ("( ", "("),
        (" )", ")"),
        (" 's", "'s"),
    ):
        text = text.replace(old, new)
    return " ".join(text.split())


# ---------------------------------------------------------------- answers


def answers(raw: Path, out: Path) -> None:
    """Questions with the words of the text that answer them (XQuAD), and questions that yes or no answers (BoolQ)."""
    from hunmin.pipelines.question_answering import PROMPT

    learned, held = articles(raw)
    table = [
        {"question": f"{q[:1].upper()}{q[1:]}?", "context": text.partition(" -- ")[2] or text, "answer": "yes" if label == "1" else "no"}
        for _, text, q, label in read_tsv(raw / "snli_boolq" / "boolq_validation.tsv.gz")
    ]
    table = [row for row in drawn(table, len(table)) if len(row["context"]) <= LONGEST]
    test = [row | {"kind": "words", "texts": row["answers"]["text"]} for row in drawn(held, ROWS["questions"])]
    test += [row | {"kind": "yes-no", "texts": [row["answer"]]} for row in table[: ROWS["yes-no"]]]
    contexts = {plain(row["context"]) for row in test}
    train = [row | {"answer": row["answers"]["text"][0]} for row in learned if len(row["context"]) <= LONGEST]
    rows = drawn(train, QUESTIONS) + balanced(table[ROWS["yes-no"] :], YES_NO)
    rows = [row for row in rows if plain(row["context"]) not in contexts]
    write_rows(out / "train.jsonl", [chat(PROMPT.format(**row), row["answer"]) for row in drawn(rows, len(rows))])
    write_rows(out / "test.jsonl", test)


def balanced(rows: Sequence[Row], count: int) -> list[Row]:
    """The first rows whose answer is yes and as many whose answer is no: "yes" alone must not be a good answer."""
    halves = [[row for row in rows if row["answer"] == word][: count // 2] for word in ("yes", "no")]
    size = min(map(len, halves))
    return halves[0][:size] + halves[1][:size]


# ---------------------------------------------------------------- calls of functions

SYSTEM = 'You call functions. Answer with one JSON object only: {{"name": the function, "arguments": {{its arguments}}}}.\n\nFunctions:\n{functions}'


def ask(functions: Sequence[Row], said: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The messages that ask for a call: the functions as lines of JSON, then what was said so far."""
    listed = "\n".join(json.dumps(slim(one)) for one in functions)
    return [{"role": "system", "content": SYSTEM.format(functions=listed)}, *said]


def slim(function: Row) -> Row:
    """A function without what only a machine needs: name, description, and of each parameter its type."""
    known: Row = function.get("parameters", {}).get("properties", {})
    types = {name: about.get("type", "string") for name, about in known.items()}
    return {"name": function["name"], "description": function.get("description", ""), "parameters": types}


def calls(path: Path) -> list[Row]:
    """Every call of the conversations in a file of glaive: the messages before it, its function, and the call as JSON."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        conversations: list[Row] = json.load(file)
    out, roles = list[Row](), {"human": "user", "gpt": "assistant"}
    for number, conversation in enumerate(conversations):
        tools = {tool["name"]: tool for tool in json.loads(conversation["tools"] or "[]")}
        said = list[dict[str, str]]()
        for turn in conversation["conversations"]:
            if turn["from"] in roles:
                said.append({"role": roles[turn["from"]], "content": turn["value"]})
            elif turn["from"] == "function_call":
                call = json.loads(turn["value"])
                if call.get("name") in tools:
                    out.append({"group": number, "said": said[-3:], "tool": tools[call["name"]], "call": json.dumps(call)})
                break  # what follows depends on the answer of the function
    return out


def tools(raw: Path, out: Path) -> None:
    """First calls of conversations (glaive), each with other conversations' functions beside the right one; held out by conversation."""
    rows = drawn(calls(raw / "sft_preference_en" / "glaive_toolcall_en_demo.json.gz"), 10**6)
    test, train = rows[:CALLS_HELD], rows[CALLS_HELD:]
    asked = {plain(row["said"][-1]["content"]) for row in test}
    train = [row for row in train if plain(row["said"][-1]["content"]) not in asked]
    known = {row["tool"]["name"]: row["tool"] for row in train}
    every = {row["tool"]["name"]: row["tool"] for row in rows}
    twice = [among(row, known, SEED + i) for i, row in enumerate([*train, *train])]
    write_rows(out / "train.jsonl", [chat(ask(row["functions"], row["said"]), row["call"]) for row in drawn(twice, len(twice))])
    held = [among(row, every, SEED + i) | {"seen": row["tool"]["name"] in known} for i, row in enumerate(test)]
    write_rows(out / "test.jsonl", [row | {"messages": ask(row["functions"], row["said"])} for row in held])


def among(row: Row, known: dict[str, Row], seed: int) -> Row:
    """A row with its function somewhere among others."""
    dice = random.Random(seed)
    others = dice.sample([one for name, one in sorted(known.items()) if name != row["tool"]["name"]], OTHERS)
    functions = [*others, row["tool"]]
    dice.shuffle(functions)
    return row | {"functions": functions}


# ---------------------------------------------------------------- the starters


def tune(recipe: str, raw: Path, run: Path) -> Any:
    """Carry out a recipe of ``hunmin align sft``."""
    from hunmin.align.recipe import run as align

    del raw, run  # the recipe names its prepared rows and its output
    return align("sft", Path(__file__).parent / recipe, ["overwrite=true"])


SA3, SA4, APACHE = "CC BY-SA 3.0", "CC BY-SA 4.0", "Apache-2.0"
LOAD = "from hunmin import pipeline\n\n"
STARTERS = [
    Starter(
        "en/summarization",
        "summarization",
        "en",
        "en-summarization.yaml",
        summaries,
        scores.summaries,
        "Makes SmolLM2-135M-Instruct say in one sentence what a text is about.",
        (
            Data("SciTLDR-A (Cachola et al. 2020)", APACHE, "train: 170 abstracts of its training file; test: 50 of its test file"),
            Data("WikiSplit (Botha et al. 2018)", SA4, "train: 30 rows of its tune file, two sentences into one"),
        ),
        published="ROUGE-1 43.8 % on all abstracts (Cachola et al. 2020, as a leaderboard quotes it; the best of several references counts)",
        failures=(
            "It mostly takes one sentence of the abstract, often the one with 'We propose' or 'We introduce', almost word for word.",
            "It may take a detail for the point: of a paper on Bayesian networks it names the objective of training.",
            "8 of 50 summaries are not one finished sentence of at most 40 words.",
        ),
        notes=("Texts of test and training have at most 1,400 letters.",),
        base=SMOLLM2,
        line=("ROUGE-1 {value} on abstracts of papers.", "논문 초록 요약에서 ROUGE-1 {value}."),
        example=LOAD + 'pipeline("summarization", "starter-en/summarization")("…")',
        build=partial(tune, "en-summarization.yaml"),
    ),
    Starter(
        "en/answers",
        "question-answering",
        "en",
        "en-answers.yaml",
        answers,
        scores.answers,
        "Makes SmolLM2-135M-Instruct answer a question about a text in a few words of the text, or with yes or no.",
        (
            Data("XQuAD en (Artetxe et al. 2020)", SA4, "train: 500 questions of 60 % of its articles; test: 80 of the other articles"),
            Data("BoolQ (Clark et al. 2019)", SA3, "its validation file; train: 100 questions, half yes; test: 50 others"),
        ),
        notes=("80 and 50 test rows: the intervals are wide. en/qa is smaller, faster and says where the answer stands.",),
        failures=(
            "Yes or no is answered no better than by always saying the same.",
            'Of several names it takes one nearby: "What UN secretary went to Harvard?" gives the politician who is named next to him.',
            'Questions turned round take the subject: "Issues dealt with at Westminster are not ones who is able to deal with?" gives "Reserved matters".',
        ),
        base=SMOLLM2,
        line=("F1 {value} on questions about held-out Wikipedia articles.", "처음 보는 위키백과 문서의 질문에서 F1 {value}."),
        example=LOAD + 'pipeline("question-answering", "starter-en/answers")(\n'
        '    question="Where do I work?", context="My name is Sylvain and I work at Hugging Face in Brooklyn."\n)',
        build=partial(tune, "en-answers.yaml"),
    ),
    Starter(
        "en/tools",
        "text-generation",
        "en",
        "en-tools.yaml",
        tools,
        scores.tools,
        "Makes SmolLM2-135M-Instruct choose one of several functions and write the call as JSON.",
        (
            Data(
                "glaive-function-calling, a sample (written by a model)",
                APACHE,
                "train: 63 first calls of conversations, each among two lists of functions; test: 60 of others",
            ),
        ),
        base=SMOLLM2,
        failures=(
            'It leaves out what was asked: a barcode "in EAN-13 format" is called without the format.',
            "It adds parameters of another function of the list: sports news with a rating.",
            "It renames parameters: a to-do's description becomes its content.",
            "It always calls something: it has not learned to say that no function fits.",
        ),
        notes=(
            "The list of functions has three entries; with longer lists it will choose worse.",
            "Functions of the test often occur in training with other requests; the last score is of those that do not.",
        ),
        example=LOAD
        + 'import json\n\nfunctions = [{"name": "get_weather", "description": "Weather of a city", "parameters": {"city": "string"}}]\n'
        'system = (\n    "You call functions. Answer with one JSON object only: "\n'
        '    \'{"name": the function, "arguments": {its arguments}}.\\n\\nFunctions:\\n\' + "\\n".join(map(json.dumps, functions))\n)\n'
        'ask = [{"role": "system", "content": system}, {"role": "user", "content": "Will it rain in Seoul?"}]\n'
        'pipeline("text-generation", "starter-en/tools")(ask, do_sample=False)',
        line=("The right function in {value} of held-out requests.", "처음 보는 요청의 {value}에서 알맞은 함수를 고름."),
        build=partial(tune, "en-tools.yaml"),
    ),
]
