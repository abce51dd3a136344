//! One ffmpeg: within limits, heard, and ended with whoever needs it.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How far behind everyone else it is: nobody waits for a video.
const NICENESS: i32 = 10;

/// Longest line of what it says, in bytes; the rest is passed over.
const MAX_LINE: usize = 4096;

/// Lines that are kept of what went wrong, the last ones, and bytes of each.
const MAX_KEPT: usize = 5;
const MAX_KEPT_BYTES: usize = 300;

/// What a process may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// That it may write to, in bytes.
    pub(crate) memory_bytes: u64,
    pub(crate) processor_time: Duration,
}

/// Starts processes, from a thread that lives as long as this does: a process that ends with its parent
/// ends with the thread that started it (`prctl(2)`, `PR_SET_PDEATHSIG`), and tokio's come and go.
#[derive(Debug)]
pub(crate) struct Starter {
    orders: SyncSender<Order>,
}

type Order = (Command, oneshot::Sender<io::Result<Child>>);

/// A process that runs. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Until it has been heard to its end.
    hearing: Option<JoinHandle<Said>>,
    said: String,
    /// What it says of each frame.
    pub(crate) moments: mpsc::Receiver<Moment>,
}

/// When a frame is shown, in seconds from the beginning; nothing where it does not say.
pub(crate) type Moment = Option<f64>;

/// What a process said of what went wrong.
#[derive(Clone, Debug, Default)]
struct Said {
    last: VecDeque<String>,
}

// === impl Starter ===

impl Starter {
    pub(crate) fn new() -> io::Result<Self> {
        // They wait for each other; none is lost.
        let (orders, ordered) = sync_channel::<Order>(16);
        let runtime = tokio::runtime::Handle::current();
        let start = move || {
            let _runtime = runtime.enter();
            for (mut command, answer) in ordered {
                // Whoever has left meanwhile drops the process, which ends it.
                let _ = answer.send(command.spawn());
            }
        };
        std::thread::Builder::new()
            .name("ffmpeg".to_owned())
            .spawn(start)?;
        Ok(Self { orders })
    }

    pub(crate) async fn start<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        folder: &Path,
        arguments: impl IntoIterator<Item = S>,
        limits: Limits,
    ) -> io::Result<Process> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the gateway.
            .process_group(0)
            .kill_on_drop(true);
        confine(&mut command, limits);
        let (answer, started) = oneshot::channel();
        let gone = || io::Error::other("what starts processes has ended");
        self.orders
            .try_send((command, answer))
            .map_err(|error| match error {
                std::sync::mpsc::TrySendError::Full(_) => io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "too many processes are being started",
                ),
                std::sync::mpsc::TrySendError::Disconnected(_) => gone(),
            })?;
        let mut child = started.await.map_err(|_| gone())??;
        let stderr = child.stderr.take().ok_or_else(gone)?;
        // Far more than it is ahead of its frames.
        let (sender, moments) = mpsc::channel(1024);
        let hearing = tokio::spawn(hear(stderr, sender));
        Ok(Process {
            child,
            hearing: Some(hearing),
            said: String::new(),
            moments,
        })
    }
}

/// Has a command begin its life within limits, and end it with this process.
#[expect(
    unsafe_code,
    reason = "what runs between fork and exec is unsafe by its nature"
)]
fn confine(command: &mut Command, limits: Limits) {
    let parent = rustix::process::getpid();
    let limits = [
        (Resource::Core, 0),
        (Resource::Data, limits.memory_bytes),
        (Resource::Cpu, limits.processor_time.as_secs()),
    ];
    let steps = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before that.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        for (resource, most) in limits {
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
        rustix::process::nice(NICENESS)?;
        rustix::thread::set_no_new_privs(true)?;
        Ok(())
    };
    // SAFETY: the steps make system calls on what was prepared before: they neither allocate nor lock.
    unsafe {
        command.pre_exec(steps);
    }
}

// === impl Process ===

impl Process {
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until it has ended, and returns how, and what it said of what went wrong. Cancel-safe.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub(crate) async fn end(&mut self) -> io::Result<(ExitStatus, String)> {
        let status = self.child.wait().await?;
        // Nobody else holds its standard error, so that has ended too.
        if let Some(hearing) = &mut self.hearing {
            self.said = hearing.await.unwrap_or_default().sentence();
            self.hearing = None;
        }
        Ok((status, self.said.clone()))
    }
}

/// Says how a process ended that should not have.
pub(crate) fn reason(status: ExitStatus, said: &str) -> String {
    let how = match status.signal() {
        Some(signal) if signal == Signal::XCPU.as_raw() => {
            "it used all the processor time that it may".to_owned()
        }
        Some(signal) => format!("ffmpeg was ended by signal {signal}"),
        None => match status.code() {
            Some(code) if said.is_empty() => format!("ffmpeg ended with exit code {code}"),
            _ => String::new(),
        },
    };
    match (how.is_empty(), said.is_empty()) {
        (true, _) => said.to_owned(),
        (false, true) => how,
        (false, false) => format!("{how}: {said}"),
    }
}

