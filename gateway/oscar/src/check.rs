//! What a service's definition has to keep to.

use std::time::Duration;

use crate::{Invalid, Kind, Service, StorageIo};

/// Longest name of a service, in bytes: OSCAR derives longer ones from it that are DNS labels.
pub const MAX_NAME_BYTES: usize = 39;

/// Most bytes of one variable with its name: Linux takes no longer string to start a program with
/// (`MAX_ARG_STRLEN` in `include/uapi/linux/binfmts.h`).
const MAX_VARIABLE_BYTES: usize = 128 << 10;

/// Most bytes of all variables: a quarter of what Linux takes at all with its usual stack of 8 MiB.
const MAX_ENVIRONMENT_BYTES: usize = 512 << 10;

/// A day, as of every other deadline.
const MAX_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

/// Frames a second of a video: from three in an hour to what fast cameras take.
const MIN_FPS: f32 = 0.001;
const MAX_FPS: f32 = 1000.0;

/// Most replicas that a service may ask for: as manifests of models.
const MAX_SCALE: i64 = 1024;

/// Whether this may be a service's name: a DNS label (RFC 1123 § 2.1) of at most 39 characters.
pub fn is_service_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The annotation that says how long a script may take, in seconds: OSCAR has no field for it, and its
/// clients pass annotations on.
pub const TIMEOUT: &str = "hearth/timeout-s";

/// Reads a quantity of Kubernetes, as `0.5`, `500m`, `256Mi`: a number of cores or bytes.
fn quantity(text: &str) -> Option<f64> {
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: f64 = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 2_f64.powi(10),
        "Mi" => 2_f64.powi(20),
        "Gi" => 2_f64.powi(30),
        "Ti" => 2_f64.powi(40),
        "Pi" => 2_f64.powi(50),
        "Ei" => 2_f64.powi(60),
        exponent => {
            let exponent = exponent.strip_prefix(['e', 'E'])?;
            10_f64.powi(
                exponent
                    .parse()
                    .ok()
                    .filter(|power| (-18..=18).contains(power))?,
            )
        }
    };
    let number: f64 = number.parse().ok()?;
    let value = number * unit;
    (value.is_finite() && value >= 0.0).then_some(value)
}

