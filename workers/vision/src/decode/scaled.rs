//! A JPEG at a half, a quarter or an eighth of its size, straight from its coefficients.
//!
//! The mean over a square of pixels is linear in the 64 coefficients of its 8 × 8 block. So each
//! coefficient that is not 0 adds its own small picture, already averaged, to the block, and there
//! is neither an inverse transform nor a picture at full size. Chrominance stored at half the size
//! is averaged half as much, which spares the upsampling.
//! The result is the box average of a full decoding, up to rounding.
//!
//! It reads what nearly every JPEG is: baseline or extended sequential, Huffman, 8 bits, grey or
//! YCbCr, one scan. Of anything else, and of damaged data, it returns `None`, and the complete
//! decoder decides; so it needs no errors of its own.
//!
//! Source: ITU-T T.81 (JPEG), annexes A.3.3 (transform), B (markers), F.2 (Huffman decoding).
//!
//! Hot path: nothing allocated or logged per block.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use crate::Picture;

/// Natural position (row × 8 + column) of the k-th coefficient.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Decodes a JPEG of `size` (width, height) pixels as stored to one `reduction`-th (2, 4 or 8) of
/// them a side, rounded up.
pub(super) fn decode(bytes: &[u8], size: [u32; 2], reduction: u32) -> Option<Picture> {
    Scan::read(bytes, size, reduction)?.decode()
}

/// Everything the headers say, and the data.
struct Scan<'a> {
    data: Bits<'a>,
    /// Width and height of the result, in pixels.
    size: [usize; 2],
    /// Columns and rows of MCUs (the smallest group with blocks of all components).
    mcus: [usize; 2],
    /// MCUs between restart markers; 0 for none.
    restart_interval: usize,
    components: Vec<Component>,
}

struct Component {
    id: u8,
    /// Blocks per MCU, across and down.
    blocks: [usize; 2],
    /// Pixels of the result that a block covers, across and down.
    pixels: [usize; 2],
    quantization: usize,
    dc_table: Option<Huffman>,
    ac_table: Option<Huffman>,
    /// What a coefficient of 1 adds to the pixels of its block, in zigzag order.
    basis: Vec<f32>,
    /// One row of MCUs.
    strip: Vec<f32>,
    /// The DC coefficient of the block before.
    dc: i32,
}

// === impl Scan ===

impl<'a> Scan<'a> {
    fn read(bytes: &'a [u8], size: [u32; 2], reduction: u32) -> Option<Self> {
        let mut quantization: [Option<[u16; 64]>; 4] = [None; 4];
        let mut dc_tables: [Option<Huffman>; 4] = Default::default();
        let mut ac_tables: [Option<Huffman>; 4] = Default::default();
        let mut restart_interval = 0;
        let mut components = Vec::new();
        let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
        loop {
            let (marker, segment, after) = next_segment(rest)?;
            rest = after;
            match marker {
                0xdb => read_quantization(segment, &mut quantization)?,
                0xc4 => read_huffman(segment, &mut dc_tables, &mut ac_tables)?,
                0xdd => restart_interval = usize::from(u16_at(segment, 0)?),
                0xc0 | 0xc1 if components.is_empty() => components = read_frame(segment, size)?,
                // Other processes (progressive, lossless, arithmetic, hierarchical).
                0xc0..=0xcf => return None,
                // Adobe's segment: the colours are YCbCr only where it says so.
                0xee if segment.starts_with(b"Adobe") && segment.get(11) != Some(&1) => {
                    return None;
                }
                0xda => break read_scan(segment, &mut components, &dc_tables, &ac_tables)?,
                _ => {}
            }
        }
        if let [component] = components.as_mut_slice() {
            // The blocks of a single component are not grouped (A.2.2).
            component.blocks = [1, 1];
        } else if components.iter().map(|component| component.id).eq(*b"RGB") {
            return None;
        }

        let side = 8 / reduction as usize;
        let most = [0, 1].map(|axis| {
            let blocks = components.iter().map(|component| component.blocks[axis]);
            blocks.max().unwrap_or(1)
        });
        let mcus = [0, 1].map(|axis| (size[axis] as usize).div_ceil(8 * most[axis]));
        for component in &mut components {
            for axis in [0, 1] {
                component.pixels[axis] = match (most[axis], component.blocks[axis]) {
                    (most, blocks) if most == blocks => side,
                    (2, 1) => 2 * side,
                    _ => return None,
                };
            }
            let steps = quantization.get(component.quantization)?.as_ref()?;
            component.basis = basis(component.pixels, steps);
            component.strip = vec![0.0; mcus[0] * most[0] * side * most[1] * side];
        }
        Some(Self {
            data: Bits::new(rest),
            size: size.map(|pixels| pixels.div_ceil(reduction) as usize),
            mcus,
            restart_interval,
            components,
        })
    }

