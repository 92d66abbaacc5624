"""The tree of one snapshot: pages, entries, contents and hard links: FORMAT.md, section 10."""

import os
import struct
from collections import namedtuple
from collections.abc import Iterator
from itertools import chain
from typing import Any

from blake3 import blake3

from keys import MIB, about, check, decode_cbor
from repository import DATA, LIST, TABLE, TREE, Reference, Repository, resolve

FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, CHARACTER, BLOCK = range(1, 8)
# One entry of a tree, its path and position, and the places that its references mean.
Node = namedtuple("Node", "path entry places position")


def check_entry(entry: dict[int, Any]) -> None:
    kind, size = entry[1], entry.get(7, 0)
    check(FILE <= kind <= BLOCK and (kind != FILE or 7 in entry), f"unknown kind {kind}, or a file without size")
    check(kind != SYMLINK or size == len(entry[13]) <= 65536, "symlink to a target of another length")
    check(len(entry.get(10, ())) <= 32 and not {10, 11} <= entry.keys(), "too much content")
    edges = [0, *chain(*([offset, offset + length] for offset, length in entry.get(19, ()))), size]
    check(edges == sorted(edges), "sparse map is not in order")


class TreeReader:
    """Walks the tree of one snapshot and reads contents, verifying everything it meets."""

    def __init__(self, repository: Repository, manifest: dict[int, Any]) -> None:
        self.repository, self.manifest = repository, manifest
        self.groups: dict[int, list[int]] = {}

    def _fields(self, kind: int, reference: Reference, count: int) -> list[Any]:
        fields = decode_cbor(self.repository.record(kind, reference), count)
        return [fields[key] for key in range(count)]

    def walk(self) -> Iterator[Node]:
        """Every node in pre-order. Counts of directories and the hard-link table are checked on the way."""
        root, places = self.manifest[11], self.manifest[12]
        check(root[0] == b"" and root[1] == DIRECTORY and root[26] < 1 << 44, "the root is not a directory")
        yield from self._walk(Node(b"", root, places, 1))
        tables = [self._fields(TABLE, resolve(reference, places), 2) for _, reference in self.manifest[13]]
        check([rows[0][0] for _, rows in tables] == [first for first, _ in self.manifest[13]], "table begins elsewhere")
        groups = [group for group in self.groups.values() if len(group) > 1]
        expected = sorted([position, group[0], len(group)] for group in groups for position in group)
        check(expected == [row for _, rows in tables for row in rows], "hard-link table differs from the tree")

    def _walk(self, node: Node) -> Iterator[Any]:
        """A node and all below it; `return`s positions, bytes of files, and entries that are not directories."""
        entry = node.entry
        with about(f"entry /{os.fsdecode(node.path)}"):
            check_entry(entry)
        if 9 in entry:
            self.groups.setdefault(entry[9], []).append(node.position)
        yield node
        if entry[1] != DIRECTORY:
            return 1, entry[7] if entry[1] == FILE else 0, 1
        positions, directories, size, others = 1, 0, 0, 0
        for child, places in self._page(resolve(entry[12], node.places), None, b"", 6) if 12 in entry else ():
            path = os.path.join(node.path, child[0])
            below = yield from self._walk(Node(path, child, places, node.position + positions))
            positions, size, others = positions + below[0], size + below[1], others + below[2]
            directories += child[1] == DIRECTORY
        counted = [positions, directories, size, others]
        check([entry[key] for key in (26, 27, 28, 29)] == counted, f"/{os.fsdecode(node.path)}: counts differ")
        return positions, size, others

    def _page(self, reference: Reference, first: bytes | None, after: bytes, depth: int) -> Iterator[Any]:
        """The entries of a page or page index; `return`s their number, their positions and the last name."""
        with about(f"tree page {reference.id.hex()}"):
            check(depth > 0 and reference.length <= 2 * MIB, "over the limit, or nested too deeply")
            kind, places, items = self._fields(TREE, reference, 3)
            check(kind in (1, 2) and items, "empty, or neither page nor page index")
            entries = positions = 0
            for item in items:
                name = item[0]
                check(1 <= len(name) <= 4096 and name not in (b".", b"..") and not set(name) & {0, 0x2F}, "wrong name")
                check(name > after and first in (None, name), "names are not sorted, or not as in the page index")
                first = None
                if kind == 1:
                    yield item, places
                    entries, positions, after = entries + 1, positions + item.get(26, 1), name
                else:
                    below = yield from self._page(resolve(item[3], places), name, after, depth - 1)
                    entries, positions, after = entries + below[0], positions + below[1], below[2]
                    check([entries, positions] == item[1:3], "counts differ from the pages")
            return entries, positions, after

    def content(self, value: list[Any], places: list[Any]) -> Iterator[bytes]:
        """The chunks of a content value: references, or depth and reference of a list."""
        if not value or isinstance(value[0], list):
            for reference in value:
                yield self.repository.record(DATA, resolve(reference, places))
            return
        depth, length = value[0], 0
        found, below, rows = self._fields(LIST, resolve(value[1], places), 3)
        check(1 <= found == depth <= 6 and 1 <= len(rows) <= 4096, "depth or length of a list is wrong")
        for end, reference in rows:
            for chunk in self.content([depth - 1, reference] if depth > 1 else [reference], below):
                length += len(chunk)
                yield chunk
            check(length == end, "row of a list ends elsewhere")

    def file_data(self, node: Node) -> Iterator[tuple[int, bytes]]:
        """Offsets and bytes of the data of a file; size and whole-file hash are checked before the end."""
        entry = node.entry
        extents = entry.get(19, [[0, entry[7]]])
        remaining = [extent for extent in extents if extent[1]]
        # An entry may be older than the epoch of its page.
        hashers = [blake3(key=keys["file hash"]) for keys in self.repository.keys.epochs.values()]
        for chunk in self.content(entry.get(10) or entry.get(11) or [], node.places):
            for hasher in hashers:
                hasher.update(chunk)
            while chunk:
                check(remaining, "more content than its size")
                offset, length = remaining.pop(0)
                yield offset, chunk[:length]
                if length > len(chunk):
                    remaining.insert(0, [offset + len(chunk), length - len(chunk)])
                chunk = chunk[length:]
        check(not remaining, "less content than its size")
        tail = struct.pack(f"<{2 * len(extents)}QQ", *chain(*extents), entry[7]) if 19 in entry else b""
        check(23 not in entry or entry[23] in [hasher.update(tail).digest() for hasher in hashers], "file hash differs")
