"""A decoder over pages: many sequences of any length, each read once and then grown token by token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from hunmin.generate.twin import Twin
from hunmin.native.choose import Choice, Chosen
from hunmin.native.program import Program
from hunmin.nn.attention import Attention
from hunmin.nn.paged import Reading
from hunmin.nn.pages import SIZE, Pages
from hunmin.nn.where import Where

if TYPE_CHECKING:
    from hunmin.model import PreTrainedModel

READ = 2048  # prompt tokens of one forward pass: enough for the matrix units, little enough for memory; longer prompts are read in parts
ROWS = 512  # prompt tokens of one step of the CPU kernel, whose memory grows with them
GENEROUS = 1 << 30  # bytes: the pool may begin this large on a CPU, which commits memory as it is written


class Stepper(Protocol):
    """One step of decoding: R rows get a token each."""

    def step(self, ids: Tensor, table: Tensor, lengths: Tensor, pages: Pages) -> Tensor:
        """ids ``(R,)`` int64 on the model's device; table ``(R, P)`` int32, the pages of each row, and lengths ``(R,)`` int32, its tokens
        before this one, on the CPU. Writes the new keys and values into the pages; returns logits ``(R, V)`` fp32."""
        ...

    def choose(self, ids: Tensor, table: Tensor, lengths: Tensor, pages: Pages, choice: Choice) -> Chosen:
        """The same, of whose logits only a choice is kept."""
        ...


@dataclass
class Memory:
    """What the decoder of an encoder-decoder model looks at: keys and values of every input in pages of their own, written once."""

    table: Tensor
    lengths: Tensor
    pages: Pages

    @classmethod
    def write(cls, model: PreTrainedModel, memory: Tensor, where: Where) -> Memory:
        """From an encoder's output ``(B, M, C)`` and its places."""
        assert model.decoder is not None
        stack = model.decoder.stack
        sites = [stack.used(use).cross for use in range(stack.spec.layers)]
        real, per = where.segment >= 0, -(-memory.shape[1] // SIZE)
        shapes = [(s.k.out_features // s.dim, s.dim) for s in sites if isinstance(s, Attention)]
        pages = Pages(shapes, model.dtype, model.device, count=len(memory) * per)
        column = real.cumsum(1) - 1  # padding leaves no gap
        tokens = (torch.arange(len(memory))[:, None] * per * SIZE + column)[real]
        known = memory[real]
        for use, site in enumerate(sites):
            assert isinstance(site, Attention)
            k, v = site.keys(known[None])
            pages.write(use, pages.places(use, tokens), k[0], v[0])
        table = torch.arange(len(memory) * per, dtype=torch.int32).view(len(memory), per)
        return cls(table, real.sum(1, dtype=torch.int32), pages)

    def of(self, items: Tensor) -> tuple[Tensor, Tensor, Pages]:
        """For rows that look at the inputs ``items`` ``(R,)``."""
        return self.table[items], self.lengths[items], self.pages


def stepper(model: PreTrainedModel, pages: Pages, deterministic: bool) -> Stepper:
    """What steps: the only place that chooses."""
    program = Program.of(model) if not pages.rounded else None
    return program if program is not None else Twin(model, alone=deterministic)


def served(model: Any) -> bool:
    """Whether a model can work on pages: a decoder alone, without virtual tokens in front of its text."""
    if model.both or model.decoder is None or getattr(model, "virtual_tokens", 0):
        return False
    return all(type(layer.attn) is Attention for layer in model.decoder.stack.layers)


def stepped(model: Any) -> bool:
    """Whether the CPU kernel steps: then rows that change places (beams), and decoders with an encoder, work on pages too."""
    return not getattr(model, "virtual_tokens", 0) and Program.suits(model)


def token_bytes(model: PreTrainedModel, rounded: bool) -> int:
    """Memory that the keys and values of one token take."""
    assert model.decoder is not None
    return Pages.of(model.decoder.stack, model.dtype, model.device, count=1, rounded=rounded).token_bytes


class Row:
    """A sequence in the cache: its pages, in order, how many tokens lie in them, and which input of an encoder it looks at."""

    __slots__ = ("item", "length", "pages")

    def __init__(self, pages: Iterable[int] = (), length: int = 0, item: int = 0) -> None:
        self.pages, self.length, self.item = list(pages), length, item


class Paged:
    """The model, its pages and its decode step. Whoever uses it decides which rows run.

    ``sharing``: full pages of tokens that were read before are not read again. ``deterministic``: what a row gets does not depend on the
    rows beside it; prompts are then read one by one, and share nothing. ``part`` tokens of prompts are read in one forward pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        count: int = 64,
        limit: int | None = None,
        rounded: bool = False,
        sharing: bool = True,
        deterministic: bool = False,
        part: int = READ,
    ) -> None:
        assert model.decoder is not None
        self.model, self.deterministic, self.part = model, deterministic, part
        ropes = [module.spec.rope for module in model.decoder.stack.modules() if isinstance(module, Attention)]
        self.whole = any(rope is not None and rope.by_length for rope in ropes)  # angles follow from the length of the whole prompt
        self.sharing = sharing and not deterministic and not self.whole
        stack, device = model.decoder.stack, model.device
        each = SIZE * token_bytes(model, rounded)
        count = min(count, max(64, GENEROUS // each)) if device.type == "cpu" else 64
        self.pages = Pages.of(stack, model.dtype, device, count=count, limit=limit, rounded=rounded)
        self.stepper = stepper(model, self.pages, deterministic)
        self.memory: Memory | None = None

    # -------------------------------------------------------------- prompts

    def read(self, prompts: Sequence[Sequence[int]]) -> tuple[list[Row], Tensor]:
        """Rows of all prompts, and logits after each ``(R, V)``. Prompts that begin alike wait for the first of them."""
        rows = [Row(item=i) for i in range(len(prompts))]
        names = [self._names(ids) for ids in prompts]
        out: list[Tensor | None] = [None] * len(prompts)
        waiting = list(range(len(prompts)))
        try:
            while waiting:
                now = self._together(waiting, prompts, rows, names)
                logits = self._pass([prompts[i] for i in now], [rows[i] for i in now])
                for i, each in zip(now, logits, strict=True):
                    self._remember(rows[i], names[i])
                    if rows[i].length == len(prompts[i]):
                        out[i] = each
                waiting = [i for i in waiting if out[i] is None]
        except BaseException:
            for row in rows:
                self.drop(row)
            raise
        return rows, torch.stack([each for each in out if each is not None])

    def _together(
        self, waiting: Sequence[int], prompts: Sequence[Sequence[int]], rows: Sequence[Row], names: Sequence[list[bytes]]
    ) -> list[int]:
        """The prompts of the next pass: as many as its tokens allow, of those with a common beginning only one."""
        chosen, tokens, coming = list[int](), 0, set[bytes]()
        for i in waiting:
            row = rows[i]
            if not row.length:
                self._find(row, names[i])
            begun = row.length // SIZE
            if begun < len(names[i]) and names[i][begun] in coming:
                continue  # somebody in this pass reads the same
            left = len(prompts[i]) - row.length
            if chosen and (self.deterministic or tokens + left > self.part):
                break
            chosen.append(i)
            tokens += left
            coming.update(names[i][begun:])
        return chosen

    def _pass(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> Tensor:
        """Read the next tokens of some prompts into their pages; logits after the last one of each ``(R, V)``."""
        starts = [row.length for row in rows]
        whole = self.whole or len(rows) > 1
        parts = [ids[s : len(ids) if whole else s + self.part] for ids, s in zip(prompts, starts, strict=True)]
        for row, part in zip(rows, parts, strict=True):
            row.pages += self.pages.take(-(-(row.length + len(part)) // SIZE) - len(row.pages))
        view = Reading(self.pages, [row.pages for row in rows], starts, [len(part) for part in parts])
        ids = torch.tensor([[i for part in parts for i in part]], device=self.model.device)
        ends = torch.tensor([len(part) for part in parts], device=ids.device).cumsum(0) - 1
        if isinstance(self.stepper, Program) and (self.memory is not None or self.stepper.reads(ids.shape[1])):
            logits = self._read_by(self.stepper, ids[0], ends, starts, rows, parts)
        else:
            logits = self.model(ids, where=view.where, past_key_values=view, logits_to_keep=ends).logits[0].float()
        for row, part in zip(rows, parts, strict=True):
            row.length += len(part)
        return logits

    def _read_by(
        self, program: Program, ids: Tensor, ends: Tensor, starts: Sequence[int], rows: Sequence[Row], parts: Sequence[Sequence[int]]
    ) -> Tensor:
        """Tokens of prompts as rows of steps, of at most ``ROWS`` each. Logits after the last one of each prompt ``(R, V)``."""
        counts = torch.tensor([len(part) for part in parts])
        table = self._table(rows).repeat_interleave(counts, 0)
        items = torch.tensor([row.item for row in rows]).repeat_interleave(counts)
        at = torch.cat([torch.arange(start, start + len(part), dtype=torch.int32) for start, part in zip(starts, parts, strict=True)])
        out = list[Tensor]()
        for begin in range(0, len(ids), ROWS):
            now = slice(begin, begin + ROWS)
            wanted = ends[(ends >= begin) & (ends < begin + ROWS)] - begin
            memory = self.memory.of(items[now]) if self.memory is not None else None
            out.append(program.step(ids[now], table[now], at[now], self.pages, memory, wanted))
        return torch.cat(out)

    @staticmethod
    def _table(rows: Sequence[Row]) -> Tensor:
        """The pages of some rows, int32 ``(R, P)``."""
        width = max(len(row.pages) for row in rows)
        return torch.tensor([row.pages + [0] * (width - len(row.pages)) for row in rows], dtype=torch.int32)

    # -------------------------------------------------------------- common beginnings

    def _names(self, ids: Sequence[int]) -> list[bytes]:
        """A name for every full page of a prompt but for its last token, which has to be read: a digest of all tokens up to its end."""
        if not self.sharing or self.memory is not None:
            return []
        digest, out = blake2b(digest_size=16), list[bytes]()
        for end in range(SIZE, len(ids), SIZE):
            digest.update(torch.tensor(ids[end - SIZE : end]).numpy().tobytes())
            out.append(digest.digest())
        return out

    def _find(self, row: Row, names: Sequence[bytes]) -> None:
        """Give a row the pages of its beginning that are there, in place of those that it found before."""
        found = list[int]()
        for name in names:
            if (page := self.pages.find(name)) is None:
                break
            found.append(page)
        self.pages.share(found)
        self.drop(row)
        row.pages, row.length = found, len(found) * SIZE

    def _remember(self, row: Row, names: Sequence[bytes]) -> None:
        for page, name in zip(row.pages[: row.length // SIZE], names, strict=False):
            self.pages.name(page, name)

    # -------------------------------------------------------------- rows

    def step(self, rows: Sequence[Row], ids: Tensor) -> Tensor:
        """Logits ``(R, V)`` after the next tokens ``ids`` ``(R,)`` of some rows."""
        at = self._room(rows)
        if self.memory is None:
            logits = self.stepper.step(ids, *at)
        else:
            assert isinstance(self.stepper, Program)
            logits = self.stepper.step(ids, *at, self.memory.of(torch.tensor([row.item for row in rows])))
        _grown(rows)
        return logits

    def choose(self, rows: Sequence[Row], ids: Tensor, choice: Choice) -> Chosen:
        """The same, of whose logits only a choice is kept."""
        at = self._room(rows)
        if self.memory is None:
            chosen = self.stepper.choose(ids, *at, choice)
        else:
            assert isinstance(self.stepper, Program)
            chosen = self.stepper.choose(ids, *at, choice, self.memory.of(torch.tensor([row.item for row in rows])))
        _grown(rows)
        return chosen

    def _room(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Pages]:
        """Pages that the next tokens of some rows may be written to: the table, the lengths, and the pool."""
        pages = self.pages
        begun = [row for row in rows if row.length < len(row.pages) * SIZE]
        for row, page in zip(begun, pages.own([row.pages[-1] for row in begun]), strict=True):
            row.pages[-1] = page
        for row in rows:
            if row.length == len(row.pages) * SIZE:
                row.pages += pages.take()
        return self._table(rows), torch.tensor([row.length for row in rows], dtype=torch.int32), pages

    def fork(self, row: Row) -> Row:
        """Another row with the same tokens; pages are copied when one of the two writes to them."""
        self.pages.share(row.pages)
        return Row(row.pages, row.length, row.item)

    def drop(self, row: Row) -> None:
        """Give the pages of a row back."""
        self.pages.release(row.pages)
        row.pages, row.length = [], 0


def _grown(rows: Sequence[Row]) -> None:
    for row in rows:
        row.length += 1
