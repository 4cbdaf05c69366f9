"""Collators: what each makes of rows, with tokenizers of every kind of word mark."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hunmin import AutoTokenizer
from hunmin.auto import AutoModel, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from hunmin.errors import InputError
from hunmin.hub.config import Config
from hunmin.nn.losses import IGNORE
from hunmin.train import (
    DataCollatorForContrastive,
    DataCollatorForDenoising,
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForNextSentence,
    DataCollatorForPrefixLM,
    DataCollatorForReplacedTokens,
    DataCollatorForSeq2Seq,
    DataCollatorForSpanCorruption,
    DataCollatorForTokenClassification,
    DataCollatorForWholeWordMask,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    default_data_collator,
    losses,
)
from hunmin.train.collators.basic import with_packing
from hunmin.train.collators.denoising import partition
from tests.text_kinds import KINDS, sentencepiece

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Hello world! 훈민정음은 백성을 가르치는 소리.", "a b c"]
SENTINELS = [f"<extra_id_{i}>" for i in range(8)]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tokenizer of each kind that the tests need."""
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {name: AutoTokenizer.from_pretrained(KINDS[name](folder / name)) for name in ("bert", "roberta", "gpt2", "albert", "marian")}
    t5 = sentencepiece(folder / "t5", "t5", "spiece.model", ["<pad>", "</s>", "<unk>", *SENTINELS])
    return {**made, "t5": AutoTokenizer.from_pretrained(t5)}


