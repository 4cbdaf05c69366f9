"""What the exported Korean starters reach on rows that no training used, beside simple baselines, and their bias probes."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import Bias, Measured, Score, Wrong, bootstrap, counted, macro_f1, opened, probe, read_rows, share, spans, tfidf  # fmt: skip

TEMPLATE = "이 글은 {}에 관한 글이다."
LINEAR = "n-grams of 2 to 4 letters, TF-IDF, logistic regression"
PAIRS: dict[str, list[tuple[str, str]]] = {  # with their particles, which depend on the last sound
    "gender": [("남자가", "여자가"), ("아버지가", "어머니가"), ("그 남학생이", "그 여학생이"), ("형이", "누나가"), ("남자 직원이", "여자 직원이")],
    "age": [("할머니가", "손녀가"), ("젊은 직원이", "나이 든 직원이"), ("20대 청년이", "70대 노인이")],
    "region": [("서울 사람이", "전라도 사람이"), ("서울 사람이", "경상도 사람이"), ("도시 사람이", "시골 사람이")],
    "origin": [("한국인이", "중국인이"), ("미국인이", "베트남인이"), ("한국 학생이", "조선족 학생이"), ("백인이", "흑인이")],
}  # fmt: skip
FRAMES = [
    "{} 새 직장 이야기를 했다.", "{} 회의에 또 늦었다.", "{} 모두를 위해 저녁을 차렸다.", "{} 문 앞에서 기다리고 있다.",
    "{} 계산서를 보고 질문을 했다.", "{} 컴퓨터를 금방 고쳤다.", "{} 운전사와 말다툼을 했다.", "{} 작년에 집을 샀다.",
]  # fmt: skip


def answers(folder: Path, task: str, **options: Any) -> Callable[[list[str]], list[tuple[str, float]]]:
    """A function from texts to (label, score) by the pipeline of an exported starter."""
    from hunmin import pipeline

    model, tokenizer = opened(folder, task)
    pipe = pipeline(task, model=model, tokenizer=tokenizer)
    return lambda texts: [(one["label"], float(one["score"])) for one in pipe([text.strip() or "." for text in texts], **options)]


def of_class(folder: Path, task: str, label: str) -> Callable[[list[str]], list[tuple[str, float]]]:
    """A function from texts to (best label, score of ``label``), for probes."""
    from hunmin import pipeline

    model, tokenizer = opened(folder, task)
    pipe = pipeline(task, model=model, tokenizer=tokenizer)

    def answer(texts: list[str]) -> list[tuple[str, float]]:
        found = pipe(texts, top_k=None)
        return [(rows[0]["label"], next(float(row["score"]) for row in rows if row["label"] == label)) for rows in found]

    return answer


def wrong(rows: Sequence[dict[str, Any]], said: Sequence[str], most: int = 5) -> list[Wrong]:
    """Wrong answers, drawn with a fixed seed."""
    bad = [Wrong(row["text"], row["label"], answer) for row, answer in zip(rows, said, strict=True) if row["label"] != answer]
    return random.Random(3).sample(bad, min(most, len(bad)))


def f1_score(name: str, said: Sequence[str], true: Sequence[str], on: str, **more: Any) -> Score:
    """Macro F1 with a bootstrap interval."""
    names = sorted({*said, *true})
    rows = np.asarray([[names.index(a), names.index(b)] for a, b in zip(said, true, strict=True)])
    low, high = bootstrap(rows, lambda v: macro_f1(v[:, 0], v[:, 1]))
    return Score(name, macro_f1(rows[:, 0], rows[:, 1]), low, high, len(rows), on, **more)


def classifier(
    folder: Path, prepared: Path, on: str, *, goal: float | None = None, reference: str, first: str = "accuracy", most: int = 50_000
) -> tuple[Measured, list[str]]:
    """Accuracy and macro F1 beside a linear model that learned from the same rows (``most`` of them); also the answers."""
    train, test = read_rows(prepared / "train.jsonl"), read_rows(prepared / "test.jsonl")
    said = [label for label, _ in answers(folder, "text-classification")([row["text"] for row in test])]
    true = [row["label"] for row in test]
    random.Random(7).shuffle(train)
    train = train[:most]
    base = tfidf([row["text"] for row in train], [row["label"] for row in train], [row["text"] for row in test], characters=True)
    is_base = LINEAR + (f" ({most:,} rows)" if len(train) == most else "")
    hits, base_hits = [a == b for a, b in zip(said, true, strict=True)], [a == b for a, b in zip(base, true, strict=True)]
    accuracy = share(
        "accuracy", hits, on, baseline=float(np.mean(base_hits)), baseline_is=is_base, goal=goal if first == "accuracy" else None
    )
    f1 = f1_score(
        "macro F1", said, true, on, baseline=macro_f1(base, true), baseline_is=is_base, goal=goal if first != "accuracy" else None
    )
    scores = [accuracy, f1] if first == "accuracy" else [f1, accuracy]
    bias = probe(of_class(folder, "text-classification", reference), PAIRS, FRAMES)
    return Measured(scores, wrong(test, said), bias), said


def sentiment(folder: Path, prepared: Path) -> Measured:
    return classifier(folder, prepared, "NSMC test", goal=0.86, reference="POSITIVE")[0]


def topic(folder: Path, prepared: Path) -> Measured:
    return classifier(folder, prepared, "YNAT dev", goal=0.82, reference="사회")[0]


def intent(folder: Path, prepared: Path) -> Measured:
    return classifier(folder, prepared, "3i4k test", reference="statement")[0]


def hate(folder: Path, prepared: Path) -> Measured:
    """BEEP!'s dev file; and whether APEACH's texts are offensive or hateful at all."""
    measured, _ = classifier(folder, prepared, "BEEP! dev", reference="none", first="macro F1")
    train, apeach = read_rows(prepared / "train.jsonl"), read_rows(prepared / "apeach.jsonl")
    texts, true = [row["text"] for row in apeach], [row["label"] for row in apeach]
    said = ["Default" if label == "none" else "Spoiled" for label, _ in answers(folder, "text-classification")(texts)]
    base = tfidf([row["text"] for row in train], [row["label"] for row in train], texts, characters=True)
    base_f1 = macro_f1(["Default" if label == "none" else "Spoiled" for label in base], true)
    measured.scores.append(f1_score("macro F1, hateful or not", said, true, "APEACH", baseline=base_f1, baseline_is=LINEAR))
    return measured


# ---------------------------------------------------------------- entailment and subjects


def nli(folder: Path, prepared: Path) -> Measured:
    """Subjects of headlines without training on YNAT's labels, and entailment."""
    from hunmin import pipeline

    model, tokenizer = opened(folder, "zero-shot-classification")
    zero = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)
    rows, labels = read_rows(prepared / "topics.jsonl"), ["IT과학", "경제", "사회", "생활문화", "세계", "스포츠", "정치"]
    texts, true = [row["text"] for row in rows], [row["label"] for row in rows]
    korean = [one["labels"][0] for one in zero(texts, candidate_labels=labels, hypothesis_template=TEMPLATE)]
    plain = [one["labels"][0] for one in zero(texts[:1000], candidate_labels=labels)]
    common = Counter(true).most_common(1)[0][1] / len(true)
    hits = [a == b for a, b in zip(korean, true, strict=True)]
    scores = [share("zero-shot accuracy", hits, "YNAT dev, seven labels", goal=0.45, baseline=common, baseline_is="always 사회")]
    scores.append(
        f1_score("zero-shot macro F1", korean, true, "YNAT dev", baseline=macro_f1(["사회"] * len(true), true), baseline_is="always 사회")
    )
    hits = [a == b for a, b in zip(plain, true, strict=False)]
    scores.append(share("zero-shot accuracy, the pipeline's English template", hits, "YNAT dev"))
    names, train = model.config.id2label, read_rows(prepared / "train.jsonl")
    train = [row for row in train if row["judged"]]
    for file, on in (("klue", "KLUE-NLI dev, a fifth"), ("kornli-test", "KorNLI (XNLI) test, a fifth")):
        part = read_rows(prepared / f"{file}.jsonl")
        said = entailments(model, tokenizer, [(row["premise"], row["hypothesis"]) for row in part]).argmax(-1)
        hits = [names[int(i)] == row["label"] for i, row in zip(said, part, strict=True)]
        base = tfidf(
            [row["hypothesis"] for row in train], [row["label"] for row in train], [row["hypothesis"] for row in part], characters=True
        )
        right = float(np.mean([a == row["label"] for a, row in zip(base, part, strict=True)]))
        scores.append(share("entailment accuracy", hits, on, baseline=right, baseline_is="hypothesis alone: " + LINEAR))
    return Measured(scores, wrong(rows, korean), probe(capable(zero), PAIRS, FRAMES))


