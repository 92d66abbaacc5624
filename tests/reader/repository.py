"""Objects, records and trees of a repository, each verified before it is used: FORMAT.md, sections 5 to 12."""

import os
import re
import struct
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keys import (CATALOGUE, CONFIG, CONTEXT, DATA_PACK, DEVICE, MAGIC2, MAINTAINER, MANIFEST, META_PACK, MIB, OWNER,
                  SEAL, SESSION, SHARD, SLOT, TOMBSTONES, WRITER, FormatError, about, check, decode_cbor, mac, open_section,
                  open_slot, padme_steps, parse_header, unpad)  # fmt: skip

DATA, TREE, LIST, TABLE, FRAGMENT = range(1, 6)
FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, CHARACTER, BLOCK = range(1, 8)
HEX32, HEX64, AA = "[0-9a-f]{32}", "[0-9a-f]{64}", r"([0-9a-f]{2})/\1[0-9a-f]{30}"
NAMES = {
    CONFIG: rf"repo/\d{{10}}-{HEX64}", SLOT: f"keys/{HEX32}", DEVICE: f"dev/{HEX32}-{HEX64}",
    SESSION: f"sess/{HEX32}/{HEX32}", DATA_PACK: f"pack/{AA}", META_PACK: f"meta/{AA}", SHARD: f"idx/{HEX64}",
    CATALOGUE: f"cat/{HEX64}", MANIFEST: rf"snap/{HEX32}/\d{{10}}-{HEX64}", SEAL: rf"seal/{HEX32}/\d{{10}}-{HEX64}",
    TOMBSTONES: rf"drop/{HEX32}-{HEX64}",
}  # fmt: skip
SIZE_MAX = {DATA_PACK: 128 * MIB, META_PACK: 128 * MIB, SHARD: 256 * MIB, CATALOGUE: 64 * MIB}  # else 1 MiB
# How many fields the signed body of each kind has, and how many of the first of them stand in the name.
FIELDS = {CONFIG: (8, 1), DEVICE: (5, 1), SESSION: (5, 2), SHARD: (7, 0), CATALOGUE: (2, 0), MANIFEST: (19, 2),
          SEAL: (4, 2), TOMBSTONES: (7, 1)}  # fmt: skip
# Names one record; pack, offset and stored length are a hint where it is.
Reference = namedtuple("Reference", "id length codec pack epoch enc offset stored")
# One entry of a tree with everything that it leaves out, its path and position.
Node = namedtuple("Node", "path entry position")


class References:
    """Reads the references of one record in the order of their bytes (section 9)."""

    def __init__(self, places: list[list[Any]]) -> None:
        self.places = places
        self.last: tuple[int, int] | None = None  # place and end of the reference before
        self.shared: Reference | None = None  # the record of the fragment before

    def reference(self, value: list[Any]) -> Reference:
        """A reference with everything that it leaves out."""
        check(len(value) in (2, 3, 5), "a reference of a wrong length")
        id, length, stored, place, offset = [*value, None, None, None][:5]
        check(len(value) != 3 or stored is not None, "a reference without its stored length")
        codec, stored = (0, length + 40) if stored is None else (1, stored)
        if len(value) < 5:
            check(self.last, "a reference follows none")
            place, offset = self.last
        check(len(id) == 32 and 0 <= place < len(self.places), "a reference to no record or no place")
        self.last = place, offset + stored
        check(self.last[1] < 1 << 32, "a reference reaches beyond every pack")
        return Reference(id, length, codec, *self.places[place], offset, stored)

    def content(self, value: list[Any]) -> list[Any]:
        """References, or depth and reference of a list."""
        if value and isinstance(value[0], int):
            check(len(value) == 2, "a list content of a wrong length")
            return [value[0], self.reference(value[1])]
        return [self.reference(item) for item in value]

    def entry(self, entry: dict[int, Any]) -> dict[int, Any]:
        """An entry with everything that it leaves out; its references stand in the order of their keys (section 10)."""
        value = lambda item: item if isinstance(item, bytes) else [item[0], self.content(item[1])]  # noqa: E731
        whole = {
            10: self.content, 11: self.content, 12: self.reference,
            14: lambda pairs: [[name, value(item)] for name, item in pairs], 17: value,
            18: lambda streams: [[name, size, self.content(item)] for name, size, item in streams],
        }  # fmt: skip
        entry = {key: whole[key](item) if key in whole else item for key, item in entry.items()}
        check(not {10, 11} <= entry.keys(), "two contents")
        if 32 in entry:
            record = entry.setdefault(10, [self.shared])
            check(len(record) == 1 and record[0], "a fragment of no record or of several")
            check(not {11, 19} & entry.keys() and {7, 23} <= entry.keys() and entry[1] == FILE, "no plain file is a fragment")
            check(entry[32] + entry[7] <= record[0].length, "a fragment reaches beyond its record")
            self.shared = record[0]
        for key, base in ((6, 5), (8, 6)):
            if isinstance(entry.get(key), int):
                check(base in entry, "a time counts from one that is not there")
                seconds, nanoseconds = entry[base]
                entry[key] = [*divmod(seconds * 10**9 + nanoseconds + entry[key], 10**9)]
        if 7 not in entry and entry[1] == FILE:
            check(11 not in entry and 19 not in entry, "a file without size")
            entry[7] = sum(reference.length for reference in entry.get(10, ()))
        elif 7 not in entry and entry[1] == SYMLINK:
            entry[7] = len(entry[13])
        return entry


