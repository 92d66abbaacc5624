"""The constructions that every object stands on, key slots and keys: FORMAT.md, sections 1 to 4."""

import hmac
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import cbor2
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from mnemonic import Mnemonic

CONTEXT = "yesterdrive 2026-11 format1 "
MAGIC, MAGIC2 = bytes.fromhex("895944520D0A1A0A"), bytes.fromhex("594452540D0A1A0A")
(CONFIG, SLOT, DEVICE, SESSION, DATA_PACK, META_PACK, SHARD, CATALOGUE, MANIFEST, SEAL,
 TOMBSTONES) = range(1, 12)  # fmt: skip
OWNER, READER, WRITER, MAINTAINER = range(1, 5)
MIB = 1024 * 1024
# Keys by their number in a bundle; all but the pairs are derived from MS by these names.
EPOCH_KEYS = {2: "id data", 3: "id tree", 4: "file hash", 5: "chunker", 6: "structure", 7: "index", 8: "catalogue",
              13: "psk data", 14: "psk tree", 9: "sk data", 10: "sk tree", 11: "pk data", 12: "pk tree"}  # fmt: skip


class FormatError(Exception):
    """An object is not as the format says."""


def check(condition: Any, message: str) -> None:
    if not condition:
        raise FormatError(message)


@contextmanager
def about(what: str) -> Iterator[None]:
    """Whatever a wrong byte makes the libraries raise becomes a `FormatError` that names the object."""
    try:
        yield
    except Exception as error:
        raise FormatError(f"{what}: {str(error) or type(error).__name__}") from error


def mac(key: bytes, data: bytes) -> bytes:
    return blake3(data, key=key).digest()


def kdf(purpose: str, key: bytes) -> bytes:
    return blake3(key, derive_key_context=CONTEXT + purpose).digest()


def open_section(key: bytes, number: int, last: bool, sealed: bytes, header: bytes) -> bytes:
    return AESGCM(mac(key, header)).decrypt(number.to_bytes(11, "little") + bytes([last]), sealed, header)


