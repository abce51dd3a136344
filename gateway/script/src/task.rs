//! What the gateway tells a supervisor, and what it hears: a length, JSON, and bytes.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::environment::Variables;

/// Longest JSON of a message: a script and its variables have no more than 2 MiB, names of files no
/// more than [`Limits::scratch_entries`] allows.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// What a script may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Time until it has to have ended.
    pub time: Duration,
    /// Memory of all its processes, in bytes.
    pub memory_bytes: u64,
    /// Processes and threads at a time.
    pub processes: u64,
    /// Bytes that it may keep in its scratch folder.
    pub scratch_bytes: u64,
    /// Files and folders that it may keep there.
    pub scratch_entries: u64,
    /// Bytes that it may say, on standard output and standard error together.
    pub log_bytes: u64,
    /// Bytes of all files that it may leave as results.
    pub output_bytes: u64,
}

/// A limit that a script has gone beyond, for which it was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Breach {
    /// Its time.
    Time,
    /// Its memory.
    Memory,
    /// Its processes.
    Processes,
    /// The bytes of its scratch folder.
    Scratch,
    /// The files of its scratch folder.
    Entries,
    /// What it says.
    Log,
    /// What it leaves as results.
    Output,
}

/// How a script has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal of this number that its supervisor did not send.
    Signalled(i32),
    /// By its supervisor.
    Breached(Breach),
}

/// A file that a script has left as a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Its name, relative to the output folder.
    pub name: String,
    /// Its content.
    pub content: Bytes,
}

/// What a supervisor is to do. The input's bytes follow.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) script: String,
    pub(crate) variables: Variables,
    pub(crate) input: InputFile,
    pub(crate) limits: Limits,
    /// The folder that it makes for this run, and removes.
    pub(crate) folder: PathBuf,
    pub(crate) place: Place,
}

/// The file that the script is to work on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InputFile {
    /// None where nothing is staged in.
    pub(crate) name: Option<String>,
    pub(crate) bytes: usize,
}

/// Where a script runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Place {
    /// As plain processes of this machine.
    Host {
        /// Folders and files of the gateway that it does not get to see.
        hidden: Vec<PathBuf>,
    },
    Container(ContainerPlace),
}

/// A container of podman or docker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerPlace {
    /// The client.
    pub(crate) program: PathBuf,
    /// Variables that the client itself needs to find its daemon.
    pub(crate) client: Variables,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) cores: Option<f64>,
}

/// What a supervisor has to say. What the script said and the files follow, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Or a sentence why it could not be run.
    pub(crate) end: Result<End, String>,
    pub(crate) log_bytes: usize,
    /// Names and lengths.
    pub(crate) files: Vec<(String, usize)>,
}

// === impl Breach ===

impl Breach {
    /// Returns what the script did, in words that follow "the script".
    pub fn sentence(self, limits: &Limits) -> String {
        match self {
            Self::Time => format!("did not end within {} s", limits.time.as_secs_f64()),
            Self::Memory => format!("used more than {} bytes of memory", limits.memory_bytes),
            Self::Processes => format!("had {} processes, as many as it may", limits.processes),
            Self::Scratch => format!(
                "filled the {} bytes of its scratch folder",
                limits.scratch_bytes
            ),
            Self::Entries => format!(
                "had more than {} files and folders in its scratch folder, or too deep ones",
                limits.scratch_entries
            ),
            Self::Log => format!("said more than {} bytes", limits.log_bytes),
            Self::Output => format!("left more than {} bytes of results", limits.output_bytes),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with exit code {code}"),
            Self::Signalled(signal) => write!(f, "was ended by signal {signal}"),
            Self::Breached(breach) => write!(f, "was ended: {breach:?}"),
        }
    }
}

// === messages ===

/// Writes a length and JSON.
pub(crate) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).ok();
    let length = length.filter(|&length| length as usize <= MAX_MESSAGE);
    let length = length.ok_or_else(|| io::Error::other("the message is too long"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

pub(crate) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&encode(message)?)
}

pub(crate) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let bytes = read_bytes(from, u32::from_le_bytes(length) as usize, MAX_MESSAGE)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Reads so many bytes, of which there may be no more than the limit.
pub(crate) fn read_bytes(from: &mut impl Read, length: usize, limit: usize) -> io::Result<Vec<u8>> {
    if length > limit {
        let message = format!("{length} bytes are announced, expected at most {limit}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
