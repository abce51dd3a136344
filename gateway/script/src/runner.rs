//! The gateway's side: where scripts can run, how many at a time, and one supervisor for each.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::environment::Variables;
use crate::supervisor::scratch;
use crate::task::{
    ContainerPlace, End, InputFile, Limits, MAX_MESSAGE, OutputFile, Place, Report, Task, encode,
};

/// How long a daemon may take to say that it is there.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a supervisor may take to end a script that has gone beyond its time.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// What a script may use that is run to see whether any can be.
const PROBE: Limits = Limits {
    time: Duration::from_secs(10),
    memory_bytes: 64 << 20,
    processes: 16,
    scratch_bytes: 1 << 20,
    scratch_entries: 100,
    log_bytes: 1 << 10,
    output_bytes: 0,
};
/// What the clients of container daemons need to know of the gateway's environment.
const CLIENT_VARIABLES: [&str; 8] = [
    "PATH",
    "HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "CONTAINER_HOST",
    "REGISTRY_AUTH_FILE",
];

/// How scripts may be run.
#[derive(Clone, Debug)]
pub struct RunnerOptions {
    /// What makes the program a supervisor, on its command line.
    pub argument: &'static str,
    /// Whether they may be plain processes of this machine.
    pub is_host_allowed: bool,
    /// Whether whoever reaches the gateway may create services.
    pub is_open: bool,
    /// Scripts at a time.
    pub slots: usize,
    /// Calls that wait for their turn.
    pub max_waiting: usize,
    /// The gateway's folder, which scripts do not get to see; theirs are in it.
    pub data: PathBuf,
    /// Files that they do not get to see either, since they may run as the gateway's own user.
    pub secrets: Vec<PathBuf>,
}

/// Runs scripts.
#[derive(Debug)]
pub struct Runner {
    options: RunnerOptions,
    folder: PathBuf,
    ready: OnceCell<Ready>,
    slots: Arc<Semaphore>,
    /// For those that run and those that wait.
    room: Arc<Semaphore>,
    n_runs: AtomicU64,
}

/// Where scripts run.
#[derive(Clone, Debug)]
enum Ready {
    Host,
    Container { program: PathBuf },
}

/// A script to run.
#[derive(Debug)]
pub struct Call {
    /// Its text.
    pub script: String,
    /// Its variables.
    pub variables: Variables,
    /// The name and content of the file that it is to work on.
    pub input: Option<(String, Bytes)>,
    /// What it may use.
    pub limits: Limits,
    /// The image that it runs in, where there are containers.
    pub image: String,
    /// Cores that it may use there.
    pub cores: Option<f64>,
}

/// What a script has left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub end: End,
    /// What it said, on standard output and standard error.
    pub log: Vec<u8>,
    /// The files that it left as results, by name.
    pub files: Vec<OutputFile>,
}

/// Why scripts can't be run here; a sentence that says what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(String);

/// Why a script was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// None can be.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Too many wait.
    #[error("{0} scripts run or wait, no room for another")]
    Busy(usize),
    /// Its supervisor could not, and says why.
    #[error("the script can't be run: {0}")]
    Broken(String),
}

// === impl RunnerOptions ===

impl RunnerOptions {
    /// Returns what scripts do not get to see, of what is there now.
    fn hidden(&self) -> Vec<PathBuf> {
        let hidden = [&self.data].into_iter().chain(&self.secrets);
        hidden.filter_map(|path| path.canonicalize().ok()).collect()
    }
}

// === impl Runner ===

