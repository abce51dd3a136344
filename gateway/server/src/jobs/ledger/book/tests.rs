//! The book against a model of it in memory, with crashes in between; and its bounds.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SERVICES: [&str; 2] = ["one", "two"];

#[derive(Clone, Debug)]
enum Step {
    /// Of a service, a POST or a state of an object.
    Announce(Vec<(usize, Option<(u8, u8)>)>),
    Take(usize, usize),
    /// One of those that run.
    Finish(usize, Outcome),
    DeleteOne(usize),
    DeleteSucceeded(usize),
    DeleteAll(usize),
    Forget(usize),
    Sweep(i64),
    /// What is in a folder.
    Compare(usize, Vec<(u8, u8)>),
    Wait(i64),
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Success,
    Failure,
    Transient,
    Postponed,
}

/// How a group of steps ends.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Commit,
    CommitAndCrash,
    Crash,
    /// What the disk may do.
    RollBack,
}

fn steps() -> impl Strategy<Value = (Vec<Step>, Fate)> {
    let service = 0..SERVICES.len();
    let object = (0..4_u8, 0..3_u8);
    let step = prop_oneof![
        4 => prop::collection::vec((service.clone(), prop::option::weighted(0.8, object.clone())), 1..4)
            .prop_map(Step::Announce),
        4 => (service.clone(), 1..4_usize).prop_map(|(service, n)| Step::Take(service, n)),
        5 => (0..8_usize, prop_oneof![
            Just(Outcome::Success), Just(Outcome::Failure), Just(Outcome::Transient), Just(Outcome::Postponed)
        ]).prop_map(|(index, outcome)| Step::Finish(index, outcome)),
        1 => (0..8_usize).prop_map(Step::DeleteOne),
        1 => service.clone().prop_map(Step::DeleteSucceeded),
        1 => service.clone().prop_map(Step::DeleteAll),
        1 => service.clone().prop_map(Step::Forget),
        1 => (0..20_000_i64).prop_map(Step::Sweep),
        // A page has a key once.
        1 => (service, prop::collection::btree_map(0..4_u8, 0..3_u8, 0..4))
            .prop_map(|(service, there)| Step::Compare(service, there.into_iter().collect())),
        2 => (0..10_000_i64).prop_map(Step::Wait),
    ];
    let fate = prop_oneof![
        6 => Just(Fate::Commit),
        1 => Just(Fate::CommitAndCrash),
        1 => Just(Fate::Crash),
        1 => Just(Fate::RollBack),
    ];
    (prop::collection::vec(step, 1..6), fate)
}

#[derive(Clone, Debug, Default)]
struct Model {
    /// In the order in which they came.
    jobs: Vec<Entry>,
    seen: BTreeSet<(usize, u8, u8)>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    service: usize,
    key: Option<u8>,
    status: Status,
    attempt: u32,
    due: i64,
    finished: i64,
    /// Handed out with this id.
    id: i64,
    /// Put back in this transaction: another take in it does not hand it out.
    has_just_left: bool,
}

/// What does not come back after a crash.
struct World {
    folder: TempDir,
    now: i64,
    n_named: usize,
}

fn object(key: u8, identity: u8) -> ObjectRef {
    ObjectRef {
        provider: "minio.default".to_owned(),
        bucket: "b".to_owned(),
        key: format!("in/{key}"),
        identity: identity_of(identity),
        size: 0,
    }
}

fn identity_of(identity: u8) -> Identity {
    Identity::from(identity.to_string())
}

fn open(folder: &TempDir) -> Book {
    Book::open(folder.path(), Bounds::default()).unwrap()
}

