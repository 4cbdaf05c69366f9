"""Objectives against numbers computed by hand, and staged fine-tuning."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, tensor

from hunmin.auto import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForSequenceClassification
from hunmin.errors import InputError
from hunmin.hub.config import Config
from hunmin.nn.where import Where
from hunmin.train import DataCollatorWithFlattening, gradual_unfreezing, layer_groups, layerwise_parameters, losses, slanted_triangular
from hunmin.train.staged import freeze_to
from tests.cases import ROWS

LN = math.log
HALF = tensor([[0.0, LN(3)]])  # probabilities 1/4 and 3/4


def near(got: Tensor | float, want: float) -> None:
    assert float(torch.as_tensor(got).detach()) == pytest.approx(want, rel=1e-5, abs=1e-7)


# ---------------------------------------------------------------- by hand


def test_classes_labels_and_numbers() -> None:
    near(losses.classification(HALF, tensor([1])), -LN(3 / 4))
    near(losses.next_sentence(HALF.repeat(2, 1), tensor([0, 1])), (LN(4) - LN(3 / 4)) / 2)
    near(losses.multi_label(tensor([[0.0, LN(3)]]), tensor([[1, 0]])), (LN(2) + LN(4)) / 2)
    near(losses.regression(tensor([[1.0], [2.0]]), tensor([2.0, 4.0])), 2.5)
    near(losses.multiple_choice(tensor([0.0, LN(3), LN(7), 0.0]), tensor([1, 0])), (LN(4 / 3) + LN(8 / 7)) / 2)
    near(losses.multiple_choice(tensor([[0.0], [LN(3)]]), tensor([0])), LN(4))


def test_tokens() -> None:
    logits = HALF.repeat(3, 1)[None]
    near(losses.masked(logits, tensor([[0, -100, 1]])), (LN(4) + LN(4 / 3)) / 2)
    near(losses.next_token(logits, tensor([[1, 0, 1]])), (LN(4) + LN(4 / 3)) / 2)
    near(losses.next_token(logits, tensor([[1, 0, 1]]), tensor([[0, 1, 1]])), LN(4 / 3))
    near(losses.replaced_token(tensor([[0.0, LN(3), 9.0]]), tensor([[1, 0, 1]]), tensor([[0, 0, -1]])), (LN(2) + LN(4)) / 2)


def test_answers() -> None:
    start, end = tensor([[0.0, LN(3), 50.0]]), tensor([[LN(3), 0.0, 50.0]])
    padded = Where.padded(tensor([[1, 1, 0]]))
    near(losses.span(start, end, tensor([1]), tensor([1]), padded), (LN(4 / 3) + LN(4)) / 2)
    near(losses.span(start[:, :2], end[:, :2], tensor([1]), tensor([1])), (LN(4 / 3) + LN(4)) / 2)
    # one token, then two: the first sequence has nothing to choose
    packed = Where.packed([1, 2])
    near(
        losses.span(tensor([[9.0, 0.0, LN(3)]]), tensor([[9.0, 0.0, LN(3)]]), tensor([0, 1]), tensor([0, 0]), packed),
        (LN(4 / 3) + LN(4)) / 4,
    )
    # positions outside of the sequence are left out
    near(losses.span(tensor([[9.0, 0.0, LN(3)]]), tensor([[9.0, 0.0, LN(3)]]), tensor([1, 1]), tensor([-1, 1]), packed), LN(4 / 3))


def test_smoothed_labels() -> None:
    """0.9 of the loss of the label and 0.1 of the mean over both."""
    want = 0.9 * LN(4 / 3) + 0.1 * (LN(4) + LN(4 / 3)) / 2
    near(losses.smoothed(HALF, tensor([1])), want)
    near(losses.smoothed(HALF.repeat(3, 1)[None], tensor([[1, -100, 1]])), want)
    near(losses.smoothed(HALF.repeat(3, 1)[None], tensor([[0, 0, 1]]), shift=True, segment=tensor([[0, 1, 1]])), want)
    near(losses.smoothed(HALF, tensor([1]), 0.0), LN(4 / 3))


def test_sentence_embeddings() -> None:
    a, b = tensor([[1.0, 0.0], [0.0, 2.0]]), tensor([[3.0, 0.0], [1.0, 1.0]])
    r = math.sqrt(0.5)  # cosines: 1 and r; 0 and r
    first, second = LN(1 + math.exp(2 * (r - 1))), LN(1 + math.exp(-2 * r))
    near(losses.multiple_negatives(a, b, scale=2), (first + second) / 2)
    back = (LN(1 + math.exp(-2)) + LN(2)) / 2
    near(losses.multiple_negatives(a, b, scale=2, symmetric=True), ((first + second) / 2 + back) / 2)
    hard = torch.cat([b, tensor([[0.0, -1.0]])])  # cosines 0 and -1
    first = LN(math.exp(2) + math.exp(2 * r) + 1) - 2
    second = LN(1 + math.exp(2 * r) + math.exp(-2)) - 2 * r
    near(losses.multiple_negatives(a, hard, scale=2), (first + second) / 2)
    near(losses.cosine_similarity(a, b, tensor([0.5, 0.0])), (0.25 + 0.5) / 2)
    near(losses.cosine_embedding(a, b, tensor([1, -1]), margin=0.2), (r - 0.2) / 2)
    near(losses.triplet(tensor([[0.0, 0.0]]), tensor([[3.0, 4.0]]), tensor([[0.0, 5.5]])), 0.5)


def test_rerankers() -> None:
    near(losses.binary_relevance(tensor([[0.0], [LN(3)]]), tensor([1, 0])), (LN(2) + LN(4)) / 2)
    near(losses.listwise(HALF, tensor([[0.0, LN(3)]])), -(LN(1 / 4) / 4 + 3 * LN(3 / 4) / 4))
    mask = tensor([[True, True, False]])
    near(losses.listwise(tensor([[0.0, LN(3), 99.0]]), tensor([[0, 0, 99]]), mask), (LN(4) + LN(4 / 3)) / 2)


def test_distillation() -> None:
    """At temperature 2 the odds 9 become 3."""
    student, teacher = tensor([[0.0, 0.0]]), tensor([[0.0, LN(9)]])
    want = 4 * (LN(2) + LN(1 / 4) / 4 + 3 * LN(3 / 4) / 4)
    near(losses.distillation(student, teacher), want)
    near(losses.distillation(student.repeat(2, 1)[None], torch.cat([teacher, 5 * teacher])[None], mask=tensor([[True, False]])), want)
    near(losses.distillation(student.repeat(3, 1)[None], teacher.repeat(3, 1)[None]), want)
    a, b = tensor([[[1.0, 0.0], [1.0, 1.0]]]), tensor([[[2.0, 0.0], [1.0, 0.0]]])
    near(losses.hidden_cosine(a, b), (1 - math.sqrt(0.5)) / 2)
    near(losses.hidden_cosine(a, b, tensor([[True, False]])), 0.0)
    near(losses.hidden_error(a, b), 0.5)
    near(losses.hidden_error(a, b, mask=tensor([[False, True]])), 0.5)
    near(losses.hidden_error(a, b, project=tensor([[2.0, 0.0], [0.0, 0.0]])), 0.25)


def test_the_triple_loss_of_distilbert() -> None:
    out = SimpleNamespace(logits=tensor([[[0.0, 0.0], [0.0, 5.0]]]), hidden_states=(None, tensor([[[1.0, 0.0], [1.0, 1.0]]])))
    teacher = SimpleNamespace(logits=tensor([[[0.0, LN(9)], [3.0, 0.0]]]), hidden_states=(None, tensor([[[2.0, 0.0], [1.0, 0.0]]])))
    soft = 4 * (LN(2) + LN(1 / 4) / 4 + 3 * LN(3 / 4) / 4)
    want = 5 * soft + 2 * LN(2) + (1 - math.sqrt(0.5)) / 2
    near(losses.distilbert(out, teacher, tensor([[1, -100]]), Where.plain(1, 2)), want)


# ---------------------------------------------------------------- with models


def tiny(model_type: str, auto: Any = AutoModel, **config: Any) -> Any:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 99}
    return auto.from_config(Config(model_type, **small, pad_token_id=1, **config))


@pytest.mark.parametrize("how", ["mean", "first", "last"])
def test_pooling_is_the_same_packed_and_padded(how: str) -> None:
    rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}]
    hidden = torch.randn(5, 4)
    padded = torch.stack([hidden[:3], torch.cat([hidden[3:], torch.full((1, 4), 9.0)])])
    flat = DataCollatorWithFlattening()(rows)
    want = {"mean": torch.stack([hidden[:3].mean(0), hidden[3:].mean(0)]), "first": hidden[[0, 3]], "last": hidden[[2, 4]]}[how]
    torch.testing.assert_close(losses.pool(hidden[None], flat["where"], how), want)
    torch.testing.assert_close(losses.pool(padded, Where.padded(tensor([[1, 1, 1], [1, 1, 0]])), how), want)


def test_pooling_knows_its_names() -> None:
    with pytest.raises(InputError, match="mean, first, last"):
        losses.pool(torch.zeros(1, 2, 3), Where.plain(1, 2), "max")


@pytest.mark.parametrize("symmetric", [False, True])
def test_cached_negatives_equal_the_whole_batch(symmetric: bool) -> None:
    """Loss and gradients, and no small batch sees more of the network than its own share in memory."""
    model, ids = tiny("bert").eval(), torch.randint(2, 99, (14, 5))
    alive: list[int] = []

    def encode(batch: Tensor) -> Tensor:
        alive.append(len(batch))
        return model(batch).last_hidden_state.mean(1)

    def gradients(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        return [g for g in found if g is not None]

    whole = losses.multiple_negatives(encode(ids[:6]), encode(ids[6:]), symmetric=symmetric)
    want, alive[:] = gradients(whole), []
    cached = losses.cached_multiple_negatives(encode, ids[:6].split(2), ids[6:].split(3), symmetric=symmetric)
    torch.testing.assert_close(cached, whole)
    got = gradients(cached)
    assert sorted(alive) == sorted(2 * [2, 2, 2, 3, 3, 2])  # each batch once forward and once again for its gradient
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_cached_negatives_draw_the_same_dropout_again() -> None:
    layer, ids = nn.Linear(8, 8), torch.randn(4, 8)

    def encode(batch: Tensor) -> Tensor:
        return F.dropout(layer(batch), 0.5)

    def gradient(cached: bool) -> Tensor:
        torch.manual_seed(3)
        if cached:
            loss = losses.cached_multiple_negatives(encode, ids.split(2), ids.split(2))
        else:
            parts = [encode(part) for part in (*ids.split(2), *ids.split(2))]
            loss = losses.multiple_negatives(torch.cat(parts[:2]), torch.cat(parts[2:]))
        return torch.autograd.grad(loss, layer.weight)[0]

    torch.testing.assert_close(gradient(True), gradient(False))


def test_replaced_tokens_are_those_that_differ() -> None:
    ids, labels = tensor([[5, 4, 7, 4]]), tensor([[-100, 6, -100, 8]])
    sure = torch.full((1, 4, 10), -1e9)
    sure[0, 1, 6] = sure[0, 3, 9] = 0.0  # right at the first place, wrong at the second
    filled, replaced = losses.replace_tokens(ids, labels, sure)
    assert filled.tolist() == [[5, 6, 7, 9]] and replaced.tolist() == [[False, False, False, True]]


def test_electra_trains_both_models() -> None:
    small = tiny("electra", AutoModelForMaskedLM, embedding_size=8)
    large = tiny("electra", AutoModelForPreTraining, embedding_size=8, architectures=["ElectraForPreTraining"])
    batch = {"input_ids": ROWS[:1], "labels": ROWS[:1].masked_fill(ROWS[:1] % 2 == 0, -100)}
    loss = losses.electra(small, large, batch)
    loss.backward()
    assert all(p.grad is not None for model in (small, large) for p in (model.head.dense.weight, model.get_input_embeddings().weight))
    near(losses.electra(small.eval(), large.eval(), batch, weight=0.0), float(small(**batch).loss.detach()))


# ---------------------------------------------------------------- staged fine-tuning


def test_layers_by_depth() -> None:
    model = tiny("bert", AutoModelForSequenceClassification)
    groups = layer_groups(model)
    assert len(groups) == 4 and sorted(name for group in groups for name in group) == sorted(dict(model.named_parameters()))
    assert all(name.startswith("encoder.embed.") for name in groups[0]) and all(".layers.1." in name for name in groups[2])
    assert {name.split(".")[0] for name in groups[3]} == {"head"}
    rates = layerwise_parameters(model, 1.0, decay=0.5, weight_decay=0.1)
    assert sum(len(group["params"]) for group in rates) == len(list(model.parameters()))
    by_rate = {group["lr"]: set(map(id, group["params"])) for group in rates if group["weight_decay"]}
    assert id(model.head.out.weight) in by_rate[1.0] and id(model.encoder.embed.tokens.weight) in by_rate[0.125]
    assert all(p.ndim == 1 for group in rates if not group["weight_decay"] for p in group["params"])
    torch.optim.AdamW(rates).step()


def test_layers_thaw_from_the_head_down() -> None:
    model = tiny("gpt2", AutoModelForSequenceClassification)
    seen = []
    for count in gradual_unfreezing(model):
        learning = {name for name, p in model.named_parameters() if p.requires_grad}
        assert count == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0
        seen.append(learning)
    assert all(a < b for a, b in pairwise(seen)) and seen[-1] == set(dict(model.named_parameters()))
    assert any(name.startswith("head") for name in seen[0]) and not any(".layers." in name for name in seen[0])
    assert freeze_to(model, 0) == 0
    assert layerwise_parameters(model, 1.0) == []


def test_encoder_and_decoder_are_one_column() -> None:
    model = AutoModel.from_config(Config("t5", d_model=8, d_kv=4, d_ff=8, num_layers=2, num_decoder_layers=3, num_heads=2, vocab_size=50))
    assert len(layer_groups(model)) == 1 + 2 + 3 + 1
    with pytest.raises(InputError, match="has no encoder"):
        layer_groups(nn.Linear(2, 2))


def test_slanted_triangular_rates() -> None:
    """Howard & Ruder 2018, eq. 3, with T = 100, cut_frac = 0.1, ratio = 32."""
    rates = [slanted_triangular(step, 100, 0.01) for step in range(101)]
    near(rates[0], 0.01 / 32)
    near(rates[5], 0.01 * (1 + 0.5 * 31) / 32)
    near(rates[10], 0.01)
    near(rates[55], 0.01 * (1 + 0.5 * 31) / 32)
    near(rates[100], 0.01 / 32)
    assert max(rates) == rates[10] and slanted_triangular(200, 100, 0.01) == rates[100]
