"""How close a model stays to what it was: perplexity on a text, cosine of hidden states, and the score of a classifier on labelled rows."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.model import PreTrainedModel
from hunmin.quantization import rows

STATES = 2048  # tokens whose hidden states are kept to compare
# Written for this purpose. A few hundred tokens: enough to see that something broke, not to rank methods.
SAMPLE = """The printing press did not arrive alone. Before a page could be set, someone had to cut punches of hard steel, strike them into
copper, and pour an alloy of lead, tin and antimony that neither shrank nor clung to the mould. Paper had to be cheap enough to waste, and
readers numerous enough to pay for it. Each of these had a history of its own, and each could have failed. When people speak of an invention,
they usually mean the last piece, the one after which everything else suddenly seems to have been waiting.

A letter is a small agreement. The writer promises to use a mark in one way, and the reader promises to take it so. Where the agreement is
old, nobody remembers making it; spelling then drifts away from speech, and children spend years on exceptions. In 1443 a king who wanted his
people to read had the letters made anew: twenty-eight marks, drawn after the shapes of the mouth, gathered into blocks of a syllable.

1443년 겨울에 임금이 스물여덟 글자를 만들었다. 글자는 소리 나는 자리의 모양을 본떴고, 점과 선을 더해 뜻이 이어지게 했다. 슬기로운 사람은
하루아침에 배우고, 그렇지 않은 사람도 열흘이면 익힐 수 있다고 적혀 있다. 바람 소리, 닭 우는 소리, 개 짖는 소리까지 모두 쓸 수 있었다.
"""


@dataclass
class Check:
    """What a model is measured on: rows of ids ``(1, N)``, and labelled texts where there are some."""

    ids: list[Tensor]
    labelled: list[tuple[dict[str, Tensor], int]] = field(default_factory=list[tuple[dict[str, Tensor], int]])


@dataclass
class Measured:
    """Perplexity (of a causal language model), accuracy (of a classifier on labelled rows), hidden states ``(N, C)`` of the first tokens."""

    perplexity: float | None
    accuracy: float | None
    hidden: Tensor

    def cosine(self, other: Measured) -> float:
        """The mean over tokens of the cosine between their hidden states in two models."""
        return F.cosine_similarity(self.hidden, other.hidden, -1).mean().item()


def check_of(model: PreTrainedModel, tokenizer: Any, file: str | Path | None = None, tokens: int = 4096) -> Check:
    """What to measure ``model`` on: a text file, labelled rows (``.csv``, ``.tsv`` or ``.jsonl`` with ``text`` and ``label``, for a
    classifier), or a short sample. Raises InputError for a file that holds neither."""
    longest = getattr(model.config, "max_position_embeddings", None) if "max_position_embeddings" in model.config else None
    longest = longest - 8 if isinstance(longest, int) and longest > 16 else None  # some tables of positions begin later
    if file is not None and Path(file).suffix in (".csv", ".tsv", ".jsonl"):
        if model.task != "SequenceClassification":
            raise InputError(
                say("Labelled rows check a classifier; give a text file.", "라벨이 있는 행은 분류 모델용입니다. 텍스트 파일을 주세요.")
            )
        found = _labelled(Path(file))
        names: dict[str, int] = {**model.config.label2id, **{str(i): i for i in model.config.id2label}}
        if wrong := next((label for _, label in found if label not in names), None):
            known = ", ".join(model.config.label2id)
            raise InputError(say(f"{file}: label {wrong!r} is none of {known}.", f"{file}: 라벨 {wrong!r}은(는) {known}에 없습니다."))
        items = [(dict(tokenizer(text, truncation=True, return_tensors="pt")), names[label]) for text, label in found]
        return Check(rows([text for text, _ in found], tokenizer, longest, tokens), items)
    return Check(rows(file if file is not None else [SAMPLE], tokenizer, longest, tokens))


def _labelled(file: Path) -> list[tuple[str, str]]:
    try:
        if file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                found = [json.loads(line) for line in lines if line.strip()]
        else:
            with file.open(encoding="utf-8", newline="") as lines:
                found = list(csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ","))
        return [(str(row["text"]), str(row["label"])) for row in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            say(
                f"{file} cannot be read as rows with text and label: {error}.",
                f"{file}에서 text와 label이 있는 행을 읽을 수 없습니다: {error}.",
            )
        ) from None


@torch.no_grad()
def measure(model: PreTrainedModel, check: Check) -> Measured:
    """Run ``model`` over the check."""
    losses, counts, hidden, kept = list[float](), list[int](), list[Tensor](), 0
    causal = model.task == "CausalLM"
    for ids in check.ids:
        wanted = kept < STATES
        if not causal and not wanted:
            break
        out = model(ids.to(model.device), labels=ids.to(model.device) if causal else None, output_hidden_states=wanted, use_cache=False)
        if causal:
            losses.append(out.loss.item())
            counts.append(ids.shape[1] - 1)
        if wanted:
            states = out.get("decoder_hidden_states") or out["hidden_states"]
            hidden.append(states[-1][0].float().cpu())
            kept += len(hidden[-1])
    mean = sum(loss * n for loss, n in zip(losses, counts, strict=True)) / max(1, sum(counts))
    right = [int(model(**inputs).logits.argmax(-1)) == label for inputs, label in check.labelled]
    return Measured(math.exp(min(mean, 80.0)) if causal else None, sum(right) / len(right) if right else None, torch.cat(hidden))
