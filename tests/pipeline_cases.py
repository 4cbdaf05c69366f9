"""Tiny models and calls for the pipeline tests: every task with its options, as taught. Shared by the golden script and the tests."""

from __future__ import annotations

from typing import Any

NER_LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 80}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8}
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 80,
}  # fmt: skip
TASK_PARAMS = {
    "summarization": {"prefix": "summarize: ", "min_length": 4, "max_length": 12, "num_beams": 2, "no_repeat_ngram_size": 2},
    "translation_en_to_fr": {"prefix": "translate English to French: ", "max_length": 10, "num_beams": 1},
}


def labels(names: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


# name: (model type, tokenizer, class, config)
MODELS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "bert-topics": ("bert", "wordpiece", "SequenceClassification", SIZE | labels(["sports", "politics", "weather"])),
    "bert-many": ("bert", "wordpiece", "SequenceClassification", SIZE | labels(list("abcd")) | {"problem_type": "multi_label_classification"}),
    "bert-score": ("bert", "wordpiece", "SequenceClassification", SIZE | labels(["score"])),
    "bert-regression": ("bert", "wordpiece", "SequenceClassification", SIZE | labels(["score"]) | {"problem_type": "regression"}),
    "bert-ner": ("bert", "wordpiece", "TokenClassification", SIZE | labels(NER_LABELS)),
    "roberta-ner": ("roberta", "bytes", "TokenClassification", SIZE | labels(NER_LABELS)),
    "xlmr-ner": ("xlm-roberta", "unigram", "TokenClassification", SIZE | {"max_position_embeddings": 90} | labels(NER_LABELS)),
    "bert-qa": ("bert", "wordpiece", "QuestionAnswering", SIZE),
    "roberta-qa": ("roberta", "bytes", "QuestionAnswering", SIZE),
    "bert-mask": ("bert", "wordpiece", "MaskedLM", SIZE),
    "roberta-mask": ("roberta", "bytes", "MaskedLM", SIZE),
    "roberta-nli": ("roberta", "bytes", "SequenceClassification", SIZE | labels(["contradiction", "neutral", "entailment"])),
    "bert-nli": ("bert", "wordpiece", "SequenceClassification", SIZE | labels(["Entailment", "not_entailment"])),
    "t5": ("t5", "unigram", "Seq2SeqLM", T5 | {"task_specific_params": TASK_PARAMS, "decoder_start_token_id": 0}),
    "bart": ("bart", "bytes", "Seq2SeqLM", BART | {"decoder_start_token_id": 2, "forced_eos_token_id": 2, "max_length": 14}),
    "mbart50": ("mbart", "mbart50", "Seq2SeqLM", BART | {"decoder_start_token_id": 2, "max_length": 10}),
    "mbart": ("mbart", "mbart", "Seq2SeqLM", BART | {"decoder_start_token_id": 2, "max_length": 10}),
    "nllb": ("m2m_100", "nllb", "Seq2SeqLM", BART | {"decoder_start_token_id": 2, "max_length": 10}),
    "gpt2": ("gpt2", "gpt2", "CausalLM", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 80}),
    "bert": ("bert", "wordpiece", "Model", SIZE),
}  # fmt: skip
TEXT = "The cat sat on the mat in Paris."
KOREAN = "서울에서 온 고양이 🐈 세종대왕은 한글을 만들었다."
NFD = "한글 Caf\u0065\u0301 Mia"
LONG = "Mia went to Paris with the cat. " * 12
MANY = [TEXT, "Rain falls.", KOREAN, LONG[:150]]
PAIR = {"text": "It rains.", "text_pair": "The sun shines."}
QUESTION, CONTEXT = "Where is the cat?", "The cat sat in Paris. Mia went home with the dog, and Sejong made Hangul."
MASKED = {"bert-mask": "The [MASK] sat on the mat.", "roberta-mask": "The<mask> sat on the mat."}
TWO_MASKS = {"bert-mask": "The [MASK] sat [MASK] the mat.", "roberta-mask": "The<mask> sat<mask> the mat."}
TOPICS = ["sports", "weather", "food"]
Call = tuple[str, str, dict[str, Any], list[Any], dict[str, Any]]  # model, task, construction, arguments, options


def _classification() -> list[Call]:
    task, alias = "text-classification", "sentiment-analysis"
    calls: list[Call] = [("bert-topics", task, {}, [x], {}) for x in (TEXT, MANY, PAIR, [PAIR], KOREAN)]
    options = [{"top_k": 1}, {"top_k": 2}, {"top_k": None}, {"return_all_scores": True}, {"return_all_scores": False}]
    options += [{"function_to_apply": f} for f in ("sigmoid", "softmax", "none")]
    calls += [("bert-topics", alias, {}, [x], o) for o in options for x in (TEXT, MANY)]
    calls += [
        (m, task, {}, [x], o) for m in ("bert-many", "bert-score", "bert-regression") for x in (TEXT, MANY) for o in ({}, {"top_k": None})
    ]
    calls += [("bert-topics", task, {}, [[PAIR, PAIR]], {"top_k": None}), ("bert-topics", task, {}, [[[["It rains.", "It snows."]]]], {})]
    calls += [("bert-topics", task, {"top_k": 2}, [TEXT], {}), ("bert-topics", task, {"top_k": 2}, [MANY], {"function_to_apply": "none"})]
    return calls


