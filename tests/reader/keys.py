"""Headers, key slots, role bundles and the keys of an epoch: FORMAT.md, sections 3 and 4."""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from mnemonic import Mnemonic

import argparse
import re
from hpke import derive_private_key, exporter_secret, hpke_export, public_key
from wire import B16, B32, CONTEXT, DATA_PACK, FormatError, MAGIC, META_PACK, OWNER, READER, SESSION, SLOT, TIME, U16, U8, anything, check, check_map, decode_cbor, each, gcm_open, kdf, open_section, text, unpad

@dataclass(frozen=True)
class Header:
    """The first 48 bytes of an object, checked."""

    kind: int
    epoch: int
    repository: bytes
    salt: bytes
    bytes: bytes


def parse_header(name: str, kind: int, raw: bytes) -> Header:
    check(len(raw) >= 48, name, "shorter than its header")
    magic, got_kind, suite, version, epoch, flags, repository, salt = struct.unpack("<8sBBHHH16s16s", raw[:48])
    check(magic == MAGIC, name, "wrong magic")
    check(got_kind == kind, name, f"kind {got_kind} does not fit the name")
    check((suite, version, flags) == (1, 1, 0), name, f"unknown suite {suite}, version {version} or flags {flags}")
    check(epoch >= 1, name, "key epoch is 0")
    if kind in (SLOT, SESSION, DATA_PACK, META_PACK):
        check(salt.hex() == name.rsplit("/", 1)[1], name, "salt differs from the name")
    return Header(kind, epoch, repository, salt, raw[:48])


EPOCH_KEYS = ["K_id_data", "K_id_tree", "K_file", "K_cdc", "K_struct", "K_index", "K_cat", "sk_data", "sk_tree", "pk_data", "pk_tree",
              "PSK_data", "PSK_tree"]  # fmt: skip
PURPOSES = {"K_id_data": "id data", "K_id_tree": "id tree", "K_file": "file hash", "K_cdc": "chunker", "K_struct": "structure",
            "K_index": "index", "K_cat": "catalogue", "PSK_data": "psk data", "PSK_tree": "psk tree"}  # fmt: skip


def epoch_keys(epoch: dict[int, Any], role: int, where: str) -> dict[str, bytes]:
    """The keys of one epoch by name: derived from MS for an owner, as they stand in the bundle for a reader."""
    if role == OWNER:
        check_map(epoch, {0: U16, 1: B32}, {}, where)
        keys = {name: kdf(purpose, epoch[1]) for name, purpose in PURPOSES.items()}
        for pair in ("data", "tree"):
            keys[f"sk_{pair}"] = derive_private_key(kdf(f"hpke {pair}", epoch[1]))
        return keys
    check_map(epoch, {0: U16} | {key: B32 for key in (2, 3, 4, *range(6, 15))}, {5: B32}, where)
    keys = {name: epoch[key] for key, name in enumerate(EPOCH_KEYS, 2) if key in epoch}
    for pair in ("data", "tree"):
        check(public_key(keys[f"sk_{pair}"]) == keys[f"pk_{pair}"], where, f"pk_{pair} is not the public key of sk_{pair}")
    return keys


class Keys:
    """An opened role bundle."""

    def __init__(self, bundle: bytes, where: str) -> None:
        fields = decode_cbor(bundle, where)
        check_map(fields, {0: U8, 1: U8, 2: B16, 3: B32, 4: each(anything)}, {5: B32, 6: B16, 7: B32}, where)
        check(fields[0] == 1, where, "unknown bundle version")
        check(fields[1] in (OWNER, READER), where, f"role {fields[1]} cannot read content; use the key of an owner or reader")
        self.role: int = fields[1]
        self.repository: bytes = fields[2]
        self.root = Ed25519PublicKey.from_public_bytes(fields[3])
        self.epochs = {epoch[0]: epoch_keys(epoch, self.role, where) for epoch in fields[4]}
        check(self.epochs and len(self.epochs) == len(fields[4]), where, "no epoch, or one twice")
        self._exporters: dict[tuple[int, int, bytes], bytes] = {}

    def key(self, epoch: int, name: str, where: str) -> bytes:
        check(epoch in self.epochs, where, f"no keys of epoch {epoch}")
        return self.epochs[epoch][name]

    def export(self, epoch: int, pair: int, enc: bytes, label: str, where: str) -> bytes:
        """`export(enc, label)` with the data (1) or tree (2) pair."""
        suffix = {1: "data", 2: "tree"}[pair]
        private_key, psk = self.key(epoch, f"sk_{suffix}", where), self.key(epoch, f"PSK_{suffix}", where)
        if (epoch, pair, enc) not in self._exporters:
            info = CONTEXT.encode() + b"hpke" + self.repository + struct.pack("<HB", epoch, pair)
            try:
                secret = exporter_secret(enc, private_key, info, psk, b"yesterdrive psk")
            except ValueError as error:  # an enc of low order
                raise FormatError(f"{where}: enc is not a public key") from error
            self._exporters[epoch, pair, enc] = secret
        return hpke_export(self._exporters[epoch, pair, enc], (CONTEXT + label).encode())


