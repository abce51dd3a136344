use proptest::prelude::*;

use super::*;
use crate::testing::{Jpeg, output as spec, psnr, scene};

fn letterbox(size: [u32; 2], anchor: Anchor) -> PictureInput {
    PictureInput {
        resize: Resize::Letterbox,
        size: Some(size),
        anchor,
        ..PictureInput::default()
    }
}

fn native(multiple: u32, max: u32) -> PictureInput {
    PictureInput {
        resize: Resize::Native,
        multiple,
        max,
        ..PictureInput::default()
    }
}

fn free() -> TensorSpec {
    spec("images", &[-1, 3, -1, -1])
}

fn preprocessor(input: &PictureInput) -> Preprocessor {
    let shape: &[i64] = match input.layout {
        Layout::Nchw => &[-1, 3, -1, -1],
        Layout::Nhwc => &[-1, -1, -1, 3],
    };
    Preprocessor::new(input, &spec("images", shape)).unwrap()
}

fn whole(picture: &Picture) -> [f32; 4] {
    [0.0, 0.0, picture.width() as f32, picture.height() as f32]
}

fn prepared(input: &PictureInput, picture: &Picture) -> Prepared {
    let mut scratch = Scratch::default();
    preprocessor(input)
        .prepare_crop(picture, whole(picture), &mut scratch)
        .unwrap()
}

fn png(picture: &Picture) -> Vec<u8> {
    crate::encode(picture, workers_protocol::DrawFormat::Png).unwrap()
}

// === what the graph and the manifest say ===

#[test]
fn the_size_is_the_graphs_unless_it_is_free() {
    let input = PictureInput::default();
    let fixed = Preprocessor::new(&input, &spec("x", &[1, 3, 20, 30])).unwrap();
    let picture = scene(7, 5);
    let prepared = fixed.prepare_crop(&picture, whole(&picture), &mut Scratch::default());
    assert_eq!(prepared.unwrap().shape, [3, 20, 30]);

    let error = Preprocessor::new(&input, &free()).unwrap_err();
    assert_eq!(
        error.message,
        "input `images` is FP32 [-1, 3, -1, -1] in the graph: its sides are free: \
         `size: [width, height]` must be given"
    );
}

#[test]
fn a_size_that_the_graph_contradicts_is_refused() {
    let input = letterbox([640, 416], Anchor::TopLeft);
    assert!(Preprocessor::new(&input, &spec("x", &[-1, 3, 416, 640])).is_ok());
    let error = Preprocessor::new(&input, &spec("x", &[-1, 3, 640, 416])).unwrap_err();
    assert_eq!(
        error.message,
        "input `x` is FP32 [-1, 3, 640, 416] in the graph: `size` (width, height) is [640, 416]"
    );
}

#[test]
fn native_with_fixed_sides_says_how_to_free_them() {
    let error =
        Preprocessor::new(&native(32, 640), &spec("input.1", &[10, 3, 32, 32])).unwrap_err();
    assert_eq!(
        error.message,
        "input `input.1` is FP32 [10, 3, 32, 32] in the graph: `resize: native` needs free \
         sides; if the model takes any size, `inputs: [{name: input.1, shape: [-1, 3, -1, -1]}]` \
         in model.yaml has the graph's declaration rewritten"
    );
}

#[test]
fn inputs_that_are_no_pictures_are_refused() {
    let input = letterbox([8, 8], Anchor::TopLeft);
    let refused = |spec: TensorSpec| Preprocessor::new(&input, &spec).is_err();
    assert!(refused(spec("x", &[-1, 8, 8, 3])));
    assert!(refused(spec("x", &[-1, 1, 8, 8])));
    assert!(refused(spec("x", &[3, 8, 8])));
    assert!(refused(TensorSpec {
        datatype: DataType::Uint8,
        ..free()
    }));
    assert!(refused(TensorSpec {
        batch_axis: Some(1),
        ..free()
    }));
    assert!(!refused(free()));
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let refused = |input: &PictureInput| Preprocessor::new(input, &free()).is_err();
    assert!(refused(&letterbox([0, 8], Anchor::TopLeft)));
    assert!(refused(&letterbox([8, MAX_SIDE + 1], Anchor::TopLeft)));
    assert!(refused(&native(0, 640)));
    assert!(refused(&native(32, 31)));
    assert!(refused(&native(1, MAX_SIDE + 1)));
    for value in [0.0, f32::NAN, f32::INFINITY] {
        assert!(refused(&PictureInput {
            std: [1.0, value, 1.0],
            ..letterbox([8, 8], Anchor::TopLeft)
        }));
    }
    assert!(refused(&PictureInput {
        mean: [f32::NAN; 3],
        ..letterbox([8, 8], Anchor::TopLeft)
    }));
}

