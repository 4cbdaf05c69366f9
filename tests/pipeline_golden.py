"""Writes the golden files of the pipeline tests. Run it with the last transformers that had all tasks, in an environment of its own:

pip install "transformers==4.50.0" sentencepiece && python -m tests.pipeline_golden
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.cases import weight
from tests.pipeline_cases import CALLS, CONTEXT, KOREAN, MODELS, NFD, TEXT

GOLDEN = Path(__file__).parent / "golden" / "pipelines"
CORPUS = [TEXT, KOREAN, NFD, CONTEXT, "Rain falls. The sun shines, it rains, who went?", "sports politics weather food about example is This",
          "summarize: translate English to French: Where is the cat dog"] * 4  # fmt: skip


def make_tokenizer(kind: str) -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertTokenizerFast, GPT2TokenizerFast, RobertaTokenizerFast, T5TokenizerFast

    if kind == "wordpiece":
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=260, special_tokens=special))
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
        backend.decoder = decoders.WordPiece()
        return BertTokenizerFast(tokenizer_object=backend, model_max_length=80)
    if kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        special = ["<pad>", "</s>", "<unk>"]
        backend.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=220, special_tokens=special, unk_token="<unk>"))
        backend.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
        return T5TokenizerFast(tokenizer_object=backend, extra_ids=0, model_max_length=80)
    if kind in ("mbart", "mbart50", "nllb"):
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        backend.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=220, special_tokens=special, unk_token="<unk>"))
        classes = {
            "mbart": transformers.MBartTokenizerFast,
            "mbart50": transformers.MBart50TokenizerFast,
            "nllb": transformers.NllbTokenizerFast,
        }
        codes = {"src_lang": "eng_Latn", "tgt_lang": "kor_Hang"} if kind == "nllb" else {"src_lang": "en_XX", "tgt_lang": "ko_KR"}
        return classes[kind](tokenizer_object=backend, model_max_length=80, **codes)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if kind == "bytes" else ["<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet))
    if kind == "gpt2":
        return GPT2TokenizerFast(tokenizer_object=backend, model_max_length=80)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return RobertaTokenizerFast(tokenizer_object=backend, model_max_length=78)


def make_folder(name: str) -> None:
    """A model's folder as transformers writes it; weights by their names, only the shapes are kept."""
    import transformers

    model_type, kind, head, settings = MODELS[name]
    folder = GOLDEN / name
    tokenizer = make_tokenizer(kind)
    ids = {
        f"{k}_token_id": getattr(tokenizer, f"{k}_token_id")
        for k in ("pad", "bos", "eos")
        if getattr(tokenizer, f"{k}_token_id") is not None
    }
    config = transformers.AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **ids, **settings)
    make = transformers.AutoModel if head == "Model" else getattr(transformers, f"AutoModelFor{head}")
    make.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as f:
        shapes = {key: list(f.get_slice(key).get_shape()) for key in f.keys()}  # noqa: SIM118
    if "lm_head.bias" in shapes and model_type == "roberta":  # published files hold it twice, and 4.50.0 reads the other one
        shapes["lm_head.decoder.bias"] = shapes["lm_head.bias"]
    save_file({key: weight(key, shape) for key, shape in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "shapes.json").write_text(json.dumps(shapes, sort_keys=True) + "\n")
    for extra in ("vocab.txt", "vocab.json", "merges.txt"):
        (folder / extra).unlink(missing_ok=True)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic | torch.Tensor):
        return value.item() if value.ndim == 0 else value.tolist()
    return value


def main() -> None:
    import transformers
    from transformers import pipeline

    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    for name in MODELS:
        make_folder(name)
    results = list[Any]()
    for name, task, built, arguments, options in CALLS:
        torch.manual_seed(0)
        pipe = pipeline(task, model=str(GOLDEN / name), device="cpu", **built)
        results.append(plain(pipe(*arguments, **options)))
    (GOLDEN / "results.json").write_text(json.dumps(results, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    for name in MODELS:
        (GOLDEN / name / "model.safetensors").unlink()
    print(len(results), "results from transformers", transformers.__version__)


if __name__ == "__main__":
    main()
