//! The supervisor of one script: a process that outlives it, and does not outlive the gateway by
//! more than it takes to end the script.
//!
//! Its standard input brings the [`Task`] and then stays open: where it ends, the gateway has given
//! the script up or is gone. Its standard output takes the [`Report`]. It has one thread.

mod cage;
mod cgroup;
mod container;
mod processes;
pub(crate) mod scratch;

use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, WaitOptions, getpid, pidfd_open, set_child_subreaper, wait,
};

use crate::task::{self, Breach, ContainerPlace, End, Limits, OutputFile, Place, Report, Task};
use cage::Cage;
use cgroup::Cgroup;
use processes::Tribe;
use scratch::Scratch;

/// Between two looks at what a script uses. What it can fill a disk with meanwhile is what it may go
/// beyond its limit.
const TICK: Duration = Duration::from_millis(100);

/// Where programs are looked for, if the service does not say: as in a Debian system, with its games.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games";

/// Longest input, in bytes: more than any body.
const MAX_INPUT: usize = 1 << 30;

/// Supervises one script, as the gateway says on standard input. What the program does when it is
/// started for that.
pub fn supervise() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is there who would read it.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let task: Task = task::read(&mut stdin)?;
    let input = task::read_bytes(&mut stdin, task.input.bytes, MAX_INPUT)?;
    let (end, results) = match run(&task, &input) {
        Ok((end, results)) => (Ok(end), results),
        Err(error) => (Err(error.to_string()), Results::default()),
    };
    let report = Report {
        end,
        log_bytes: results.log.len(),
        files: results
            .files
            .iter()
            .map(|file| (file.name.clone(), file.content.len()))
            .collect(),
    };
    let mut stdout = io::stdout().lock();
    task::write(&mut stdout, &report)?;
    stdout.write_all(&results.log)?;
    for file in &results.files {
        stdout.write_all(&file.content)?;
    }
    stdout.flush()
}

/// What a script leaves.
#[derive(Debug, Default)]
struct Results {
    log: Vec<u8>,
    files: Vec<OutputFile>,
}

/// A script that runs.
struct Running<'a> {
    limits: &'a Limits,
    began: Instant,
    child: Child,
    pipe: PipeReader,
    /// It has closed its output, and may go on all the same.
    is_silent: bool,
    log: Vec<u8>,
    holder: Holder<'a>,
}

/// What holds a script.
enum Holder<'a> {
    Host {
        cage: Cage,
        cgroup: Option<Cgroup>,
        tribe: Option<Tribe>,
    },
    Container(&'a ContainerPlace),
}

fn run(task: &Task, input: &[u8]) -> io::Result<(End, Results)> {
    // What its processes leave behind becomes ours to wait for.
    set_child_subreaper(Some(getpid()))?;
    let mut holder = match &task.place {
        Place::Host { .. } => Holder::Host {
            cage: Cage::new()?,
            cgroup: Cgroup::create(&format!("hearth-{}", std::process::id()), &task.limits).ok(),
            tribe: None,
        },
        Place::Container(place) => Holder::Container(place),
    };
    let scratch = Scratch::create(&task.folder, holder.user())?;
    let result = start(task, input, &mut holder, &scratch).and_then(|(child, pipe)| {
        let running = Running {
            limits: &task.limits,
            began: Instant::now(),
            child,
            pipe,
            is_silent: false,
            log: Vec::new(),
            holder,
        };
        running.finish(&scratch)
    });
    scratch::remove(&task.folder)
        .map_err(|error| io::Error::other(format!("its folder stays: {error}")))?;
    result
}

