//! Batches of one size, each slot with one at work and one ahead.

use std::collections::VecDeque;

use workers_protocol::wire::{Event, run_message};

use super::Driver;
use crate::subject::Subject;
use crate::worker::Worker;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Fixed {
    worker: Worker,
    subject: Subject,
    pub(super) batch: usize,
    n_sent: u64,
    n_preparing: usize,
    staged: VecDeque<u64>,
    /// Runs whose slot is not free again, and entries of runs that are not answered.
    n_named: usize,
    n_running: usize,
}

impl Fixed {
    pub(super) const fn new(worker: Worker, subject: Subject) -> Self {
        Self {
            worker,
            subject,
            batch: 1,
            n_sent: 0,
            n_preparing: 0,
            staged: VecDeque::new(),
            n_named: 0,
            n_running: 0,
        }
    }

    fn stage(&mut self) -> anyhow::Result<()> {
        self.n_sent += 1;
        self.worker.stage(&self.subject, self.n_sent)?;
        if self.subject.is_picture() {
            self.n_preparing += 1;
        } else {
            self.staged.push_back(self.n_sent);
        }
        Ok(())
    }
}

impl Driver for Fixed {
    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    fn hear(&mut self, event: Event) -> anyhow::Result<bool> {
        match event {
            Event::Staged { id, .. } => {
                self.n_preparing -= 1;
                self.staged.push_back(id.parse()?);
            }
            Event::Free { .. } => self.n_named -= 1,
            Event::Answer { result, .. } => {
                result?;
                self.n_running -= 1;
                return Ok(true);
            }
            Event::Ready(_) => {}
        }
        Ok(false)
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn feed(&mut self) -> anyhow::Result<()> {
        let credits = self.worker.credits;
        loop {
            while self.n_preparing + self.staged.len() < credits.stage_entries as usize {
                self.stage()?;
            }
            let is_full = self.n_named >= 2 * credits.slots as usize;
            if is_full || self.staged.len() < self.batch {
                return Ok(());
            }
            self.n_named += 1;
            self.n_running += self.batch;
            let batch = self.staged.drain(..self.batch);
            self.worker.send(run_message(batch))?;
        }
    }

    fn is_idle(&self) -> bool {
        self.n_running == 0
    }
}
