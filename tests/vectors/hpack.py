"""Reads hpack.toml (README.md), and th_hpack with Python's types."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from thestral._csrc import ffi, lib

TABLE_SIZE = 4096
STRING_MAX = 65536

Pair = tuple[bytes, bytes]


class Field(NamedTuple):
    """A th_hpack_field. `note` is what an entry of the dynamic table had, else None."""

    name: bytes
    value: bytes
    serial: int = 0
    index: int = 0
    name_index: int = 0
    never_indexed: bool = False
    note: int | None = None


@dataclass
class Outcome:
    """What came out of one block, and the table after it, newest entry first."""

    fields: list[Pair] = field(default_factory=list)
    table: list[Pair] = field(default_factory=list)
    failed: int = 0  # th_status


class Refused(Exception):
    """A block was refused, with a th_status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def borrowed(data: bytes) -> Any:
    return ffi.from_buffer(data)


class Decoder:
    """A th_hpack_decoder.

    Args:
        place: gives a pointer to a block's bytes.
    """

    def __init__(
        self,
        max_size: int = TABLE_SIZE,
        string_max: int = STRING_MAX,
        place: Callable[[bytes], Any] = borrowed,
    ) -> None:
        self.struct = ffi.gc(ffi.new("th_hpack_decoder *"), lib.th_hpack_decoder_free)
        lib.th_hpack_decoder_init(self.struct, max_size, string_max)
        self.place = place
        self.taken: list[Field] = []

    def fields(self, block: bytes) -> list[Field]:
        """All fields of a block.

        Raises:
            Refused: with the status; `taken` has the fields before.
        """
        self.taken = []
        data = self.place(block)
        lib.th_hpack_begin(self.struct, data, len(block))
        out = ffi.new("th_hpack_field *")
        while (status := lib.th_hpack_next(self.struct, out)) == 1:
            self.taken.append(self.read(out))
        if status < 0:
            assert lib.th_hpack_next(self.struct, out) == status, "a refusal that does not stay"
            raise Refused(status)
        assert lib.th_hpack_next(self.struct, out) == 0
        return self.taken

    def read(self, out: Any) -> Field:
        assert out.name != ffi.NULL
        assert out.value != ffi.NULL
        note = None if out.note == ffi.NULL else out.note[0]
        return Field(
            ffi.buffer(out.name, out.name_length)[:],
            ffi.buffer(out.value, out.value_length)[:],
            out.serial,
            out.index,
            out.name_index,
            bool(out.never_indexed),
            note,
        )

    def outcome(self, block: bytes) -> Outcome:
        """The same as pairs, with the table after the block."""
        try:
            self.fields(block)
            failed = 0
        except Refused as exc:
            failed = exc.status
        return Outcome([(f.name, f.value) for f in self.taken], self.table(), failed)

    def table(self) -> list[Pair]:
        """The dynamic table, newest entry first."""
        return dynamic_table(self.struct.table)


class Encoder:
    """A th_hpack_encoder."""

    def __init__(self, max_size: int = TABLE_SIZE) -> None:
        self.struct = ffi.gc(ffi.new("th_hpack_encoder *"), lib.th_hpack_encoder_free)
        lib.th_hpack_encoder_init(self.struct, max_size)
        self.out = ffi.gc(ffi.new("th_buffer *"), lib.th_buffer_free)

    def resize(self, size: int) -> None:
        lib.th_hpack_encoder_resize(self.struct, size)

    def block(self, fields: Iterable[Pair], status: int | None = None) -> bytes:
        """A whole block, with :status first if there is one."""
        self.out.length = 0
        assert lib.th_hpack_encode_begin(self.struct, self.out) == 0
        if status is not None:
            assert lib.th_hpack_encode_status(self.struct, self.out, status) == 0
        for name, value in fields:
            done = lib.th_hpack_encode(self.struct, self.out, name, len(name), value, len(value))
            assert done == 0
        return ffi.buffer(self.out.data, self.out.length)[:] if self.out.length else b""

    def table(self) -> list[Pair]:
        return dynamic_table(self.struct.table)


