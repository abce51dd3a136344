//! A running `hearth serve` on a store of its own, and what a test does with it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How long a test waits for something that is to happen. Far above what it takes on two cores that
/// other tests use too: who waits this long has found a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A manifest that says only what is required.
pub(crate) const PLAIN: &str = "engine: onnx\n";

/// The files of `examples/models` in the folder of shared models; those without need none.
pub(crate) const SHARED_FILES: [(&str, &str); 9] = [
    ("yolox-nano", "yolox_nano_416_dyn.onnx"),
    ("fastestdet", "fastestdet_352_dyn.onnx"),
    ("centerface", "centerface_dyn.onnx"),
    ("rfb640-mask", "rfb640_masked_face_dyn.onnx"),
    ("mask-classifier", "mask_cls_mobilenetv2_224_nhwc.onnx"),
    ("efficientnet-lite0", "efficientnet_lite0.onnx"),
    ("ppocr-cls", "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    ("mnist", "mnist_cntk_dyn.onnx"),
    ("silero-vad", "silero_vad.onnx"),
];

// === what a test needs around it ===

/// Returns the root of the sources.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the path of one of the tiny graphs of `workers/ort/tests/models`.
pub(crate) fn tiny(name: &str) -> PathBuf {
    sources().join(format!("workers/ort/tests/models/{name}.onnx"))
}

/// Returns the folder of real models and pictures beside the sources, or says that the test is
/// skipped.
pub(crate) fn shared() -> Option<PathBuf> {
    let folder = sources().join("../shared");
    if folder.join("models").is_dir() && folder.join("media").is_dir() {
        return Some(folder);
    }
    skip("there is no ../shared with models and pictures beside the sources");
    None
}

/// Says why a test can't run here; with `CI=true` that fails it.
pub(crate) fn skip(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "skipped, which must not be with CI=true: {reason}"
    );
    mention(reason);
}

/// Says why a test can't run here, where it can't be helped.
pub(crate) fn mention(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not by `eprintln`, which the test harness captures and drops when a test passes.
    let _ = writeln!(std::io::stderr(), "{test} is skipped: {reason}");
}

/// Polls until there is something, and returns it; fails when it takes too long.
pub(crate) fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at another process, which sends no events"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Whether a process is there; one that ended and was not waited for yet is not.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Returns the command `hearth`, its environment without what would change what it does.
pub(crate) fn command() -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_hearth"));
    let worker = program.with_file_name("hearth-worker");
    assert!(
        worker.is_file(),
        "{} is not there; build it: cargo build -p workers-server",
        worker.display()
    );
    let mut command = Command::new(program);
    command.env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        let is_read = |prefix| name.to_string_lossy().starts_with(prefix);
        if ["HEARTH_", "MINIO_", "OSCAR_", "OTEL_"]
            .into_iter()
            .any(is_read)
        {
            command.env_remove(name);
        }
    }
    // Tests run beside each other.
    command.env("HEARTH_S3_LISTEN", "127.0.0.1:0");
    command
}

/// Returns the command `hearth serve` on this store and this data folder.
pub(crate) fn serving(store: &Store, data: &Path, args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = command();
    command
        .args(["serve", "--store"])
        .arg(store.path())
        .arg("--data")
        .arg(data)
        // Not by flag, which may be given once.
        .env("HEARTH_LISTEN", "127.0.0.1:0")
        // Tests run beside each other, and count workers.
        .env("HEARTH_WORKER_THREADS", "1")
        .env("HEARTH_GRPC_LISTEN", "127.0.0.1:0")
        .env("HEARTH_SPARE_WORKERS", "0")
        .env("HEARTH_MEASURE_MODELS", "false")
        // Tests halt workers.
        .env("HEARTH_RUN_LIMIT_S", "600")
        .args(args)
        .envs(env.iter().copied());
    command
}

/// Runs a command to its end, which has to come, and returns what it said.
pub(crate) fn finish(command: &mut Command) -> Output {
    finish_reading(Stdio::null(), PATIENCE, command)
}

/// Runs a command that may take so long to its end, and returns what it said.
pub(crate) fn finish_within(patience: Duration, command: &mut Command) -> Output {
    finish_reading(Stdio::null(), patience, command)
}

/// The same, of a command that reads.
pub(crate) fn finish_reading(
    input: impl Into<Stdio>,
    patience: Duration,
    command: &mut Command,
) -> Output {
    let process = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = process.id();
    let (ended, overdue) = mpsc::channel();
    // Its pipes have to be read while it runs, so somebody else watches the clock.
    let watch = std::thread::spawn(move || {
        if let Err(mpsc::RecvTimeoutError::Timeout) = overdue.recv_timeout(patience) {
            kill(pid, Signal::KILL);
        }
    });
    let output = process.wait_with_output().unwrap();
    drop::<mpsc::Sender<()>>(ended);
    watch.join().unwrap();
    output
}

