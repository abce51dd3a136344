//! The generator: requests at their times, whether or not those before were answered.
//!
//! Latency counts from the scheduled time, so a server that stalls is charged with what it made
//! wait, not only with what happened to be in flight ("coordinated omission", Gil Tene).

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::alarm::Alarm;
use crate::arrivals::{Arrivals, Pattern};
use crate::client::{Pool, Target};
use crate::report::{Outcome, Report};

/// Who answers nothing for so long after the deadline is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to send, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) pace: Pace,
    /// Before the measured time; what is scheduled in it is sent, and not counted.
    pub(crate) warm_up: Duration,
    /// The measured time.
    pub(crate) duration: Duration,
    /// The requests carry it themselves; here it tells which answers are good.
    pub(crate) deadline: Option<Duration>,
    pub(crate) max_connections: usize,
    pub(crate) seed: u64,
}

/// What decides when a request is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Time, at this mean rate.
    Open { pattern: Pattern, per_second: f64 },
    /// The answer before: so many callers send the next at once.
    Closed { n_callers: usize },
}

struct Session {
    target: Target,
    pool: Pool,
    began: Instant,
    /// Requests scheduled in it count.
    window: Range<Duration>,
    timeout: Duration,
    report: Mutex<Report>,
}

impl Load {
    /// Puts the load on a target, and returns when all that was sent is answered or given up.
    ///
    /// # Errors
    /// When the system gives no timer.
    pub(crate) async fn run(&self, target: &Target) -> io::Result<Report> {
        let window = self.warm_up..self.warm_up + self.duration;
        let session = Arc::new(Session {
            target: target.clone(),
            pool: Pool::new(target, self.max_connections),
            began: Instant::now(),
            window,
            timeout: self.deadline.unwrap_or_default() + PATIENCE,
            report: Mutex::new(Report::new(self.duration, self.deadline)),
        });
        match self.pace {
            Pace::Open {
                pattern,
                per_second,
            } => {
                let arrivals = Arrivals::new(pattern, per_second, self.seed);
                session.open_loop(arrivals).await?;
            }
            Pace::Closed { n_callers } => session.closed_loop(n_callers).await,
        }
        let report = session.report.lock();
        Ok(report.unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Session {
    async fn open_loop(self: &Arc<Self>, arrivals: Arrivals) -> io::Result<()> {
        let mut alarm = Alarm::new()?;
        let mut calls = JoinSet::new();
        for due in arrivals.take_while(|due| *due < self.window.end) {
            alarm.until(self.began + due).await?;
            let session = Arc::clone(self);
            calls.spawn(async move { session.call(due).await });
            while calls.try_join_next().is_some() {}
        }
        calls.join_all().await;
        Ok(())
    }

    async fn closed_loop(self: &Arc<Self>, n_callers: usize) {
        let mut callers = JoinSet::new();
        for _ in 0..n_callers {
            let session = Arc::clone(self);
            callers.spawn(async move {
                while session.began.elapsed() < session.window.end {
                    session.call(session.began.elapsed()).await;
                }
            });
        }
        callers.join_all().await;
    }

    async fn call(&self, due: Duration) {
        let mut sent = None;
        let call = self.pool.call(self.target.bytes(), &mut sent);
        let result = tokio::time::timeout(self.timeout, call)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if !self.window.contains(&due) {
            return;
        }
        let due = self.began + due;
        let outcome = Outcome {
            lateness: sent.map(|sent| sent.saturating_duration_since(due)),
            latency: due.elapsed(),
            result,
        };
        let report = self.report.lock();
        report
            .unwrap_or_else(PoisonError::into_inner)
            .record(&outcome);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Starts a server that answers everything alike, after this time.
    async fn server(answer: &'static str, after: Duration) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while socket.read(&mut request).await.unwrap() > 0 {
                        tokio::time::sleep(after).await;
                        socket.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let url = url.parse().unwrap();
        Target::post(&url, &[], b"body").await.unwrap()
    }

    fn load(pace: Pace, max_connections: usize) -> Load {
        Load {
            pace,
            warm_up: Duration::from_millis(50),
            duration: Duration::from_millis(400),
            deadline: Some(Duration::from_millis(100)),
            max_connections,
            seed: 3,
        }
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[tokio::test]
    async fn requests_that_wait_for_a_connection_are_charged_with_the_wait() {
        let target = server(OK, Duration::from_millis(20)).await;
        let pace = Pace::Open {
            pattern: Pattern::Uniform,
            per_second: 100.0,
        };
        let report = load(pace, 1).run(&target).await.unwrap();
        // One connection serves fifty a second, so the last of 45 waits half of 900 ms.
        assert!((39..=41).contains(&report.offered), "{report}");
        assert_eq!(report.served.len(), report.offered);
        let [.., max] = report.served.percentiles_ms();
        assert!(max > 400.0, "{max} ms");
        assert!(report.good < 30, "{report}");
        assert!(report.warning().is_some());
        assert!(report.latest_ms.unwrap() > 0.0);
    }

    #[tokio::test]
    async fn callers_in_a_closed_loop_send_one_request_at_a_time() {
        let answer = "HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let target = server(answer, Duration::from_millis(10)).await;
        let report = load(Pace::Closed { n_callers: 2 }, 8).run(&target).await;
        let report = report.unwrap();
        assert_eq!(report.statuses[&429], report.offered);
        assert!((20..=80).contains(&report.offered), "{report}");
        assert_eq!((report.good, report.latest_ms), (0, None));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_with_its_kind() {
        let target = server("HTTP/1.1 200 OK\r\n\r\n", Duration::from_millis(10)).await;
        let report = load(Pace::Closed { n_callers: 1 }, 1).run(&target).await;
        let report = report.unwrap();
        assert!(report.offered > 0);
        assert_eq!(report.errors["invalid data"], report.offered);
    }
}
