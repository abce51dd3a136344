//! Uploads that mean harm, or were spoilt: each is a job that fails by itself, with a sentence, and
//! whatever is beside it goes on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use image::{ImageFormat, RgbImage};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::events::own_bucket;
use crate::files::tree;
use crate::hearth::{Hearth, Store, eventually, kill, mention, serving, tiny};
use crate::objects::{external, provider};
use crate::pictures::{
    BLUE, GREEN, MEAN, RED, encode, forged_png, noise, picture_models, plain, png,
};
use crate::shell::Shell;

fn place(provider: &str, path: &str) -> Value {
    json!([{"storage_provider": provider, "path": path}])
}

/// A service of a model that reads one folder and writes to another.
fn finder(name: &str, input: &str, output: &Value) -> Value {
    json!({"name": name, "image": "model:mean", "input": place("minio", input), "output": output})
}

#[track_caller]
fn create(hearth: &Hearth, definition: &Value) {
    let answer = hearth.post("/system/services", definition.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// Knows which job of a service an upload became.
struct Watched<'a> {
    hearth: &'a Hearth,
    service: &'a str,
    known: BTreeSet<String>,
}

/// What became of a job.
#[derive(Debug)]
struct End {
    status: String,
    log: String,
}

impl<'a> Watched<'a> {
    fn new(hearth: &'a Hearth, service: &'a str) -> Self {
        Self {
            hearth,
            service,
            known: BTreeSet::new(),
        }
    }

    /// Returns the one job that came since the last time, or comes.
    #[track_caller]
    fn next(&mut self) -> String {
        let new = eventually("a job comes", || {
            let jobs = self.hearth.jobs(self.service).into_keys();
            let new: Vec<_> = jobs.filter(|job| !self.known.contains(job)).collect();
            (!new.is_empty()).then_some(new)
        });
        assert_eq!(new.len(), 1, "{}: {new:?}", self.service);
        self.known.extend(new.iter().cloned());
        new[0].clone()
    }

    /// Waits for the end of a job.
    fn end(&self, job: &str) -> End {
        let status = eventually("the job ends", || {
            let status = self.hearth.jobs(self.service).remove(job)?;
            ["Succeeded", "Failed"]
                .contains(&&*status)
                .then_some(status)
        });
        let log = self.log(job);
        End { status, log }
    }

    fn log(&self, job: &str) -> String {
        let path = format!("/system/logs/{}/{job}", self.service);
        self.hearth.get(&path).text()
    }
}

impl End {
    /// Checks that it failed, at once, and says why.
    #[track_caller]
    fn failed(&self, why: &str) {
        assert_eq!(self.status, "Failed", "expected {why:?}: {}", self.log);
        assert!(self.log.contains(why), "expected {why:?}: {}", self.log);
        assert!(!self.log.contains("attempt"), "{}", self.log);
    }

    #[track_caller]
    fn succeeded(&self) {
        assert_eq!(self.status, "Succeeded", "{}", self.log);
    }
}

/// Returns all keys of a bucket, as OSCAR's clients are told them: in JSON, which has every character.
fn keys(hearth: &Hearth, bucket: &str) -> BTreeSet<String> {
    let listed = hearth
        .get(&format!("/system/buckets/{bucket}?limit=1000"))
        .ok();
    let objects = listed["objects"].as_array().unwrap().iter();
    objects
        .map(|object| object["object_name"].as_str().unwrap().to_owned())
        .filter(|key| !key.ends_with('/'))
        .collect()
}

/// How many attempts of jobs failed that were not the last.
fn n_retried(hearth: &Hearth, service: &str) -> u64 {
    let key = format!("hearth_jobs_retried_total{{service=\"{service}\"}} ");
    let metrics = hearth.get("/metrics").text();
    let value = metrics.lines().find_map(|line| line.strip_prefix(&key));
    value.map_or(0, |value| value.parse().unwrap())
}

#[test]
fn a_key_is_a_name_whatever_is_in_it() {
    let long = "x".repeat(200);
    // Below `in`: the folder and the file, as the command line is given them.
    let places = [
        ("", "plain.png"),
        ("../", "up.png"),
        ("../../../../tmp/", "hearth-up.png"),
        ("./", "here.png"),
        ("/", "double.png"),
        ("//a//", "more.png"),
        ("ünï/", "漢字 🦀 e\u{301}.png"),
        ("%2e%2e/", "a%20b%2Fc%.png"),
        ("a+b c/", "+ +.png"),
        ("", "\u{1}\u{1b}[31mred\n\r\t\u{7f}.png"),
        ("", "\u{202e}gnp.png"),
        ("", "\"quoted' <&> \\.png"),
        ("", "$(touch harm) `touch harm` ; touch harm.png"),
        ("", "-rf"),
        ("", ".hearth-1-2"),
        ("", "..."),
        // Of 1,024 bytes, and of 1,014: the names of results are longer.
        (&format!("{long}/{long}/{long}/{long}/"), &"y".repeat(217)),
        (&format!("{long}/{long}/{long}/{long}/"), &"z".repeat(207)),
    ];
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let named = format!("results={}", root.display());
    let args = [
        "--allow-host-scripts",
        "--folder",
        &named,
        "--max-scripts",
        "2",
    ];
    let hearth = Hearth::start(picture_models(), &args);
    create(
        &hearth,
        &finder("objects", "photos/in", &place("minio", "results/out")),
    );
    create(
        &hearth,
        &finder("files", "photos/in", &place("folder.results", "b/out")),
    );
    create(
        &hearth,
        &json!({
            "name": "script", "image": "none", "input": place("minio", "photos/in"),
            "script": "test -s \"$INPUT_FILE_PATH\" && printf %s \"$STORAGE_OBJECT_KEY\"", "log_level": "ERROR",
        }),
    );
    let shell = Shell::at(&hearth);
    let put = |target: &str, name: &str| {
        fs::rename(shell.path("red.png"), shell.path(name)).unwrap();
        shell.says(&["put", "--", &format!("./{name}"), target]);
        fs::rename(shell.path(name), shell.path("red.png")).unwrap();
    };
    let services = ["objects", "files", "script"];
    let mut watched = services.map(|service| Watched::new(&hearth, service));
    let mut uploads = Vec::new();
    for (folder, name) in places {
        put(&format!("photos/in/{folder}"), name);
        let jobs = watched.each_mut().map(Watched::next);
        uploads.push((format!("{folder}{name}"), jobs));
    }
    let (mut objects, mut written) = (BTreeSet::new(), BTreeSet::new());
    for (name, [object, file, script]) in &uploads {
        let key = format!("in/{name}");
        let end = watched[0].end(object);
        match key.len() {
            1024 => end.failed("the key has 1030 bytes, expected 1 to 1024"),
            _ => {
                end.succeeded();
                objects.insert(format!("out/{name}.json"));
            }
        }
        // As a path the same name is one, or it is refused.
        let end = watched[1].end(file);
        let is_path = name.split('/').all(|part| {
            !["", ".", ".."].contains(&part) && part.len() <= 250 && !part.starts_with(".hearth-")
        });
        if key.len() == 1024 {
            end.failed("it is too long");
        } else if is_path {
            end.succeeded();
            written.insert(format!("b/out/{name}.json"));
        } else {
            end.failed("can't be the name of a file or folder");
        }
        let end = watched[2].end(script);
        end.succeeded();
        assert_eq!(end.log, key);
    }
    assert_eq!(keys(&hearth, "results"), objects);
    assert_eq!(tree(&root).into_keys().collect::<BTreeSet<_>>(), written);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    // What begins elsewhere is in no folder that anybody reads.
    for target in ["photos//", "photos/..", "photos/IN", "photos/in."] {
        put(target, "a.png");
    }
    for key in ["/a.png", "../a.png", "IN/a.png", "in./a.png"] {
        assert!(keys(&hearth, "photos").contains(key), "{key}");
    }
    assert_eq!(hearth.jobs("objects").len(), uploads.len());
    hearth.stop();
}

#[test]
fn what_is_no_picture_fails_alone_and_at_once() {
    const MAX_BODY: usize = 1 << 20;
    let red = |format| encode(&plain(64, 64, RED), format);
    let whole = encode(&noise(200, 200), ImageFormat::Jpeg);
    let truncated = &whole[..whole.len() / 2];
    let png = encode(&noise(200, 200), ImageFormat::Png);
    // Of few bytes and many pixels.
    let bomb = encode(&RgbImage::new(2000, 2000), ImageFormat::Png);
    let avi = [b"RIFF\x10\0\0\0AVI LIST", &[0; 100][..]].concat();
    let spoilt: [(&str, &[u8], &str); 11] = [
        ("empty.jpg", b"", "picture"),
        ("empty", b"", "picture"),
        ("text.jpg", b"<html>not found</html>", "picture"),
        ("truncated.jpg", truncated, "the Jpeg can't be decoded"),
        (
            "truncated.png",
            &png[..png.len() / 2],
            "the Png can't be decoded",
        ),
        ("head.jpg", &whole[..20], "the Jpeg header can't be read"),
        (
            "bomb.png",
            &bomb,
            "the picture has 2000 × 2000 pixels, expected at most 1000000",
        ),
        ("forged.png", &forged_png(60_000, 60_000), "pixels"),
        (
            "large.png",
            &vec![7; MAX_BODY + 1],
            "`in/large.png` has 1048577 bytes, expected at most 1048576",
        ),
        ("text.mp4", b"not found", "picture"),
        ("broken.avi", &avi, "the video can't be read"),
    ];
    let args = [
        "--max-body",
        &MAX_BODY.to_string(),
        "--max-pixels",
        "1000000",
    ];
    let hearth = Hearth::start(picture_models(), &args);
    create(
        &hearth,
        &finder("one", "photos/in", &place("minio", "results/out")),
    );
    let photos = own_bucket(&hearth, "photos");
    let mut watched = Watched::new(&hearth, "one");
    let mut jobs = Vec::new();
    let mut results = BTreeSet::new();
    for (name, content, why) in spoilt {
        photos.put(&format!("in/{name}"), content);
        jobs.push((name.to_owned(), watched.next(), Some(why)));
        let beside = format!("beside-{name}");
        photos.put(&format!("in/{beside}"), &red(ImageFormat::Jpeg));
        results.insert(format!("out/{beside}.json"));
        jobs.push((beside, watched.next(), None));
    }
    for (_, job, why) in jobs {
        match why {
            Some(why) => watched.end(&job).failed(why),
            None => watched.end(&job).succeeded(),
        }
    }
    assert_eq!(keys(&hearth, "results"), results);
    assert_eq!(n_retried(&hearth, "one"), 0);
    // Nobody's worker has died of it.
    assert!(!hearth.log().contains("ERROR"), "{}", hearth.log());
    hearth.stop();
}

#[test]
fn what_changed_before_its_job_is_said_and_the_change_has_a_job_of_its_own() {
    let hearth = Hearth::start(picture_models(), &[]);
    create(
        &hearth,
        &finder("one", "photos/in", &place("minio", "results/out")),
    );
    let photos = own_bucket(&hearth, "photos");
    let mut watched = Watched::new(&hearth, "one");
    // While there is no model its jobs wait.
    fs::remove_dir_all(hearth.store().path().join("mean")).unwrap();
    eventually("the model is gone", || {
        (hearth.post("/run/one", &png(RED)).status == 503).then_some(())
    });
    let mut put = |key: &str, content: &[u8]| {
        photos.put(key, content);
        watched.next()
    };
    let stays = put("in/stays.png", &png(RED));
    let before = put("in/over.png", &png(RED));
    let gone = put("in/gone.png", &png(RED));
    let again = put("in/again.png", &png(RED));
    eventually("they wait", || {
        hearth.log().contains("jobs wait").then_some(())
    });
    let after = put("in/over.png", &png(BLUE));
    let last = put("in/over.png", &png(GREEN));
    photos.delete("in/gone.png");
    photos.delete("in/again.png");
    let new = put("in/again.png", b"no picture");
    hearth.store().put("mean", 1, MEAN, &[tiny("picture_mean")]);

    watched.end(&stays).succeeded();
    watched.end(&last).succeeded();
    for (job, key) in [(&before, "over"), (&after, "over"), (&again, "again")] {
        let why = format!(
            "`in/{key}.png` changed since it was announced: what is there now is another job's"
        );
        watched.end(job).failed(&why);
    }
    watched
        .end(&gone)
        .failed("`in/gone.png` is not in the bucket `photos` any more");
    watched.end(&new).failed("picture");
    let results = own_bucket(&hearth, "results");
    let (headers, found) = results.get("out/over.png.json").unwrap();
    assert_eq!(headers["x-amz-meta-hearth-job"], last.as_str());
    let found: Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(found["predictions"][0]["label"], "green");
    let expected = ["out/over.png.json", "out/stays.png.json"].map(str::to_owned);
    assert_eq!(keys(&hearth, "results"), BTreeSet::from(expected));
    assert_eq!(n_retried(&hearth, "one"), 0);
    hearth.stop();
}

// === reading ===

/// A way to a store on which the bytes of some objects break off.
struct Breaking {
    address: SocketAddr,
    is_breaking: Arc<AtomicBool>,
}

impl Breaking {
    /// Breaks off objects whose keys have `cut` in them.
    fn before(store: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let is_breaking = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&is_breaking);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let flag = Arc::clone(&flag);
                // Who breaks off is not missed.
                std::thread::spawn(move || pass(client, store, &flag).ok());
            }
        });
        Self {
            address,
            is_breaking,
        }
    }
}

