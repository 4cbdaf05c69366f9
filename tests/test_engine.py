"""Continuous batching gives each request what it would get alone, in any company and under any budget."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Event, get_ident
from threading import enumerate as enumerate_threads
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from hunmin import AutoConfig, AutoModelForCausalLM, pipeline
from hunmin.auto import load
from hunmin.errors import FormatError, InputError
from hunmin.generate import Engine, Request, Result
from hunmin.generate.paged import Paged
from hunmin.generate.twin import Twin
from hunmin.nn.pages import SIZE
from hunmin.pipelines import base
from hunmin.pipelines.text_generation import TextGenerationPipeline
from tests.cases import CASES, weight
from tests.test_generate import PAD, TINY, scripted, tokenizer

HERE = Path(__file__).parent / "golden" / "parity"
DECODERS = [case.id for case in CASES if "CausalLM" in case.tasks]
ENDS = list(range(0, 99, 9))  # many end tokens: rows end at different steps


@cache
def model(name: str) -> Any:
    stored = json.loads((HERE / f"{name}.json").read_text())["CausalLM"]
    with tempfile.TemporaryDirectory() as folder:
        save_file({k: weight(k, shape) for k, shape in stored["shapes"].items()}, Path(folder) / "model.safetensors", {"format": "pt"})
        (Path(folder) / "config.json").write_text(json.dumps(stored["config"]))
        return load(folder, "CausalLM").eval()


def prompts(count: int = 9, most: int = 45) -> list[list[int]]:
    """Of mixed lengths, some with a common beginning of more than a page."""
    draw = torch.Generator().manual_seed(5)
    number = lambda high: int(torch.randint(high, (), generator=draw))  # noqa: E731
    common = [3 + number(96) for _ in range(min(37, most - 8))]
    return [(common if i % 3 == 1 else []) + [3 + number(96) for _ in range(1 + number(8 if i % 3 == 1 else most))] for i in range(count)]


def alone(name: str, rows: list[list[int]], **options: Any) -> list[list[int]]:
    return [model(name).generate(torch.tensor([p]), **options)[0, len(p) :].tolist() for p in rows]


def got(engine: Engine, rows: Any, **options: Any) -> list[list[int]]:
    results = list(engine.run(rows, **options))
    assert [r.index for r in results] == list(range(len(results)))
    assert engine.paged.pages.free == engine.paged.pages.count, "all pages came back"
    return [r.new[0] for r in results]


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch steps, also where the CPU kernels could."""
    monkeypatch.setattr("hunmin.generate.paged.Program.suits", lambda model: False)


# ------------------------------------------------------------------ what each request gets


@pytest.mark.parametrize("native", [False, True], ids=["twin", "native"])
@pytest.mark.parametrize("name", DECODERS)
def test_each_request_gets_what_it_would_get_alone(name: str, native: bool, request: pytest.FixtureRequest) -> None:
    if not native:
        request.getfixturevalue("twin")
    rows = prompts()
    free = alone(name, rows[:5], max_new_tokens=9, eos_token_id=None)
    options = {"max_new_tokens": 9, "eos_token_id": [free[0][3], free[4][5]]}
    want = alone(name, rows, **options)
    assert len({len(row) for row in want}) > 1, "rows end at different steps"
    budgets: list[dict[str, Any]] = [{}, {"rows": 2, "cached_tokens": 2 * SIZE, "prompt_tokens": 16}]
    if name in ("llama-plain", "gpt2-plain", "mistral-window"):
        budgets += [{"rows": 3}, {"cached_tokens": 5 * SIZE}, {"prompt_tokens": 7}, {"share_prefixes": False}, {"deterministic": True}]
    for budget in budgets:
        assert got(Engine(model(name), **options, **budget), rows) == want, budget