fn start(
    task: &Task,
    input: &[u8],
    holder: &mut Holder<'_>,
    scratch: &Scratch,
) -> io::Result<(Child, PipeReader)> {
    let mut variables = task.variables.clone();
    let view = holder.view(scratch);
    // An image has its own.
    if matches!(task.place, Place::Host { .. }) {
        variables
            .entry("PATH".to_owned())
            .or_insert_with(|| PATH.to_owned());
    }
    let mut set = |name: &str, path: &Path| {
        variables.insert(name.to_owned(), path.to_string_lossy().into_owned());
    };
    if matches!(task.place, Place::Host { .. }) {
        set("HOME", view);
        set("TMPDIR", view);
    }
    set("TMP_INPUT_DIR", &view.join(Scratch::INPUT));
    set("TMP_OUTPUT_DIR", &view.join(Scratch::OUTPUT));
    if let Some(name) = &task.input.name {
        let path = Path::new(Scratch::INPUT).join(name);
        set("INPUT_FILE_PATH", &view.join(&path));
        scratch.write(&path.to_string_lossy(), input)?;
    }
    scratch.write(Scratch::SCRIPT, task.script.as_bytes())?;

    let (pipe, theirs) = io::pipe()?;
    let mut command = match holder {
        Holder::Host { cage, cgroup, .. } => {
            let mut command = Command::new("/bin/sh");
            command
                .arg(view.join(Scratch::SCRIPT))
                .env_clear()
                .envs(&variables);
            let Place::Host { hidden } = &task.place else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            cage.confine(
                &mut command,
                scratch.path(),
                hidden,
                &task.limits,
                cgroup.as_ref(),
            )?;
            command
        }
        Holder::Container(place) => {
            scratch.write(
                container::VARIABLES,
                container::exports(&variables).as_bytes(),
            )?;
            place.command(scratch.path(), &task.limits)
        }
    };
    command
        .stdin(Stdio::null())
        .stdout(theirs.try_clone()?)
        .stderr(theirs);
    let child = command.spawn()?;
    if let Holder::Host { cage, tribe, .. } = holder {
        *tribe = Tribe::of(child.id(), cage.user());
    }
    Ok((child, pipe))
}

// === impl Holder ===

impl Holder<'_> {
    fn user(&self) -> Option<u32> {
        match self {
            Self::Host { cage, .. } => cage.user(),
            Self::Container(_) => None,
        }
    }

    /// Returns where the script finds its folder.
    fn view<'a>(&self, scratch: &'a Scratch) -> &'a Path {
        match self {
            Self::Host { cage, .. } => cage.view(scratch.path()),
            Self::Container(_) => scratch.path(),
        }
    }

    /// Returns the limit of processes and memory that the script is beyond, and what its files without
    /// a name have in bytes.
    fn look(&self, limits: &Limits) -> (Option<Breach>, u64) {
        let Self::Host { cgroup, tribe, .. } = self else {
            // The daemon sees to it.
            return (None, 0);
        };
        if let Some(cgroup) = cgroup {
            let breach = cgroup.is_full().then_some(Breach::Processes);
            return (breach, processes::nameless_bytes(&cgroup.processes()));
        }
        let pids = tribe.as_ref().map(Tribe::processes).unwrap_or_default();
        let usage = processes::usage(&pids);
        let breach = if usage.tasks >= limits.processes {
            Some(Breach::Processes)
        } else if usage.memory_bytes > limits.memory_bytes {
            Some(Breach::Memory)
        } else {
            None
        };
        (breach, processes::nameless_bytes(&pids))
    }

    /// Ends all processes of the script, and returns when they have ended, with the limit that the
    /// system has held them to.
    fn end(&self, child: &mut Child) -> io::Result<(ExitStatus, Option<Breach>)> {
        child.kill()?;
        let (status, ran_out) = match self {
            Self::Host { cage, .. } => {
                cage.end();
                (child.wait()?, false)
            }
            // Once the client has ended: one that was starting the container would start it afterwards.
            Self::Container(place) => (child.wait()?, place.end()),
        };
        // Whose parents have ended are our children: when there are none left, none is left.
        while let Ok(Some(_)) = wait(WaitOptions::empty()) {}
        let held = match self {
            Self::Host {
                cgroup: Some(cgroup),
                ..
            } => {
                let ran_out = cgroup.ran_out_of_memory().then_some(Breach::Memory);
                ran_out.or(cgroup.is_full().then_some(Breach::Processes))
            }
            Self::Host { cgroup: None, .. } => None,
            Self::Container(_) => ran_out.then_some(Breach::Memory),
        };
        Ok((status, held))
    }
}

