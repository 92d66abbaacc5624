"""The tree of one snapshot: pages, entries, contents, hard links and findings: FORMAT.md, section 10."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from repository import Place, Reference, Repository, Snapshot, parse_places, resolve
from wire import B32, BLOCK, CHARACTER, CONTENT, DATA, DEPTH, DEPTH_MAX, DIRECTORY, FILE, LIST, PAGE_MAX, PLACE, REFERENCE, SYMLINK, Shape, TABLE, TIME, TREE, U32, U64, U8, VALUE, anything, check, check_map, data, decode_cbor, each, maybe, row, text, uint

ENTRY_FIELDS: dict[int, Shape] = {
    2: uint(12), 3: U32, 4: U32, 5: TIME, 6: TIME, 7: U64, 8: TIME, 9: U64, 10: each(REFERENCE), 11: row(DEPTH, REFERENCE), 12: REFERENCE,
    13: data, 14: each(row(data, VALUE)), 15: row(maybe(data), maybe(data)), 16: U32, 17: VALUE, 18: each(row(data, U64, CONTENT)),
    19: each(row(U64, U64)), 20: row(U32, U32), 21: text, 22: text, 23: B32, 25: U64, 26: U64, 27: U64, 28: U64, 29: U64, 30: data, 31: U32,
}  # fmt: skip
ONLY_FOR = {10: FILE, 11: FILE, 19: FILE, 23: FILE, 31: FILE, 12: DIRECTORY, 26: DIRECTORY, 27: DIRECTORY, 28: DIRECTORY, 29: DIRECTORY,
            13: SYMLINK}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One entry of a tree, its path and position, and the places that its references mean."""

    path: bytes
    fields: dict[int, Any]
    places: list[Place]
    position: int

    @property
    def kind(self) -> int:
        return self.fields[1]

    @property
    def where(self) -> str:
        return f"entry /{os.fsdecode(self.path)}"


def check_entry(entry: Any, where: str) -> dict[int, Any]:
    check_map(entry, {0: data, 1: lambda value: value in range(FILE, BLOCK + 1)}, ENTRY_FIELDS, where)
    kind = entry[1]
    for key, only in ONLY_FOR.items():
        check(key not in entry or kind == only, where, f"key {key} does not fit kind {kind}")
    check(len(entry.get(10, ())) <= 32 and not (10 in entry and 11 in entry), where, "too much content")
    check(kind != DIRECTORY or {26, 27, 28, 29} <= entry.keys(), where, "directory without its counts")
    check(kind != FILE or 7 in entry, where, "file without size")
    check(kind != SYMLINK or entry.get(7) == len(entry.get(13, b"")) <= 65536, where, "symlink without target, or of another length")
    check(kind not in (CHARACTER, BLOCK) or 20 in entry, where, "device without number")
    names = [name for name, _ in entry.get(14, ())]
    check(all(a < b for a, b in zip(names, names[1:])), where, "extended attributes are not sorted")
    check(all(not data(value) or len(value) <= 256 for _, value in entry.get(14, ())), where, "long attribute value in the entry")
    check_sparse(entry, where)
    return entry


def check_sparse(entry: dict[int, Any], where: str) -> None:
    end = 0
    for offset, length in entry.get(19, ()):
        check(offset >= end and length > 0, where, "sparse map is not in order")
        end = offset + length
    check(end <= entry.get(7, 0) or 19 not in entry, where, "sparse map reaches behind the end")


def check_name(name: bytes, where: str) -> None:
    """A name that could leave its directory must never reach the file system."""
    check(1 <= len(name) <= 4096 and name not in (b".", b"..") and not set(name) & {0, 0x2F}, where, f"{name!r} cannot be a name")


@dataclass
class Totals:
    """What a directory entry says about all that is below it, counted."""

    positions: int = 1
    directories: int = 0
    bytes: int = 0
    others: int = 0

    def add(self, entry: dict[int, Any]) -> None:
        if entry[1] != DIRECTORY:
            self.positions += 1
            self.others += 1
            self.bytes += entry[7] if entry[1] == FILE else 0

    def add_directory(self, below: Totals) -> None:
        self.positions += below.positions
        self.directories += 1
        self.bytes += below.bytes
        self.others += below.others


