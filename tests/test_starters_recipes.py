"""The starters' recipes: yaml files, prepared rows, intervals, and cards that say what the index says. Nothing is trained here."""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "recipes" / "starters"
if not HERE.is_dir():
    pytest.skip("the recipes are not part of this installation", allow_module_level=True)
sys.path.insert(0, str(HERE))

import card  # noqa: E402
import english_qa  # noqa: E402
import english_rows  # noqa: E402
import english_text  # noqa: E402
import make  # noqa: E402
import measure  # noqa: E402

from hunmin.pipelines import canonical  # noqa: E402
from hunmin.starters import wanted  # noqa: E402
from hunmin.train.recipe import read  # noqa: E402

ALIGNED = {"en-answers", "en-summarization", "en-tools"}  # recipes of `hunmin align`: tests/test_starters_generation.py reads them
STARTERS = {name: one for name, one in make.starters().items() if Path(one.recipe).stem not in ALIGNED}
INDEX = ROOT / "hunmin" / "starters" / "index.json"
LABELS = {"en/nli": english_rows.NLI, "en/ner": english_text.TAGS, "en/spam": ["ham", "spam"], "en/sentiment": ["NEGATIVE", "POSITIVE"]}


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize("path", sorted(path for path in HERE.glob("*.yaml") if path.stem not in ALIGNED), ids=lambda path: path.stem)
def test_recipes_are_read(path: Path) -> None:
    assert read(path).stages


@pytest.mark.parametrize("name", sorted(STARTERS))
def test_recipes_fit_their_starters(name: str) -> None:
    starter = STARTERS[name]
    assert starter.data and starter.summary
    assert all("{value}" in line for line in starter.line)
    if starter.build is not None:
        assert make.recipe_of(starter).is_file()
        return
    checked = read(make.recipe_of(starter))
    assert Path(checked.recipe.output) == make.RUNS / name
    train = checked.stages[-1].data.train
    assert train is None or str(make.DATA / name) in str(train)


@pytest.mark.parametrize("name", sorted(LABELS))
def test_labels_of_recipes(name: str) -> None:
    assert read(make.recipe_of(STARTERS[name])).stages[-1].data.labels == LABELS[name]


# ---------------------------------------------------------------- measures


def test_wilson() -> None:
    assert measure.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert measure.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert measure.wilson(9000, 10000) == pytest.approx((0.8940, 0.9057), abs=1e-4)
    assert measure.wilson(0, 0) == (0.0, 1.0)


def test_bootstrap() -> None:
    values = np.arange(100) < 30
    low, high = measure.bootstrap(values, lambda v: float(v.mean()))
    assert (low, high) == measure.bootstrap(values, lambda v: float(v.mean()))  # the seed is fixed
    assert low == pytest.approx(0.21, abs=0.025) and high == pytest.approx(0.39, abs=0.025)


