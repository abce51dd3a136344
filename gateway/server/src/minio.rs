//! `hearth minio-settings`: what an external MinIO has to be told, so that it announces objects.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::auth::Secret;
use crate::oscar::events_token;
use crate::routes::EVENTS;
use crate::terminal;

/// Options of `hearth minio-settings`.
#[derive(Args)]
pub(crate) struct SettingsOptions {
    /// Folder of the gateway, which has the token
    #[arg(
        long,
        env = "HEARTH_DATA",
        value_name = "DIR",
        required_unless_present = "events_token"
    )]
    data: Option<PathBuf>,

    /// The token, where the gateway is told one
    #[arg(
        long,
        env = "HEARTH_EVENTS_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    events_token: Option<Secret>,

    /// URL of the gateway as MinIO reaches it
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    endpoint: String,

    /// Folder of MinIO's where it keeps what it could not announce yet
    #[arg(
        long,
        default_value = "/var/lib/minio/hearth-events",
        value_name = "DIR"
    )]
    queue_dir: String,
}

/// Prints variables for MinIO's environment. It reads them at its start: one permanent target, whatever
/// services come and go.
///
/// # Errors
/// When there is no token, and none can be kept.
pub(crate) fn settings(options: &SettingsOptions) -> anyhow::Result<()> {
    let token = match (&options.events_token, &options.data) {
        (Some(token), _) => token.clone(),
        (None, Some(data)) => events_token(data).with_context(|| data.display().to_string())?,
        (None, None) => anyhow::bail!("expected --data, or --events-token"),
    };
    let endpoint = options.endpoint.trim_end_matches('/');
    let (token, queue) = (token.expose(), &options.queue_dir);
    for value in [endpoint, token, queue] {
        anyhow::ensure!(
            !value.contains(['\n', '\r']),
            "{value:?} has more than one line"
        );
    }
    let text = format!(
        "MINIO_NOTIFY_WEBHOOK_ENABLE_HEARTH=on\n\
         MINIO_NOTIFY_WEBHOOK_ENDPOINT_HEARTH={endpoint}{EVENTS}\n\
         MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_HEARTH={token}\n\
         MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_HEARTH={queue}\n"
    );
    Ok(terminal::write(text.as_bytes())?)
}
