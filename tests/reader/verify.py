"""Reads every object of a repository: FORMAT.md, sections 7 and 11 and all that they name."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from blake3 import blake3

from repository import Place, Reference, Repository
from tree import TreeReader
from wire import B16, B32, CATALOGUE, CONFIG, DATA, DATA_PACK, FILE, FormatError, LIST, MAGIC2, MAINTAINER, MANIFEST, META_PACK, OWNER, SEAL, SESSION, SHARD, TABLE, TREE, WRITER, check, check_map, data, data_of, each, maybe, open_section, padme, row

Session = tuple[int, bytes, bytes]


class Verifier:
    """Reads everything. One damaged object is one problem, not the end."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.objects = self.records = 0
        self.packs: dict[bytes, tuple[int, set[tuple[Any, ...]]]] = {}

    def run(self) -> None:
        sessions: dict[bytes, Session] = {}
        for name, payload in self._each(SESSION, self.repository.read_session):
            header, _ = self.repository.load(SESSION, name)
            sessions[payload[1]] = (header.epoch, payload[3], payload[4])
        for kind in (DATA_PACK, META_PACK):
            list(self._each(kind, lambda name, kind=kind: self.verify_pack(kind, name, sessions)))
        list(self._each(SHARD, self.verify_shard))
        list(self._each(CONFIG, self.repository.read_config))
        list(self._each(SEAL, self.repository.read_seal))
        list(self._each(CATALOGUE, self.verify_catalogue))
        list(self._each(MANIFEST, self.verify_snapshot))

    def _each(self, kind: int, verify: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
        for name in self.repository.store.names(kind):
            self.objects += 1
            try:
                yield name, verify(name)
            except (FormatError, OSError) as error:
                self.problems.append(str(error) if name in str(error) else f"{name}: {error}")

    def verify_pack(self, kind: int, name: str, sessions: dict[bytes, Session]) -> None:
        header, raw = self.repository.load(kind, name)
        check(len(raw) >= 48 + 16 + 16 + 32, name, "too short for a pack")
        check(blake3(raw[:-32]).digest() == raw[-32:], name, "hash at the end differs")
        trailer_length, zero = struct.unpack("<II", raw[-48:-40])
        check(zero == 0 and raw[-40:-32] == MAGIC2, name, "no tail")
        trailer_at = len(raw) - 48 - trailer_length
        check(trailer_at >= 48, name, "trailer is longer than the pack")
        key = self.repository.key(header, "K_struct", name)
        table = open_section(key, 0, True, raw[trailer_at:-48], header.bytes, name)
        places, rows = parse_pack_table(table, header.salt, kind, sessions, name)
        offset, seen = 48, set()
        for id, stored, length, session_at, record_kind, codec in rows:
            check(session_at < len(places), name, "record names a session that is not listed")
            check((record_kind == DATA) == (kind == DATA_PACK), name, f"record kind {record_kind} does not fit the pack")
            check(record_kind in (DATA, TREE, LIST, TABLE), name, f"unknown record kind {record_kind}")
            reference = Reference(id, length, codec, places[session_at], offset, stored)
            check(offset + stored <= trailer_at, name, "records reach into the trailer")
            self.repository.open_record(record_kind, reference, raw[offset : offset + stored])
            seen.add((record_kind, reference))
            offset += stored
            self.records += 1
        check(len(raw) == padme(offset + trailer_length + 48), name, "length is not the Padmé step")
        self.packs[header.salt] = (len(raw), seen)

    def verify_shard(self, name: str) -> None:
        for kind, reference, size in self.repository.read_shard(name):
            pack = self.packs.get(reference.place.pack)
            if pack is None:
                self.notes.append(f"{name}: pack {reference.place.pack.hex()} is not listed or damaged")
                continue
            check(pack[0] == size, name, f"pack {reference.place.pack.hex()} has another size")
            check((kind, reference) in pack[1], name, f"record {reference.id.hex()} does not lie where the entry says")

    def verify_catalogue(self, name: str) -> None:
        repository = self.repository
        payload, _ = repository.load_signed(CATALOGUE, name, "K_cat", (OWNER, WRITER, MAINTAINER))
        manifest = row(B32, data_of(48), data, data_of(64), B16, maybe(B32))
        check_map(payload, {0: each(manifest), 1: each(B32)}, {}, name)
        hashes = [entry[0] for entry in payload[0]]
        check(all(a < b for a, b in zip(hashes, hashes[1:])), name, "entries are not sorted")
        for _, header, fields, signature, signer, _ in payload[0]:
            repository.verify_signature(fields, signature, signer, header, (OWNER, WRITER), name)

    def verify_snapshot(self, name: str) -> None:
        tree = TreeReader(self.repository, self.repository.read_manifest(name))
        tree.findings()
        for node in tree.walk():
            if node.kind == FILE and not (24 in node.fields and not node.fields.keys() & {10, 11}):
                for _ in tree.file_data(node):
                    pass
            for _, value in node.fields.get(14, ()):
                tree.stored_value(value, node)
            for _, size, content in node.fields.get(18, ()):
                tree.stored_value([size, content], node)
            tree.stored_value(node.fields.get(17, b""), node)


def parse_pack_table(table: bytes, pack: bytes, kind: int, sessions: dict[bytes, Session], name: str) -> tuple[list[Place], list[Any]]:
    """The places and the record rows of a pack's trailer."""
    session_count, record_count = struct.unpack_from("<II", table) if len(table) >= 8 else (0, 0)
    length = 8 + 64 * session_count + 48 * record_count
    check(len(table) == -(-length // 4096) * 4096, name, "trailer has a wrong length")
    check(not any(table[length:]), name, "filling of the trailer is not zero")
    places = []
    for at in range(8, 8 + 64 * session_count, 64):
        session, enc, epoch, zero = struct.unpack_from("<16s32sH14s", table, at)
        check(not any(zero), name, "session row is not filled with zeros")
        known = sessions.get(session)
        check(known, name, f"session {session.hex()} is missing")
        check((epoch, enc) == (known[0], known[1 if kind == DATA_PACK else 2]), name, f"differs from session {session.hex()}")
        places.append(Place(pack, epoch, enc))
    rows = list(struct.iter_unpack("<32sIIHBB4s", table[8 + 64 * session_count : length]))
    check(not any(any(fields[6]) for fields in rows), name, "record row is not filled with zeros")
    return places, [fields[:6] for fields in rows]
