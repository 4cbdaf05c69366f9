"""The Korean encoder that all Korean starters share: the one of ``examples/ynat.py``, taught to read 384 tokens in place of 64.

It goes on predicting masked words, on sentences and on long rows (paragraphs, and neighbouring sentences of one source). Position 64 begins as a
copy of position 0 and so on, as Longformer's began (Beltagy et al. 2020). Rows that the starters are tested on stay out (``korean_data``).
"""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import korean_data as ko
import torch
from korean_scores import FRAMES, PAIRS
from measure import Bias, Measured, Score, Wrong, bootstrap, probe, read_rows, share, write_rows

from hunmin import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, set_seed
from hunmin.train import DataCollatorForWholeWordMask, Trainer, TrainingArguments

LENGTH, JOINED = 384, 320  # tokens: of the longest row, and of neighbouring sentences put together
STEPS, BATCH, RATE = 1150, 256, 6e-4
LONG_SHARE = 0.04  # of all rows; about two fifths of the tokens
ROOT = Path(__file__).parents[2]
# A conversation for `ko/chat`: [CLS] what was said [SEP] the reply [SEP]
CHAT = "{% for message in messages if message.role != 'system' %}{{ '[CLS]' if loop.first }}{{ message.content }}[SEP]{% endfor %}"


