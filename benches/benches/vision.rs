//! What a picture costs on its way to the input tensor: 1280 × 720 pixels, letterboxed.
//!
//! `cargo bench -p hearth-benches --bench vision`, with the path of a JPEG to measure another
//! picture than the made-up one. Each part alone, by every way that builds with cargo and a C
//! compiler, and [`Preprocessor::prepare`] beside the sum of the fastest of each. All take turns
//! in one run; medians; one thread. (`taskset -c 0`: jpeg-decoder starts threads of its own.)

#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::codecs::jpeg::JpegEncoder;
use image::imageops;
use image::{ExtendedColorType, RgbImage};
use model_store::{ColorOrder, DataType, PictureInput, Resize, TensorSpec};
use workers_vision::{Keep, Limits, Preprocessor, Scratch, decode, decode_to_fit};
use zune_core::bytestream::ZCursor;
use zune_jpeg::JpegDecoder;

const N_ROUNDS: usize = 41;
/// Of `prepare`, to the sum of the fastest parts.
const LIMIT: f64 = 1.1;

/// What is measured, in turns.
#[derive(Default)]
struct Race<'a> {
    contenders: Vec<Contender<'a>>,
}

struct Contender<'a> {
    part: &'static str,
    name: String,
    run: Box<dyn FnMut() -> Result<()> + 'a>,
    times: Vec<Duration>,
}

fn main() -> Result<()> {
    // Cargo passes `--bench`.
    let path = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let jpeg = match &path {
        Some(path) => std::fs::read(path).with_context(|| format!("reading {path}"))?,
        None => made_up(1280, 720)?,
    };
    let what = path.as_deref().unwrap_or("made up, quality 85, 4:4:4");
    for side in [640, 416] {
        let medians = compare(&jpeg, side)?;
        println!("\n{what}, {} bytes, to {side} × {side}", jpeg.len());
        report(&medians);
    }
    Ok(())
}

fn compare(jpeg: &[u8], side: u32) -> Result<Vec<(&'static str, String, f64)>> {
    let limits = Limits::default();
    let picture = decode(jpeg, &limits)?.picture;
    let (width, height) = (picture.width(), picture.height());
    let scale = f64::from(side) / f64::from(width.max(height));
    let body = [width, height].map(|pixels| (f64::from(pixels) * scale).round() as u32);
    let source = ImageRef::new(width, height, picture.rgb(), PixelType::U8x3)?;
    let resized = resize(&source, body)?;
    let pixels = RgbImage::from_raw(width, height, picture.rgb().to_vec()).context("its size")?;
    let input = PictureInput {
        resize: Resize::Letterbox,
        size: Some([side; 2]),
        color: ColorOrder::Bgr,
        mean: [103.5, 116.3, 123.7],
        std: [57.4, 57.1, 58.4],
        ..PictureInput::default()
    };
    let spec = TensorSpec {
        name: "images".to_owned(),
        datatype: DataType::Fp32,
        shape: vec![-1, 3, -1, -1],
        batch_axis: Some(0),
    };
    let preprocessor = Preprocessor::new(&input, &spec)?;
    let mut resizer = Resizer::new();
    let mut target = Image::new(body[0], body[1], PixelType::U8x3);

    let mut race = Race::default();
    race.add("decode", "zune-jpeg", || {
        black_box(JpegDecoder::new(ZCursor::new(jpeg)).decode()?);
        Ok(())
    });
    race.add("decode", "jpeg-decoder", || {
        black_box(jpeg_decoder::Decoder::new(jpeg).decode()?);
        Ok(())
    });
    for reduction in [2, 4, 8] {
        race.add(
            "scaled decode",
            &format!("jpeg-decoder 1/{reduction}"),
            move || {
                let mut decoder = jpeg_decoder::Decoder::new(jpeg);
                decoder.scale((width / reduction) as u16, (height / reduction) as u16)?;
                black_box(decoder.decode()?);
                Ok(())
            },
        );
        // A scaled decoding has at least one and a half times the pixels that are asked for.
        let fit = [width, height].map(|pixels| pixels * 2 / 3 / reduction);
        race.add("scaled decode", &format!("ours 1/{reduction}"), move || {
            black_box(decode_to_fit(jpeg, &limits, |_| fit)?);
            Ok(())
        });
    }
    race.add("resize", "fast_image_resize", || {
        resizer.resize(&source, &mut target, &bilinear())?;
        black_box(target.buffer());
        Ok(())
    });
    race.add("resize", "image::imageops", || {
        let [width, height] = body;
        black_box(imageops::resize(
            &pixels,
            width,
            height,
            imageops::FilterType::Triangle,
        ));
        Ok(())
    });
    race.add("normalise", "indexed", || {
        black_box(indexed(&resized, body[0] as usize, &input, side as usize));
        Ok(())
    });
    race.add("normalise", "plane by plane", || {
        black_box(plane_by_plane(
            &resized,
            body[0] as usize,
            &input,
            side as usize,
        ));
        Ok(())
    });
    for (name, keep) in [
        ("prepare", Keep::Nothing),
        ("prepare, picture kept", Keep::Picture),
    ] {
        let (preprocessor, mut scratch) = (&preprocessor, Scratch::default());
        race.add("whole", name, move || {
            black_box(preprocessor.prepare(jpeg, &limits, keep, &mut scratch)?);
            Ok(())
        });
    }
    race.medians()
}

impl<'a> Race<'a> {
    fn add(&mut self, part: &'static str, name: &str, run: impl FnMut() -> Result<()> + 'a) {
        self.contenders.push(Contender {
            part,
            name: name.to_owned(),
            run: Box::new(run),
            times: Vec::with_capacity(N_ROUNDS),
        });
    }

