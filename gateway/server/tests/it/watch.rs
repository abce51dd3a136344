//! The jobs of a service, watched from the command line.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::command::serve;
use crate::hearth::{Hearth, eventually, kill};
use crate::pictures::picture_models;
use crate::shell::Shell;

#[test]
fn a_service_is_watched_until_all_is_done() {
    let hearth = Hearth::start(picture_models(), &[]);
    let shell = Shell::at(&hearth);
    shell.write(
        "fdl.yaml",
        "functions: { oscar: [{ a: { name: colors, image: 'model:mean' } }] }",
    );
    shell.says(&["apply", "fdl.yaml"]);
    let until_done = ["watch", "colors", "--until-done"];
    let nothing = "0 done, 0 failed, 0 running, 0 pending\n";
    assert!(shell.says(&until_done).ends_with(nothing));
    for _ in 0..5 {
        shell.says(&["job", "colors", "--file", "red.png"]);
    }
    let line = shell.says(&until_done);
    assert!(
        line.ends_with("5 done, 0 failed, 0 running, 0 pending\n"),
        "{line}"
    );

    let job = shell.says(&["job", "colors", "--text-input", "no picture"]);
    let output = shell.run(&until_done);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains(&format!("{} failed: the body is no picture", job.trim())),
        "{said}"
    );
    assert!(
        said.ends_with("5 done, 1 failed, 0 running, 0 pending\n"),
        "{said}"
    );
    let complaint = String::from_utf8(output.stderr).unwrap();
    let says = "error: 1 failed; `hearth logs get colors JOB` says why\n";
    assert_eq!(complaint, says);

    let output = shell.run(&[&until_done[..], &["--output", "json"]].concat());
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = json!({"pending": 0, "running": 0, "succeeded": 5, "failed": 1});
    assert_eq!(value["counts"], counts);
    assert_eq!(value["failures"][0]["job"], job.trim());

    let list = |query: &str| hearth.get(&format!("/system/logs/colors{query}")).ok();
    let n_jobs = |value: &Value| value["jobs"].as_object().unwrap().len();
    assert_eq!((n_jobs(&list("")), list("").get("counts")), (6, None));
    let failed = list("?failed=true&counts=true");
    assert_eq!((n_jobs(&failed), &failed["counts"]), (1, &counts));

    // Without it, for as long as one looks on.
    let n_asked = || {
        let metrics = hearth.get("/metrics").text();
        let asked = metrics.lines().find_map(|line| {
            line.strip_prefix(r#"hearth_requests_total{route="/system/logs/{name}",status="200"} "#)
        });
        asked.unwrap().parse::<u64>().unwrap()
    };
    let before = n_asked();
    let mut command = shell.command(&["watch", "colors"]);
    let watch = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it asks", || (n_asked() > before).then_some(()));
    kill(watch.id(), Signal::INT);
    let output = watch.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let complaint = shell.complains(5, &["watch", "nope"]);
    assert_eq!(complaint, "no service `nope`; services: `colors`");
    hearth.stop();
}

#[test]
fn a_cluster_that_does_not_count_is_watched_by_its_list() {
    let body = r#"{"jobs":{"a":{"status":"Succeeded"},"b":{"status":"Running"},"c":{"status":"Suspended"}}}"#;
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
    // For as long as the test runs.
    let answer = format!("{head} {}\r\n\r\n{body}", body.len()).leak();
    let shell = Shell::new().with("HEARTH_ENDPOINT", format!("http://{}", serve(answer)));
    let mut watch = shell
        .command(&["watch", "s"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(
        line.ends_with("Z 1 done, 0 failed, 1 running, 1 pending\n"),
        "{line}"
    );
    kill(watch.id(), Signal::INT);
    assert!(watch.wait().unwrap().success());
}
