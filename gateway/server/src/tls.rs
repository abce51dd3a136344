//! TLS on the listeners, with a certificate that is renewed while they are served.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ServerConfig, version};

/// A chain of certificates has some kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// How often the files are looked at. Two equal looks settle what is written in steps.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The files of a certificate.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// PEM: the server's certificate first, then those that lead to its root.
    pub(crate) certificate: PathBuf,
    /// PEM: the certificate's private key, not encrypted.
    pub(crate) key: PathBuf,
}

/// The certificate that the listeners show.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    shown: RwLock<Arc<CertifiedKey>>,
    /// Of the files that it was read from.
    read: [Option<Look>; 2],
}

/// What tells that a file is another one; through links, for those are what Kubernetes renews.
type Look = (u64, u64, Option<SystemTime>);

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file can't be used, and why.
    pub(crate) fn open(files: TlsFiles) -> anyhow::Result<Arc<Self>> {
        let provider = Arc::new(ring::default_provider());
        // Before they are read: what changes meanwhile is read again.
        let read = files.look();
        let shown = RwLock::new(files.read(&provider)?);
        Ok(Arc::new(Self {
            files,
            provider,
            shown,
            read,
        }))
    }

    /// Returns what speaks TLS 1.2 and 1.3 with this certificate, and over it this protocol (ALPN).
    ///
    /// # Errors
    /// When the library has no cipher suites for these versions, which it has.
    pub(crate) fn acceptor(self: &Arc<Self>, protocol: &[u8]) -> anyhow::Result<TlsAcceptor> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Self>::clone(self));
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config).into())
    }

    /// Reads the files again when they change, for ever; connections that are open stay as they are.
    /// Files that can't be used are reported once, and the certificate before them stays.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut tried = self.read;
        let mut last = tried;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let certificate = Arc::clone(&self);
            let read = tokio::task::spawn_blocking(move || {
                let look = certificate.files.look();
                let is_settled = look == last && look != tried;
                (
                    look,
                    is_settled.then(|| certificate.files.read(&certificate.provider)),
                )
            });
            // A look that panicked has said so.
            let Ok((look, read)) = read.await else {
                continue;
            };
            last = look;
            match read {
                None => continue,
                Some(Ok(key)) => {
                    *self.shown.write().unwrap_or_else(PoisonError::into_inner) = key;
                    tracing::info!(
                        "new connections get the certificate that is now in {}",
                        self.files.certificate.display()
                    );
                }
                Some(Err(error)) => tracing::error!(
                    "the certificate changed and can't be used, the one before it stays: {error:#}"
                ),
            }
            tried = look;
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&shown))
    }
}

impl TlsFiles {
    fn look(&self) -> [Option<Look>; 2] {
        [&self.certificate, &self.key].map(|path| {
            let metadata = path.metadata().ok()?;
            Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
        })
    }

    fn read(&self, provider: &CryptoProvider) -> anyhow::Result<Arc<CertifiedKey>> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let text = read(&self.certificate).with_context(|| format!("--tls-cert {certificate}"))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .with_context(|| format!("--tls-cert {certificate}: expected PEM"))?;
        anyhow::ensure!(
            !chain.is_empty(),
            "--tls-cert {certificate}: expected a certificate in PEM (`BEGIN CERTIFICATE`), got none"
        );
        let text = read(&self.key).with_context(|| format!("--tls-key {key}"))?;
        let private = PrivateKeyDer::from_pem_slice(&text).with_context(|| {
            format!("--tls-key {key}: expected a private key in PEM that is not encrypted")
        })?;
        let certified = CertifiedKey::from_der(chain, private, provider)
            .with_context(|| format!("--tls-key {key} and --tls-cert {certificate}"))?;
        Ok(Arc::new(certified))
    }
}

/// Reads a small file.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = File::open(path)?.take(MAX_FILE_BYTES + 1);
    file.read_to_end(&mut bytes)?;
    anyhow::ensure!(
        bytes.len() as u64 <= MAX_FILE_BYTES,
        "the file has more than {MAX_FILE_BYTES} bytes"
    );
    Ok(bytes)
}
