//! Memory, as the system tells of it (proc(5)), in bytes.

use std::path::Path;

/// Returns what this process may use: the machine's, or what its control group allows if that is
/// less.
pub(crate) fn of_machine() -> Option<u64> {
    let machine = field(Path::new("/proc/meminfo"), "MemTotal:")?;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|limit| limit.trim().parse().ok());
    Some(machine.min(group.unwrap_or(u64::MAX)))
}

/// Returns the most that a process has had resident.
pub(crate) fn peak_of(pid: u32) -> Option<u64> {
    field(Path::new(&format!("/proc/{pid}/status")), "VmHWM:")
}

/// Returns how many processes of this machine were killed so far because memory ran out, of it or of a
/// control group. It is counted before the process is killed. `None` where the system does not tell.
pub(crate) fn n_oom_kills() -> Option<u64> {
    value(Path::new("/proc/vmstat"), "oom_kill ")?.parse().ok()
}

/// Reads a line such as `MemTotal:  24576 kB`.
fn field(path: &Path, name: &str) -> Option<u64> {
    let kib: u64 = value(path, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Returns what stands behind a name at the beginning of a line.
fn value(path: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().to_owned())
}