def rows_of(tokenizer: Any, texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    encoded = tokenizer(texts)
    return [{key: encoded[key][i] for key in encoded} for i in range(len(texts))]


# ---------------------------------------------------------------- basic


def test_padding_and_packing_hold_the_same(kinds: dict[str, Any]) -> None:
    tokenizer = kinds["bert"]
    rows = [{**row, "label": i % 2, "sentence": TEXTS[i]} for i, row in enumerate(rows_of(tokenizer))]
    collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
    padded, flat = collate(rows), with_packing(collate)(rows)
    assert padded["input_ids"].shape[1] % 8 == 0 and set(padded) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert torch.equal(padded["input_ids"][padded["attention_mask"].bool()], flat["input_ids"][0])
    assert padded["labels"].tolist() == flat["labels"].tolist() == [0, 1, 0]
    columns = {key: [row[key] for row in rows] for key in ("input_ids", "attention_mask")}
    assert torch.equal(
        DataCollatorWithPadding(tokenizer)(columns)["attention_mask"], DataCollatorWithPadding(tokenizer)(rows)["attention_mask"]
    )
    assert DataCollatorWithPadding(tokenizer, padding="max_length", max_length=40)(rows)["input_ids"].shape == (3, 40)
    with pytest.raises(InputError, match="differs in length"):
        DataCollatorWithPadding(tokenizer, padding=False)(rows)
    for wrong in (lambda: DataCollatorWithPadding(tokenizer, return_tensors="tf")(rows), lambda: default_data_collator(rows, "tf")):
        with pytest.raises(InputError, match="'pt'"):
            wrong()


def test_default_collator_stacks() -> None:
    batch = default_data_collator([{"input_ids": [1, 2], "label": 0.5}, {"input_ids": torch.tensor([3, 4]), "label": 1.0}])
    assert batch["input_ids"].tolist() == [[1, 2], [3, 4]] and batch["labels"].tolist() == [0.5, 1.0]
    packed = default_data_collator([{"input_ids": [1, 2, 3], "lengths": [1, 2]}])
    assert packed["where"].lengths == [1, 2]


def test_flattening_gives_causal_labels() -> None:
    batch = DataCollatorWithFlattening()([{"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0]}, {"input_ids": [3]}])
    assert batch["input_ids"].tolist() == batch["labels"].tolist() == [[1, 2, 3]] and batch["where"].lengths == [2, 1]
    assert "labels" not in DataCollatorWithFlattening()([{"input_ids": [1, 2], "start_positions": 0, "end_positions": 1}])


def test_labels_of_tokens_and_decoders(kinds: dict[str, Any]) -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [1, 2, 3]}, {"input_ids": [8], "labels": [4]}]
    assert DataCollatorForTokenClassification(kinds["bert"])(rows)["labels"].tolist() == [[1, 2, 3], [4, IGNORE, IGNORE]]
    assert DataCollatorForTokenClassification(kinds["bert"], label_pad_token_id=-1)(rows)["labels"].tolist() == [[1, 2, 3], [4, -1, -1]]
    with pytest.raises(InputError, match="3 tokens and 1 labels"):
        DataCollatorForTokenClassification(kinds["bert"])([{"input_ids": [5, 6, 7], "labels": [1]}])
    # as long as the input, yet the labels of a decoder
    batch = DataCollatorForSeq2Seq(kinds["marian"], packed=True)(rows)
    assert batch["where"].lengths == batch["decoder_where"].lengths == [3, 1]
    assert "labels" not in DataCollatorForSeq2Seq(kinds["marian"])([{"input_ids": [5, 6]}])


@pytest.mark.parametrize("label_pad", [IGNORE, 0])
def test_decoder_input_is_shifted_in_each_sequence(kinds: dict[str, Any], label_pad: int) -> None:
    small = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = Config("marian", **small, encoder_ffn_dim=8, decoder_ffn_dim=8, vocab_size=99, pad_token_id=1, decoder_start_token_id=1)
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    rows = [{"input_ids": [5, 6, 7], "labels": [11, 12, 13]}, {"input_ids": [8], "labels": [14, 15]}]
    padded = DataCollatorForSeq2Seq(kinds["marian"], model, label_pad_token_id=label_pad)(rows)
    assert padded["labels"].tolist() == [[11, 12, 13], [14, 15, label_pad]]
    assert padded["decoder_input_ids"].tolist() == [[1, 11, 12], [1, 14, 15]]
    flat = DataCollatorForSeq2Seq(kinds["marian"], model, packed=True)(rows)
    assert flat["decoder_input_ids"].tolist() == [[1, 11, 12, 1, 14]] and flat["labels"].tolist() == [[11, 12, 13, 14, 15]]
    torch.testing.assert_close(model(**flat).loss, model(**{k: v for k, v in flat.items() if k != "decoder_input_ids"}).loss)


def test_multiple_choice(kinds: dict[str, Any]) -> None:
    rows = [{"input_ids": [[1, 2], [3]], "label": 1}, {"input_ids": [[4], [5, 6, 7]], "label": 0}]
    padded = DataCollatorForMultipleChoice(kinds["bert"])(rows)
    assert padded["input_ids"].shape == padded["attention_mask"].shape == (2, 2, 3) and padded["labels"].tolist() == [1, 0]
    flat = DataCollatorForMultipleChoice(kinds["bert"], packed=True)(rows)
    assert flat["where"].lengths == [2, 1, 1, 3] and flat["labels"].tolist() == [1, 0]
    for wrong in ([rows[0], {"input_ids": [[1]], "label": 0}], [{"input_ids": [1, 2], "label": 0}]):
        with pytest.raises(InputError, match="number of choices"):
            DataCollatorForMultipleChoice(kinds["bert"])(wrong)


# ---------------------------------------------------------------- masking


def masked(tokenizer: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(original, what the model sees, labels) of many tokens."""
    ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    rows = [{"input_ids": [tokenizer.cls_token_id, *np.random.choice(ordinary, 198).tolist(), tokenizer.sep_token_id]} for _ in range(200)]
    batch = DataCollatorForLanguageModeling(tokenizer, **options)(rows)
    return torch.tensor([row["input_ids"] for row in rows]), batch["input_ids"], batch["labels"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_shares_of_masked_tokens(kinds: dict[str, Any], kind: str, whole: bool) -> None:
    """15% of the tokens, of which 80% become the mask, 10% another one and 10% stay; special tokens never."""
    tokenizer = kinds[kind]
    before, after, labels = masked(tokenizer, seed=7, whole_word_mask=whole)
    chosen = labels != IGNORE
    special = torch.isin(before, torch.tensor(tokenizer.all_special_ids))
    assert not (chosen & special).any() and torch.equal(labels[chosen], before[chosen]) and torch.equal(after[~chosen], before[~chosen])
    total, count = int((~special).sum()), int(chosen.sum())

    def share(part: int, whole_count: int, want: float, wide: float = 1.0) -> None:
        assert abs(part / whole_count - want) < 4 * wide * (want * (1 - want) / whole_count) ** 0.5

    share(count, total, 0.15, 3.0 if whole else 1.0)  # words vary in length, so their tokens vary more
    share(int((after == tokenizer.mask_token_id).sum()), count, 0.8)
    share(int((chosen & (after == before)).sum()), count, 0.1 * (1 + 1 / total))
    swapped = after[chosen & (after != before) & (after != tokenizer.mask_token_id)]
    assert not torch.isin(swapped, torch.tensor(tokenizer.all_special_ids)).any() and len(swapped.unique()) > 50


def test_all_masked_and_none_replaced(kinds: dict[str, Any]) -> None:
    before, after, labels = masked(kinds["bert"], mlm_probability=1.0, mask_replace_prob=0.0, random_replace_prob=0.0)
    assert torch.equal(before, after) and int((labels == IGNORE).sum()) == 2 * len(before)


def test_masks_by_seed(kinds: dict[str, Any]) -> None:
    rows = rows_of(kinds["bert"]) * 4

    def batches(seed: int | None) -> list[Any]:
        collate = DataCollatorForLanguageModeling(kinds["bert"], seed=seed)
        return [collate(rows)["input_ids"].tolist() for _ in range(2)]

    first, second = batches(3)
    assert [first, second] == batches(3) and first != second and batches(4)[0] != first
    torch.manual_seed(5)
    one = batches(None)
    assert batches(None) != one
    torch.manual_seed(5)
    assert batches(None) == one


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_whole_words_are_masked_whole(kinds: dict[str, Any], kind: str) -> None:
    tokenizer, text = kinds[kind], "훈민정음 towards lazy dogs jumping overboard brownish"
    words = text.split()
    encoded = tokenizer(words, is_split_into_words=True) if kind != "roberta" else tokenizer(text)
    ids = encoded["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    inside = [
        not (token in tokenizer.all_special_tokens or (token[:2] != "##" if kind == "bert" else token[0] in "Ġ▁")) for token in tokens
    ]
    pairs = [i for i in range(2, len(ids) - 1) if inside[i] and tokens[i - 1] not in tokenizer.all_special_tokens]
    assert len(pairs) > 5
    collate, hit = DataCollatorForWholeWordMask(tokenizer, mlm_probability=0.5, seed=1), 0
    for _ in range(20):
        chosen = (collate([{"input_ids": ids}])["labels"] != IGNORE)[0].tolist()
        hit += sum(chosen)
        assert all(chosen[i] == chosen[i - 1] for i in pairs)
    assert hit > 20


def test_workers_and_epochs_draw_others(kinds: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process has a seed of its own in every epoch, which follows from torch's."""
    rows, seen = rows_of(kinds["bert"]) * 8, []
    for seed in (None, 11, 12, 11):
        worker = None if seed is None else SimpleNamespace(id=0, seed=seed)
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda worker=worker: worker)
        seen.append(DataCollatorForLanguageModeling(kinds["bert"], seed=0)(rows)["labels"].tolist())
    assert seen[1] == seen[3] and seen[0] != seen[1] != seen[2] != seen[0]


def test_whole_words_by_word_ids(kinds: dict[str, Any]) -> None:
    tokenizer = kinds["bert"]
    row = {"input_ids": [2, 10, 11, 12, 13, 3], "word_ids": [None, 0, 0, 0, 1, None]}
    collate = DataCollatorForWholeWordMask(tokenizer, mlm_probability=0.5, seed=0)
    seen = {tuple((collate([row])["labels"] != IGNORE)[0].tolist()) for _ in range(40)}
    assert all(flags[1] == flags[2] == flags[3] and not flags[0] and not flags[5] for flags in seen) and len(seen) == 3
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    from hunmin import Tokenizer

    plain = Tokenizer(tokenizer_object=Backend(WordLevel({"a": 0, "[MASK]": 1}, unk_token="a")), mask_token="[MASK]")
    with pytest.raises(InputError, match="word_ids"):
        DataCollatorForWholeWordMask(plain)([{"input_ids": [0, 0]}])


def test_something_is_always_masked(kinds: dict[str, Any]) -> None:
    collate = DataCollatorForLanguageModeling(kinds["bert"], mlm_probability=1e-9, seed=0)
    for _ in range(5):
        assert int((collate(rows_of(kinds["bert"]))["labels"] != IGNORE).sum()) == 1
    assert bool((collate([{"input_ids": [2, 3]}])["labels"] == IGNORE).all())  # nothing but special tokens


def test_masking_sees_padding_and_masks_of_rows(kinds: dict[str, Any]) -> None:
    row = {"input_ids": [9, 9, 9, 9], "attention_mask": [1, 1, 0, 0], "special_tokens_mask": [1, 0, 0, 0]}
    batch = DataCollatorForLanguageModeling(kinds["bert"], mlm_probability=1.0)([row])
    assert (batch["labels"][0] != IGNORE).tolist() == [False, True, False, False]
    flat = DataCollatorForLanguageModeling(kinds["bert"], mlm_probability=1.0, packed=True)([row, row])
    assert flat["where"].lengths == [2, 2] and flat["labels"].tolist() == [[IGNORE, 9, IGNORE, 9]]


def test_causal_labels_keep_the_end_token(kinds: dict[str, Any]) -> None:
    """Padding has no label; an end-of-text token keeps its own, even where the padding token is the same."""
    tokenizer = kinds["gpt2"]
    end = tokenizer.eos_token_id
    batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": [5, 6, end]}, {"input_ids": [7, end]}])
    assert tokenizer.pad_token_id == end and batch["labels"].tolist() == [[5, 6, end], [7, end, IGNORE]]


def test_masking_that_cannot_be(kinds: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="mlm=False"):
        DataCollatorForLanguageModeling(kinds["gpt2"])
    for wrong in ({"mlm_probability": 1.5}, {"mlm_probability": 0.0}, {"mask_replace_prob": 0.9, "random_replace_prob": 0.2}):
        with pytest.raises(InputError, match="not shares"):
            DataCollatorForLanguageModeling(kinds["bert"], **wrong)


def test_replaced_tokens(kinds: dict[str, Any]) -> None:
    tokenizer, rows = kinds["bert"], rows_of(kinds["bert"]) * 20
    config = Config("bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=len(tokenizer))
    generator = AutoModelForMaskedLM.from_config(config).eval()
    for packed in (False, True):
        plain = DataCollatorWithPadding(tokenizer, packed=packed)(rows)
        for model in (None, generator):
            batch = DataCollatorForReplacedTokens(tokenizer, generator=model, seed=1, packed=packed)(rows)
            assert torch.equal(batch["labels"].bool(), batch["input_ids"] != plain["input_ids"])
            share = batch["labels"].sum() / (~torch.isin(plain["input_ids"], torch.tensor(tokenizer.all_special_ids))).sum()
            assert 0.1 < share < 0.2 and (model is not None or tokenizer.mask_token_id not in batch["input_ids"])


# ---------------------------------------------------------------- denoising


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


def test_noises_of_bart(kinds: dict[str, Any]) -> None:
    tokenizer = kinds["roberta"]
    ids, mask = list(range(10, 210)), tokenizer.mask_token_id
    chance = np.random.default_rng(0)

    def collator(**options: Any) -> DataCollatorForDenoising:
        return DataCollatorForDenoising(tokenizer, seed=0, **options)

    noisy = collator().mask(ids, chance)
    assert all(a in (b, mask) for a, b in zip(noisy, ids, strict=True)) and 0.2 < noisy.count(mask) / 200 < 0.4
    noisy = collator().delete(ids, chance)
    assert set(noisy) < set(ids) and noisy == sorted(noisy) and 0.2 < 1 - len(noisy) / 200 < 0.4
    assert collator(rate=0.99).delete([5], chance) == [5]
    for _ in range(20):
        noisy = collator().infill(ids, chance)
        kept = [i for i in noisy if i != mask]
        assert kept == sorted(kept) and len(kept) == 140 and 10 <= noisy.count(mask) <= 40  # 60 tokens in spans of 3 or so
    lengths = [60 / collator().infill(ids, chance).count(mask) for _ in range(200)]
    assert 2.7 < np.mean(lengths) < 3.3
    assert collator(rate=0.9).infill([5, 6], chance).count(mask) >= 1
    turned = collator().rotate(ids, chance)
    at = turned.index(10)
    assert turned[at:] + turned[:at] == ids and at > 0


def test_sentences_are_permuted_whole(kinds: dict[str, Any]) -> None:
    tokenizer = kinds["roberta"]
    text = "He is lazy. The dog jumps! Hello world? the end"
    collate = DataCollatorForDenoising(tokenizer, noises=["permutation"], seed=2)
    orders = set()
    for _ in range(30):
        batch = collate([{"input_ids": ids_of(tokenizer, text)}])
        assert batch["labels"][0].tolist() == ids_of(tokenizer, text)
        seen = batch["input_ids"][0].tolist()
        assert seen[0] == tokenizer.bos_token_id and seen[-1] == tokenizer.eos_token_id
        orders.add(tokenizer.decode(seen[1:-1]).strip())
    assert len(orders) > 10 and all(
        sentence in order for order in orders for sentence in ("He is lazy.", "The dog jumps!", "Hello world?", "the end")
    )


def test_denoising_batches_train_a_model(kinds: dict[str, Any]) -> None:
    tokenizer = kinds["roberta"]
    small = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = Config("bart", **small, encoder_ffn_dim=8, decoder_ffn_dim=8, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    rows, found = rows_of(tokenizer), []
    for packed in (False, True):
        for given_model in (None, model):
            collate = DataCollatorForDenoising(
                tokenizer, given_model, noises=["rotation", "masking", "deletion", "infilling"], seed=4, packed=packed
            )
            found.append(model(**collate(rows)).loss)
    for loss in found[1:]:
        torch.testing.assert_close(loss, found[0])
    for wrong in ({"noises": ["shuffling"]}, {"rate": 0.0}, {"poisson": 0.0}):
        with pytest.raises(InputError, match="Denoising needs"):
            DataCollatorForDenoising(tokenizer, **wrong)
    with pytest.raises(InputError, match="Denoising needs"):
        DataCollatorForDenoising(kinds["gpt2"])


@given(st.integers(2, 60), st.integers(0, 1000))
def test_corrupted_spans_give_the_text_back(size: int, seed: int) -> None:
    """Each sentinel of the input, replaced by what follows it in the target, gives the text; about 15% of it is in spans."""
    tokenizer, text = FakeT5(), list(range(100, 100 + size))
    batch = DataCollatorForSpanCorruption(tokenizer, seed=seed)([{"input_ids": [*text, 1]}])
    source, target = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    assert source[-1] == target[-1] == 1
    hidden: dict[int, list[int]] = {}
    for index in target[:-1]:
        if index < 100:
            hidden[index] = []
        else:
            hidden[list(hidden)[-1]].append(index)
    assert list(hidden) == list(range(10, 10 + len(hidden))) and hidden.pop(list(hidden)[-1]) == [] and all(hidden.values())
    assert [t for i in source[:-1] for t in hidden.get(i, [i])] == text and set(hidden) <= set(source)
    assert sum(map(len, hidden.values())) == min(max(round(0.15 * size), 1), size - 1)
    assert len(hidden) == min(max(round(round(0.15 * size) / 3), 1), 7)


class FakeT5:
    """The vocabulary that span corruption looks at: eight sentinels and one end token."""

    pad_token_id, pad_token_type_id, padding_side = 0, 0, "right"
    all_special_ids = (0, 1, 10, 11, 12)

    def get_vocab(self) -> dict[str, int]:
        return {name: 10 + i for i, name in enumerate(SENTINELS)}


def test_parts_are_positive_and_add_up() -> None:
    chance = np.random.default_rng(0)
    seen = {tuple(partition(5, 3, chance)) for _ in range(200)}
    assert seen == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert partition(4, 1, chance) == [4] and partition(3, 3, chance) == [1, 1, 1]


def test_span_corruption_with_a_tokenizer(kinds: dict[str, Any]) -> None:
    tokenizer = kinds["t5"]
    batch = DataCollatorForSpanCorruption(tokenizer, seed=0, packed=True)(rows_of(tokenizer))
    assert len(batch["where"].lengths) == len(batch["decoder_where"].lengths) == 3
    first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    assert batch["input_ids"].tolist()[0].count(first) == batch["labels"].tolist()[0].count(first) == 3
    with pytest.raises(InputError, match="extra_id_0"):
        DataCollatorForSpanCorruption(kinds["bert"])
    with pytest.raises(InputError, match="two tokens"):
        DataCollatorForSpanCorruption(kinds["bert"], sentinels=[5, 6])([{"input_ids": [9]}])


def test_prefixes(kinds: dict[str, Any]) -> None:
    rows = [{"input_ids": list(range(5, 15))}] * 50
    batch = DataCollatorForPrefixLM(kinds["bert"], seed=0, packed=True)(rows)
    pairs = list(zip(batch["where"].lengths, batch["decoder_where"].lengths, strict=True))
    assert all(a + b == 10 for a, b in pairs) and {a for a, _ in pairs} == set(range(1, 10))
    assert batch["input_ids"][0, : pairs[0][0]].tolist() + batch["labels"][0, : pairs[0][1]].tolist() == rows[0]["input_ids"]
    alone = DataCollatorForPrefixLM(kinds["bert"], decoder_only=True, seed=0)(rows)
    kept = alone["labels"] != IGNORE
    assert (
        torch.equal(alone["labels"][kept], alone["input_ids"][kept])
        and (kept.int().diff() >= 0).all()
        and not kept[:, 0].any()
        and kept[:, -1].all()
    )
    with pytest.raises(InputError, match="two tokens"):
        DataCollatorForPrefixLM(kinds["bert"])([{"input_ids": [5]}])


# ---------------------------------------------------------------- pairs


def test_next_sentences(kinds: dict[str, Any]) -> None:
    tokenizer = kinds["bert"]
    documents = [{"sentences": [[100 + 10 * d + s] * 4 for s in range(4)]} for d in range(8)]
    collate, labels = DataCollatorForNextSentence(tokenizer, max_length=20, seed=0), []
    for _ in range(20):
        batch = collate(documents)
        assert batch["input_ids"].shape[1] <= 20
        labels += batch["labels"].tolist()
        for ids, types, real, drawn in zip(*(batch[k] for k in ("input_ids", "token_type_ids", "attention_mask", "labels")), strict=True):
            ids, types = ids[real.bool()].tolist(), types[real.bool()].tolist()
            middle = ids.index(tokenizer.sep_token_id)
            first, second = ids[1:middle], ids[middle + 1 : -1]
            assert types == [0] * (middle + 1) + [1] * (len(second) + 1) and ids[0] == tokenizer.cls_token_id
            same = first[0] // 10 == second[0] // 10
            assert same is not bool(drawn) and first[0] % 10 == 0
    assert 0.4 < np.mean(labels) < 0.6
    for wrong in (documents[:1], [{"sentences": [[1]]}] * 2, [{"input_ids": [1]}] * 2, [{"sentences": [[1], []]}] * 2):
        with pytest.raises(InputError, match="sentences"):
            collate(wrong)
    with pytest.raises(InputError, match="no room"):
        DataCollatorForNextSentence(tokenizer, max_length=4)


def test_contrastive_columns(kinds: dict[str, Any]) -> None:
    tokenizer = kinds["bert"]
    rows = [{"anchor": "lazy dog", "positive": "quick fox jumps", "score": 0.5}, {"anchor": "Hello", "positive": "world", "score": 1.0}]
    batch = DataCollatorForContrastive(tokenizer)(rows)
    want = tokenizer(["lazy dog", "Hello", "quick fox jumps", "world"])["input_ids"]
    assert batch["input_ids"].tolist() == [[index for ids in want for index in ids]] and batch["where"].lengths == list(map(len, want))
    assert batch.pop("labels").tolist() == [0.5, 1.0]
    config = Config("bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=len(tokenizer))
    model = AutoModel.from_config(config).eval()
    anchors, positives = losses.pool(model(**batch).last_hidden_state, batch["where"]).chunk(2)
    padded = DataCollatorForContrastive(tokenizer, packed=False)(rows)
    hidden, mask = model(**padded).last_hidden_state, padded["attention_mask"][..., None]
    torch.testing.assert_close(torch.cat([anchors, positives]), (hidden * mask).sum(1) / mask.sum(1))
    listed = DataCollatorForContrastive(tokenizer, ["b", "a"], max_length=2)([{"a": [5, 6, 7], "b": [8], "c": "x"}])
    assert listed["input_ids"].tolist() == [[8, 5, 6]] and "labels" not in listed
    for wrong in ([], [{"anchor": "a"}], [{"anchor": "a", "positive": 3}]):
        with pytest.raises(InputError, match="two columns"):
            DataCollatorForContrastive(tokenizer)(wrong)


# ---------------------------------------------------------------- labels of another kind, and Transformers


def test_labels_that_do_not_fit_the_objective(kinds: dict[str, Any]) -> None:
    rows = [{"input_ids": [5, 6, 7], "label": 1}]
    for collate in (DataCollatorForSeq2Seq(kinds["bert"]), DataCollatorForTokenClassification(kinds["bert"])):
        for made in (collate, with_packing(collate)):
            with pytest.raises(InputError, match="one number a row"):
                made(rows)
    # objectives that make their own labels do not look at those of the rows
    assert DataCollatorForDenoising(kinds["bert"])(rows)["labels"].tolist() == [[5, 6, 7]]
    assert DataCollatorForLanguageModeling(kinds["bert"], mlm=False)(rows)["labels"].tolist() == [[5, 6, 7]]
    assert DataCollatorForLanguageModeling(kinds["bert"])(rows)["labels"].shape == (1, 3)


@pytest.mark.parity
@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_equal_those_of_transformers(kinds: dict[str, Any], side: str) -> None:
    import transformers

    import hunmin

    ours = kinds["bert"]
    names = ("pad_token", "mask_token", "cls_token", "sep_token", "unk_token")
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_object=ours.backend_tokenizer, **{name: getattr(ours, name) for name in names}
    )
    ours.padding_side = reference.padding_side = side
    rows = rows_of(ours)
    tags = [{**row, "labels": [i % 3 for i in row["input_ids"]]} for row in rows]
    targets = [{**row, "labels": row["input_ids"][: 3 + i]} for i, row in enumerate(rows)]
    choices = [{**{k: [rows[i][k], rows[i + 1][k]] for k in rows[i]}, "label": i} for i in range(2)]
    equal = [{"input_ids": [i, 2], "label": i} for i in range(2)]
    try:
        for name, features, options in (
            ("DataCollatorWithPadding", [{**row, "label": 1} for row in rows], {"pad_to_multiple_of": 8}),
            ("DataCollatorWithPadding", rows, {"padding": "max_length", "max_length": 50}),
            ("DataCollatorForTokenClassification", tags, {}),
            ("DataCollatorForMultipleChoice", choices, {}),
            ("DataCollatorForLanguageModeling", rows, {"mlm": False}),
            *([("DataCollatorForSeq2Seq", targets, {"label_pad_token_id": -1})] if side == "right" else []),
        ):
            copies = [[dict(row) for row in features] for _ in range(2)]
            want, got = (
                getattr(home, name)(made, **options)(c)
                for home, made, c in zip((transformers, hunmin), (reference, ours), copies, strict=True)
            )
            assert set(got) == set(want), name
            assert all(torch.equal(got[key], want[key]) for key in want), name
        want, got = transformers.default_data_collator(equal), default_data_collator(equal)
        assert set(got) == set(want) and all(torch.equal(got[key], want[key]) for key in want)
    finally:
        ours.padding_side = "right"


@pytest.mark.parity
@pytest.mark.parametrize("shift", [False, True])
def test_smoothing_equals_that_of_transformers(shift: bool) -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    logits, labels = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5))
    labels[0, 2:] = IGNORE
    want = LabelSmoother(0.2)({"logits": logits}, labels.clone(), shift_labels=shift)
    torch.testing.assert_close(losses.smoothed(logits, labels, 0.2, shift=shift), want)
