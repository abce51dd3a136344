//! Bulk work takes what interactive requests leave over: beside them it delays them by one short
//! batch at most, and alone it is as fast as anything.

use std::time::Duration;

use super::{Promise, Setting, WARM_UP};
use crate::gateway::{Gateway, poisson, saturation};
use crate::report::Report;
use crate::subject::Subject;

/// Of the capacity, as interactive load.
const SHARE: f64 = 0.3;
const N_ROUNDS: usize = 5;
/// The longest batch of bulk work while there is interactive work.
const MAX_BATCH_MS: f64 = 50.0;

pub(super) async fn run(setting: &Setting) -> anyhow::Result<()> {
    let subject = Subject::yolox_nano(&setting.shared)?;
    if !setting.wants(&subject) {
        return Ok(());
    }
    let promise = Promise {
        scenario: "bulk",
        of: subject.name,
    };
    let gateway = Gateway::start(&subject, setting.seconds(5.0)).await?;
    let bulk = gateway.target_with("x-hearth-class", "bulk").await?;
    let interactive = gateway.target();
    let duration = setting.seconds(6.0);
    let callers = saturation(WARM_UP, duration);

    let mut interactive_alone = Vec::new();
    let mut bulk_alone = Vec::new();
    for _ in 0..N_ROUNDS {
        interactive_alone.push(callers.run(interactive).await?);
        bulk_alone.push(callers.run(&bulk).await?);
    }
    let [interactive_alone, bulk_alone] = [sum(&interactive_alone), sum(&bulk_alone)];
    let capacity = interactive_alone.throughput();

    let arrivals = poisson(SHARE * capacity, WARM_UP, duration, None);
    let (mut alone, mut beside, mut bulk_beside) = (Vec::new(), Vec::new(), Vec::new());
    let mut batches_ms = Vec::new();
    for _ in 0..N_ROUNDS {
        alone.push(arrivals.run(interactive).await?);
        let runs = gateway.runs()?;
        let (with_bulk, bulk) = tokio::join!(arrivals.run(interactive), callers.run(&bulk));
        batches_ms.push(gateway.runs()?.mean_ms_since(runs));
        beside.push(with_bulk?);
        bulk_beside.push(bulk?);
    }
    let batch_ms = batches_ms.iter().sum::<f64>() / N_ROUNDS as f64;
    let [alone, beside, bulk_beside] = [sum(&alone), sum(&beside), sum(&bulk_beside)];

    let [alone_ms, beside_ms] = [&alone, &beside].map(|report| report.served.quantile_ms(0.99));
    promise.at_most(
        "p99 of interactive requests beside bulk, more by ms (limit: a batch)",
        beside_ms - alone_ms,
        batch_ms.min(MAX_BATCH_MS),
    );
    promise.at_least(
        "throughput of bulk alone / saturation",
        bulk_alone.throughput() / capacity,
        0.97,
    );
    promise.note(&format!(
        "interactive {:.1}/s, p50 {:.1} → {:.1} ms, p99 {alone_ms:.1} → {beside_ms:.1} ms; \
         bulk beside it {:.1}/s, alone {:.1}/s, saturation {capacity:.1}/s; statuses {:?} and {:?}",
        beside.throughput(),
        alone.served.quantile_ms(0.5),
        beside.served.quantile_ms(0.5),
        bulk_beside.throughput(),
        bulk_alone.throughput(),
        beside.statuses,
        bulk_beside.statuses,
    ));
    Ok(())
}

/// Returns the rounds as one.
fn sum(rounds: &[Report]) -> Report {
    let first = Report::new(Duration::ZERO, None);
    rounds.iter().fold(first, |mut sum, round| {
        sum.add(round);
        sum
    })
}