class TreeReader:
    """Walks the tree of one snapshot and reads contents, verifying everything it meets."""

    def __init__(self, repository: Repository, snapshot: Snapshot) -> None:
        self.repository, self.snapshot = repository, snapshot
        self.links = self._load_links()

    def walk(self) -> Iterator[Node]:
        """Every node in pre-order. Counts of directories and the hard-link table are checked on the way."""
        name = self.snapshot.name
        entry = check_entry(self.snapshot.fields[11], name)
        check(entry[0] == b"" and entry[1] == DIRECTORY and entry[26] < 1 << 44, name, "root is not a directory without name")
        root = Node(b"", entry, self.snapshot.places, 1)
        yield root
        stack = [(root, Totals(), self.children(root))]
        groups: dict[int, list[int]] = {}
        position = 1
        while stack:
            parent, totals, children = stack[-1]
            entry, places = next(children, (None, []))
            if entry is None:
                stack.pop()
                check_totals(parent, totals)
                if stack:
                    stack[-1][1].add_directory(totals)
                continue
            position += 1
            node = Node(parent.path + b"/" * bool(parent.path) + entry[0], entry, places, position)
            totals.add(entry)
            if 9 in entry:
                groups.setdefault(entry[9], []).append(position)
            yield node
            if node.kind == DIRECTORY:
                stack.append((node, Totals(), self.children(node)))
        self._check_links(groups)

    def children(self, directory: Node) -> Iterator[tuple[dict[int, Any], list[Place]]]:
        if 12 in directory.fields:
            yield from self._page(resolve(directory.fields[12], directory.places, directory.where), None, b"", DEPTH_MAX)

    def _page(self, reference: Reference, first: bytes | None, after: bytes, depth: int) -> Iterator[tuple[dict[int, Any], list[Place]]]:
        """The entries of a page or page index; `return`s their number, their positions and the last name."""
        where = f"tree page {reference.id.hex()}"
        check(depth > 0, where, "page indexes are nested too deeply")
        check(reference.length <= PAGE_MAX, where, "page is over the limit")
        page = decode_cbor(self.repository.record(TREE, reference), where)
        check_map(page, {0: lambda value: value in (1, 2), 1: each(PLACE), 2: each(anything)}, {}, where)
        check(page[2], where, "page is empty")
        places = parse_places(page[1])
        if page[0] == 2:
            return (yield from self._page_index(page[2], places, after, depth, where))
        positions = 0
        for entry in page[2]:
            check_entry(entry, where)
            check_name(entry[0], where)
            check(first in (None, entry[0]), where, "first name differs from the page index")
            check(entry[0] > after, where, "names are not sorted")
            first, after = None, entry[0]
            positions += entry.get(26, 1)
            yield entry, places
        return len(page[2]), positions, after

    def _page_index(self, rows: list[Any], places: list[Place], after: bytes, depth: int, where: str) -> Iterator[Any]:
        entries = positions = 0
        check(each(row(data, U64, U64, REFERENCE))(rows), where, "page index has a row of another shape")
        for first, entries_end, positions_end, reference in rows:
            counted = yield from self._page(resolve(reference, places, where), first, after, depth - 1)
            entries, positions, after = entries + counted[0], positions + counted[1], counted[2]
            check((entries, positions) == (entries_end, positions_end), where, "counts differ from the pages")
        return entries, positions, after

    # contents

    def content(self, value: list[Any], places: list[Place], where: str) -> Iterator[bytes]:
        """The chunks of a content value: references, or depth and reference of a list."""
        if value and type(value[0]) is int:
            yield from self._list(value[0], resolve(value[1], places, where))
        else:
            for reference in value:
                yield self.repository.record(DATA, resolve(reference, places, where))

    def _list(self, depth: int, reference: Reference) -> Iterator[bytes]:
        where = f"list {reference.id.hex()}"
        fields = decode_cbor(self.repository.record(LIST, reference), where)
        check_map(fields, {0: U8, 1: each(PLACE), 2: each(row(U64, REFERENCE))}, {}, where)
        check(fields[0] == depth, where, "depth differs from the reference")
        check(1 <= len(fields[2]) <= 4096, where, "list is empty or too long")
        places, length = parse_places(fields[1]), 0
        for end, value in fields[2]:
            child = resolve(value, places, where)
            for chunk in [self.repository.record(DATA, child)] if depth == 1 else self._list(depth - 1, child):
                length += len(chunk)
                yield chunk
            check(length == end, where, "row ends elsewhere")

    def stored_value(self, value: bytes | list[Any], node: Node) -> bytes:
        """A value that stands in the entry, or in records of its own."""
        if isinstance(value, bytes):
            return value
        result = b"".join(self.content(value[1], node.places, node.where))
        check(len(result) == value[0], node.where, "a stored value has another size")
        return result

    def file_data(self, node: Node) -> Iterator[tuple[int, bytes]]:
        """Offsets and bytes of the data of a file; size and whole-file hash are checked before the end."""
        entry, epochs = node.fields, self.repository.keys.epochs.values()
        extents = entry.get(19, [[0, entry[7]]] if entry[7] else [])
        hashers = [blake3(key=keys["K_file"]) for keys in epochs]  # an entry may be older than the epoch of its page
        remaining, at = [list(extent) for extent in extents], 0
        for chunk in self.content(entry.get(10) or entry.get(11) or [], node.places, node.where):
            for hasher in hashers:
                hasher.update(chunk)
            while chunk:
                check(at < len(remaining), node.where, "more content than its size")
                part = chunk[: remaining[at][1]]
                yield remaining[at][0], part
                remaining[at] = [remaining[at][0] + len(part), remaining[at][1] - len(part)]
                chunk, at = chunk[len(part) :], at + (remaining[at][1] == 0)
        check(at == len(remaining), node.where, "less content than its size")
        if 19 in entry:
            tail = b"".join(struct.pack("<QQ", *extent) for extent in extents) + struct.pack("<Q", entry[7])
            hashers = [hasher.update(tail) for hasher in hashers]
        check(23 not in entry or entry[23] in [hasher.digest() for hasher in hashers], node.where, "whole-file hash differs")

    # side tables

    def _table(self, reference: list[Any], kind: int, shape: Shape, rows_max: int) -> list[list[Any]]:
        resolved = resolve(reference, self.snapshot.places, self.snapshot.name)
        where = f"side table {resolved.id.hex()}"
        fields = decode_cbor(self.repository.record(TABLE, resolved), where)
        check_map(fields, {0: lambda value: value == kind, 1: each(shape)}, {}, where)
        check(1 <= len(fields[1]) <= rows_max, where, "table is empty or too long")
        return fields[1]

    def _load_links(self) -> dict[int, tuple[int, int]]:
        rows: list[list[int]] = []
        for first, reference in self.snapshot.fields[13]:
            part = self._table(reference, 1, row(U64, U64, U64), 16384)
            check(part[0][0] == first, self.snapshot.name, "first position of a hard-link table differs")
            rows += part
        check(all(a[0] < b[0] for a, b in zip(rows, rows[1:])), self.snapshot.name, "hard-link table is not sorted")
        return {position: (leader, links) for position, leader, links in rows}

    def _check_links(self, groups: dict[int, list[int]]) -> None:
        expected = {position: (group[0], len(group)) for group in groups.values() if len(group) > 1 for position in group}
        check(self.links == expected, self.snapshot.name, "hard-link table differs from the tree")

    def findings(self) -> list[list[Any]]:
        return [line for reference in self.snapshot.fields[15] for line in self._table(reference, 2, row(text, data, text), 4096)]


def check_totals(node: Node, totals: Totals) -> None:
    said = tuple(node.fields[key] for key in (26, 27, 28, 29))
    counted = (totals.positions, totals.directories, totals.bytes, totals.others)
    check(said == counted, node.where, f"counts {said} differ from {counted}")