    fn decode(mut self) -> Option<Picture> {
        let [width, height] = self.size;
        let mut rgb = vec![0; 3 * width * height];
        let strip_width = self.components[0].strip_width(self.mcus[0]);
        let strip_height = self.components[0].strip.len() / strip_width;
        let mut rows = rgb.chunks_exact_mut(3 * width);
        let mut until_restart = self.restart_interval;
        for _ in 0..self.mcus[1] {
            for column in 0..self.mcus[0] {
                if self.restart_interval > 0 {
                    if until_restart == 0 {
                        self.data.restart()?;
                        self.components
                            .iter_mut()
                            .for_each(|component| component.dc = 0);
                        until_restart = self.restart_interval;
                    }
                    until_restart -= 1;
                }
                for component in &mut self.components {
                    component.decode_mcu(&mut self.data, column, strip_width)?;
                }
            }
            if self.data.is_overrun() {
                return None;
            }
            for (line, row) in (0..strip_height).zip(&mut rows) {
                let line = line * strip_width..line * strip_width + width;
                match self.components.as_slice() {
                    [y] => write_grey(row, y.strip.get(line)?),
                    [y, cb, cr] => write_colours(
                        row,
                        y.strip.get(line.clone())?,
                        cb.strip.get(line.clone())?,
                        cr.strip.get(line)?,
                    ),
                    _ => return None,
                }
            }
        }
        Picture::new(width as u32, height as u32, rgb).ok()
    }
}