/// Passes one request on, and its answer back.
fn pass(mut client: TcpStream, store: SocketAddr, is_breaking: &AtomicBool) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<u64>().unwrap())
    });
    let mut server = TcpStream::connect(store)?;
    let (first, rest) = head.split_once("\r\n").unwrap();
    write!(server, "{first}\r\nconnection: close\r\n{rest}")?;
    io::copy(&mut reader.take(length.unwrap_or(0)), &mut server)?;
    let is_cut = first.starts_with("GET ") && first.contains("cut");
    let most = match is_cut && is_breaking.load(Ordering::Relaxed) {
        // The head of the answer, and some of the object.
        true => 2000,
        false => u64::MAX,
    };
    io::copy(&mut server.take(most), &mut client)?;
    Ok(())
}

#[test]
fn an_object_that_breaks_off_is_tried_again_while_others_go_on() {
    let store = Hearth::start(Store::new(), &[]);
    let (endpoint, access_key, secret_key) = provider(&store);
    let way = Breaking::before(endpoint.strip_prefix("http://").unwrap().parse().unwrap());
    let endpoint = format!("http://{}", way.address);
    let env = external([&endpoint, &access_key, &secret_key]);
    let data = Arc::new(TempDir::new().unwrap());
    let args = ["--listing-interval-s", "1"];
    let hearth = Hearth::start_on(picture_models(), data, &args, &env);
    create(
        &hearth,
        &finder("one", "photos/in", &place("minio", "results/out")),
    );
    let photos = own_bucket(&store, "photos");
    let mut watched = Watched::new(&hearth, "one");
    let picture = encode(&noise(64, 64), ImageFormat::Png);
    photos.put("in/cut.png", &picture);
    let cut = watched.next();
    eventually("it broke off", || {
        let log = watched.log(&cut);
        log.contains("(attempt 1 of 5; the next in 2 s)").then(|| {
            assert!(
                log.contains("`in/cut.png` did not come to its end"),
                "{log}"
            );
        })
    });
    photos.put("in/beside.png", &picture);
    let beside = watched.next();
    watched.end(&beside).succeeded();
    // Nobody had to wait for the store.
    assert!(!hearth.log().contains("jobs wait"), "{}", hearth.log());
    way.is_breaking.store(false, Ordering::Relaxed);
    watched.end(&cut).succeeded();
    hearth.stop();
}

