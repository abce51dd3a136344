//! Throughput at saturation: what is learned against the best that can be fixed.
//!
//! Both drive a worker through its stream, with no HTTP before it, and with more work at hand than
//! it can take. The fixed side tries every number of instances, of threads and of items in a batch,
//! and then goes on with the best. The learned side is what a gateway does: the instances that the
//! worker measured for itself, and the scheduler.

mod fixed;
mod learned;

use std::time::{Duration, Instant};

use workers_protocol::wire::Event;
use workers_protocol::{CheckedInputs, Target};

use super::{Promise, Setting};
use crate::subject::Subject;
use crate::worker::{Version, Worker};
use fixed::Fixed;
use learned::Learned;

const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];
/// Short and many, so that what else the machine does hits both sides alike.
const N_ROUNDS: usize = 15;

pub(super) async fn run(setting: &Setting) -> anyhow::Result<()> {
    for subject in [
        Subject::mnist(&setting.shared)?,
        Subject::ppocr_cls(&setting.shared)?,
        Subject::fastestdet(&setting.shared)?,
        Subject::yolox_nano(&setting.shared)?,
    ] {
        if setting.wants(&subject) {
            compare(setting, &subject).await?;
        }
    }
    Ok(())
}

async fn compare(setting: &Setting, subject: &Subject) -> anyhow::Result<()> {
    let promise = Promise {
        scenario: "saturation",
        of: subject.name,
    };
    let (mut fixed, instances) = best(setting, subject, promise).await?;
    let mut learned = Learned::start(subject).await?;
    let (warm_up, duration) = (setting.seconds(0.3), setting.seconds(2.0));
    learned.round(warm_up, setting.seconds(5.0)).await?;

    let mut rounds = Vec::new();
    for _ in 0..N_ROUNDS {
        let best = fixed.round(warm_up, duration).await?;
        let ours = learned.round(warm_up, duration).await?;
        rounds.push((ours / best, ours, best));
    }
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (ratio, ours, best) = rounds[N_ROUNDS / 2];
    promise.at_least("learned / best fixed", ratio, 0.97);
    promise.note(&format!(
        "{N_ROUNDS} rounds in turns, ratios {:.3} to {:.3}; in the median round learned {ours:.1}/s ({}), \
         fixed {best:.1}/s ({instances}, batch {})",
        rounds[0].0,
        rounds[N_ROUNDS - 1].0,
        learned.description(),
        fixed.batch,
    ));
    Ok(())
}

/// Tries everything that can be fixed, and returns the best of it.
async fn best(
    setting: &Setting,
    subject: &Subject,
    promise: Promise<'_>,
) -> anyhow::Result<(Fixed, String)> {
    let n_cores = std::thread::available_parallelism()?.get();
    let mut best: Option<(f64, Fixed, String)> = None;
    for (count, threads) in instances(n_cores) {
        let instances = format!("instances: {{ count: {count}, threads: {threads} }}");
        let version = Version::prepare(&subject.with(&instances)).await?;
        let worker = Worker::start(&version).await?;
        let mut fixed = Fixed::new(worker, subject.clone());
        let mut most: (f64, usize) = (0.0, 1);
        let mut rates = Vec::new();
        for batch in BATCHES {
            fixed.batch = batch;
            let rate = fixed
                .round(setting.seconds(0.5), setting.seconds(2.0))
                .await?;
            rates.push(format!("{batch}: {rate:.1}"));
            if rate > most.0 {
                most = (rate, batch);
            }
        }
        promise.note(&format!(
            "{instances}, per second by batch: {}",
            rates.join(", ")
        ));
        if best.as_ref().is_none_or(|(rate, ..)| most.0 > *rate) {
            fixed.batch = most.1;
            best = Some((most.0, fixed, instances));
        }
    }
    best.map(|(_, fixed, instances)| (fixed, instances))
        .ok_or_else(|| anyhow::anyhow!("there are no cores"))
}

/// Returns numbers of instances and of their threads to try: one alone, and those that share out
/// all cores.
fn instances(n_cores: usize) -> Vec<(usize, usize)> {
    let mut instances = vec![(1, 1)];
    let divisors = (1..=n_cores).filter(|count| n_cores.is_multiple_of(*count));
    instances.extend(divisors.map(|count| (count, n_cores / count)));
    instances.dedup();
    instances
}

/// One side of the comparison: keeps a worker busy.
trait Driver {
    fn worker(&mut self) -> &mut Worker;
    /// Takes in what the worker says; returns whether it is an answer.
    fn hear(&mut self, event: Event) -> anyhow::Result<bool>;
    /// Finishes what was begun.
    fn settle(&mut self) -> anyhow::Result<()>;
    /// Begins as much as there is room for.
    fn feed(&mut self) -> anyhow::Result<()>;
    /// Whether nothing runs.
    fn is_idle(&self) -> bool;

    /// Keeps the worker busy, and returns answers per second of the time after the warm-up. Leaves
    /// it idle: a run that ends while nobody listens would seem to take long.
    async fn round(&mut self, warm_up: Duration, duration: Duration) -> anyhow::Result<f64> {
        let began = Instant::now() + warm_up;
        let mut n_answers = 0_u64;
        let mut elapsed = Duration::ZERO;
        while elapsed < duration {
            self.feed()?;
            let event = self.worker().event().await?;
            let is_answer = self.hear(event)?;
            elapsed = began.elapsed();
            n_answers += u64::from(is_answer && !elapsed.is_zero());
        }
        while !self.is_idle() {
            let event = self.worker().event().await?;
            self.hear(event)?;
            self.settle()?;
        }
        Ok(n_answers as f64 / elapsed.as_secs_f64())
    }
}

/// Returns the bucket of a subject's tensors.
fn bucket(version: &Version, subject: &Subject) -> anyhow::Result<u64> {
    let target = Target {
        model: subject.name,
        spec: &version.spec,
    };
    Ok(CheckedInputs::check(target, vec![subject.input().clone()])?.bucket)
}
