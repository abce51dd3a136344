use proptest::prelude::*;
use workers_protocol::Code;

use super::*;
use crate::testing::psnr;
use crate::{Limits, decode};

fn grey(width: u32, height: u32) -> Picture {
    let n = 3 * width as usize * height as usize;
    Picture::new(width, height, vec![128; n]).unwrap()
}

fn pixel(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
    picture.rgb().as_chunks().0[y * picture.width() as usize + x]
}

fn mark(rect: [f32; 4], text: &str, class: u32) -> Mark {
    Mark {
        rect: Some(rect),
        text: text.to_owned(),
        class,
    }
}

#[test]
fn a_box_is_a_frame_in_the_colour_of_its_class() {
    let mut picture = grey(100, 80);
    draw(&mut picture, &[mark([20.0, 40.0, 60.0, 70.0], "", 3)]);
    for (x, y) in [(59, 40), (20, 69), (59, 69), (20, 55), (59, 55), (40, 69)] {
        assert_eq!(pixel(&picture, x, y), COLOURS[3], "{x}, {y}");
    }
    for (x, y) in [(40, 55), (19, 69), (60, 69), (40, 70), (21, 68)] {
        assert_eq!(pixel(&picture, x, y), [128; 3], "{x}, {y}");
    }
}

#[test]
fn a_label_is_above_its_box_or_inside_where_there_is_no_room() {
    let mut above = grey(100, 80);
    draw(&mut above, &[mark([20.0, 40.0, 90.0, 70.0], "a", 3)]);
    assert_eq!(pixel(&above, 20, 30), COLOURS[3]);
    assert_eq!(pixel(&above, 22, 50), [128; 3]);
    let mut inside = grey(100, 80);
    draw(&mut inside, &[mark([20.0, 4.0, 90.0, 70.0], "a", 3)]);
    assert_eq!(pixel(&inside, 21, 6), COLOURS[3]);
    assert_eq!(pixel(&inside, 20, 2), [128; 3]);
}

#[test]
fn letters_stand_out_from_their_background() {
    for class in 0..COLOURS.len() as u32 {
        let mut picture = grey(100, 80);
        draw(&mut picture, &[mark([0.0, 30.0, 90.0, 70.0], "W", class)]);
        let ink = contrast(colour(class));
        // The edges of letters are blended with the background.
        let is_ink =
            |one: &&[u8; 3]| (0..3).all(|channel| one[channel].abs_diff(ink[channel]) < 60);
        let letters = picture.rgb().as_chunks().0.iter().filter(is_ink).count();
        assert!(letters > 10, "class {class}: {letters} pixels");
    }
}

#[test]
fn characters_without_a_glyph_are_question_marks() {
    let text = |text: &str| {
        let mut picture = grey(100, 40);
        draw(&mut picture, &[mark([0.0, 20.0, 50.0, 40.0], text, 0)]);
        picture
    };
    assert_eq!(text("漢"), text("?"));
    assert_ne!(text("é"), text("?"));
}

#[test]
fn captions_are_stacked_at_the_top_left() {
    let mut picture = grey(200, 100);
    let caption = |class: u32| Mark {
        rect: None,
        text: "cat 0.9".to_owned(),
        class,
    };
    draw(&mut picture, &[caption(1), caption(2)]);
    assert_eq!(pixel(&picture, 0, 0), COLOURS[1]);
    assert_eq!(pixel(&picture, 0, 16), COLOURS[2]);
    assert_eq!(pixel(&picture, 0, 32), [128; 3]);
}

#[test]
fn the_first_mark_lies_on_top() {
    let rect = [10.0, 40.0, 90.0, 70.0];
    let mut picture = grey(100, 80);
    draw(&mut picture, &[mark(rect, "", 1), mark(rect, "", 2)]);
    assert_eq!(pixel(&picture, 10, 69), COLOURS[1]);
}

#[test]
fn drawn_pictures_decode_again() {
    let mut picture = grey(120, 90);
    draw(
        &mut picture,
        &[mark([10.0, 30.0, 90.0, 70.0], "person 0.87", 0)],
    );
    let again = |format| {
        let bytes = encode(&picture, format).unwrap();
        decode(&bytes, &Limits::default()).unwrap().picture
    };
    assert_eq!(again(DrawFormat::Png), picture);
    assert!(psnr(again(DrawFormat::Jpeg).rgb(), picture.rgb()) > 30.0);
}

#[test]
fn a_jpeg_of_too_many_pixels_on_a_side_is_refused() {
    let picture = grey(65_536, 1);
    let error = encode(&picture, DrawFormat::Jpeg).unwrap_err();
    assert_eq!(error.code, Code::TooLarge);
    assert_eq!(
        error.message,
        "a JPEG has at most 65535 pixels on a side, the picture has 65536 × 1: PNG can hold it"
    );
    assert!(encode(&picture, DrawFormat::Png).is_ok());
}

proptest! {
    #[test]
    fn any_marks_can_be_drawn_into_any_picture(
        width in 1_u32..80,
        height in 1_u32..80,
        marks in proptest::collection::vec(
            (proptest::option::of([prop::num::f32::ANY; 4]), ".{0,20}", any::<u32>()),
            0..4,
        ),
        near in [-20.0_f32..100.0, -20.0_f32..100.0, -20.0_f32..100.0, -20.0_f32..100.0],
    ) {
        let mut picture = grey(width, height);
        let mut marks: Vec<Mark> = marks
            .into_iter()
            .map(|(rect, text, class)| Mark { rect, text, class })
            .collect();
        marks.push(mark(near, "near", 5));
        draw(&mut picture, &marks);
        prop_assert_eq!(picture.rgb().len(), 3 * (width * height) as usize);
    }
}