impl World {
    fn do_step(&mut self, step: &Step, book: &mut Book, model: &mut Model) {
        match step {
            Step::Announce(announced) => self.announce(announced, book, model),
            Step::Take(service, n) => self.take(*service, *n, book, model),
            Step::Finish(index, outcome) => self.finish(*index, *outcome, book, model),
            Step::DeleteOne(index) => {
                let Some(index) = model.jobs.len().checked_sub(1).map(|last| last.min(*index))
                else {
                    return;
                };
                let gone = model.jobs.remove(index);
                let selection = Selection::Named(gone.name);
                assert_eq!(book.delete(SERVICES[gone.service], &selection), Ok(1));
            }
            Step::DeleteSucceeded(service) => {
                let is_meant =
                    |job: &Entry| job.service == *service && job.status == Status::Succeeded;
                model.jobs.retain(|job| !is_meant(job));
                let selection = Selection::Succeeded;
                book.delete(SERVICES[*service], &selection).unwrap();
            }
            Step::DeleteAll(service) => {
                model.jobs.retain(|job| job.service != *service);
                book.delete(SERVICES[*service], &Selection::All).unwrap();
            }
            Step::Forget(service) => {
                model.jobs.retain(|job| job.service != *service);
                model.seen.retain(|(of, ..)| of != service);
                book.forget(SERVICES[*service]).unwrap();
            }
            Step::Sweep(age) => {
                let before = self.now - age;
                let has_ended =
                    |job: &Entry| matches!(job.status, Status::Succeeded | Status::Failed);
                model
                    .jobs
                    .retain(|job| !has_ended(job) || job.finished >= before);
                book.sweep(before).unwrap();
            }
            Step::Compare(service, there) => compare(*service, there, book, model),
            Step::Wait(ms) => self.now += ms,
        }
    }

    fn announce(
        &mut self,
        announced: &[(usize, Option<(u8, u8)>)],
        book: &mut Book,
        model: &mut Model,
    ) {
        let mut expected = Vec::new();
        let mut jobs = Vec::new();
        for (service, of) in announced {
            self.n_named += 1;
            let name = format!("job-{}", self.n_named);
            let is_new =
                of.is_none_or(|(key, identity)| model.seen.insert((*service, key, identity)));
            if is_new {
                model.jobs.push(Entry {
                    name: name.clone(),
                    service: *service,
                    key: of.map(|(key, _)| key),
                    status: Status::Pending,
                    attempt: 0,
                    due: self.now,
                    finished: 0,
                    id: 0,
                    has_just_left: false,
                });
            }
            expected.push(is_new.then(|| name.clone()));
            jobs.push(NewJob {
                service: SERVICES[*service].to_owned(),
                name,
                event: Bytes::from_static(b"event"),
                object: of.map(|(key, identity)| object(key, identity)),
                also: None,
            });
        }
        assert_eq!(book.announce(self.now, &jobs).unwrap(), Ok(expected));
    }

    fn take(&mut self, service: usize, n: usize, book: &mut Book, model: &mut Model) {
        let taken = book.take(self.now, SERVICES[service], n, u64::MAX).unwrap();
        // Of the states of an object the first that has not ended is before the others.
        let mut first = BTreeSet::new();
        let mut waiting: Vec<(bool, &mut Entry)> = model
            .jobs
            .iter_mut()
            .filter(|job| job.service == service)
            .filter(|job| matches!(job.status, Status::Pending | Status::Running))
            .map(|job| (job.key.is_none_or(|key| first.insert(key)), job))
            .filter(|(_, job)| job.status == Status::Pending)
            .collect();
        // Stable: those that are due at the same time are in the order in which they came.
        waiting.sort_by_key(|(_, job)| job.due);
        let next = waiting
            .iter()
            .map(|(_, job)| job.due)
            .find(|due| *due > self.now);
        let due = waiting
            .into_iter()
            .filter(|(is_first, job)| *is_first && job.due <= self.now)
            .map(|(_, job)| job);
        let (left, mut due): (Vec<_>, Vec<_>) = due.partition(|job| job.has_just_left);
        assert_eq!(taken.has_more, due.len() > n || !left.is_empty());
        assert_eq!(taken.next_due, next);
        due.truncate(n);
        let names = |handed: &Handed| (handed.job.name.clone(), handed.job.attempt);
        let expected: Vec<_> = due
            .iter()
            .map(|job| (job.name.clone(), job.attempt))
            .collect();
        assert_eq!(taken.jobs.iter().map(names).collect::<Vec<_>>(), expected);
        for (job, handed) in due.into_iter().zip(&taken.jobs) {
            job.status = Status::Running;
            job.id = handed.job.id;
        }
    }

