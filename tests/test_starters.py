"""Starters: which model a task gets where none is named, adapters loaded as models, and pipelines that follow the language of a text."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from hunmin import AutoModelForSequenceClassification, AutoTokenizer, LoraConfig, get_peft_model, pipeline, starters
from hunmin.errors import ConfigError, InputError, SourceError, warn_once
from hunmin.hub import files, reach
from hunmin.peft import AutoPeftModel, PeftModel
from hunmin.pipelines import TASKS
from hunmin.pipelines.by_language import ByLanguage, language_in
from tests.hubserver import HubServer, Repo

ENGLISH, KOREAN = "The cat sat on the mat.", "고양이가 매트에 앉았다."


def adapter(models: Path, body: Path, folder: Path, labels: list[str], seed: int) -> None:
    """A classifier as an adapter on ``body``: matrices that change its answers, its head, and the names of its labels."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(body, id2label=dict(enumerate(labels)), ignore_mismatched_sizes=True)
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q", "v"], init_lora_weights=False, task_type="SEQ_CLS"))
    peft.save_pretrained(folder)
    config = json.loads((body / "config.json").read_text())
    config |= {"id2label": dict(enumerate(labels)), "architectures": ["BertForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "../body"}))


@pytest.fixture(scope="module")
def shelf(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A body and two starters on it: one that answers in English, one in Korean."""
    place = tmp_path_factory.mktemp("starters")
    index = dict[str, Any]()
    for language, names in (("en", ["good", "bad"]), ("ko", ["좋음", "나쁨", "보통"])):
        shutil.copytree(models / "bert", place / language / "body")
        adapter(models, place / language / "body", place / language / "sentiment", names, 1)
        index[f"{language}/sentiment"] = {"task": "text-classification", "line": {"en": f"{language}: 81.0 %.", "ko": f"{language}: 81점."}}
    (place / "index.json").write_text(json.dumps(index))
    return place


@pytest.fixture
def tiny(shelf: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    monkeypatch.setattr(starters, "HERE", shelf)
    monkeypatch.setattr("hunmin.hub.starter.HERE", shelf)
    starters.starters.cache_clear()
    warn_once.cache_clear()
    caplog.set_level(logging.WARNING, "hunmin")
    yield shelf
    starters.starters.cache_clear()


# ---------------------------------------------------------------- an adapter's folder is a model


def test_an_adapter_is_loaded_with_the_model_that_it_names(shelf: Path) -> None:
    folder = shelf / "ko" / "sentiment"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    base = AutoModelForSequenceClassification.from_pretrained(folder.parent / "body", num_labels=3, ignore_mismatched_sizes=True)
    apart = PeftModel.from_pretrained(base, folder)
    rows = tokenizer([ENGLISH, "rain"], padding=True, return_tensors="pt")
    torch.testing.assert_close(model(**rows).logits, apart(**rows).logits, rtol=1e-4, atol=1e-5)
    assert AutoPeftModel.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)(**rows).logits.shape == (2, 3)
    assert model.config.id2label == {0: "좋음", 1: "나쁨", 2: "보통"} and not model.training
    assert type(model).__name__ == "PreTrainedModel" and all(p.requires_grad for p in model.parameters())


def test_an_adapter_without_a_configuration_takes_that_of_its_base(shelf: Path, tmp_path: Path) -> None:
    shutil.copytree(shelf / "en", tmp_path / "en")
    (tmp_path / "en" / "sentiment" / "config.json").unlink()
    names = [row["label"] for row in pipeline("text-classification", str(tmp_path / "en" / "sentiment"))(ENGLISH, top_k=None)]
    assert sorted(names) == ["LABEL_0", "LABEL_1"]


def test_an_adapters_base_is_fetched_as_the_adapter_is(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token and cache hold for both, the revision for the adapter alone."""
    shutil.copytree(shelf / "en" / "sentiment", tmp_path / "alone")
    settings = json.loads((tmp_path / "alone" / "adapter_config.json").read_text())
    (tmp_path / "alone" / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "somebody/private"}))
    asked: list[Any] = []

    def resolve(name: Any, **options: Any) -> Any:
        asked.append((str(name), options))
        return files.resolve(shelf / "en" / "body")

    monkeypatch.setattr("hunmin.peft.auto.resolve", resolve)
    own = {"token": "hf_secret", "cache_dir": str(tmp_path), "local_files_only": True}
    (tmp_path / "alone" / "config.json").unlink()  # as PEFT writes adapters: the configuration is the base's
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "alone", revision="v2", **own)
    AutoTokenizer.from_pretrained(tmp_path / "alone", **own)
    AutoPeftModel.from_pretrained(tmp_path / "alone", ignore_mismatched_sizes=True, **own)
    pipeline("text-classification", str(tmp_path / "alone"), **own)
    assert len(asked) >= 5 and all(one == ("somebody/private", {"revision": None, **own}) for one in asked)


