"""Quantization as users ask for it: options at load, folders of our own, and what a quantized model does when it is handled."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hunmin
from hunmin import AwqConfig, BitsAndBytesConfig, GPTQConfig, InputError, LoraConfig, get_peft_model, prepare_model_for_kbit_training
from hunmin.auto import load
from hunmin.errors import ConfigError, FormatError
from hunmin.hub.tensors import Safetensors
from hunmin.native import library
from hunmin.quantization import choose
from hunmin.quantize import Packed, QuantizedEmbedding, QuantizedLinear, dequantize_linears
from hunmin.quantize.calibrate import quantize
from hunmin.quantize.plan import Plan, describe
from hunmin.quantize.rounding import fitted
from hunmin.quantize.tiles import Tiles, rounded
from tests.cases import CASES, MASK, ROWS, Case, difference
from tests.test_adapters import FIRST, MAIN, answer, main
from tests.test_parity import write

WORDS = ("int8", "int4", "nf4")
EACH = [(c, t, WORDS[(i + n) % 3]) for i, (c, t) in enumerate(MAIN) for n in range(3 if c.model_type in ("gpt2", "llama") else 1)]
words = pytest.mark.parametrize("word", WORDS)


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm().clamp(min=1e-9)).item()


def packed(model: nn.Module) -> dict[str, Packed]:
    return {n: m for n, m in model.named_modules() if isinstance(m, Packed)}


def made(name: str, folder: Path, **options: Any) -> Any:
    case, task = next((c, t) for c, t in MAIN if c.model_type == name)
    write(case, task, folder)
    return load(folder, task, **options)


# -------------------------------------------------------------- at load


@pytest.mark.parametrize(("case", "task", "word"), EACH, ids=[f"{c.model_type}-{w}" for c, _, w in EACH])
def test_every_architecture_loads_rounded_and_travels(case: Case, task: str, word: str, tmp_path: Path) -> None:
    """Close to the original, the same after a round trip, bit for bit, and plain again on request."""
    write(case, task, tmp_path / "a")
    plain, model = load(tmp_path / "a", task), load(tmp_path / "a", task, quantization=word)
    names = packed(model)
    assert names and all(m.kind in (word, "int8") for m in names.values())
    assert not any(isinstance(m, nn.Linear) for n, m in model.named_modules() if not n.startswith("head"))
    assert model.num_parameters() == plain.num_parameters()
    assert model.get_memory_footprint() < plain.get_memory_footprint()
    weights = {n: off(m.weight, plain.get_submodule(n).weight) for n, m in names.items()}
    assert max(weights.values()) < (0.01 if word == "int8" else 0.12)
    model.save_pretrained(tmp_path / "b")
    again = load(tmp_path / "b", task)
    state, other = model.state_dict(), again.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)
    want = answer(model, case, task)
    assert torch.equal(answer(again, case, task), want) and describe(again) == describe(model)
    dense = load(tmp_path / "b", task, quantization="bf16")
    assert not packed(dense) and dense.dtype == torch.bfloat16
    dequantize_linears(again)
    again.save_pretrained(tmp_path / "c")
    assert describe(again) is None and off(answer(load(tmp_path / "c", task), case, task), want) < 0.05


@main
def test_eight_bits_answer_as_the_original(case: Case, task: str, tmp_path: Path) -> None:
    """As far as rows of 32 random numbers allow: real ones are wider, and their errors average out."""
    write(case, task, tmp_path)
    assert off(answer(load(tmp_path, task, quantization="int8"), case, task), answer(load(tmp_path, task), case, task)) < 0.12


def test_what_is_rounded(tmp_path: Path) -> None:
    """A language model's embedding and head in one int8 matrix where they are tied; encoders keep both and round their inputs."""
    write(next(c for c in CASES if c.id == "qwen2-switched-off"), "CausalLM", tmp_path / "a")
    model = load(tmp_path / "a", "CausalLM", quantization="int4")
    assert model.decoder.embed.tokens.kind == "int8" and model.head.out.codes is model.decoder.embed.tokens.codes
    model.save_pretrained(tmp_path / "tied")
    assert not any(n.startswith("hunmin.head") for n in Safetensors([tmp_path / "tied" / "model.safetensors"]).names())
    again = load(tmp_path / "tied", "CausalLM")
    assert again.head.out.codes is again.decoder.embed.tokens.codes
    encoder = made("bert", tmp_path / "b", quantization="int8")
    assert isinstance(encoder.encoder.embed.tokens, nn.Embedding)
    assert all(m.round_inputs for m in packed(encoder).values() if isinstance(m, QuantizedLinear))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"load_in_8bit": True}, "int8"),
        ({"load_in_4bit": True}, "int4"),
        ({"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)}, "nf4"),
        ({"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0)}, "int8"),
        ({"quantization_config": {"load_in_4bit": True}}, "int4"),
        ({"load_in_4bit": False}, None),
    ],
)
def test_taught_spellings(options: dict[str, Any], kind: str | None, tmp_path: Path) -> None:
    """They leave the embedding and the head alone, as bitsandbytes does."""
    model = made("llama", tmp_path, **options)
    assert {m.kind for m in packed(model).values()} == ({kind} if kind else set())
    assert isinstance(model.head.out, nn.Linear) and isinstance(model.decoder.embed.tokens, nn.Embedding)


def test_compute_dtype_and_skipped_modules(tmp_path: Path) -> None:
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=["q_proj", "mlp.down_proj", "lm_head"]
    )
    model = made("llama", tmp_path, quantization_config=config)
    assert model.dtype == torch.bfloat16 and {n.rpartition(".")[2] for n in packed(model)} == {"k", "v", "o", "gate", "up"}
    assert {m.dtype for m in packed(model).values()} == {torch.bfloat16}


def test_a_part_of_what_is_stored_together_travels(tmp_path: Path) -> None:
    """GPT-2 stores q, k and v as one tensor; a model in which only two of them are packed is saved and read all the same."""
    model = made("gpt2", tmp_path / "a")
    quantize(model, Plan("int8", skip=("attn.k",)))
    model.save_pretrained(tmp_path / "b")
    again = load(tmp_path / "b", "CausalLM")
    assert packed(again).keys() == packed(model).keys() and isinstance(again.decoder.stack.layers[0].attn.k, nn.Linear)
    assert torch.equal(answer(again, FIRST["gpt2"], "CausalLM"), answer(model, FIRST["gpt2"], "CausalLM"))


def test_auto_says_what_it_chose(tmp_path: Path) -> None:
    kind, why = choose("llama", "CausalLM")
    assert why and kind == ("int8" if library() is not None else choose("bert", "MaskedLM")[0])
    kernels = library()
    assert choose("bert", "MaskedLM")[0] in (("int8",) if kernels is not None and kernels.many else ("bf16", None))
    assert choose("llama", "CausalLM", torch.device("cuda"))[0] == "bf16"
    model = made("llama", tmp_path, quantization="auto")
    assert bool(packed(model)) == (kind == "int8")
    model.save_pretrained(tmp_path / "b")
    assert packed(load(tmp_path / "b", "CausalLM", quantization="auto")).keys() == packed(model).keys()


def test_bad_requests(tmp_path: Path) -> None:
    for options, said in (
        ({"quantization": "int3"}, "quantization is one of"),
        ({"quantization": "int8", "load_in_4bit": True}, "Give one of"),
        ({"quantization_config": GPTQConfig(bits=4)}, "needs bits=4 or 8, dataset="),
        ({"quantization_config": AwqConfig(dataset=["a b"], tokenizer="x", bits=3)}, "needs bits=4 or 8"),
    ):
        with pytest.raises(InputError, match=said):
            made("llama", tmp_path, **options)
    with pytest.raises(InputError, match="load_in_8bit or load_in_4bit"):
        BitsAndBytesConfig(load_in_4bit=True, load_in_8bit=True)
    with pytest.raises(InputError, match="has no 'bits'"):
        BitsAndBytesConfig(bits=4)
    made("llama", tmp_path, quantization="int8").save_pretrained(tmp_path / "b")
    with pytest.raises(InputError, match="stored quantized already"):
        load(tmp_path / "b", "CausalLM", quantization="int4")
    config = hunmin.AutoConfig.from_pretrained(tmp_path / "b")
    config["quantization_config"] = {"quant_method": "quanto"}
    with pytest.raises(ConfigError, match=r"stored quantized \(quanto\)"):
        load(tmp_path / "b", "CausalLM", config=config)


def test_a_damaged_folder_of_ours_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    made("llama", tmp_path, quantization="int8").save_pretrained(tmp_path / "b")
    file = tmp_path / "b" / "model.safetensors"
    whole = load_file(file)
    name = next(n for n in whole if n.endswith("attn.q.codes"))
    for change in (
        lambda t: t.pop(name),
        lambda t: t.update({name: t[name][:1].clone()}),
        lambda t: t.update({name: t[name].flatten()}),
        lambda t: t.update({name.replace("codes", "scales"): t[name.replace("codes", "scales")] * torch.inf}),
    ):
        broken = dict(whole)
        change(broken)
        save_file(broken, file, {"format": "pt"})
        with pytest.raises(FormatError, match=str(tmp_path / "b")):
            load(tmp_path / "b", "CausalLM")


# -------------------------------------------------------------- numbers


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1.0, 1e4, 1e6])
@pytest.mark.parametrize("kind", ["int8", "int4", "nf4", "fitted"])
def test_extreme_magnitudes_keep_their_precision(kind: Any, size: float) -> None:
    """Scales that half precision cannot hold stay in fp32: the kernels then leave the layer to PyTorch."""
    torch.manual_seed(0)
    weight = torch.randn(33, 96) * size
    tiles = fitted(weight) if kind == "fitted" else rounded(weight, kind)
    assert off(tiles.numbers(torch.float32), weight) < (0.01 if kind == "int8" else 0.12)
    assert tiles.native == (kind != "nf4" and tiles.scales.dtype == torch.float16)
    with torch.no_grad():
        layer, x = QuantizedLinear(tiles, round_inputs=True), torch.randn(3, 96)
        assert off(layer(x), x @ tiles.numbers(torch.float32).T) < 0.02
    zero = Tiles.of(torch.zeros(4, 32), torch.zeros(4, 1), None, 8)
    assert not zero.numbers(torch.float32).any() and zero.native


