"""The encoder in C++ beside its PyTorch twin: every architecture with an encoder, every instruction set, every layout of rows."""

from __future__ import annotations

import copy
import gc
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hunmin import AutoConfig, AutoModel
from hunmin.native import ORDER, Library, library
from hunmin.native import encoder as native
from hunmin.nn.attention import Context, Trace
from hunmin.nn.layers import Transformer
from hunmin.nn.linear import Linear
from hunmin.nn.where import Where
from hunmin.quantize import QuantizedLinear, replace
from hunmin.quantize.tiles import Kind, rounded
from tests.cases import CASES, Case, difference

KERNELS = library()
pytestmark = pytest.mark.skipif(KERNELS is None, reason="the kernels are not built: python -m hunmin.native")
LEVELS = ORDER[: ORDER.index(KERNELS.level) + 1] if KERNELS is not None else ()
BEST = LEVELS[-1] if LEVELS else "plain"
STACKS = [case for case in CASES if "Model" in case.tasks or "MaskedLM" in case.tasks or "Seq2SeqLM" in case.tasks]
RAGGED = torch.tensor([[0, 1, 1, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]])  # left, right, holes
PLACES = {
    "plain": lambda: Where.plain(3, 7),
    "one token": lambda: Where.plain(1, 1),
    "padded": lambda: Where.padded(RAGGED),
    "packed": lambda: Where.packed([1, 9, 33, 2, 17, 64, 5]),
    "long": lambda: Where.packed([300, 3]),
}


def stack(case: Case, dtype: torch.dtype = torch.float32) -> Transformer | None:
    """The encoder of a tiny model, with values that make every part count."""
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(AutoConfig.for_model(case.model_type, **case.config)).eval()
    if model.encoder is None:
        return None
    for p in model.encoder.stack.parameters():
        nn.init.normal_(p, 1.0 if p.ndim == 1 else 0.0, 0.2 if p.ndim == 1 else p.shape[-1] ** -0.5)
    return model.encoder.stack.to(dtype)


def forced(monkeypatch: pytest.MonkeyPatch, level: str | None) -> None:
    """Compute with the kernels of a level, or (None) with PyTorch."""
    assert KERNELS is not None
    kernels = None if level is None else Library(KERNELS.handle, level)
    monkeypatch.setattr(native, "_kernels", lambda dtype: kernels)


def both(one: Transformer, x: Tensor, at: Where, level: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor | None, Tensor]:
    """What the kernels and the twin give."""
    with torch.no_grad():
        forced(monkeypatch, level)
        got = native.encode(one, x, at, Context())
        forced(monkeypatch, None)
        return got, one(x, at, Context())


