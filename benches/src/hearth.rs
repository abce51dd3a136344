//! The optimised `hearth` and its workers as processes, and what they cost.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::http::{Connection, get};

/// A cold start of a small model takes a second at most, on a busy machine some.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A store of one model and a data folder, which can be served more than once; removed when dropped.
#[derive(Debug)]
pub struct Site {
    folder: tempfile::TempDir,
    model: String,
}

/// A running `hearth serve`; killed when dropped, its workers with it.
#[derive(Debug)]
pub struct Hearth {
    process: Child,
    address: SocketAddr,
    _site: Arc<Site>,
}

/// What a process has cost since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time of all its threads.
    pub cpu: Duration,
    /// How often one of its threads went to sleep; each was a wake-up on somebody's way.
    pub sleeps: u64,
}

impl Site {
    /// Makes one of a model whose manifest is this text and whose other files are these.
    ///
    /// # Errors
    /// When a file can't be copied.
    pub fn new(model: &str, manifest: &str, files: &[PathBuf]) -> anyhow::Result<Arc<Self>> {
        let folder = tempfile::tempdir()?;
        let version = folder.path().join("store").join(model).join("1");
        fs::create_dir_all(&version)?;
        for file in files {
            let name = file.file_name().context("a file without a name")?;
            fs::copy(file, version.join(name))
                .with_context(|| format!("{} can't be copied", file.display()))?;
        }
        fs::write(version.join("model.yaml"), manifest)?;
        Ok(Arc::new(Self {
            folder,
            model: model.to_owned(),
        }))
    }

    /// Starts the `hearth` beside the running program on it, with these options more, and waits until
    /// the model can be called. It measures no models, which would be measured too.
    ///
    /// # Errors
    /// When the programs are not built, or the model is refused.
    pub fn serve(self: &Arc<Self>, options: &[&str]) -> anyhow::Result<Hearth> {
        self.start(&["--measure-models", "false"], options)
    }

    /// Serves it until the model has been measured on this machine, by which it is served from then on.
    ///
    /// # Errors
    /// When the programs are not built, or the model can't be measured.
    #[expect(
        clippy::disallowed_methods,
        reason = "between two looks at another process"
    )]
    pub fn measure(self: &Arc<Self>) -> anyhow::Result<()> {
        let _hearth = self.start(&["--measure-models", "true"], &["--spare-workers", "0"])?;
        let measurements = self.folder.path().join("data/measurements");
        let is_there = |name: &OsStr| Path::new(name).extension() == Some(OsStr::new("json"));
        let began = Instant::now();
        while !fs::read_dir(&measurements)?
            .any(|file| file.is_ok_and(|file| is_there(&file.file_name())))
        {
            let waited = began.elapsed();
            anyhow::ensure!(waited < START_TIMEOUT, "`{}` is not measured", self.model);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, measuring: &[&str], options: &[&str]) -> anyhow::Result<Hearth> {
        let program = program("hearth")?;
        program_exists(&program.with_file_name("hearth-worker"))?;
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--store"])
            .arg(self.folder.path().join("store"))
            .arg("--data")
            .arg(self.folder.path().join("data"))
            .args(measuring)
            .args(options)
            .env_remove("RUST_LOG")
            // Its port is one, and several gateways run at a time.
            .env("HEARTH_GRPC_LISTEN", "")
            .env("HEARTH_S3_LISTEN", "off")
            .stderr(Stdio::piped())
            .spawn()?;
        let log = process.stderr.take().context("no log")?;
        let mut lines = BufReader::new(log).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| address(&line))
            .context("hearth ended before it listened")?;
        // A pipe that nobody reads fills up, and whoever logs then waits.
        std::thread::spawn(move || lines.for_each(drop));
        let hearth = Hearth {
            process,
            address,
            _site: Arc::clone(self),
        };
        hearth.await_model(&self.model)?;
        Ok(hearth)
    }
}

impl Hearth {
    /// Makes a [`Site`] and serves it, without spare workers.
    ///
    /// # Errors
    /// When the programs are not built, or the model is refused.
    pub fn start(model: &str, manifest: &str, files: &[PathBuf]) -> anyhow::Result<Self> {
        Site::new(model, manifest, files)?.serve(&["--spare-workers", "0"])
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "between two looks at another process"
    )]
    fn await_model(&self, model: &str) -> anyhow::Result<()> {
        let request = get(&format!("/v2/models/{model}"));
        let mut connection = Connection::open(self.address)?;
        let began = Instant::now();
        while connection.call(&request)?.status != 200 {
            let waited = began.elapsed();
            anyhow::ensure!(waited < START_TIMEOUT, "model `{model}` did not appear");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what the gateway has cost.
    ///
    /// # Errors
    /// When the system keeps no such account.
    pub fn gateway_usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.process.id())
    }

    /// Returns what its workers have cost, together.
    ///
    /// # Errors
    /// When the system keeps no such account.
    pub fn workers_usage(&self) -> anyhow::Result<Usage> {
        let mut sum = Usage::default();
        for worker in self.workers()? {
            let usage = Usage::of(worker)?;
            sum.cpu += usage.cpu;
            sum.sleeps += usage.sleeps;
        }
        Ok(sum)
    }

    /// Returns the process ids of its workers.
    ///
    /// # Errors
    /// When the system keeps no such account.
    pub fn workers(&self) -> anyhow::Result<Vec<u32>> {
        let mut workers = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let children = fs::read_to_string(task?.path().join("children"))?;
            for child in children.split_whitespace() {
                workers.push(child.parse()?);
            }
        }
        Ok(workers)
    }
}

impl Drop for Hearth {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Usage {
    /// Returns what a process has cost.
    ///
    /// # Errors
    /// When it has ended, or the system keeps no such account.
    pub fn of(process: u32) -> anyhow::Result<Self> {
        let mut usage = Self::default();
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?.path();
            // Nanoseconds on a processor, waiting for one, and the number of turns.
            let times = fs::read_to_string(task.join("schedstat"))?;
            let cpu = times.split(' ').next().context("an empty account")?;
            usage.cpu += Duration::from_nanos(cpu.parse()?);
            let status = fs::read_to_string(task.join("status"))?;
            let sleeps = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .context("an account without sleeps")?;
            usage.sleeps += sleeps.trim().parse::<u64>()?;
        }
        Ok(usage)
    }

    /// Returns what was spent since.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            sleeps: self.sleeps.saturating_sub(earlier.sleeps),
        }
    }
}

/// Returns the path of a program that cargo puts beside the running one, or, where that is a
/// benchmark, into the folder above.
///
/// # Errors
/// When it is not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let running = std::env::current_exe()?;
    let folder = running
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"));
    let program = folder
        .context("the running program lies in no folder")?
        .join(name);
    program_exists(&program)?;
    Ok(program)
}

fn program_exists(program: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        program.is_file(),
        "{} is not there: cargo build --release -p gateway-server -p workers-server",
        program.display()
    );
    Ok(())
}

/// Reads the address from the log's line `listening on http://ADDRESS …`.
fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("http://")?;
    rest.split_whitespace().next()?.parse().ok()
}
