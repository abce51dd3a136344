//! Videos as jobs: a line for each frame, and the drawn video.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bucket::Bucket;
use crate::events::own_bucket;
use crate::hearth::{Hearth, Store, eventually, finish, kill, shared, skip};
use crate::pictures::picture_models;

/// Makes videos, where there is an ffmpeg.
struct Camera {
    program: PathBuf,
    folder: TempDir,
}

impl Camera {
    fn find() -> Option<Self> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = std::env::split_paths(&paths).map(|folder| folder.join("ffmpeg"));
        let Some(program) = programs.find(|program| program.is_file()) else {
            skip("there is no ffmpeg on the PATH: `make ffmpeg` fetches one");
            return None;
        };
        let folder = TempDir::new().unwrap();
        Some(Self { program, folder })
    }

    /// Returns red frames, ten a second.
    fn red(&self, n_frames: u32, suffix: &str) -> Vec<u8> {
        let source = format!("color=red:size=64x48:rate=10:duration={}", n_frames / 10);
        self.run(&["-f", "lavfi", "-i", &source, "-c:v", "mpeg4"], suffix)
    }

    fn run(&self, arguments: &[&str], suffix: &str) -> Vec<u8> {
        let file = self.folder.path().join(format!("out.{suffix}"));
        let mut command = Command::new(&self.program);
        command.args(["-v", "error", "-nostdin", "-y"]);
        let made = finish(command.args(arguments).arg(&file));
        assert!(made.status.success(), "{made:?}");
        fs::read(file).unwrap()
    }

    /// Returns when each frame of a video is shown, in seconds.
    fn times(&self, video: &[u8]) -> Vec<f64> {
        let file = self.folder.path().join("in");
        fs::write(&file, video).unwrap();
        let mut command = Command::new(&self.program);
        command.args(["-hide_banner", "-nostdin", "-i"]).arg(file);
        command.args([
            "-vf",
            "showinfo",
            "-fps_mode",
            "passthrough",
            "-f",
            "null",
            "-",
        ]);
        let shown = finish(&mut command);
        assert!(shown.status.success(), "{shown:?}");
        let said = String::from_utf8(shown.stderr).unwrap();
        let times = said.lines().filter_map(|line| line.split_once("pts_time:"));
        times
            .map(|(_, rest)| rest.split_whitespace().next().unwrap().parse().unwrap())
            .collect()
    }
}

/// A service of this model that reads `films/in` and writes to `films/out`.
fn create(hearth: &Hearth, model: &str, options: &Value) -> Bucket {
    let definition = json!({
        "name": "films", "image": format!("model:{model}"), "model": options,
        "input": [{"storage_provider": "minio", "path": "films/in"}],
        "output": [{"storage_provider": "minio", "path": "films/out"}],
    });
    let answer = hearth.post("/system/services", definition.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("x-hearth-warning"), None);
    own_bucket(hearth, "films")
}