impl Runner {
    /// Makes the folder for scripts, or empties it of what a gateway has left that was killed. Blocks.
    ///
    /// # Errors
    /// When it can't.
    pub fn open(options: RunnerOptions) -> io::Result<Arc<Self>> {
        let folder = options.data.join("scripts");
        // Scripts run as other users, who have to get through.
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&folder)?;
        for left in folder.read_dir()?.flatten() {
            if let Err(error) = scratch::remove(&left.path()) {
                tracing::warn!(folder = %left.path().display(), %error, "the folder of a script stays");
            }
        }
        Ok(Arc::new(Self {
            folder: folder.canonicalize()?,
            ready: OnceCell::new(),
            slots: Arc::new(Semaphore::new(options.slots)),
            room: Arc::new(Semaphore::new(options.slots + options.max_waiting)),
            n_runs: AtomicU64::new(0),
            options,
        }))
    }

    /// Finds out whether scripts can be run here, by running one or by asking a daemon. Whatever is
    /// found is remembered, unless it is nothing.
    ///
    /// # Errors
    /// Why they can't.
    pub async fn check(&self) -> Result<(), Unavailable> {
        self.ready().await.map(|_| ())
    }

    /// Returns how many scripts run at a time.
    pub fn slots(&self) -> usize {
        self.options.slots
    }

    /// Whether scripts run in containers, as far as is known.
    pub fn has_containers(&self) -> bool {
        matches!(self.ready.get(), Some(Ready::Container { .. }))
    }

    async fn ready(&self) -> Result<&Ready, Unavailable> {
        self.ready.get_or_try_init(|| self.find()).await
    }

    async fn find(&self) -> Result<Ready, Unavailable> {
        if self.options.is_host_allowed {
            return match self.supervise(self.probe()).await {
                Ok(Output {
                    end: End::Exited(0),
                    ..
                }) => Ok(Ready::Host),
                Ok(Output { end, log, .. }) => Err(Unavailable(format!(
                    "scripts can't be run as processes here: one that does nothing {end} {}",
                    String::from_utf8_lossy(&log)
                ))),
                Err(Failure::Broken(reason)) => Err(Unavailable(format!(
                    "scripts can't be run as processes here: {reason}"
                ))),
                Err(other) => Err(Unavailable(other.to_string())),
            };
        }
        if self.options.is_open {
            return Err(Unavailable(
                "no scripts are run for a gateway that everybody on this machine may use: set \
                 OSCAR_USERNAME and OSCAR_PASSWORD, or start it with --allow-host-scripts"
                    .to_owned(),
            ));
        }
        let mut reasons = Vec::new();
        for client in ["podman", "docker"] {
            match daemon(client).await {
                Ok(program) => return Ok(Ready::Container { program }),
                Err(reason) => reasons.push(format!("{client}: {reason}")),
            }
        }
        Err(Unavailable(format!(
            "script services need podman or docker, with a daemon that answers, or a gateway that was \
             started with --allow-host-scripts ({})",
            reasons.join("; ")
        )))
    }

    fn probe(&self) -> (Task, Bytes) {
        let call = Call {
            script: "exit 0".to_owned(),
            variables: Variables::new(),
            input: None,
            limits: PROBE,
            image: String::new(),
            cores: None,
        };
        self.task(call, &Ready::Host)
    }

    /// Runs a script, when it is its turn, and returns what it left. Cancel-safe: where nobody waits
    /// any more, it and all that it has started are ended, and its turn ends with them.
    ///
    /// # Errors
    /// When it could not be run. What it does wrong itself is in its [`End`].
    pub async fn run(&self, call: Call) -> Result<Output, Failure> {
        let busy = || Failure::Busy(self.options.slots + self.options.max_waiting);
        let room = Arc::clone(&self.room)
            .try_acquire_owned()
            .map_err(|_| busy())?;
        let ready = self.ready().await?;
        let closed = || Failure::Broken("the gateway stops".to_owned());
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let (task, input) = self.task(call, ready);
        supervise((task, input), self.options.argument, [room, slot]).await
    }

    async fn supervise(&self, task: (Task, Bytes)) -> Result<Output, Failure> {
        supervise(task, self.options.argument, []).await
    }

    fn task(&self, call: Call, ready: &Ready) -> (Task, Bytes) {
        let run = self.n_runs.fetch_add(1, Ordering::Relaxed);
        let name = format!("hearth-{}-{run}", std::process::id());
        let (file, content) = call.input.unzip();
        let content = content.unwrap_or_default();
        let place = match ready {
            Ready::Host => Place::Host {
                hidden: self.options.hidden(),
            },
            Ready::Container { program } => Place::Container(ContainerPlace {
                program: program.clone(),
                client: client_variables().collect(),
                name: name.clone(),
                image: call.image,
                cores: call.cores,
            }),
        };
        let task = Task {
            script: call.script,
            variables: call.variables,
            input: InputFile {
                name: file,
                bytes: content.len(),
            },
            limits: call.limits,
            folder: self.folder.join(name),
            place,
        };
        (task, content)
    }

    /// Waits until no script runs any more; those that nobody waits for are ending.
    pub async fn close(&self) {
        let all = u32::try_from(self.options.slots).unwrap_or(u32::MAX);
        let ended = self.slots.acquire_many(all);
        if tokio::time::timeout(END_TIMEOUT, ended).await.is_err() {
            tracing::warn!("scripts have not ended yet; their supervisors see to it");
        }
        self.slots.close();
    }
}

