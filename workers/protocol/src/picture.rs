//! Of a picture only its header: format and dimensions, read without decoding a pixel.

use crate::InferError;

/// Formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum PictureFormat {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
}

/// What the first bytes of a picture say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureHeader {
    /// By content, never by name.
    pub format: PictureFormat,
    /// Pixels, before any EXIF rotation.
    pub width: u32,
    /// Likewise.
    pub height: u32,
}

impl PictureFormat {
    /// Returns the format that these first bytes announce, if it is one that is decoded.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some(Self::Png),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'B', b'M', ..] if bytes.len() > 26 => Some(Self::Bmp),
            _ => None,
        }
    }
}

impl PictureHeader {
    /// Reads the header of an encoded picture.
    ///
    /// # Errors
    /// `InvalidArgument` when the bytes are no picture of a known format, or end too early.
    pub fn read(bytes: &[u8]) -> Result<Self, InferError> {
        let format = PictureFormat::sniff(bytes).ok_or_else(|| {
            InferError::invalid(if bytes.is_empty() {
                "the picture is empty: expected JPEG, PNG, WebP, GIF or BMP".to_owned()
            } else {
                "not a picture: expected JPEG, PNG, WebP, GIF or BMP".to_owned()
            })
        })?;
        let size = imagesize::blob_size(bytes).map_err(|error| {
            InferError::invalid(format!("the {format:?} header can't be read: {error}"))
        })?;
        let side = |pixels: usize| {
            u32::try_from(pixels)
                .ok()
                .map(|pixels| match format {
                    // A negative height: the rows are stored from the top.
                    PictureFormat::Bmp => pixels.cast_signed().unsigned_abs(),
                    _ => pixels,
                })
                .filter(|&pixels| pixels > 0)
                .ok_or_else(|| {
                    InferError::invalid(format!(
                        "the {format:?} header says {} × {} pixels",
                        size.width, size.height
                    ))
                })
        };
        Ok(Self {
            format,
            width: side(size.width)?,
            height: side(size.height)?,
        })
    }

    /// Returns width × height.
    pub const fn pixels(self) -> u64 {
        self.width as u64 * self.height as u64
    }
}
