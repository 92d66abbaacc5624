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

from blake3 import blake3

from keys import (CATALOGUE, CONFIG, DATA_PACK, ERRORS, MAGIC2, MANIFEST, META_PACK, SEAL, SESSION, SHARD, FormatError,
                  about, check, open_section, read_credential)  # fmt: skip
from repository import DATA, TABLE, Reference, Repository
from tree import BLOCK, CHARACTER, DIRECTORY, FIFO, FILE, SOCKET, SYMLINK, Node, TreeReader

TYPES = {FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK, CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK}


def restore(tree: TreeReader, target: bytes) -> None:
    """Writes a snapshot into an empty directory."""
    os.makedirs(target, exist_ok=True)
    check(not os.listdir(target), "the target is not empty")
    directories: list[tuple[bytes, Node]] = []
    leaders: dict[int, bytes] = {}
    for node in tree.walk():
        path = os.path.join(target, node.path)
        leader = leaders.setdefault(node.entry.get(9, -node.position), path)
        if node.entry[1] == DIRECTORY:
            os.makedirs(path, 0o700, exist_ok=True)
            directories.append((path, node))
        elif leader != path:
            os.link(leader, path, follow_symlinks=False)
        else:
            with about(os.fsdecode(path)):
                create(tree, node, path)
                apply(tree, node, path)
    for path, node in reversed(directories):  # times and modes last: children would change or need them
        apply(tree, node, path)


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


def apply(tree: TreeReader, node: Node, path: bytes) -> None:
    entry = node.entry
    if os.geteuid() == 0:
        os.chown(path, entry.get(3, -1), entry.get(4, -1), follow_symlinks=False)
    for name, value in entry.get(14, ()):
        os.setxattr(path, name, tree.value(value, node), follow_symlinks=False)
    if 2 in entry and entry[1] != SYMLINK:
        os.chmod(path, entry[2])
    for name, value in zip(("system.posix_acl_access", "system.posix_acl_default"), entry.get(15, ())):
        if value is not None:
            os.setxattr(path, name, value)
    if 5 in entry:
        nanoseconds = entry[5][0] * 10**9 + entry[5][1]
        os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


class Verifier:
    """Reads every object. One damaged object is one problem, not the end."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.sessions: dict[bytes, tuple[int, bytes, bytes]] = {}
        self.packs: dict[bytes, tuple[int, set[tuple[int, Reference]]]] = {}

    def run(self) -> list[str]:
        problems: list[str] = []
        for kind in (SESSION, DATA_PACK, META_PACK, SHARD, CONFIG, SEAL, CATALOGUE, MANIFEST):
            for name in self.repository.names(kind):
                try:
                    with about(name):
                        self.verify(kind, name)
                except (FormatError, OSError) as error:
                    problems.append(str(error))
        return problems

    def verify(self, kind: int, name: str) -> None:
        if kind in (DATA_PACK, META_PACK):
            return self.verify_pack(kind, name)
        if kind == SHARD:
            return self.verify_shard(name)
        payload = self.repository.signed(kind, name)
        if kind == SESSION:
            self.sessions[payload[1]] = (self.repository.load(kind, name)[0], payload[3], payload[4])
        if kind == MANIFEST:
            self.verify_snapshot(TreeReader(self.repository, payload))
        return None

    def verify_pack(self, kind: int, name: str) -> None:
        """Every record of a pack, one behind the other, as its trailer says (section 7)."""
        epoch, raw = self.repository.load(kind, name)
        check(blake3(raw[:-32]).digest() == raw[-32:], "hash at the end differs")
        trailer_length, zero, magic = struct.unpack("<II8s", raw[-48:-32])
        trailer_at = len(raw) - 48 - trailer_length
        check(zero == 0 and magic == MAGIC2 and trailer_at >= 48, "wrong tail")
        key = self.repository.keys.epochs[epoch]["structure"]
        table = open_section(key, 0, True, raw[trailer_at:-48], raw[:48])
        session_count, record_count = struct.unpack_from("<II", table)
        rows_at, end = 8 + 64 * session_count, 8 + 64 * session_count + 48 * record_count
        check(len(table) == -(-end // 4096) * 4096 and not any(table[end:]), "table has a wrong length or filling")
        sessions = []
        for session, enc, epoch, zeros in struct.iter_unpack("<16s32sH14s", table[8:rows_at]):
            known = self.sessions[session]
            check((epoch, enc) == (known[0], known[1 if kind == DATA_PACK else 2]) and not any(zeros), "wrong session")
            sessions.append((epoch, enc))
        offset, seen = 48, set()
        for id, stored, length, session, record, codec, zeros in struct.iter_unpack("<32sIIHBB4s", table[rows_at:end]):
            check(DATA <= record <= TABLE and (record == DATA) == (kind == DATA_PACK) and not any(zeros), "wrong record")
            reference = Reference(id, length, codec, bytes.fromhex(name[-32:]), *sessions[session], offset, stored)
            self.repository.open_record(record, reference, raw[offset : offset + stored])
            seen.add((record, reference))
            offset += stored
        total = offset + trailer_length + 48
        step = 1 << (total.bit_length() - 1 - (total.bit_length() - 1).bit_length())
        check(offset <= trailer_at and len(raw) == -(-total // step) * step, "length is not the Padmé step")
        self.packs[bytes.fromhex(name[-32:])] = (len(raw), seen)

    def verify_shard(self, name: str) -> None:
        for kind, reference, size in self.repository.read_shard(name):
            listed, seen = self.packs.get(reference.pack, (size, None))  # a pack may be gone: an entry is a hint
            check(listed == size and (seen is None or (kind, reference) in seen), "an entry differs from its pack")

    def verify_snapshot(self, tree: TreeReader) -> None:
        for node in tree.walk():
            with about(os.fsdecode(node.path)):
                if node.entry[1] == FILE and not (24 in node.entry and not node.entry.keys() & {10, 11}):
                    for _ in tree.file_data(node):
                        pass
                values = [value for _, value in node.entry.get(14, ())] + [node.entry.get(17, b"")]
                for value in values + [[size, content] for _, size, content in node.entry.get(18, ())]:
                    tree.value(value, node)


def main() -> int:
    parser = argparse.ArgumentParser(description="Independent reader of yesterdrive repositories in a local directory.")
    parser.add_argument("--repository", required=True, type=Path)
    key = parser.add_mutually_exclusive_group(required=True)
    for slot_kind, option in enumerate(("--password-file", "--recovery-file", "--key-file"), 1):
        key.add_argument(option, dest="key", type=lambda path, kind=slot_kind: (kind, Path(path)))
    parser.add_argument("--snapshot", default="", help="the beginning of an id; else the newest that is sealed")
    parser.add_argument("command", choices=("list", "restore", "verify"))
    parser.add_argument("target", nargs="?", type=os.fsencode)
    arguments = parser.parse_args()
    try:
        repository = Repository(arguments.repository, arguments.key[0], read_credential(*arguments.key))
        if arguments.command == "verify":
            problems = Verifier(repository).run()
            check(not problems, "\n".join(problems))
            return 0
        snapshots = repository.snapshots()
        if arguments.command == "list":
            for id, fields, sealed in snapshots:
                print(id, "sealed" if sealed else "incomplete", fields[5][0], repr(fields[7]), repr(fields[8]))
            return 0
        found = [fields for id, fields, sealed in snapshots if id.startswith(arguments.snapshot or "" * sealed)]
        restore(TreeReader(repository, found[-1]), arguments.target)
    except (*ERRORS, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
