use proptest::prelude::*;
use workers_protocol::Code;

use super::*;
use crate::testing::{labels, output, row};
use crate::{Keep, Limits, Picture, Preprocessor, Scratch};

/// The placement of a picture in an input of the same size.
fn placement(size: [usize; 2]) -> Placement {
    let [width, height] = size.map(|side| side as u32);
    let picture = Picture::new(width, height, vec![0; 3 * size[0] * size[1]]).unwrap();
    let input = model_store::PictureInput {
        size: Some([width, height]),
        ..Default::default()
    };
    let bytes = crate::encode(&picture, workers_protocol::DrawFormat::Png).unwrap();
    Preprocessor::new(&input, &output("x", &[-1, 3, -1, -1]))
        .and_then(|preprocessor| {
            let mut scratch = Scratch::default();
            preprocessor.prepare(&bytes, &Limits::default(), Keep::Nothing, &mut scratch)
        })
        .unwrap()
        .placement
}

fn detector(head: Head, outputs: &[TensorSpec]) -> Detector {
    Detector::new(head, &PictureOutput::default(), Vec::new(), outputs).unwrap()
}

fn detect(detector: &Detector, rows: &[OutputRow<'_>], size: [usize; 2]) -> Vec<Detection> {
    let selection = detector.select(&PictureOptions::default()).unwrap();
    detector
        .detect(rows, size, &placement(size), &selection)
        .unwrap()
}

/// The one detection that is expected.
fn check(found: &[Detection], class: u32, score: f32, rect: [f32; 4]) {
    let [one] = found else {
        panic!("one box is expected, got {found:?}");
    };
    assert_eq!(one.class, class);
    assert!(
        (one.score - score).abs() < 1e-5,
        "{} instead of {score}",
        one.score
    );
    for (side, expected) in one.rect.iter().zip(rect) {
        assert!(
            (side - expected).abs() < 1e-3,
            "{:?} instead of {rect:?}",
            one.rect
        );
    }
}

// === each head against numbers computed by hand ===

#[test]
fn yolox_adds_the_grid_and_multiplies_by_the_stride() {
    let detector = detector(Head::Yolox, &[output("output", &[-1, -1, 7])]);
    // 64 × 32: 8 × 4 cells at stride 8, 4 × 2 at 16, 2 × 1 at 32.
    let mut data = vec![0.0; (32 + 8 + 2) * 7];
    // Stride 16, column 2, row 1.
    let cell = 32 + 4 + 2;
    let values = [0.5, 0.25, 1.0_f32.ln(), 0.5_f32.ln(), 0.9, 0.2, 0.8];
    data[7 * cell..7 * cell + 7].copy_from_slice(&values);
    let found = detect(&detector, &[row(&[42, 7], &data)], [64, 32]);
    // Centre (2.5, 1.25) · 16 = (40, 20), size 16 × 8.
    check(&found, 1, 0.72, [32.0, 16.0, 48.0, 24.0]);
}

#[test]
fn yolov5_reads_centre_and_size() {
    let detector = detector(Head::Yolov5, &[output("output0", &[-1, 25, 7])]);
    let mut data = vec![0.0; 3 * 7];
    data[7..14].copy_from_slice(&[30.0, 20.0, 10.0, 8.0, 0.5, 0.9, 0.1]);
    let found = detect(&detector, &[row(&[3, 7], &data)], [64, 32]);
    check(&found, 0, 0.45, [25.0, 16.0, 35.0, 24.0]);
}

#[test]
fn yolov8_reads_columns() {
    let detector = detector(Head::Yolov8, &[output("output0", &[-1, 7, -1])]);
    let data = [
        [10.0, 30.0], // x
        [10.0, 20.0], // y
        [5.0, 10.0],  // width
        [5.0, 8.0],   // height
        [0.1, 0.2],
        [0.2, 0.1],
        [0.1, 0.6],
    ];
    let found = detect(&detector, &[row(&[7, 2], data.as_flattened())], [64, 32]);
    check(&found, 2, 0.6, [25.0, 16.0, 35.0, 24.0]);
}

#[test]
fn fastestdet_weighs_objectness_and_class() {
    let detector = detector(Head::Fastestdet, &[output("758", &[-1, 7, -1, -1])]);
    // 4 × 2 cells; column 2, row 1.
    let mut data = vec![0.0; 7 * 8];
    for (plane, value) in [0.9, 0.5, -0.5, 0.0, 0.0, 0.1, 0.8].into_iter().enumerate() {
        data[8 * plane + 6] = value;
    }
    let found = detect(&detector, &[row(&[7, 2, 4], &data)], [64, 32]);
    let score = 0.9_f32.powf(0.6) * 0.8_f32.powf(0.4);
    let (x, y) = ((2.0 + 0.5_f32.tanh()) * 16.0, (1.0 - 0.5_f32.tanh()) * 16.0);
    // Half of 64 × 32, clipped to it.
    check(
        &found,
        1,
        score,
        [x - 16.0, (y - 8.0).max(0.0), x + 16.0, y + 8.0],
    );
}

#[test]
fn ssd_skips_the_background_and_scales_fractions() {
    let outputs = [
        output("boxes", &[-1, -1, 4]),
        output("scores", &[-1, -1, 3]),
    ];
    let detector = detector(Head::SsdDecoded, &outputs);
    assert_eq!(detector.labels(), ["0", "1"]);
    let boxes = [0.0, 0.0, 0.1, 0.1, 0.25, 0.5, 0.5, 0.75];
    let scores = [0.9, 0.05, 0.05, 0.3, 0.1, 0.6];
    let found = detect(
        &detector,
        &[row(&[2, 4], &boxes), row(&[2, 3], &scores)],
        [64, 32],
    );
    check(&found, 1, 0.6, [16.0, 16.0, 32.0, 24.0]);
}

fn centerface_outputs() -> [TensorSpec; 4] {
    [("537", 1), ("538", 2), ("539", 2), ("540", 10)]
        .map(|(name, channels)| output(name, &[-1, channels, -1, -1]))
}

#[test]
fn centerface_reads_peaks_with_landmarks() {
    let detector = detector(Head::Centerface, &centerface_outputs());
    assert_eq!(detector.labels(), ["face"]);
    // 16 × 8 cells; column 5, row 3.
    let (n, cell) = (128, 53);
    let plane = |values: &[f32]| {
        let mut data = vec![0.0; values.len() * n];
        for (channel, &value) in values.iter().enumerate() {
            data[channel * n + cell] = value;
        }
        data
    };
    let heat = plane(&[0.8]);
    let scale = plane(&[4.0_f32.ln(), 2.0_f32.ln()]);
    let offset = plane(&[0.25, -0.25]);
    let landmarks = plane(&[0.25, 0.0, 0.25, 1.0, 0.5, 0.5, 0.75, 0.0, 1.0, 1.0]);
    let rows = [
        row(&[1, 8, 16], &heat),
        row(&[2, 8, 16], &scale),
        row(&[2, 8, 16], &offset),
        row(&[10, 8, 16], &landmarks),
    ];
    let found = detect(&detector, &rows, [64, 32]);
    // Centre ((5 - 0.25 + 0.5) · 4, (3 + 0.25 + 0.5) · 4) = (21, 15), size 8 × 16.
    check(&found, 0, 0.8, [17.0, 7.0, 25.0, 23.0]);
    let expected = [
        [17.0, 11.0],
        [25.0, 11.0],
        [21.0, 15.0],
        [17.0, 19.0],
        [25.0, 23.0],
    ];
    for (point, expected) in found[0].landmarks.unwrap().iter().zip(expected) {
        assert!((point[0] - expected[0]).abs() < 1e-3 && (point[1] - expected[1]).abs() < 1e-3);
    }
}

// === which output is which ===

#[test]
fn outputs_are_found_by_name_or_shape_in_any_order() {
    let scores = output("a", &[-1, 100, 3]);
    let boxes = output("b", &[-1, 100, 4]);
    let detector_of = |outputs: &[TensorSpec]| detector(Head::SsdDecoded, outputs).roles;
    assert_eq!(detector_of(&[scores.clone(), boxes.clone()]), [0, 1]);
    assert_eq!(detector_of(&[boxes, scores]), [1, 0]);
    // Three classes and a background look like a box.
    let named = [
        output("Boxes", &[-1, 100, 4]),
        output("Scores", &[-1, 100, 4]),
    ];
    assert_eq!(detector_of(&named), [1, 0]);

    let [heat, scale, offset, landmarks] = centerface_outputs();
    let shuffled = [landmarks, scale, heat, offset];
    assert_eq!(detector(Head::Centerface, &shuffled).roles, [2, 1, 3, 0]);
    let free = ["a", "b", "c", "d"].map(|name| output(name, &[-1, -1, -1, -1]));
    assert_eq!(detector(Head::Centerface, &free).roles, [0, 1, 2, 3]);

    let several = [
        output("p3", &[-1, 3, 80, 80, 7]),
        output("output", &[-1, 25200, 7]),
    ];
    assert_eq!(detector(Head::Yolov5, &several).roles, [1]);
}

#[test]
fn a_graph_without_the_heads_outputs_is_refused() {
    for head in [
        Head::Yolox,
        Head::Yolov5,
        Head::Yolov8,
        Head::Fastestdet,
        Head::SsdDecoded,
        Head::Centerface,
    ] {
        let outputs = [output("logits", &[-1])];
        let error = Detector::new(head, &PictureOutput::default(), Vec::new(), &outputs);
        let error = error.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(
            error.message.ends_with("the graph has `logits` FP32 [-1]"),
            "{error}"
        );
    }
}

#[test]
fn labels_are_as_many_as_the_graph_has_classes() {
    let new = |names: &[&str], shape: &[i64]| {
        let outputs = [output("output", shape)];
        Detector::new(
            Head::Yolox,
            &PictureOutput::default(),
            labels(names),
            &outputs,
        )
    };
    assert_eq!(
        new(&["cat", "dog"], &[-1, 9, 7]).unwrap().labels(),
        ["cat", "dog"]
    );
    assert_eq!(new(&["cat"], &[-1, 9, -1]).unwrap().labels(), ["cat"]);
    assert_eq!(new(&[], &[-1, 9, 7]).unwrap().labels(), ["0", "1"]);
    assert_eq!(
        new(&["cat"], &[-1, 9, 7]).unwrap_err().message,
        "`labels`: output `output` [-1, 9, 7] has 2 classes, got 1 names"
    );
    assert_eq!(
        new(&[], &[-1, 9, -1]).unwrap_err().message,
        "`labels`: output `output` [-1, 9, -1] does not say how many classes there are: \
         expected names"
    );
}

#[test]
fn the_manifest_replaces_the_heads_defaults() {
    let declared = PictureOutput {
        score: Some(0.1),
        iou: Some(0.2),
        top_k: Some(3),
        ..PictureOutput::default()
    };
    let outputs = [output("output", &[-1, 9, 7])];
    let new = |declared| Detector::new(Head::Yolox, declared, Vec::new(), &outputs);
    let selection = new(&declared)
        .unwrap()
        .select(&PictureOptions::default())
        .unwrap();
    assert_eq!(
        (selection.score, selection.iou, selection.top_k),
        (0.1, 0.2, 3)
    );
    let wrong = PictureOutput {
        score: Some(30.0),
        ..PictureOutput::default()
    };
    assert!(new(&wrong).is_err());
}

// === selection ===

fn yolov5_rows(boxes: &[[f32; 7]]) -> Vec<f32> {
    boxes.as_flattened().to_vec()
}

#[test]
fn overlapping_boxes_of_a_class_are_one_and_callers_choose() {
    let detector = detector(Head::Yolov5, &[output("output", &[-1, -1, 7])]);
    let data = yolov5_rows(&[
        [20.0, 16.0, 10.0, 10.0, 1.0, 0.7, 0.0],
        [21.0, 16.0, 10.0, 10.0, 1.0, 0.9, 0.0],
        [20.0, 16.0, 10.0, 10.0, 1.0, 0.0, 0.8],
        [50.0, 16.0, 10.0, 10.0, 1.0, 0.4, 0.0],
    ]);
    let rows = [row(&[4, 7], &data)];
    let scores = |options: PictureOptions| {
        let selection = detector.select(&options).unwrap();
        let size = [64, 32];
        let found = detector
            .detect(&rows, size, &placement(size), &selection)
            .unwrap();
        found.iter().map(|one| one.score).collect::<Vec<_>>()
    };
    assert_eq!(scores(PictureOptions::default()), [0.9, 0.8, 0.4]);
    let score = Some(0.5);
    assert_eq!(
        scores(PictureOptions {
            score,
            ..Default::default()
        }),
        [0.9, 0.8]
    );
    let iou = Some(0.9);
    assert_eq!(
        scores(PictureOptions {
            iou,
            ..Default::default()
        }),
        [0.9, 0.8, 0.7, 0.4]
    );
    let top_k = Some(1);
    assert_eq!(
        scores(PictureOptions {
            top_k,
            ..Default::default()
        }),
        [0.9]
    );
    let names = Some(labels(&["1"]));
    assert_eq!(
        scores(PictureOptions {
            labels: names,
            ..Default::default()
        }),
        [0.8]
    );
}

#[test]
fn numbers_that_are_none_are_dropped() {
    let detector = detector(Head::Yolov5, &[output("output", &[-1, -1, 7])]);
    let good = [20.0, 16.0, 10.0, 10.0, 1.0, 0.7, 0.0];
    let with = |at: usize, value: f32| {
        let mut bad = good;
        bad[at] = value;
        bad
    };
    let data = yolov5_rows(&[
        with(0, f32::NAN),
        with(1, f32::INFINITY),
        with(2, f32::INFINITY),
        with(3, -10.0),
        with(4, f32::NAN),
        with(5, f32::NAN),
        with(5, f32::INFINITY),
        // Beside the picture.
        with(0, 500.0),
        good,
    ]);
    let found = detect(&detector, &[row(&[9, 7], &data)], [64, 32]);
    check(&found, 0, 0.7, [15.0, 11.0, 25.0, 21.0]);
}

#[test]
fn another_shape_than_declared_is_an_error_that_names_both() {
    let detector = detector(Head::Yolox, &[output("output", &[-1, -1, 7])]);
    let selection = detector.select(&PictureOptions::default()).unwrap();
    let size = [64, 32];
    let detect = |rows: &[OutputRow<'_>]| {
        detector
            .detect(rows, size, &placement(size), &selection)
            .unwrap_err()
    };
    let error = detect(&[row(&[41, 7], &[0.0; 41 * 7])]);
    assert_eq!(error.code, Code::Internal);
    assert_eq!(
        error.message,
        "for an input of 64 × 32 and 2 classes the model returned [41, 7], declared are \
         `output` FP32 [-1, -1, 7]"
    );
    detect(&[]);
    detect(&[row(&[42, 8], &[0.0; 42 * 8])]);
    detect(&[row(&[42, 7], &[0.0; 5])]);
    detect(&[row(&[42], &[0.0; 42])]);
}

proptest! {
    #[test]
    fn no_head_panics_whatever_the_model_returns(
        head in prop::sample::select(vec![
            Head::Yolox, Head::Yolov5, Head::Yolov8, Head::Fastestdet, Head::SsdDecoded,
            Head::Centerface,
        ]),
        shapes in proptest::collection::vec(proptest::collection::vec(0_usize..9, 0..4), 0..5),
        size in [0_usize..70, 0_usize..70],
        fill in prop::num::f32::ANY,
        lack in 0_usize..2,
    ) {
        let outputs: Vec<TensorSpec> = match head {
            Head::Yolox | Head::Yolov5 => vec![output("o", &[-1, -1, 7])],
            Head::Yolov8 => vec![output("o", &[-1, 6, -1])],
            Head::Fastestdet => vec![output("o", &[-1, 7, -1, -1])],
            Head::SsdDecoded => vec![output("scores", &[-1, -1, 3]), output("boxes", &[-1, -1, 4])],
            Head::Centerface => centerface_outputs().to_vec(),
        };
        let detector = detector(head, &outputs);
        let options = PictureOptions { score: Some(0.0), ..PictureOptions::default() };
        let selection = detector.select(&options).unwrap();
        let data: Vec<Vec<f32>> = shapes
            .iter()
            .map(|shape| vec![fill; shape.iter().product::<usize>().saturating_sub(lack)])
            .collect();
        let rows: Vec<_> = shapes.iter().zip(&data).map(|(shape, data)| row(shape, data)).collect();
        if let Ok(found) = detector.detect(&rows, size, &placement([64, 32]), &selection) {
            for one in found {
                let [x1, y1, x2, y2] = one.rect;
                prop_assert!(0.0 <= x1 && x1 < x2 && x2 <= 64.0);
                prop_assert!(0.0 <= y1 && y1 < y2 && y2 <= 32.0);
                prop_assert!(one.score.is_finite());
            }
        }
    }
}
