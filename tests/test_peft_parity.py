"""Adapters against PEFT, through folders in both directions: what PEFT writes gives its logits here, and what we write gives ours there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hunmin import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from hunmin.auto import load
from tests.cases import CASES, MASK, PAIRS, Case, difference, inputs

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),  # PEFT's advice
]
TOLERANCE = 5e-6
TYPES = {"CausalLM": "CAUSAL_LM", "Seq2SeqLM": "SEQ_2_SEQ_LM", "SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS"}
FIRST = {case.model_type: case for case in reversed(CASES)}
MAIN = [(case, next(t for t in TYPES if t in case.tasks)) for case in FIRST.values()]
main = pytest.mark.parametrize(("case", "task"), MAIN, ids=[case.model_type for case, _ in MAIN])
ASKED = ("bert", "roberta", "gpt2", "llama", "t5", "bart", "qwen2")
SEVEN = [(case, task) for case, task in MAIN if case.model_type in ASKED]
CLASSIFIERS = [(c, t) for c, t in PAIRS if t in ("SequenceClassification", "TokenClassification") and c is FIRST[c.model_type]]
Folder = tuple[Path, Any]


def peft() -> Any:
    return pytest.importorskip("peft")


def base(case: Case, task: str, folder: Path) -> Path:
    from tests.peer import write_folder

    write_folder(case, task, folder / "base")
    return folder / "base"


def shaken(model: Any) -> Any:
    """Trained values, as far as a test is concerned."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    return model.eval()


def logits(model: Any, case: Case, task: str) -> torch.Tensor:
    """Of tokens that are real, on both sides."""
    batch = inputs(case, task, padded=False)
    with torch.no_grad():
        out = model(**batch)["logits"]
    if out.ndim == 3 and "decoder_input_ids" not in batch:
        out = out[:, -MASK.shape[1] :] * batch["attention_mask"][..., None]
    return out


def both_ways(case: Case, task: str, config: Any, folder: Path, tolerance: float = TOLERANCE) -> None:
    """PEFT -> folder -> ours -> folder -> PEFT."""
    from tests.peer import read_reference

    peft()
    source = base(case, task, folder)
    theirs = shaken(peft().get_peft_model(read_reference(task, source), config))
    theirs.save_pretrained(folder / "theirs")
    want = logits(theirs, case, task)
    ours = PeftModel.from_pretrained(load(source, task), folder / "theirs")
    assert difference(logits(ours, case, task), want) <= tolerance
    assert difference(logits(ours.base_model if config.is_prompt_learning else load(source, task), case, task), want) > 1e-3, "it acts"
    ours.save_pretrained(folder / "ours")
    again = peft().PeftModel.from_pretrained(read_reference(task, source), folder / "ours").eval()
    assert difference(logits(again, case, task), want) <= tolerance


def ends(case: Case, task: str, folder: Path) -> list[str]:
    """Query and value as the checkpoint calls them; PEFT has defaults for some architectures only."""
    from hunmin.peft.names import sites

    model = load(base(case, task, folder), task)
    return sorted({s.theirs.rpartition(".")[2] for s in sites(model) if any(n.endswith(("attn.q", "attn.v")) for n in s.ours)})


@main
@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_lora(case: Case, task: str, kind: str, tmp_path: Path) -> None:
    targets = ends(case, task, tmp_path)
    config = peft().LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type=TYPES[task], use_dora=kind == "dora")
    both_ways(case, task, config, tmp_path)


@pytest.mark.parametrize(("case", "task"), SEVEN, ids=[c.model_type for c, _ in SEVEN])
@pytest.mark.parametrize("kind", ["default", "rslora", "linear", "pattern", "bias", "regex"])
def test_lora_options(case: Case, task: str, kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "default": {},
        "rslora": {"use_rslora": True, "r": 3},
        "linear": {"target_modules": "all-linear"},
        "pattern": {"target_modules": "all-linear", "rank_pattern": {r".*\.0\..*": 2}, "alpha_pattern": {r".*\.1\..*": 5}},
        "bias": {"bias": "all"},
        "regex": {"target_modules": r".*\.1\..*(query|c_proj|q_proj|\.q)"},
    }[kind]
    both_ways(case, task, peft().LoraConfig(task_type=TYPES[task], **options), tmp_path)


