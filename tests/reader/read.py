#!/usr/bin/env python3
"""The second reader of repository format 1. It is written from docs/FORMAT.md alone, so it tests the document."""

import argparse
import json
import os
import stat
import struct
import sys
from pathlib import Path
from typing import Any

from blake3 import blake3

from keys import (CATALOGUE, CONFIG, DATA_PACK, MAGIC2, MANIFEST, META_PACK, OWNER, SEAL, SESSION, SHARD, TOMBSTONES, FormatError,
                  Keys, about, check, epoch_keys, mac, open_section, padme, padme_steps, read_credential)  # fmt: skip
from repository import (BLOCK, CHARACTER, DATA, DIRECTORY, FIFO, FILE, FRAGMENT, SOCKET, SYMLINK, TABLE, Reference,
                        Repository, TreeReader)  # fmt: skip


def restore(tree: TreeReader, target: bytes) -> None:
    """Writes a snapshot into a new directory, without extended attributes, ACLs and what only Windows has."""
    special = {FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK, CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK}
    directories: list[tuple[dict[int, Any], bytes]] = []
    leaders: dict[int, bytes] = {}
    for node in tree.walk():
        path, entry, kind = os.path.join(target, node.path), node.entry, node.entry[1]
        leader = leaders.setdefault(entry.get(9, -node.position), path)
        with about(os.fsdecode(path)):
            if kind == DIRECTORY:
                os.mkdir(path, 0o700)
                directories.append((entry, path))
                continue
            if leader != path:
                os.link(leader, path, follow_symlinks=False)
                continue
            if kind == FILE:
                with open(path, "xb") as file:
                    file.truncate(entry[7])
                    for offset, part in tree.file_data(node):
                        file.seek(offset)
                        file.write(part)
            elif kind == SYMLINK:
                os.symlink(entry[13], path)
            else:
                os.mknod(path, special[kind] | 0o600, os.makedev(*entry.get(20, (0, 0))))
            set_metadata(entry, path)
    for entry, path in reversed(directories):  # children would change their times and need their modes
        set_metadata(entry, path)


def set_metadata(entry: dict[int, Any], path: bytes) -> None:
    if os.geteuid() == 0:
        os.chown(path, entry.get(3, -1), entry.get(4, -1), follow_symlinks=False)
    if 2 in entry and entry[1] != SYMLINK:
        os.chmod(path, entry[2])
    if 5 in entry:
        nanoseconds = entry[5][0] * 10**9 + entry[5][1]
        os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


def verify(repository: Repository) -> list[str]:
    """Reads every object; one damaged object is one problem, not the end."""
    packs: dict[bytes, tuple[int, set[Any]]] = {}
    problems: list[str] = []
    for kind in (DATA_PACK, META_PACK, SHARD, CONFIG, SESSION, SEAL, CATALOGUE, TOMBSTONES, MANIFEST):
        for name in repository.names(kind):
            try:
                with about(name):
                    if kind in (DATA_PACK, META_PACK):
                        packs[bytes.fromhex(name[-32:])] = verify_pack(repository, kind, name)
                    elif kind == SHARD:
                        for record, reference, size in repository.read_shard(name):
                            found = packs.get(reference.pack, (size, {(record, reference)}))  # a pack may be gone
                            check(found[0] == size and (record, reference) in found[1], "differs from a pack")
                    else:
                        tree = TreeReader(repository, repository.signed(kind, name))
                        for node in tree.walk() if kind == MANIFEST else ():
                            for _ in tree.file_data(node) if node.entry[1] == FILE else ():
                                pass
            except FormatError as error:
                problems.append(str(error))
    return problems


