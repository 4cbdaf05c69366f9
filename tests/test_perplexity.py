"""Perplexity of a text: what it equals, whatever the windows, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import hunmin
from hunmin.errors import InputError
from hunmin.train.perplexity import text_perplexity

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = torch.randint(50, (77,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def model() -> hunmin.PreTrainedModel:
    torch.manual_seed(0)
    return hunmin.AutoModelForCausalLM.from_config(hunmin.AutoConfig.for_model("llama", num_key_value_heads=1, **SIZES)).eval()


@pytest.mark.parametrize("window", [2, 7, 19, 76, 77, 500])
def test_it_is_the_mean_over_windows_read_one_by_one(model: hunmin.PreTrainedModel, window: int) -> None:
    losses = list[torch.Tensor]()
    for i in range(0, len(IDS), window):
        part = torch.tensor([IDS[i : i + window]])
        with torch.inference_mode():
            losses += F.cross_entropy(model(part).logits[0, :-1], part[0, 1:], reduction="none")
    found = text_perplexity(model, IDS, window=window)
    assert found["tokens"] == len(losses) == len(IDS) - math.ceil(len(IDS) / window)
    assert found["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


def test_it_does_not_depend_on_how_many_windows_go_through_at_once(model: hunmin.PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    together = text_perplexity(model, IDS, window=7)
    monkeypatch.setattr("hunmin.train.perplexity.AT_ONCE", 1)
    assert text_perplexity(model, IDS, window=7)["loss"] == pytest.approx(together["loss"], rel=1e-5)


def test_a_model_that_knows_nothing_has_its_vocabulary(model: hunmin.PreTrainedModel) -> None:
    blank = hunmin.AutoModelForCausalLM.from_config(model.config)
    torch.nn.init.zeros_(blank.get_output_embeddings().weight)
    blank.train()
    assert text_perplexity(blank, IDS)["perplexity"] == pytest.approx(50, rel=1e-5)
    assert blank.training


@pytest.mark.parametrize(("ids", "window"), [([], 8), ([3], 8), ([3, 4], 1), ([3, 4], 0), ([3, 4], -2)])
def test_it_refuses_texts_and_windows_without_a_prediction(model: hunmin.PreTrainedModel, ids: list[int], window: int) -> None:
    with pytest.raises(InputError, match="two tokens or more"):
        text_perplexity(model, ids, window=window)


def test_it_refuses_another_task() -> None:
    config = hunmin.AutoConfig.for_model("bert", **SIZES)
    with pytest.raises(InputError, match="MaskedLM"):
        text_perplexity(hunmin.AutoModelForMaskedLM.from_config(config), IDS)