@pytest.mark.parametrize("name", ["llama-plain", "gpt2-plain", "mistral-window"])
def test_generate_of_a_batch_gives_the_same(name: str) -> None:
    rows, options = prompts(), {"max_new_tokens": 9, "eos_token_id": ENDS, "pad_token_id": PAD}
    want = got(Engine(model(name), **options), rows)
    width = max(map(len, rows))
    for left in (True, False):
        ids = torch.tensor([[PAD] * (width - len(p)) + p if left else p + [PAD] * (width - len(p)) for p in rows])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) if left else [1] * len(p) + [0] * (width - len(p)) for p in rows])
        out = model(name).generate(ids, attention_mask=mask, **options)[:, width:].tolist()
        assert [row[: len(w)] for row, w in zip(out, want, strict=True)] == want


SHAPED: list[dict[str, Any]] = [
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[5], [7, 9]], "suppress_tokens": [11, 50]},
    {"min_new_tokens": 4, "forced_eos_token_id": 9, "begin_suppress_tokens": [49], "exponential_decay_length_penalty": [2, 1.3]},
    {"sequence_bias": [[[49], -3.0], [[59], 2.5]], "encoder_repetition_penalty": 1.4, "min_length": 40, "remove_invalid_values": True},
]


@pytest.mark.parametrize("options", SHAPED)
def test_processors_see_each_row_by_itself(options: dict[str, Any]) -> None:
    options = options | {"max_new_tokens": 7, "eos_token_id": ENDS}
    assert got(Engine(model("llama-plain"), **options, rows=4), prompts()) == alone("llama-plain", prompts(), **options)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 70), st.integers(1, 12)), min_size=1, max_size=8), st.integers(1, 5), st.integers(3, 9), st.booleans()
)
def test_any_schedule(shapes: list[tuple[int, int]], rows: int, pages: int, ordered: bool) -> None:
    """Requests of any length with lengths of their own, under any budget."""
    requests = [Request([3 + (7 * i + j * j) % 90 for j in range(n)], {"max_new_tokens": new}) for i, (n, new) in enumerate(shapes)]
    engine = Engine(model("qwen3-plain"), eos_token_id=ENDS, rows=rows, cached_tokens=pages * SIZE, prompt_tokens=40)
    results = sorted(engine.run(requests, ordered=ordered), key=lambda r: r.index)
    assert engine.paged.pages.free == engine.paged.pages.count <= pages
    for result, request in zip(results, requests, strict=True):
        ids = list(request.ids)
        want = model("qwen3-plain").generate(torch.tensor([ids]), eos_token_id=ENDS, **request.options)[0, len(ids) :].tolist()
        assert result.new == [want]


def test_eight_bits_of_cache() -> None:
    """Close to full precision, and independent of how prompts are cut, shared and packed."""
    rows, options = prompts(), {"max_new_tokens": 8, "eos_token_id": None, "cache_dtype": "int8"}
    want = got(Engine(model("llama-plain"), **options), rows)
    for budget in ({"rows": 1}, {"prompt_tokens": 16}, {"share_prefixes": False}):
        assert got(Engine(model("llama-plain"), **options, **budget), rows) == want
    assert alone("llama-plain", rows, **options) == want
    with torch.inference_mode():
        logits = [Paged(model("llama-plain"), rounded=r).read([rows[1]])[1] for r in (True, False)]
    assert 0 < (logits[0] - logits[1]).abs().max() < 0.02 * logits[1].abs().max()
    with pytest.raises(InputError, match='cache_dtype has to be "int8" or None'):
        Engine(model("llama-plain"), cache_dtype="int4")
    with pytest.raises(InputError, match="cache_dtype is for decoders without beams"):
        model("llama-plain").generate(torch.tensor([[5]]), max_new_tokens=2, num_beams=2, cache_dtype="int8")


# ------------------------------------------------------------------ chance, and the rest of a batch


