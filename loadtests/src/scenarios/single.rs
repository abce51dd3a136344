//! One request at a time: where batches may form, a lone caller waits no longer than where they may
//! not.

use std::time::{Duration, Instant};

use super::{Promise, Setting};
use crate::gateway::Gateway;
use crate::report::Durations;
use crate::subject::Subject;

pub(super) async fn run(setting: &Setting) -> anyhow::Result<()> {
    for subject in [
        Subject::yolox_nano(&setting.shared)?,
        Subject::mnist(&setting.shared)?,
    ] {
        if setting.wants(&subject) {
            compare(setting, &subject).await?;
        }
    }
    Ok(())
}

async fn compare(setting: &Setting, subject: &Subject) -> anyhow::Result<()> {
    let promise = Promise {
        scenario: "single",
        of: subject.name,
    };
    let warm_up = setting.seconds(5.0);
    let batching = Gateway::start(subject, warm_up).await?;
    let single = Gateway::start(&subject.with("batch: { max: 1 }"), warm_up).await?;

    let mut sides = [&batching, &single].map(|gateway| (gateway, Durations::new()));
    let mut connections = [batching.connect()?, single.connect()?];
    let (began, duration) = (Instant::now(), setting.seconds(20.0));
    // They take turns, so that what else the machine does hurts both alike.
    while began.elapsed() < duration {
        for ((gateway, calls), connection) in sides.iter_mut().zip(&mut connections) {
            calls.record(call(connection, gateway.target().bytes())?);
        }
    }
    let [batching, single] = sides.map(|(_, calls)| calls);
    let [batching_ms, single_ms] = [&batching, &single].map(|calls| calls.quantile_ms(0.5));
    promise.at_most(
        "median of one caller / the same with batch.max 1",
        batching_ms / single_ms,
        1.05,
    );
    promise.note(&format!(
        "{batching_ms:.3} ms and {single_ms:.3} ms, {} calls each, in turns",
        single.len()
    ));
    Ok(())
}

fn call(
    connection: &mut hearth_benches::http::Connection,
    request: &[u8],
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let status = connection.call(request)?.status;
    anyhow::ensure!(status == 200, "answered {status}");
    Ok(began.elapsed())
}
