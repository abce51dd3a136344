//! A real MinIO, as the store outside of Hearth.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::hearth::{agent, eventually, kill, skip};
use crate::objects::external;

/// Who calls it.
pub(crate) const KEYS: [&str; 2] = ["hearth-tests", "hearth-tests-secret"];
/// What it says to Hearth that it is.
pub(crate) const EVENTS_TOKEN: &str = "events-of-the-tests";

/// A MinIO with a folder of its own. Ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Minio {
    program: PathBuf,
    folder: TempDir,
    address: SocketAddr,
    process: Option<Child>,
}

impl Minio {
    /// Finds the program and a port for it, or says that the test is skipped.
    pub(crate) fn find() -> Option<Self> {
        let program = program()?;
        // Free now; whoever takes it meanwhile fails the test.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Some(Self {
            program,
            folder: TempDir::new().unwrap(),
            address: free.local_addr().unwrap(),
            process: None,
        })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns what a gateway is told of it.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        external([&self.endpoint(), KEYS[0], KEYS[1]])
            .into_iter()
            .chain([("HEARTH_EVENTS_TOKEN", EVENTS_TOKEN)])
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Starts it, with a target for events where there is a gateway to hear of them, and waits until it
    /// answers.
    pub(crate) fn start(&mut self, gateway: Option<SocketAddr>) {
        let folder = self.folder.path();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        let mut command = Command::new(&self.program);
        command
            .args(["server", "--quiet", "--address", &self.address.to_string()])
            .arg(folder.join("data"))
            .env_clear()
            .env("HOME", folder)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .env("MINIO_ROOT_USER", KEYS[0])
            .env("MINIO_ROOT_PASSWORD", KEYS[1])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some(gateway) = gateway {
            command
                .env("MINIO_NOTIFY_WEBHOOK_ENABLE_OTHERS", "on")
                .env(
                    "MINIO_NOTIFY_WEBHOOK_ENDPOINT_OTHERS",
                    format!("http://{gateway}/health"),
                )
                .env(
                    "MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_OTHERS",
                    folder.join("others"),
                )
                .env("MINIO_NOTIFY_WEBHOOK_ENABLE_HEARTH", "on")
                .env(
                    "MINIO_NOTIFY_WEBHOOK_ENDPOINT_HEARTH",
                    format!("http://{gateway}/events/minio"),
                )
                .env("MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_HEARTH", EVENTS_TOKEN)
                .env(
                    "MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_HEARTH",
                    folder.join("queue"),
                );
        }
        self.process = Some(command.spawn().unwrap());
        let agent = agent(None);
        let health = format!("{}/minio/health/ready", self.endpoint());
        eventually("MinIO is ready", || {
            let answer = agent.get(&health).call().ok()?;
            // It says so before it knows its buckets.
            let buckets = agent.get(&self.endpoint()).call().ok()?;
            (answer.status() == 200 && buckets.status() != 503).then_some(())
        });
    }

    /// Has it end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            kill(process.id(), Signal::TERM);
            process.wait().unwrap();
        }
    }

    /// Has it answer nothing until it is resumed.
    pub(crate) fn pause(&self) {
        kill(self.process.as_ref().unwrap().id(), Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        kill(self.process.as_ref().unwrap().id(), Signal::CONT);
    }

    /// Ends it at once, as a machine that fails.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Minio {
    #[expect(clippy::print_stderr, reason = "shown where a test fails")]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!("=== the log of MinIO ===\n{}", log.unwrap_or_default());
        }
    }
}

/// Finds the program: what `HEARTH_TEST_MINIO` names, what `make minio` made, or the first in `PATH`.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("HEARTH_TEST_MINIO") {
        return Some(named.into());
    }
    let target = Path::new(env!("CARGO_BIN_EXE_hearth")).ancestors().nth(2);
    let made = target.map(|target| target.join("lib/minio"));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<_> = std::env::split_paths(&paths).collect();
    let found = made
        .into_iter()
        .chain(in_path.iter().map(|folder| folder.join("minio")));
    let found = found.into_iter().find(|program| program.is_file());
    if found.is_none() {
        let has_go = in_path.iter().any(|folder| folder.join("go").is_file());
        let reason =
            "there is no MinIO: `make minio` makes it with Go, or HEARTH_TEST_MINIO names it";
        match has_go {
            true => skip(reason),
            false => crate::hearth::mention(reason),
        }
    }
    found
}
