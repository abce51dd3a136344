//! Script services, run as processes of this machine: the contract, and scripts that mean harm.

use std::fs;
use std::io::{Cursor, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gateway_oscar::Fdl;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use zip::ZipArchive;

use crate::hearth::{Answer, Hearth, Store, command, eventually, kill, skip, sources};
use crate::pictures::{RED, png};

const HOST: &str = "--allow-host-scripts";
/// Debian's own folders: others may come first on a machine, with other programs of these names.
const PATH: &str = "/usr/bin:/bin:/usr/games";

fn hearth(args: &[&str]) -> Hearth {
    Hearth::start(
        Store::new(),
        &[&[HOST, "--max-scripts", "4"], args].concat(),
    )
}

/// A script service; its name is in the environment of all its processes.
fn script(name: &str, text: &str) -> Value {
    json!({"name": name, "image": "debian", "script": text, "environment": {"variables": {"MARK": mark(name)}}})
}

/// Of this test process alone: tests run beside each other, also those of other checkouts.
fn mark(name: &str) -> String {
    format!(
        "{name}-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    )
}

/// Returns the processes of a service that are alive.
fn left(name: &str) -> Vec<u32> {
    let mark = format!("MARK={}", mark(name));
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
    })
    .collect()
}

impl Hearth {
    #[track_caller]
    fn take_in(&self, definition: &Value) {
        let answer = self.post("/system/services", definition.to_string().as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    fn call(&self, name: &str, body: &[u8]) -> Answer {
        self.post(&format!("/run/{name}"), body)
    }

    /// Runs a script once, in a service of its own.
    fn once(&self, name: &str, text: &str) -> Answer {
        self.take_in(&script(name, text));
        self.call(name, b"")
    }

    /// Waits for a job's end, and returns its status and log.
    fn job(&self, name: &str, body: &[u8]) -> (String, String) {
        let answer = self.post(&format!("/job/{name}"), body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        let job = answer.header("x-job-name").unwrap().to_owned();
        let status = eventually("the job ends", || {
            let status = self.status(name, &job);
            ["Succeeded", "Failed"]
                .contains(&status.as_str())
                .then_some(status)
        });
        let log = self.get(&format!("/system/logs/{name}/{job}")).text();
        (status, log)
    }

    fn status(&self, name: &str, job: &str) -> String {
        let jobs = self.get(&format!("/system/logs/{name}")).ok();
        jobs["jobs"][job]["status"].as_str().unwrap().to_owned()
    }

    /// Checks that nothing of a service's scripts is left: no process, no file.
    #[track_caller]
    fn nothing_is_left(&self, name: &str) {
        assert_eq!(left(name), [0_u32; 0]);
        assert_eq!(folders(self.data().path()), 0);
    }
}

fn folders(data: &Path) -> usize {
    fs::read_dir(data.join("scripts")).unwrap().count()
}

/// Reads a service of `examples/services` as clients do: the script's text in the place of its name.
fn example(name: &str) -> Value {
    let folder = sources().join("examples/services").join(name);
    let yaml = fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
    let fdl = Fdl::parse(&yaml).unwrap();
    let mut service = fdl.functions.oscar[0].service.clone();
    service.script = fs::read_to_string(folder.join(&service.script)).unwrap();
    let variables = &mut service.environment.variables;
    variables.insert("PATH".to_owned(), PATH.to_owned());
    serde_json::from_str(&service.to_json()).unwrap()
}

/// Whether programs are installed that a script needs; says else that the test is skipped.
fn are_there(programs: &[&str]) -> bool {
    let is_there = |program: &&&str| {
        PATH.split(':')
            .any(|folder| Path::new(folder).join(program).exists())
    };
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !is_there(program))
        .collect();
    if !missing.is_empty() {
        skip(&format!("{missing:?} not installed"));
    }
    missing.is_empty()
}

fn decoded(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    BASE64_STANDARD.decode(&answer.body).unwrap()
}

// === the examples ===

#[test]
fn a_cow_says_what_it_is_told() {
    if !are_there(&["cowsay", "jq"]) {
        return;
    }
    let hearth = hearth(&[]);
    let mut cow = example("cowsay");
    hearth.take_in(&cow);
    let answer = hearth.call("cowsay", br#"{"message": "hello, hearth"}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(
        answer.text().contains("< hello, hearth >"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("x-exit-code"), Some("0"));
    // As OSCAR's command line sends it.
    let body = BASE64_STANDARD.encode(r#"{"message": "moo"}"#);
    assert!(
        hearth
            .call("cowsay", body.as_bytes())
            .text()
            .contains("< moo >")
    );
    // Its log level leaves the cow alone in the log.
    let (status, log) = hearth.job("cowsay", br#"{"message": "later"}"#);
    assert_eq!(status, "Succeeded");
    assert!(log.starts_with(" _"), "{log}");
    assert!(log.contains("< later >"), "{log}");

    cow["name"] = json!("cowsay-text");
    cow["environment"]["variables"]["INPUT_TYPE"] = json!("text");
    hearth.take_in(&cow);
    assert!(
        hearth
            .call("cowsay-text", b"just words")
            .text()
            .contains("< just words >")
    );
}

#[test]
fn a_picture_is_grayed() {
    if !are_there(&["convert"]) {
        return;
    }
    let hearth = hearth(&[]);
    hearth.take_in(&example("grayify"));
    let picture = png(RED);
    for body in [
        picture.clone(),
        BASE64_STANDARD.encode(&picture).into_bytes(),
    ] {
        let gray = decoded(&hearth.call("grayify", &body));
        let gray = image::load_from_memory(&gray).unwrap().to_rgb8();
        assert_eq!(gray.dimensions(), (8, 8));
        let [red, green, blue] = gray.get_pixel(3, 3).0;
        assert!(
            red == green && green == blue && red < 200,
            "{red} {green} {blue}"
        );
    }
    // Where it is kept is said: one filter takes it.
    let (status, log) = hearth.job("grayify", &picture);
    assert_eq!(status, "Succeeded");
    assert!(
        log.contains("INFO: kept at minio.default grayify/out/gray.png"),
        "{log}"
    );
}

#[test]
fn several_results_are_an_archive() {
    let hearth = hearth(&[]);
    hearth.take_in(&example("simple-test"));
    let archive = decoded(&hearth.call("simple-test", b"not base64!"));
    let mut archive = ZipArchive::new(Cursor::new(archive)).unwrap();
    let mut read = |name: &str| {
        let mut text = String::new();
        archive
            .by_name(name)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    };
    assert_eq!(read("about.txt"), "hello\n11\n");
    assert_eq!(read("input"), "not base64!");
    let (status, log) = hearth.job("simple-test", b"not base64!");
    assert_eq!(status, "Succeeded");
    assert!(log.contains("INFO: 11 bytes came, as event-file-"), "{log}");
    assert!(
        log.contains("simple-test was called with event-file-"),
        "{log}"
    );
    assert!(log.contains("INFO: result about.txt, 9 bytes"), "{log}");
}

// === the contract ===

#[test]
fn a_script_gets_what_the_contract_says_and_nothing_of_the_gateway() {
    let secret = "do-not-tell-anybody";
    let env = [
        ("OSCAR_USERNAME", "admin"),
        ("OSCAR_PASSWORD", secret),
        ("HEARTH_SECRET", secret),
    ];
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = Hearth::start_on(Store::new(), data, &[HOST], &env);
    let authorization = format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("admin:{secret}"))
    );
    let post = |path: &str, body: &[u8]| {
        hearth.send(
            hearth
                .request("POST", path)
                .header("authorization", &authorization),
            body,
        )
    };
    let mut definition = script(
        "curious",
        "env\ncat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'\ncat /proc/*/cmdline | tr '\\0' ' '\n\
         cat $DATA/services.db\nls -l /proc/self/fd\n",
    );
    let path = hearth.data().path().to_str().unwrap().to_owned();
    definition["environment"]["variables"]["DATA"] = json!(path);
    definition["environment"]["secrets"] = json!({"KEY": "of the service"});
    let answer = post("/system/services", definition.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    let answer = post(
        "/run/curious",
        b"{\"httpMethod\": \"GET\", \"queryStringParameters\": {\"q\": \"1\"}}",
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = answer.text();
    for expected in [
        "OSCAR_SERVICE_NAME=curious",
        "OSCAR_SERVICE_TOKEN=",
        "TMP_OUTPUT_DIR=/",
        "INPUT_FILE_PATH=/",
        "TMP_INPUT_DIR=/",
        "EVENT={\"httpMethod\"",
        "KEY=of the service",
        "CONT_VAR_q=1",
        "JOB_UUID=",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains(secret), "{said}");
    assert!(!said.contains("SQLite format"), "{said}");
    let descriptors = said.lines().filter(|line| line.contains(" -> "));
    // The three, and the folder that is listed.
    assert_eq!(descriptors.count(), 4, "{said}");
    // The database of the services is not there for it at all.
    assert!(said.contains("services.db: "), "{said}");
}

#[test]
fn a_script_says_things_by_the_names_of_its_streams() {
    let hearth = hearth(&[]);
    let text = "echo one > /dev/stdout; echo two > /dev/stderr; echo three | tee /dev/stderr";
    let said = hearth.once("named-streams", text).text();
    assert_eq!(said, "one\ntwo\nthree\nthree\n");
}

#[test]
fn the_exit_code_is_kept_and_shown() {
    let hearth = hearth(&[]);
    let answer = hearth.once("fails", "echo half; echo bad >&2; exit 3");
    assert_eq!(answer.header("x-exit-code"), Some("3"));
    let sentence = answer.refusal(502);
    assert_eq!(
        sentence,
        "the script ended with exit code 3; it said: half\nbad"
    );
    let (status, log) = hearth.job("fails", b"");
    assert_eq!(status, "Failed");
    assert!(
        log.ends_with("half\nbad\nERROR: the script ended with exit code 3\n"),
        "{log}"
    );
}

#[test]
fn what_is_only_named_is_not_fetched() {
    let hearth = hearth(&[]);
    let event = json!({"Records": [{"eventSource": "minio:s3", "eventTime": "now",
        "s3": {"bucket": {"name": "b"}, "object": {"key": "in/a+b"}}}]});
    let event = event.to_string();
    let text = "echo $STORAGE_OBJECT_KEY at $EVENT_TIME, $INPUT_FILE_PATH.";
    let mut definition = script("by-reference", text);
    definition["file_stage_in"] = json!(true);
    hearth.take_in(&definition);
    assert_eq!(
        hearth.call("by-reference", event.as_bytes()).text(),
        "in/a b at now, .\n"
    );
    hearth.take_in(&script("by-content", text));
    let sentence = hearth.call("by-content", event.as_bytes()).refusal(400);
    assert!(
        sentence.contains("`in/a b` in the bucket `b` is in no input"),
        "{sentence}"
    );
}

#[test]
fn without_a_place_for_scripts_they_are_refused_with_the_reason() {
    let hearth = Hearth::start(Store::new(), &[]);
    let definition = script("no", "true").to_string();
    let refused = |answer: &Answer| {
        assert_eq!(answer.status, 400, "{}", answer.text());
        answer.text()
    };
    let reason = refused(&hearth.post("/system/services", definition.as_bytes()));
    assert!(reason.contains("--allow-host-scripts"), "{reason}");
    assert!(reason.contains("OSCAR_PASSWORD"), "{reason}");
    drop(hearth);

    // A client alone does not count.
    let folder = TempDir::new().unwrap();
    let docker = folder.path().join("docker");
    fs::write(
        &docker,
        "#!/bin/sh\necho Client: here\necho 'Cannot connect to the daemon' >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().to_str().unwrap();
    let env = [("OSCAR_PASSWORD", "secret"), ("PATH", path)];
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = Hearth::start_on(Store::new(), data, &[], &env);
    let authorization = format!("Basic {}", BASE64_STANDARD.encode("admin:secret"));
    let request = hearth
        .request("POST", "/system/services")
        .header("authorization", &authorization);
    let reason = refused(&hearth.send(request, definition.as_bytes()));
    assert!(
        reason.contains("docker: Cannot connect to the daemon"),
        "{reason}"
    );
    assert!(reason.contains("podman: not installed"), "{reason}");
}

/// A stand-in for a client and its daemon, which none of the machines that run tests has: what is
/// shown is that the gateway finds and tells them what it has to, not that containers hold anything.
#[test]
fn where_a_daemon_answers_scripts_run_in_containers() {
    let folder = TempDir::new().unwrap();
    let docker = folder.path().join("docker");
    let client = r#"#!/bin/sh
echo "$@" >> "$0.log"
case $1 in
    run)
        for word; do
            case $word in --workdir=*) cd "${word#--workdir=}" ;; esac
            last=$word
        done
        PATH=/usr/bin:/bin
        exec /bin/sh -c "$last" ;;
    inspect) echo false ;;
esac
"#;
    fs::write(&docker, client).unwrap();
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().to_str().unwrap();
    let env = [("OSCAR_PASSWORD", "secret"), ("PATH", path)];
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = Hearth::start_on(Store::new(), data, &[], &env);
    let authorization = format!("Basic {}", BASE64_STANDARD.encode("admin:secret"));
    let post = |path: &str, body: &[u8]| {
        let request = hearth.request("POST", path);
        hearth.send(request.header("authorization", &authorization), body)
    };
    let mut definition = script(
        "contained",
        "echo $KEY; cp $INPUT_FILE_PATH $TMP_OUTPUT_DIR/a",
    );
    definition["cpu"] = json!("500m");
    definition["environment"]["secrets"] = json!({"KEY": "it's secret"});
    let answer = post("/system/services", definition.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("x-hearth-warning"), None);
    assert_eq!(decoded(&post("/run/contained", b"hello!")), b"hello!");
    let told = fs::read_to_string(folder.path().join("docker.log")).unwrap();
    let verbs: Vec<_> = told
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(verbs, ["info", "run", "inspect", "rm"]);
    for expected in ["--cpus=0.5", "--memory=268435456", "-- debian -c "] {
        assert!(told.contains(expected), "{told}");
    }
    assert!(!told.contains("secret"), "{told}");
    assert_eq!(folders(hearth.data().path()), 0);
}

// === harm ===

#[test]
fn a_script_that_never_ends_is_ended() {
    let hearth = hearth(&[]);
    let mut endless = script("endless", "while :; do sleep 1000; done");
    hearth.take_in(&endless);
    let request = hearth
        .request("POST", "/run/endless")
        .header("x-request-timeout-ms", "500");
    let sentence = hearth.send(request, ()).refusal(504);
    assert_eq!(sentence, "the script did not end within 0.5 s");
    eventually("it ends", || left("endless").is_empty().then_some(()));

    endless["name"] = json!("endless-job");
    endless["annotations"] = json!({"hearth/timeout-s": "1"});
    hearth.take_in(&endless);
    let (status, log) = hearth.job("endless-job", b"");
    assert_eq!(status, "Failed");
    assert!(
        log.contains("ERROR: the script did not end within 1 s, and was ended"),
        "{log}"
    );
    hearth.nothing_is_left("endless");
}

#[test]
fn a_script_that_forks_without_end_is_ended() {
    let hearth = hearth(&[]);
    for (name, text) in [
        ("bomb", "bomb() { bomb | bomb & }; bomb; sleep 1000"),
        ("comet", "comet() { comet & exit; }; comet"),
        ("litter", "while :; do sleep 1000 & done"),
    ] {
        hearth.take_in(&script(name, text));
        let request = hearth
            .request("POST", &format!("/run/{name}"))
            .header("x-request-timeout-ms", "20000");
        let answer = hearth.send(request, ());
        // Who ends while its children go on has ended, and they with it.
        if name != "comet" {
            let sentence = answer.refusal(502);
            assert!(
                sentence.contains("had 256 processes, as many as it may"),
                "{sentence}"
            );
        }
        hearth.nothing_is_left(name);
        assert_eq!(
            hearth.once(&format!("after-{name}"), "echo fine").text(),
            "fine\n"
        );
    }
}

#[test]
fn what_a_script_leaves_in_the_background_ends_with_it() {
    let hearth = hearth(&[]);
    let text = "(setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 </dev/null &)\n(sleep 1000 &)\necho done";
    let answer = hearth.once("daemon", text);
    assert_eq!(answer.text(), "done\n");
    hearth.nothing_is_left("daemon");
}

#[test]
fn shared_memory_of_a_script_ends_with_it() {
    if !are_there(&["perl"]) {
        return;
    }
    let hearth = hearth(&[]);
    let key = std::process::id();
    let text = format!(
        "perl -e 'defined(shmget({key}, 1 << 20, 01600)) or die qq($!\n); print qq(made\n)'"
    );
    assert_eq!(hearth.once("sharer", &text).text(), "made\n");
    let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let mut keys = segments
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    assert!(!keys.any(|other| other == key.to_string()), "{segments}");
}

#[test]
fn a_script_that_fills_the_disk_is_ended() {
    if !are_there(&["perl"]) {
        return;
    }
    let hearth = hearth(&[]);
    for (name, text) in [
        ("one-file", "cat /dev/zero > big"),
        (
            "many-files",
            "i=0; while :; do i=$((i+1)); head -c 1000000 /dev/zero > f$i; done",
        ),
        (
            "no-name",
            "exec 3> gone; rm gone; cat /dev/zero >&3; sleep 1000",
        ),
        (
            "many-names",
            "exec perl -e 'for (;;) { open F, \">n\" . $i++; close F }'",
        ),
        (
            "deep",
            "exec perl -e 'for (;;) { mkdir \"d\"; chdir \"d\" }'",
        ),
        ("shared-memory", "cat /dev/zero > /dev/shm/big"),
        ("results", "head -c 2000000 /dev/zero > $TMP_OUTPUT_DIR/a"),
    ] {
        let mut definition = script(name, text);
        definition["ephemeral_storage_request"] = json!("20Mi");
        hearth.take_in(&definition);
        let answer = hearth.call(name, b"");
        if name == "results" {
            // Within its limit.
            assert_eq!(decoded(&answer).len(), 2_000_000);
        } else {
            let sentence = answer.refusal(502);
            assert!(sentence.contains("scratch folder"), "{name}: {sentence}");
        }
        hearth.nothing_is_left(name);
    }
    // There is nowhere else to write to.
    let answer = hearth.once("elsewhere", "for d in / /var/tmp /run /home $HOME/..; do (echo x > $d/hearth-test) 2>/dev/null && echo $d; done; echo end");
    let said = answer.text();
    let written: Vec<_> = said.lines().filter(|line| line.starts_with('/')).collect();
    assert!(said.ends_with("end\n") && written.is_empty(), "{said}");
}

#[test]
fn a_script_that_eats_memory_is_ended() {
    if !are_there(&["perl"]) {
        return;
    }
    let hearth = hearth(&[]);
    for (name, text) in [
        (
            "eats",
            "exec perl -e '$x = \"x\" x (500 << 20); sleep 1000'",
        ),
        (
            "eats-together",
            "for i in 1 2 3 4 5 6 7 8; do perl -e '$x = \"x\" x (20 << 20); sleep 1000' & done; wait",
        ),
    ] {
        let mut definition = script(name, text);
        definition["memory"] = json!("64Mi");
        hearth.take_in(&definition);
        let request = hearth
            .request("POST", &format!("/run/{name}"))
            .header("x-request-timeout-ms", "5000");
        let answer = hearth.send(request, ());
        let status = answer.status.as_u16();
        // Where there are no control groups, what is too much for one process fails in it.
        assert!([502, 504].contains(&status), "{name}: {}", answer.text());
        eventually("it ends", || left(name).is_empty().then_some(()));
        assert_eq!(
            hearth.once(&format!("after-{name}"), "echo fine").text(),
            "fine\n"
        );
    }
}

#[test]
fn a_script_that_says_too_much_is_ended() {
    let hearth = hearth(&[]);
    let sentence = hearth
        .once("loud", "head -c 1000000000 /dev/zero")
        .refusal(502);
    assert!(
        sentence.contains("said more than 8388608 bytes"),
        "{sentence}"
    );
    hearth.nothing_is_left("loud");
    let sentence = hearth
        .once(
            "generous",
            "for i in 1 2 3; do head -c 30000000 /dev/zero > $TMP_OUTPUT_DIR/$i; done",
        )
        .refusal(502);
    assert!(
        sentence.contains("left more than 67108864 bytes of results"),
        "{sentence}"
    );
    // Closed output is no end.
    assert_eq!(
        hearth
            .once("silent", "exec >&- 2>&-; sleep 0.3; exit 0")
            .status,
        200
    );
}

#[test]
fn ten_megabytes_of_environment_are_refused() {
    let hearth = hearth(&[]);
    let mut definition = script("wide", "true");
    definition["environment"]["variables"]["X"] = json!("x".repeat(10 << 20));
    let answer = hearth.post("/system/services", definition.to_string().as_bytes());
    assert_eq!(answer.status, 413, "{}", answer.text());
    definition["environment"]["variables"]["X"] = json!("x".repeat(600 << 10));
    let answer = hearth.post("/system/services", definition.to_string().as_bytes());
    assert_eq!(answer.status, 400, "{}", answer.text());
    // By the caller.
    hearth.take_in(&script("narrow", "env | wc -c"));
    let parameters: serde_json::Map<_, _> = (0..10)
        .map(|n| (format!("p{n}"), json!("x".repeat(1 << 20))))
        .collect();
    let event = json!({"httpMethod": "GET", "queryStringParameters": parameters}).to_string();
    let sentence = hearth.call("narrow", event.as_bytes()).refusal(400);
    assert!(sentence.contains("query parameters"), "{sentence}");
    // An event that is too long for a variable is in the file all the same.
    assert_eq!(hearth.call("narrow", &vec![b'x'; 10 << 20]).status, 200);
}

#[test]
fn a_script_can_not_end_others() {
    let hearth = hearth(&[]);
    let text = "kill -9 -1; kill -9 $PPID; for p in /proc/[0-9]*; do kill -9 ${p#/proc/}; done; echo alive";
    // Whatever becomes of itself.
    hearth.once("killer", text);
    hearth.nothing_is_left("killer");
    assert_eq!(hearth.once("after-killer", "echo fine").text(), "fine\n");
    // Links to what is not its own are no results.
    let answer = hearth.once(
        "linker",
        "ln -s /etc/shadow $TMP_OUTPUT_DIR/a; ln -s / $TMP_OUTPUT_DIR/b; echo none",
    );
    assert_eq!(answer.text(), "none\n");
}

// === turns, callers that leave, gateways that die ===

#[test]
fn scripts_wait_for_their_turn() {
    let hearth = Hearth::start(
        Store::new(),
        &[HOST, "--max-scripts", "1", "--max-queue", "1"],
    );
    hearth.take_in(&script("slow", "sleep 1; echo done"));
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| hearth.call("slow", b"")))
            .collect();
        let answers: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        let count = |status: u16| {
            answers
                .iter()
                .filter(|answer| answer.status == status)
                .count()
        };
        assert_eq!((count(200), count(429)), (2, 2));
        let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
        assert!(refused.header("retry-after").is_some());
    });
}

