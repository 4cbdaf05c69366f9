"""The decode step in PyTorch: the model's ordinary forward pass over a copy of the rows' pages that is kept from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hunmin.native.choose import Choice, Chosen, choose
from hunmin.nn.paged import Growing
from hunmin.nn.pages import SIZE, Pages
from hunmin.nn.where import Where

if TYPE_CHECKING:
    from hunmin.model import PreTrainedModel

Name = tuple[int, int, int]  # of a row: the page of its last token, how often that page was taken, and the number of its tokens
FEWER = 0.75  # the copy is made anew when a smaller share of its rows goes on: leaving costs a copy, staying a row of every step


class Twin:
    """``step`` for every model and device. ``alone`` computes each row by itself, so that its result does not depend on the others."""

    def __init__(self, model: PreTrainedModel, alone: bool = False) -> None:
        self.model, self.alone = model, alone
        self.stages: dict[Name, tuple[_Stage, int]] = {}  # which stage has a row, and in which place

    def step(self, ids: Tensor, table: Tensor, lengths: Tensor, pages: Pages) -> Tensor:
        """As :meth:`hunmin.generate.paged.Stepper.step`."""
        counts = lengths.tolist()
        last = table.gather(1, (lengths.long()[:, None] - 1).clamp(min=0) // SIZE)[:, 0].tolist()
        names = [(page, pages.taken[page], n) for page, n in zip(last, counts, strict=True)]
        writes = table.long().gather(1, lengths.long()[:, None] // SIZE)[:, 0] * SIZE + lengths % SIZE
        before, self.stages = self.stages, {}
        groups = [[i] for i in range(len(names))] if self.alone else [list(range(len(names)))]
        return torch.cat([self._group(rows, names, before, ids, table, writes, pages) for rows in groups])

    def choose(self, ids: Tensor, table: Tensor, lengths: Tensor, pages: Pages, choice: Choice) -> Chosen:
        """As :meth:`hunmin.generate.paged.Stepper.choose`."""
        return choose(self.step(ids, table, lengths, pages), choice)

    def _group(
        self,
        rows: list[int],
        names: list[Name],
        before: dict[Name, tuple[_Stage, int]],
        ids: Tensor,
        table: Tensor,
        writes: Tensor,
        pages: Pages,
    ) -> Tensor:
        """One step of some rows, in the stage that has them all, or in a new one."""
        found = [before.get(names[i]) for i in rows]
        stages = {id(place[0]): place[0] for place in found if place is not None}
        stage = next(iter(stages.values()), None)
        if stage is None or len(stages) > 1 or None in found or len(rows) < FEWER * stage.count:
            stage = _Stage(self.model, pages, table[rows], [names[i][2] for i in rows])
            slots = list(range(len(rows)))
        else:
            slots = [place[1] for place in found if place is not None]
        logits = stage.step(ids[rows], slots, writes[rows])
        for i, slot in zip(rows, slots, strict=True):
            page = int(writes[i]) // SIZE
            self.stages[page, pages.taken[page], names[i][2] + 1] = stage, slot
        return logits


class _Stage:
    """Rows whose keys and values are kept side by side. Those that have left are computed along until the stage is given up."""

    def __init__(self, model: PreTrainedModel, pages: Pages, table: Tensor, lengths: list[int]) -> None:
        self.model, self.count, self.lengths = model, len(lengths), lengths
        self.cache = Growing(pages, table, lengths)

    def step(self, ids: Tensor, slots: list[int], writes: Tensor) -> Tensor:
        """Logits ``(R, V)`` of the rows in ``slots`` after ``ids`` ``(R,)``, which are written to ``writes`` ``(R,)``."""
        index = None if slots == list(range(self.count)) else torch.tensor(slots, device=ids.device)
        new = ids if index is None else ids.new_zeros(self.count).index_copy_(0, index, ids)
        self.cache.goes_to(writes, index)
        at = self._where(slots, ids.device)
        logits = self.model(new[:, None], where=at, past_key_values=self.cache, logits_to_keep=1).logits[:, -1].float()
        return logits if index is None else logits[index]

    def _where(self, slots: list[int], device: torch.device) -> Where:
        """The place of the next token of every row; rows that have left stay where they were, within the model's positions."""
        before = self.cache.at
        assert before is not None
        end = 1 + max(self.lengths[slot] for slot in slots)
        if before.kind == "plain" and len(slots) == self.count:
            at = before.after(1)
        else:
            live = set(slots)
            position = torch.tensor([[n if i in live else n - 1] for i, n in enumerate(self.lengths)], device=device)
            at = Where(torch.zeros_like(position), position, "padded", end)
        for slot in slots:
            self.lengths[slot] += 1
        return at
