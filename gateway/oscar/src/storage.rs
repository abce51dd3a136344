//! Where files come from and go to: providers, and paths at them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Invalid, Secret};

/// The id of a provider that none is given for.
const DEFAULT_ID: &str = "default";

/// Credentials of storage providers, by type and id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageProviders {
    /// Amazon S3.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub s3: BTreeMap<String, S3>,
    /// MinIO; `default` is the gateway's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub minio: BTreeMap<String, Minio>,
    /// Onedata, by CDMI.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub onedata: BTreeMap<String, Onedata>,
    /// WebDAV, dCache among them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub webdav: BTreeMap<String, Webdav>,
    /// Rucio.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rucio: BTreeMap<String, Rucio>,
}

/// An account at Amazon S3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the keys of the service definition say it")]
pub struct S3 {
    pub access_key: Secret,
    pub secret_key: Secret,
    pub region: String,
}

/// An account at a MinIO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Minio {
    /// Its URL.
    pub endpoint: String,
    /// Whether its certificate is verified.
    pub verify: bool,
    /// Who calls.
    pub access_key: Secret,
    /// The caller's secret.
    pub secret_key: Secret,
    /// The region that it says it is in.
    pub region: String,
}

/// A space at a Oneprovider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the keys of the service definition say it")]
pub struct Onedata {
    pub oneprovider_host: String,
    pub token: Secret,
    pub space: String,
}

/// An account at a WebDAV server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the keys of the service definition say it")]
pub struct Webdav {
    pub hostname: String,
    pub login: String,
    pub password: Secret,
}

/// An account at a Rucio.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the keys of the service definition say it")]
pub struct Rucio {
    pub host: String,
    pub account: String,
    pub rse: String,
    pub refresh_token: Secret,
    pub auth_host: String,
    pub oidc_audience: String,
    pub token_endpoint: String,
}

/// An input, output or mount of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageIo {
    /// `TYPE.ID`, or `TYPE` for its default.
    #[serde(rename = "storage_provider")]
    pub provider: String,
    /// Of MinIO and S3 the bucket and the folder in it.
    pub path: String,
    /// Ends that file names have; all where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub suffix: Vec<String>,
    /// What file names begin with; all where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefix: Vec<String>,
    /// How it is mounted: options of rclone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub options: String,
}

/// `storage_provider`, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageReference<'a> {
    /// `minio`, `s3`, `onedata`, `webdav`, `rucio` or `folder`.
    pub provider: &'a str,
    /// Which of that type.
    pub id: &'a str,
}

/// `path` at a MinIO or S3, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoragePath {
    /// The bucket.
    pub bucket: String,
    /// The folder in it, without slashes around it; empty for the whole bucket.
    pub folder: String,
}

// === impl StorageProviders ===

impl StorageProviders {
    /// Whether there is what this provider needs; of `minio.default` and folders there always is, since
    /// the gateway has it.
    pub fn has(&self, reference: StorageReference<'_>) -> bool {
        let id = reference.id;
        match reference.provider {
            "minio" => id == DEFAULT_ID || self.minio.contains_key(id),
            "s3" => self.s3.contains_key(id),
            "onedata" => self.onedata.contains_key(id),
            "webdav" => self.webdav.contains_key(id),
            "rucio" => self.rucio.contains_key(id),
            // The operator's to name.
            "folder" => true,
            _ => false,
        }
    }

    /// Takes in what is not there yet of others.
    pub(crate) fn merge(&mut self, others: &Self) {
        fn add<T: Clone>(to: &mut BTreeMap<String, T>, from: &BTreeMap<String, T>) {
            for (id, value) in from {
                to.entry(id.clone()).or_insert_with(|| value.clone());
            }
        }
        add(&mut self.s3, &others.s3);
        add(&mut self.minio, &others.minio);
        add(&mut self.onedata, &others.onedata);
        add(&mut self.webdav, &others.webdav);
        add(&mut self.rucio, &others.rucio);
    }
}

impl Default for Minio {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            verify: true,
            access_key: Secret::default(),
            secret_key: Secret::default(),
            region: String::new(),
        }
    }
}

// === impl StorageReference ===

impl<'a> StorageReference<'a> {
    /// Reads `TYPE.ID`, or `TYPE` for its default.
    pub fn parse(text: &'a str) -> Self {
        let (provider, id) = text.split_once('.').unwrap_or((text, ""));
        Self {
            provider: provider.trim(),
            id: if id.is_empty() { DEFAULT_ID } else { id },
        }
    }
}

impl fmt::Display for StorageReference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.provider, self.id)
    }
}

// === impl StorageIo ===

impl StorageIo {
    /// Returns which provider it is at; a bare type means its default.
    pub fn reference(&self) -> StorageReference<'_> {
        StorageReference::parse(&self.provider)
    }

    /// Returns bucket and folder of a path at MinIO or S3. A path of one name is a folder of the
    /// bucket that is called as the service.
    ///
    /// # Errors
    /// Of an empty path.
    pub fn bucket_path(&self, service: &str) -> Result<StoragePath, Invalid> {
        let path = self.path.trim_matches([' ', '/']);
        if path.is_empty() {
            return Err(Invalid::new(
                "`path` of an input or output is empty: expected a bucket and a folder, as bucket/folder",
            ));
        }
        let (bucket, folder) = path.split_once('/').unwrap_or((service, path));
        Ok(StoragePath {
            bucket: bucket.to_owned(),
            folder: folder.trim_matches('/').to_owned(),
        })
    }
}
