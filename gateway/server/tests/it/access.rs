//! Who may call what: callers with and without credentials, and pages in a browser.

use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Request, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::hearth::{Answer, Hearth, Store, command, finish};

/// The gateway's own list, so that no route is forgotten here.
#[path = "../../src/routes.rs"]
pub(crate) mod routes;

use Access::{Administrator, Anybody, Service};

const PASSWORD: &str = "correct horse: battery, staple";
const ENV: [(&str, &str); 2] = [("OSCAR_USERNAME", "flame"), ("OSCAR_PASSWORD", PASSWORD)];
/// As services have them; no service has this one.
const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Whom a route answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Access {
    Anybody,
    Service,
    Administrator,
}

/// Each route: how it is called, and whom it answers.
const ROUTES: [(&str, &str, &str, Access); 46] = [
    (routes::HEALTH, "GET", "/health", Anybody),
    (routes::LIVE, "GET", "/v2/health/live", Anybody),
    (routes::READY, "GET", "/v2/health/ready", Anybody),
    (routes::METRICS, "GET", "/metrics", Administrator),
    (routes::OPENAPI, "GET", "/openapi.json", Anybody),
    (routes::RUN, "POST", "/run/add_one", Service),
    (routes::EVENTS, "POST", "/events/minio", Administrator),
    (routes::MODEL, "GET", "/v2/models/add_one", Administrator),
    (
        routes::MODEL_VERSION,
        "GET",
        "/v2/models/add_one/versions/1",
        Administrator,
    ),
    (
        routes::INFER,
        "POST",
        "/v2/models/add_one/infer",
        Administrator,
    ),
    (
        routes::INFER_VERSION,
        "POST",
        "/v2/models/add_one/versions/1/infer",
        Administrator,
    ),
    (
        routes::STATS,
        "GET",
        "/v2/models/add_one/stats",
        Administrator,
    ),
    (
        routes::STATS_VERSION,
        "GET",
        "/v2/models/add_one/versions/1/stats",
        Administrator,
    ),
    (routes::SERVER, "GET", "/v2", Administrator),
    (routes::MODELS, "GET", "/v2/models", Administrator),
    (
        routes::MODEL_READY,
        "GET",
        "/v2/models/add_one/ready",
        Administrator,
    ),
    (
        routes::MODEL_READY_VERSION,
        "GET",
        "/v2/models/add_one/versions/1/ready",
        Administrator,
    ),
    (
        routes::MODEL_CONFIG,
        "GET",
        "/v2/models/add_one/config",
        Administrator,
    ),
    (
        routes::MODEL_CONFIG_VERSION,
        "GET",
        "/v2/models/add_one/versions/1/config",
        Administrator,
    ),
    (routes::ALL_STATS, "GET", "/v2/models/stats", Administrator),
    (routes::INDEX, "POST", "/v2/repository/index", Administrator),
    (
        routes::LOAD,
        "POST",
        "/v2/repository/models/add_one/load",
        Administrator,
    ),
    (
        routes::UNLOAD,
        "POST",
        "/v2/repository/models/nope/unload",
        Administrator,
    ),
    (routes::V1_MODELS, "GET", "/v1/models", Administrator),
    (routes::V1_MODEL, "GET", "/v1/models/add_one", Administrator),
    (routes::SCHEDULER, "GET", "/system/scheduler", Administrator),
    (
        routes::MEMORY_STATUS,
        "GET",
        "/v2/systemsharedmemory/status",
        Administrator,
    ),
    (
        routes::MEMORY_UNREGISTER,
        "POST",
        "/v2/systemsharedmemory/unregister",
        Administrator,
    ),
    (
        routes::REGION_STATUS,
        "GET",
        "/v2/systemsharedmemory/region/one/status",
        Administrator,
    ),
    (
        routes::REGION_REGISTER,
        "POST",
        "/v2/systemsharedmemory/region/one/register",
        Administrator,
    ),
    (
        routes::REGION_UNREGISTER,
        "POST",
        "/v2/systemsharedmemory/region/one/unregister",
        Administrator,
    ),
    (routes::INFO, "GET", "/system/info", Administrator),
    (routes::CONFIG, "GET", "/system/config", Administrator),
    (routes::STATUS, "GET", "/system/status", Administrator),
    (routes::SERVICES, "GET", "/system/services", Administrator),
    (
        routes::SERVICE,
        "GET",
        "/system/services/one",
        Administrator,
    ),
    (
        routes::DEPLOYMENT,
        "GET",
        "/system/services/one/deployment",
        Administrator,
    ),
    (routes::JOB, "POST", "/job/one", Service),
    (routes::JOBS, "GET", "/system/logs/one", Administrator),
    (
        routes::JOB_LOG,
        "GET",
        "/system/logs/one/job",
        Administrator,
    ),
    (routes::BUCKETS, "GET", "/system/buckets", Administrator),
    (routes::BUCKET, "GET", "/system/buckets/one", Administrator),
    (
        routes::PRESIGN,
        "POST",
        "/system/buckets/one/presign",
        Administrator,
    ),
    (routes::SUMMARY, "GET", "/system/metrics", Administrator),
    (
        routes::BREAKDOWN,
        "GET",
        "/system/metrics/breakdown",
        Administrator,
    ),
    (
        routes::SERVICE_METRICS,
        "GET",
        "/system/metrics/one",
        Administrator,
    ),
];

