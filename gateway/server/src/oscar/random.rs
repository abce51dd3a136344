//! What nobody can guess.

use workers_protocol::InferError;

/// Returns so many random bytes as lower-case hexadecimal digits.
///
/// # Errors
/// `Internal` where the system has no randomness.
pub(crate) fn hex<const BYTES: usize>() -> Result<String, InferError> {
    let mut bytes = [0; BYTES];
    fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns a random UUID (RFC 9562 § 5.4) as text.
///
/// # Errors
/// As [`hex`].
pub(crate) fn uuid() -> Result<String, InferError> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    let parts = [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ];
    Ok(parts.join("-"))
}

fn fill(bytes: &mut [u8]) -> Result<(), InferError> {
    getrandom::fill(bytes)
        .map_err(|error| InferError::internal(format!("no random bytes: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_64_digits_and_uuids_are_uuids() {
        let token = hex::<32>().unwrap();
        assert_eq!(token.len(), 64);
        assert!(token.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(token, hex::<32>().unwrap());
        let uuid = uuid().unwrap();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uuid.as_bytes()[19]));
    }
}
