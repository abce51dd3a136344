//! The scheduler, in place of a gateway.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use gateway_scheduler::{
    Action, Bucket, Class, Cost, Key, Offer, ReplicaCredits, ReplicaId, RevisionId, RevisionLimits,
    Scheduler, Staging, Time,
};
use workers_protocol::wire::{Event, forget_message, run_message};

use super::Driver;
use crate::subject::Subject;
use crate::worker::{Version, Worker};

/// So long that every entry is admitted.
const DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Learned {
    worker: Worker,
    subject: Subject,
    staging: Staging,
    scheduler: Scheduler<()>,
    revision: RevisionId,
    replica: ReplicaId,
    actions: Vec<Action<()>>,
    epoch: Instant,
    n_open: u32,
    instances: String,
}

impl Learned {
    /// Has a worker measure the subject, starts one as it says, and tells the scheduler.
    ///
    /// # Errors
    /// When workers do not start.
    pub(super) async fn start(subject: &Subject) -> anyhow::Result<Self> {
        let measurement = Version::prepare(subject).await?.measure().await?;
        let instances = format!(
            "instances: {{ count: {}, threads: {} }}",
            measurement.instances, measurement.threads
        );
        let version = Version::prepare(&subject.with(&instances)).await?;
        let worker = Worker::start(&version).await?;
        let staging = if subject.is_picture() {
            Staging::Reported
        } else {
            Staging::Inline(Bucket(super::bucket(&version, subject)?))
        };

        let mut scheduler = Scheduler::new();
        let now = Time::default();
        let revision = scheduler.add_revision(
            now,
            RevisionLimits {
                max_batch: version.spec.max_batch,
                queue_entries: usize::MAX,
                queue_bytes: u64::MAX,
                min_scale: 1,
                ..RevisionLimits::default()
            },
        );
        let curve = measurement.curve.iter();
        let curve: Vec<_> = curve
            .map(|(items, nanos)| (*items, Duration::from_nanos(*nanos)))
            .collect();
        scheduler.seed_curve(revision, Bucket(measurement.bucket), &curve);
        let mut actions = Vec::new();
        scheduler.drain_actions(&mut actions);
        let replica = actions
            .drain(..)
            .find_map(|action| match action {
                Action::Launch { replica, .. } => Some(replica),
                _ => None,
            })
            .context("the scheduler launches no replica")?;
        let credits = worker.credits;
        let credits = ReplicaCredits {
            slots: credits.slots,
            cores: measurement.threads,
            stage_entries: credits.stage_entries,
            stage_bytes: credits.stage_bytes,
            stage_pixels: credits.stage_pixels,
        };
        scheduler.replica_up(now, replica, credits);
        Ok(Self {
            worker,
            subject: subject.clone(),
            staging,
            scheduler,
            revision,
            replica,
            actions,
            epoch: Instant::now(),
            n_open: 0,
            instances,
        })
    }

    /// Returns the instances, and what was learned: the batch that is chosen, and microseconds per
    /// item by items of a batch.
    pub(super) fn description(&self) -> String {
        let snapshot = self.scheduler.snapshot();
        let curves = snapshot.revisions.iter().flat_map(|known| &known.curves);
        let curves: Vec<String> = curves
            .map(|curve| {
                let points = curve.points.iter().map(|point| {
                    let micros = point.slot_time.as_secs_f64() * 1e6 / f64::from(point.items);
                    format!("{}: {micros:.0}", point.items)
                });
                let points: Vec<String> = points.collect();
                format!("batch {}, µs by items {}", curve.best, points.join(", "))
            })
            .collect();
        format!("{}, {}", self.instances, curves.join("; "))
    }

    fn now(&self) -> Time {
        Time::default().saturating_add(self.epoch.elapsed())
    }

    fn offer(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        let offer = Offer {
            deadline: now.saturating_add(DEADLINE),
            cost: Cost {
                bytes: self.subject.input().data.len() as u64,
                pixels: 0,
                items: 1,
            },
            staging: self.staging,
            class: Class::Interactive,
        };
        let offered = self.scheduler.offer(now, self.revision, offer, ());
        anyhow::ensure!(offered.is_ok(), "not admitted: {offered:?}");
        self.n_open += 1;
        Ok(())
    }
}

impl Driver for Learned {
    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    fn hear(&mut self, event: Event) -> anyhow::Result<bool> {
        let now = self.now();
        match event {
            Event::Staged { id, bucket } => {
                self.scheduler
                    .staged(now, self.replica, key(&id)?, Bucket(bucket));
            }
            Event::Free { run, infer } => {
                let run = key(&run)?;
                self.scheduler.engine_took(now, self.replica, run, infer);
                self.scheduler.slot_freed(now, self.replica, run);
            }
            Event::Answer { id, result } => {
                result?;
                self.scheduler.answered(now, self.replica, key(&id)?);
                self.n_open -= 1;
                return Ok(true);
            }
            Event::Ready(_) => {}
        }
        Ok(false)
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        self.scheduler.drain_actions(&mut self.actions);
        for action in self.actions.drain(..) {
            match action {
                Action::Stage { key, .. } => self.worker.stage(&self.subject, key.to_bits())?,
                Action::Run { batch, .. } => {
                    let ids = batch.into_iter().map(Key::to_bits);
                    self.worker.send(run_message(ids))?;
                }
                Action::Forget { key, .. } => {
                    let ids = std::iter::once(key.to_bits());
                    self.worker.send(forget_message(ids))?;
                }
                other => anyhow::bail!("did not expect {other:?}"),
            }
        }
        Ok(())
    }

    fn feed(&mut self) -> anyhow::Result<()> {
        // As many wait as are staged.
        while self.n_open < 2 * self.worker.credits.stage_entries {
            self.offer()?;
        }
        self.settle()
    }

    fn is_idle(&self) -> bool {
        self.n_open == 0
    }
}

fn key(id: &str) -> anyhow::Result<Key> {
    Ok(Key::from_bits(id.parse()?))
}
