//! Clients of others, unmodified, and a fuzzer that goes by the document of the API. `make test` fetches
//! them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::hearth::{Hearth, finish_within, skip, sources};
use crate::pictures::{RED, picture_models, png};

/// What the clients are asked for, and give.
const PASSWORD: [(&str, &str); 2] = [("OSCAR_USERNAME", "oscar"), ("OSCAR_PASSWORD", "secret")];

/// Returns a command that runs Python with the packages that `make test` fetched, or says that the
/// test is skipped.
pub(crate) fn python(client: &str) -> Option<Command> {
    let program = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let version = "import sys; print('%d.%d' % sys.version_info[:2])";
    let output = Command::new(&program).args(["-c", version]).output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let folder = |version: String| sources().join(format!("build/clients-python{version}"));
    let folder = version.map(folder).unwrap_or_default();
    if !folder.join("complete").is_file() {
        skip("the clients are not there: `make clients` fetches them, for Python 3.11 or newer");
        return None;
    }
    let mut command = Command::new(program);
    let packages: Vec<PathBuf> = [client, "common"]
        .map(|part| folder.join(part).canonicalize().unwrap())
        .into();
    command
        .env("PYTHONPATH", std::env::join_paths(packages).unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUTF8", "1")
        .env("no_proxy", "*");
    Some(command)
}

fn start() -> Hearth {
    let store = picture_models().with_tiny("add_one");
    Hearth::start_on(store, Arc::new(TempDir::new().unwrap()), &[], &PASSWORD)
}

#[track_caller]
pub(crate) fn succeed(command: &mut Command) {
    let output = finish_within(std::time::Duration::from_secs(600), command);
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{complained}");
}

fn oscar_python(version: &str) {
    let Some(mut python) = python(version) else {
        return;
    };
    let hearth = start();
    let folder = TempDir::new().unwrap();
    let picture = folder.path().join("red.png");
    std::fs::write(&picture, png(RED)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/oscar_client.py");
    succeed(
        python
            .arg(script)
            .arg(format!("http://{}", hearth.address()))
            .arg(picture)
            .arg(folder.path()),
    );
}

#[test]
fn oscar_python_1_finds_what_it_expects() {
    oscar_python("oscar-python-1.3.3");
}

#[test]
fn oscar_python_2_finds_what_it_expects() {
    oscar_python("oscar-python-2.2.0");
}

#[test]
fn the_document_of_the_api_is_true() {
    let Some(mut python) = python("common") else {
        return;
    };
    let hearth = start();
    let address = format!("http://{}", hearth.address());
    let body = r#"{"name":"there","image":"model:mean"}"#;
    let request = hearth
        .request("POST", "/system/services")
        .header("authorization", "Basic b3NjYXI6c2VjcmV0");
    assert_eq!(hearth.send(request, body).status, 201);
    // It writes beside where it is run.
    let folder = TempDir::new().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/schemathesis.toml");
    succeed(
        python
            .current_dir(folder.path())
            .args(["-m", "schemathesis.cli", "--config-file"])
            .arg(config)
            .arg("run")
            .arg(format!("{address}/openapi.json"))
            .args(["--auth", "oscar:secret", "--seed", "7"]),
    );
    hearth.stop();
}

#[test]
fn every_route_is_in_the_document_and_no_other() {
    let hearth = start();
    let document: Value = hearth.get("/openapi.json").ok();
    let mut documented: Vec<&str> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut there = crate::access::routes::ROUTES.to_vec();
    documented.sort_unstable();
    there.sort_unstable();
    assert_eq!(documented, there);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}