@pytest.mark.parametrize(("case", "task"), CLASSIFIERS, ids=[f"{c.model_type}-{t}" for c, t in CLASSIFIERS])
def test_trained_heads(case: Case, task: str, tmp_path: Path) -> None:
    both_ways(case, task, peft().LoraConfig(task_type=TYPES[task], target_modules=ends(case, task, tmp_path)), tmp_path)


@pytest.mark.parametrize(("case", "task"), [p for p in SEVEN if p[1] == "CausalLM"], ids=["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("kind", ["adapted", "whole"])
@pytest.mark.parametrize("end", ["input", "output"])
def test_embeddings(case: Case, task: str, kind: str, end: str, tmp_path: Path) -> None:
    name = "lm_head" if end == "output" else "wte" if case.model_type == "gpt2" else "embed_tokens"
    options = {"target_modules": [name]} if kind == "adapted" else {"modules_to_save": [name]}
    both_ways(case, task, peft().LoraConfig(task_type=TYPES[task], **options), tmp_path)


@pytest.mark.parametrize(("init", "name"), [("pissa", "gpt2"), ("pissa", "llama"), ("olora", "llama")])
def test_principal_parts(init: str, name: str, tmp_path: Path) -> None:
    """PEFT changed the base; here the update is counted from its start, and is stored as plain LoRA of twice the rank. Rounding differs."""
    both_ways(FIRST[name], "CausalLM", peft().LoraConfig(task_type="CAUSAL_LM", init_lora_weights=init, r=3), tmp_path, 5e-5)


@pytest.mark.parametrize(("case", "task"), SEVEN, ids=[c.model_type for c, _ in SEVEN])
def test_ia3(case: Case, task: str, tmp_path: Path) -> None:
    both_ways(case, task, peft().IA3Config(task_type=TYPES[task]), tmp_path)


SCALED = [(c, "Seq2SeqLM") for c in CASES if c.id in ("bart-scaled", "m2m_100-plain", "mbart-scaled")] + [
    (FIRST[name], "CausalLM") for name in ("gemma2", "gemma3_text")
]
# PEFT makes prefixes for encoder-decoders only where both have the same heads and layers, and where heads fill the width.
SQUARE = {"t5": {"d_kv": 8, "num_decoder_layers": 2}, "bart": {"decoder_attention_heads": 4, "decoder_layers": 2}}
PREFIXED = [(replace(c, config=c.config | SQUARE.get(c.model_type, {})), t) for c, t in SEVEN]


@pytest.mark.parametrize(("case", "task"), [*SEVEN, *SCALED], ids=[c.id for c, _ in [*SEVEN, *SCALED]])
def test_prompt_tuning(case: Case, task: str, tmp_path: Path) -> None:
    both_ways(case, task, peft().PromptTuningConfig(num_virtual_tokens=5, task_type=TYPES[task]), tmp_path)


@pytest.mark.parametrize(("case", "task"), PREFIXED, ids=[c.model_type for c, _ in PREFIXED])
def test_prefix_tuning(case: Case, task: str, tmp_path: Path) -> None:
    both_ways(case, task, peft().PrefixTuningConfig(num_virtual_tokens=5, task_type=TYPES[task]), tmp_path)


OURS = {
    "q and v": LoraConfig(r=3, target_modules=["q", "v"], use_dora=True),
    "feed-forward": LoraConfig(r=3, target_modules=["up", "down"], rank_pattern={"up": 5}),
    "pissa": LoraConfig(r=3, init_lora_weights="pissa"),
    "ia3": IA3Config(target_modules=["k", "v", "down"]),
    "prompt": PromptTuningConfig(num_virtual_tokens=4, prompt_tuning_init="SAMPLE_VOCAB"),
    "prefix": PrefixTuningConfig(num_virtual_tokens=4),
}


@pytest.mark.parametrize("kind", OURS)
def test_peft_loads_what_is_made_here(kind: str, tmp_path: Path) -> None:
    from tests.peer import read_reference

    for case, task in PREFIXED:
        (folder := tmp_path / case.model_type).mkdir()
        source = base(case, task, folder)
        ours = shaken(get_peft_model(load(source, task), replace(OURS[kind], task_type=TYPES[task])))
        ours.save_pretrained(folder / "ours")
        theirs = peft().PeftModel.from_pretrained(read_reference(task, source), folder / "ours").eval()
        assert difference(logits(theirs, case, task), logits(ours, case, task)) <= TOLERANCE, case.model_type


def test_weighted_adapters(tmp_path: Path) -> None:
    """The three ways to add adapters, as PEFT computes them."""
    from tests.peer import read_reference

    case, task = next(p for p in SEVEN if p[0].model_type == "gpt2")
    source = base(case, task, tmp_path)
    theirs = peft().get_peft_model(read_reference(task, source), peft().LoraConfig(r=4, init_lora_weights=False))
    theirs.add_adapter("b", peft().LoraConfig(r=4, lora_alpha=3, init_lora_weights=False))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = PeftModel.from_pretrained(load(source, task), tmp_path / "theirs")
    ours.load_adapter(tmp_path / "theirs" / "b", "b")
    for way, weights in (("linear", [0.7, -0.4]), ("cat", [0.7, 0.4]), ("svd", [0.7, 0.4])):
        for model in (theirs, ours):
            model.add_weighted_adapter(["default", "b"], weights, way, way)
            model.set_adapter(way)
        assert difference(logits(ours, case, task), logits(theirs.eval(), case, task)) <= (1e-4 if way == "svd" else TOLERANCE), way


@pytest.mark.parametrize(
    ("case", "task"), [p for p in PREFIXED if p[1] != "SequenceClassification"], ids=lambda v: getattr(v, "model_type", "")
)
@pytest.mark.parametrize("kind", ["LoraConfig", "PromptTuningConfig", "PrefixTuningConfig"])
def test_generated_text(case: Case, task: str, kind: str, tmp_path: Path) -> None:
    from tests.peer import read_reference

    source = base(case, task, tmp_path)
    options = {"init_lora_weights": False} if kind == "LoraConfig" else {"num_virtual_tokens": 4}
    theirs = shaken(peft().get_peft_model(read_reference(task, source), getattr(peft(), kind)(task_type=TYPES[task], **options)))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = PeftModel.from_pretrained(load(source, task), tmp_path / "theirs")
    ids = inputs(case, task)["input_ids"][:1]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "forced_eos_token_id": None}
    want = theirs.generate(**batch, **settings)[0].tolist()
    assert ours.generate(**batch, **settings)[0].tolist() == want


def test_mixed_rows(tmp_path: Path) -> None:
    from tests.peer import read_reference

    case, task = next(p for p in SEVEN if p[0].model_type == "llama")
    source = base(case, task, tmp_path)
    theirs = peft().get_peft_model(read_reference(task, source), peft().LoraConfig(init_lora_weights=False))
    theirs.add_adapter("b", peft().LoraConfig(r=3, init_lora_weights=False, target_modules=["k_proj", "down_proj"]))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = PeftModel.from_pretrained(load(source, task), tmp_path / "theirs")
    ours.load_adapter(tmp_path / "theirs" / "b", "b")
    batch = inputs(case, task)
    for names in (["default", "b"], ["b", "__base__"], ["__base__", "default"]):
        with torch.no_grad():
            got, want = (m.eval()(**batch, adapter_names=names).logits * MASK[..., None] for m in (ours, theirs))
        assert difference(got, want) <= TOLERANCE
