use super::*;
use crate::Kind;

const DOCUMENT: &str = r#"
functions:
  oscar:
    - oscar-cluster:
        name: grayify
        memory: 1Gi
        cpu: 1.0
        image: ghcr.io/grycap/imagemagick
        script: script.sh
        log_level: CRITICAL
        vo: "vo.example.eu"
        input:
          - storage_provider: minio.default
            path: grayify/input
        output:
          - storage_provider: minio
            path: grayify/output
            suffix: [png]
        environment:
          Variables:
            INPUT_TYPE: json
            TAG: 1.10
            ZIP: 01234
            DEBUG: true
            EMPTY:
        expose: { api_port: 8080, nodePort: 0 }
    - second: { name: detect, image: "model:yolox:2" }
  aws:
    - lambda: { name: mine, memory: 512, environment: { Variables: { A: b } } }
storage_providers:
  minio:
    other: { endpoint: "https://minio.example", access_key: a, secret_key: b }
clusters:
  oscar-cluster: { endpoint: "https://oscar.example", auth_user: u, auth_password: p }
"#;

#[test]
fn a_document_is_read_as_its_authors_meant_it() {
    let fdl = Fdl::parse(DOCUMENT).unwrap();
    assert_eq!(
        fdl.functions.aws[0]["lambda"]["environment"]["Variables"]["A"],
        "b"
    );
    let services = fdl.services();
    let OfCluster { cluster, service } = &services[0];
    assert_eq!(cluster, "oscar-cluster");
    assert_eq!(service.cluster_id, "oscar-cluster");
    assert_eq!(service.cpu, "1.0");
    let variables = &service.environment.variables;
    assert_eq!(variables["TAG"], "1.10");
    assert_eq!(variables["ZIP"], "01234");
    assert_eq!(variables["DEBUG"], "true");
    assert_eq!(variables["EMPTY"], "");
    assert_eq!(service.expose.api_port.list, [8080]);
    assert!(service.expose.node_port.is_empty());
    assert_eq!(
        service.storage_providers.minio["other"].secret_key.reveal(),
        "b"
    );
    assert_eq!(
        service.clusters["oscar-cluster"].auth_password.reveal(),
        "p"
    );
    assert_eq!(service.output[0].suffix, ["png"]);
    assert_eq!(services[1].service.kind(), Kind::Model);
    assert_eq!(services[1].service.model().unwrap().version, "2");
}

#[test]
fn a_document_goes_round() {
    let fdl = Fdl::parse(DOCUMENT).unwrap();
    let json = serde_json::to_string(&fdl).unwrap();
    // JSON is YAML.
    assert_eq!(Fdl::parse(&json).unwrap(), fdl);
}

#[test]
fn mistakes_are_found_where_they_are() {
    for (yaml, expected) in [
        (
            "functions:\n  oscar:\n    - c: {name: [1]}\n",
            "`functions.oscar.0.c.name`",
        ),
        (
            "functions:\n  oscar:\n    - {a: {}, b: {}}\n",
            "expected one cluster's id",
        ),
        (
            "functions:\n  oscar:\n    - c:\n        alpine: 7\n",
            "alpine",
        ),
        ("functions: [", "line 1"),
    ] {
        let error = Fdl::parse(yaml).unwrap_err().to_string();
        assert!(error.contains(expected), "{yaml}: {error}");
    }
}

#[test]
fn what_is_repeated_is_read_and_bombs_are_not() {
    let yaml = "functions:\n  oscar:\n  - c: &s {name: a, image: 'model:m'}\n  - d: *s\n";
    assert_eq!(
        Fdl::parse(yaml).unwrap().functions.oscar[1].service.name,
        "a"
    );

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        let list = [before.as_str(); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    bomb.push_str("functions: { aws: [*a11] }\n");
    let error = Fdl::parse(&bomb).unwrap_err().to_string();
    assert!(error.len() < 300, "{error}");

    let deep = format!(
        "functions: {{ aws: [{}{}] }}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    Fdl::parse(&deep).unwrap_err();
    let long = format!("x: {}", "y".repeat(2 << 20));
    assert!(
        Fdl::parse(&long)
            .unwrap_err()
            .to_string()
            .contains("1048576")
    );
}
