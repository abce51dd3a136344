//! What `hearth serve` was told, checked.

use std::fs::File;
use std::io::Read as _;
use std::net::{AddrParseError, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use gateway_oscar::Minio;
use gateway_scheduler::DeviceLimits;
use workers_protocol::wire::MAX_ENTRY_BYTES;

use crate::auth::{Administrator, Secret};
use crate::memory;
use crate::oscar::events_token;
use crate::rest::AllowedOrigin;
use crate::storage::NamedFolder;
use crate::tls::TlsFiles;

/// More than any password that is taken.
const MAX_PASSWORD_FILE_BYTES: u64 = 64 << 10;

/// What makes this program the supervisor of a script.
pub(crate) const SUPERVISE: &str = "supervise-script";

/// Options of `hearth serve`; each also by its environment variable.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeOptions {
    /// Address to listen on; port 0 picks a free one. Without a password only loopback
    #[arg(
        long,
        env = "HEARTH_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS"
    )]
    pub(crate) listen: SocketAddr,

    /// Address to speak gRPC on; port 0 picks a free one, an empty one (`''`) turns it off
    #[arg(
        long,
        env = "HEARTH_GRPC_LISTEN",
        default_value = "127.0.0.1:8081",
        value_name = "ADDRESS"
    )]
    pub(crate) grpc_listen: GrpcListen,

    #[command(flatten)]
    pub(crate) credentials: CredentialOptions,

    #[command(flatten)]
    pub(crate) tls: TlsOptions,

    /// Origin of pages that may call from a browser, as `https://example.org`; can be given several
    /// times. `*`, for any, needs a password
    #[arg(
        long = "cors-origin",
        env = "HEARTH_CORS_ORIGIN",
        value_delimiter = ',',
        value_name = "ORIGIN"
    )]
    pub(crate) cors_origins: Vec<AllowedOrigin>,

    /// Largest gRPC message, at most 128MiB; beyond it OUT_OF_RANGE
    #[arg(long, env = "HEARTH_GRPC_MAX_MESSAGE", default_value = "64MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub(crate) grpc_max_message: u64,

    /// Folder of models: NAME/VERSION/model.yaml
    #[arg(long, env = "HEARTH_STORE", value_name = "DIR")]
    pub(crate) store: PathBuf,

    /// Folder for what Hearth keeps: the model cache. One process at a time
    #[arg(long, env = "HEARTH_DATA", value_name = "DIR")]
    pub(crate) data: PathBuf,

    #[command(flatten)]
    pub(crate) worker: WorkerOptions,

    #[command(flatten)]
    pub(crate) scripts: ScriptOptions,

    #[command(flatten)]
    pub(crate) videos: VideoOptions,

    #[command(flatten)]
    pub(crate) storage: StorageOptions,

    #[command(flatten)]
    pub(crate) jobs: JobOptions,

    /// Request bodies in memory at a time; beyond it requests get 429
    #[arg(long, env = "HEARTH_MAX_BYTES_IN_FLIGHT", default_value = "256MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub(crate) max_bytes_in_flight: u64,

    /// Largest request body, at most 128MiB; beyond it 413
    #[arg(long, env = "HEARTH_MAX_BODY", default_value = "64MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub(crate) max_body: u64,

    /// Requests waiting per model; beyond it 429
    #[arg(long, env = "HEARTH_MAX_QUEUE", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1_000_000), value_name = "N")]
    pub(crate) max_queue: u64,

    /// Connections at a time; more wait to be accepted
    #[arg(long, env = "HEARTH_MAX_CONNECTIONS", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub(crate) max_connections: u32,

    /// Deadline of a request that brings none, in milliseconds
    #[arg(long, env = "HEARTH_REQUEST_TIMEOUT_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000), value_name = "MS")]
    pub(crate) request_timeout_ms: u64,

    /// How long requests in flight may take to finish after SIGTERM, in seconds
    #[arg(
        long,
        env = "HEARTH_DRAIN_TIMEOUT_S",
        default_value_t = 30,
        value_name = "S"
    )]
    pub(crate) drain_timeout_s: u64,

    /// Workers that are started ahead, to make cold starts short; 0 for none
    #[arg(long, env = "HEARTH_SPARE_WORKERS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=64), value_name = "N")]
    pub(crate) spare_workers: u32,

    /// Measure each model once, while nobody calls: how many instances, how long batches take
    #[arg(long, env = "HEARTH_MEASURE_MODELS", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(crate) measure_models: bool,

    /// Memory that loaded models may take together, as 24GiB. Default: four fifths of what there is
    #[arg(long, env = "HEARTH_MEMORY", value_parser = parse_bytes, value_name = "BYTES")]
    pub(crate) memory: Option<u64>,

    /// How long nobody has to call a model for its worker to end, in seconds
    #[arg(long, env = "HEARTH_IDLE_WINDOW_S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..), value_name = "S")]
    pub(crate) idle_window_s: u64,

    /// How long a run may take at least before its worker counts as hung, in seconds; it may take ten
    /// times what is expected of it
    #[arg(long, env = "HEARTH_RUN_LIMIT_S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..), value_name = "S")]
    pub(crate) run_limit_s: u64,

    /// Let callers register POSIX shared memory and name parts of it in place of tensors. It is opened
    /// with the rights of this process, and only while every address is a loopback one
    #[arg(long, env = "HEARTH_SHARED_MEMORY", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(crate) shared_memory: bool,

    /// Form of the log
    #[arg(long, env = "HEARTH_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// Where to send traces, OTLP over HTTP, as http://localhost:4318; only in builds that have the
    /// feature `otlp`. Read as well: OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
}

