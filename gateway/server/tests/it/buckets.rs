//! OSCAR's buckets: in the data folder, and at a real MinIO.

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bucket::Bucket;
use crate::hearth::{Answer, Hearth, Store};
use crate::minio::{KEYS, Minio};
use crate::objects::{external, provider};
use crate::pictures::picture_models;

/// Starts a gateway whose buckets are there.
fn start_at(minio: &Minio) -> Hearth {
    let variables = minio.variables();
    let env: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let data = Arc::new(TempDir::new().unwrap());
    Hearth::start_on(picture_models(), data, &[], &env)
}

fn send(hearth: &Hearth, method: &str, path: &str, body: &Value) -> Answer {
    hearth.send(hearth.request(method, path), body.to_string().as_bytes())
}

fn text(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{}", answer.text());
    answer.text()
}

/// Buckets are what OSCAR's clients expect.
fn check_buckets(hearth: &Hearth) {
    assert_eq!(hearth.get("/system/buckets").ok(), json!([]));
    let made =
        json!({"bucket_name": "photos", "visibility": "restricted", "allowed_users": ["a@b", "c"]});
    assert_eq!(send(hearth, "POST", "/system/buckets", &made).status, 201);
    text(&send(hearth, "POST", "/system/buckets", &made), 400);
    // Compact, and in OSCAR's order.
    let shown = r#"{"bucket_name":"photos","visibility":"restricted","allowed_users":["a@b","c"],"owner":"cluster_admin","metadata":{"service":"false"}"#;
    assert_eq!(hearth.get("/system/buckets").text(), format!("[{shown}}}]"));
    let empty = format!("{shown},\"objects\":[],\"is_truncated\":false,\"returned_items\":0}}");
    assert_eq!(hearth.get("/system/buckets/photos").text(), empty);
    let change = json!({"bucket_name": "photos", "visibility": "public"});
    assert_eq!(send(hearth, "PUT", "/system/buckets", &change).status, 204);
    let bucket = hearth.get("/system/buckets/photos").ok();
    assert_eq!(
        (&bucket["visibility"], &bucket["allowed_users"]),
        (&json!("public"), &json!([]))
    );
    text(
        &send(
            hearth,
            "PUT",
            "/system/buckets",
            &json!({"bucket_name": "none"}),
        ),
        404,
    );
    for bad in [
        json!({}),
        json!({"bucket_name": "Upper"}),
        json!({"bucket_name": "../up"}),
        json!({"bucket_name": "good", "visibility": "secret"}),
        json!({"bucket_name": "good", "allowed_users": ["a b"]}),
    ] {
        text(&send(hearth, "POST", "/system/buckets", &bad), 400);
    }
    text(&hearth.get("/system/buckets/none"), 404);
    text(
        &send(hearth, "DELETE", "/system/buckets/none", &json!(null)),
        404,
    );
    assert_eq!(
        send(hearth, "DELETE", "/system/buckets/photos", &json!(null)).status,
        204
    );
    assert_eq!(hearth.get("/system/buckets").ok(), json!([]));
}

/// A bucket is read page by page, and deleted with all that is in it.
fn check_pages(hearth: &Hearth) {
    send(
        hearth,
        "POST",
        "/system/buckets",
        &json!({"bucket_name": "photos"}),
    );
    for number in 0..5 {
        let asked = json!({"object_key": format!("{number}"), "operation": "upload"});
        let url = send(hearth, "POST", "/system/buckets/photos/presign", &asked).ok();
        let request = http::Request::builder()
            .method("PUT")
            .uri(url["url"].as_str().unwrap());
        assert_eq!(hearth.send(request, b"1".as_slice()).status, 200);
    }
    let (mut names, mut page) = (Vec::new(), String::new());
    loop {
        let answer = hearth
            .get(&format!("/system/buckets/photos?limit=2&page={page}"))
            .ok();
        for object in answer["objects"].as_array().unwrap() {
            names.push(object["object_name"].as_str().unwrap().to_owned());
        }
        match answer["next_page"].as_str() {
            Some(next) => page = next.to_owned(),
            None => break assert_eq!(answer["is_truncated"], false),
        }
    }
    assert_eq!(names, ["0", "1", "2", "3", "4"]);
    for query in ["limit=0", "limit=x", "page=!"] {
        text(&hearth.get(&format!("/system/buckets/photos?{query}")), 400);
    }
    let deleted = send(hearth, "DELETE", "/system/buckets/photos", &json!(null));
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    text(&hearth.get("/system/buckets/photos"), 404);
}

