"""Losses of preferences as pure functions of log-probabilities and rewards. P pairs, B sequences, T tokens, V vocabulary.

``log p`` is always that of an answer given its prompt, summed over the answer's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal[
    "sigmoid", "hinge", "ipo", "robust", "sigmoid_norm", "simpo", "cpo", "orpo", "sft", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
    "aot", "aot_pair", "aot_unpaired", "apo_zero", "apo_down", "discopop",
]  # fmt: skip
KTOKind = Literal["kto", "apo_zero_unpaired"]
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
WITHOUT_REFERENCE = frozenset({"simpo", "cpo", "orpo", "sft"})


# ---------------------------------------------------------------------- rewards


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, center: float = 0.0) -> Tensor:
    """Minus the log-probability that ``chosen`` beats ``rejected``, rewards ``(P,)`` of pairs (Bradley and Terry 1952), as a mean.

    ``margin`` ``(P,)`` is by how much it should (Llama 2, equation 2); ``center`` weighs the squared sum of a pair, which keeps rewards
    around zero (Eisenstein et al. 2023).
    """
    gap = chosen - rejected if margin is None else chosen - rejected - margin
    loss = -F.logsigmoid(gap).mean()
    return loss + center * ((chosen + rejected) ** 2).mean() if center else loss


def process_reward(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of judging steps right or wrong (Lightman et al. 2023): logits ``(S, 2)``, or ``(S, 1)`` of being right; labels ``(S,)``."""
    if logits.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0].float(), labels.float())
    return F.cross_entropy(logits.float(), labels.long())


# ---------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities ``(P,)`` of chosen and rejected answers under policy and reference, their numbers of tokens, and the settings.

    ``text`` is the mean loss of all tokens of the chosen texts, prompts included, which ORPO wants.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    beta: float = 0.1
    chosen_length: Tensor | None = None
    rejected_length: Tensor | None = None
    smoothing: float = 0.0
    gamma: float = 0.5
    alpha: float = 1.0  # CPO's weight of the chosen answers' own loss
    tau: float = 0.05
    text: Tensor | None = None
    divergence: Divergence = "reverse_kl"
    power: float = 0.5

    @property
    def ratios(self) -> tuple[Tensor, Tensor]:
        """``log(policy / reference)`` of both answers."""
        return self.chosen - self.ref_chosen, self.rejected - self.ref_rejected

    @property
    def scores(self) -> tuple[Tensor, Tensor]:
        """The implied rewards over beta: ``f'`` of the ratios for an f-divergence (Wang et al. 2023, table 1)."""
        chosen, rejected = self.ratios
        match self.divergence:
            case "reverse_kl":
                return chosen, rejected
            case "forward_kl":
                return 1 - (-chosen).exp(), 1 - (-rejected).exp()
            case "js_divergence":
                return math.log(2) + F.logsigmoid(chosen), math.log(2) + F.logsigmoid(rejected)
            case "alpha_divergence":
                a = self.power - 1
                if abs(a) < 1e-6:
                    return chosen, rejected
                one, other = (((a * t).clamp(max=80).exp() - 1) / a for t in (chosen, rejected))
                return one, other

    @property
    def gap(self) -> Tensor:
        """By how much the implied reward of the chosen answer is larger, times beta."""
        chosen, rejected = self.scores
        return self.beta * (chosen - rejected)

    @property
    def lengths(self) -> tuple[Tensor, Tensor]:
        assert self.chosen_length is not None and self.rejected_length is not None, "this loss needs the lengths of the answers"
        return self.chosen_length.clamp(min=1), self.rejected_length.clamp(min=1)

    def each_token(self) -> Pairs:
        """The same with means instead of sums over tokens."""
        chosen, rejected = self.lengths
        return replace(
            self,
            chosen=self.chosen / chosen,
            rejected=self.rejected / rejected,
            ref_chosen=self.ref_chosen / chosen,
            ref_rejected=self.ref_rejected / rejected,
        )

    def nll(self) -> Tensor:
        """The mean loss of the chosen answers' tokens, a scalar."""
        return -self.chosen.sum() / self.lengths[0].sum()


