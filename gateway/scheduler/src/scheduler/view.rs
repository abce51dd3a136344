//! The state as plain data.

use std::collections::BTreeSet;

use super::Scheduler;
use crate::device::Device;
use crate::revision::Revision;
use crate::{
    CurvePoint, CurveSnapshot, DeviceId, DeviceSnapshot, ReplicaId, ReplicaSnapshot, RevisionId,
    RevisionSnapshot, Snapshot,
};

impl<E: Clone> Scheduler<E> {
    /// Returns the whole state as plain data, in time proportional to the number of replicas.
    pub fn snapshot(&self) -> Snapshot {
        #[cfg(debug_assertions)]
        self.audit();
        let revisions = self.revisions.iter();
        let devices = self.devices.iter();
        Snapshot {
            revisions: revisions
                .map(|(index, revision)| self.revision_snapshot(RevisionId(index), revision))
                .collect(),
            devices: devices
                .map(|(index, device)| DeviceSnapshot {
                    id: DeviceId(index),
                    cores: device.limits.cores,
                    busy_cores: device.busy,
                    memory_bytes: device.limits.memory_bytes,
                    reserved_bytes: u64::try_from(device.reserved).unwrap_or(u64::MAX),
                    blocked_revisions: self.n_blocked_revisions(device),
                })
                .collect(),
        }
    }

    /// Returns one revision as plain data.
    pub fn revision(&self, id: RevisionId) -> Option<RevisionSnapshot> {
        let revision = self.revisions.get(id.0)?;
        Some(self.revision_snapshot(id, revision))
    }

    fn revision_snapshot(&self, id: RevisionId, revision: &Revision) -> RevisionSnapshot {
        let replicas: Vec<ReplicaSnapshot> = revision
            .fleet
            .ids
            .iter()
            .filter_map(|id| self.replica_snapshot(*id))
            .collect();
        RevisionSnapshot {
            id,
            is_retired: revision.is_retired,
            waiting: revision.queue.len(),
            sent: replicas.iter().map(|replica| replica.sent).sum(),
            staged: replicas.iter().map(|replica| replica.staged).sum(),
            running: replicas.iter().map(|replica| replica.running).sum(),
            queue_bytes: revision.interactive.bytes + revision.bulk.bytes,
            bulk_waiting: revision.bulk.entries,
            has_bulk: revision.has_bulk,
            drain_time: revision.drain_time(self.now),
            start_time: revision.start_time.duration(),
            staging_time: revision.staging_time.duration(),
            tail_time: revision.tail_time.duration(),
            curves: revision
                .curves
                .iter()
                .map(|(bucket, curve)| CurveSnapshot {
                    bucket,
                    best: curve.best(),
                    points: curve
                        .points()
                        .map(|(items, slot_time, runs)| CurvePoint {
                            items,
                            slot_time,
                            engine_time: revision
                                .engine
                                .of(bucket)
                                .and_then(|engine| engine.duration(items)),
                            runs,
                        })
                        .collect(),
                })
                .collect(),
            waits_for_cores: revision
                .fleet
                .ids
                .iter()
                .filter_map(|id| self.replicas.get(id.0))
                .any(|replica| replica.blocked.is_some()),
            wanted_replicas: revision.n_wanted,
            memory_bytes: revision.memory_bytes,
            failed_starts: revision.n_failed_starts,
            start_after: revision.start_after,
            replicas,
            counters: revision.counters,
        }
    }

    fn n_blocked_revisions(&self, device: &Device) -> usize {
        let blocked = device.blocked.iter();
        let revisions: BTreeSet<RevisionId> = blocked
            .filter_map(|(_, id)| Some(self.replicas.get(id.0)?.revision))
            .collect();
        revisions.len()
    }

    fn replica_snapshot(&self, id: ReplicaId) -> Option<ReplicaSnapshot> {
        let replica = self.replicas.get(id.0)?;
        let staged = replica.stage.n_ready();
        Some(ReplicaSnapshot {
            id,
            credits: replica.up.map(|up| up.credits),
            sent: replica.stage.n_entries() - staged,
            staged,
            running: replica.held.len() - replica.stage.n_entries(),
            busy_slots: replica.n_at_work(),
            named_ahead: replica.runs.len() - replica.n_at_work(),
            is_alone_with_suspect: replica.has_suspect && !replica.is_empty(),
            is_draining: replica.is_draining,
            is_killed: replica.is_killed,
        })
    }
}
