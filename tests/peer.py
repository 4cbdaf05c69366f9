"""The reference side of the parity tests: tiny transformers models in folders. Needs the extra ``parity``.

``python -m tests.peer`` writes the golden files from them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cases import CASES, PAIRS, Case, inputs, real, sample, weight

GOLDEN = Path(__file__).parent / "golden" / "parity"
STEMS = {"MaskedLM": "ForMaskedLM", "CausalLM": "ForCausalLM", "Seq2SeqLM": "ForSeq2SeqLM", "Model": ""}


def reference_class(task: str) -> Any:
    import transformers

    return getattr(transformers, f"AutoModel{STEMS.get(task, 'For' + task)}")


def write_folder(case: Case, task: str, folder: Path) -> dict[str, list[int]]:
    """Let transformers write a model's folder, then put the agreed weights into it. Returns the stored shapes."""
    import transformers

    config = transformers.AutoConfig.for_model(case.model_type, **case.config)
    dropouts = [k for k in config.to_dict() if "drop" in k and isinstance(config.to_dict()[k], float)]
    for key in dropouts:
        setattr(config, key, 0.0)
    if task == "TokenClassification":
        config.classifier_dropout = 0.0
    if task in ("SequenceClassification", "TokenClassification"):
        config.num_labels = 3
    make = transformers.T5EncoderModel if task == "TextEncoding" else reference_class(task)
    model = make(config) if task == "TextEncoding" else make.from_config(config)
    model.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as f:
        shapes = {name: list(f.get_slice(name).get_shape()) for name in f.keys()}  # noqa: SIM118
    table = load_file(folder / "model.safetensors")  # Marian's bare model stores its computed positions: those stay
    computed = case.model_type in ("marian", "pegasus")
    values = {n: table[n] if computed and "embed_positions" in n else weight(n, shape) for n, shape in shapes.items()}
    save_file(values, folder / "model.safetensors", {"format": "pt"})
    written = json.loads((folder / "config.json").read_text())
    edited = {k: v for k, v in {**written, **case.edit}.items() if case.edit.get(k, "") is not None}
    (folder / "config.json").write_text(json.dumps(edited, indent=1, sort_keys=True))
    return shapes


def read_reference(task: str, folder: Path) -> Any:
    import transformers

    make = transformers.T5EncoderModel if task == "TextEncoding" else reference_class(task)
    return make.from_pretrained(folder, attn_implementation="eager").eval()


def outputs(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    out = model(**batch, output_hidden_states=True, output_attentions=True, return_dict=True)
    return {k: v for k, v in out.items() if k != "past_key_values" and v is not None and len(v)}


def main() -> None:
    import tempfile

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for case in CASES:
        golden: dict[str, Any] = {}
        for task in case.tasks:
            with tempfile.TemporaryDirectory() as name, torch.no_grad():
                folder = Path(name)
                shapes = write_folder(case, task, folder)
                batch = inputs(case, task, padded=False)
                out = outputs(read_reference(task, folder), batch)
                keep = {k: sample(real(k, v)) for k, v in out.items() if isinstance(v, torch.Tensor)}
                keep |= {k: [sample(real(k, t), 8) for t in v] for k, v in out.items() if isinstance(v, tuple)}
                config = json.loads((folder / "config.json").read_text())
                golden[task] = {"config": config, "shapes": shapes, "outputs": keep}
        GOLDEN.mkdir(parents=True, exist_ok=True)
        text = json.dumps(golden, separators=(",", ":"), sort_keys=True)
        (GOLDEN / f"{case.id}.json").write_text(text + "\n")
        print(case.id, len(text))
    assert PAIRS


if __name__ == "__main__":
    sys.exit(main())
