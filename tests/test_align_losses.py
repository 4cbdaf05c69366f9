"""Losses of preferences against numbers worked out by hand, from the formulas in the papers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from hunmin.align import losses
from hunmin.align.losses import KINDS, Kind, Pairs, bradley_terry, dpo, jsd, kto, process_reward
from hunmin.align.sft import dft


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# One pair: ratios are 2 and -1, answers have 4 and 2 tokens.
PAIR = Pairs(
    torch.tensor([-6.0]), torch.tensor([-5.0]), torch.tensor([-8.0]), torch.tensor([-4.0]), 0.5,
    chosen_length=torch.tensor([4]), rejected_length=torch.tensor([2]),
)  # fmt: skip
ODDS = [math.log(math.exp(x) / (1 - math.exp(x))) for x in (-1.5, -2.5)]
BY_HAND: dict[str, tuple[dict[str, Any], float]] = {
    "sigmoid": ({}, -math.log(sigmoid(0.5 * 3))),
    "hinge": ({"beta": 0.2}, 1 - 0.2 * 3),
    "ipo": ({}, (2 / 4 - -1 / 2 - 1 / (2 * 0.5)) ** 2),
    "robust": ({"smoothing": 0.1}, (-0.9 * math.log(sigmoid(1.5)) + 0.1 * math.log(sigmoid(-1.5))) / 0.8),
    "sigmoid_norm": ({}, -math.log(sigmoid(0.5 * (2 / 4 + 1 / 2)))),
    "simpo": ({"beta": 2.0, "gamma": 1.0}, -math.log(sigmoid(2 * (-6 / 4 + 5 / 2) - 1.0))),
    "cpo": ({}, -math.log(sigmoid(0.5 * (-6 + 5))) + 6 / 4),
    "orpo": ({}, 6 / 4 - 0.5 * math.log(sigmoid(ODDS[0] - ODDS[1]))),
    "sft": ({}, 6 / 4),
    "exo_pair": (
        {"smoothing": 0.1},
        sigmoid(1.5) * (math.log(sigmoid(1.5)) - math.log(0.9)) + sigmoid(-1.5) * (math.log(sigmoid(-1.5)) - math.log(0.1)),
    ),
    "nca_pair": ({}, -math.log(sigmoid(1)) - 0.5 * math.log(sigmoid(-1)) - 0.5 * math.log(sigmoid(0.5))),
    "bco_pair": ({}, -math.log(sigmoid(1)) - math.log(sigmoid(0.5))),
    "sppo_hard": ({}, (2 - 1) ** 2 + (-1 + 1) ** 2),
    "aot": ({}, -math.log(sigmoid(1.5))),
    "aot_pair": ({}, -math.log(sigmoid(1.5))),
    "aot_unpaired": ({"smoothing": 0.2}, -0.8 * math.log(sigmoid(1.5)) - 0.2 * math.log(sigmoid(-1.5))),
    "apo_zero": ({}, 1 - sigmoid(1) + sigmoid(-0.5)),
    "apo_down": ({}, sigmoid(1) + 1 - sigmoid(1.5)),
    "discopop": ({"tau": 1.0}, -math.log(sigmoid(1.5)) * (1 - sigmoid(1.5)) + math.exp(-1.5) * sigmoid(1.5)),
}


def test_every_kind_has_a_number() -> None:
    assert set(BY_HAND) == set(KINDS) == set(get_args(Kind))


@pytest.mark.parametrize("kind", BY_HAND)
def test_pairs_by_hand(kind: str) -> None:
    settings, wanted = BY_HAND[kind]
    assert KINDS[kind](replace(PAIR, **settings)).item() == pytest.approx(wanted, rel=1e-5)


def test_cdpo_mixes_both_orders() -> None:
    found = dpo(torch.tensor([-6.0]), torch.tensor([-5.0]), torch.tensor([-8.0]), torch.tensor([-4.0]), 0.5, label_smoothing=0.2)
    assert found.item() == pytest.approx(-0.8 * math.log(sigmoid(1.5)) - 0.2 * math.log(sigmoid(-1.5)), rel=1e-5)


def test_without_a_reference_the_ratios_are_the_log_probabilities() -> None:
    assert dpo(torch.tensor([-6.0]), torch.tensor([-5.0]), beta=0.5).item() == pytest.approx(-math.log(sigmoid(-0.5)), rel=1e-5)


def test_odds_of_nearly_certain_answers_stay_finite() -> None:
    sure = replace(PAIR, chosen=torch.tensor([-1e-9], requires_grad=True), rejected=torch.tensor([-90.0]))
    loss = KINDS["orpo"](sure)
    loss.sum().backward()
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"])
def test_divergences_weigh_ratios_by_their_derivative(divergence: Any) -> None:
    """``f'`` of e^2 and e^-1, with the f of Wang et al. 2023, table 1."""
    u = [math.exp(2), math.exp(-1)]
    slope = {
        "reverse_kl": [math.log(x) + 1 for x in u],
        "forward_kl": [-1 / x for x in u],
        "js_divergence": [math.log(2 * x / (1 + x)) for x in u],
        "alpha_divergence": [(1 - x**-0.7) / 0.7 for x in u],  # power 0.3
    }[divergence]
    gap = replace(PAIR, divergence=divergence, power=0.3).gap.item()
    assert gap == pytest.approx(0.5 * (slope[0] - slope[1]), rel=1e-5)


