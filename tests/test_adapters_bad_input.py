"""What users get wrong with adapters: one clear message each, in both languages, and the model as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hunmin import (
    AutoPeftModel,
    AutoPeftModelForCausalLM,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from hunmin.adapters import freeze, lora_plus_groups
from hunmin.auto import load
from hunmin.errors import HunminError, InputError
from hunmin.nn.where import Where
from tests.cases import CASES, MASK, ROWS
from tests.test_adapters import FIRST, adapted, answer, base, causal

OPTIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "rank zero": (lambda: LoraConfig(r=0), "r is a whole number above zero, not 0"),
    "rank below": (lambda: LoraConfig(r=-3), "not -3"),
    "rank as text": (lambda: LoraConfig(r="8"), "r is int, not '8'"),  # type: ignore[arg-type]
    "rank true": (lambda: LoraConfig(r=True), "r is int"),
    "alpha": (lambda: LoraConfig(lora_alpha="a"), "lora_alpha is float"),  # type: ignore[arg-type]
    "dropout": (lambda: LoraConfig(lora_dropout=1.5), "lora_dropout is between 0 and 1, not 1.5"),
    "option": (lambda: LoraConfig(rank=8), "LoraConfig has no option 'rank'. It has: .* r, "),  # type: ignore[call-arg]
    "bias": (lambda: LoraConfig(bias="some"), "bias is 'none', 'all' or 'lora_only', not 'some'"),
    "task": (lambda: LoraConfig(task_type="CHAT"), "task_type 'CHAT' is unknown; use one of SEQ_CLS"),
    "init": (lambda: LoraConfig(init_lora_weights="best"), "init_lora_weights 'best' is unknown; use one of True, False, gaussian"),
    "rank of pissa": (lambda: LoraConfig(r=999, init_lora_weights="pissa"), "above the rank of a weight of shape"),
    "target": (lambda: LoraConfig(target_modules=["query", "keys"]), "no layer 'query'. It has: .*c_attn.* \\(or .*q.*\\)"),
    "targets": (lambda: LoraConfig(target_modules=[]), "target_modules is a list of layer names"),
    "target number": (lambda: LoraConfig(target_modules=3), "target_modules is list"),  # type: ignore[arg-type]
    "expression": (lambda: LoraConfig(target_modules="(q"), "not a regular expression"),
    "expression of nothing": (lambda: LoraConfig(target_modules=".*nothing"), "no layer '.\\*nothing'"),
    "norm": (lambda: LoraConfig(target_modules=["ln_1"]), "ln_1 is a LayerNorm, which this adapter cannot change"),
    "layers": (lambda: LoraConfig(layers_to_transform=[7]), "layers_to_transform=\\[7\\] leaves no layer"),
    "saved": (lambda: LoraConfig(modules_to_save=["clasifier"]), "modules_to_save: this gpt2 model has no layer 'clasifier'"),
    "saved as text": (lambda: LoraConfig(modules_to_save="lm_head"), "modules_to_save is list\\[str\\] or None"),  # type: ignore[arg-type]
    "pattern": (lambda: LoraConfig(rank_pattern={"c_attn": 0}), "r is a whole number above zero, not 0"),
    "pattern of nothing": (lambda: LoraConfig(alpha_pattern={"(": 3}), "alpha_pattern: .* is not a regular expression"),
    "dora of tokens": (lambda: LoraConfig(target_modules=["wte"], use_dora=True), "use_dora needs linear layers"),
    "scaled tokens": (lambda: IA3Config(target_modules=["wte"]), "wte is a .*Embedding"),
    "no tokens": (lambda: PromptTuningConfig(num_virtual_tokens=0), "num_virtual_tokens is one or more"),
    "tokens as text": (lambda: PrefixTuningConfig(num_virtual_tokens="3"), "num_virtual_tokens is int"),  # type: ignore[arg-type]
    "prompt": (lambda: PromptTuningConfig(prompt_tuning_init="WORDS"), "prompt_tuning_init is one of RANDOM, SAMPLE_VOCAB, TEXT"),
    "text": (lambda: PromptTuningConfig(prompt_tuning_init="TEXT"), "needs prompt_tuning_init_text"),
    "width": (lambda: PromptTuningConfig(token_dim=5), "token_dim is 32 for this model, not 5"),
    "no kind": (lambda: PeftConfig(), "An adapter is described by LoraConfig"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_configurations(name: str, tmp_path: Path) -> None:
    make, message = OPTIONS[name]
    model = base(FIRST["gpt2"], "CausalLM", tmp_path)
    before = answer(model, FIRST["gpt2"], "CausalLM")
    with pytest.raises(InputError, match=message) as error:
        get_peft_model(model, make())
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
    assert all(p.requires_grad for p in model.parameters()) and torch.equal(answer(model, FIRST["gpt2"], "CausalLM"), before)


def test_messages_in_korean(korean: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'keys' 층이 없습니다. 있는 층: .*c_attn"):
        get_peft_model(base(FIRST["gpt2"], "CausalLM", tmp_path), LoraConfig(target_modules=["keys"]))


def test_bad_calls(tmp_path: Path) -> None:
    peft = causal("llama", tmp_path)
    peft.add_adapter("small", LoraConfig(r=2, target_modules="all-linear"))
    peft.add_adapter("dora", LoraConfig(use_dora=True))
    peft.add_adapter("prompt", PromptTuningConfig())
    peft.add_adapter("prefix", PrefixTuningConfig())
    calls: dict[str, Callable[[], Any]] = {
        "There is no adapter 'x'. There are: default, small": lambda: peft.set_adapter("x"),
        "no adapter 'y'": lambda: peft.delete_adapter("y"),
        "cannot be called 'default'": lambda: peft.add_adapter("default", LoraConfig()),
        "cannot be called 'a.b'": lambda: peft.add_adapter("a.b", LoraConfig()),
        "cannot be called 'sites'": lambda: peft.add_adapter("sites", LoraConfig()),
        "cannot be called '__base__'": lambda: peft.add_adapter("__base__", LoraConfig()),
        "adapter_names has 1 names, the batch 2 rows": lambda: peft(ROWS, MASK, adapter_names=["small"]),
        "no adapter 'z'": lambda: peft(ROWS, MASK, adapter_names=["small", "z"]),
        "not prompts or prefixes": lambda: peft(ROWS, MASK, adapter_names=["small", "prompt"]),
        "one weight an adapter: 2 adapters, 1 weights": lambda: peft.add_weighted_adapter(["default", "small"], [1.0], "n"),
        "needs adapters of one rank": lambda: peft.add_weighted_adapter(["default", "small"], [1.0, 1.0], "n"),
        "combination_type 'ties' is unknown": lambda: peft.add_weighted_adapter(["default"], [1.0], "n", "ties"),
        "DoRA adapters do not add up": lambda: peft.add_weighted_adapter(["dora"], [1.0], "n"),
        "prompt is not a LoRA adapter": lambda: peft.add_weighted_adapter(["prompt"], [1.0], "n"),
        "made of virtual tokens": lambda: peft.merge_adapter(["prefix"]),
        "Only one prompt or prefix": lambda: peft.set_adapter(["prompt", "prefix"]),
        "needs a model of Hunmin, not Linear": lambda: get_peft_model(torch.nn.Linear(2, 2), LoraConfig()),  # type: ignore[arg-type]
        "needs a model of Hunmin, not PeftModel": lambda: get_peft_model(peft, LoraConfig()),  # type: ignore[arg-type]
        "has adapters already": lambda: get_peft_model(peft.base_model, LoraConfig()),
        "from_pretrained has no option 'torch_typ'. It has: revision": lambda: peft.load_adapter(tmp_path, "x", torch_typ=1),
        "matches no parameter. There are: ": lambda: freeze(peft, "nothing"),
        "not a regular expression": lambda: freeze(peft, "("),
    }
    before = answer(peft, FIRST["llama"], "CausalLM")
    for message, call in calls.items():
        with pytest.raises(InputError, match=message):
            call()
    assert peft.active_adapters == ["default"] and torch.equal(answer(peft, FIRST["llama"], "CausalLM"), before)
    assert list(peft.peft_config) == ["default", "small", "dora", "prompt", "prefix"]
    with pytest.raises(InputError, match=r"inference \(model.eval\(\)\)"):
        peft.train()(ROWS, adapter_names=["small", "small"])
    with pytest.raises(InputError, match="LoRA adapter that is trained"):
        lora_plus_groups(peft.base_model, 1e-3)
    for name in list(peft.peft_config):
        peft.delete_adapter(name)
    with pytest.raises(InputError, match="No adapter acts"):
        _ = peft.active_adapter


@pytest.mark.parametrize("config", [PromptTuningConfig(num_virtual_tokens=3), PrefixTuningConfig(num_virtual_tokens=3)])
def test_bad_calls_with_virtual_tokens(config: PeftConfig, tmp_path: Path) -> None:
    peft = causal("gpt2", tmp_path, config)
    with pytest.raises(InputError, match="one sequence a row"):
        peft(ROWS[:1], where=Where.packed([4, 5]))
    with pytest.raises(InputError, match="leave position_ids out"):
        peft(ROWS, position_ids=torch.arange(9))
    with pytest.raises(InputError, match="attention_mask has shape"):
        peft(ROWS, MASK[:, :4])
    with pytest.raises(InputError, match="needs token ids of shape"):
        peft()
    with pytest.raises(InputError, match="whole numbers"):
        peft(ROWS.float())
    with pytest.raises(InputError, match="Id 586 is outside"):
        peft(ROWS + 495)
    both = adapted(FIRST["t5"], "Seq2SeqLM", tmp_path / "t5", config)
    with pytest.raises(InputError, match="attention_mask has shape"):
        both.generate(ROWS, attention_mask=MASK[:, :4], max_new_tokens=2)
    with pytest.raises(InputError, match=r"has 70 tokens, the model at most 64|has 67 tokens, the model at most 64"):
        peft(torch.full((1, 64), 5))
    if isinstance(config, PrefixTuningConfig):
        with pytest.raises(InputError, match=r"scores follow from distances. Use LoRA"):
            get_peft_model(base(FIRST["deberta-v2"], "MaskedLM", tmp_path / "d"), config)


def test_distances_cannot_be_mixed(tmp_path: Path) -> None:
    """DeBERTa sends its table of distances through q and k: it has no rows to choose an adapter by."""
    peft = adapted(FIRST["deberta-v2"], "MaskedLM", tmp_path, LoraConfig(target_modules=["key_proj"]))
    with pytest.raises(InputError, match="also projects distances"):
        peft(ROWS, MASK, adapter_names=["default", "default"])


def test_tied_weights_that_cannot_part(tmp_path: Path) -> None:
    """An embedding's adapter can be merged where the config can untie the head; where it cannot, it is refused and nothing has changed."""
    peft = adapted(FIRST["gpt2"], "CausalLM", tmp_path / "g", LoraConfig(target_modules=["wte"]))
    want = answer(peft, FIRST["gpt2"], "CausalLM")
    merged = peft.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = load(tmp_path / "merged", "CausalLM")
    assert torch.allclose(answer(again, FIRST["gpt2"], "CausalLM"), want, rtol=1e-4, atol=1e-5) and not again.config.tie_word_embeddings
    both = adapted(FIRST["t5"], "Seq2SeqLM", tmp_path / "t", LoraConfig(target_modules=["shared"]))
    before = answer(both, FIRST["t5"], "Seq2SeqLM")
    with pytest.raises(InputError, match="are one tensor in this architecture"):
        both.merge_and_unload()
    assert torch.equal(answer(both, FIRST["t5"], "Seq2SeqLM"), before)


