use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};
use proptest::prelude::*;
use workers_protocol::Code;

use super::*;
use crate::testing::{Jpeg, psnr, scene};

const SIZE: [u32; 2] = [61, 43];

fn image() -> RgbImage {
    let picture = scene(SIZE[0], SIZE[1]);
    RgbImage::from_raw(SIZE[0], SIZE[1], picture.rgb().to_vec()).unwrap()
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decoded(bytes: &[u8]) -> Picture {
    let decoded = decode(bytes, &Limits::default()).unwrap();
    let size = [decoded.picture.width(), decoded.picture.height()];
    assert_eq!([decoded.width, decoded.height], size);
    assert_eq!(
        decoded.region,
        [0.0, 0.0, f64::from(size[0]), f64::from(size[1])]
    );
    decoded.picture
}

fn code(bytes: &[u8]) -> Code {
    decode(bytes, &Limits::default()).unwrap_err().code
}

// === formats ===

#[test]
fn lossless_formats_decode_to_their_pixels() {
    let image = DynamicImage::from(image());
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        let picture = decoded(&encoded(&image, format));
        assert_eq!(picture.rgb(), image.as_bytes(), "{format:?}");
    }
}

#[test]
fn lossy_formats_decode_nearly_to_their_pixels() {
    let image = DynamicImage::from(image());
    for format in [ImageFormat::Jpeg, ImageFormat::Gif] {
        let picture = decoded(&encoded(&image, format));
        let quality = psnr(picture.rgb(), image.as_bytes());
        assert!(quality > 25.0, "{format:?}: {quality} dB");
    }
}

#[test]
fn a_picture_of_one_pixel_decodes_in_every_format() {
    let image = DynamicImage::from(RgbImage::from_pixel(1, 1, image::Rgb([255, 255, 255])));
    for format in [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::WebP,
        ImageFormat::Gif,
    ] {
        assert_eq!(
            decoded(&encoded(&image, format)).rgb(),
            [255; 3],
            "{format:?}"
        );
    }
}

#[test]
fn grey_and_sixteen_bits_become_eight_bit_colours() {
    let colours = DynamicImage::from(image());
    let grey = DynamicImage::from(colours.to_luma8());
    for format in [ImageFormat::Png, ImageFormat::Bmp] {
        let picture = decoded(&encoded(&grey, format));
        assert_eq!(picture.rgb(), grey.to_rgb8().as_raw().as_slice());
    }
    let picture = decoded(&encoded(&grey, ImageFormat::Jpeg));
    assert!(
        picture
            .rgb()
            .as_chunks()
            .0
            .iter()
            .all(|&[r, g, b]| r == g && g == b)
    );
    for wide in [
        DynamicImage::from(colours.to_rgb16()),
        DynamicImage::from(colours.to_rgba16()),
    ] {
        let picture = decoded(&encoded(&wide, ImageFormat::Png));
        assert_eq!(picture.rgb(), colours.as_bytes());
    }
}

#[test]
fn a_palette_becomes_colours() {
    let mut bytes = Vec::new();
    // Two pixels of one bit: red, then half-transparent blue, laid over white.
    let chunk = |bytes: &mut Vec<u8>, name: &[u8; 4], data: &[u8]| {
        bytes.extend((data.len() as u32).to_be_bytes());
        let start = bytes.len();
        bytes.extend(name);
        bytes.extend(data);
        let crc = crc32(&bytes[start..]);
        bytes.extend(crc.to_be_bytes());
    };
    bytes.extend(b"\x89PNG\r\n\x1a\n");
    chunk(
        &mut bytes,
        b"IHDR",
        &[0, 0, 0, 2, 0, 0, 0, 1, 1, 3, 0, 0, 0],
    );
    chunk(&mut bytes, b"PLTE", &[255, 0, 0, 0, 0, 255]);
    chunk(&mut bytes, b"tRNS", &[255, 128]);
    // zlib: one stored block of filter 0 and the bits 0, 1.
    let stored = [
        0x78,
        0x01,
        1,
        2,
        0,
        0xfd,
        0xff,
        0,
        0b0100_0000,
        0,
        0x43,
        0,
        0x41,
    ];
    chunk(&mut bytes, b"IDAT", &stored);
    chunk(&mut bytes, b"IEND", &[]);
    assert_eq!(decoded(&bytes).rgb(), [255, 0, 0, 127, 127, 255]);
}