/// Where gRPC is spoken, if it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GrpcListen(pub(crate) Option<SocketAddr>);

impl FromStr for GrpcListen {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        let address = (!text.is_empty()).then(|| text.parse());
        address.transpose().map(Self)
    }
}

/// Who may call.
#[derive(Args, Clone, Debug)]
pub(crate) struct CredentialOptions {
    /// Name of the administrator. Default: admin
    #[arg(long, env = "OSCAR_USERNAME", value_name = "NAME")]
    username: Option<String>,

    /// Password of the administrator. Others on this machine see it in the list of processes: better
    /// in the environment, or in a file
    #[arg(
        long,
        env = "OSCAR_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        conflicts_with = "password_file"
    )]
    password: Option<Secret>,

    /// File with the password of the administrator; a line's end at its end is not part of it
    #[arg(long, env = "OSCAR_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What is shown to clients that want TLS, which then is all that is spoken.
#[derive(Args, Clone, Debug)]
pub(crate) struct TlsOptions {
    /// Certificate and those that lead to its root, in PEM: HTTPS, and gRPC over TLS. Read again when
    /// it changes
    #[arg(
        long,
        env = "HEARTH_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM, not encrypted
    #[arg(
        long,
        env = "HEARTH_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
}

/// How workers are started.
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkerOptions {
    /// The worker's program. Default: hearth-worker beside this one
    #[arg(long, env = "HEARTH_WORKER", value_name = "FILE")]
    pub(crate) worker: Option<PathBuf>,

    /// ONNX Runtime's library. Default: looked for beside the worker, in ../lib, /usr/local/lib and /usr/lib
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,

    /// Cores of a worker. Default: those this process may use
    #[arg(long, env = "HEARTH_WORKER_THREADS", value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "N")]
    pub(crate) worker_threads: Option<u32>,

    /// Largest picture, in pixels, read from its header before it is decoded; beyond it 413
    #[arg(long, env = "HEARTH_MAX_PIXELS", default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "PIXELS")]
    pub(crate) max_pixels: u64,

    /// How long a worker may take to start, in seconds
    #[arg(long, env = "HEARTH_START_TIMEOUT_S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..), value_name = "S")]
    pub(crate) start_timeout_s: u64,

    /// Folder for debug sockets, one per worker, speaking plain OIP; made with mode 0700
    #[arg(long, env = "HEARTH_WORKER_DEBUG_DIR", value_name = "DIR")]
    pub(crate) worker_debug_dir: Option<PathBuf>,
}

/// How the scripts of services are run.
#[derive(Args, Clone, Debug)]
pub(crate) struct ScriptOptions {
    /// Run scripts as processes of this machine, whatever image their service names. Without it they
    /// run in containers, where podman or docker has a daemon that answers, and else not at all
    #[arg(long, env = "HEARTH_ALLOW_HOST_SCRIPTS")]
    pub(crate) allow_host_scripts: bool,

