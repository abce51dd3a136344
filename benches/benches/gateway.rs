//! What the gateway and the wire add to a small model, at one request at a time: the engine called
//! in process, the same through `hearth` and its worker, and a bare HTTP echo of the same sizes.
//!
//! `cargo build --release -p gateway-server -p workers-server`, then
//! `cargo bench -p hearth-benches --bench gateway`. The three take turns, so that what else the
//! machine does hurts all alike; compare ratios within one run only. README.md says what each line
//! means.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use hearth_benches::hearth::{Hearth, Usage};
use hearth_benches::http::{self, Connection};
use workers_engine::Engine;
use workers_ort::{LoadOptions, OrtEngine, Runtime};
use workers_protocol::Tensor;

const N_CALLS: usize = 10_000;
/// Not counted: connections, allocators and branch predictors settle.
const CALLS_TO_WARM_UP: usize = 500;
const N_CONNECTIONS: usize = 32;
const THROUGHPUT_TIME: Duration = Duration::from_secs(3);

const MODEL: &str = "mnist";
/// The bare echo's answer is as long as mnist's ten numbers.
const ECHO_BYTES: usize = 40;
/// As which the benchmark starts itself again.
const ECHO: &str = "--echo";

fn main() -> anyhow::Result<()> {
    if std::env::args().any(|argument| argument == ECHO) {
        echo()
    } else {
        measure()
    }
}

fn measure() -> anyhow::Result<()> {
    let graph = graph()?;
    let runtime = runtime()?;
    let echo = Echo::start()?;
    let n_cores = std::thread::available_parallelism()?.get();
    compare(&runtime, &graph, 1, &echo)?;
    if n_cores > 1 {
        compare(&runtime, &graph, n_cores, &echo)?;
    }
    Ok(())
}

/// Compares the three, with so many threads of the engine.
#[expect(clippy::print_stdout, reason = "the table is the result")]
fn compare(runtime: &Runtime, graph: &Path, n_threads: usize, echo: &Echo) -> anyhow::Result<()> {
    let mut engine = InProcess::load(runtime, graph, n_threads)?;
    let manifest = format!("engine: onnx\ninstances: {{ threads: {n_threads} }}\n");
    let hearth = Hearth::start(MODEL, &manifest, &[graph.to_owned()])?;

    let infer = infer_request(&engine.inputs)?;
    let same_size = http::post("/", "", &vec![0; infer.body_bytes]);
    let mut to_hearth = Connection::open(hearth.address())?;
    let mut to_echo = Connection::open(echo.address)?;

    let expected = engine.call()?;
    let reply = to_hearth.call(&infer.bytes)?;
    anyhow::ensure!(
        reply.status == 200 && reply.body.ends_with(&expected),
        "the gateway answers {}, and not what the engine says: {}",
        reply.status,
        String::from_utf8_lossy(reply.body)
    );

    let [mut in_process, mut through_hearth, mut bare] = [(); 3].map(|()| Vec::new());
    let mut usage = [
        hearth.gateway_usage()?,
        hearth.workers_usage()?,
        echo.usage()?,
    ];
    for call in 0..CALLS_TO_WARM_UP + N_CALLS {
        if call == CALLS_TO_WARM_UP {
            for calls in [&mut in_process, &mut through_hearth, &mut bare] {
                calls.clear();
            }
            usage = [
                hearth.gateway_usage()?,
                hearth.workers_usage()?,
                echo.usage()?,
            ];
        }
        in_process.push(time(|| engine.call().map(drop))?);
        through_hearth.push(time(|| to_hearth.call(&infer.bytes).map(drop))?);
        bare.push(time(|| to_echo.call(&same_size).map(drop))?);
    }
    let [gateway, workers, echoing] = usage;
    let gateway = hearth.gateway_usage()?.since(gateway);
    let workers = hearth.workers_usage()?.since(workers);
    let echoing = echo.usage()?.since(echoing);

    println!(
        "{}, threads of the engine: {n_threads}; one request at a time, {N_CALLS} of each",
        graph.display()
    );
    println!("{:<18} {:>9} {:>9}", "", "median ms", "p99 ms");
    let in_process = median("engine in process", in_process);
    let through_hearth = median("through hearth", through_hearth);
    let bare = median("bare HTTP echo", bare);
    println!(
        "gateway and wire add {:.3} ms to the median (limit: 0.2 ms or 3 × echo = {:.3} ms, whichever is larger)",
        ms(through_hearth.saturating_sub(in_process)),
        ms(3 * bare)
    );
    println!("{:<18} {:>9} {:>9}", "", "CPU µs", "sleeps");
    for (name, usage) in [("gateway", gateway), ("worker", workers), ("echo", echoing)] {
        let (cpu, sleeps) = (usage.cpu.as_secs_f64() * 1e6, usage.sleeps as f64);
        let per_call = N_CALLS as f64;
        println!(
            "{name:<18} {:>9.1} {:>9.2}",
            cpu / per_call,
            sleeps / per_call
        );
    }
    let per_second = throughput(hearth.address(), &infer.bytes)?;
    let bare_per_second = throughput(echo.address, &same_size)?;
    println!(
        "{N_CONNECTIONS} connections: {per_second:.0} requests/s through hearth, {bare_per_second:.0} requests/s of bare echo\n"
    );
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Returns the graph named on the command line, else mnist where there are models to test with, else
/// the smallest graph of the engine's tests.
fn graph() -> anyhow::Result<PathBuf> {
    let asked_for = std::env::args().map(PathBuf::from).find(|path| {
        path.extension()
            .is_some_and(|extension| extension == "onnx")
    });
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let known = [
        "../shared/models/mnist_cntk_dyn.onnx",
        "workers/ort/tests/models/add_one.onnx",
    ];
    asked_for
        .into_iter()
        .chain(known.map(|path| root.join(path)))
        .find_map(|path| path.canonicalize().ok())
        .context("neither mnist nor add_one.onnx is there")
}

// === in process ===

/// Loads ONNX Runtime from where `make runtime` puts it, in cargo's target folder, or from where it
/// is looked for always.
fn runtime() -> anyhow::Result<Runtime> {
    let benchmark = std::env::current_exe()?;
    let library = benchmark
        .ancestors()
        .nth(3)
        .map(|target| target.join("lib/libonnxruntime.so"))
        .filter(|library| library.is_file());
    Ok(Runtime::load(library.as_deref())?)
}

/// The model as the worker would load it, and one request.
struct InProcess {
    engine: OrtEngine,
    inputs: Vec<Tensor>,
}

impl InProcess {
    fn load(runtime: &Runtime, graph: &Path, threads: usize) -> anyhow::Result<Self> {
        let options = LoadOptions {
            device: model_store::Device::Cpu,
            threads,
            inputs: &[],
            outputs: &[],
        };
        let engine = OrtEngine::load(runtime, graph, &options)?;
        let inputs = engine
            .inputs()
            .iter()
            .map(ones)
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { engine, inputs })
    }

    /// Returns the first output's bytes.
    fn call(&mut self) -> anyhow::Result<bytes::Bytes> {
        let outputs = self.engine.run(&self.inputs)?;
        Ok(outputs.into_iter().next().context("no output")?.data)
    }
}

