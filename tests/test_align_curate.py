"""Curation: near-duplicates, languages, a classifier of two kinds of texts, and recipes of such steps with their page."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hunmin.align.curate import run
from hunmin.align.curate.language import KNOWN, guess, script_of
from hunmin.align.curate.minhash import bands, jaccard, near_duplicates, normal, shingles, signature
from hunmin.align.curate.quality import Classifier, held_out
from hunmin.align.curate.run import read
from hunmin.align.files import read_rows, write_rows
from hunmin.errors import FormatError, InputError

# ---------------------------------------------------------------- near-duplicates


def words(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghij", k=draw.randint(3, 7))) for _ in range(count)]


def test_shingles_are_runs_of_normalized_characters() -> None:
    assert normal("  Ｈello,\tWORLD!  가나 ") == "hello world 가나"
    runs = {normal("abcdefgab")[i : i + 3] for i in range(7)}
    assert len(shingles("abcdefgab", 3)) == len(runs) == 7
    assert len(shingles("aaaa", 2)) == 1 and len(shingles("ab", 5)) == 1 and len(shingles("?!", 5)) == 0
    assert (shingles("Abc, d") == shingles("abc D")).all()
    assert not len(np.intersect1d(shingles("ab", 5), shingles("ba", 5)))  # the order counts


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 40))
def test_signatures_agree_as_often_as_sets_do(seed: int, changed: int) -> None:
    one = words(seed, 120)
    other = [*one[changed:], *words(seed + 1, changed)]
    left, right = shingles(" ".join(one)), shingles(" ".join(other))
    agreed = (signature(left, 512) == signature(right, 512)).mean()
    assert abs(float(agreed) - jaccard(left, right)) < 0.12  # more than five deviations of 512 draws


def test_jaccard_by_hand() -> None:
    one, other = (np.array(values, np.uint64) for values in ([1, 2, 3, 4], [3, 4, 5]))
    assert jaccard(one, other) == 2 / 5 and jaccard(one, one) == 1.0 == jaccard(one[:0], one[:0])


def test_near_duplicates_are_those_of_a_comparison_of_all() -> None:
    texts = list[str]()
    for group in range(30):
        base = words(group, 60)
        for copy in range(3):
            texts.append(" ".join([*base[: 60 - 4 * copy], *words(1000 + group + copy, 4 * copy)]))
    found = near_duplicates(texts, 0.7)
    sets = [shingles(text) for text in texts]
    kept = [place for place, twin in enumerate(found) if twin is None]
    for place, twin in enumerate(found):
        if twin is not None:
            assert twin.place in kept and twin.place < place and jaccard(sets[place], sets[twin.place]) == twin.similarity >= 0.7
    missed = [(a, b) for a, b in combinations(kept, 2) if jaccard(sets[a], sets[b]) >= 0.75]
    assert not missed and len(texts) - len(kept) >= 30


def test_which_of_two_is_kept_follows_from_the_order() -> None:
    texts = ["the same words here", "The same words, here!", "", "", "others"]
    assert [twin and twin.place for twin in near_duplicates(texts)] == [None, 0, None, None, None]
    assert [twin and twin.place for twin in near_duplicates(texts, order=[1, 0, 4, 2, 3])] == [1, None, None, None, None]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_meet_pairs_at_the_threshold(threshold: float) -> None:
    count, rows = bands(threshold, 128)
    assert count * rows <= 128
    assert 1 - (1 - min(1.0, threshold + 0.05) ** rows) ** count > 0.9


# ---------------------------------------------------------------- languages


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat is on the table and it sleeps.", "en"),
        ("Die Katze liegt auf dem Tisch und schläft. What?", "de"),
        ("Le chat est sur la table et il dort.", "fr"),
        ("El gato está en la mesa y no se mueve.", "es"),
        ("고양이가 table 위에서 잡니다.", "ko"),
        ("猫はテーブルの上で寝ています。", "ja"),
        ("猫在桌子上睡觉。", "zh"),
        ("Кошка лежит на столе, и это не ново.", "ru"),
        ("Кіт лежить на столі, та це не нове.", "uk"),
        ("القط على الطاولة في البيت", "ar"),
        ("Η γάτα κοιμάται.", "el"),
        ("Return the sum. for i in a: de = i; en = a; e = de", "en"),  # names of variables are no words
        ("print(x)", None),
        ("12 + 3 = 15", None),
        ("", None),
    ],
)
def test_languages(text: str, language: str | None) -> None:
    found = guess(text)
    assert found.language == language
    assert (found.script is None) == (not any(c.isalpha() for c in text)) and 0 <= found.share <= 1
    if language:
        assert language in KNOWN and script_of(language) == found.script


# ---------------------------------------------------------------- the classifier

GOOD = [f"def add_{n}(first, second):\n    '''Return the sum of {n} numbers.'''\n    return first + second" for n in range(20)]
BAD = [f"CONFIG_{n} = {{'debug': False, 'port': {n}}}\nDEFAULT = CONFIG_{n}['port']" for n in range(12)]


def test_a_classifier_learns_from_examples(tmp_path: Path) -> None:
    made = Classifier.fit(GOOD, BAD)
    high, low = made.predict(["def multiply(first, second):\n    '''Return the product.'''", "SETTINGS = {'debug': True, 'port': 80}"])
    assert high > 0.6 > 0.4 > low
    made.save(tmp_path / "made.npz")
    assert Classifier.load(tmp_path / "made.npz").predict(GOOD[:2]) == pytest.approx(made.predict(GOOD[:2]), abs=1e-5)
    assert held_out(GOOD, BAD) == 1.0
    assert held_out(GOOD[:2], BAD) is None


def test_the_optimum_of_the_loss() -> None:
    """At the end the gradient of the regularized loss is (nearly) zero, computed here without the class's own step."""
    decay = 1e-2
    made = Classifier.fit(GOOD[:4], BAD[:3], decay=decay, steps=2000)
    texts, share = [*GOOD[:4], *BAD[:3]], np.repeat([0.5 / 4, 0.5 / 3], [4, 3])

    def loss(classifier: Classifier) -> float:
        p = np.clip(np.array(classifier.predict(texts)), 1e-12, 1 - 1e-12)
        return float(-(share[:4] * np.log(p[:4])).sum() - (share[4:] * np.log(1 - p[4:])).sum() + decay / 2 * (classifier.weights**2).sum())

    least, draw = loss(made), np.random.default_rng(0)
    used = np.flatnonzero(made.weights)
    for size in (1e-2, 1e-1):
        for _ in range(20):
            weights = made.weights.copy()
            weights[used] += size * draw.standard_normal(len(used)) / len(used) ** 0.5
            assert loss(Classifier(weights, made.bias + size * float(draw.standard_normal()), made.idf)) > least


