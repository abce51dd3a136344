//! Which gateway is meant, and who calls it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use gateway_oscar::Cluster;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::client::{Authorization, Client, Endpoint};
use super::clusters::Clusters;
use super::interrupt::Interrupt;
use super::storage::Storage;
use crate::auth::Secret;
use crate::config::CredentialOptions;

/// Where `hearth serve` listens if it is not told.
const DEFAULT: &str = "http://127.0.0.1:8080";

/// Options of every command that asks a gateway.
#[derive(Args)]
#[command(next_help_heading = "Gateway")]
pub(super) struct GatewayOptions {
    /// URL of the gateway. Default: http://127.0.0.1:8080
    #[arg(long, env = "HEARTH_ENDPOINT", value_name = "URL")]
    endpoint: Option<Endpoint>,

    /// Instead, a cluster that ~/.oscar-cli/config.yaml names, with the credentials that it has there
    #[arg(long, short, value_name = "ID")]
    cluster: Option<String>,

    #[command(flatten)]
    credentials: CredentialOptions,

    /// Token instead of name and password: a service's opens `run` and `job` of that service
    #[arg(
        long,
        env = "HEARTH_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    token: Option<Secret>,

    /// Certificates, in PEM, one of which has to vouch for the gateway's; instead of the usual ones
    #[arg(long, env = "HEARTH_CA_CERT", value_name = "FILE")]
    ca_cert: Option<PathBuf>,

    /// Take any certificate, also that of somebody who listens in
    #[arg(long, conflicts_with = "ca_cert")]
    insecure: bool,
}

impl GatewayOptions {
    /// Returns the way to the gateway that is named, or else to the one on this machine.
    ///
    /// # Errors
    /// Of credentials or certificates that can't be read, and of a cluster that is not known.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        if let Some(id) = &self.cluster {
            return self.to_cluster(id, Clusters::read()?.find(id)?, self.token.as_ref());
        }
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => DEFAULT.parse().map_err(anyhow::Error::msg)?,
        };
        let authorization = match (&self.token, self.credentials.pair()?) {
            (Some(token), _) => Some(Authorization::bearer(token)?),
            (None, Some((name, password))) => Some(Authorization::basic(name, password.expose())?),
            (None, None) => None,
        };
        Ok(Client::new(endpoint, authorization, self.tls(true)?))
    }

    /// Returns the way to the objects of the gateway that is named, as [`GatewayOptions::client`] does to
    /// itself: with as many connections, until it is interrupted.
    ///
    /// # Errors
    /// As there, and of a gateway that names no storage.
    pub(super) fn storage(
        &self,
        client: &Client,
        n_connections: usize,
        interrupt: Arc<Interrupt>,
    ) -> anyhow::Result<Storage> {
        let tls = |is_verified| self.tls(is_verified);
        Storage::of(client, tls, n_connections, interrupt)
    }

    /// Returns the way to the cluster that a document says a service is for: the gateway that is named
    /// takes them all; else one's own configuration is asked before the document, whose author may be
    /// somebody else. What is not known goes to the gateway on this machine.
    /// Beside it: whether it is the document alone that says where to.
    ///
    /// # Errors
    /// As [`GatewayOptions::client`].
    pub(super) fn client_for(
        &self,
        id: &str,
        of_document: Option<&Cluster>,
    ) -> anyhow::Result<(Client, bool)> {
        if self.cluster.is_some() || self.endpoint.is_some() {
            return Ok((self.client()?, false));
        }
        let own = Clusters::read()?;
        // The token was not meant for either.
        match (own.get(id), of_document) {
            (Some(cluster), _) => Ok((self.to_cluster(id, cluster, None)?, false)),
            (None, Some(cluster)) => Ok((self.to_cluster(id, cluster, None)?, true)),
            (None, None) => Ok((self.client()?, false)),
        }
    }

    fn to_cluster(
        &self,
        id: &str,
        cluster: &Cluster,
        token: Option<&Secret>,
    ) -> anyhow::Result<Client> {
        let endpoint = cluster.endpoint.parse().map_err(anyhow::Error::msg);
        let endpoint = endpoint.with_context(|| format!("`endpoint` of cluster `{id}`"))?;
        let authorization = match token {
            Some(token) => Some(Authorization::bearer(token)?),
            None if cluster.auth_user.is_empty() => None,
            None => Some(Authorization::basic(
                &cluster.auth_user,
                cluster.auth_password.reveal(),
            )?),
        };
        let tls = self.tls(cluster.ssl_verify)?;
        Ok(Client::new(endpoint, authorization, tls))
    }

    fn tls(&self, is_verified: bool) -> anyhow::Result<TlsConfig> {
        let config = TlsConfig::builder();
        let config = match &self.ca_cert {
            Some(path) => config.root_certs(read_roots(path)?),
            None => config.disable_verification(self.insecure || !is_verified),
        };
        Ok(config.build())
    }
}

fn read_roots(path: &Path) -> anyhow::Result<RootCerts> {
    let said = || format!("--ca-cert {}", path.display());
    let pem = std::fs::read(path).with_context(said)?;
    let mut roots = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => roots.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(error).with_context(said),
        }
    }
    anyhow::ensure!(
        !roots.is_empty(),
        "{}: expected certificates in PEM, found none",
        said()
    );
    Ok(RootCerts::new_with_certs(&roots))
}
