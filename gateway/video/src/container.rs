//! What a video comes in, told by its first bytes.

/// A container that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// MP4 and `QuickTime`.
    Mp4,
    /// AVI.
    Avi,
    /// Matroska and `WebM`.
    Matroska,
}

/// Brands of the same container that are pictures: HEIF and AVIF, and Canon's raw ones.
const PICTURES: [&[u8; 4]; 11] = [
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis",
    b"crx ",
];

impl Container {
    /// How many bytes tell it.
    pub const HEAD: usize = 12;

    /// Returns the container that these first bytes announce, whatever it is called.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        match bytes {
            // ISO 14496-12: the size and type of a box, and the brand.
            [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => {
                let brand = brand.first_chunk::<4>()?;
                (!PICTURES.contains(&brand)).then_some(Self::Mp4)
            }
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'A',
                b'V',
                b'I',
                b' ',
                ..,
            ] => Some(Self::Avi),
            [0x1a, 0x45, 0xdf, 0xa3, ..] => Some(Self::Matroska),
            _ => None,
        }
    }

    /// Returns what ffmpeg calls what reads it.
    pub(crate) const fn demuxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Avi => "avi",
            Self::Matroska => "matroska",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_told_by_its_first_bytes() {
        let cases: [(&[u8], Option<Container>); 9] = [
            (b"\0\0\0\x20ftypisom\0\0", Some(Container::Mp4)),
            (b"\0\0\0\x14ftypqt  ", Some(Container::Mp4)),
            (b"\0\0\0\x18ftypheic", None),
            (b"\0\0\0\x18ftyp", None),
            (b"RIFF\x10\0\0\0AVI LIST", Some(Container::Avi)),
            (b"RIFF\x10\0\0\0WEBPVP8 ", None),
            (b"\x1a\x45\xdf\xa3\x01", Some(Container::Matroska)),
            (b"ffconcat version 1.0\nfile '/etc/passwd'", None),
            (b"", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Container::sniff(bytes), expected, "{bytes:?}");
        }
    }
}