/// Each method of gRPC, and whom it answers.
const METHODS: [(&str, Access); 17] = [
    ("/grpc.health.v1.Health/Check", Anybody),
    ("/grpc.health.v1.Health/Watch", Anybody),
    ("/inference.GRPCInferenceService/ServerLive", Anybody),
    ("/inference.GRPCInferenceService/ServerReady", Anybody),
    (
        "/inference.GRPCInferenceService/ServerMetadata",
        Administrator,
    ),
    ("/inference.GRPCInferenceService/ModelReady", Administrator),
    (
        "/inference.GRPCInferenceService/ModelMetadata",
        Administrator,
    ),
    ("/inference.GRPCInferenceService/ModelInfer", Administrator),
    (
        "/inference.GRPCInferenceService/ModelStreamInfer",
        Administrator,
    ),
    ("/inference.GRPCInferenceService/ModelConfig", Administrator),
    (
        "/inference.GRPCInferenceService/ModelStatistics",
        Administrator,
    ),
    (
        "/inference.GRPCInferenceService/RepositoryIndex",
        Administrator,
    ),
    (
        "/inference.GRPCInferenceService/RepositoryModelLoad",
        Administrator,
    ),
    (
        "/inference.GRPCInferenceService/RepositoryModelUnload",
        Administrator,
    ),
    (
        "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
        Administrator,
    ),
    (
        "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
        Administrator,
    ),
    (
        "/inference.GRPCInferenceService/SystemSharedMemoryUnregister",
        Administrator,
    ),
];

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// Returns what callers may send as `Authorization`, and whether it is the administrator's.
fn credentials() -> Vec<(&'static str, Vec<HeaderValue>, bool)> {
    let right = basic("flame", PASSWORD);
    let lower = right.replacen("Basic", "basic", 1);
    let wide = right.replacen(' ', "   ", 1);
    let pair = right.strip_prefix("Basic ").unwrap().to_owned();
    let texts = [
        ("right", vec![right.clone()], true),
        ("a scheme in lower case", vec![lower], true),
        ("more spaces", vec![wide], true),
        ("none", vec![], false),
        ("nothing", vec![String::new()], false),
        ("a wrong password", vec![basic("flame", "wrong")], false),
        ("no password", vec![basic("flame", "")], false),
        ("a wrong name", vec![basic("spark", PASSWORD)], false),
        ("nobody", vec![basic("", "")], false),
        ("a prefix", vec![basic("flame", &PASSWORD[..9])], false),
        (
            "more than it",
            vec![basic("flame", &format!("{PASSWORD}!"))],
            false,
        ),
        (
            "the colon elsewhere",
            vec![basic("flame:correct horse", "battery, staple")],
            false,
        ),
        ("another case", vec![basic("Flame", PASSWORD)], false),
        (
            "a long pair",
            vec![basic("flame", &"x".repeat(2000))],
            false,
        ),
        ("no base64", vec![format!("Basic flame:{PASSWORD}")], false),
        (
            "base64 of bytes",
            vec![format!("Basic {}", STANDARD.encode([0xff; 40]))],
            false,
        ),
        ("no scheme", vec![pair.clone()], false),
        ("a scheme alone", vec!["Basic".to_owned()], false),
        ("another scheme", vec![format!("Digest {pair}")], false),
        ("the pair as a token", vec![format!("Bearer {pair}")], false),
        (
            "the password as a token",
            vec![format!("Bearer {PASSWORD}")],
            false,
        ),
        ("an empty token", vec!["Bearer ".to_owned()], false),
        (
            "a token of no service",
            vec![format!("Bearer {TOKEN}")],
            false,
        ),
        (
            "a token of zeros",
            vec![format!("Bearer {}", "0".repeat(64))],
            false,
        ),
        ("twice", vec![right.clone(), right.clone()], false),
        (
            "a wrong one first",
            vec![basic("flame", "wrong"), right.clone()],
            false,
        ),
        (
            "a wrong one after it",
            vec![right, basic("flame", "wrong")],
            false,
        ),
    ];
    let mut all: Vec<_> = texts
        .into_iter()
        .map(|(what, texts, is_right)| {
            let value = |text: String| HeaderValue::from_str(&text).unwrap();
            (what, texts.into_iter().map(value).collect(), is_right)
        })
        .collect();
    all.push((
        "no text",
        vec![HeaderValue::from_bytes(b"Basic \xff\xfe").unwrap()],
        false,
    ));
    all
}

