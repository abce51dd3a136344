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

    /// Returns what is within x1, y1, x2, y2, to the nearest pixel: what of that is in the picture, and at
    /// least one pixel of it.
    pub fn part(&self, [x1, y1, x2, y2]: [f32; 4]) -> Self {
        // A cast saturates: what is outside of the picture, or no number, becomes its edge.
        let clip = |from: f32, to: f32, side: u32| {
            let from = (from.round() as u32).min(side - 1);
            (from, (to.round() as u32).clamp(from + 1, side))
        };
        let (x1, x2) = clip(x1, x2, self.width);
        let (y1, y2) = clip(y1, y2, self.height);
        let rows = self.rgb.chunks_exact(3 * self.width as usize);
        let rows = rows.skip(y1 as usize).take((y2 - y1) as usize);
        let columns = 3 * x1 as usize..3 * x2 as usize;
        let rgb = rows.filter_map(|row| row.get(columns.clone()));
        Self {
            width: x2 - x1,
            height: y2 - y1,
            rgb: rgb.flatten().copied().collect(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_what_of_it_is_in_the_picture() {
        let rgb: Vec<u8> = (0..12).flat_map(|pixel| [pixel; 3]).collect();
        let picture = Picture::new(4, 3, rgb).unwrap();
        let pixels = |rect| {
            let part = picture.part(rect);
            let pixels = part.rgb.iter().step_by(3).copied().collect::<Vec<_>>();
            assert_eq!(pixels.len() as u32, part.width * part.height);
            ([part.width, part.height], pixels)
        };
        assert_eq!(pixels([0.6, 0.9, 3.4, 3.0]), ([2, 2], vec![5, 6, 9, 10]));
        assert_eq!(pixels([-9.0, -9.0, 9.0, 9.0]), ([4, 3], (0..12).collect()));
        assert_eq!(pixels([9.0, 9.0, 10.0, 10.0]), ([1, 1], vec![11]));
        assert_eq!(pixels([2.0, 1.0, 1.0, 0.0]), ([1, 1], vec![6]));
        assert_eq!(
            pixels([f32::NAN, 0.0, f32::INFINITY, 1.0]),
            ([4, 1], vec![0, 1, 2, 3])
        );
    }
}
