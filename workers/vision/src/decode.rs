//! From the bytes of a picture to pixels.
//!
//! The format is told by content. The number of pixels is checked against the header before a
//! decoder takes memory, and again against what the decoder itself has read. EXIF orientation is
//! applied here, so that everything after sees upright pixels.
//!
//! # JPEG
//! Most pictures are JPEGs, and decoding is most of the work before a small model, so the parts
//! were chosen by measuring. Median milliseconds on one core, `benches/vision.rs`:
//!
//! | picture | zune-jpeg | jpeg-decoder | jpeg-decoder at 1/2, 1/4, 1/8 | [`scaled`] at 1/2, 1/4, 1/8 |
//! |---|---|---|---|---|
//! | 1280 × 720, 4:2:0, 50 kB | 1.8 | 3.4 | 2.3, 1.6, 1.5 | 1.7, 1.1, 0.8 |
//! | 1280 × 720, 4:4:4, 150 kB | 3.0 | 5.6 | 5.1, 3.8, 3.7 | 2.7, 1.8, 1.6 |
//! | 3000 × 4000, 4:2:0, 1.8 MB | 59 | 80 | 49, 39, 36 | 32, 22, 19 |
//!
//! So zune-jpeg decodes, except where the picture is about to be reduced to a third or less: then
//! [`scaled`] decodes a fraction, which also leaves less to resize. From the bytes to a tensor of
//! 640 × 640 this takes 23 ms instead of 65 for the largest. (jpeg-decoder starts threads.)

mod scaled;
#[cfg(test)]
mod tests;

use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError};
use workers_protocol::{InferError, PictureFormat, PictureHeader};
use zune_core::bytestream::ZCursor;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::Picture;

/// Passes over a progressive JPEG at most. Encoders write about ten; each costs a walk over all
/// blocks, however few bytes it has.
const MAX_JPEG_SCANS: usize = 64;

/// How much a picture may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Width × height at most. Default: 100 million. Decoding takes up to 12 bytes a pixel
    /// (a progressive JPEG's coefficients and its pixels).
    pub max_pixels: u64,
}

/// A decoded picture, and what it was before.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The pixels, possibly fewer than the original's.
    pub picture: Picture,
    /// Width of the original in pixels, upright.
    pub width: u32,
    /// Height of the original in pixels, upright.
    pub height: u32,
    /// The part of `picture` that shows the original: left, top, width, height in its pixels.
    /// All of it, but for a scaled decoding whose last column or row reaches beyond the original.
    pub region: [f64; 4],
}

/// Decodes a picture at its own size.
///
/// Of an animation, the first frame. Transparency is laid over white, as a page would show it;
/// 16 bits become 8; an embedded colour profile is not applied.
///
/// # Errors
/// `InvalidArgument` when the bytes are no picture of a known format, or damaged or cut short.
/// `TooLarge` when it has more than `limits.max_pixels` pixels.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, InferError> {
    decode_to_fit(bytes, limits, |size| size)
}

/// Decodes a picture that is to be reduced: `fit` is handed its upright width and height, and
/// returns those it will be resized to. The decoded picture has at least these.
///
/// # Errors
/// As [`decode()`].
pub fn decode_to_fit(
    bytes: &[u8],
    limits: &Limits,
    fit: impl FnOnce([u32; 2]) -> [u32; 2],
) -> Result<Decoded, InferError> {
    let header = PictureHeader::read(bytes)?;
    limits.check([header.width, header.height])?;
    match header.format {
        PictureFormat::Jpeg => decode_jpeg(bytes, limits, fit),
        format => decode_other(bytes, format, limits),
    }
}

fn decode_jpeg(
    bytes: &[u8],
    limits: &Limits,
    fit: impl FnOnce([u32; 2]) -> [u32; 2],
) -> Result<Decoded, InferError> {
    // Headers are read leniently, as every viewer does; of the data itself nothing may be missing,
    // where the default would paint the rest grey.
    let options = DecoderOptions::default()
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_max_scans(MAX_JPEG_SCANS);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let failed = |error: zune_jpeg::errors::DecodeErrors| {
        damaged(PictureFormat::Jpeg, &format_args!("{error}"))
    };
    decoder.decode_headers().map_err(failed)?;
    let Some(info) = decoder.info() else {
        return Err(damaged(PictureFormat::Jpeg, &"it has no frame"));
    };
    let size = [u32::from(info.width), u32::from(info.height)];
    limits.check(size)?;
    let orientation = info
        .exif_data
        .and_then(|exif| Orientation::from_exif_chunk(&exif))
        .unwrap_or(Orientation::NoTransforms);
    let turn = Turn::new(orientation);

    let fitted = turn.size(fit(turn.size(size)));
    let scaled = [8, 4, 2]
        .into_iter()
        .find(|reduction| (0..2).all(|side| leaves_enough(size[side] / reduction, fitted[side])))
        .and_then(|reduction| Some((scaled::decode(bytes, size, reduction)?, reduction)));
    if let Some((picture, reduction)) = scaled {
        return Ok(turn.apply(picture, size, reduction));
    }

    decoder.set_options(decoder.options().set_strict_mode(true));
    let rgb = decoder.decode().map_err(failed)?;
    Ok(turn.apply(Picture::new(size[0], size[1], rgb)?, size, 1))
}

