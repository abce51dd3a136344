//! What Hearth promises, measured on a gateway that is started for it.
//!
//! Each scenario prints a line per promise: what was measured, the limit, and whether it was
//! reached. Nothing is asserted: on a machine that does other things as well, much is not reached.

mod bulk;
mod chaos;
mod overload;
mod saturation;
mod single;

use std::path::PathBuf;
use std::time::Duration;

use crate::say;
use crate::subject::Subject;

/// What a closed loop is given to settle: all callers begin at once, and the first answers come
/// late and together.
const WARM_UP: Duration = Duration::from_secs(1);

/// A scenario's name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Twice what can be served: what is served, and how fast the rest is refused.
    Overload,
    /// One request at a time: batching costs a lone caller nothing.
    Single,
    /// Bulk work beside interactive requests, and alone.
    Bulk,
    /// Batches, instances and threads that are learned, against the best that can be fixed.
    Saturation,
    /// Workers are killed under load.
    Chaos,
}

/// What all scenarios share.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Everything takes a tenth of its time.
    pub(crate) is_short: bool,
    /// Names of the only models to measure with; empty: all.
    pub(crate) models: Vec<String>,
    /// The folder of `models` and `media`.
    pub(crate) shared: PathBuf,
}

impl Setting {
    /// Returns whether a scenario is to be run with this model.
    pub(crate) fn wants(&self, subject: &Subject) -> bool {
        self.models.is_empty() || self.models.iter().any(|name| name == subject.name)
    }

    /// Returns how long something is measured that takes so many seconds at full length.
    pub(crate) fn seconds(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(if self.is_short {
            seconds / 10.0
        } else {
            seconds
        })
    }
}

/// Runs scenarios one after another.
///
/// # Errors
/// When something can't be measured at all.
pub(crate) async fn run(setting: &Setting, scenarios: &[Scenario]) -> anyhow::Result<()> {
    line(["scenario", "what", "measured", "limit", ""]);
    for scenario in scenarios {
        match scenario {
            Scenario::Overload => overload::run(setting).await?,
            Scenario::Single => single::run(setting).await?,
            Scenario::Bulk => bulk::run(setting).await?,
            Scenario::Saturation => saturation::run(setting).await?,
            Scenario::Chaos => chaos::run(setting).await?,
        }
    }
    Ok(())
}

/// A promise: where it belongs, and what it is of.
#[derive(Clone, Copy, Debug)]
struct Promise<'a> {
    scenario: &'a str,
    of: &'a str,
}

impl Promise<'_> {
    /// Prints a number that is to be at least the limit.
    fn at_least(self, what: &str, measured: f64, limit: f64) {
        self.verdict(what, measured, "≥", limit, measured >= limit);
    }

    /// Prints a number that is to be at most the limit.
    fn at_most(self, what: &str, measured: f64, limit: f64) {
        self.verdict(what, measured, "≤", limit, measured <= limit);
    }

    fn verdict(self, what: &str, measured: f64, relation: &str, limit: f64, is_reached: bool) {
        line([
            self.scenario,
            &format!("{}: {what}", self.of),
            &format!("{measured:.3}"),
            &format!("{relation} {limit:.3}"),
            if is_reached { "reached" } else { "NOT REACHED" },
        ]);
    }

    /// Prints what a number was made of.
    fn note(self, note: &str) {
        say(format_args!("{:<10}   {}: {note}", "", self.of));
    }
}

fn line([scenario, what, measured, limit, verdict]: [&str; 5]) {
    say(format_args!(
        "{scenario:<10} {what:<64} {measured:>9} {limit:>9} {verdict}"
    ));
}
