//! The command line: adding to a store, looking into it, fetching files, completing commands.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::hearth::{PLAIN, command, finish, skip, tiny};

/// The SHA-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// Returns a folder with a manifest and a graph, as somebody would add it.
fn folder(manifest: &str, graph: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.yaml"), manifest).unwrap();
    fs::copy(tiny(graph), folder.path().join("graph.onnx")).unwrap();
    folder
}

fn model(args: &[&str], paths: &[&Path]) -> Output {
    let mut command = command();
    command.arg("model").args(args).args(paths);
    command.env_remove("HTTP_PROXY").env_remove("http_proxy");
    command.env_remove("ALL_PROXY").env_remove("all_proxy");
    finish(&mut command)
}

fn add(folder: &TempDir, store: &TempDir, more: &[&str]) -> Output {
    let store = store.path().to_str().unwrap();
    let args = [&["add", "--store", store, "--name", "model"], more].concat();
    model(&args, &[folder.path()])
}

#[track_caller]
pub(crate) fn said(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(output.stdout, b"");
    let last = text.lines().last().unwrap();
    last.strip_prefix("error: ").unwrap().to_owned()
}

/// Returns all that is in a folder, hidden or not.
fn listed(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_model_is_added_once() {
    let (store, first, second) = (
        tempfile::tempdir().unwrap(),
        folder(PLAIN, "add_one"),
        folder(PLAIN, "slow"),
    );
    let text = said(&add(&first, &store, &[]));
    let version = store.path().join("model/1");
    assert_eq!(text, format!("added model:1 at {}\n", version.display()));
    assert_eq!(listed(&version), ["graph.onnx", "model.yaml"]);
    let text = said(&add(&first, &store, &[]));
    assert_eq!(text, "model:1 is there already, with the same files\n");

    let complaint = complaint(&add(&second, &store, &["--version", "1"]));
    assert!(
        complaint.contains("`model` has a version 1 already, with other content"),
        "{complaint}"
    );
    let text = said(&add(&second, &store, &[]));
    assert!(text.contains("added model:2 at "), "{text}");
    assert_eq!(listed(store.path()), ["model"]);
    assert_eq!(listed(&store.path().join("model")), ["1", "2"]);
}

#[test]
fn a_model_that_cannot_be_served_is_refused_and_leaves_nothing_behind() {
    let store = tempfile::tempdir().unwrap();
    for (manifest, graph, words) in [
        (
            PLAIN,
            "sequence_output",
            "model:1 can't be served: output `y` is no tensor",
        ),
        ("engine: onnx\nfile: other.onnx\n", "add_one", "other.onnx"),
        ("engine: onnx\nfiel: graph.onnx\n", "add_one", "fiel"),
        (
            "task: face-mask-detection\nstages: [{ model: a }, { model: b }]\n",
            "add_one",
            "stage `a` is not in the store: add it first",
        ),
    ] {
        let complaint = complaint(&add(&folder(manifest, graph), &store, &[]));
        assert!(complaint.contains(words), "{complaint}");
        assert_eq!(listed(store.path()), Vec::<String>::new(), "{words}");
    }
}

#[test]
fn adding_says_what_it_changes() {
    const FREED: &str = "
engine: onnx
inputs: [{ name: x, shape: [-1, 3, -1, -1] }]
outputs: [{ name: y, shape: [-1, 1, -1, -1] }]
";
    let store = tempfile::tempdir().unwrap();
    let text = said(&add(&folder(FREED, "wrong_shape"), &store, &[]));
    let notes = text
        .lines()
        .filter(|line| line.starts_with("note: "))
        .count();
    assert!(notes >= 2, "{text}");
    // Rewritten is the copy that is served, so a digest of the file stays what it was.
    let stored = store.path().join("model/1/graph.onnx");
    assert_eq!(
        fs::read(stored).unwrap(),
        fs::read(tiny("wrong_shape")).unwrap()
    );
}

#[test]
fn versions_are_listed() {
    let store = tempfile::tempdir().unwrap();
    for (name, version, manifest) in [
        ("add", "2", PLAIN),
        ("add", "10", PLAIN),
        (
            "finds-things",
            "1",
            "engine: onnx\ntask: object-detection\noutput: { head: yolox }\n",
        ),
        (
            "masks",
            "1",
            "task: face-mask-detection\nstages: [{ model: a }, { model: b }]\n",
        ),
        ("bad", "1", "engine: caffe\n"),
    ] {
        let folder = store.path().join(name).join(version);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("model.yaml"), manifest).unwrap();
        fs::write(folder.join("graph.onnx"), name).unwrap();
    }
    fs::create_dir_all(store.path().join("add/latest")).unwrap();
    let text = said(&model(&["list", "--store"], &[store.path()]));
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["NAME", "VERSION", "ENGINE", "TASK"]);
    assert_eq!(rows[1], ["add", "2", "onnx", "tensors"]);
    assert_eq!(rows[2], ["add", "10", "onnx", "tensors"]);
    assert_eq!(rows[3][..3], ["bad", "1", "refused:"]);
    assert_eq!(rows[4], ["finds-things", "1", "onnx", "object-detection"]);
    assert_eq!(rows[5], ["masks", "1", "stages", "face-mask-detection"]);
    assert!(
        text.contains("skipped") && text.contains("latest"),
        "{text}"
    );
}

