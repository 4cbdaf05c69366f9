"""Adapters on every architecture: they start as nothing, merge exactly, travel through folders, and keep to themselves."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hunmin import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from hunmin.adapters import LoRA, bitfit, freeze, lora_plus_groups, unfreeze
from hunmin.auto import load
from hunmin.nn.where import Where
from tests.cases import CASES, ENCODER_DECODERS, MASK, PAIRS, ROWS, TARGET, Case, difference, inputs
from tests.test_parity import write

pytestmark = pytest.mark.usefixtures("pytorch")

TOLERANCE = 5e-6
FIRST = {case.model_type: case for case in reversed(CASES)}
TASKS = ("CausalLM", "Seq2SeqLM", "SequenceClassification", "MaskedLM")
MAIN = [(case, next(t for t in TASKS if t in case.tasks)) for case in FIRST.values()]
main = pytest.mark.parametrize(("case", "task"), MAIN, ids=[case.model_type for case, _ in MAIN])
LAYERS: dict[str, Any] = {
    "lora": LoraConfig(r=4, target_modules="all-linear"),
    "dora": LoraConfig(r=3, use_dora=True, use_rslora=True, target_modules=["q", "v", "down"]),
    "pissa": LoraConfig(r=3, init_lora_weights="pissa"),
    "ia3": IA3Config(),
}
ALL: dict[str, Any] = {**LAYERS, "prompt": PromptTuningConfig(num_virtual_tokens=3), "prefix": PrefixTuningConfig(num_virtual_tokens=3)}
kinds = pytest.mark.parametrize("kind", LAYERS)
# LoRA on every variant and head, the others once an architecture.
CHECKS = [(c, t, "lora") for c, t in PAIRS] + [(c, t, kind) for c, t in MAIN for kind in LAYERS if kind != "lora"]
each = pytest.mark.parametrize(("case", "task", "kind"), CHECKS, ids=[f"{c.id}-{t}-{kind}" for c, t, kind in CHECKS])
BY_LENGTH = ("dynamic", "longrope")  # rotations whose padded and packed rows the base model's tests compare
ROWWISE = [
    (c, t)
    for c, t in PAIRS
    if c.model_type not in ENCODER_DECODERS and c.config.get("rope_parameters", {}).get("rope_type") not in BY_LENGTH
]


def base(case: Case, task: str, folder: Path) -> Any:
    write(case, task, folder)
    return load(folder, task)


def adapted(case: Case, task: str, folder: Path, config: Any = None) -> PeftModel:
    """A model with an adapter that has been trained, as far as a test is concerned."""
    return shaken(get_peft_model(base(case, task, folder), replace(config or LAYERS["lora"])))


def shaken(model: Any) -> Any:
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    return model


def answer(model: Any, case: Case, task: str, **more: Any) -> Tensor:
    """The first output; nothing of padding, which nobody reads."""
    with torch.no_grad():
        out = model(**inputs(case, task), **more)
    key = next(k for k in ("logits", "start_logits", "last_hidden_state") if k in out)
    value = out[key]
    per_token = value.ndim >= 2 and tuple(value.shape[:2]) == tuple(MASK.shape)
    return value * MASK.reshape(*MASK.shape, *(1,) * (value.ndim - 2)) if per_token else value


def causal(name: str, folder: Path, config: Any = None) -> PeftModel:
    return adapted(FIRST[name], "CausalLM", folder, config)


# -------------------------------------------------------------- laws, for every architecture and head


@each
def test_a_fresh_adapter_changes_nothing(case: Case, task: str, kind: str, tmp_path: Path) -> None:
    """Bit for bit, and the base's parameters keep their names."""
    model = base(case, task, tmp_path)
    before, names = answer(model, case, task), [n for n, _ in model.named_parameters()]
    peft = get_peft_model(model, replace(LAYERS[kind]))
    assert torch.equal(answer(peft, case, task), before)
    assert [n for n, _ in model.named_parameters()] == names
    assert len(list(peft.parameters())) > len(names)


@each
def test_merged_equals_unmerged(case: Case, task: str, kind: str, tmp_path: Path) -> None:
    peft = adapted(case, task, tmp_path, LAYERS[kind])
    plain = {n: p.clone() for n, p in peft.base_model.named_parameters()}
    with peft.disable_adapter():
        untouched = answer(peft, case, task)
    want = answer(peft, case, task)
    assert difference(want, untouched) > 1e-4, "the adapter acts"
    peft.merge_adapter()
    merged = answer(peft, case, task)
    assert difference(merged, want) <= TOLERANCE
    peft.save_pretrained(tmp_path / "adapter")
    assert torch.equal(answer(peft, case, task), merged), "saving leaves it merged"
    peft.unmerge_adapter()
    assert all(torch.equal(p, plain[n]) for n, p in peft.base_model.named_parameters())
    assert torch.equal(answer(peft, case, task), want)
    assert torch.equal(answer(peft.unload(), case, task), untouched)


