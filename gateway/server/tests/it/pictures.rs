//! Pictures to send, and models that take them.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};

use crate::hearth::Store;

pub(crate) const RED: Rgb<u8> = Rgb([255, 0, 0]);
pub(crate) const GREEN: Rgb<u8> = Rgb([0, 255, 0]);
pub(crate) const BLUE: Rgb<u8> = Rgb([0, 0, 255]);

pub(crate) const FORMATS: [ImageFormat; 5] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::WebP,
    ImageFormat::Gif,
    ImageFormat::Bmp,
];

/// Scores a picture by the means of its channels.
pub(crate) const MEAN: &str = "
engine: onnx
task: image-classification
input: { resize: stretch, std: 255 }
output: { labels: [red, green, blue], activation: none }
";

/// Finds the same boxes in every picture, the more surely the redder or bluer it is; in parts of its
/// sides: [1/8, 1/8, 3/8, 3/8], a near double of it, and [5/8, 9/16, 7/8, 15/16] half as surely.
pub(crate) const DETECTOR: &str = "
engine: onnx
task: object-detection
input: { resize: stretch, std: 255 }
output: { head: yolov8, labels: [red, blue], score: 0.3, iou: 0.45 }
";

/// Returns a store with a classifier `mean` and a detector `detector`.
pub(crate) fn picture_models() -> Store {
    Store::new()
        .with("mean", MEAN, "picture_mean")
        .with("detector", DETECTOR, "tiny_detector")
}

pub(crate) fn plain(width: u32, height: u32, color: Rgb<u8>) -> RgbImage {
    RgbImage::from_pixel(width, height, color)
}

/// Returns a picture that no format makes small.
pub(crate) fn noise(width: u32, height: u32) -> RgbImage {
    let mut state = 1_u32;
    RgbImage::from_fn(width, height, |_, _| {
        Rgb([(); 3].map(|()| {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        }))
    })
}

pub(crate) fn encode(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn png(color: Rgb<u8>) -> Vec<u8> {
    encode(&plain(8, 8, color), ImageFormat::Png)
}

/// Returns the JPEG with an EXIF orientation, 1 to 8.
pub(crate) fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    // TIFF, big-endian: one directory at 8 with one entry, tag 0x0112, one 16-bit number.
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    let (start, rest) = jpeg.split_at(2);
    [start, &[0xff, 0xe1], &length, &exif, rest].concat()
}

/// Returns a PNG whose header says this size, and which holds next to nothing.
pub(crate) fn forged_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(RED);
    // Signature, then length, `IHDR`, width, height, five bytes, and the CRC of all from `IHDR`.
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// PNG's checksum (W3C PNG, annex D).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
