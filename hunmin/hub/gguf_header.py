"""What stands before the weights in a GGUF file: keys with values, and where each tensor lies. Every count and place is checked."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from hunmin.errors import FormatError, SourceError, say
from hunmin.hub.gguf_blocks import NAMES, SIZES

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LARGEST = 1 << 48  # numbers in one tensor


@dataclass(frozen=True)
class Array:
    """An array that stays in the file until somebody asks: vocabularies are long, and most callers do not."""

    kind: int
    count: int
    start: int


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: ``shape`` has the longest stride first (ggml writes it last), ``kind`` is a name such as ``Q4_K``."""

    shape: tuple[int, ...]
    kind: str
    start: int
    size: int


class Header(Mapping[str, Any]):
    """The keys and values of a GGUF file (version 2 or 3, little endian), and its ``tensors``.

    Raises:
        SourceError: the file cannot be opened.
        FormatError: it is cut off, damaged or no GGUF file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 24
        try:
            with open(path, "rb") as file:
                # Copy on write makes the pages writable in name only: torch warns about buffers that are not.
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except ValueError:
            self.fail("it is empty", "빈 파일입니다")
        except OSError as error:
            raise SourceError(
                say(f"{path} cannot be opened: {error.strerror}.", f"{path}을(를) 열 수 없습니다: {error.strerror}.")
            ) from None
        self._values: dict[str, Any] = {}
        self.tensors: dict[str, Place] = {}
        try:
            self._read()
        except (struct.error, OverflowError, MemoryError):
            self.fail("it ends too early or holds an impossible length", "파일이 중간에 끝나거나 길이 값이 잘못되었습니다")

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        return self._array(value) if isinstance(value, Array) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def fail(self, en: str, ko: str) -> NoReturn:
        """Raise FormatError that names the file; the cause is cut to a line."""
        raise FormatError(
            say(
                f"{self.path} is not a usable GGUF file: {en[:200]}. Fetch it again.",
                f"{self.path}: {ko[:200]}. GGUF 파일을 다시 받으세요.",
            )
        )

    def check(self, name: str) -> Place:
        """The place of a tensor. Raises FormatError when there is none, or none of a type that Hunmin reads."""
        place = self.tensors.get(name)
        if place is None:
            self.fail(f"it has no tensor {name}", f"텐서 {name}이(가) 없습니다")
        if place.kind not in SIZES:
            known = ", ".join(SIZES)
            raise FormatError(
                say(
                    f"{self.path}: tensor {name} is stored as {place.kind}, which Hunmin does not read. Known: {known}.",
                    f"{self.path}: 텐서 {name}의 형식 {place.kind}은(는) 읽을 수 없습니다. 지원: {known}.",
                )
            )
        return place

    def _read(self) -> None:
        magic, version, tensors, keys = struct.unpack_from("<4sIQQ", self.data, 0)
        if magic != b"GGUF":
            self.fail("it does not begin with GGUF", "GGUF로 시작하지 않습니다")
        if version not in (2, 3):
            self.fail(f"version {version} is not 2 or 3 in little endian", f"버전 {version}은(는) 지원하지 않습니다(2, 3, 리틀 엔디언)")
        room = len(self.data) - self._at
        if keys * 13 + tensors * 24 > room:  # the least that one of each takes
            self.fail(f"it cannot hold {keys} keys and {tensors} tensors", f"키 {keys}개와 텐서 {tensors}개가 들어갈 수 없는 크기입니다")
        for _ in range(keys):
            key = self._string()
            if key in self._values:
                self.fail(f"key {key!r} stands there twice", f"키 {key!r}이(가) 두 번 나옵니다")
            self._values[key] = self._value(self._number("I"))
        alignment = self._values.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            self.fail(f"general.alignment is {alignment}", f"general.alignment 값이 {alignment}입니다")
        places = [self._tensor(alignment) for _ in range(tensors)]
        base = -(-self._at // alignment) * alignment
        self.tensors = {name: Place(p.shape, p.kind, base + p.start, p.size) for name, p in places}
        self._check(tensors, base)

    def _check(self, count: int, base: int) -> None:
        """Tensors have names of their own and do not overlap or pass the end of the file."""
        if len(self.tensors) != count:
            self.fail("two tensors have the same name", "이름이 같은 텐서가 있습니다")
        end = base
        for name, place in sorted(self.tensors.items(), key=lambda item: item[1].start):
            if place.start < end:
                self.fail(f"tensor {name} overlaps another", f"텐서 {name}이(가) 다른 텐서와 겹칩니다")
            end = place.start + place.size
            if end > len(self.data):
                self.fail(f"it is cut off: tensor {name} ends past its end", f"파일이 잘렸습니다: 텐서 {name}의 끝이 파일 밖입니다")

    def _number(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self.data, self._at)[0]
        self._at += struct.calcsize(code)
        return value

    def _string(self) -> str:
        size = self._number("Q")
        if size > len(self.data) - self._at:
            raise OverflowError
        self._at += size
        return self._text(self.data[self._at - size : self._at])

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"the text {raw[:40]!r} is not UTF-8", f"문자열 {raw[:40]!r}이(가) UTF-8이 아닙니다")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._skip(self._number("I"), self._number("Q"))
        if kind not in SCALARS:
            self.fail(f"unknown kind of value {kind}", f"알 수 없는 값 종류 {kind}입니다")
        return self._number(SCALARS[kind])

    def _skip(self, kind: int, count: int) -> Array:
        """Pass over an array."""
        found = Array(kind, count, self._at)
        size = 8 if kind == STRING else struct.calcsize(SCALARS[kind]) if kind in SCALARS else 0
        if not size:
            self.fail(f"arrays of kind {kind} are not known", f"배열 종류 {kind}을(를) 알 수 없습니다")
        if count * size > len(self.data) - self._at:
            raise OverflowError
        if kind == STRING:
            at, data, unpack = self._at, self.data, struct.Struct("<Q").unpack_from
            for _ in range(count):
                at += 8 + unpack(data, at)[0]
            self._at = at
        else:
            self._at += count * size
        if self._at > len(self.data):
            raise OverflowError
        return found

    def _array(self, array: Array) -> list[Any]:
        if array.kind != STRING:
            return list(struct.unpack_from(f"<{array.count}{SCALARS[array.kind]}", self.data, array.start))
        at, data, unpack, found = array.start, self.data, struct.Struct("<Q").unpack_from, list[bytes]()
        for _ in range(array.count):
            end = at + 8 + unpack(data, at)[0]
            found.append(data[at + 8 : end])
            at = end
        try:
            return [raw.decode() for raw in found]
        except UnicodeDecodeError:
            return [self._text(raw) for raw in found]

    def _tensor(self, alignment: int) -> tuple[str, Place]:
        """Name and place, counted from the first tensor."""
        name, dims = self._string(), self._number("I")
        if not 1 <= dims <= 4:
            self.fail(f"tensor {name} has {dims} dimensions", f"텐서 {name}의 차원이 {dims}개입니다")
        shape = tuple(self._number("Q") for _ in range(dims))
        code, start = self._number("I"), self._number("Q")
        kind = NAMES.get(code, f"type {code}")
        block, size = SIZES.get(kind, (1, 0))
        if not all(shape) or prod(shape) > LARGEST or shape[0] % block or start % alignment or start > len(self.data):
            self.fail(
                f"tensor {name} has an impossible shape or place {shape}", f"텐서 {name}의 모양이나 위치 {shape}이(가) 잘못되었습니다"
            )
        return name, Place(shape[::-1], kind, start, prod(shape) // block * size)