/// Has a supervisor run a task. What it holds is given back when the supervisor has ended, which it
/// does only when nothing is left of the script.
async fn supervise(
    (task, input): (Task, Bytes),
    argument: &'static str,
    held: impl IntoIterator<Item = OwnedSemaphorePermit> + Send + 'static,
) -> Result<Output, Failure> {
    let broken = |error: io::Error| Failure::Broken(error.to_string());
    let limits = task.limits;
    let message = encode(&task).map_err(broken)?;
    // This program, also where its file has been replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("hearth")
        .arg(argument)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C in a terminal is for the gateway.
        .process_group(0);
    let mut child = command.spawn().map_err(broken)?;
    let (mut answer, waiting) = oneshot::channel();
    // It outlives its caller: what is held can't be given back before the end.
    tokio::spawn(async move {
        let talk = talk(&mut child, &message, &input, &limits);
        tokio::select! {
            output = talk => {
                // A caller that left meanwhile needs no answer.
                let _ = answer.send(output);
            }
            () = answer.closed() => {}
        }
        // The end of its standard input is the end of the script.
        drop(child.stdin.take());
        drop(child.stdout.take());
        if let Err(error) = child.wait().await {
            tracing::error!(%error, "a supervisor of a script can't be waited for");
        }
        drop(held);
    });
    let patience = limits.time + END_TIMEOUT;
    match tokio::time::timeout(patience, waiting).await {
        Ok(Ok(output)) => output.map_err(broken)?,
        Ok(Err(_)) => Err(Failure::Broken("its supervisor panicked".to_owned())),
        Err(_) => Err(Failure::Broken(
            "it does not end, though it was killed".to_owned(),
        )),
    }
}

async fn talk(
    child: &mut Child,
    message: &[u8],
    input: &[u8],
    limits: &Limits,
) -> io::Result<Result<Output, Failure>> {
    let (Some(stdin), Some(stdout)) = (child.stdin.as_mut(), child.stdout.as_mut()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    stdin.write_all(message).await?;
    stdin.write_all(input).await?;
    stdin.flush().await?;
    let ended =
        |error: io::Error| io::Error::new(error.kind(), format!("its supervisor ended: {error}"));
    let length = stdout.read_u32_le().await.map_err(ended)?;
    let report = read(stdout, length as usize, MAX_MESSAGE).await?;
    let report: Report = serde_json::from_slice(&report)?;
    let end = match report.end {
        Ok(end) => end,
        Err(reason) => return Ok(Err(Failure::Broken(reason))),
    };
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let log = read(stdout, report.log_bytes, size(limits.log_bytes)).await?;
    let mut files = Vec::new();
    let mut bytes_left = size(limits.output_bytes);
    for (name, length) in report.files {
        let content = read(stdout, length, bytes_left).await?.into();
        bytes_left -= length;
        files.push(OutputFile { name, content });
    }
    Ok(Ok(Output { end, log, files }))
}

async fn read(from: &mut ChildStdout, length: usize, limit: usize) -> io::Result<Vec<u8>> {
    if length > limit {
        let message = format!("{length} bytes are announced, expected at most {limit}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

// === daemons ===

/// Returns the client of a daemon that answers; a client alone does not count.
async fn daemon(client: &str) -> Result<PathBuf, String> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|folder| folder.join(client));
    let program = found.into_iter().find(|program| program.is_file());
    let program = program.ok_or("not installed")?;
    let mut command = Command::new(&program);
    command
        .args(["info", "--format", "{{.}}"])
        .env_clear()
        .envs(client_variables())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(DAEMON_TIMEOUT, command.output()).await {
        Err(_) => Err(format!("no answer in {} s", DAEMON_TIMEOUT.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        // Docker's client says what it knows of itself, and fails, where no daemon answers.
        Ok(Ok(output)) if output.status.success() => Ok(program),
        Ok(Ok(output)) => Err(last_line(&output.stderr, &program)),
    }
}

fn last_line(said: &[u8], program: &Path) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.map_or_else(
        || format!("{} fails", program.display()),
        |line| line.chars().take(200).collect(),
    )
}

fn client_variables() -> impl Iterator<Item = (String, String)> {
    let names = CLIENT_VARIABLES.into_iter();
    names.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
}
