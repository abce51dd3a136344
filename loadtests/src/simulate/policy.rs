//! What decides in the simulation, whoever it is. Moments are times since its beginning.

use std::time::Duration;

/// A request, by its place in the order of arrival.
pub(crate) type Request = u32;

/// A replica, by its place in the order of launches.
pub(crate) type Replica = u32;

/// What a policy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Start a replica, the next one in the order of launches.
    Launch { replica: Replica },
    /// Prepare a request, for this replica if the policy says so.
    Stage {
        replica: Option<Replica>,
        request: Request,
    },
    /// Run these in the replica's slot, when those named before have ended.
    Run {
        replica: Replica,
        batch: Vec<Request>,
    },
    /// End a replica, whatever it does.
    Kill { replica: Replica },
    /// Answer a request with an error.
    GiveUp { request: Request },
}

/// Events in, orders out; times never go backwards.
pub(crate) trait Policy {
    /// Returns whether a request is admitted.
    fn offer(&mut self, now: Duration, model: u32, request: Request, deadline: Duration) -> bool;
    /// A request that was to be staged is ready.
    fn staged(&mut self, now: Duration, replica: Option<Replica>, request: Request);
    /// A run has ended, and all of it is answered.
    fn ended(&mut self, now: Duration, replica: Replica, batch: &[Request]);
    /// A replica that was launched is ready, with one slot.
    fn up(&mut self, now: Duration, replica: Replica);
    /// A replica is dead, and what ran there is lost.
    fn down(&mut self, now: Duration, replica: Replica);
    /// The time of [`Policy::next_wake`] has come.
    fn wake(&mut self, now: Duration);
    fn next_wake(&self) -> Option<Duration>;
    /// Appends what is to be done after an event.
    fn orders(&mut self, into: &mut Vec<Order>);
}