# -------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    causal("llama", tmp_path / "base").save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "qwen3", "llama-deep", "llama-wide"])
def test_an_adapter_for_another_model(name: str, folder: Path, tmp_path: Path) -> None:
    """Another architecture, other widths, fewer layers: one line, which says for which model it was made."""
    if name.startswith("llama"):
        config = json.loads((tmp_path / "base" / "config.json").read_text())
        config |= {"num_hidden_layers": 1} if name == "llama-deep" else {"intermediate_size": 52}
        from hunmin import AutoConfig, AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(AutoConfig.from_dict(config))
    else:
        case = FIRST[name]
        model = base(case, next(t for t in case.tasks if t != "Model"), tmp_path / "other")
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(
        HunminError, match=r"This adapter was made for another model \(.*base\): \d+/\d+ of its tensors do not fit"
    ) as error:
        PeftModel.from_pretrained(model, folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert not sum(len(m._forward_hooks) for m in model.modules())


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no configuration": (lambda f: (f / "adapter_config.json").unlink(), "no adapter_config.json"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "no json": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json"),
    "cut off": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x00" * 20), "damaged or cut off"),
    "unknown kind": (lambda f: edit(f, peft_type="VERA"), "peft_type that Hunmin does not have. It has: LORA, IA3"),
    "no kind": (lambda f: edit(f, peft_type=None), "peft_type"),
    "unknown feature": (lambda f: edit(f, use_qalora=True), "says use_qalora=True, which Hunmin cannot compute"),
    "bad alpha": (lambda f: edit(f, lora_alpha=None), "lora_alpha is float"),
    "bad pattern": (lambda f: edit(f, rank_pattern={"a": "b"}), "rank_pattern is dict"),
    "changed base": (lambda f: edit(f, init_lora_weights="loftq"), "init_lora_weights='loftq', which also changed the base"),
    "nothing in it": (lambda f: save_file({}, f / "adapter_model.safetensors"), "made for another model"),
    "half an update": (lambda f: tensors(f, lambda k, t: None if "lora_A" in k else t), "made for another model"),
    "not a number": (lambda f: tensors(f, lambda k, t: t * float("nan")), "holds a NaN"),
    "not floats": (lambda f: tensors(f, lambda k, t: t.long()), "not floating-point"),
    "a vector": (lambda f: tensors(f, lambda k, t: t.flatten()), "made for another model"),
    "a number": (lambda f: tensors(f, lambda k, t: t.sum()), "made for another model"),
    "other names": (lambda f: tensors(f, lambda k, t: t, "x."), "made for another model"),
}