def test_samples_depend_on_seed_and_number_only() -> None:
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "top_k": 20, "temperature": 1.3, "eos_token_id": ENDS}
    want = got(Engine(model("llama-plain"), **options), prompts(), seed=4)
    assert got(Engine(model("llama-plain"), **options, rows=2), prompts(), seed=4) == want
    assert got(Engine(model("llama-plain"), **options), prompts(), seed=5) != want
    torch.manual_seed(1)
    first = got(Engine(model("llama-plain"), **options), prompts())
    torch.manual_seed(1)
    assert got(Engine(model("llama-plain"), **options), prompts()) == first
    (three,) = Engine(model("llama-plain"), **options, num_return_sequences=3).run([prompts()[0]], seed=4)
    assert len({tuple(row) for row in three.new}) > 1 and three.new[0] == want[0]


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3}])
def test_deterministic_is_bit_for_bit(options: dict[str, Any]) -> None:
    """The same scores to the last bit whatever the batch, in bfloat16, where a sum in another order shows."""
    half, rows = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY)).bfloat16().eval(), prompts(5, 40)
    width, seen = max(map(len, rows)), list[Any]()
    for count in range(1, 6):
        ids = torch.tensor([[0] * (width - len(p)) + p for p in rows[:count]])
        out = half.generate(
            ids, max_new_tokens=6, eos_token_id=None, deterministic=True, return_dict_in_generate=True, output_scores=True, **options
        )
        seen.append(([s[0] for s in out.scores], out.sequences[0].tolist()))
        assert out.sequences[0].tolist() == seen[0][1]
        assert all(torch.equal(a, b) for a, b in zip(seen[-1][0], seen[0][0], strict=True))


@pytest.mark.usefixtures("twin")
def test_deterministic_rows_are_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = list[tuple[int, ...]]()
    forward = type(model("llama-plain")).forward
    monkeypatch.setattr(
        type(model("llama-plain")), "forward", lambda self, ids, **o: shapes.append(tuple(ids.shape)) or forward(self, ids, **o)
    )
    got(Engine(model("llama-plain"), max_new_tokens=3, eos_token_id=None, deterministic=True), prompts(3))
    assert sorted(shapes) == sorted([(1, len(p)) for p in prompts(3)] + [(1, 1)] * 6)
    with pytest.raises(InputError, match="deterministic is for decoders without beams"):
        model("llama-plain").generate(torch.tensor([[5], [6]]), max_new_tokens=2, num_beams=2, deterministic=True)


# ------------------------------------------------------------------ sharing


@pytest.mark.usefixtures("twin")
def test_a_common_beginning_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[int]()
    forward = type(model("llama-plain")).forward
    monkeypatch.setattr(type(model("llama-plain")), "forward", lambda self, ids, **o: read.append(ids.numel()) or forward(self, ids, **o))
    common = [3 + i % 90 for i in range(2 * SIZE)]
    rows = [[*common, 5 + i] for i in range(6)]
    engine = Engine(model("llama-plain"), max_new_tokens=1)
    got(engine, rows)
    assert sum(read) == 2 * SIZE + 6
    read.clear()
    got(engine, [*rows, common])  # still there after the run; the last token is always read
    assert sum(read) == 6 + SIZE
    read.clear()
    got(Engine(model("llama-dynamic"), max_new_tokens=1), rows)  # angles that follow from the length are not shared
    assert sum(read) == 6 * (2 * SIZE + 1)


def test_copies_share_their_prompt() -> None:
    ids = torch.tensor([[3 + i % 90 for i in range(3 * SIZE + 5)]])
    engine = Engine(model("llama-plain"), max_new_tokens=4, do_sample=True, num_return_sequences=5, eos_token_id=None)
    results = list(engine.run([ids[0]], seed=0))
    assert len(results[0].new) == 5 and engine.paged.pages.free == engine.paged.pages.count
    with torch.inference_mode():
        paged = Paged(model("llama-plain"))
        (row,), _ = paged.read([ids[0].tolist()])
        copies = [paged.fork(row) for _ in range(4)]
        paged.step([row, *copies], torch.tensor([5, 6, 7, 8, 9]))
    assert paged.pages.count - paged.pages.free == 3 + 5, "only the page that is written to is copied"


