//! The command line against a running gateway: every verb, and what it says where it can't.

use std::fs;
use std::fs::File;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{said, serve};
use crate::hearth::{Hearth, PATIENCE, command, eventually, finish, finish_reading};
use crate::pictures::{RED, picture_models, png};
use crate::tls::issue;

const DOCUMENT: &str = "
functions:
  oscar:
    - here: { name: colors, image: 'model:mean', cpu: 1.0, model: { top_k: 1 } }
    - here: { name: found, image: 'model:detector:1', synchronous: { max_scale: 2 } }
";

/// A person at a shell: a folder, which is home as well, and a gateway.
pub(crate) struct Shell {
    pub(crate) folder: TempDir,
    env: Vec<(&'static str, String)>,
}

impl Shell {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("red.png"), png(RED)).unwrap();
        Self {
            folder,
            env: Vec::new(),
        }
    }

    pub(crate) fn at(hearth: &Hearth) -> Self {
        Self::new().with("HEARTH_ENDPOINT", format!("http://{}", hearth.address()))
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = command();
        command
            .env("HOME", self.folder.path())
            .env_remove("COLUMNS");
        command.current_dir(self.folder.path()).args(args);
        for (name, value) in &self.env {
            command.env(name, value);
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        finish(&mut self.command(args))
    }

    #[track_caller]
    pub(crate) fn says(&self, args: &[&str]) -> String {
        said(&self.run(args))
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.says(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// Returns what a command complains of that has to end with this status.
    #[track_caller]
    pub(crate) fn complains(&self, status: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{text}");
        text.strip_prefix("error: ").unwrap().trim_end().to_owned()
    }
}

fn rows(table: &str) -> Vec<Vec<&str>> {
    let rows = table.lines().map(|line| line.split_whitespace().collect());
    rows.collect()
}

// === services ===

#[test]
fn services_are_applied_listed_shown_and_deleted() {
    let hearth = Hearth::start(picture_models(), &[]);
    let shell = Shell::at(&hearth);
    let at = format!("http://{}", hearth.address());
    assert!(shell.says(&["list"]).starts_with("no services yet"));
    assert_eq!(shell.json(&["list"]), json!([]));

    shell.write("fdl.yaml", DOCUMENT);
    let text = shell.says(&["apply", "fdl.yaml"]);
    let expected =
        format!("created colors on {at}\n  kept without effect: cpu\ncreated found on {at}\n");
    assert_eq!(text, expected);
    let outcomes = |value: Value| -> Vec<Value> {
        let applied = value.as_array().unwrap().iter();
        applied.map(|applied| applied["outcome"].clone()).collect()
    };
    let again = shell.json(&["apply", "fdl.yaml"]);
    assert_eq!(again[0]["service"], "colors");
    assert_eq!(again[0]["endpoint"], at);
    assert_eq!(outcomes(again), ["unchanged", "unchanged"]);
    shell.write("fdl.yaml", &DOCUMENT.replace("top_k: 1", "top_k: 2"));
    let changed = finish_reading(
        File::open(shell.path("fdl.yaml")).unwrap(),
        PATIENCE,
        &mut shell.command(&["apply", "-", "--output", "json"]),
    );
    let changed = serde_json::from_str(&said(&changed)).unwrap();
    assert_eq!(outcomes(changed), ["updated", "unchanged"]);

    let table = shell.says(&["list"]);
    let expected = [
        vec!["NAME", "IMAGE", "STATE", "WORKERS", "SCALE"],
        vec!["colors", "model:mean", "ready", "0", "0.."],
        vec!["found", "model:detector:1", "ready", "0", "0..2"],
    ];
    assert_eq!(rows(&table), expected);
    let narrow = said(&finish(shell.command(&["list"]).env("COLUMNS", "40")));
    let row = narrow.lines().last().unwrap();
    assert!(row.starts_with("found   model:de…  ready"), "{narrow}");

    let shown = shell.says(&["get", "colors"]);
    for line in ["model      mean, the latest version", "option     top_k 2"] {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(
        shown.ends_with(&format!("POST {at}/run/colors\n")),
        "{shown}"
    );
    let service = shell.json(&["get", "colors"]);
    let token = service["token"].as_str().unwrap();
    assert!(token.len() == 64 && !shown.contains(token), "{shown}");
    let yaml = shell.says(&["get", "colors", "--output", "yaml"]);
    assert!(yaml.contains("\nimage: model:mean\n"), "{yaml}");
    assert_eq!(
        shell.complains(5, &["get", "nope"]),
        "no service `nope`; services: `colors`, `found`"
    );

    // Those that are there are deleted, whatever the others are.
    let output = shell.run(&["delete", "nope", "../colors", "colors"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(output.stdout, b"deleted colors\n");
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert_eq!(complaints.matches("error: no service").count(), 2);
    assert_eq!(shell.says(&["delete", "found"]), "deleted found\n");
    let complaint = shell.complains(5, &["delete", "found"]);
    assert!(
        complaint.contains("there are no services yet"),
        "{complaint}"
    );
    hearth.stop();
}

#[test]
fn a_document_is_checked_as_a_whole_before_anything_is_applied() {
    let hearth = Hearth::start(picture_models(), &[]);
    let shell = Shell::at(&hearth);
    let document = |second: &str| {
        format!(
            "functions:\n  oscar:\n    - a: {{ name: one, image: 'model:mean' }}\n    - a: {second}\n"
        )
    };
    for (text, says) in [
        ("functions: 3".to_owned(), "fdl.yaml: `functions`: expected"),
        (
            "functions: {}".to_owned(),
            "expected services under `functions.oscar`, found none",
        ),
        (
            "functions: { aws: [{ lambda: { name: a } }] }".to_owned(),
            "`functions.aws` are for SCAR",
        ),
        (
            document("{ name: Two, image: x }"),
            "service `Two`: `name`: expected",
        ),
        (
            document("{ name: two, image: x, script: none.sh }"),
            "`script` of service `two`: sub/none.sh: No such file",
        ),
    ] {
        shell.write("sub/fdl.yaml", &text);
        let complaint = shell.complains(1, &["apply", "sub/fdl.yaml"]);
        assert!(complaint.contains(says), "{complaint}");
        assert_eq!(shell.json(&["list"]), json!([]), "{says}");
    }
    let complaint = shell.complains(1, &["apply", "nowhere.yaml"]);
    assert!(
        complaint.starts_with("nowhere.yaml: No such file"),
        "{complaint}"
    );

    // What only the gateway can tell ends it there, and what was done before is said.
    shell.write("fdl.yaml", &document("{ name: two, image: 'model:none' }"));
    let output = shell.run(&["apply", "fdl.yaml", "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let applied: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(applied[0]["outcome"], "created");
    let complaint = String::from_utf8(output.stderr).unwrap();
    let says = "service `two`: `image`: Request for unknown model: 'none' is not found: \
                there are `detector`, `mean`";
    assert!(complaint.contains(says), "{complaint}");

    // A script is found beside the document.
    shell.write(
        "sub/fdl.yaml",
        &document("{ name: two, image: 'model:mean', script: run.sh }"),
    );
    shell.write("sub/run.sh", "echo hello\r\n");
    shell.says(&["apply", "sub/fdl.yaml"]);
    assert_eq!(shell.json(&["get", "two"])["script"], "echo hello\n");
    let again = shell.says(&["apply", "sub/fdl.yaml"]);
    assert!(again.contains("unchanged two"), "{again}");
    hearth.stop();
}

// === calls ===

#[test]
fn a_service_and_a_model_are_called_with_files_and_text() {
    let hearth = Hearth::start(picture_models(), &[]);
    let shell = Shell::at(&hearth);
    shell.write("fdl.yaml", DOCUMENT);
    shell.says(&["apply", "fdl.yaml"]);
    // A worker has to start, which takes longer than the body to come; later it may not.
    let hurried = ["run", "mean", "--file", "red.png", "--timeout-ms", "20"];
    let complaint = shell.complains(6, &hurried);
    assert!(complaint.contains("20 ms"), "{complaint}");
    let label = |text: &str| -> Value {
        let answer: Value = serde_json::from_str(text).unwrap();
        answer["predictions"][0]["label"].clone()
    };
    let red = ["--file", "red.png"];
    let call = |args: &[&str]| shell.says(&[&["run"], args, &red].concat());
    assert_eq!(label(&call(&["colors"])), "red");
    assert_eq!(label(&call(&["mean"])), "red");
    // In base64 there and back.
    assert_eq!(label(&call(&["colors", "--base64"])), "red");
    let piped = finish_reading(
        File::open(shell.path("red.png")).unwrap(),
        PATIENCE,
        &mut shell.command(&["run", "colors", "--file", "-"]),
    );
    assert_eq!(label(&said(&piped)), "red");

    let wrote = call(&["found", "--output", "drawn.png"]);
    let drawn = fs::read(shell.path("drawn.png")).unwrap();
    assert!(drawn.starts_with(b"\x89PNG"));
    assert_eq!(
        wrote,
        format!("wrote drawn.png: image/png, {} bytes\n", drawn.len())
    );
    call(&["found", "--output", "drawn.jpg"]);
    assert!(
        fs::read(shell.path("drawn.jpg"))
            .unwrap()
            .starts_with(b"\xff\xd8")
    );
    let n_found = |args: &[&str]| {
        call(&[args, &["--output", "found.json"]].concat());
        let found: Value =
            serde_json::from_slice(&fs::read(shell.path("found.json")).unwrap()).unwrap();
        found["predictions"].as_array().unwrap().len()
    };
    assert_eq!(n_found(&["mean", "--option", "top_k=2"]), 2);
    assert_eq!(n_found(&["mean", "--option", "labels=red,blue"]), 2);
    call(&["found", "--output", "/dev/null"]);

    let complains =
        |status: i32, args: &[&str]| shell.complains(status, &[&["run"], args].concat());
    let complaint = complains(1, &["colors", "--text-input", "hello"]);
    assert!(
        complaint.contains("got text beginning \"aGVsbG8=\""),
        "{complaint}"
    );
    assert_eq!(
        complains(5, &["nope", "--file", "red.png"]),
        "Request for unknown model: 'nope' is not found: there are `detector`, `mean`; \
         services: `colors`, `found`"
    );
    let complaint = complains(1, &["colors", "--file", "nowhere.png"]);
    assert!(
        complaint.starts_with("nowhere.png: No such file"),
        "{complaint}"
    );
    let complaint = complains(
        1,
        &["colors", "--file", "red.png", "--output", "no/where.png"],
    );
    assert!(complaint.starts_with("no/where.png: "), "{complaint}");
    for args in [
        &["colors"][..],
        &["colors", "--file", "red.png", "--text-input", "a"],
    ] {
        complains(2, args);
    }
    hearth.stop();
}

#[test]
fn jobs_are_begun_listed_read_and_removed() {
    let hearth = Hearth::start(picture_models(), &[]);
    let shell = Shell::at(&hearth);
    shell.write("fdl.yaml", DOCUMENT);
    shell.says(&["apply", "fdl.yaml"]);
    assert!(
        shell
            .says(&["logs", "list", "colors"])
            .starts_with("no jobs of colors")
    );
    let complaint = shell.complains(1, &["logs", "get", "colors"]);
    assert_eq!(complaint, "service `colors` has no jobs");

    let begin = ["job", "colors", "--file", "red.png"];
    let first = shell.says(&begin).trim().to_owned();
    assert!(first.starts_with("colors-"), "{first}");
    let second = shell.json(&begin)["job"].as_str().unwrap().to_owned();
    let failed = shell
        .says(&["job", "colors", "--text-input", "no picture"])
        .trim()
        .to_owned();
    let statuses = || {
        let jobs = shell.json(&["logs", "list", "colors"])["jobs"].clone();
        [&first, &second, &failed].map(|job| jobs[job]["status"].as_str().unwrap().to_owned())
    };
    eventually("the jobs end", || {
        (statuses() == ["Succeeded", "Succeeded", "Failed"]).then_some(())
    });
    let table = shell.says(&["logs", "list", "colors"]);
    let rows = rows(&table);
    assert_eq!(rows[0], ["JOB", "STATUS", "CREATED", "TOOK"]);
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[1][..2], [failed.as_str(), "Failed"]);
    assert_eq!(rows[3][..2], [first.as_str(), "Succeeded"]);
    // Names are never cut: they are what one copies.
    let narrow = said(&finish(
        shell
            .command(&["logs", "list", "colors"])
            .env("COLUMNS", "20"),
    ));
    assert!(narrow.contains(&first), "{narrow}");

    assert!(
        shell
            .says(&["logs", "get", "colors", &first])
            .contains("\"red\"")
    );
    // The latest.
    assert!(
        shell
            .says(&["logs", "get", "colors"])
            .contains("no picture")
    );
    assert_eq!(
        shell.says(&["logs", "remove", "colors", &first]),
        format!("removed {first}\n")
    );
    for verb in ["get", "remove"] {
        assert_eq!(
            shell.complains(5, &["logs", verb, "colors", &first]),
            "service `colors` has no such job; `hearth logs list colors` lists what there is"
        );
    }
    shell.says(&["logs", "remove", "colors", "--succeeded"]);
    let jobs = shell.json(&["logs", "list", "colors", "--all"])["jobs"].clone();
    assert_eq!(
        jobs.as_object().unwrap().keys().collect::<Vec<_>>(),
        [&failed]
    );
    shell.says(&["logs", "remove", "colors", "--all"]);
    assert!(
        shell
            .says(&["logs", "list", "colors"])
            .starts_with("no jobs")
    );
    shell.complains(2, &["logs", "remove", "colors"]);
    for args in [
        &["logs", "list", "nope"][..],
        &["logs", "get", "nope"],
        &["logs", "remove", "nope", "--all"],
        &["job", "nope", "--file", "red.png"],
    ] {
        let complaint = shell.complains(5, args);
        assert_eq!(complaint, "no service `nope`; services: `colors`, `found`");
    }
    hearth.stop();
}

// === who calls, and whom ===

const ENV: [(&str, &str); 2] = [("OSCAR_USERNAME", "flame"), ("OSCAR_PASSWORD", "hunter2")];

fn guarded() -> Hearth {
    Hearth::start_on(
        picture_models(),
        Arc::new(TempDir::new().unwrap()),
        &[],
        &ENV,
    )
}

#[test]
fn credentials_come_from_where_the_gateway_takes_them_and_go_nowhere_else() {
    let hearth = guarded();
    let endpoint = format!("http://{}", hearth.address());
    let shell = Shell::new().with("HEARTH_ENDPOINT", &endpoint);
    let complaint = shell.complains(4, &["list"]);
    assert!(
        complaint.starts_with(&format!(
            "the gateway at {endpoint} asks for credentials: expected"
        )),
        "{complaint}"
    );
    assert!(
        complaint.contains("set OSCAR_USERNAME and OSCAR_PASSWORD"),
        "{complaint}"
    );

    let shell = shell.with("OSCAR_USERNAME", "flame");
    let complaint = shell.complains(1, &["list"]);
    assert!(
        complaint.contains("OSCAR_PASSWORD is not: set both"),
        "{complaint}"
    );
    shell.write("password", "hunter2\n");
    shell.says(&["list", "--password-file", "password"]);
    let complaint = shell.complains(4, &["list", "--password", "swordfish"]);
    assert!(
        complaint.contains("does not take the credentials of `flame`"),
        "{complaint}"
    );
    assert!(!complaint.contains("swordfish"), "{complaint}");

    let shell = shell.with("OSCAR_PASSWORD", "hunter2");
    shell.write("fdl.yaml", DOCUMENT);
    shell.says(&["apply", "fdl.yaml"]);
    let token = shell.json(&["get", "colors"])["token"]
        .as_str()
        .unwrap()
        .to_owned();
    // A token is what is sent where there is one.
    let shell = shell.with("HEARTH_TOKEN", token);
    assert!(
        shell
            .says(&["run", "colors", "-i", "red.png"])
            .contains("red")
    );
    for args in [&["list"][..], &["run", "found", "-i", "red.png"]] {
        let complaint = shell.complains(4, args);
        assert!(
            complaint.contains("does not take this token"),
            "{complaint}"
        );
    }
    hearth.stop();
}

#[test]
fn clusters_of_oscar_cli_are_known_by_their_names() {
    let hearth = guarded();
    let (shell, at) = (Shell::new(), hearth.address());
    let complaint = shell.complains(1, &["list", "--cluster", "mine"]);
    assert!(complaint.ends_with("there is none"), "{complaint}");
    shell.write(
        ".oscar-cli/config.yaml",
        &format!(
            "oscar:\n  mine:\n    endpoint: http://{at}\n    auth_user: flame\n    auth_password: hunter2\n    \
             ssl_verify: true\n    memory: 256Mi\n    log_level: INFO\ndefault: mine\n"
        ),
    );
    let complaint = shell.complains(1, &["list", "--cluster", "other"]);
    assert!(complaint.ends_with("there are `mine`"), "{complaint}");
    assert_eq!(shell.json(&["list", "-c", "mine"]), json!([]));

    // A document's services go where it says, but not to another place than one's own configuration
    // has for that name.
    let nowhere = "{ endpoint: 'http://127.0.0.1:1', auth_user: a, auth_password: b }";
    let theirs = format!("{{ endpoint: 'http://{at}', auth_user: flame, auth_password: hunter2 }}");
    shell.write(
        "fdl.yaml",
        &format!(
            "functions:\n  oscar:\n    - mine: {{ name: one, image: 'model:mean' }}\n    - theirs: {{ name: two, \
             image: 'model:mean' }}\nclusters:\n  mine: {nowhere}\n  theirs: {theirs}\n"
        ),
    );
    let applied = shell.json(&["apply", "fdl.yaml"]);
    assert_eq!(applied[0]["outcome"], "created");
    assert_eq!(applied[1]["outcome"], "created");
    // The gateway that is named takes them all.
    let elsewhere = ["apply", "fdl.yaml", "--endpoint", "http://127.0.0.1:1"];
    let complaint = shell.complains(3, &elsewhere);
    assert!(
        complaint.contains("no gateway answers at http://127.0.0.1:1"),
        "{complaint}"
    );
    // Where a document says where to, it can't have files sent there that are not its own.
    for (name, target) in [("up", "../secret"), ("linked", "link.sh")] {
        shell.write(
            "documents/fdl.yaml",
            &format!(
                "functions:\n  oscar:\n    - theirs: {{ name: {name}, image: debian, script: {target} }}\n\
                 clusters:\n  theirs: {theirs}\n"
            ),
        );
        shell.write("secret", "hush");
        let link = shell.path("documents/link.sh");
        let _ = std::os::unix::fs::symlink(shell.path("secret"), link);
        let complaint = shell.complains(1, &["apply", "documents/fdl.yaml"]);
        assert!(
            complaint.contains("expected a file beside the document"),
            "{complaint}"
        );
    }

    shell.write(".oscar-cli/config.yaml", "oscar: [");
    let complaint = shell.complains(1, &["list", "-c", "mine"]);
    assert!(
        complaint.contains(".oscar-cli/config.yaml: "),
        "{complaint}"
    );
    hearth.stop();
}

#[test]
fn a_gateway_behind_tls_is_trusted_by_its_certificate() {
    let issued = issue();
    let shell = Shell::new();
    issued.write(shell.folder.path());
    shell.write("root.pem", &issued.root);
    shell.write("other.pem", &issue().root);
    let file = |name: &str| shell.path(name).to_str().unwrap().to_owned();
    let (certificate, key) = (file("cert.pem"), file("key.pem"));
    let args = ["--tls-cert", &certificate, "--tls-key", &key];
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = Hearth::start_trusted(picture_models(), data, &args, &ENV, Some(&issued.root));
    let shell = shell
        .with("OSCAR_USERNAME", "flame")
        .with("OSCAR_PASSWORD", "hunter2");
    let list = |scheme: &str, more: &[&str]| {
        let endpoint = format!("{scheme}://{}", hearth.address());
        let args = [&["list", "--output", "json", "--endpoint", &endpoint], more].concat();
        let output = shell.run(&args);
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(
        list("https", &["--ca-cert", "root.pem"]),
        (Some(0), String::new())
    );
    assert_eq!(list("https", &["--insecure"]), (Some(0), String::new()));
    // Its storage has the same certificate.
    let endpoint = format!("https://{}", hearth.address());
    let said = shell.says(&["ls", "--ca-cert", "root.pem", "--endpoint", &endpoint]);
    assert!(said.starts_with("no buckets yet"), "{said}");
    for more in [&[][..], &["--ca-cert", "other.pem"]] {
        let (status, complaint) = list("https", more);
        assert_eq!(status, Some(3), "{complaint}");
        assert!(
            complaint.contains("name the certificate of its authority with --ca-cert"),
            "{complaint}"
        );
    }
    for (file, says) in [
        ("red.png", "expected certificates in PEM"),
        ("none", "No such file"),
    ] {
        let (status, complaint) = list("https", &["--ca-cert", file]);
        assert_eq!(status, Some(1), "{complaint}");
        assert!(
            complaint.contains(&format!("--ca-cert {file}: {says}")),
            "{complaint}"
        );
    }
    let (status, complaint) = list("http", &[]);
    assert_eq!(status, Some(3), "{complaint}");
    assert!(complaint.contains("https"), "{complaint}");
    hearth.stop();
}

#[test]
fn what_is_no_gateway_is_told_from_one_that_is_not_there() {
    let shell = Shell::new();
    let at = |address: std::net::SocketAddr| format!("http://{address}");
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let complaint = shell.complains(3, &["list", "--endpoint", &at(closed)]);
    let says = format!(
        "no gateway answers at http://{closed}: connection refused\n  start one with `hearth serve"
    );
    assert!(complaint.starts_with(&says), "{complaint}");
    assert!(
        complaint.ends_with("--endpoint URL or HEARTH_ENDPOINT"),
        "{complaint}"
    );

    for (answer, status, says) in [
        (
            "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\n<html",
            5,
            "answers 404 Not Found without a sentence: is it a gateway's address?",
        ),
        (
            "HTTP/1.1 301 Moved\r\nlocation: https://example.org/\r\ncontent-length: 0\r\n\r\n",
            1,
            "it is at https://example.org/, say so with --endpoint",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            1,
            "answers what no gateway does: is it one?",
        ),
        (
            "HTTP/1.1 503 No\r\nretry-after: 7\r\ncontent-type: text/plain\r\ncontent-length: 8\r\n\r\n\x1b[2Jbusy",
            6,
            "\\u{1b}[2Jbusy; try again in 7 s",
        ),
        ("SSH-2.0-OpenSSH\r\n\r\n", 3, "it speaks no HTTP there"),
    ] {
        let complaint = shell.complains(status, &["list", "--endpoint", &at(serve(answer))]);
        assert!(complaint.contains(says), "{complaint}");
        assert!(!complaint.contains('\x1b'), "{complaint}");
    }
    let complaint = shell.complains(2, &["list", "--endpoint", "localhost:8080"]);
    assert!(
        complaint.contains("expected http://HOST:PORT"),
        "{complaint}"
    );
}

#[test]
fn who_reads_no_further_is_not_told_of_an_error() {
    let hearth = Hearth::start(picture_models(), &[]);
    let shell = Shell::at(&hearth);
    shell.write("fdl.yaml", DOCUMENT);
    shell.says(&["apply", "fdl.yaml"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = shell.command(&["list"]);
    let status = command
        .stdout(writer)
        .stdin(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    hearth.stop();
}