#[test]
fn buckets_in_the_data_folder_are_what_oscars_clients_expect() {
    let hearth = Hearth::start(Store::new(), &[]);
    check_buckets(&hearth);
    check_pages(&hearth);
}

#[test]
fn buckets_at_a_minio_are_what_oscars_clients_expect() {
    let Some(mut minio) = Minio::find() else {
        return;
    };
    minio.start(None);
    let hearth = start_at(&minio);
    check_buckets(&hearth);
    check_pages(&hearth);

    // What others made and said is shown, and what they said stays.
    let photos = Bucket::new(&minio.endpoint(), "photos", KEYS);
    photos.make();
    let shown = hearth.get("/system/buckets/photos").ok();
    assert_eq!(
        (&shown["visibility"], &shown["owner"], &shown["metadata"]),
        (&json!("private"), &json!("cluster_admin"), &json!({}))
    );
    // All versions go, and what is named as no XML can.
    photos.keep_versions();
    for key in ["a&b <c>", "a&b <c>", "tab\there", "d/"] {
        photos.put(key, b"1");
    }
    // A name that leads to an object is none of a bucket.
    let object = "/system/buckets/photos%2Fd%2F";
    text(&send(&hearth, "DELETE", object, &json!(null)), 400);
    assert_eq!(photos.n_versions(""), 4);
    let deleted = send(&hearth, "DELETE", "/system/buckets/photos", &json!(null));
    assert_eq!(deleted.status, 204, "{}", deleted.text());

    minio.kill();
    text(&hearth.get("/system/buckets"), 503);
}

#[test]
fn a_bucket_that_a_service_made_is_not_changed_while_it_is_there() {
    let definition = json!({
        "name": "one", "image": "model:mean", "input": [{"storage_provider": "minio", "path": "photos/in"}],
    });
    let check = |hearth: &Hearth, put: &dyn Fn()| {
        let made = send(hearth, "POST", "/system/services", &definition);
        assert_eq!(made.status, 201, "{}", made.text());
        let shown = hearth.get("/system/buckets/photos").ok();
        assert_eq!(
            shown["metadata"],
            json!({"from_service": "one", "service": "true"})
        );
        let change = json!({"bucket_name": "photos", "visibility": "public"});
        let refused = text(&send(hearth, "PUT", "/system/buckets", &change), 403);
        assert!(refused.contains("that a service made"), "{refused}");
        put();
        let deleted = send(hearth, "DELETE", "/system/services/one", &json!(null));
        assert_eq!(deleted.status, 204, "{}", deleted.text());
        let changed = send(hearth, "PUT", "/system/buckets", &change);
        assert_eq!(changed.status, 204, "{}", changed.text());
        // There is nobody whom it could be shown to.
        let warning = changed.header("x-hearth-warning");
        assert_eq!(warning, Some("kept without effect: visibility"));
        let shown = hearth.get("/system/buckets/photos").ok();
        assert_eq!(shown["visibility"], "public");
    };
    let put = |endpoint: &str, keys| Bucket::new(endpoint, "photos", keys).put("in/a", b"1");
    let hearth = Hearth::start(picture_models(), &[]);
    let (endpoint, access_key, secret_key) = provider(&hearth);
    check(&hearth, &|| put(&endpoint, [&access_key, &secret_key]));

    let Some(mut minio) = Minio::find() else {
        return;
    };
    minio.start(None);
    check(&start_at(&minio), &|| put(&minio.endpoint(), KEYS));
}

