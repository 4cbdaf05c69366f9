"""Every objective, from rows through its collator and a tiny model to its loss: a few steps learn one batch by heart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hunmin import AutoTokenizer, train
from hunmin.hub import weights
from hunmin.hub.config import Config
from hunmin.model import PreTrainedModel
from hunmin.train import losses
from tests.test_train_collators import SENTINELS
from tests.text_kinds import KINDS, sentencepiece

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Hello world! 훈민정음은 백성을 가르치는 소리.",
    "lazy dogs jump over the brown fox",
]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 400}
PAIR = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART = {**PAIR, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 400}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 400, "initializer_factor": 0.2}


def model_of(kind: str, task: str, **config: Any) -> Any:
    base = {"bart": BART, "t5": T5}.get(kind, SMALL)
    made = Config(kind, **{**base, **config})
    model = PreTrainedModel(made, task)
    weights.initialize(model, made)
    return model


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    t5 = sentencepiece(folder / "t5", "t5", "spiece.model", ["<pad>", "</s>", "<unk>", *SENTINELS])
    return {"t5": AutoTokenizer.from_pretrained(t5)} | {
        name: AutoTokenizer.from_pretrained(KINDS[name](folder / name)) for name in ("bert", "roberta", "gpt2")
    }


def rows(tokenizer: Any, *labels: Any, name: str = "labels") -> list[dict[str, Any]]:
    out = [{key: value[i] for key, value in tokenizer(TEXTS).items()} for i in range(len(TEXTS))]
    return [{**row, name: label} for row, label in zip(out, labels, strict=True)] if labels else out


Objective = Callable[[dict[str, Any], bool], tuple[Any, dict[str, Any], Callable[[Any, dict[str, Any]], Tensor] | None]]
OBJECTIVES: dict[str, Objective] = {}


def objective(make: Objective) -> Objective:
    """Adds a function that gives (model, batch, loss or None for the model's own) to the table."""
    OBJECTIVES[make.__name__] = make
    return make


@objective
def causal_lm(t: dict[str, Any], packed: bool) -> Any:
    collate = train.DataCollatorForLanguageModeling(t["gpt2"], mlm=False, packed=packed)
    return model_of("gpt2", "CausalLM"), collate(rows(t["gpt2"])), None


@objective
def masked_lm(t: dict[str, Any], packed: bool) -> Any:
    collate = train.DataCollatorForWholeWordMask(t["bert"], mlm_probability=0.3, seed=0, packed=packed)
    return model_of("bert", "MaskedLM"), collate(rows(t["bert"])), None


@objective
def next_sentence(t: dict[str, Any], packed: bool) -> Any:
    documents = [{"sentences": [[20 * d + s] * 3 for s in range(5, 9)]} for d in range(1, 7)]
    return model_of("bert", "NextSentencePrediction"), train.DataCollatorForNextSentence(t["bert"], seed=0, packed=packed)(documents), None


@objective
def replaced_tokens(t: dict[str, Any], packed: bool) -> Any:
    collate = train.DataCollatorForReplacedTokens(t["bert"], mlm_probability=0.3, seed=0, packed=packed)
    return model_of("electra", "PreTraining", embedding_size=16), collate(rows(t["bert"])), None


@objective
def electra(t: dict[str, Any], packed: bool) -> Any:
    batch = train.DataCollatorForLanguageModeling(t["bert"], mlm_probability=0.3, seed=0, packed=packed)(rows(t["bert"]))
    both = torch.nn.ModuleList([model_of("electra", "MaskedLM", embedding_size=16), model_of("electra", "PreTraining", embedding_size=16)])
    return both, batch, lambda models, batch: losses.electra(*models, batch, weight=1.0)


@objective
def denoising(t: dict[str, Any], packed: bool) -> Any:
    collate = train.DataCollatorForDenoising(t["roberta"], seed=0, packed=packed)
    return model_of("bart", "Seq2SeqLM"), collate(rows(t["roberta"])), None


@objective
def span_corruption(t: dict[str, Any], packed: bool) -> Any:
    return model_of("t5", "Seq2SeqLM"), train.DataCollatorForSpanCorruption(t["t5"], seed=0, packed=packed)(rows(t["t5"])), None


@objective
def prefix_lm(t: dict[str, Any], packed: bool) -> Any:
    return model_of("t5", "Seq2SeqLM"), train.DataCollatorForPrefixLM(t["t5"], seed=0, packed=packed)(rows(t["t5"])), None


@objective
def seq2seq(t: dict[str, Any], packed: bool) -> Any:
    model = model_of("bart", "Seq2SeqLM")
    features = rows(t["roberta"], [5, 6, 2], [7, 2], [8, 9, 10, 2])
    return model, train.DataCollatorForSeq2Seq(t["roberta"], model, packed=packed)(features), None


@objective
def classification(t: dict[str, Any], packed: bool) -> Any:
    return (
        model_of("bert", "SequenceClassification"),
        train.DataCollatorWithPadding(t["bert"], packed=packed)(rows(t["bert"], 0, 1, 1)),
        None,
    )


@objective
def last_token_classification(t: dict[str, Any], packed: bool) -> Any:
    model = model_of("gpt2", "SequenceClassification", pad_token_id=0)
    return model, train.DataCollatorWithPadding(t["gpt2"], packed=packed)(rows(t["gpt2"], 0, 1, 1)), None


@objective
def several_labels(t: dict[str, Any], packed: bool) -> Any:
    features = rows(t["bert"], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0])
    return model_of("bert", "SequenceClassification", num_labels=3), train.DataCollatorWithPadding(t["bert"], packed=packed)(features), None