@main
@kinds
def test_saved_and_loaded(case: Case, task: str, kind: str, tmp_path: Path) -> None:
    peft = adapted(case, task, tmp_path / "base", LAYERS[kind])
    peft.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(tmp_path / "base", task), tmp_path / "adapter")
    assert difference(answer(again, case, task), answer(peft, case, task)) <= TOLERANCE
    assert not any(p.requires_grad for p in again.parameters())
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert difference(answer(load(tmp_path / "merged", task), case, task), answer(peft, case, task)) <= TOLERANCE


@pytest.mark.parametrize(("case", "task"), ROWWISE, ids=[f"{c.id}-{t}" for c, t in ROWWISE])
def test_packed_equals_padded(case: Case, task: str, tmp_path: Path) -> None:
    """With an adapter, too, two sequences in one row give what they give as rows."""
    peft, batch = adapted(case, task, tmp_path), inputs(case, task, padded=False)
    lengths = MASK.sum(-1).tolist()
    row = {k: torch.cat([v[i, :n] for i, n in enumerate(lengths)])[None] for k, v in batch.items() if k in ("input_ids", "token_type_ids")}
    with torch.no_grad():
        packed = peft(**row, where=Where.packed(lengths))
        padded = peft(**batch)
    key = next(k for k in ("logits", "start_logits", "last_hidden_state") if k in packed)
    got, want = packed[key], padded[key]
    if tuple(want.shape[:2]) == tuple(MASK.shape):
        got, want = got[0], torch.cat([want[i, :n] for i, n in enumerate(lengths)])
    assert difference(got, want) <= TOLERANCE


LEARNERS = [(c, t, k) for c, t in MAIN for k in ALL if (c.model_type, k) != ("deberta-v2", "prefix")]  # which is refused


