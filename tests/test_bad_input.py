"""Broken, hostile and mistaken input: an error of one or two lines that names file and cause. Nothing else, and no file left behind."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hunmin.auto import load
from hunmin.errors import ConfigError, FormatError, HunminError, InputError, SourceError
from hunmin.hub.tensors import write_tensors
from hunmin.nn.where import Where
from hunmin.text import AutoTokenizer
from tests.corrupt import confused, copy, damaged, folder

IDS = torch.tensor([[5, 17, 42, 8, 2]])
KINDS = {
    "bert": ("bert-plain", "SequenceClassification", "single"),
    "gpt2": ("gpt2-plain", "CausalLM", "shards"),
    "llama": ("llama-yarn", "CausalLM", "single"),
    "longrope": ("llama-longrope-short", "CausalLM", "shards"),
    "gemma3": ("gemma3_text-mixed", "CausalLM", "single"),
    "t5": ("t5-plain", "Seq2SeqLM", "bin"),
    "bart": ("bart-plain", "Seq2SeqLM", "single"),
    "old": ("bert-plain", "MaskedLM", "old"),
}
CASES = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("roots")
    return {kind: folder(base / kind, *how) for kind, how in KINDS.items()}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place for damaged copies. The warnings that they cause are not looked at here."""
    log = logging.getLogger("hunmin")
    log.disabled = True
    yield tmp_path_factory.mktemp("work") / "x"
    log.disabled = False


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.test_gguf import weights, write

    root = tmp_path_factory.mktemp("gguf")
    return write(root / "m.gguf", "llama", {name: t / 8 for name, t in weights("llama").items()}, "Q8_0")


def outcomes(place: Path, task: str) -> list[str]:
    """What loading, one forward pass, the tokenizer and encoding say; anything but a HunminError passes through and fails the test."""
    said = list[str]()

    def attempt(step: Callable[[], Any], named: bool = True) -> Any:
        try:
            return step()
        except HunminError as error:
            said.append(str(error))
            assert not named or str(place) in said[-1], said[-1]
            assert said[-1].count("\n") <= 1, said[-1]

    model = attempt(lambda: load(place, task))
    if model is not None:
        with torch.no_grad():
            attempt(lambda: model(input_ids=IDS, attention_mask=torch.ones_like(IDS)), named=False)
    tokenizer = attempt(lambda: AutoTokenizer.from_pretrained(place))
    if tokenizer is not None:
        attempt(lambda: tokenizer("Hello 훈민"), named=False)
    return said


def harmed(roots: dict[str, Path], work: Path, draw: random.Random, harm: Callable[[Path], None], files: Callable[[Path], bool]) -> None:
    """One case: copy a folder, harm one of its files, use it."""
    kind = draw.choice(list(KINDS))
    place = copy(roots[kind], work)
    harm(draw.choice(sorted(filter(files, place.iterdir()))))
    before, start = sorted(place.iterdir()), time.perf_counter()
    outcomes(place, KINDS[kind][1])
    assert time.perf_counter() - start < 5
    assert sorted(place.iterdir()) == before


@settings(CASES, max_examples=201)
@given(seed=seeds)
def test_damaged_bytes(roots: dict[str, Path], work: Path, seed: int) -> None:
    draw = random.Random(seed)
    harmed(roots, work, draw, lambda path: path.write_bytes(damaged(path.read_bytes(), draw)) and None, lambda path: True)


@settings(CASES, max_examples=200)
@given(seed=seeds)
def test_configurations_with_wrong_values(roots: dict[str, Path], work: Path, seed: int) -> None:
    """Wrong types, huge numbers, NaN, missing and nested values in ``config.json``: another model that can be computed, or an error."""
    draw = random.Random(seed)
    harmed(
        roots, work, draw, lambda path: path.write_text(json.dumps(confused(json.loads(path.read_text()), draw))) and None,
        lambda path: path.name == "config.json",
    )  # fmt: skip


@settings(CASES, max_examples=60)
@given(seed=seeds)
def test_other_json_with_wrong_values(roots: dict[str, Path], work: Path, seed: int) -> None:
    draw = random.Random(seed)
    harmed(
        roots, work, draw, lambda path: path.write_text(json.dumps(confused(json.loads(path.read_text()), draw))) and None,
        lambda path: path.suffix == ".json" and path.name != "config.json",
    )  # fmt: skip