def test_the_sum_can_be_rounded(shelf: Path) -> None:
    folder = shelf / "en" / "sentiment"
    rows = AutoTokenizer.from_pretrained(folder)([ENGLISH], return_tensors="pt")
    exact, rough = (AutoModelForSequenceClassification.from_pretrained(folder, **o)(**rows).logits for o in ({}, {"quantization": "int8"}))
    assert not torch.equal(exact, rough.float())
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)


def test_an_adapter_that_names_no_base_says_what_to_do(shelf: Path, tmp_path: Path) -> None:
    shutil.copytree(shelf / "en" / "sentiment", tmp_path / "alone")
    settings = json.loads((tmp_path / "alone" / "adapter_config.json").read_text())
    (tmp_path / "alone" / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="names no base model"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "alone")


# ---------------------------------------------------------------- which model


def test_without_a_hub_the_starter_of_the_language_answers(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = pipeline("sentiment-analysis")
    assert not caplog.messages, "nothing is loaded, and nothing said, before a text comes"
    assert work(ENGLISH)[0]["label"] in ("good", "bad")
    assert work(KOREAN)[0]["label"] in ("좋음", "나쁨", "보통")
    assert [m.split(" is used")[0] for m in caplog.messages] == [
        f"No model was supplied for text-classification: starter-{language}/sentiment" for language in ("en", "ko")
    ]
    assert all(m.endswith(": 81.0 %.") and "distilbert" in m and "\n" not in m for m in caplog.messages)


def test_starters_by_name(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    korean = {"좋음", "나쁨", "보통"}
    for name in ("starter-ko", "starter-ko/sentiment"):
        assert pipeline("text-classification", model=name)(ENGLISH)[0]["label"] in korean
    assert pipeline(model="starter-ko/sentiment")(ENGLISH)[0]["label"] in korean
    assert pipeline("text-classification", model="starter")(KOREAN)[0]["label"] in korean
    assert AutoModelForSequenceClassification.from_pretrained("starter-en/sentiment").config.id2label == {0: "good", 1: "bad"}
    assert not [m for m in caplog.messages if "No model was supplied" in m]


@pytest.mark.parametrize(
    ("task", "model", "said"),
    [
        ("text-classification", "starter-en/nothing", "There is no starter-en/nothing"),
        ("translation_en_to_fr", "starter-ko", "There is no starter-ko for translation_en_to_fr"),
        ("translation_en_to_de", None, "There is no starter for translation_en_to_de"),
    ],
)
def test_starters_that_are_not_there(tiny: Path, task: str, model: str | None, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        pipeline(task, model=model)


def test_a_folder_of_the_name_is_no_starter(tiny: Path, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "bert-topics", tmp_path / "starter")
    assert pipeline("text-classification", model=str(tmp_path / "starter"))(ENGLISH)[0]["label"] in ("sports", "politics", "weather")


def test_options_that_the_task_lacks_are_refused_at_once(tiny: Path) -> None:
    with pytest.raises(InputError, match="has no option 'colour'"):
        pipeline("text-classification", model="starter", colour="red")
    assert len(pipeline("text-classification", model="starter", top_k=None)(KOREAN)[0]) == 3


def test_the_taught_checkpoint_is_taken_where_the_hub_has_it(
    tiny: Path, models: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fetched where the Hub answers; from the cache when it is gone."""
    name, topics = "distilbert/distilbert-base-uncased-finetuned-sst-2-english", ("sports", "politics", "weather")
    monkeypatch.setattr("hunmin.pipelines.TAUGHT", {"text-classification": (name, "main")})
    hub.repos[name] = Repo([{path.name: path.read_bytes() for path in (models / "bert-topics").iterdir()}])
    reach._heard.clear()
    assert pipeline("text-classification")(KOREAN)[0]["label"] in topics
    reach._heard.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pipeline("text-classification")(KOREAN)[0]["label"] in topics
    assert caplog.messages[0] == f"No model was supplied for text-classification: {name} is used."
    assert not [m for m in caplog.messages if "starter" in m]


def test_a_silent_hub_costs_less_than_a_second(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://silent.invalid")
    monkeypatch.setattr("socket.create_connection", lambda *_: time.sleep(30))
    reach._heard.clear()
    begun = time.perf_counter()
    assert not reach.hub_answers()
    first = time.perf_counter() - begun
    assert not reach.hub_answers() and first < 1 and time.perf_counter() - begun - first < 0.1
    reach._heard.clear()


# ---------------------------------------------------------------- languages


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"), (KOREAN, "ko"), ("", "en"), ("123 !?", "en"), ("훈민정음은 [MASK]이다.", "ko"), ("삼성전자 GPU 발표", "ko"),
        ("The word 한 means one, or great, in Korean names.", "en"), ("ㅋㅋㅋ", "ko"), ("Ça va?", "en"),
    ],
)  # fmt: skip
def test_the_language_of_a_text(text: str, language: str) -> None:
    assert starters.language_of(text) == language


def test_the_language_of_an_input() -> None:
    assert language_in({"question": "누가?", "context": "세종대왕이 만들었다."}) == "ko"
    assert language_in({"source_sentence": "rain", "sentences": ["snow", "비"]}) == "en"
    assert language_in(("비가 온다.", 3)) == "ko"


class Echo:
    """Stands for a pipeline: says its language and what it was called with, and unpacks a list of one as some pipelines do."""

    def __init__(self, language: str) -> None:
        self.language, self.calls = language, list[Any]()

    def __call__(self, inputs: Any = None, *rest: Any, **options: Any) -> Any:
        self.calls.append(inputs)
        if isinstance(inputs, list):
            answers = [f"{self.language}:{text}" for text in inputs]
            return answers if len(answers) > 1 else answers[0]
        if hasattr(inputs, "__next__"):
            return (f"{self.language}:{text}" for text in inputs)
        return f"{self.language}:{inputs if inputs is not None else options}"


@pytest.fixture
def both() -> ByLanguage:
    return ByLanguage(Echo, ("en", "ko"), "Echo")  # type: ignore[arg-type]


def test_every_text_goes_to_the_model_of_its_language(both: ByLanguage) -> None:
    mixed = [ENGLISH, KOREAN, "rain", "snow", "비가 온다"]
    wanted = [f"{language}:{text}" for language, text in zip(("en", "ko", "en", "en", "ko"), mixed, strict=True)]
    assert both(mixed) == wanted and list(both(iter(mixed))) == wanted
    assert both([ENGLISH, KOREAN]) == [f"en:{ENGLISH}", f"ko:{KOREAN}"], "one text of each language"
    assert both([KOREAN]) == f"ko:{KOREAN}", "a list of one is left to the pipeline"
    assert both(question="누구인가?", context="세종").startswith("ko:")
    assert both("비", ["sports", "politics"]) == "ko:비"
    assert both({"text": KOREAN}).startswith("ko:")


def test_a_conversation_is_one_input(both: ByLanguage) -> None:
    both([{"role": "user", "content": "Say 안녕하세요 여러분"}, {"role": "assistant", "content": "안녕하세요"}])
    assert len(both._of("ko").calls) == 1


def test_an_iterator_is_read_as_it_is_used(both: ByLanguage) -> None:
    taken = list[str]()

    def texts() -> Iterator[str]:
        for text in (ENGLISH, KOREAN, KOREAN):
            taken.append(text)
            yield text

    answers = both(texts())
    assert not taken
    assert next(answers) == f"en:{ENGLISH}" and len(taken) == 1


def test_what_is_not_a_call_is_that_of_the_user_s_language(both: ByLanguage, korean: None) -> None:
    assert both.language == "ko"
    with pytest.raises(AttributeError):
        both.__copy__  # noqa: B018


# ---------------------------------------------------------------- the table


def test_the_table_names_starters_that_are_there() -> None:
    held = starters.starters()
    for task, chosen in starters.DEFAULTS.items():
        assert task.partition("_")[0] in TASKS
        for name in chosen.values():
            assert name in held, f"{task}: {name}"
    for name, starter in held.items():
        assert all(starter.scores) and "\n" not in "".join(starter.scores), name