class Repository:
    """An open repository: verified objects, and records by reference."""

    def __init__(self, root: Path, slot_kind: int, secret: bytes) -> None:
        self.root = root
        for name in self.names(SLOT):
            with about(name), open(root / name, "rb") as slot:
                if keys := open_slot(name, slot.read(4097), slot_kind, secret):
                    self.keys = keys
                    break
        else:
            raise FormatError(f"{root}: no key slot opens with this key")
        self.devices = [self.signed(DEVICE, name) for name in self.names(DEVICE)]
        config: dict[int, Any] = {}
        for name in self.names(CONFIG):  # the highest valid generation counts
            with suppress(FormatError):
                config = self.signed(CONFIG, name)
        check(config and config[5] <= 1 and not config[7], "no valid configuration, or one for a newer reader")

    def names(self, kind: int) -> list[str]:
        """The names of all objects of a kind, sorted. Anything else is not part of the repository."""
        found = (self.root / NAMES[kind].split("/")[0]).rglob("*")
        names = (path.relative_to(self.root).as_posix() for path in found if path.is_file())
        return sorted(name for name in names if re.fullmatch(NAMES[kind], name))

    def load(self, kind: int, name: str) -> tuple[int, bytes]:
        """Epoch and bytes of an object whose size, name and header are right."""
        check((self.root / name).stat().st_size <= SIZE_MAX.get(kind, MIB), "over the limit")
        raw = (self.root / name).read_bytes()
        check(not NAMES[kind].endswith(HEX64) or blake3(raw).hexdigest() == name[-64:], "hash differs from the name")
        epoch, repository = parse_header(kind, name, raw)
        check(repository == self.keys.repository, "belongs to another repository")
        return epoch, raw

    def signed(self, kind: int, name: str) -> dict[int, Any]:
        """The payload of an object that is one signed body."""
        with about(name):
            epoch, raw = self.load(kind, name)
            key, start = self.keys.epochs[epoch]["catalogue" if kind == CATALOGUE else "structure"], 48
            if kind == MANIFEST:
                key, start = self.keys.export(epoch, "tree", raw[48:80], "object"), 80
            payload = self.verify(kind, raw[:48], open_section(key, 0, True, raw[start:], raw[:48]))
            parts = [payload[at] for at in range(FIELDS[kind][1])]
            said = "/".join(part.hex() if isinstance(part, bytes) else f"{part:010}" for part in parts)
            check(name.split("/", 1)[1].startswith(said), "differs from its name")
            return payload

    def verify(self, kind: int, header: bytes, body: bytes) -> dict[int, Any]:
        """The payload of a signed body whose signer may write such an object."""
        payload, signature, signer = decode_cbor(unpad(body))
        fields = decode_cbor(payload, FIELDS[kind][0])
        if kind in (CONFIG, DEVICE):
            allowed = {self.keys.root} if signer == bytes(16) else set()
        else:
            roles = (OWNER, WRITER, MAINTAINER) if kind in (SHARD, CATALOGUE) else (OWNER, WRITER)
            roles = (OWNER, MAINTAINER) if kind == TOMBSTONES else roles
            allowed = {device[1] for device in self.devices if device[0] == signer and device[2] in roles}
            check(kind in (SHARD, CATALOGUE) or fields[kind == TOMBSTONES] == signer, "not signed by its device")
        check(len(allowed) == 1, "not signed by one who may write it")
        Ed25519PublicKey.from_public_bytes(*allowed).verify(signature, CONTEXT.encode() + b"signed" + header + payload)
        return fields

    def latest(self) -> dict[int, Any]:
        """The manifest of the newest snapshot that is sealed and not forgotten."""
        forgotten = self.forgotten()
        seals = [self.signed(SEAL, name) for name in self.names(SEAL)]
        sealed = {(seal[0], seal[1], seal[2].hex()) for seal in seals}
        found = [(self.signed(MANIFEST, name), name[-64:]) for name in self.names(MANIFEST)
                 if name[-64:] not in forgotten]
        found = [(fields[5], id, fields) for fields, id in found if (fields[0], fields[1], id) in sealed]
        check(found, "there is no sealed snapshot")
        return max(found)[2]

    def forgotten(self) -> set[str]:
        """Hashes of the manifests that are forgotten: what one object of tombstones says and none undoes (section 12)."""
        said, undone = set(), set()
        for name in self.names(TOMBSTONES):
            with suppress(FormatError):  # one that does not count changes nothing
                fields = self.signed(TOMBSTONES, name)
                undoings = [(of.hex(), manifest) for of, manifest in fields[6]]
                check(fields[5] == sorted(set(fields[5])) and undoings == sorted(set(undoings)), "rows do not ascend")
                check(len(fields[5]) + len(undoings) <= 8192, "too many rows")
                said |= {(name[-64:], manifest) for manifest in fields[5]}
                undone |= set(undoings)
        return {manifest.hex() for _, manifest in said - undone}

    def record(self, kind: int, reference: Reference) -> bytes:
        """The content of a record: by its hint, else by the index."""
        try:
            return self._fetch(kind, reference)
        except FormatError:
            entries = [entry for name in self.names(SHARD) for entry in self.read_shard(name)]
            for hint in (hint for found, hint, _ in entries if (found, hint.id) == (kind, reference.id)):
                with suppress(FormatError):
                    return self._fetch(kind, hint)
            raise

    def _fetch(self, kind: int, reference: Reference) -> bytes:
        pack = reference.pack.hex()
        with about(pack), open(self.root / ("pack" if kind == DATA else "meta") / pack[:2] / pack, "rb") as file:
            file.seek(reference.offset)
            return self.open_record(kind, reference, file.read(min(reference.stored, 128 * MIB)))

    def open_record(self, kind: int, reference: Reference, sealed: bytes) -> bytes:
        id, length, codec, pack, epoch, enc, offset, stored = reference
        pair = "data" if kind == DATA else "tree"
        with about(f"record {id.hex()} in pack {pack.hex()} at {offset}"):
            check(1 <= length <= 16 * MIB and codec in (0, 1) and len(sealed) == stored, "wrong codec or length")
            session = self.keys.export(epoch, pair, enc, "record")
            aad = b"rec1" + self.keys.repository + struct.pack("<HBBI", epoch, kind, codec, length) + id
            plain = AESGCM(mac(session, sealed[:24] + id)).decrypt(sealed[12:24], sealed[24:], aad)
            if codec == 1:
                claimed = zstandard.get_frame_parameters(plain).content_size
                check(claimed in (length, zstandard.CONTENTSIZE_UNKNOWN), "zstd frame of a wrong length")
                plain = zstandard.ZstdDecompressor().decompress(plain, max_output_size=length, allow_extra_data=False)
            check(len(plain) == length, "differs in length")
            check(mac(self.keys.epochs[epoch][f"id {pair}"], plain) == id, "id differs from the content")
            return plain

    @cache
    def read_shard(self, name: str) -> list[tuple[int, Reference, int]]:
        """Kind, reference and pack size of every entry of an index shard, checked against its fence."""
        with about(name):
            epoch, raw = self.load(SHARD, name)
            fence_length, count, magic = struct.unpack("<II8s", raw[-16:])
            end, key = len(raw) - 16 - fence_length, self.keys.epochs[epoch]["index"]
            check(magic == MAGIC2 and end >= 48, "no tail, or lengths do not add up")
            fence = self.verify(SHARD, raw[:48], open_section(key, count, True, raw[end:-16], raw[:48]))
            starts = enumerate(range(48, end, 16384))
            blocks = [open_section(key, n, False, raw[at : min(at + 16384, end)], raw[:48]) for n, at in starts]
            full, rest = divmod(max(fence[0] - 1, 0), 314)
            used = full * 16384 + (rest + 1) * 52 + 16 if fence[0] else 0
            check(count == (full + 1 if used else 0), "wrong number of blocks")
            check(end - 48 == min(padme_steps(used), count * 16384) if used else end == 48, "blocks of a wrong length")
            rows, filling = [], b""
            for block in blocks:
                held = min(314, fence[0] - len(rows)) * 52
                rows += [block[at : at + 52] for at in range(0, held, 52)]
                filling += block[held:]
            check(not filling.strip(b"\xff"), "wrong filling")
            check(rows == sorted(rows) and fence[3] == b"".join(block[:8] for block in blocks), "not sorted")
            digest, result = 0, []
            for entry in rows:
                id, pack_at, offset, stored, length, session, kind, codec = struct.unpack("<32sIIIIHBB", entry)
                (pack, _, size), (_, epoch, enc) = fence[1][pack_at], fence[2][session]
                numbers = struct.pack("<IIIH", offset, stored, length, epoch)
                digest += int.from_bytes(mac(key, id + pack + numbers + enc + bytes([kind, codec])), "little")
                result.append((kind, Reference(id, length, codec, pack, epoch, enc, offset, stored), size))
            check(fence[6] == blake3(raw[48:end]).digest(), "hash of the blocks differs")
            check(fence[4] == (digest % (1 << 256)).to_bytes(32, "little"), "set digest differs")
            return result


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
        references = References(self.manifest[12])
        root = references.entry(self.manifest[11])
        check(root[0] == b"" and root[1] == DIRECTORY and root[26] < 1 << 44, "the root is not a directory")
        table_references = [references.reference(reference) for _, reference in self.manifest[13]]
        for reference in self.manifest[15]:
            self._fields(TABLE, references.reference(reference), 2)
        for reference in self.manifest.get(20, ()):
            kind, rows = self._fields(TABLE, references.reference(reference), 2)
            check(kind == 3 and 0 < len(rows) <= 4096, "not a list of changes")
            check(all(1 <= change <= 5 and entry <= BLOCK for change, entry, *_ in rows), "unknown kind of change")
        yield from self._walk(Node(b"", root, 1))
        tables = [self._fields(TABLE, reference, 2) for reference in table_references]
        check([rows[0][0] for _, rows in tables] == [first for first, _ in self.manifest[13]], "table begins elsewhere")
        expected = sorted([at, group[0], len(group)] for group in self.groups.values() if group[1:] for at in group)
        check(expected == [row for _, rows in tables for row in rows], "hard-link table differs from the tree")

    def _walk(self, node: Node) -> Iterator[Any]:
        """A node and all below it; `return`s positions, bytes of files, and entries that are not directories."""
        entry, kind, size = node.entry, node.entry[1], node.entry.get(7, 0)
        with about(f"entry /{os.fsdecode(node.path)}"):
            check(FILE <= kind <= BLOCK, "unknown kind")
            check(kind != SYMLINK or size == len(entry[13]) <= 65536, "symlink to a target of another length")
            check(len(entry.get(10, ())) <= 32, "too much content")
            edges = [0, *chain(*([offset, offset + length] for offset, length in entry.get(19, ()))), size]
            check(edges == sorted(edges), "sparse map is not in order")
        if 9 in entry:
            self.groups.setdefault(entry[9], []).append(node.position)
        yield node
        if kind != DIRECTORY:
            return 1, size if kind == FILE else 0, 1
        positions, directories, size, others = 1, 0, 0, 0
        for child in self._page(entry[12], None, b"", 6) if 12 in entry else ():
            path = os.path.join(node.path, child[0])
            below = yield from self._walk(Node(path, child, node.position + positions))
            positions, size, others = positions + below[0], size + below[1], others + below[2]
            directories += child[1] == DIRECTORY
        said = [entry[key] for key in (26, 27, 28, 29)]
        check(said == [positions, directories, size, others], f"/{os.fsdecode(node.path)}: counts differ")
        return positions, size, others

    def _page(self, reference: Reference, first: bytes | None, after: bytes, depth: int) -> Iterator[Any]:
        """The entries of a page or page index; `return`s their number, their positions and the last name."""
        with about(f"tree page {reference.id.hex()}"):
            check(depth > 0 and reference.length <= 2 * MIB, "over the limit, or nested too deeply")
            kind, places, items = self._fields(TREE, reference, 3)
            check(kind in (1, 2) and items, "empty, or neither page nor page index")
            entries = positions = 0
            references = References(places)
            for item in items:
                name = item[0]
                check(1 <= len(name) <= 4096 and name not in (b".", b"..") and not set(name) & {0, 0x2F}, "wrong name")
                check(name > after and first in (None, name), "names are not sorted, or not as in the page index")
                first = None
                if kind == 1:
                    yield references.entry(item)
                    entries, positions, after = entries + 1, positions + item.get(26, 1), name
                else:
                    below = yield from self._page(references.reference(item[3]), name, after, depth - 1)
                    entries, positions, after = entries + below[0], positions + below[1], below[2]
                    check([entries, positions] == item[1:3], "counts differ from the pages")
            return entries, positions, after

    def content(self, value: list[Any]) -> Iterator[bytes]:
        """The chunks of a content value: references, or depth and reference of a list."""
        if not value or isinstance(value[0], Reference):
            for reference in value:
                yield self.repository.record(DATA, reference)
            return
        depth, length = value[0], 0
        found, places, rows = self._fields(LIST, value[1], 3)
        check(1 <= found == depth <= 6 and 1 <= len(rows) <= 4096, "depth or length of a list is wrong")
        references = References(places)
        for end, row in rows:
            reference = references.reference(row)
            for chunk in self.content([depth - 1, reference] if depth > 1 else [reference]):
                length += len(chunk)
                yield chunk
            check(length == end, "row of a list ends elsewhere")

    def file_data(self, node: Node) -> Iterator[tuple[int, bytes]]:
        """Offsets and bytes of the data of a file; size and hash, of whichever epoch, are checked before the end."""
        entry = node.entry
        extents = entry.get(19, [[0, entry[7]]])
        remaining = [extent for extent in extents if extent[1]]
        hashers = [blake3(key=keys["file hash"]) for keys in self.repository.keys.epochs.values()]
        content = entry.get(10) or entry.get(11) or []
        check(23 in entry or 24 in entry or (len(content) <= 1 and 19 not in entry), "a file without its hash")
        for chunk in self.content(content):
            chunk = chunk[entry[32] : entry[32] + entry[7]] if 32 in entry else chunk
            for hasher in hashers:
                hasher.update(chunk)
            while chunk:
                check(remaining, "more content than its size")
                offset, length = remaining.pop(0)
                yield offset, chunk[:length]
                if length > len(chunk):
                    remaining.insert(0, [offset + len(chunk), length - len(chunk)])
                chunk = chunk[length:]
        check(not remaining or 24 in entry, "less content than its size")  # a placeholder may have none
        tail = struct.pack(f"<{2 * len(extents)}QQ", *chain(*extents), entry[7]) if 19 in entry else b""
        check(23 not in entry or entry[23] in [hasher.update(tail).digest() for hasher in hashers], "file hash differs")
