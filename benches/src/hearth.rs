//! The optimised `hearth` and its workers as processes, and what they cost.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::http::{Connection, get};

/// A cold start of a small model takes a second at most, on a busy machine some.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running `hearth serve` on a store of its own; killed when dropped, its workers with it.
#[derive(Debug)]
pub struct Hearth {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

/// What a process has cost since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time of all its threads.
    pub cpu: Duration,
    /// How often one of its threads went to sleep; each was a wake-up on somebody's way.
    pub sleeps: u64,
}

impl Hearth {
    /// Starts the `hearth` beside the running benchmark with one model, whose manifest is this text
    /// and whose graph this file, and waits until the model can be called.
    ///
    /// # Errors
    /// When the programs are not built, or the model is refused.
    pub fn start(model: &str, manifest: &str, graph: &Path) -> anyhow::Result<Self> {
        let program = program("hearth")?;
        program_exists(&program.with_file_name("hearth-worker"))?;
        let folder = tempfile::tempdir()?;
        let store = folder.path().join("store");
        let version = store.join(model).join("1");
        fs::create_dir_all(&version)?;
        fs::copy(graph, version.join("model.onnx"))?;
        fs::write(version.join("model.yaml"), manifest)?;

        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--store"])
            .arg(&store)
            .arg("--data")
            .arg(folder.path().join("data"))
            .env_remove("RUST_LOG")
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
        let hearth = Self {
            process,
            address,
            _folder: folder,
        };
        hearth.await_model(model)?;
        Ok(hearth)
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

    fn workers(&self) -> anyhow::Result<Vec<u32>> {
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

/// Returns the path of a program that cargo puts into the folder above the benchmark's.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let benchmark = std::env::current_exe()?;
    let folder = benchmark.parent().and_then(Path::parent);
    let program = folder
        .context("the benchmark lies in no folder")?
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
