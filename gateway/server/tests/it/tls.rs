//! TLS on all listeners, with certificates made here.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use workers_protocol::oip::ServerLiveRequest;
use workers_protocol::transport;

use crate::bucket::Bucket;
use crate::hearth::{Hearth, PATIENCE, Store, agent, command, eventually, finish};
use crate::objects::{check_boto3, provider};

/// A certificate for this machine, and the root that it leads to.
pub(crate) struct Issued {
    pub(crate) root: String,
    certificate: String,
    key: String,
}

pub(crate) fn issue() -> Issued {
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Other than the certificate's, which OpenSSL else takes for one of its own root.
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "the root of a test");
    let root = params.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(params, root_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Issued {
        root: root.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

impl Issued {
    pub(crate) fn write(&self, folder: &Path) {
        fs::write(folder.join("cert.pem"), &self.certificate).unwrap();
        fs::write(folder.join("key.pem"), &self.key).unwrap();
    }
}

fn start(issued: &Issued, folder: &Path) -> Hearth {
    issued.write(folder);
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
    let args = [
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let store = Store::new().with_tiny("add_one");
    let data = Arc::new(TempDir::new().unwrap());
    Hearth::start_trusted(store, data, &args, &[], Some(&issued.root))
}

/// Returns a client's side of TLS that trusts a root and offers these protocols.
fn connector(root: &str, protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(root.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    Arc::new(config).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_listeners_speak_tls_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let issued = issue();
    let hearth = start(&issued, folder.path());
    assert_eq!(hearth.get("/health").text(), "Ok");
    let stranger = agent(Some(&issue().root));
    let url = format!("https://{}/health", hearth.address());
    assert!(
        stranger.get(&url).call().is_err(),
        "its root is another one"
    );

    // What speaks no TLS gets no answer.
    let mut plain = hearth.connect();
    plain
        .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    let name = || "localhost".try_into().unwrap();
    let both = connector(&issued.root, &["h2", "http/1.1"]);
    let socket = TcpStream::connect(hearth.address()).await.unwrap();
    let socket = both.connect(name(), socket).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));

    let socket = TcpStream::connect(hearth.grpc_address()).await.unwrap();
    let socket = both.connect(name(), socket).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, driver) = transport::connect(socket).await.unwrap();
    tokio::spawn(driver);
    let live = client.server_live(ServerLiveRequest {}).await.unwrap();
    assert!(live.into_inner().live);

    let only_http = connector(&issued.root, &["http/1.1"]);
    let socket = TcpStream::connect(hearth.grpc_address()).await.unwrap();
    assert!(only_http.connect(name(), socket).await.is_err());
    drop(client);
    hearth.stop();
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (issue(), issue());
    let hearth = start(&first, folder.path());
    let urls = [
        format!("https://{}/health", hearth.address()),
        hearth.s3_url(),
    ];
    let are_trusted = |issued: &Issued| {
        let agent = agent(Some(&issued.root));
        urls.each_ref().map(|url| agent.get(url).call().is_ok())
    };

    // A certificate whose key has not come yet is reported, and the one before it stays.
    fs::write(folder.path().join("cert.pem"), &second.certificate).unwrap();
    eventually("the pair that does not fit is reported", || {
        hearth
            .log()
            .contains("the one before it stays")
            .then_some(())
    });
    assert_eq!(are_trusted(&first), [true; 2]);
    second.write(folder.path());
    eventually("the new one is shown", || {
        (are_trusted(&second) == [true; 2]).then_some(())
    });
    assert_eq!(are_trusted(&first), [false; 2]);
    let reports = hearth.log().matches("the one before it stays").count();
    assert_eq!(reports, 1);
    // A connection that was open stays open.
    assert_eq!(hearth.get("/health").text(), "Ok");
    hearth.stop();
}

#[test]
fn s3_is_spoken_over_tls_too() {
    let folder = TempDir::new().unwrap();
    let issued = issue();
    let hearth = start(&issued, folder.path());
    let root = folder.path().join("root.pem");
    fs::write(&root, &issued.root).unwrap();
    check_boto3(&hearth, Some(&root));

    let (endpoint, access_key, secret_key) = provider(&hearth);
    assert!(endpoint.starts_with("https://"), "{endpoint}");
    let bucket = |root: &str| {
        let keys = [access_key.as_str(), &secret_key];
        Bucket::trusting(&endpoint, "photos", keys, Some(root))
    };
    bucket(&issued.root).make();
    let mebibytes = vec![7; 3 << 20];
    bucket(&issued.root).put("in/a", &mebibytes);
    let (_, got) = bucket(&issued.root).get("in/a").unwrap();
    assert!(got == mebibytes);
    assert_eq!(
        bucket(&issue().root).get("in/a"),
        None,
        "its root is another one"
    );

    // Who has a link needs nothing else.
    let asked = r#"{"object_key": "in/a", "operation": "download"}"#;
    let signed = hearth.post("/system/buckets/photos/presign", asked.as_bytes());
    let url = signed.ok()["url"].as_str().unwrap().to_owned();
    let got = hearth.send(http::Request::builder().uri(url), ());
    assert!(got.status == 200 && got.body == mebibytes);
    let plain = endpoint.replace("https://", "http://");
    assert!(agent(None).get(plain).call().is_err());
    hearth.stop();
}

#[test]
fn a_client_that_does_not_agree_on_tls_is_closed() {
    let folder = TempDir::new().unwrap();
    let hearth = start(&issue(), folder.path());
    let mut silent = hearth.connect();
    let began = Instant::now();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
    assert!(began.elapsed() < PATIENCE / 2);
    // One that is silent does not hold up the end.
    let _silent = hearth.connect();
    hearth.stop();
}

#[test]
fn files_that_are_no_certificate_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let (one, other) = (issue(), issue());
    one.write(folder.path());
    fs::write(folder.path().join("other.pem"), &other.key).unwrap();
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    fs::write(
        folder.path().join("broken.pem"),
        "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let complain = |certificate: &str, key: &str| {
        let file = |name: &str| folder.path().join(name);
        let output = finish(
            command()
                .args(["serve", "--listen", "127.0.0.1:0", "--store"])
                .arg(folder.path())
                .arg("--data")
                .arg(file("data"))
                .arg("--tls-cert")
                .arg(file(certificate))
                .arg("--tls-key")
                .arg(file(key)),
        );
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!text.contains("PRIVATE KEY"), "{text}");
        text
    };
    for (certificate, key, says) in [
        ("nowhere.pem", "key.pem", "nowhere.pem: No such file"),
        (
            "empty.pem",
            "key.pem",
            "empty.pem: expected a certificate in PEM",
        ),
        ("broken.pem", "key.pem", "broken.pem: expected PEM"),
        (
            "key.pem",
            "key.pem",
            "key.pem: expected a certificate in PEM",
        ),
        ("cert.pem", "nowhere.pem", "nowhere.pem: No such file"),
        (
            "cert.pem",
            "cert.pem",
            "cert.pem: expected a private key in PEM",
        ),
        ("cert.pem", "other.pem", "keys may not be consistent"),
    ] {
        let complaint = complain(certificate, key);
        assert!(complaint.contains(says), "{says}: {complaint}");
    }
    let output = finish(command().args([
        "serve",
        "--tls-cert",
        "cert.pem",
        "--store",
        ".",
        "--data",
        "x",
    ]));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--tls-key"), "{text}");
    assert!(!folder.path().join("data").exists());
}