def dynamic_table(table: Any) -> list[Pair]:
    """The entries of a th_hpack_table, newest first, with its invariants checked."""
    # Each entry begins with the offset of its name and the lengths of name and value: hpack.c.
    words = ffi.cast("uint32_t *", table.entries.data)
    data = table.bytes.data
    found = []
    for back in range(table.count):
        at = ((table.inserted - back) % 2**32 & table.ring - 1) * 5
        offset, name, value = words[at], words[at + 1], words[at + 2]
        assert offset + name + value <= table.bytes.length <= table.bytes.capacity
        found.append(
            (ffi.buffer(data + offset, name)[:], ffi.buffer(data + offset + name, value)[:])
        )
    assert table.size == size_of(found) <= table.limit
    assert table.bytes.capacity <= max(512, 2 * table.max_size)
    assert table.entries.capacity <= max(512, 20 * 2 * (table.max_size // 32))
    return found


def size_of(table: Iterable[Pair]) -> int:
    """RFC 7541 section 4.1."""
    return sum(len(name) + len(value) + 32 for name, value in table)


# --- What encoders may write ----------------------------------------------------------------------


def integer(value: int, prefix: int, first: int = 0, zeros: int = 0) -> bytes:
    """RFC 7541 section 5.1, with further bytes of zeros at its end."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    data = [first | most]
    value -= most
    while value >= 128:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    if zeros:
        data[-1] |= 128
        data += [128] * (zeros - 1) + [0]
    return bytes(data)


def string(data: bytes) -> bytes:
    """RFC 7541 section 5.2, without Huffman's code."""
    return integer(len(data), 7) + data


def indexed(index: int) -> bytes:
    return integer(index, 7, 0x80)


def update(size: int) -> bytes:
    return integer(size, 5, 0x20)


def incremental(name: bytes | int, value: bytes) -> bytes:
    """A literal with incremental indexing; the name may be an index."""
    return literal(name, value, 6, 0x40)


def literal(name: bytes | int, value: bytes, prefix: int = 4, first: int = 0) -> bytes:
    if isinstance(name, int):
        return integer(name, prefix, first) + string(value)
    return bytes([first]) + string(name) + string(value)


# --- Vectors --------------------------------------------------------------------------------------


@dataclass
class Block:
    data: bytes
    expected: Outcome


@dataclass
class Case:
    name: str
    why: str
    blocks: list[Block]
    encoded: bool  # our encoder writes the same bytes
    max_size: int = TABLE_SIZE
    string_max: int = STRING_MAX


def pairs(items: list[list[str]]) -> list[Pair]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in items]


def replaced(item: Any, old: str, new: str) -> Any:
    if isinstance(item, str):
        return item.replace(old, new)
    if isinstance(item, list):
        return [replaced(part, old, new) for part in item]
    if isinstance(item, dict):
        return {key: replaced(part, old, new) for key, part in item.items()}
    return item


def load() -> list[Case]:
    """The cases of hpack.toml."""
    found = []
    text = (Path(__file__).parent / "hpack.toml").read_text()
    for given in tomllib.loads(text)["case"]:
        for each in given.get("each", [""]):
            item = replaced(given, "<>", each)
            table: list[Pair] = []
            blocks = []
            for block in item["blocks"]:
                table = pairs(block["table"]) if "table" in block else table
                failed = getattr(lib, block["failed"]) if "failed" in block else 0
                expected = Outcome(pairs(block.get("fields", [])), table, failed)
                blocks.append(Block(bytes.fromhex(block["input"]), expected))
            settings = {key: item[key] for key in ("max_size", "string_max") if key in item}
            name = f"{item['name']} {each}".strip()
            found.append(Case(name, item["why"], blocks, item.get("encoded", False), **settings))
    return found