// === stores ===

/// A folder of models, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Store {
    folder: TempDir,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns where a version has its files.
    pub(crate) fn version(&self, name: &str, version: u32) -> PathBuf {
        self.path().join(name).join(version.to_string())
    }

    /// Puts a version into the store, whole at once.
    pub(crate) fn put(&self, name: &str, version: u32, manifest: &str, files: &[PathBuf]) {
        // A hidden folder is no model: it is seen when it has its name.
        let incoming = self.path().join(format!(".{name}-{version}"));
        fs::create_dir(&incoming).unwrap();
        for file in files {
            copy(file, &incoming.join(file.file_name().unwrap()));
        }
        fs::write(incoming.join("model.yaml"), manifest).unwrap();
        fs::create_dir_all(self.path().join(name)).unwrap();
        fs::rename(incoming, self.version(name, version)).unwrap();
    }

    /// Adds version 1 of a model: a manifest, and one of the tiny graphs.
    pub(crate) fn with(self, name: &str, manifest: &str, graph: &str) -> Self {
        self.put(name, 1, manifest, &[tiny(graph)]);
        self
    }

    /// Adds one of the tiny graphs under its own name, as a model of tensors.
    pub(crate) fn with_tiny(self, graph: &str) -> Self {
        self.with(graph, PLAIN, graph)
    }

    /// Adds a model of `examples/models`, whose file lies in this folder.
    pub(crate) fn with_example(self, name: &str, shared: &Path) -> Self {
        let example = sources().join("examples/models").join(name);
        let mut files: Vec<PathBuf> = fs::read_dir(&example)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("model.yaml"))
            .collect();
        let file = SHARED_FILES.iter().find(|(model, _)| *model == name);
        files.extend(file.map(|(_, file)| shared.join("models").join(file)));
        let manifest = fs::read_to_string(example.join("model.yaml")).unwrap();
        self.put(name, 1, &manifest, &files);
        self
    }
}

/// Copies what is in a file and not its mode: a file to copy may be read-only.
fn copy(from: &Path, to: &Path) {
    let mut from = fs::File::open(from).unwrap_or_else(|error| panic!("{from:?}: {error}"));
    std::io::copy(&mut from, &mut fs::File::create(to).unwrap()).unwrap();
}

// === the running gateway ===

/// A running `hearth serve`. Stopped when it is dropped, and its log shown if the test failed.
#[derive(Debug)]
pub(crate) struct Hearth {
    process: Child,
    scheme: &'static str,
    address: SocketAddr,
    agent: ureq::Agent,
    /// Who calls it, where that is not said with the request.
    authorization: Option<String>,
    store: Store,
    data: Arc<TempDir>,
    log: Log,
}

