//! What the tests of several modules need.

use model_store::{DataType, TensorSpec};

use crate::{OutputRow, Picture};

pub(crate) fn output(name: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: shape.to_vec(),
        batch_axis: Some(0),
    }
}

pub(crate) fn row<'a>(shape: &'a [usize], data: &'a [f32]) -> OutputRow<'a> {
    OutputRow { shape, data }
}

pub(crate) fn labels(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// A deterministic picture with smooth areas, edges and fine detail.
pub(crate) fn scene(width: u32, height: u32) -> Picture {
    let pixel = |x: u32, y: u32| {
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        let disc = (u - 0.4).hypot(v - 0.5) < 0.3;
        let stripes = (x / 3 + y / 5).is_multiple_of(2) && u > 0.6;
        let wave = 40.0 * (u * 40.0).sin() * (v * 25.0).cos();
        let [r, g, b] = match (disc, stripes) {
            (true, _) => [200.0, 60.0, 40.0 + 100.0 * v],
            (_, true) => [30.0, 90.0, 160.0],
            _ => [120.0 * u + 60.0, 180.0 * v + 40.0, 110.0],
        };
        [r, g, b].map(|value| (value + wave) as u8)
    };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| pixel(x, y)));
    let rgb = pixels.collect::<Vec<_>>().into_flattened();
    Picture::new(width, height, rgb).unwrap()
}

/// Peak signal-to-noise ratio of two pictures in dB.
pub(crate) fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |(&a, &b): (&u8, &u8)| (f64::from(a) - f64::from(b)).powi(2);
    let sum: f64 = a.iter().zip(b).map(square).sum();
    10.0 * (255.0 * 255.0 * a.len() as f64 / sum).log10()
}

/// How a test's JPEG is made.
#[derive(Clone, Copy)]
pub(crate) struct Jpeg {
    /// Blocks per MCU of each component, across and down: one for grey, three for YCbCr,
    /// four for Adobe's YCCK.
    pub(crate) sampling: &'static [[usize; 2]],
    /// MCUs between restart markers; 0 for none.
    pub(crate) restart_interval: usize,
}

impl Jpeg {
    pub(crate) const YCBCR_420: Self = Self {
        sampling: &[[2, 2], [1, 1], [1, 1]],
        restart_interval: 0,
    };

    /// Encodes a picture: nothing is thrown away but what quantization by 4 loses, and no code is
    /// shorter than another, so that the encoder is short.
    pub(crate) fn encode(self, picture: &Picture) -> Vec<u8> {
        let [width, height] = [picture.width(), picture.height()].map(|side| side as usize);
        // The blocks of a single component are not grouped, whatever its frame says.
        let grouped = if self.sampling.len() == 1 {
            &[[1, 1]]
        } else {
            self.sampling
        };
        let most = [0, 1].map(|axis| grouped.iter().map(|blocks| blocks[axis]).max().unwrap());
        let mut bytes = vec![0xff, 0xd8];
        let mut segment = |marker: u8, data: &[u8]| {
            bytes.extend([0xff, marker]);
            bytes.extend((data.len() as u16 + 2).to_be_bytes());
            bytes.extend(data);
        };
        if self.sampling.len() == 4 {
            segment(0xee, b"Adobe\0\x64\0\0\0\0\x02");
        }
        segment(0xdb, &[&[0][..], &[4; 64]].concat());
        let mut frame = vec![8];
        frame.extend((height as u16).to_be_bytes());
        frame.extend((width as u16).to_be_bytes());
        frame.push(self.sampling.len() as u8);
        let mut scan = vec![self.sampling.len() as u8];
        for (id, [across, down]) in (1..).zip(self.sampling) {
            frame.extend([id, (across << 4 | down) as u8, 0]);
            scan.extend([id, 0]);
        }
        scan.extend([0, 63, 0]);
        segment(0xc0, &frame);
        // DC: the sizes 0 to 11 in four bits. AC: every run and size in eight.
        let sizes: Vec<u8> = (0..12).collect();
        let runs: Vec<u8> = ac_symbols().collect();
        let counts = |length: usize, n: usize| {
            let mut counts = [0; 16];
            counts[length - 1] = n as u8;
            counts
        };
        segment(
            0xc4,
            &[&[0x00][..], &counts(4, sizes.len()), &sizes].concat(),
        );
        segment(0xc4, &[&[0x10][..], &counts(8, runs.len()), &runs].concat());
        segment(0xdd, &(self.restart_interval as u16).to_be_bytes());
        segment(0xda, &scan);

        let mcus = [0, 1].map(|axis| [width, height][axis].div_ceil(8 * most[axis]));
        let mut writer = BitWriter::default();
        let mut predictions = vec![0; self.sampling.len()];
        for mcu in 0..mcus[0] * mcus[1] {
            if self.restart_interval > 0 && mcu > 0 && mcu.is_multiple_of(self.restart_interval) {
                writer.flush();
                writer
                    .bytes
                    .extend([0xff, 0xd0 + ((mcu / self.restart_interval - 1) % 8) as u8]);
                predictions.fill(0);
            }
            let corner = [mcu % mcus[0], mcu / mcus[0]];
            for (component, &blocks) in grouped.iter().enumerate() {
                let step = [0, 1].map(|axis| most[axis] / blocks[axis]);
                for block in 0..blocks[0] * blocks[1] {
                    let at = [block % blocks[0], block / blocks[0]];
                    let first = [0, 1].map(|axis| 8 * (corner[axis] * blocks[axis] + at[axis]));
                    let mut samples = [0.0; 64];
                    for (index, sample) in samples.iter_mut().enumerate() {
                        let x = (first[0] + index % 8) * step[0];
                        let y = (first[1] + index / 8) * step[1];
                        *sample = component_sample(picture, component, [x, y], step);
                    }
                    writer.block(&transform(&samples), &mut predictions[component]);
                }
            }
        }
        writer.flush();
        bytes.extend(writer.bytes);
        bytes.extend([0xff, 0xd9]);
        bytes
    }
}

