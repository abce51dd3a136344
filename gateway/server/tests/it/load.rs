//! Load: workers that are killed under it, and more uploads than there is room for.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image::ImageFormat;
use rustix::process::Signal;

use crate::hearth::{Hearth, PLAIN, Store, eventually, kill, sources};
use crate::infer::tensor_request;
use crate::pictures::{RED, encode, noise, picture_models, png};
use crate::refusals::{peak_memory, read_answer};

#[expect(
    clippy::disallowed_methods,
    reason = "arrivals and kills have their times, whatever has happened until then"
)]
fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

// === workers that are killed ===

/// Kills per second under load: fifty in a minute.
const KILLS_PER_SECOND: f64 = 50.0 / 60.0;
/// More than there are requests in flight while a worker starts, so that none waits for a client.
const N_CLIENTS: usize = 64;

/// A model to call, and what to call it with.
struct Target {
    store: Store,
    path: &'static str,
    body: Vec<u8>,
}

impl Target {
    /// A detector of real photos, or where there are none the slowest of the tiny graphs.
    fn new() -> Self {
        let shared = sources().join("../shared");
        if shared.join("models").is_dir() {
            Self {
                store: Store::new().with_example("yolox-nano", &shared),
                path: "/run/yolox-nano",
                body: fs::read(shared.join("media/bus.jpg")).unwrap(),
            }
        } else {
            Self {
                store: Store::new().with("slow", PLAIN, "slow"),
                path: "/v2/models/slow/infer",
                body: tensor_request("x", "FP32", &[1, 8], &[1; 8]).into(),
            }
        }
    }
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    /// Returns a number from 0 to 1, without 0.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// Returns how many requests a second are answered when clients send the next at once.
fn saturation(hearth: &Hearth, target: (&str, &[u8]), time: Duration) -> f64 {
    let n_answers = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while began.elapsed() < time {
                    hearth.post(target.0, target.1).ok();
                    n_answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    n_answers.into_inner() as f64 / began.elapsed().as_secs_f64()
}

/// Sends requests at their times, whether or not those before were answered; returns each one's
/// status and how long after its time the answer came.
fn open_loop(
    hearth: &Hearth,
    target: (&str, &[u8]),
    began: Instant,
    arrivals: &[Duration],
) -> Vec<(u16, Duration)> {
    let next = AtomicUsize::new(0);
    let client = || {
        let mut answers = Vec::new();
        while let Some(arrival) = arrivals.get(next.fetch_add(1, Ordering::Relaxed)) {
            let due = began + *arrival;
            sleep_until(due);
            let status = hearth.post(target.0, target.1).status.as_u16();
            answers.push((status, due.elapsed()));
        }
        answers
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..N_CLIENTS).map(|_| scope.spawn(client)).collect();
        let answers = clients.into_iter().map(|client| client.join().unwrap());
        answers.flatten().collect()
    })
}

/// Kills a worker at each of these times; where there is none just then, the next one to be there.
fn kill_workers(hearth: &Hearth, began: Instant, moments: &[Duration], random: &mut Random) {
    for moment in moments {
        sleep_until(began + *moment);
        let worker = eventually("a worker is there", || {
            let workers = hearth.workers();
            let chosen = (random.unit() * workers.len() as f64).ceil() as usize;
            workers.get(chosen.checked_sub(1)?).copied()
        });
        kill(worker, Signal::KILL);
    }
}

