"""The choice among logits: the kernel against its PyTorch twin, alone and within a step, and searches that see nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from hunmin.native import Library, library
from hunmin.native import choose as native
from hunmin.native.choose import Choice, Chosen, choose, twin
from hunmin.nn.cache import Cache
from hunmin.quantize import quantize_linears
from tests.cases import CASES, MASK, PAD, ROWS
from tests.test_adapters import base
from tests.test_generate import DECODERS, OPTIONS, PAIRS, batch, model
from tests.test_native_matrix import levels
from tests.test_native_program import decoded, pages, program_of

INF = math.inf
needs_kernels = pytest.mark.skipif(library() is None, reason="the kernels are not built")
each_level = pytest.mark.parametrize("kernels", levels(), ids=lambda k: k.level)


def same(a: Chosen, b: Chosen, sums: bool = True) -> None:
    """Equal choices; sums differ by their order of adding at most."""
    torch.testing.assert_close(a.values, b.values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(a.ids, b.ids)
    if sums:
        torch.testing.assert_close(a.sums, b.sums, rtol=1e-6, atol=1e-5, equal_nan=True)


def by(kernels: Library, logits: Tensor, choice: Choice, patch: pytest.MonkeyPatch) -> Chosen:
    patch.setattr(native, "library", lambda: kernels)
    return choose(logits, choice)


# ------------------------------------------------------------------ the twin


def plainly(row: list[float], choice: Choice) -> tuple[list[float], list[int], float]:
    """In Python, of a row without NaN: sorted by number, then by id."""
    kept = [-INF if i in choice.never else x for i, x in enumerate(row)]
    order = sorted(range(len(row)), key=lambda i: (-kept[i], i))[: choice.k]
    counted = row if choice.whole else kept
    top = max(counted)
    total = top + math.log(sum(math.exp(x - top) for x in counted)) if math.isfinite(top) else math.nan
    return [kept[i] for i in order], order, total


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    some.lists(some.sampled_from([-INF, -3.5, -0.0, 0.0, 1.0, 1.25, 80.0]), min_size=3, max_size=12),
    some.integers(1, 3),
    some.sets(some.integers(0, 2)),
    some.booleans(),
)
def test_the_twin_is_a_sorted_list(row: list[float], k: int, never: set[int], whole: bool) -> None:
    choice = Choice(k, tuple(sorted(never)), whole=whole)
    got = twin(torch.tensor([row]), choice)
    values, ids, total = plainly(row, choice)
    assert (got.values[0].tolist(), got.ids[0].tolist()) == (values, ids)
    assert got.sums.item() == pytest.approx(total, rel=1e-6, nan_ok=True)


# ------------------------------------------------------------------ the kernel


def hard(rows: int, vocab: int) -> Tensor:
    """Logits with ties everywhere, and rows that hold nothing, infinities, NaN of either sign, or one number alone."""
    draw = torch.Generator().manual_seed(rows * vocab)
    x = torch.randn(rows, vocab, generator=draw) * 4
    x[1::2] = (x[1::2] * 2).round() / 2
    x[torch.rand(x.shape, generator=draw) < 0.1] = -INF
    for row, (at, number) in enumerate([(vocab // 2, math.nan), (vocab - 1, -math.nan), (0, INF), (vocab - 1, INF)]):
        if row < rows - 2:
            x[row, at] = number
    x[-1] = -INF if rows > 2 else x[-1]
    return x


@each_level
@pytest.mark.parametrize("shape", [(1, 8), (3, 99), (8, 255), (8, 256), (7, 257), (9, 1000), (2, 5001)], ids=str)
def test_the_kernel_equals_its_twin(kernels: Library, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    logits, vocab = hard(*shape), shape[1]
    before = logits.clone()
    for k in (1, 2, 8):
        for never in ((), (0,), (3, vocab - 1), tuple(range(vocab - 3))):
            for whole in (True, False):
                choice = Choice(k, never, whole=whole)
                same(by(kernels, logits, choice, monkeypatch), twin(logits, choice))
                bare = Choice(k, never, sums=False, whole=whole)
                same(by(kernels, logits, bare, monkeypatch), twin(logits, bare), sums=False)
    assert torch.equal(logits.nan_to_num(7), before.nan_to_num(7)), "the logits are not the kernel's to change"


@each_level
def test_neither_threads_nor_other_rows_change_a_row(kernels: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, choice, threads = torch.randn(5, 3000), Choice(8, (17,)), torch.get_num_threads()
    together = by(kernels, logits, choice, monkeypatch)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for r in range(5):
                alone = by(kernels, logits[r : r + 1], choice, monkeypatch)
                for a, b in zip(vars(alone).values(), vars(together).values(), strict=True):
                    assert torch.equal(a[0], b[r])
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------ within a step


@each_level
@pytest.mark.parametrize("name", ["gemma2-plain", "llama-plain", "bart-plain", "marian-plain"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_a_step_chooses_what_its_logits_say(
    kernels: Library, name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(c for c in CASES if c.id == name)
    task = "CausalLM" if "CausalLM" in case.tasks else "Seq2SeqLM"
    found = base(case, task, tmp_path)
    if kind == "int8":
        for layer in quantize_linears(found, kind="int8", group=32):
            found.get_submodule(layer).round_inputs = True
    elif kind == "bfloat16":
        found = found.to(torch.bfloat16)
    memory = None
    if task == "Seq2SeqLM":
        cache, kept = Cache(), pages(found, 2, cross=True)
        with torch.no_grad():
            found(ROWS, MASK, decoder_input_ids=ROWS[:, :1], past_key_values=cache)
        for i in range(len(kept.keys)):
            k, v, _ = cache.get(f"cross.{i}")
            kept.keys[i][..., : k.shape[1]], kept.values[i][:, :, : v.shape[1]] = k.permute(0, 2, 3, 1), v.transpose(1, 2)
        memory = torch.tensor([[0], [1]] * 4, dtype=torch.int32), MASK.sum(1, dtype=torch.int32).repeat(4), kept
    program = program_of(found, kernels)
    rows = torch.randint(3, 99, (8, 3), generator=torch.Generator().manual_seed(0))
    logits = decoded(program, found, rows, memory=memory)[:, -1]
    for choice in (Choice(8, (5, 98)), Choice(1, sums=False), Choice(8, (0,), whole=False)):

        def step(*args: Any, choice: Choice = choice) -> Tensor:
            ids, table, lengths, kept_pages, looked_at = args
            chosen = program.choose(ids, table, lengths, kept_pages, choice, looked_at)
            return torch.cat([chosen.values, chosen.ids, chosen.sums if choice.sums else chosen.values[:, :1]], 1)

        got = decoded(type("Stepped", (), {"step": staticmethod(step)}), found, rows, memory=memory)[:, -1]  # type: ignore[arg-type]
        want = by(kernels, logits, choice, monkeypatch)
        assert torch.equal(got, torch.cat([want.values, want.ids, want.sums if choice.sums else want.values[:, :1]], 1))


# ------------------------------------------------------------------ searches


@pytest.mark.parametrize("kernels", [None, *levels()[-1:]], ids=lambda k: "twin" if k is None else k.level)
@pytest.mark.parametrize("name", DECODERS + PAIRS)
def test_searches_that_see_the_best_alone_find_the_same(name: str, kernels: Library | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor of the user's, even one that does nothing, has to see all scores."""
    monkeypatch.setattr(native, "library", lambda: kernels)
    more: dict[str, dict[str, Any]] = {
        "banned": {"bad_words_ids": [[5], [7]], "suppress_tokens": [11, 50, 10**6], "min_new_tokens": 4},
        "banned-beams": {
            "bad_words_ids": [[5]],
            "num_beams": 4,
            "min_length": 9,
            "begin_suppress_tokens": [9],
            "eos_token_id": [2, 40, 59],
        },
        "again": {"bad_words_ids": [[59]], "num_beams": 3, "renormalize_logits": True, "forced_eos_token_id": 2},
    }
    for option, given_options in (OPTIONS | more).items():
        options = {"max_new_tokens": 12, "pad_token_id": PAD, **given_options}
        seen = model(name).generate(**batch(name), **options, logits_processor=[lambda ids, scores: scores])
        assert torch.equal(model(name).generate(**batch(name), **options), seen), option


def test_what_is_chosen_in_the_kernel_is_all_that_beams_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the fast way could be lost without a test that fails: no step of these has to write logits."""
    from hunmin.native.program import Program

    steps = list[int]()
    if library() is None:
        pytest.skip("the kernels are not built")
    step = Program.step
    monkeypatch.setattr(Program, "step", lambda self, ids, *args: steps.append(len(ids)) or step(self, ids, *args))  # type: ignore[misc]
    for options in ({}, {"num_beams": 4, "bad_words_ids": [[PAD]], "renormalize_logits": True}):
        model("marian-plain").generate(**batch("marian-plain"), max_new_tokens=8, **options)
    assert len(steps) == 2, "the first scores alone are read from logits"