@dataclass(frozen=True)
class Credential:
    """What the user brought: the slot kind that it opens, and the bytes."""

    slot_kind: int
    secret: bytes


def read_credential(arguments: argparse.Namespace) -> Credential:
    if arguments.password_file:
        password = Path(arguments.password_file).read_bytes()
        return Credential(1, password.removesuffix(b"\n").removesuffix(b"\r"))
    if arguments.recovery_file:
        words = " ".join(Path(arguments.recovery_file).read_text("utf-8").lower().split())
        check(len(words.split(" ")) == 24, arguments.recovery_file, "a recovery code has 24 words")
        try:
            return Credential(2, bytes(Mnemonic("english").to_entropy(words)))
        except (LookupError, ValueError) as error:
            raise FormatError(f"{arguments.recovery_file}: not a recovery code") from error
    match = re.fullmatch("yesterdrive-key-1:([0-9a-f]{64})\n", Path(arguments.key_file).read_text("ascii"))
    check(match, arguments.key_file, "not a key file")
    return Credential(3, bytes.fromhex(match[1]))


def slot_kek(credential: Credential, slot: bytes, name: str) -> bytes:
    """The key-encryption key of a slot, after its parameters passed the bounds."""
    kind, function, zero, memory, passes, lanes = struct.unpack("<BBHIII", slot[48:64])
    check(zero == 0 and function == (kind == 1), name, "unknown key derivation")
    salt = slot[64:96]
    if kind == 1:
        check_argon2(memory, passes, lanes, name)
        return hash_secret_raw(credential.secret, salt, passes, memory, lanes, 32, Type.ID, 0x13)
    check((memory, passes, lanes) == (0, 0, 0), name, "Argon2id parameters without Argon2id")
    return kdf("slot recovery" if kind == 2 else "slot key file", credential.secret + salt)


def check_argon2(memory: int, passes: int, lanes: int, name: str) -> None:
    check(65_536 <= memory <= 4_194_304, name, f"Argon2id memory of {memory} KiB is out of bounds")
    check((1 if memory >= 1_048_576 else 3) <= passes <= 64, name, f"{passes} Argon2id passes are out of bounds")
    check(1 <= lanes <= 16, name, f"{lanes} Argon2id lanes are out of bounds")


def open_slot(credential: Credential, slot: bytes, name: str) -> Keys | None:
    """The keys in a slot; `None` if the credential does not belong to it."""
    header = parse_header(name, SLOT, slot)
    check(len(slot) == 4096, name, "a slot has 4096 bytes")
    check(blake3(slot[:4064]).digest() == slot[4064:], name, "its bytes do not have the hash at its end")
    check(slot[48] in (1, 2, 3), name, f"unknown slot kind {slot[48]}")
    if slot[48] != credential.slot_kind:
        return None
    kek = slot_kek(credential, slot, name)
    if not hmac.compare_digest(kdf("slot commit", kek), slot[96:128]):
        return None
    bundle = gcm_open(kdf("slot wrap", kek), slot[128:140], slot[396:4064], slot[:396], name)
    keys = Keys(unpad(bundle, 3652, name), name)
    check(header.repository == keys.repository, name, "repository id differs from the bundle's")
    label = open_section(keys.key(header.epoch, "K_struct", name), 0, True, slot[140:396], header.bytes, name)
    fields = check_map(decode_cbor(unpad(label, 240, name), name), {0: text, 1: U8, 2: U8, 3: TIME}, {}, name)
    check((fields[1], fields[2]) == (keys.role, slot[48]), name, "label and slot disagree")
    return keys