#[test]
fn where_buckets_have_no_tags_it_is_said_that_they_are_not_kept() {
    let store = Hearth::start(Store::new(), &[]);
    let (endpoint, access_key, secret_key) = provider(&store);
    let env = external([&endpoint, &access_key, &secret_key]);
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = Hearth::start_on(Store::new(), data, &[], &env);
    let public = json!({"bucket_name": "photos", "visibility": "public"});
    let made = send(&hearth, "POST", "/system/buckets", &public);
    assert_eq!(made.status, 201, "{}", made.text());
    let warning = made.header("x-hearth-warning").unwrap();
    assert!(
        warning.starts_with("not kept, since buckets have no tags"),
        "{warning}"
    );
    text(&send(&hearth, "PUT", "/system/buckets", &public), 501);
    assert_eq!(
        hearth.get("/system/buckets").ok()[0]["visibility"],
        "private"
    );
    text(&hearth.get("/system/buckets/none"), 404);
    let deleted = send(&hearth, "DELETE", "/system/buckets/photos", &json!(null));
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    check_pages(&hearth);
}

#[test]
fn who_has_a_presigned_url_needs_no_keys() {
    let hearth = Hearth::start(Store::new(), &[]);
    send(
        &hearth,
        "POST",
        "/system/buckets",
        &json!({"bucket_name": "photos"}),
    );
    let presign = |asked: Value| send(&hearth, "POST", "/system/buckets/photos/presign", &asked);
    let key = "in/señal 1+2.jpg";
    let upload = presign(
        json!({"object_key": key, "operation": "upload", "expires": 0,
        "content_type": "image/jpeg", "extra_headers": {"X-Amz-Meta-Job": "1"}}),
    )
    .ok();
    assert_eq!(upload["method"], "PUT");
    assert_eq!(
        upload["headers"],
        json!({"content-type": "image/jpeg", "x-amz-meta-job": "1"})
    );
    let url = upload["url"].as_str().unwrap();
    assert!(
        url.starts_with(&format!("{}/photos/in/", hearth.s3_url())),
        "{url}"
    );
    let put = |headers: &[(&str, &str)]| {
        let request = http::Request::builder().method("PUT").uri(url);
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        hearth.send(request, b"picture".as_slice()).status
    };
    assert_eq!(
        put(&[("content-type", "image/png"), ("x-amz-meta-job", "1")]),
        403
    );
    assert_eq!(
        put(&[("content-type", "image/jpeg"), ("x-amz-meta-job", "1")]),
        200
    );
    let bucket = hearth.get("/system/buckets/photos?limit=1&prefix=in/").ok();
    assert_eq!(bucket["objects"][0]["object_name"], key);
    assert_eq!(bucket["objects"][0]["size_bytes"], 7);
    assert_eq!(bucket["returned_items"], 1);
    let status = hearth.get("/system/status").ok();
    assert_eq!(
        status["minio"],
        json!({"buckets_count": 1, "total_objects": 1})
    );

    let download =
        presign(json!({"object_key": key, "operation": "download", "content_type": "image/webp"}))
            .ok();
    let url = download["url"].as_str().unwrap();
    let got = hearth.send(http::Request::builder().uri(url), ());
    assert_eq!(
        (got.status.as_u16(), got.body.as_slice()),
        (200, b"picture".as_slice())
    );
    assert_eq!(got.header("content-type"), Some("image/webp"));
    assert_eq!(got.header("x-amz-meta-job"), Some("1"));
    assert!(!url.contains(&provider(&hearth).2));

    for bad in [
        json!({"object_key": "", "operation": "upload"}),
        json!({"object_key": "a", "operation": "delete"}),
        json!({"object_key": "a", "operation": "upload", "expires_in": 604_801}),
        json!({"object_key": "a", "operation": "upload", "expires_in": -1}),
        json!({"object_key": "a/../b", "operation": "upload"}),
        json!({"object_key": "a", "operation": "upload", "extra_headers": {"host": "x"}}),
        json!({"object_key": "a", "operation": "upload", "extra_headers": {"x": "a\nb"}}),
    ] {
        text(&presign(bad), 400);
    }
    let nowhere = json!({"object_key": "a", "operation": "upload"});
    text(
        &send(&hearth, "POST", "/system/buckets/none/presign", &nowhere),
        404,
    );
    // With all that is in it.
    assert_eq!(
        send(&hearth, "DELETE", "/system/buckets/photos", &json!(null)).status,
        204
    );
}