// === what it says ===

/// Hears what a process says until it ends, in lines as `[TAG] [LEVEL] TEXT`.
async fn hear(stderr: ChildStderr, moments: mpsc::Sender<Moment>) -> Said {
    let mut reader = BufReader::new(stderr);
    let (mut said, mut clock) = (Said::default(), Clock::default());
    let mut line = Vec::new();
    while let Ok(bytes) = reader.fill_buf().await
        && !bytes.is_empty()
    {
        let end = memchr::memchr(b'\n', bytes);
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let room = MAX_LINE - line.len();
        line.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
        let n_read = end.map_or(bytes.len(), |end| end + 1);
        reader.consume(n_read);
        if end.is_none() {
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        match clock.read(&text) {
            // Whoever does not take frames any more needs no times either.
            Some(moment) => _ = moments.send(moment).await,
            None => said.hear(&text),
        }
        line.clear();
    }
    said
}

/// Reads the lines of the filter `showinfo`.
#[derive(Debug, Default)]
struct Clock {
    /// Seconds of a tick.
    tick: f64,
}

impl Clock {
    /// Reads when a frame is shown from the line that is about it.
    fn read(&mut self, line: &str) -> Option<Moment> {
        let line = line.strip_prefix("[Parsed_showinfo_")?;
        if let Some((_, base)) = line.split_once("config in time_base: ") {
            let base = base.split(',').next().unwrap_or_default();
            let (part, whole) = base.split_once('/').unwrap_or((base, "1"));
            let number = |text: &str| text.trim().parse::<f64>().ok();
            self.tick = match (number(part), number(whole)) {
                (Some(part), Some(whole)) if whole > 0.0 => part / whole,
                _ => 0.0,
            };
            return None;
        }
        let (_, rest) = line.split_once("] n:")?;
        let (_, rest) = rest.split_once(" pts:")?;
        // Not `pts_time`, which has six digits in all.
        let ticks = rest.split_whitespace().next().unwrap_or_default();
        let ticks = ticks.parse::<i64>().ok();
        // Microseconds are as much as any container has.
        Some(ticks.map(|ticks| (ticks as f64 * self.tick * 1e6).round() / 1e6))
    }
}

impl Said {
    /// Keeps a line that says what went wrong.
    fn hear(&mut self, line: &str) {
        const LEVELS: [&str; 3] = ["[error] ", "[fatal] ", "[panic] "];
        let found = LEVELS.iter().find_map(|level| line.split_once(level));
        let Some((tag, text)) = found.filter(|(_, text)| !text.trim().is_empty()) else {
            return;
        };
        // `[h264 @ 0x55d4…] `: who it is, without where it lies.
        let tag = tag.split_once(" @ ").map_or("", |(tag, _)| tag);
        let tag = tag.trim_start_matches('[');
        let mut kept = match tag {
            "" => text.trim().to_owned(),
            tag => format!("{tag}: {}", text.trim()),
        };
        kept.truncate(kept.floor_char_boundary(MAX_KEPT_BYTES));
        if self.last.len() == MAX_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(kept);
    }

    fn sentence(self) -> String {
        Vec::from(self.last).join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_ticks() {
        let mut clock = Clock::default();
        let head = "[Parsed_showinfo_1 @ 0x5562] [info]";
        let config = format!("{head} config in time_base: 1/90000, frame_rate: 25/1");
        assert_eq!(clock.read(&config), None);
        let frame = |ticks| format!("{head} n:  12 pts: {ticks} pts_time:12345.7 fmt:yuv420p");
        assert_eq!(clock.read(&frame("1111111")), Some(Some(12.345_678)));
        assert_eq!(clock.read(&frame("NOPTS")), Some(None));
        for other in [
            format!("{head} color_range:unknown"),
            format!("{head}   side data - User Data=] n: pts:"),
            "[h264 @ 0x5562] [error] n:1 pts:2".to_owned(),
        ] {
            assert!(!matches!(clock.read(&other), Some(Some(_))), "{other}");
        }
    }

    #[test]
    fn only_what_went_wrong_is_kept_and_only_the_last_of_it() {
        let mut said = Said::default();
        for number in 0..10 {
            said.hear(&format!("[h264 @ 0x5562] [error] no {number}"));
            said.hear("[h264 @ 0x5562] [warning] well");
            said.hear("[h264 @ 0x5562] [error] ");
        }
        said.hear(&format!("[fatal] {}", "é".repeat(1000)));
        let sentence = said.sentence();
        assert!(sentence.starts_with("h264: no 6; h264: no 7"), "{sentence}");
        assert!(sentence.len() < 400, "{sentence}");
    }
}
