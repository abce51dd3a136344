//! From pixels to the input tensor, and back to the picture's coordinates.
//!
//! Resizing is a bilinear convolution whose support grows with the reduction (antialiased, as
//! PIL's `BILINEAR`). Colour order, layout, mean and deviation are applied in one pass that writes
//! the tensor once, from a table of all 256 values a channel can have.
//!
//! Hot path: nothing is allocated but the decoded picture and the tensor.

#[cfg(test)]
mod tests;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use model_store::{Anchor, ColorOrder, DataType, Layout, PictureInput, Resize, TensorSpec};
use workers_protocol::InferError;

use crate::Picture;
use crate::decode::{Decoded, Limits, decode, decode_to_fit};

/// Pixels on a side of an input at most: a tensor of 8192 × 8192 has 800 MB.
const MAX_SIDE: u32 = 8192;

/// Makes the input tensor of one graph from pictures.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    shape: Shape,
    layout: Layout,
    /// The channel of the picture (red, green, blue) that each channel of the tensor shows.
    channels: [usize; 3],
    /// By channel of the tensor: what a value of 0 to 255 becomes.
    values: Box<[[f32; 256]; 3]>,
    pad: u8,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Letterbox { size: [u32; 2], anchor: Anchor },
    Stretch { size: [u32; 2] },
    Native { multiple: u32, max: u32 },
}

/// Whether the picture is still needed after the tensor is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is not: a large JPEG is decoded at a fraction of its size.
    Nothing,
    /// It is, at its own size, to cut crops out of it or to draw into it.
    Picture,
}

/// What a thread reuses from picture to picture.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    resizer: Resizer,
    resized: Vec<u8>,
}

/// An input tensor, and what is needed to read the answer.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Elements, row-major.
    pub tensor: Vec<f32>,
    /// Dimensions without the batch: `[3, height, width]` or `[height, width, 3]`.
    pub shape: [usize; 3],
    /// Where the picture is in the tensor.
    pub placement: Placement,
    /// Width of the upright original in pixels; of a crop, of the picture it is from.
    pub width: u32,
    /// Height, likewise.
    pub height: u32,
    /// The decoded picture, if it was to be kept.
    pub picture: Option<Picture>,
}

/// Where a picture, or a part of it, is in an input tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// The part of the picture that is shown: x1, y1, x2, y2 in its pixels.
    source: [f32; 4],
    /// Where it is shown: x1, y1, x2, y2 in pixels of the tensor.
    target: [f32; 4],
}

/// A tensor's size, and the rectangle of it that shows the picture; the rest is border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    size: [u32; 2],
    corner: [u32; 2],
    body: [u32; 2],
}

// === impl Preprocessor ===

impl Preprocessor {
    /// Returns the preprocessor that the manifest's `input` and the graph's input describe.
    ///
    /// # Errors
    /// `InvalidArgument` when the graph's input is not FP32 with four dimensions, three of its
    /// channels where `layout` says, and sides that agree with `size`; when `resize: native` meets
    /// fixed sides; when no size is known; and for numbers that make no sense.
    pub fn new(input: &PictureInput, spec: &TensorSpec) -> Result<Self, InferError> {
        let shape = Shape::new(input, spec)?;
        let usable = |&value: &f32| value.is_finite();
        if !input.mean.iter().all(usable)
            || !input.std.iter().all(|&std| usable(&std) && std != 0.0)
        {
            return Err(InferError::invalid(format!(
                "`mean` and `std`: expected finite numbers, `std` not 0, got {:?} and {:?}",
                input.mean, input.std
            )));
        }
        let mut values = Box::new([[0.0; 256]; 3]);
        for (channel, values) in values.iter_mut().enumerate() {
            for (x, value) in (0_u8..=255).zip(values) {
                *value = (f32::from(x) - input.mean[channel]) / input.std[channel];
            }
        }
        Ok(Self {
            shape,
            layout: input.layout,
            channels: match input.color {
                ColorOrder::Rgb => [0, 1, 2],
                ColorOrder::Bgr => [2, 1, 0],
            },
            values,
            pad: input.pad,
        })
    }

    /// Returns the width and height of the largest tensor that it makes, in pixels.
    pub fn most_size(&self) -> [u32; 2] {
        match self.shape {
            Shape::Letterbox { size, .. } | Shape::Stretch { size } => size,
            Shape::Native { multiple, max } => [max.next_multiple_of(multiple); 2],
        }
    }

