"""How well a language model predicts a text: the check before and after quantization or pruning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hunmin.errors import InputError, say
from hunmin.nn.where import Where
from hunmin.train.metrics import Scores, perplexity

if TYPE_CHECKING:
    from hunmin.model import PreTrainedModel

AT_ONCE = 2048  # tokens that go through the model together: enough to keep matrix units busy


def text_perplexity(model: PreTrainedModel, ids: Sequence[int], *, window: int = 512) -> Scores:
    """Perplexity of a causal language model over the tokens ``ids`` of a text.

    The text is cut into windows of ``window`` tokens that do not overlap; in each, every token but the first is
    predicted from those before it
    in the window. Windows are packed into rows without padding, and no logits of a whole row are held. Numbers
    compare only at equal ``window``:
    a longer one gives lower perplexity.

    Returns "perplexity", "loss" (the mean cross-entropy in nats) and "tokens" (how many were predicted).
    Raises InputError for a model that is no causal language model, a window below 2, or fewer than two tokens.
    """
    if model.task != "CausalLM":
        raise InputError(
            say(
                f"Perplexity needs a causal language model; this one was loaded for {model.task}. Load it with AutoModelForCausalLM.",
                f"퍼플렉시티에는 인과 언어 모델이 필요한데 이 모델은 {model.task}용입니다. AutoModelForCausalLM으로 불러오세요.",
            )
        )
    if window < 2 or len(ids) < 2:
        raise InputError(
            say(
                f"Perplexity needs two tokens or more: the text has {len(ids)}, a window {window}.",
                f"퍼플렉시티에는 토큰이 둘 이상 필요합니다: 텍스트 {len(ids)}개, 창 {window}개.",
            )
        )
    windows = [part for i in range(0, len(ids), window) if len(part := ids[i : i + window]) > 1]
    total, count, size, training = 0.0, 0, max(1, AT_ONCE // window), model.training
    model.eval()
    try:
        with torch.inference_mode():
            for i in range(0, len(windows), size):
                lengths = [len(part) for part in windows[i : i + size]]
                row = torch.tensor([[token for part in windows[i : i + size] for token in part]], device=model.device)
                where = Where.packed(lengths, model.device)
                scored = sum(lengths) - len(lengths)
                total += float(model(row, labels=row, where=where, loss_only=True).loss) * scored
                count += scored
    finally:
        model.train(training)
    return {"perplexity": perplexity(total / count), "loss": total / count, "tokens": float(count)}
