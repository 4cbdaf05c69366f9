"""A decoding step in C++ against the PyTorch model: every decoder of the table, every level, plain and quantized weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hunmin.auto import load
from hunmin.native import Library, library
from hunmin.native import program as native
from hunmin.native.program import Program
from hunmin.nn.cache import Cache
from hunmin.nn.where import Where
from hunmin.quantize import QuantizedEmbedding, QuantizedLinear, quantize_linears
from hunmin.quantize.tiles import rounded
from tests.cases import CASES, MASK, ROWS, Case, difference
from tests.test_adapters import base
from tests.test_native_matrix import levels

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not built")
DECODERS = [case for case in CASES if "CausalLM" in case.tasks and not case.config.get("is_decoder")]  # BERT's head is PyTorch's
PAIRS = [case for case in CASES if "Seq2SeqLM" in case.tasks]
BY_LENGTH = ("dynamic", "longrope-short", "longrope-long")
TEXT = ROWS.clamp(min=3)
BATCH, PAGE = 5, 32


def pages(model: Any, count: int, dtype: torch.dtype = torch.float32, cross: bool = False) -> Any:
    sites = [layer.cross if cross else layer.attn for layer in model.decoder.stack.layers]
    shapes = [(count, s.spec.kv_heads or s.spec.heads, s.dim, PAGE) for s in sites]
    values = [torch.full(s, torch.nan, dtype=dtype).transpose(2, 3).contiguous() for s in shapes]  # what was not written must not be read
    return SimpleNamespace(keys=[torch.full(s, torch.nan, dtype=dtype) for s in shapes], values=values)


def decoded(program: Program, model: Any, rows: Tensor, dtype: torch.dtype = torch.float32, memory: Any = None) -> Tensor:
    """Logits ``(R, N, V)``, token by token; the pages of a row are no neighbours."""
    per = -(-rows.shape[1] // PAGE)
    cache, table = pages(model, len(rows) * per, dtype), torch.randperm(len(rows) * per, dtype=torch.int32).view(len(rows), per)
    steps = [program.step(rows[:, i], table, torch.full((len(rows),), i, dtype=torch.int32), cache, memory) for i in range(rows.shape[1])]
    return torch.stack(steps, 1)


def program_of(model: Any, kernels: Library | None = None) -> Program:
    found = Program.of(model)
    assert found is not None
    return found if kernels is None else Program(model, kernels)


@pytest.mark.parametrize("case", [c for c in DECODERS if c.name not in BY_LENGTH], ids=lambda c: c.id)
def test_every_decoder_decodes_as_in_pytorch(case: Case, tmp_path: Path) -> None:
    model = base(case, "CausalLM", tmp_path)
    rows = torch.randint(3, 99, (3, 40), generator=torch.Generator().manual_seed(0))  # more than a page
    with torch.no_grad():
        want = model(rows).logits
    program = program_of(model)
    got = decoded(program, model, rows)
    assert difference(got, want) < 5e-6
    for r in range(3):
        assert torch.equal(decoded(program, model, rows[r : r + 1])[0], got[r]), "a row depends on its neighbours"
    cache, table = pages(model, 4), torch.tensor([[3, 1]], dtype=torch.int32).expand(40, 2)
    at = torch.arange(40, dtype=torch.int32)
    for part in (at[:7], at[7:39], at[39:]):  # a prompt in pieces: its tokens are rows that share pages
        logits = program.step(rows[1, part], table[part], part, cache, wanted=torch.tensor([0, len(part) - 1]))
        assert torch.equal(logits, got[1, part[[0, -1]]])
    half = decoded(program, model, rows, torch.bfloat16)
    assert 0 < difference(half, want) < 0.05


@pytest.mark.parametrize("case", PAIRS, ids=lambda c: c.id)
def test_every_decoder_with_cross_attention_decodes_as_in_pytorch(case: Case, tmp_path: Path) -> None:
    model = base(case, "Seq2SeqLM", tmp_path)
    rows = torch.randint(3, 99, (2, 6), generator=torch.Generator().manual_seed(0))
    cache = Cache()
    with torch.no_grad():
        want = model(ROWS, MASK, decoder_input_ids=rows, past_key_values=cache).logits
    memory = pages(model, 2, cross=True)
    for i in range(len(memory.keys)):
        k, v, _ = cache.get(f"cross.{i}")
        memory.keys[i][..., : k.shape[1]], memory.values[i][:, :, : v.shape[1]] = k.permute(0, 2, 3, 1), v.transpose(1, 2)
    table, lengths = torch.tensor([[0], [1]], dtype=torch.int32), MASK.sum(1, dtype=torch.int32)
    assert difference(decoded(program_of(model), model, rows, memory=(table, lengths, memory)), want) < 5e-6


@pytest.mark.parametrize("kernels", levels(), ids=lambda k: k.level)
@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("case", [c for c in DECODERS if c.name == "plain"], ids=lambda c: c.id)
def test_rounded_weights_on_every_level(kernels: Library, kind: Any, case: Case, tmp_path: Path) -> None:
    """Against PyTorch with the same rounded weights: what differs is that inputs are rounded too."""
    model = base(case, "CausalLM", tmp_path)
    if kind == "bfloat16":
        model = model.to(torch.bfloat16)
    else:
        for name in quantize_linears(model, kind=kind, group=32):
            model.get_submodule(name).round_inputs = True
        embed, head = model.decoder.embed, model.head
        tied = head.out.weight is embed.tokens.weight
        embed.tokens = QuantizedEmbedding(rounded(embed.tokens.weight.detach(), "int8", 32))
        head.out = QuantizedLinear(embed.tokens.tiles if tied else rounded(head.out.weight.detach(), "int8", 32), round_inputs=True)
    with torch.no_grad():
        want = model(TEXT).logits.float()
    got = decoded(program_of(model, kernels), model, TEXT)
    assert (got - want).norm() < 0.05 * want.norm()


@pytest.mark.parametrize("kernels", levels(), ids=lambda k: k.level)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["llama-plain", "gpt2-plain"])
def test_rows_that_are_multiplied_together_stay_apart(kernels: Library, dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    """To the bit: weights meet several rows at a time where there are several, also with biases and tiles that are not whole."""
    model = base(next(c for c in DECODERS if c.id == name), "CausalLM", tmp_path).to(dtype)
    program = program_of(model, kernels)
    rows = torch.randint(3, 99, (13, 2), generator=torch.Generator().manual_seed(0))
    alone = torch.cat([decoded(program, model, row[None], dtype) for row in rows])
    for count in (3, 4, 5, 8, 13):
        assert torch.equal(decoded(program, model, rows[:count], dtype), alone[:count]), count


def test_what_pytorch_has_to_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in DECODERS if c.id == "llama-plain")
    model = base(case, "CausalLM", tmp_path / "model")
    assert Program.of(model) is not None and Program.of(model.train()) is None
    model.eval()
    handle = model.decoder.stack.layers[1].attn.q.register_forward_hook(lambda *_: None)
    assert Program.of(model) is None
    handle.remove()
    assert Program.of(load(tmp_path / "model", "SequenceClassification")) is None
    assert Program.of(load(tmp_path / "model", "CausalLM", dtype="float16")) is None
    for name in BY_LENGTH:
        assert Program.of(base(next(c for c in DECODERS if c.id == f"llama-{name}"), "CausalLM", tmp_path / name)) is None
    quantize_linears(model, kind="nf4")
    assert Program.of(model) is None
    monkeypatch.setattr(native, "library", lambda: None)
    assert Program.of(load(tmp_path / "model", "CausalLM")) is None


def test_room_and_tables_grow(tmp_path: Path) -> None:
    """More rows, longer texts and fewer rows again, in one program."""
    model = base(next(c for c in DECODERS if c.id == "llama-plain"), "CausalLM", tmp_path)
    program = program_of(model)
    for shape in ((1, 3), (7, 3), (2, 600), (4, 2)):
        rows = torch.randint(3, 99, shape)
        with torch.no_grad():
            want = model(rows[:, -1:], where=Where.plain(len(rows), 1)).logits if shape[1] == 1 else model(rows).logits
        assert difference(decoded(program, model, rows)[:, -1], want[:, -1]) < 5e-6
