//! The processes of a script, as `/proc` shows them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Unit of `st_blocks`, in bytes.
const BLOCK: u64 = 512;

/// How the processes of a script are told from others.
#[derive(Debug)]
pub(super) enum Tribe {
    /// By their process namespace, which `/proc` names so.
    Namespace(PathBuf),
    /// By their user.
    User(u32),
}

/// What processes use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Processes and threads.
    pub(super) tasks: u64,
    /// Memory that is in use, in bytes; what they share counts for each.
    pub(super) memory_bytes: u64,
}

impl Tribe {
    /// Returns the tribe of a process.
    pub(super) fn of(pid: u32, user: Option<u32>) -> Option<Self> {
        match user {
            Some(user) => Some(Self::User(user)),
            None => Some(Self::Namespace(
                fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?,
            )),
        }
    }

    pub(super) fn processes(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse().ok());
        pids.filter(|pid| self.has(*pid)).collect()
    }

    fn has(&self, pid: u32) -> bool {
        match self {
            Self::Namespace(namespace) => {
                fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|own| own == *namespace)
            }
            Self::User(user) => {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
                let real = uid.and_then(|uid| uid.split_whitespace().next());
                real.and_then(|real| real.parse().ok()) == Some(*user)
            }
        }
    }
}

/// Returns what these processes use; those that have ended meanwhile use nothing.
pub(super) fn usage(pids: &[u32]) -> Usage {
    let page = rustix::param::page_size() as u64;
    let mut usage = Usage::default();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in brackets, may have brackets in it (`proc_pid_stat(5)`).
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            continue;
        };
        let field = |number: usize| {
            let text = fields.split(' ').nth(number - 3)?;
            text.parse::<u64>().ok()
        };
        usage.tasks += field(20).unwrap_or(0);
        usage.memory_bytes += field(24).unwrap_or(0) * page;
    }
    usage
}

/// Returns the bytes of files without a name that these processes hold open.
pub(super) fn nameless_bytes(pids: &[u32]) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for pid in pids {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(file) = fs::metadata(descriptor.path()) else {
                continue;
            };
            if file.is_file() && file.nlink() == 0 && seen.insert((file.dev(), file.ino())) {
                bytes += file.blocks() * BLOCK;
            }
        }
    }
    bytes
}