#[test]
fn transparency_is_laid_over_white() {
    let pixels = vec![0, 100, 200, 0, 0, 100, 200, 128, 0, 100, 200, 255];
    let rgba = image::RgbaImage::from_raw(3, 1, pixels).unwrap();
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let picture = decoded(&encoded(&DynamicImage::from(rgba.clone()), format));
        assert_eq!(
            picture.rgb(),
            [255, 255, 255, 127, 177, 227, 0, 100, 200],
            "{format:?}"
        );
    }
}

#[test]
fn of_an_animation_the_first_frame_is_decoded() {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for value in [255, 0] {
        let frame = image::RgbaImage::from_pixel(4, 4, image::Rgba([value, 0, 0, 255]));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    assert_eq!(decoded(&bytes).rgb()[..3], [255, 0, 0]);
}

#[test]
fn a_bitmap_from_the_top_decodes() {
    let mut bytes = b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bytes.extend(2_i32.to_le_bytes());
    bytes.extend((-2_i32).to_le_bytes());
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24]);
    bytes.extend([1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12, 0, 0]);
    assert_eq!(
        decoded(&bytes).rgb(),
        [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]
    );
}

#[test]
fn jpegs_of_every_sampling_decode() {
    let picture = scene(45, 37);
    let samplings: [&'static [[usize; 2]]; 6] = [
        &[[1, 1]],
        &[[2, 2]],
        &[[1, 1], [1, 1], [1, 1]],
        &[[2, 1], [1, 1], [1, 1]],
        &[[1, 2], [1, 1], [1, 1]],
        &[[2, 2], [1, 1], [1, 1]],
    ];
    for sampling in samplings {
        for restart_interval in [0, 2] {
            let jpeg = Jpeg {
                sampling,
                restart_interval,
            };
            let found = decoded(&jpeg.encode(&picture));
            let expected = if sampling.len() == 1 {
                let rgb = RgbImage::from_raw(45, 37, picture.rgb().to_vec()).unwrap();
                DynamicImage::from(DynamicImage::from(rgb).to_luma8())
                    .to_rgb8()
                    .into_raw()
            } else {
                picture.rgb().to_vec()
            };
            let quality = psnr(found.rgb(), &expected);
            assert!(quality > 22.0, "{sampling:?}: {quality} dB");
        }
    }
}

#[test]
fn a_cmyk_jpeg_becomes_colours() {
    // Adobe's YCCK: YCbCr of the negative, and black inverted.
    let negative = scene(40, 40);
    let positive: Vec<u8> = negative.rgb().iter().map(|value| 255 - value).collect();
    let jpeg = Jpeg {
        sampling: &[[1, 1]; 4],
        restart_interval: 0,
    };
    let quality = psnr(decoded(&jpeg.encode(&negative)).rgb(), &positive);
    assert!(quality > 30.0, "{quality} dB");
}

// === orientation ===

/// An EXIF block (TIFF header, one entry) with this orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut tiff = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    tiff.extend([orientation, 0, 0, 0, 0, 0, 0]);
    tiff
}

fn jpeg_with_exif(jpeg: &[u8], exif: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1];
    bytes.extend((exif.len() as u16 + 8).to_be_bytes());
    bytes.extend(b"Exif\0\0");
    bytes.extend(exif);
    bytes.extend(&jpeg[2..]);
    bytes
}

fn upright(image: &RgbImage, orientation: u8) -> RgbImage {
    let mut upright = DynamicImage::from(image.clone());
    upright.apply_orientation(Orientation::from_exif(orientation).unwrap());
    upright.into_rgb8()
}

