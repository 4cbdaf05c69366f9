"""Sentences a second of all-MiniLM-L6-v2 over 512 texts of mixed length, and the latency of one, beside four other ways to run it on a CPU.

    python benchmarks/encoders.py [--runs N] [--texts N] [--threads N] [--part vectors|tokens|labels|one|all] [--quick]

vectors: one vector a text, the mean over its tokens; with the cosine to transformers in fp32. tokens: the nested
lists of a vector a token that
pipelines return. labels: text-classification with a random head of three labels. one: milliseconds for a vector of one short sentence.
OpenVINO and ONNX Runtime get batches of 32 sorted by length, made by hand, with transformers' tokenizer; transformers its own pipeline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import MINILM, Rates, Work, calm, gather, machine, options, per_second, seconds, table, texts, turns

Array = np.ndarray[Any, Any]
Runner = Callable[[dict[str, Array]], Array]  # a padded batch -> hidden states (B, N, C)
BATCH = 32
SHORT = "The train to Busan leaves at seven in the morning."
PARTS = ("vectors", "tokens", "labels", "one")


# ---------------------------------------------------------------- the other libraries


def openvino(folder: str, precision: str, threads: int) -> Runner:
    """The body in OpenVINO, computing in "f32" or "bf16"."""
    import openvino as ov
    import torch
    import transformers

    model: Any = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager", return_dict=False).eval()
    example = {k: torch.ones(2, 9, dtype=torch.long) for k in ("input_ids", "attention_mask", "token_type_ids")}
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.compile_model(ov.convert_model(model, example_input=example), "CPU", settings)
    return lambda batch: compiled(batch)[0]


def onnx(folder: str, work: Path, threads: int, int8: bool) -> Runner:
    """The body in ONNX Runtime, in fp32 or with its dynamic int8 quantization."""
    import onnxruntime as ort

    path = work / "model.onnx"
    if not path.exists():
        export(folder, path)
    if int8:
        from onnx import TensorProto
        from onnxruntime.quantization import QuantType, quantize_dynamic

        known = {"DefaultTensorType": TensorProto.FLOAT}  # behind fused nodes, which shape inference does not know
        quantize_dynamic(path, path := work / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True, extra_options=known)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda batch: session.run(None, {name: batch[name] for name in names})[0]


def export(folder: str, path: Path) -> None:
    """Write the body as ONNX, then fuse it as ONNX Runtime does for BERT."""
    import warnings

    import torch
    import transformers
    from onnxruntime.transformers import optimizer

    model: Any = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager", return_dict=False).eval()

    class Body(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)[0]

    names = ["input_ids", "attention_mask", "token_type_ids"]
    raw, axes = path.with_name("raw.onnx"), {0: "rows", 1: "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that is used here is deprecated; its successor needs onnxscript
        torch.onnx.export(Body().eval(), tuple(torch.ones(2, 9, dtype=torch.long) for _ in names), str(raw), input_names=names,
                          output_names=["hidden"], dynamic_axes=dict.fromkeys([*names, "hidden"], axes), dynamo=False)  # fmt: skip
    c = model.config
    optimizer.optimize_model(str(raw), "bert", num_heads=c.num_attention_heads, hidden_size=c.hidden_size).save_model_to_file(str(path))


def means(run: Runner, folder: str, rows: list[str], lists: bool = False) -> Callable[[], Any]:
    """All texts through ``run`` in sorted batches: the mean vectors ``(B, C)``, or lists of a vector a token."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def work() -> Any:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        out: list[Any] = [None] * len(rows)
        for i in range(0, len(rows), BATCH):
            part = order[i : i + BATCH]
            batch = dict(tokenizer([rows[r] for r in part], padding=True, return_tensors="np"))
            hidden, mask = run(batch), batch["attention_mask"]
            if lists:
                found: Any = [[h[: m.sum()].tolist()] for h, m in zip(hidden, mask, strict=True)]
            else:
                found = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            for r, one in zip(part, found, strict=True):
                out[r] = one
        return out if lists else np.stack(out)

    return work


# ---------------------------------------------------------------- the pipelines


def own(task: str, source: str, **loading: Any) -> Any:
    import hunmin

    return hunmin.pipeline(task, model=source, **loading)


def theirs(task: str, source: str) -> Any:
    import torch
    import transformers

    return transformers.pipeline(task, model=source, device="cpu", dtype=torch.float32)


def hunmins(task: str, source: str) -> dict[str, Callable[[], Any]]:
    return {
        "Hunmin fp32": lambda: own(task, source, dtype="float32"),
        "Hunmin bf16": lambda: own(task, source, dtype="bfloat16"),
        "Hunmin int8": lambda: own(task, source, quantization="int8"),
    }