#[test]
fn a_script_ends_when_its_caller_leaves() {
    let hearth = hearth(&[]);
    hearth.take_in(&script("left-alone", "sleep 1000"));
    let mut socket = hearth.connect();
    write!(
        socket,
        "POST /run/left-alone HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
    )
    .unwrap();
    eventually("it runs", || (!left("left-alone").is_empty()).then_some(()));
    drop(socket);
    eventually("it ends", || left("left-alone").is_empty().then_some(()));
    eventually("its folder goes", || {
        (folders(hearth.data().path()) == 0).then_some(())
    });
    // So does one whose job is deleted.
    let answer = hearth.post("/job/left-alone", b"");
    let job = answer.header("x-job-name").unwrap().to_owned();
    eventually("it runs", || (!left("left-alone").is_empty()).then_some(()));
    let path = format!("/system/logs/left-alone/{job}");
    assert_eq!(hearth.send(hearth.request("DELETE", &path), ()).status, 204);
    eventually("it ends", || left("left-alone").is_empty().then_some(()));
}

#[test]
fn nothing_outlives_the_gateway() {
    for signal in [Signal::KILL, Signal::TERM] {
        let mut hearth = hearth(&["--drain-timeout-s", "0"]);
        let data = hearth.data();
        hearth.take_in(&script("orphan", "(setsid sleep 1000 &) ; sleep 1000"));
        assert_eq!(hearth.post("/job/orphan", b"").status, 201);
        // The shell, and both that sleep.
        eventually("it runs", || (left("orphan").len() >= 3).then_some(()));
        kill(hearth.pid(), signal);
        let began = Instant::now();
        eventually("it ends", || left("orphan").is_empty().then_some(()));
        assert!(began.elapsed() < Duration::from_secs(15));
        hearth.wait();
        assert_eq!(folders(data.path()), 0);
    }
}

