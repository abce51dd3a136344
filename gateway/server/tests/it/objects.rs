//! Objects as their clients see them: the S3 endpoint.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;

use crate::clients::{python, succeed};
use crate::hearth::{Hearth, PATIENCE, Store};

/// Returns the endpoint, the keys and the region that clients are told.
pub(crate) fn provider(hearth: &Hearth) -> (String, String, String) {
    let config = hearth.get("/system/config").ok();
    let minio = &config["minio_provider"];
    let text = |name: &str| minio[name].as_str().unwrap().to_owned();
    assert_eq!(minio["region"], "us-east-1");
    assert_eq!(minio["verify"], true);
    (text("endpoint"), text("access_key"), text("secret_key"))
}

/// Returns what a gateway is told of the store where its objects are: the endpoint, and both keys.
pub(crate) fn external([endpoint, access_key, secret_key]: [&str; 3]) -> [(&str, &str); 3] {
    [
        ("MINIO_ENDPOINT", endpoint),
        ("MINIO_ACCESS_KEY", access_key),
        ("MINIO_SECRET_KEY", secret_key),
    ]
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

/// Has boto3 do what clients do; where a root is given, over TLS.
#[track_caller]
pub(crate) fn check_boto3(hearth: &Hearth, root: Option<&Path>) -> Option<()> {
    let mut python = python("common")?;
    let (endpoint, access_key, secret_key) = provider(hearth);
    assert_eq!(endpoint, hearth.s3_url());
    let folder = TempDir::new().unwrap();
    if let Some(root) = root {
        python.env("AWS_CA_BUNDLE", root).env("SSL_CERT_FILE", root);
    }
    succeed(
        python
            .arg(script("s3_client.py"))
            .args([endpoint, access_key, secret_key])
            .arg(folder.path()),
    );
    Some(())
}

#[test]
fn boto3_finds_what_it_expects() {
    let hearth = Hearth::start(Store::new(), &[]);
    if check_boto3(&hearth, None).is_none() {
        return;
    }
    let metrics = hearth.get("/metrics").text();
    assert!(
        metrics.contains(r#"hearth_requests_total{route="s3 PUT",status="200"}"#),
        "{metrics}"
    );
    assert!(!hearth.log().contains("ERROR"), "{}", hearth.log());
    hearth.stop();
}

#[test]
fn the_command_line_of_aws_does_what_it_does_at_amazon() {
    if python("awscli").is_none() {
        return;
    }
    let hearth = Hearth::start(Store::new(), &[]);
    let (endpoint, access_key, secret_key) = provider(&hearth);
    let folder = TempDir::new().unwrap();
    let aws = |args: &[&str]| {
        let mut command = python("awscli").unwrap();
        command
            .args([
                "-m",
                "awscli",
                "--endpoint-url",
                &endpoint,
                "--region",
                "us-east-1",
            ])
            .args(args)
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .env("AWS_ACCESS_KEY_ID", &access_key)
            .env("AWS_SECRET_ACCESS_KEY", &secret_key);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };
    std::fs::create_dir_all(folder.path().join("in/deep")).unwrap();
    for name in ["in/a.txt", "in/deep/b.txt"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    std::fs::write(folder.path().join("in/large"), vec![7; 20 << 20]).unwrap();
    aws(&["s3", "mb", "s3://bucket"]);
    aws(&["s3", "sync", "in", "s3://bucket/in"]);
    let listed = aws(&["s3", "ls", "s3://bucket/in/"]);
    assert!(
        listed.contains("PRE deep/") && listed.contains(" a.txt"),
        "{listed}"
    );
    aws(&["s3", "cp", "s3://bucket/in/large", "s3://bucket/copy"]);
    aws(&["s3", "sync", "s3://bucket", "out"]);
    for (name, original) in [("in/deep/b.txt", "in/deep/b.txt"), ("copy", "in/large")] {
        let read = |path: &str| std::fs::read(folder.path().join(path)).unwrap();
        assert!(read(&format!("out/{name}")) == read(original), "{name}");
    }
    aws(&["s3", "rb", "--force", "s3://bucket"]);
    assert_eq!(aws(&["s3", "ls"]), "");
}

#[test]
fn the_keys_are_random_and_stay_or_are_those_that_are_given() {
    let hearth = Hearth::start(Store::new(), &[]);
    let data = hearth.data();
    let (_, access_key, secret_key) = provider(&hearth);
    let file = data.path().join("s3-keys.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!hearth.log().contains(&secret_key));
    hearth.stop();
    let hearth = Hearth::start_on(Store::new(), Arc::clone(&data), &[], &[]);
    let (_, again, secret_again) = provider(&hearth);
    assert_eq!((again, secret_again), (access_key, secret_key));
    hearth.stop();
    let given = [
        ("MINIO_ACCESS_KEY", "minio"),
        ("MINIO_SECRET_KEY", "minio123"),
    ];
    let hearth = Hearth::start_on(Store::new(), data, &[], &given);
    let (_, access_key, secret_key) = provider(&hearth);
    assert_eq!((&*access_key, &*secret_key), ("minio", "minio123"));
}

#[test]
fn an_external_store_is_told_of_and_ours_does_not_listen() {
    let env = [
        ("MINIO_ENDPOINT", "http://minio.example.org:9000"),
        ("MINIO_ACCESS_KEY", "minio"),
        ("MINIO_SECRET_KEY", "minio123"),
        ("MINIO_TLS_VERIFY", "False"),
        ("MINIO_REGION", "eu-west-1"),
    ];
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = Hearth::start_on(Store::new(), data, &[], &env);
    assert_eq!(
        hearth.get("/system/config").ok()["minio_provider"],
        json!({"endpoint": "http://minio.example.org:9000", "verify": false,
               "access_key": "minio", "secret_key": "minio123", "region": "eu-west-1"})
    );
    assert!(!hearth.log().contains("S3 on"));
}

#[test]
fn turned_off_it_does_not_listen() {
    let hearth = Hearth::start(Store::new(), &["--s3-listen", "off"]);
    let config = hearth.get("/system/config").ok();
    assert_eq!(config["minio_provider"]["endpoint"], "");
    assert!(!hearth.log().contains("S3 on"));
    let made = hearth.post("/system/buckets", br#"{"bucket_name":"there"}"#);
    assert_eq!(made.status, 201);
}

/// Sends a request as it is written, and returns the answer's head.
fn raw(url: &str, request: &str) -> String {
    let address = url.split_once("://").unwrap().1;
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn pages_of_others_and_foreign_names_are_refused_before_signatures_are_read() {
    let hearth = Hearth::start(Store::new(), &[]);
    let url = hearth.s3_url();
    let ask = |headers: &str| {
        raw(
            &url,
            &format!("GET / HTTP/1.1\r\nconnection: close\r\n{headers}\r\n\r\n"),
        )
    };
    for foreign in [
        "host: evil.example.org",
        "host: localhost\r\norigin: http://evil.example.org",
        "host: localhost\r\nsec-fetch-site: cross-site",
    ] {
        let answer = ask(foreign);
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(!answer.contains("AccessDenied"), "{answer}");
    }
    let answer = ask("host: localhost");
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("AccessDenied"),
        "{answer}"
    );
}

#[test]
fn a_put_without_a_signature_is_refused() {
    let hearth = Hearth::start(Store::new(), &[]);
    let url = hearth.s3_url();
    let answer = raw(
        &url,
        "PUT /bkt/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",
    );
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    hearth.stop();
}
