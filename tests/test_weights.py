"""Real weights, fetched once as packages: embeddings, texts and translations equal those of transformers 5.23 (tests/real_golden.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from hunmin import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, TextIteratorStreamer, pipeline, set_seed
from hunmin.hub.opus import opus_mt_en_fr
from tests.cases import difference
from tests.real_golden import MINILM, NEW, PROMPTS, REAL, SHOWN, SMOLLM2, digest, embed, sentences

pytestmark = pytest.mark.weights
TOLERANCE = 5e-6
PARAMETERS = 134_515_008  # of SmolLM2


def golden(name: str) -> list[Any]:
    return json.loads((REAL / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def minilm() -> Any:
    return pipeline("feature-extraction", model=MINILM)


@pytest.fixture(scope="module")
def smollm2() -> Any:
    return pipeline("text-generation", model=SMOLLM2, dtype="float32")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 in bf16, as safetensors in shards."""
    folder = tmp_path_factory.mktemp("smollm2")
    AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype="bfloat16").save_pretrained(folder, max_shard_size="100MB")
    AutoTokenizer.from_pretrained(SMOLLM2).save_pretrained(folder)
    return folder


# -------------------------------------------------------------- MiniLM


def test_embeddings(minilm: Any) -> None:
    want = torch.tensor(golden("minilm"), dtype=torch.float64)
    assert want.shape == (100, SHOWN + 1)
    got = digest(torch.stack(minilm(sentences(), pooling="auto", return_tensors=True)))
    assert difference(got[:, :SHOWN], want[:, :SHOWN]) < TOLERANCE
    assert difference(got[:, SHOWN:], want[:, SHOWN:]) < TOLERANCE


@pytest.mark.parity
def test_embeddings_in_all_dimensions(minilm: Any) -> None:
    with torch.no_grad():
        want = embed(sentences())
    assert difference(torch.stack(minilm(sentences(), pooling="auto", return_tensors=True)), want) < TOLERANCE


def test_a_sentence_transformers_folder_is_read_as_it_is(minilm: Any) -> None:
    """``pooling="auto"``: the mean over all tokens, at length one, of at most as many tokens as sentence_bert_config.json says."""
    limit = json.loads(minilm_file("sentence_bert_config.json"))["max_seq_length"]
    for text in (*sentences()[:3], "one word after the other " * limit):
        tokens = minilm.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            mean = AutoModel.from_pretrained(MINILM)(**tokens).last_hidden_state.mean(1)[0]
        vector = torch.tensor(minilm(text, pooling="auto"))
        assert vector.norm().item() == pytest.approx(1.0, abs=1e-6)
        assert difference(vector, mean / mean.norm()) < TOLERANCE


def minilm_file(name: str) -> str:
    from hunmin.hub.files import resolve

    return resolve(MINILM).require(name).read_text(encoding="utf-8")


def test_vectors_of_tokens(minilm: Any) -> None:
    text = "Hello world"
    one = minilm(text)
    assert (len(one), len(one[0]), len(one[0][0])) == (1, len(minilm.tokenizer(text)["input_ids"]), 384)
    several = minilm([text, "A longer sentence, so that the first is padded."])
    assert difference(torch.tensor(several[0]), torch.tensor(one)) < TOLERANCE
    assert minilm(text, return_tensors=True).shape == (1, len(one[0]), 384)
    assert len(minilm(text, pooling="cls")) == 384


# -------------------------------------------------------------- SmolLM2


def prompt_ids(tokenizer: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]


@pytest.mark.parametrize("number", range(len(PROMPTS)), ids=["chat", "english", "code", "korean"])
def test_greedy_text(smollm2: Any, number: int) -> None:
    row = golden("smollm2")[number]
    assert row["prompt"] == PROMPTS[number]
    ids = prompt_ids(smollm2.tokenizer, row["prompt"])
    assert ids == row["ids"]
    out = smollm2.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=NEW)[0].tolist()
    assert out[len(ids) :] == row["new"]
    assert smollm2.tokenizer.decode(row["new"], skip_special_tokens=True) == row["text"]


def test_greedy_text_in_a_batch(smollm2: Any) -> None:
    """Rows of different length, of which one ends early, give what each gives alone."""
    rows = golden("smollm2")
    assert len({len(row["ids"]) for row in rows}) == len(rows) and len({len(row["new"]) for row in rows}) == 2
    answers = smollm2([row["prompt"] for row in rows], batch_size=len(rows), do_sample=False, max_new_tokens=NEW, return_full_text=False)
    assert [answer[0]["generated_text"] for answer in answers] == [row["text"] for row in rows]


def test_saved_in_shards(saved: Path, smollm2: Any) -> None:
    shards = sorted(path.name for path in saved.glob("*.safetensors"))
    assert shards == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    before = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype="bfloat16")
    after = AutoModelForCausalLM.from_pretrained(saved)
    assert after.dtype == torch.bfloat16 and after.num_parameters() == before.num_parameters() == PARAMETERS
    ids = torch.tensor([golden("smollm2")[0]["ids"]])
    with torch.no_grad():
        assert torch.equal(after(ids).logits, before(ids).logits)
    chat = PROMPTS[0]
    assert prompt_ids(AutoTokenizer.from_pretrained(saved), chat) == prompt_ids(smollm2.tokenizer, chat)


