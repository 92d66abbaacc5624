#!/usr/bin/env python3
"""The second reader of repository format 1: restores and verifies a repository in a local directory.

It is written from docs/FORMAT.md alone and shares nothing with the program, so it tests the document.
"""

import argparse
import os
import stat
import struct
import sys
from pathlib import Path
from typing import Any

from blake3 import blake3

from keys import (CATALOGUE, CONFIG, DATA_PACK, MAGIC2, MANIFEST, META_PACK, SEAL, SESSION, SHARD, FormatError, about,
                  check, open_section, padme, read_credential)  # fmt: skip
from repository import DATA, TABLE, Reference, Repository
from tree import BLOCK, CHARACTER, DIRECTORY, FIFO, FILE, SOCKET, SYMLINK, Node, TreeReader

TYPES = {FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK, CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK}


def restore(tree: TreeReader, target: bytes) -> None:
    """Writes a snapshot into an empty directory, without extended attributes, ACLs and what only Windows has."""
    os.makedirs(target, exist_ok=True)
    check(not os.listdir(target), "the target is not empty")
    directories: list[tuple[dict[int, Any], bytes]] = []
    leaders: dict[int, bytes] = {}
    for node in tree.walk():
        path = os.path.join(target, node.path)
        leader = leaders.setdefault(node.entry.get(9, -node.position), path)
        with about(os.fsdecode(path)):
            if node.entry[1] == DIRECTORY:
                os.makedirs(path, 0o700, exist_ok=True)
                directories.append((node.entry, path))
            elif leader != path:
                os.link(leader, path, follow_symlinks=False)
            else:
                create(tree, node, path)
                set_metadata(node.entry, path)
    for entry, path in reversed(directories):  # children would change their times and need their modes
        set_metadata(entry, path)


def create(tree: TreeReader, node: Node, path: bytes) -> None:
    kind, entry = node.entry[1], node.entry
    if kind == FILE:
        with open(path, "xb") as file:
            file.truncate(entry[7])
            for offset, part in tree.file_data(node):
                file.seek(offset)
                file.write(part)
    elif kind == SYMLINK:
        os.symlink(entry[13], path)
    else:
        os.mknod(path, TYPES[kind] | 0o600, os.makedev(*entry.get(20, (0, 0))))


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
    for kind in (DATA_PACK, META_PACK, SHARD, CONFIG, SESSION, SEAL, CATALOGUE, MANIFEST):
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
                        payload = repository.signed(kind, name)
                        tree = TreeReader(repository, payload)
                        for node in tree.walk() if kind == MANIFEST else ():
                            list(tree.file_data(node) if node.entry[1] == FILE else ())
            except FormatError as error:
                problems.append(str(error))
    return problems


def verify_pack(repository: Repository, kind: int, name: str) -> tuple[int, set[Any]]:
    """Length and records of a pack, which lie one behind the other as its trailer says (section 7)."""
    epoch, raw = repository.load(kind, name)
    check(blake3(raw[:-32]).digest() == raw[-32:], "hash at the end differs")
    trailer_length, zero, magic = struct.unpack("<II8s", raw[-48:-32])
    trailer_at = len(raw) - 48 - trailer_length
    check(zero == 0 and magic == MAGIC2 and trailer_at >= 48, "wrong tail")
    table = open_section(repository.keys.epochs[epoch]["structure"], 0, True, raw[trailer_at:-48], raw[:48])
    session_count, record_count = struct.unpack_from("<II", table)
    rows_at, end = 8 + 64 * session_count, 8 + 64 * session_count + 48 * record_count
    check(len(table) == -(-end // 4096) * 4096 and not any(table[end:]), "table has a wrong length or filling")
    sessions = list(struct.iter_unpack("<16s32sH14s", table[8:rows_at]))
    offset, seen = 48, set()
    for id, stored, length, session, record, codec, zeros in struct.iter_unpack("<32sIIHBB4s", table[rows_at:end]):
        check(DATA <= record <= TABLE and (record == DATA) == (kind == DATA_PACK) and not any(zeros), "wrong record")
        _, enc, epoch, _ = sessions[session]
        reference = Reference(id, length, codec, bytes.fromhex(name[-32:]), epoch, enc, offset, stored)
        repository.open_record(record, reference, raw[offset : offset + stored])
        seen.add((record, reference))
        offset += stored
    check(offset <= trailer_at and len(raw) == padme(offset + trailer_length + 48), "length is not the Padmé step")
    return len(raw), seen


def main() -> int:
    parser = argparse.ArgumentParser(description="Independent reader of yesterdrive repositories in a local directory.")
    parser.add_argument("--repository", required=True, type=Path)
    key = parser.add_mutually_exclusive_group(required=True)
    for slot_kind, option in enumerate(("--password-file", "--recovery-file", "--key-file"), 1):
        key.add_argument(option, dest="key", type=lambda path, kind=slot_kind: (kind, Path(path)))
    parser.add_argument("--snapshot", help="the beginning of an id; else the newest that is sealed")
    parser.add_argument("--restore-to", type=os.fsencode, help="an empty directory; else the repository is verified")
    arguments = parser.parse_args()
    try:
        repository = Repository(arguments.repository, arguments.key[0], read_credential(*arguments.key))
        if arguments.restore_to:
            restore(TreeReader(repository, repository.select(arguments.snapshot)), arguments.restore_to)
        else:
            problems = verify(repository)
            check(not problems, "\n".join(problems))
    except (FormatError, OSError, ValueError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