@pytest.mark.parametrize(("case", "task", "kind"), LEARNERS, ids=[f"{c.model_type}-{k}" for c, _, k in LEARNERS])
def test_only_the_adapter_learns(case: Case, task: str, kind: str, tmp_path: Path) -> None:
    peft = adapted(case, task, tmp_path, ALL[kind])
    batch = inputs(case, task)
    labels = {"SequenceClassification": torch.tensor([1, 0]), "Seq2SeqLM": TARGET}.get(task, ROWS)
    peft.train()(**batch, labels=labels).loss.backward()
    learned = {n for n, p in peft.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert learned and all(n.startswith(("adapters.", "virtual.")) for n in learned)
    assert learned <= {n for n, p in peft.named_parameters() if p.requires_grad}
    if kind in ("prompt", "prefix"):
        assert any(n.startswith("virtual.") for n in learned)


@main
def test_several_adapters_in_one_batch(case: Case, task: str, tmp_path: Path) -> None:
    """Every row as with its adapter alone; ``__base__`` is the model without one."""
    config = LoraConfig(r=3, target_modules=["v", "up"])  # DeBERTa's distances pass through q and k
    peft = shaken(get_peft_model(base(case, task, tmp_path), config))
    peft.add_adapter("b", replace(config, r=5))
    peft.add_adapter("scaled", IA3Config(target_modules=["v", "down"]))
    for name in ("b", "scaled"):
        peft.set_adapter(name)
        shaken(peft)
    alone = {}
    for name in ("default", "b", "scaled"):
        peft.set_adapter(name)
        alone[name] = answer(peft, case, task)
    with peft.disable_adapter():
        alone["__base__"] = answer(peft, case, task)
    assert len({t.sum().item() for t in alone.values()}) == 4
    for names in (["b", "default"], ["scaled", "b"], ["default", "__base__"], ["b", "b"]):
        want = torch.stack([alone[name][i] for i, name in enumerate(names)])
        assert difference(answer(peft, case, task, adapter_names=names), want) <= TOLERANCE


# -------------------------------------------------------------- the methods


def test_dora_is_its_formula(tmp_path: Path) -> None:
    """W' = m (W + s B A) / ||W + s B A||, the norm of each output's weights (Liu et al. 2024, eq. 5); it is a constant to the gradient."""
    peft = causal("llama", tmp_path, LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=["o"]))
    path = "decoder.stack.layers.1.attn.o"
    part, layer = peft.adapters.at("default")[path], peft.base_model.get_submodule(path)
    assert isinstance(part, LoRA) and part.magnitude is not None and isinstance(layer, nn.Linear)
    x = torch.randn(2, 5, 32)
    updated = layer.weight + 2.0 * part.lora_B @ part.lora_A
    weight = part.magnitude[:, None] * updated / updated.norm(dim=1, keepdim=True).detach()
    assert difference(layer(x), x @ weight.T) <= TOLERANCE
    want = torch.autograd.grad((x @ weight.T).square().sum(), [part.lora_A, part.lora_B, part.magnitude])
    got = torch.autograd.grad(layer(x).square().sum(), [part.lora_A, part.lora_B, part.magnitude])
    assert all(difference(a, b) <= 2e-5 for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(("rslora", "scale"), [(False, 3.0), (True, 6.0)])
def test_scale(rslora: bool, scale: float, tmp_path: Path) -> None:
    peft = causal("gpt2", tmp_path, LoraConfig(r=4, lora_alpha=12, use_rslora=rslora))
    part = peft.adapters.at("default")["decoder.stack.layers.0.attn.q"]
    assert isinstance(part, LoRA) and part.scale == scale
    assert torch.equal(part.delta(), scale * (part.lora_B @ part.lora_A))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_principal_parts(init: str, tmp_path: Path) -> None:
    """PiSSA starts from the best approximation of its rank, OLoRA from an orthonormal B; the base's weights stay as they are."""
    peft = get_peft_model(base(FIRST["bert"], "MaskedLM", tmp_path), LoraConfig(r=5, init_lora_weights=init))
    path = "encoder.stack.layers.0.attn.q"
    part, weight = peft.adapters.at("default")[path], peft.base_model.get_parameter(f"{path}.weight")
    assert isinstance(part, LoRA) and part.start_A is not None and part.start_B is not None
    product = part.scale * part.start_B @ part.start_A
    if init == "pissa":
        singular = torch.linalg.svdvals(weight.detach())
        assert torch.linalg.matrix_norm(weight.detach() - product).item() == pytest.approx(singular[5:].norm().item(), rel=1e-4)
    else:
        assert difference(part.lora_B.T @ part.lora_B, torch.eye(5)) <= TOLERANCE
    assert not part.delta().any()


def test_a_fused_projection_has_one_a(tmp_path: Path) -> None:
    """GPT-2 stores q, k and v as one tensor: an adapter there has one A, whatever is asked for, so PEFT's folders hold it as it is."""
    parts = causal("gpt2", tmp_path).adapters.at("default")
    q, k, v, o = (parts[f"decoder.stack.layers.0.attn.{leaf}"].lora_A for leaf in "qkvo")
    assert q is k is v and q is not o
    some = get_peft_model(base(FIRST["gpt2"], "CausalLM", tmp_path), LoraConfig(target_modules=["q", "v"])).adapters.at("default")
    assert {path.rpartition(".")[2] for path in some} == {"q", "v"}


def test_targets_by_either_name(tmp_path: Path) -> None:
    """Hugging Face's ends of names, canonical ones, regular expressions, patterns of rank and layers."""
    model = base(FIRST["bert"], "SequenceClassification", tmp_path)

    def paths(**options: Any) -> dict[str, int]:
        peft = get_peft_model(model, LoraConfig(**options))
        found = {path: len(part.lora_A) for path, part in peft.adapters.at("default").items() if isinstance(part, LoRA)}
        peft.unload()
        return found

    assert paths(target_modules=["query", "value"]) == paths(target_modules=["q", "v"]) == paths()
    assert len(paths()) == 6
    assert set(paths(target_modules=r".*layer\.1\..*query")) == {"encoder.stack.layers.1.attn.q"}
    assert set(paths(target_modules=["q"], layers_to_transform=[0, 2])) == {f"encoder.stack.layers.{i}.attn.q" for i in (0, 2)}
    assert set(paths(target_modules=["q", "v"], exclude_modules=["value"], layers_to_transform=1)) == {"encoder.stack.layers.1.attn.q"}
    ranks = paths(target_modules=["q", "v"], rank_pattern={"value": 2, r"layers\.0\.attn\.q": 5}, r=3)
    assert [ranks[f"encoder.stack.layers.{i}.attn.{leaf}"] for i in (0, 1) for leaf in "qv"] == [5, 2, 3, 2]
    everything = paths(target_modules="all-linear")
    assert "head.out" not in everything and {"head.dense", "encoder.stack.layers.2.ffn.down"} <= set(everything)


def test_a_fresh_classifier_is_trained_and_stored(tmp_path: Path) -> None:
    peft = adapted(FIRST["roberta"], "SequenceClassification", tmp_path)
    assert {n for n, p in peft.named_parameters() if p.requires_grad and "head" in n} == {
        f"adapters.default.head.{layer}.module.{leaf}" for layer in ("dense", "out") for leaf in ("weight", "bias")
    }
    peft.save_pretrained(tmp_path / "adapter")
    config = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert '"modules_to_save": [\n    "classifier"\n  ]' in config


def test_biases_and_patterns(tmp_path: Path) -> None:
    model = base(FIRST["bert"], "SequenceClassification", tmp_path)
    names = bitfit(model, "^head")
    assert all(n.endswith("bias") or n.startswith("head") for n in names)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(names)
    assert all(n.startswith("encoder.embed") for n in freeze(unfrozen(model), r"embed"))
    assert model.get_parameter("encoder.stack.layers.0.attn.q.weight").requires_grad
    peft = get_peft_model(model, LoraConfig(bias="lora_only", task_type="SEQ_CLS"))
    trained = {n for n, p in peft.base_model.named_parameters() if p.requires_grad}
    assert trained == {f"encoder.stack.layers.{i}.attn.{leaf}.bias" for i in range(3) for leaf in "qv"}


def unfrozen(model: nn.Module) -> nn.Module:
    unfreeze(model)
    return model


def test_learning_rates_of_lora_plus(tmp_path: Path) -> None:
    peft = get_peft_model(base(FIRST["llama"], "CausalLM", tmp_path), LoraConfig())
    slow, fast = lora_plus_groups(peft, 1e-4, 16)
    assert (slow["lr"], fast["lr"]) == (1e-4, pytest.approx(1.6e-3))
    assert {id(p) for p in fast["params"]} == {id(p) for n, p in peft.named_parameters() if n.endswith("lora_B")}
    assert len(slow["params"]) + len(fast["params"]) == sum(p.requires_grad for p in peft.parameters())
    torch.optim.AdamW([slow, fast])


# -------------------------------------------------------------- many adapters


def test_adapters_come_and_go(tmp_path: Path) -> None:
    case, task = FIRST["llama"], "CausalLM"
    peft = causal("llama", tmp_path / "base")
    first = answer(peft, case, task)
    peft.save_pretrained(tmp_path / "first")
    peft.load_adapter(tmp_path / "first", "again")
    peft.add_adapter("ia3", IA3Config())
    assert peft.active_adapters == ["default"] and torch.equal(answer(peft, case, task), first)
    peft.set_adapter("again")
    assert torch.equal(answer(peft, case, task), first)
    peft.set_adapter("ia3")
    with peft.disable_adapter():
        plain = answer(peft, case, task)
    assert torch.equal(answer(peft, case, task), plain)
    peft.set_adapter(["default", "again"])
    delta = {path: part.delta() for path, part in peft.adapters.at("default").items() if isinstance(part, LoRA)}
    together = answer(peft, case, task)
    twice = load(tmp_path / "base", task)
    for path, change in delta.items():
        twice.get_parameter(f"{path}.weight").data += 2 * change
    assert difference(together, answer(twice, case, task)) <= TOLERANCE
    peft.delete_adapter("default")
    assert peft.active_adapters == ["again"] and torch.equal(answer(peft, case, task), first)
    peft.save_pretrained(tmp_path / "two")
    assert {p.name for p in (tmp_path / "two").iterdir()} == {"again", "ia3"}
    hooks = sum(len(m._forward_hooks) for m in peft.base_model.modules())
    base_model = peft.unload()
    assert hooks and not sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base_model.modules())


