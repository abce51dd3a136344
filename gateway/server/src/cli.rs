//! The command line against a running gateway: services, calls of them, jobs and their logs.
//!
//! A client like any other: it meets the gateway over HTTP alone, here and elsewhere, and OSCAR's
//! clusters as well. Nothing of the gateway knows it.

mod apply;
mod client;
mod clusters;
mod etag;
mod failure;
mod gateway;
mod get;
mod interrupt;
mod logs;
mod ls;
mod output;
mod place;
mod put;
mod run;
mod services;
mod storage;
mod transfer;
mod watch;

use std::process::ExitCode;

use clap::Subcommand;

use failure::Failure;

/// What scripts go by.
pub(crate) const EXIT_STATUS: &str = "\
Exit status:
  0  it is done
  1  it was refused, or it failed
  2  the command is written wrongly
  3  no gateway answers, or no storage of its
  4  credentials are missing, wrong or not enough (401, 403)
  5  there is no such service, model, job, bucket or object (404)
  6  not now: trying again may help (429, 502, 503, 504)
  130  it was interrupted";

/// Commands that ask a gateway.
#[derive(Subcommand)]
pub(crate) enum ClientCommand {
    /// Create or update the services of a function definition file (FDL)
    Apply(apply::ApplyOptions),
    /// Upload files and folders
    Put(put::PutOptions),
    /// Show a service, or download objects
    ///
    /// A name is a service. A name and a slash is a bucket: `BUCKET/` is all that is in it,
    /// `BUCKET/FOLDER/` what is in a folder of it, `BUCKET/KEY` one object, or the folder where there is
    /// no object of this name.
    Get(get::GetOptions),
    /// List buckets, or what is in one
    Ls(ls::LsOptions),
    /// List the services
    List(services::ListOptions),
    /// Delete services
    Delete(services::DeleteOptions),
    /// Call a service or a model, and wait for its answer
    Run(run::RunOptions),
    /// Call a service and do not wait: the answer is the log of a job
    Job(run::JobOptions),
    /// Watch the jobs of a service as they are done
    Watch(watch::WatchOptions),
    /// List, read and remove the jobs of a service
    #[command(subcommand)]
    Logs(logs::LogsCommand),
}

pub(crate) fn run(command: ClientCommand) -> anyhow::Result<()> {
    match command {
        ClientCommand::Apply(options) => apply::apply(&options),
        ClientCommand::Put(options) => put::put(&options),
        ClientCommand::Get(options) => get::get(&options),
        ClientCommand::Ls(options) => ls::ls(&options),
        ClientCommand::List(options) => services::list(&options),
        ClientCommand::Delete(options) => services::delete(&options),
        ClientCommand::Run(options) => run::run(&options),
        ClientCommand::Job(options) => run::job(&options),
        ClientCommand::Watch(options) => watch::watch(&options),
        ClientCommand::Logs(command) => logs::run(&command),
    }
}

/// Returns what a command that failed ends with, which [`EXIT_STATUS`] explains.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    error
        .downcast_ref()
        .map_or(ExitCode::FAILURE, |failure: &Failure| {
            failure.exit_code().into()
        })
}
