"""Generation equals the reference, does not depend on batch, padding or cache, stops where it should, and streams whole characters.

``python -m tests.test_generate`` writes the golden ids from transformers.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hunmin import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, errors
from hunmin.auto import load
from hunmin.errors import FormatError, InputError
from hunmin.generate import (
    BaseStreamer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
    set_seed,
)
from hunmin.nn.cache import Cache
from tests.cases import EOS, PAD, weight

HERE = Path(__file__).parent / "golden"
GOLDEN = HERE / "generate" / "ids.json"
DECODERS = ["llama-plain", "gpt2-plain", "gemma2-plain", "qwen3-plain", "mistral-window"]
PAIRS = ["t5-plain", "bart-plain", "marian-plain"]
every = pytest.mark.parametrize("name", DECODERS + PAIRS)

PROMPTS = [[5, 17, 42, 8, 91, 33], [77, 3, 59, 20]]
SHAPED: dict[str, Any] = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[5], [7, 9]], "suppress_tokens": [11, 50]}
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7},
    "beams-early": {"num_beams": 4, "early_stopping": True},
    "beams-never": {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0},
    "beams-short": {"num_beams": 2, "length_penalty": -1.0, "eos_token_id": [EOS, 40, 59, 77]},
    "shaped": SHAPED | {"min_new_tokens": 4},
    "ends": {"eos_token_id": [EOS, 49, 30], "min_length": 9, "begin_suppress_tokens": [49], "exponential_decay_length_penalty": [2, 1.3]},
    "shaped-beams": SHAPED | {"num_beams": 3, "renormalize_logits": True, "forced_eos_token_id": EOS, "eos_token_id": [EOS, 40]},
    "biased": {"sequence_bias": [[[49], -3.0], [[34, 49], -20.0], [[59], 2.5]], "remove_invalid_values": True, "forced_bos_token_id": 4},
    "source": {"encoder_no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.4},
}
SAMPLED: dict[str, dict[str, Any]] = {
    "plain": {},
    "nucleus": {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
    "typical": {"typical_p": 0.8, "num_return_sequences": 3},
    "floors": {"min_p": 0.05, "epsilon_cutoff": 0.01, "top_k": 0},
    "eta": {"eta_cutoff": 0.02, "renormalize_logits": True},
    "beams": {"num_beams": 3, "top_k": 30, "num_return_sequences": 2},
}


def write(name: str, folder: Path) -> str:
    """The parity tests' tiny model ``name`` in a folder; returns its task."""
    task = "CausalLM" if name in DECODERS else "Seq2SeqLM"
    stored = json.loads((HERE / "parity" / f"{name}.json").read_text())[task]
    config, shapes = stored["config"], stored["shapes"]
    if name.startswith("t5"):  # the reference cannot generate when the decoder has more layers than the encoder
        config["num_decoder_layers"] = 2
        shapes = {k: v for k, v in shapes.items() if "decoder.block.2" not in k}
    save_file({k: weight(k, shape) for k, shape in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return task


@cache
def model(name: str) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return load(folder, write(name, Path(folder)))


def batch(name: str, side: str | None = None) -> dict[str, Tensor]:
    """Two prompts of different length, padded where the model expects it."""
    side = side or ("left" if name in DECODERS else "right")
    width = max(map(len, PROMPTS))
    gap = [[PAD] * (width - len(p)) for p in PROMPTS]
    ids = torch.tensor([g + p if side == "left" else p + g for g, p in zip(gap, PROMPTS, strict=True)])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def new(name: str, ids: Tensor, prompt: int) -> list[list[int]]:
    """What was generated, row by row, without the filling."""
    rows = ids[:, prompt if name in DECODERS else 1 :].tolist()
    return [row[: len(row) - next((i for i, t in enumerate(reversed(row)) if t != PAD), len(row))] for row in rows]


# ------------------------------------------------------------------ equals the reference


@every
def test_equals_golden(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    assert set(golden) == set(OPTIONS)
    for option, ids in golden.items():
        got = model(name).generate(**batch(name), max_new_tokens=12, **OPTIONS[option])
        assert got.tolist() == ids, option


def reference(folder: Path, task: str) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    kind = transformers.AutoModelForCausalLM if task == "CausalLM" else transformers.AutoModelForSeq2SeqLM
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@every
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    """Sampling too: the same global seed draws the same tokens."""
    hf = reference(tmp_path, write(name, tmp_path))
    for option in [*OPTIONS.values(), *(o | {"do_sample": True} for o in SAMPLED.values())]:
        results: list[Tensor] = []
        for who in (hf, model(name)):
            torch.manual_seed(3)
            results.append(who.generate(**batch(name), max_new_tokens=12, **option))
        assert torch.equal(*results), option


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama-plain", "bart-plain"])
def test_scores_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    hf = reference(tmp_path, write(name, tmp_path))
    for beams in (1, 3):
        options = {"max_new_tokens": 6, "num_beams": beams, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
        a, b = (who.generate(**batch(name), **options) for who in (hf, model(name)))
        for key in ("scores", "logits"):
            torch.testing.assert_close(torch.stack(a[key]), torch.stack(b[key]), rtol=1e-4, atol=1e-4)
        if beams > 1:
            torch.testing.assert_close(a.sequences_scores, b.sequences_scores, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ invariants


@every
def test_alone_equals_in_a_batch(name: str) -> None:
    together = [*PROMPTS, [64], [9, 9, 2, 31, 28, 50, 12]]
    width = max(map(len, together))
    for option in ("greedy", "beams", "shaped", "shaped-beams", "source"):
        options = OPTIONS[option] | {"num_return_sequences": 1}
        alone = [new(name, model(name).generate(torch.tensor([p]), max_new_tokens=12, **options), len(p))[0] for p in together]
        for side in ("left", "right"):
            gap = [[PAD] * (width - len(p)) for p in together]
            ids = torch.tensor([g + p if side == "left" else p + g for g, p in zip(gap, together, strict=True)])
            got = model(name).generate(ids, attention_mask=(ids != PAD).long(), max_new_tokens=12, **options)
            assert new(name, got, width) == alone, (option, side)


@every
@pytest.mark.parametrize("option", ["greedy", "beams", "shaped-beams"])
def test_cache_changes_nothing(name: str, option: str) -> None:
    results = [model(name).generate(**batch(name), max_new_tokens=10, use_cache=use, **OPTIONS[option]) for use in (True, False)]
    assert torch.equal(*results)


@every
def test_rows_that_end_early_leave_without_a_trace(name: str) -> None:
    """With many end tokens rows end at different steps and the batch shrinks; asking for scores keeps it whole."""
    eos = list(range(0, 99, 7))
    ids = torch.arange(3, 51).view(8, 6)
    for beams in (1, 3):
        options = {"max_new_tokens": 14, "eos_token_id": eos, "num_beams": beams, "pad_token_id": PAD}
        kept = model(name).generate(ids, **options, return_dict_in_generate=True, output_scores=True).sequences
        assert torch.equal(model(name).generate(ids, **options), kept)


@pytest.mark.parametrize("name", DECODERS)
def test_a_cache_can_be_taken_up_again(name: str) -> None:
    ids = batch(name)["input_ids"][:1]
    whole = model(name).generate(ids, max_new_tokens=10, eos_token_id=None)
    first = model(name).generate(ids, max_new_tokens=4, eos_token_id=None, return_dict_in_generate=True)
    assert first.past_key_values.length == ids.shape[1] + 3  # the last token was written, not read
    again = model(name).generate(first.sequences, past_key_values=first.past_key_values, max_new_tokens=6, eos_token_id=None)
    assert torch.equal(whole, again)
    with pytest.raises(InputError, match="past_key_values holds"):
        model(name).generate(ids, past_key_values=first.past_key_values, max_new_tokens=3)


@pytest.mark.parametrize("name", PAIRS)
def test_an_encoders_output_can_be_passed(name: str) -> None:
    inputs = batch(name)
    out = model(name)(**inputs)
    memory = {"encoder_outputs": (out.encoder_last_hidden_state,), "attention_mask": inputs["attention_mask"]}
    assert torch.equal(model(name).generate(**memory, max_new_tokens=8), model(name).generate(**inputs, max_new_tokens=8))
    start = model(name).generate(**inputs, max_new_tokens=3, eos_token_id=None)
    whole = model(name).generate(**inputs, max_new_tokens=8, eos_token_id=None)
    assert torch.equal(model(name).generate(**inputs, decoder_input_ids=start, max_new_tokens=5, eos_token_id=None), whole)
    assert torch.equal(model(name).generate(**inputs, decoder_input_ids=start[:, 1:], max_new_tokens=5, eos_token_id=None), whole)


def test_training_can_follow() -> None:
    """Ids from generate are ordinary tensors: a loss on them has a gradient."""
    tiny = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY))
    ids = tiny.generate(torch.tensor([[5, 6]]), max_new_tokens=4, eos_token_id=None)
    tiny(input_ids=ids, labels=ids).loss.backward()
    assert tiny.get_input_embeddings().weight.grad is not None


TINY: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16,
    "vocab_size": 300,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


# ------------------------------------------------------------------ sampling


def test_a_seed_repeats_and_seeds_differ() -> None:
    def draw(**options: Any) -> list[list[int]]:
        return model("llama-plain").generate(**batch("llama-plain"), do_sample=True, max_new_tokens=12, **options).tolist()

    assert draw(seed=1) == draw(seed=1) == draw(generator=torch.Generator().manual_seed(1))
    assert draw(seed=1) != draw(seed=2)
    set_seed(1)
    first = draw()
    set_seed(1)
    assert draw() == first == draw(seed=1)
    state = torch.get_rng_state()
    draw(seed=5)
    assert torch.equal(state, torch.get_rng_state()), "a seed leaves the global random numbers alone"


def test_a_cold_or_narrow_distribution_is_greedy() -> None:
    greedy = model("llama-plain").generate(**batch("llama-plain"), max_new_tokens=12)
    for options in ({"top_k": 1}, {"temperature": 1e-4}, {"top_p": 0.0}, {"min_p": 1.0}):
        got = model("llama-plain").generate(**batch("llama-plain"), max_new_tokens=12, do_sample=True, seed=0, **options)
        assert torch.equal(got, greedy), options


def test_samples_follow_the_distribution() -> None:
    tiny = model("gpt2-plain")
    ids = torch.tensor([[5, 17]])
    with torch.no_grad():
        p = (tiny(ids).logits[0, -1] / 0.7).softmax(-1)
    drawn = tiny.generate(ids, do_sample=True, temperature=0.7, top_k=0, max_new_tokens=1, num_return_sequences=4000, seed=0)[:, -1]
    counts = torch.bincount(drawn, minlength=len(p)) / len(drawn)
    assert (counts - p).abs().max() < 0.03


# ------------------------------------------------------------------ lengths and ends


def caught(caplog: pytest.LogCaptureFixture, run: Callable[[], Any]) -> tuple[Any, str]:
    errors.warn_once.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hunmin"):
        return run(), caplog.text


def test_lengths(caplog: pytest.LogCaptureFixture) -> None:
    tiny, ids = model("llama-plain"), torch.tensor([PROMPTS[0]])
    run = lambda **options: tiny.generate(ids, eos_token_id=None, **options)  # noqa: E731
    out, text = caught(caplog, run)
    assert out.shape == (1, 26) and "20 tokens" in text and "max_new_tokens" in text
    assert caught(caplog, lambda: run(max_length=9))[0].shape == (1, 9) and not caplog.text
    assert caught(caplog, lambda: run(max_new_tokens=5))[0].shape == (1, 11) and not caplog.text
    out, text = caught(caplog, lambda: run(max_new_tokens=5, max_length=8))
    assert out.shape == (1, 11) and "both set" in text
    out, text = caught(caplog, lambda: run(max_new_tokens=80))  # rotary positions go on, with a warning
    assert out.shape == (1, 86) and "64 tokens" in text
    with pytest.raises(InputError, match="6 tokens and max_length is 6"):
        run(max_length=6)
    assert tiny.generate(ids, max_time=1e-9, max_new_tokens=50).shape == (1, 7)


def test_learned_positions_are_a_hard_limit() -> None:
    tiny = model("gpt2-plain")
    ids = torch.full((1, 60), 5)
    assert tiny.generate(ids, max_new_tokens=5, eos_token_id=None).shape == (1, 65)  # the last token is not read
    with pytest.raises(InputError, match=r"Prompt \(60\) and new tokens \(6\) go beyond the model's 64 positions. Set 5 or less"):
        tiny.generate(ids, max_new_tokens=6)
    with pytest.raises(InputError, match="70 tokens, the model at most 64"):
        tiny.generate(torch.full((1, 70), 5), max_new_tokens=1)
    assert tiny.generate(ids, eos_token_id=None).shape[1] <= 65  # nobody asked for a length


@every
def test_a_row_ends_with_an_end_token_and_padding(name: str) -> None:
    tiny, inputs = model(name), batch(name)
    free = tiny.generate(**inputs, max_new_tokens=8, eos_token_id=None)
    prompt = inputs["input_ids"].shape[1] if name in DECODERS else 1
    end = int(free[0, prompt + 2])
    out = tiny.generate(**inputs, max_new_tokens=8, eos_token_id=[end, 98], pad_token_id=7)
    stop = free[0, prompt:].tolist().index(end)
    assert torch.equal(out[0, : prompt + stop + 1], free[0, : prompt + stop + 1])
    assert (out[0, prompt + stop + 1 :] == 7).all()
    longer = tiny.generate(**inputs, max_new_tokens=8, eos_token_id=[end, 98], min_new_tokens=6)
    assert not torch.isin(longer[:, prompt : prompt + 6], torch.tensor([end, 98])).any()


def test_without_padding_the_end_token_fills() -> None:
    tiny = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY | {"pad_token_id": None, "eos_token_id": 2}))
    script = [[9, 2, 9], [9, 9, 9]]
    out = tiny.generate(torch.tensor([[5], [6]]), max_new_tokens=3, logits_processor=[scripted(script, 1)])
    assert out.tolist() == [[5, 9, 2, 2], [6, 9, 9, 9]]


def scripted(rows: list[list[int]], prompt: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A processor that writes given tokens."""

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        want = torch.tensor([row[min(ids.shape[1] - prompt, len(row) - 1)] for row in rows])
        return torch.full_like(scores, float("-inf")).scatter(1, want[:, None], 0.0)

    return process


def test_user_processors_and_criteria() -> None:
    class At(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            return input_ids[:, -1] == 50

    tiny, ids = model("llama-plain"), torch.tensor([[5], [6]])
    seen: list[tuple[int, ...]] = []

    def watch(input_ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(tuple(input_ids.shape))
        return scores

    process = LogitsProcessorList([watch, scripted([[40, 50, 60, 70], [40, 41, 42, 43]], 1)])
    out = tiny.generate(ids, max_new_tokens=4, logits_processor=process, stopping_criteria=StoppingCriteriaList([At()]))
    assert out.tolist() == [[5, 40, 50, PAD, PAD], [6, 40, 41, 42, 43]]
    assert seen == [(2, 1), (2, 2), (2, 3), (2, 4)]
    out = tiny.generate(ids, max_new_tokens=4, logits_processor=process, stopping_criteria=[lambda rows, scores: rows.shape[1] >= 3])
    assert out.shape == (2, 3)
    for beams in (1, 2):
        out = tiny.generate(ids, max_new_tokens=5, num_beams=beams, prefix_allowed_tokens_fn=lambda row, sent: [60 + row, 70 + row])
        assert set(out[0, 1:].tolist()) <= {60, 70} and set(out[1, 1:].tolist()) <= {61, 71}


def test_outputs_on_request() -> None:
    tiny, inputs = model("t5-plain"), batch("t5-plain")
    out = tiny.generate(
        **inputs, max_new_tokens=5, return_dict_in_generate=True, output_scores=True, output_logits=True, suppress_tokens=[9]
    )
    assert len(out.scores) == len(out.logits) == out.sequences.shape[1] - 1
    assert torch.isneginf(out.scores[0][:, 9]).all() and not torch.isneginf(out.logits[0]).any()
    assert isinstance(out.past_key_values, Cache) and out.sequences_scores is None
    plain = tiny.generate(**inputs, max_new_tokens=5, return_dict_in_generate=True, num_beams=2)
    assert plain.scores is None and plain.sequences_scores.shape == (2,)


# ------------------------------------------------------------------ text


TEXT = "훈민정음은 한글이다. Hello, 👋🏽 世界! 나라말싸미 듕귁에 달아"


@cache
def tokenizer() -> Any:
    """Bytes, and some tokens of several bytes that cut through syllables."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    from hunmin import Tokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    merges = [("H", "e"), ("l", "l"), ("He", "ll"), ("l", "o"), ("ì", "Ŀ"), ("Ŀ", "´")]
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    backend = Backend(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    return Tokenizer(tokenizer_object=backend)


def speaker() -> Any:
    set_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY | {"eos_token_id": None, "max_position_embeddings": 512}))


def say_it(text: str, streamer: Any = None, **options: Any) -> str:
    """Let a model write ``text`` after a prompt; returns what it wrote."""
    tok, tiny = tokenizer(), speaker()
    prompt, ids = torch.tensor([tok("말: ")["input_ids"]]), tok(text)["input_ids"]
    process = [scripted([ids], prompt.shape[1])]
    out = tiny.generate(prompt, max_new_tokens=len(ids), logits_processor=process, streamer=streamer, tokenizer=tok, **options)
    return tok.decode(out[0, prompt.shape[1] :])


@pytest.mark.parametrize("stop", ["한글", "ello", ", 👋", ["nowhere", "나라말"], "다. H", "e", "<end>"])
def test_stop_strings(stop: str | list[str]) -> None:
    text = TEXT + "<end> more"
    wanted = [stop] if isinstance(stop, str) else stop
    end = min(text.index(s) + len(s) for s in wanted if s in text)
    got = say_it(text, stop_strings=stop)
    assert got.startswith(text[:end]), got
    # It stops with the token that completes the string: without its last token the string is not there.
    ids = tokenizer()(got)["input_ids"]
    assert not any(s in tokenizer().decode(ids[:-1]) for s in wanted)


def test_stop_strings_of_the_prompt_do_not_stop() -> None:
    assert say_it("가나다라 말: 끝", stop_strings="말: ") == "가나다라 말: "


def test_stop_strings_stop_each_row() -> None:
    tok, tiny = tokenizer(), speaker()
    rows = [tok("하나 둘 셋")["input_ids"], tok("하나, 셋 둘")["input_ids"]]
    out = tiny.generate(
        torch.tensor([[5], [6]]),
        max_new_tokens=40,
        logits_processor=[scripted(rows, 1)],
        stop_strings="둘",
        tokenizer=tok,
        pad_token_id=299,
    )
    assert [tok.decode([i for i in row[1:].tolist() if i != 299]) for row in out] == ["하나 둘", "하나, 셋 둘"]


def whole(piece: str) -> bool:
    return "\ufffd" not in piece and not any(unicodedata.category(c) == "Cs" for c in piece)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("skip", [True, False])
def test_a_stream_is_the_text_in_whole_characters(form: str, skip: bool) -> None:
    text = unicodedata.normalize(form, TEXT)
    pieces: list[str] = []

    class Keep(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            pieces.append(text)

    say_it(text, Keep(tokenizer(), skip_prompt=skip))
    assert "".join(pieces) == ("" if skip else "말: ") + text
    assert all(map(whole, pieces)) and len(pieces) > len(TEXT)
    written = ""
    for piece in pieces:  # after every piece, the text so far is a prefix also when composed: no syllable is shown half
        written += piece
        assert unicodedata.normalize("NFC", "".join(pieces)).startswith(unicodedata.normalize("NFC", written))


def test_the_text_streamer_prints(capsys: pytest.CaptureFixture[str]) -> None:
    say_it(TEXT, TextStreamer(tokenizer(), skip_prompt=True))
    assert capsys.readouterr().out == TEXT + "\n"


def test_an_iterator_streams_from_a_thread() -> None:
    streamer = TextIteratorStreamer(tokenizer(), skip_prompt=True, timeout=20)
    thread = Thread(target=say_it, args=(TEXT, streamer))
    thread.start()
    assert "".join(streamer) == TEXT
    thread.join()


def test_an_iterator_ends_when_generation_fails() -> None:
    streamer = TextIteratorStreamer(tokenizer(), timeout=20)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            say_it(TEXT, streamer, stopping_criteria=[lambda rows, scores: 1 / 0])
        except ZeroDivisionError as error:
            failed.append(error)

    thread = Thread(target=work)
    thread.start()
    with pytest.raises(ZeroDivisionError):
        list(streamer)
    thread.join()
    assert failed


class Count(BaseStreamer):
    def __init__(self) -> None:
        self.values: list[list[int]] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.values.append(value.tolist())

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("base", [LogitsProcessor, StoppingCriteria, BaseStreamer])
def test_a_base_class_that_is_not_filled_in_is_refused(base: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Forgotten", (base,), {})()


def test_a_streamer_of_ones_own() -> None:
    streamer = Count()
    out = model("llama-plain").generate(torch.tensor([PROMPTS[1]]), max_new_tokens=3, streamer=streamer)
    assert streamer.values == [[PROMPTS[1]], *([t] for t in out[0, 4:].tolist())] and streamer.ended


# ------------------------------------------------------------------ settings


def test_settings_come_from_call_object_model_and_defaults() -> None:
    tiny = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY, max_length=30, num_beams=2))
    assert tiny.generation_config == GenerationConfig(max_length=30, num_beams=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    ids = torch.tensor([[5]])
    run = lambda **options: tiny.generate(ids, eos_token_id=None, **options).shape[1]  # noqa: E731
    assert run() == 30 and run(generation_config=GenerationConfig(max_length=12)) == 12
    assert run(max_new_tokens=3) == 4 and run(generation_config=GenerationConfig(max_new_tokens=3), max_new_tokens=5) == 6
    tiny.generation_config.max_new_tokens = 7
    assert run() == 8 and run(max_length=4) == 4
    assert tiny.generate(max_new_tokens=2)[0, 0] == 1  # no prompt: the start token


def test_settings_remember_what_was_set(tmp_path: Path) -> None:
    config = GenerationConfig(temperature=0.5, eos_token_id=torch.tensor([3, 4]), sequence_bias={(3, 4): -2.0})
    assert config.given == {"temperature", "eos_token_id", "sequence_bias"} and config.eos_token_id == [3, 4]
    config.temperature = None  # type: ignore[assignment]
    assert config.temperature == 1.0 and "temperature" not in config.given
    assert GenerationConfig().top_k == 50 and GenerationConfig(top_k=None).top_k == 0
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": [3, 4], "sequence_bias": [[[3, 4], -2.0]]}
    stored = {"do_sample": True, "temperature": 0.6, "pad_token_id": -1, "cache_implementation": "hybrid", "top_p": None, "mine": [1]}
    (tmp_path / "generation_config.json").write_text(json.dumps(stored))
    (tmp_path / "config.json").write_text("{}")
    read = GenerationConfig.from_pretrained(tmp_path, top_k=5)
    assert read.given == {"do_sample", "temperature", "top_k", "pad_token_id"} and read.pad_token_id is None
    assert read.to_dict()["mine"] == [1]
    (tmp_path / "generation_config.json").write_text('{"temperature": "hot"}')
    with pytest.raises(FormatError, match=r"generation_config\.json: temperature has to be"):
        GenerationConfig.from_pretrained(tmp_path)


def test_what_a_file_asks_for_and_we_lack_is_refused() -> None:
    tiny = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY))
    tiny.generation_config = GenerationConfig.from_dict({"penalty_alpha": 0.6, "num_beam_groups": 1, "top_k": 4})
    with pytest.raises(InputError, match="penalty_alpha is not supported"):
        tiny.generate(torch.tensor([[5]]), max_new_tokens=2)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 0.5}, "no option 'temprature'. Did you mean temperature"),
        ({"max_new_token": 3, "frobnicate": 1}, "no option 'frobnicate'"),
        ({"temperature": 0.0, "do_sample": True}, "above 0.*do_sample=False"),
        ({"top_p": 1.5}, "top_p has to be a number from 0 to 1, not 1.5"),
        ({"num_beams": 0}, "num_beams has to be a number above 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens has to be a whole number"),
        ({"do_sample": "yes"}, "do_sample has to be True or False"),
        ({"early_stopping": "soon"}, 'True, False or "never"'),
        ({"bad_words_ids": [3]}, "list of lists"),
        ({"eos_token_id": "</s>"}, "eos_token_id has to be a token id"),
        ({"num_beam_groups": 2}, "num_beam_groups is not supported"),
        ({"assistant_model": object()}, "assistant_model is not supported"),
        ({"force_words_ids": [[5]]}, "force_words_ids is not supported"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs num_beams=2 or more, or do_sample"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences=3 needs"),
        ({"stop_strings": "x"}, "needs the tokenizer"),
        ({"stop_strings": [""], "tokenizer": object()}, "stop_strings has to be text"),
        ({"streamer": Count(), "num_beams": 2}, "streamer cannot be used with beams"),
        ({"seed": "x", "do_sample": True}, "seed has to be a whole number"),
        ({"inputs": torch.tensor([[5]])}, "the same; pass one"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "Is the text empty"),
        ({"input_ids": torch.tensor([5, 6])}, r"shape \(batch, tokens\)"),
        ({"input_ids": torch.tensor([[0.5]])}, "whole-number ids"),
        ({"input_ids": [[5, 6], [7]]}, "whole-number ids"),
        ({"input_ids": {"input_ids": 1}}, r"generate\(\*\*inputs\)"),
        ({"input_ids": torch.tensor([[5, 300]])}, "Id 300 is outside"),
        ({"attention_mask": torch.ones(1, 3)}, r"attention_mask has shape \(1, 3\)"),
        ({"attention_mask": torch.zeros(1, 2)}, "Row 0 of the input is empty"),
        ({"forced_eos_token_id": 400}, "Token 400 was asked for"),
        ({"sequence_bias": [3]}, "sequence_bias has to be"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: []}, "allows nothing for row 0"),
        ({"use_cache": True, "past_key_values": None, "custom_generate": "x"}, "custom_generate is not supported"),
    ],
)
def test_bad_input_is_told_in_a_line_or_two(options: dict[str, Any], message: str) -> None:
    tiny = model("llama-plain")
    with pytest.raises(InputError, match=message) as caught:
        tiny.generate(**{"input_ids": torch.tensor([[5, 6]]), "max_new_tokens": 3, **options})
    assert str(caught.value).count("\n") <= 1 and len(str(caught.value)) < 300