def verify_pack(repository: Repository, kind: int, name: str) -> tuple[int, set[Any]]:
    """Length and records of a pack, which lie one behind the other as its trailer says (section 7)."""
    epoch, raw = repository.load(kind, name)
    trailer_length, zero, magic, digest = struct.unpack("<II8s32s", raw[-48:])
    trailer_at = len(raw) - 48 - trailer_length
    check((zero, magic, digest) == (0, MAGIC2, blake3(raw[:-32]).digest()), "tail or hash at the end differ")
    table = open_section(repository.keys.epochs[epoch]["structure"], 0, True, raw[trailer_at:-48], raw[:48])
    session_count, record_count = struct.unpack_from("<II", table)
    rows_at, end = 8 + 64 * session_count, 8 + 64 * session_count + 48 * record_count
    check(len(table) == padme_steps(end) and not any(table[end:]), "table has a wrong length or filling")
    sessions = list(struct.iter_unpack("<16s32sH14s", table[8:rows_at]))
    offset, seen = 48, set()
    plain, last = b"", (0, 0)
    for id, stored, length, session, record, codec, zeros in struct.iter_unpack("<32sIIHBB4s", table[rows_at:end]):
        if record == FRAGMENT:  # of the record before it, from `stored` on
            at, of = last
            part = plain[stored : stored + length]
            check(of == session and codec == 0 and not any(zeros) and len(part) == length > 0, "no part of a record")
            _, enc, epoch, _ = sessions[session]
            check(mac(repository.keys.epochs[epoch]["file hash"], part) == id, "hash of a fragment differs")
            seen.add((FRAGMENT, Reference(id, length, 0, bytes.fromhex(name[-32:]), epoch, enc, at, stored)))
            continue
        check(DATA <= record <= TABLE and (record == DATA) == (kind == DATA_PACK) and not any(zeros), "wrong record")
        _, enc, epoch, _ = sessions[session]
        reference = Reference(id, length, codec, bytes.fromhex(name[-32:]), epoch, enc, offset, stored)
        plain, last = repository.open_record(record, reference, raw[offset : offset + stored]), (offset, session)
        seen.add((record, reference))
        offset += stored
    check(48 <= offset <= trailer_at and len(raw) == padme(offset + trailer_length + 48), "length is no Padmé step")
    return len(raw), seen


def verify_vectors(vectors: dict[str, Any]) -> None:
    """Computes what `tests/data/vectors.json` says of keys, HPKE, Padmé and records."""
    data = {name: bytes.fromhex(value) for name, value in vectors["keys"].items()}
    derived = epoch_keys({1: data.pop("master")}, OWNER)
    check(set(derived.values()) == set(data.values()), "derived keys differ")
    check(all(padme(length) == padded for length, padded in vectors["padme"] if length > 1), "Padmé steps differ")
    keys = Keys(bytes.fromhex(vectors["slots"]["owner_bundle"]))
    keys.epochs = {1: derived}
    enc, said = bytes.fromhex(vectors["hpke"]["enc"]), vectors["hpke"]["export"]
    check(keys.export(1, "tree", enc, vectors["hpke"]["label"]).hex() == said, "HPKE export differs")
    id, id_key, plain, session, stored = map(bytes.fromhex, vectors["record"].values())
    keys.export, keys.epochs = lambda *_: session, {1: {"id data": id_key}}
    reference = Reference(id, len(plain), 0, b"", 1, b"", 0, len(stored))
    check(Repository.open_record(argparse.Namespace(keys=keys), DATA, reference, stored) == plain, "record differs")


def main() -> None:
    parser = argparse.ArgumentParser(description="Verifies or restores a repository in a local directory.")
    parser.add_argument("--repository", type=Path)
    key = parser.add_mutually_exclusive_group(required=True)
    for slot_kind, option in enumerate(("--password-file", "--recovery-file", "--key-file"), 1):
        key.add_argument(option, dest="key", type=lambda path, kind=slot_kind: (kind, Path(path)))
    key.add_argument("--vectors", type=Path, help="only verify these vectors")
    parser.add_argument("--restore-to", type=os.fsencode, help="a new directory for the newest sealed snapshot")
    arguments = parser.parse_args()
    sys.setrecursionlimit(20_000)  # a walk nests as deeply as the directories
    try:
        if arguments.vectors:
            return verify_vectors(json.loads(arguments.vectors.read_text()))
        repository = Repository(arguments.repository, arguments.key[0], read_credential(*arguments.key))
        if arguments.restore_to:
            restore(TreeReader(repository, repository.latest()), arguments.restore_to)
        else:
            check(not (problems := verify(repository)), "\n".join(problems))
    except (FormatError, OSError, ValueError, LookupError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