@pytest.mark.parametrize("width", [32, 160, 200])
@pytest.mark.parametrize("group", [32, 128])
def test_the_search_lowers_the_error(width: int, group: int) -> None:
    torch.manual_seed(0)
    weight, importance = torch.randn(48, width) + 0.3, torch.rand(width) ** 4
    error = {s: off(fitted(weight, group, symmetric=s).numbers(torch.float32), weight) for s in (True, False, None)}
    assert error[False] < error[True] < off(rounded(weight, "int4", group).numbers(torch.float32), weight)
    assert error[None] == min(error.values())

    def weighed(tiles: Tiles) -> float:
        return ((tiles.numbers(torch.float32) - weight).square() * importance).sum().item()

    assert weighed(fitted(weight, group, importance=importance)) < weighed(fitted(weight, group))


@pytest.mark.skipif(library() is None, reason="the kernels are not built")
def test_rows_do_not_depend_on_each_other() -> None:
    """Products of integers: an outlier in one row harms no other, and the error is that of 8 bits."""
    torch.manual_seed(0)
    weight, bias, x = torch.randn(40, 96), torch.randn(40), torch.randn(300, 96)
    x[7] *= 1000
    layer = QuantizedLinear(rounded(weight, "int8"), bias, round_inputs=True)
    with torch.no_grad():
        y = layer(x[:30])
        assert off(y[:7], x[:7] @ weight.T + bias) < 0.012 and off(layer(torch.zeros(30, 96)), bias.expand(30, -1)) == 0
        assert torch.equal(layer(x[10:14]), y[10:14])
        assert off(layer(x), x @ weight.T + bias) < 0.012
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    assert layer(x.requires_grad_()).requires_grad


