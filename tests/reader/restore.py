"""Writes a snapshot into a directory."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from tree import Node, TreeReader
from wire import BLOCK, CHARACTER, DIRECTORY, FIFO, FILE, SOCKET, SYMLINK, check

@dataclass
class Restorer:
    """Writes one snapshot below an empty directory. `notes` collects what this system cannot take."""

    tree: TreeReader
    target: bytes
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        os.makedirs(self.target, exist_ok=True)
        check(not os.listdir(self.target), os.fsdecode(self.target), "is not empty")
        directories: list[Node] = []
        leaders: dict[int, Node] = {}
        for node in self.tree.walk():
            leader, _ = self.tree.links.get(node.position, (node.position, 1))
            if node.kind == DIRECTORY:
                directories.append(node)
                if node.path:
                    os.mkdir(self.path(node), 0o700)
            elif leader != node.position:
                self._link(node, leaders.get(leader))
            else:
                leaders[node.position] = node
                if self._create(node):
                    self._apply(node)
        for node in reversed(directories):  # times and modes last: children would change or need them
            self._apply(node)

    def path(self, node: Node) -> bytes:
        return os.path.join(self.target, node.path) if node.path else self.target

    def _link(self, node: Node, leader: Node | None) -> None:
        check(leader is not None, node.where, "its hard-link leader does not stand before it")
        same = all(node.fields.get(key) == leader.fields.get(key) for key in (1, 7, 13, 23))
        check(same, node.where, "differs from its hard-link leader")
        if os.path.lexists(self.path(leader)):
            os.link(self.path(leader), self.path(node), follow_symlinks=False)

    def _create(self, node: Node) -> bool:
        path, kind = self.path(node), node.kind
        if kind == FILE and 24 in node.fields and node.fields[7] and not node.fields.keys() & {10, 11}:
            self.notes.append(f"{node.where}: a placeholder without content is left out")
            return False
        if kind == FILE:
            self._write(node, path)
        elif kind == SYMLINK:
            os.symlink(node.fields[13], path)
        elif kind == FIFO:
            os.mkfifo(path)
        elif os.geteuid() == 0:
            types = {SOCKET: stat.S_IFSOCK, CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK}
            os.mknod(path, types[kind] | 0o600, os.makedev(*node.fields.get(20, (0, 0))))
        else:
            self.notes.append(f"{node.where}: sockets and devices are restored for root only")
            return False
        return True

    def _write(self, node: Node, path: bytes) -> None:
        with open(path, "xb") as file:
            file.truncate(node.fields[7])
            for offset, part in self.tree.file_data(node):
                file.seek(offset)
                file.write(part)

    def _apply(self, node: Node) -> None:
        path, entry = self.path(node), node.fields
        if os.geteuid() == 0 and (3 in entry or 4 in entry):
            os.chown(path, entry.get(3, -1), entry.get(4, -1), follow_symlinks=False)
        for name, value in entry.get(14, ()):
            self._set_attribute(node, path, name, self.tree.stored_value(value, node))
        if 2 in entry and node.kind != SYMLINK:
            os.chmod(path, entry[2])
        for name, value in zip((b"system.posix_acl_access", b"system.posix_acl_default"), entry.get(15, ())):
            if value is not None:
                self._set_attribute(node, path, name, value)
        for key, what in ((17, "security descriptor"), (18, "alternate streams"), (30, "reparse data")):
            if key in entry:
                self.notes.append(f"{node.where}: {what} left out")
        if 5 in entry:
            nanoseconds = entry[5][0] * 10**9 + entry[5][1]
            os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)

    def _set_attribute(self, node: Node, path: bytes, name: bytes, value: bytes) -> None:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            self.notes.append(f"{node.where}: attribute {os.fsdecode(name)}: {error.strerror}")
