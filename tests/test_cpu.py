"""What is done differently on a CPU because it is faster there gives the same numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hunmin.nn import linear as linears
from hunmin.nn.dropout import drop
from hunmin.nn.linear import linear
from hunmin.nn.where import Where
from hunmin.train.arguments import TrainingArguments
from hunmin.train.optim import create_optimizer
from hunmin.train.parallel import clip

INPUTS = {
    "plain": lambda: torch.randn(40, 24),
    "rows of a batch": lambda: torch.randn(3, 20, 24),
    "few rows": lambda: torch.randn(2, 24),
    "one vector": lambda: torch.randn(24),
    "no rows": lambda: torch.randn(0, 24),
    "transposed": lambda: torch.randn(24, 40).t(),
    "every second column": lambda: torch.randn(40, 48)[:, ::2],
    "one row for all": lambda: torch.randn(1, 24).expand(40, 24),
    "double": lambda: torch.randn(40, 24, dtype=torch.float64),
}
LOSSES = {"sum": lambda y: y.sum(), "squares": lambda y: (y**2).sum(), "a part": lambda y: y[..., :1].sum()}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_linear(name: str, loss: str, bias: bool) -> None:
    """Values, gradients, and gradients of gradients."""
    torch.manual_seed(0)
    x = INPUTS[name]()
    weight = torch.randn(32, 24, dtype=x.dtype)
    held = [t.requires_grad_() for t in (x.detach(), weight, *([torch.randn(32, dtype=x.dtype)] if bias else []))]

    def of(function: object) -> list[Tensor]:
        y = function(*held)  # type: ignore[operator]
        first = torch.autograd.grad(LOSSES[loss](y).pow(2), held, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum((g**2).sum() for g in first), held)]

    torch.testing.assert_close(of(linear), of(F.linear), rtol=1e-3, atol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(linear(*held), F.linear(*held), rtol=1e-5, atol=1e-5)


def test_linear_leaves_to_torch_what_is_not_its_own() -> None:
    """Autocast chooses the dtype; a subclass of Tensor its own product."""

    class Counted(nn.Parameter):
        pass

    x, weight = torch.randn(32, 24), torch.randn(32, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    torch.testing.assert_close(linear(x, Counted(weight)), F.linear(x, weight))
    assert isinstance(linears.ONEDNN, bool)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.003])
def test_drop_keeps_the_mean_and_drops_its_share(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 999, dtype=dtype, requires_grad=True)
    y = drop(x, p)
    (grad,) = torch.autograd.grad(y.sum(), x)
    gone = (y == 0).float()
    spread = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(gone.mean().item() - p) < 5 * spread + 2**-17
    assert abs(y.float().mean().item() - 1) < 5 * spread / (1 - p) + (4e-3 if dtype == torch.bfloat16 else 1e-5)
    assert torch.equal(y, grad)  # the gradient passes where the value did
    neighbours = gone.flatten()[: 4 * (x.numel() // 4)].view(-1, 4)  # of one drawn word
    if p > 0.01:
        assert (torch.corrcoef(neighbours.T) - torch.eye(4)).abs().max() < 0.02


def test_drop_follows_the_generator_and_the_mode() -> None:
    x = torch.randn(50, 7)
    first, second = (torch.manual_seed(3) and drop(x, 0.4) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, drop(x, 0.4))
    assert drop(x, 0.4, training=False) is x and drop(x, 0.0) is x
    assert not drop(x, 1.0).any()


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=12), st.booleans())
def test_every_token_of_a_packed_row_is_in_one_batch(sizes: list[tuple[int, int]], same: bool) -> None:
    own = Where.packed([n for n, _ in sizes])
    keys = own if same else Where.packed([m for _, m in sizes])
    blocks = own.blocks(keys)
    assert torch.equal(blocks.queries[blocks.back], torch.arange(own.shape[1]))
    begun = [0, 0]
    for pair in blocks.pairs:
        kept = []
        for i, (at, columns, row) in enumerate(zip(pair, (blocks.queries, blocks.keys), (own, keys), strict=True)):
            place = columns[begun[i] : begun[i] + at.shape.numel()].view(at.shape)
            begun[i] += at.shape.numel()
            real = at.segment >= 0
            assert torch.equal(row.position[0][place][real], at.position[real])
            kept.append(row.segment[0][place])
        assert all(torch.equal(a.unique(), b.unique()) for a, b in zip(*kept, strict=True))  # a row of keys is of the row of queries


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e9])
def test_clipping_is_that_of_torch(limit: float) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 5), nn.Linear(5, 5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    norm = clip(ours, TrainingArguments(max_grad_norm=limit))
    assert norm == torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit).item()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]


def test_an_optimizer_starts_without_the_compiler() -> None:
    code = """
import sys, torch
from hunmin.train.arguments import TrainingArguments
from hunmin.train.optim import create_optimizer
for name in ("adamw_torch", "sgd", "adafactor", "lion"):
    model = torch.nn.Linear(4, 4)
    optimizer = create_optimizer([{"params": list(model.parameters())}], TrainingArguments(optim=name))
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step(); optimizer.zero_grad(); optimizer.load_state_dict(optimizer.state_dict())
    assert all(p.grad is None for p in model.parameters()), name
sys.exit("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_an_optimizer_is_still_torchs() -> None:
    model = nn.Linear(4, 4)
    optimizer = create_optimizer([{"params": list(model.parameters())}], TrainingArguments())
    assert isinstance(optimizer, torch.optim.AdamW)
    reference = nn.Linear(4, 4)
    reference.load_state_dict(model.state_dict())
    for net, steps in ((model, optimizer), (reference, torch.optim.AdamW(reference.parameters(), lr=5e-5, fused=True))):
        net(torch.ones(2, 4)).pow(2).sum().backward()
        steps.step()
    assert torch.equal(model.weight, reference.weight)
