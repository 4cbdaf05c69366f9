"""Packed weights: bounded rounding, gradients as through the unpacked weight, and adapters trained on top (QLoRA)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hunmin import InputError, LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from hunmin.auto import load
from hunmin.quantize import QuantizedLinear, dequantize_linears, quantize_linears
from hunmin.quantize.tiles import NF4, rounded
from tests.cases import MASK, ROWS, Case, difference
from tests.test_adapters import FIRST, MAIN, TOLERANCE, adapted, answer, base, main

pytestmark = pytest.mark.usefixtures("pytorch")

KINDS = ("int8", "int4", "nf4")
STEP = {"int8": 0.5 / 127, "int4": 0.5 / 7, "nf4": max(b - a for a, b in pairwise(NF4)) / 2}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@pytest.mark.parametrize("shape", [(5, 64), (3, 200), (7, 10), (1, 1)])
def test_rounding_is_bounded(kind: Any, shape: tuple[int, int]) -> None:
    """Each weight moves by at most half a step of its group's scale; the largest of a group, and zero, do not move."""
    weight = torch.randn(shape)
    weight[:, 0] = 0.0
    tiles = rounded(weight, kind)
    groups = -(-shape[1] // tiles.group)
    assert tiles.group == (64 if shape[1] > 32 else 32) and tiles.bits == (8 if kind == "int8" else 4)
    again = tiles.numbers(torch.float32)
    scales = weight.new_zeros(shape[0], groups * tiles.group)
    scales[:, : shape[1]] = weight.abs()
    bound = scales.unflatten(1, (groups, -1)).amax(-1).repeat_interleave(tiles.group, 1)[:, : shape[1]] * (STEP[kind] + 1 / 2048)
    assert bool(((again - weight).abs() <= bound * 1.0001 + 1e-7).all()) and not again[:, 0].any()
    top = weight.abs().argmax(1, keepdim=True)
    assert kind == "nf4" or torch.allclose(again.gather(1, top), weight.gather(1, top), rtol=1e-3)
    assert torch.allclose(rounded(again, kind).numbers(torch.float32), again, rtol=1e-3), "rounded values stay where they are"
    rows = torch.randint(shape[0], (9,))
    assert torch.equal(tiles.numbers(torch.float32, rows), again[rows])


def test_nf4_is_finer_than_int4_where_weights_are_normal() -> None:
    weight = torch.randn(64, 512)
    error = {kind: (rounded(weight, kind).numbers(torch.float32) - weight).square().mean().item() for kind in KINDS}
    assert error["int8"] < error["nf4"] / 50 and error["nf4"] < 0.85 * error["int4"]


@kinds
def test_gradients_and_what_is_kept_for_them(kind: Any) -> None:
    """As through an ordinary layer with the unpacked weight; only the packed one is kept."""
    layer = nn.Linear(200, 30)
    packed = QuantizedLinear(rounded(layer.weight.detach(), kind), layer.bias)
    x = torch.randn(4, 7, 200, requires_grad=True)
    y = torch.randn(4, 7, 30)
    plain = nn.functional.linear(x, packed.weight, layer.bias)
    assert difference(packed(x), plain) <= TOLERANCE
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = packed(x)
    assert sum(t.numel() * t.element_size() for t in kept) < layer.weight.numel() * 4 / 2
    (want,) = torch.autograd.grad((plain * y).sum(), x)
    assert difference(torch.autograd.grad((out * y).sum(), x)[0], want) <= TOLERANCE
    half = packed(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and difference(half.float(), plain) < 0.05


@main
def test_a_quantized_base_is_close_and_trains(case: Case, task: str, tmp_path: Path) -> None:
    model = base(case, task, tmp_path)
    before, size = answer(model, case, task), sum(p.numel() for p in model.parameters())
    names = quantize_linears(model, bits=8)
    assert names and all(isinstance(model.get_submodule(n), QuantizedLinear) for n in names)
    assert not any(n.startswith("head") for n in names) and sum(p.numel() for p in model.parameters()) < size
    with torch.inference_mode():  # what it leaves in memory must not hinder training
        assert difference(answer(model, case, task), before) < 0.05
    prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
    assert all(side.stack.recompute for side in (model.encoder, model.decoder) if side is not None)
    peft = get_peft_model(model, LoraConfig(target_modules="all-linear", r=2))
    labels = {"SequenceClassification": torch.tensor([1, 0]), "Seq2SeqLM": ROWS}.get(task, ROWS)
    peft.train()(ROWS, MASK, labels=labels).loss.backward()
    assert {n.rpartition(".")[2] for n, p in peft.named_parameters() if p.grad is not None} >= {"lora_A", "lora_B"}


def test_what_is_not_packed_is_in_fp32(tmp_path: Path) -> None:
    """Preparing a 16-bit model for training changes the precision that it computes in, not its packed weights."""
    case, task = FIRST["llama"], "CausalLM"
    model = base(case, task, tmp_path).to(torch.bfloat16)
    quantize_linears(model, bits=8)
    low = answer(model, case, task)
    prepare_model_for_kbit_training(model)
    assert low.dtype == torch.bfloat16 and {p.dtype for p in model.parameters()} == {torch.float32}
    seen: set[torch.dtype] = set()
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear):
            layer.register_forward_hook(lambda m, args, y: seen.update((args[0].dtype, y.dtype)))
    assert difference(low.float(), answer(model, case, task)) < 0.05 and seen == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"init_lora_weights": "pissa"}], ids=["lora", "dora", "pissa"])
@kinds
def test_an_adapter_on_a_quantized_base_travels(kind: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """Saved and loaded; merged once the base is unpacked."""
    case, task = FIRST["llama"], "CausalLM"
    model = base(case, task, tmp_path / "base")
    quantize_linears(model, kind=kind)
    peft = get_peft_model(model, LoraConfig(r=3, **options))
    fresh = answer(model, case, task)
    assert torch.equal(answer(peft, case, task), fresh)
    for n, p in peft.named_parameters():
        p.data += 0.1 * torch.randn_like(p) if n.startswith("adapters") else 0.0
    want = answer(peft, case, task)
    peft.save_pretrained(tmp_path / "adapter")
    other = load(tmp_path / "base", task)
    quantize_linears(other, kind=kind)
    assert difference(answer(PeftModel.from_pretrained(other, tmp_path / "adapter"), case, task), want) <= TOLERANCE
    with pytest.raises(InputError, match="is quantized"):
        peft.merge_adapter()
    assert torch.equal(answer(peft, case, task), want)
    assert dequantize_linears(model)
    assert difference(answer(peft, case, task), want) <= TOLERANCE
    assert difference(answer(peft.merge_and_unload(), case, task), want) <= TOLERANCE


def test_bad_requests(tmp_path: Path) -> None:
    case, task = MAIN[0]
    peft = adapted(case, task, tmp_path)
    with pytest.raises(InputError, match="bits is 4 or 8"):
        quantize_linears(peft.base_model, bits=3)
    with pytest.raises(InputError, match="Quantize first"):
        quantize_linears(peft.base_model)
    model = base(case, task, tmp_path)
    quantize_linears(model)
    with pytest.raises(InputError, match="is quantized and cannot be trained whole"):
        get_peft_model(model, LoraConfig(modules_to_save=["q"]))
    want = answer(model, case, task)
    model.save_pretrained(tmp_path / "out")
    again = load(tmp_path / "out", task)
    assert torch.equal(answer(again, case, task), want)
