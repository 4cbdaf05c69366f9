"""Every architecture, variant and head against the reference, through saved folders.

The golden test runs everywhere; the ``parity`` tests compare whole tensors with transformers where it is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hunmin.auto import load
from hunmin.hub.names import Names
from hunmin.nn.cache import Cache
from hunmin.nn.where import Where
from tests.cases import (
    CASES,
    ENCODER,
    ENCODER_DECODERS,
    MASK,
    PAIR_IDS,
    PAIRS,
    ROWS,
    TARGET,
    TYPES,
    Case,
    difference,
    inputs,
    real,
    sample,
    weight,
)

GOLDEN = Path(__file__).parent / "golden" / "parity"
TOLERANCE = 5e-6
each = pytest.mark.parametrize(("case", "task"), PAIRS, ids=PAIR_IDS)
decoders = pytest.mark.parametrize(
    ("case", "task"), [(c, t) for c, t in PAIRS if t == "CausalLM"], ids=[f"{c.id}" for c, t in PAIRS if t == "CausalLM"]
)
LENGTHS = MASK.sum(-1).tolist()


def golden(case: Case, task: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{case.id}.json").read_text())[task]


def write(case: Case, task: str, folder: Path) -> dict[str, Any]:
    """The folder that the golden results were computed from."""
    stored = golden(case, task)
    folder.mkdir(exist_ok=True)
    save_file({name: weight(name, shape) for name, shape in stored["shapes"].items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(stored["config"]))
    return stored["outputs"]


def ours(folder: Path, task: str) -> Any:
    model = load(folder, task)
    assert model.config.unread() == [], "every key of the config is read or known to be harmless"
    return model


@each
def test_equals_golden(case: Case, task: str, tmp_path: Path) -> None:
    expected = write(case, task, tmp_path)
    with torch.no_grad():
        out = ours(tmp_path, task)(**inputs(case, task, padded=False), output_hidden_states=True, output_attentions=True)
    assert set(out) == set(expected)
    for key, values in expected.items():
        pairs = [(out[key], values)] if isinstance(values[0], float) else zip(out[key], values, strict=True)
        for got, want in pairs:
            found = torch.tensor(sample(real(key, got), len(want) - 1))
            assert difference(found, torch.tensor(want)) <= TOLERANCE, key


def published_deberta(folder: Path, **edit: Any) -> tuple[dict[str, Any], list[str]]:
    """A folder as that of microsoft/deberta-v3-base: a .bin file whose heads are those of its pretraining. Also their names."""
    case = next(case for case in CASES if case.id == "deberta-v2-v3")
    expected = write(case, "MaskedLM", folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shapes = {"dense.weight": [32, 32], "dense.bias": [32], "LayerNorm.weight": [32], "LayerNorm.bias": [32], "classifier.weight": [1, 32]}
    state |= {f"mask_predictions.{name}": weight(name, shape) for name, shape in (shapes | {"classifier.bias": [1]}).items()}
    torch.save(state, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    del config["legacy"]
    (folder / "config.json").write_text(json.dumps(config | edit))
    return expected, sorted(name for name in state if "predictions." in name)


@pytest.mark.parametrize("task", ENCODER)
@pytest.mark.parametrize("legacy", [None, True, False])
def test_the_heads_of_pretraining_stop_no_task(task: str, legacy: bool | None, tmp_path: Path) -> None:
    """DeBERTa-v3: ``legacy: false`` reads the head for masked words that is there, otherwise a fresh one is made."""
    expected, heads = published_deberta(tmp_path, **({} if legacy is None else {"legacy": legacy}))
    model, report = load(tmp_path, task, output_loading_info=True)
    read = legacy is False and task == "MaskedLM"
    known = legacy is False  # another task's head is known and left out without a word
    assert sorted(report["unexpected_keys"]) == [name for name in heads if not (known and name.startswith("lm_"))]
    assert all(name.startswith("head.") for name in report["missing_keys"]) and bool(report["missing_keys"]) == (
        not read and task != "Model"
    )
    case = next(case for case in CASES if case.id == "deberta-v2-v3")
    with torch.no_grad():
        out = model(**inputs(case, "MaskedLM" if read else "Model", padded=False), output_hidden_states=True)
    for key in ("logits", "hidden_states") if read else ("hidden_states",):
        pairs = [(out[key], expected[key])] if key == "logits" else zip(out[key], expected[key], strict=True)
        for got, want in pairs:
            assert difference(torch.tensor(sample(real(key, got), len(want) - 1)), torch.tensor(want)) <= TOLERANCE, key


@pytest.mark.parity
@each
def test_equals_transformers(case: Case, task: str, tmp_path: Path) -> None:
    """All outputs, the hidden states of every layer and the attention weights."""
    from tests.peer import outputs, read_reference, write_folder

    write_folder(case, task, tmp_path)
    with torch.no_grad():
        expected = outputs(read_reference(task, tmp_path), inputs(case, task, padded=False))
        out = ours(tmp_path, task)(**inputs(case, task, padded=False), output_hidden_states=True, output_attentions=True)
    assert set(out) == set(expected)
    for key, value in expected.items():
        pairs = zip(out[key], value, strict=True) if isinstance(value, tuple) else [(out[key], value)]
        for i, (got, want) in enumerate(pairs):
            assert got.shape == want.shape, key
            assert difference(real(key, got), real(key, want)) <= TOLERANCE, f"{key}[{i}]"


@each
def test_export_is_identical(case: Case, task: str, tmp_path: Path) -> None:
    """Saving writes the tensors that were read, bit for bit, under the same names; and the config that was read."""
    write(case, task, tmp_path / "a")
    model = ours(tmp_path / "a", task)
    model.save_pretrained(tmp_path / "b")
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in "ab")
    places = Names(model.config, task)
    derived = {name for name in before if not places.place(name).names}
    twice = {"cls.predictions.bias"} if "cls.predictions.decoder.bias" in before else set()
    assert set(after) == set(before) - derived - twice
    assert all(torch.equal(after[name], before[name]) for name in after)
    old, new = (json.loads((tmp_path / side / "config.json").read_text()) for side in "ab")
    assert {k: new.get(k) for k in old if k != "transformers_version"} == {k: v for k, v in old.items() if k != "transformers_version"}


@pytest.mark.parity
@each
def test_transformers_loads_what_we_save(case: Case, task: str, tmp_path: Path) -> None:
    from tests.peer import read_reference

    write(case, task, tmp_path / "a")
    model = ours(tmp_path / "a", task)
    model.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    with torch.no_grad():
        got, want = model(**inputs(case, task, padded=False)), read_reference(task, tmp_path / "b")(**inputs(case, task, padded=False))
    key = next(k for k in got if k in want)
    assert difference(real(key, got[key]), real(key, want[key])) <= TOLERANCE


@each
def test_packed_equals_padded(case: Case, task: str, tmp_path: Path) -> None:
    """Two sequences in one row, without padding, give what they give as two padded rows - on either side."""
    write(case, task, tmp_path)
    model, batch = ours(tmp_path, task), inputs(case, task)
    seq2seq = "decoder_input_ids" in batch
    row = {k: torch.cat([v[i, :n] for i, n in enumerate(LENGTHS)])[None] for k, v in batch.items() if k in ("input_ids", "token_type_ids")}
    left = {
        k: torch.stack([v[i].roll(v.shape[1] - n) for i, n in enumerate(LENGTHS)]) for k, v in batch.items() if not k.startswith("decoder")
    }
    targets = {"decoder_input_ids": TARGET.reshape(1, -1), "decoder_where": Where.packed([TARGET.shape[1]] * 2)} if seq2seq else {}
    with torch.no_grad():
        padded = model(**batch)
        packed = model(**row, where=Where.packed(LENGTHS), **targets)
        lefted = model(**left, **{k: v for k, v in batch.items() if k.startswith("decoder")})
    key = next(iter(padded))
    tokens = padded[key].ndim > 1 and padded[key].shape[1] == ROWS.shape[1]
    want = torch.cat([padded[key][i, :n] for i, n in enumerate(LENGTHS)]) if tokens else padded[key].flatten(0, -2)
    got = packed[key][0] if tokens or seq2seq else packed[key]
    if case.model_type in ENCODER_DECODERS and task in ("SequenceClassification", "QuestionAnswering"):
        return  # their decoder reads the padded input, and the classifier one token of the row
    assert difference(got, want) <= TOLERANCE
    again = torch.cat([lefted[key][i, -n:] for i, n in enumerate(LENGTHS)]) if tokens else lefted[key].flatten(0, -2)
    assert difference(again, want) <= TOLERANCE


@decoders
def test_cached_equals_full(case: Case, task: str, tmp_path: Path) -> None:
    """Token by token, in chunks, and left-padded in a batch: the logits of one full pass over the same prefix."""
    write(case, task, tmp_path)
    model = ours(tmp_path, task)
    rope = case.config.get("rope_parameters", {}).get("rope_type")
    if rope == "dynamic" or case.name == "longrope-long":
        return  # past the trained length the angles of every token change with each new one; cached keys keep theirs, as in the reference
    ids = ROWS[:1]
    with torch.no_grad():
        cache = Cache()
        for i in range(ids.shape[1]):
            step = model(ids[:, i : i + 1], past_key_values=cache).logits
            assert difference(step[:, -1], model(ids[:, : i + 1]).logits[:, -1]) <= TOLERANCE, f"token {i}"
        chunks = Cache()
        for piece in (ids[:, :4], ids[:, 4:7], ids[:, 7:]):
            last = model(piece, past_key_values=chunks).logits
        assert difference(last[:, -1], model(ids).logits[:, -1]) <= TOLERANCE
        left, mask = ROWS.clone(), MASK.clone()
        left[1], mask[1] = ROWS[1].roll(3), MASK[1].roll(3)
        batched = Cache()
        model(left[:, :-2], attention_mask=mask[:, :-2], past_key_values=batched)
        last = model(left[:, -2:], attention_mask=mask, past_key_values=batched).logits
        for i, n in enumerate(LENGTHS):
            assert difference(last[i, -1], model(ROWS[i : i + 1, :n]).logits[0, -1]) <= TOLERANCE


@pytest.mark.parametrize(("case", "task"), [(c, t) for c, t in PAIRS if t == "Seq2SeqLM"], ids=[c.id for c, t in PAIRS if t == "Seq2SeqLM"])
def test_cached_decoder_equals_full(case: Case, task: str, tmp_path: Path) -> None:
    """The decoder with a cache, and the encoder run once, give the logits of the whole pass."""
    write(case, task, tmp_path)
    model, cache = ours(tmp_path, task), Cache()
    with torch.no_grad():
        whole = model(ROWS, attention_mask=MASK, decoder_input_ids=TARGET)
        memory = (whole.encoder_last_hidden_state,)
        steps = [
            model(attention_mask=MASK, encoder_outputs=memory, decoder_input_ids=TARGET[:, i : i + 1], past_key_values=cache).logits
            for i in range(TARGET.shape[1])
        ]
    assert difference(torch.cat(steps, 1), whole.logits) <= TOLERANCE


@pytest.mark.parity
@each
def test_gradients_equal(case: Case, task: str, tmp_path: Path) -> None:
    """In train() mode the loss and the gradient of every stored tensor are the reference's."""
    from tests.peer import read_reference, write_folder

    if task in ("Model", "TextEncoding"):
        return
    write_folder(case, task, tmp_path)
    reference, model = read_reference(task, tmp_path).train(), ours(tmp_path, task).train()
    batch = inputs(case, task, padded=False)
    if task == "QuestionAnswering":
        batch = {k: v for k, v in batch.items() if k != "attention_mask"}  # its loss counts padding too; what padding computes is nobody's
        batch["input_ids"] = ROWS.clamp(min=2)
        batch |= {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    elif task in ("SequenceClassification", "NextSentencePrediction"):
        batch["labels"] = torch.tensor([1, 0])
    elif task == "Seq2SeqLM":
        batch.pop("decoder_input_ids")
        batch["labels"] = TARGET.masked_fill(TARGET == 6, -100)
    elif task == "PreTraining":
        batch["labels"] = TYPES
    else:
        limit = 3 if task == "TokenClassification" else 99
        batch["labels"] = (ROWS % limit).masked_fill(MASK == 0, -100)
    ours_loss, reference_loss = model(**batch).loss, reference(**batch).loss
    assert difference(ours_loss, reference_loss) <= TOLERANCE
    ours_loss.backward()
    reference_loss.backward()
    grads = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in model.named_parameters()}
    reference.save_pretrained(tmp_path / "r")
    theirs = dict(reference.named_parameters())
    largest = max(p.grad.abs().max().item() for p in theirs.values() if p.grad is not None)
    checked = 0
    for stored, place in Names(model.config, task).stored(grads).items():
        if stored in theirs and theirs[stored].grad is not None:
            got, want = place.write([grads[n] for n in place.names]), theirs[stored].grad
            assert ((got - want).abs().max() / max(want.abs().max().item(), largest * 1e-2)).item() <= 5e-5, stored
            checked += 1
    assert checked >= 0.8 * sum(p.grad is not None for p in theirs.values())