# ------------------------------------------------------------------ budgets


def test_what_never_fits_is_refused_in_a_line() -> None:
    engine = Engine(model("llama-plain"), max_new_tokens=4, cached_tokens=SIZE, rows=2)
    with pytest.raises(InputError, match=r"1 x 54 tokens \(prompt 50, new 4\) do not fit into the cache of 32"):
        list(engine.run([[5] * 50]))
    results = list(engine.run([[5], [5] * 50, [], [400], [6], "ab", [7]], on_error="skip"))  # type: ignore[list-item]
    assert [r.error is None for r in results] == [True, False, False, False, True, False, True]
    assert "Request 2 needs" in str(results[2].error) and "id 400 is outside" in str(results[3].error)
    with pytest.raises(InputError, match="num_return_sequences=3 needs as many rows, the engine has 2"):
        list(engine.run([Request([5], {"num_return_sequences": 3, "do_sample": True})]))
    for wrong in ({"rows": 0}, {"cached_tokens": -1}, {"prompt_tokens": 2.5}):
        with pytest.raises(InputError, match="is a whole number above 0"):
            Engine(model("llama-plain"), **wrong)
    for wrong in ({"num_beams": 2}, {"use_cache": False}):
        with pytest.raises(InputError, match="The engine serves decoders"):
            Engine(model("llama-plain"), **wrong)
    with pytest.raises(InputError, match="no option 'beams'"):
        Engine(model("llama-plain"), beams=2)
    with pytest.raises(InputError, match="settings of the engine"):
        list(engine.run([Request([5], {"deterministic": True})]))
    with pytest.raises(InputError, match="go beyond the model's 64 positions"):
        list(Engine(model("gpt2-plain"), max_new_tokens=9).run([[5] * 60]))


def test_rows_wait_for_room_and_the_cache_stays_within_it() -> None:
    engine = Engine(model("llama-plain"), max_new_tokens=20, eos_token_id=None, cached_tokens=5 * SIZE)
    most = 0

    class Watch(Twin):
        def step(self, ids: Tensor, table: Tensor, lengths: Tensor, pages: Any) -> Tensor:
            nonlocal most
            most = max(most, len(ids))
            assert pages.count <= 5
            return super().step(ids, table, lengths, pages)

    engine.paged.stepper = Watch(engine.model)
    rows = [[5 + i] * 30 for i in range(7)]  # two pages each
    assert got(engine, rows) == alone("llama-plain", rows, max_new_tokens=20, eos_token_id=None)
    assert most == 2


def test_a_row_that_has_left_holds_no_position() -> None:
    """Learned positions end at 64; the first row reaches them long before the others end."""
    requests = [Request([5 + i] * (60 if i == 2 else 4), {"max_new_tokens": 5 if i == 2 else 40}) for i in range(5)]
    results = list(Engine(model("gpt2-plain"), eos_token_id=None).run(requests))
    want = [
        model("gpt2-plain").generate(torch.tensor([list(r.ids)]), eos_token_id=None, **r.options)[0, len(list(r.ids)) :] for r in requests
    ]
    assert [r.new[0] for r in results] == [row.tolist() for row in want]


# ------------------------------------------------------------------ streams


def test_requests_are_taken_as_there_is_room() -> None:
    taken = 0

    def endless() -> Iterator[list[int]]:
        nonlocal taken
        while True:
            taken += 1
            yield [5, 3 + taken % 90]

    results = Engine(model("llama-plain"), max_new_tokens=3, rows=4).run(endless())
    assert taken == 0
    next(results)
    assert 1 <= taken <= 16
    for _ in range(20):
        next(results)
    assert taken <= 21 + 16
    results.close()
    one = Engine(model("llama-plain"), max_new_tokens=3, rows=1).run(endless())
    before = taken
    next(one)
    assert taken == before + 1


