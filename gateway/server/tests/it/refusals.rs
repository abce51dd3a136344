//! Everything that a caller may send by mistake or malice is refused with a status and a sentence
//! that help, in bounded memory, and the worker lives on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use image::ImageFormat;

use crate::hearth::{Hearth, Store, eventually};
use crate::infer::tensor_request;
use crate::pictures::{RED, encode, forged_png, noise, picture_models, png};

/// What is sent where, and the status and words that have to come back.
struct Mistake<'a> {
    what: &'a str,
    path: &'a str,
    body: &'a [u8],
    status: u16,
    says: &'a [&'a str],
}

#[track_caller]
fn check(hearth: &Hearth, mistakes: &[Mistake<'_>], good: (&str, &[u8])) {
    hearth.post(good.0, good.1).ok();
    let workers = hearth.workers();
    assert_eq!(workers.len(), 1);
    for mistake in mistakes {
        let answer = hearth.post(mistake.path, mistake.body);
        let media = answer.header("content-type");
        assert_eq!(media, Some("application/json"), "{}", mistake.what);
        assert_eq!(
            answer.status.as_u16(),
            mistake.status,
            "{}: {}",
            mistake.what,
            answer.text()
        );
        let sentence = answer.refusal(mistake.status);
        for words in mistake.says {
            assert!(
                sentence.contains(words),
                "{}: {words:?} is not in {sentence:?}",
                mistake.what
            );
        }
        assert!(sentence.len() < 500, "{}: {sentence}", mistake.what);
        hearth.post(good.0, good.1).ok();
    }
    assert_eq!(hearth.workers(), workers, "another worker answers now");
}

#[test]
fn bad_pictures_are_refused_and_the_worker_lives_on() {
    let hearth = Hearth::start(picture_models().with_tiny("add_one"), &[]);
    let jpeg = encode(&noise(64, 64), ImageFormat::Jpeg);
    let picture = png(RED);
    let huge = forged_png(60_000, 60_000);
    let hollow = forged_png(4_000, 4_000);
    let tensors = tensor_request("x", "FP32", &[1, 4], &[1, 2, 3, 4]);
    let mistake = |what, path, body, status, says| Mistake {
        what,
        path,
        body,
        status,
        says,
    };
    let mistakes = [
        mistake("nothing", "/run/mean", b"", 400, &["is empty", "JPEG"]),
        mistake(
            "text",
            "/run/mean",
            b"hello, here is my cat",
            400,
            &["no picture", "JPEG", "text beginning \"hello, here"],
        ),
        mistake(
            "JSON",
            "/run/mean",
            tensors.as_bytes(),
            400,
            &["no picture", "inputs"],
        ),
        mistake(
            "a truncated JPEG",
            "/run/mean",
            &jpeg[..jpeg.len() / 2],
            400,
            &["Jpeg", "can't be decoded"],
        ),
        mistake(
            "a JPEG's first bytes",
            "/run/mean",
            &jpeg[..4],
            400,
            &["Jpeg header"],
        ),
        mistake(
            "a huge PNG",
            "/run/mean",
            &huge,
            413,
            &["60000 × 60000", "at most 100000000"],
        ),
        mistake(
            "a PNG that holds less than it says",
            "/run/mean",
            &hollow,
            400,
            &["Png", "can't be decoded"],
        ),
        mistake(
            "an unknown model",
            "/run/nobody",
            &picture,
            404,
            &[
                "unknown model: 'nobody' is not found",
                "`add_one`, `detector`, `mean`",
            ],
        ),
        mistake(
            "an impossible model name",
            "/run/..%2f..%2fetc",
            &picture,
            404,
            &["unknown model"],
        ),
        mistake(
            "a picture to a tensor model",
            "/run/add_one",
            &picture,
            400,
            &["takes tensors", "/v2/models/add_one/infer"],
        ),
        mistake(
            "a picture as tensors",
            "/v2/models/add_one/infer",
            &picture,
            400,
            &["JSON"],
        ),
        mistake(
            "tensors to a picture model",
            "/v2/models/mean/infer",
            tensors.as_bytes(),
            400,
            &["unexpected inference input 'x' for model 'mean': it takes 'image'"],
        ),
        mistake(
            "an unknown option",
            "/run/mean?scroe=0.5",
            &picture,
            400,
            &[
                "`scroe` is no option",
                "`score`, `iou`, `top_k` or `labels`",
            ],
        ),
        mistake(
            "a score out of range",
            "/run/mean?score=50",
            &picture,
            400,
            &["`score`", "from 0 to 1", "\"50\""],
        ),
        mistake(
            "no predictions at all",
            "/run/mean?top_k=0",
            &picture,
            400,
            &["`top_k`", "from 1"],
        ),
        mistake(
            "an unknown label",
            "/run/mean?labels=horse",
            &picture,
            400,
            &["\"horse\"", "red, green, blue"],
        ),
        mistake(
            "drawing as an option",
            "/run/detector?draw=png",
            &picture,
            400,
            &["Accept: image/jpeg"],
        ),
    ];
    check(&hearth, &mistakes, ("/run/mean", &picture));
    let launches = hearth.metric("worker_launches_total", "mean");
    assert_eq!(launches, 1.0);
    hearth.stop();
}

#[test]
fn bad_tensors_are_refused_and_the_worker_lives_on() {
    let hearth = Hearth::start(crate::hearth::Store::new().with_tiny("add_one"), &[]);
    let path = "/v2/models/add_one/infer";
    let good = tensor_request("x", "FP32", &[1, 4], &[1, 2, 3, 4]);
    let bodies = [
        ("nothing", String::new(), "Expected 16, got 0"),
        ("no object", "[]".to_owned(), "expected an object"),
        ("no inputs", r#"{"inputs": []}"#.to_owned(), "'x'"),
        (
            "an unknown input",
            tensor_request("z", "FP32", &[1, 4], &[1, 2, 3, 4]),
            "it takes 'x'",
        ),
        (
            "another datatype",
            tensor_request("x", "INT64", &[1, 4], &[1, 2, 3, 4]),
            "expects 'FP32'",
        ),
        (
            "no datatype",
            tensor_request("x", "FLOAT", &[1, 4], &[1, 2, 3, 4]),
            "\"FLOAT\"",
        ),
        (
            "another shape",
            tensor_request("x", "FP32", &[1, 5], &[1, 2, 3, 4, 5]),
            "[-1,4]",
        ),
        (
            "fewer elements than the shape says",
            tensor_request("x", "FP32", &[1, 4], &[1, 2, 3]),
            "`x`",
        ),
        (
            "a shape that overflows",
            tensor_request("x", "FP32", &[i64::MAX, 4], &[1, 2, 3, 4]),
            "`x`",
        ),
        (
            "a negative dimension",
            tensor_request("x", "FP32", &[-1, 4], &[1, 2, 3, 4]),
            "`x`",
        ),
        (
            "a batch of nothing",
            tensor_request("x", "FP32", &[0, 4], &[]),
            "must be <= 4096",
        ),
        (
            "an unknown output",
            good.replace("{\"inputs\"", r#"{"outputs": [{"name": "q"}], "inputs""#),
            "'q'",
        ),
    ];
    let mistakes: Vec<Mistake<'_>> = bodies
        .iter()
        .map(|(what, body, says)| Mistake {
            what,
            path,
            body: body.as_bytes(),
            status: 400,
            says: std::slice::from_ref(says),
        })
        .collect();
    check(&hearth, &mistakes, (path, good.as_bytes()));

    let version = hearth.post("/v2/models/add_one/versions/7/infer", good.as_bytes());
    let sentence = version.refusal(404);
    assert!(sentence.contains("there are 1"), "{sentence}");
    let request = hearth
        .request("POST", path)
        .header("x-request-timeout-ms", "soon");
    let sentence = hearth.send(request, good.as_bytes()).refusal(400);
    assert!(sentence.contains("whole number from 1"), "{sentence}");
    hearth.stop();
}

#[test]
fn unknown_routes_and_other_methods_are_told_apart() {
    let hearth = Hearth::start(picture_models(), &[]);
    assert_eq!(hearth.get("/run").refusal(404), "Not Found");
    assert_eq!(hearth.get("/").refusal(404), "Not Found");
    let answer = hearth.get("/run/mean");
    assert_eq!(answer.refusal(405), "Method Not Allowed");
    // RFC 9110 § 15.5.6.
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = hearth.post("/v2/health/live", b"");
    answer.refusal(405);
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    hearth.stop();
}

/// Reads an answer's head and body, of a connection that may stay open.
pub(crate) fn read_answer(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = socket.read(&mut buffer).unwrap();
        answer.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&answer);
        // All answers to bad bodies are one JSON object.
        if n == 0 || text.ends_with('}') {
            return text.into_owned();
        }
    }
}

/// Returns the most memory that a process has had, in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = peak
        .unwrap()
        .trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}