@settings(CASES, max_examples=150)
@given(seed=seeds)
def test_damaged_gguf(gguf_file: Path, work: Path, seed: int) -> None:
    draw = random.Random(seed)
    copy(gguf_file.parent, work)
    place = work / "m.gguf"
    place.write_bytes(damaged(place.read_bytes(), draw))
    start = time.perf_counter()
    outcomes(place, "CausalLM")
    assert time.perf_counter() - start < 5
    assert [path.name for path in work.iterdir()] == ["m.gguf"]


# ---------------------------------------------------------------- each kind by name


@pytest.fixture
def bert(roots: dict[str, Path], tmp_path: Path) -> Path:
    return copy(roots["bert"], tmp_path / "bert")


@pytest.fixture
def gpt2(roots: dict[str, Path], tmp_path: Path) -> Path:
    return copy(roots["gpt2"], tmp_path / "gpt2")


def fails(kind: type[HunminError], *words: str) -> Any:
    """An error of this class in one or two lines that hold all ``words``."""
    return pytest.raises(kind, match=r"(?s)\A(?=[^\n]*(\n[^\n]*)?\Z)" + "".join(f"(?=.*{re.escape(word)})" for word in words))


def edit(place: Path, name: str = "config.json", **values: Any) -> Path:
    path = place / name
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return place


def reweigh(place: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    tensors = load_file(place / "model.safetensors")
    tensors = {name: t.clone() for name, t in tensors.items()}
    change(tensors)
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    return place


QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def test_wrong_shape(bert: Path) -> None:
    reweigh(bert, lambda t: t.update({QUERY: torch.zeros(32, 31)}))
    with fails(FormatError, str(bert), QUERY, "(32, 31)", "(32, 32)"):
        load(bert, None)


@pytest.mark.parametrize("wrong", [torch.zeros(()), torch.zeros(2), torch.zeros(32, 2), torch.zeros(3, 32, 32)])
def test_wrong_shape_of_a_fused_tensor(wrong: torch.Tensor, gpt2: Path) -> None:
    tensors = {k: v for path in gpt2.glob("*.safetensors") for k, v in load_file(path).items()}
    tensors["transformer.h.0.attn.c_attn.weight"] = wrong
    write_tensors(iter(tensors.items()), gpt2)
    with fails(FormatError, str(gpt2), "transformer.h.0.attn.c_attn.weight", "shape"):
        load(gpt2, None)


def test_unknown_and_missing_model_type(bert: Path) -> None:
    with fails(ConfigError, str(bert), "'martian'", "bert, "):
        load(edit(bert, model_type="martian"), None)
    with fails(ConfigError, str(bert), "config.json has no model_type"):
        load(edit(bert, model_type=...), None)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code(zipped: bool, bert: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/owned",)

    pickle.loads(pickle.dumps(Evil()))
    assert (tmp_path / "owned").exists(), "the code works where it is let"
    (tmp_path / "owned").unlink()
    (bert / "model.safetensors").unlink()
    torch.save({QUERY: torch.zeros(2), "x": Evil()}, bert / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with fails(FormatError, str(bert / "pytorch_model.bin"), "pickle with code", "safetensors"):
        load(bert, None)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("weights", ["bin", "old"])
def test_pickles_of_tensors_load(weights: str, tmp_path: Path, bert: Path) -> None:
    """Both formats that ``torch.save`` has had, and they give what safetensors give."""
    place = folder(tmp_path / "p", "bert-plain", "SequenceClassification", weights)
    pairs = zip(load(place, None).named_parameters(), load(bert, None).named_parameters(), strict=True)
    assert all(name == other and torch.equal(p, q) for (name, p), (other, q) in pairs)


@pytest.mark.parametrize("state", [[1], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(2), {"a": torch.zeros(2).to_sparse()}])
def test_pickles_of_something_else(state: Any, bert: Path) -> None:
    (bert / "model.safetensors").unlink()
    torch.save(state, bert / "pytorch_model.bin")
    with fails(FormatError, str(bert / "pytorch_model.bin")):
        load(bert, None)


@pytest.mark.parametrize("shard", ["../../etc/passwd", "/etc/passwd", "..", "a/../../x", "C:\\x", "a\0b"])
def test_a_path_that_climbs_out(shard: str, gpt2: Path) -> None:
    path = gpt2 / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["transformer.wte.weight"] = shard
    path.write_text(json.dumps(index))
    with fails(FormatError, str(gpt2), repr(shard), "not a path inside a model"):
        load(gpt2, None)


def test_a_missing_shard_and_a_wrong_index(gpt2: Path) -> None:
    path = gpt2 / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first, *_, last = sorted(gpt2.glob("*.safetensors"))
    lost = next(name for name, file in index["weight_map"].items() if file == last.name)
    path.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], lost: first.name}}))
    with fails(FormatError, str(first), lost, "index says"):
        load(gpt2, None)
    path.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], lost: "x" * 300}}))
    with fails(FormatError, str(path), "xxx", "not there"):
        load(gpt2, None)
    path.write_text(json.dumps({**index, "weight_map": [1]}))
    with fails(FormatError, str(path), "no weight_map"):
        load(gpt2, None)
    path.write_text(json.dumps(index))
    last.unlink()
    with fails(FormatError, str(path), last.name, "not there"):
        load(gpt2, None)


