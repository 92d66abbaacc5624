//! Ciphers, hashes, signatures, key agreement and randomness: the only file that names a cipher.
//!
//! AES-256-GCM and Ed25519 come from `ring`, hashing from `blake3`, HPKE from `hpke`, the password hash from `argon2`. Every function
//! takes keys as [`Key`], which is wiped on drop and never printed. Constructions: docs/FORMAT.md, sections 1, 3 and 4.

use std::fmt;
use std::sync::Arc;

use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem as _, X25519HkdfSha256};
use hpke::{Deserializable, OpModeR, OpModeS, PskBundle, Serializable};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use locked::Cell;

mod locked;
pub mod rows;

/// Bytes that AES-256-GCM adds.
pub const TAG_LENGTH: usize = 16;
/// Bytes of a GCM nonce.
pub const NONCE_LENGTH: usize = 12;

/// Begins every key derivation context and signature input.
const CONTEXT: &str = "yesterdrive 2026-11 format1 ";
/// HPKE pre-shared key identifier.
const PSK_ID: &[u8] = b"yesterdrive psk";

/// Why sealed bytes did not open. Says no more than that: the reader of a forged object learns nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum OpenError {
    /// The bytes do not authenticate under this key.
    #[error("the bytes do not authenticate")]
    NotAuthentic,
    /// A public key or HPKE value is no valid one.
    #[error("the key agreement value is invalid")]
    BadKeyValue,
    /// A signature does not fit.
    #[error("the signature does not fit")]
    BadSignature,
}

/// A password hash that cannot be computed with these parameters.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("the password hash cannot be computed with {memory_kib} KiB, {passes} passes, {lanes} lanes")]
pub struct PasswordHashError {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// Thirty-two secret bytes: in memory that is not swapped, as far as the system lets, wiped on drop, compared in constant time, never printed.
pub struct Key(Cell);

impl Key {
    /// Wraps secret bytes.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = Self::filled_by(|key| *key = bytes);
        bytes.zeroize();
        key
    }

    /// Takes a slice of exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 32).then(|| Self::filled_by(|key| key.copy_from_slice(bytes)))
    }

    /// Draws a new key.
    pub fn random(random: &dyn RandomSource) -> Self {
        Self::filled_by(|key| random.fill(key))
    }

    /// The secret bytes, for sealing them into a bundle.
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.bytes()
    }

    /// `KDF(purpose, self)` of the format.
    pub fn derive(&self, purpose: &str) -> Self {
        derive(purpose, &[self.expose()])
    }

    /// A key whose bytes are put where they stay.
    fn filled_by(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut cell = Cell::new();
        fill(cell.bytes_mut());
        Self(cell)
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self::filled_by(|key| *key = *self.expose())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for Key {}

/// Where random bytes come from: the system in the product, a seed in tests.
pub trait RandomSource: Send + Sync + fmt::Debug {
    /// Fills the buffer with random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// A shared source of randomness.
pub type SharedRandom = Arc<dyn RandomSource>;

/// The operating system's generator.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl SystemRandom {
    /// A shared system generator.
    pub fn shared() -> SharedRandom {
        Arc::new(Self)
    }
}

impl RandomSource for SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system has random bytes; without them nothing may be sealed");
    }
}

/// An array of random bytes.
pub fn random_array<const N: usize>(random: &dyn RandomSource) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

/// `H(bytes)` of the format.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// `MAC(key, parts in a row)` of the format.
pub fn keyed_hash(key: &Key, parts: &[&[u8]]) -> [u8; 32] {
    if let [single] = parts {
        return *blake3::keyed_hash(key.expose(), single).as_bytes();
    }
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// `MAC` over bytes that arrive in pieces; [`hash`] over pieces when made without a key.
#[derive(Clone)]
pub struct StreamHash(blake3::Hasher);

impl StreamHash {
    /// Begins a keyed hash.
    pub fn keyed(key: &Key) -> Self {
        Self(blake3::Hasher::new_keyed(key.expose()))
    }

    /// Begins a plain hash.
    pub fn plain() -> Self {
        Self(blake3::Hasher::new())
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes added.
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

impl fmt::Debug for StreamHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamHash")
    }
}

/// `KDF(purpose, parts in a row)` of the format.
pub fn derive(purpose: &str, parts: &[&[u8]]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key(&format!("{CONTEXT}{purpose}"));
    for part in parts {
        hasher.update(part);
    }
    Key::filled_by(|key| hasher.finalize_xof().fill(key))
}

/// The first bytes of the keyed output stream of `input`: the chunker's table.
pub fn keyed_stream(key: &Key, input: &[u8], output: &mut [u8]) {
    blake3::Hasher::new_keyed(key.expose()).update(input).finalize_xof().fill(output);
}

/// Seals `buffer[from..]` in place with AES-256-GCM and appends the tag.
///
/// The caller guarantees that a key never sees a nonce twice: record keys and object keys are fresh for each use.
///
/// # Panics
/// If `from` is beyond the end of the buffer.
pub fn seal(key: &Key, nonce: [u8; NONCE_LENGTH], associated: &[u8], buffer: &mut Vec<u8>, from: usize) {
    let (_, plain) = buffer.split_at_mut(from);
    let tag = cipher(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), plain)
        .expect("a record is far below the limit of AES-GCM");
    buffer.extend_from_slice(tag.as_ref());
}

