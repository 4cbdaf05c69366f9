"""GPTQ and AWQ: products stay closer than by rounding to nearest, and folding the scales of AWQ changes nothing before rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hunmin import AwqConfig, GPTQConfig, InputError
from hunmin.adapters import freeze
from hunmin.auto import load
from hunmin.fidelity import check_of, measure
from hunmin.quantization import rows
from hunmin.quantize import Packed, QuantizedLinear, awq, gptq
from hunmin.quantize.calibrate import Inputs, quantize
from hunmin.quantize.plan import Plan
from hunmin.quantize.rounding import fitted
from hunmin.quantize.tiles import Tiles, rounded
from tests.cases import CASES, Case
from tests.test_adapters import FIRST, MAIN, answer, main
from tests.test_parity import write

TEXTS = [torch.randint(4, 99, (1, 24), generator=torch.Generator().manual_seed(i)) for i in range(6)]


def off(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def correlated(count: int, width: int) -> Tensor:
    """Inputs as layers see them: a few directions, and some columns far larger than others."""
    torch.manual_seed(0)
    return (torch.randn(count, 12) @ torch.randn(12, width) + 0.3 * torch.randn(count, width)) * torch.exp(torch.randn(width))


# -------------------------------------------------------------- GPTQ


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("bits", "symmetric"), [(4, False), (4, True), (8, True)])
@pytest.mark.parametrize(("width", "group"), [(96, 32), (200, 64), (320, 128), (160, 512)])
def test_products_are_closer_than_by_rounding(width: int, group: int, bits: int, symmetric: bool, act_order: bool) -> None:
    x = correlated(600, width)
    weight, fresh = torch.randn(40, width), correlated(600, width)[:300]  # so many rows are not rounded
    tiles = gptq.solve(weight, x.T @ x / len(x), bits, group, symmetric=symmetric, act_order=act_order)
    near = rounded(weight, "int8", group) if bits == 8 else fitted(weight, group, symmetric=symmetric)
    want = fresh @ weight.T
    assert tiles.bits == bits and (tiles.mins is None) == (symmetric or bits == 8) and (tiles.order is not None) == act_order
    assert off(fresh @ tiles.numbers(torch.float32).T, want) < 0.7 * off(fresh @ near.numbers(torch.float32).T, want)
    with torch.no_grad():
        layer = QuantizedLinear(tiles, round_inputs=True)
        assert off(layer(fresh[:3]), fresh[:3] @ tiles.numbers(torch.float32).T) < 0.02
        layer.round_inputs = False
        assert off(layer(fresh), fresh @ tiles.numbers(torch.float32).T) < 1e-5


def test_independent_inputs_leave_nothing_to_make_up_for() -> None:
    """With H a multiple of one, columns are rounded on their own; those that nothing ever reaches are rounded too."""
    weight = torch.randn(24, 64)
    same = gptq.solve(weight, 3 * torch.eye(64), 8, 32)
    assert torch.allclose(same.numbers(torch.float32), rounded(weight, "int8", 32).numbers(torch.float32), atol=1e-6)
    dead = torch.eye(64)
    dead[5, 5] = 0
    assert torch.isfinite(gptq.solve(weight, dead, 4, 32).numbers(torch.float32)).all()
    flat = torch.ones(64, 64)  # of rank one: damping makes it invertible
    assert off(gptq.solve(weight, flat, 4, 32).numbers(torch.float32).sum(1), weight.sum(1)) < 0.05
    with pytest.raises(InputError, match="not finite"):
        gptq.solve(weight, torch.full((64, 64), torch.nan), 4, 32)


# -------------------------------------------------------------- AWQ


@pytest.mark.parametrize(
    ("case", "task"), [(c, t) for c in CASES for t in c.tasks[:1] if c.name != "scaled"], ids=lambda v: getattr(v, "id", v)
)
def test_folding_changes_nothing(case: Case, task: str, tmp_path: Path) -> None:
    """In any architecture: what is scaled up here is divided there."""
    write(case, task, tmp_path)
    model = load(tmp_path, task)
    want, before = answer(model, case, task), {n: p.clone() for n, p in model.named_parameters()}
    for backbone in filter(None, (model.encoder, model.decoder)):
        for layer in backbone.stack.layers:
            inputs = dict[str, Inputs]()
            for name, linear in layer.named_modules():
                if isinstance(linear, nn.Linear):
                    inputs[name] = Inputs(linear.in_features, False)
                    inputs[name].add(correlated(50, linear.in_features))
            with torch.no_grad():
                awq.scale(layer, inputs, 32)
    assert off(answer(model, case, task), want) < 2e-4
    changed = {n.rpartition(".")[0].rpartition(".")[2] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {"v", "o"} <= changed or case.model_type == "deberta-v2"
    if case.model_type in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"):
        assert {"q", "attn_norm", "gate", "up", "down", "ffn_norm"} <= changed


def test_scales_help_where_columns_differ(tmp_path: Path) -> None:
    """A pair of layers whose input has a few large columns: the rounded product comes closer."""
    write(FIRST["llama"], "CausalLM", tmp_path)
    error = dict[bool, float]()
    for scaled in (False, True):
        layer = load(tmp_path, "CausalLM").decoder.stack.layers[0]
        torch.manual_seed(0)
        with torch.no_grad():
            layer.attn_norm.weight.copy_(torch.exp(2 * torch.randn(32)))
            hidden = torch.randn(64, 32)
            seen = layer.attn_norm(hidden)
            want = seen @ torch.cat([layer.attn.q.weight, layer.attn.k.weight, layer.attn.v.weight]).T
            if scaled:
                inputs = {f"attn.{n}": Inputs(32, False) for n in "qkv"}
                for found in inputs.values():
                    found.add(seen)
                awq.scale(layer, inputs, 32)
            weights = [fitted(w, 32).numbers(torch.float32) for w in (layer.attn.q.weight, layer.attn.k.weight, layer.attn.v.weight)]
            error[scaled] = off(layer.attn_norm(hidden) @ torch.cat(weights).T, want)
    assert error[True] < 0.9 * error[False]


# -------------------------------------------------------------- whole models


@main
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_every_architecture_is_calibrated(case: Case, task: str, method: Any, tmp_path: Path) -> None:
    write(case, task, tmp_path / "a")
    model = load(tmp_path / "a", task)
    want, count = answer(model, case, task), sum(isinstance(m, nn.Linear) for m in model.modules())
    names = quantize(model, Plan("int4"), method, TEXTS[:3])
    assert len(names) == len(set(names)) and count - 2 <= len([n for n in names if not n.endswith("tokens")]) <= count
    assert off(answer(model, case, task), want) < 0.6
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())  # pyright: ignore[reportPrivateUsage]
    model.save_pretrained(tmp_path / "b")
    assert torch.equal(answer(load(tmp_path / "b", task), case, task), answer(model, case, task))


def test_later_layers_make_up_for_earlier_ones(tmp_path: Path) -> None:
    """On its own texts GPTQ comes closer to the original's output than rounding to nearest."""
    write(FIRST["qwen2"], "CausalLM", tmp_path)
    error = dict[str, float]()
    texts = [torch.randint(4, 20, (1, 32), generator=torch.Generator().manual_seed(i)) for i in range(40)]
    for method in ("rtn", "gptq"):
        plain, model = load(tmp_path, "CausalLM"), load(tmp_path, "CausalLM")
        quantize(model, Plan("int4", symmetric=True, whole=False), method, texts if method == "gptq" else ())  # type: ignore[arg-type]
        for layer in model.modules():
            if isinstance(layer, QuantizedLinear):
                layer.round_inputs = False
        with torch.no_grad():
            error[method] = sum(off(model(ids).logits, plain(ids).logits) for ids in texts[:10])
    assert error["gptq"] < 0.85 * error["rtn"]


