//! Twice what can be served is offered: the goodput stays at the capacity, the rest is refused
//! quickly, and nothing that is admitted is late.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Promise, Setting, WARM_UP};
use crate::gateway::{Cost, Gateway, poisson};
use crate::subject::Subject;

const DEADLINE: Duration = Duration::from_secs(1);
/// Fills the queue, which takes 1024 entries by default, while a worker stands still: over some time,
/// because the system has room for as many connections that were not accepted yet.
const FILL_PER_SECOND: f64 = 4000.0;
const FILL_TIME: Duration = Duration::from_millis(400);

pub(super) async fn run(setting: &Setting) -> anyhow::Result<()> {
    for (subject, refusals_cost) in [
        (Subject::yolox_nano(&setting.shared)?, false),
        (Subject::mnist(&setting.shared)?, true),
    ] {
        if setting.wants(&subject) {
            overload(setting, &subject, refusals_cost).await?;
        }
    }
    Ok(())
}

/// `refusals_cost`: refusing is a good part of the work of serving, and the generator shares the
/// processors, so the limit is what these leave over.
async fn overload(setting: &Setting, subject: &Subject, refusals_cost: bool) -> anyhow::Result<()> {
    let promise = Promise {
        scenario: "overload",
        of: subject.name,
    };
    let gateway = Gateway::start(subject, setting.seconds(5.0)).await?;
    let mut limit = 0.95;
    if refusals_cost {
        let share = share_left_by_refusals(setting, &gateway, promise).await?;
        limit *= share;
    }

    // What the machine can do changes: it is measured before and after.
    let (warm_up, duration) = (WARM_UP, setting.seconds(10.0));
    let before = gateway.saturate(warm_up, duration).await?;
    let runs = gateway.runs()?;
    let target = gateway
        .target_with("x-request-timeout-ms", &DEADLINE.as_millis().to_string())
        .await?;
    // At first the queue is empty, so a deadline's time passes before it is as full as it gets.
    let rate = 2.0 * before.throughput();
    let load = poisson(rate, 2 * DEADLINE, setting.seconds(30.0), Some(DEADLINE));
    let report = load.run(&target).await?;
    let batch_ms = gateway.runs()?.mean_ms_since(runs);
    let after = gateway.saturate(warm_up, duration).await?;

    let capacity = (before.throughput() + after.throughput()) / 2.0;
    promise.at_least(
        "goodput at twice the capacity / capacity",
        report.goodput() / capacity,
        limit,
    );
    promise.at_most(
        "p99 of refusals, ms",
        report.refused.quantile_ms(0.99),
        20.0,
    );
    promise.at_most(
        "latest answer after its deadline, ms (limit: a batch)",
        report.latest_ms.unwrap_or(f64::NAN),
        batch_ms,
    );
    promise.note(&format!(
        "capacity {:.1}/s, then {:.1}/s; offered {:.1}/s, answers by status {:?}, errors {:?}",
        before.throughput(),
        after.throughput(),
        report.offered as f64 / report.window.as_secs_f64(),
        report.statuses,
        report.errors,
    ));
    if let Some(warning) = report.warning() {
        promise.note(&warning);
    }
    Ok(())
}

/// Returns what is left of the capacity at twice the capacity, once refusals have taken their part
/// of the processors.
///
/// Serving one costs s and refusing one r. With processor time C a second the capacity is C / s; of
/// twice that, g are served: g s + (2 C / s − g) r = C, so g / (C / s) = (s − 2 r) / (s − r).
async fn share_left_by_refusals(
    setting: &Setting,
    gateway: &Gateway,
    promise: Promise<'_>,
) -> anyhow::Result<f64> {
    let (serving, _) = gateway.cost(setting.seconds(10.0)).await?;
    let refusing = refusal_cost(setting, gateway).await?;
    let (s, r) = (serving.seconds(), refusing.seconds());
    let share = ((s - 2.0 * r) / (s - r)).max(0.0);
    promise.note(&format!(
        "processor time of serving one {serving}, of refusing one {refusing}: \
         {share:.3} of the capacity can be left"
    ));
    Ok(share)
}

/// Returns what refusing one costs: the worker stands still, so the queue fills up and everything
/// else is refused.
async fn refusal_cost(setting: &Setting, gateway: &Gateway) -> anyhow::Result<Cost> {
    // Well within the five seconds after which a run counts as hanging.
    let measure = setting.seconds(2.0);
    let fill = poisson(FILL_PER_SECOND, Duration::ZERO, FILL_TIME, None);
    signal(gateway, Signal::STOP)?;
    let (filled, cost) = tokio::join!(fill.run(gateway.target()), async {
        tokio::time::sleep(2 * FILL_TIME).await;
        let cost = gateway.cost(measure).await;
        signal(gateway, Signal::CONT).and(cost)
    });
    filled?;
    let (cost, report) = cost?;
    anyhow::ensure!(
        report.refused.len() > report.offered * 9 / 10,
        "a full queue refuses too little to measure it:\n{report}"
    );
    Ok(cost)
}

fn signal(gateway: &Gateway, signal: Signal) -> anyhow::Result<()> {
    for worker in gateway.workers()? {
        if let Some(worker) = Pid::from_raw(i32::try_from(worker)?) {
            kill_process(worker, signal)?;
        }
    }
    Ok(())
}
