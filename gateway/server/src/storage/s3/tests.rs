use super::*;

#[test]
fn only_urls_of_servers_are_endpoints() {
    for (text, expected) in [
        ("http://127.0.0.1:9000", Some("http 127.0.0.1:9000")),
        (
            "https://minio.example.org/",
            Some("https minio.example.org"),
        ),
        (
            "https://minio.example.org:443",
            Some("https minio.example.org"),
        ),
        ("http://[::1]:80", Some("http [::1]")),
        ("minio.example.org:9000", None),
        ("ftp://minio.example.org", None),
        ("http://user:secret@minio.example.org", None),
        ("http://minio.example.org/path", None),
        ("http://minio.example.org?query", None),
        ("file:///etc/passwd", None),
        ("", None),
    ] {
        let read = endpoint(text).map(|(scheme, authority)| format!("{scheme} {authority}"));
        assert_eq!(read.as_deref().ok(), expected, "{text}");
        if let Err(error) = read {
            assert!(!error.message.contains("secret"), "{error}");
        }
    }
}

#[test]
fn a_region_is_no_way_to_another_host() {
    let amazon = |region: &str| {
        Account::amazon(&Amazon {
            region: region.to_owned(),
            ..Amazon::default()
        })
    };
    assert_eq!(
        amazon("eu-west-1").unwrap().authority,
        "s3.eu-west-1.amazonaws.com"
    );
    assert_eq!(amazon("").unwrap().authority, "s3.us-east-1.amazonaws.com");
    for region in ["x.example.org/", "a@b", "EU", "a b"] {
        assert!(amazon(region).is_err(), "{region}");
    }
}

#[test]
fn what_can_be_expected_after_a_refusal() {
    for (status, code, expected) in [
        (499, "ClientDisconnected", Trouble::Away),
        (503, "XMinioServerNotInitialized", Trouble::Away),
        (503, "XMinioIAMNotInitialized", Trouble::Away),
        (503, "SlowDownRead", Trouble::Passing),
        (500, "", Trouble::Passing),
        (429, "", Trouble::Passing),
        (400, "RequestTimeout", Trouble::Passing),
        (409, "OperationAborted", Trouble::Passing),
        (507, "", Trouble::Lasting),
        (507, "XMinioStorageFull", Trouble::Lasting),
        (403, "AccessDenied", Trouble::Lasting),
        (404, "NoSuchBucket", Trouble::Lasting),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(kind_of(status, code), expected, "{status} {code}");
    }
}