// === impl Running ===

impl Running<'_> {
    /// Waits for the script's end, or brings it about, and returns what it left.
    fn finish(mut self, scratch: &Scratch) -> io::Result<(End, Results)> {
        let breach = self.watch(scratch);
        let (status, held) = self.holder.end(&mut self.child)?;
        // Nobody can write any more: it ends.
        let is_long = self.drain()?;
        let breach = breach?.or(held).or(is_long.then_some(Breach::Log));
        let breach = breach.or_else(|| self.full(scratch, 0));
        let results = match breach {
            Some(_) => Ok(Vec::new()),
            None => scratch.results(self.limits),
        };
        let end = match (&results, breach) {
            (Err(breach), _) => End::Breached(*breach),
            (Ok(_), Some(breach)) => End::Breached(breach),
            (Ok(_), None) => match (status.code(), status.signal()) {
                (Some(code), _) => End::Exited(code),
                (None, signal) => End::Signalled(signal.unwrap_or_default()),
            },
        };
        let results = Results {
            log: self.log,
            files: results.unwrap_or_default(),
        };
        Ok((end, results))
    }

    /// Returns when the script has ended, or is to end, for this reason.
    ///
    /// # Errors
    /// When nobody waits for it any more.
    fn watch(&mut self, scratch: &Scratch) -> io::Result<Option<Breach>> {
        let stdin = io::stdin();
        let pid = Pid::from_child(&self.child);
        let process: OwnedFd = pidfd_open(pid, PidfdFlags::empty())?;
        let mut next_look = Instant::now() + TICK;
        loop {
            let left = next_look.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or_default();
            let mut events = [
                PollFd::new(&stdin, PollFlags::IN),
                PollFd::new(&process, PollFlags::IN),
                PollFd::new(&self.pipe, PollFlags::IN),
            ];
            let n_events = if self.is_silent { 2 } else { 3 };
            match poll(&mut events[..n_events], Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled?,
            };
            let [gateway, ended, said] = events.map(|event| !event.revents().is_empty());
            if gateway {
                return Err(io::Error::other("nobody waits for it any more"));
            }
            if ended {
                return Ok(None);
            }
            if said && self.read_some()? == 0 {
                self.is_silent = true;
            }
            if self.log.len() as u64 > self.limits.log_bytes {
                return Ok(Some(Breach::Log));
            }
            if Instant::now() >= next_look {
                if self.began.elapsed() >= self.limits.time {
                    return Ok(Some(Breach::Time));
                }
                let (breach, nameless) = self.holder.look(self.limits);
                if let Some(breach) = breach.or_else(|| self.full(scratch, nameless)) {
                    return Ok(Some(breach));
                }
                next_look = Instant::now() + TICK;
            }
        }
    }

    fn full(&self, scratch: &Scratch, nameless: u64) -> Option<Breach> {
        let size = scratch.size(self.limits);
        if size.is_unreadable || size.entries > self.limits.scratch_entries {
            Some(Breach::Entries)
        } else if size.bytes + nameless >= self.limits.scratch_bytes {
            Some(Breach::Scratch)
        } else {
            None
        }
    }

    fn read_some(&mut self) -> io::Result<usize> {
        let mut part = [0; 64 << 10];
        let length = self.pipe.read(&mut part)?;
        self.log.extend_from_slice(&part[..length]);
        Ok(length)
    }

    /// Reads what is left; returns whether it is more than it may be, which then is cut off.
    fn drain(&mut self) -> io::Result<bool> {
        let limit = usize::try_from(self.limits.log_bytes).unwrap_or(usize::MAX);
        while self.log.len() <= limit && self.read_some()? > 0 {}
        let is_long = self.log.len() > limit;
        self.log.truncate(limit);
        Ok(is_long)
    }
}
