//! Predictions drawn into a picture.

#[cfg(test)]
mod tests;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, RasterizedChar, get_raster};
use workers_protocol::{DrawFormat, InferError};

use crate::Picture;

/// Quality of drawn JPEGs: lines and letters stay sharp.
const JPEG_QUALITY: u8 = 90;

/// Colours by class: twenty that are told apart easily (Sasha Trubetskoy, "List of 20 simple,
/// distinct colors"), without those close to grey; then they begin again.
const COLOURS: [[u8; 3]; 20] = [
    [230, 25, 75],
    [60, 180, 75],
    [255, 225, 25],
    [0, 130, 200],
    [245, 130, 48],
    [145, 30, 180],
    [70, 240, 240],
    [240, 50, 230],
    [210, 245, 60],
    [250, 190, 212],
    [0, 128, 128],
    [220, 190, 255],
    [170, 110, 40],
    [255, 250, 200],
    [128, 0, 0],
    [170, 255, 195],
    [128, 128, 0],
    [255, 215, 180],
    [0, 0, 128],
    [40, 220, 150],
];

/// Heights of the font in pixels.
const FONT_SIZES: [(usize, RasterHeight); 4] = [
    (32, RasterHeight::Size32),
    (24, RasterHeight::Size24),
    (20, RasterHeight::Size20),
    (16, RasterHeight::Size16),
];

/// One prediction to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// x1, y1, x2, y2 in pixels of the picture; `None` for a caption at the top left.
    pub rect: Option<[f32; 4]>,
    /// What its label says.
    pub text: String,
    /// Chooses the colour.
    pub class: u32,
}

/// Draws boxes and labels into a picture. Lines and letters grow with it.
///
/// The first mark is drawn last, so the best prediction lies on top; labels lie on boxes. A label
/// is above its box, or inside where there is no room above, and always within the picture, whose
/// right edge cuts it if it is longer.
pub fn draw(picture: &mut Picture, marks: &[Mark]) {
    let side = picture.width().min(picture.height()) as usize;
    let line = (side / 240).max(1);
    let font = Font::of_height(side / 32);
    for mark in marks.iter().rev() {
        if let Some(rect) = mark.rect {
            draw_box(picture, rect, line, colour(mark.class));
        }
    }
    for mark in marks.iter().rev() {
        if let Some([x1, y1, ..]) = mark.rect {
            let (x, y) = (x1.max(0.0) as usize, y1.max(0.0) as usize);
            let y = if y < font.height() {
                y + line
            } else {
                y - font.height()
            };
            draw_label(picture, [x, y], mark, font);
        }
    }
    let captions = marks.iter().filter(|mark| mark.rect.is_none());
    for (index, mark) in captions.enumerate() {
        draw_label(picture, [0, index * font.height()], mark, font);
    }
}

/// Encodes a picture; a JPEG in quality 90, without subsampling.
///
/// # Errors
/// `TooLarge` when a JPEG would have more than 65535 pixels on a side.
pub fn encode(picture: &Picture, format: DrawFormat) -> Result<Vec<u8>, InferError> {
    let (width, height) = (picture.width(), picture.height());
    if format == DrawFormat::Jpeg && width.max(height) > u32::from(u16::MAX) {
        return Err(InferError::too_large(format!(
            "a JPEG has at most 65535 pixels on a side, the picture has {width} × {height}: \
             PNG can hold it"
        )));
    }
    let mut bytes = Vec::new();
    let (rgb, color) = (picture.rgb(), ExtendedColorType::Rgb8);
    match format {
        DrawFormat::Jpeg => JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .write_image(rgb, width, height, color),
        DrawFormat::Png => {
            PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
                .write_image(rgb, width, height, color)
        }
    }
    .map_err(|error| {
        InferError::internal(format!("the drawn picture can't be encoded: {error}"))
    })?;
    Ok(bytes)
}

fn colour(class: u32) -> [u8; 3] {
    COLOURS[class as usize % COLOURS.len()]
}

/// Black or white, whichever is read better on this colour.
fn contrast([r, g, b]: [u8; 3]) -> [u8; 3] {
    // Luma of BT.601.
    let luma = 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b);
    if luma > 128_000 { [0; 3] } else { [255; 3] }
}

fn draw_box(picture: &mut Picture, rect: [f32; 4], line: usize, colour: [u8; 3]) {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    // A cast saturates: what is outside of the picture, or no number, becomes its edge.
    let [x1, x2] = [rect[0], rect[2]].map(|x| width.min(x.round() as usize));
    let [y1, y2] = [rect[1], rect[3]].map(|y| height.min(y.round() as usize));
    let (inner_left, inner_right) = (x1 + line, x2.saturating_sub(line));
    for row in y1..y2 {
        if row < y1 + line || row + line >= y2 || inner_left >= inner_right {
            picture.row_mut(row, x1, x2).fill(colour);
        } else {
            picture.row_mut(row, x1, inner_left).fill(colour);
            picture.row_mut(row, inner_right, x2).fill(colour);
        }
    }
}

/// Draws a label with its top left corner at (x, y), or as near as the picture allows.
fn draw_label(picture: &mut Picture, [x, y]: [usize; 2], mark: &Mark, font: Font) {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    // Each character is wider than a pixel: of a longer text nothing more can be seen.
    let glyphs = || {
        mark.text
            .chars()
            .take(width)
            .filter_map(|char| font.glyph(char))
    };
    let margin = font.scale * 2;
    let text_width = glyphs()
        .map(|glyph| font.scale * glyph.width())
        .sum::<usize>()
        + 2 * margin;
    let left = x.min(width.saturating_sub(text_width));
    let top = y.min(height.saturating_sub(font.height()));
    let background = colour(mark.class);
    let ink = contrast(background);
    for row in 0..font.height() {
        let right = left + text_width;
        let mut rest = picture.row_mut(top + row, left, right);
        rest.fill(background);
        rest = rest.get_mut(margin..).unwrap_or_default();
        for glyph in glyphs() {
            let intensities = glyph.rows().nth(row / font.scale).unwrap_or_default();
            for &intensity in intensities {
                let (pixels, others) = rest.split_at_mut(font.scale.min(rest.len()));
                pixels.fill(blend(background, ink, intensity));
                rest = others;
            }
        }
    }
}

fn blend(from: [u8; 3], to: [u8; 3], part: u8) -> [u8; 3] {
    let part = u16::from(part);
    [0, 1, 2].map(|channel| {
        let (from, to) = (u16::from(from[channel]), u16::from(to[channel]));
        ((from * (255 - part) + to * part) / 255) as u8
    })
}

// === Font ===

/// A size of the font: a bitmap, enlarged by a whole factor.
#[derive(Clone, Copy)]
struct Font {
    bitmap: (usize, RasterHeight),
    scale: usize,
}

impl Font {
    /// Returns the largest of at most `height` pixels, but no smaller than 16.
    fn of_height(height: usize) -> Self {
        let scale = height.div_ceil(FONT_SIZES[0].0).max(1);
        let fits = |(size, _): &(usize, RasterHeight)| size * scale <= height;
        let smallest = FONT_SIZES[FONT_SIZES.len() - 1];
        Self {
            bitmap: FONT_SIZES.into_iter().find(fits).unwrap_or(smallest),
            scale,
        }
    }

    fn height(self) -> usize {
        self.scale * self.bitmap.0
    }

    /// Returns a glyph; `?` for characters that the font has not.
    fn glyph(self, char: char) -> Option<RasterizedChar> {
        let raster = |char| get_raster(char, FontWeight::Bold, self.bitmap.1);
        raster(char).or_else(|| raster('?'))
    }
}