/// Opens ciphertext and tag in place and returns the plaintext, [`TAG_LENGTH`] bytes shorter.
///
/// # Errors
/// [`OpenError::NotAuthentic`]; the buffer then holds nothing of the plaintext.
pub fn open<'a>(key: &Key, nonce: [u8; NONCE_LENGTH], associated: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
    cipher(key).open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), sealed).map_err(|_| OpenError::NotAuthentic)
}

fn cipher(key: &Key) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).expect("a Key has the length that AES-256 wants"))
}

/// Argon2id version 0x13 with 32 bytes of output. Takes seconds and `memory_kib` of memory: that is its purpose.
///
/// # Errors
/// [`PasswordHashError`] if the parameters are impossible.
pub fn password_hash(password: &[u8], salt: &[u8; 32], memory_kib: u32, passes: u32, lanes: u32) -> Result<Key, PasswordHashError> {
    let impossible = PasswordHashError { memory_kib, passes, lanes };
    let params = argon2::Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| impossible)?;
    let mut cell = Cell::new();
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(password, salt, cell.bytes_mut())
        .map_err(|_| impossible)?;
    Ok(Key(cell))
}

/// Which of the two HPKE key pairs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pair {
    /// Seals file content.
    Data,
    /// Seals trees, lists, side tables and manifests.
    Tree,
}

/// What an HPKE agreement is bound to, so that a value cannot be replayed elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct HpkeContext<'a> {
    /// Repository id.
    pub repository: &'a [u8; 16],
    /// Key epoch.
    pub epoch: u16,
    /// Key pair.
    pub pair: Pair,
    /// Pre-shared key of that pair.
    pub psk: &'a Key,
}

impl HpkeContext<'_> {
    fn info(&self) -> Vec<u8> {
        let pair = match self.pair {
            Pair::Data => 1,
            Pair::Tree => 2,
        };
        [CONTEXT.as_bytes(), b"hpke", self.repository, &self.epoch.to_le_bytes(), &[pair]].concat()
    }

    fn psk(&self) -> PskBundle<'_> {
        PskBundle::new(self.psk.expose(), PSK_ID).expect("neither key nor identifier is empty")
    }
}

/// The key pair that HPKE derives from secret bytes: (secret, public).
pub fn hpke_key_pair(seed: &Key) -> (Key, [u8; 32]) {
    let (secret, public) = X25519HkdfSha256::derive_keypair(seed.expose());
    (Key::from_bytes(secret.to_bytes().into()), public.to_bytes().into())
}

/// Agrees on a key with the holder of `public`: the encapsulated key to publish and `export(enc, label)`.
///
/// # Errors
/// [`OpenError::BadKeyValue`] if `public` is no valid key.
pub fn hpke_send(
    context: &HpkeContext<'_>,
    public: &[u8; 32],
    label: &str,
    random: &dyn RandomSource,
) -> Result<([u8; 32], Key), OpenError> {
    let public = <X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(public).map_err(|_| OpenError::BadKeyValue)?;
    let (enc, sender) = hpke::setup_sender_with_rng::<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Psk(context.psk()),
        &public,
        &context.info(),
        &mut CryptoSource(random),
    )
    .map_err(|_| OpenError::BadKeyValue)?;
    Ok((enc.to_bytes().into(), exported(|key| sender.export(export_context(label).as_bytes(), key))))
}

/// `export(enc, label)` for the holder of the secret key.
///
/// # Errors
/// [`OpenError::BadKeyValue`] if `enc` is no valid value. A wrong one gives a key that opens nothing.
pub fn hpke_receive(context: &HpkeContext<'_>, secret: &Key, enc: &[u8; 32], label: &str) -> Result<Key, OpenError> {
    let secret = <X25519HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(secret.expose()).map_err(|_| OpenError::BadKeyValue)?;
    let enc = <X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(enc).map_err(|_| OpenError::BadKeyValue)?;
    let receiver =
        hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>(&OpModeR::Psk(context.psk()), &secret, &enc, &context.info())
            .map_err(|_| OpenError::BadKeyValue)?;
    Ok(exported(|key| receiver.export(export_context(label).as_bytes(), key)))
}

fn exported(export: impl FnOnce(&mut [u8; 32]) -> Result<(), hpke::HpkeError>) -> Key {
    Key::filled_by(|key| export(key).expect("32 bytes are within the limit of the exporter"))
}

fn export_context(label: &str) -> String {
    format!("{CONTEXT}{label}")
}

/// Our source of randomness in the form that the HPKE library wants.
struct CryptoSource<'a>(&'a dyn RandomSource);

