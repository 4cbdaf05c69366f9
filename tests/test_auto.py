"""Auto classes, configurations, outputs and losses, saving; and the variants that are refused by name."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hunmin import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    GPT2LMHeadModel,
    MarianMTModel,
    RobertaForSequenceClassification,
    T5ForConditionalGeneration,
)
from hunmin.errors import ConfigError, FormatError, InputError, SourceError, warn_once
from hunmin.hub.config import Config
from hunmin.model import PreTrainedModel
from hunmin.nn.norm import RMSNorm
from hunmin.nn.where import Where
from tests.cases import CASES, DISTIL, GPT2, GQA, IDS, MASK, PAIR, ROWS, SMALL, T5, TARGET
from tests.test_parity import write

DECODERS = ("mistral", "qwen3", "gemma2")
TRAIN = "You should probably TRAIN this model on a down-stream task to be able to use it for predictions and inference."


@pytest.fixture(autouse=True)
def _fresh_warnings() -> None:
    warn_once.cache_clear()


def saved(name: str, task: str, folder: Path) -> Path:
    """The tiny model of the parity tests in a folder."""
    write(next(c for c in CASES if c.id == name), task, folder)
    return folder


def tiny(model_type: str, task: type[Any] = AutoModel, **values: Any) -> Any:
    """A tiny model with fresh weights, for evaluation."""
    sizes = {"gpt2": GPT2, "t5": T5, "mt5": T5, "bart": PAIR, "marian": PAIR, "distilbert": DISTIL}.get(
        model_type, GQA if model_type in DECODERS else SMALL | IDS
    )
    return task.from_config(AutoConfig.for_model(model_type, **{**sizes, **values})).eval()


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def same(a: PreTrainedModel, b: PreTrainedModel) -> bool:
    mine, other = dict(a.named_parameters()), dict(b.named_parameters())
    return mine.keys() == other.keys() and all(torch.equal(mine[n], other[n]) for n in mine)


def change(folder: Path, **tensors: Tensor | None) -> None:
    """Replace, add or (None) remove tensors of the file."""
    path = folder / "model.safetensors"
    state = {k: v.clone() for k, v in load_file(path).items()} | {k.replace("__", "."): v for k, v in tensors.items()}
    save_file({k: v.contiguous() for k, v in state.items() if v is not None}, path, {"format": "pt"})


# ---------------------------------------------------------------- loading


def test_fresh_heads_are_warned_about_in_the_taught_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = str(saved("roberta-plain", "MaskedLM", tmp_path))
    for _ in range(2):
        AutoModelForSequenceClassification.from_pretrained(name, num_labels=7)
    fresh = ["classifier.dense.bias", "classifier.dense.weight", "classifier.out_proj.bias", "classifier.out_proj.weight"]
    said = warned(caplog)
    assert said == [
        f"Some weights of RobertaForSequenceClassification were not initialized from the model checkpoint at {name} and are newly initialized: "
        f"{fresh}\n{TRAIN}"
    ]


def test_unexpected_weights_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved("gpt2-plain", "CausalLM", tmp_path)
    change(tmp_path, zebra__weight=torch.zeros(1), adapter__bias=torch.zeros(1))
    AutoModelForCausalLM.from_pretrained(tmp_path)
    assert warned(caplog) == [
        f"Some weights of the model checkpoint at {tmp_path} were not used when initializing GPT2LMHeadModel: ['adapter.bias', 'zebra.weight']"
    ]


def test_labels_at_load(tmp_path: Path) -> None:
    saved("bert-plain", "MaskedLM", tmp_path)
    names = {0: "정치", 1: "경제", 2: "문화"}
    for options in (
        {"id2label": names},
        {"id2label": names, "num_labels": 3},
        {"num_labels": 3, "id2label": names, "label2id": {"정치": 0}},
    ):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path, **options)
        assert (model.config.num_labels, model.config.id2label, model.config.label2id["문화"]) == (3, names, 2)
        assert model(ROWS).logits.shape == (2, 3)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=7)
    assert model.config.id2label[6] == "LABEL_6" and model(ROWS).logits.shape == (2, 7)
    model.save_pretrained(tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stored["id2label"]["6"] == "LABEL_6" and stored["label2id"]["LABEL_6"] == 6
    assert stored["architectures"] == ["BertForSequenceClassification"]
    assert same(AutoModelForSequenceClassification.from_pretrained(tmp_path / "out"), model)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=7).config.num_labels == 7


def test_heads_of_another_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved("bert-plain", "SequenceClassification", tmp_path)
    stored = AutoConfig.from_pretrained(tmp_path).num_labels
    with pytest.raises(FormatError, match=r"classifier\.(weight|bias) has shape .* ignore_mismatched_sizes=True"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    model, told = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert model(ROWS).logits.shape == (2, 5) and model(ROWS).logits.isfinite().all()
    assert len(told["mismatched_keys"]) == 2 and told["missing_keys"] == []
    (said,) = warned(caplog)
    assert (
        f"- classifier.bias: found shape {torch.Size([stored])} in the checkpoint and {torch.Size([5])} in the model instantiated" in said
    )
    assert said.startswith("Some weights of BertForSequenceClassification were not initialized") and said.endswith(TRAIN)


def test_dtype_and_device(tmp_path: Path) -> None:
    saved("llama-mqa", "CausalLM", tmp_path)
    for options in ({"torch_dtype": torch.bfloat16}, {"dtype": "bfloat16"}, {"dtype": torch.bfloat16, "device_map": "cpu"}):
        model = AutoModelForCausalLM.from_pretrained(tmp_path, **options)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and model.dtype is torch.bfloat16
        assert model(ROWS).logits.dtype is torch.bfloat16
    for options in ({}, {"dtype": "auto"}, {"device_map": "auto"}, {"device": "cpu"}, {"device": -1}, {"device_map": {"": "cpu"}}):
        model = AutoModelForCausalLM.from_pretrained(tmp_path, **options)
        assert model.dtype is torch.float32
        assert model.device.type == ("cuda" if options.get("device_map") == "auto" and torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16")
    model.save_pretrained(tmp_path / "half")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype is torch.bfloat16
    assert AutoConfig.from_pretrained(tmp_path / "half").dtype == "bfloat16"


def test_classes_by_name(tmp_path: Path) -> None:
    for name, task, made in (
        ("bert-plain", "MaskedLM", BertForMaskedLM),
        ("gpt2-plain", "CausalLM", GPT2LMHeadModel),
        ("t5-plain", "Seq2SeqLM", T5ForConditionalGeneration),
        ("marian-plain", "Seq2SeqLM", MarianMTModel),
    ):
        model = made.from_pretrained(saved(name, task, tmp_path / name))
        assert (model.task, model.architecture) == (task, made.__name__)
        assert same(model, PreTrainedModel.from_pretrained(tmp_path / name))
    assert BertConfig(hidden_size=48) == AutoConfig.for_model("bert", hidden_size=48)
    assert BertForMaskedLM(BertConfig(**SMALL)).config.hidden_size == 32
    assert RobertaForSequenceClassification(AutoConfig.for_model("roberta", **SMALL, num_labels=4)).config.num_labels == 4
    import hunmin

    for wrong in ("BertForTeaMaking", "MarsModel", "BertForMaskedlm"):
        with pytest.raises(AttributeError, match=wrong):
            getattr(hunmin, wrong)
    for wrong_use in (AutoModel, AutoConfig):
        with pytest.raises(TypeError, match="from_pretrained"):
            wrong_use()


def test_the_task_that_the_configuration_names(tmp_path: Path) -> None:
    assert AutoModelForPreTraining.from_pretrained(saved("electra-plain", "PreTraining", tmp_path)).task == "PreTraining"
    with pytest.raises(ConfigError, match=r"gpt2 has no MaskedLM head. It has: AutoModel, AutoModelForCausalLM"):
        AutoModelForMaskedLM.from_pretrained(saved("gpt2-plain", "CausalLM", tmp_path / "gpt2"))


# ---------------------------------------------------------------- configurations


def test_configuration_as_mapping_and_attributes() -> None:
    config = AutoConfig.for_model("gpt2", n_embd=48)
    assert config["n_embd"] == config.n_embd == config.hidden_size == config["hidden_size"] == dict(config)["n_embd"] == 48
    config.hidden_size = 96
    assert config.n_embd == 96 and "hidden_size" in config and "n_layers" not in config
    assert (config.num_labels, config.id2label) == (2, {0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(AttributeError, match="'wings'"):
        _ = config.wings
    with pytest.raises(ConfigError, match="lacks 'wings'"):
        config["wings"]
    assert config.pruned_heads is None
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), AutoConfig.from_dict(config.to_dict())):
        assert twin == config and twin.hidden_size == 96
    twin = copy.deepcopy(config)
    twin.n_layer = 1
    assert config.n_layer == 12
    assert Config.from_dict({"model_type": "bert", "self": 1, "key": 2})["self"] == 1


def test_configuration_round_trip(tmp_path: Path) -> None:
    for model_type in ("bert", "gpt2", "llama", "t5", "marian", "gemma3_text"):
        config = AutoConfig.for_model(model_type, num_labels=4, torch_dtype=torch.bfloat16)
        config.save_pretrained(tmp_path)
        again = AutoConfig.from_pretrained(tmp_path)
        assert again.to_dict() == config.to_dict() and again.dtype == "bfloat16" and again.num_labels == 4
    assert AutoConfig.from_pretrained(tmp_path, vocab_size=7).vocab_size == 7
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_key_that_nobody_read_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved("bert-plain", "Model", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"wings": 2, "beak": None, "use_cache": True}))
    for _ in range(2):
        AutoModel.from_pretrained(tmp_path)
    (said,) = warned(caplog)
    assert str(tmp_path) in said and said.endswith("without them: wings.")


REFUSED = [
    ("bert", {"position_embedding_type": "relative_key"}, ["position_embedding_type='relative_key'"]),
    ("roberta", {"position_embedding_type": "relative_key_query"}, ["position_embedding_type='relative_key_query'"]),
    ("electra", {"is_decoder": True}, ["is_decoder=True"]),
    ("bert", {"add_cross_attention": True}, ["add_cross_attention=True"]),
    ("deberta-v2", {"pos_att_type": "c2p|p2p"}, ["pos_att_type='p2p'"]),
    ("deberta-v2", {"conv_kernel_size": 4}, ["conv_kernel_size=4"]),
    ("deberta-v2", {"norm_rel_ebd": "batch_norm"}, ["norm_rel_ebd='batch_norm'"]),
    ("deberta-v2", {"attention_head_size": 4}, ["attention_head_size=4"]),
    ("deberta-v2", {"relative_attention": True, "position_buckets": 32, "max_relative_positions": 17}, ["relative attention buckets"]),
    ("gpt2", {"add_cross_attention": True}, ["add_cross_attention=True"]),
    ("albert", {"inner_group_num": 2}, ["inner_group_num=2"]),
    ("marian", {"share_encoder_decoder_embeddings": False}, ["share_encoder_decoder_embeddings=False"]),
    ("bart", {"normalize_before": True}, ["normalize_before=True"]),
    ("llama", {"pretraining_tp": 2}, ["pretraining_tp=2"]),
    ("llama", {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}, ["rope_type 'proportional'"]),
    ("llama", {"rope_scaling": {"type": "spiral", "factor": 2.0}}, ["rope_type 'spiral'"]),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "wobble": 1}}, ["rope setting wobble"]),
    ("bert", {"hidden_act": "gelu_of_tomorrow"}, ["'gelu_of_tomorrow'"]),
    ("gpt2", {"activation_function": "snake"}, ["'snake'"]),
    ("t5", {"feed_forward_proj": "x-y"}, ["feed_forward_proj", "'x-y'"]),
    ("gemma3_text", {"layer_types": ["chunked_attention"] * 3}, ["layer_types", "chunked_attention"]),
]


@pytest.mark.parametrize(
    ("model_type", "values", "words"), REFUSED, ids=[f"{m}-{next(iter(v))}-{i}" for i, (m, v, _) in enumerate(REFUSED)]
)
def test_what_cannot_be_computed_is_refused_by_name(model_type: str, values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(model_type, **values)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_an_encoder_that_shall_write_is_asked_for_as_a_decoder() -> None:
    with pytest.raises(ConfigError, match="pass is_decoder=True"):
        tiny("bert", AutoModelForCausalLM)
    with pytest.raises(ConfigError, match="is_decoder=True"):
        tiny("bert", AutoModelForMaskedLM, is_decoder=True)


# ---------------------------------------------------------------- fresh weights and ties


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "gemma2", "t5", "bart", "distilbert", "deberta-v2"])
def test_fresh_weights(model_type: str) -> None:
    model = tiny(model_type, **({"conv_kernel_size": 3} if model_type == "deberta-v2" else {}))
    for path, module in model.named_modules():
        for leaf, p in module.named_parameters(recurse=False):
            if leaf == "bias":
                assert not p.any(), path
            elif isinstance(module, nn.LayerNorm | RMSNorm):
                assert (p + getattr(module, "offset", 0.0) == 1).all(), path
            elif model_type != "t5" and p.numel() > 1000:
                wanted = 0.02 / (6**0.5 if model_type == "gpt2" and path.endswith(("attn.o", "ffn.down")) else 1.0)
                assert p.std().item() == pytest.approx(wanted, rel=0.1) and abs(p.mean().item()) < wanted / 5, path
    if model_type == "bert":
        assert not model.get_input_embeddings().weight[1].any(), "the row of padding is zero"
    assert model(ROWS).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "t5", "bart", "marian"])
def test_fresh_saved_loaded(model_type: str, tmp_path: Path) -> None:
    task = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM, "llama": AutoModelForCausalLM}.get(
        model_type, AutoModelForSeq2SeqLM
    )
    model = tiny(model_type, task)
    model.save_pretrained(tmp_path)
    again = task.from_pretrained(tmp_path)
    assert same(model, again) and not again.training
    assert {k: v for k, v in again.config.to_dict().items() if k != "dtype"} == {
        k: v for k, v in model.config.to_dict().items() if k != "dtype"
    }


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "qwen3", "t5", "bart"])
def test_ties_hold(model_type: str, tmp_path: Path) -> None:
    task = {"bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM, "bart": AutoModelForSeq2SeqLM}.get(model_type, AutoModelForCausalLM)
    model = tiny(model_type, task, tie_word_embeddings=True)

    def check(model: Any, rows: int) -> None:
        tables = [
            model.get_input_embeddings(),
            model.get_output_embeddings(),
            *(b.embed.tokens for b in (model.encoder, model.decoder) if b),
        ]
        assert all(table.weight is tables[0].weight and table.weight.shape[0] == rows for table in tables)
        assert model.config.vocab_size == rows

    check(model, 99)
    model.save_pretrained(tmp_path)
    again = task.from_pretrained(tmp_path)
    check(again, 99)
    old = again.get_input_embeddings().weight.detach().clone()
    again.resize_token_embeddings(120)
    check(again, 120)
    assert torch.equal(again.get_input_embeddings().weight[:99], old)
    again.save_pretrained(tmp_path)
    last = task.from_pretrained(tmp_path)
    check(last, 120)
    assert same(last, again)
    again.resize_token_embeddings(50)
    check(again, 50)
    ids = torch.tensor([[3, 4, 49]])
    assert again(ids, **({"decoder_input_ids": ids} if again.both else {})).logits.shape[-1] == 50


def test_a_stored_head_that_differs_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved("llama-yarn", "CausalLM", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["tie_word_embeddings"]
    head = torch.randn(99, 32)
    change(tmp_path, lm_head__weight=head)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.get_output_embeddings().weight, head) and not torch.equal(model.get_input_embeddings().weight, head)
    (said,) = warned(caplog)
    assert "config.json ties lm_head.weight to model.embed_tokens.weight, but the stored tensors differ" in said
    model.save_pretrained(tmp_path / "out")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_output_embeddings().weight, head)
    model.resize_token_embeddings(101)
    assert torch.equal(model.get_output_embeddings().weight[:99], head)
    assert not torch.equal(model.get_input_embeddings().weight[:99], head)


# ---------------------------------------------------------------- outputs and losses


def test_outputs_by_attribute_key_index_and_as_tuple() -> None:
    model = tiny("gpt2", AutoModelForCausalLM)
    out = model(ROWS, labels=ROWS, use_cache=True, output_hidden_states=True)
    assert out.loss is out["loss"] is out[0] and out.logits is out["logits"] is out[1]
    assert list(out) == ["loss", "logits", "past_key_values", "hidden_states"] and out.attentions is None
    loss, logits = out[:2]
    assert loss is out.loss and logits is out.logits
    plain = model(ROWS, return_dict=False)
    assert isinstance(plain, tuple) and torch.equal(plain[0], logits)
    assert torch.equal(model(ROWS).to_tuple()[0], logits) and "loss" not in model(ROWS)
    with pytest.raises(AttributeError, match="no 'scores'"):
        _ = out.scores
    with pytest.raises(KeyError):
        out["scores"]


def test_loss_of_every_head() -> None:
    hidden = ROWS.masked_fill(MASK == 0, -100)
    causal = tiny("gpt2", AutoModelForCausalLM)
    out = causal(ROWS, attention_mask=MASK, labels=hidden)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits[:, :-1].flatten(0, 1), hidden[:, 1:].flatten()))
    masked = tiny("bert", AutoModelForMaskedLM)
    out = masked(ROWS, attention_mask=MASK, labels=hidden)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits.flatten(0, 1), hidden.flatten()))
    tagger = tiny("bert", AutoModelForTokenClassification, num_labels=5)
    tags = (ROWS % 5).masked_fill(MASK == 0, -100)
    out = tagger(ROWS, attention_mask=MASK, labels=tags)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits.flatten(0, 1), tags.flatten()))
    reader = tiny("bert", AutoModelForQuestionAnswering)
    start, end = torch.tensor([1, 2]), torch.tensor([3, 99])  # the second answer ends outside of the text: left out
    out = reader(ROWS, attention_mask=MASK, start_positions=start, end_positions=end)
    starts = out.start_logits.masked_fill(MASK == 0, -torch.inf)  # an answer cannot begin in padding
    torch.testing.assert_close(out.loss, (F.cross_entropy(starts, start) + F.cross_entropy(out.end_logits[:1], end[:1])) / 2)
    translator = tiny("marian", AutoModelForSeq2SeqLM)
    target = TARGET.masked_fill(TARGET == 6, -100)
    out = translator(ROWS, attention_mask=MASK, labels=target)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits.flatten(0, 1), target.flatten()))
    detector = tiny("electra", AutoModelForPreTraining, architectures=["ElectraForPreTraining"])
    replaced = (ROWS % 2).float()
    out = detector(ROWS, attention_mask=MASK, labels=replaced)
    real = MASK.bool()
    torch.testing.assert_close(out.loss, F.binary_cross_entropy_with_logits(out.logits[real], replaced[real]))


def test_problem_types_of_sequence_classification() -> None:
    task = AutoModelForSequenceClassification
    one, three = tiny("bert", task, num_labels=1), tiny("bert", task, num_labels=3)
    scores, classes, several = torch.tensor([0.5, -1.0]), torch.tensor([2, 0]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    out = one(ROWS, labels=scores)
    torch.testing.assert_close(out.loss, F.mse_loss(out.logits[:, 0], scores))
    out = three(ROWS, labels=classes)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits, classes))
    out = three(ROWS, labels=several)
    torch.testing.assert_close(out.loss, F.binary_cross_entropy_with_logits(out.logits, several))
    three.config.problem_type = "regression"
    out = three(ROWS, labels=several)
    torch.testing.assert_close(out.loss, F.mse_loss(out.logits, several))
    three.config.problem_type = "multi_label_classification"
    out = three(ROWS, labels=several.long())
    torch.testing.assert_close(out.loss, F.binary_cross_entropy_with_logits(out.logits, several))
    three.config.problem_type = "single_label_classification"
    out = three(ROWS, labels=classes)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits, classes))


# ---------------------------------------------------------------- packing and padding


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "mistral"])
def test_positions_that_restart_are_packed_rows(model_type: str) -> None:
    model = tiny(model_type, **({"sliding_window": 3} if model_type == "mistral" else {}))
    first, second = ROWS[:1, :4], ROWS[:1, 4:]
    row, positions = ROWS[:1], torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    with torch.no_grad():
        alone = torch.cat([model(first).last_hidden_state, model(second).last_hidden_state], 1)
        torch.testing.assert_close(model(row, position_ids=positions).last_hidden_state, alone)
        torch.testing.assert_close(model(row, where=Where.packed([4, 5])).last_hidden_state, alone)
        both = model(row.repeat(2, 1), position_ids=positions).last_hidden_state
        torch.testing.assert_close(both, alone.repeat(2, 1, 1))


def test_nothing_is_predicted_across_packed_sequences() -> None:
    model = tiny("gpt2", AutoModelForCausalLM)
    row = ROWS[:1]
    out = model(row, where=Where.packed([4, 5]), labels=row)
    pieces = [model(piece, labels=piece).loss * (piece.shape[1] - 1) for piece in (row[:, :4], row[:, 4:])]
    torch.testing.assert_close(out.loss, sum(pieces) / 7)


def test_padding_has_no_gradient() -> None:
    """What stands in padding neither changes the loss nor receives a gradient, on either side."""
    for model_type, task in (("bert", AutoModelForMaskedLM), ("llama", AutoModelForCausalLM)):
        model = tiny(model_type, task)
        for side in (0, 3):
            ids, mask = ROWS.clone(), MASK.clone()
            ids[1], mask[1] = ROWS[1].roll(side), MASK[1].roll(side)
            labels = ids.masked_fill(mask == 0, -100)
            if model.task == "CausalLM":
                labels[:, 1:].masked_fill_(mask[:, :-1] == 0, -100)  # what padding would predict
            embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
            loss = model(inputs_embeds=embeds, attention_mask=mask, labels=labels).loss
            loss.backward()
            assert embeds.grad is not None and embeds.grad.isfinite().all()
            assert not embeds.grad[mask == 0].any()
            assert embeds.grad[mask == 1].abs().sum(-1).count_nonzero() >= mask.sum() - 2
            noisy = torch.where(mask[..., None].bool(), embeds.detach(), torch.randn(embeds.shape))
            again = model(inputs_embeds=noisy, attention_mask=mask, labels=labels).loss
            torch.testing.assert_close(again, loss.detach())


# ---------------------------------------------------------------- saving


def test_shards_their_index_and_stale_ones(tmp_path: Path) -> None:
    model = tiny("bert", AutoModelForMaskedLM)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(shards) > 2 and shards == sorted(set(index["weight_map"].values()))
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in model.parameters())
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert same(loaded, model)
    loaded.save_pretrained(tmp_path, max_shard_size="60KB")
    fewer = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(fewer) < len(shards) and same(AutoModelForMaskedLM.from_pretrained(tmp_path), model)
    loaded.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert same(AutoModelForMaskedLM.from_pretrained(tmp_path), model)
    with pytest.raises(InputError, match="'five' is not a size"):
        model.save_pretrained(tmp_path, max_shard_size="five")


def test_saving_over_the_files_that_are_mapped(tmp_path: Path) -> None:
    saved("gpt2-plain", "CausalLM", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = model(ROWS).logits.detach()
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    for size in ("5GB", "20KB", "5GB"):
        model.save_pretrained(tmp_path, max_shard_size=size)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert same(again, model)
        model = again
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] -= 1
    torch.testing.assert_close(model(ROWS).logits.detach(), expected)


@pytest.mark.parametrize("at", [0, 1])
def test_a_full_disk_leaves_the_old_files(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first or the second shard cannot be written."""
    from hunmin.hub import tensors

    old = tiny("bert", AutoModelForMaskedLM)
    old.save_pretrained(tmp_path, max_shard_size="60KB")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls, write_file = [0], tensors.save_file

    def full(state: Any, path: Path, metadata: Any) -> None:
        calls[0] += 1
        if calls[0] <= at:
            return write_file(state, path, metadata)
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(SourceError, match=rf"\A{re.escape(str(tmp_path))}/model\S* cannot be written: No space left on device\.\Z"):
        tiny("bert", AutoModelForMaskedLM).save_pretrained(tmp_path, max_shard_size="30KB")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    assert same(AutoModelForMaskedLM.from_pretrained(tmp_path), old)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(SourceError, match="cannot be written"):
        tiny("bert").save_pretrained(tmp_path / "x")
    with pytest.raises(SourceError, match="cannot be written"):
        AutoConfig.for_model("bert").save_pretrained(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_regression_labels_in_a_column() -> None:
    """Labels (B, 1) must not broadcast against logits (B,), which torch warns about."""
    model = tiny("bert", AutoModelForSequenceClassification, num_labels=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = model(ROWS, labels=torch.tensor([[0.5], [-1.0]]))
    torch.testing.assert_close(out.loss, F.mse_loss(out.logits[:, 0], torch.tensor([0.5, -1.0])))