#[test]
fn a_body_that_is_announced_too_large_is_refused_before_it_is_read() {
    let hearth = Hearth::start(picture_models(), &[]);
    hearth.post("/run/mean", &png(RED)).ok();
    let before = peak_memory(hearth.pid());
    let mut socket = hearth.connect();
    socket
        .write_all(
            b"POST /run/mean HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2147483648\r\n\r\n",
        )
        .unwrap();
    let answer = read_answer(&mut socket);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.contains("2147483648 bytes or more, expected at most 67108864"),
        "{answer}"
    );
    let grown = peak_memory(hearth.pid()) - before;
    assert!(grown < 16 << 20, "{grown} bytes more than before");
    hearth.post("/run/mean", &png(RED)).ok();
    drop(socket);
    hearth.stop();
}

#[test]
fn who_still_writes_gets_to_read_what_is_wrong_with_the_head() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let infer = "/v2/models/add_one/infer";
    for (path, header, value) in [
        (infer, "x-hearth-class", "urgent"),
        (infer, "inference-header-content-length", "all"),
        ("/v1/models/add_one:predict", "x-request-timeout-ms", "0"),
    ] {
        let request = hearth.request("POST", path).header(header, value);
        let sentence = hearth.send(request, &[b' '; 16 << 20]).refusal(400);
        assert!(sentence.to_lowercase().starts_with(header), "{sentence}");
    }
    hearth.stop();
}

