//! What a service costs: to create, to delete, and to call, beside calling its model.
//!
//! `cargo build --release -p gateway-server -p workers-server`, then
//! `cargo bench -p hearth-benches --bench services`. Calls of the model and of the service take turns,
//! so that what else the machine does hurts both alike; README.md says what each line means.

use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hearth_benches::hearth::Hearth;
use hearth_benches::http::{self, Connection};
use image::{ImageFormat, RgbImage};

const N_SERVICES: usize = 200;
const N_CALLS: usize = 4000;
const CALLS_TO_WARM_UP: usize = 200;

/// Scores a picture by the means of its channels.
const MANIFEST: &str = "engine: onnx\ntask: image-classification\ninput: { resize: stretch, std: 255 }\n\
                        output: { labels: [red, green, blue], activation: none }\n";

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn main() -> anyhow::Result<()> {
    let graph =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../workers/ort/tests/models/picture_mean.onnx");
    let hearth = Hearth::start("mean", MANIFEST, &[graph])?;
    let mut connection = Connection::open(hearth.address())?;

    let [mut creating, mut deleting] = [(); 2].map(|()| Vec::new());
    for number in 0..N_SERVICES {
        let body = format!(r#"{{"name":"s{number}","image":"model:mean"}}"#);
        let create = http::post("/system/services", "", body.as_bytes());
        creating.push(call(&mut connection, &create, 201)?);
        let delete = http::delete(&format!("/system/services/s{number}"));
        deleting.push(call(&mut connection, &delete, 204)?);
    }
    println!("create {}", Times::of(creating));
    println!("delete {}", Times::of(deleting));

    let body = br#"{"name":"service","image":"model:mean"}"#;
    call(
        &mut connection,
        &http::post("/system/services", "", body),
        201,
    )?;
    let picture = picture()?;
    let text = BASE64_STANDARD.encode(&picture);
    for (what, body) in [("raw", picture), ("base64", text.into_bytes())] {
        let requests =
            ["mean", "service"].map(|name| http::post(&format!("/run/{name}"), "", &body));
        let mut times = [(); 2].map(|()| Vec::new());
        for number in 0..CALLS_TO_WARM_UP + N_CALLS {
            for (request, times) in requests.iter().zip(&mut times) {
                let took = call(&mut connection, request, 200)?;
                if number >= CALLS_TO_WARM_UP {
                    times.push(took);
                }
            }
        }
        let [model, service] = times.map(Times::of);
        println!("{what:6} model   {model}");
        println!(
            "{what:6} service {service}, {:+.1} % at the median",
            (service.median.as_secs_f64() / model.median.as_secs_f64() - 1.0) * 100.0
        );
    }
    Ok(())
}

fn call(connection: &mut Connection, request: &[u8], expected: u16) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let status = connection.call(request)?.status;
    let took = began.elapsed();
    anyhow::ensure!(status == expected, "expected {expected}, got {status}");
    Ok(took)
}

fn picture() -> anyhow::Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(64, 64, image::Rgb([255, 0, 0])).write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// The middle and the slow end of some times.
struct Times {
    median: Duration,
    p99: Duration,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| {
            times
                .get(times.len() * part / 100)
                .copied()
                .unwrap_or_default()
        };
        Self {
            median: at(50),
            p99: at(99),
        }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "median {:.3} ms, p99 {:.3} ms",
            ms(self.median),
            ms(self.p99)
        )
    }
}
