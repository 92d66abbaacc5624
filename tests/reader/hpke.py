"""HPKE (RFC 9180) as far as the format uses it: mode_psk, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, export-only."""

from __future__ import annotations

import hmac
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

KEM_SUITE, HPKE_SUITE = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\xff\xff"


def labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, sha256)


def labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes) -> bytes:
    """32 bytes: one round of HKDF-Expand."""
    return hmac.digest(prk, b"\x00\x20HPKE-v1" + suite + label + info + b"\x01", sha256)


def derive_private_key(ikm: bytes) -> bytes:
    return labeled_expand(KEM_SUITE, labeled_extract(KEM_SUITE, b"", b"dkp_prk", ikm), b"sk", b"")


def public_key(private_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def exporter_secret(enc: bytes, private_key: bytes, info: bytes, psk: bytes, psk_id: bytes) -> bytes:
    shared = X25519PrivateKey.from_private_bytes(private_key).exchange(X25519PublicKey.from_public_bytes(enc))
    return key_schedule(shared, enc + public_key(private_key), info, psk, psk_id)


def key_schedule(dh: bytes, kem_context: bytes, info: bytes, psk: bytes, psk_id: bytes) -> bytes:
    prk = labeled_extract(KEM_SUITE, b"", b"eae_prk", dh)
    shared_secret = labeled_expand(KEM_SUITE, prk, b"shared_secret", kem_context)
    hashes = labeled_extract(HPKE_SUITE, b"", b"psk_id_hash", psk_id) + labeled_extract(HPKE_SUITE, b"", b"info_hash", info)
    secret = labeled_extract(HPKE_SUITE, shared_secret, b"secret", psk)
    return labeled_expand(HPKE_SUITE, secret, b"exp", b"\x01" + hashes)


def hpke_export(secret: bytes, exporter_context: bytes) -> bytes:
    return labeled_expand(HPKE_SUITE, secret, b"sec", exporter_context)