#[test]
fn a_body_without_end_is_refused_at_the_limit() {
    let hearth = Hearth::start(picture_models(), &["--max-body", "1MiB"]);
    hearth.post("/run/mean", &png(RED)).ok();
    let before = peak_memory(hearth.pid());
    let mut socket = hearth.connect();
    let mut writer = socket.try_clone().unwrap();
    let answer = std::thread::scope(|scope| {
        scope.spawn(move || {
            let head =
                "POST /run/mean HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
            let chunk = [&b"10000\r\n"[..], &[0; 0x10000], b"\r\n"].concat();
            // Until the other end of this test closes the connection.
            let mut written = writer.write_all(head.as_bytes());
            while written.is_ok() {
                written = writer.write_all(&chunk);
            }
        });
        let answer = read_answer(&mut socket);
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        answer
    });
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("expected at most 1048576"), "{answer}");
    let grown = peak_memory(hearth.pid()) - before;
    assert!(grown < 16 << 20, "{grown} bytes more than before");
    hearth.post("/run/mean", &png(RED)).ok();
    hearth.stop();
}

#[test]
fn a_body_for_which_there_is_no_room_is_refused_before_it_is_read() {
    let limits = ["--max-body", "1MiB", "--max-bytes-in-flight", "1MiB"];
    let hearth = Hearth::start(picture_models(), &limits);
    let head = b"POST /run/mean HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    let mut first = hearth.connect();
    first.write_all(head).unwrap();
    eventually("the first body has its room", || {
        let metrics = hearth.get("/metrics").text();
        metrics
            .contains("hearth_bytes_in_flight 1000000\n")
            .then_some(())
    });
    let mut second = hearth.connect();
    second.write_all(head).unwrap();
    let answer = read_answer(&mut second);
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");

    drop((first, second));
    eventually("the room is given back", || {
        let metrics = hearth.get("/metrics").text();
        metrics.contains("hearth_bytes_in_flight 0\n").then_some(())
    });
    hearth.post("/run/mean", &png(RED)).ok();
    hearth.stop();
}

#[test]
fn a_path_that_is_no_text_is_refused_in_json() {
    let hearth = Hearth::start(picture_models(), &[]);
    for path in [
        "/run/%ff",
        "/v2/models/%c3%28/infer",
        "/v1/models/%ff:predict",
    ] {
        let answer = hearth.post(path, b"{}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let sentence = answer.refusal(400);
        assert!(sentence.contains("not UTF-8"), "{sentence}");
    }
    hearth.stop();
}
