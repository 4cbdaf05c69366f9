"""Topics of Korean news headlines (KLUE-YNAT): an encoder is pre-trained, fine-tuned with Trainer and with a plain loop, and used.

    python examples/ynat.py --data FOLDER [--out FOLDER] [--stage pretrain|scratch|finetune|book|all] [--quick]

FOLDER holds ``klue_ynat/train.tsv.gz`` and ``dev.tsv.gz`` (guid, title, label, topic) and any other folders of Korean text for pre-training.
Numbers in brackets are the listings of the course that this follows. What was measured is in docs/ynat.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset
from tokenizers import BertWordPieceTokenizer
from torch.utils.data import DataLoader, RandomSampler
from tqdm.auto import tqdm

from hunmin import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline, set_seed
from hunmin.train import DataCollatorForWholeWordMask, Trainer, TrainingArguments
from hunmin.train.metrics import accuracy, f1

NAMES = ["IT과학", "경제", "사회", "생활문화", "세계", "스포츠", "정치"]
LENGTH = 64  # tokens; a headline has about fifteen
BOOK = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "learning_rate": 5e-5}  # [3.22]
BETTER = BOOK | {"num_train_epochs": 3, "per_device_train_batch_size": 32, "per_device_eval_batch_size": 64}
BETTER |= {"learning_rate": 1e-4, "warmup_ratio": 0.1, "label_smoothing_factor": 0.1, "bf16": True}
Size = namedtuple("Size", "vocab width layers heads steps batch train held")  # of the encoder, its training, the data sets
FULL, QUICK = Size(16000, 256, 6, 4, 7000, 256, 10000, 1000), Size(1000, 32, 2, 2, 20, 16, 200, 50)
COPIES = 12  # of the headlines in a pass over all other texts


# ---------------------------------------------------------------- the data: listings 3.17 to 3.20
def headlines(path: Path) -> Dataset:
    """[3.17 to 3.19] Titles and topics, as ``load_dataset("klue", "ynat")`` has them without guid, url and date, with the topics' names."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [line.split("\t") for line in file][1:]
    data = Dataset.from_dict({"title": [row[1] for row in rows], "label": [int(row[2]) for row in rows]})
    topics = ClassLabel(names=NAMES)
    return data.cast_column("label", topics).map(lambda batch: {"label_str": topics.int2str(batch["label"])}, batched=True, batch_size=1000)


def splits(data: Path, size: Size) -> dict[str, Dataset]:
    """[3.20] "train" (10,000 of all), "valid" and "test" (1,000 of dev each), and the whole files as "all" and "dev"."""
    whole, dev = headlines(data / "klue_ynat" / "train.tsv.gz"), headlines(data / "klue_ynat" / "dev.tsv.gz")
    parts = dev.train_test_split(test_size=size.held, shuffle=True, seed=42)
    valid = parts["train"].train_test_split(test_size=size.held, shuffle=True, seed=42)["test"]
    train = whole.train_test_split(test_size=size.train, shuffle=True, seed=42)["test"]
    return {"train": train, "valid": valid, "test": parts["test"], "all": whole, "dev": dev}


# ---------------------------------------------------------------- an encoder of our own, where the course loads klue/roberta-base
def korean(text: str) -> Iterator[str]:
    """The Korean sentences of a file of any form: fields of tables, strings of JSON, lines. At least eight syllables, 45% of the characters."""
    for piece in re.split(r'[\t\n\r"]|\\n|(?<=다\.)\s|(?<=[?!])\s', text):
        piece = piece.removeprefix("# text = ").strip()
        if max(8, 0.45 * len(piece)) <= len(re.findall("[가-힣]", piece)):
            yield piece


def texts(data: Path, without: set[str]) -> list[str]:
    """Every Korean sentence beside the headlines once, but no headline of the dev set. Software manuals and KorQuAD (no derivatives) stay out."""
    found: dict[str, None] = {}
    for path in sorted(data.glob("*/*")):
        if path.parent.name not in ("klue_ynat", "korquad1_dev") and path.suffix in (".gz", ".csv", ".txt") and "docs" not in path.name:
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            found |= dict.fromkeys(korean(raw.decode("utf-8", "replace")))
    return [text for text in found if text not in without]


