"""Adapter folders as PEFT writes and reads them, small: configuration, shapes and logits; tensors follow from their names (tests/cases.py).

``python -m tests.peft_golden`` writes them again; needs the extra ``parity``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.cases import CASES, MASK, Case, inputs, sample, weight

GOLDEN = Path(__file__).parent / "golden" / "peft.json"
FIRST = {case.model_type: case for case in reversed(CASES)}
# name: (model type, task, PEFT's class, options)
ADAPTERS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "bert-dora": ("bert", "SequenceClassification", "LoraConfig", {"r": 4, "use_dora": True, "task_type": "SEQ_CLS"}),
    "roberta-lora": ("roberta", "SequenceClassification", "LoraConfig", {"r": 2, "task_type": "SEQ_CLS"}),
    "gpt2-lora": ("gpt2", "CausalLM", "LoraConfig", {"r": 4, "lora_alpha": 3, "task_type": "CAUSAL_LM"}),
    "gpt2-dora": ("gpt2", "CausalLM", "LoraConfig", {"r": 3, "use_dora": True, "target_modules": ["c_attn", "c_proj"]}),
    "gpt2-tokens": ("gpt2", "CausalLM", "LoraConfig", {"r": 3, "target_modules": ["wte"]}),
    "llama-rslora": ("llama", "CausalLM", "LoraConfig", {"r": 4, "use_rslora": True, "target_modules": "all-linear"}),
    "qwen2-pattern": ("qwen2", "CausalLM", "LoraConfig", {"r": 4, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {r".*\.1\..*q_proj": 5}}),
    "t5-lora": ("t5", "Seq2SeqLM", "LoraConfig", {"r": 4, "bias": "lora_only", "task_type": "SEQ_2_SEQ_LM"}),
    "bart-bias": ("bart", "Seq2SeqLM", "LoraConfig", {"r": 4, "bias": "all", "task_type": "SEQ_2_SEQ_LM"}),
    "gpt2-ia3": ("gpt2", "CausalLM", "IA3Config", {"task_type": "CAUSAL_LM"}),
    "bart-ia3": ("bart", "Seq2SeqLM", "IA3Config", {"task_type": "SEQ_2_SEQ_LM"}),
    "qwen2-prompt": ("qwen2", "CausalLM", "PromptTuningConfig", {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}),
    "t5-prompt": ("t5", "Seq2SeqLM", "PromptTuningConfig", {"num_virtual_tokens": 3, "task_type": "SEQ_2_SEQ_LM"}),
    "gemma2-prompt": ("gemma2", "CausalLM", "PromptTuningConfig", {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}),
    "gpt2-prefix": ("gpt2", "CausalLM", "PrefixTuningConfig", {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}),
    "llama-prefix": ("llama", "CausalLM", "PrefixTuningConfig", {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}),
    "bert-prefix": ("bert", "SequenceClassification", "PrefixTuningConfig", {"num_virtual_tokens": 3, "task_type": "SEQ_CLS"}),
}


def write_adapter(golden: dict[str, Any], folder: Path) -> None:
    """The folder that a golden result was computed from."""
    folder.mkdir(exist_ok=True)
    made = {name: weight(name, shape) for name, shape in golden["shapes"].items()}
    save_file(made, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(golden["config"]))


def logits(model: Any, case: Case, task: str) -> torch.Tensor:
    """Of the text's real tokens."""
    batch = inputs(case, task, padded=False)
    with torch.no_grad():
        out = model(**batch)["logits"]
    return out[:, -MASK.shape[1] :] * MASK[..., None] if out.ndim == 3 and "decoder_input_ids" not in batch else out


def main() -> None:
    import peft

    from tests.peer import read_reference, write_folder

    golden: dict[str, Any] = {}
    for name, (model_type, task, kind, options) in ADAPTERS.items():
        case = FIRST[model_type]
        with tempfile.TemporaryDirectory() as place:
            base, folder = Path(place) / "base", Path(place) / "adapter"
            write_folder(case, task, base)
            peft.get_peft_model(read_reference(task, base), getattr(peft, kind)(**options)).save_pretrained(folder)
            shapes = {k: list(t.shape) for k, t in sorted(load_file(folder / "adapter_model.safetensors").items())}
            config = json.loads((folder / "adapter_config.json").read_text())
            entry = {"config": {**config, "base_model_name_or_path": "base"}, "shapes": shapes}
            write_adapter(entry, folder)
            model = peft.PeftModel.from_pretrained(read_reference(task, base), folder).eval()
            golden[name] = {**entry, "logits": sample(logits(model, case, task))}
    GOLDEN.write_text(json.dumps(golden, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