impl Service {
    /// Returns the memory that a script may use, in bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        quantity(&self.memory).map(|bytes| bytes as u64)
    }

    /// Returns the scratch space that a script may use, in bytes, if it is said; 0 says nothing.
    pub fn scratch_bytes(&self) -> Option<u64> {
        let bytes = quantity(&self.ephemeral_storage_request)? as u64;
        (bytes > 0).then_some(bytes)
    }

    /// Returns the cores that a script may use, if it is said; 0 says nothing.
    pub fn cores(&self) -> Option<f64> {
        quantity(&self.cpu).filter(|&cores| cores > 0.0)
    }

    /// Returns how long a script may take, if it is said.
    pub fn timeout(&self) -> Option<Duration> {
        let seconds = self.annotations.get(TIMEOUT)?.parse().ok();
        let seconds = seconds.filter(|seconds| (1..=MAX_TIMEOUT_MS / 1000).contains(seconds));
        seconds.map(Duration::from_secs)
    }

    /// Checks a definition with its defaults.
    ///
    /// # Errors
    /// The first mistake, in the order of OSCAR's own checks; where OSCAR has words for it, with those.
    pub fn check(&self) -> Result<(), Invalid> {
        self.check_identity()?;
        self.check_scales()?;
        self.check_resources()?;
        self.check_timeout()?;
        self.check_access()?;
        self.check_environment()?;
        self.check_storage()?;
        self.check_volume()?;
        self.check_model()
    }

    fn check_identity(&self) -> Result<(), Invalid> {
        if !is_service_name(&self.name) {
            return Err(Invalid::new(format!(
                "`name`: expected 1 to {MAX_NAME_BYTES} lower-case letters, digits and `-`, with a letter or \
                 digit at both ends, got {:?}",
                excerpt(&self.name)
            )));
        }
        if self.image.is_empty() {
            return Err(Invalid::new(
                "`image` is missing: expected a container's image, or `model:NAME`",
            ));
        }
        if self.kind() == Kind::Script && self.script.is_empty() {
            return Err(Invalid::new(
                "`script` is missing: expected the text of a script, or an image `model:NAME`, which needs none",
            ));
        }
        if self.script.contains('\0') {
            return Err(Invalid::new("`script`: expected text, got a zero byte"));
        }
        Ok(())
    }

    fn check_scales(&self) -> Result<(), Invalid> {
        let synchronous = self.synchronous;
        for (field, scale) in [
            ("synchronous.min_scale", synchronous.min_scale),
            ("synchronous.max_scale", synchronous.max_scale),
            ("expose.min_scale", self.expose.min_scale),
            ("expose.max_scale", self.expose.max_scale),
        ] {
            if !(0..=MAX_SCALE).contains(&scale) {
                return Err(Invalid::new(format!(
                    "`{field}`: expected 0 to {MAX_SCALE}, got {scale}"
                )));
            }
        }
        if synchronous.max_scale != 0 && synchronous.min_scale > synchronous.max_scale {
            return Err(Invalid::new(format!(
                "`synchronous.min_scale` ({}) is more than `synchronous.max_scale` ({})",
                synchronous.min_scale, synchronous.max_scale
            )));
        }
        for (field, ports) in [
            ("expose.api_port", &self.expose.api_port),
            ("expose.nodePort", &self.expose.node_port),
        ] {
            for port in &ports.list {
                if !(1..=i64::from(u16::MAX)).contains(port) {
                    return Err(Invalid::new(format!(
                        "`{field}`: expected a port from 1 to 65535, got {port}"
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_resources(&self) -> Result<(), Invalid> {
        for (field, text) in [
            ("cpu", &self.cpu),
            ("memory", &self.memory),
            ("total_cpu", &self.total_cpu),
            ("total_memory", &self.total_memory),
            ("ephemeral_storage_request", &self.ephemeral_storage_request),
        ] {
            if !text.is_empty() && quantity(text).is_none() {
                return Err(Invalid::new(format!(
                    "`{field}`: expected a quantity, as 0.5 or 256Mi, got {:?}",
                    excerpt(text)
                )));
            }
        }
        // Which to a container's daemon means any.
        if self.memory_bytes() == Some(0) {
            return Err(Invalid::new(format!(
                "`memory`: expected a byte at least, as 256Mi, got {:?}",
                excerpt(&self.memory)
            )));
        }
        Ok(())
    }

    fn check_timeout(&self) -> Result<(), Invalid> {
        match self.annotations.get(TIMEOUT) {
            Some(text) if self.timeout().is_none() => Err(Invalid::new(format!(
                "`annotations`: {TIMEOUT} is expected to be a whole number from 1 to {}, got {:?}",
                MAX_TIMEOUT_MS / 1000,
                excerpt(text)
            ))),
            _ => Ok(()),
        }
    }

    fn check_access(&self) -> Result<(), Invalid> {
        one_of(
            "visibility",
            &self.visibility,
            &["private", "restricted", "public"],
        )?;
        one_of(
            "isolation_level",
            &self.isolation_level,
            &["SERVICE", "USER"],
        )
    }

    fn check_environment(&self) -> Result<(), Invalid> {
        let variables = self.environment.variables.iter();
        let plain = variables.map(|(name, value)| (name, value.as_str()));
        let secrets = self.environment.secrets.iter();
        let secret = secrets.map(|(name, value)| (name, value.reveal()));
        let mut bytes = 0;
        for (name, value) in plain.chain(secret) {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(Invalid::new(format!(
                    "`environment`: {:?} can't be a variable: expected a name without `=`, and no zero byte",
                    excerpt(name)
                )));
            }
            let size = name.len() + value.len() + 2;
            if size > MAX_VARIABLE_BYTES {
                return Err(Invalid::new(format!(
                    "`environment`: variable {:?} has {size} bytes, expected at most {MAX_VARIABLE_BYTES}",
                    excerpt(name)
                )));
            }
            bytes += size;
        }
        if bytes > MAX_ENVIRONMENT_BYTES {
            return Err(Invalid::new(format!(
                "`environment` has {bytes} bytes, expected at most {MAX_ENVIRONMENT_BYTES}"
            )));
        }
        Ok(())
    }

    fn check_storage(&self) -> Result<(), Invalid> {
        for input in &self.input {
            let provider = input.reference().provider;
            if !["minio", "s3", "folder", "webdav", "rucio"].contains(&provider) {
                return Err(Invalid::new(
                    "unrecognized input (valid inputs are MinIO, S3, folders and dCache)",
                ));
            }
        }
        for io in self.input.iter().chain(&self.output) {
            self.check_provider(io)?;
            io.bucket_path(&self.name)?;
        }
        let mount = &self.mount;
        if mount.provider.is_empty() && mount.path.is_empty() {
            return Ok(());
        }
        one_of(
            "mount.storage_provider",
            mount.reference().provider,
            &["minio", "s3", "webdav"],
        )?;
        self.check_provider(mount)?;
        let is_option = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:=,/ ".contains(&byte);
        if !mount.options.bytes().all(is_option) {
            return Err(Invalid::new(
                "`mount.options`: expected letters, digits, blanks and -_.:=,/",
            ));
        }
        Ok(())
    }

    fn check_provider(&self, io: &StorageIo) -> Result<(), Invalid> {
        let reference = io.reference();
        if self.storage_providers.has(reference) {
            return Ok(());
        }
        Err(Invalid::new(format!(
            "the StorageProvider \"{}.{}\" is not defined",
            excerpt(reference.provider),
            excerpt(reference.id)
        )))
    }

    fn check_volume(&self) -> Result<(), Invalid> {
        let Some(volume) = &self.volume else {
            return Ok(());
        };
        let path = &volume.mount_path;
        let is_under = |folder: &str| path == folder || path.starts_with(&format!("{folder}/"));
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return Err(Invalid::new(format!(
                "`volume.mount_path`: expected an absolute path, got {:?}",
                excerpt(path)
            )));
        }
        if is_under("/oscar/bin") || is_under("/oscar/config") {
            return Err(Invalid::new(
                "`volume.mount_path`: /oscar/bin and /oscar/config are the server's own",
            ));
        }
        if !volume.size.is_empty() && quantity(&volume.size).is_none() {
            return Err(Invalid::new(format!(
                "`volume.size`: expected a quantity, as 1Gi, got {:?}",
                excerpt(&volume.size)
            )));
        }
        if volume.size.is_empty() && volume.name.is_empty() {
            return Err(Invalid::new(
                "`volume`: expected a `size`, for a new one, or the `name` of one that is there",
            ));
        }
        match volume.lifecycle_policy.as_str() {
            "" => Ok(()),
            policy => one_of("volume.lifecycle_policy", policy, &["delete", "retain"]),
        }
    }

    fn check_model(&self) -> Result<(), Invalid> {
        let Some(block) = &self.model else {
            return Ok(());
        };
        // What the image says goes; both may be there where a definition comes back that was read.
        if let Some(model) = self.model()
            && ((!block.name.is_empty() && block.name != model.name)
                || (!block.version.is_empty() && block.version != model.version))
        {
            return Err(Invalid::new(format!(
                "`model` is {:?}, and `image` is {:?}: expected one of them, or the same model",
                excerpt(&block.name),
                excerpt(&self.image)
            )));
        }
        if !self.image.starts_with("model:") {
            return Err(Invalid::new(format!(
                "`image`: a service with a `model` has an image `model:NAME`, or none, got {:?}",
                excerpt(&self.image)
            )));
        }
        for (field, fraction) in [
            ("model.score", block.score),
            ("model.iou", block.iou),
            ("model.crop.margin", block.crop.map(|crop| crop.margin)),
        ] {
            if fraction.is_some_and(|fraction| !(0.0..=1.0).contains(&fraction)) {
                return Err(Invalid::new(format!(
                    "`{field}`: expected a number from 0 to 1"
                )));
            }
        }
        if block.top_k == Some(0) {
            return Err(Invalid::new(
                "`model.top_k`: expected a whole number from 1, got 0",
            ));
        }
        if let Some(ms) = block.timeout_ms
            && !(1..=MAX_TIMEOUT_MS).contains(&ms)
        {
            return Err(Invalid::new(format!(
                "`model.timeout_ms`: expected a whole number from 1 to {MAX_TIMEOUT_MS}, got {ms}"
            )));
        }
        if let Some(fps) = block.video.and_then(|video| video.fps)
            && !(MIN_FPS..=MAX_FPS).contains(&fps)
        {
            return Err(Invalid::new(format!(
                "`model.video.fps`: expected a number from {MIN_FPS} to {MAX_FPS}, got {fps}"
            )));
        }
        Ok(())
    }
}

fn one_of(field: &str, value: &str, expected: &[&str]) -> Result<(), Invalid> {
    if expected.contains(&value) {
        return Ok(());
    }
    let expected: Vec<_> = expected.iter().map(|value| format!("`{value}`")).collect();
    Err(Invalid::new(format!(
        "`{field}`: expected {}, got {:?}",
        expected.join(" or "),
        excerpt(value)
    )))
}

/// Returns what an error repeats of a text.
fn excerpt(text: &str) -> &str {
    match text.char_indices().nth(64) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests;
