//! What holds a script on this machine: a user or namespaces of its own, a read-only view of the file
//! system, limits. All of it is prepared first, since between fork and exec only system calls may be made.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::cgroup::Cgroup;
use super::scratch::Scratch;
use crate::task::Limits;

/// The users that scripts run as where we are root: systemd leaves this range to nobody
/// (its UIDS-GIDS.md), and no process but a script's may have one of them.
const USERS: std::ops::RangeInclusive<u32> = 61_000..=61_183;
/// Where it is written down which of them is in use, for all gateways of this machine. Only root may
/// write beside it: what anybody may make, as in `/run/lock`, could be a link to any place.
const USER_LOCKS: &str = "/run/hearth-users";
/// Descriptors of a process.
const MAX_DESCRIPTORS: u64 = 1024;
/// Mounts and processes; and System V's shared memory, which would outlive the script, out of its
/// control group, and be found by the next one with its user.
const NAMESPACES: UnshareFlags = UnshareFlags::NEWNS
    .union(UnshareFlags::NEWPID)
    .union(UnshareFlags::NEWIPC);
/// What the scratch folder is called where a script has a file system view of its own.
const PRIVATE: &str = "/tmp";

/// A user that nobody else has, for as long as this lives.
#[derive(Debug)]
pub(super) struct User {
    pub(super) id: u32,
    _lock: File,
}

/// What a script is put into.
#[derive(Debug)]
pub(super) struct Cage {
    user: Option<User>,
    /// Whether there are [`NAMESPACES`].
    has_namespaces: bool,
}

/// What the child does before it becomes the script.
#[derive(Debug)]
struct Steps {
    cgroups: Vec<File>,
    view: Option<View>,
    limits: Vec<(Resource, u64)>,
    user: Option<u32>,
    folder: CString,
}

/// What is mounted where: the scratch folder, and nothing over what is not to be seen.
#[derive(Debug)]
struct View {
    scratch: CString,
    others: Vec<(CString, CString)>,
}

// === impl User ===

impl User {
    /// Takes a user that no other run has.
    ///
    /// # Errors
    /// When all are in use, or it can't be written down.
    fn take() -> io::Result<Self> {
        fs::create_dir_all(USER_LOCKS)?;
        for id in USERS {
            let path = Path::new(USER_LOCKS).join(id.to_string());
            let mut options = OpenOptions::new();
            options.write(true).create(true).mode(0o600);
            let lock = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { id, _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("all users for scripts are in use"))
    }
}

// === impl Cage ===

impl Cage {
    /// Makes what can be made here; this process is not the same afterwards.
    ///
    /// # Errors
    /// When scripts can't be held here; a sentence.
    pub(super) fn new() -> io::Result<Self> {
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            let user = User::take().map_err(|error| because("no user of its own", &error))?;
            return Ok(Self {
                user: Some(user),
                has_namespaces: unshare(NAMESPACES).is_ok() && has_read_only_views(),
            });
        }
        let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
        let mapped = unshare(UnshareFlags::NEWUSER.union(NAMESPACES)).and_then(|()| {
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("{0} {0} 1", user.as_raw()))?;
            fs::write("/proc/self/gid_map", format!("{0} {0} 1", group.as_raw()))
        });
        mapped.map_err(|error| {
            because(
                "no user namespace, which an unprivileged gateway needs",
                &error,
            )
        })?;
        if !has_read_only_views() {
            return Err(io::Error::other(
                "no read-only view of the files (mount_setattr, Linux 5.12)",
            ));
        }
        Ok(Self {
            user: None,
            has_namespaces: true,
        })
    }

    /// Returns the user that the script runs as, if it is not ours.
    pub(super) fn user(&self) -> Option<u32> {
        self.user.as_ref().map(|user| user.id)
    }

    /// Returns where the script finds its scratch folder.
    pub(super) fn view<'a>(&self, scratch: &'a Path) -> &'a Path {
        match self.has_namespaces {
            true => Path::new(PRIVATE),
            false => scratch,
        }
    }

    /// Has a command begin its life in here.
    ///
    /// # Errors
    /// When a file is missing that is needed for it.
    pub(super) fn confine(
        &self,
        command: &mut Command,
        scratch: &Path,
        hidden: &[PathBuf],
        limits: &Limits,
        cgroup: Option<&Cgroup>,
    ) -> io::Result<()> {
        let view = self.has_namespaces.then(|| View::new(scratch, hidden));
        let mut resources = vec![
            (Resource::Core, 0),
            (Resource::Nofile, MAX_DESCRIPTORS),
            (Resource::Fsize, limits.scratch_bytes),
        ];
        if cgroup.is_none() {
            resources.push((Resource::Nproc, limits.processes));
            // Memory that a process may write to, which unlike its address space is what it uses.
            resources.push((Resource::Data, limits.memory_bytes));
        }
        let steps = Steps {
            cgroups: cgroup.map(Cgroup::doors).transpose()?.unwrap_or_default(),
            view: view.transpose()?,
            limits: resources,
            user: self.user(),
            folder: path(self.view(scratch))?,
        };
        before_exec(command, move || steps.take());
        Ok(())
    }

    /// Ends all that a script has started. Those in a process namespace end with its first process.
    pub(super) fn end(&self) {
        let Some(user) = self.user().filter(|_| !self.has_namespaces) else {
            return;
        };
        let mut command = Command::new("/bin/true");
        before_exec(&mut command, move || {
            become_user(user)?;
            // To all processes that this user may end, which are its own, in one step that no fork
            // can slip through (`kill_something_info` holds the lock that `fork` needs).
            // SAFETY: a system call without pointers.
            #[expect(unsafe_code, reason = "rustix has no signal to everyone")]
            unsafe {
                libc::kill(-1, Signal::KILL.as_raw());
            }
            Err(io::ErrorKind::Interrupted.into())
        });
        // It never becomes that program.
        let _ = command.status();
    }
}