// === values ===

#[test]
fn values_are_normalised_in_every_layout_and_colour_order() {
    let picture = scene(13, 9);
    let (mean, std) = ([10.0, 20.0, 30.5], [2.0, 58.4, 127.5]);
    for (layout, color) in [
        (Layout::Nchw, ColorOrder::Rgb),
        (Layout::Nchw, ColorOrder::Bgr),
        (Layout::Nhwc, ColorOrder::Rgb),
        (Layout::Nhwc, ColorOrder::Bgr),
    ] {
        let input = PictureInput {
            size: Some([13, 9]),
            layout,
            color,
            mean,
            std,
            ..PictureInput::default()
        };
        let prepared = prepared(&input, &picture);
        assert_eq!(prepared.tensor.len(), 13 * 9 * 3);
        for (index, &value) in prepared.tensor.iter().enumerate() {
            let (pixel, channel) = match layout {
                Layout::Nchw => (index % (13 * 9), index / (13 * 9)),
                Layout::Nhwc => (index / 3, index % 3),
            };
            let source = match color {
                ColorOrder::Rgb => channel,
                ColorOrder::Bgr => 2 - channel,
            };
            let x = f32::from(picture.rgb()[3 * pixel + source]);
            assert_eq!(
                value,
                (x - mean[channel]) / std[channel],
                "{layout:?} {color:?}"
            );
        }
    }
}