    /// Returns part, name and milliseconds of each.
    fn medians(mut self) -> Result<Vec<(&'static str, String, f64)>> {
        // The first round only warms up.
        for round in 0..=N_ROUNDS {
            for contender in &mut self.contenders {
                let start = Instant::now();
                (contender.run)()?;
                if round > 0 {
                    contender.times.push(start.elapsed());
                }
            }
        }
        let median = |mut contender: Contender<'a>| {
            contender.times.sort();
            let median = contender.times[N_ROUNDS / 2].as_secs_f64() * 1e3;
            (contender.part, contender.name, median)
        };
        Ok(self.contenders.into_iter().map(median).collect())
    }
}

fn report(medians: &[(&'static str, String, f64)]) {
    for (part, name, median) in medians {
        println!("  {part:<14} {name:<22} {median:7.2} ms");
    }
    let fastest = |part: &str| {
        let of_part = medians.iter().filter(|median| median.0 == part);
        of_part.map(|median| median.2).fold(f64::INFINITY, f64::min)
    };
    let sum = fastest("decode") + fastest("resize") + fastest("normalise");
    for (_, name, median) in medians.iter().filter(|median| median.0 == "whole") {
        println!(
            "{name}/sum-of-fastest-parts: {:.2} (limit {LIMIT})",
            median / sum
        );
    }
}

fn bilinear() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
}

/// The obvious loop: zeros, a border, then each pixel into its three planes.
fn indexed(body: &[u8], body_width: usize, input: &PictureInput, n: usize) -> Vec<f32> {
    let normalise = |x: f32, channel: usize| (x - input.mean[channel]) / input.std[channel];
    let mut tensor = vec![0.0; 3 * n * n];
    for channel in 0..3 {
        let pad = normalise(f32::from(input.pad), channel);
        tensor[channel * n * n..(channel + 1) * n * n].fill(pad);
    }
    for (y, row) in body.chunks_exact(3 * body_width).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            for channel in 0..3 {
                let value = normalise(f32::from(pixel[2 - channel]), channel);
                tensor[(channel * n + y) * n + x] = value;
            }
        }
    }
    tensor
}

/// Each plane in one go, multiplying and adding.
fn plane_by_plane(body: &[u8], body_width: usize, input: &PictureInput, n: usize) -> Vec<f32> {
    let mut tensor = Vec::with_capacity(3 * n * n);
    for channel in 0..3 {
        let factor = 1.0 / input.std[channel];
        let normalise = |x: u8| (f32::from(x) - input.mean[channel]) * factor;
        for row in body.chunks_exact(3 * body_width) {
            let pixels = row.as_chunks::<3>().0.iter();
            tensor.extend(pixels.map(|pixel| normalise(pixel[2 - channel])));
            tensor.extend(std::iter::repeat_n(normalise(input.pad), n - body_width));
        }
        tensor.resize((channel + 1) * n * n, normalise(input.pad));
    }
    tensor
}

fn resize(source: &ImageRef<'_>, [width, height]: [u32; 2]) -> Result<Vec<u8>> {
    let mut target = Image::new(width, height, PixelType::U8x3);
    Resizer::new().resize(source, &mut target, &bilinear())?;
    Ok(target.into_vec())
}

/// Makes a picture with the statistics of a photo (noise whose amplitude falls with its frequency,
/// edges of shapes) and encodes it. The encoder has no chrominance subsampling.
fn made_up(width: u32, height: u32) -> Result<Vec<u8>> {
    let noise = |x: u32, y: u32, octave: u32| {
        let mut hash = x ^ y.rotate_left(16) ^ octave.wrapping_mul(0x9e37_79b9);
        for factor in [0x7feb_352d, 0x846c_a68b] {
            hash = (hash ^ hash >> 16).wrapping_mul(factor);
        }
        (hash >> 16 & 0xff) as f32 / 255.0 - 0.5
    };
    let smooth = |x: u32, y: u32, octave: u32| {
        let cell = 1 << octave;
        let (u, v) = (
            (x % cell) as f32 / cell as f32,
            (y % cell) as f32 / cell as f32,
        );
        let at = |dx: u32, dy: u32| noise(x / cell + dx, y / cell + dy, octave);
        let mix = |a: f32, b: f32, part: f32| a + (b - a) * part * part * (3.0 - 2.0 * part);
        mix(mix(at(0, 0), at(1, 0), u), mix(at(0, 1), at(1, 1), u), v)
    };
    let mut rgb = Vec::with_capacity(3 * (width * height) as usize);
    for y in 0..height {
        for x in 0..width {
            let octaves = (0..7_u8)
                .map(|octave| smooth(x, y, octave.into()) * 6.0 * 1.6_f32.powi(octave.into()));
            let texture: f32 = octaves.sum();
            let disc = (x as f32 - 450.0).hypot(y as f32 - 380.0) < 220.0;
            let bar = x.abs_diff(y) % 400 < 60;
            let [r, g, b] = match (disc, bar) {
                (true, _) => [190.0, 120.0, 90.0],
                (_, true) => [60.0, 80.0, 110.0],
                _ => [120.0, 140.0, 100.0 + 0.1 * y as f32],
            };
            rgb.extend([r, g, b].map(|value: f32| (value + texture) as u8));
        }
    }
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 85).encode(
        &rgb,
        width,
        height,
        ExtendedColorType::Rgb8,
    )?;
    Ok(jpeg)
}