#[test]
fn a_script_ends_with_its_supervisor() {
    let hearth = hearth(&[]);
    hearth.take_in(&script("alone", "(setsid sleep 1000 &) ; sleep 1000"));
    let answer = hearth.post("/job/alone", b"");
    let job = answer.header("x-job-name").unwrap().to_owned();
    eventually("it runs", || (left("alone").len() >= 3).then_some(()));
    for supervisor in hearth.workers() {
        kill(supervisor, Signal::KILL);
    }
    eventually("it ends", || left("alone").is_empty().then_some(()));
    eventually("the job has failed", || {
        (hearth.status("alone", &job) == "Failed").then_some(())
    });
    // Its folder goes with the next start.
    let data = hearth.data();
    assert_eq!(folders(data.path()), 1);
    hearth.stop();
    let hearth = Hearth::start_on(Store::new(), data, &[HOST], &[]);
    hearth.nothing_is_left("alone");
}

/// A gateway that is not root has user namespaces instead of users.
#[test]
fn an_unprivileged_gateway_runs_scripts_too() {
    if !are_there(&["perl"]) {
        return;
    }
    if !rustix::process::getuid().is_root() {
        // All the other tests have shown it.
        return;
    }
    const USER: u32 = 60_999;
    let folder = TempDir::new().unwrap();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(folder.path());
    // The sources may lie where only root gets to.
    for program in ["hearth", "hearth-worker"] {
        let from = Path::new(command().get_program()).with_file_name(program);
        fs::copy(from, folder.path().join(program)).unwrap();
        open(&folder.path().join(program));
    }
    for name in ["data", "store"] {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    }
    // Not where the script's own folder hides everything.
    let mut secret = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    secret.write_all(b"hunter2").unwrap();
    std::os::unix::fs::chown(&secret, Some(USER), Some(USER)).unwrap();
    let run = |text: &str| {
        let task = json!({"script": text, "variables": {"PATH": PATH, "MARK": mark("unprivileged")},
            "input": {"name": null, "bytes": 0}, "folder": folder.path().join("data/run"),
            "place": {"Host": {"hidden": [secret.path()]}},
            "limits": {"time": {"secs": 20, "nanos": 0}, "memory_bytes": 64 << 20, "processes": 64,
                "scratch_bytes": 20 << 20, "scratch_entries": 1000, "log_bytes": 10_000, "output_bytes": 1000}});
        let task = task.to_string().into_bytes();
        let mut supervisor = Command::new(folder.path().join("hearth"))
            .arg("supervise-script")
            .env_clear()
            .uid(USER)
            .gid(USER)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = supervisor.stdin.as_mut().unwrap();
        stdin
            .write_all(&u32::try_from(task.len()).unwrap().to_le_bytes())
            .unwrap();
        stdin.write_all(&task).unwrap();
        let mut said = Vec::new();
        supervisor
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut said)
            .unwrap();
        supervisor.wait().unwrap();
        assert_eq!(left("unprivileged"), [0_u32; 0]);
        let said = String::from_utf8_lossy(&said[4..]).into_owned();
        assert!(!folder.path().join("data/run").exists(), "{said}");
        said
    };
    let said = run("id -u; echo $TMP_OUTPUT_DIR");
    if said.contains("no user namespace") {
        skip("the system has no user namespaces for unprivileged users");
        return;
    }
    assert!(said.contains(r#""end":{"Ok":{"Exited":0}}"#), "{said}");
    assert!(said.ends_with("60999\n/tmp/output\n"), "{said}");
    let said = run(&format!("cat {}; echo read", secret.path().display()));
    assert!(said.contains("read") && !said.contains("hunter2"), "{said}");
    assert!(run("(setsid sleep 1000 &); exit 4").contains(r#"{"Exited":4}"#));
    // Where it can't fork any more it ends, or is ended: what is left is looked at above.
    let said = run("bomb() { bomb | bomb & }; bomb; wait");
    assert!(
        said.contains("Breached") || said.contains("Exited"),
        "{said}"
    );
    assert!(run("cat /dev/zero > big").contains(r#"{"Breached":"Scratch"}"#));
    let said =
        run("for i in 1 2 3 4; do perl -e '$x = \"x\" x (20 << 20); sleep 1000' & done; wait");
    assert!(said.contains(r#"{"Breached":"Memory"}"#), "{said}");
    assert!(run("kill -9 -1; kill -9 $PPID; echo alive").contains("alive"));
}