def _tokens() -> list[Call]:
    calls: list[Call] = []
    for model in ("bert-ner", "roberta-ner", "xlmr-ner"):
        calls += [(model, "ner", {}, [x], {}) for x in (TEXT, MANY, KOREAN, NFD)]
        strategies = ("none", "simple", "first", "average", "max")
        calls += [(model, "token-classification", {"aggregation_strategy": s}, [x], {}) for s in strategies for x in (TEXT, KOREAN, NFD)]
        calls += [(model, "ner", {"grouped_entities": True}, [TEXT], {}), (model, "ner", {}, [TEXT], {"ignore_labels": ["B-PER"]})]
        calls += [(model, "ner", {"stride": 8, "aggregation_strategy": s}, [LONG], {}) for s in ("first", "simple", "max")]
        calls += [(model, "ner", {"grouped_entities": True, "ignore_subwords": True}, [TEXT], {})]
        calls += [(model, "ner", {"aggregation_strategy": "simple"}, [MANY], {"ignore_labels": []})]
    return calls


def _questions() -> list[Call]:
    calls: list[Call] = []
    options: list[dict[str, Any]] = [{}, {"top_k": 3}, {"max_answer_len": 3}, {"handle_impossible_answer": True}, {"align_to_words": False}]
    options += [{"max_seq_len": 24, "doc_stride": 6, "top_k": 2}, {"max_seq_len": 24, "doc_stride": 6, "handle_impossible_answer": True}]
    for model in ("bert-qa", "roberta-qa"):
        calls += [(model, "question-answering", {}, [], {"question": QUESTION, "context": CONTEXT} | o) for o in options]
        calls += [(model, "question-answering", {}, [{"question": QUESTION, "context": KOREAN}], {})]
        calls += [(model, "question-answering", {}, [], {"question": [QUESTION, "Who?"], "context": [CONTEXT, TEXT]})]
        calls += [(model, "question-answering", {}, [], {"question": [QUESTION, "Who?"], "context": CONTEXT})]
        calls += [(model, "question-answering", {}, [], {"question": QUESTION, "context": CONTEXT, "topk": 2})]
        calls += [(model, "question-answering", {}, [[{"question": QUESTION, "context": c} for c in (CONTEXT, LONG)]], {"top_k": 2})]
    return calls


def _masks() -> list[Call]:
    calls: list[Call] = []
    for model in MASKED:
        one, two = MASKED[model], TWO_MASKS[model]
        calls += [(model, "fill-mask", {}, [x], o) for x in (one, two, [one, two]) for o in ({}, {"top_k": 2})]
        calls += [(model, "fill-mask", {}, [one], {"targets": t}) for t in (["cat", "dog"], "cat")]
        calls += [(model, "fill-mask", {"top_k": 1}, [one], {}), (model, "fill-mask", {}, [two], {"targets": ["cat", "dog"], "top_k": 2})]
    return calls


def _zero() -> list[Call]:
    calls: list[Call] = []
    for model in ("roberta-nli", "bert-nli"):
        options: list[dict[str, Any]] = [{}, {"multi_label": True}, {"hypothesis_template": "About {}."}]
        calls += [(model, "zero-shot-classification", {}, [x], {"candidate_labels": TOPICS} | o) for x in (TEXT, MANY) for o in options]
        calls += [(model, "zero-shot-classification", {}, [TEXT], {"candidate_labels": "sports, food"})]
        calls += [(model, "zero-shot-classification", {}, [TEXT], {"candidate_labels": ["sports"]})]
    return calls


def _texts() -> list[Call]:
    calls: list[Call] = []
    for task in ("summarization", "translation_en_to_fr", "text2text-generation"):
        for model in ("t5", "bart"):
            options: list[dict[str, Any]] = [
                {},
                {"max_length": 8},
                {"min_length": 3, "max_length": 9},
                {"max_new_tokens": 5, "num_beams": 2},
            ]
            calls += [(model, task, {}, [TEXT], o) for o in options]
            calls += [(model, task, {}, [[TEXT, "Rain falls."]], {"max_new_tokens": 6})]
            calls += [(model, task, {}, [TEXT], {"max_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2})]
            calls += [(model, task, {"max_new_tokens": 5}, [TEXT], {"clean_up_tokenization_spaces": True})]
            calls += [(model, task, {}, [TEXT], {"max_new_tokens": 5, "return_tensors": True, "return_text": False})]
            calls += [(model, task, {}, [LONG], {"max_new_tokens": 5, "truncation": True})]
    return calls


def _languages() -> list[Call]:
    pairs = {"mbart50": ("en_XX", "ko_KR"), "mbart": ("en_XX", "ko_KR"), "nllb": ("eng_Latn", "kor_Hang")}
    calls: list[Call] = []
    for model, (source, target) in pairs.items():
        calls += [(model, "translation", {"src_lang": source, "tgt_lang": target}, [x], {}) for x in (TEXT, [TEXT, "Rain falls."])]
        calls += [(model, "translation", {}, [TEXT], {"src_lang": target, "tgt_lang": source, "num_beams": 2})]
    return calls


def _open_text() -> list[Call]:
    greedy = {"do_sample": False}
    options: list[dict[str, Any]] = [{"max_new_tokens": 5}, {"max_length": 20}, {"max_new_tokens": 4, "return_full_text": False}]
    options += [{"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 2}, {"max_new_tokens": 4, "prefix": "Rain. "}]
    options += [{"max_new_tokens": 4, "return_tensors": True}]
    calls: list[Call] = [("gpt2", "text-generation", {}, [x], greedy | o) for x in (TEXT, [TEXT, "Rain"]) for o in options]
    return [*calls, ("bert", "feature-extraction", {}, [TEXT], {}), ("bert", "feature-extraction", {}, [["Rain falls.", TEXT]], {})]


CALLS = [*_classification(), *_tokens(), *_questions(), *_masks(), *_zero(), *_texts(), *_open_text(), *_languages()]