fn ac_symbols() -> impl Iterator<Item = u8> {
    let runs = (0..16).flat_map(|run| (1..=10).map(move |size| run << 4 | size));
    [0x00, 0xf0].into_iter().chain(runs)
}

/// The mean of a component (Y, Cb, Cr, or no black, inverted) over `step` pixels, less 128.
fn component_sample(picture: &Picture, component: usize, at: [usize; 2], step: [usize; 2]) -> f32 {
    let [width, height] = [picture.width(), picture.height()].map(|side| side as usize);
    let mut sum = 0.0;
    for y in at[1]..at[1] + step[1] {
        for x in at[0]..at[0] + step[0] {
            let index = 3 * (y.min(height - 1) * width + x.min(width - 1));
            let [r, g, b] = [0, 1, 2].map(|channel| f32::from(picture.rgb()[index + channel]));
            sum += match component {
                0 => 0.299 * r + 0.587 * g + 0.114 * b - 128.0,
                1 => -0.168_736 * r - 0.331_264 * g + 0.5 * b,
                2 => 0.5 * r - 0.418_688 * g - 0.081_312 * b,
                _ => 127.0,
            };
        }
    }
    sum / (step[0] * step[1]) as f32
}

/// The DCT of a block (ITU-T T.81, A.3.3), divided by 4 and rounded, in zigzag order.
fn transform(samples: &[f32; 64]) -> [i32; 64] {
    let scale = |frequency: usize| if frequency == 0 { 0.5_f32.sqrt() } else { 1.0 };
    let cosine = |at: usize, frequency: usize| {
        ((2 * at + 1) as f32 * frequency as f32 * std::f32::consts::PI / 16.0).cos()
    };
    let mut order: Vec<usize> = (0..64).collect();
    // Along the diagonals, up on the even ones and down on the odd.
    order.sort_by_key(|&position| {
        let (row, column) = (position / 8, position % 8);
        let diagonal = row + column;
        (diagonal, if diagonal % 2 == 0 { column } else { row })
    });
    std::array::from_fn(|k| {
        let (row, column) = (order[k] / 8, order[k] % 8);
        let terms = samples.iter().enumerate();
        let sum: f32 = terms
            .map(|(at, sample)| sample * cosine(at / 8, row) * cosine(at % 8, column))
            .sum();
        (sum * scale(row) * scale(column) / 4.0 / 4.0).round() as i32
    })
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    buffer: u32,
    filled: u32,
}

impl BitWriter {
    fn write(&mut self, bits: u32, n_bits: u32) {
        for bit in (0..n_bits).rev() {
            self.buffer = self.buffer << 1 | (bits >> bit & 1);
            self.filled += 1;
            if self.filled == 8 {
                let byte = self.buffer as u8;
                self.bytes.push(byte);
                if byte == 0xff {
                    self.bytes.push(0);
                }
                self.filled = 0;
            }
        }
    }

    fn flush(&mut self) {
        while self.filled != 0 {
            self.write(1, 1);
        }
    }

    fn signed(&mut self, value: i32) {
        let size = i32::BITS - value.abs().leading_zeros();
        let bits = if value < 0 {
            value + (1 << size) - 1
        } else {
            value
        };
        self.write(bits as u32, size);
    }

    fn block(&mut self, coefficients: &[i32; 64], prediction: &mut i32) {
        let size = |value: i32| i32::BITS - value.abs().leading_zeros();
        let difference = coefficients[0] - *prediction;
        *prediction = coefficients[0];
        self.write(size(difference), 4);
        self.signed(difference);
        let mut zeros = 0;
        let code = |symbol: u32| {
            ac_symbols()
                .position(|one| u32::from(one) == symbol)
                .unwrap()
        };
        for &coefficient in &coefficients[1..] {
            if coefficient == 0 {
                zeros += 1;
                continue;
            }
            while zeros > 15 {
                self.write(code(0xf0) as u32, 8);
                zeros -= 16;
            }
            self.write(code(zeros << 4 | size(coefficient)) as u32, 8);
            self.signed(coefficient);
            zeros = 0;
        }
        if zeros > 0 {
            self.write(code(0) as u32, 8);
        }
    }
}