def test_an_iterator_that_fails_fails_in_its_place() -> None:
    def broken() -> Iterator[list[int]]:
        yield [5]
        yield [6, 7]
        raise OSError("disk")

    engine, seen = Engine(model("llama-plain"), max_new_tokens=3), list[int]()
    with pytest.raises(OSError, match="disk"):
        seen.extend(result.index for result in engine.run(broken()))
    assert seen == [0, 1] and engine.paged.pages.free == engine.paged.pages.count
    with pytest.raises(ZeroDivisionError):
        list(Engine(model("llama-plain"), max_new_tokens=3, stopping_criteria=[lambda rows, scores: 1 / 0]).run([[5]]))


def test_results_in_order_or_as_they_end() -> None:
    requests = [Request([5 + i], {"max_new_tokens": n}) for i, n in enumerate([9, 2, 5])]
    engine = Engine(model("llama-plain"), eos_token_id=None)
    assert [r.index for r in engine.run(requests)] == [0, 1, 2]
    assert [r.index for r in engine.run(requests, ordered=False)] == [1, 2, 0]


def test_who_leaves_early_leaves_nothing_behind() -> None:
    engine = Engine(model("llama-plain"), max_new_tokens=9, rows=3, eos_token_id=None)
    results = engine.run([Request([5], {"max_new_tokens": 1}), [6], [7]])
    assert isinstance(next(results), Result)
    assert engine.paged.pages.free < engine.paged.pages.count
    results.close()
    assert engine.paged.pages.free == engine.paged.pages.count


# ------------------------------------------------------------------ what ends a row


def test_stops_of_each_row() -> None:
    tok = tokenizer()
    torch.manual_seed(0)
    tiny = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY | {"eos_token_id": None, "max_position_embeddings": 512}))
    words = tok("하나 둘 셋")["input_ids"]
    engine = Engine(tiny.eval(), tokenizer=tok, stop_strings="둘", max_new_tokens=40, logits_processor=[scripted([words], 3)])
    assert [tok.decode(r.new[0]) for r in engine.run([[5, 6, 7]] * 3)] == ["하나 둘"] * 3
    assert [len(r.new[0]) for r in Engine(tiny, max_time=1e-9, max_new_tokens=40).run([[5], [6, 7]])] == [1, 1]
    seen = list[int]()
    allowed = lambda request, ids: seen.append(request) or [60 + request]  # noqa: E731
    engine = Engine(tiny, max_new_tokens=2, prefix_allowed_tokens_fn=allowed)
    assert [r.new for r in engine.run([[5], [6], [7]])] == [[[60, 60]], [[61, 61]], [[62, 62]]] and set(seen) == {0, 1, 2}
    nothing = Engine(tiny, max_new_tokens=2, prefix_allowed_tokens_fn=lambda request, ids: [] if request == 1 else [9])
    results = list(nothing.run([[5], [6], [7]], on_error="skip"))
    assert [r.error is None for r in results] == [True, False, True] and results[0].new == [[9, 9]]
    assert nothing.paged.pages.free == nothing.paged.pages.count


def test_nan_ends_a_request_with_an_error() -> None:
    tiny = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY)).eval()
    poison = [lambda ids, scores: scores * float("nan") if ids[0, 0] == 6 else scores]
    results = list(Engine(tiny, max_new_tokens=2, eos_token_id=None, logits_processor=poison).run([[5], [6], [7]], on_error="skip"))
    assert isinstance(results[1].error, FormatError) and [len(r.new) for r in results] == [1, 0, 1]


