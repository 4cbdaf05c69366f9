"""A GGUF file seen as a Hugging Face folder: configuration, tensors under Hugging Face names and layouts, tokenizer."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hunmin.errors import FormatError, say
from hunmin.hub import gguf_config, gguf_vocab
from hunmin.hub.gguf_blocks import PLAIN, SIZES, dequantize
from hunmin.hub.gguf_header import Header, Place
from hunmin.hub.gguf_names import DERIVED
from hunmin.quantize.blocks import KEPT, tiles
from hunmin.quantize.tiles import Tiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class GGUF:
    """A memory-mapped GGUF file (version 2 or 3, little endian) of the Llama family, Qwen 2 and 3, Gemma 2 and 3 or GPT-2.

    Opening it reads names and places only: weights are dequantized, and the vocabulary is read, when they are asked for.

    Args:
        path: of the file.

    Raises:
        SourceError: the file cannot be opened.
        FormatError: it is cut off, damaged or no GGUF file.
    """

    metadata: Mapping[str, Any]

    def __init__(self, path: Path) -> None:
        self._header = Header(path)
        self.metadata = self._header
        self._bytes = torch.frombuffer(self._header.data, dtype=torch.uint8)

    def config(self) -> dict[str, Any]:
        """The keys and values of ``config.json``.

        Raises:
            ConfigError: an architecture or a setting that Hunmin does not know.
            FormatError: values that are missing, impossible or at odds with the tensors.
        """
        factors = "rope_freqs.weight"
        return gguf_config.config(self._header, self._dense(factors, torch.float32) if factors in self._header.tensors else None)

    def names(self) -> list[str]:
        """The tensors as Hugging Face names them. Raises ConfigError for an unknown architecture, FormatError for an unknown tensor."""
        return list(self._stored)

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor ``name``, dequantized, contiguous, on the CPU, in Hugging Face's layout.

        Args:
            name: one of ``names()``.
            dtype: a float type; None keeps that of the file, and makes quantized tensors fp32.

        Raises:
            FormatError: stored in a type that Hunmin does not read.
        """
        stored = self._stored[name]
        place, family, module = self._header.check(stored), self._keys.family, stored.rsplit(".", 2)[-2]
        dtype = dtype or PLAIN.get(place.kind, torch.float32)
        if family.shifted and module.endswith("_norm"):
            return (self._dense(stored, torch.float32) - 1).to(dtype)
        return self._dense(stored, dtype, module in family.transposed and len(place.shape) == 2)

    def raw(self, name: str) -> tuple[Tensor, str, tuple[int, ...]]:
        """The stored blocks of ``name``: uint8 (rows, bytes), their type such as ``Q4_K``, and the shape of the numbers in them.

        Rows are in Hugging Face's order, but what Hugging Face stores transposed is not. May be a view of the file: do not write into it.
        """
        stored = self._stored[name]
        place = self._header.check(stored)
        rows, order = self._rows(stored, place)
        return rows if order is None else rows[order], place.kind, place.shape

    @property
    def quantized(self) -> bool:
        """Whether there are matrices that can stay as they are quantized."""
        return any(place.kind in KEPT for place in self._header.tensors.values())

    def tiles(self, name: str, parts: int = 1) -> list[Tiles] | None:
        """The matrix ``name`` as it is quantized, cut into ``parts`` of as many rows, for a layer ``(out, in)``; None where it is not."""
        stored = self._stored[name]
        place = self._header.check(stored)
        if place.kind not in KEPT or len(place.shape) != 2 or place.shape[0] % parts:
            return None
        raw, order = self._rows(stored, place)
        raw = raw if order is None else raw[order]
        made = [tiles(part, place.kind, (len(part), place.shape[1])) for part in raw.chunk(parts)]
        self._let_go(place)
        return made

    def tokenizer(self) -> Tokenizer:
        """The Rust tokenizer. Raises ConfigError for a kind that Hunmin does not know, FormatError for a broken vocabulary."""
        return gguf_vocab.tokenizer(self._header)

    def tokenizer_config(self) -> dict[str, Any]:
        """The keys and values of ``tokenizer_config.json``, the chat template among them."""
        return gguf_vocab.tokenizer_config(self._header)

    def generation_config(self) -> dict[str, Any]:
        """The keys and values of ``generation_config.json``: where generation starts and stops."""
        return gguf_vocab.generation_config(self._header)

    @cached_property
    def _keys(self) -> gguf_config.Keys:
        return gguf_config.Keys(self._header)

    @cached_property
    def _stored(self) -> dict[str, str]:
        """Hugging Face name to name in the file."""
        found: dict[str, str] = {}
        for stored in self._header.tensors:
            if stored.endswith(DERIVED):
                continue
            name = self._keys.family.name(stored)
            if name is None or name in found:
                raise FormatError(
                    say(
                        f"{self._header.path}: tensor {stored!r} is none that a {self._keys.name} model has.",
                        f"{self._header.path}: {self._keys.name} 모델에 없는 텐서 {stored!r}이(가) 있습니다.",
                    )
                )
            found[name] = stored
        return found

    def _rows(self, stored: str, place: Place) -> tuple[Tensor, Tensor | None]:
        """The bytes of a tensor, one row of numbers in each row, and for each row in Hugging Face's order its row here (None: the same).

        Only llama.cpp's rotation asks for another order: it has the two dimensions of a rotation side by side.
        """
        block, size = SIZES[self._header.check(stored).kind]
        rank, width, order, module = len(place.shape), place.shape[-1], None, stored.rsplit(".", 2)[-2]
        if module in self._keys.family.interleaved:
            heads = self._keys.integer("attention.head_count")
            heads = self._keys.integer("attention.head_count_kv", heads) if module == "attn_k" else heads
            width = width if rank == 2 else 1  # of a bias the rows are numbers
            if place.shape[0] % (2 * heads) or rank > 2 or width % block:
                self._header.fail(f"{heads} heads do not fit tensor {stored}", f"헤드 {heads}개가 텐서 {stored}와 맞지 않습니다")
            order = torch.arange(place.shape[0], device="cpu").view(heads, -1, 2).transpose(1, 2).reshape(-1)
        return self._bytes[place.start : place.start + place.size].view(-1, width // block * size), order

    def _dense(self, stored: str, dtype: torch.dtype, transposed: bool = False) -> Tensor:
        """The numbers of a tensor; the pages of the file that held them are let go."""
        place = self._header.check(stored)
        raw, order = self._rows(stored, place)
        out = torch.empty(place.shape[::-1] if transposed else place.shape, dtype=dtype, device="cpu")
        dequantize(raw, place.kind, out.t() if transposed else out.view(len(raw), -1), order)
        self._let_go(place)
        return out

    def _let_go(self, place: Place) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            start = place.start - place.start % mmap.PAGESIZE
            self._header.data.madvise(mmap.MADV_DONTNEED, start, place.start + place.size - start)