/// `HEARTH_CHAOS_SECONDS=60` makes it last a minute.
#[test]
fn requests_outlive_the_workers_that_are_killed_under_them() {
    let asked = std::env::var("HEARTH_CHAOS_SECONDS");
    let seconds = asked.as_ref().map_or(8.0, |s| s.parse::<f64>().unwrap());
    let Target { store, path, body } = Target::new();
    let target = (path, body.as_slice());
    let model = path
        .split('/')
        .find(|part| store.path().join(part).is_dir() && !part.is_empty());
    let model = model.unwrap();
    let hearth = Hearth::start(store, &[]);
    hearth.post(path, &body).ok();
    let saturation = saturation(&hearth, target, Duration::from_secs_f64(seconds / 6.0));

    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut arrivals = Vec::new();
    let mut at = 0.0;
    while at < seconds {
        // A Poisson process.
        at -= random.unit().ln() / (saturation / 2.0);
        arrivals.push(Duration::from_secs_f64(at));
    }
    // One in each part of the time, anywhere in it.
    let n_kills = (seconds * KILLS_PER_SECOND).round();
    let moments: Vec<_> = (0..n_kills as u32)
        .map(|part| f64::from(part) + random.unit())
        .map(|part| Duration::from_secs_f64(part * seconds / n_kills))
        .collect();

    let began = Instant::now();
    let mut answers = std::thread::scope(|scope| {
        scope.spawn(|| kill_workers(&hearth, began, &moments, &mut random));
        open_loop(&hearth, target, began, &arrivals)
    });
    answers.sort_by_key(|(_, time)| *time);

    let mut n_by_status = BTreeMap::new();
    for (status, _) in &answers {
        *n_by_status.entry(*status).or_insert(0) += 1;
    }
    let metric = |name: &str| hearth.metric(name, model);
    let [p50, p99] = [50, 99].map(|percent| answers[answers.len() * percent / 100].1);
    println!(
        "{model}: saturation {saturation:.1}/s; {} requests at half of it in {seconds} s, {n_kills} kills\n\
         answers by status: {n_by_status:?}; p50 {p50:.0?}, p99 {p99:.0?}\n\
         retried {}, given up {}, most runs of a request {}; launches {}, crashes {}, failed starts {}",
        answers.len(),
        metric("entries_retried_total"),
        metric("entries_poisoned_total"),
        metric("entry_runs_most"),
        metric("worker_launches_total"),
        metric("worker_crashes_total"),
        metric("worker_failed_starts_total"),
    );
    assert_eq!(answers.len(), arrivals.len());
    let n_good = n_by_status.get(&200).copied().unwrap_or(0);
    // Whoever got no result was told that its workers died.
    let n_given_up = n_by_status.get(&500).copied().unwrap_or(0);
    assert_eq!(n_good + n_given_up, answers.len(), "{n_by_status:?}");
    // How many that are depends on how long runs take beside the time between two kills: it is of a
    // quiet machine that one in a hundred is promised.
    let share = if asked.is_ok() { 0.01 } else { 0.5 };
    let most = (answers.len() as f64 * share).max(1.0);
    assert!(n_given_up as f64 <= most, "{n_by_status:?}");
    assert!(metric("entry_runs_most") <= 2.0);
    hearth.post(path, &body).ok();
    hearth.stop();
}

// === more uploads than there is room for ===

/// The default of `--max-bytes-in-flight`.
const MAX_BYTES_IN_FLIGHT: u64 = 256 << 20;
/// What the gateway may take beside the bodies: buffers of connections and of the wire.
const OVERHEAD: u64 = 64 << 20;
const N_UPLOADS: usize = 100;

/// A picture of five megabytes, which are quickly decoded.
#[test]
fn connections_beyond_the_limit_wait_and_none_is_reset() {
    // One is the client's of these tests, which keeps it.
    let hearth = Hearth::start(Store::new(), &["--max-connections", "2"]);
    assert_eq!(hearth.get("/health").status, 200);
    let ask = |rest: &str| {
        let mut socket = hearth.connect();
        let request = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{rest}\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        socket
    };
    let mut first = ask("");
    let mut answer = [0; 12];
    first.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let others: Vec<_> = (0..16).map(|_| ask("connection: close\r\n")).collect();
    drop(first);
    for mut socket in others {
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    hearth.stop();
}

fn large_picture() -> Vec<u8> {
    encode(&noise(1300, 1300), ImageFormat::Bmp)
}

fn bytes_in_flight(hearth: &Hearth) -> u64 {
    let metrics = hearth.get("/metrics").text();
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix("hearth_bytes_in_flight "));
    value.unwrap().parse().unwrap()
}

fn await_bytes_in_flight(hearth: &Hearth, bytes: impl Fn(u64) -> bool) {
    eventually("the expected bytes are in flight", || {
        bytes(bytes_in_flight(hearth)).then_some(())
    });
}