// === a full disk ===

/// Returns a command that becomes this one with a small disk in this folder, which nobody else sees; or
/// says that nobody can here.
fn on_small_disk(inner: &Command, folder: &Path) -> Option<Command> {
    // `unshare`, which then is root in a namespace of its own where it is not.
    let how = match rustix::process::getuid().is_root() {
        true => "-m",
        false => "-Urm",
    };
    let small = |program: &Path| {
        let mut command = Command::new("unshare");
        let script =
            "mount -t tmpfs -o size=32m small \"$0\" && mkdir \"$0/folder\" && exec \"$@\"";
        command
            .args([how, "sh", "-c", script])
            .arg(folder)
            .arg(program);
        command
    };
    let tried = small(Path::new("true")).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        mention("nobody may mount a small disk here, by `unshare` and `mount`");
        return None;
    }
    let mut command = small(Path::new(inner.get_program()));
    command.args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Some(command)
}

/// Fills a disk but for so many bytes.
fn fill(disk: &Path, left: u64) {
    let mut ballast = File::options()
        .create(true)
        .append(true)
        .open(disk.join("ballast"))
        .unwrap();
    let block = [0; 4096];
    loop {
        let known = rustix::fs::statvfs(disk).unwrap();
        if known.f_bavail * known.f_frsize <= left || ballast.write_all(&block).is_err() {
            return;
        }
    }
}