def test_bradley_terry_with_margin_and_centering() -> None:
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.5])
    plain = -(math.log(sigmoid(1)) + math.log(sigmoid(-0.5))) / 2
    assert bradley_terry(chosen, rejected).item() == pytest.approx(plain, rel=1e-5)
    margin = -(math.log(sigmoid(1 - 0.5)) + math.log(sigmoid(-0.5 - 1))) / 2
    assert bradley_terry(chosen, rejected, torch.tensor([0.5, 1.0])).item() == pytest.approx(margin, rel=1e-5)
    assert bradley_terry(chosen, rejected, center=0.1).item() == pytest.approx(plain + 0.1 * (9 + 0.25) / 2, rel=1e-5)


def test_process_rewards_of_one_and_two_outputs_agree() -> None:
    right = torch.tensor([[0.3], [-1.0]])
    labels = torch.tensor([1, 0])
    wanted = -(math.log(sigmoid(0.3)) + math.log(sigmoid(1.0))) / 2
    assert process_reward(right, labels).item() == pytest.approx(wanted, rel=1e-5)
    assert process_reward(torch.cat([torch.zeros(2, 1), right], 1), labels).item() == pytest.approx(wanted, rel=1e-5)


def test_kto_by_hand() -> None:
    policy, reference, good = torch.tensor([-3.0, -5.0], requires_grad=True), torch.tensor([-5.0, -4.0]), torch.tensor([True, False])
    found = kto(policy, reference, good, 0.5, 0.2, 1.5, 0.7)
    wanted = [1.5 * (1 - sigmoid(0.2 * (2 - 0.5))), 0.7 * (1 - sigmoid(0.2 * (0.5 - -1)))]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    assert kto(policy, reference, good, -3.0, 0.2).tolist() == pytest.approx(kto(policy, reference, good, 0.0, 0.2).tolist())
    zero = kto(policy, reference, good, 9.0, 0.2, kind="apo_zero_unpaired")
    assert zero.tolist() == pytest.approx([1 - sigmoid(0.4), sigmoid(-0.2)], rel=1e-5)


def test_divergences_of_distributions() -> None:
    student, teacher = torch.tensor([[0.2, 0.8]]), torch.tensor([[0.5, 0.5]])
    forward = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    backward = 0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.5)
    mixed = [0.7 * 0.2 + 0.3 * 0.5, 0.7 * 0.8 + 0.3 * 0.5]
    to_mixed = [sum(p * math.log(p / m) for p, m in zip(d, mixed, strict=True)) for d in ((0.5, 0.5), (0.2, 0.8))]
    for beta, wanted in ((0.0, forward), (1.0, backward), (0.3, 0.3 * to_mixed[0] + 0.7 * to_mixed[1])):
        assert jsd(student.log(), teacher.log(), beta).item() == pytest.approx(wanted, rel=1e-5)
    assert jsd(student, student, 0.4).item() == pytest.approx(0, abs=1e-7)


def test_dft_weighs_tokens_by_their_probability() -> None:
    logp = torch.tensor([0.5, 0.1]).log().requires_grad_()
    loss = dft(logp)
    assert loss.item() == pytest.approx(-(0.5 * math.log(0.5) + 0.1 * math.log(0.1)) / 2, rel=1e-5)
    (grad,) = torch.autograd.grad(loss, logp)
    assert grad.tolist() == pytest.approx([-0.25, -0.05])


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("sppo_hard", "ipo", "apo_down")])
def test_losses_fall_when_the_chosen_answer_gets_likelier(kind: str) -> None:
    def loss(chosen: float) -> Tensor:
        pair = replace(PAIR, chosen=torch.tensor([chosen]), beta=0.1, smoothing=0.1 if kind == "exo_pair" else 0.0)
        return KINDS[kind](pair)

    assert loss(-5.0) < loss(-6.0) < loss(-7.0)
    assert KINDS.keys() >= losses.WITHOUT_REFERENCE
