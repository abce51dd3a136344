//! Shared memory of callers on this machine: regions that they registered, read from and written to
//! in place of bodies.
//!
//! Regions are read and written by `pread` and `pwrite`, never mapped: a file that is truncated under
//! a mapping ends the process that looks at it (SIGBUS), and a caller may truncate at any time.
//! Source: Triton's system shared memory extension.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use workers_protocol::codec::{InferRequest, SharedRange};
use workers_protocol::{Code, InferError};

use crate::budget::Reservation;

/// Most regions: each keeps a file open, and with it the memory that its owner gave it.
const MAX_REGIONS: usize = 256;
/// Longest name of a region, and of a shared memory object (`NAME_MAX`), in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Where POSIX shared memory objects are on Linux (shm_overview(7)).
const FOLDER: &str = "/dev/shm";

/// The regions that callers registered. None are, unless they are offered.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    is_offered: bool,
    regions: Mutex<BTreeMap<String, Arc<Region>>>,
}

/// A part of a shared memory object, under a name.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) key: String,
    /// Where it begins in the object, in bytes.
    pub(crate) offset: u64,
    pub(crate) byte_size: u64,
    object: File,
}

// === impl SharedMemory ===

impl SharedMemory {
    /// Returns one without regions. Offer it only where every caller is on this machine and may read
    /// and write what this process may: objects are opened with its rights.
    pub(crate) fn new(is_offered: bool) -> Self {
        Self {
            is_offered,
            regions: Mutex::default(),
        }
    }

    pub(crate) const fn is_offered(&self) -> bool {
        self.is_offered
    }