    /// Decodes a picture and makes its tensor.
    ///
    /// # Errors
    /// As [`decode()`].
    pub fn prepare(
        &self,
        bytes: &[u8],
        limits: &Limits,
        keep: Keep,
        scratch: &mut Scratch,
    ) -> Result<Prepared, InferError> {
        let Decoded {
            picture,
            width,
            height,
            region,
        } = match keep {
            Keep::Picture => decode(bytes, limits)?,
            Keep::Nothing => decode_to_fit(bytes, limits, |[width, height]| {
                self.shape.plan([f64::from(width), f64::from(height)]).body
            })?,
        };
        let whole = [0.0, 0.0, width as f32, height as f32];
        let plan = self.shape.plan([f64::from(width), f64::from(height)]);
        Ok(Prepared {
            tensor: self.tensor(&picture, region, plan, scratch)?,
            shape: self.tensor_shape(plan),
            placement: Placement::new(whole, plan),
            width,
            height,
            picture: (keep == Keep::Picture).then_some(picture),
        })
    }

    /// Makes a tensor from a part of a picture: `rect` is x1, y1, x2, y2 in its pixels, clipped to
    /// it, and at least one pixel wide and high.
    ///
    /// # Errors
    /// `InvalidArgument` when `rect` is not finite.
    pub fn prepare_crop(
        &self,
        picture: &Picture,
        rect: [f32; 4],
        scratch: &mut Scratch,
    ) -> Result<Prepared, InferError> {
        if !rect.iter().all(|side| side.is_finite()) {
            return Err(InferError::invalid(format!(
                "a crop has finite sides, got {rect:?}"
            )));
        }
        let clip = |from: f32, to: f32, side: u32| {
            let from = from.clamp(0.0, side as f32 - 1.0);
            (from, to.clamp(from + 1.0, side as f32))
        };
        let (x1, x2) = clip(rect[0], rect[2], picture.width());
        let (y1, y2) = clip(rect[1], rect[3], picture.height());
        let region = [x1, y1, x2 - x1, y2 - y1].map(f64::from);
        let plan = self.shape.plan([region[2], region[3]]);
        Ok(Prepared {
            tensor: self.tensor(picture, region, plan, scratch)?,
            shape: self.tensor_shape(plan),
            placement: Placement::new([x1, y1, x2, y2], plan),
            width: picture.width(),
            height: picture.height(),
            picture: None,
        })
    }

    fn tensor(
        &self,
        picture: &Picture,
        region: [f64; 4],
        plan: Plan,
        scratch: &mut Scratch,
    ) -> Result<Vec<f32>, InferError> {
        let size = [picture.width(), picture.height()];
        let whole = [0.0, 0.0, f64::from(size[0]), f64::from(size[1])];
        if size == plan.body && region == whole {
            Ok(self.normalise(picture.rgb(), plan))
        } else {
            let resized = resize(picture, region, plan.body, scratch)?;
            Ok(self.normalise(resized, plan))
        }
    }

    /// Returns the tensor of `body`, `[body height, body width, 3]`, within its border.
    fn normalise(&self, body: &[u8], plan: Plan) -> Vec<f32> {
        let [width, height] = plan.size.map(|side| side as usize);
        let [left, top] = plan.corner.map(|side| side as usize);
        let [body_width, body_height] = plan.body.map(|side| side as usize);
        let right = width - left - body_width;
        let bottom = height - top - body_height;
        let rows = || {
            body.chunks_exact(3 * body_width)
                .map(|row| row.as_chunks::<3>().0)
        };
        let border = [0, 1, 2].map(|channel| self.values[channel][usize::from(self.pad)]);
        // Extending by iterators of known length writes each element once: no zeros before, no
        // check of the capacity between.
        match self.layout {
            Layout::Nchw => {
                let mut tensor = Vec::with_capacity(3 * width * height);
                for (channel, values) in self.values.iter().enumerate() {
                    let source = self.channels[channel];
                    let pad = |n: usize| std::iter::repeat_n(border[channel], n);
                    tensor.extend(pad(top * width));
                    for row in rows() {
                        tensor.extend(pad(left));
                        tensor.extend(row.iter().map(|pixel| values[usize::from(pixel[source])]));
                        tensor.extend(pad(right));
                    }
                    tensor.extend(pad(bottom * width));
                }
                tensor
            }
            Layout::Nhwc => {
                let mut tensor = Vec::with_capacity(width * height);
                let pad = |n: usize| std::iter::repeat_n(border, n);
                tensor.extend(pad(top * width));
                for row in rows() {
                    tensor.extend(pad(left));
                    tensor.extend(row.iter().map(|pixel| {
                        [0, 1, 2].map(|channel| {
                            self.values[channel][usize::from(pixel[self.channels[channel]])]
                        })
                    }));
                    tensor.extend(pad(right));
                }
                tensor.extend(pad(bottom * width));
                tensor.into_flattened()
            }
        }
    }

