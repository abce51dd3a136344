//! Two services, the second called by what the first keeps: faces that are cut out of photos, and what
//! they wear. One model that does both in one go says what is to be found.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::events::own_bucket;
use crate::hearth::{Hearth, Store, shared, sources};
use crate::pictures::{RED, picture_models, png};
use crate::shell::Shell;

/// Photos, and how many faces are found at least: all, and those that are taken for masked. (Two of the
/// ten masks of the second have a pattern that the classifier takes for a face.)
const PHOTOS: [(&str, usize, usize); 3] = [
    ("imgs_10.jpg", 18, 0),
    ("masked_face_imgs_img2.jpeg", 10, 8),
    ("masked_face_imgs_img3.jpg", 3, 2),
];

/// What both are surer of than this is the same. One is shown a JPEG that was cut out at whole pixels, the
/// other what lies between those of the photo: of a face of few pixels that is another picture.
const SURE: f64 = 0.7;
/// The best of what was found.
fn label(found: &Value) -> &str {
    found["predictions"][0]["label"].as_str().unwrap()
}

#[test]
fn faces_that_one_service_cuts_out_are_judged_by_the_next() {
    let Some(shared) = shared() else { return };
    let models = ["centerface", "mask-classifier", "face-mask"];
    let store = models.iter().fold(Store::new(), |store, model| {
        store.with_example(model, &shared)
    });
    let hearth = Hearth::start(store, &[]);
    let shell = Shell::at(&hearth);
    let services = sources().join("examples/services/masks/masks.yaml");
    shell.says(&["apply", services.to_str().unwrap()]);
    let media = shared.join("media");
    for (photo, ..) in PHOTOS {
        shell.says(&["put", media.join(photo).to_str().unwrap(), "masks/photos"]);
    }
    let is_done = |jobs: BTreeMap<String, String>| jobs.values().all(|job| job == "Succeeded");
    assert!(is_done(hearth.ended("faces")));
    assert!(is_done(hearth.ended("masks")));

    let bucket = own_bucket(&hearth, "masks");
    let result = |name: &str| -> Value {
        let (_, bytes) = bucket.get(&format!("result/{name}.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let (mut n_all, mut n_alike) = (0, 0);
    for (photo, n_faces, n_masked) in PHOTOS {
        let bytes = fs::read(media.join(photo)).unwrap();
        let at_once = hearth.post("/run/face-mask", &bytes).ok();
        let at_once = at_once["predictions"].as_array().unwrap();
        let faces = result(photo);
        let faces = faces["predictions"].as_array().unwrap();
        // The same faces, in the same order.
        let rects = |found: &[Value]| {
            found
                .iter()
                .map(|one| one["box"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(rects(faces), rects(at_once), "{photo}");
        let n_crops = bucket.keys(&format!("faces/{photo}.")).len();
        assert_eq!(n_crops, faces.len(), "{photo}");
        let judged: Vec<Value> = (0..faces.len())
            .map(|number| result(&format!("{photo}.{number}.jpg")))
            .collect();
        let count = |wanted: &str| judged.iter().filter(|one| label(one) == wanted).count();
        assert!(
            faces.len() >= n_faces && count("masked") >= n_masked,
            "{photo}: {judged:?}"
        );
        for (one, other) in judged.iter().zip(at_once) {
            let is_alike = label(one) == other["label"];
            n_alike += usize::from(is_alike);
            let scores = [&one["predictions"][0]["score"], &other["label_score"]];
            let is_sure = scores.iter().all(|score| score.as_f64().unwrap() > SURE);
            assert!(is_alike || !is_sure, "{photo}: {one} {other}");
        }
        n_all += judged.len();
    }
    // Two, of faces of few pixels, are not.
    assert!(n_alike + 4 >= n_all, "{n_alike} of {n_all}");
    hearth.stop();
}

#[test]
fn what_is_found_is_cut_out_as_far_as_outputs_take_it() {
    let hearth = Hearth::start(picture_models(), &[]);
    let create = |definition: &Value| {
        let answer = hearth.post("/system/services", definition.to_string().as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
    };
    let service = |name: &str, image: &str, output: &Value| {
        json!({
            "name": name, "image": image, "model": {"crop": {"margin": 0}},
            "input": [{"storage_provider": "minio", "path": "photos/in"}],
            "output": [output],
        })
    };
    let output = |path: &str| json!({"storage_provider": "minio", "path": path});
    let mut json_alone = output("found/json");
    json_alone["suffix"] = json!([".json"]);
    create(&service("all", "model:detector", &output("found/all")));
    create(&service("json", "model:detector", &json_alone));
    create(&service("none", "model:mean", &output("found/none")));
    let photos = own_bucket(&hearth, "photos");
    photos.put("in/a.png", &png(RED));
    for (name, status) in [
        ("all", "Succeeded"),
        ("json", "Succeeded"),
        ("none", "Failed"),
    ] {
        let (job, ended) = hearth.ended(name).pop_first().unwrap();
        let log = hearth.get(&format!("/system/logs/{name}/{job}")).text();
        assert_eq!(ended, status, "{log}");
        assert_eq!(
            log.contains("`crop`: the model finds no boxes"),
            name == "none",
            "{log}"
        );
    }
    let found = own_bucket(&hearth, "found");
    let keys = [
        "all/",
        "all/a.png.0.jpg",
        "all/a.png.1.jpg",
        "all/a.png.json",
        "json/",
        "json/a.png.json",
        "none/",
    ];
    assert_eq!(found.keys(""), keys);
    let (headers, crop) = found.get("all/a.png.0.jpg").unwrap();
    assert_eq!(headers["content-type"], "image/jpeg");
    // Of 8 × 8 pixels, from an eighth of its sides to three.
    let crop = image::load_from_memory(&crop).unwrap().to_rgb8();
    assert_eq!(crop.dimensions(), (2, 2));
    assert!(crop.pixels().all(|pixel| pixel[0] > 200 && pixel[1] < 60));
    // Who waits for an answer is given no pictures.
    let answer = hearth.post("/run/all", &png(RED)).ok();
    assert_eq!(answer["predictions"].as_array().unwrap().len(), 2);
    let refused = hearth.post("/run/all?crop=0.1", &png(RED)).refusal(400);
    assert!(refused.contains("`crop` is no option"), "{refused}");
    // Its pictures would come back to it.
    let mut looped = service("loop", "model:detector", &output("photos/in"));
    looped["input"][0]["suffix"] = json!([".jpg"]);
    let answer = hearth.post("/system/services", looped.to_string().as_bytes());
    assert_eq!(answer.status, 400, "{}", answer.text());
    looped["model"]["crop"] = json!({"margin": 2});
    let answer = hearth.post("/system/services", looped.to_string().as_bytes());
    assert!(
        answer.text().contains("`model.crop.margin`"),
        "{}",
        answer.text()
    );
    hearth.stop();
}
