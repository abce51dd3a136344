//! Finding ONNX Runtime.

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::session::Session;
use workers_protocol::{Code, InferError};

/// The oldest ONNX Runtime whose API is used (cargo feature `api-24` of `ort`).
const OLDEST: &str = "1.24";
/// The least that a session can be made of.
const SMALLEST_GRAPH: &[u8] = include_bytes!("../tests/models/add_one.onnx");
const FILE_NAMES: [&str; 2] = ["libonnxruntime.so", "libonnxruntime.so.1"];

/// ONNX Runtime, loaded into this process. There is one per process, whatever is loaded later.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(crate) environment: Environment,
}

impl Runtime {
    /// Loads the library: `explicit` and nothing else where it is given, else the first of
    /// `ORT_DYLIB_PATH`, the folder of this program, `../lib` beside it, `/usr/local/lib`, `/usr/lib`.
    ///
    /// # Errors
    /// `Unavailable`, in one sentence with what mends it, when the library is missing or too old.
    pub fn load(explicit: Option<&Path>) -> Result<Self, InferError> {
        let path = find(explicit)?;
        let environment = ort::init_from(&path)
            .map_err(|error| {
                unavailable(&format!(
                    "ONNX Runtime at {} can't be used ({error})",
                    path.display()
                ))
            })?
            .with_name("hearth")
            .with_telemetry(false)
            .build()
            .map_err(|error| {
                unavailable(&format!(
                    "ONNX Runtime at {} does not start ({error})",
                    path.display()
                ))
            })?;
        Ok(Self { environment })
    }

    /// Returns the library's build, in its own words.
    pub fn build(&self) -> &'static str {
        ort::info()
    }

    /// Makes a session of the smallest graph and drops it: the first one of a process pays for what
    /// is set up once and for pages of the library, a tenth of loading a small detector.
    ///
    /// # Errors
    /// `Internal` when the library makes no session at all.
    pub fn warm(&self) -> Result<(), InferError> {
        Session::builder(&self.environment)
            .and_then(|mut builder| builder.commit_from_memory(SMALLEST_GRAPH))
            .map(drop)
            .map_err(|error| {
                InferError::internal(format!("ONNX Runtime makes no session ({error})"))
            })
    }
}

fn find(explicit: Option<&Path>) -> Result<PathBuf, InferError> {
    if let Some(path) = explicit {
        return path.canonicalize().map_err(|error| {
            unavailable(&format!(
                "ONNX Runtime is not at {} ({error})",
                path.display()
            ))
        });
    }
    let folders = folders();
    folders
        .iter()
        .flat_map(|folder| FILE_NAMES.map(|name| folder.join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let looked: Vec<_> = folders
                .iter()
                .map(|folder| folder.display().to_string())
                .collect();
            unavailable(&format!(
                "ONNX Runtime was not found in {}",
                looked.join(", ")
            ))
        })
}

fn folders() -> Vec<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.to_owned()));
    let lib = beside
        .as_ref()
        .and_then(|folder| Some(folder.parent()?.join("lib")));
    let system = ["/usr/local/lib", "/usr/lib"].map(PathBuf::from);
    beside.into_iter().chain(lib).chain(system).collect()
}

fn unavailable(what: &str) -> InferError {
    InferError::new(
        Code::Unavailable,
        format!(
            "{what}: run `make runtime` in Hearth's sources, or `pip download --no-deps onnxruntime`, unpack \
             libonnxruntime.so of version {OLDEST} or newer from the wheel and name it in ORT_DYLIB_PATH"
        ),
    )
}