    fn tensor_shape(&self, plan: Plan) -> [usize; 3] {
        let [width, height] = plan.size.map(|side| side as usize);
        match self.layout {
            Layout::Nchw => [3, height, width],
            Layout::Nhwc => [height, width, 3],
        }
    }
}

/// Resizes a region (left, top, width, height) of a picture, without copying it first.
fn resize<'s>(
    picture: &Picture,
    region: [f64; 4],
    [width, height]: [u32; 2],
    scratch: &'s mut Scratch,
) -> Result<&'s [u8], InferError> {
    let failed = |error: &dyn std::fmt::Display| {
        InferError::internal(format!("a picture can't be resized: {error}"))
    };
    let [left, top, region_width, region_height] = region;
    // Sums of fractions may go beyond the picture by a rounding.
    let region_width = region_width.min(f64::from(picture.width()) - left);
    let region_height = region_height.min(f64::from(picture.height()) - top);
    // Typed, or code for every pixel type of the library is generated here, a minute of it.
    let source =
        TypedImageRef::<U8x3>::from_buffer(picture.width(), picture.height(), picture.rgb())
            .map_err(|error| failed(&error))?;
    scratch
        .resized
        .resize(3 * width as usize * height as usize, 0);
    let mut target = TypedImage::<U8x3>::from_buffer(width, height, &mut scratch.resized)
        .map_err(|error| failed(&error))?;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .crop(left, top, region_width, region_height);
    scratch
        .resizer
        .resize_typed(&source, &mut target, &options)
        .map_err(|error| failed(&error))?;
    Ok(&scratch.resized)
}

// === impl Shape ===

impl Shape {
    fn new(input: &PictureInput, spec: &TensorSpec) -> Result<Self, InferError> {
        let expected = match input.layout {
            Layout::Nchw => "[batch, 3, height, width]",
            Layout::Nhwc => "[batch, height, width, 3]",
        };
        let (&[_, a, b, c], DataType::Fp32, None | Some(0)) =
            (&spec.shape[..], spec.datatype, spec.batch_axis)
        else {
            return Err(mismatch(spec, &format!("expected FP32 {expected}")));
        };
        let (channels, declared) = match input.layout {
            Layout::Nchw => (a, [c, b]),
            Layout::Nhwc => (c, [b, a]),
        };
        if channels != 3 && channels != -1 {
            return Err(mismatch(spec, &format!("`layout` says {expected}")));
        }

        if input.resize == Resize::Native {
            return Self::native(input, spec, declared);
        }
        let size = match input.size {
            Some(size) => size.map(i64::from),
            None if declared.contains(&-1) => {
                return Err(mismatch(
                    spec,
                    "its sides are free: `size: [width, height]` must be given",
                ));
            }
            None => declared,
        };
        if (0..2).any(|side| declared[side] != -1 && declared[side] != size[side]) {
            let [width, height] = size;
            return Err(mismatch(
                spec,
                &format!("`size` (width, height) is [{width}, {height}]"),
            ));
        }
        let side = |pixels: i64| {
            let pixels = u32::try_from(pixels).unwrap_or(0);
            (1..=MAX_SIDE)
                .contains(&pixels)
                .then_some(pixels)
                .ok_or_else(|| {
                    let limit = format!("a side has 1 to {MAX_SIDE} pixels, got {size:?}");
                    mismatch(spec, &limit)
                })
        };
        let size = [side(size[0])?, side(size[1])?];
        Ok(match input.resize {
            Resize::Letterbox => Self::Letterbox {
                size,
                anchor: input.anchor,
            },
            Resize::Stretch | Resize::Native => Self::Stretch { size },
        })
    }