impl rand_core::TryRng for CryptoSource<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(random_array(self.0)))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(random_array(self.0)))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for CryptoSource<'_> {}

/// The public key of an Ed25519 seed.
pub fn signing_public(seed: &Key) -> [u8; 32] {
    let mut public = [0; 32];
    public.copy_from_slice(signing_pair(seed).public_key().as_ref());
    public
}

/// Signs `header ‖ payload` in the manner of the format.
pub fn sign(seed: &Key, header: &[u8], payload: &[u8]) -> [u8; 64] {
    let mut signature = [0; 64];
    signature.copy_from_slice(signing_pair(seed).sign(&signature_input(header, payload)).as_ref());
    signature
}

/// Checks a signature made by [`sign`].
///
/// # Errors
/// [`OpenError::BadSignature`].
pub fn verify(public: &[u8; 32], header: &[u8], payload: &[u8], signature: &[u8]) -> Result<(), OpenError> {
    UnparsedPublicKey::new(&ED25519, public).verify(&signature_input(header, payload), signature).map_err(|_| OpenError::BadSignature)
}

fn signing_pair(seed: &Key) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("a Key has the length of an Ed25519 seed")
}

fn signature_input(header: &[u8], payload: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([CONTEXT.as_bytes(), b"signed", header, payload].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    #[test]
    fn sealed_bytes_open_only_unchanged() {
        let mut sealed = b"headplain text".to_vec();
        seal(&key(1), [7; 12], b"associated", &mut sealed, 4);
        assert_eq!(sealed.len(), 14 + TAG_LENGTH);
        assert_eq!(&sealed[..4], b"head");
        assert_eq!(open(&key(1), [7; 12], b"associated", &mut sealed[4..].to_vec()).unwrap(), b"plain text");
        for at in 4..sealed.len() {
            let mut damaged = sealed[4..].to_vec();
            damaged[at - 4] ^= 1;
            assert_eq!(open(&key(1), [7; 12], b"associated", &mut damaged), Err(OpenError::NotAuthentic));
        }
        assert!(open(&key(2), [7; 12], b"associated", &mut sealed[4..].to_vec()).is_err());
        assert!(open(&key(1), [8; 12], b"associated", &mut sealed[4..].to_vec()).is_err());
        assert!(open(&key(1), [7; 12], b"", &mut sealed[4..].to_vec()).is_err());
        assert!(open(&key(1), [7; 12], b"", &mut [0; 5]).is_err());
    }

    #[test]
    fn a_second_implementation_agrees() {
        use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
        let mut sealed = b"one cipher, two libraries".to_vec();
        seal(&key(3), [9; 12], b"aad", &mut sealed, 0);
        let other = aes_gcm::Aes256Gcm::new(&[3; 32].into());
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LENGTH>().unwrap();
        other.decrypt_inout_detached(&[9; 12].into(), b"aad", text.into(), &(*tag).into()).unwrap();
        assert_eq!(text, b"one cipher, two libraries");
    }

    #[test]
    fn both_sides_of_an_agreement_export_the_same_key() {
        let (secret, public) = hpke_key_pair(&key(4));
        let psk = key(5);
        let context = |epoch, pair| HpkeContext { repository: &[6; 16], epoch, pair, psk: &psk };
        let (enc, sent) = hpke_send(&context(1, Pair::Tree), &public, "record", &SystemRandom).unwrap();
        assert_eq!(hpke_receive(&context(1, Pair::Tree), &secret, &enc, "record"), Ok(sent.clone()));
        assert_ne!(hpke_receive(&context(1, Pair::Tree), &secret, &enc, "object"), Ok(sent.clone()));
        assert_ne!(hpke_receive(&context(2, Pair::Tree), &secret, &enc, "record"), Ok(sent.clone()));
        assert_ne!(hpke_receive(&context(1, Pair::Data), &secret, &enc, "record"), Ok(sent));
        assert!(hpke_receive(&context(1, Pair::Tree), &secret, &[0; 32], "record").is_err(), "the zero point agrees with everyone");
    }

    #[test]
    fn signatures_bind_header_and_payload() {
        let signature = sign(&key(8), b"header", b"payload");
        let public = signing_public(&key(8));
        assert_eq!(verify(&public, b"header", b"payload", &signature), Ok(()));
        assert!(verify(&public, b"Header", b"payload", &signature).is_err());
        assert!(verify(&public, b"header", b"payloae", &signature).is_err());
        assert!(verify(&signing_public(&key(9)), b"header", b"payload", &signature).is_err());
    }

    #[test]
    fn keys_are_never_printed() {
        assert_eq!(format!("{:?}", key(0xab)), "Key(…)");
    }

    #[test]
    fn streams_and_parts_hash_alike() {
        let mut stream = StreamHash::keyed(&key(1));
        stream.update(b"ab");
        stream.update(b"c");
        assert_eq!(stream.finish(), keyed_hash(&key(1), &[b"a", b"bc"]));
        assert_eq!(stream.finish(), keyed_hash(&key(1), &[b"abc"]));
    }
}