#[test]
fn every_exif_orientation_is_turned_upright() {
    let image = image();
    for orientation in 1..=8 {
        let expected = upright(&image, orientation);

        let mut png = Vec::new();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_exif_metadata(exif(orientation)).unwrap();
        encoder
            .write_image(&image, SIZE[0], SIZE[1], ExtendedColorType::Rgb8)
            .unwrap();
        let mut webp = Vec::new();
        let mut encoder = WebPEncoder::new_lossless(&mut webp);
        encoder.set_exif_metadata(exif(orientation)).unwrap();
        encoder
            .write_image(&image, SIZE[0], SIZE[1], ExtendedColorType::Rgb8)
            .unwrap();
        for bytes in [png, webp] {
            let picture = decoded(&bytes);
            assert_eq!(
                [picture.width(), picture.height()],
                <[u32; 2]>::from(expected.dimensions())
            );
            assert!(
                picture.rgb() == expected.as_raw().as_slice(),
                "orientation {orientation}"
            );
        }

        let jpeg = encoded(&DynamicImage::from(image.clone()), ImageFormat::Jpeg);
        let stored = RgbImage::from_raw(SIZE[0], SIZE[1], decoded(&jpeg).rgb).unwrap();
        let turned = decoded(&jpeg_with_exif(&jpeg, &exif(orientation)));
        let expected = upright(&stored, orientation);
        assert!(
            turned.rgb() == expected.as_raw().as_slice(),
            "orientation {orientation}"
        );
    }
}

#[test]
fn damaged_exif_does_not_spoil_the_picture() {
    let jpeg = encoded(&DynamicImage::from(image()), ImageFormat::Jpeg);
    let pixels = decoded(&jpeg);
    for exif in [&b"MM"[..], b"no tiff at all", &[0xff; 40], &exif(99)] {
        assert_eq!(decoded(&jpeg_with_exif(&jpeg, exif)), pixels);
    }
}

// === scaled decoding ===

fn box_average(picture: &Picture, reduction: u32) -> Vec<u8> {
    let [width, height] = [picture.width(), picture.height()];
    let mut average = Vec::new();
    for y in 0..height.div_ceil(reduction) {
        for x in 0..width.div_ceil(reduction) {
            for channel in 0..3 {
                let (mut sum, mut n) = (0, 0);
                for y in y * reduction..height.min((y + 1) * reduction) {
                    for x in x * reduction..width.min((x + 1) * reduction) {
                        sum += u32::from(picture.rgb()[(3 * (y * width + x) + channel) as usize]);
                        n += 1;
                    }
                }
                average.push((f64::from(sum) / f64::from(n)).round() as u8);
            }
        }
    }
    average
}

#[test]
fn a_scaled_decoding_is_the_box_average_of_a_full_one() {
    // A smooth picture: what differs is the upsampling of chrominance, at edges.
    let samplings: [&'static [[usize; 2]]; 6] = [
        &[[1, 1]],
        &[[2, 2]],
        &[[1, 1], [1, 1], [1, 1]],
        &[[2, 1], [1, 1], [1, 1]],
        &[[1, 2], [1, 1], [1, 1]],
        &[[2, 2], [1, 1], [1, 1]],
    ];
    for sampling in samplings {
        for restart_interval in [0, 3] {
            let jpeg = Jpeg {
                sampling,
                restart_interval,
            };
            let bytes = jpeg.encode(&scene(96, 64));
            let full = decoded(&bytes);
            for reduction in [2, 4, 8] {
                let scaled = scaled::decode(&bytes, [96, 64], reduction).unwrap();
                assert_eq!(
                    [scaled.width(), scaled.height()],
                    [96 / reduction, 64 / reduction]
                );
                let quality = psnr(scaled.rgb(), &box_average(&full, reduction));
                let least = if sampling.len() == 1 || sampling[0] == [1, 1] {
                    48.0
                } else {
                    27.0
                };
                assert!(quality > least, "{sampling:?} / {reduction}: {quality} dB");
            }
        }
    }
}