/// What the gateway and its workers say.
#[derive(Debug)]
struct Log {
    text: Arc<Mutex<String>>,
    /// Ends when the last process that may write to it has ended.
    reader: JoinHandle<()>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Hearth {
    /// Starts it on this store, and waits until all that is in it has been looked at.
    pub(crate) fn start(store: Store, args: &[&str]) -> Self {
        Self::start_on(store, Arc::new(TempDir::new().unwrap()), args, &[])
    }

    /// Starts it with a data folder that outlives it and these variables in its environment.
    pub(crate) fn start_on(
        store: Store,
        data: Arc<TempDir>,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        Self::start_trusted(store, data, args, env, None)
    }

    /// Starts it to be called over TLS, with certificates of this root.
    pub(crate) fn start_trusted(
        store: Store,
        data: Arc<TempDir>,
        args: &[&str],
        env: &[(&str, &str)],
        root: Option<&str>,
    ) -> Self {
        let command = serving(&store, data.path(), args, env);
        Self::start_command(command, store, data, root)
    }

    /// Starts it by a command that [`serving`] has made, or one that becomes that.
    pub(crate) fn start_command(
        mut command: Command,
        store: Store,
        data: Arc<TempDir>,
        root: Option<&str>,
    ) -> Self {
        let mut process = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (log, address) = Log::read(process.stderr.take().unwrap());
        let Ok(address) = address.recv_timeout(PATIENCE) else {
            let _ = process.kill();
            panic!("hearth does not listen; it says:\n{}", log.text());
        };
        let hearth = Self {
            process,
            scheme: if root.is_some() { "https" } else { "http" },
            address,
            agent: agent(root),
            authorization: None,
            store,
            data,
            log,
        };
        eventually("hearth is ready", || {
            let ready = hearth.get("/v2/health/ready").status;
            (ready == StatusCode::OK).then_some(())
        });
        hearth
    }

    /// Says who calls it from now on.
    pub(crate) fn authorized(mut self, authorization: String) -> Self {
        self.authorization = Some(authorization);
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Returns where gRPC is spoken: the log says it before it says where HTTP is.
    pub(crate) fn grpc_address(&self) -> SocketAddr {
        let log = self.log();
        let (_, rest) = log.split_once("gRPC on ").unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Returns where S3 is spoken, as a URL: the log says it before it says where HTTP is.
    pub(crate) fn s3_url(&self) -> String {
        let log = self.log();
        let (_, rest) = log.split_once("S3 on ").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// Returns the data folder, to look into or to start on again.
    pub(crate) fn data(&self) -> Arc<TempDir> {
        Arc::clone(&self.data)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns all that the gateway and its workers have logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Returns the processes of its workers, also of those that check a version.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks
            // A thread may end while the list is read.
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
            .flat_map(|children| {
                let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
                pids.collect::<Vec<u32>>()
            })
            .filter(|&pid| is_alive(pid))
            .collect()
    }

    /// Returns a metric of version 1 of a model; 0 where it was never counted.
    pub(crate) fn metric(&self, name: &str, model: &str) -> f64 {
        let key = format!("hearth_{name}{{model=\"{model}\",version=\"1\"}} ");
        let metrics = self.get("/metrics").text();
        let value = metrics.lines().find_map(|line| line.strip_prefix(&key));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Asks it to stop, and checks that it does, cleanly and with all its workers.
    pub(crate) fn stop(mut self) {
        kill(self.pid(), Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}");
    }

    /// Waits until it has ended and no worker is left.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = eventually("hearth ends", || self.process.try_wait().unwrap());
        eventually("the workers end", || {
            self.log.reader.is_finished().then_some(())
        });
        status
    }

    // === calling it ===

    /// Begins a request, for [`Hearth::send`].
    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let uri = format!("{}://{}{path}", self.scheme, self.address);
        let request = Request::builder().method(method).uri(uri);
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    pub(crate) fn send(
        &self,
        request: http::request::Builder,
        body: impl ureq::AsSendBody,
    ) -> Answer {
        let response = self.agent.run(request.body(body).unwrap()).unwrap();
        let (head, body) = response.into_parts();
        let mut bytes = Vec::new();
        body.into_reader().read_to_end(&mut bytes).unwrap();
        Answer {
            status: head.status,
            headers: head.headers,
            body: bytes,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path), ())
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.send(self.request("POST", path), body)
    }

    /// Opens a connection for bytes that no HTTP client would send.
    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

impl Drop for Hearth {
    #[expect(clippy::print_stderr, reason = "shown where a test fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.process.kill();
            let _ = self.process.wait();
            eprintln!("=== the log of hearth ===\n{}", self.log());
        } else if let Ok(None) = self.process.try_wait() {
            kill(self.pid(), Signal::TERM);
            self.wait();
        }
    }
}

impl Log {
    /// Reads the log to its end, beside; the address that it names comes out of the channel.
    fn read(log: impl std::io::Read + Send + 'static) -> (Self, mpsc::Receiver<SocketAddr>) {
        let (sender, address) = mpsc::sync_channel(1);
        let text = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut sender = Some(sender);
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if let Some(address) = listening(&line)
                    && let Some(sender) = sender.take()
                {
                    let _ = sender.send(address);
                }
                let mut text = written.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        (Self { text, reader }, address)
    }

    fn text(&self) -> String {
        let text = self.text.lock();
        text.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns an HTTP client; one that trusts this root, if there is one.
pub(crate) fn agent(root: Option<&str>) -> ureq::Agent {
    let roots = root.map(|pem| Certificate::from_pem(pem.as_bytes()).unwrap());
    let roots: Vec<_> = roots.into_iter().collect();
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots));
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .proxy(None)
        .tls_config(tls.build())
        .build()
        .into()
}

/// Reads the address from the line `listening on http://ADDRESS …`, or with `https`.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on http")?;
    let (_, rest) = rest.split_once("://")?;
    rest.split_whitespace().next()?.parse().ok()
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// Returns the JSON of an answer that has to be a success.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Returns the sentence of an answer that has to have this status.
    #[track_caller]
    pub(crate) fn refusal(&self, status: u16) -> String {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        self.json()["error"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}
