//! The ledger as many use it at a time.

use tempfile::TempDir;

use super::*;

fn post(service: &str, name: &str) -> NewJob {
    NewJob {
        service: service.to_owned(),
        name: name.to_owned(),
        event: Bytes::from_static(b"event"),
        object: None,
        also: None,
    }
}

fn object(key: &str) -> NewJob {
    NewJob {
        object: Some(ObjectRef {
            provider: "minio.default".to_owned(),
            bucket: "b".to_owned(),
            key: key.to_owned(),
            identity: Identity::of_content("\"etag\"", OffsetDateTime::UNIX_EPOCH),
            size: 7,
        }),
        ..post("one", &format!("of-{key}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_announce_the_same_one_makes_a_job() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let mut all = tokio::task::JoinSet::new();
    for number in 0..200 {
        let ledger = Arc::clone(&ledger);
        let job = NewJob {
            name: format!("job-{number}"),
            ..object(&format!("in/{}", number % 20))
        };
        all.spawn(async move { ledger.announce(vec![job]).await.unwrap() });
    }
    let names: Vec<_> = all
        .join_all()
        .await
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert_eq!(names.len(), 20);
    let count = ledger.counts()["one"];
    assert_eq!((count.pending, count.n_known), (20, 180));
    ledger.announced().await;
    assert_eq!(ledger.fresh(), BTreeSet::from(["one".to_owned()]));
    assert_eq!(ledger.fresh(), BTreeSet::new());

    let taken = ledger.take("one", 5, 1000).await.unwrap();
    assert_eq!((taken.jobs.len(), taken.has_more), (5, true));
    assert_eq!(taken.jobs[0].bytes, 12);
    let page = ledger.page("one", Which::All, None, 100).await.unwrap();
    let n_running = page
        .jobs
        .iter()
        .filter(|job| job.status == Status::Running)
        .count();
    assert_eq!(n_running, 5);
    ledger.give_up().await.unwrap();
    ledger.close();
    let error = ledger.take("one", 1, 1).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);

    // What ran is pending again, and what was seen is.
    let ledger = Ledger::open(folder.path()).unwrap();
    assert_eq!(ledger.fresh(), BTreeSet::from(["one".to_owned()]));
    assert_eq!(ledger.take("one", 100, 1000).await.unwrap().jobs.len(), 20);
    assert_eq!(ledger.announce(vec![object("in/0")]).await, Ok(vec![None]));
}

#[tokio::test]
async fn neither_age_nor_deleting_makes_a_job_of_an_object_again() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let finish = async |ledger: &Ledger| {
        let taken = ledger.take("one", 1, 1000).await.unwrap();
        let verdict = Verdict::Succeeded {
            log: "log".to_owned(),
        };
        let finished = ledger.finish(taken.jobs[0].job.id, verdict, Duration::ZERO);
        finished.await.unwrap();
    };
    ledger.announce(vec![object("in/a")]).await.unwrap();
    finish(&ledger).await;
    assert_eq!(
        ledger.log("one", "of-in/a").await.unwrap().as_deref(),
        Some("log")
    );
    assert_eq!(ledger.sweep(Duration::from_secs(60)).await, Ok(0));
    // Until the clock has moved.
    while ledger.sweep(Duration::ZERO).await.unwrap() == 0 {}
    assert_eq!(ledger.log("one", "of-in/a").await, Ok(None));
    ledger.announce(vec![object("in/b")]).await.unwrap();
    assert_eq!(ledger.delete("one", Selection::All).await, Ok(1));
    let again = vec![object("in/a"), object("in/b")];
    assert_eq!(ledger.announce(again.clone()).await, Ok(vec![None, None]));
    // A service of the same name that is made later has seen nothing.
    ledger.forget("one").await.unwrap();
    let names = ledger.announce(again).await.unwrap();
    assert!(names.iter().all(Option::is_some));
}
