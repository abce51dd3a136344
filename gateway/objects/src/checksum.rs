//! Digests of what is put: MD5, which is the `ETag`, and the one that the caller chose.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};

/// A checksum that S3 knows beside MD5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// As in zlib.
    Crc32,
    /// As in iSCSI.
    Crc32c,
    /// As in NVMe.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// A checksum of an object or a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Which one it is.
    pub algorithm: Algorithm,
    /// Base64; of an object that was uploaded in parts maybe that of its parts' checksums, and then
    /// with a hyphen and their number behind it.
    pub value: String,
}

/// Takes digests of bytes that go by.
pub(crate) struct Digests {
    md5: Md5,
    chosen: Option<(Algorithm, ChecksumHasher)>,
}

/// The names of the algorithms, as S3 writes them.
const NAMES: [(Algorithm, &str); 5] = [
    (Algorithm::Crc32, "CRC32"),
    (Algorithm::Crc32c, "CRC32C"),
    (Algorithm::Crc64Nvme, "CRC64NVME"),
    (Algorithm::Sha1, "SHA1"),
    (Algorithm::Sha256, "SHA256"),
];

// === impl Algorithm ===

impl Algorithm {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        NAMES.into_iter().map(|(algorithm, _)| algorithm)
    }

    /// Returns the name that S3 has for it.
    pub fn name(self) -> &'static str {
        NAMES[self as usize].1
    }

    /// Returns the one of this name, if there is one.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut names = NAMES.into_iter();
        names.find_map(|(algorithm, known)| known.eq_ignore_ascii_case(name).then_some(algorithm))
    }

    fn hasher(self) -> ChecksumHasher {
        let mut hasher = ChecksumHasher::default();
        match self {
            Self::Crc32 => hasher.crc32 = Some(Crc32::new()),
            Self::Crc32c => hasher.crc32c = Some(Crc32c::new()),
            Self::Crc64Nvme => hasher.crc64nvme = Some(Crc64Nvme::new()),
            Self::Sha1 => hasher.sha1 = Some(Sha1::new()),
            Self::Sha256 => hasher.sha256 = Some(Sha256::new()),
        }
        hasher
    }
}

// === impl Checksum ===

impl Checksum {
    /// Whether it is of the parts' checksums, not of the object's bytes.
    pub fn is_composite(&self) -> bool {
        self.value.contains('-')
    }

    /// Whether it is the one that a client says: those of MinIO leave out the number of parts.
    pub(crate) fn is(&self, said: &Self) -> bool {
        let of_parts = self.value.split_once('-').map(|(value, _)| value);
        self.algorithm == said.algorithm
            && (self.value == said.value || of_parts == Some(&said.value))
    }

    /// Returns the checksum of parts' checksums, in order.
    pub(crate) fn of_parts<'a>(
        algorithm: Algorithm,
        parts: impl Iterator<Item = &'a Self>,
    ) -> Option<Self> {
        let mut hasher = algorithm.hasher();
        let mut n_parts = 0;
        for part in parts {
            hasher.update(&STANDARD.decode(&part.value).ok()?);
            n_parts += 1;
        }
        let value = format!("{}-{n_parts}", finalize(algorithm, hasher));
        Some(Self { algorithm, value })
    }

    /// As it is kept: the algorithm's name and the value.
    pub(crate) fn to_text(&self) -> String {
        format!("{}:{}", self.algorithm.name(), self.value)
    }

    /// Reads what [`Checksum::to_text`] wrote.
    pub(crate) fn of_text(text: &str) -> Option<Self> {
        let (name, value) = text.split_once(':')?;
        Some(Self {
            algorithm: Algorithm::of_name(name)?,
            value: value.to_owned(),
        })
    }
}

// === impl Digests ===

impl Digests {
    pub(crate) fn new(algorithm: Option<Algorithm>) -> Self {
        Self {
            md5: Md5::new(),
            chosen: algorithm.map(|algorithm| (algorithm, algorithm.hasher())),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        if let Some((_, hasher)) = &mut self.chosen {
            hasher.update(bytes);
        }
    }

    pub(crate) fn finalize(self) -> ([u8; 16], Option<Checksum>) {
        let chosen = self.chosen.map(|(algorithm, hasher)| Checksum {
            algorithm,
            value: finalize(algorithm, hasher),
        });
        (self.md5.finalize(), chosen)
    }
}

fn finalize(algorithm: Algorithm, hasher: ChecksumHasher) -> String {
    let all = hasher.finalize();
    let value = match algorithm {
        Algorithm::Crc32 => all.checksum_crc32,
        Algorithm::Crc32c => all.checksum_crc32c,
        Algorithm::Crc64Nvme => all.checksum_crc64nvme,
        Algorithm::Sha1 => all.checksum_sha1,
        Algorithm::Sha256 => all.checksum_sha256,
    };
    value.unwrap_or_default()
}

/// Returns the `ETag` of an object that was uploaded in parts of these MD5s.
pub(crate) fn etag_of_parts(md5s: &[[u8; 16]]) -> String {
    format!(
        "{}-{}",
        hex(&Md5::checksum(md5s.as_flattened())),
        md5s.len()
    )
}

/// Returns bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads 16 bytes as [`hex`] writes them.
pub(crate) fn unhex(digits: &str) -> Option<[u8; 16]> {
    let is_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u128::from_str_radix(digits, 16).ok())??;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_others() {
        // Of `check` values of the catalogue of CRCs, and `printf 123456789 | md5sum`.
        for (algorithm, expected) in [
            (Algorithm::Crc32, "y/Q5Jg=="),
            (Algorithm::Crc32c, "4waSgw=="),
            (Algorithm::Crc64Nvme, "rosUhgp5mIg="),
            (Algorithm::Sha1, "98O8HYCOBHMq32eZZczDTKeuNEE="),
            (
                Algorithm::Sha256,
                "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
            ),
        ] {
            assert_eq!(Algorithm::of_name(algorithm.name()), Some(algorithm));
            let mut digests = Digests::new(Some(algorithm));
            digests.update(b"1234");
            digests.update(b"56789");
            let (md5, checksum) = digests.finalize();
            assert_eq!(hex(&md5), "25f9e794323b453885f5181f1b624d0b");
            assert_eq!(unhex(&hex(&md5)), Some(md5));
            let checksum = checksum.unwrap();
            assert_eq!(checksum.value, expected, "{algorithm:?}");
            assert_eq!(Checksum::of_text(&checksum.to_text()), Some(checksum));
        }
    }
}