#[test]
fn a_scaled_decoding_reads_codes_of_every_length() {
    // The standard's tables, with codes of 2 to 16 bits.
    let picture = scene(200, 120);
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 98)
        .encode(picture.rgb(), 200, 120, ExtendedColorType::Rgb8)
        .unwrap();
    let full = decoded(&bytes);
    for reduction in [2, 4, 8] {
        let scaled = scaled::decode(&bytes, [200, 120], reduction).unwrap();
        let quality = psnr(scaled.rgb(), &box_average(&full, reduction));
        assert!(quality > 48.0, "{quality} dB");
    }
}

#[test]
fn the_greatest_reduction_that_leaves_enough_pixels_is_chosen() {
    let bytes = Jpeg::YCBCR_420.encode(&scene(100, 60));
    let width = |fit: [u32; 2]| {
        let decoded = decode_to_fit(&bytes, &Limits::default(), |_| fit).unwrap();
        assert_eq!([decoded.width, decoded.height], [100, 60]);
        decoded.picture.width()
    };
    assert_eq!(width([100, 60]), 100);
    assert_eq!(width([34, 20]), 100);
    assert_eq!(width([33, 21]), 100);
    assert_eq!(width([33, 20]), 50);
    assert_eq!(width([16, 10]), 25);
    assert_eq!(width([1, 1]), 13);
    assert_eq!(width([0, 0]), 13);
    assert_eq!(width([u32::MAX, u32::MAX]), 100);
}

#[test]
fn a_scaled_decoding_says_which_part_is_the_original() {
    let jpeg = Jpeg::YCBCR_420.encode(&scene(61, 43));
    let region = |orientation: u8| {
        let bytes = jpeg_with_exif(&jpeg, &exif(orientation));
        let decoded = decode_to_fit(&bytes, &Limits::default(), |_| [6, 6]).unwrap();
        let size = [decoded.picture.width(), decoded.picture.height()];
        (size, decoded.region)
    };
    // 61 / 4 = 15.25, 43 / 4 = 10.75.
    assert_eq!(region(1), ([16, 11], [0.0, 0.0, 15.25, 10.75]));
    assert_eq!(region(3), ([16, 11], [0.75, 0.25, 15.25, 10.75]));
    assert_eq!(region(6), ([11, 16], [0.25, 0.0, 10.75, 15.25]));
    assert_eq!(region(8), ([11, 16], [0.0, 0.75, 10.75, 15.25]));
}

#[test]
fn what_is_not_read_at_a_fraction_is_decoded_in_full() {
    let cmyk = Jpeg {
        sampling: &[[1, 1]; 4],
        restart_interval: 0,
    }
    .encode(&scene(64, 64));
    let decoded = decode_to_fit(&cmyk, &Limits::default(), |_| [8, 8]).unwrap();
    assert_eq!(decoded.picture.width(), 64);
}

// === limits and damage ===

#[test]
fn a_forged_header_is_refused_before_memory_is_taken() {
    let side = 60_000_u32.to_be_bytes();
    let mut png = encoded(&DynamicImage::from(image()), ImageFormat::Png);
    png[16..20].copy_from_slice(&side);
    png[20..24].copy_from_slice(&side);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = decode(&png, &Limits::default()).unwrap_err();
    assert_eq!(error.code, Code::TooLarge);
    assert_eq!(
        error.message,
        "the picture has 60000 × 60000 pixels: expected at most 100000000 in all"
    );

    let mut jpeg = Jpeg::YCBCR_420.encode(&scene(16, 16));
    let frame = jpeg
        .windows(2)
        .position(|bytes| bytes == [0xff, 0xc0])
        .unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    assert_eq!(code(&jpeg), Code::TooLarge);
}

#[test]
fn the_limit_is_inclusive() {
    let png = encoded(&DynamicImage::from(image()), ImageFormat::Png);
    let pixels = u64::from(SIZE[0] * SIZE[1]);
    assert!(decode(&png, &Limits { max_pixels: pixels }).is_ok());
    let error = decode(
        &png,
        &Limits {
            max_pixels: pixels - 1,
        },
    )
    .unwrap_err();
    assert_eq!(error.code, Code::TooLarge);
}

