//! Whether every sum that is kept up to date is what it would be if it were added up anew.

use super::Scheduler;
use crate::entry::Place;
use crate::revision::Revision;
use crate::stage::Load;
use crate::{Class, DeviceId, RevisionId};

impl<E: Clone> Scheduler<E> {
    /// Adds everything up, in time proportional to the number of entries.
    ///
    /// # Panics
    /// If a sum is wrong.
    pub(super) fn audit(&self) {
        for (index, revision) in self.revisions.iter() {
            self.audit_revision(RevisionId(index), revision);
        }
        for (index, device) in self.devices.iter() {
            let id = DeviceId(index);
            let (mut busy, mut reserved, mut work) = (0_u32, 0, 0);
            for (_, revision) in self.revisions.iter() {
                if revision.limits.device == Some(id) {
                    work += revision.timetable.work() * u128::from(revision.cores_each);
                }
            }
            let mut n_blocked = 0;
            for (_, replica) in self.replicas.iter() {
                let revision = self.revisions.get(replica.revision.0);
                if revision.is_some_and(|revision| revision.limits.device == Some(id)) {
                    let n_runs = replica.n_at_work() as u32;
                    busy = busy.saturating_add(replica.cores().saturating_mul(n_runs));
                    reserved += u128::from(replica.memory);
                    n_blocked += usize::from(replica.blocked.is_some());
                }
            }
            assert_eq!(device.busy, busy, "cores at work");
            assert_eq!(device.reserved, reserved, "bytes reserved");
            assert_eq!(device.work, work, "core time promised");
            assert_eq!(
                device.blocked.len(),
                n_blocked,
                "replicas that wait for cores"
            );
            for (claim, id) in &device.blocked {
                let blocked = self.replicas.get(id.0).and_then(|replica| replica.blocked);
                assert_eq!(blocked, Some(*claim), "a claim to cores");
            }
        }
    }

    fn audit_revision(&self, id: RevisionId, revision: &Revision) {
        let (mut interactive, mut bulk) = (Load::default(), Load::default());
        let (mut n_entries, mut work) = (0, 0);
        for (_, entry) in self.entries.iter().filter(|(_, e)| e.revision == id) {
            n_entries += 1;
            if matches!(entry.place, Place::Running(_)) {
                continue;
            }
            match entry.class {
                Class::Interactive => {
                    interactive.add(entry.cost);
                    work += u128::from(entry.work);
                }
                Class::Bulk => bulk.add(entry.cost),
            }
        }
        assert_eq!(revision.n_entries, n_entries, "entries");
        assert_eq!(revision.interactive, interactive, "interactive load");
        assert_eq!(revision.bulk, bulk, "bulk load");
        assert_eq!(revision.timetable.work(), work, "slot time promised");

        let (mut n_slots, mut n_runs, mut ends_sum, mut n_draining) = (0, 0, 0, 0);
        for replica in &revision.fleet.ids {
            let Some(replica) = self.replicas.get(replica.0) else {
                continue;
            };
            n_slots += replica.n_slots();
            n_runs += replica.runs.len();
            ends_sum += replica
                .runs
                .iter()
                .map(|r| u128::from(r.ends.as_nanos()))
                .sum::<u128>();
            n_draining += usize::from(replica.is_draining);
            let (mut staged, mut n_awaited) = (Load::default(), 0);
            for key in &replica.held {
                let entry = self
                    .entries
                    .get(key.0)
                    .filter(|e| !matches!(e.place, Place::Running(_)));
                if let Some(entry) = entry {
                    staged.add(entry.cost);
                    let is_sent = matches!(entry.place, Place::Sent(_));
                    n_awaited += usize::from(is_sent && entry.class == Class::Interactive);
                }
            }
            assert_eq!(
                replica.n_awaited, n_awaited,
                "interactive entries in preparation"
            );
            assert_eq!(*replica.stage.load(), staged, "load of a stage");
        }
        assert_eq!(revision.n_slots, n_slots, "slots");
        assert_eq!(revision.n_runs, n_runs, "runs");
        assert_eq!(revision.ends_sum, ends_sum, "ends of runs");
        assert_eq!(revision.draining.len(), n_draining, "draining replicas");
    }
}