    /// Scripts at a time; more wait for their turn. Default: as many as there are cores
    #[arg(long, env = "HEARTH_MAX_SCRIPTS", value_parser = clap::value_parser!(u32).range(1..=128), value_name = "N")]
    max_scripts: Option<u32>,

    /// How long a script may take whose service does not say, in seconds
    #[arg(long, env = "HEARTH_SCRIPT_TIMEOUT_S", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "S")]
    script_timeout_s: u64,
}

/// How the videos of services are read.
#[derive(Args, Clone, Debug)]
pub(crate) struct VideoOptions {
    /// The program ffmpeg, 5.1 or newer, which videos need. Default: the one on the PATH
    #[arg(long, env = "HEARTH_FFMPEG", value_name = "FILE")]
    pub(crate) ffmpeg: Option<PathBuf>,

    /// Largest video, and most that may come out of one
    #[arg(long, env = "HEARTH_MAX_VIDEO", default_value = "8GiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub(crate) max_video: u64,

    /// Videos at a time; more wait for their turn. Default: one for two cores
    #[arg(long, env = "HEARTH_MAX_VIDEOS", value_parser = clap::value_parser!(u32).range(1..=128), value_name = "N")]
    max_videos: Option<u32>,
}

/// Where the objects of services are kept.
#[derive(Args, Clone, Debug)]
pub(crate) struct StorageOptions {
    /// Address to speak S3 on, of the store that Hearth has itself; port 0 picks a free one, `off`
    /// turns it off
    #[arg(
        long,
        env = "HEARTH_S3_LISTEN",
        default_value = "127.0.0.1:9000",
        value_name = "ADDRESS"
    )]
    pub(crate) s3_listen: S3Listen,

    /// URL at which clients reach it, where a proxy stands before it. Default: the name that they call
    /// Hearth by, and its port
    #[arg(long, env = "HEARTH_S3_ENDPOINT", value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,

    /// A MinIO to keep objects at, as `https://minio.example.org:9000`: what services call
    /// `minio.default`, instead of the store that Hearth has itself
    #[arg(
        long,
        env = "MINIO_ENDPOINT",
        value_name = "URL",
        requires = "minio_access_key",
        requires = "minio_secret_key"
    )]
    pub(crate) minio_endpoint: Option<String>,

    /// Who calls there, and at the S3 endpoint. Default: a random one, kept in --data
    #[arg(long, env = "MINIO_ACCESS_KEY", value_name = "KEY")]
    pub(crate) minio_access_key: Option<Secret>,

    /// The caller's secret. Others on this machine see it in the list of processes: better in the
    /// environment
    #[arg(
        long,
        env = "MINIO_SECRET_KEY",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub(crate) minio_secret_key: Option<Secret>,

    /// The region that it says it is in
    #[arg(
        long,
        env = "MINIO_REGION",
        default_value = "us-east-1",
        value_name = "REGION"
    )]
    pub(crate) minio_region: String,

    /// Whether its certificate is verified
    #[arg(long, env = "MINIO_TLS_VERIFY", default_value = "true", action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new(), value_name = "BOOL")]
    pub(crate) minio_tls_verify: bool,

    /// A folder of this machine that services may read and write, as storage provider
    /// `folder.NAME`; can be given several times
    #[arg(
        long = "folder",
        env = "HEARTH_FOLDER",
        value_delimiter = ',',
        value_name = "NAME=PATH"
    )]
    pub(crate) folders: Vec<NamedFolder>,
}

/// What is kept of jobs.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobOptions {
    /// How long a job that has ended is kept, with its log, in seconds
    #[arg(long, env = "TTL_JOB", default_value_t = 2_592_000, value_name = "S")]
    job_ttl_s: u64,

    /// From the end of a look for objects whose event was lost to the next, in seconds; 0: nobody looks
    #[arg(long, env = "HEARTH_LISTING_INTERVAL_S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400), value_name = "S")]
    listing_interval_s: u64,

    /// Make jobs also of objects that are older than their service
    #[arg(long, env = "HEARTH_BACKFILL")]
    pub(crate) backfill: bool,

    /// Token that MinIO comes with, which announces objects at /events/minio. Default: one that is
    /// made up and kept, as `hearth minio-settings` prints it
    #[arg(
        long,
        env = "HEARTH_EVENTS_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    events_token: Option<Secret>,

    /// Jobs of a page of /system/logs/NAME
    #[arg(long, env = "JOB_LISTING_LIMIT", default_value_t = 70, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    job_listing_limit: u32,
}