@objective
def regression(t: dict[str, Any], packed: bool) -> Any:
    features = rows(t["bert"], 0.5, -1.0, 2.0)
    return model_of("bert", "SequenceClassification", num_labels=1), train.DataCollatorWithPadding(t["bert"], packed=packed)(features), None


@objective
def token_classification(t: dict[str, Any], packed: bool) -> Any:
    features = [{**row, "labels": [-100 if i < 5 else i % 3 for i in row["input_ids"]]} for row in rows(t["bert"])]
    collate = train.DataCollatorForTokenClassification(t["bert"], packed=packed)
    return model_of("bert", "TokenClassification", num_labels=3), collate(features), None


@objective
def answers(t: dict[str, Any], packed: bool) -> Any:
    features = [{**row, "end_positions": 4} for row in rows(t["bert"], 1, 2, 3, name="start_positions")]
    return model_of("bert", "QuestionAnswering"), train.DataCollatorWithPadding(t["bert"], packed=packed)(features), None


@objective
def multiple_choice(t: dict[str, Any], packed: bool) -> Any:
    two = rows(t["bert"])
    features = [{**{key: [two[i][key], two[(i + 1) % 3][key]] for key in two[i]}, "label": i % 2} for i in range(3)]
    return model_of("bert", "MultipleChoice"), train.DataCollatorForMultipleChoice(t["bert"], packed=packed)(features), None


@objective
def embeddings(t: dict[str, Any], packed: bool) -> Any:
    pairs = [{"anchor": text, "positive": text[5:]} for text in TEXTS]
    batch = train.DataCollatorForContrastive(t["bert"])(pairs)

    def loss(model: Any, batch: dict[str, Any]) -> Tensor:
        vectors = losses.pool(model(**batch).last_hidden_state, batch["where"])
        return losses.multiple_negatives(*vectors.chunk(2), symmetric=packed)

    return model_of("bert", "Model"), batch, loss


@objective
def reranker(t: dict[str, Any], packed: bool) -> Any:
    batch = train.DataCollatorWithPadding(t["bert"], packed=packed)(rows(t["bert"], 0.0, 1.0, 0.0))
    labels = batch.pop("labels")
    model = model_of("bert", "SequenceClassification", num_labels=1)
    if packed:
        return model, batch, lambda model, batch: losses.listwise(model(**batch).logits.view(1, 3), 9 * labels[None])
    return model, batch, lambda model, batch: losses.binary_relevance(model(**batch).logits, labels)


@objective
def distillation(t: dict[str, Any], packed: bool) -> Any:
    batch = train.DataCollatorForLanguageModeling(t["bert"], mlm_probability=0.3, seed=0, packed=True)(rows(t["bert"]))
    teacher, student = (
        model_of("bert", "MaskedLM", num_hidden_layers=2).eval(),
        model_of("distilbert", "MaskedLM", dim=16, n_layers=1, n_heads=2),
    )
    with torch.no_grad():
        told = teacher(**batch, output_hidden_states=True)

    def loss(model: Any, batch: dict[str, Any]) -> Tensor:
        out = model(**{key: value for key, value in batch.items() if key != "token_type_ids"}, output_hidden_states=True)
        return losses.distilbert(out, told, batch["labels"], batch["where"])

    return student, batch, loss


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_learn(name: str, packed: bool, tokenizers: dict[str, Any]) -> None:
    model, batch, loss = OBJECTIVES[name](tokenizers, packed)
    model.eval()  # without dropout
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen = []
    for _ in range(30):
        value = loss(model, batch) if loss is not None else model(**batch).loss
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seen.append(value.item())
    assert 0 <= seen[-1] < 0.62 * seen[0], seen