ENCODERS = [case for case in STACKS if case.model_type != "deberta-v2" and stack(case) is not None]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", ENCODERS, ids=lambda case: case.id)
def test_every_encoder_equals_its_twin_in_every_layout(case: Case, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stack(case)
    assert one is not None
    for make in PLACES.values():
        at = make()
        x = torch.randn(*at.shape, one.spec.width)
        got, want = both(one, x, at, level, monkeypatch)
        assert got is not None and difference(got, want) <= 5e-6


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", ENCODERS, ids=lambda case: case.id)
def test_bfloat16_is_as_near_to_fp32_as_the_twin(case: Case, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stack(case, torch.bfloat16)
    assert one is not None
    exact = copy.deepcopy(one).float()
    for make in PLACES.values():
        at = make()
        x = torch.randn(*at.shape, one.spec.width).bfloat16()
        got, twin = both(one, x, at, level, monkeypatch)
        _, want = both(exact, x.float(), make(), level, monkeypatch)
        assert got is not None and got.dtype == torch.bfloat16
        assert difference(got.float(), want) <= 1.2 * difference(twin.float(), want) + 2e-3


@pytest.mark.parametrize("act", [*native.ACTS, *native.ALIASES])
@pytest.mark.parametrize("level", LEVELS)
def test_every_activation(act: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stack(Case("bert", act, CASES[0].config | {"hidden_act": act, "hidden_size": 36, "intermediate_size": 50}))
    assert one is not None
    got, want = both(one, 3 * torch.randn(1, 40, 36), Where.packed([13, 27]), level, monkeypatch)
    assert got is not None and difference(got, want) <= 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("word", ["int8", "int4"])
@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_quantized_encoders(kind: str, word: Kind, level: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """They compute what their layers do one by one, and that is near the numbers before rounding."""
    found = next(case for case in ENCODERS if case.model_type == kind)
    case = Case(kind, "whole", found.config | ({"d_ff": 64, "d_kv": 16} if kind == "t5" else {"intermediate_size": 64}))
    one, exact = stack(case, dtype), stack(case)
    assert one is not None and exact is not None
    for name, layer in [*one.named_modules()]:
        if isinstance(layer, Linear):
            replace(one, name, QuantizedLinear(rounded(layer.weight.detach(), word, 32), layer.bias, dtype, round_inputs=True).eval())
    x = torch.randn(1, 60, one.spec.width).to(dtype)
    got, twin = both(one, x, Where.packed([25, 35]), level, monkeypatch)
    _, want = both(exact, x.float(), Where.packed([25, 35]), level, monkeypatch)
    assert got is not None and difference(got.float(), want) > 1e-5  # it rounds
    cosine = partial(nn.functional.cosine_similarity, dim=-1)
    if dtype == torch.float32:  # in bfloat16 the twin rounds what passes between layers too
        assert cosine(got, twin).min() > 0.9998
    assert cosine(got.float(), want).min() > (0.995 if word == "int8" else 0.65)
    one.layers[0].ffn.up.codes.add_(1)  # type: ignore[operator, union-attr]
    other, _ = both(one, x, Where.packed([25, 35]), level, monkeypatch)
    assert other is not None and not torch.equal(other, got)


def test_quantized_layers_that_do_not_fill_their_tiles_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stack(Case("bert", "narrow", CASES[0].config | {"hidden_size": 36, "intermediate_size": 50}))
    assert one is not None
    for name, layer in [*one.named_modules()]:
        if isinstance(layer, Linear):
            replace(one, name, QuantizedLinear(rounded(layer.weight.detach(), "int8"), layer.bias, round_inputs=True).eval())
    got, twin = both(one, torch.randn(1, 9, 36), Where.packed([4, 5]), BEST, monkeypatch)
    assert got is None and bool(twin.isfinite().all())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stack(ENCODERS[0])
    assert one is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for lengths in ([7], [70, 200, 3, 129, 64, 65, 1, 90, 300, 12]):
        x = torch.randn(1, sum(lengths), one.spec.width)
        got, want = both(one, x, Where.packed(lengths), BEST, monkeypatch)
        assert got is not None and difference(got, want) <= 5e-6


def test_a_sequence_does_not_depend_on_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stack(ENCODERS[0])
    assert one is not None
    forced(monkeypatch, BEST)
    x = torch.randn(1, 50, one.spec.width)
    with torch.no_grad():
        together = native.encode(one, x, Where.packed([20, 30]), Context())
        alone = native.encode(one, x[:, :20].contiguous(), Where.plain(1, 20), Context())
    assert together is not None and alone is not None
    torch.testing.assert_close(together[:, :20], alone, rtol=1e-6, atol=1e-6)


def test_a_changed_weight_is_packed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stack(ENCODERS[0])
    assert one is not None
    at = Where.plain(1, 5)
    x = torch.randn(1, 5, one.spec.width)
    layer: Any = one.layers[0]

    def replace() -> None:
        layer.attn.q.weight = nn.Parameter(torch.randn_like(layer.attn.q.weight))

    def move() -> None:
        layer.ffn.down.weight.data = torch.randn_like(layer.ffn.down.weight)

    for change in (lambda: None, lambda: layer.ffn.up.weight.mul_(2), replace, move):
        with torch.no_grad():
            change()
        got, want = both(one, x, at, BEST, monkeypatch)
        assert got is not None and difference(got, want) <= 5e-6


def test_what_the_kernels_cannot_serve_goes_to_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stack(ENCODERS[0])
    assert one is not None
    forced(monkeypatch, BEST)
    layer: Any = one.layers[0]
    x, at = torch.randn(1, 5, one.spec.width), Where.plain(1, 5)
    assert native.encode(one, x, at, Context()) is None  # gradients may be asked for
    with torch.no_grad():
        assert native.encode(one, x, at, Context()) is not None
        assert native.encode(one, x, at, Context(trace=Trace())) is None
        assert native.encode(one, x.half(), at, Context()) is None
        assert native.encode(one, x, Where.padded(torch.zeros(1, 5)), Context()) is None
        assert native.encode(one, x, Where(torch.tensor([[0, 0, 1, 1, -1]]), at.position, "padded", 5), Context()) is None
        with torch.autocast("cpu"):
            assert native.encode(one, x, at, Context()) is None
        hook = layer.attn.q.register_forward_hook(lambda module, inputs, output: output + 1)
        assert native.encode(one, x, at, Context()) is None
        hook.remove()
        assert native.encode(one.train(), x, at, Context()) is None
        assert native.encode(one.eval(), x, at, Context()) is not None
        rest = [case for case in STACKS if case.model_type == "deberta-v2"]
        for other in filter(None, map(stack, rest)):
            assert native.encode(other, torch.randn(1, 5, other.spec.width), at, Context()) is None


def test_packed_weights_go_with_their_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stack(ENCODERS[0])
    assert one is not None
    forced(monkeypatch, BEST)
    before = len(native.PACKED)
    with torch.no_grad():
        native.encode(one, torch.randn(1, 5, one.spec.width), Where.plain(1, 5), Context())
        assert len(native.PACKED) == before + 1
        copy.deepcopy(one)
    del one
    gc.collect()
    assert len(native.PACKED) == before