def unpad(body: bytes, total: int = 0) -> bytes:
    """The content of `u32 n ‖ n bytes ‖ zeros`, which must be `total` bytes, or end at the next multiple of 1024."""
    end = 4 + int.from_bytes(body[:4], "little")
    check(end <= len(body) == (total or -(-end // 1024) * 1024) and not any(body[end:]), "wrong length or filling")
    return body[4:end]


def padme(length: int) -> int:
    exponent = length.bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return -(-length // step) * step


def padme_steps(length: int, step: int = 1024) -> int:
    """The next Padmé step, then the next multiple of `step` (section 7)."""
    return -(-padme(length) // step) * step


def decode_cbor(data: bytes, fields: int = 0) -> Any:
    """Decodes deterministic CBOR; a map must have so many first keys, others are ignored."""
    value = cbor2.loads(data, max_depth=8)
    check(cbor2.dumps(value, canonical=True) == data, "CBOR is not deterministic")  # `cbor2` reads laxly
    check(not fields or value.keys() >= set(range(fields)), "not all keys are there")
    return value


def parse_header(kind: int, name: str, raw: bytes) -> tuple[int, bytes]:
    """Epoch and repository id."""
    magic, *fixed, epoch, flags, repository, salt = struct.unpack("<8sBBHHH16s16s", raw[:48])
    check((magic, *fixed, flags) == (MAGIC, kind, 1, 1, 0), "unknown magic, suite, version or flags, or another kind")
    named_by_salt = kind in (SLOT, SESSION, DATA_PACK, META_PACK)
    check(not named_by_salt or name.endswith("/" + salt.hex()), "salt differs from the name")
    return epoch, repository


# HPKE (RFC 9180): mode_psk, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, export-only
KEM_SUITE, HPKE_SUITE = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\xff\xff"


def extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


def expand(suite: bytes, prk: bytes, label: bytes, info: bytes) -> bytes:
    """32 bytes: one round of HKDF-Expand."""
    return hmac.digest(prk, b"\x00\x20HPKE-v1" + suite + label + info + b"\x01", "sha256")


def epoch_keys(epoch: dict[int, Any], role: int) -> dict[str, bytes]:
    """The keys of one epoch: derived from MS for an owner, as they stand in the bundle for a reader."""
    if role == READER:
        return {name: epoch[key] for key, name in EPOCH_KEYS.items() if name != "chunker"}
    keys = {name: kdf(name, epoch[1]) for name in EPOCH_KEYS.values()}
    for pair in ("data", "tree"):
        prk = extract(KEM_SUITE, b"", b"dkp_prk", kdf(f"hpke {pair}", epoch[1]))
        sk = expand(KEM_SUITE, prk, b"sk", b"")
        keys[f"sk {pair}"] = bytes([sk[0] & 248, *sk[1:31], sk[31] & 127 | 64])  # clamped, as in the vectors
        keys[f"pk {pair}"] = X25519PrivateKey.from_private_bytes(keys[f"sk {pair}"]).public_key().public_bytes_raw()
    return keys


class Keys:
    """An opened role bundle."""

    def __init__(self, bundle: bytes) -> None:
        fields = decode_cbor(bundle, 5)
        version, self.role, self.repository, self.root = [fields[key] for key in range(4)]
        check(version == 1 and self.role in (OWNER, READER), "unknown version, or a role that cannot read content")
        self.epochs = {epoch[0]: epoch_keys(epoch, self.role) for epoch in fields[4]}

    @cache
    def export(self, epoch: int, pair: str, enc: bytes, label: str) -> bytes:
        """`export(enc, label)` with the data or tree pair."""
        info = CONTEXT.encode() + b"hpke" + self.repository + struct.pack("<HB", epoch, 1 if pair == "data" else 2)
        private_key, public_key, psk = [self.epochs[epoch][f"{name} {pair}"] for name in ("sk", "pk", "psk")]
        shared = X25519PrivateKey.from_private_bytes(private_key).exchange(X25519PublicKey.from_public_bytes(enc))
        prk = extract(KEM_SUITE, b"", b"eae_prk", shared)
        shared_secret = expand(KEM_SUITE, prk, b"shared_secret", enc + public_key)
        psk_id_hash = extract(HPKE_SUITE, b"", b"psk_id_hash", b"yesterdrive psk")
        schedule = b"\x01" + psk_id_hash + extract(HPKE_SUITE, b"", b"info_hash", info)
        secret = expand(HPKE_SUITE, extract(HPKE_SUITE, shared_secret, b"secret", psk), b"exp", schedule)
        return expand(HPKE_SUITE, secret, b"sec", (CONTEXT + label).encode())


def read_credential(slot_kind: int, file: Path) -> bytes:
    """The bytes that open slots of a kind: 1 a password, 2 a recovery code, 3 a key file."""
    if slot_kind == 1:
        return file.read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    if slot_kind == 2:
        words = file.read_text("utf-8").lower().split()
        check(len(words) == 24, "a recovery code has 24 words")
        return bytes(Mnemonic("english").to_entropy(words))
    match = re.fullmatch("yesterdrive-key-1:([0-9a-f]{64})\n", file.read_text("ascii"))
    check(match, "not a key file")
    return bytes.fromhex(match[1])


def open_slot(name: str, slot: bytes, slot_kind: int, secret: bytes) -> Keys | None:
    """The keys in a slot; `None` if the credential does not belong to it."""
    epoch, repository = parse_header(SLOT, name, slot)
    kind, function, zero, memory, passes, lanes = struct.unpack("<BBHIII", slot[48:64])
    check(blake3(slot[:4064]).digest() == slot[4064:], "its bytes do not have the hash at its end")
    check(len(slot) == 4096 and kind in (1, 2, 3) and (zero, function) == (0, kind == 1), "unknown kind or KDF")
    if kind != slot_kind:
        return None
    if kind == 1:
        passes_min = 1 if memory >= 1_048_576 else 3
        bounds = 65_536 <= memory <= 4_194_304 and passes_min <= passes <= 64 and 1 <= lanes <= 16
        check(bounds, f"Argon2id with {memory} KiB, {passes} passes and {lanes} lanes is out of bounds")
        kek = hash_secret_raw(secret, slot[64:96], passes, memory, lanes, 32, Type.ID, 0x13)
    else:
        check((memory, passes, lanes) == (0, 0, 0), "Argon2id parameters without Argon2id")
        kek = kdf("slot recovery" if kind == 2 else "slot key file", secret + slot[64:96])
    if not hmac.compare_digest(kdf("slot commit", kek), slot[96:128]):
        return None
    keys = Keys(unpad(AESGCM(kdf("slot wrap", kek)).decrypt(slot[128:140], slot[396:4064], slot[:396]), 3652))
    label = open_section(keys.epochs[epoch]["structure"], 0, True, slot[140:396], slot[:48])
    _, role, kind, _ = [decode_cbor(unpad(label, 240), 4)[key] for key in range(4)]
    check((repository, role, kind) == (keys.repository, keys.role, slot_kind), "header or label differ")
    return keys