def _smoothed(gap: Tensor, smoothing: float) -> Tensor:
    """Loss of a gap whose sign is wrong with probability ``smoothing`` (cDPO, Mitchell 2023)."""
    loss = -F.logsigmoid(gap)
    return loss if not smoothing else (1 - smoothing) * loss - smoothing * F.logsigmoid(-gap)


def _ipo(p: Pairs) -> Tensor:
    """Azar et al. 2023, equation 17; of means over tokens, as its authors do it."""
    chosen, rejected = p.scores
    length = p.lengths
    return (chosen / length[0] - rejected / length[1] - 1 / (2 * p.beta)) ** 2


def _norm(p: Pairs) -> Tensor:
    chosen, rejected = p.scores
    length = p.lengths
    return -F.logsigmoid(p.beta * (chosen / length[0] - rejected / length[1]))


def _robust(p: Pairs) -> Tensor:
    """Chowdhury et al. 2024, equation 10: unbiased where labels are flipped with probability ``smoothing``."""
    e = p.smoothing
    return (-(1 - e) * F.logsigmoid(p.gap) + e * F.logsigmoid(-p.gap)) / (1 - 2 * e)


def _simpo(p: Pairs) -> Tensor:
    """Meng et al. 2024, equation 6."""
    p = p.each_token()
    return _smoothed(p.beta * (p.chosen - p.rejected) - p.gamma, p.smoothing)


def _cpo(p: Pairs) -> Tensor:
    """Xu et al. 2024, equation 6."""
    loss = _smoothed(p.beta * (p.chosen - p.rejected), p.smoothing)
    return loss + p.alpha * p.nll() if p.alpha else loss


def _orpo(p: Pairs) -> Tensor:
    """Hong et al. 2024, equation 6; odds are of the mean log-probability of a token."""
    e = p.each_token()

    def log_odds(logp: Tensor) -> Tensor:
        # log(1 - e^x), each side of -log 2 in the form that keeps its digits (Mächler 2012)
        x = logp.clamp(max=-torch.finfo(logp.dtype).tiny)
        near = x > -math.log(2)
        rest = torch.where(near, (-x.where(near, x.new_tensor(-1.0)).expm1()).log(), (-x.where(~near, x.new_tensor(-1.0)).exp()).log1p())
        return logp - rest

    text = p.text if p.text is not None else p.nll()
    return text - p.beta * F.logsigmoid(log_odds(e.chosen) - log_odds(e.rejected))


def _exo(p: Pairs) -> Tensor:
    """Ji et al. 2024, equation 16."""
    win, lose = F.logsigmoid(p.gap), F.logsigmoid(-p.gap)
    return win.exp() * (win - math.log1p(-p.smoothing)) + lose.exp() * (lose - math.log(p.smoothing))


def _nca(p: Pairs) -> Tensor:
    """Chen et al. 2024, NCA for pairs."""
    chosen, rejected = (p.beta * ratio for ratio in p.ratios)
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def _bco(p: Pairs) -> Tensor:
    chosen, rejected = (p.beta * ratio for ratio in p.ratios)
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


def _sppo(p: Pairs) -> Tensor:
    """Wu et al. 2024, equation 4.7 with probabilities 1 and 0."""
    chosen, rejected = p.ratios
    return (chosen - 0.5 / p.beta) ** 2 + (rejected + 0.5 / p.beta) ** 2


def _aot(p: Pairs) -> Tensor:
    """Melnyk et al. 2024: the distributions of a batch are compared, sorted, not its pairs."""
    own, ref = (p.chosen - p.rejected).sort().values, (p.ref_chosen - p.ref_rejected).sort().values
    return _smoothed(p.beta * (own - ref), p.smoothing)


def _aot_unpaired(p: Pairs) -> Tensor:
    chosen, rejected = (ratio.sort().values for ratio in p.ratios)
    return _smoothed(p.beta * (chosen - rejected), p.smoothing)