def pretrain(data: Path, out: Path, size: Size) -> dict[str, Any]:
    """A WordPiece vocabulary and a BERT that predicts masked words (Devlin et al. 2019). Headlines come ``COPIES`` times, other texts once."""
    titles, dev = (headlines(data / "klue_ynat" / name)["title"] for name in ("train.tsv.gz", "dev.tsv.gz"))
    titles, others = list(titles), texts(data, set(dev))
    out.mkdir(parents=True, exist_ok=True)
    pieces = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    pieces.train_from_iterator(titles * 4 + others, vocab_size=size.vocab, min_frequency=3, limit_alphabet=4000, show_progress=False)
    pieces.save_model(str(out))
    (out / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}', encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(out, model_max_length=LENGTH)
    tokenizer.save_pretrained(out)
    rows = [{"input_ids": ids} for ids in tokenizer(titles + others, truncation=True, max_length=48)["input_ids"]]
    rows = rows[: len(titles)] * COPIES + rows[len(titles) :]
    config = AutoConfig.for_model(
        "bert", vocab_size=len(tokenizer), hidden_size=size.width, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        intermediate_size=4 * size.width, max_position_embeddings=LENGTH, pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,  # no text is seen often enough to be learned by heart
    )  # fmt: skip
    set_seed(42)
    model = AutoModelForMaskedLM.from_config(config)
    args = TrainingArguments(
        out / "run", max_steps=size.steps, per_device_train_batch_size=size.batch, learning_rate=1e-3, warmup_ratio=0.08,
        adam_beta2=0.98, weight_decay=0.01, bf16=True, logging_steps=min(100, size.steps // 4), save_strategy="no", report_to="none",
    )  # fmt: skip
    trainer = Trainer(model, args, DataCollatorForWholeWordMask(tokenizer, seed=1), rows, processing_class=tokenizer)
    started = time.perf_counter()
    trainer.train()
    model.save_pretrained(out)
    found = {"parameters": model.num_parameters(), "texts": len(others), "seconds": time.perf_counter() - started}
    return found | {"loss": [(log["step"], round(log["loss"], 3)) for log in trainer.state.log_history if "loss" in log]}


# ---------------------------------------------------------------- with Trainer: listings 3.21 to 3.23
def classifier(start: Path, scratch: bool = False) -> Any:
    """[3.21] The pre-trained encoder with a new head (``scratch``: nothing is pre-trained), with dropout again."""
    config = AutoConfig.from_pretrained(start)
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.1
    set_seed(42)
    auto = AutoModelForSequenceClassification
    return auto.from_config(config) if scratch else auto.from_pretrained(start, config=config)


def tokenized(data: Dataset, tokenizer: Any) -> Dataset:
    """[3.21] Padded as the course does; the Trainer leaves padding out again."""
    return data.map(lambda batch: tokenizer(batch["title"], padding="max_length", truncation=True), batched=True)


def compute_metrics(eval_pred: Any) -> dict[str, float]:
    """[3.22] Accuracy, and what KLUE reports: the mean F1 of the topics."""
    logits, labels = eval_pred
    return accuracy(logits.argmax(-1), labels) | {"macro_f1": f1(logits.argmax(-1), labels, average="macro")["f1"]}


def fine_tune(model: Any, tokenizer: Any, train: Dataset, valid: Dataset, out: Path, **more: Any) -> Trainer:
    """[3.22, 3.23] A trained Trainer."""
    args = TrainingArguments(output_dir=out, evaluation_strategy="epoch", save_strategy="no", report_to="none", logging_steps=100, **more)
    rows, held = tokenized(train, tokenizer), tokenized(valid, tokenizer)
    trainer = Trainer(model=model, args=args, train_dataset=rows, eval_dataset=held, tokenizer=tokenizer, compute_metrics=compute_metrics)
    trainer.train()
    return trainer


def measured(trainer: Trainer, data: Dataset) -> dict[str, Any]:
    """Time and curve of a training, and what the model does on ``data``."""
    history, scores = list(trainer.state.log_history), trainer.evaluate(tokenized(data, trainer.tokenizer))
    found = {"seconds": next(log["train_runtime"] for log in history if "train_runtime" in log)}
    found["valid_accuracy"] = [round(log["eval_accuracy"], 4) for log in history if "eval_accuracy" in log]
    return found | {name: scores["eval_" + name] for name in ("loss", "accuracy", "macro_f1")}


# ---------------------------------------------------------------- with a plain loop: listings 3.24 to 3.28
def make_dataloader(data: Dataset, tokenizer: Any, batch_size: int, shuffle: bool = True) -> DataLoader[Any]:
    """[3.25] Batches of tensors, in the order that the Trainer takes with its seed."""
    rows: Any = tokenized(data, tokenizer).with_format("torch").rename_column("label", "labels").remove_columns(["title", "label_str"])
    sampler = RandomSampler(rows, generator=torch.Generator().manual_seed(42)) if shuffle else None
    return DataLoader(rows, batch_size=batch_size, sampler=sampler)


def train_epoch(model: Any, loader: DataLoader[Any], optimizer: torch.optim.Optimizer) -> float:
    """[3.26] The mean loss of an epoch."""
    model.train()
    losses = list[float]()
    for batch in tqdm(loader):
        optimizer.zero_grad()
        outputs = model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
        outputs.loss.backward()
        optimizer.step()
        losses.append(outputs.loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def evaluate(model: Any, loader: DataLoader[Any]) -> tuple[float, float]:
    """[3.27] Mean loss of the rows, and accuracy."""
    model.eval()
    losses, right = list[float](), list[bool]()
    for batch in tqdm(loader):
        outputs = model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
        losses += [outputs.loss.item()] * len(batch["labels"])
        right += (outputs.logits.argmax(-1) == batch["labels"]).tolist()
    return sum(losses) / len(losses), sum(right) / len(right)


# ---------------------------------------------------------------- use: listings 3.29 to 3.31
class CustomPipeline:
    """[3.31] What ``pipeline("text-classification")`` does, by hand."""

    def __init__(self, model_id: str | Path) -> None:
        self.model = AutoModelForSequenceClassification.from_pretrained(model_id).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model_id)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        tokens = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
        scores, labels = self.model(**tokens).logits.softmax(-1).max(-1)
        return [{"label": self.model.config.id2label[i], "score": score} for i, score in zip(labels.tolist(), scores.tolist(), strict=True)]


def book(start: Path, out: Path, data: dict[str, Dataset]) -> dict[str, Any]:
    """[3.21 to 3.31] The chapter from end to end with its own settings. Raises AssertionError where its parts disagree."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    trainer = fine_tune(classifier(start), tokenizer, data["train"], data["valid"], out / "results", **BOOK)
    by_trainer, test = measured(trainer, data["test"]), make_dataloader(data["test"], tokenizer, 8, shuffle=False)
    loss, share = evaluate(trainer.model, test)
    assert share == by_trainer["accuracy"] and abs(loss - by_trainer["loss"]) < 1e-4, "Trainer and loop measure the same model differently"

    plain = classifier(start)
    train_epoch(plain, make_dataloader(data["train"], tokenizer, 8), torch.optim.AdamW(plain.parameters(), lr=5e-5))  # [3.28]
    by_loop = evaluate(plain, test)[1]

    trainer.save_model(str(out / "model"))  # [3.29] or trainer.push_to_hub(repo_id)
    first = data["test"]["title"][:5]
    one, other = pipeline("text-classification", model=str(out / "model"))(first), CustomPipeline(out / "model")(first)  # [3.30]
    same = all(a["label"] == b["label"] and abs(a["score"] - b["score"]) < 1e-4 for a, b in zip(one, other, strict=True))
    assert same, "pipeline and CustomPipeline disagree"
    print(*(f"{answer['label']} {answer['score']:.4f} {title}" for title, answer in zip(first, one, strict=True)), sep="\n")
    return measured(trainer, data["dev"]) | {"test_by_trainer": share, "test_by_loop": by_loop}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("ynat"))
    parser.add_argument("--stage", choices=["pretrain", "scratch", "finetune", "book", "all"], default="all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    own = parser.parse_args()
    size, start, log = QUICK if own.quick else FULL, own.out / "encoder", own.out / "results.json"
    results: dict[str, Any] = json.loads(log.read_text(encoding="utf-8")) if log.exists() else {}

    def keep(name: str, values: dict[str, Any]) -> None:
        results[name] = values
        log.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, {key: value for key, value in values.items() if not isinstance(value, list)})

    if own.stage in ("pretrain", "all"):
        keep("pretrain", pretrain(own.data, start, size))
    data, tokenizer = splits(own.data, size), AutoTokenizer.from_pretrained(start)
    runs = [("scratch", "scratch", "train"), ("pre-trained", "finetune", "train"), ("pre-trained, all rows", "finetune", "all")]
    for name, stage, rows in runs:
        if own.stage in (stage, "all"):
            model = classifier(start, stage == "scratch")
            trainer = fine_tune(model, tokenizer, data[rows], data["valid"], own.out / "run", **BETTER)
            keep(name, measured(trainer, data["dev"]))
    if own.stage in ("book", "all"):
        keep("book", book(start, own.out, data))


if __name__ == "__main__":
    main()
