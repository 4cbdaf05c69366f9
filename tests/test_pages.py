"""The pool of pages: owners, growth, names, contents; and prompts that are read into it in any order and any parts."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hunmin.errors import InputError
from hunmin.nn.attention import Context
from hunmin.nn.model import Backbone, Tokens
from hunmin.nn.paged import Aligned, Growing, Reading
from hunmin.nn.pages import SIZE, Pages, rounded
from hunmin.nn.spec import FFN, Attn, Buckets, Embed, Norm, Rope, Stack
from hunmin.nn.where import Where, visible


def pool(**options: object) -> Pages:
    return Pages([(2, 4), (1, 8)], torch.float32, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------ owners


def test_a_page_is_free_when_its_last_owner_releases_it() -> None:
    pages = pool(count=4)
    a, b = pages.take(2)
    pages.share([a])
    pages.release([a, b])
    assert pages.free == 3 and pages.owners[a] == 1
    pages.release([a])
    assert pages.free == pages.count == 4


def test_the_pool_grows_and_keeps_its_contents() -> None:
    pages = pool(count=1)
    (first,) = pages.take()
    pages.keys[0][first], pages.values[1][first] = 3.0, 5.0
    more = pages.take(6)
    assert len({first, *more}) == 7 and pages.count >= 7
    assert (pages.keys[0][first] == 3).all() and (pages.values[1][first] == 5).all()
    assert pages.values[0].shape == (pages.count, 2, SIZE, 4) and pages.keys[0].shape == (pages.count, 2, 4, SIZE)


def test_a_full_pool_says_so() -> None:
    pages = pool(count=1, limit=3)
    pages.take(3)
    with pytest.raises(InputError, match="cache is full: 3 pages"):
        pages.take()
    assert pages.free == 0 and pages.count == 3


def test_writing_to_a_shared_page_copies_it() -> None:
    pages = pool(count=2)
    (page,) = pages.take()
    pages.values[0][page] = 7.0
    assert pages.own([page]) == [page]
    pages.share([page])
    (copy,) = pages.own([page])
    assert copy != page and pages.owners[page] == pages.owners[copy] == 1
    assert (pages.values[0][copy] == 7).all()


def test_a_name_finds_a_page_until_its_place_is_needed() -> None:
    pages = pool(count=2, limit=2)
    a, b = pages.take(2)
    pages.name(a, b"a")
    pages.name(b, b"b")
    pages.name(b, b"a")  # the first page of a name keeps it
    assert pages.find(b"a") == a and pages.find(b"b") == b
    pages.release([a])
    assert pages.find(b"a") == a and pages.free == 1
    pages.share([a])  # in use again
    assert pages.free == 0
    pages.release([a, b])
    born = pages.taken[a]
    (c,) = pages.take()
    assert c == a and pages.taken[a] == born + 1, "the oldest makes room first"
    assert pages.find(b"a") is None and pages.find(b"b") == b


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("take share release own name".split()), st.integers(0, 99)), max_size=60))
def test_owners_are_counted(steps: list[tuple[str, int]]) -> None:
    """Any order of calls: what is in use is never handed out again, and in the end all pages are free."""
    pages, mine = pool(count=1, limit=24), list[int]()
    for what, n in steps:
        if what == "take":
            if pages.limit is not None and len(set(mine)) < pages.limit:
                (page,) = pages.take()
                assert page not in mine
                mine.append(page)
        elif mine:
            page = mine[n % len(mine)]
            if what == "share":
                pages.share([page])
                mine.append(page)
            elif what == "release":
                mine.remove(page)
                pages.release([page])
            elif what == "name":
                pages.name(page, bytes([page]))
            elif len(set(mine)) < 24:
                mine.remove(page)
                mine += pages.own([page])
        assert all(pages.owners[page] == mine.count(page) for page in range(pages.count))
        assert pages.free == pages.count - len(set(mine))
    pages.release(mine)
    assert pages.free == pages.count


def test_memory_of_a_token() -> None:
    assert pool().token_bytes == 2 * (2 * 4 + 1 * 8) * 4
    assert pool(rounded=True).token_bytes == 2 * (2 * (4 + 4) + 1 * (8 + 4))


# ------------------------------------------------------------------ contents


@pytest.mark.parametrize("int8", [False, True])
def test_contents_come_back(int8: bool) -> None:
    pages = pool(rounded=int8)
    pages.take(5)
    tokens = torch.randperm(5 * SIZE)[:40]
    for use, (heads, width) in enumerate(pages.shapes):
        k, v = torch.randn(2, 40, heads, width).unbind()
        k[3] = 0.0
        places = pages.places(use, tokens)
        pages.write(use, places, k, v)
        back = pages.read(use, places, torch.float32)
        for mine, x in zip(back, (k, v), strict=True):
            assert (mine - x).abs().max() <= (x.abs().amax() / 254 * 1.001 if int8 else 0)
        assert torch.equal(pages.keys[use][tokens[7] // SIZE, :, :, tokens[7] % SIZE].float(), k[7]) or int8


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_rounding_errs_by_half_a_step(seed: int) -> None:
    x = torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 3)
    numbers, scale = rounded(x)
    assert numbers.dtype == torch.int8
    assert ((numbers * scale[..., None] - x).abs() <= scale[..., None] * 0.5001).all()


# ------------------------------------------------------------------ places


def test_packed_rows_that_continue() -> None:
    at, keys = Where.packed([2, 3], starts=[4, 0]), Where.packed([6, 3])
    assert at.position.tolist() == [[4, 5, 0, 1, 2]] and at.end == 6 and at.to("cpu").starts == [4, 0]
    assert [part.position.tolist() for _, part in at.parts()] == [[[4, 5]], [[0, 1, 2]]]
    assert at.extent().tolist() == [[6, 6, 3, 3, 3]]
    seen = visible(at, keys, True, None)[0, 0]
    assert seen.sum(-1).tolist() == [5, 6, 1, 2, 3]
    blocks = at.blocks(keys)
    taken, key_taken = list(blocks.queries.split([q.segment.numel() for q, _ in blocks.pairs])), blocks.keys
    for queries, places in blocks.pairs:
        columns, key_columns = taken.pop(0).view(queries.shape), key_taken[: places.segment.numel()].view(places.shape)
        key_taken = key_taken[places.segment.numel() :]
        inside = visible(queries, places, True, None)[:, 0]
        for row, other in zip(range(len(columns)), key_columns, strict=True):
            for q, column in enumerate(columns[row].tolist()):
                if queries.segment[row, q] >= 0:
                    assert sorted(other[inside[row, q]].tolist()) == seen[column].nonzero()[:, 0].tolist()


# ------------------------------------------------------------------ attention over pages

KINDS = {
    "heads": Attn(4, causal=True, rope=Rope()),
    "grouped": Attn(4, kv_heads=2, causal=True, rope=Rope(fraction=0.5)),
    "window": Attn(4, kv_heads=1, causal=True, window=9, rope=Rope()),
    "softcap": Attn(4, kv_heads=2, causal=True, softcap=2.0, rope=Rope()),
    "biases": Attn(4, causal=True),
}


def backbone(kind: str) -> Backbone:
    torch.manual_seed(1)
    buckets = Buckets(8, 20) if kind == "biases" else None
    stack = Stack(32, 2, KINDS[kind], FFN(48), Norm("rms"), buckets=buckets)
    made = Backbone(Embed(50, 32), stack).eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, 0.0, 0.3)
    return made


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_prompts_in_any_parts_and_steps_equal_one_pass(kind: str) -> None:
    """Prompts are cut at random, packed in any company, continued token by token side by side: always the states of one plain pass."""
    net, rng = backbone(kind), random.Random(3)
    prompts = [[rng.randrange(50) for _ in range(rng.choice([1, 5, 31, 33, 70]))] for _ in range(6)]
    want = [net(Tokens(Where.plain(1, len(p)), torch.tensor([p])), Context())[0] for p in prompts]
    pages = Pages.of(net.stack, torch.float32, torch.device("cpu"), count=1)
    for pool_ in (pages.keys, pages.values):
        for t in pool_:
            t.fill_(float("nan"))  # what was never written must not be looked at
    tables = [list[int]() for _ in prompts]
    done, last = [0] * len(prompts), [max(0, len(p) - 4) for p in prompts]  # the last four tokens are left for steps
    while any(d < n for d, n in zip(done, last, strict=True)):
        chosen = [i for i in range(len(prompts)) if done[i] < last[i] and rng.random() < 0.7] or [
            next(i for i in range(len(prompts)) if done[i] < last[i])
        ]
        sizes = [min(last[i] - done[i], rng.randrange(1, 40)) for i in chosen]
        for i, n in zip(chosen, sizes, strict=True):
            tables[i] += pages.take(-(-(done[i] + n) // SIZE) - len(tables[i]))
        view = Reading(pages, [tables[i] for i in chosen], [done[i] for i in chosen], sizes)
        ids = torch.tensor([[t for i, n in zip(chosen, sizes, strict=True) for t in prompts[i][done[i] : done[i] + n]]])
        got = net(Tokens(view.where, ids), Context(view))[0].split(sizes)
        for i, n, states in zip(chosen, sizes, got, strict=True):
            torch.testing.assert_close(states, want[i][done[i] : done[i] + n], rtol=1e-4, atol=1e-4)
            done[i] += n
    rows = [i for i in range(len(prompts)) if done[i]]
    for i in rows:
        tables[i] += pages.take(-(-(done[i] + 4) // SIZE) - len(tables[i]))
    width = max(len(tables[i]) for i in rows)
    table = torch.tensor([tables[i] + [0] * (width - len(tables[i])) for i in rows], dtype=torch.int32)
    cache = Growing(pages, table, [done[i] for i in rows])
    for step in range(4):
        at = cache.at
        assert at is not None
        writes = torch.tensor([tables[i][(done[i] + step) // SIZE] * SIZE + (done[i] + step) % SIZE for i in rows])
        cache.goes_to(writes, None)
        new = torch.tensor([[prompts[i][done[i] + step]] for i in rows])
        got = net(Tokens(at.after(1), new), Context(cache))
        for row, i in enumerate(rows):
            torch.testing.assert_close(got[row, 0], want[i][done[i] + step], rtol=1e-4, atol=1e-4)
    copy = Aligned(pages, [tables[i] for i in rows], [3] * len(rows), [done[i] + 4 for i in rows])
    assert copy.at is not None and copy.at.segment[0, :4].tolist() == [-1, -1, -1, 0]
    k, _, _ = copy.get("self.1")
    for row, i in enumerate(rows):
        held = pages.read(1, pages.places(1, torch.tensor([tables[i][0] * SIZE])), torch.float32)[0]
        assert torch.equal(k[row, 3], held[0])