    fn finish(&mut self, index: usize, outcome: Outcome, book: &mut Book, model: &mut Model) {
        let running = |job: &&mut Entry| job.status == Status::Running;
        let Some(job) = model.jobs.iter_mut().filter(running).nth(index) else {
            return;
        };
        let log = || "log".to_owned();
        let verdict = match outcome {
            Outcome::Success => Verdict::Succeeded { log: log() },
            Outcome::Failure | Outcome::Transient => Verdict::Failed {
                log: log(),
                may_retry: matches!(outcome, Outcome::Transient),
            },
            Outcome::Postponed => Verdict::Postponed { why: log() },
        };
        let pause = Duration::from_millis(700);
        book.finish(self.now, job.id, &verdict, pause).unwrap();
        job.finished = self.now;
        job.has_just_left = true;
        match outcome {
            Outcome::Success => job.status = Status::Succeeded,
            Outcome::Postponed => (job.status, job.due) = (Status::Pending, self.now + 700),
            Outcome::Transient if job.attempt + 1 < ATTEMPTS => {
                job.due = self.now + 2000 * 4_i64.pow(job.attempt);
                job.attempt += 1;
                job.status = Status::Pending;
            }
            Outcome::Failure | Outcome::Transient => job.status = Status::Failed,
        }
    }
}

fn compare(service: usize, there: &[(u8, u8)], book: &mut Book, model: &mut Model) {
    let unseen = book.compare(&Stretch {
        service: SERVICES[service].to_owned(),
        provider: "minio.default".to_owned(),
        bucket: "b".to_owned(),
        prefix: "in/".to_owned(),
        after: String::new(),
        last: None,
        there: there
            .iter()
            .map(|(key, identity)| (format!("in/{key}"), identity_of(*identity)))
            .collect(),
        until: book.latest().unwrap(),
    });
    model
        .seen
        .retain(|(of, key, identity)| *of != service || there.contains(&(*key, *identity)));
    let is_unseen = |(_, (key, identity)): &(usize, &(u8, u8))| {
        !model.seen.contains(&(service, *key, *identity))
    };
    let expected = there.iter().enumerate().filter(is_unseen);
    assert_eq!(
        unseen.unwrap(),
        expected.map(|(index, _)| index).collect::<Vec<_>>()
    );
}

