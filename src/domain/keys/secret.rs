//! The secret of a key. Only its SHA-256 is kept. The secrets that Leaseway makes have 32 random bytes, so that a fast
//! hash is enough.

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What the secrets begin with that Leaseway makes.
const PREFIX: &str = "lw_";

/// How many characters of a secret are shown in lists.
const SHOWN_MAX: usize = 8;

/// The lengths in bytes that a secret may have which an operator has made up.
const LENGTHS: RangeInclusive<usize> = 16..=256;

/// The SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Returns the hash of a key.
    pub fn of(secret: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, secret);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads 64 hexadecimal digits; `None` for any other text.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
        }
        text.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(Self(bytes))
    }

    /// Returns 64 hexadecimal digits in lower case.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// Returns the secret made of these random bytes.
pub fn make_secret(random: [u8; 32]) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random))
}

/// Returns the part of a secret that lists show.
pub fn shown_part(secret: &str) -> String {
    secret.chars().take(SHOWN_MAX).collect()
}

/// Checks a secret that an operator has made up.
///
/// # Errors
/// What is allowed.
pub fn check_secret(secret: &str) -> Result<(), String> {
    let is_allowed = LENGTHS.contains(&secret.len()) && secret.bytes().all(|letter| letter.is_ascii_graphic());
    let (min, max) = LENGTHS.into_inner();
    if is_allowed { Ok(()) } else { Err(format!("{min} to {max} visible ASCII characters")) }
}