@pytest.mark.parametrize(("way", "bound"), [("cat", TOLERANCE), ("svd", 2e-5), ("linear", None)])
def test_weighted_sums(way: str, bound: float | None, tmp_path: Path) -> None:
    """``cat`` and, with enough rank, ``svd`` are the exact sum of the updates."""
    peft = causal("gpt2", tmp_path, LoraConfig(r=2, target_modules=["c_attn", "c_fc"]))
    peft.add_adapter("b", LoraConfig(r=2, lora_alpha=3, use_rslora=True, target_modules=["c_attn", "c_fc"]))
    peft.set_adapter("b")
    shaken(peft)
    peft.add_weighted_adapter(["default", "b"], [0.5, -2.0], "sum", way, svd_rank=4)
    parts = [peft.adapters.at(name) for name in ("default", "b", "sum")]
    for path in parts[0]:
        a, b, total = (p[path].delta() for p in parts)  # type: ignore[operator]
        if bound is None:
            assert total.shape == a.shape and bool(total.any())
        else:
            assert difference(total, 0.5 * a - 2.0 * b) <= bound
    peft.set_adapter("sum")
    peft.save_pretrained(tmp_path / "all")
    again = PeftModel.from_pretrained(load(tmp_path, "CausalLM"), tmp_path / "all" / "sum")
    assert difference(answer(again, FIRST["gpt2"], "CausalLM"), answer(peft, FIRST["gpt2"], "CausalLM")) <= TOLERANCE


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"eos_token_id": [*range(0, 99, 3)]}], ids=["greedy", "beams", "rows that end"])
@pytest.mark.parametrize(("name", "task"), [("llama", "CausalLM"), ("bart", "Seq2SeqLM")])
def test_generation_with_mixed_adapters(name: str, task: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Rows that leave the batch, and beams, take their adapters along."""
    case = FIRST[name]
    peft = adapted(case, task, tmp_path)
    peft.add_adapter("b", LAYERS["lora"])
    peft.set_adapter("b")
    shaken(peft)
    rows, names = torch.cat([ROWS[:1, :5], ROWS[1:, :5]]).repeat(2, 1), ["default", "b", "__base__", "default"]
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1, **options}
    got = peft.generate(rows, adapter_names=names, **settings)
    for i, adapter in enumerate(names):
        peft.set_adapter(adapter if adapter != "__base__" else "b")
        if adapter == "__base__":
            with peft.disable_adapter():
                want = peft.generate(rows[i : i + 1], **settings)[0]
        else:
            want = peft.generate(rows[i : i + 1], **settings)[0]
        assert got[i, : len(want)].tolist() == want.tolist() and bool((got[i, len(want) :] == 1).all())


def test_a_copy_is_independent(tmp_path: Path) -> None:
    case, task = FIRST["bert"], "MaskedLM"
    peft = adapted(case, task, tmp_path)
    before, other = answer(peft, case, task), copy.deepcopy(peft)
    assert torch.equal(answer(other, case, task), before)
    shaken(other)
    assert torch.equal(answer(peft, case, task), before) and not torch.equal(answer(other, case, task), before)


def test_training_learns(tmp_path: Path) -> None:
    """A few steps fit two rows; the numbers of parameters are told as PEFT does."""
    peft = get_peft_model(
        base(FIRST["gpt2"], "CausalLM", tmp_path), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.1)
    )
    optimizer, losses = torch.optim.AdamW(lora_plus_groups(peft.train(), 5e-3, 4)), list[float]()
    for _ in range(30):
        loss = peft(ROWS, MASK, labels=ROWS.masked_fill(MASK == 0, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_training_goes_on_after_loading(tmp_path: Path) -> None:
    causal("gpt2", tmp_path / "base").save_pretrained(tmp_path / "adapter")
    model = load(tmp_path / "base", "CausalLM")
    peft = PeftModel.from_pretrained(model, tmp_path / "adapter", is_trainable=True, low_cpu_mem_usage=True)
    assert {n for n, p in peft.named_parameters() if p.requires_grad} == {
        n for n, _ in peft.named_parameters() if n.startswith("adapters.")
    }
    assert not peft.training and peft.train().base_model.training


def test_pipelines_take_adapted_models(models: Path) -> None:
    from hunmin import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    folder = next(f for f in sorted(models.iterdir()) if "ForSequenceClassification" in (f / "config.json").read_text())
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    plain = pipeline("text-classification", model=model, tokenizer=tokenizer)("one")
    peft = shaken(get_peft_model(model, LoraConfig()))
    adapted_answer = pipeline("text-classification", model=peft, tokenizer=tokenizer)("one")
    assert adapted_answer != plain


def test_numbers_of_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peft = get_peft_model(base(FIRST["llama"], "CausalLM", tmp_path), LoraConfig(r=2))
    per_layer = 2 * (32 + 32) + 2 * (32 + 16)
    trained, everything = peft.get_nb_trainable_parameters()
    assert trained == 3 * per_layer and everything == trained + peft.base_model.num_parameters()
    peft.print_trainable_parameters()
    assert (
        capsys.readouterr().out
        == f"trainable params: {trained:,} || all params: {everything:,} || trainable%: {100 * trained / everything:.4f}\n"
    )
