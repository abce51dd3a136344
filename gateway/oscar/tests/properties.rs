//! Whatever comes, nothing panics; what was read is written so that it is read again.

use gateway_oscar::{Fdl, Service};
use proptest::prelude::*;

/// Text that looks like what is in definitions.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z-]{0,12}",
        "\\PC{0,20}",
        Just("model:yolox:2".to_owned()),
        Just("minio.default".to_owned()),
        Just("a/b/c".to_owned()),
        Just("256Mi".to_owned()),
        Just("1.10".to_owned()),
        Just("null".to_owned()),
    ]
}

const KEYS: [&str; 40] = [
    "name",
    "Image",
    "script",
    "MODEL",
    "cpu",
    "memory",
    "synchronous",
    "min_scale",
    "max_scale",
    "expose",
    "api_port",
    "nodePort",
    "input",
    "output",
    "storage_provider",
    "path",
    "prefix",
    "environment",
    "Variables",
    "secrets",
    "labels",
    "replicas",
    "federation",
    "members",
    "headers",
    "clusters",
    "storage_providers",
    "minio",
    "default",
    "volume",
    "mount_path",
    "kserve",
    "inference",
    "alpine",
    "version",
    "score",
    "labels",
    "top_k",
    "class",
    "token",
];

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        word().prop_map(Into::into),
    ];
    let key =
        prop_oneof![4 => proptest::sample::select(&KEYS[..]).prop_map(str::to_owned), 1 => word()];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(key.clone(), inner, 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A definition that can be read, with values of the right types.
fn definition() -> impl Strategy<Value = String> {
    let map = || prop::collection::btree_map(word(), word(), 0..3);
    let io = || {
        prop::collection::vec(
            (word(), word(), prop::collection::vec(word(), 0..2)).prop_map(|(provider, path, suffix)| {
                serde_json::json!({"storage_provider": provider, "path": path, "suffix": suffix})
            }),
            0..3,
        )
    };
    (
        (word(), word(), word(), any::<bool>(), any::<i32>()),
        (map(), map(), map()),
        (io(), io()),
        prop::collection::vec(any::<u16>(), 0..3),
    )
        .prop_map(
            |(
                (name, image, script, flag, scale),
                (variables, secrets, labels),
                (input, output),
                ports,
            )| {
                serde_json::json!({
                    "name": name, "image": image, "script": script, "alpine": flag,
                    "synchronous": {"min_scale": scale}, "labels": labels,
                    "environment": {"Variables": variables, "secrets": secrets},
                    "input": input, "output": output, "expose": {"api_port": ports},
                    "replicas": [{"type": image, "priority": scale, "headers": labels}],
                })
                .to_string()
            },
        )
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = Service::from_json(&bytes);
        let _ = Fdl::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_json_is_read_or_refused_and_checked(value in value()) {
        let json = value.to_string();
        if let Ok(mut service) = Service::from_json(json.as_bytes()) {
            service.set_defaults();
            let _ = service.check();
            let _ = service.said();
            let _ = service.model();
        }
        let _ = Fdl::parse(&json);
        let _ = Fdl::parse(&format!("{{\"functions\":{{\"oscar\":[{{\"c\":{json}}}],\"aws\":[{json}]}}}}"));
    }

    #[test]
    fn what_is_read_is_written_and_read_again(json in definition()) {
        let mut service = Service::from_json(json.as_bytes()).unwrap();
        let again = Service::from_json(service.to_json().as_bytes()).unwrap();
        prop_assert_eq!(&again, &service);
        service.set_defaults();
        let written = service.to_json();
        let mut again = Service::from_json(written.as_bytes()).unwrap();
        prop_assert_eq!(&again, &service);
        again.set_defaults();
        prop_assert_eq!(again.to_json(), written);
    }
}
