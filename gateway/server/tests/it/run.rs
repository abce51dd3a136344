//! `POST /run/{name}`: a picture in whatever form, and what is found in it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::hearth::{Answer, Hearth};
use crate::pictures::{
    BLUE, FORMATS, GREEN, RED, encode, noise, picture_models, plain, png, with_orientation,
};

/// Returns the best label of an answer about one picture.
#[track_caller]
fn label(answer: &Answer) -> String {
    let found = answer.ok();
    found["predictions"][0]["label"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Returns the label, score and box of each detection, to hundredths.
fn detections(found: &Value) -> Vec<(String, f64, [f64; 4])> {
    let hundredths = |value: &Value| (value.as_f64().unwrap() * 100.0).round() / 100.0;
    let predictions = found["predictions"].as_array().unwrap().iter();
    predictions
        .map(|one| {
            let label = one["label"].as_str().unwrap().to_owned();
            let sides = [0, 1, 2, 3].map(|side| hundredths(&one["box"][side]));
            (label, hundredths(&one["score"]), sides)
        })
        .collect()
}

/// Returns a multipart body, as curl would send it.
fn multipart(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in parts {
        let head = format!(
            "--xyz\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--xyz--\r\n");
    body
}

fn drawn(hearth: &Hearth, path: &str, media: &str, picture: &[u8]) -> RgbImage {
    let request = hearth.request("POST", path).header("accept", media);
    let answer = hearth.send(request, picture);
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert_eq!(answer.header("content-type"), Some(media));
    let format = ImageFormat::from_mime_type(media).unwrap();
    image::load_from_memory_with_format(&answer.body, format)
        .unwrap()
        .into_rgb8()
}

#[test]
fn a_picture_is_known_by_its_content_whatever_it_is_called() {
    let hearth = Hearth::start(picture_models(), &[]);
    for format in FORMATS {
        for (color, name) in [(RED, "red"), (GREEN, "green"), (BLUE, "blue")] {
            let body = encode(&plain(12, 8, color), format);
            for media in ["image/gif", "application/json", "text/plain; charset=utf-8"] {
                let request = hearth
                    .request("POST", "/run/mean")
                    .header("content-type", media);
                let answer = hearth.send(request, &body[..]);
                assert_eq!(label(&answer), name, "{format:?} as {media}");
                let found = answer.ok();
                assert_eq!(found["image"], json!({"width": 12, "height": 8}));
                assert_eq!(
                    (&found["model"], &found["version"]),
                    (&json!("mean"), &json!("1"))
                );
                let score = found["predictions"][0]["score"].as_f64().unwrap();
                assert!((score - 1.0).abs() < 0.02, "{format:?}: {score}");
            }
        }
    }
    hearth.stop();
}

#[test]
fn a_picture_of_one_pixel_is_a_picture() {
    let hearth = Hearth::start(picture_models(), &[]);
    for format in FORMATS {
        let body = encode(&plain(1, 1, GREEN), format);
        let answer = hearth.post("/run/mean", &body);
        assert_eq!(label(&answer), "green", "{format:?}");
        assert_eq!(answer.ok()["image"], json!({"width": 1, "height": 1}));
        let found = hearth.post("/run/detector", &body).ok();
        assert_eq!(found["predictions"], json!([]));
    }
    hearth.stop();
}

#[test]
fn base64_is_taken_as_clients_of_oscar_send_it() {
    let hearth = Hearth::start(picture_models(), &[]);
    let text = BASE64_STANDARD.encode(png(BLUE));
    let post = || {
        let request = hearth.request("POST", "/run/mean");
        request.header("content-type", "application/json")
    };
    assert_eq!(label(&hearth.send(post(), &text)), "blue");
    assert_eq!(label(&hearth.send(post(), format!("\"{text}\""))), "blue");
    // oscar-cli does not say how long its body is.
    let mut reader = text.as_bytes();
    let chunked = hearth.send(post(), ureq::SendBody::from_reader(&mut reader));
    assert_eq!(label(&chunked), "blue");

    let broken = hearth.post("/run/mean", text.replace('A', "*").as_bytes());
    let sentence = broken.refusal(400);
    assert!(sentence.contains("base64"), "{sentence}");
    hearth.stop();
}

#[test]
fn several_pictures_are_answered_in_order_and_a_bad_one_fails_alone() {
    let hearth = Hearth::start(picture_models(), &[]);
    let truncated = &encode(&noise(64, 64), ImageFormat::Jpeg)[..1000];
    let parts = [
        ("a", &png(RED)[..]),
        ("b", truncated),
        ("c", &png(BLUE)[..]),
    ];
    let request = hearth
        .request("POST", "/run/mean")
        .header("content-type", "multipart/form-data; boundary=xyz");
    let answer = hearth.send(request, &multipart(&parts)[..]);
    let found = answer.ok();
    assert_eq!(found[0]["predictions"][0]["label"], "red");
    assert_eq!(found[1]["status"], 400);
    let sentence = found[1]["error"].as_str().unwrap();
    assert!(sentence.contains("can't be decoded"), "{sentence}");
    assert_eq!(found[2]["predictions"][0]["label"], "blue");
    assert_eq!(found.as_array().unwrap().len(), 3);

    let one = hearth.post("/run/mean", &multipart(&[("a", &png(GREEN))]));
    assert_eq!(label(&one), "green");
    let none = hearth.post(
        "/run/mean",
        &multipart(&[("a", truncated), ("b", truncated)]),
    );
    assert_eq!(none.status, 400);
    assert_eq!(none.json()[0]["status"], 400);
    let no_picture = hearth.post("/run/mean", &multipart(&[("cv", b"%PDF-1.7 of mine")]));
    let sentence = no_picture.refusal(400);
    assert!(
        sentence.contains("`cv`") && sentence.contains("%PDF"),
        "{sentence}"
    );
    hearth.stop();
}

#[test]
fn boxes_are_in_pixels_of_the_picture_that_was_sent() {
    let hearth = Hearth::start(picture_models(), &[]);
    let body = encode(&plain(160, 96, RED), ImageFormat::Png);
    let found = hearth.post("/run/detector", &body).ok();
    let expected = [
        ("red".to_owned(), 1.0, [20.0, 12.0, 60.0, 36.0]),
        ("red".to_owned(), 0.5, [100.0, 54.0, 140.0, 90.0]),
    ];
    assert_eq!(detections(&found), expected);
    hearth.stop();
}

#[test]
fn a_photo_that_was_taken_sideways_is_seen_upright() {
    let hearth = Hearth::start(picture_models(), &[]);
    // Lying: red above blue. Turned to the right, red is right of blue.
    let lying = RgbImage::from_fn(128, 64, |_, y| if y < 32 { RED } else { BLUE });
    let photo = with_orientation(&encode(&lying, ImageFormat::Jpeg), 6);
    let found = hearth.post("/run/detector?score=0.4", &photo).ok();
    assert_eq!(found["image"], json!({"width": 64, "height": 128}));
    let detections = detections(&found);
    assert_eq!(detections.len(), 1);
    assert_eq!(detections[0].2, [8.0, 16.0, 24.0, 48.0]);

    let drawn = drawn(&hearth, "/run/detector?score=1", "image/png", &photo);
    assert_eq!(drawn.dimensions(), (64, 128));
    let is_near = |at: (u32, u32), color: Rgb<u8>| {
        let pixel = drawn.get_pixel(at.0, at.1).0;
        pixel
            .iter()
            .zip(color.0)
            .all(|(&is, expected)| is.abs_diff(expected) < 30)
    };
    assert!(is_near((60, 4), RED) && is_near((60, 124), RED));
    assert!(is_near((4, 4), BLUE) && is_near((4, 124), BLUE));
    hearth.stop();
}

#[test]
fn boxes_are_drawn_into_the_picture_where_they_are() {
    let hearth = Hearth::start(picture_models(), &[]);
    let photo = encode(&plain(160, 96, RED), ImageFormat::Png);
    for media in ["image/png", "image/jpeg"] {
        let drawn = drawn(&hearth, "/run/detector", media, &photo);
        assert_eq!(drawn.dimensions(), (160, 96));
        // The colours of a JPEG's edges run.
        let changed = |x: u32, y: u32| {
            let pixel = drawn.get_pixel(x, y).0;
            pixel
                .iter()
                .zip(RED.0)
                .any(|(&is, was)| is.abs_diff(was) > 40)
        };
        for edge in [
            (20, 24),
            (59, 24),
            (40, 35),
            (100, 80),
            (139, 80),
            (120, 89),
        ] {
            assert!(changed(edge.0, edge.1), "{media}: nothing at {edge:?}");
        }
        for outside in [(2, 93), (80, 90), (157, 2)] {
            assert!(
                !changed(outside.0, outside.1),
                "{media}: something at {outside:?}"
            );
        }
    }
    // What a client wants most, of equals the first; a client that takes anything gets JSON.
    for (accept, media) in [
        ("application/json, image/png", "application/json"),
        ("text/html, image/png;q=0.9", "image/png"),
        ("application/json;q=0.5, image/jpeg; q=0.8", "image/jpeg"),
        ("image/png;q=0, application/json;q=0.1", "application/json"),
        ("*/*", "application/json"),
    ] {
        let request = hearth
            .request("POST", "/run/detector")
            .header("accept", accept);
        let answer = hearth.send(request, &photo[..]);
        assert_eq!(answer.header("content-type"), Some(media), "{accept}");
    }
    // A classification is drawn too.
    let answer = hearth
        .request("POST", "/run/mean")
        .header("accept", "image/png");
    let answer = hearth.send(answer, &photo[..]);
    assert!(
        image::load_from_memory(&answer.body).is_ok(),
        "{}",
        answer.status
    );
    let request = hearth
        .request("POST", "/run/detector")
        .header("accept", "image/png");
    let both = multipart(&[("a", &photo), ("b", &photo)]);
    let sentence = hearth.send(request, &both[..]).refusal(400);
    assert!(
        sentence.contains("one picture at a time can be drawn"),
        "{sentence}"
    );
    hearth.stop();
}

#[test]
fn a_caller_chooses_what_is_returned() {
    let hearth = Hearth::start(picture_models(), &[]);
    let count = |path: &str, color| {
        let body = encode(&plain(64, 64, color), ImageFormat::Png);
        let found = hearth.post(path, &body).ok();
        found["predictions"].as_array().unwrap().len()
    };
    assert_eq!(count("/run/detector", RED), 2);
    assert_eq!(count("/run/detector?score=0.6", RED), 1);
    assert_eq!(count("/run/detector?iou=0.9", RED), 3);
    assert_eq!(count("/run/detector?iou=0.9&top_k=2", RED), 2);
    assert_eq!(count("/run/detector?labels=red", RED), 2);
    assert_eq!(count("/run/detector?labels=red", BLUE), 0);
    assert_eq!(count("/run/detector?labels=blue%2Cred&score=.5", BLUE), 2);
    assert_eq!(count("/run/mean", RED), 3);
    assert_eq!(count("/run/mean?top_k=1", RED), 1);
    assert_eq!(count("/run/mean?score=0.5", RED), 1);
    let found = hearth.post("/run/mean?labels=blue,green", &png(BLUE)).ok();
    let labels: Vec<_> = found["predictions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["label"])
        .collect();
    assert_eq!(labels, ["blue", "green"]);
    hearth.stop();
}

#[test]
fn an_answer_says_where_its_time_went() {
    let hearth = Hearth::start(picture_models(), &[]);
    let timings = || {
        let answer = hearth.post("/run/mean", &png(RED));
        let header = answer.header("server-timing").unwrap().to_owned();
        let parts: Vec<(String, String)> = header
            .split(", ")
            .map(|part| {
                let (name, value) = part.split_once(';').unwrap();
                (name.to_owned(), value.to_owned())
            })
            .collect();
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "queue", "room", "slot", "cold", "decode", "infer", "post", "batch"
            ]
        );
        assert!(parts[7].1.starts_with("desc=\"1: "));
        let ms = |at: usize| -> f64 { parts[at].1.strip_prefix("dur=").unwrap().parse().unwrap() };
        // Room and slot are parts of the queue.
        [0, 3, 4, 5, 6].map(ms)
    };
    let [queue, cold, decode, infer, post] = timings();
    assert!(
        cold > 0.0 && decode > 0.0 && infer > 0.0,
        "{cold} {decode} {infer}"
    );
    assert!(queue >= 0.0 && post >= 0.0, "{queue} {post}");
    let [_, cold, ..] = timings();
    assert_eq!(cold, 0.0, "the worker was started already");
    hearth.stop();
}