// === impl View, Steps ===

impl View {
    fn new(scratch: &Path, hidden: &[PathBuf]) -> io::Result<Self> {
        let private = Path::new(PRIVATE);
        // Programs share memory there, and find it read-only otherwise.
        let mut others = vec![(private.join(Scratch::SHARED), PathBuf::from("/dev/shm"))];
        let is_seen = |path: &&PathBuf| path.exists() && !path.starts_with(private);
        let hide = |path: &PathBuf| {
            let nothing = match path.is_dir() {
                true => private.join(Scratch::EMPTY),
                false => PathBuf::from("/dev/null"),
            };
            (nothing, path.clone())
        };
        others.extend(hidden.iter().filter(is_seen).map(hide));
        let pair = |(from, to): (PathBuf, PathBuf)| Ok((path(&from)?, path(&to)?));
        let others = others.into_iter().map(pair).collect::<io::Result<_>>()?;
        Ok(Self {
            scratch: path(scratch)?,
            others,
        })
    }

    /// Leaves the scratch folder as the only one that can be written to.
    fn open(&self) -> io::Result<()> {
        unshare(UnshareFlags::NEWNS)?;
        let (root, private) = (c"/", c"/tmp");
        mount_change(
            root,
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )?;
        set_read_only(root, true, true)?;
        mount_bind(self.scratch.as_c_str(), private)?;
        set_read_only(private, false, false)?;
        for (from, to) in &self.others {
            mount_bind(from.as_c_str(), to.as_c_str())?;
        }
        Ok(())
    }
}

impl Steps {
    /// Takes them, in this order: each needs rights that a later one gives away.
    fn take(&self) -> io::Result<()> {
        close_other_descriptors();
        // Out of the supervisor's process group, which it could signal as its own.
        rustix::process::setsid()?;
        for procs in &self.cgroups {
            rustix::io::write(procs.as_fd(), b"0")?;
        }
        if let Some(view) = &self.view {
            view.open()?;
        }
        rustix::process::chdir(self.folder.as_c_str())?;
        for &(resource, most) in &self.limits {
            // Only root may have more than there was.
            let most = match rustix::process::getrlimit(resource).maximum {
                Some(before) => most.min(before),
                None => most,
            };
            let limit = Rlimit {
                current: Some(most),
                maximum: Some(most),
            };
            rustix::process::setrlimit(resource, limit)?;
        }
        if let Some(user) = self.user {
            // The pipe for all that is said: whose it is decides who may open `/dev/stderr`.
            let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
            rustix::fs::fchown(rustix::stdio::stdout(), Some(uid), Some(gid))?;
            become_user(user)?;
        }
        rustix::thread::set_no_new_privs(true)?;
        // After the user, whose change would clear it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    }
}

fn become_user(user: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Everything that this process opened is close-on-exec already; what it was started with may not be.
#[expect(unsafe_code, reason = "close_range has no safe form")]
fn close_other_descriptors() {
    // SAFETY: a system call without pointers. Failure (a kernel before 5.11) leaves the descriptors as
    // they were.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}

/// Whether mounts can be made read-only with all that is below them.
fn has_read_only_views() -> bool {
    set_attributes(c"/", 0, 0, 0).is_ok()
}

fn set_read_only(mount: &std::ffi::CStr, is_read_only: bool, is_recursive: bool) -> io::Result<()> {
    const READ_ONLY: u64 = 1; // MOUNT_ATTR_RDONLY in include/uapi/linux/mount.h
    let flags = if is_recursive { libc::AT_RECURSIVE } else { 0 };
    let (set, clear) = if is_read_only {
        (READ_ONLY, 0)
    } else {
        (0, READ_ONLY)
    };
    set_attributes(mount, flags, set, clear)
}

#[expect(unsafe_code, reason = "mount_setattr has no safe form")]
fn set_attributes(mount: &std::ffi::CStr, flags: i32, set: u64, clear: u64) -> io::Result<()> {
    // `struct mount_attr`: set, clear, propagation, user namespace.
    let attributes: [u64; 4] = [set, clear, 0, 0];
    // SAFETY: a system call that reads the path, which ends with a zero, and so many bytes of the
    // attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            mount.as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(
    unsafe_code,
    reason = "unshare is unsafe for the sake of descriptors that threads share"
)]
fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    // SAFETY: descriptors stay shared.
    Ok(unsafe { unshare_unsafe(namespaces) }?)
}

#[expect(
    unsafe_code,
    reason = "what runs between fork and exec is unsafe by its nature"
)]
fn before_exec(
    command: &mut Command,
    steps: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: this process has one thread, and the steps make system calls on what was prepared
    // before: they neither allocate nor lock.
    unsafe {
        command.pre_exec(steps);
    }
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn because(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn only_root_writes_where_users_are_locked() {
        for folder in Path::new(USER_LOCKS).ancestors() {
            if let Ok(found) = folder.metadata() {
                let (owner, mode) = (found.uid(), found.mode());
                assert_eq!((owner, mode & 0o022), (0, 0), "{}", folder.display());
            }
        }
    }
}