/// Answers every request with these bytes, for as long as the test runs.
pub(crate) fn serve(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let lines = BufReader::new(socket.try_clone().unwrap()).lines();
            lines.map_while(Result::ok).find(String::is_empty);
            let _ = socket.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn a_file_is_imported_from_a_server_or_a_folder() {
    let place = tempfile::tempdir().unwrap();
    let address = serve("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
    let url = format!("http://{address}/models/net.onnx?download=true");
    let text = said(&model(
        &["import", "--sha256", HELLO, &url],
        &[place.path()],
    ));
    let file = place.path().join("net.onnx");
    assert!(
        text.contains(&format!(
            "fetched {} (5 bytes, sha256 {HELLO})",
            file.display()
        )),
        "{text}"
    );
    assert!(text.contains("hearth model add"), "{text}");
    assert_eq!(fs::read(&file).unwrap(), b"hello");

    let elsewhere = place.path().join("made/for/it");
    said(&model(&["import", file.to_str().unwrap()], &[&elsewhere]));
    assert_eq!(fs::read(elsewhere.join("net.onnx")).unwrap(), b"hello");
}

#[test]
fn what_is_imported_wrongly_is_not_kept() {
    let place = tempfile::tempdir().unwrap();
    let good = serve("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
    let short = serve("HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhello");
    let missing = serve("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let zeros = "0".repeat(64);
    for (args, words) in [
        (
            vec![
                format!("http://{good}/net.onnx"),
                format!("--sha256={zeros}"),
            ],
            HELLO,
        ),
        (
            vec![
                format!("http://{good}/net.onnx"),
                "--max-bytes=4".to_owned(),
            ],
            "more than 4 bytes",
        ),
        (vec![format!("http://{short}/net.onnx")], "broke off"),
        (vec![format!("http://{missing}/net.onnx")], "404"),
        (vec![format!("http://{good}/")], "names no file"),
        (
            vec!["ftp://example.org/net.onnx".to_owned()],
            "expected an http or https URL",
        ),
        (
            vec!["/nonexistent/net.onnx".to_owned()],
            "/nonexistent/net.onnx",
        ),
    ] {
        let args: Vec<&str> = ["import"]
            .into_iter()
            .chain(args.iter().map(String::as_str))
            .collect();
        let complaint = complaint(&model(&args, &[place.path()]));
        assert!(complaint.contains(words), "{complaint}");
        assert_eq!(listed(place.path()), Vec::<String>::new(), "{words}");
    }
}

#[test]
fn a_shell_completes_commands_and_options() {
    for (shell, says) in [
        ("bash", "complete -F _hearth"),
        ("zsh", "#compdef hearth"),
        ("fish", "complete -c hearth"),
    ] {
        let text = said(&finish(command().args(["completions", shell])));
        assert!(text.contains(says), "{shell}");
    }
    let complaint = finish(command().args(["completions", "dash"]));
    assert!(String::from_utf8_lossy(&complaint.stderr).contains("[possible values: bash,"));

    if Command::new("bash").args(["-c", ":"]).status().is_err() {
        return skip("there is no bash");
    }
    // As bash does it when the last word of a line is to be completed.
    let complete = |line: &str| {
        let script = format!(
            "source <({} completions bash); COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _hearth hearth \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             echo \"${{COMPREPLY[@]}}\"",
            env!("CARGO_BIN_EXE_hearth")
        );
        let mut bash = Command::new("bash");
        said(&finish(bash.args(["-c", &script]))).trim().to_owned()
    };
    assert_eq!(complete("hearth mo"), "model");
    assert_eq!(complete("hearth model imp"), "import");
    assert_eq!(complete("hearth serve --tls-c"), "--tls-cert");
    assert_eq!(complete("hearth logs rem"), "remove");
    assert_eq!(complete("hearth apply --end"), "--endpoint");
}
