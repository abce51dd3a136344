//! What a cold start of YOLOX-nano takes: from a request that finds no worker to its answer, with a
//! spare worker and without, beside a bare process that starts, loads ONNX Runtime and the model,
//! and runs it once.
//!
//! `cargo build --release -p gateway-server -p workers-server`, then
//! `cargo bench -p hearth-benches --bench cold_start`. Each round starts each of them once, in turn;
//! compare the medians of one run only. A gateway is new each round, on data that is not, so what it
//! has at its start is what it found in the cache; the first request is the cold one. All use every
//! core. Photos are decoded and read on top of what the bare process does, tensors are not.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hearth_benches::hearth::Site;
use hearth_benches::http::{self, Connection};
use workers_engine::Engine as _;
use workers_ort::{LoadOptions, OrtEngine, Runtime};
use workers_protocol::Tensor;

const N_ROUNDS: usize = 21;
/// Nothing says when a spare worker is as ready as it gets; this is ten times what it takes.
const SETTLING_TIME: Duration = Duration::from_millis(500);

const MODEL: &str = "yolox-nano";
const INPUT: [i64; 4] = [1, 3, 416, 416];
/// As which the benchmark starts itself again.
const BARE: &str = "--bare";

fn main() -> anyhow::Result<()> {
    if std::env::args().any(|argument| argument == BARE) {
        bare()
    } else {
        measure()
    }
}

/// A request to a model that has no worker.
struct Case {
    name: &'static str,
    site: Arc<Site>,
    options: [&'static str; 2],
    request: Vec<u8>,
    /// From the first byte of the request to the last of the answer.
    times: Vec<Duration>,
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn measure() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let graph = graph()?;
    let labels = root.join("examples/models").join(MODEL).join("coco.names");
    let manifest = std::fs::read_to_string(labels.with_file_name("model.yaml"))?;
    let photo = std::fs::read(root.join("../shared/media/bus.jpg"))?;
    let photos = Site::new(MODEL, &manifest, &[graph.clone(), labels])?;
    let tensors = Site::new(MODEL, "engine: onnx\n", std::slice::from_ref(&graph))?;
    let photo = http::post(&format!("/run/{MODEL}"), "", &photo);
    let tensor = infer_request()?;
    let case = |name, site: &Arc<Site>, spares, request: &Vec<u8>| Case {
        name,
        site: Arc::clone(site),
        options: ["--spare-workers", spares],
        request: request.clone(),
        times: Vec::new(),
    };
    let mut cases = [
        case("tensors, with a spare worker", &tensors, "1", &tensor),
        case("tensors, without", &tensors, "0", &tensor),
        case("a photo, with a spare worker", &photos, "1", &photo),
        case("a photo, without", &photos, "0", &photo),
    ];

    let mut bare_times = Vec::new();
    for round in 0..=N_ROUNDS {
        let bare = time(start_bare)?;
        // In the first round files are read from the disk, and models taken in.
        if round > 0 {
            bare_times.push(bare);
        }
        for case in &mut cases {
            let time = case.run()?;
            if round > 0 {
                case.times.push(time);
            }
        }
    }

    println!("{}, {N_ROUNDS} cold starts of each", graph.display());
    println!(
        "{:<32} {:>9} {:>9} {:>9}",
        "", "median ms", "fastest", "÷ bare"
    );
    let bare = row("a bare process", bare_times, None);
    for case in cases {
        row(case.name, case.times, Some(bare));
    }
    println!("limits of the tensors' ratios: 1.0 with a spare worker, 1.3 without");
    Ok(())
}

impl Case {
    fn run(&self) -> anyhow::Result<Duration> {
        let hearth = self.site.serve(&self.options)?;
        settle();
        let mut connection = Connection::open(hearth.address())?;
        time(|| {
            let reply = connection.call(&self.request)?;
            let text = String::from_utf8_lossy(reply.body);
            anyhow::ensure!(reply.status == 200, "answered {}: {text}", reply.status);
            Ok(())
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a spare worker does not say when it is ready"
)]
fn settle() {
    std::thread::sleep(SETTLING_TIME);
}

/// Prints a line of the table and returns the median.
#[expect(clippy::print_stdout, reason = "the table is the result")]
fn row(name: &str, mut times: Vec<Duration>, bare: Option<Duration>) -> Duration {
    times.sort_unstable();
    let [fastest, median] = [0, times.len() / 2].map(|rank| times[rank]);
    let ratio = bare.map_or(1.0, |bare| median.as_secs_f64() / bare.as_secs_f64());
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{name:<32} {:>9.1} {:>9.1} {ratio:>9.2}",
        ms(median),
        ms(fastest)
    );
    median
}

fn time(call: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let began = Instant::now();
    call()?;
    Ok(began.elapsed())
}

fn graph() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let graph = root.join("../shared/models/yolox_nano_416_dyn.onnx");
    graph
        .canonicalize()
        .with_context(|| format!("{} is not there", graph.display()))
}

/// Returns a request of zeros with OIP's binary extension, there and back.
fn infer_request() -> anyhow::Result<Vec<u8>> {
    let zeros = zeros().data;
    let json = serde_json::to_vec(&serde_json::json!({
        "inputs": [{
            "name": "images",
            "datatype": "FP32",
            "shape": INPUT,
            "parameters": { "binary_data_size": zeros.len() },
        }],
        "parameters": { "binary_data_output": true },
    }))?;
    let json_length = format!("inference-header-content-length: {}\r\n", json.len());
    let path = format!("/v2/models/{MODEL}/infer");
    Ok(http::post(
        &path,
        &json_length,
        &[&json[..], &zeros].concat(),
    ))
}

fn zeros() -> Tensor {
    let n_elements: i64 = INPUT.iter().product();
    Tensor {
        name: "images".to_owned(),
        datatype: model_store::DataType::Fp32,
        shape: INPUT.to_vec(),
        data: vec![0; 4 * n_elements.unsigned_abs() as usize].into(),
    }
}

// === a bare process ===

/// Starts this benchmark again, as little as can run the model once, and waits for its answer.
fn start_bare() -> anyhow::Result<()> {
    let output = Command::new(std::env::current_exe()?)
        .arg(BARE)
        .stderr(Stdio::inherit())
        .output()?;
    anyhow::ensure!(output.stdout == b"3549\n", "the bare process failed");
    Ok(())
}

/// Prints how many boxes the model looks at, which it says after it has run.
fn bare() -> anyhow::Result<()> {
    // Where `make runtime` puts it, in cargo's target folder, or where it is looked for always.
    let benchmark = std::env::current_exe()?;
    let library = benchmark
        .ancestors()
        .nth(3)
        .map(|target| target.join("lib/libonnxruntime.so"))
        .filter(|library| library.is_file());
    let runtime = Runtime::load(library.as_deref())?;
    let options = LoadOptions {
        device: model_store::Device::Cpu,
        threads: std::thread::available_parallelism()?.get(),
        inputs: &[],
        outputs: &[],
    };
    let mut engine = OrtEngine::load(&runtime, &graph()?, &options)?;
    let outputs = engine.run(&[zeros()])?;
    let n_boxes = outputs.first().and_then(|output| output.shape.get(1));
    writeln!(std::io::stdout(), "{}", n_boxes.context("no output")?)?;
    Ok(())
}
