"""Weights that a folder keeps quantized, as tiles: our own format, and those of GPTQ, AWQ, compressed-tensors and bitsandbytes.

A format is a function that reads one matrix ``(O, K)`` from the tensors under its name, as the projects that write it document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hunmin.errors import ConfigError, FormatError, say
from hunmin.hub.names import Names
from hunmin.hub.tensors import TensorFile
from hunmin.quantize import PARTS
from hunmin.quantize.tiles import Tiles

OWN = "hunmin."  # before our canonical names in a file
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where in a word the nibble of each of eight neighbours is
Get = Callable[[str], Tensor]


@dataclass
class Codes:
    """One matrix before it is cut and tiled: codes ``(O, K)``, scales ``(O, groups)``, zeros of the same shape or one for all."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor | int
    bits: int
    group: int
    order: Tensor | None = None
    normal: bool = False

    def tiles(self, parts: int) -> list[Tiles]:
        """Cut into ``parts`` of as many rows. A zero that is the same everywhere costs nothing; others become minimums."""
        zeros = self.zeros
        if isinstance(zeros, Tensor) and bool((zeros == zeros.flatten()[0]).all()):
            zeros = int(zeros.flatten()[0])
        mins = None if isinstance(zeros, int) else -zeros.float() * self.scales.float()
        zero = zeros if isinstance(zeros, int) else 0
        cut = [t.tensor_split(parts) if t is not None else (None,) * parts for t in (self.codes, self.scales, mins)]
        made = [
            Tiles.of(c, s, m, self.bits, zero=zero, normal=self.normal, group=self.group)  # type: ignore[arg-type]
            for c, s, m in zip(*cut, strict=True)
        ]
        return [replace(t, order=self.order) for t in made]


@dataclass
class Stored:
    """What was found: tiles by our names of parameters, and the stored tensors that they were made of."""

    tiles: dict[str, Tiles] = field(default_factory=dict[str, Tiles])
    used: set[str] = field(default_factory=set[str])


def nibbles(words: Tensor, bits: int) -> Tensor:
    """The unsigned numbers of ``bits`` bits in 32-bit words ``(…, n)``, the lowest first: uint8 ``(…, n * 32 / bits)``."""
    return (words[..., None] >> torch.arange(0, 32, bits, dtype=words.dtype) & ((1 << bits) - 1)).flatten(-2).to(torch.uint8)


def _groups(index: Tensor, group: int) -> Tensor | None:
    """The order that brings columns of one group together; None when they are. Raises ValueError for groups of other sizes."""
    want = torch.arange(len(index)) // group
    order = index.long().argsort(stable=True)
    if not torch.equal(index.long()[order], want):
        raise ValueError(f"g_idx does not divide the columns into groups of {group}")
    return None if torch.equal(order, torch.arange(len(index))) else order