/// Checks that the book says what the model says.
fn check(book: &Book, model: &Model) {
    for (service, name) in SERVICES.iter().enumerate() {
        let mut listed = Vec::new();
        let mut from = None;
        loop {
            let page = book.page(name, Which::All, from, 2).unwrap();
            assert_eq!(page.next.is_some(), page.n_remaining > 0);
            listed.extend(page.jobs.into_iter().map(|job| (job.name, job.status)));
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let of_service = model.jobs.iter().filter(|job| job.service == service);
        let expected: Vec<_> = of_service
            .map(|job| (job.name.clone(), job.status))
            .collect();
        listed.reverse();
        assert_eq!(listed, expected);
        let failed = book.page(name, Which::Failed, None, 100).unwrap();
        assert_eq!((failed.next, failed.n_remaining), (None, 0));
        let failed: Vec<_> = failed.jobs.into_iter().map(|job| job.name).rev().collect();
        let expected_failed = expected
            .iter()
            .filter(|(_, status)| *status == Status::Failed);
        let expected_failed: Vec<_> = expected_failed.map(|(name, _)| name.clone()).collect();
        assert_eq!(failed, expected_failed);
        let n = |status: Status| expected.iter().filter(|(_, of)| *of == status).count() as u64;
        let count = book.counts.get(*name).copied().unwrap_or_default();
        assert_eq!(
            (count.pending, count.running, count.succeeded, count.failed),
            (
                n(Status::Pending) + n(Status::Running),
                n(Status::Running),
                n(Status::Succeeded),
                n(Status::Failed)
            )
        );
    }
}

impl Model {
    /// What was in work has lost an attempt; what has lost more than one waits for its turn.
    fn restart(&mut self, now: i64) {
        let mut turn = 0;
        for job in &mut self.jobs {
            if job.status != Status::Running {
                continue;
            }
            job.attempt += 1;
            if job.attempt == ATTEMPTS {
                (job.status, job.finished) = (Status::Failed, now);
                continue;
            }
            job.status = Status::Pending;
            job.due = now + 2000 * 4_i64.pow(job.attempt - 1);
            if job.attempt > 1 {
                job.due += turn;
                turn += 100;
            }
        }
    }
}

/// Does groups of steps, and checks that the book says what the model says.
fn compare_with_model(groups: Vec<(Vec<Step>, Fate)>) {
    let mut world = World {
        folder: TempDir::new().unwrap(),
        now: 1_000_000,
        n_named: 0,
    };
    let mut book = open(&world.folder);
    let mut model = Model::default();
    for (steps, fate) in groups {
        let before = model.clone();
        match fate {
            Fate::Commit | Fate::CommitAndCrash => {
                let done = book.transaction(|book| {
                    for step in &steps {
                        world.do_step(step, book, &mut model);
                    }
                });
                done.unwrap();
            }
            Fate::RollBack => {
                let done = book.transaction(|book| {
                    for step in &steps {
                        world.do_step(step, book, &mut model);
                    }
                    book.connection.execute_batch("rollback").unwrap();
                    // What comes after is not done by itself.
                    book.apart(|book| book.forget("one")).unwrap_err();
                });
                done.unwrap_err();
                model = before;
            }
            Fate::Crash => {
                book.connection.execute_batch("begin").unwrap();
                for step in &steps {
                    world.do_step(step, &mut book, &mut model);
                }
                model = before;
            }
        }
        if matches!(fate, Fate::Crash | Fate::CommitAndCrash) {
            drop(book);
            book = open(&world.folder);
            book.alone(|book| book.mourn(world.now)).unwrap();
            model.restart(world.now);
        }
        for job in &mut model.jobs {
            job.has_just_left = false;
        }
        check(&book, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_says_what_a_model_of_it_says_whatever_happens(groups in prop::collection::vec(steps(), 1..12)) {
        compare_with_model(groups);
    }
}

#[test]
fn what_is_put_back_and_due_again_in_one_transaction_is_for_the_next() {
    let announce = Step::Announce(vec![(0, None)]);
    let put_back = vec![
        Step::Finish(0, Outcome::Transient),
        Step::Wait(2000),
        Step::Take(0, 1),
    ];
    compare_with_model(vec![
        (vec![announce, Step::Take(0, 1)], Fate::Commit),
        (put_back, Fate::Commit),
        (vec![Step::Take(0, 1)], Fate::Commit),
    ]);
}

#[test]
fn a_service_that_comes_with_the_end_of_another_is_counted_by_itself() {
    let steps = vec![
        Step::Forget(0),
        Step::Announce(vec![(0, None)]),
        Step::Take(0, 1),
        Step::DeleteOne(0),
    ];
    compare_with_model(vec![(steps, Fate::Commit)]);
}

// === bounds ===

fn post(service: &str, name: &str) -> NewJob {
    NewJob {
        service: service.to_owned(),
        name: name.to_owned(),
        event: Bytes::from_static(b"0123456789"),
        object: None,
        also: None,
    }
}

/// Has one job run to its end, and returns its name.
fn done(book: &mut Book, name: &str, log: &str) {
    book.transaction(|book| {
        book.announce(1, &[post("one", name)]).unwrap().unwrap();
        let taken = book.take(1, "one", 1, 1).unwrap();
        let verdict = Verdict::Succeeded {
            log: log.to_owned(),
        };
        let id = taken.jobs[0].job.id;
        book.finish(2, id, &verdict, Duration::ZERO).unwrap();
    })
    .unwrap();
}

#[test]
fn what_waits_and_what_has_ended_is_bounded() {
    let folder = TempDir::new().unwrap();
    let bounds = Bounds {
        pending: 3,
        event_bytes: 25,
        ended: 2,
        log_bytes: 30,
        log: 20,
    };
    let mut book = Book::open(folder.path(), bounds).unwrap();
    let announced = book.announce(1, &[post("one", "a"), post("one", "b"), post("one", "c")]);
    let sentence = announced.unwrap().unwrap_err();
    assert_eq!(sentence, "0 jobs of 0 bytes wait, no room for 3 more of 30");
    for name in ["d", "e", "f"] {
        done(&mut book, name, "0123456789");
    }
    assert_eq!(book.log("one", "d"), Ok(None));
    assert_eq!(book.log("one", "e").unwrap().unwrap(), "0123456789");
    done(&mut book, "g", &"x".repeat(21));
    assert_eq!(book.log("one", "e"), Ok(None));
    let cut = format!("{}\n… (cut)", "x".repeat(20));
    assert_eq!(book.log("one", "g").unwrap().unwrap(), cut);
    let log_bytes = book.sums.log_bytes;
    drop(book);
    let book = Book::open(folder.path(), bounds).unwrap();
    assert_eq!(book.sums.log_bytes, log_bytes);
    assert_eq!((book.sums.pending, book.sums.event_bytes), (0, 0));
}

#[test]
fn jobs_are_handed_out_by_number_and_bytes_and_a_large_one_by_itself() {
    let mut book = open(&TempDir::new().unwrap());
    let jobs = ["a", "b", "c", "d"].map(|name| post("one", name));
    book.announce(1, &jobs).unwrap().unwrap();
    let mut take = |n, bytes| {
        let taken = book.take(1, "one", n, bytes).unwrap();
        (taken.jobs.len(), taken.has_more)
    };
    assert_eq!(take(1, 100), (1, true));
    assert_eq!(take(9, 1), (1, true));
    assert_eq!(take(9, 19), (1, true));
    assert_eq!(take(9, 100), (1, false));
    assert_eq!(take(9, 100), (0, false));
}

#[test]
fn a_job_that_is_deleted_hears_of_it_when_that_is_on_the_disk() {
    let mut book = open(&TempDir::new().unwrap());
    let mut taken = None;
    book.transaction(|book| {
        book.announce(1, &[post("one", "a")]).unwrap().unwrap();
        taken = Some(book.take(1, "one", 1, 100).unwrap());
    })
    .unwrap();
    let deleted = &mut taken.as_mut().unwrap().jobs[0].deleted;
    let lost = book.transaction(|book| {
        book.delete("one", &Selection::All).unwrap();
        book.connection.execute_batch("rollback").unwrap();
    });
    lost.unwrap_err();
    assert!(
        deleted
            .try_recv()
            .is_err_and(|error| error == oneshot::error::TryRecvError::Empty)
    );
    book.transaction(|book| {
        book.delete("one", &Selection::All).unwrap();
    })
    .unwrap();
    assert!(
        deleted
            .try_recv()
            .is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
    );
}

#[test]
fn attempts_are_bounded_rest_longer_and_longer_and_leave_their_reasons() {
    let mut book = open(&TempDir::new().unwrap());
    book.announce(0, &[post("one", "a")]).unwrap().unwrap();
    let mut now = 0;
    let mut rests = Vec::new();
    loop {
        let taken = book.take(now, "one", 1, 100).unwrap();
        let Some(handed) = taken.jobs.first() else {
            let Some(due) = taken.next_due else { break };
            rests.push(due - now);
            now = due;
            continue;
        };
        let verdict = Verdict::Failed {
            log: format!("no {}", handed.job.attempt),
            may_retry: true,
        };
        let done = book.transaction(|book| {
            book.finish(now, handed.job.id, &verdict, Duration::ZERO)
                .unwrap();
        });
        done.unwrap();
    }
    assert_eq!(rests, [2_000, 8_000, 32_000, 128_000]);
    assert_eq!(
        book.log("one", "a").unwrap().unwrap(),
        "no 0\n(attempt 1 of 5; the next in 2 s)\nno 1\n(attempt 2 of 5; the next in 8 s)\n\
         no 2\n(attempt 3 of 5; the next in 32 s)\nno 3\n(attempt 4 of 5; the next in 128 s)\nno 4"
    );
    let ended = book.counts["one"].ended;
    assert_eq!((ended.failed, ended.retried, ended.succeeded), (1, 4, 0));
}

#[test]
fn marks_are_compared_by_the_stretch_and_younger_ones_left_alone() {
    let mut book = open(&TempDir::new().unwrap());
    let announce = |book: &mut Book, keys: &[u8]| {
        let jobs: Vec<_> = keys
            .iter()
            .map(|key| NewJob {
                object: Some(object(*key, 0)),
                ..post("one", &format!("job-{key}"))
            })
            .collect();
        book.announce(1, &jobs).unwrap().unwrap()
    };
    announce(&mut book, &[1, 2, 3, 4]);
    let until = book.latest().unwrap();
    announce(&mut book, &[5]);
    let mut compare = |after: &str, last: Option<&str>, there: &[u8]| {
        let stretch = Stretch {
            service: "one".to_owned(),
            provider: "minio.default".to_owned(),
            bucket: "b".to_owned(),
            prefix: "in/".to_owned(),
            after: after.to_owned(),
            last: last.map(str::to_owned),
            there: there
                .iter()
                .map(|key| (format!("in/{key}"), identity_of(0)))
                .collect(),
            until,
        };
        book.compare(&stretch).unwrap()
    };
    assert_eq!(compare("", Some("in/2"), &[2]), [0; 0]);
    // The first is gone from the marks, the third and what came meanwhile is not.
    assert_eq!(compare("", Some("in/2"), &[1, 2]), [0]);
    assert_eq!(compare("in/2", None, &[3]), [0; 0]);
    assert_eq!(compare("in/2", None, &[3, 4, 5]), [1]);
}

#[test]
fn a_version_that_is_listed_without_its_name_is_known_by_both() {
    let mut book = open(&TempDir::new().unwrap());
    let job = |name: &str, identity, also: Option<u8>| NewJob {
        object: Some(ObjectRef {
            identity,
            ..object(0, 0)
        }),
        also: also.map(identity_of),
        ..post("one", name)
    };
    let version = || Identity::of_version("v1");
    let announce = |book: &mut Book, job: NewJob| {
        let names = book.announce(1, &[job]).unwrap().unwrap();
        names[0].is_some()
    };
    let look = |book: &mut Book, there: &[(u8, u8)]| {
        let there = there
            .iter()
            .map(|(key, identity)| (format!("in/{key}"), identity_of(*identity)));
        let stretch = Stretch {
            service: "one".to_owned(),
            provider: "minio.default".to_owned(),
            bucket: "b".to_owned(),
            prefix: "in/".to_owned(),
            after: String::new(),
            last: None,
            there: there.collect(),
            until: i64::MAX,
        };
        book.compare(&stretch).unwrap().len()
    };
    // The listing was first, or the event.
    assert!(announce(&mut book, job("a", identity_of(1), None)));
    assert!(!announce(&mut book, job("b", version(), Some(1))));
    assert_eq!(look(&mut book, &[(0, 1)]), 0);
    // Another is there: what came before is known by its version still.
    assert_eq!(look(&mut book, &[(0, 2)]), 1);
    assert!(!announce(&mut book, job("c", version(), None)));
    assert!(announce(
        &mut book,
        job("d", Identity::of_version("v2"), Some(2))
    ));
    assert_eq!(look(&mut book, &[(0, 2)]), 0);
    assert!(!announce(&mut book, job("e", identity_of(2), None)));
    // Nothing is.
    assert_eq!(look(&mut book, &[]), 0);
    assert!(announce(&mut book, job("f", version(), None)));
}

#[test]
fn a_newer_schema_is_not_touched() {
    let folder = TempDir::new().unwrap();
    let book = open(&folder);
    let newer = book
        .connection
        .pragma_update(None, "user_version", SCHEMA + 1);
    newer.unwrap();
    let error = Book::open(folder.path(), Bounds::default()).unwrap_err();
    assert!(error.to_string().contains("schema 2"), "{error}");
}

#[test]
fn a_job_that_ends_the_gateway_each_time_fails_alone_after_so_many() {
    let folder = TempDir::new().unwrap();
    let mut book = open(&folder);
    let jobs = [post("one", "kills"), post("one", "beside")];
    book.alone(|book| book.announce(0, &jobs).map(drop))
        .unwrap();
    let begin = |book: &mut Book, now| {
        let mut begun = Vec::new();
        book.alone(|book| {
            begun = book.take(now, "one", 2, u64::MAX)?.jobs;
            Ok(())
        })
        .unwrap();
        let begun = begun.into_iter().map(|handed| handed.job);
        begun.map(|job| (job.name, job.attempt)).collect::<Vec<_>>()
    };
    // As it is when the process is killed.
    let kill = |book: Book, now| {
        drop(book);
        let mut book = open(&folder);
        book.alone(|book| book.mourn(now)).unwrap();
        book
    };
    let job = |name: &str, attempt| (name.to_owned(), attempt);
    for (attempt, now) in [(0, 0), (1, 2000)] {
        let begun = begin(&mut book, now);
        assert_eq!(begun, [job("kills", attempt), job("beside", attempt)]);
        book = kill(book, now);
    }
    // From now on by itself.
    assert_eq!(begin(&mut book, 10_000), [job("kills", 2)]);
    book = kill(book, 10_000);
    assert_eq!(begin(&mut book, 20_000), [job("beside", 2)]);
    // Whoever stops in order takes no attempt.
    book.alone(Book::clear).unwrap();
    book = kill(book, 20_000);
    assert_eq!(
        begin(&mut book, 50_000),
        [job("beside", 2), job("kills", 3)]
    );
    book = kill(book, 50_000);
    assert_eq!(
        begin(&mut book, 1_000_000),
        [job("beside", 3), job("kills", 4)]
    );
    book = kill(book, 1_000_000);
    let log = book.log("one", "kills").unwrap().unwrap();
    let said = "the gateway was ended while this was in work";
    assert_eq!(log.matches(said).count(), 5, "{log}");
    let failed = book.page("one", Which::Failed, None, 9).unwrap().jobs;
    assert_eq!((failed.len(), failed[0].name.as_str()), (1, "kills"));
    assert_eq!(begin(&mut book, 9_000_000), [job("beside", 4)]);
}