    /// Registers a part of the object `key` under a name.
    ///
    /// # Errors
    /// `InvalidArgument` for a key that names no object that can be read and written, or a part that
    /// it has not; `AlreadyExists`; `Overloaded` when there are as many as can be.
    pub(crate) fn register(
        &self,
        name: &str,
        key: &str,
        offset: u64,
        byte_size: u64,
    ) -> Result<(), InferError> {
        self.check_offered()?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(InferError::invalid(format!(
                "shared memory region: expected a name of 1 to {MAX_NAME_BYTES} bytes, got {}",
                name.len()
            )));
        }
        let object = open_object(key)?;
        let region = Region {
            key: key.to_owned(),
            offset,
            byte_size,
            object,
        };
        let file_bytes = region.file_bytes()?;
        let end = offset.checked_add(byte_size);
        if byte_size == 0 || end.is_none_or(|end| end > file_bytes) {
            return Err(InferError::invalid(format!(
                "failed to register shared memory region: '{name}', invalid args: expected \
                 `offset` and `byte_size` within the {file_bytes} bytes of {key:?}, got {offset} \
                 and {byte_size}"
            )));
        }
        let mut regions = self.lock();
        if regions.contains_key(name) {
            let message = format!("shared memory region '{name}' already in manager");
            return Err(InferError::new(Code::AlreadyExists, message));
        }
        if regions.len() >= MAX_REGIONS {
            let message =
                format!("{MAX_REGIONS} shared memory regions are registered: unregister one first");
            return Err(InferError::new(Code::Overloaded, message));
        }
        regions.insert(name.to_owned(), Arc::new(region));
        Ok(())
    }

    /// Forgets a region, or all of them; one that is not there is no mistake.
    ///
    /// # Errors
    /// `Unimplemented` where none are offered.
    pub(crate) fn unregister(&self, name: Option<&str>) -> Result<(), InferError> {
        self.check_offered()?;
        let mut regions = self.lock();
        match name {
            Some(name) => drop(regions.remove(name)),
            None => regions.clear(),
        }
        Ok(())
    }

    /// Returns a region, or all of them, with their names.
    ///
    /// # Errors
    /// `NotFound`; `Unimplemented` where none are offered.
    pub(crate) fn status(
        &self,
        name: Option<&str>,
    ) -> Result<Vec<(String, Arc<Region>)>, InferError> {
        self.check_offered()?;
        match name {
            Some(name) => Ok(vec![(name.to_owned(), self.region(name)?)]),
            None => {
                let regions = self.lock();
                let all = regions.iter();
                Ok(all
                    .map(|(name, region)| (name.clone(), Arc::clone(region)))
                    .collect())
            }
        }
    }

    /// Reads the inputs of a request that lie in regions, for which room is taken first. Blocks.
    ///
    /// # Errors
    /// `NotFound` for a region, `InvalidArgument` for a part that it has not; no room.
    pub(crate) fn read_inputs(
        &self,
        request: &mut InferRequest,
        reservation: &mut Reservation,
    ) -> Result<(), InferError> {
        for (index, range) in &request.shared_inputs {
            let Some(input) = request.inputs.get_mut(*index) else {
                continue;
            };
            input.data = self
                .read(range, reservation)
                .map_err(|error| of("input", &input.name, error))?;
        }
        Ok(())
    }

    fn read(
        &self,
        range: &SharedRange,
        reservation: &mut Reservation,
    ) -> Result<Bytes, InferError> {
        self.check_offered()?;
        let region = self.region(&range.region)?;
        let at = region.locate(range)?;
        reservation.grow(range.byte_size)?;
        let mut bytes = vec![0; usize::try_from(range.byte_size).unwrap_or(usize::MAX)];
        region
            .object
            .read_exact_at(&mut bytes, at)
            .map_err(|error| {
                InferError::invalid(format!(
                    "shared memory region '{}' can't be read to its end: {error}",
                    range.region
                ))
            })?;
        Ok(bytes.into())
    }

    /// Writes an output into a region. Blocks.
    ///
    /// # Errors
    /// `NotFound` for a region, `InvalidArgument` for a part that it has not or that is too small.
    pub(crate) fn write_output(
        &self,
        range: &SharedRange,
        name: &str,
        data: &[u8],
    ) -> Result<(), InferError> {
        self.write(range, data)
            .map_err(|error| of("output", name, error))
    }

    fn write(&self, range: &SharedRange, data: &[u8]) -> Result<(), InferError> {
        self.check_offered()?;
        let region = self.region(&range.region)?;
        let at = region.locate(range)?;
        if data.len() as u64 > range.byte_size {
            return Err(InferError::invalid(format!(
                "`shared_memory_byte_size`: expected at least {} bytes, got {}",
                data.len(),
                range.byte_size
            )));
        }
        region.object.write_all_at(data, at).map_err(|error| {
            InferError::invalid(format!(
                "shared memory region '{}' can't be written: {error}",
                range.region
            ))
        })
    }

    /// Checks that a range is one of a region that is there, before the model runs.
    ///
    /// # Errors
    /// As of reading and writing.
    pub(crate) fn check(&self, range: &SharedRange, output: &str) -> Result<(), InferError> {
        self.check_offered()
            .and_then(|()| self.region(&range.region))
            .and_then(|region| region.locate(range))
            .map(|_| ())
            .map_err(|error| of("output", output, error))
    }

    fn region(&self, name: &str) -> Result<Arc<Region>, InferError> {
        let region = self.lock().get(name).map(Arc::clone);
        region.ok_or_else(|| {
            let message = format!("Unable to find shared memory region: '{name}'");
            InferError::new(Code::NotFound, message)
        })
    }

    fn check_offered(&self) -> Result<(), InferError> {
        if self.is_offered {
            return Ok(());
        }
        let message = "shared memory is not offered here: see --shared-memory";
        Err(InferError::new(Code::Unimplemented, message))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Region>>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Region ===

impl Region {
    /// Returns where a range begins in the object, which it lies within now.
    fn locate(&self, range: &SharedRange) -> Result<u64, InferError> {
        let within = range.offset.checked_add(range.byte_size);
        if within.is_none_or(|end| end > self.byte_size) {
            return Err(InferError::invalid(format!(
                "Invalid offset + byte size for shared memory region: '{}': expected a range within \
                 its {} bytes, got {} bytes at {}",
                range.region, self.byte_size, range.byte_size, range.offset
            )));
        }
        // Within what was checked when it was registered: no sum overflows.
        let at = self.offset.saturating_add(range.offset);
        let file_bytes = self.file_bytes()?;
        // Writing beyond its end would make the object longer.
        if at.saturating_add(range.byte_size) > file_bytes {
            return Err(InferError::invalid(format!(
                "shared memory region '{}': {:?} was truncated to {file_bytes} bytes since it was \
                 registered",
                range.region, self.key
            )));
        }
        Ok(at)
    }

    fn file_bytes(&self) -> Result<u64, InferError> {
        let stat = fstat(&self.object).map_err(|error| unopened(&self.key, error))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }
}

/// Opens the shared memory object of a name, as `shm_open(3)` would, and nothing else.
fn open_object(key: &str) -> Result<File, InferError> {
    let name = key.strip_prefix('/').unwrap_or(key);
    let is_name = !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.contains(['/', '\0'])
        && !matches!(name, "." | "..");
    if !is_name {
        return Err(InferError::invalid(format!(
            "`key`: expected the name of a shared memory object, as `/name`, got {:?}",
            key.get(..key.floor_char_boundary(64)).unwrap_or_default()
        )));
    }
    // Not to wait for what is no memory, as a named pipe.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let object = open(format!("{FOLDER}/{name}"), flags, Mode::empty())
        .map_err(|error| unopened(key, error))?;
    let stat = fstat(&object).map_err(|error| unopened(key, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unopened(key, Errno::INVAL));
    }
    Ok(object.into())
}

fn unopened(key: &str, error: Errno) -> InferError {
    InferError::invalid(format!(
        "Unable to open shared memory region: '{key}': {error}"
    ))
}

fn of(side: &str, name: &str, mut error: InferError) -> InferError {
    error.message = format!("{side} `{name}`: {}", error.message);
    error
}