/// Returns the lines about a video.
fn lines(bucket: &Bucket, name: &str) -> Vec<Value> {
    let (headers, text) = bucket.get(&format!("out/{name}.jsonl")).unwrap();
    assert_eq!(headers["content-type"], "application/jsonl");
    let text = String::from_utf8(text).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Returns the one job's state, once it has ended, and its log.
fn ended(hearth: &Hearth) -> (String, String) {
    let mut jobs = hearth.ended("films");
    let (job, state) = jobs.pop_first().unwrap();
    let log = hearth.get(&format!("/system/logs/films/{job}")).text();
    (state, log)
}

#[test]
fn a_video_becomes_a_line_for_each_frame_and_a_drawn_video() {
    let Some(camera) = Camera::find() else { return };
    let hearth = Hearth::start(picture_models(), &[]);
    let bucket = create(&hearth, "detector", &json!({"video": {"draw": true}}));
    for suffix in ["mp4", "avi", "mkv", "mov"] {
        let video = camera.red(20, suffix);
        let name = format!("red.{suffix}");
        bucket.put(&format!("in/{name}"), &video);
        let jobs = hearth.ended("films");
        assert!(jobs.values().all(|state| state == "Succeeded"), "{jobs:?}");
        let lines = lines(&bucket, &name);
        let times = camera.times(&video);
        assert_eq!((lines.len(), times.len()), (20, 20));
        for (number, (line, time)) in lines.iter().zip(&times).enumerate() {
            assert_eq!(line["frame"], number);
            assert!(
                (line["time"].as_f64().unwrap() - time).abs() < 1e-3,
                "{line}"
            );
            let found = &line["predictions"][0];
            assert_eq!(found["label"], "red", "{line}");
            let width = line["image"]["width"].as_f64().unwrap();
            assert_eq!((width, found["box"][0].as_f64().unwrap()), (64.0, 8.0));
        }
        let (headers, drawn) = bucket.get(&format!("out/{name}.mp4")).unwrap();
        assert_eq!(headers["content-type"], "video/mp4");
        let drawn = camera.times(&drawn);
        assert_eq!(drawn.len(), times.len());
        let near = |(one, other): (&f64, &f64)| (one - other).abs() < 0.01;
        assert!(drawn.iter().zip(&times).all(near), "{drawn:?}");
    }
    let (_, log) = ended(&hearth);
    assert!(log.contains("20 frames, the last one at 1.9 s"), "{log}");
    // Nothing of them is left where they were worked on.
    let left = fs::read_dir(hearth.data().path().join("videos")).unwrap();
    assert_eq!(left.count(), 0);
    hearth.stop();
}

#[test]
fn as_many_frames_a_second_are_looked_at_as_the_service_says() {
    let Some(camera) = Camera::find() else { return };
    let hearth = Hearth::start(picture_models(), &[]);
    let bucket = create(&hearth, "mean", &json!({"video": {"fps": 2}}));
    // What is inside decides, not the name.
    bucket.put("in/film", &camera.red(30, "mkv"));
    assert_eq!(ended(&hearth).0, "Succeeded");
    let lines = lines(&bucket, "film");
    let times = lines.iter().map(|line| line["time"].as_f64().unwrap());
    assert_eq!(times.collect::<Vec<_>>(), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
    assert!(bucket.get("out/film.mp4").is_none());
    hearth.stop();
}

#[test]
fn a_broken_video_fails_alone_and_says_where() {
    let Some(camera) = Camera::find() else { return };
    let hearth = Hearth::start(picture_models(), &[]);
    let bucket = create(&hearth, "mean", &json!({}));
    // Every frame the same size, so that the cut is known.
    let noise = "testsrc2=size=64x48:rate=10:duration=5";
    let whole = camera.run(&["-f", "lavfi", "-i", noise, "-c:v", "mjpeg"], "avi");
    bucket.put("in/whole.avi", &whole);
    bucket.put("in/cut.avi", &whole[..whole.len() / 2]);
    bucket.put("in/text.mp4", b"no video");
    let jobs = hearth.ended("films");
    let mut states = Vec::new();
    for (job, state) in &jobs {
        let log = hearth.get(&format!("/system/logs/films/{job}")).text();
        states.push((log, state.as_str()));
    }
    let said = |part: &str| {
        let found = states.iter().find(|(log, _)| log.contains(part));
        found.unwrap_or_else(|| panic!("{part}: {states:?}"))
    };
    assert_eq!(said("50 frames, the last one at 4.9 s").1, "Succeeded");
    let (log, state) = said("the video can't be read beyond frame ");
    assert_eq!(*state, "Failed");
    let (_, rest) = log.split_once("beyond frame ").unwrap();
    let frame: u32 = rest.split_once(' ').unwrap().0.parse().unwrap();
    assert!((15..35).contains(&frame), "{log}");
    assert_eq!(said("is no picture").1, "Failed", "{states:?}");
    assert!(bucket.get("out/cut.avi.jsonl").is_none());
    hearth.stop();
}

#[test]
fn a_video_is_looked_at_though_workers_die_and_the_gateway_is_killed() {
    let Some(camera) = Camera::find() else { return };
    let data = Arc::new(TempDir::new().unwrap());
    let start = || Hearth::start_on(picture_models(), Arc::clone(&data), &[], &[]);
    let mut hearth = start();
    let bucket = create(&hearth, "mean", &json!({}));
    bucket.put("in/long.mp4", &camera.red(2000, "mp4"));
    let frames_seen = |hearth: &Hearth, n: f64| {
        eventually("frames are looked at", || {
            (hearth.metric("infer_seconds_count", "mean") >= n).then_some(())
        });
    };
    let mut n_killed = 0;
    for n in [20.0, 60.0, 100.0] {
        frames_seen(&hearth, n);
        for worker in hearth.workers() {
            let comm = fs::read_to_string(format!("/proc/{worker}/comm")).unwrap_or_default();
            if comm.starts_with("hearth-worker") {
                kill(worker, Signal::KILL);
                n_killed += 1;
            }
        }
    }
    assert!(n_killed >= 3, "{n_killed}");
    kill(hearth.pid(), Signal::KILL);
    hearth.wait();
    let hearth = start();
    frames_seen(&hearth, 20.0);
    assert_eq!(ended(&hearth).0, "Succeeded");
    let bucket = own_bucket(&hearth, "films");
    let lines = lines(&bucket, "long.mp4");
    assert_eq!(lines.len(), 2000);
    assert!(lines.iter().enumerate().all(|(n, line)| line["frame"] == n));
    hearth.stop();
}

#[test]
fn without_ffmpeg_a_service_says_so_when_it_is_made() {
    let hearth = Hearth::start(picture_models(), &["--ffmpeg", "/nowhere/ffmpeg"]);
    let service = |suffix: &Value| {
        json!({
            "name": "films", "image": "model:mean",
            "input": [{"storage_provider": "minio", "path": "films/in", "suffix": suffix}],
        })
        .to_string()
    };
    // One that gets nothing else is not made.
    let answer = hearth.post("/system/services", service(&json!([".mp4"])).as_bytes());
    let sentence = answer.text();
    assert_eq!(answer.status, 400, "{sentence}");
    assert!(
        sentence.contains("not at /nowhere/ffmpeg (--ffmpeg)"),
        "{sentence}"
    );
    let answer = hearth.post("/system/services", service(&json!([])).as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    let warning = answer.header("x-hearth-warning").unwrap();
    assert!(
        warning.contains("videos need the program ffmpeg"),
        "{warning}"
    );
    hearth.stop();
}

#[test]
fn people_who_walk_about_are_counted() {
    let (Some(camera), Some(shared)) = (Camera::find(), shared()) else {
        return;
    };
    let store = Store::new().with_example("yolox-nano", &shared);
    let hearth = Hearth::start(store, &[]);
    let options = json!({"score": 0.3, "labels": ["person"], "video": {"fps": 1}});
    let bucket = create(&hearth, "yolox-nano", &options);
    bucket.put(
        "in/vtest.avi",
        &fs::read(shared.join("media/vtest.avi")).unwrap(),
    );
    let (state, log) = ended(&hearth);
    assert_eq!(state, "Succeeded", "{log}");
    let lines = lines(&bucket, "vtest.avi");
    assert!((79..=81).contains(&lines.len()), "{}", lines.len());
    let count = |line: &Value| line["predictions"].as_array().unwrap().len();
    let mean = lines.iter().map(count).sum::<usize>() as f64 / lines.len() as f64;
    // All 795 frames have 6.8 in the mean.
    assert!((6.3..=7.3).contains(&mean), "{mean}");
    drop(camera);
    hearth.stop();
}
