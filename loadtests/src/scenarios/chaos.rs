//! Workers are killed under load: every request is answered, almost all with a result, and none is
//! run more than twice.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Promise, Setting, WARM_UP};
use crate::gateway::{Gateway, poisson};
use crate::random::Random;
use crate::subject::Subject;

const SECONDS: f64 = 60.0;
const N_KILLS: f64 = 200.0;

pub(super) async fn run(setting: &Setting) -> anyhow::Result<()> {
    let subject = Subject::yolox_nano(&setting.shared)?;
    if !setting.wants(&subject) {
        return Ok(());
    }
    let promise = Promise {
        scenario: "chaos",
        of: subject.name,
    };
    let gateway = Gateway::start(&subject, setting.seconds(5.0)).await?;
    let saturation = gateway
        .saturate(WARM_UP, setting.seconds(10.0))
        .await?
        .throughput();

    let duration = setting.seconds(SECONDS);
    let load = poisson(saturation / 2.0, Duration::ZERO, duration, None);
    let n_kills = N_KILLS * duration.as_secs_f64() / SECONDS;
    let (report, killed) = tokio::join!(
        load.run(gateway.target()),
        kill(&gateway, duration, n_kills)
    );
    let (report, n_killed) = (report?, killed?);

    let n_answered: u64 = report.statuses.values().sum();
    let offered = report.offered.max(1) as f64;
    promise.at_least("requests answered", n_answered as f64 / offered, 1.0);
    promise.at_least(
        "of them with 200",
        report.served.len() as f64 / offered,
        0.99,
    );
    promise.at_most(
        "most runs of a request",
        gateway.metric("entry_runs_most")?,
        2.0,
    );
    let [p50, _, p99, _, max] = report.served.percentiles_ms();
    promise.note(&format!(
        "{n_killed} workers killed of {n_kills:.0} in {:.0} s under {:.1} requests/s, half of saturation; p50 {p50:.1} ms, \
         p99 {p99:.1} ms, longest {max:.0} ms; statuses {:?}, errors {:?}; retried {}, given up {}",
        duration.as_secs_f64(),
        saturation / 2.0,
        report.statuses,
        report.errors,
        gateway.metric("entries_retried_total")?,
        gateway.metric("entries_poisoned_total")?,
    ));
    Ok(())
}

/// Kills a worker at a random moment in each of so many equal parts of the time; where there is none
/// just then, the next one to be there, while there is time. Returns how many.
async fn kill(gateway: &Gateway, duration: Duration, n_kills: f64) -> anyhow::Result<u32> {
    let mut random = Random::new(5);
    let began = Instant::now();
    let mut n_killed = 0;
    while f64::from(n_killed) < n_kills {
        let part = f64::from(n_killed) + random.unit();
        let moment = began + duration.mul_f64(part / n_kills);
        tokio::time::sleep_until(moment.into()).await;
        while !kill_one(&gateway.workers()?, &mut random)? {
            if began.elapsed() > duration {
                return Ok(n_killed);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        n_killed += 1;
    }
    Ok(n_killed)
}

/// Kills one of these at random; returns whether there was one that lived.
fn kill_one(workers: &[u32], random: &mut Random) -> anyhow::Result<bool> {
    if workers.is_empty() {
        return Ok(false);
    }
    let chosen = i32::try_from(workers[random.below(workers.len())])?;
    let Some(pid) = Pid::from_raw(chosen) else {
        return Ok(false);
    };
    match kill_process(pid, Signal::KILL) {
        Ok(()) => Ok(true),
        // It has ended by itself meanwhile.
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(io::Error::from(error).into()),
    }
}
