use super::*;

fn service(json: &str) -> Service {
    let mut service = Service::from_json(json.as_bytes()).unwrap();
    service.set_defaults();
    service
}

fn refusal(more: &str) -> String {
    let json = format!(r#"{{"name":"s","image":"i","script":"x"{more}}}"#);
    service(&json).check().unwrap_err().to_string()
}

#[test]
fn what_oscar_requires_is_required() {
    service(r#"{"name":"s","image":"i","script":"x"}"#)
        .check()
        .unwrap();
    service(r#"{"name":"s","image":"model:yolox"}"#)
        .check()
        .unwrap();
    for (json, field) in [
        (r#"{"image":"i","script":"x"}"#, "`name`"),
        (r#"{"name":"s","script":"x"}"#, "`image`"),
        (r#"{"name":"s","image":"i"}"#, "`script`"),
    ] {
        let error = service(json).check().unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}

#[test]
fn a_name_is_a_label_and_never_a_path() {
    let long = "a".repeat(40);
    for name in [
        "", "../etc", "a/b", "A", "-a", "a-", "a.b", "a b", "ä", "a\0", &long,
    ] {
        assert!(!is_service_name(name), "{name:?}");
    }
    for name in ["a", "0", "a-b", &long[..39]] {
        assert!(is_service_name(name), "{name}");
    }
}

#[test]
fn each_mistake_names_its_field() {
    for (more, expected) in [
        (r#","cpu":"much""#, "`cpu`"),
        (r#","memory":"256 Mi""#, "`memory`"),
        (r#","memory":"-1Mi""#, "`memory`"),
        (r#","memory":"0""#, "`memory`"),
        (r#","memory":"1m""#, "`memory`"),
        (
            r#","synchronous":{"min_scale":-1}"#,
            "`synchronous.min_scale`",
        ),
        (
            r#","synchronous":{"min_scale":2,"max_scale":1}"#,
            "`synchronous.min_scale` (2)",
        ),
        (r#","expose":{"api_port":70000}"#, "`expose.api_port`"),
        (
            r#","visibility":"secret""#,
            "`visibility`: expected `private` or",
        ),
        (r#","isolation_level":"none""#, "`isolation_level`"),
        (
            r#","input":[{"storage_provider":"onedata","path":"a/b"}]"#,
            "unrecognized input (valid inputs are MinIO, S3, folders and dCache)",
        ),
        (
            r#","input":[{"storage_provider":"minio","path":" / "}]"#,
            "`path`",
        ),
        (
            r#","output":[{"storage_provider":"s3.mine","path":"a/b"}]"#,
            r#"the StorageProvider "s3.mine" is not defined"#,
        ),
        (
            r#","mount":{"storage_provider":"minio","path":"a","options":"$(x)"}"#,
            "`mount.options`",
        ),
        (
            r#","mount":{"storage_provider":"onedata","path":"a"}"#,
            "`mount.storage_provider`",
        ),
        (
            r#","volume":{"size":"1Gi","mount_path":"data"}"#,
            "`volume.mount_path`",
        ),
        (
            r#","volume":{"size":"1Gi","mount_path":"/oscar/bin/x"}"#,
            "`volume.mount_path`",
        ),
        (r#","volume":{"mount_path":"/data"}"#, "`volume`"),
        (
            r#","volume":{"size":"1Gi","mount_path":"/data","lifecycle_policy":"keep"}"#,
            "`volume.lifecycle_policy`",
        ),
        (
            r#","environment":{"variables":{"A=B":"1"}}"#,
            "`environment`",
        ),
        (r#","script":"a\u0000b""#, "`script`"),
    ] {
        // The later key wins nowhere: a key that comes twice is refused when it is read.
        let more = more.to_owned();
        let json = if more.contains("script") {
            format!(r#"{{"name":"s","image":"i"{more}}}"#)
        } else {
            format!(r#"{{"name":"s","image":"i","script":"x"{more}}}"#)
        };
        let error = service(&json).check().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}

#[test]
fn ten_megabytes_of_environment_are_refused_and_not_repeated() {
    let huge = "x".repeat(200 << 10);
    let error = refusal(&format!(
        r#","environment":{{"secrets":{{"KEY":"{huge}"}}}}"#
    ));
    assert!(error.contains("\"KEY\" has 204805 bytes"), "{error}");
    let many: Vec<_> = (0..100)
        .map(|n| format!(r#""K{n}":"{}""#, &huge[..100 << 10]))
        .collect();
    let error = refusal(&format!(
        r#","environment":{{"variables":{{{}}}}}"#,
        many.join(",")
    ));
    assert!(error.contains("expected at most 524288"), "{error}");
}

#[test]
fn a_model_block_and_an_image_agree() {
    let check = |json: &str| service(json).check();
    check(r#"{"name":"s","model":{"name":"m","version":2,"score":0.5}}"#).unwrap();
    check(r#"{"name":"s","image":"model:m:2","model":{"name":"m","version":"2"}}"#).unwrap();
    check(r#"{"name":"s","image":"model:m","model":{"top_k":3}}"#).unwrap();
    for (json, expected) in [
        (
            r#"{"name":"s","image":"model:m","model":{"name":"n"}}"#,
            "`model` is \"n\"",
        ),
        (
            r#"{"name":"s","image":"cowsay","model":{"name":"n"}}"#,
            "`image`: a service with a `model`",
        ),
        (
            r#"{"name":"s","model":{"name":"m","score":2}}"#,
            "`model.score`",
        ),
        (
            r#"{"name":"s","model":{"name":"m","top_k":0}}"#,
            "`model.top_k`",
        ),
        (
            r#"{"name":"s","model":{"name":"m","timeout_ms":0}}"#,
            "`model.timeout_ms`",
        ),
        (
            r#"{"name":"s","model":{"name":"m","video":{"fps":0}}}"#,
            "`model.video.fps`: expected a number from 0.001 to 1000, got 0",
        ),
    ] {
        let error = check(json).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}

#[test]
fn nothing_of_cores_or_scratch_space_says_nothing() {
    let of = |cpu: &str, scratch: &str| {
        let json = format!(r#"{{"cpu":"{cpu}","ephemeral_storage_request":"{scratch}"}}"#);
        Service::from_json(json.as_bytes()).unwrap()
    };
    let said = of("500m", "1Gi");
    assert_eq!(
        (said.cores(), said.scratch_bytes()),
        (Some(0.5), Some(1 << 30))
    );
    let said = of("0", "0");
    assert_eq!((said.cores(), said.scratch_bytes()), (None, None));
}

#[test]
fn quantities_are_read_as_kubernetes_reads_them() {
    for (text, value) in [
        ("0.2", 0.2),
        ("500m", 0.5),
        ("1", 1.0),
        ("256Mi", 268_435_456.0),
        ("2e3", 2000.0),
        ("1E", 1e18),
        (".5", 0.5),
    ] {
        assert_eq!(quantity(text), Some(value), "{text}");
    }
    for text in [
        "", "-1", "Mi", "1 Mi", "1mi", "inf", "nan", "1e99", "1e400", "0x10",
    ] {
        assert_eq!(quantity(text), None, "{text}");
    }
}