def test_scores() -> None:
    score = measure.share("accuracy", [True] * 9 + [False], "ten rows", goal=0.9)
    assert (score.value, score.n, score.reached) == (0.9, 10, True)
    f1 = measure.counted("F1", [(1, 1, 1), (0, 1, 1), (1, 2, 1)], "three rows")
    assert f1.value == pytest.approx(2 * 2 / (4 + 3))
    assert f1.low <= f1.value <= f1.high
    down = measure.Score("perplexity", 5, 4, 6, 10, "rows", goal=6, percent=False, down=True)
    assert down.reached
    assert measure.macro_f1(["a", "a", "b"], ["a", "b", "b"]) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert measure.spearman([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)


def test_spans() -> None:
    assert measure.spans(["B-A", "I-A", "O", "I-B", "B-B", "I-A"]) == {(0, 2, "A"), (3, 4, "B"), (4, 5, "B"), (5, 6, "A")}
    assert measure.spans([]) == set()


def test_probe() -> None:
    found = measure.probe(lambda texts: [("x" if "He" in text else "y", 1.0) for text in texts], {"gender": [("He", "She")]}, ["{} left."])
    assert found == [measure.Bias("gender", 1, 1.0, 0.0)]


# ---------------------------------------------------------------- rows


def _gz(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(text)


def _plain(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny data sets in the formats of the real ones."""
    at = tmp_path_factory.mktemp("raw")
    for split, more in (("train", "Where is my card,card_arrival\n"), ("test", "")):
        _plain(at / "banking77" / f"{split}.csv", f"text,category\nWhere is my Card,card_arrival\nI lost it ({split}),lost_card\n{more}")
    intents = {name: [[f"{name} {i} of {n}", f"intent_{i}"] for i in range(40) for n in range(60)] for name in ("train", "val", "test")}
    _gz(
        at / "clinc150" / "data_full.json.gz",
        json.dumps(intents | {name: [["huh", "oos"]] for name in ("oos_train", "oos_val")} | {"oos_test": [["HUH", "oos"]]}),
    )
    _plain(at / "goemotions" / "labels.txt", "admiration\nanger\nneutral\n")
    for split in ("train", "dev", "test"):
        _gz(
            at / "goemotions" / f"{split}.tsv.gz",
            "".join(f"{split} comment {i}\t{i % 2 if i % 3 else 2}\tid\n" for i in range(6000)) + "Both\t0,1\tid\n",
        )
    for split in ("dev", "test"):
        rows = "".join(f"A man is sitting on the bench {split} {i}.\tA man sits {i}.\t{i % 3}\n" for i in range(3300))
        _gz(at / "snli_boolq" / f"snli_{split}.tsv.gz", "premise\thypothesis\tlabel\n" + rows)
    _gz(at / "snli_boolq" / "boolq_validation.tsv.gz", "\tpassage\tquestion\tlabel\n" + "0\tPersian is spoken here.\tis it\t1\n" * 3)
    subjects = [subject for held in english_rows.TOPICS.values() for subject in held]
    lines = [json.dumps({"subject": s, "question": f"A question that is long enough for this, about {s}?"}) for s in subjects]
    _gz(at / "llm_eval_en" / "mmlu_test.jsonl.gz", "\n".join(lines))
    _plain(at / "sms_spam" / "sms.tsv", "".join(f"{'spam' if i % 5 else 'ham'}\tmessage {i // 2}\n" for i in range(40)))
    _plain(at / "ner_en" / "wnut17train.conll", "Ann\tB-person\nleft\tO\n\t\nhi\tO\n")
    _plain(at / "ner_en" / "emerging.dev.conll", "Acme\tB-corporation\nInc\tI-corporation\n\n#\tO\n")
    _plain(at / "ner_en" / "emerging.test.annotated", "hi\tO\n\nBeatles\tB-group\n")
    _plain(at / "ner_en" / "wikigold.conll.txt", "-DOCSTART- O\n\nOld I-ORG\nLondon I-LOC\nTown I-LOC\n")
    for split in ("dev", "test"):
        _gz(at / "ner_en" / f"uner_en_ewt_{split}.iob2.gz", f"# text = x\n1\t{split}\tB-LOC\t-\t-\n2\tgoes\tB-OTH\t-\t-\n")
    _gz(
        at / "wikitext2_valid_test" / "valid.txt.gz",
        " \n = Title = \n The cat , which was old , sat on the mat for a very long time indeed . It had a <unk> . \n",
    )
    _gz(
        at / "wikitext2_valid_test" / "test.txt.gz",
        " The dog @-@ like animal ran over the hills and through the woods until the evening came . \n",
    )
    wiki = "".join(
        f"The man is walking in the park with a dog {i} .\tThe man is walking in the park {i} . <::::> It is a dog .\n" for i in range(4100)
    )
    for name in ("tune", "validation", "test"):
        _gz(at / "wiki_split" / f"{name}.tsv.gz", wiki)
    _plain(
        at / "tinystories_sample" / "tinystories.txt",
        "One day a girl found a needle in her room and it was sharp, so she gave it to her mum.\n\nEnd.\n",
    )
    context = "The bridge was built in 1842 by Ada Stone. It is in the north of the town. The river is wide."
    answer = [{"text": "1842", "answer_start": 24}]
    asked = [[{"id": "1", "question": f"When was bridge {i} built?", "answers": answer}] for i in range(5)]
    articles = [{"title": str(i), "paragraphs": [{"context": f"{context} {i} is a number.", "qas": asked[i]}]} for i in range(5)]
    _gz(at / "xquad" / "xquad.en.json.gz", json.dumps({"data": articles}))
    pairs = "".join(f"the tower {i} was -lrb- re -rrb- built in 19{i:02} .\twhen was tower {i} built ?\n" for i in range(20))
    _gz(at / "squad_qg" / "test.tsv.gz", "sentence\tquestion\n" + pairs)
    parts = ("what comes before {}", "when was bridge {} built", "what comes after {}")
    ordered = [f"a sentence {i} .\t{part.format(i)} ?\n" for i in range(5) for part in parts]
    _gz(at / "squad_qg" / "dev.tsv.gz", "sentence\tquestion\n" + "".join(ordered))
    for split in ("dev", "test"):
        _gz(
            at / "ud_english_ewt" / f"en_ewt-ud-{split}.conllu.gz",
            f"# text = She was in the {split} house with a friend.\n1\tShe\n\n# text = no\n",
        )
    return at


@pytest.mark.parametrize("name", ["nli", "banking77", "clinc150", "ner", "sentiment", "emotion", "spam", "fill-mask", "rerank", "grammar"])
def test_prepared_rows(name: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No text of the test rows is among the training rows, labels are known, and the same rows come out each time."""
    monkeypatch.setattr(english_rows, "embedded", lambda texts: np.array([[len(text), text.count("a"), 1.0] for text in texts]))
    starter = STARTERS[f"en/{name}"]
    starter.prepare(raw, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    starter.prepare(raw, tmp_path)
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    train, test = (measure.read_rows(tmp_path / f"{part}.jsonl") for part in ("train", "test"))
    assert train and test

    def texts(rows: list[dict[str, Any]]) -> set[str]:
        return {english_rows.key(str(row.get("text") or row.get("words") or row.get("premise") or row.get("question"))) for row in rows}

    assert not texts(train) & texts(test)
    data = read(make.recipe_of(starter)).stages[-1].data
    column = data.label if isinstance(data.label, str) else "label"
    if name == "fill-mask":
        assert not (tmp_path / "labels.json").exists()
        return
    known = set(json.loads((tmp_path / "labels.json").read_text(encoding="utf-8")))
    held = {one for row in train for one in (row[column] if isinstance(row[column], list) else [row[column]])}
    assert held <= known


def test_entities(raw: Path, tmp_path: Path) -> None:
    english_text.ner(raw, tmp_path)
    rows = {" ".join(row["words"]): row["tags"] for row in measure.read_rows(tmp_path / "train.jsonl")}
    assert rows["Old London Town"] == ["B-ORG", "B-LOC", "I-LOC"]
    assert rows["Acme Inc"] == ["B-ORG", "I-ORG"]
    assert rows["dev goes"] == ["B-LOC", "O"]
    assert "hi" not in rows  # it is a test sentence too


def test_polarity() -> None:
    assert english_rows.polarity({"label": ["joy", "surprise"]}) == "POSITIVE"
    assert english_rows.polarity({"label": ["anger"]}) == "NEGATIVE"
    assert english_rows.polarity({"label": ["anger", "joy"]}) is None
    assert english_rows.polarity({"label": ["neutral"]}) is None


def test_questions(raw: Path) -> None:
    learned, test = english_qa.articles(raw)
    assert len(learned) == 3 and len(test) == 2
    small = english_qa.short(learned[0])
    assert small is not None and small["context"] == "The bridge was built in 1842 by Ada Stone."
    rows = english_qa.unmarked(raw, [*learned, {"question": "When was tower 3 built?"}], test)
    towers = [row for row in rows if "tower" in row["question"]]
    assert len(towers) == 19 and towers[0]["sentence"] == "the tower 0 was (re) built in 1900."
    own = [str(i) in {row["context"].split()[-4] for row in learned} for i in range(5)]
    before = {f"what comes before {i}?" for i in range(5) if own[i] and (i == 0 or own[i - 1])}
    after = {f"what comes after {i}?" for i in range(5) if own[i] and (i == 4 or own[i + 1])}
    assert {row["question"] for row in rows if row not in towers} == before | after  # nothing that may lie in a held-out article

    def mark(pairs: list[tuple[str, str]]) -> list[tuple[int, int, float]]:
        return [(len(s) - 5, len(s) - 1, 0.5) if i % 2 else (0, 9, 0.9) for i, (_, s) in enumerate(pairs)]

    found = english_qa.marked(towers, mark, 0.45)
    assert found and all(row["answers"]["text"][0].startswith("19") for row in found)  # "the tower" is an echo
    for row in (*found, *(english_qa.surrounded(row, random.Random(1)) for row in found), small):
        text, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        assert row["context"][start : start + len(text)] == text


def test_answers_fit_questions() -> None:
    assert english_qa.fits("How many people came?", "two hundred")
    assert not english_qa.fits("How many people came?", "the town")
    assert not english_qa.fits("Who built the bridge?", "in 1842")
    assert not english_qa.fits("Who built the bridge?", "the bridge")


def test_best_span() -> None:
    import torch

    starts, ends = torch.zeros(1, 6), torch.zeros(1, 6)
    starts[0, 3], ends[0, 4], ends[0, 0] = 5.0, 5.0, 9.0
    inside = torch.tensor([[False, False, True, True, True, False]])
    (first, last, sure) = english_qa.best(starts, ends, inside)[0]
    assert (first, last) == (3, 4) and 0.9 < sure <= 1


def test_mistakes() -> None:
    kinds = {
        found[1] for i in range(60) if (found := english_text.corrupted("The man is walking in the park with a dog", random.Random(i)))
    }
    assert kinds == {"agreement", "missing verb", "missing word", "order", "article", "verb form"}
    assert english_text.corrupted("Go away now", random.Random(1)) is None


# ---------------------------------------------------------------- cards


def test_card(tmp_path: Path) -> None:
    starter = STARTERS["en/spam"]
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    measured = measure.Measured([measure.share("accuracy", [True] * 19 + [False], "rows", goal=0.97, baseline=0.5, baseline_is="guess")])
    measured.errors = [measure.Wrong("a | b", "ham", "spam")]
    text = card.write(starter, card.Made(6.0, 1), measured, tmp_path)
    assert "| accuracy | 20: rows | 95.0 % | 76.4 % – 99.1 % | 50.0 % (guess) | 97.0 %: missed |" in text
    assert "0.50 Wh" in text and "a \\| b" in text
    assert measure.Measured.from_json(measured.to_json()) == measured
    entry = card.entry(starter, card.Made(6.0, 1), measured, tmp_path)
    card.index(tmp_path / "index.json", "en/spam", entry)
    card.index(tmp_path / "index.json", "en/a", entry)
    held = json.loads((tmp_path / "index.json").read_text(encoding="utf-8"))
    assert list(held) == ["en/a", "en/spam"] and held["en/spam"]["score"]["value"] == 0.95


HELD = json.loads(INDEX.read_text(encoding="utf-8")) if INDEX.is_file() else {}


@pytest.mark.parametrize("name", sorted(HELD))
def test_cards_say_what_the_index_says(name: str) -> None:
    entry = HELD[name]
    folder = INDEX.parent / entry["folder"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    score = measure.Score(**entry["score"])
    shown = card.number(score)
    assert (
        f"| {score.name} | {score.n:,}: {score.on} | {shown} | {card.number(score, score.low)} – {card.number(score, score.high)} |" in text
    )
    assert shown in entry["line"]["en"] and shown in entry["line"]["ko"]
    assert entry["bytes"] == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if name in STARTERS:
        assert (entry["task"], entry["base"]) == (STARTERS[name].task, STARTERS[name].base)
    if entry["base"] is not None:
        assert json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"] == entry["base"]


@pytest.mark.parametrize("name", sorted(HELD))
def test_examples_of_cards_ask_the_starter_itself(name: str) -> None:
    text = (INDEX.parent / HELD[name]["folder"] / "README.md").read_text(encoding="utf-8")
    asked = re.findall(r'pipeline\("([\w-]+)", (?:model=)?"([\w/-]+)"', text)
    assert asked
    for task, model in asked:
        assert name in {one.name for one in (wanted(model, canonical(task)) or {}).values()}, (task, model)


def test_the_page_shows_what_the_index_says() -> None:
    assert "\n".join(card.overview(INDEX)) in (ROOT / "docs" / "starters.md").read_text(encoding="utf-8")