/// Splits off the next marker and its segment.
fn next_segment(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let bytes = bytes.strip_prefix(&[0xff])?;
    let fill = bytes.iter().take_while(|&&byte| byte == 0xff).count();
    let (&marker, rest) = bytes[fill..].split_first()?;
    let length = usize::from(u16_at(rest, 0)?);
    Some((marker, rest.get(2..length)?, rest.get(length..)?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// B.2.4.1.
fn read_quantization(mut segment: &[u8], tables: &mut [Option<[u16; 64]>; 4]) -> Option<()> {
    while let Some((&head, rest)) = segment.split_first() {
        let mut table = [0; 64];
        let wide = usize::from(head >> 4 != 0);
        for (k, step) in table.iter_mut().enumerate() {
            *step = if wide == 1 {
                u16_at(rest, 2 * k)?
            } else {
                u16::from(*rest.get(k)?)
            };
        }
        *tables.get_mut(usize::from(head & 15))? = Some(table);
        segment = rest.get(64 << wide..)?;
    }
    Some(())
}

/// B.2.4.2.
fn read_huffman(
    mut segment: &[u8],
    dc_tables: &mut [Option<Huffman>; 4],
    ac_tables: &mut [Option<Huffman>; 4],
) -> Option<()> {
    while let Some((&head, rest)) = segment.split_first() {
        let counts: &[u8; 16] = rest.first_chunk()?;
        let n_symbols = counts
            .iter()
            .map(|&count| usize::from(count))
            .sum::<usize>();
        let symbols = rest.get(16..16 + n_symbols)?;
        let tables = match head >> 4 {
            0 => &mut *dc_tables,
            1 => &mut *ac_tables,
            _ => return None,
        };
        *tables.get_mut(usize::from(head & 15))? = Some(Huffman::new(counts, symbols)?);
        segment = &rest[16 + n_symbols..];
    }
    Some(())
}

/// B.2.2. Returns one or three components.
fn read_frame(segment: &[u8], size: [u32; 2]) -> Option<Vec<Component>> {
    let (&[precision, _, _, _, _, n_components], rest) = segment.split_first_chunk()?;
    let stored = [u16_at(segment, 3)?, u16_at(segment, 1)?].map(u32::from);
    if precision != 8 || stored != size || !matches!(n_components, 1 | 3) {
        return None;
    }
    let (components, _) = rest.as_chunks::<3>();
    if components.len() != usize::from(n_components) {
        return None;
    }
    let component = |&[id, sampling, quantization]: &[u8; 3]| {
        let blocks = [sampling >> 4, sampling & 15].map(usize::from);
        blocks
            .iter()
            .all(|count| (1..=2).contains(count))
            .then(|| Component {
                id,
                blocks,
                pixels: [0; 2],
                quantization: usize::from(quantization),
                dc_table: None,
                ac_table: None,
                basis: Vec::new(),
                strip: Vec::new(),
                dc: 0,
            })
    };
    components.iter().map(component).collect()
}

/// B.2.3, for a scan of all components in the frame's order.
fn read_scan(
    segment: &[u8],
    components: &mut [Component],
    dc_tables: &[Option<Huffman>; 4],
    ac_tables: &[Option<Huffman>; 4],
) -> Option<()> {
    let (&n_components, rest) = segment.split_first()?;
    if components.is_empty() || usize::from(n_components) != components.len() {
        return None;
    }
    let (selectors, rest) = rest.split_at_checked(2 * components.len())?;
    for (component, &[id, tables]) in components.iter_mut().zip(selectors.as_chunks().0) {
        if component.id != id {
            return None;
        }
        component.dc_table = dc_tables.get(usize::from(tables >> 4))?.clone();
        component.ac_table = ac_tables.get(usize::from(tables & 15))?.clone();
    }
    (rest == [0, 63, 0]).then_some(())
}

/// Returns what a coefficient of 1 adds to the `pixels` (across, down) that a block shrinks to:
/// 64 such pictures in zigzag order, rows first, multiplied by their quantization steps (A.3.3).
fn basis(pixels: [usize; 2], steps: &[u16; 64]) -> Vec<f32> {
    // The mean of a one-dimensional cosine over the samples that become pixel `at`.
    let mean = |frequency: usize, at: usize, n: usize| {
        let scale = if frequency == 0 { FRAC_1_SQRT_2 } else { 1.0 };
        let samples = at * 8 / n..(at + 1) * 8 / n;
        let angle = |sample: usize| ((2 * sample + 1) * frequency) as f32 * PI / 16.0;
        let sum: f32 = samples.map(|sample| angle(sample).cos()).sum();
        0.5 * scale * sum * n as f32 / 8.0
    };
    let mut basis = Vec::with_capacity(64 * pixels[0] * pixels[1]);
    for (&position, &step) in ZIGZAG.iter().zip(steps) {
        let (row, column) = (usize::from(position) / 8, usize::from(position) % 8);
        for y in 0..pixels[1] {
            let down = f32::from(step) * mean(row, y, pixels[1]);
            basis.extend((0..pixels[0]).map(|x| down * mean(column, x, pixels[0])));
        }
    }
    basis
}

// === impl Component ===

impl Component {
    fn strip_width(&self, mcu_columns: usize) -> usize {
        mcu_columns * self.blocks[0] * self.pixels[0]
    }

    fn decode_mcu(&mut self, data: &mut Bits<'_>, column: usize, strip_width: usize) -> Option<()> {
        let [across, down] = self.pixels;
        for block_row in 0..self.blocks[1] {
            for block in 0..self.blocks[0] {
                let corner =
                    block_row * down * strip_width + (column * self.blocks[0] + block) * across;
                match across * down {
                    64 => self.decode_block::<64>(data, corner, strip_width)?,
                    32 => self.decode_block::<32>(data, corner, strip_width)?,
                    16 => self.decode_block::<16>(data, corner, strip_width)?,
                    8 => self.decode_block::<8>(data, corner, strip_width)?,
                    4 => self.decode_block::<4>(data, corner, strip_width)?,
                    2 => self.decode_block::<2>(data, corner, strip_width)?,
                    1 => self.decode_block::<1>(data, corner, strip_width)?,
                    _ => return None,
                }
            }
        }
        Some(())
    }

    /// Decodes a block (F.2.2) of `AREA` pixels into the strip at `corner`.
    fn decode_block<const AREA: usize>(
        &mut self,
        data: &mut Bits<'_>,
        corner: usize,
        strip_width: usize,
    ) -> Option<()> {
        let (dc_table, ac_table) = (self.dc_table.as_ref()?, self.ac_table.as_ref()?);
        let (basis, _) = self.basis.as_chunks::<AREA>();
        let basis: &[[f32; AREA]; 64] = basis.first_chunk()?;

        // A copy stays in registers.
        let mut bits = *data;
        let (_, difference) = bits.coefficient(dc_table)?;
        self.dc = self.dc.wrapping_add(difference);
        // The first picture of the basis is of one colour.
        let mut pixels = [self.dc as f32 * basis[0][0]; AREA];
        let mut k = 1;
        while k < 64 {
            let (zeros, coefficient) = bits.coefficient(ac_table)?;
            k += zeros;
            if coefficient != 0 {
                if k > 63 {
                    return None;
                }
                for (pixel, part) in pixels.iter_mut().zip(&basis[k]) {
                    *pixel += coefficient as f32 * part;
                }
            } else if zeros != 15 {
                break;
            }
            k += 1;
        }
        *data = bits;

        let rows = self.strip.get_mut(corner..)?.chunks_mut(strip_width);
        for (row, pixels) in rows.zip(pixels.chunks_exact(self.pixels[0])) {
            row.get_mut(..pixels.len())?.copy_from_slice(pixels);
        }
        Some(())
    }
}

/// Rounds to the nearest of 0..=255.
///
/// Adding 1.5 · 2^23 leaves the nearest integer in the low bits of a float: unlike a saturating
/// cast, the compiler turns this into vector instructions.
fn to_byte(value: f32) -> u8 {
    (value.clamp(0.0, 255.0) + 12_582_912.0).to_bits() as u8
}

fn write_grey(row: &mut [u8], y: &[f32]) {
    for (pixel, &y) in row.as_chunks_mut().0.iter_mut().zip(y) {
        *pixel = [to_byte(y + 128.0); 3];
    }
}

/// ITU-T T.871 (JFIF), 7: full-range BT.601. Samples are centred at 0.
fn write_colours(row: &mut [u8], y: &[f32], cb: &[f32], cr: &[f32]) {
    for (((pixel, &y), &cb), &cr) in row.as_chunks_mut().0.iter_mut().zip(y).zip(cb).zip(cr) {
        let y = y + 128.0;
        *pixel = [
            to_byte(y + 1.402 * cr),
            to_byte(y - 0.344_136 * cb - 0.714_136 * cr),
            to_byte(y + 1.772 * cb),
        ];
    }
}

// === Huffman ===

/// What so many bits begin with is found at once: nearly always a code and its coefficient.
const LOOKUP_BITS: u32 = 10;

/// A Huffman table (C.2, F.2.2.3).
#[derive(Clone)]
struct Huffman {
    /// By the next bits; 0 for codes that are longer.
    lookup: Box<[Entry; 1 << LOOKUP_BITS]>,
    /// By length - 1: the first 16 bits that no longer belong to codes of this length or less.
    ends: [u32; 16],
    /// By length - 1: what is added to a code to find its symbol.
    offsets: [i32; 16],
    symbols: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Bits of the code, and of the coefficient if it is known; 0 for no entry.
    n_bits: u8,
    /// Zeros before it.
    zeros: u8,
    /// Bits of the coefficient that are still to be read.
    size: u8,
    /// The coefficient if it is known; of at most 10 bits.
    coefficient: i16,
}

impl Huffman {
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            lookup: Box::new([Entry::default(); 1 << LOOKUP_BITS]),
            ends: [0; 16],
            offsets: [0; 16],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut index) = (0_u32, 0_usize);
        for (length, &count) in (1_u32..).zip(counts) {
            table.offsets[length as usize - 1] = index as i32 - code as i32;
            for &symbol in symbols.get(index..index + usize::from(count))? {
                if code >> length != 0 {
                    return None;
                }
                if length <= LOOKUP_BITS {
                    table.enter(code, length, symbol);
                }
                code += 1;
            }
            index += usize::from(count);
            table.ends[length as usize - 1] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// Enters a code wherever it is followed by whatever.
    fn enter(&mut self, code: u32, length: u32, symbol: u8) {
        let (zeros, size) = (symbol >> 4, u32::from(symbol & 15));
        let spare = LOOKUP_BITS - length;
        for following in 0..1 << spare {
            let entry = if size <= spare {
                Entry {
                    n_bits: (length + size) as u8,
                    zeros,
                    size: 0,
                    coefficient: extend(following >> (spare - size), size) as i16,
                }
            } else {
                Entry {
                    n_bits: length as u8,
                    zeros,
                    size: size as u8,
                    coefficient: 0,
                }
            };
            self.lookup[(code << spare | following) as usize] = entry;
        }
    }
}

/// Returns the coefficient that `size` bits mean (F.2.2.1): the upper half of the numbers is
/// positive, the lower half is the negative ones, from the lowest.
fn extend(bits: u32, size: u32) -> i32 {
    if size > 0 && bits >> (size - 1) == 0 {
        bits as i32 - (1 << size) + 1
    } else {
        bits as i32
    }
}

// === Bits ===

/// The entropy-coded data, bit by bit; zeros after its end.
#[derive(Clone, Copy)]
struct Bits<'a> {
    rest: &'a [u8],
    /// The next bits, from the top.
    buffer: u64,
    /// How many of `buffer` are filled.
    filled: u32,
    /// How many of these, at the bottom, come after the end of the data.
    beyond: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            buffer: 0,
            filled: 0,
            beyond: 0,
        }
    }

    /// Fills the buffer to at least 56 bits.
    #[inline(always)]
    fn refill(&mut self) {
        if let Some(next) = self.rest.first_chunk() {
            let next = u64::from_be_bytes(*next);
            // No byte is 0xff: no byte of the complement is 0 (Hacker's Delight, 6-1).
            let complement = !next;
            if complement.wrapping_sub(0x0101_0101_0101_0101) & next & 0x8080_8080_8080_8080 == 0 {
                let n_bytes = (63 - self.filled) / 8;
                // Below the filled bits are some of the next byte; they will be added again.
                self.buffer |= next >> self.filled;
                self.filled += 8 * n_bytes;
                self.rest = &self.rest[n_bytes as usize..];
                return;
            }
        }
        *self = self.refilled_slowly();
    }

    /// By value, so that a copy of it can stay in registers.
    #[cold]
    fn refilled_slowly(mut self) -> Self {
        while self.filled <= 56 {
            let byte = match *self.rest {
                [0xff, 0x00, ref rest @ ..] => {
                    self.rest = rest;
                    0xff
                }
                [byte, ref rest @ ..] if byte != 0xff => {
                    self.rest = rest;
                    byte
                }
                // A marker, or the end.
                _ => {
                    self.beyond += 8;
                    0
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.filled);
            self.filled += 8;
        }
        self
    }

    #[inline(always)]
    fn take(&mut self, n_bits: u32) {
        self.buffer <<= n_bits;
        self.filled -= n_bits;
    }

    /// Reads the next coefficient that is not 0 and the number of zeros before it; 0 for an end
    /// of block or a run of zeros.
    #[inline(always)]
    fn coefficient(&mut self, table: &Huffman) -> Option<(usize, i32)> {
        // A code and a coefficient have at most 16 + 15 bits.
        if self.filled < 32 {
            self.refill();
        }
        let entry = table.lookup[(self.buffer >> (64 - LOOKUP_BITS)) as usize];
        let (zeros, size) = if entry.n_bits != 0 {
            self.take(u32::from(entry.n_bits));
            if entry.size == 0 {
                return Some((usize::from(entry.zeros), i32::from(entry.coefficient)));
            }
            (entry.zeros, u32::from(entry.size))
        } else {
            let code = (self.buffer >> 48) as u32;
            let length = table.ends.iter().position(|&end| code < end)? as u32 + 1;
            self.take(length);
            let index = (code >> (16 - length)) as i32 + table.offsets[length as usize - 1];
            let &symbol = table.symbols.get(index as usize)?;
            (symbol >> 4, u32::from(symbol & 15))
        };
        let bits = (self.buffer >> 1 >> (63 - size)) as u32;
        self.take(size);
        Some((usize::from(zeros), extend(bits, size)))
    }

    /// Goes to the next restart marker, which must be what comes next.
    fn restart(&mut self) -> Option<()> {
        if self.is_overrun() {
            return None;
        }
        let &[0xff, 0xd0..=0xd7, ref rest @ ..] = self.rest else {
            return None;
        };
        *self = Self::new(rest);
        Some(())
    }

    /// Tells whether bits have been read that are not there.
    fn is_overrun(&self) -> bool {
        self.beyond > self.filled
    }
}
