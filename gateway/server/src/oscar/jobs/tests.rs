use std::future::pending;

use tokio::sync::oneshot;

use super::*;

async fn done(jobs: &Arc<Jobs>, service: &str, result: Result<String, String>) -> String {
    let (sender, receiver) = oneshot::channel::<()>();
    let name = jobs
        .start(service, async move {
            let _dropped_when_it_ended = sender;
            result
        })
        .unwrap();
    let _ = receiver.await;
    // What it says is taken in by the same task, right after.
    while jobs.page(service, None).jobs[0].finished.is_none() {
        tokio::task::yield_now().await;
    }
    name
}

#[tokio::test]
async fn a_job_is_listed_with_what_became_of_it() {
    let jobs = Arc::new(Jobs::default());
    let good = done(&jobs, "s", Ok("found".to_owned())).await;
    let bad = done(&jobs, "s", Err("nothing".to_owned())).await;
    let long = done(&jobs, "a-name-that-is-longer-than-25", Ok(String::new())).await;
    assert!(long.starts_with("a-name-that-is-l-"), "{long}");
    let page = jobs.page("s", None);
    let listed: Vec<_> = page
        .jobs
        .iter()
        .map(|job| (&job.name, job.status))
        .collect();
    assert_eq!(listed, [(&bad, Status::Failed), (&good, Status::Succeeded)]);
    assert_eq!(jobs.log("s", &good).as_deref(), Some("found"));
    assert_eq!(jobs.log("other", &good), None);
    jobs.delete_all("s", true);
    assert_eq!(jobs.log("s", &good), None);
    assert!(jobs.delete("s", &bad));
    assert!(!jobs.delete("s", &bad));
    assert!(jobs.page("s", None).jobs.is_empty());
}

#[tokio::test]
async fn pages_follow_each_other() {
    let jobs = Arc::new(Jobs::default());
    for _ in 0..PAGE + 5 {
        done(&jobs, "s", Ok(String::new())).await;
    }
    let first = jobs.page("s", None);
    assert_eq!((first.jobs.len(), first.n_remaining), (PAGE, 5));
    let second = jobs.page("s", first.next);
    assert_eq!((second.jobs.len(), second.n_remaining), (5, 0));
    assert_eq!(second.next, None);
}

#[tokio::test]
async fn those_that_have_not_ended_are_bounded_and_can_be_ended() {
    let jobs = Arc::new(Jobs::default());
    let start = || jobs.start("s", pending());
    let first = start().unwrap();
    for _ in 1..MAX_UNFINISHED {
        start().unwrap();
    }
    assert_eq!(start().unwrap_err().code, Code::Overloaded);
    assert!(jobs.delete("s", &first));
    start().unwrap();
    jobs.delete_all("s", false);
    assert_eq!(jobs.counts().map(|(_, n)| n), [0; 4]);
}

#[tokio::test]
async fn the_oldest_logs_are_forgotten() {
    let jobs = Arc::new(Jobs::default());
    let first = done(&jobs, "s", Ok("x".repeat(MAX_LOG))).await;
    for _ in 0..MAX_LOG_BYTES / MAX_LOG {
        done(&jobs, "s", Ok("x".repeat(MAX_LOG + 1))).await;
    }
    assert_eq!(jobs.log("s", &first), None);
    let latest = jobs.page("s", None).jobs.remove(0).name;
    assert!(jobs.log("s", &latest).unwrap().ends_with("(cut)"));
}
