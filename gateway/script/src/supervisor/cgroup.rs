//! A control group for one run, where the system lets us make one: what holds for all processes of a
//! script together, memory above all. Version 1 has a folder for each controller, version 2 one for all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::task::Limits;

/// The controllers that are needed.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// The folders of a run; removed when it is dropped, by when nothing may be left in them.
#[derive(Debug)]
pub(super) struct Cgroup {
    memory: PathBuf,
    pids: PathBuf,
    is_unified: bool,
}

impl Cgroup {
    /// Makes it, as a child of this process's own.
    ///
    /// # Errors
    /// Where the system has none, or does not let us.
    pub(super) fn create(name: &str, limits: &Limits) -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let [memory, pids] = CONTROLLERS.map(|controller| parent(&own, &mounts, controller));
        let cgroup = match (memory, pids) {
            (Some(memory), Some(pids)) => Self {
                memory: memory.join(name),
                pids: pids.join(name),
                is_unified: false,
            },
            _ => {
                let unified = parent(&own, &mounts, "").ok_or(io::ErrorKind::NotFound)?;
                // Where they are on already this changes nothing; where they can't be switched on,
                // the files below are missing.
                let _ = fs::write(unified.join("cgroup.subtree_control"), "+memory +pids");
                let folder = unified.join(name);
                Self {
                    memory: folder.clone(),
                    pids: folder,
                    is_unified: true,
                }
            }
        };
        cgroup.limit(limits)?;
        Ok(cgroup)
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        for folder in self.folders() {
            fs::create_dir(folder)?;
        }
        let memory = limits.memory_bytes.to_string();
        let (most, with_swap) = match self.is_unified {
            true => ("memory.max", "memory.swap.max"),
            false => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        };
        fs::write(self.memory.join(most), &memory)?;
        // There only where swap is accounted; version 2 counts it apart.
        let swap = if self.is_unified { "0" } else { &memory };
        let _ = fs::write(self.memory.join(with_swap), swap);
        fs::write(self.pids.join("pids.max"), limits.processes.to_string())
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        let second = (!self.is_unified).then_some(self.pids.as_path());
        [self.memory.as_path()].into_iter().chain(second)
    }

    /// Returns the files that a process writes `0` to, to be in it.
    pub(super) fn doors(&self) -> io::Result<Vec<File>> {
        let open = |folder: &Path| {
            OpenOptions::new()
                .write(true)
                .open(folder.join("cgroup.procs"))
        };
        self.folders().map(open).collect()
    }

    /// Returns the processes in it.
    pub(super) fn processes(&self) -> Vec<u32> {
        let list = fs::read_to_string(self.pids.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Whether a process could not be started for want of room.
    pub(super) fn is_full(&self) -> bool {
        event(&self.pids.join("pids.events"), "max").is_some_and(|times| times > 0)
    }

    /// Whether a process was ended for want of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let file = match self.is_unified {
            true => "memory.events",
            false => "memory.oom_control",
        };
        event(&self.memory.join(file), "oom_kill").is_some_and(|times| times > 0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in self.folders() {
            // A folder that stays costs some kilobytes of the kernel's.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Returns a number of a file of lines of names and numbers.
fn event(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name)?.1.parse().ok()
}

/// Returns the folder of this process's own group with a controller; without a name that of version 2.
fn parent(own: &str, mounts: &str, controller: &str) -> Option<PathBuf> {
    // `id:controllers:path`
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers
            .split(',')
            .any(|one| one == controller)
            .then_some(path)
    })?;
    // `id parent major:minor root point options … - type source options`
    let is_meant = |kind: &str, options: &str| match controller {
        "" => kind == "cgroup2",
        name => kind == "cgroup" && options.split(',').any(|option| option == name),
    };
    let (root, point) = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, _, options) = (right.next()?, right.next()?, right.next()?);
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        is_meant(kind, options).then_some((root, point))
    })?;
    // In a container the path is that of the host, and what is mounted begins somewhere below.
    let below = path
        .strip_prefix(root.trim_end_matches('/'))
        .unwrap_or_default();
    let folder = Path::new(point).join(below.trim_start_matches('/'));
    Some(if folder.is_dir() {
        folder
    } else {
        point.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_versions() {
        let there = tempfile::tempdir().unwrap();
        let point = there.path().to_str().unwrap();
        fs::create_dir_all(there.path().join("user.slice/hearth")).unwrap();
        let v1 = format!("30 2 0:1 / {point} rw shared:1 - cgroup cgroup rw,cpu,memory\n");
        let own = "9:name=systemd:/\n4:cpu,memory:/user.slice/hearth\n0::/other\n";
        let expected = there.path().join("user.slice/hearth");
        assert_eq!(parent(own, &v1, "memory"), Some(expected.clone()));
        assert_eq!(parent(own, &v1, "pids"), None);
        let v2 = format!("30 2 0:1 / {point} rw - cgroup2 cgroup2 rw,nsdelegate\n");
        let own = "0::/user.slice/hearth\n";
        assert_eq!(parent(own, &v2, ""), Some(expected.clone()));
        // A container sees its own part only, under the host's name.
        let v2 = format!("30 2 0:1 /user.slice {point}/user.slice ro - cgroup2 cgroup2 rw\n");
        assert_eq!(parent(own, &v2, ""), Some(expected));
        assert_eq!(
            parent("0::/gone\n", &v2, ""),
            Some(there.path().join("user.slice"))
        );
    }

    #[test]
    fn counted_events_are_read() {
        let there = tempfile::tempdir().unwrap();
        let file = there.path().join("memory.events");
        fs::write(&file, "low 0\noom 3\noom_kill 2\n").unwrap();
        assert_eq!(event(&file, "oom_kill"), Some(2));
        assert_eq!(event(&file, "max"), None);
        assert_eq!(event(&there.path().join("none"), "max"), None);
    }
}