@pytest.mark.parity
def test_transformers_loads_what_was_saved(saved: Path) -> None:
    import transformers

    ids = torch.tensor([golden("smollm2")[0]["ids"]])
    with torch.no_grad():
        want = transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)(ids).logits
        got = AutoModelForCausalLM.from_pretrained(saved, dtype="float32")(ids).logits
    assert difference(got, want) < TOLERANCE
    assert transformers.AutoTokenizer.from_pretrained(saved)(PROMPTS[1])["input_ids"] == golden("smollm2")[1]["ids"]


MEMORY = """
import re, sys
from pathlib import Path
from hunmin import AutoModelForCausalLM
import hunmin.generate, safetensors.torch

def memory(key):
    return int(re.search(key + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

bare = memory("VmRSS")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=sys.argv[2])
print(memory("VmHWM") - bare, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_of_loading(saved: Path) -> None:
    """The peak beyond what the process had before is little more than the weights: from mapped safetensors, and from GGUF."""
    for source, dtype in ((str(saved), "auto"), (SMOLLM2, "bfloat16")):
        done = subprocess.run([sys.executable, "-c", MEMORY, source, dtype], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peak, size = map(int, done.stdout.split())
        assert size == 2 * PARAMETERS
        assert peak <= 1.3 * size, f"{source}: {peak / size:.2f} x the weights"


# -------------------------------------------------------------- the text-generation pipeline


def test_generated_text(smollm2: Any) -> None:
    greedy: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}
    row = golden("smollm2")[1]
    text = smollm2.tokenizer.decode(row["new"][:8])
    assert smollm2(row["prompt"], **greedy) == [{"generated_text": row["prompt"] + text}]
    assert smollm2(row["prompt"], return_full_text=False, **greedy) == [{"generated_text": text}]
    assert smollm2(row["prompt"], return_tensors=True, **greedy) == [{"generated_token_ids": row["ids"] + row["new"][:8]}]
    both = smollm2([row["prompt"], PROMPTS[2]], **greedy)
    assert len(both) == 2 and both[0] == [{"generated_text": row["prompt"] + text}] and both[1][0]["generated_text"].startswith(PROMPTS[2])
    messages = smollm2(PROMPTS[0], **greedy)[0]["generated_text"]
    answer = smollm2.tokenizer.decode(golden("smollm2")[0]["new"][:8])
    assert messages == [*PROMPTS[0], {"role": "assistant", "content": answer}]
    assert smollm2([PROMPTS[0]] * 2, **greedy) == [[{"generated_text": messages}]] * 2


def test_sampled_text(smollm2: Any) -> None:
    def sample(seed: int) -> list[str]:
        set_seed(seed)
        rows = smollm2(PROMPTS[1], do_sample=True, temperature=1.0, max_new_tokens=8, num_return_sequences=3)
        return [row["generated_text"] for row in rows]

    first = sample(0)
    assert len(first) == len(set(first)) == 3
    assert sample(0) == first != sample(1)


def test_streamed_text(smollm2: Any) -> None:
    """Korean, whose letters are several tokens each: the pieces are whole letters, and together the text."""
    row, streamer = golden("smollm2")[3], TextIteratorStreamer(smollm2.tokenizer, skip_prompt=True, timeout=120, skip_special_tokens=True)
    options = {"do_sample": False, "max_new_tokens": 42, "streamer": streamer}
    thread = Thread(target=smollm2.model.generate, args=(torch.tensor([row["ids"]]),), kwargs=options)
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == smollm2.tokenizer.decode(row["new"][:42], skip_special_tokens=True)
    assert len(pieces) > 5 and not any("�" in piece for piece in pieces[:-1])


# -------------------------------------------------------------- opus-mt-en-fr


def test_translations() -> None:
    """Beam search with the model's own settings; each sentence alone, and all together."""
    folder, rows = opus_mt_en_fr(), golden("opus-mt-en-fr")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.generation_config.num_beams == 4
    for row in rows:
        batch = tokenizer(row["text"], return_tensors="pt")
        assert batch["input_ids"][0].tolist() == row["ids"]
        ids = model.generate(**batch)[0]
        assert ids.tolist() == row["new"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == row["translation"]
    together = model.generate(**tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt"))
    assert tokenizer.batch_decode(together, skip_special_tokens=True) == [row["translation"] for row in rows]


def test_titles_from_flan_t5() -> None:
    """The taught call, on a real summarizer; the title names what the text is about, alone and in a batch."""
    from tests.flan import flan_titles

    pipe = pipeline("summarization", model=str(flan_titles()), prefix="summarize: ")
    bridge = "The city council voted on Tuesday to close the old bridge for repairs that will last until spring."
    bread = "Mix the flour with water and salt, let the dough rest for an hour, then bake the bread until it is golden."
    (alone,) = pipe(bridge, max_new_tokens=20)
    assert "bridge" in alone["summary_text"].lower()
    both = pipe([bridge, bread], max_new_tokens=20)
    assert both[0] == alone
    assert any(word in both[1]["summary_text"].lower() for word in ("bread", "bake", "dough", "flour"))
