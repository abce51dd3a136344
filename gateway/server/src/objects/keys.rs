//! The keys of the S3 endpoint: those that the operator gives, or random ones, which are kept.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use gateway_objects::Keys;
use serde::{Deserialize, Serialize};

use crate::auth::Secret;
use crate::oscar::random;

/// Name of the file in the data directory.
const FILE: &str = "s3-keys.json";
/// More than any file that was written here.
const MAX_FILE_BYTES: u64 = 4 << 10;

#[derive(Serialize, Deserialize)]
struct Kept {
    access_key: String,
    secret_key: String,
}

/// Returns the keys that are given, or those that are kept in the data directory, which are made the
/// first time. Blocks.
///
/// # Errors
/// A sentence, without the keys.
pub(crate) fn open(data: &Path, given: (Option<&Secret>, Option<&Secret>)) -> anyhow::Result<Keys> {
    match given {
        (Some(access), Some(secret)) => checked(access, secret),
        (None, None) => {
            let path = data.join(FILE);
            let kept = match read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => create(data, &path),
                kept => kept.map_err(Into::into),
            };
            let kept =
                kept.with_context(|| format!("the keys of the S3 endpoint, {}", path.display()))?;
            Ok(Keys {
                access_key: kept.access_key,
                secret_key: kept.secret_key,
            })
        }
        _ => anyhow::bail!(
            "of MINIO_ACCESS_KEY and MINIO_SECRET_KEY one is set: set both, or neither"
        ),
    }
}

/// Returns keys that clients can send, and nobody guesses at once.
fn checked(access: &Secret, secret: &Secret) -> anyhow::Result<Keys> {
    let (access, secret) = (access.expose(), secret.expose());
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    // A slash ends the key where requests name it.
    anyhow::ensure!(
        (3..=128).contains(&access.len()) && is_plain(access) && !access.contains(['/', ',']),
        "MINIO_ACCESS_KEY: expected 3 to 128 visible characters of ASCII without slashes and commas"
    );
    anyhow::ensure!(
        (8..=128).contains(&secret.len()) && is_plain(secret),
        "MINIO_SECRET_KEY: expected 8 to 128 visible characters of ASCII"
    );
    Ok(Keys {
        access_key: access.to_owned(),
        secret_key: secret.to_owned(),
    })
}

fn read(path: &Path) -> io::Result<Kept> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// Makes keys, and keeps them where only this user reads them.
fn create(data: &Path, path: &Path) -> anyhow::Result<Kept> {
    let kept = Kept {
        access_key: format!("hearth{}", random::hex::<8>()?),
        secret_key: random::hex::<20>()?,
    };
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(data)?;
    file.write_all(serde_json::to_string(&kept)?.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(data)?.sync_all()?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn random_keys_are_kept_for_this_user_alone() {
        let data = tempfile::tempdir().unwrap();
        let keys = open(data.path(), (None, None)).unwrap();
        let again = open(data.path(), (None, None)).unwrap();
        assert_eq!(keys.access_key, again.access_key);
        assert_eq!(keys.secret_key, again.secret_key);
        let mode = data
            .path()
            .join(FILE)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        let other = open(other.path(), (None, None)).unwrap();
        assert_ne!(keys.secret_key, other.secret_key);
    }

    #[test]
    fn given_keys_are_used_and_not_kept() {
        let data = tempfile::tempdir().unwrap();
        let secret = |text: &str| Secret::from(text.to_owned());
        let (access, key) = (secret("minio"), secret("minio123"));
        let keys = open(data.path(), (Some(&access), Some(&key))).unwrap();
        assert_eq!(
            (&*keys.access_key, &*keys.secret_key),
            ("minio", "minio123")
        );
        assert!(!data.path().join(FILE).exists());
        for (access, key) in [
            ("a/b", "long enough"),
            ("minio", "short"),
            ("é é", "long-enough"),
        ] {
            let error = open(data.path(), (Some(&secret(access)), Some(&secret(key)))).unwrap_err();
            assert!(!error.to_string().contains(key), "{error}");
        }
        open(data.path(), (Some(&secret("minio")), None)).unwrap_err();
    }
}