# -------------------------------------------------------------- handling


@words
def test_copies_pickles_and_states(word: str, tmp_path: Path) -> None:
    case, task = FIRST["llama"], "CausalLM"
    model = made("llama", tmp_path, quantization=word)
    want = answer(model, case, task)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = load(tmp_path, task, quantization=word)
    with torch.no_grad():
        for layer in packed(other).values():
            layer.scales.zero_()
    assert not torch.equal(answer(other, case, task), want)
    assert not other.load_state_dict(state).missing_keys
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other):
        assert torch.equal(answer(twin, case, task), want)
    with pytest.raises(InputError, match="is a plain weight"):
        other.load_state_dict(load(tmp_path, task).state_dict())
    with pytest.raises(InputError, match="quantized otherwise"):
        other.load_state_dict(load(tmp_path, task, quantization="int4" if word != "int4" else "nf4").state_dict())


@words
def test_dtypes(word: str, tmp_path: Path) -> None:
    """What the model computes in changes, the packed numbers do not."""
    case, task = FIRST["llama"], "CausalLM"
    model = made("llama", tmp_path, quantization=word)
    before, want = {n: m.scales.clone() for n, m in packed(model).items()}, answer(model, case, task)
    low = answer(model.to(torch.bfloat16), case, task)
    assert low.dtype == torch.bfloat16 and model.dtype == torch.bfloat16 and off(low.float(), want) < 0.05
    model.float()
    assert all(torch.equal(m.scales, before[n]) and m.dtype == torch.float32 for n, m in packed(model).items())
    assert off(answer(model, case, task), want) < 0.05  # the norms were rounded


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "t5"])
def test_resizing(name: str, tmp_path: Path) -> None:
    """The embedding and the projection become ordinary matrices, as new rows have to be trained."""
    model = made(name, tmp_path, quantization="int8")
    rows = model.get_input_embeddings().num_embeddings
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        want = model(ids).logits
        model.resize_token_embeddings(rows + 3)
        got = model(torch.tensor([[3, 4, rows + 2]])).logits
    assert got.shape[-1] == rows + 3 and not isinstance(model.get_input_embeddings(), QuantizedEmbedding)
    assert model.get_input_embeddings().weight.requires_grad
    with torch.no_grad():
        assert off(model(ids).logits[..., :rows], want) < 0.03