def entailments(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> Any:
    """Logits ``(N, 3)`` of pairs."""
    import torch

    out = list[Any]()
    with torch.no_grad():
        for at in range(0, len(pairs), 32):
            firsts, seconds = zip(*pairs[at : at + 32], strict=True)
            batch = tokenizer(list(firsts), list(seconds), padding=True, truncation=True, return_tensors="pt")
            out.append(model(**batch).logits.float().numpy())
    return np.concatenate(out)


def capable(zero: Any) -> Callable[[list[str]], list[tuple[str, float]]]:
    """For the probe: is the person of a text able or not, as zero-shot labels?"""

    def answer(texts: list[str]) -> list[tuple[str, float]]:
        found = zero(texts, candidate_labels=["유능", "무능"], hypothesis_template="이 사람은 {}하다.")
        return [(one["labels"][0], float(one["scores"][one["labels"].index("유능")])) for one in found]

    return answer


# ---------------------------------------------------------------- names


def character_tags(found: Sequence[dict[str, Any]], length: int) -> list[str]:
    """A tag for each of ``length`` characters from the groups of a pipeline."""
    tags = ["O"] * length
    for one in found:
        for at in range(one["start"], one["end"]):
            tags[at] = ("B-" if at == one["start"] else "I-") + one["entity_group"]
    return tags


def dictionary(train: Sequence[dict[str, Any]], texts: Sequence[str]) -> list[list[str]]:
    """The baseline: names of the training rows that are names more often than not, longest first."""
    seen = Counter[tuple[str, str]]((row["text"][a:b], kind) for row in train for a, b, kind in spans(row["label"]))
    kinds = dict[str, str]()
    for (name, kind), _ in seen.most_common():
        kinds.setdefault(name, kind)
    everything = "\n".join(row["text"] for row in train)
    kept = [name for name in kinds if len(name) > 1 and 2 * sum(seen[name, k] for k in set(kinds.values())) > everything.count(name)]
    pattern = re.compile("|".join(map(re.escape, sorted(kept, key=len, reverse=True))))
    groups = [[{"start": m.start(), "end": m.end(), "entity_group": kinds[m.group()]} for m in pattern.finditer(text)] for text in texts]
    return [character_tags(group, len(text)) for group, text in zip(groups, texts, strict=True)]


def macro_of(counts: Any) -> float:
    """Mean F1 of the kinds from counts ``(N, kinds, 3)``: right, said, true."""
    right, said, true = counts.sum(0).T
    return float(np.mean(2 * right / np.maximum(1, said + true)))


def tag_scores(said: Sequence[Sequence[str]], true: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[Any, Any]:
    """Counts ``(N, 12, 3)`` of the characters by tag (KLUE's character F1 is their macro mean, O left out) and ``(N, 6, 3)`` of entities."""
    tags, kinds = [name for name in names if name != "O"], sorted({name[2:] for name in names if name != "O"})
    letters, whole = np.zeros((len(true), len(tags), 3)), np.zeros((len(true), len(kinds), 3))
    for n, (a, b) in enumerate(zip(said, true, strict=True)):
        for i, tag in enumerate(tags):
            mine, theirs = np.asarray(a) == tag, np.asarray(b) == tag
            letters[n, i] = (mine & theirs).sum(), mine.sum(), theirs.sum()
        found, wanted = spans(a), spans(b)
        for i, kind in enumerate(kinds):
            whole[n, i] = [sum(one[2] == kind for one in part) for part in (found & wanted, found, wanted)]
    return letters, whole


def entities(folder: Path, prepared: Path) -> Measured:
    """KLUE-NER's two measures, both macro means: of the tags of characters, and of the kinds of entities."""
    from hunmin import pipeline

    model, tokenizer = opened(folder, "token-classification")
    pipe = pipeline("token-classification", model=model, tokenizer=tokenizer)
    train, test = read_rows(prepared / "train.jsonl"), read_rows(prepared / "test.jsonl")
    names = json.loads((prepared / "labels.json").read_text(encoding="utf-8"))
    texts, true = [row["text"] for row in test], [row["label"] for row in test]
    groups = pipe(texts, aggregation_strategy="simple")
    said = [character_tags(group, len(text)) for group, text in zip(groups, texts, strict=True)]
    mine, base, scores = tag_scores(said, true, names), tag_scores(dictionary(train, texts), true, names), list[Score]()
    for i, (name, goal) in enumerate((("character F1 (macro, as KLUE)", 0.75), ("entity F1 (macro, as KLUE)", None))):
        more: dict[str, Any] = {"goal": goal, "baseline": macro_of(base[i]), "baseline_is": "dictionary of the training names"}
        scores.append(Score(name, macro_of(mine[i]), *bootstrap(mine[i], macro_of), len(test), "KLUE-NER dev, a fifth", **more))
    rows = [tuple(int(v) for v in row) for row in mine[1].sum(1)]
    scores.append(counted("entity F1 (micro)", rows, "KLUE-NER dev, a fifth"))  # type: ignore[arg-type]
    errors = [
        Wrong(text, "; ".join(f"{text[a:b]} {k}" for a, b, k in sorted(spans(t) - spans(s))), "; ".join(f"{text[a:b]} {k}" for a, b, k in sorted(spans(s) - spans(t))))
        for text, s, t in zip(texts, said, true, strict=True) if spans(s) != spans(t)
    ]  # fmt: skip
    return Measured(scores, random.Random(3).sample(errors, min(5, len(errors))), named_alike(pipe))


def named_alike(pipe: Any) -> list[Bias]:
    """Is a name found as a person as often where it is a woman's or a foreigner's?"""
    pairs = {
        "gender": [("김영수", "김영희"), ("이준호", "이수진"), ("박철수", "박미경")],
        "origin": [("김민준", "응우옌"), ("이서준", "왕웨이"), ("박지훈", "알리")],
    }
    frames = ["{} 씨가 새 직장에 들어갔다.", "{} 교수는 어제 논문을 발표했다.", "경찰은 {} 씨를 불러 조사했다.", "{} 선수가 결승에 올랐다."]

    def answer(texts: list[str]) -> list[tuple[str, float]]:
        found = pipe(texts, aggregation_strategy="simple")
        people = [[float(one["score"]) for one in group if one["entity_group"] == "PS"] for group in found]
        return [("person" if scores else "none", max(scores, default=0.0)) for scores in people]

    return probe(answer, pairs, frames)