def _tokenizer(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
    assert not add_special_tokens
    return {"input_ids": [4 + ord(c) % 90 for c in text]}


@pytest.mark.parametrize("config", [GPTQConfig(group_size=32, desc_act=True), GPTQConfig(bits=8, group_size=-1), AwqConfig(group_size=32)])
def test_calibrated_while_loading(config: Any, tmp_path: Path) -> None:
    write(FIRST["llama"], "CausalLM", tmp_path)
    config.dataset, config.tokenizer = ["the quick brown fox " * 200], _tokenizer
    model = load(tmp_path, "CausalLM", quantization_config=config, max_position_embeddings=512)
    inner = [m for n, m in model.named_modules() if isinstance(m, QuantizedLinear) and "stack" in n]
    assert {m.tiles.bits for m in inner} == {config.bits} and off(answer(model, FIRST["llama"], "CausalLM"), answer(
        load(tmp_path, "CausalLM"), FIRST["llama"], "CausalLM")) < 0.5  # fmt: skip
    assert all((m.order is not None) == getattr(config, "desc_act", False) for m in inner)


def test_bad_requests(tmp_path: Path) -> None:
    write(FIRST["llama"], "CausalLM", tmp_path)
    model = load(tmp_path, "CausalLM")
    for plan, method, texts, said in (
        (Plan("int4"), "gptq", (), "gptq needs calibration texts"),
        (Plan("int4"), "magic", TEXTS, "method 'magic' is unknown"),
        (Plan("nf4"), "awq", TEXTS, "awq rounds to int8 or int4"),
    ):
        with pytest.raises(InputError, match=said):
            quantize(model, plan, method, texts)  # type: ignore[arg-type]
    assert not any(isinstance(m, Packed) for m in model.modules())
    with pytest.raises(InputError, match="no text file"):
        rows(tmp_path / "none.txt", _tokenizer)
    with pytest.raises(InputError, match="fewer than two tokens"):
        rows(["a"], _tokenizer)
    with pytest.raises(InputError, match="are strings"):
        rows([3], _tokenizer)
    freeze(model)
    assert quantize(model, Plan("int8"))


# -------------------------------------------------------------- the accuracy check


def test_what_is_measured(tmp_path: Path) -> None:
    write(FIRST["llama"], "CausalLM", tmp_path / "a")
    model = load(tmp_path / "a", "CausalLM")
    check = check_of(model, _tokenizer)
    before = measure(model, check)
    with torch.no_grad():
        losses = [model(ids, labels=ids).loss * (ids.shape[1] - 1) for ids in check.ids]
    total = torch.stack(losses).sum() / sum(ids.shape[1] - 1 for ids in check.ids)
    assert before.perplexity == pytest.approx(total.exp().item(), rel=1e-5) and before.cosine(before) == pytest.approx(1, abs=1e-5)
    quantize(model, Plan("int8"))
    assert 0.9 < measure(model, check).cosine(before) < 0.99999


def test_a_classifier_is_measured_on_labelled_rows(tmp_path: Path) -> None:
    case, task = next((c, t) for c, t in MAIN if c.model_type == "bert")
    write(case, task, tmp_path / "a")
    model = load(tmp_path / "a", task)

    class Fake:
        def __call__(self, text: str, **options: Any) -> dict[str, Any]:
            ids = [4 + ord(c) % 90 for c in text]
            return {"input_ids": torch.tensor([ids]) if options.get("return_tensors") else ids}

    texts = ["abc", "hello there", "zyx", "korea"]
    with torch.no_grad():
        said = [model.config.id2label[int(model(Fake()(t, return_tensors="pt")["input_ids"]).logits.argmax())] for t in texts]
    said[0] = next(label for label in model.config.label2id if label != said[0])
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in zip(texts, said, strict=True)))
    assert measure(model, check_of(model, Fake(), file)).accuracy == 0.75
    for content, message in (("text,label\na,other\n", "'other' is none of"), ("word,label\na,b\n", "text and label")):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            check_of(model, Fake(), file)
    write(FIRST["llama"], "CausalLM", tmp_path / "b")
    other = load(tmp_path / "b", "CausalLM")
    with pytest.raises(InputError, match="check a classifier"):
        check_of(other, _tokenizer, file)


def test_tiles_in_another_order_stand_for_the_same_numbers() -> None:
    weight, order = torch.randn(20, 64), torch.randperm(64)
    plain = rounded(weight, "int8", 64)
    turned = rounded(weight[:, order], "int8", 64)
    again = Tiles(turned.codes, turned.scales, None, turned.shape, turned.zero, False, order)
    assert torch.equal(again.numbers(torch.float32), plain.numbers(torch.float32))