/// Where S3 is spoken, if it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct S3Listen(pub(crate) Option<SocketAddr>);

impl FromStr for S3Listen {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        let address = !["off", ""].contains(&text);
        let address = address.then(|| text.parse());
        address.transpose().map(Self)
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl ServeOptions {
    /// Returns what the workers of this machine share.
    pub(crate) fn device(&self) -> DeviceLimits {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let cores = u32::try_from(cores).unwrap_or(u32::MAX);
        let memory = self.memory.or_else(|| Some(memory::of_machine()? / 5 * 4));
        DeviceLimits {
            cores: self.worker.worker_threads.unwrap_or(cores),
            // Where the system does not tell, nothing is refused for want of it.
            memory_bytes: memory.unwrap_or(u64::MAX),
        }
    }

    /// Whether callers may name shared memory: they are on this machine, all of them.
    pub(crate) fn offers_shared_memory(&self) -> bool {
        self.shared_memory && self.exposed().is_none()
    }

    /// Checks what the command line can't: an address that is not loopback needs credentials, and so
    /// does answering every page.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(listen) = self.exposed()
            && self.credentials.are_missing()
        {
            anyhow::bail!(
                "refusing to listen on {listen} without credentials: anybody who reaches it could \
                 use it; set OSCAR_USERNAME and OSCAR_PASSWORD, or --password-file, or listen on \
                 127.0.0.1"
            );
        }
        anyhow::ensure!(
            !self.credentials.are_missing() || !self.cors_origins.contains(&AllowedOrigin::Any),
            "--cors-origin * without credentials would let any page call: name the pages' origins, \
             or set OSCAR_USERNAME and OSCAR_PASSWORD"
        );
        anyhow::ensure!(
            self.grpc_max_message <= MAX_ENTRY_BYTES,
            "--grpc-max-message is {}, a worker takes at most {MAX_ENTRY_BYTES} bytes",
            self.grpc_max_message
        );
        anyhow::ensure!(
            self.max_body <= MAX_ENTRY_BYTES,
            "--max-body is {}, a worker takes at most {MAX_ENTRY_BYTES} bytes",
            self.max_body
        );
        anyhow::ensure!(
            self.max_body <= self.max_bytes_in_flight,
            "--max-body ({}) is more than --max-bytes-in-flight ({}): no such body could ever be read",
            self.max_body,
            self.max_bytes_in_flight
        );
        Ok(())
    }

    /// Returns an address that others than this machine reach, if there is one.
    pub(crate) fn exposed(&self) -> Option<SocketAddr> {
        [Some(self.listen), self.grpc_listen.0, self.storage.listen()]
            .into_iter()
            .flatten()
            .find(|listen| !listen.ip().is_loopback())
    }

