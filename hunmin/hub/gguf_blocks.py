"""Quantized blocks of GGUF: their layouts, and the numbers that they stand for.

A row of a matrix is cut into blocks of 32 or 256 numbers. A block holds a scale (or a tree of them) in half precision, perhaps a minimum, and
the quantized numbers, several to a byte. Bytes are unpacked eight at a time, as one 64-bit number with a mask over all eight lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor

NAMES = dict(enumerate("F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K".split())) | dict(
    enumerate("IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16".split(), 16)
)
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Numbers and bytes of one block.
SIZES = {
    **{name: (1, dtype.itemsize) for name, dtype in PLAIN.items()},
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
AT_ONCE = 1 << 18  # numbers unpacked at a time: what is in flight, about 4 MB, stays in the cache of a core
LANES = 0x0101010101010101  # one in each byte


def _half(blocks: Tensor, at: int) -> Tensor:
    return blocks[:, at : at + 2].view(torch.float16).float()


def _lanes(blocks: Tensor) -> Tensor:
    """Bytes (n, 8k) as 64-bit numbers (n, k)."""
    return blocks.contiguous().view(torch.int64)


def _nibbles(packed: Tensor, width: int) -> Tensor:
    """The low halves of each ``width`` bytes, then their high halves: (n, k) lanes to (n, 2k)."""
    packed = packed.view(len(packed), -1, 1, width // 8)
    return torch.cat((packed & 15 * LANES, packed >> 4 & 15 * LANES), 2).view(len(packed), -1)


def _numbers(lanes: Tensor, groups: int) -> Tensor:
    """Lanes (n, k) as the bytes in them, in fp32: (n, groups, 8k / groups)."""
    return lanes.view(torch.uint8).view(len(lanes), groups, -1).float()


def _fifth(blocks: Tensor) -> Tensor:
    """The fifth bits (n, 4 bytes) of 32 numbers, as lanes (n, 4): each byte becomes the eight lanes that its bits belong to."""
    spread = (torch.arange(256, device="cpu")[:, None] >> torch.arange(8, device="cpu") & 1).to(torch.uint8) * 16
    return spread.view(torch.int64).view(-1)[blocks.long()]


def _q4_0(b: Tensor) -> Tensor:
    return _numbers(_nibbles(_lanes(b[:, 2:]), 16), 1).sub_(8).mul_(_half(b, 0)[:, None])


def _q4_1(b: Tensor) -> Tensor:
    return _numbers(_nibbles(_lanes(b[:, 4:]), 16), 1).mul_(_half(b, 0)[:, None]).add_(_half(b, 2)[:, None])


def _q5_0(b: Tensor) -> Tensor:
    return _numbers(_nibbles(_lanes(b[:, 6:]), 16) | _fifth(b[:, 2:6]), 1).sub_(16).mul_(_half(b, 0)[:, None])


def _q5_1(b: Tensor) -> Tensor:
    return _numbers(_nibbles(_lanes(b[:, 8:]), 16) | _fifth(b[:, 4:8]), 1).mul_(_half(b, 0)[:, None]).add_(_half(b, 2)[:, None])


def _q8_0(b: Tensor) -> Tensor:
    return b[:, 2:].view(torch.int8).float().mul_(_half(b, 0))


def _scales(b: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum (n, 8, 1) of the eight groups of a Q4_K or Q5_K block: 6 bits each in 12 bytes, the last four pairs split in two."""
    low, high, rest = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scale = torch.cat((low & 63, rest & 15 | low >> 2 & 48), 1).float().mul_(_half(b, 0))
    least = torch.cat((high & 63, rest >> 4 | high >> 2 & 48), 1).float().mul_(_half(b, 2))
    return scale[:, :, None], least[:, :, None]


def _q4_k(b: Tensor) -> Tensor:
    scale, least = _scales(b)
    return _numbers(_nibbles(_lanes(b[:, 16:]), 32), 8).mul_(scale).sub_(least)


def _q5_k(b: Tensor) -> Tensor:
    scale, least = _scales(b)
    fifth = (_lanes(b[:, 16:48])[:, None] >> torch.arange(8, device="cpu")[:, None] & LANES) << 4
    return _numbers(_nibbles(_lanes(b[:, 48:]), 32) | fifth.view(len(b), -1), 8).mul_(scale).sub_(least)


def _q6_k(b: Tensor) -> Tensor:
    high = _lanes(b[:, 128:192]).view(len(b), 2, 1, 4)
    high = (high >> torch.arange(0, 8, 2, device="cpu")[:, None] & 3 * LANES) << 4
    scale = b[:, 192:208].view(torch.int8).float().mul_(_half(b, 208))
    return _numbers(_nibbles(_lanes(b[:, :128]), 64) | high.view(len(b), -1), 16).sub_(32).mul_(scale[:, :, None])


UNPACK: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


@contextmanager
def _one_thread() -> Generator[None]:
    """Steps this short gain little from a second thread, and lose seconds to waiting for it where other programs keep the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def dequantize(raw: Tensor, kind: str, out: Tensor, order: Tensor | None = None) -> None:
    """Write the numbers of ``raw`` into ``out``.

    Args:
        raw: rows of blocks, uint8 (R, bytes).
        kind: a key of ``SIZES``.
        out: (R, C) of any float dtype and layout; computed in fp32.
        order: for each row of ``out`` the row of ``raw`` that belongs there; None keeps the order.
    """
    rows, columns = out.shape
    step = max(1, AT_ONCE // max(1, columns))
    with _one_thread():
        for start in range(0, rows, step):
            part = raw[start : start + step] if order is None else raw[order[start : start + step]]
            if kind in PLAIN:
                numbers = part.view(PLAIN[kind])
            else:
                numbers = UNPACK[kind](part.reshape(-1, SIZES[kind][1]))
            out[start : start + step].copy_(numbers.view(-1, columns))
