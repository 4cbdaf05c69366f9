"""Log-probabilities of tokens: against a full softmax, packed and padded, with gradients of every kind of head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hunmin
from hunmin import AutoConfig, AutoModelForCausalLM, InputError, LoraConfig, get_peft_model
from hunmin.align.logprobs import hidden_states, pack, score
from hunmin.align.reward import rewards_of
from tests.train_cases import LLAMA, make, rows


class Foreign(torch.nn.Module):
    """Somebody else's model: masks in, logits out."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.inner(input_ids, attention_mask=attention_mask)


def some(count: int = 5, untied: bool = False) -> tuple[Any, list[dict[str, Any]]]:
    data = rows("causal", count)
    for i, row in enumerate(data):
        row["labels"] = [-100] * (i % 3) + row["labels"][i % 3 :]
    return make("causal", tie_word_embeddings=not untied), data


def by_hand(model: Any, data: list[dict[str, Any]], temperature: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities and entropies, a sequence at a time, from all logits."""
    found, entropies = list[Tensor](), list[Tensor]()
    for row in data:
        logp = (model(torch.tensor([row["input_ids"]])).logits[0, :-1] / temperature).log_softmax(-1)
        target = torch.tensor(row["labels"][1:])
        known = target != -100
        found.append(logp[known].gather(1, target[known][:, None])[:, 0])
        entropies.append(-(logp.exp() * logp).sum(-1)[known])
    return found, entropies


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize("foreign", [False, True])
def test_scores_are_those_of_a_full_softmax(chunk: int | None, foreign: bool) -> None:
    model, data = some()
    used = Foreign(model) if foreign else model
    batch = pack(data, used)
    assert ("where" in batch) is not foreign
    found = score(used, batch, temperature=0.7, entropy=True, chunk=chunk)
    wanted, entropies = by_hand(model, data, 0.7)
    assert found.rows == len(data)
    torch.testing.assert_close(found.logprobs, torch.cat(wanted))
    torch.testing.assert_close(found.entropy, torch.cat(entropies))
    torch.testing.assert_close(found.sums(), torch.stack([w.sum() for w in wanted]))
    torch.testing.assert_close(found.means(), torch.stack([w.mean() for w in wanted]))
    assert [len(part) for part in found.split()] == [len(w) for w in wanted]


@pytest.mark.parametrize("head", ["tied", "untied", "frozen", "lora", "lora on the head"])
@pytest.mark.parametrize("entropy", [False, "learn"])
def test_gradients_are_those_of_a_full_softmax(head: str, entropy: Any) -> None:
    model, data = some(untied=head != "tied")
    weights = torch.randn(len(data))
    if head == "frozen":
        model.head.requires_grad_(False)
    if head.startswith("lora"):
        targets = ["q_proj", "v_proj"] + (["lm_head"] if "head" in head else [])
        model = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights="gaussian"))
        for name, p in model.named_parameters():
            if p.requires_grad and name.endswith("b"):
                torch.nn.init.normal_(p)
    learnt = [p for p in model.parameters() if p.requires_grad]
    found = score(model, pack(data), entropy=entropy, chunk=6)
    loss = (found.sums() * weights).sum()
    wanted, entropies = by_hand(model, data)
    full = sum((w.sum() * f for w, f in zip(wanted, weights, strict=True)), torch.zeros(()))
    if entropy:
        assert found.entropy is not None
        loss, full = loss + (found.entropy**2).sum(), full + (torch.cat(entropies) ** 2).sum()
    for a, b in zip(torch.autograd.grad(loss, learnt), torch.autograd.grad(full, learnt), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_measured_entropies_pass_no_gradients() -> None:
    model, data = some()
    found = score(model, pack(data), entropy=True)
    assert found.entropy is not None and not found.entropy.requires_grad and found.logprobs.requires_grad
    with torch.no_grad():
        assert not score(model, pack(data)).logprobs.requires_grad


def test_left_padding_does_not_predict_the_first_token() -> None:
    model, data = some(2)
    ids = data[0]["input_ids"]
    batch = {"input_ids": torch.tensor([[0, 0, *ids]]), "attention_mask": torch.tensor([[0, 0, *[1] * len(ids)]])}
    found = score(model, batch | {"labels": torch.tensor([[-100, -100, *ids]])})
    torch.testing.assert_close(found.logprobs, by_hand(model, [{"input_ids": ids, "labels": ids}])[0][0])


def test_hidden_states_can_be_given_and_virtual_tokens_are_left_out() -> None:
    from hunmin import PromptTuningConfig

    model, data = some()
    batch = pack(data)
    given = score(model, batch, hidden=hidden_states(model, batch))
    torch.testing.assert_close(given.logprobs, score(model, batch).logprobs)
    prompted = get_peft_model(model, PromptTuningConfig(num_virtual_tokens=3))
    batch = pack(data, prompted)
    assert "attention_mask" in batch
    found = score(prompted, batch)
    logits = prompted(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 3:]
    target = batch["labels"][:, 1:]
    known = target != -100
    logp = logits[:, :-1][known].log_softmax(-1)
    torch.testing.assert_close(found.logprobs, logp.gather(1, target[known][:, None])[:, 0])


def test_a_batch_without_labels_scores_nothing() -> None:
    model, data = some()
    found = score(model, pack([row | {"labels": [-100] * len(row["labels"])} for row in data]), entropy=True)
    assert found.logprobs.shape == (0,) and found.sums().tolist() == [0.0] * len(data)
    found.sums().sum().backward()


class Largest(TorchDispatchMode):
    """The most numbers that one tensor holds."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            self.size = max(self.size, value.numel() if isinstance(value, Tensor) else 0)
        return out


@pytest.mark.parametrize("frozen", [False, True])
def test_no_tensor_holds_the_logits_of_all_tokens(frozen: bool) -> None:
    model, data = make("causal", vocab_size=3000), rows("causal", 40)
    if frozen:
        model.head.requires_grad_(False)
    batch = pack(data)
    with Largest() as seen:
        score(model, batch, entropy=True, chunk=8).sums().sum().backward()
    assert seen.size <= 3000 * 32  # the head itself
    assert batch["input_ids"].numel() * 3000 > 3 * seen.size


def test_bad_rows_are_refused() -> None:
    with pytest.raises(InputError, match="without tokens"):
        pack([{"input_ids": [], "labels": []}])
    with pytest.raises(InputError, match="needs a label"):
        pack([{"input_ids": [1, 2], "labels": [1]}])


def alike() -> list[dict[str, Any]]:
    """Answers to three prompts, of which one is the beginning of another; and an answer that is the beginning of another."""
    prompts, out = [[1, 7, 8, 9, 10, 11, 12], [1, 7, 8, 9], [1, 20, 21, 22]], list[dict[str, Any]]()
    for i, answer in ((0, [30, 31]), (1, [40, 41, 42]), (0, [30, 31, 32, 2]), (2, [50]), (0, [33]), (2, [50])):
        out.append({"input_ids": prompts[i] + answer, "labels": [-100] * len(prompts[i]) + answer})
    return out


@pytest.mark.parametrize("kind", ["llama", "window", "gpt2", "dynamic"])
def test_equal_beginnings_are_computed_once(kind: str) -> None:
    settings: dict[str, Any] = {"dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}}.get(kind, {})
    model, data = make("causal", **settings), alike()
    if kind in ("window", "gpt2"):
        own = {"gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}, "window": LLAMA | {"sliding_window": 4}}[kind]
        config = AutoConfig.for_model("mistral" if kind == "window" else kind, **{"vocab_size": 60, **own})
        model = AutoModelForCausalLM.from_config(config)
    model.eval()
    seen, batch = list[int](), pack(data)
    model.get_input_embeddings().register_forward_hook(lambda _, args, y: seen.append(args[0].numel()))
    found = score(model, batch)
    weights = torch.randn(len(data))
    (found.sums() * weights).sum().backward()
    got = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    assert seen == [batch["input_ids"].numel() if kind == "dynamic" else 7 + 4 + 3 + 1 + 3 + 1]
    wanted, _ = by_hand(model, data)
    torch.testing.assert_close(found.logprobs, torch.cat(wanted))
    torch.stack([w.sum() for w in wanted]).mul(weights).sum().backward()
    torch.testing.assert_close(got, [p.grad for p in model.parameters() if p.grad is not None])


def test_rewards_of_equal_beginnings() -> None:
    for task in ("SequenceClassification", "TokenClassification"):
        torch.manual_seed(0)
        model = getattr(hunmin, f"AutoModelFor{task}").from_config(AutoConfig.for_model("llama", **LLAMA, num_labels=1, pad_token_id=0))
        model.eval()
        data = alike()
        together = rewards_of(model, pack(data))
        alone = torch.cat([rewards_of(model, pack([row])) for row in data])
        torch.testing.assert_close(together, alone)