def test_what_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two good and two bad"):
        Classifier.fit(["a"], ["b", "c"])
    (tmp_path / "a.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "b.npz", form=1, weights=np.zeros(3), bias=0.0, idf=np.zeros(3))
    for name in ("a.npz", "b.npz", "c.npz"):
        with pytest.raises(FormatError, match="no classifier"):
            Classifier.load(tmp_path / name)


# ---------------------------------------------------------------- recipes


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.open = list[str](), "", list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    items = [
        {"instruction": f"Say {word}.", "output": f"The word is {word} and it is good."} for word in ("apple", "train", "river", "cloud")
    ]
    items += [
        items[0] | {"output": "the word is APPLE, and it is good"},
        {"instruction": "한국어로 답해 주세요.", "output": "안녕하세요, 반갑습니다."},
    ]
    items += [
        {"instruction": "Hi", "output": "x"},
        {"instruction": "Sag es.", "output": "<script>alert(1)</script> Das ist der Text und die Antwort."},
    ]
    write_rows(tmp_path / "rows.jsonl", items)
    return tmp_path


def test_a_recipe_of_steps(rows: Path) -> None:
    recipe = {
        "output": str(rows / "out" / "kept.jsonl"),
        "dropped": str(rows / "dropped.jsonl"),
        "steps": [
            {"near_duplicates": {"threshold": 0.9}},
            {"language": {"keep": ["en", "ko"]}},
            {"length": {"min_chars": 10, "text": "output"}},
        ],
    }
    made = run(recipe, str(rows / "rows.jsonl"))
    assert [(step.name, step.before, step.after) for step in made.steps] == [
        ("near_duplicates", 8, 7),
        ("language", 7, 6),
        ("length", 6, 5),
    ]
    assert read_rows(rows / "out" / "kept.jsonl") == made.rows and len(made.rows) == 5
    dropped = read_rows(rows / "dropped.jsonl")
    assert [(row["step"], row["row"]["instruction"]) for row in dropped] == [
        ("near_duplicates", "Say apple."),
        ("language", "Sag es."),
        ("length", "Hi"),
    ]
    assert dropped[0]["reason"].startswith("like another row: Say apple.") and dropped[1]["reason"] == "language de"
    assert made.steps[0].reasons == {"like another row": 1} and made.steps[2].reasons == {"below 10 characters": 1}


def test_the_page_shows_what_went_and_runs_nothing(rows: Path) -> None:
    made = run(
        {"output": str(rows / "kept.jsonl"), "steps": [{"language": {"keep": ["en", "ko"]}}, {"length": {"min_chars": 30}}]},
        str(rows / "rows.jsonl"),
    )
    assert made.report == rows / "kept.html"
    page = Page(made.report.read_text(encoding="utf-8"))
    assert not {"script", "img", "link", "iframe"} & {*page.tags} and "svg" in page.tags
    for part in ("language de", "<script>alert(1)</script>", "below 30 characters", "Rows kept", "1.language.keep"):
        assert part in page.text, part


def test_quality_by_examples(rows: Path) -> None:
    write_rows(rows / "good.jsonl", [{"text": text} for text in GOOD])
    write_rows(rows / "bad.jsonl", [{"text": text} for text in BAD])
    write_rows(
        rows / "code.jsonl",
        [{"text": "def mean(first, second):\n    '''Return the mean.'''\n    return first"}, {"text": "PORT = {'port': 3}"}],
    )
    quality: dict[str, Any] = {"good": str(rows / "good.jsonl"), "bad": str(rows / "bad.jsonl"), "save": str(rows / "made.npz")}
    made = run({"output": str(rows / "kept.jsonl"), "steps": [{"quality": quality}]}, str(rows / "code.jsonl"))
    assert [row["text"][:8] for row in made.rows] == ["def mean"]
    assert made.steps[0].facts == {"examples": "20 good, 12 bad", "ROC AUC on a fifth held out": "1.000"}
    again = run(
        {"output": str(rows / "kept.jsonl"), "steps": [{"quality": {"classifier": str(rows / "made.npz"), "keep_share": 0.5}}]},
        str(rows / "code.jsonl"),
    )
    assert again.rows == made.rows


def test_quality_by_a_judge_and_by_a_model(rows: Path, models: Path) -> None:
    (rows / "mine.py").write_text(
        "def size(prompts, completions, **_):\n    assert 'student' in prompts[0]\n    return [len(c) for c in completions]\n"
    )
    judge = {"judge": {"function": f"{rows}/mine.py:size"}, "min": 40}
    made = run({"output": str(rows / "kept.jsonl"), "steps": [{"quality": judge}]}, str(rows / "rows.jsonl"))
    assert [len(row["instruction"] + row["output"]) >= 39 for row in made.rows] == [True] * len(made.rows) and 0 < len(made.rows) < 8
    best = {"model": str(models / "bert"), "keep_share": 0.5}
    made = run({"output": str(rows / "kept.jsonl"), "steps": [{"quality": best}]}, str(rows / "rows.jsonl"))
    assert len(made.rows) == 4
    with pytest.raises(InputError, match="no label nothing"):
        run({"output": str(rows / "kept.jsonl"), "steps": [{"quality": {**best, "label": "nothing"}}]}, str(rows / "rows.jsonl"))


def test_perplexity(rows: Path, models: Path) -> None:
    step: dict[str, Any] = {"model": str(models / "gpt2"), "drop_share": 0.25, "window": 16}
    made = run({"output": str(rows / "kept.jsonl"), "steps": [{"perplexity": step}]}, str(rows / "rows.jsonl"))
    assert len(made.rows) == 6
    high = max(score for score, stays in made.steps[0].scores if stays)
    assert all(score > high for score, stays in made.steps[0].scores if not stays)
    low = run(
        {"output": str(rows / "kept.jsonl"), "steps": [{"perplexity": {"model": step["model"], "min": high, "window": 16}}]},
        str(rows / "rows.jsonl"),
    )
    assert len(low.rows) == 3 and all("below" in reason for reason in low.steps[0].reasons)


def test_a_recipe_as_a_file(rows: Path) -> None:
    (rows / "recipe.yaml").write_text(
        f"data: {rows}/rows.jsonl\noutput: {rows}/kept.jsonl\nkind: sft\nsteps:\n  - length: {{max_words: 60, text: prompt}}\n"
    )
    made = run(rows / "recipe.yaml", overrides=["steps.0.length.max_words=30"])
    assert made.before == 8 and set(made.rows[0]) == {"prompt", "completion"}
    assert made.recipe.steps[0].length is not None and made.recipe.steps[0].length.max_words == 30


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"steps": []}, "needs a step"),
        ({"steps": [{}]}, "one kind of step"),
        ({"steps": [{"length": {"min_chars": 1}, "language": {"keep": ["en"]}}]}, "one kind of step"),
        ({"steps": [{"lenght": {}}]}, "Did you mean length"),
        ({"steps": [{"length": {}}]}, "needs a limit"),
        ({"steps": [{"length": {"min_tokens": 3}}]}, "tokens and tokenizer"),
        ({"steps": [{"length": {"min_chars": "many"}}]}, "a whole number"),
        ({"steps": [{"language": {"keep": ["xx"]}}]}, "xx cannot be told"),
        ({"steps": [{"language": {"keep": []}}]}, "at least one"),
        ({"steps": [{"near_duplicates": {"threshold": 0}}]}, "threshold above 0"),
        ({"steps": [{"perplexity": {"model": "m"}}]}, "max, min or drop_share"),
        ({"steps": [{"quality": {}}]}, "quality needs one of"),
        ({"steps": [{"quality": {"good": "a"}}]}, "quality needs one of"),
        ({"steps": [{"quality": {"classifier": "a", "keep_share": 0}}]}, "keep_share"),
        ({"steps": [{"length": {"min_chars": 1}}]}, "Name the data"),
    ],
)
def test_recipes_that_say_too_little_or_too_much(recipe: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        run(recipe)


def test_columns_that_are_not_there(rows: Path) -> None:
    with pytest.raises(InputError, match="no column 'answer'; a row has instruction, output"):
        run({"text": "answer", "steps": [{"length": {"min_chars": 1}}]}, str(rows / "rows.jsonl"))
    assert json.loads((rows / "rows.jsonl").read_text().split("\n")[0])  # untouched


def test_a_step_that_leaves_nothing(rows: Path) -> None:
    steps = [{"length": {"min_chars": 10**6}}, {"near_duplicates": {}}, {"language": {"keep": ["en"]}}]
    made = run({"output": str(rows / "kept.jsonl"), "steps": steps}, str(rows / "rows.jsonl"))
    assert made.rows == [] and [step.before for step in made.steps] == [8, 0, 0]
    assert re.search("0.0%", (rows / "kept.html").read_text())
    assert read({"steps": steps}).samples == 5