#[test]
fn a_picture_cut_short_is_an_error_and_not_half_grey() {
    let image = DynamicImage::from(image());
    for format in [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::WebP,
        ImageFormat::Gif,
    ] {
        let bytes = encoded(&image, format);
        for part in [0.1, 0.5, 0.8, 0.97] {
            let cut = &bytes[..(bytes.len() as f64 * part) as usize];
            assert_eq!(code(cut), Code::InvalidArgument, "{format:?} cut to {part}");
            let fit = decode_to_fit(cut, &Limits::default(), |_| [1, 1]);
            assert!(fit.is_err(), "{format:?} cut to {part}, to fit");
        }
    }
}

#[test]
fn garbage_after_a_jpeg_does_no_harm() {
    let mut bytes = encoded(&DynamicImage::from(image()), ImageFormat::Jpeg);
    let pixels = decoded(&bytes);
    bytes.extend([0xff, 0xd8, 0xff, 0x00, 0x12, 0xff, 0xc0, 1, 2, 3]);
    assert_eq!(decoded(&bytes), pixels);
    assert!(decode_to_fit(&bytes, &Limits::default(), |_| [8, 8]).is_ok());
}

#[test]
fn what_is_no_picture_says_so() {
    for bytes in [&b""[..], b"hello", b"<svg/>", &[0; 100]] {
        let error = decode(bytes, &Limits::default()).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(
            error
                .message
                .contains("expected JPEG, PNG, WebP, GIF or BMP")
        );
    }
}

/// PNG's checksum (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[derive(Clone, Debug)]
enum Damage {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index),
    Double(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => index().prop_map(Damage::Cut),
        2 => index().prop_map(Damage::Remove),
        2 => index().prop_map(Damage::Double),
    ]
}

fn originals() -> Vec<Vec<u8>> {
    let picture = scene(40, 24);
    let rgb = RgbImage::from_raw(40, 24, picture.rgb().to_vec()).unwrap();
    let image = DynamicImage::from(rgb);
    let mut originals: Vec<_> = [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::WebP,
        ImageFormat::Gif,
    ]
    .map(|format| encoded(&image, format))
    .into();
    let restarting = Jpeg {
        restart_interval: 1,
        ..Jpeg::YCBCR_420
    };
    originals.push(restarting.encode(&picture));
    originals.push(
        Jpeg {
            sampling: &[[1, 1]; 4],
            restart_interval: 0,
        }
        .encode(&picture),
    );
    originals.push(jpeg_with_exif(&originals[0], &exif(6)));
    originals
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn damaged_pictures_never_panic_and_stay_within_the_limit(
        original in any::<prop::sample::Index>(),
        damages in proptest::collection::vec(damage(), 1..6),
        in_header in any::<bool>(),
    ) {
        thread_local!(static ORIGINALS: Vec<Vec<u8>> = originals());
        let mut bytes = ORIGINALS.with(|originals| original.get(originals).clone());
        for damage in damages {
            let n = if in_header { bytes.len().min(700) } else { bytes.len() };
            if n == 0 {
                break;
            }
            match damage {
                Damage::Set(at, byte) => bytes[at.index(n)] = byte,
                Damage::Cut(at) => bytes.truncate(at.index(n)),
                Damage::Remove(at) => {
                    bytes.remove(at.index(n));
                }
                Damage::Double(at) => {
                    let at = at.index(n);
                    bytes.insert(at, bytes[at]);
                }
            }
        }
        let limits = Limits { max_pixels: 1 << 20 };
        for fit in [[u32::MAX; 2], [3, 3]] {
            if let Ok(decoded) = decode_to_fit(&bytes, &limits, |_| fit) {
                prop_assert!(u64::from(decoded.width) * u64::from(decoded.height) <= 1 << 20);
                prop_assert!(decoded.picture.width() <= decoded.width);
            }
        }
    }
}
