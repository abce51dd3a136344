//! The one form in which decoded pixels exist here.

use workers_protocol::InferError;

/// A decoded picture: upright, three bytes (red, green, blue) a pixel, row by row from the top
/// left, without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) rgb: Vec<u8>,
}

impl Picture {
    /// Returns a picture of these pixels.
    ///
    /// # Errors
    /// `Internal` when a side is 0 or `rgb` is not `3 × width × height` bytes.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, InferError> {
        let bytes = 3 * u128::from(width) * u128::from(height);
        if bytes == 0 || rgb.len() as u128 != bytes {
            return Err(InferError::internal(format!(
                "a picture of {width} × {height} pixels has {bytes} bytes, got {}",
                rgb.len()
            )));
        }
        Ok(Self { width, height, rgb })
    }

    /// Returns the width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Returns the height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Returns the pixels, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Returns the pixels `from..to` of a row, or none where they are not in the picture.
    pub(crate) fn row_mut(&mut self, row: usize, from: usize, to: usize) -> &mut [[u8; 3]] {
        let width = self.width as usize;
        self.rgb
            .as_chunks_mut()
            .0
            .chunks_exact_mut(width)
            .nth(row)
            .and_then(|pixels| pixels.get_mut(from..to.min(width)))
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} × {})", self.width, self.height)
    }
}
