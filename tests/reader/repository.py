"""Objects and records of a repository, each verified before it is used: FORMAT.md, sections 2, 5, 6, 9, 11 and 12."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keys import Credential, Header, Keys, open_slot, parse_header
from wire import B16, B32, BLOCK_ENTRIES, BLOCK_SIZE, CONFIG, CONTEXT, DATA, DATA_PACK, DEVICE, ENTRY_SIZE, FormatError, LIST, MAGIC2, MAINTAINER, MANIFEST, META_PACK, MIB, NAMED_BY_HASH, NAMES, OWNER, PLACE, READER, RECORD_MAX, REFERENCE, SEAL, SESSION, SHARD, SIZE_MAX, SLOT, Shape, TABLE, TIME, TREE, U16, U32, U64, U8, WRITER, anything, check, check_map, data, data_of, decode_cbor, each, gcm_open, integer, mac, maybe, open_section, row, text, unpad_1024

class Store:
    """Objects as files below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, kind: int) -> list[str]:
        """The names of all objects of a kind, sorted. Anything else is not part of the repository."""
        top = self.root / NAMES[kind].split("/")[0]
        found = (path.relative_to(self.root).as_posix() for path in top.rglob("*") if path.is_file())
        return sorted(name for name in found if self.match(kind, name))

    def match(self, kind: int, name: str) -> re.Match[str] | None:
        match = re.fullmatch(NAMES[kind], name)
        return None if match and kind in (DATA_PACK, META_PACK) and name[5:7] != name[8:10] else match

    def read(self, kind: int, name: str) -> bytes:
        path = self.root / name
        size = path.stat().st_size
        check(size <= SIZE_MAX.get(kind, MIB), name, f"{size} bytes are over the limit")
        raw = path.read_bytes()
        check(kind not in NAMED_BY_HASH or blake3(raw).hexdigest() == name[-64:], name, "hash differs from the name")
        return raw

    def read_range(self, name: str, offset: int, length: int) -> bytes | None:
        try:
            with open(self.root / name, "rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class Place:
    """Where records lie, and with which HPKE value they were sealed."""

    pack: bytes
    epoch: int
    enc: bytes


@dataclass(frozen=True)
class Reference:
    """Names one record, with a hint where it is."""

    id: bytes
    length: int
    codec: int
    place: Place
    offset: int
    stored: int


@dataclass(frozen=True)
class Snapshot:
    """A manifest that passed its checks."""

    name: str
    epoch: int
    fields: dict[int, Any]
    places: list[Place]
    sealed: bool

    @property
    def id(self) -> str:
        return self.name[-64:]


@dataclass(frozen=True)
class Certificate:
    """A device that the root key vouches for."""

    key: Ed25519PublicKey
    role: int


def parse_places(value: list[list[Any]]) -> list[Place]:
    return [Place(*place) for place in value]


def resolve(value: list[Any], places: list[Place], where: str) -> Reference:
    """A reference that has the right shape already, with its place looked up."""
    check(value[3] < len(places), where, "reference to a place that is not listed")
    check(value[2] in (0, 1) and 1 <= value[1] <= RECORD_MAX, where, "reference with an unknown codec or a wrong length")
    return Reference(value[0], value[1], value[2], places[value[3]], value[4], value[5])


def decompress(z: bytes, codec: int, length: int, where: str) -> bytes:
    """Undoes the codec into exactly `length` bytes, and never allocates more."""
    check(1 <= length <= RECORD_MAX, where, "record has a wrong length")
    if codec == 0:
        check(len(z) == length, where, "record has a wrong length")
        return z
    check(codec == 1, where, f"unknown codec {codec}")
    try:
        claimed = zstandard.get_frame_parameters(z).content_size
        check(claimed in (length, zstandard.CONTENTSIZE_UNKNOWN), where, "zstd frame of a wrong length")
        plain = zstandard.ZstdDecompressor().decompress(z, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"{where}: does not decompress") from error
    check(len(plain) == length, where, "record has a wrong length")
    return plain


MANIFEST_FIELDS: dict[int, Shape] = {
    0: B16, 1: U64, 2: maybe(B32), 3: each(row(B16, U64, B32)), 4: TIME, 5: TIME, 6: maybe(TIME), 7: text, 8: text, 9: each(anything),
    10: each(text), 11: anything, 12: each(PLACE), 13: each(row(U64, REFERENCE)), 14: anything, 15: each(REFERENCE), 16: text,
    17: maybe(B32), 18: integer,
}  # fmt: skip


class Repository:
    """An open repository: verified objects, and records by reference."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.store, self.keys = store, keys
        self.config = self._load_config()
        self.devices = self._load_devices()
        self._index: dict[bytes, list[tuple[int, Reference]]] | None = None

    @classmethod
    def open(cls, root: Path, credential: Credential) -> Repository:
        store = Store(root)
        for name in store.names(SLOT):
            if keys := open_slot(credential, store.read(SLOT, name), name):
                return cls(store, keys)
        raise FormatError(f"{root}: no key slot opens with this key")

    def load(self, kind: int, name: str) -> tuple[Header, bytes]:
        raw = self.store.read(kind, name)
        header = parse_header(name, kind, raw)
        check(header.repository == self.keys.repository, name, "belongs to another repository")
        return header, raw

    def key(self, header: Header, key: str, name: str) -> bytes:
        return self.keys.key(header.epoch, key, name)

    def verify_signed(self, body: bytes, header: bytes, roles: Iterable[int], name: str) -> tuple[dict[int, Any], bytes]:
        """Payload and signer of a signed body. Without roles, only the root key may sign."""
        value = decode_cbor(unpad_1024(body, name), name)
        check(row(data, data_of(64), B16)(value), name, "not a signed body")
        return self.verify_signature(*value, header, roles, name), value[2]

    def verify_signature(self, payload: bytes, signature: bytes, signer: bytes, header: bytes, roles: Iterable[int], name: str) -> Any:
        if roles:
            allowed = [certificate.key for certificate in self.devices.get(signer, []) if certificate.role in roles]
        else:
            allowed = [self.keys.root] if signer == bytes(16) else []
        message = CONTEXT.encode() + b"signed" + header + payload
        check(any(verifies(key, signature, message) for key in allowed), name, "not signed by one who may write it")
        return decode_cbor(payload, name)

    def load_signed(self, kind: int, name: str, key: str, roles: Iterable[int]) -> tuple[dict[int, Any], bytes]:
        header, raw = self.load(kind, name)
        body = open_section(self.key(header, key, name), 0, True, raw[48:], header.bytes, name)
        return self.verify_signed(body, header.bytes, roles, name)

    def _load_config(self) -> dict[int, Any]:
        valid: list[tuple[str, dict[int, Any]]] = []
        problems: list[str] = []
        for name in self.store.names(CONFIG):
            try:
                valid.append((name, self.read_config(name)))
            except FormatError as error:
                problems.append(str(error))
        check(valid, "repo/", f"no valid configuration {problems}")
        name, config = valid[-1]  # names sort by generation
        check(config[5] <= 1, name, f"needs a reader of version {config[5]}")
        check(not config[7], name, f"needs unknown features {config[7]}")
        return config

    def read_config(self, name: str) -> dict[int, Any]:
        payload, _ = self.load_signed(CONFIG, name, "K_struct", ())
        rule = each(lambda value: type(value) is dict)
        required = {0: U64, 1: TIME, 2: row(U32, U32, U32, U32), 3: rule, 4: row(U32, U32), 5: U32, 6: U32, 7: each(text)}
        check_map(payload, required, {}, name)
        for value in payload[3]:
            check_map(value, {0: each(text), 1: U64, 2: U32}, {}, name)
        check(payload[0] == int(name[5:15]) >= 1, name, "generation differs from the name")
        return payload

    def _load_devices(self) -> dict[bytes, list[Certificate]]:
        devices: dict[bytes, list[Certificate]] = {}
        for name in self.store.names(DEVICE):
            payload, _ = self.load_signed(DEVICE, name, "K_struct", ())
            check_map(payload, {0: B16, 1: B32, 2: U8, 3: TIME, 4: text}, {}, name)
            check(payload[0].hex() == name[4:36], name, "device differs from the name")
            check(payload[2] in (OWNER, READER, WRITER, MAINTAINER), name, "unknown role")
            certificate = Certificate(Ed25519PublicKey.from_public_bytes(payload[1]), payload[2])
            devices.setdefault(payload[0], []).append(certificate)
        return devices

    def read_session(self, name: str) -> dict[int, Any]:
        payload, signer = self.load_signed(SESSION, name, "K_struct", (OWNER, WRITER))
        check_map(payload, {0: B16, 1: B16, 2: TIME, 3: B32, 4: B32}, {}, name)
        check(name == f"sess/{payload[0].hex()}/{payload[1].hex()}" and signer == payload[0], name, "ids differ from the name")
        return payload

    def read_seal(self, name: str) -> tuple[bytes, int, bytes]:
        payload, signer = self.load_signed(SEAL, name, "K_struct", (OWNER, WRITER))
        check_map(payload, {0: B16, 1: U64, 2: B32, 3: TIME}, {}, name)
        self._check_sequence(payload, signer, name)
        return payload[0], payload[1], payload[2]

    def read_manifest(self, name: str, sealed: bool = False) -> Snapshot:
        header, raw = self.load(MANIFEST, name)
        key = self.keys.export(header.epoch, 2, raw[48:80], "object", name)
        body = open_section(key, 0, True, raw[80:], header.bytes, name)
        payload, signer = self.verify_signed(body, header.bytes, (OWNER, WRITER), name)
        check_map(payload, MANIFEST_FIELDS, {}, name)
        self._check_sequence(payload, signer, name)
        check(payload[5] >= payload[4], name, "ends before it begins")
        for source in payload[9]:
            check_map(source, {0: data, 1: lambda value: value in (0, 1)}, {}, name)
        check_map(payload[14], {key: U64 for key in range(10)}, {}, name)
        return Snapshot(name, header.epoch, payload, parse_places(payload[12]), sealed)

    def _check_sequence(self, payload: dict[int, Any], signer: bytes, name: str) -> None:
        expected = f"/{payload[0].hex()}/{payload[1]:010}-"
        check(expected in name and payload[1] >= 1, name, "device or sequence differs from the name")
        check(signer == payload[0], name, "not signed by its device")

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, oldest first."""
        seals = {self.read_seal(name) for name in self.store.names(SEAL)}
        result = []
        for name in self.store.names(MANIFEST):
            snapshot = self.read_manifest(name)
            seal = (snapshot.fields[0], snapshot.fields[1], bytes.fromhex(snapshot.id))
            result.append(Snapshot(name, snapshot.epoch, snapshot.fields, snapshot.places, seal in seals))
        return sorted(result, key=lambda snapshot: (snapshot.fields[5], snapshot.name))

    def select(self, wanted: str) -> Snapshot:
        if wanted == "latest":
            found = [snapshot for snapshot in self.snapshots() if snapshot.sealed][-1:]
        else:
            found = [snapshot for snapshot in self.snapshots() if snapshot.id.startswith(wanted)]
        check(len(found) == 1, str(self.store.root), f"{len(found)} snapshots are '{wanted}'")
        return found[0]

    # records (sections 6, 9 and 11)

    def open_record(self, kind: int, reference: Reference, sealed: bytes) -> bytes:
        where = f"record {reference.id.hex()} in pack {reference.place.pack.hex()} at {reference.offset}"
        epoch = reference.place.epoch
        check(len(sealed) == reference.stored >= 40, where, "record is cut off")
        session = self.keys.export(epoch, 1 if kind == DATA else 2, reference.place.enc, "record", where)
        lengths = struct.pack("<HBBI", epoch, kind, reference.codec, reference.length)
        aad = b"rec1" + self.keys.repository + lengths + reference.id
        z = gcm_open(mac(session, sealed[:24] + reference.id), sealed[12:24], sealed[24:], aad, where)
        plain = decompress(z, reference.codec, reference.length, where)
        id_key = self.keys.key(epoch, "K_id_data" if kind == DATA else "K_id_tree", where)
        check(mac(id_key, plain) == reference.id, where, "id differs from the content")
        return plain

    def record(self, kind: int, reference: Reference) -> bytes:
        """The content of a record: by its hint, else by the index."""
        try:
            return self._fetch(kind, reference)
        except FormatError as error:
            first = error
        for found_kind, found in self.index().get(reference.id, []):
            try:
                if found_kind == kind:
                    return self._fetch(kind, found)
            except FormatError:
                continue
        raise first

    def _fetch(self, kind: int, reference: Reference) -> bytes:
        name = pack_name(DATA_PACK if kind == DATA else META_PACK, reference.place.pack)
        sealed = self.store.read_range(name, reference.offset, reference.stored)
        check(sealed is not None and reference.offset >= 48, name, f"holds no record {reference.id.hex()}")
        return self.open_record(kind, reference, sealed)

    def index(self) -> dict[bytes, list[tuple[int, Reference]]]:
        if self._index is None:
            self._index = {}
            for name in self.store.names(SHARD):
                for kind, reference, _ in self.read_shard(name):
                    self._index.setdefault(reference.id, []).append((kind, reference))
        return self._index

    def read_shard(self, name: str) -> list[tuple[int, Reference, int]]:
        """Kind, reference and pack size of every entry of an index shard, all checked against its fence."""
        header, raw = self.load(SHARD, name)
        check(len(raw) >= 64 and raw[-8:] == MAGIC2, name, "no tail")
        fence_length, count = struct.unpack("<II", raw[-16:-8])
        end = 48 + count * BLOCK_SIZE
        check(len(raw) == end + fence_length + 16, name, "lengths do not add up")
        key = self.key(header, "K_index", name)
        body = open_section(key, count, True, raw[end:-16], header.bytes, name)
        fence, _ = self.verify_signed(body, header.bytes, (OWNER, WRITER, MAINTAINER), name)
        pack = row(B16, lambda value: value in (DATA_PACK, META_PACK), U32)
        check_map(fence, {0: U32, 1: each(pack), 2: each(row(B16, U16, B32)), 3: data, 4: B32, 5: each(B32), 6: B32}, {}, name)
        check(fence[0] <= 4 * MIB and count == -(-fence[0] // BLOCK_ENTRIES), name, "number of entries does not fit the blocks")
        check(blake3(raw[48:end]).digest() == fence[6], name, "hash of the blocks differs from the fence")
        rows = self._shard_rows(key, header.bytes, raw[48:end], fence[3], fence[0], name)
        return check_entries(rows, fence, key, name)

    def _shard_rows(self, key: bytes, header: bytes, blocks: bytes, firsts: bytes, count: int, name: str) -> list[bytes]:
        rows: list[bytes] = []
        for number in range(len(blocks) // BLOCK_SIZE):
            sealed = blocks[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]
            plain = open_section(key, number, False, sealed, header, name)
            check(not any(plain[BLOCK_ENTRIES * ENTRY_SIZE :]), name, f"end of block {number} is not zero")
            check(firsts[8 * number : 8 * number + 8] == plain[:8], name, f"fence differs from block {number}")
            rows += [plain[at : at + ENTRY_SIZE] for at in range(0, BLOCK_ENTRIES * ENTRY_SIZE, ENTRY_SIZE)]
        check(len(firsts) * BLOCK_SIZE == 8 * len(blocks), name, "fence has a wrong length")
        check(all(filler == b"\xff" * ENTRY_SIZE for filler in rows[count:]), name, "filling is not FF")
        return rows[:count]


def verifies(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def pack_name(kind: int, pack: bytes) -> str:
    return f"{'pack' if kind == DATA_PACK else 'meta'}/{pack.hex()[:2]}/{pack.hex()}"


def check_entries(rows: list[bytes], fence: dict[int, Any], key: bytes, name: str) -> list[tuple[int, Reference, int]]:
    """Order, meaning and set digest of the entries of a shard."""
    check(all(a < b for a, b in zip(rows, rows[1:])), name, "entries are not sorted")
    digest, result = 0, []
    for entry in rows:
        id, pack_at, offset, stored, length, session_at, kind, codec = struct.unpack("<32sIIIIHBB", entry)
        check(pack_at < len(fence[1]) and session_at < len(fence[2]), name, "entry names a pack or session that is not listed")
        pack, pack_kind, size = fence[1][pack_at]
        _, epoch, enc = fence[2][session_at]
        check(kind in (DATA, TREE, LIST, TABLE) and (kind == DATA) == (pack_kind == DATA_PACK), name, "record kind does not fit the pack")
        row_bytes = id + pack + struct.pack("<IIIH", offset, stored, length, epoch) + enc + bytes([kind, codec])
        digest += int.from_bytes(mac(key, row_bytes), "little")
        result.append((kind, Reference(id, length, codec, Place(pack, epoch, enc), offset, stored), size))
    check((digest % (1 << 256)).to_bytes(32, "little") == fence[4], name, "set digest differs")
    return result