    /// Returns the files that nobody but this process is to read.
    pub(crate) fn secrets(&self) -> Vec<PathBuf> {
        let files = [&self.tls.tls_key, &self.credentials.password_file];
        files.into_iter().flatten().cloned().collect()
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

impl StorageOptions {
    /// Returns where S3 is spoken: not beside another's store.
    pub(crate) fn listen(&self) -> Option<SocketAddr> {
        self.s3_listen.0.filter(|_| self.minio_endpoint.is_none())
    }

    /// Returns another's store, if there is to be one.
    pub(crate) fn minio(&self) -> Option<Minio> {
        let secret = |secret: &Option<Secret>| {
            let secret = secret.as_ref().map(Secret::expose);
            gateway_oscar::Secret::from(secret.unwrap_or_default())
        };
        Some(Minio {
            endpoint: self.minio_endpoint.clone()?,
            verify: self.minio_tls_verify,
            access_key: secret(&self.minio_access_key),
            secret_key: secret(&self.minio_secret_key),
            region: self.minio_region.clone(),
        })
    }

    /// Returns the keys that are given.
    pub(crate) const fn keys(&self) -> (Option<&Secret>, Option<&Secret>) {
        (
            self.minio_access_key.as_ref(),
            self.minio_secret_key.as_ref(),
        )
    }
}

impl VideoOptions {
    /// Returns how many are worked on at a time.
    pub(crate) fn slots(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let half = || (cores() / 2).clamp(1, 128);
        self.max_videos.map_or_else(half, |slots| slots as usize)
    }
}

impl ScriptOptions {
    /// Returns how many scripts run at a time.
    pub(crate) fn slots(&self) -> usize {
        let cores = || {
            std::thread::available_parallelism()
                .map_or(1, NonZero::get)
                .min(128)
        };
        self.max_scripts.map_or_else(cores, |slots| slots as usize)
    }

    pub(crate) const fn timeout(&self) -> Duration {
        Duration::from_secs(self.script_timeout_s)
    }
}

impl JobOptions {
    pub(crate) const fn ttl(&self) -> Duration {
        Duration::from_secs(self.job_ttl_s)
    }

    pub(crate) const fn listing_interval(&self) -> Duration {
        Duration::from_secs(self.listing_interval_s)
    }

    /// Returns what those who announce objects come with. Blocks for the disk.
    ///
    /// # Errors
    /// When there is none, and none can be kept.
    pub(crate) fn events_token(&self, data: &Path) -> anyhow::Result<Secret> {
        match &self.events_token {
            Some(token) if token.expose().is_empty() => {
                anyhow::bail!("--events-token is empty")
            }
            Some(token) => Ok(token.clone()),
            None => events_token(data),
        }
    }

    pub(crate) const fn listing(&self) -> usize {
        self.job_listing_limit as usize
    }
}

impl CredentialOptions {
    /// Whether there is no password.
    fn are_missing(&self) -> bool {
        self.password.is_none() && self.password_file.is_none()
    }

    /// Returns whom to let in, if there is a password.
    ///
    /// # Errors
    /// As [`CredentialOptions::pair`], and when no client could send them.
    pub(crate) fn administrator(&self) -> anyhow::Result<Option<Administrator>> {
        let pair = self.pair()?;
        pair.map(|(username, password)| Administrator::new(username, &password))
            .transpose()
    }

    /// Returns name and password, if there is a password.
    ///
    /// # Errors
    /// When the file can't be read, or only the name is given; a sentence without the password.
    pub(crate) fn pair(&self) -> anyhow::Result<Option<(&str, Secret)>> {
        let from_file = |path: &PathBuf| {
            read_password(path).with_context(|| format!("--password-file {}", path.display()))
        };
        let from_file = self.password_file.as_ref().map(from_file).transpose()?;
        let Some(password) = from_file.or_else(|| self.password.clone()) else {
            anyhow::ensure!(
                self.username.is_none(),
                "OSCAR_USERNAME is set and OSCAR_PASSWORD is not: set both, or neither"
            );
            return Ok(None);
        };
        let username = self.username.as_deref().unwrap_or("admin");
        Ok(Some((username, password)))
    }
}

impl TlsOptions {
    /// Returns the files to use, if TLS is.
    pub(crate) fn files(&self) -> Option<TlsFiles> {
        let (certificate, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(TlsFiles { certificate, key })
    }
}

impl WorkerOptions {
    /// Returns the worker's program.
    ///
    /// # Errors
    /// When it is not where it should be.
    pub(crate) fn program(&self) -> anyhow::Result<PathBuf> {
        let program = match &self.worker {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("hearth-worker"),
        };
        anyhow::ensure!(
            program.is_file(),
            "the worker's program is not at {}: build it (`cargo build -p workers-server`) or name it with --worker",
            program.display()
        );
        Ok(program)
    }
}

fn read_password(path: &PathBuf) -> anyhow::Result<Secret> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(MAX_PASSWORD_FILE_BYTES);
    file.read_to_string(&mut text)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    Ok(line.to_owned().into())
}

/// Reads `268435456`, `256MiB` or `256MB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.get(digits.len()..).map(str::trim).unwrap_or_default() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => {
            return Err(format!(
                "{text:?}: expected a number and B, kB, MB, GB, KiB, MiB or GiB"
            ));
        }
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| {
            format!("{text:?}: expected a positive number of bytes, `64MiB` for example")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(parse_bytes("256MiB"), Ok(256 << 20));
        assert_eq!(parse_bytes("1 GB"), Ok(1_000_000_000));
        assert_eq!(parse_bytes("17"), Ok(17));
        for bad in ["", "0", "MiB", "-1", "1PB", "99999999999GiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
