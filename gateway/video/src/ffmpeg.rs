//! Where the program is, and what starts it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Limits, Process, Starter};

/// Threads that decode one video, or encode one: more take memory, and leave others less.
const MAX_THREADS: usize = 4;

/// What an ffmpeg may use: room for the reference frames of 8K, and the time that a film of two hours
/// in 4K takes several times over.
const LIMITS: Limits = Limits {
    memory_bytes: 3 << 30,
    processor_time: Duration::from_secs(12 * 60 * 60),
};

/// The program ffmpeg, 5.1 or newer.
#[derive(Debug)]
pub struct Ffmpeg {
    program: Option<PathBuf>,
    starter: Starter,
}

/// There is no such program; a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Missing(String);

impl Ffmpeg {
    /// Returns the program at this place, or wherever the `PATH` has it when it is needed.
    ///
    /// # Errors
    /// When the thread that starts it can't be made.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(program: Option<PathBuf>) -> io::Result<Self> {
        let starter = Starter::new()?;
        // It is started in other folders.
        let program = program.map(std::path::absolute).transpose()?;
        Ok(Self { program, starter })
    }

    /// Returns where the program is now.
    ///
    /// # Errors
    /// When it is not there.
    pub fn find(&self) -> Result<PathBuf, Missing> {
        if let Some(program) = &self.program {
            return match program.is_file() {
                true => Ok(program.clone()),
                false => Err(Missing(format!(
                    "videos need the program ffmpeg, which is not at {} (--ffmpeg)",
                    program.display()
                ))),
            };
        }
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&paths).map(|folder| folder.join("ffmpeg"));
        // What is found by a relative path would be looked for in the folder of the video.
        let mut found = found.filter(|program| program.is_absolute() && program.is_file());
        found.next().ok_or_else(|| {
            Missing(
                "videos need the program ffmpeg, 5.1 or newer, and there is none on the PATH: install \
                 it (apt-get install ffmpeg), or name it with --ffmpeg"
                    .to_owned(),
            )
        })
    }

    /// Starts it in a folder. Paths among the arguments are relative to that.
    ///
    /// # Errors
    /// When it is not there, or can't be started.
    pub(crate) async fn start<S: AsRef<OsStr>>(
        &self,
        folder: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> io::Result<Process> {
        let missing = |missing| io::Error::new(io::ErrorKind::NotFound, missing);
        let program = self.find().map_err(missing)?;
        let started = self.starter.start(&program, folder, arguments, LIMITS);
        started.await
    }
}

/// Returns how many threads it may have for a video.
pub(crate) fn n_threads() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.min(MAX_THREADS).to_string()
}
