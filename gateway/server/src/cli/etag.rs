//! What S3 names content by: the MD5 of it, or of the MD5s of its parts.

use std::fmt::Write as _;
use std::io::{self, Read};

use md5::{Digest as _, Md5};

/// Bytes of a part, and of the smallest object that is sent in parts: as Amazon's clients and OSCAR's
/// choose, so that they and this one name the same content alike.
pub(super) const PART: u64 = 8 << 20;
/// Parts that an object may have.
const MAX_PARTS: u64 = 10_000;

/// An MD5.
pub(super) type Sum = [u8; 16];

/// Returns how many bytes a part of an object of this size has; none where it is sent as a whole.
pub(super) fn part_of(size: u64) -> Option<u64> {
    let mut part = PART;
    while size.div_ceil(part) > MAX_PARTS {
        part *= 2;
    }
    (size >= PART).then_some(part)
}

pub(super) fn sum(bytes: &[u8]) -> Sum {
    Md5::digest(bytes).into()
}

/// Returns the name of content that was sent as a whole.
pub(super) fn of_whole(sum: &Sum) -> String {
    sum.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the name of content that was sent in parts of these sums.
pub(super) fn of_parts(sums: &[Sum]) -> String {
    format!("{}-{}", of_whole(&sum(sums.as_flattened())), sums.len())
}

/// Whether content has this name, as far as its size tells how it was sent: what others cut into other
/// parts counts as something else.
///
/// # Errors
/// When it can't be read.
pub(super) fn is_of(mut content: impl Read, size: u64, etag: &str) -> io::Result<bool> {
    let Some((_, n_parts)) = etag.split_once('-') else {
        let mut md5 = Md5::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n_read = match content.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if n_read == 0 {
                return Ok(of_whole(&md5.finalize().into()) == etag);
            }
            md5.update(buffer.get(..n_read).unwrap_or_default());
        }
    };
    let Some(part) = part_of(size).filter(|part| n_parts == size.div_ceil(*part).to_string())
    else {
        return Ok(false);
    };
    let mut sums = Vec::new();
    loop {
        let mut bytes = Vec::new();
        content.by_ref().take(part).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(of_parts(&sums) == etag);
        }
        sums.push(sum(&bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are those that Python's `hashlib` makes.
    #[test]
    fn content_has_the_name_that_s3_gives_it() {
        let hello = "5d41402abc4b2a76b9719d911017c592";
        assert_eq!(of_whole(&sum(b"hello")), hello);
        assert!(is_of(&b"hello"[..], 5, hello).unwrap());
        assert!(!is_of(&b"jello"[..], 5, hello).unwrap());
        // One who sends so little in parts is none that is known here.
        assert!(!is_of(&b"hello"[..], 5, &of_parts(&[sum(b"hello")])).unwrap());

        let large = vec![0; (PART + 1) as usize];
        let (name, size) = ("a5eb57d36bf73a683183c5a0fb4a37ab-2", PART + 1);
        assert_eq!(of_parts(&[sum(&large[1..]), sum(&[0])]), name);
        assert!(is_of(&large[..], size, name).unwrap());
        for other in [name.replace("-2", "-3"), name.replace("a5", "a6")] {
            assert!(!is_of(&large[..], size, &other).unwrap());
        }
    }

    #[test]
    fn no_object_has_more_parts_than_it_may() {
        assert_eq!(part_of(0), None);
        assert_eq!(part_of(PART - 1), None);
        assert_eq!(part_of(PART), Some(PART));
        assert_eq!(part_of(PART * MAX_PARTS), Some(PART));
        assert_eq!(part_of(PART * MAX_PARTS + 1), Some(2 * PART));
    }
}