def test_errors_speak_korean(korean: None) -> None:
    with pytest.raises(InputError, match="temperature의 값 0은"):
        GenerationConfig(temperature=0)


def test_other_errors() -> None:
    encoder = AutoModelForSeq2SeqLM.from_config(model("t5-plain").config)
    with pytest.raises(InputError, match="needs input_ids"):
        encoder.generate(max_new_tokens=3)
    nothing = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **TINY | {"bos_token_id": None}))
    with pytest.raises(InputError, match="nothing to start from"):
        nothing.generate(max_new_tokens=3)
    from hunmin import AutoModel

    with pytest.raises(InputError, match="cannot generate"):
        AutoModel.from_config(AutoConfig.for_model("llama", **TINY)).generate(torch.tensor([[5]]))
    with pytest.raises(InputError, match="one sequence; this batch has 2"):
        model("llama-plain").generate(**batch("llama-plain"), max_new_tokens=2, streamer=TextStreamer(tokenizer()))


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 2}, {"num_beams": 2, "do_sample": True}])
def test_nan_is_an_error_not_a_crash(options: dict[str, Any]) -> None:
    tiny = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY))
    with torch.no_grad():
        tiny.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(FormatError, match="NaN"):
        tiny.generate(torch.tensor([[5]]), max_new_tokens=3, **options)
    assert tiny.generate(torch.tensor([[5]]), max_new_tokens=3, remove_invalid_values=True, eos_token_id=None).shape == (1, 4)


def main() -> None:
    import tempfile

    golden: dict[str, dict[str, list[list[int]]]] = {}
    for name in DECODERS + PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            hf = reference(Path(folder), write(name, Path(folder)))
        golden[name] = {k: hf.generate(**batch(name), max_new_tokens=12, **options).tolist() for k, options in OPTIONS.items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