fn start(args: &[&str], env: &[(&str, &str)]) -> Hearth {
    let store = Store::new().with_tiny("add_one");
    Hearth::start_on(store, Arc::new(TempDir::new().unwrap()), args, env)
}

#[test]
fn every_route_answers_those_whom_it_is_for() {
    let mut listed: Vec<_> = ROUTES.iter().map(|(route, ..)| *route).collect();
    let mut there = routes::ROUTES.to_vec();
    listed.sort_unstable();
    there.sort_unstable();
    assert_eq!(listed, there, "each route has a row in this table");

    let hearth = start(&[], &ENV);
    let unknown = ("none", "GET", "/nowhere", Administrator);
    let not_yet = routes::NOT_YET.map(|(route, _)| (route, "GET", route, Administrator));
    let all = ROUTES.into_iter().chain(not_yet).chain([unknown]);
    for (_, method, path, access) in all {
        for (what, values, is_right) in credentials() {
            let mut head = b"host: gateway.example\r\n".to_vec();
            for value in values {
                head.extend([b"authorization: ", value.as_bytes(), b"\r\n"].concat());
            }
            let (status, answer) = send(&hearth, method, path, &head);
            let what = format!("{method} {path}, {what}: {answer}");
            if access == Anybody {
                assert_eq!(status, 200, "{what}");
            } else if is_right {
                assert_ne!(status, 401, "{what}");
                assert_ne!(status, 403, "{what}");
            } else {
                assert_eq!(status, 401, "{what}");
                let challenge = "\r\nwww-authenticate: Basic realm=\"Authorization Required\"\r\n";
                assert!(answer.contains(challenge), "{what}");
                let names_token = answer.contains("or the service's token (Bearer)");
                assert_eq!(names_token, access == Service, "{what}");
            }
        }
    }
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_answers_those_whom_it_is_for() {
    let mut listed = METHODS.map(|(method, _)| method);
    let mut there = routes::METHODS;
    listed.sort_unstable();
    there.sort_unstable();
    assert_eq!(listed, there, "each method has a row in this table");

    let hearth = start(&[], &ENV);
    let unknown = (
        "/inference.GRPCInferenceService/RepositoryModelLoad",
        Administrator,
    );
    for (method, access) in METHODS.into_iter().chain([unknown]) {
        for (what, values, is_right) in credentials() {
            let mut request = Request::builder();
            for value in values {
                request = request.header(header::AUTHORIZATION, value);
            }
            let status = grpc_status(&hearth, request, "gateway.example", method).await;
            let is_refused = status == Some(16);
            let is_let_in = access == Anybody || is_right;
            assert_eq!(is_refused, !is_let_in, "{method}, {what}: {status:?}");
        }
    }
    hearth.stop();
}

/// Calls a method with an empty message, and returns the status if it came at once.
async fn grpc_status(
    hearth: &Hearth,
    request: http::request::Builder,
    host: &str,
    method: &str,
) -> Option<u32> {
    let socket = TcpStream::connect(hearth.grpc_address()).await.unwrap();
    let (mut client, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    let driver = tokio::spawn(driver);
    // Uncompressed, of no bytes.
    let message = Body::from(&[0; 5][..]);
    let request = request
        .method("POST")
        .uri(format!("http://{host}{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(message)
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    driver.abort();
    let status = response.headers().get("grpc-status")?;
    Some(status.to_str().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_in_no_log_and_no_answer() {
    let env = [&ENV[..], &[("RUST_LOG", "trace")]].concat();
    let hearth = start(&[], &env);
    let pair = basic("flame", PASSWORD);
    for value in [
        &pair,
        &basic("flame", "a wrong secret"),
        &format!("Bearer {TOKEN}"),
    ] {
        let request = hearth
            .request("POST", "/run/add_one")
            .header("authorization", value);
        let text = hearth.send(request, &b""[..]).text();
        assert!(
            !text.contains("secret") && !text.contains("Zmxhb"),
            "{text}"
        );
    }
    let request = Request::builder().header("authorization", &pair);
    let (method, _) = METHODS[0];
    grpc_status(&hearth, request, "localhost", method).await;
    let log = hearth.log();
    assert!(log.contains("credentials are asked for"), "{log}");
    for secret in [PASSWORD, "a wrong secret", TOKEN, &pair["Basic ".len()..]] {
        assert!(!log.contains(secret), "{secret:?} is in the log");
    }
    let output = finish(command().args(["serve", "--help"]).envs(ENV));
    assert!(!String::from_utf8_lossy(&output.stdout).contains(PASSWORD));
    hearth.stop();
}

#[test]
fn a_caller_without_credentials_reads_why_however_much_it_sends() {
    let hearth = start(&[], &ENV);
    for _ in 0..3 {
        let answer = hearth.post("/run/add_one", &vec![0; 8 << 20]);
        let sentence = answer.refusal(401);
        assert!(sentence.ends_with("got no `Authorization`"), "{sentence}");
    }
    hearth.stop();
}

#[test]
fn a_password_comes_from_a_file_and_opens_any_address() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let file = file.to_str().unwrap();
    let hearth = start(
        &["--password-file", file, "--grpc-listen", "0.0.0.0:0"],
        &[],
    );
    let get = |name: &str| {
        let request = hearth
            .request("GET", "/metrics")
            .header("host", "gateway.example.org")
            .header("authorization", basic(name, PASSWORD));
        hearth.send(request, ()).status
    };
    // OSCAR's name where none is given.
    assert_eq!(get("admin"), 200);
    assert_eq!(get("flame"), 401);
    assert!(
        hearth
            .log()
            .contains("credentials reach 0.0.0.0:0 unencrypted")
    );
    hearth.stop();
}

#[test]
fn credentials_that_protect_nothing_are_refused() {
    let folder = TempDir::new().unwrap();
    let start = |args: &[&str], env: &[(&str, &str)]| {
        let output = finish(
            command()
                .args(["serve", "--listen", "127.0.0.1:0", "--store"])
                .arg(folder.path())
                .arg("--data")
                .arg(folder.path().join("data"))
                .args(args)
                .envs(env.iter().copied()),
        );
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for (args, env, says) in [
        (
            &[][..],
            &[("OSCAR_USERNAME", "flame")][..],
            "set both, or neither",
        ),
        (&[], &[("OSCAR_PASSWORD", "")], "the password is empty"),
        (
            &["--username", "a:b"],
            &[("OSCAR_PASSWORD", "secret")],
            "no colon",
        ),
        (
            &["--username", ""],
            &[("OSCAR_PASSWORD", "secret")],
            "at least a character",
        ),
        (
            &["--password-file", "/nonexistent/file"],
            &[],
            "--password-file /nonexistent/file: ",
        ),
        (
            &["--password-file", "/dev/null"],
            &[],
            "the password is empty",
        ),
        (&["--cors-origin", "*"], &[], "would let any page call"),
        (
            &["--cors-origin", "https://example.org/"],
            &[],
            "as `https://example.org`",
        ),
        (&["--cors-origin", "null"], &[], "as `https://example.org`"),
    ] {
        let complaint = start(args, env);
        assert!(complaint.contains(says), "{says}: {complaint}");
        assert!(!complaint.contains("secret"), "{complaint}");
    }
    assert!(!folder.path().join("data").exists());
}

// === pages in a browser ===

/// Sends a head that no client here would send, and returns the answer's status and all of it.
fn send(hearth: &Hearth, method: &str, path: &str, head: impl AsRef<[u8]>) -> (u16, String) {
    let mut socket = hearth.connect();
    let line = format!("{method} {path} HTTP/1.1\r\n");
    let end = b"content-length: 0\r\nconnection: close\r\n\r\n";
    let request = [line.as_bytes(), head.as_ref(), end].concat();
    socket.write_all(&request).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

/// What browsers send for pages of others, each on the way that asks nobody before.
const FOREIGN: [(&str, &str); 10] = [
    (
        "fetch, no-cors",
        "host: 127.0.0.1:8080\r\norigin: https://evil.example\r\ncontent-type: text/plain\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\n",
    ),
    (
        "fetch, cors",
        "host: localhost:8080\r\norigin: https://evil.example\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: cors\r\n",
    ),
    (
        "a form",
        "host: localhost\r\norigin: https://evil.example\r\ncontent-type: application/x-www-form-urlencoded\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\n",
    ),
    (
        "a sandboxed frame, a file",
        "host: localhost\r\norigin: null\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: cors\r\n",
    ),
    (
        "a picture, a script",
        "host: localhost\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\n",
    ),
    (
        "a rebound name",
        "host: evil.example:8080\r\nsec-fetch-site: same-origin\r\nsec-fetch-mode: cors\r\n",
    ),
    (
        "a rebound name, posting",
        "host: evil.example:8080\r\norigin: http://evil.example:8080\r\nsec-fetch-site: same-origin\r\n",
    ),
    (
        "a name that looks like ours",
        "host: localhost\r\norigin: http://localhost.evil.example\r\n",
    ),
    (
        "an extension",
        "host: localhost\r\norigin: chrome-extension://localhost\r\n",
    ),
    (
        "two of them",
        "host: localhost\r\norigin: http://localhost\r\norigin: https://evil.example\r\n",
    ),
];

#[test]
fn without_credentials_no_foreign_page_reaches_anything() {
    let hearth = start(&[], &[]);
    assert!(
        hearth
            .log()
            .contains("open to this machine: no credentials are asked for")
    );
    for (_, method, path, _) in ROUTES {
        for (what, head) in FOREIGN {
            for method in [method, "GET", "POST", "PUT", "DELETE", "OPTIONS"] {
                let (status, answer) = send(&hearth, method, path, head);
                assert_eq!(status, 403, "{method} {path}, {what}: {answer}");
                assert!(!answer.contains("access-control"), "{answer}");
            }
        }
    }
    let preflight = "host: localhost\r\norigin: https://evil.example\r\naccess-control-request-method: POST\r\naccess-control-request-private-network: true\r\n";
    let (status, answer) = send(&hearth, "OPTIONS", "/run/add_one", preflight);
    assert_eq!(status, 403);
    assert!(!answer.contains("access-control"), "{answer}");
    for twice in [
        "host: example.org\r\n",
        "host: localhost\r\nhost: example.org\r\n",
    ] {
        assert_eq!(send(&hearth, "GET", "/health", twice).0, 403, "{twice}");
    }

    // What is of this machine is answered: a client, a page, and a person who follows a link.
    for head in [
        "host: localhost\r\n",
        "host: [::1]:8080\r\n",
        "host: 127.0.0.1:8080\r\norigin: http://localhost:3000\r\nsec-fetch-site: cross-site\r\n",
        "host: localhost\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\n",
    ] {
        let (status, answer) = send(&hearth, "GET", "/v2/models/add_one", head);
        assert_eq!(status, 200, "{head}");
        assert!(!answer.contains("access-control"), "{answer}");
    }
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credentials_no_foreign_page_reaches_grpc() {
    let hearth = start(&[], &[]);
    for (method, _) in METHODS {
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
        ] {
            let request = Request::builder().header(name, value);
            let foreign = grpc_status(&hearth, request, "localhost", method).await;
            assert_eq!(foreign, Some(7), "{method}, {name}: {value}");
        }
        let rebound = grpc_status(&hearth, Request::builder(), "evil.example", method).await;
        assert_eq!(rebound, Some(7), "{method}");
        let own = grpc_status(&hearth, Request::builder(), "localhost", method).await;
        assert_ne!(own, Some(7), "{method}");
    }
    hearth.stop();
}

#[test]
fn with_credentials_a_foreign_page_still_calls_nothing() {
    // A browser that was asked for them sends them along, whoever makes it call.
    let hearth = start(&[], &ENV);
    let authorization = format!("authorization: {}\r\n", basic("flame", PASSWORD));
    let evil = "host: gateway.example\r\norigin: https://evil.example\r\n";
    let own = "host: gateway.example\r\norigin: https://gateway.example\r\n";
    let status = |head: &str| send(&hearth, "GET", "/metrics", format!("{head}{authorization}")).0;
    assert_eq!(status(evil), 403);
    assert_eq!(status(own), 200);
    assert_eq!(status("host: gateway.example\r\n"), 200);
    hearth.stop();
}

fn page(hearth: &Hearth, method: &str, origin: &str, more: &[(&str, &str)]) -> Answer {
    let request = hearth
        .request(method, "/v2/models/add_one")
        .header("origin", origin);
    let request = more.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    hearth.send(request, ())
}

#[test]
fn pages_that_the_operator_names_may_call() {
    let origins = [
        "--cors-origin",
        "https://dashboard.example",
        "--cors-origin",
        "http://other.example:3000",
    ];
    let hearth = start(&origins, &ENV);
    let authorization = basic("flame", PASSWORD);
    let asks = [
        ("access-control-request-method", "DELETE"),
        (
            "access-control-request-headers",
            "authorization,content-type",
        ),
    ];
    for origin in ["https://dashboard.example", "http://other.example:3000"] {
        // A preflight brings no credentials.
        let answer = page(&hearth, "OPTIONS", origin, &asks);
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(
            answer.header("access-control-allow-methods"),
            Some("GET, POST, PUT, DELETE, OPTIONS")
        );
        assert_eq!(
            answer.header("access-control-allow-headers"),
            Some("authorization, *")
        );
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert_eq!(answer.header("vary"), Some("origin"));

        let answer = page(&hearth, "GET", origin, &[("authorization", &authorization)]);
        answer.ok();
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("vary"), Some("origin"));
        // The page reads why it got nothing.
        let answer = page(&hearth, "GET", origin, &[]);
        assert_eq!(answer.status, 401);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    }
    for origin in [
        "https://evil.example",
        "http://dashboard.example",
        "null",
        "https://dashboard.example:8443",
    ] {
        for (method, more) in [
            ("OPTIONS", &asks[..]),
            ("GET", &[("authorization", &*authorization)]),
        ] {
            let answer = page(&hearth, method, origin, more);
            assert_eq!(answer.status, 403, "{origin}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    hearth.stop();

    let any = start(&["--cors-origin", "*"], &ENV);
    let answer = page(&any, "OPTIONS", "https://anywhere.example", &asks);
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let answer = page(
        &any,
        "GET",
        "https://anywhere.example",
        &[("authorization", &authorization)],
    );
    answer.ok();
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("vary"), None);
    // Only what a browser asks before a call is answered to anybody.
    let answer = page(&any, "OPTIONS", "https://anywhere.example", &[]);
    assert_eq!(answer.status, 401);
    any.stop();

    // Without credentials the named pages may call, under a loopback name.
    let open = start(&["--cors-origin", "https://dashboard.example"], &[]);
    page(&open, "GET", "https://dashboard.example", &[]).ok();
    let answer = page(
        &open,
        "GET",
        "https://dashboard.example",
        &[("host", "dashboard.example")],
    );
    assert_eq!(answer.status, 403);
    let answer = page(&open, "GET", "https://evil.example", &[]);
    assert_eq!(answer.status, 403);
    open.stop();
}
