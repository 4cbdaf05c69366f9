"""Backbones and the model: one or two backbones and a head."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from hunmin.nn.attention import Context, Trace
from hunmin.nn.cache import Cache
from hunmin.nn.embed import TokenEmbedding
from hunmin.nn.layers import Transformer
from hunmin.nn.spec import Embed, Stack
from hunmin.nn.where import Where


@dataclass
class Tokens:
    """Input of one backbone: ids ``(B, N)`` or embeds ``(B, N, C)``, where they are, and segment types ``(B, N)``."""

    at: Where
    ids: Tensor | None = None
    types: Tensor | None = None
    embeds: Tensor | None = None


@dataclass
class Batch:
    """Input of a model. ``memory`` is an encoder output ``(B, M, C)`` computed before.

    ``keep`` asks the head for the last tokens only (0: all), or for some columns; None does not run it.
    """

    encoder: Tokens | None = None
    decoder: Tokens | None = None
    memory: Tensor | None = None
    keep: int | Tensor | None = 0


@dataclass
class Result:
    """``hidden`` ``(B, N, C)`` is the last backbone's output, ``out`` the head's, ``memory`` the encoder's in encoder-decoder models."""

    hidden: Tensor
    out: Tensor | None
    memory: Tensor | None = None
    trace: Trace = field(default_factory=Trace)
    encoder_trace: Trace = field(default_factory=Trace)


class Backbone(nn.Module):
    """Embedding, then stack."""

    def __init__(self, embed: Embed, stack: Stack) -> None:
        super().__init__()
        self.embed, self.stack = TokenEmbedding(embed), Transformer(stack)

    def forward(self, tokens: Tokens, context: Context) -> Tensor:
        return self.stack(self.embed(tokens.ids, tokens.at, tokens.types, tokens.embeds), tokens.at, context)


class Model(nn.Module):
    """Encoder, decoder, or both, and a head; a model without a head gives hidden states."""

    encoder: Backbone | None
    decoder: Backbone | None
    head: nn.Module | None

    def __init__(self, encoder: Backbone | None, decoder: Backbone | None, head: nn.Module | None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head

    def run(self, batch: Batch, cache: Cache | None = None, *, states: bool = False, weights: bool = False) -> Result:
        """One forward pass. ``states`` and ``weights`` ask for every layer's hidden states and attention weights."""
        traces = [Trace(weights=weights) if states or weights else None for _ in range(2)]
        memory, tokens, hidden = batch.memory, batch.encoder, batch.memory
        if self.encoder is not None and memory is None:
            assert tokens is not None
            hidden = memory = self.encoder(tokens, Context(cache if self.decoder is None else None, trace=traces[0]))
        if self.decoder is not None:
            seen = (memory, batch.encoder.at) if memory is not None and batch.encoder is not None else None
            assert batch.decoder is not None
            tokens = batch.decoder
            hidden = self.decoder(tokens, Context(cache, seen, traces[1]))
        assert hidden is not None and tokens is not None
        out = None
        if self.head is not None and batch.keep is not None:
            keep = batch.keep
            kept = hidden[:, keep] if isinstance(keep, Tensor) else hidden[:, -keep:] if keep else hidden
            ids = batch.encoder.ids if batch.encoder is not None else tokens.ids
            out = self.head(kept, tokens.at, ids)
        own, other = (traces[1], traces[0]) if self.decoder is not None else (traces[0], None)
        two = self.encoder is not None and self.decoder is not None
        return Result(hidden, out, memory if two else None, own or Trace(), (other if two else None) or Trace())
