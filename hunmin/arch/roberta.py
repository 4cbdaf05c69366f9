"""RoBERTa (Liu et al. 2019), XLM-RoBERTa, CamemBERT: BERT whose positions start after the padding id, with its own head names."""

from __future__ import annotations

from hunmin.arch import bert
from hunmin.arch._arch import Arch
from hunmin.arch._heads import classifier, dropout_of, masked_lm, multiple_choice, span, tagger
from hunmin.arch._rules import Config
from hunmin.nn.model import Backbone


def encoder(c: Config) -> Backbone:
    offset = c["pad_token_id"] + 1
    return bert.encoder(c, causal=c["is_decoder"], offset=offset, positions=c["max_position_embeddings"] - offset)


MASKED = masked_lm("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", act="gelu")
ARCH = Arch(
    prefix="roberta.",
    defaults={**bert.DEFAULTS, "vocab_size": 50265, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    rules=bert.rules,
    encoder=encoder,
    heads={
        "Model": bert.pooled(),
        "MaskedLM": bert.reader(MASKED),
        "CausalLM": bert.writer(MASKED, "{}ForCausalLM"),
        "SequenceClassification": classifier("classifier.out_proj", "classifier.dense", dropout=lambda c: (dropout_of(c), dropout_of(c))),
        "MultipleChoice": multiple_choice("pooler.dense", in_body=True, dropout=lambda c: (0.0, c["hidden_dropout_prob"])),
        "TokenClassification": tagger(),
        "QuestionAnswering": span(),
    },
)