def test_training(tmp_path: Path) -> None:
    """Without adapters nothing worth training is left; with them the base stays as it is."""
    from hunmin import Trainer, TrainingArguments

    model = made("llama", tmp_path, load_in_4bit=True)
    rows = [{"input_ids": ROWS[0].tolist(), "labels": ROWS[0].tolist()}] * 4
    arguments = TrainingArguments(
        str(tmp_path / "out"), max_steps=2, report_to=[], save_strategy="no", disable_tqdm=True, learning_rate=0.01
    )
    for each in (model, prepare_model_for_kbit_training(copy.deepcopy(model))):
        with pytest.raises(InputError, match="Add adapters: get_peft_model"):
            Trainer(each, arguments, train_dataset=rows).train()
    before = {n: m.codes.clone() for n, m in packed(model).items()}
    peft = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(target_modules="all-linear", r=2))
    Trainer(peft, arguments, train_dataset=rows).train()
    assert all(torch.equal(m.codes, before[n]) for n, m in packed(model).items())
    assert any(p.abs().sum() > 0 for n, p in peft.named_parameters() if n.endswith("lora_B"))


def test_an_adapter_on_a_wholly_quantized_model(tmp_path: Path) -> None:
    """Embedding and head are packed as well; prompts, prefixes and LoRA start as nothing and get gradients."""
    from hunmin import PrefixTuningConfig, PromptTuningConfig

    for config in (LoraConfig(r=2), PromptTuningConfig(num_virtual_tokens=3), PrefixTuningConfig(num_virtual_tokens=2)):
        model = made("llama", tmp_path, quantization="int8")
        peft = get_peft_model(model, config)
        peft.train()(ROWS, MASK, labels=ROWS).loss.backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in peft.parameters())
        with pytest.raises(InputError, match="is quantized" if isinstance(config, LoraConfig) else "virtual tokens"):
            peft.merge_and_unload()


def test_generation_equals_the_unpacked_model(tmp_path: Path) -> None:
    """Greedy tokens, where the inputs of layers are not rounded."""
    model = made("qwen2", tmp_path, quantization="int4")
    for layer in packed(model).values():
        layer.round_inputs = False  # type: ignore[assignment]
    tokens = model.generate(ROWS[:, :5], max_new_tokens=6, do_sample=False)
    dense = copy.deepcopy(model)
    dequantize_linears(dense)
    assert difference(model(ROWS).logits, dense(ROWS).logits) < 1e-4
    assert torch.equal(dense.generate(ROWS[:, :5], max_new_tokens=6, do_sample=False), tokens)