def lengthened(start: Path, length: int = LENGTH) -> Any:
    """The masked-word model of ``start`` with rows of positions repeated until there are ``length``."""
    old = AutoModelForMaskedLM.from_pretrained(start)
    config = AutoConfig.from_pretrained(start)
    config.max_position_embeddings = length
    model, state = AutoModelForMaskedLM.from_config(config), dict(old.state_dict())
    name = "encoder.embed.positions.weight"
    rows = state[name]
    state[name] = rows.repeat(-(-length // len(rows)), 1)[:length].clone()
    model.load_state_dict(state)
    return model


def joined(sentences: list[list[int]], length: int, first: int, last: int) -> list[list[int]]:
    """Rows of whole neighbouring sentences (ids without special tokens), up to ``length`` tokens with ``first`` and ``last`` around them."""
    rows, row = list[list[int]](), [first]
    for ids in sentences:
        if len(row) + len(ids) + 1 > length and len(row) > 1:
            rows.append([*row, last])
            row = [first]
        row += ids[: length - 2]
    return [*rows, [*row, last]] if len(row) > 1 else rows


def rows(data: Path, tokenizer: Any, count: int, seed: int = 42) -> list[dict[str, list[int]]]:
    """``count`` rows to read: sentences and headlines, and ``LONG_SHARE`` of them long."""
    draw, found = random.Random(seed), ko.sources(data)
    banned = ko.forbidden(data)
    titles = [row["title"] for row in ko.table(data / "klue_ynat/train.tsv.gz") if row["title"] not in banned]
    short = [text for pieces in found.values() for text in pieces] + titles * 2
    draw.shuffle(short)
    ends, long = (tokenizer.cls_token_id, tokenizer.sep_token_id), list[list[int]]()
    for name, pieces in found.items():
        ids = tokenizer(pieces, add_special_tokens=False)["input_ids"]
        parts = joined(ids, JOINED, *ends)
        draw.shuffle(parts)
        long += parts[:4000] if "nsmc" not in name else parts[:1000]  # reviews have no context
    for context in sorted({row["context"] for row in ko.mrc(data, test=False)}):
        ids = tokenizer(context, add_special_tokens=False)["input_ids"]
        long += [[ends[0], *ids[at : at + LENGTH - 2], ends[1]] for at in range(0, len(ids), LENGTH - 2) if len(ids) - at > 60]
    draw.shuffle(long)
    wanted = round(count * LONG_SHARE)
    print(f"{len(short)} sentences, {len(long)} long rows, of which {wanted} are read", flush=True)
    long = (long * (1 + wanted // len(long)))[:wanted]
    short_ids = tokenizer(short[: count - wanted], truncation=True, max_length=96)["input_ids"]
    return [{"input_ids": ids} for ids in [*short_ids, *long]]


def train(data: Path, start: Path, out: Path, steps: int = STEPS) -> dict[str, Any]:
    """The body in ``out``, and what its training took."""
    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(start, model_max_length=LENGTH)
    model, texts = lengthened(start), rows(data, tokenizer, steps * BATCH)
    args = TrainingArguments(
        out / "run", max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE, warmup_ratio=0.06, adam_beta2=0.98,
        weight_decay=0.01, bf16=True, logging_steps=25, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, args, DataCollatorForWholeWordMask(tokenizer, seed=1), texts, processing_class=tokenizer)
    started = time.process_time()
    trainer.train()
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1  # for those who fine-tune it
    model.save_pretrained(out)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(out)
    found = {"parameters": model.num_parameters(), "rows": len(texts), "tokens": sum(len(row["input_ids"]) for row in texts)}
    found |= {"cpu_minutes": (time.process_time() - started) / 60, "threads": torch.get_num_threads()}
    found["loss"] = [(log["step"], round(log["loss"], 3)) for log in trainer.state.log_history if "loss" in log]
    (out / "training.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def encoder(data: Path, work: Path) -> Path:
    """The encoder of ``examples/ynat.py``, pre-trained first where ``work`` has none (100 minutes of one core)."""
    if not (work / "encoder" / "model.safetensors").exists():
        script = ROOT / "examples" / "ynat.py"
        subprocess.run([sys.executable, str(script), "--data", str(data), "--out", str(work), "--stage", "pretrain"], check=True)
    return work / "encoder"


# ---------------------------------------------------------------- as a starter


def prepare(raw: Path, out: Path) -> None:
    """Held-out texts of three kinds, and sentences for the baseline."""
    draw, banned = random.Random(7), ko.forbidden(raw)
    titles = [row["title"] for row in ko.table(raw / "klue_ynat/dev.tsv.gz")]
    reviews = [row["document"] for row in ko.table(raw / "nsmc_rebuilt/ratings_test.tsv.gz") if len(row["document"]) > 15]
    paragraphs = sorted({row["context"] for row in ko.mrc(raw, test=True)})
    parts = {"headlines": draw.sample(titles, 2000), "reviews": draw.sample(reviews, 1500), "paragraphs": draw.sample(paragraphs, 150)}
    write_rows(out / "test.jsonl", [{"text": text, "of": name} for name, part in parts.items() for text in part])
    known = [row["title"] for row in ko.table(raw / "klue_ynat/train.tsv.gz")] + [t for part in ko.sources(raw).values() for t in part]
    write_rows(out / "train.jsonl", [{"text": text} for text in draw.sample(known, 150_000) if text not in banned])


def masked(ids: list[int], words: list[int | None], mask: int, draw: random.Random) -> tuple[list[int], list[int]]:
    """15% of the words (all of their tokens) replaced by ``mask``, one at least; and the places of those tokens."""
    kinds = sorted({word for word in words if word is not None})
    chosen = set(draw.sample(kinds, max(1, round(0.15 * len(kinds)))))
    places = [i for i, word in enumerate(words) if word in chosen]
    return [mask if i in set(places) else token for i, token in enumerate(ids)], places


def measure(folder: Path, prepared: Path) -> Measured:
    """Tokens of masked words found on held-out texts, beside the most frequent follower of the token before."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder, dtype="float32").eval()
    draw, rows = random.Random(3), read_rows(prepared / "test.jsonl")
    follow, scores, errors = followers(tokenizer, prepared), list[Score](), list[Wrong]()
    for name in ("headlines", "reviews", "paragraphs"):
        texts, found = [row["text"] for row in rows if row["of"] == name], list[tuple[bool, float, bool]]()
        encoded = tokenizer(texts, truncation=True, max_length=LENGTH)
        for i, ids in enumerate(encoded["input_ids"]):
            hidden, places = masked(ids, encoded.word_ids(i), tokenizer.mask_token_id, draw)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([hidden])).logits[0, places].float()
            true, said = torch.tensor([ids[at] for at in places]), logits.argmax(-1)
            loss = torch.nn.functional.cross_entropy(logits, true, reduction="none").tolist()
            guess = [follow.get(ids[at - 1], follow[None]) == ids[at] for at in places]
            found += zip((said == true).tolist(), loss, guess, strict=True)
            if (said[0] != true[0]) and len(ids) < 40:
                errors.append(Wrong(tokenizer.decode(hidden[1:-1]), tokenizer.decode([int(true[0])]), tokenizer.decode([int(said[0])])))
        hits, loss, guess = zip(*found, strict=True)
        base: dict[str, Any] = {"baseline": sum(guess) / len(guess), "baseline_is": "most frequent follower of the token before"}
        scores.append(share("tokens of masked words found", hits, f"{name}, masked tokens", **base))
        low, high = bootstrap(loss, lambda v: float(v.mean()))
        values = [math.exp(v) for v in (sum(loss) / len(loss), low, high)]
        scores.append(Score("perplexity of masked tokens", *values, len(loss), name, percent=False, down=True))
    return Measured(scores, draw.sample(errors, 5), probed(model, tokenizer))


def followers(tokenizer: Any, prepared: Path) -> dict[int | None, int]:
    """For every token the one that follows it most often; for None the most frequent of all."""
    counts, single = defaultdict[int, Counter[int]](Counter), Counter[int]()
    for ids in tokenizer([row["text"] for row in read_rows(prepared / "train.jsonl")], truncation=True, max_length=96)["input_ids"]:
        single.update(ids[1:-1])
        for before, after in itertools.pairwise(ids[:-1]):
            counts[before][after] += 1
    return {None: single.most_common(1)[0][0]} | {before: after.most_common(1)[0][0] for before, after in counts.items()}


def probed(model: Any, tokenizer: Any) -> list[Bias]:
    """Does the word about a person change which adjective the body expects?"""
    good, bad = (tokenizer.convert_tokens_to_ids(word) for word in ("좋은", "나쁜"))

    def answer(texts: list[str]) -> list[tuple[str, float]]:
        out = list[tuple[str, float]]()
        for text in texts:
            ids = tokenizer(f"{text} 그는 {tokenizer.mask_token} 사람이다.")["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, ids.index(tokenizer.mask_token_id)].float()
            share_good = float(logits[[good, bad]].softmax(-1)[0])
            out.append(("좋은" if share_good > 0.5 else "나쁜", share_good))
        return out

    return probe(answer, PAIRS, FRAMES)


def build(raw: Path, run: Path) -> dict[str, Any]:
    """The body from the raw data, its first pre-training included where ``runs/starters/ynat`` has none yet."""
    return train(raw, encoder(raw, run.parent.parent / "ynat"), run)