def _checked(found: Codes) -> Codes:
    """Raises ValueError for scales that do not belong to the codes, and for groups that tiles do not have."""
    rows, width = found.codes.shape
    if found.group % 32 and found.group < width:
        raise ValueError(f"groups of {found.group} columns; Hunmin reads multiples of 32")
    shape = (rows, -(-width // found.group))
    if tuple(found.scales.shape) != shape or (isinstance(found.zeros, Tensor) and tuple(found.zeros.shape) != shape):
        raise ValueError(f"scales of shape {tuple(found.scales.shape)} for {shape[1]} groups of {rows} rows")
    if found.group % 32:
        found.group += -found.group % 32
    return found


def _sizes(settings: Mapping[str, Any], width: int) -> tuple[int, int]:
    """Bits and the columns of a group."""
    bits, group = settings.get("bits", settings.get("w_bit", 4)), settings.get("group_size", settings.get("q_group_size", 128))
    if bits not in (4, 8):
        raise ValueError(f"{bits} bits; Hunmin reads 4 and 8")
    if type(group) is not int or (group < 1 and group != -1):
        raise ValueError(f"group_size {group!r}")
    return bits, width if group == -1 else group


def gptq(get: Get, settings: Mapping[str, Any]) -> Codes:
    """qweight ``(K * bits / 32, O)``, qzeros ``(groups, O * bits / 32)``, scales ``(groups, O)``, g_idx ``(K,)``.

    The first version of the format stores zeros less one.
    """
    packed = get("qweight")
    bits = settings.get("bits", 4)
    width = packed.shape[0] * 32 // (bits if bits in (4, 8) else 32)
    bits, group = _sizes(settings, width)
    codes = nibbles(packed.t().contiguous(), bits)
    zeros = nibbles(get("qzeros"), bits).int()
    if settings.get("checkpoint_format", "gptq") != "gptq_v2":
        zeros = (zeros + 1) & ((1 << bits) - 1)
    try:
        order = _groups(get("g_idx"), group)
    except KeyError:
        order = None
    codes = codes if order is None else codes[:, order]
    return Codes(codes, get("scales").t(), zeros.t(), bits, group, order)


def awq(get: Get, settings: Mapping[str, Any]) -> Codes:
    """qweight ``(K, O / 8)``, qzeros ``(groups, O / 8)``, scales ``(groups, O)``; eight neighbours of a word are interleaved."""
    if str(settings.get("version", "gemm")).lower() != "gemm":
        raise ValueError(f"AWQ version {settings['version']!r}; Hunmin reads 'gemm'")
    packed, order = get("qweight"), torch.tensor(AWQ_ORDER)
    bits, group = _sizes(settings, packed.shape[0])
    if bits != 4:
        raise ValueError(f"AWQ of {bits} bits; Hunmin reads 4")

    def plain(words: Tensor) -> Tensor:
        return nibbles(words, 4).unflatten(-1, (-1, 8))[..., order].flatten(-2)

    return Codes(plain(packed).t().contiguous(), get("scales").t(), plain(get("qzeros")).int().t(), 4, group)


def compressed(get: Get, settings: Mapping[str, Any]) -> Codes:
    """weight_packed ``(O, K * bits / 32)``, weight_scale ``(O, groups)``, weight_zero_point ``(O * bits / 32, groups)`` or none."""
    groups = list((settings.get("config_groups") or {}).values())
    weights = groups[0].get("weights") or {} if len(groups) == 1 else {}
    if settings.get("format") != "pack-quantized" or weights.get("type", "int") != "int" or groups[0].get("input_activations"):
        raise ValueError(f"format {settings.get('format')!r}; Hunmin reads 'pack-quantized' with one group of integer weights")
    rows, width = (int(n) for n in get("weight_shape"))
    told = {"bits": weights.get("num_bits", 4), "group_size": weights.get("group_size") or -1}
    bits, group = _sizes(told, width)
    codes, scales = nibbles(get("weight_packed"), bits)[:, :width], get("weight_scale")
    zeros: Tensor | int = 1 << (bits - 1)
    if not weights.get("symmetric", True):
        zeros = nibbles(get("weight_zero_point").t().contiguous(), bits).t()[:rows].int()
    try:
        order = _groups(get("weight_g_idx"), group)
    except KeyError:
        order = None
    return Codes(codes if order is None else codes[:, order], scales, zeros, bits, group, order)


def bitsandbytes(get: Get, settings: Mapping[str, Any]) -> Codes:
    """int8: weight ``(O, K)`` and SCB ``(O,)``, its rows' largest magnitudes. NF4: bytes of two codes, the first above."""
    weight = get("weight")
    if weight.dtype == torch.int8:
        return Codes((weight.int() + 128).to(torch.uint8), (get("SCB").float() / 127)[:, None], 128, 8, weight.shape[1])
    try:
        state = json.loads(bytes(get("weight.quant_state.bitsandbytes__nf4").tolist()))
    except KeyError:
        raise ValueError("4-bit weights that are not nf4") from None
    (rows, width), block = state["shape"], state["blocksize"]
    absmax = get("weight.absmax")
    if absmax.dtype == torch.uint8:
        nested = get("weight.nested_absmax").repeat_interleave(state["nested_blocksize"])[: absmax.numel()]
        absmax = get("weight.nested_quant_map")[absmax.int()] * nested + state["nested_offset"]
    if width % block or absmax.numel() * block != rows * width:
        raise ValueError(f"blocks of {block} that cross rows of {width}")
    pairs = weight.flatten()
    codes = torch.stack([pairs >> 4, pairs & 15], -1).view(rows, width)
    return Codes(codes, absmax.view(rows, -1), 0, 4, block, normal=True)


# Which tensor says that a matrix is there, and what reads it.
FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Get, Mapping[str, Any]], Codes]]] = {
    "gptq": (("qweight",), gptq),
    "awq": (("qweight",), awq),
    "compressed-tensors": (("weight_packed",), compressed),
    "bitsandbytes": (("SCB", "weight.absmax"), bitsandbytes),
}
MORE = ("qzeros", "scales", "g_idx", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_format", "weight")


def method_of(settings: Any, where: str) -> str:
    """The ``quant_method`` of a ``quantization_config``. Raises ConfigError for one that Hunmin does not read."""
    method = str(settings.get("quant_method", "?")) if isinstance(settings, Mapping) else str(settings)
    if not isinstance(settings, Mapping) or (method != "hunmin" and method not in FORMATS):
        raise ConfigError(
            say(
                f"{where} is stored quantized ({method}), which Hunmin cannot read. Load the original, or a GGUF of it.",
                f"{where}은(는) 읽을 수 없는 방식({method})으로 양자화되어 있습니다. 원본이나 GGUF를 사용하세요.",
            )
        )
    return method


def read(settings: Any, tensors: TensorFile, names: Names, where: str) -> Stored:
    """The quantized matrices of a folder whose ``quantization_config`` is ``settings``.

    Raises ConfigError for a method that Hunmin does not read, FormatError when tensors are missing or contradict it.
    """
    method = method_of(settings, where)
    everything, out = set(tensors.names()), Stored()
    try:
        if method == "hunmin":
            _own(settings, tensors, everything, out)
            return out
        markers, reader = FORMATS[method]
        for path, ours, used in _matrices(markers, everything, names):
            out.used |= used
            if not ours:
                continue

            def get(leaf: str, path: str = path) -> Tensor:
                return tensors.tensor(f"{path}.{leaf}" if f"{path}.{leaf}" in everything else _missing(f"{path}.{leaf}"), None)

            out.tiles.update(zip(ours, _checked(reader(get, settings)).tiles(len(ours)), strict=True))
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError, AttributeError) as error:
        if isinstance(error, FormatError | ConfigError):
            raise
        cause = " ".join(str(error.args[0] if error.args else error).split())[:200]
        raise FormatError(
            say(
                f"{where}: its weights are not stored as its quantization_config ({method}) says: {cause}.",
                f"{where}: 가중치가 quantization_config({method})의 설명과 다릅니다: {cause}.",
            )
        ) from None
    return out