def test_truncated_safetensors_and_impossible_header(bert: Path) -> None:
    path = bert / "model.safetensors"
    whole = path.read_bytes()
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:7], b"", (1 << 62).to_bytes(8, "little") + whole[8:], whole + b"x"):
        path.write_bytes(data)
        with fails(FormatError, str(path), "damaged or cut off"):
            load(bert, None)


@pytest.mark.parametrize(
    "text",
    ['{"model_type": "bert"', "", "[1, 2]", "null", "\ufeff{}", "[" * 10**5, '{"a":' * 10**5, '{"model_type": "bert", "vocab_size": ' + "9" * 5000 + "}"],
)  # fmt: skip
def test_broken_json(text: str, bert: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        place = copy(bert, bert.parent / "copy")
        (place / name).write_text(text, encoding="utf-8")
        with fails(FormatError, str(place / name)):
            load(place, None) if name == "config.json" else AutoTokenizer.from_pretrained(place)


def test_files_that_are_not_text(bert: Path) -> None:
    (bert / "chat_template.jinja").write_bytes(b"\xff")
    with fails(FormatError, str(bert / "chat_template.jinja"), "UTF-8"):
        AutoTokenizer.from_pretrained(bert)
    (bert / "config.json").write_bytes(b"\xff\xfe{}")
    with fails(FormatError, str(bert / "config.json"), "not valid JSON"):
        load(bert, None)


def test_the_last_of_two_equal_keys_counts(bert: Path) -> None:
    text = (bert / "config.json").read_text().strip()
    (bert / "config.json").write_text(text[:-1] + ', "model_type": "x"}')
    with fails(ConfigError, str(bert), "'x'"):
        load(bert, None)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("bert", {"num_attention_heads": 0}),
        ("bert", {"num_attention_heads": 5}),
        ("bert", {"num_hidden_layers": 10**9}),
        ("bert", {"num_hidden_layers": -1}),
        ("bert", {"num_hidden_layers": float("nan")}),
        ("bert", {"vocab_size": 10**12}),
        ("bert", {"vocab_size": "many"}),
        ("bert", {"hidden_size": 0}),
        ("bert", {"intermediate_size": 10**11}),
        ("bert", {"layer_norm_eps": "small"}),
        ("bert", {"layer_norm_eps": None}),
        ("bert", {"hidden_dropout_prob": 1.5}),
        ("bert", {"hidden_act": ["gelu"]}),
        ("bert", {"hidden_act": "gelu_of_tomorrow"}),
        ("bert", {"id2label": 3}),
        ("bert", {"id2label": {"a": "b"}}),
        ("bert", {"id2label": ["a", "b"]}),
        ("bert", {"num_labels": 10**12}),
        ("bert", {"num_labels": "2"}),
        ("bert", {"pad_token_id": "0"}),
        ("llama", {"num_key_value_heads": 3}),
        ("llama", {"head_dim": 7}),
        ("llama", {"rope_parameters": 5}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": "x"}}),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}),
        ("longrope", {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
        ("gemma3", {"layer_types": ["full_attention"]}),
        ("gemma3", {"layer_types": ["full_attention"] * 4}),
        ("gemma3", {"layer_types": ["sideways_attention"] * 3}),
        ("gemma3", {"layer_types": 3}),
        ("gemma3", {"sliding_window": 0}),
        ("t5", {"relative_attention_num_buckets": 1}),
        ("t5", {"num_decoder_layers": 10**8}),
        ("bart", {"decoder_start_token_id": "</s>"}),
    ],
    ids=str,
)
def test_configurations_that_no_model_has(kind: str, values: dict[str, Any], roots: dict[str, Path], tmp_path: Path) -> None:
    place = edit(copy(roots[kind], tmp_path / "x"), **values)
    start = time.perf_counter()
    with fails(HunminError, str(place)):
        load(place, KINDS[kind][1])
    assert time.perf_counter() - start < 5


def test_a_vocabulary_larger_than_the_embedding(gpt2: Path) -> None:
    from hunmin import pipeline

    with fails(FormatError, str(gpt2), "400 tokens", "99 rows"):
        pipeline("text-generation", str(gpt2))


def test_prompts_that_do_not_fit(bert: Path, gpt2: Path) -> None:
    for place in (bert, gpt2):
        model = load(place, None)
        with fails(InputError, "65 tokens", "at most 64"):
            model(torch.full((1, 65), 5))
        for empty in (torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long), torch.zeros(3, dtype=torch.long)):
            with fails(InputError, "at least one token", str(tuple(empty.shape))):
                model(empty)
        for wrong in (-1, 99, 2**40):
            with fails(InputError, f"Id {wrong} ", "99 rows"):
                model(torch.tensor([[5, wrong]]))
        with fails(InputError, "whole numbers", "float32"):
            model(torch.ones(1, 3))
        with fails(InputError, "attention_mask", "(1, 7)", "(1, 5)"):
            model(IDS, attention_mask=torch.ones(1, 7))
        for positions in (torch.zeros(1, 7, dtype=torch.long), torch.full((1, 5), -1)):
            with fails(InputError, "position_ids"):
                model(IDS, position_ids=positions)
        for where in (Where.packed([2, 2]), Where.packed([3, 3]), Where.plain(2, 5), Where.packed([5, 0])):
            with fails(InputError, "where"):
                model(IDS, where=where)
        with pytest.raises(InputError):
            model()
    with fails(InputError, "Id 2 ", "2 rows"):
        load(bert, None)(IDS, token_type_ids=torch.full_like(IDS, 2))


def test_empty_prompts_and_other_kinds(gpt2: Path) -> None:
    from hunmin import pipeline

    model = load(gpt2, None)
    model.resize_token_embeddings(400)
    pipe = pipeline("text-generation", model, tokenizer=AutoTokenizer.from_pretrained(gpt2))
    for wrong in (5, [5], b"x"):
        with fails(InputError, "text-generation takes"):
            list(pipe(wrong))
    with fails(InputError, "The prompt is empty"):
        pipe("", add_special_tokens=False)


def test_labels_that_do_not_fit(bert: Path) -> None:
    model = load(bert, None)
    many = model.config.num_labels
    for labels in (torch.tensor([many]), torch.tensor([0, 1]), torch.full((1, many + 1), 0.5)):
        with fails(InputError, "labels"):
            model(IDS, labels=labels)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_without_a_value(value: float, bert: Path) -> None:
    reweigh(bert, lambda t: t[QUERY].view(-1)[77:78].fill_(value))
    with fails(FormatError, str(bert), QUERY, "NaN or an infinity"):
        load(bert, None)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_weights_that_are_no_floats(dtype: torch.dtype, bert: Path) -> None:
    reweigh(bert, lambda t: t.update({QUERY: t[QUERY].to(dtype)}))
    with fails(FormatError, str(bert), QUERY, str(dtype).removeprefix("torch.")):
        load(bert, None)


def test_weights_of_several_dtypes_are_computed_in_the_usual_one(bert: Path) -> None:
    reweigh(bert, lambda t: t.update({name: v.bfloat16() for name, v in t.items() if "LayerNorm" not in name}))
    model = load(bert, None)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(IDS).logits.isfinite().all()


def test_a_body_with_a_hole(bert: Path) -> None:
    reweigh(bert, lambda t: [t.pop(name) for name in list(t) if ".layer.1." in name])
    with fails(FormatError, str(bert), "lacks 16 weights", "bert.encoder.layer.1."):
        load(bert, None)


def test_no_weights_and_no_configuration(bert: Path) -> None:
    (bert / "model.safetensors").unlink()
    with fails(SourceError, str(bert), "no weights", "model.safetensors"):
        load(bert, None)
    (bert / "config.json").unlink()
    with fails(SourceError, str(bert), "config.json"):
        load(bert, None)


def test_stored_quantized(bert: Path) -> None:
    for settings_, name in (({"quant_method": "fp8", "bits": 8}, "fp8"), ("awq", "awq")):
        with fails(ConfigError, str(bert), "quantized", name):
            load(edit(bert, quantization_config=settings_), None)


def test_options_that_cannot_be(bert: Path) -> None:
    for dtype in ("float33", "int64", "float8_e4m3fn", 7, "nn"):
        with fails(InputError, "dtype", repr(dtype)):
            load(bert, None, dtype=dtype)
    with fails(InputError, "device", "'abacus'"):
        load(bert, None, device="abacus")
    if not torch.cuda.is_available():
        with fails(InputError, "device", "'cuda'"):
            load(bert, None, device_map="cuda")
    with fails(InputError, "'num_lables'", "bert"):
        load(bert, None, num_lables=3)
    with fails(InputError, "'dtype'", "twice"):
        load(bert, None, dtype="float32", torch_dtype="bfloat16")
    assert load(bert, None, dtype="bfloat16", torch_dtype="bfloat16").dtype is torch.bfloat16


def test_views_that_are_not_contiguous_are_saved_and_loaded(bert: Path, tmp_path: Path) -> None:
    model = load(bert, None)
    layer = model.get_submodule("encoder.stack.layers.0.ffn.up")
    layer.weight = torch.nn.Parameter(torch.randn(32, 48).T)
    assert not layer.weight.is_contiguous()
    model.save_pretrained(tmp_path / "out")
    again = load(tmp_path / "out", None)
    assert torch.equal(again.get_submodule("encoder.stack.layers.0.ffn.up").weight, layer.weight)


def test_messages_in_korean(korean: None, bert: Path, gpt2: Path) -> None:
    with fails(ConfigError, str(bert), "'martian'", "지원하지 않는 아키텍처"):
        load(edit(bert, model_type="martian"), None)
    with fails(ConfigError, "model_type이 없어"):
        load(edit(bert, model_type=...), None)
    edit(bert, model_type="bert")
    with fails(InputError, "dtype 'x'을(를) 알 수 없습니다"):
        load(bert, None, dtype="x")
    with fails(InputError, "'wrong' 옵션이 없고"):
        load(bert, None, wrong=1)
    model = load(bert, None)
    for ids, said in (
        (torch.full((1, 65), 5), "최대 64토큰"),
        (torch.zeros(1, 0, dtype=torch.long), "하나 이상"),
        (torch.tensor([[99]]), "99행 범위"),
    ):
        with fails(InputError, said):
            model(ids)
    from hunmin import pipeline

    with fails(FormatError, str(gpt2), "서로 맞지 않습니다"):
        pipeline("text-generation", str(gpt2))
    with fails(ConfigError, "만들 수 없습니다"):
        load(edit(copy(bert, bert.parent / "h"), num_attention_heads=5), None)
    whole = load_file(bert / "model.safetensors")
    for change, said in (
        (lambda t: t[QUERY].fill_(float("nan")), "NaN이나 무한대"),
        (lambda t: t.update({QUERY: torch.zeros(3)}), "모양은 (3,)"),
        (lambda t: t.pop(QUERY), "1개가 없습니다"),
        (lambda t: t.update({QUERY: t[QUERY].long()}), "실수가 아니라 int64"),
    ):
        save_file({k: v.clone() for k, v in whole.items()}, bert / "model.safetensors")
        with fails(FormatError, str(bert), said):
            load(reweigh(bert, change), None)
    (bert / "model.safetensors").write_bytes(b"x")
    with fails(FormatError, str(bert / "model.safetensors"), "손상되었거나 잘린"):
        load(bert, None)
    with fails(ConfigError, "양자화"):
        load(edit(bert, quantization_config={"quant_method": "quanto"}), None)
    (bert / "config.json").write_text("{")
    with fails(FormatError, "올바른 JSON이 아닙니다"):
        load(bert, None)


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_the_command_line_prints_no_traceback(broken: str, gpt2: Path) -> None:
    tensors = {k: v for path in gpt2.glob("*.safetensors") for k, v in load_file(path).items()}
    tensors["transformer.wte.weight"] = torch.randn(400, 32)
    write_tensors(iter(tensors.items()), gpt2)
    edit(gpt2, vocab_size=400)
    path = gpt2 / broken
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = sorted(gpt2.iterdir())
    command = [sys.executable, "-c", "from hunmin.cli import main; main()", "run", "text-generation", "hello", "--model", str(gpt2)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr and str(gpt2) in done.stderr and done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) <= 2, done.stderr
    assert sorted(gpt2.iterdir()) == before