#[test]
fn the_border_of_a_letterbox_is_the_normalised_pad() {
    let picture = Picture::new(4, 2, vec![200; 24]).unwrap();
    for layout in [Layout::Nchw, Layout::Nhwc] {
        let rows = |anchor: Anchor| {
            let input = PictureInput {
                layout,
                mean: [100.0; 3],
                ..letterbox([4, 5], anchor)
            };
            let tensor = prepared(&input, &picture).tensor;
            (0..5)
                .map(|row| match layout {
                    Layout::Nchw => tensor[4 * row],
                    Layout::Nhwc => tensor[12 * row],
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(
            rows(Anchor::TopLeft),
            [100.0, 100.0, 14.0, 14.0, 14.0],
            "{layout:?}"
        );
        assert_eq!(
            rows(Anchor::Center),
            [14.0, 100.0, 100.0, 14.0, 14.0],
            "{layout:?}"
        );
    }
}

/// PIL's BILINEAR: a triangle as wide as the reduction, in f64, rounded once.
fn antialiased(picture: &Picture, [width, height]: [usize; 2]) -> Vec<u8> {
    let weights = |from: usize, to: usize| -> Vec<Vec<(usize, f64)>> {
        let scale = from as f64 / to as f64;
        let support = scale.max(1.0);
        let one = |at: usize| {
            let centre = (at as f64 + 0.5) * scale;
            let taps: Vec<(usize, f64)> = (0..from)
                .map(|tap| (tap, 1.0 - ((tap as f64 + 0.5 - centre) / support).abs()))
                .filter(|&(_, weight)| weight > 0.0)
                .collect();
            let sum: f64 = taps.iter().map(|tap| tap.1).sum();
            taps.into_iter()
                .map(|(tap, weight)| (tap, weight / sum))
                .collect()
        };
        (0..to).map(one).collect()
    };
    let columns = weights(picture.width() as usize, width);
    let rows = weights(picture.height() as usize, height);
    let mut resized = Vec::new();
    for row in &rows {
        for column in &columns {
            for channel in 0..3 {
                let mut sum = 0.0;
                for &(y, down) in row {
                    for &(x, across) in column {
                        let index = 3 * (y * picture.width() as usize + x) + channel;
                        sum += down * across * f64::from(picture.rgb()[index]);
                    }
                }
                resized.push(sum.round() as u8);
            }
        }
    }
    resized
}

#[test]
fn resizing_is_an_antialiased_bilinear_convolution() {
    let picture = scene(60, 45);
    for size in [[23, 17], [60, 20], [7, 45], [90, 70], [1, 1]] {
        let input = PictureInput {
            size: Some(size),
            layout: Layout::Nhwc,
            ..PictureInput::default()
        };
        let tensor = prepared(&input, &picture).tensor;
        let expected = antialiased(&picture, size.map(|side| side as usize));
        let most = tensor
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - f32::from(b)).abs());
        let most = most.fold(0.0, f32::max);
        assert!(most <= 2.0, "{size:?}: {most} levels");
    }
}

#[test]
fn a_crop_is_resized_as_if_it_were_cut_out_but_for_its_edges() {
    let picture = scene(60, 45);
    let [left, top, width, height] = [10_u32, 5, 32, 24];
    let mut cut = Vec::new();
    for row in top..top + height {
        let start = 3 * (row * 60 + left) as usize;
        cut.extend(&picture.rgb()[start..start + 3 * width as usize]);
    }
    let cut = Picture::new(width, height, cut).unwrap();
    let input = letterbox([20, 20], Anchor::Center);
    let rect = [left, top, left + width, top + height].map(|side| side as f32);
    let crop = preprocessor(&input)
        .prepare_crop(&picture, rect, &mut Scratch::default())
        .unwrap();
    // 20 × 15 pixels within 2 rows of border above; at the edges the neighbours shine in.
    let inner = |tensor: &[f32]| -> Vec<f32> {
        let rows = tensor.chunks_exact(20).enumerate();
        let body = rows.filter(|(row, _)| (3..16).contains(&(row % 20)));
        body.flat_map(|(_, row)| row[1..19].to_vec()).collect()
    };
    assert!(inner(&crop.tensor) == inner(&prepared(&input, &cut).tensor));
    let [x, y] = crop.placement.to_picture([10.0, 9.5]);
    assert!(
        (x - 26.0).abs() < 1e-3 && (y - 17.0).abs() < 1e-3,
        "{x}, {y}"
    );
}

#[test]
fn crops_of_any_finite_rectangle_are_made() {
    let picture = scene(30, 20);
    let preprocessor = preprocessor(&letterbox([16, 16], Anchor::Center));
    let mut scratch = Scratch::default();
    for rect in [
        [-50.0, -50.0, -40.0, -40.0],
        [29.9, 19.9, 500.0, 500.0],
        [10.0, 10.0, 10.0, 10.0],
        [20.0, 15.0, 5.0, 5.0],
        [f32::MIN, f32::MIN, f32::MAX, f32::MAX],
        [0.0, 0.0, 30.0, 0.001],
    ] {
        let crop = preprocessor
            .prepare_crop(&picture, rect, &mut scratch)
            .unwrap();
        assert_eq!(crop.tensor.len(), 3 * 16 * 16, "{rect:?}");
    }
    for rect in [[f32::NAN; 4], [0.0, 0.0, f32::INFINITY, 1.0]] {
        assert!(
            preprocessor
                .prepare_crop(&picture, rect, &mut scratch)
                .is_err()
        );
    }
}

// === from bytes ===

#[test]
fn a_picture_is_kept_at_its_own_size_only_when_asked() {
    let picture = scene(100, 60);
    let jpeg = Jpeg::YCBCR_420.encode(&picture);
    let preprocessor = preprocessor(&letterbox([32, 32], Anchor::TopLeft));
    let mut scratch = Scratch::default();
    let mut prepare = |keep| preprocessor.prepare(&jpeg, &Limits::default(), keep, &mut scratch);
    let kept = prepare(Keep::Picture).unwrap();
    let other = prepare(Keep::Nothing).unwrap();
    assert_eq!([kept.width, kept.height], [100, 60]);
    assert_eq!(
        kept.picture
            .map(|picture| [picture.width(), picture.height()]),
        Some([100, 60])
    );
    assert_eq!([other.width, other.height], [100, 60]);
    assert_eq!(other.picture, None);
    assert_eq!(kept.placement, other.placement);
}

#[test]
fn decoding_at_a_fraction_changes_the_tensor_little() {
    let jpeg = Jpeg::YCBCR_420.encode(&scene(321, 243));
    for size in [[107, 107], [64, 64], [33, 20]] {
        let preprocessor = preprocessor(&letterbox(size, Anchor::Center));
        let mut scratch = Scratch::default();
        let mut bytes = |keep| -> Vec<u8> {
            let prepared = preprocessor.prepare(&jpeg, &Limits::default(), keep, &mut scratch);
            prepared
                .unwrap()
                .tensor
                .iter()
                .map(|&value| value as u8)
                .collect()
        };
        let quality = psnr(&bytes(Keep::Nothing), &bytes(Keep::Picture));
        assert!(quality > 30.0, "{size:?}: {quality} dB");
    }
}

#[test]
fn a_picture_of_one_pixel_is_prepared() {
    let bytes = png(&Picture::new(1, 1, vec![9, 8, 7]).unwrap());
    for input in [
        letterbox([16, 8], Anchor::Center),
        native(32, 640),
        PictureInput {
            size: Some([5, 5]),
            ..PictureInput::default()
        },
    ] {
        let prepared = preprocessor(&input)
            .prepare(
                &bytes,
                &Limits::default(),
                Keep::Picture,
                &mut Scratch::default(),
            )
            .unwrap();
        assert_eq!(
            prepared.tensor.len(),
            prepared.shape.iter().product::<usize>()
        );
    }
}

#[test]
fn native_rounds_up_to_multiples_and_bounds_the_longer_side() {
    let shape = |width: u32, height: u32| {
        let picture = Picture::new(width, height, vec![0; 3 * (width * height) as usize]);
        prepared(&native(32, 640), &picture.unwrap()).shape
    };
    assert_eq!(shape(320, 320), [3, 320, 320]);
    assert_eq!(shape(321, 319), [3, 320, 352]);
    assert_eq!(shape(1280, 720), [3, 384, 640]);
    assert_eq!(shape(2000, 1), [3, 32, 640]);
    // A bound that is no multiple is rounded down to one.
    let picture = scene(100, 100);
    assert_eq!(prepared(&native(32, 70), &picture).shape, [3, 64, 64]);
}

// === placement ===

fn inputs() -> impl Strategy<Value = PictureInput> {
    let size = || [1_u32..700, 1_u32..700];
    prop_oneof![
        size().prop_map(|size| letterbox(size, Anchor::TopLeft)),
        size().prop_map(|size| letterbox(size, Anchor::Center)),
        size().prop_map(|size| PictureInput {
            size: Some(size),
            ..PictureInput::default()
        }),
        (1_u32..64, 64_u32..2000).prop_map(|(multiple, max)| native(multiple, max)),
    ]
}

proptest! {
    #[test]
    fn a_plan_stays_within_its_tensor(input in inputs(), width in 1_u32..5000, height in 1_u32..5000) {
        let plan = preprocessor(&input).shape.plan([f64::from(width), f64::from(height)]);
        for side in [0, 1] {
            prop_assert!(plan.body[side] >= 1);
            prop_assert!(plan.corner[side] + plan.body[side] <= plan.size[side]);
        }
        if input.resize == Resize::Letterbox {
            prop_assert!((0..2).any(|side| plan.body[side] == plan.size[side]));
        }
    }

    #[test]
    fn points_of_the_picture_are_found_again(
        input in inputs(),
        width in 1_u32..5000,
        height in 1_u32..5000,
        part in [0.0_f32..=1.0, 0.0_f32..=1.0],
    ) {
        let plan = preprocessor(&input).shape.plan([f64::from(width), f64::from(height)]);
        let size = [width as f32, height as f32];
        let placement = Placement::new([0.0, 0.0, size[0], size[1]], plan);
        let inside = [0, 1].map(|side| plan.corner[side] as f32 + part[side] * plan.body[side] as f32);
        let found = placement.to_picture(inside);
        for side in [0, 1] {
            prop_assert!((found[side] - part[side] * size[side]).abs() <= 1e-3 * size[side] + 1e-3);
        }
    }

    #[test]
    fn rectangles_are_clipped_to_the_picture(
        input in inputs(),
        width in 1_u32..5000,
        height in 1_u32..5000,
        rect in [-1e4_f32..1e4, -1e4_f32..1e4, -1e4_f32..1e4, -1e4_f32..1e4],
    ) {
        let plan = preprocessor(&input).shape.plan([f64::from(width), f64::from(height)]);
        let size = [width as f32, height as f32];
        let placement = Placement::new([0.0, 0.0, size[0], size[1]], plan);
        let [x1, y1, x2, y2] = placement.rect_to_picture(rect);
        prop_assert!([x1, x2].iter().all(|x| (0.0..=size[0]).contains(x)));
        prop_assert!([y1, y2].iter().all(|y| (0.0..=size[1]).contains(y)));
    }
}

#[test]
fn a_margin_is_a_part_of_the_side() {
    assert_eq!(
        with_margin([10.0, 20.0, 30.0, 60.0], 0.1),
        [8.0, 16.0, 32.0, 64.0]
    );
}