def _missing(name: str) -> str:
    raise KeyError(f"{name} is missing")


def _matrices(markers: tuple[str, ...], everything: set[str], names: Names) -> Iterator[tuple[str, tuple[str, ...], set[str]]]:
    """Path, our names (none for another head's) and tensors of every quantized matrix."""
    for marker in markers:
        for path in sorted(n.removesuffix(f".{marker}") for n in everything if n.endswith(f".{marker}")):
            place = names.place(f"{path}.weight")
            if (place is None or not place.names) and not names.elsewhere(f"{path}.weight"):
                continue  # nobody's: reported with its name
            used = {
                n
                for n in everything
                if n.startswith(f"{path}.") and (n[len(path) + 1 :] in (*MORE, marker) or ".weight." in n[len(path) :])
            }
            yield path, place.names if place is not None else (), used


def _own(settings: Mapping[str, Any], tensors: TensorFile, everything: set[str], out: Stored) -> None:
    if settings.get("format") != "tiles-1":
        raise ValueError(f"format {settings.get('format')!r}; Hunmin reads 'tiles-1'")
    for name in sorted(n for n in everything if n.startswith(OWN) and n.endswith(".layout")):
        path = name.removesuffix(".layout")
        parts = {part: tensors.tensor(f"{path}.{part}", None) if f"{path}.{part}" in everything else None for part in PARTS}
        codes, scales = parts["codes"], parts["scales"]
        rows, columns, zero, normal = tensors.tensor(name, None).tolist()
        if codes is None or scales is None:
            raise KeyError(f"{path}.codes or {path}.scales is missing")
        fits = codes.ndim == 5 and codes.shape[2] in (4, 8) and codes.shape[3:] == (16, 4) and codes.dtype == torch.uint8
        blocks = codes.shape[1] if fits else 0
        fits = (
            fits
            and codes.shape[0] == -(-rows // 16)
            and blocks * 32 >= columns
            and scales.ndim == 3
            and scales.shape[::2] == (len(codes), 16)
        )
        if not fits or blocks * 32 % scales.shape[1] or (parts["mins"] is not None and parts["mins"].shape != scales.shape):
            raise ValueError(f"{path} has codes {tuple(codes.shape)} and scales {tuple(scales.shape)}")
        if (order := parts["order"]) is not None and not torch.equal(order.sort().values, torch.arange(columns)):
            raise ValueError(f"{path}.order is no order of its columns")
        tiles = Tiles(codes, scales, parts["mins"], (rows, columns), zero, bool(normal), order)
        out.tiles[f"{path.removeprefix(OWN)}.weight"] = tiles
        out.used |= {f"{path}.{part}" for part in (*PARTS, "layout")}
