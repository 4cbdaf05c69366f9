"""Folders that others quantized: written here from known numbers by the documented packing, word by word, and read into tiles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hunmin.auto import load
from hunmin.errors import ConfigError, FormatError, InputError
from hunmin.quantize import QuantizedLinear
from hunmin.quantize.tiles import NF4
from tests.cases import Case
from tests.test_adapters import FIRST, answer
from tests.test_parity import write

TASK, GROUP = "CausalLM", 32
AWQ_CHANNELS = (0, 2, 4, 6, 1, 3, 5, 7)  # the channel, of eight, that is in nibble 0, 1, … of a word


def words(numbers: Tensor, bits: int, channels: tuple[int, ...] | None = None) -> Tensor:
    """Numbers ``(R, C)`` packed along C into int32, one after the other from the lowest bits."""
    per = 32 // bits
    out = torch.zeros(len(numbers), -(-numbers.shape[1] // per), dtype=torch.int64)
    for column in range(numbers.shape[1]):
        place = column % per
        at = column if channels is None else column - place + channels[place]
        out[:, column // per] |= numbers[:, at].long() << (bits * place)
    return (out - ((out >> 31) << 32)).to(torch.int32)


def draw(rows: int, width: int, bits: int, even: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes ``(O, K)``, scales and zeros ``(O, groups)``, and the numbers that they stand for."""
    codes, groups = torch.randint(0, 1 << bits, (rows, width)), -(-width // GROUP)  # the last group may be cut off
    scales = (torch.rand(rows, groups) * 0.02 + 0.005).half()
    middle = 1 << (bits - 1)
    zeros = torch.full((rows, groups), middle) if even else torch.randint(middle // 2, middle * 3 // 2, (rows, groups))
    spread = [t.repeat_interleave(GROUP, 1)[:, :width] for t in (scales.float(), zeros)]
    return codes, scales, zeros, spread[0] * (codes - spread[1])


Writer = Callable[[str, int, int], tuple[dict[str, Tensor], Tensor]]


def gptq(bits: int, even: bool, act_order: bool, first: bool) -> tuple[dict[str, Any], Writer]:
    def make(path: str, rows: int, width: int) -> tuple[dict[str, Tensor], Tensor]:
        codes, scales, zeros, weight = draw(rows, width, bits, even)
        index = torch.arange(width) // GROUP
        if act_order:  # the columns of a group are anywhere
            order = torch.randperm(width)
            codes, weight, index = codes[:, order], weight[:, order], index[order]
        stored = (zeros - 1 if first else zeros) % (1 << bits)
        parts = {
            "qweight": words(codes, bits).t(), "qzeros": words(stored.t(), bits), "scales": scales.t(), "g_idx": index.to(torch.int32)
        }  # fmt: skip
        return {f"{path}.{k}": v.contiguous() for k, v in parts.items()}, weight

    settings = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": act_order, "sym": even}
    return settings if first else settings | {"checkpoint_format": "gptq_v2"}, make


def awq() -> tuple[dict[str, Any], Writer]:
    def make(path: str, rows: int, width: int) -> tuple[dict[str, Tensor], Tensor]:
        codes, scales, zeros, weight = draw(rows, width, 4, False)
        parts = {"qweight": words(codes.t(), 4, AWQ_CHANNELS), "qzeros": words(zeros.t(), 4, AWQ_CHANNELS), "scales": scales.t()}
        return {f"{path}.{k}": v.contiguous() for k, v in parts.items()}, weight

    return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}, make


def compressed(bits: int, even: bool) -> tuple[dict[str, Any], Writer]:
    def make(path: str, rows: int, width: int) -> tuple[dict[str, Tensor], Tensor]:
        codes, scales, zeros, weight = draw(rows, width, bits, even)
        parts = {"weight_packed": words(codes, bits), "weight_scale": scales, "weight_shape": torch.tensor([rows, width])}
        if not even:
            parts["weight_zero_point"] = words(zeros.t(), bits).t()
        return {f"{path}.{k}": v.contiguous() for k, v in parts.items()}, weight

    weights = {"num_bits": bits, "type": "int", "symmetric": even, "group_size": GROUP, "strategy": "group"}
    group = {"group_0": {"weights": weights, "input_activations": None, "targets": ["Linear"]}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": group}, make


def bnb8() -> tuple[dict[str, Any], Writer]:
    def make(path: str, rows: int, width: int) -> tuple[dict[str, Tensor], Tensor]:
        codes, largest = torch.randint(-127, 128, (rows, width)).to(torch.int8), torch.rand(rows) + 0.5
        parts = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
        return {f"{path}.{k}": v for k, v in parts.items()}, codes * largest[:, None] / 127

    return {"quant_method": "bitsandbytes", "load_in_8bit": True}, make


def bnb4(nested: bool) -> tuple[dict[str, Any], Writer]:
    def make(path: str, rows: int, width: int) -> tuple[dict[str, Tensor], Tensor]:
        block = 32
        codes = torch.randint(0, 16, (rows, width))
        largest = torch.rand(rows * width // block) + 0.5
        state: dict[str, Any] = {"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": [rows, width]}
        parts = {"weight.quant_map": torch.tensor(NF4), "weight.absmax": largest}
        if nested:
            table, over = torch.linspace(-1, 1, 256), torch.rand(-(-len(largest) // 256)) + 0.2
            small = torch.randint(0, 256, largest.shape).to(torch.uint8)
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.9}
            largest = torch.stack([table[int(c)] * over[i // 256] + 0.9 for i, c in enumerate(small)])
            parts |= {"weight.absmax": small, "weight.nested_absmax": over, "weight.nested_quant_map": table}
        flat = codes.flatten()
        parts["weight"] = (flat[::2] << 4 | flat[1::2]).to(torch.uint8)[:, None]
        parts["weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        return {f"{path}.{k}": v for k, v in parts.items()}, torch.tensor(NF4)[codes] * largest.view(rows, -1).repeat_interleave(block, 1)

    return {"quant_method": "bitsandbytes", "load_in_4bit": True, "blocks": True}, make


def folder(case: Case, path: Path, settings: dict[str, Any], make: Writer) -> None:
    """Two folders: ``stored`` with every matrix of the layers packed, ``plain`` with the numbers that they stand for."""
    torch.manual_seed(0)
    for name in ("stored", "plain"):
        write(case, TASK, path / name)
    tensors = load_file(path / "plain" / "model.safetensors")
    other = dict(tensors)
    for name, t in tensors.items():
        if (".layers." in name or ".h." in name) and name.endswith(".weight") and t.ndim == 2:
            rows, width = t.shape[::-1] if ".h." in name else t.shape
            if width % GROUP and "blocks" in settings:
                continue  # its blocks would go on in the next row
            parts, weight = make(name.removesuffix(".weight"), rows, width)
            del other[name]
            other |= parts
            tensors[name] = (weight.t() if ".h." in name else weight).contiguous()
    save_file({k: v.contiguous() for k, v in other.items()}, path / "stored" / "model.safetensors", {"format": "pt"})
    save_file(tensors, path / "plain" / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "stored" / "config.json").read_text())
    (path / "stored" / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))


KINDS = {
    "gptq-4": gptq(4, True, False, True),
    "gptq-4-uneven": gptq(4, False, False, True),
    "gptq-4-v2": gptq(4, False, False, False),
    "gptq-4-act-order": gptq(4, False, True, True),
    "gptq-8": gptq(8, True, False, True),
    "gptq-8-act-order": gptq(8, False, True, False),
    "awq": awq(),
    "compressed-4": compressed(4, True),
    "compressed-4-uneven": compressed(4, False),
    "compressed-8": compressed(8, True),
    "bnb-8": bnb8(),
    "bnb-nf4": bnb4(False),
    "bnb-nf4-nested": bnb4(True),
}
MADE = [(kind, "llama") for kind in KINDS] + [("gptq-4-act-order", "gpt2"), ("awq", "gpt2"), ("gptq-8", "qwen2")]


@pytest.mark.parametrize(("kind", "name"), MADE, ids=[f"{k}-{n}" for k, n in MADE])
def test_numbers_are_those_that_were_packed(kind: str, name: str, tmp_path: Path) -> None:
    """To half precision's rounding of scales and minimums; then through a folder of our own, bit for bit."""
    case = FIRST[name]
    folder(case, tmp_path, *KINDS[kind])
    model, plain = load(tmp_path / "stored", TASK, dtype="float32"), load(tmp_path / "plain", TASK)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    assert len(layers) == sum(
        isinstance(m, torch.nn.Linear) and (m.in_features % GROUP == 0 or "nf4" not in kind) for m in plain.decoder.modules()
    )
    for n, layer in layers.items():
        want = plain.get_submodule(n).weight
        assert ((layer.weight - want).norm() / want.norm()).item() < 1e-3
        x = torch.randn(3, layer.in_features)
        with torch.no_grad():
            assert (layer(x) - x @ want.T - (layer.bias if layer.bias is not None else 0)).norm() / (x @ want.T).norm() < 0.02
        layer.round_inputs = False
    assert torch.allclose(answer(model, case, TASK), answer(plain, case, TASK), atol=2e-2)
    model.save_pretrained(tmp_path / "own")
    again = load(tmp_path / "own", TASK)
    state, other = model.state_dict(), again.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)
    assert load(tmp_path / "stored", TASK, quantization="bf16").decoder.stack.layers[0].attn.q.weight.dtype == torch.bfloat16


def test_what_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    settings, make = KINDS["gptq-4"]
    folder(FIRST["llama"], tmp_path, settings, make)
    file = tmp_path / "stored" / "config.json"
    config = json.loads(file.read_text())

    def trying(settings: Any, error: type[Exception], said: str) -> None:
        file.write_text(json.dumps(config | {"quantization_config": settings}))
        with pytest.raises(error, match=said):
            load(tmp_path / "stored", TASK)

    for method in ("fp8", "quanto", "aqlm"):
        trying({"quant_method": method}, ConfigError, rf"stored quantized \({method}\)")
    trying("gptq", ConfigError, "stored quantized")
    trying(settings | {"bits": 3}, FormatError, "3 bits; Hunmin reads 4 and 8")
    trying(settings | {"group_size": 16}, FormatError, "group")
    trying(settings | {"group_size": "a"}, FormatError, "group_size 'a'")
    trying(settings | {"group_size": 64}, FormatError, "g_idx")
    trying({**settings, "quant_method": "awq", "version": "gemv"}, FormatError, "'gemv'")
    trying({"quant_method": "hunmin", "format": "tiles-9"}, FormatError, "'tiles-9'")
    trying({"quant_method": "compressed-tensors", "format": "float-quantized"}, FormatError, "weights|lacks")
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match="stored quantized already"):
        load(tmp_path / "stored", TASK, load_in_4bit=True)


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    for kind, leaf in (("gptq-4", "qzeros"), ("awq", "scales"), ("compressed-4", "weight_scale"), ("bnb-nf4", "weight")):
        path = tmp_path / kind
        path.mkdir()
        folder(FIRST["llama"], path, *KINDS[kind])
        file = path / "stored" / "model.safetensors"
        tensors = load_file(file)
        gone = "model.layers.1.self_attn.q_proj." + leaf
        save_file({k: v for k, v in tensors.items() if k != gone}, file, {"format": "pt"})
        with pytest.raises(FormatError, match=f"{gone} is missing"):
            load(path / "stored", TASK)
