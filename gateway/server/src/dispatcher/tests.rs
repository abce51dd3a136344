use gateway_scheduler::{Cost, Staging};
use model_store::{CachedVersion, Manifest, ModelSpec};
use workers_protocol::PictureOptions;

use super::*;
use crate::budget::{Budget, Reservation};

/// Starts replicas that come up when they may, and then answer at once.
struct Willing {
    may_start: Arc<Notify>,
}

impl Launcher for Willing {
    fn launch(
        &self,
        dispatcher: &Arc<Dispatcher>,
        _: Arc<Revision>,
        replica: ReplicaId,
        mut orders: Orders,
    ) {
        let (dispatcher, may_start) = (Arc::clone(dispatcher), Arc::clone(&self.may_start));
        tokio::spawn(async move {
            may_start.notified().await;
            let credits = Credits {
                slots: 1,
                stage_entries: 8,
                stage_bytes: 1 << 20,
                stage_pixels: 1 << 20,
            };
            dispatcher.replica_up(replica, credits);
            while let Some(outgoing) = orders.outgoing.recv().await {
                let Outgoing::Run(keys) = outgoing else {
                    continue;
                };
                dispatcher.slot_freed(replica, keys[0], Duration::ZERO);
                for key in keys {
                    dispatcher.answered(replica, key, Ok(Answer::default()));
                }
            }
        });
    }
}

/// A dispatcher with one revision, and what lets its replica come up.
struct Bench {
    dispatcher: Arc<Dispatcher>,
    revision: Arc<Revision>,
    reservation: Arc<Reservation>,
    may_start: Arc<Notify>,
}

impl Bench {
    fn new() -> Self {
        let limits = DeviceLimits {
            cores: 1,
            memory_bytes: 1 << 30,
        };
        let may_start = Arc::new(Notify::new());
        let launcher = Willing {
            may_start: Arc::clone(&may_start),
        };
        let metrics = Arc::new(Metrics::new());
        let dispatcher = Dispatcher::start(Box::new(launcher), Arc::clone(&metrics), limits);
        let limits = RevisionLimits {
            max_batch: 4,
            ..RevisionLimits::default()
        };
        let revision = dispatcher.add_revision(limits, true, |id| revision(id, &metrics));
        Self {
            dispatcher,
            revision,
            reservation: Arc::new(Budget::new(1 << 20).reservation()),
            may_start,
        }
    }

    fn offer_bulk(&self, items: u32) -> Ticket {
        let (entry, outcome) = Entry::new(
            Vec::new(),
            PictureOptions::default(),
            Deadline::after(Duration::from_secs(600)),
            Arc::clone(&self.reservation),
            Arc::clone(&self.revision.poison),
            None,
        );
        let offer = Offer {
            deadline: Time::MAX,
            cost: Cost {
                items,
                bytes: 1,
                pixels: 0,
            },
            staging: Staging::Inline(Bucket(0)),
            class: Class::Bulk,
        };
        let ticket = self.dispatcher.offer(&self.revision, entry, outcome, offer);
        ticket.expect("bulk waits to be asked for")
    }
}

/// Waits for something that comes at once unless something is wrong.
async fn soon<T>(coming: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), coming).await;
    waited.expect("waited in vain")
}

fn revision(id: RevisionId, metrics: &Metrics) -> Arc<Revision> {
    let (name, version) = ("mean".parse().unwrap(), "1".parse().unwrap());
    Arc::new(Revision {
        id,
        metrics: metrics.of(&name, version),
        name,
        version,
        model: CachedVersion {
            digest: format!("{:064}", 0).parse().unwrap(),
            dir: "unused".into(),
            manifest: Manifest::default(),
            spec: ModelSpec {
                platform: "onnxruntime_onnx".to_owned(),
                task: None,
                inputs: Vec::new(),
                outputs: Vec::new(),
                max_batch: 4,
                instances: 1,
                notes: Vec::new(),
            },
        },
        labels: Vec::new(),
        stages: Vec::new(),
        poison: Arc::default(),
        measured: OnceLock::new(),
    })
}

/// Those that come while another is taken from the line, or leaves it, are asked for all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_bulk_that_comes_is_asked_for() {
    let bench = Arc::new(Bench::new());
    bench.may_start.notify_one();
    let caller = |seed: u64| {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move {
            for round in 0..2_000 {
                let ticket = bench.offer_bulk(1);
                // Some leave at once.
                if !(seed + round).is_multiple_of(5) {
                    ticket.outcome().await.result.unwrap();
                }
            }
        })
    };
    for caller in (0..8).map(caller).collect::<Vec<_>>() {
        soon(caller).await.unwrap();
    }
    let (state, n_parked) = bench.dispatcher.revision(bench.revision.id).unwrap();
    assert_eq!((state.bulk_waiting, n_parked), (0, 0));
}

#[tokio::test]
async fn all_bulk_that_waits_for_a_replica_is_run() {
    for items in [1, 4, 9] {
        let bench = Bench::new();
        let tickets: Vec<_> = (0..50).map(|_| bench.offer_bulk(items)).collect();
        bench.may_start.notify_one();
        for ticket in tickets {
            soon(ticket.outcome()).await.result.unwrap();
        }
    }
}

#[tokio::test]
async fn bulk_of_a_version_that_goes_away_is_refused_at_once() {
    let bench = Bench::new();
    let before: Vec<_> = (0..3).map(|_| bench.offer_bulk(1)).collect();
    bench.dispatcher.retire_revision(bench.revision.id);
    let after = bench.offer_bulk(1);
    for ticket in before.into_iter().chain([after]) {
        let error = soon(ticket.outcome()).await.result.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{error}");
    }
}
