"""Key/value cache. It returns the place of every key with the keys, so attention needs no mask code for it."""

from __future__ import annotations

import torch
from torch import Tensor

from hunmin.nn.where import Where

GROW = 32  # tokens: at least this much room is added at once, else half of what is there, so that a token does not copy the whole cache


class Cache:
    """Keys and values ``(B, N, G, D)`` of every attention site, appended to as decoding goes on; cross-attention is written once.

    Heads of grouped-query attention are kept unexpanded.
    """

    def __init__(self) -> None:
        self._kv: dict[str, tuple[Tensor, Tensor]] = {}
        self._at: dict[str, Where] = {}
        self._joined: tuple[Where, Where, Where] | None = None

    def __contains__(self, site: str) -> bool:
        return site in self._kv

    @property
    def length(self) -> int:
        """Tokens that self-attention has seen."""
        return next((at.shape[1] for site, at in self._at.items() if site.startswith("self")), 0)

    @property
    def at(self) -> Where | None:
        """Places of the tokens that self-attention has seen."""
        return next((at for site, at in self._at.items() if site.startswith("self")), None)

    def get(self, site: str) -> tuple[Tensor, Tensor, Where]:
        k, v = self._kv[site]
        at = self._at[site]
        return k[:, : at.shape[1]], v[:, : at.shape[1]], at

    def append(self, site: str, k: Tensor, v: Tensor, at: Where) -> tuple[Tensor, Tensor, Where]:
        """Add the keys and values of new tokens at ``at``; returns those of all tokens so far, and where they are."""
        if site not in self._kv:
            self._kv[site], self._at[site] = (k, v), at
            return k, v, at
        old = self._at[site]
        if self._joined is None or self._joined[0] is not old or self._joined[1] is not at:
            self._joined = (old, at, old.join(at))  # the layers of one forward pass share their places
        start, end = old.shape[1], self._joined[2].shape[1]
        keys, values = self._kv[site]
        if keys.shape[1] < end:
            room = end - start + max(GROW, end // 2)
            keys, values = (torch.cat([t[:, :start], t.new_empty(t.shape[0], room, *t.shape[2:])], 1) for t in (keys, values))
        keys[:, start:end], values[:, start:end] = k, v
        self._kv[site], self._at[site] = (keys, values), self._joined[2]
        return self.get(site)

    def pick(self, rows: Tensor, *, cross: bool = True) -> None:
        """Keep the given rows, in this order. ``cross=False`` leaves the entries of cross-attention: beams of one input share them."""
        moved: dict[int, Where] = {}
        for site, (k, v) in self._kv.items():
            if not cross and not site.startswith("self"):
                continue
            self._kv[site] = k[rows], v[rows]
            at = self._at[site]
            self._at[site] = moved.setdefault(id(at), at.pick(rows))
        self._joined = None