fn decode_other(
    bytes: &[u8],
    format: PictureFormat,
    limits: &Limits,
) -> Result<Decoded, InferError> {
    let failed = |error: ImageError| match error {
        ImageError::Limits(_) => InferError::too_large(format!("the {format:?}: {error}")),
        error => damaged(format, &error),
    };
    let mut allocations = image::Limits::no_limits();
    // 16 bits in four channels are 8 bytes a pixel; a small picture may have large metadata.
    allocations.max_alloc = Some(limits.max_pixels.saturating_mul(8).max(1 << 24));
    let cursor = Cursor::new(bytes);
    let mut decoder: Box<dyn ImageDecoder> = match format {
        PictureFormat::Png => {
            Box::new(PngDecoder::with_limits(cursor, allocations.clone()).map_err(failed)?)
        }
        PictureFormat::WebP => Box::new(WebPDecoder::new(cursor).map_err(failed)?),
        PictureFormat::Gif => Box::new(GifDecoder::new(cursor).map_err(failed)?),
        PictureFormat::Bmp => Box::new(BmpDecoder::new(cursor).map_err(failed)?),
        PictureFormat::Jpeg => return Err(InferError::internal("a JPEG has a decoder of its own")),
    };
    let (width, height) = decoder.dimensions();
    limits.check([width, height])?;
    decoder.set_limits(allocations).map_err(failed)?;
    // Damaged EXIF data is no reason to refuse good pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(failed)?;
    let picture = Picture::new(width, height, opaque(image))?;
    Ok(Turn::new(orientation).apply(picture, [width, height], 1))
}

/// Tells whether a side decoded to `decoded` pixels may be resized to `fitted`.
///
/// The box average of a scaled decoding and then the triangle of resizing are not the wider
/// triangle that a full decoding gets; with half as many pixels again as needed they are close
/// enough (above 43 dB) that models find the same.
fn leaves_enough(decoded: u32, fitted: u32) -> bool {
    2 * u64::from(decoded) >= 3 * u64::from(fitted.max(1))
}

/// Returns the pixels as RGB, laid over white where they are transparent.
fn opaque(image: DynamicImage) -> Vec<u8> {
    if !image.color().has_alpha() {
        return image.into_rgb8().into_raw();
    }
    let rgba = image.into_rgba8().into_raw();
    let pixels = rgba.as_chunks::<4>().0.iter();
    let over_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u16::from(value), u16::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    pixels
        .map(|&[r, g, b, alpha]| [r, g, b].map(|value| over_white(value, alpha)))
        .collect::<Vec<_>>()
        .into_flattened()
}

fn damaged(format: PictureFormat, cause: &dyn std::fmt::Display) -> InferError {
    InferError::invalid(format!("the {format:?} can't be decoded: {cause}"))
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pixels: 100_000_000,
        }
    }
}

impl Limits {
    fn check(&self, [width, height]: [u32; 2]) -> Result<(), InferError> {
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(InferError::too_large(format!(
                "the picture has {width} × {height} pixels: expected at most {} in all",
                self.max_pixels
            )));
        }
        Ok(())
    }
}

// === Turn ===

/// How stored pixels become upright ones.
#[derive(Clone, Copy)]
struct Turn {
    /// Upright rows are stored columns.
    transposed: bool,
    /// An upright row runs against its stored line.
    mirrored: bool,
    /// The first upright row is the last stored line.
    flipped: bool,
}

impl Turn {
    fn new(orientation: Orientation) -> Self {
        let (transposed, mirrored, flipped) = match orientation {
            Orientation::NoTransforms => (false, false, false),
            Orientation::FlipHorizontal => (false, true, false),
            Orientation::Rotate180 => (false, true, true),
            Orientation::FlipVertical => (false, false, true),
            Orientation::Rotate90FlipH => (true, false, false),
            Orientation::Rotate90 => (true, true, false),
            Orientation::Rotate270FlipH => (true, true, true),
            Orientation::Rotate270 => (true, false, true),
        };
        Self {
            transposed,
            mirrored,
            flipped,
        }
    }

    /// Turns a size, either way.
    fn size<T>(self, [width, height]: [T; 2]) -> [T; 2] {
        if self.transposed {
            [height, width]
        } else {
            [width, height]
        }
    }

    /// Turns a picture upright that was decoded, at one `reduction`-th, from `size` stored pixels.
    fn apply(self, stored: Picture, size: [u32; 2], reduction: u32) -> Decoded {
        let [width, height] = self.size(size);
        let part = |side: u32| f64::from(side) / f64::from(reduction);
        let picture = self.pixels(stored);
        // The last column and row may show less than the others; turned, they may be the first.
        let start = |reversed: bool, all: u32, part: f64| {
            if reversed { f64::from(all) - part } else { 0.0 }
        };
        let region = [
            start(self.mirrored, picture.width(), part(width)),
            start(self.flipped, picture.height(), part(height)),
            part(width),
            part(height),
        ];
        Decoded {
            picture,
            width,
            height,
            region,
        }
    }

    fn pixels(self, stored: Picture) -> Picture {
        if !(self.transposed || self.mirrored || self.flipped) {
            return stored;
        }
        let stored_width = stored.width() as usize;
        let [width, height] = self.size([stored.width(), stored.height()]);
        let (step, line_step) = if self.transposed {
            (stored_width, 1)
        } else {
            (1, stored_width)
        };
        let source = stored.rgb().as_chunks::<3>().0;
        let mut upright = Vec::with_capacity(source.len());
        for row in 0..height as usize {
            let line = if self.flipped {
                height as usize - 1 - row
            } else {
                row
            };
            let pixels = source[line * line_step..]
                .iter()
                .step_by(step)
                .take(width as usize);
            if self.mirrored {
                upright.extend(pixels.rev());
            } else {
                upright.extend(pixels);
            }
        }
        Picture {
            width,
            height,
            rgb: upright.into_flattened(),
        }
    }
}