def edit(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def tensors(folder: Path, change: Callable[[str, Any], Any], prefix: str = "") -> None:
    path = folder / "adapter_model.safetensors"
    made = {prefix + k: change(k, t) for k, t in load_file(path).items()}
    save_file({k: t.contiguous() for k, t in made.items() if t is not None}, path)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders(name: str, folder: Path, tmp_path: Path) -> None:
    spoil, message = BROKEN[name]
    spoil(folder)
    model = load(tmp_path / "base", "CausalLM")
    before = answer(model, FIRST["llama"], "CausalLM")
    with pytest.raises(HunminError, match=message) as error:
        PeftModel.from_pretrained(model, folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert torch.equal(answer(model, FIRST["llama"], "CausalLM"), before)


@pytest.mark.parametrize("kind", ["prompt", "prefix", "ia3"])
def test_other_adapters_for_another_model(kind: str, tmp_path: Path) -> None:
    config: Any = {
        "prompt": PromptTuningConfig(num_virtual_tokens=3),
        "prefix": PrefixTuningConfig(num_virtual_tokens=3),
        "ia3": IA3Config(),
    }[kind]
    causal("llama", tmp_path / "base", config).save_pretrained(tmp_path / "adapter")
    other = next(c for c in CASES if c.id == ("pegasus-wide" if kind == "prompt" else "llama-mqa"))
    model = base(other, other.tasks[0], tmp_path / "other")
    with pytest.raises(HunminError, match=r"made for another model|token_dim is 48 for this model, not 32|token_dim is 8 "):
        PeftModel.from_pretrained(model, tmp_path / "adapter")
    tensors(tmp_path / "adapter", lambda k, t: t.sum())
    with pytest.raises(HunminError, match="made for another model"):
        PeftModel.from_pretrained(load(tmp_path / "base", "CausalLM"), tmp_path / "adapter")


def test_automatic_bases(tmp_path: Path) -> None:
    """The folder says which model it was made for; one that does not is told what to do."""
    case, task = FIRST["gpt2"], "CausalLM"
    model = base(case, task, tmp_path / "base")
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    peft.save_pretrained(tmp_path / "adapter")
    for auto in (AutoPeftModel, AutoPeftModelForCausalLM):
        again = auto.from_pretrained(tmp_path / "adapter")
        assert torch.allclose(answer(again, case, task), answer(peft, case, task), atol=1e-5)
    assert torch.allclose(answer(load(tmp_path / "adapter", task), case, task), answer(peft, case, task), atol=1e-5)
    edit(tmp_path / "adapter", base_model_name_or_path=None)
    with pytest.raises(HunminError, match=r"names no base model or task. .*PeftModel.from_pretrained\(model, folder\)"):
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