/// Returns a tensor of ones, free dimensions being 1.
fn ones(spec: &model_store::TensorSpec) -> anyhow::Result<Tensor> {
    anyhow::ensure!(
        spec.datatype == model_store::DataType::Fp32,
        "input `{}`: expected FP32, got {}",
        spec.name,
        spec.datatype
    );
    let shape: Vec<i64> = spec.shape.iter().map(|&side| side.max(1)).collect();
    let n_elements = usize::try_from(shape.iter().product::<i64>())?;
    Ok(Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data: 1_f32.to_le_bytes().repeat(n_elements).into(),
    })
}

// === through hearth ===

struct InferCall {
    bytes: Vec<u8>,
    body_bytes: usize,
}

/// Returns the request of OIP's binary extension: JSON, then the tensors as they are.
fn infer_request(inputs: &[Tensor]) -> anyhow::Result<InferCall> {
    let headers: Vec<_> = inputs
        .iter()
        .map(|input| {
            serde_json::json!({
                "name": input.name,
                "datatype": input.datatype.as_str(),
                "shape": input.shape,
                "parameters": { "binary_data_size": input.data.len() },
            })
        })
        .collect();
    let json = serde_json::to_vec(&serde_json::json!({
        "inputs": headers,
        "parameters": { "binary_data_output": true },
    }))?;
    let json_length = format!("inference-header-content-length: {}\r\n", json.len());
    let mut body = json;
    for input in inputs {
        body.extend_from_slice(&input.data);
    }
    Ok(InferCall {
        bytes: http::post(&format!("/v2/models/{MODEL}/infer"), &json_length, &body),
        body_bytes: body.len(),
    })
}

// === a bare HTTP echo ===

/// This benchmark, started again as the least that an HTTP server can do.
struct Echo {
    process: Child,
    address: SocketAddr,
}

impl Echo {
    fn start() -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(ECHO)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = process.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        Ok(Self {
            process,
            address: line.trim().parse()?,
        })
    }
}

impl Echo {
    fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.process.id())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads bodies and answers 40 bytes, until standard input ends.
#[expect(clippy::print_stdout, reason = "how its parent learns the address")]
fn echo() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.spawn(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let listener = listener.tap_io(|socket| {
            // As the gateway does.
            let _ = socket.set_nodelay(true);
        });
        let answer = |_: bytes::Bytes| async { [0_u8; ECHO_BYTES] };
        axum::serve(listener, Router::new().route("/", post(answer))).await?;
        anyhow::Ok(())
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

// === measuring ===

fn time(call: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let began = Instant::now();
    call()?;
    Ok(began.elapsed())
}

/// Prints the median and the 99th percentile, and returns the median.
#[expect(clippy::print_stdout, reason = "the table is the result")]
fn median(name: &str, mut calls: Vec<Duration>) -> Duration {
    calls.sort_unstable();
    let [median, p99] = [50, 99].map(|percent| calls[calls.len() * percent / 100]);
    println!("{name:<18} {:>9.3} {:>9.3}", ms(median), ms(p99));
    median
}

/// Returns how many requests a second are answered when so many clients each send the next at once.
fn throughput(address: SocketAddr, request: &[u8]) -> anyhow::Result<f64> {
    let (n_answers, is_over, start) = (
        AtomicUsize::new(0),
        AtomicBool::new(false),
        Barrier::new(N_CONNECTIONS + 1),
    );
    #[expect(
        clippy::disallowed_methods,
        reason = "the time in which answers are counted"
    )]
    let pass = || std::thread::sleep(THROUGHPUT_TIME);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..N_CONNECTIONS)
            .map(|_| {
                scope.spawn(|| {
                    let connection = Connection::open(address);
                    start.wait();
                    let mut connection = connection?;
                    while !is_over.load(Ordering::Relaxed) {
                        let status = connection.call(request)?.status;
                        anyhow::ensure!(status == 200, "answered {status}");
                        n_answers.fetch_add(1, Ordering::Relaxed);
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        pass();
        let per_second = n_answers.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(per_second)
    })
}
