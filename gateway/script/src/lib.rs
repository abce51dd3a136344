//! Scripts as OSCAR's services run them.
//!
//! What a script sees and what becomes of its output is pure: [`Event`], [`environment`],
//! [`Filter`], [`Answer`]. Running it takes two processes. The gateway's [`Runner`] starts a
//! supervisor, this same program, for each script, tells it a `Task` and hears a `Report`; the
//! supervisor ([`supervise`]) makes the scratch folder, starts the script within its limits, and
//! leaves nothing of it behind, also where the gateway dies.

mod answer;
pub mod environment;
mod event;
mod filter;
mod runner;
mod supervisor;
mod task;

pub use answer::{Answer, text};
pub use event::{Event, Input, InputPath, Object, Source};
pub use filter::Filter;
pub use runner::{Call, Failure, Output, Runner, RunnerOptions, Unavailable};
pub use supervisor::supervise;
pub use task::{Breach, End, Limits, OutputFile};