#[test]
fn what_finds_no_room_on_the_disk_fails_alone() {
    let (store, data) = (picture_models(), Arc::new(TempDir::new().unwrap()));
    let pictures = TempDir::new().unwrap();
    let input = pictures.path().join("bkt/in");
    fs::create_dir_all(&input).unwrap();
    let folders = [
        format!("pictures={}", pictures.path().display()),
        format!("disk={}", data.path().join("folder").display()),
    ];
    let args = [
        "--listing-interval-s",
        "1",
        "--folder",
        &folders[0],
        "--folder",
        &folders[1],
    ];
    let inner = serving(&store, data.path(), &args, &[]);
    let Some(command) = on_small_disk(&inner, data.path()) else {
        return;
    };
    let hearth = Hearth::start_command(command, store, Arc::clone(&data), None);
    for (name, output) in [
        ("own", place("minio", "results/out")),
        ("folder", place("folder.disk", "bkt/out")),
    ] {
        create(
            &hearth,
            &json!({
                "name": name, "image": "model:detector", "model": {"draw": "png"},
                "input": place("folder.pictures", "bkt/in"), "output": output,
            }),
        );
    }
    let mut watched = ["own", "folder"].map(|service| Watched::new(&hearth, service));
    let large = encode(&noise(1200, 1200), ImageFormat::Png);
    let ends_of = |watched: &mut [Watched<'_>; 2], name: &str, content: &[u8]| {
        fs::write(pictures.path().join(name), content).unwrap();
        // Whole at once, since it is looked for.
        fs::rename(pictures.path().join(name), input.join(name)).unwrap();
        watched.each_mut().map(|watched| {
            let job = watched.next();
            watched.end(&job)
        })
    };
    let disk = Path::new("/proc")
        .join(hearth.pid().to_string())
        .join("root")
        .join(data.path().strip_prefix("/").unwrap());
    fill(&disk, 2 << 20);
    let [own, folder] = ends_of(&mut watched, "large.png", &large);
    own.failed("minio.default: the disk is full");
    folder.failed("No space left on device");
    let [own, folder] = ends_of(&mut watched, "small.png", &png(RED));
    own.succeeded();
    folder.succeeded();
    let results = own_bucket(&hearth, "results");
    results.put("small", b"small");

    // When nothing at all can be written, it is there, and says so.
    fill(&disk, 0);
    assert_eq!(results.try_put("some", &[0; 1 << 16]), 507);
    assert_eq!(hearth.post("/run/own", &png(RED)).status, 200);
    let answer = hearth.post("/job/own", &large);
    assert_eq!(answer.status, 503, "{}", answer.text());
    fs::remove_file(disk.join("ballast")).unwrap();
    let begun = hearth.post("/job/own", &png(RED));
    assert_eq!(begun.status, 201, "{}", begun.text());
    let job = watched[0].next();
    watched[0].end(&job).succeeded();
    let [own, folder] = ends_of(&mut watched, "again.png", &large);
    own.succeeded();
    folder.succeeded();
    hearth.stop();
}

