//! A gateway of a scenario's own, with one model.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use hearth_benches::hearth::{Hearth, Site, Usage};
use hearth_benches::http::{Connection, get};

use crate::arrivals::Pattern;
use crate::client::Target;
use crate::load::{Load, Pace};
use crate::report::Report;
use crate::subject::Subject;

/// Far more than the gateway admits, so that it is not the generator that makes requests wait.
const MAX_CONNECTIONS: usize = 4000;

/// Callers in a closed loop that keep a model busy: two of the largest batches by default.
pub(crate) const N_CALLERS: usize = 32;

/// A running `hearth` and a request to its model.
#[derive(Debug)]
pub(crate) struct Gateway {
    hearth: Hearth,
    subject: Subject,
    target: Target,
}

impl Gateway {
    /// Starts a gateway on a model that was measured before, and puts load on it for this long, so
    /// that workers are up and what is learned is learned.
    ///
    /// # Errors
    /// When programs or models are not there, or requests are not answered.
    pub(crate) async fn start(subject: &Subject, warm_up: Duration) -> anyhow::Result<Self> {
        let site = Site::new(subject.name, &subject.manifest, &subject.files)?;
        site.measure()?;
        let hearth = site.serve(&[])?;
        let gateway = Self {
            target: target(&hearth, subject, &[]).await?,
            subject: subject.clone(),
            hearth,
        };
        let report = gateway.saturate(Duration::ZERO, warm_up).await?;
        anyhow::ensure!(
            report.served.len() == report.offered,
            "{} does not serve what it is asked:\n{report}",
            subject.name
        );
        Ok(gateway)
    }

    /// Returns the request.
    pub(crate) const fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the request with another header.
    pub(crate) async fn target_with(&self, name: &str, value: &str) -> anyhow::Result<Target> {
        let header = (name.to_owned(), value.to_owned());
        target(&self.hearth, &self.subject, &[header]).await
    }

    pub(crate) fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.hearth.address())
    }

    /// Returns what callers get who each send the next request at once, [`N_CALLERS`] of them.
    pub(crate) async fn saturate(
        &self,
        warm_up: Duration,
        duration: Duration,
    ) -> anyhow::Result<Report> {
        Ok(saturation(warm_up, duration).run(&self.target).await?)
    }

    /// Returns the processor time per request at saturation, and what became of the requests.
    pub(crate) async fn cost(&self, duration: Duration) -> anyhow::Result<(Cost, Report)> {
        let before = self.usage()?;
        let report = self.saturate(Duration::ZERO, duration).await?;
        let mut spent = self.usage()?;
        for (spent, before) in spent.iter_mut().zip(before) {
            *spent = spent.saturating_sub(before) / u32::try_from(report.offered.max(1))?;
        }
        Ok((Cost(spent), report))
    }

    fn usage(&self) -> anyhow::Result<[Duration; 3]> {
        let usage = [
            self.hearth.gateway_usage()?,
            self.hearth.workers_usage()?,
            Usage::of(std::process::id())?,
        ];
        Ok(usage.map(|usage| usage.cpu))
    }

    pub(crate) fn workers(&self) -> anyhow::Result<Vec<u32>> {
        self.hearth.workers()
    }

    /// Returns a metric of the model.
    ///
    /// # Errors
    /// When there is none of this name.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let mut connection = self.connect()?;
        let reply = connection.call(&get("/metrics"))?;
        let text = std::str::from_utf8(reply.body)?;
        text.lines()
            .filter_map(|line| line.strip_prefix("hearth_")?.strip_prefix(name))
            .filter(|rest| rest.starts_with('{'))
            .find_map(|rest| rest.rsplit(' ').next()?.parse().ok())
            .with_context(|| format!("the gateway has no metric `hearth_{name}`"))
    }

    /// Returns the sum of the runs that entries went through, and how many entries: their quotient
    /// over some time is how long a batch ran, in the mean over entries.
    pub(crate) fn runs(&self) -> anyhow::Result<Runs> {
        Ok(Runs {
            seconds: self.metric("infer_seconds_sum")?,
            n_entries: self.metric("infer_seconds_count")?,
        })
    }
}

/// Processor time of a request: in the gateway, in its workers, and in the generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost([Duration; 3]);

impl Cost {
    /// Returns the sum.
    pub(crate) fn seconds(&self) -> f64 {
        self.0.iter().map(Duration::as_secs_f64).sum()
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [gateway, worker, generator] = self.0.map(|spent| spent.as_secs_f64() * 1e6);
        write!(
            f,
            "{:.1} µs (gateway {gateway:.1}, worker {worker:.1}, generator {generator:.1})",
            self.seconds() * 1e6
        )
    }
}

/// See [`Gateway::runs`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    seconds: f64,
    n_entries: f64,
}

impl Runs {
    /// Returns the mean since, in milliseconds.
    pub(crate) fn mean_ms_since(self, earlier: Self) -> f64 {
        let n_entries = (self.n_entries - earlier.n_entries).max(1.0);
        (self.seconds - earlier.seconds) / n_entries * 1e3
    }
}

async fn target(
    hearth: &Hearth,
    subject: &Subject,
    headers: &[(String, String)],
) -> anyhow::Result<Target> {
    let url = format!("http://{}{}", hearth.address(), subject.path()).parse()?;
    let (mut all, body) = subject.request();
    all.extend_from_slice(headers);
    Target::post(&url, &all, &body).await
}

/// Returns the load of [`N_CALLERS`] who each send the next request at once.
pub(crate) const fn saturation(warm_up: Duration, duration: Duration) -> Load {
    Load {
        pace: Pace::Closed {
            n_callers: N_CALLERS,
        },
        warm_up,
        duration,
        deadline: None,
        max_connections: MAX_CONNECTIONS,
        seed: 0,
    }
}

/// Returns the load of many independent callers.
pub(crate) const fn poisson(
    per_second: f64,
    warm_up: Duration,
    duration: Duration,
    deadline: Option<Duration>,
) -> Load {
    Load {
        pace: Pace::Open {
            pattern: Pattern::Poisson,
            per_second,
        },
        warm_up,
        duration,
        deadline,
        max_connections: MAX_CONNECTIONS,
        seed: 1,
    }
}