def vectors(rows: list[str], source: str, work: Path, threads: int) -> dict[str, Callable[[], Array]]:
    """Every way to one vector a text. Transformers' pipeline has no pooling: the mean of its lists; in batches they
    hold padding's vectors too."""
    pipes = gather(hunmins("feature-extraction", source))
    runners = gather(
        {
            "OpenVINO f32": lambda: openvino(source, "f32", threads),
            "OpenVINO bf16": lambda: openvino(source, "bf16", threads),
            "ONNX Runtime fp32": lambda: onnx(source, work, threads, False),
            "ONNX Runtime int8": lambda: onnx(source, work, threads, True),
        }
    )
    peer = theirs("feature-extraction", source)
    out: dict[str, Callable[[], Array]] = {}
    for name, pipe in pipes.items():
        out[name] = lambda pipe=pipe: np.asarray(pipe(rows, pooling="mean", normalize=False), np.float32)
    out["transformers"] = lambda: np.stack([np.asarray(one[0], np.float32).mean(0) for one in peer(rows)])
    return out | {name: means(runner, source, rows) for name, runner in runners.items()}


def cosines(works: dict[str, Callable[[], Array]]) -> dict[str, str]:
    """The cosine of every row's vectors with those of transformers in fp32: the least, and the mean."""
    found = {name: work() for name, work in works.items()}
    unit = {name: value / np.linalg.norm(value, axis=1, keepdims=True) for name, value in found.items()}
    out: dict[str, str] = {}
    for name, value in unit.items():
        cosine = (value * unit["transformers"]).sum(1)
        out[name] = f"cosine {cosine.min():.4f} at least, {cosine.mean():.5f} on average"
    return out


# ---------------------------------------------------------------- the parts


def names_of(rates: Rates) -> list[str]:
    return [name for name in rates if name.startswith("Hunmin")]


def lists(task: str, rows: list[str], source: str, runs: int, threads: int) -> None:
    """Pipelines as they are: vectors a token for feature-extraction, labels for text-classification."""
    pipes = gather(hunmins(task, source))
    peer = theirs(task, source)
    works: dict[str, Work] = {name: lambda pipe=pipe: pipe(rows) for name, pipe in pipes.items()}
    works |= {"transformers": lambda: peer(rows), f"transformers batch_size={BATCH}": lambda: peer(rows, batch_size=BATCH)}
    if task == "feature-extraction":
        runners = gather({"OpenVINO bf16": lambda: openvino(source, "bf16", threads)})
        works |= {name: means(runner, source, rows, lists=True) for name, runner in runners.items()}
    rates = per_second(len(rows), turns(works, runs))
    table(f"{task}, as pipelines answer", "texts/s", rates, names_of(rates))


def main() -> None:
    given = options(__doc__, {"part": (*PARTS, "all")}, runs=(3, 1), texts=(512, 24), calls=(100, 10))
    calm(given.threads)
    import torch

    import hunmin
    from hunmin.hub.files import resolve

    rows, source = texts(given.texts), str(resolve(MINILM).root)
    chosen = PARTS if given.part == "all" else (given.part,)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        if "vectors" in chosen:
            works = vectors(rows, source, work, given.threads)
            rates = per_second(len(rows), turns(works, given.runs))
            print(machine(given.threads))
            print(f"{len(rows)} texts of {sum(len(row.split()) for row in rows) / len(rows):.1f} words on average, {given.runs} rounds")
            table("MiniLM, one vector a text", "texts/s", rates, names_of(rates), cosines(works))
        if "tokens" in chosen:
            lists("feature-extraction", rows, source, given.runs, given.threads)
        if "labels" in chosen:
            torch.manual_seed(0)
            hunmin.AutoModelForSequenceClassification.from_pretrained(MINILM, num_labels=3).save_pretrained(work / "labels")
            hunmin.AutoTokenizer.from_pretrained(MINILM).save_pretrained(work / "labels")
            lists("text-classification", rows, str(work / "labels"), given.runs, given.threads)
        if "one" in chosen:
            works = vectors([SHORT], source, work, given.threads)
            calls = given.calls

            def milliseconds(one: Work) -> float:
                return sorted(seconds(one) for _ in range(calls))[calls // 2] * 1000

            found = turns(works, given.runs, milliseconds)
            table(f"MiniLM, one sentence, median of {calls}", "ms", found, names_of(found), less=True)


if __name__ == "__main__":
    main()