    fn native(
        input: &PictureInput,
        spec: &TensorSpec,
        declared: [i64; 2],
    ) -> Result<Self, InferError> {
        if declared != [-1, -1] {
            let free = match input.layout {
                Layout::Nchw => "[-1, 3, -1, -1]",
                Layout::Nhwc => "[-1, -1, -1, 3]",
            };
            let cure = format!(
                "`resize: native` needs free sides; if the model takes any size, \
                 `inputs: [{{name: {}, shape: {free}}}]` in model.yaml has the graph's \
                 declaration rewritten",
                spec.name
            );
            return Err(mismatch(spec, &cure));
        }
        let (multiple, max) = (input.multiple, input.max);
        if multiple == 0 || max < multiple || max > MAX_SIDE {
            return Err(InferError::invalid(format!(
                "`multiple` and `max`: expected 1 ≤ multiple ≤ max ≤ {MAX_SIDE}, \
                 got {multiple} and {max}"
            )));
        }
        Ok(Self::Native {
            multiple,
            max: max - max % multiple,
        })
    }

    /// Returns where a picture of this width and height goes. Both are at least 1.
    fn plan(self, picture: [f64; 2]) -> Plan {
        match self {
            Self::Stretch { size } => Plan {
                size,
                corner: [0, 0],
                body: size,
            },
            Self::Letterbox { size, anchor } => {
                let scale = (0..2)
                    .map(|side| f64::from(size[side]) / picture[side])
                    .fold(f64::INFINITY, f64::min);
                let body = [0, 1].map(|side| {
                    // Rounding may not leave a thin picture without pixels.
                    ((picture[side] * scale).round() as u32).clamp(1, size[side])
                });
                let corner = match anchor {
                    Anchor::TopLeft => [0, 0],
                    Anchor::Center => [0, 1].map(|side| (size[side] - body[side]) / 2),
                };
                Plan { size, corner, body }
            }
            Self::Native { multiple, max } => {
                let scale = (f64::from(max) / picture[0].max(picture[1])).min(1.0);
                let size = picture.map(|side| {
                    // Rounded up, as CenterFace does; `max` is a multiple itself.
                    let multiples = (side * scale / f64::from(multiple)).ceil() as u32;
                    (multiples.max(1) * multiple).min(max)
                });
                Plan {
                    size,
                    corner: [0, 0],
                    body: size,
                }
            }
        }
    }
}

fn mismatch(spec: &TensorSpec, what: &str) -> InferError {
    InferError::invalid(format!(
        "input `{}` is {} {:?} in the graph: {what}",
        spec.name, spec.datatype, spec.shape
    ))
}

// === impl Placement ===

impl Placement {
    fn new(source: [f32; 4], plan: Plan) -> Self {
        let [left, top] = plan.corner.map(|side| side as f32);
        let [width, height] = plan.body.map(|side| side as f32);
        Self {
            source,
            target: [left, top, left + width, top + height],
        }
    }

    /// Returns the point of the picture, in its pixels, that a point of the tensor shows; for one
    /// in the border, the nearest that is shown.
    pub fn to_picture(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        [self.map(x, 0), self.map(y, 1)]
    }

    /// Returns the part of the picture (x1, y1, x2, y2 in its pixels) that a rectangle of the
    /// tensor shows; where it reaches into the border it is cut.
    pub fn rect_to_picture(&self, [x1, y1, x2, y2]: [f32; 4]) -> [f32; 4] {
        [
            self.map(x1, 0),
            self.map(y1, 1),
            self.map(x2, 0),
            self.map(y2, 1),
        ]
    }

    fn map(&self, at: f32, axis: usize) -> f32 {
        let (source, target) = (
            [self.source[axis], self.source[axis + 2]],
            [self.target[axis], self.target[axis + 2]],
        );
        let part = (at - target[0]) / (target[1] - target[0]);
        (source[0] + part * (source[1] - source[0])).clamp(source[0], source[1])
    }
}

/// Returns a rectangle (x1, y1, x2, y2) with `margin` of its side added on each side.
pub fn with_margin([x1, y1, x2, y2]: [f32; 4], margin: f32) -> [f32; 4] {
    let (x, y) = (margin * (x2 - x1), margin * (y2 - y1));
    [x1 - x, y1 - y, x2 + x, y2 + y]
}
