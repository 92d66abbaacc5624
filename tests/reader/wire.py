"""Constants, limits and the small constructions that every object stands on: FORMAT.md, sections 1 to 3, 7 (Padmé) and 13."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CONTEXT = "yesterdrive 2026-11 format1 "
MAGIC, MAGIC2 = bytes.fromhex("895944520D0A1A0A"), bytes.fromhex("594452540D0A1A0A")
CONFIG, SLOT, DEVICE, SESSION, DATA_PACK, META_PACK, SHARD, CATALOGUE, MANIFEST, SEAL = range(1, 11)
DATA, TREE, LIST, TABLE = range(1, 5)
FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, CHARACTER, BLOCK = range(1, 8)
OWNER, READER, WRITER, MAINTAINER = range(1, 5)
KIB, MIB = 1024, 1024 * 1024
NESTING_MAX, DEPTH_MAX, RECORD_MAX, PAGE_MAX = 8, 6, 16 * MIB, 2 * MIB
SIZE_MAX = {SLOT: 4096, DATA_PACK: 128 * MIB, META_PACK: 128 * MIB, SHARD: 256 * MIB, CATALOGUE: 64 * MIB}  # else 1 MiB
ENTRY_SIZE, BLOCK_ENTRIES, BLOCK_SIZE = 52, 314, 16384
HEX32, HEX64 = "([0-9a-f]{32})", "([0-9a-f]{64})"
NAMES = {
    CONFIG: rf"repo/(\d{{10}})-{HEX64}", SLOT: f"keys/{HEX32}", DEVICE: f"dev/{HEX32}-{HEX64}", SESSION: f"sess/{HEX32}/{HEX32}",
    DATA_PACK: f"pack/[0-9a-f]{{2}}/{HEX32}", META_PACK: f"meta/[0-9a-f]{{2}}/{HEX32}", SHARD: f"idx/{HEX64}", CATALOGUE: f"cat/{HEX64}",
    MANIFEST: rf"snap/{HEX32}/(\d{{10}})-{HEX64}", SEAL: rf"seal/{HEX32}/(\d{{10}})-{HEX64}",
}  # fmt: skip
NAMED_BY_HASH = {CONFIG, DEVICE, SHARD, CATALOGUE, MANIFEST, SEAL}


class FormatError(Exception):
    """An object is not as the format says."""


def check(condition: Any, where: str, message: str) -> None:
    """Raises `FormatError` naming the object unless the condition holds."""
    if not condition:
        raise FormatError(f"{where}: {message}")

def mac(key: bytes, data: bytes) -> bytes:
    return blake3(data, key=key).digest()


def kdf(purpose: str, key: bytes) -> bytes:
    return blake3(key, derive_key_context=CONTEXT + purpose).digest()


def gcm_open(key: bytes, nonce: bytes, sealed: bytes, aad: bytes, where: str) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except (InvalidTag, ValueError) as error:
        raise FormatError(f"{where}: does not authenticate") from error


def open_section(key: bytes, number: int, last: bool, sealed: bytes, header: bytes, where: str) -> bytes:
    return gcm_open(mac(key, header), number.to_bytes(11, "little") + bytes([last]), sealed, header, where)


def padme(length: int) -> int:
    exponent = length.bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return (length + step - 1) // step * step


def unpad(body: bytes, total: int, where: str) -> bytes:
    """The content of `u32 n ‖ n bytes ‖ zeros`, which must be `total` bytes."""
    check(len(body) >= 4, where, "padded body too short")
    length = int.from_bytes(body[:4], "little")
    check(len(body) == total and 4 + length <= total, where, "padded body has a wrong length")
    check(not any(body[4 + length :]), where, "filling is not zero")
    return body[4 : 4 + length]


def unpad_1024(body: bytes, where: str) -> bytes:
    length = int.from_bytes(body[:4], "little")
    return unpad(body, -(-(4 + length) // 1024) * 1024, where)


def decode_cbor(data: bytes, where: str) -> Any:
    """Decodes deterministic CBOR. `cbor2` reads laxly; bytes that it would not write the same way are refused."""
    try:
        value = cbor2.loads(data)
        check_cbor(value, 1, where)
        same = cbor2.dumps(value, canonical=True) == data
    except FormatError:
        raise
    except Exception as error:  # cbor2 raises many kinds, and each means the same here
        raise FormatError(f"{where}: not CBOR") from error
    check(same, where, "CBOR is not deterministic")
    return value


def check_cbor(value: Any, depth: int, where: str) -> None:
    """Refuses everything that deterministic encoding alone would let through: floats, tags, other keys, deep nesting."""
    if isinstance(value, (list, dict)):
        check(depth <= NESTING_MAX, where, "CBOR is nested too deeply")
        keys = value if isinstance(value, dict) else ()
        check(all(type(key) is int and 0 <= key < 1 << 64 for key in keys), where, "CBOR map key is not an unsigned integer")
        for item in value.values() if isinstance(value, dict) else value:
            check_cbor(item, depth + 1, where)
    elif type(value) is int:  # cbor2 turns the tags for large integers into integers
        check(-(1 << 64) <= value < 1 << 64, where, "CBOR integer is too large")
    else:
        check(value is None or type(value) in (bytes, str, bool), where, f"CBOR {type(value).__name__} is not allowed")


Shape = Callable[[Any], bool]


def uint(bits: int) -> Shape:
    return lambda value: type(value) is int and 0 <= value < 1 << bits


def data_of(length: int) -> Shape:
    return lambda value: type(value) is bytes and len(value) == length


def maybe(shape: Shape) -> Shape:
    return lambda value: value is None or shape(value)


def each(shape: Shape) -> Shape:
    return lambda value: type(value) is list and all(map(shape, value))


def row(*shapes: Shape) -> Shape:
    return lambda value: type(value) is list and len(value) == len(shapes) and all(s(v) for s, v in zip(shapes, value))


def anything(_: Any) -> bool:
    return True


def integer(value: Any) -> bool:
    return type(value) is int


def data(value: Any) -> bool:
    return type(value) is bytes


def text(value: Any) -> bool:
    return type(value) is str


U8, U16, U32, U64, B16, B32 = uint(8), uint(16), uint(32), uint(64), data_of(16), data_of(32)
TIME = row(integer, lambda value: type(value) is int and 0 <= value < 10**9)
REFERENCE = row(B32, U32, U8, U32, U32, U32)
PLACE = row(B16, U16, B32)
DEPTH: Shape = lambda value: type(value) is int and 1 <= value <= DEPTH_MAX  # noqa: E731
CONTENT: Shape = lambda value: row(DEPTH, REFERENCE)(value) or each(REFERENCE)(value)  # noqa: E731
STORED = row(U64, CONTENT)
VALUE: Shape = lambda value: data(value) or STORED(value)  # noqa: E731


def check_map(value: Any, required: dict[int, Shape], optional: dict[int, Shape], where: str) -> dict[int, Any]:
    """Checks the keys of a CBOR map that are known; others are ignored."""
    check(type(value) is dict, where, "not a CBOR map")
    for key, shape in (required | optional).items():
        check(key in value or key in optional, where, f"key {key} is missing")
        check(key not in value or shape(value[key]), where, f"key {key} has a wrong value")
    return value