fn upload(hearth: &Hearth, header: &str) -> TcpStream {
    let mut socket = hearth.connect();
    write!(
        socket,
        "POST /run/mean HTTP/1.1\r\nhost: localhost\r\n{header}\r\n\r\n"
    )
    .unwrap();
    socket
}

#[test]
fn uploads_without_room_are_refused_unread_and_memory_stays_bounded() {
    let hearth = Hearth::start(picture_models(), &[]);
    let picture = large_picture();
    hearth.post("/run/mean", &png(RED)).ok();
    // Makes what is resident now the most that ever was.
    fs::write(format!("/proc/{}/clear_refs", hearth.pid()), "5").unwrap();
    let idle = peak_memory(hearth.pid());

    let length = format!("content-length: {}", picture.len());
    let n_fitting = usize::try_from(MAX_BYTES_IN_FLIGHT).unwrap() / picture.len();
    let mut admitted: Vec<_> = (0..n_fitting).map(|_| upload(&hearth, &length)).collect();
    await_bytes_in_flight(&hearth, |bytes| bytes == (n_fitting * picture.len()) as u64);
    for _ in n_fitting..N_UPLOADS {
        let answer = read_answer(&mut upload(&hearth, &length));
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    }
    std::thread::scope(|scope| {
        for socket in &mut admitted {
            scope.spawn(|| {
                socket.write_all(&picture).unwrap();
                let answer = read_answer(socket);
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            });
        }
    });
    let peak = peak_memory(hearth.pid());

    // The same without order: clients that send all at once.
    let n_served = std::thread::scope(|scope| {
        let send = || hearth.post("/run/mean", &picture).status.as_u16();
        let clients: Vec<_> = (0..N_UPLOADS).map(|_| scope.spawn(send)).collect();
        let statuses = clients.into_iter().map(|client| client.join().unwrap());
        let served = statuses.inspect(|status| assert!(matches!(status, 200 | 429), "{status}"));
        served.filter(|status| *status == 200).count()
    });
    assert!(n_served > 0);
    await_bytes_in_flight(&hearth, |bytes| bytes == 0);
    let peak_at_once = peak_memory(hearth.pid());
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "idle {:.1} MiB; with {n_fitting} of {N_UPLOADS} bodies in flight at most {:.1} MiB more; \
         sent all at once {n_served} are served, at most {:.1} MiB more (limit {:.0} MiB)",
        mib(idle),
        mib(peak - idle),
        mib(peak_at_once - idle),
        mib(MAX_BYTES_IN_FLIGHT + OVERHEAD),
    );
    assert!(peak_at_once <= idle + MAX_BYTES_IN_FLIGHT + OVERHEAD);
    hearth.stop();
}

#[test]
fn a_chunked_body_takes_room_as_it_grows_and_is_refused_when_there_is_none() {
    let limits = ["--max-bytes-in-flight", "16MiB", "--max-body", "16MiB"];
    let hearth = Hearth::start(picture_models(), &limits);
    let picture = large_picture();
    let (first_part, rest) = picture.split_at(3 << 20);
    let send = |socket: &mut TcpStream, part: &[u8]| {
        write!(socket, "{:x}\r\n", part.len()).unwrap();
        socket.write_all(part).unwrap();
        socket.write_all(b"\r\n").unwrap();
    };
    let begin = || upload(&hearth, "transfer-encoding: chunked");
    let finish = |socket: &mut TcpStream| {
        send(socket, rest);
        socket.write_all(b"0\r\n\r\n").unwrap();
        read_answer(socket)
    };

    // Room is taken by doubling: 4 MiB each.
    let mut growing: Vec<_> = (1..=4)
        .map(|n_growing| {
            let mut socket = begin();
            send(&mut socket, first_part);
            await_bytes_in_flight(&hearth, |bytes| bytes == n_growing * (4 << 20));
            socket
        })
        .collect();
    let mut late = begin();
    send(&mut late, b"BM");
    let answer = read_answer(&mut late);
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    drop(late);

    // Of those that hold all the room, the first to need more makes place for the others.
    let mut socket = growing.remove(0);
    let answer = finish(&mut socket);
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    for mut socket in growing {
        let answer = finish(&mut socket);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    await_bytes_in_flight(&hearth, |bytes| bytes == 0);
    hearth.stop();
}