def _apo_zero(p: Pairs) -> Tensor:
    """D'Oosterlinck et al. 2024, equation 7: chosen answers are better than the model's own."""
    chosen, rejected = p.ratios
    return 1 - (p.beta * chosen).sigmoid() + (p.beta * rejected).sigmoid()


def _apo_down(p: Pairs) -> Tensor:
    """D'Oosterlinck et al. 2024, equation 8: the model's own answers are better than both."""
    chosen, rejected = p.ratios
    return (p.beta * chosen).sigmoid() + 1 - (p.beta * (chosen - rejected)).sigmoid()


def _discopop(p: Pairs) -> Tensor:
    """Lu et al. 2024, equation 5."""
    share = (p.gap / p.tau).sigmoid()
    return -F.logsigmoid(p.gap) * (1 - share) + (-p.gap).exp() * share


KINDS: dict[str, Callable[[Pairs], Tensor]] = {
    "sigmoid": lambda p: _smoothed(p.gap, p.smoothing),  # Rafailov et al. 2023, equation 7
    "hinge": lambda p: (1 - p.gap).relu(),  # SLiC, Zhao et al. 2023
    "ipo": _ipo,
    "robust": _robust,
    "sigmoid_norm": _norm,  # sigmoid of means over tokens (Tülu 3)
    "simpo": _simpo,
    "cpo": _cpo,
    "orpo": _orpo,
    "sft": lambda p: p.nll().expand(len(p.chosen)),
    "exo_pair": _exo,
    "nca_pair": _nca,
    "bco_pair": _bco,
    "sppo_hard": _sppo,
    "aot": _aot,
    "aot_pair": _aot,
    "aot_unpaired": _aot_unpaired,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
}


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor | float = 0.0,
    ref_rejected: Tensor | float = 0.0,
    beta: float = 0.1,
    kind: str = "sigmoid",
    *,
    chosen_length: Tensor | None = None,
    rejected_length: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss of every pair ``(P,)``; references of 0 make it reference-free. :class:`Pairs` has the settings of the rarer kinds."""
    refs = torch.as_tensor(ref_chosen, dtype=chosen.dtype), torch.as_tensor(ref_rejected, dtype=chosen.dtype)
    return KINDS[kind](Pairs(chosen, rejected, *refs, beta, chosen_length, rejected_length, label_smoothing))


# ---------------------------------------------------------------------- single answers


def kto(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    kl: Tensor | float = 0.0,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    kind: str = "kto",
) -> Tensor:
    """Loss of every answer ``(B,)`` (Ethayarajh et al. 2024, equation 7) from its ``log p``; ``desirable`` ``(B,)`` says which are good.

    ``kl`` is the point of reference, at least 0, and passes no gradients; "apo_zero_unpaired" (D'Oosterlinck et al. 2024) has none.
    """
    ratio = policy - reference
    origin = torch.as_tensor(kl, dtype=ratio.dtype, device=ratio.device).detach().clamp(min=0) if kind == "kto" else 0.0
    sign = torch.where(desirable, 1.0, -1.0).to(ratio.dtype)
    weight = torch.where(desirable, desirable_weight, undesirable_weight).to(ratio.dtype)
    return weight * (1 - (beta * sign * (ratio - origin)).sigmoid())


# ---------------------------------------------------------------------- distributions


def jsd(student: Tensor, teacher: Tensor, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Generalized Jensen-Shannon divergence of logits ``(T, V)`` for every token, ``(T,)`` (Agarwal et al. 2023, equation 1).

    ``beta`` 0 is the forward KL(teacher | student), 1 the reverse KL(student | teacher); between, ``beta`` is the teacher's share of the
    mixture.
    """
    own, other = ((logits.float() / temperature).log_softmax(-1) for logits in (student, teacher))
    if beta == 0:
        return (other.exp() * (other - own)).sum(-1)
    if beta == 1:
        return (own.exp() * (own - other)).sum(-1)
    mixed = torch.logaddexp(own + math.log1p(-beta), other + math.log(beta))
    return beta * (other.exp() * (other - mixed)).sum(-1) + (1 - beta) * (own.exp() * (own - mixed)).sum(-1)