// === the end of the gateway ===

#[test]
fn a_job_that_the_gateway_ends_with_each_time_fails_after_five() {
    let data = Arc::new(TempDir::new().unwrap());
    let start = || {
        Hearth::start_on(
            picture_models(),
            Arc::clone(&data),
            &["--allow-host-scripts"],
            &[],
        )
    };
    let mut hearth = start();
    create(
        &hearth,
        &json!({"name": "slow", "image": "none", "script": "sleep 1000"}),
    );
    create(&hearth, &json!({"name": "one", "image": "model:mean"}));
    let begun = hearth.post("/job/slow", b"x");
    let slow = begun.header("x-job-name").unwrap().to_owned();
    for attempt in 1..=2 {
        assert_eq!(hearth.post("/job/one", &png(RED)).status, 201);
        assert_eq!(hearth.ended("one").len(), attempt);
        eventually("it runs", || {
            (hearth.jobs("slow")[&slow] == "Running").then_some(())
        });
        kill(hearth.pid(), Signal::KILL);
        hearth.wait();
        if attempt == 2 {
            // As if it had been so twice more, which takes minutes.
            let ledger = rusqlite::Connection::open(data.path().join("jobs.db")).unwrap();
            ledger
                .execute("update jobs set attempt = 4 where name = ?1", [&slow])
                .unwrap();
        }
        hearth = start();
    }
    let watched = Watched::new(&hearth, "slow");
    let end = watched.end(&slow);
    assert_eq!(end.status, "Failed");
    let said = "the gateway was ended while this was in work\n";
    assert!(
        end.log.starts_with(said) && end.log.contains("(attempt 1 of 5; the next in 2 s)"),
        "{}",
        end.log
    );
    let mut ended = hearth.ended("one").into_values();
    assert!(ended.all(|status| status == "Succeeded"));
    hearth.stop();
}