@pytest.mark.usefixtures("twin")
def test_generate_computes_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = list[tuple[int, ...]]()
    forward = type(model("llama-plain")).forward
    monkeypatch.setattr(
        type(model("llama-plain")), "forward", lambda self, ids, **o: shapes.append(tuple(ids.shape)) or forward(self, ids, **o)
    )
    ids = torch.tensor([[PAD] * 5 + [7], [3, 4, 5, 6, 7, 8]])
    model("llama-plain").generate(ids, attention_mask=(ids != PAD).long(), max_new_tokens=2, eos_token_id=None)
    assert shapes == [(1, 7), (2, 1)]


# ------------------------------------------------------------------ the pipeline

SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 5, "return_full_text": False, "return_tensors": True}
TEXTS = ["Rain.", "The cat sat on the mat in Paris.", "Mia", "It rains, the sun shines.", "dog"] * 3


@pytest.fixture(scope="module")
def writer(models: Path) -> Any:
    return pipeline("text-generation", model=str(models / "gpt2"))


def test_the_pipeline_draws_by_seed_and_place(writer: Any) -> None:
    want = writer(TEXTS, seed=2, **SAMPLED)
    assert writer(TEXTS, seed=2, batch_size=2, **SAMPLED) == list(writer(iter(TEXTS), seed=2, **SAMPLED)) == want
    assert writer(TEXTS[0], seed=2, **SAMPLED) == want[0] != writer(TEXTS[0], seed=3, **SAMPLED)
    assert len({str(row) for row in want}) > 5


def test_the_pipeline_takes_inputs_in_the_callers_thread_and_some_ahead(writer: Any) -> None:
    taken, threads = 0, set[int]()

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            threads.add(get_ident())
            yield TEXTS[taken % len(TEXTS)]

    answers = writer(endless(), max_new_tokens=2)
    assert taken == 0
    for n in range(1, 30):
        next(answers)
        assert n <= taken <= n + base.LOOK_AHEAD
    answers.close()
    assert threads == {get_ident()}
    assert not [t for t in enumerate_threads() if t.name == "hunmin-pipeline"]


def test_slow_inputs_do_not_hold_answers_up(writer: Any) -> None:
    """An answer comes while later inputs are still to be waited for."""
    got, late = list[Any](), Event()

    def slow() -> Iterator[str]:
        yield "Rain."
        for text in TEXTS:
            late.wait(0.5)
            yield text

    for answer in writer(slow(), max_new_tokens=1):
        got.append(answer)
        if len(got) == 1:
            late.set()
    assert len(got) == 1 + len(TEXTS)


def test_the_pipeline_skips_what_cannot_be_answered(writer: Any) -> None:
    inputs: list[Any] = ["Rain.", 3, "", "Mia went to Paris with the cat. " * 20, "dog"]
    want = writer(["Rain.", "dog"], max_new_tokens=3, do_sample=False)
    for answers in (
        writer(inputs, on_error="skip", max_new_tokens=3, do_sample=False),
        list(writer(iter(inputs), on_error="skip", max_new_tokens=3, do_sample=False)),
    ):
        assert [answers[0], answers[4]] == want
        assert [answers[i]["index"] for i in (1, 2, 3)] == [1, 2, 3] and "takes a string" in answers[1]["error"]
    seen = list[Any]()
    with pytest.raises(InputError, match="takes a string"):
        seen.extend(writer(iter(inputs), max_new_tokens=3))
    assert len(seen) == 1


def test_beams_and_subclasses_keep_their_batches(writer: Any, models: Path) -> None:
    two = writer(TEXTS[:3], max_new_tokens=3, num_beams=2, do_sample=False)
    assert [writer(text, max_new_tokens=3, num_beams=2, do_sample=False) for text in TEXTS[:3]] == two

    class Loud(TextGenerationPipeline):
        def _forward(self, batch: Any, **generation: Any) -> Any:
            return [{"new": [[5]]} for _ in batch["input_ids"]]

    loud = pipeline("text-generation", model=str(models / "gpt2"), pipeline_class=Loud)
    assert loud(TEXTS[:2], return_tensors=True, return_full_text=False) == [[{"generated_token_ids": [5]}]] * 2
