//! A running `hearth-worker`, and what a test sends it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tonic::Streaming;
use workers_protocol::Assignment;
use workers_protocol::oip::grpc_inference_service_client::GrpcInferenceServiceClient;
use workers_protocol::oip::model_infer_request::InferInputTensor;
use workers_protocol::oip::{ModelInferRequest, ModelStreamInferResponse};
use workers_protocol::transport::{self, Connection};

/// How long a test waits for something that is to happen; far above what it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a worker says, in the folder of its version.
const LOG: &str = "worker.log";
/// Its debug socket, there too.
const SOCKET: &str = "sockets/worker.sock";

pub(crate) type Client = GrpcInferenceServiceClient<Connection>;

/// Returns the path of one of the tiny graphs of `workers/ort/tests/models`.
pub(crate) fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../ort/tests/models/{name}.onnx"))
}

/// Returns a version's folder with this manifest and one of the tiny graphs.
pub(crate) fn version(manifest: &str, graph: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.yaml"), manifest).unwrap();
    fs::copy(tiny(graph), folder.path().join("model.onnx")).unwrap();
    folder
}

/// Returns a command on a version, with this many cores, whether or not there are so many.
pub(crate) fn command(verb: &str, version: &Path, threads: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-worker"));
    command
        .arg(verb)
        .arg("--model")
        .arg(version)
        .arg("--threads")
        .arg(threads.to_string())
        .env_remove("RUST_LOG");
    command
}

/// Polls until there is something, and returns it; fails when it takes too long.
pub(crate) async fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A running worker. Killed when it is dropped, and its log shown if the test failed.
#[derive(Debug)]
pub(crate) struct Worker {
    process: Child,
    folder: TempDir,
    /// Our end of its wire.
    pub(crate) wire: UnixStream,
}

impl Worker {
    pub(crate) fn start(folder: TempDir) -> Self {
        Self::start_with(folder, &[])
    }

    pub(crate) fn start_with(folder: TempDir, args: &[&OsStr]) -> Self {
        let mut command = command("serve", folder.path(), 1);
        command
            .arg("--debug-socket")
            .arg(folder.path().join(SOCKET))
            .args(args);
        Self::spawn(folder, &mut command)
    }

    /// Starts one that waits for its assignment.
    pub(crate) fn spare(folder: TempDir, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-worker"));
        command.arg("spare").args(args).env_remove("RUST_LOG");
        Self::spawn(folder, &mut command)
    }

    fn spawn(folder: TempDir, command: &mut Command) -> Self {
        let (wire, theirs) = UnixStream::pair().unwrap();
        let process = command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(File::create(folder.path().join(LOG)).unwrap())
            .spawn()
            .unwrap();
        Self {
            process,
            folder,
            wire,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns what it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(LOG)).unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    /// Returns what it is to serve: the version in its folder, on one core.
    pub(crate) fn assignment(&self) -> Assignment {
        Assignment {
            model: self.folder.path().to_owned(),
            stages: Vec::new(),
            threads: Some(1),
            instances: None,
            max_pixels: 1_000_000,
            debug_socket: Some(self.socket()),
        }
    }

    /// Connects to its debug socket, once that is there.
    pub(crate) async fn connect(&self) -> Client {
        let path = self.socket();
        let socket = eventually("the debug socket", || UnixStream::connect(&path).ok()).await;
        client(socket).await
    }

    /// Returns a client on its wire.
    pub(crate) async fn client(&self) -> Client {
        client(self.wire.try_clone().unwrap()).await
    }

    /// Closes its wire, as a gateway that ends does, and waits for its end.
    pub(crate) async fn close(&mut self) -> ExitStatus {
        self.wire.shutdown(Shutdown::Both).unwrap();
        self.end().await
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        eventually("the worker ends", || self.process.try_wait().unwrap()).await
    }
}

impl Drop for Worker {
    #[expect(clippy::print_stderr, reason = "shown where a test fails")]
    fn drop(&mut self) {
        // Fails only where it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join(LOG));
            eprintln!("=== the log of the worker ===\n{}", log.unwrap_or_default());
        }
    }
}

async fn client(socket: UnixStream) -> Client {
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UnixStream::from_std(socket).unwrap();
    let (client, driver) = transport::connect(socket).await.unwrap();
    tokio::spawn(driver);
    client
}

/// Returns a plain request of one FP32 input.
pub(crate) fn floats(id: &str, name: &str, shape: &[i64], values: &[f32]) -> ModelInferRequest {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    ModelInferRequest {
        id: id.to_owned(),
        inputs: vec![InferInputTensor {
            name: name.to_owned(),
            datatype: "FP32".to_owned(),
            shape: shape.to_vec(),
            ..Default::default()
        }],
        raw_input_contents: vec![bytes.into()],
        ..Default::default()
    }
}

/// Reads raw contents as FP32.
pub(crate) fn read_floats(bytes: &[u8]) -> Vec<f32> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    assert_eq!(rest, b"");
    chunks
        .iter()
        .map(|&chunk| f32::from_le_bytes(chunk))
        .collect()
}

/// Returns the next message, which has to come.
pub(crate) async fn next(
    events: &mut Streaming<ModelStreamInferResponse>,
) -> ModelStreamInferResponse {
    let message = tokio::time::timeout(PATIENCE, events.message()).await;
    message.unwrap().unwrap().unwrap()
}
