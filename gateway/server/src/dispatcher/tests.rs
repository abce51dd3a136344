use gateway_scheduler::{Cost, Staging};
use model_store::{CachedVersion, Manifest, ModelSpec};
use workers_protocol::PictureOptions;

use super::*;
use crate::budget::Budget;

/// Starts replicas that answer at once.
#[derive(Clone)]
struct Willing;

impl Launcher for Willing {
    fn launch(
        &self,
        dispatcher: &Arc<Dispatcher>,
        _: Arc<Revision>,
        replica: ReplicaId,
        mut orders: Orders,
    ) {
        let dispatcher = Arc::clone(dispatcher);
        tokio::spawn(async move {
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
    let limits = DeviceLimits {
        cores: 1,
        memory_bytes: 1 << 30,
    };
    let metrics = Arc::new(Metrics::new());
    let dispatcher = Dispatcher::start(Box::new(Willing), Arc::clone(&metrics), limits);
    let limits = RevisionLimits::default();
    let revision = dispatcher.add_revision(limits, true, |id| revision(id, &metrics));
    let budget = Budget::new(1 << 20);
    let caller = |seed: u64| {
        let (dispatcher, revision) = (Arc::clone(&dispatcher), Arc::clone(&revision));
        let reservation = Arc::new(budget.reservation());
        tokio::spawn(async move {
            for round in 0..5_000 {
                let (entry, outcome) = Entry::new(
                    Vec::new(),
                    PictureOptions::default(),
                    Deadline::after(Duration::from_secs(600)),
                    Arc::clone(&reservation),
                    Arc::clone(&revision.poison),
                    None,
                );
                let offer = Offer {
                    deadline: Time::MAX,
                    cost: Cost {
                        items: 1,
                        bytes: 1,
                        pixels: 0,
                    },
                    staging: Staging::Inline(Bucket(0)),
                    class: Class::Bulk,
                };
                let ticket = dispatcher.offer(&revision, entry, outcome, offer).unwrap();
                // Some leave at once.
                if !(seed + round).is_multiple_of(5) {
                    ticket.outcome().await.result.unwrap();
                }
            }
        })
    };
    for caller in (0..8).map(caller).collect::<Vec<_>>() {
        let is_over = tokio::time::timeout(Duration::from_secs(60), caller).await;
        is_over.expect("waited in vain").unwrap();
    }
    let (state, n_parked) = dispatcher.revision(revision.id).unwrap();
    assert_eq!((state.bulk_waiting, n_parked), (0, 0));
}
