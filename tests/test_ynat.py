"""examples/ynat.py on 630 headlines: every stage runs, and its Trainer, plain loop, pipeline and CustomPipeline agree."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hunmin import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline, set_seed

pytest.importorskip("datasets", reason="the example reads its data with datasets")
ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "golden" / "ynat"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("ynat", ROOT / "examples" / "ynat.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def out(example: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``python examples/ynat.py --quick`` leaves behind; the chapter's own assertions held."""
    folder = tmp_path_factory.mktemp("ynat")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ynat.py", "--data", str(DATA), "--out", str(folder), "--quick"])
        example.main()
    return folder


def test_every_stage_leaves_its_numbers(out: Path) -> None:
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert list(results) == ["pretrain", "scratch", "pre-trained", "pre-trained, all rows", "book"]
    losses = [loss for _, loss in results["pretrain"]["loss"]]
    assert losses[-1] < losses[0]
    for name in list(results)[1:]:
        assert 0 <= results[name]["macro_f1"] <= 1
        assert results[name]["accuracy"] * 210 == pytest.approx(round(results[name]["accuracy"] * 210))


def test_trainer_and_loop_learn_the_same(example: Any, out: Path, tmp_path: Path) -> None:
    """Without chance (dropout), and with the loop's optimizer, both take the same steps: one without padding, the other with."""
    tokenizer, data = AutoTokenizer.from_pretrained(out / "encoder"), example.splits(DATA, example.QUICK)
    config = AutoConfig.from_pretrained(out / "encoder", num_labels=7)
    models = []
    for _ in range(2):
        set_seed(1)
        models.append(AutoModelForSequenceClassification.from_config(config))
    plain = {"lr_scheduler_type": "constant", "weight_decay": 0.01, "max_grad_norm": 0.0, "disable_tqdm": True}
    settings = example.BOOK | plain | {"learning_rate": 1e-3}
    trainer = example.fine_tune(models[0], tokenizer, data["train"], data["valid"], tmp_path, **settings)
    loader = example.make_dataloader(data["train"], tokenizer, 8)
    loss = example.train_epoch(models[1], loader, torch.optim.AdamW(models[1].parameters(), lr=1e-3))
    assert loss == pytest.approx(trainer.state.log_history[-1]["train_loss"], abs=1e-4)
    mine, other = (dict(model.eval().named_parameters()) for model in models)
    for name in mine:
        torch.testing.assert_close(mine[name], other[name], rtol=1e-3, atol=1e-4)
    by_loop = example.evaluate(models[1], example.make_dataloader(data["test"], tokenizer, 8, shuffle=False))
    by_trainer = example.measured(trainer, data["test"])
    assert by_loop[1] == by_trainer["accuracy"]
    assert by_loop[0] == pytest.approx(by_trainer["loss"], abs=1e-4)


def test_pipeline_by_hand(example: Any, out: Path) -> None:
    titles = example.headlines(DATA / "klue_ynat" / "dev.tsv.gz")["title"][:20]
    classify = pipeline("text-classification", model=str(out / "model"))
    for mine, other in zip(classify(titles), example.CustomPipeline(out / "model")(titles), strict=True):
        assert mine["label"] == other["label"]
        assert mine["label"] in example.NAMES
        assert mine["score"] == pytest.approx(other["score"], abs=1e-5)


def test_korean_sentences_of_any_file(example: Any, tmp_path: Path) -> None:
    held = "시험에 나오는 제목은 배우지 않는다"
    (tmp_path / "news").mkdir()
    (tmp_path / "klue_ynat").mkdir()
    rows = [
        "1\t오늘은 날씨가 아주 좋았다. 내일은 비가 온다고 한다.\tGood weather",
        '{"q": "이 문장은 질문입니까? 아니요"}',
        held,
        "짧다",
        "한국어 in an English sentence, with words",
    ]
    (tmp_path / "news" / "a.txt").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "klue_ynat" / "b.txt").write_text("이 폴더는 따로 읽으므로 여기에 없다", encoding="utf-8")
    assert example.texts(tmp_path, {held}) == ["오늘은 날씨가 아주 좋았다.", "내일은 비가 온다고 한다.", "이 문장은 질문입니까?"]
