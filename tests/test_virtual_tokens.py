"""Prompts and prefixes: each row is on its own, and generation with them reads the same as one full pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hunmin import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from hunmin.auto import load
from hunmin.nn.cache import Cache
from tests.cases import MASK, ROWS, TARGET, Case, difference
from tests.test_adapters import FIRST, TOLERANCE, base, shaken

pytestmark = pytest.mark.usefixtures("pytorch")

KINDS: dict[str, Any] = {"prompt": PromptTuningConfig(num_virtual_tokens=4), "prefix": PrefixTuningConfig(num_virtual_tokens=4)}
kinds = pytest.mark.parametrize("kind", KINDS)
DECODERS = [name for name, case in FIRST.items() if "CausalLM" in case.tasks]
PAIRS2 = [name for name, case in FIRST.items() if "Seq2SeqLM" in case.tasks]
ENCODERS = [name for name, case in FIRST.items() if "MaskedLM" in case.tasks and name != "deberta-v2"]
LENGTHS = MASK.sum(-1).tolist()


def virtual(case: Case, task: str, kind: str, folder: Path) -> PeftModel:
    return shaken(get_peft_model(base(case, task, folder), replace(KINDS[kind])))


def text(out: Any, n: int) -> Tensor:
    """The logits of the last ``n`` tokens: those of a prompt stand before them."""
    return out.logits[:, -n:]


@kinds
@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_row_does_not_depend_on_its_neighbours(name: str, kind: str, tmp_path: Path) -> None:
    """Padded on the right, on the left, or alone."""
    case = FIRST[name]
    peft = virtual(case, "CausalLM" if name in DECODERS else "MaskedLM", kind, tmp_path)
    n = LENGTHS[1]
    left, left_mask = (torch.stack([t[0], t[1].roll(t.shape[1] - n)]) for t in (ROWS, MASK))
    with torch.no_grad():
        right = text(peft(ROWS, MASK), ROWS.shape[1])
        turned = text(peft(left, left_mask), ROWS.shape[1])
        alone = text(peft(ROWS[1:, :n]), n)[0]
        plain = peft.base_model(ROWS, MASK).logits
    assert difference(right[1, :n], alone) <= TOLERANCE and difference(turned[1, -n:], alone) <= TOLERANCE
    assert difference(turned[0], right[0]) <= TOLERANCE
    assert difference(plain[0], right[0]) > 1e-3, "it acts"


@kinds
@pytest.mark.parametrize("name", DECODERS)
def test_cached_equals_full(name: str, kind: str, tmp_path: Path) -> None:
    peft, ids = virtual(FIRST[name], "CausalLM", kind, tmp_path), ROWS[:1]
    with torch.no_grad():
        whole, cache = text(peft(ids), ids.shape[1]), Cache()
        steps = [peft(ids[:, :3], past_key_values=cache).logits[:, -1]]
        steps += [peft(ids[:, i : i + 1], past_key_values=cache).logits[:, -1] for i in range(3, ids.shape[1])]
    assert cache.length == 4 + ids.shape[1]
    assert difference(torch.stack(steps, 1), whole[:, 2:]) <= TOLERANCE


@kinds
@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 3}], ids=["cached", "uncached", "beams"])
@pytest.mark.parametrize("name", [*DECODERS, *PAIRS2])
def test_generation(name: str, options: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """A batch of unequal rows gives what each gives alone; greedy search what step after step of full passes gives."""
    task = "CausalLM" if name in DECODERS else "Seq2SeqLM"
    peft = virtual(FIRST[name], task, kind, tmp_path)
    settings: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "forced_eos_token_id": None, **options}
    got = peft.generate(ROWS, attention_mask=MASK, **settings)
    assert got.shape == (2, (ROWS.shape[1] if task == "CausalLM" else 1) + 5)
    for i, n in enumerate(LENGTHS):
        alone = peft.generate(ROWS[i : i + 1, :n], **settings)[0]
        assert got[i, -5:].tolist() == alone[-5:].tolist()
    if "num_beams" in options:
        return
    ids = ROWS[:1] if task == "CausalLM" else got[:1, :1]
    with torch.no_grad():
        for step in range(5):
            out = peft(ids) if task == "CausalLM" else peft(ROWS[:1], decoder_input_ids=ids)
            scores = out.logits[0, -1].clone()
            scores[2] = float("-inf")  # the end is held off by min_new_tokens
            assert scores.argmax().item() == got[0, got.shape[1] - 5 + step]
            ids = torch.cat([ids, got[:1, got.shape[1] - 5 + step].view(1, 1)], 1)


@kinds
def test_labels(kind: str, tmp_path: Path) -> None:
    """The loss counts the text alone, and through an encoder-decoder the target."""
    peft = virtual(FIRST["gpt2"], "CausalLM", kind, tmp_path)
    out = peft(ROWS[:1], labels=ROWS[:1])
    logits = text(out, ROWS.shape[1])[0]
    first = out.logits[0, -ROWS.shape[1] - 1] if kind == "prompt" else None  # the prompt's last token predicts the first
    scores, labels = (logits[:-1], ROWS[0, 1:]) if first is None else (torch.cat([first[None], logits[:-1]]), ROWS[0])
    assert out.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(scores, labels).item(), rel=1e-5)
    both = virtual(FIRST["t5"], "Seq2SeqLM", kind, tmp_path)
    told = both(ROWS, MASK, labels=TARGET)
    again = both(ROWS, MASK, decoder_input_ids=both.shift_right(TARGET))
    assert told.logits.shape == (2, TARGET.shape[1], 99) and torch.equal(told.logits, again.logits)


@kinds
@pytest.mark.parametrize("name", ["gpt2", "t5", "bert", "gemma2", "bart"])
def test_saved_and_loaded(name: str, kind: str, tmp_path: Path) -> None:
    task = "CausalLM" if name in DECODERS else "Seq2SeqLM" if name in PAIRS2 else "SequenceClassification"
    peft = virtual(FIRST[name], task, kind, tmp_path / "base")
    peft.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(tmp_path / "base", task), tmp_path / "adapter")
    more = {"decoder_input_ids": TARGET} if task == "Seq2SeqLM" else {}
    with torch.no_grad():
        assert difference(again(ROWS, MASK, **more).logits, peft(ROWS, MASK, **more).logits) <= TOLERANCE
        with again.disable_adapter():
            assert torch.equal(again(ROWS, MASK, **more).logits, again.base_model(ROWS, MASK, **more).logits)


def test_a_prompt_starts_from_words(tmp_path: Path) -> None:
    """From the vocabulary, or from a text that its tokenizer reads, repeated as often as needed."""
    model = base(FIRST["gpt2"], "CausalLM", tmp_path)
    table = model.get_input_embeddings().weight
    peft = get_peft_model(model, PromptTuningConfig(num_virtual_tokens=3, prompt_tuning_init="SAMPLE_VOCAB"))
    rows: Any = peft.virtual["default"].table
    assert all(bool((table == row).all(-1).any()) for row in rows)


@kinds
def test_virtual_tokens_with_adapters_of_layers(kind: str, tmp_path: Path) -> None:
    """A prompt and a LoRA act together; switching one off leaves the other."""
    from hunmin import LoraConfig

    peft = virtual(FIRST["llama"], "CausalLM", kind, tmp_path)
    peft.add_adapter("lora", LoraConfig(init_lora_weights=False))
    with torch.no_grad():
        outs = []
        for names in ("default", "lora", ["default", "lora"]):
            peft.set_adapter(names)
            outs.append(text(peft(ROWS, MASK), 9))
        peft.merge_adapter(["lora"])
        assert difference(text(peft(ROWS, MASK), 9), outs[2]) <= TOLERANCE, "the virtual tokens act beside merged weights"
        peft.unmerge_adapter()
    assert all(difference(a, b) > 1e-3 for i, a in enumerate(outs) for b in outs[:i])
    assert {n.split(".")[0] for n, p in peft.named_parameters() if p.requires_grad} == {"adapters", "virtual"}
